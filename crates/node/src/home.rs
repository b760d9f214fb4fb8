//! The data folder of one device: where things lie, who may look, and that only one process uses each of them.
//!
//! A folder belongs to one household on one device. It is made with permissions for its owner only, and gets a
//! commented `config.toml` the first time. Each store in it has a lock of its own ([`Part`]), so that a payer and an
//! embedded chain can run at once while two payers cannot. Deliberately absent: knowledge of what the stores hold, and
//! any migration. Implements docs/guide/wallet.md, "The data folder".

mod config;
mod lock;
mod network_chain;

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hearth_causes::WithCauses;
use thiserror::Error;

use crate::advice::Advice;

pub use config::{
    ASSETS_MAX, AT_ONCE_MAX, ApiConfig, AssetConfig, CHAINS_MAX, CONFIG_BYTES_MAX, ChainConfig,
    ClaimConfig, Config, ConfigError, DeviceConfig, Eip712Name, EngineConfig, HoursError,
    HoursWindow, LedgerConfig, LedgerConfigError, Limits, MODELS_MAX, ModelConfig, NetworkConfig,
    ProviderConfig, RPC_URLS_MAX, ReachConfig, SharingConfig, SoldConfig,
};
pub use lock::HomeLock;
pub use network_chain::{JoinedChain, NetworkChain};

/// The name of the folder below the platform's folder for data.
const FOLDER: &str = "hearth";
/// The permissions of a new data folder.
const FOLDER_MODE: u32 = 0o700;
/// The permissions of a new configuration.
const FILE_MODE: u32 = 0o600;
/// Files and folders that are looked at when a data folder is made private.
const ENTRIES_MAX: usize = 100_000;
/// What a new data folder's configuration says.
const DEFAULT_CONFIG: &str = include_str!("home/config.toml");

/// A store that one process at a time may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The embedded chain.
    Chain,
    /// What a provider promised and is owed.
    Provider,
    /// What a payer promised.
    Payer,
    /// The transactions that the wallet sends.
    Wallet,
    /// Claims that are watched for other devices.
    Watchtower,
}

impl Part {
    /// Every store.
    pub const ALL: [Self; 5] = [
        Self::Chain,
        Self::Provider,
        Self::Payer,
        Self::Wallet,
        Self::Watchtower,
    ];

    /// The name of its file, without ending.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Provider => "provider",
            Self::Payer => "payer",
            Self::Wallet => "wallet",
            Self::Watchtower => "watchtower",
        }
    }
}

/// Why a data folder cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HomeError {
    /// Nothing says where data belongs.
    #[error("there is no home directory, so the data folder is unknown")]
    Unknown,
    /// The path names something else.
    #[error("{} is not a folder", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be made, read or written.
    #[error("the data folder {} cannot be used", path.display())]
    Io {
        /// The path that failed.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error("the {part} store in {} is in use by process {pid}", path.display())]
    Busy {
        /// Which store.
        part: &'static str,
        /// The data folder.
        path: PathBuf,
        /// The other process, or "unknown".
        pid: String,
    },
}

impl Advice for HomeError {
    fn code(&self) -> &str {
        match self {
            Self::Unknown => "home_unknown",
            Self::NotAFolder { .. } => "home_not_a_folder",
            Self::Io { .. } => "home_io",
            Self::Busy { .. } => "home_busy",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Unknown => "Name a folder with --home or HEARTH_HOME".to_owned(),
            Self::NotAFolder { .. } => "Name another folder with --home".to_owned(),
            Self::Io { .. } => {
                "Check that the folder belongs to you and that the disk is not full, or name another with --home"
                    .to_owned()
            }
            Self::Busy { pid, .. } => {
                format!(
                    "Wait until process {pid} has ended, stop it, or use another data folder with --home"
                )
            }
        }
    }
}

/// An open data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// The folder that is used when none is named: `hearth` in the platform's folder for data.
    ///
    /// # Errors
    /// [`HomeError::Unknown`] for a user without a home directory.
    pub fn default_path() -> Result<PathBuf, HomeError> {
        let set = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        if let Some(data) = set("XDG_DATA_HOME") {
            return Ok(data.join(FOLDER));
        }
        let user = std::env::home_dir().ok_or(HomeError::Unknown)?;
        let data = if cfg!(target_os = "macos") {
            user.join("Library/Application Support")
        } else {
            user.join(".local/share")
        };
        Ok(data.join(FOLDER))
    }

    /// Opens the folder at `root`; makes it, and a configuration in it, where there is none.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn open(root: &Path) -> Result<Self, HomeError> {
        let failed = |source| HomeError::Io {
            path: root.to_owned(),
            source,
        };
        match std::fs::metadata(root) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(HomeError::NotAFolder {
                    path: root.to_owned(),
                });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(FOLDER_MODE)
                    .create(root)
                    .map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let home = Self {
            root: root.to_owned(),
        };
        home.write_default_config()?;
        Ok(home)
    }

    fn write_default_config(&self) -> Result<(), HomeError> {
        let path = self.config_path();
        let opened = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&path);
        let failed = |source| HomeError::Io {
            path: path.clone(),
            source,
        };
        match opened {
            Ok(mut file) => file.write_all(DEFAULT_CONFIG.as_bytes()).map_err(failed),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The permission bits of the folder.
    ///
    /// # Errors
    /// [`HomeError::Io`].
    pub fn mode(&self) -> Result<u32, HomeError> {
        let found = std::fs::metadata(&self.root).map_err(|source| HomeError::Io {
            path: self.root.clone(),
            source,
        })?;
        Ok(found.permissions().mode() & 0o7777)
    }

    /// The encrypted file with the recovery phrase.
    pub fn keystore_path(&self) -> PathBuf {
        self.root.join("keystore.json")
    }

    /// The folder of model files.
    pub fn models_folder(&self) -> PathBuf {
        self.root.join("models")
    }

    /// The folder of training runs, their data and what was earned by them.
    pub fn training_folder(&self) -> PathBuf {
        self.root.join("training")
    }

    /// The folder in which the network keeps what is shared and fetched.
    pub fn blobs_folder(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// The folder of the heads of model files that were fetched from others.
    pub fn heads_folder(&self) -> PathBuf {
        self.root.join("heads")
    }

    /// The file in which the ports are remembered that the system chose.
    pub fn ports_path(&self) -> PathBuf {
        self.root.join("ports")
    }

    /// The file in which peers are remembered.
    pub fn peers_path(&self) -> PathBuf {
        self.root.join("peers")
    }

    /// The configuration.
    pub fn config_path(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The file of a store. Take its [`Home::lock`] before you open it.
    pub fn store_path(&self, part: Part) -> PathBuf {
        self.root.join(format!("{}.redb", part.name()))
    }

    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// [`ConfigError`] with the line and the reason.
    pub fn config(&self) -> Result<Config, ConfigError> {
        Config::read(&self.config_path())
    }

    /// Takes a store for this process until the lock is dropped or the process ends.
    ///
    /// # Errors
    /// [`HomeError::Busy`] with the process that has it.
    pub fn lock(&self, part: Part) -> Result<HomeLock, HomeError> {
        HomeLock::take(&self.root, part)
    }

    /// Takes from others the permissions on the folder and what is in it, whatever made it: prompts,
    /// answers and books are their owner's. Links are not followed.
    ///
    /// # Errors
    /// [`HomeError::Io`] where the folder itself cannot be changed. What is in it is left out then: nobody
    /// reaches it who may not enter the folder.
    pub fn make_private(&self) -> Result<(), HomeError> {
        let made = private(&self.root);
        made.map_err(|source| HomeError::Io {
            path: self.root.clone(),
            source,
        })?;
        let mut folders = vec![self.root.clone()];
        let mut looked_at = 0;
        while let Some(entries) = folders.pop().map(std::fs::read_dir) {
            for entry in entries.into_iter().flatten().flatten() {
                looked_at += 1;
                let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                if is_link || looked_at > ENTRIES_MAX {
                    continue;
                }
                if let Err(error) = private(&entry.path()) {
                    tracing::debug!(error = %error.with_causes(), path = %entry.path().display(), "it stays as it is");
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
            }
        }
        Ok(())
    }
}

/// Takes from others every permission on a file or a folder.
fn private(path: &Path) -> std::io::Result<()> {
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o700))
}

/// A default configuration in which the chain that `hearth chain run` serves is named, as its comments say.
#[cfg(test)]
pub(crate) fn naming_the_embedded_chain(text: &str) -> String {
    let (before, after) = text.split_once("# [chains.").unwrap();
    let (section, after) = after.split_once("\n\n").unwrap();
    let section = section.replace("\n# ", "\n");
    let after = after.replacen("\"erc20:", "\"eip155:402402/erc20:", 1);
    format!("{before}[chains.{section}\n\n{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_folder_is_private_and_explains_itself() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("a/b");
        let home = Home::open(&root).unwrap();
        assert_eq!(home.mode().unwrap(), 0o700);
        let mode = std::fs::metadata(home.config_path())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        home.config().unwrap();
        std::fs::write(home.config_path(), "# mine\n").unwrap();
        Home::open(&root).unwrap();
        assert_eq!(
            std::fs::read_to_string(home.config_path()).unwrap(),
            "# mine\n"
        );
    }

    #[test]
    fn what_an_old_version_left_open_is_closed() {
        let outer = tempfile::tempdir().unwrap();
        let home = Home::open(&outer.path().join("home")).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let (store, folder) = (home.store_path(Part::Provider), home.blobs_folder());
        let (inner, stranger) = (folder.join("data"), outer.path().join("stranger"));
        std::fs::create_dir(&folder).unwrap();
        for file in [&store, &inner, &stranger] {
            std::fs::write(file, "").unwrap();
            set(file, 0o664);
        }
        std::os::unix::fs::symlink(&stranger, folder.join("link")).unwrap();
        set(&folder, 0o755);
        set(home.root(), 0o755);
        home.make_private().unwrap();
        assert_eq!(mode(home.root()), 0o700);
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&store), 0o600);
        assert_eq!(mode(&inner), 0o600);
        assert_eq!(mode(&stranger), 0o664, "a link is not followed");
    }

    #[test]
    fn what_is_not_a_folder_is_refused() {
        let outer = tempfile::tempdir().unwrap();
        let file = outer.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(Home::open(&file).unwrap_err().code(), "home_not_a_folder");
        assert_eq!(
            Home::open(&file.join("below")).unwrap_err().code(),
            "home_io"
        );
    }

    #[test]
    fn a_store_has_one_user_at_a_time() {
        let outer = tempfile::tempdir().unwrap();
        let home = Home::open(outer.path()).unwrap();
        let held = home.lock(Part::Payer).unwrap();
        let error = home.lock(Part::Payer).unwrap_err();
        assert_eq!(error.code(), "home_busy");
        assert!(
            error.to_string().contains(&std::process::id().to_string()),
            "{error}"
        );
        home.lock(Part::Chain).unwrap();
        drop(held);
        home.lock(Part::Payer).unwrap();
    }
}
