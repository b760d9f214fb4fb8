//! The arguments that several commands share.
//!
//! They stand apart from the list of commands, which knows every command: a command knows only what it shares.

use std::path::PathBuf;

use clap::Args;
use hearth_node::chains::ChainChoice;
use hearth_node::home::Home;

use crate::failure::Failure;

/// What can be said to every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// The data folder: wallet, configuration and stores
    #[arg(long, global = true, env = "HEARTH_HOME", value_name = "FOLDER")]
    pub(crate) home: Option<PathBuf>,

    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Read the passphrase from this file (else from HEARTH_PASSPHRASE, else it is asked for)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

impl Global {
    /// The data folder, made where it does not exist.
    pub(crate) fn open_home(&self) -> Result<Home, Failure> {
        Ok(Home::open(&self.home_path()?)?)
    }

    /// Where the data folder is.
    pub(crate) fn home_path(&self) -> Result<PathBuf, Failure> {
        match &self.home {
            Some(path) => Ok(path.clone()),
            None => Ok(Home::default_path()?),
        }
    }
}

/// Which chain is meant.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WhichChain {
    /// The chain, by its name in config.toml or its CAIP-2 id (such as eip155:8453)
    #[arg(long, value_name = "CHAIN")]
    pub(crate) chain: Option<String>,

    /// Ask this endpoint instead of the configured ones
    #[arg(long, value_name = "URL")]
    pub(crate) rpc: Option<String>,
}

impl From<WhichChain> for ChainChoice {
    fn from(which: WhichChain) -> Self {
        Self {
            chain: which.chain,
            rpc: which.rpc,
        }
    }
}
