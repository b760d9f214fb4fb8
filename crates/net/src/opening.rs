//! Why a network could not be opened.

use std::path::PathBuf;

use thiserror::Error;

use crate::peers::PeersError;

/// Why the network could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An address cannot be listened on.
    #[error("the network cannot listen ({0}): choose another address or port")]
    Bind(String),
    /// A relay's URL is wrong.
    #[error("{0} is not the address of a relay: write it as https://HOST or http://HOST:PORT")]
    Relay(String),
    /// The store of files cannot be opened.
    #[error("the store of files in {} cannot be opened ({reason}): is another node using it?", folder.display())]
    Files {
        /// Its folder.
        folder: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The remembered peers cannot be used.
    #[error(transparent)]
    Peers(#[from] PeersError),
}
