//! What a device keeps of a run: its terms and manifest, the part that the device takes, and files by their hashes.
//!
//! Files are written aside and renamed, so that what is there is whole; the hash is compared when a file is put in. What a
//! trainer committed to is on the disk before it is said.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use alloy_primitives::B256;
use hearth_protocol::content::ContentHash;
use hearth_protocol::run::manifest::{RUN_MANIFEST_BYTES_MAX, RunManifest, RunManifestError};
use hearth_protocol::run::trainer::Committed;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ticket::{RunTicket, RunTicketError};
use crate::advice::Advice;

/// The longest small file of a run's folder, in bytes.
const SMALL_BYTES_MAX: u64 = 64 << 10;
const TICKET: &str = "ticket";
const MANIFEST: &str = "manifest.json";
const PART: &str = "part.json";
const COMMITTED: &str = "committed.json";
const FILES: &str = "files";

/// What a device does in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RunPart {
    /// It trains.
    pub(crate) trains: bool,
    /// It validates, when it is drawn.
    pub(crate) validates: bool,
}

/// Why a run's folder cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum RunFolderError {
    /// The system.
    #[error("{} cannot be used", path.display())]
    Io {
        /// The path that failed.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that this program did not write.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The ticket.
    #[error("the run's ticket is damaged")]
    Ticket(#[from] RunTicketError),
    /// The manifest.
    #[error("the run's manifest cannot be used")]
    Manifest(#[from] RunManifestError),
    /// The manifest is another one.
    #[error("the manifest is {found}, and the run's is {wanted}")]
    OtherManifest {
        /// Its name.
        found: ContentHash,
        /// The name in the run's terms.
        wanted: ContentHash,
    },
    /// A file is not what its name says.
    #[error("{} is not what its name says", path.display())]
    OtherFile {
        /// The file.
        path: PathBuf,
    },
    /// Nothing is known of the run.
    #[error("this device takes no part in the run {0}")]
    NoRun(B256),
}

impl Advice for RunFolderError {
    fn code(&self) -> &str {
        match self {
            Self::Io { .. } => "run_io",
            Self::Damaged { .. } | Self::OtherFile { .. } => "run_damaged",
            Self::Ticket(_) => "bad_run_ticket",
            Self::Manifest(_) | Self::OtherManifest { .. } => "bad_manifest",
            Self::NoRun(_) => "no_run",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Io { .. } => {
                "Check that the data folder is yours and that the disk has room".to_owned()
            }
            Self::Damaged { .. } | Self::OtherFile { .. } | Self::OtherManifest { .. } => {
                "Remove the file, or leave the run with `hearth run leave` and join it again"
                    .to_owned()
            }
            Self::Ticket(_) => {
                "Copy the whole ticket that `hearth run create` or `hearth run show` printed"
                    .to_owned()
            }
            Self::Manifest(_) => {
                "Ask whoever made the run for one that this version reads".to_owned()
            }
            Self::NoRun(_) => {
                "See `hearth run list`, or join with `hearth run join TICKET`".to_owned()
            }
        }
    }
}

/// A run's folder.
#[derive(Debug, Clone)]
pub(crate) struct RunFolder {
    root: PathBuf,
    run: B256,
}

impl RunFolder {
    /// Makes the folder of a run below `runs`, or writes a ticket and a part into the one that is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn create(
        runs: &Path,
        ticket: &RunTicket,
        part: RunPart,
    ) -> Result<Self, RunFolderError> {
        let run = ticket.terms.run();
        let folder = Self {
            root: runs.join(alloy_primitives::hex::encode(run)),
            run,
        };
        let files = folder.root.join(FILES);
        fs::create_dir_all(&files).map_err(failed(&files))?;
        folder.write(&folder.root.join(TICKET), ticket.to_string().as_bytes())?;
        folder.set_part(part)?;
        Ok(folder)
    }

    /// Opens the folder of a run.
    ///
    /// # Errors
    /// [`RunFolderError::NoRun`] where there is none.
    pub(crate) fn open(runs: &Path, run: B256) -> Result<Self, RunFolderError> {
        let root = runs.join(alloy_primitives::hex::encode(run));
        match root.join(PART).is_file() {
            true => Ok(Self { root, run }),
            false => Err(RunFolderError::NoRun(run)),
        }
    }

    /// All runs below `runs`, in the order of their ids.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn all(runs: &Path) -> Result<Vec<Self>, RunFolderError> {
        let entries = match fs::read_dir(runs) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(runs)(error)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed(runs))?.file_name();
            let id = name.to_str().and_then(|name| name.parse::<B256>().ok());
            ids.extend(id);
        }
        ids.sort_unstable();
        let folders = ids.into_iter().map(|id| Self::open(runs, id));
        // A folder without a part is one that is being made, or was left.
        Ok(folders.filter_map(Result::ok).collect())
    }

    /// The run.
    pub(crate) fn run(&self) -> B256 {
        self.run
    }

    /// What others join by.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn ticket(&self) -> Result<RunTicket, RunFolderError> {
        let path = self.root.join(TICKET);
        let text = self.small(&path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        Ok(text.trim().parse::<RunTicket>()?)
    }

    /// What this device does in it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn part(&self) -> Result<RunPart, RunFolderError> {
        let part = self.json(&self.root.join(PART))?;
        part.ok_or(RunFolderError::NoRun(self.run))
    }

    /// Changes what this device does in it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_part(&self, part: RunPart) -> Result<(), RunFolderError> {
        self.write_json(&self.root.join(PART), &part)
    }

    /// Forgets that this device takes part. Files stay until the folder is removed.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn leave(&self) -> Result<(), RunFolderError> {
        let path = self.root.join(PART);
        fs::remove_file(&path).map_err(failed(&path))
    }

    /// The manifest, once it is here.
    ///
    /// # Errors
    /// When it cannot be read, or is not the run's.
    pub(crate) fn manifest(&self) -> Result<Option<RunManifest>, RunFolderError> {
        let path = self.manifest_path();
        let Some(bytes) = self.read(&path, RUN_MANIFEST_BYTES_MAX as u64)? else {
            return Ok(None);
        };
        let (found, wanted) = (ContentHash::of(&bytes), self.ticket()?.terms.manifest);
        if found != wanted {
            return Err(RunFolderError::OtherManifest { found, wanted });
        }
        Ok(Some(RunManifest::read(&bytes)?))
    }

    /// Where the manifest is.
    pub(crate) fn manifest_path(&self) -> PathBuf {
        self.root.join(MANIFEST)
    }

    /// Keeps the manifest.
    ///
    /// # Errors
    /// When it is not the run's, or cannot be written.
    pub(crate) fn keep_manifest(&self, bytes: &[u8]) -> Result<(), RunFolderError> {
        let (found, wanted) = (ContentHash::of(bytes), self.ticket()?.terms.manifest);
        if found != wanted {
            return Err(RunFolderError::OtherManifest { found, wanted });
        }
        self.write(&self.manifest_path(), bytes)
    }

    /// What this device last committed to as a trainer.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn committed(&self) -> Result<Option<Committed>, RunFolderError> {
        self.json(&self.root.join(COMMITTED))
    }

    /// Keeps what this device commits to.
    ///
    /// # Errors
    /// When it cannot be written; then it must not be said.
    pub(crate) fn keep_committed(&self, committed: &Committed) -> Result<(), RunFolderError> {
        self.write_json(&self.root.join(COMMITTED), committed)
    }

    /// Where a file is, or would be.
    pub(crate) fn file(&self, name: ContentHash) -> PathBuf {
        self.root.join(FILES).join(name.to_string())
    }

    /// Whether a file is here.
    pub(crate) fn has(&self, name: ContentHash) -> bool {
        self.file(name).is_file()
    }

    /// Keeps bytes under their hash.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(crate) fn keep(&self, bytes: &[u8]) -> Result<ContentHash, RunFolderError> {
        let name = ContentHash::of(bytes);
        if !self.has(name) {
            self.write(&self.file(name), bytes)?;
        }
        Ok(name)
    }

    /// Reads a file of at most `bytes_max` bytes, and compares it with its name.
    ///
    /// # Errors
    /// When it cannot be read, or is not what its name says.
    pub(crate) fn bytes(
        &self,
        name: ContentHash,
        bytes_max: u64,
    ) -> Result<Option<Vec<u8>>, RunFolderError> {
        let path = self.file(name);
        let Some(bytes) = self.read(&path, bytes_max)? else {
            return Ok(None);
        };
        match ContentHash::of(&bytes) == name {
            true => Ok(Some(bytes)),
            false => Err(RunFolderError::OtherFile { path }),
        }
    }

    /// A file to write to whose hash is not known yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn aside(&self) -> Result<Aside, RunFolderError> {
        let folder = self.root.join(FILES);
        let file = tempfile::Builder::new()
            .prefix("making-")
            .tempfile_in(&folder);
        Ok(Aside {
            file: file.map_err(failed(&folder))?,
        })
    }

    /// Puts what was written aside under its hash.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub(crate) fn put(&self, aside: Aside, name: ContentHash) -> Result<(), RunFolderError> {
        let path = self.file(name);
        let file = aside.file;
        file.as_file().sync_all().map_err(failed(&path))?;
        let moved = file.persist(&path).map_err(|error| error.error);
        moved.map(drop).map_err(failed(&path))
    }

    /// Removes a file that is of no use any more.
    pub(crate) fn forget(&self, name: ContentHash) {
        // What cannot be removed now is in nobody's way.
        drop(fs::remove_file(self.file(name)));
    }

    fn json<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, RunFolderError> {
        let Some(bytes) = self.small(path)? else {
            return Ok(None);
        };
        let value = serde_json::from_slice(&bytes);
        value.map(Some).map_err(|source| RunFolderError::Damaged {
            path: path.to_owned(),
            source,
        })
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), RunFolderError> {
        let bytes = serde_json::to_vec_pretty(value).map_err(|source| RunFolderError::Damaged {
            path: path.to_owned(),
            source,
        })?;
        self.write(path, &bytes)
    }

    fn small(&self, path: &Path) -> Result<Option<Vec<u8>>, RunFolderError> {
        self.read(path, SMALL_BYTES_MAX)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, RunFolderError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(path)(error)),
        };
        let mut bytes = Vec::new();
        let read = file.take(bytes_max).read_to_end(&mut bytes);
        read.map_err(failed(path))?;
        Ok(Some(bytes))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), RunFolderError> {
        let written = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.root)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            File::open(&self.root)?.sync_all()
        };
        written().map_err(failed(path))
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct Aside {
    file: tempfile::NamedTempFile,
}

impl Write for Aside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> RunFolderError {
    move |source| RunFolderError::Io {
        path: path.to_owned(),
        source,
    }
}
