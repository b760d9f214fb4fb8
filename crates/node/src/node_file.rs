//! The file by which commands find the node of a data folder.
//!
//! Only the owner can read it. It holds the address and a token that is drawn anew each time the node starts; whoever can
//! read the folder may ask.

use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hearth_causes::WithCauses;
use hearth_environment::Environment;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::advice::Advice;
use crate::home::Home;

/// The name of the file in the data folder.
const NODE_FILE: &str = "node.json";
/// The longest such file, in bytes.
const NODE_FILE_BYTES_MAX: u64 = 4_096;

/// Why the file by which commands find a node is not there.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NodeFileError {
    /// It cannot be written.
    #[error("{} cannot be written", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system gave no random bytes for its token.
    #[error("the system gave no random bytes")]
    Randomness,
}

impl Advice for NodeFileError {
    fn code(&self) -> &str {
        match self {
            Self::Io { .. } => "home_io",
            Self::Randomness => "no_randomness",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Io { .. } => "Check that the folder belongs to you".to_owned(),
            Self::Randomness => "Start again".to_owned(),
        }
    }
}

/// The file by which commands find the node of a data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    /// Where the node is asked.
    pub url: String,
    /// What it is asked with.
    pub token: String,
    #[serde(skip)]
    path: PathBuf,
}

impl NodeFile {
    /// Writes the file of a node that is asked at `address`, with a token that it draws.
    ///
    /// # Errors
    /// See [`NodeFileError`].
    pub(crate) fn write(
        home: &Home,
        address: SocketAddr,
        environment: &dyn Environment,
    ) -> Result<Self, NodeFileError> {
        let path = home.root().join(NODE_FILE);
        let failed = |source| NodeFileError::Io {
            path: path.clone(),
            source,
        };
        let token: [u8; 32] = environment.draw().map_err(|_| NodeFileError::Randomness)?;
        let file = Self {
            url: format!("http://{address}"),
            token: alloy_primitives::hex::encode(token),
            path: path.clone(),
        };
        let json = serde_json::to_vec(&file).map_err(|error| failed(error.into()))?;
        let _ = std::fs::remove_file(&path);
        let opened = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        let mut opened = opened.map_err(failed)?;
        std::io::Write::write_all(&mut opened, &json).map_err(failed)?;
        Ok(file)
    }

    /// The node that uses a data folder, if one says that it does.
    pub fn read(home: &Home) -> Option<Self> {
        let path = home.root().join(NODE_FILE);
        let length = std::fs::metadata(&path).ok()?.len();
        if length > NODE_FILE_BYTES_MAX {
            return None;
        }
        let file: Self = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        Some(Self { path, ..file })
    }

    /// Removes the file, where it is still there.
    pub(crate) fn remove(&self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(error = %error.with_causes(), "the node's file is gone already");
    }
}
