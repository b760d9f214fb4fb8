//! Files of models and runs: served and fetched as verified blobs (BLAKE3 trees, as iroh-blobs has them).
//!
//! A shared file stays where it is: the store keeps only the inner nodes of its hash tree, so that
//! any range of it can be proved, and reads the bytes from the file. A file that was changed after
//! it was shared no longer fits its tree; then a peer that fetches it gets an error and never wrong
//! bytes. Each chunk that arrives is checked before it is stored, so a peer can at most refuse.
//!
//! Only what was shared in this run is served, and only as a file: the protocol could also read a
//! file as a list of other files, or take files from strangers, and does neither here. What is
//! being fetched is not served.

mod sizes;
mod small;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};
use std::{fs, io};

use futures::{Stream, StreamExt as _};
use hearth_causes::WithCauses;
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::DeviceId;
use iroh_blobs::api::blobs::{AddPathOptions, BlobStatus, ExportMode, ExportOptions, ImportMode};
use iroh_blobs::api::proto::ExportRangesItem;
use iroh_blobs::api::remote::GetProgressItem;
use iroh_blobs::protocol::{ChunkRanges, ChunkRangesExt as _, GetRequest};
use iroh_blobs::provider::events::{
    AbortReason, EventMask, EventSender, ObserveMode, ProviderMessage, RequestMode, ThrottleMode,
};
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::{BlobFormat, BlobsProtocol, Hash};
use thiserror::Error;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use crate::answers::{ConnectError, connect};
use crate::limits::{
    FETCH_SILENCE_MAX, FETCHES_MAX, HEAD_BYTES_MAX, KEEP_ALIVE_INTERVAL, RUN_FILES_MAX,
    SHARED_FILES_MAX, SMALL_FILE_BYTES_MAX, TRANSFERS_MAX,
};
use crate::offers::driver::Hub;
use crate::peers::PeerAddress;
use small::SmallFiles;

/// Requests that wait for a decision.
const EVENTS_MAX: usize = 256;

/// How long the end of a device waits for what is being fetched to be on the disk.
const CLOSING_MAX: Duration = Duration::from_secs(10);

/// A file that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFile {
    /// Its name on the network.
    pub hash: ContentHash,
    /// Its length.
    pub bytes: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// Why a file is not shared.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ShareError {
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It is not the file that was expected.
    #[error("{} is {found}, not {expected}: fetch it again", path.display())]
    Differs {
        /// The file.
        path: PathBuf,
        /// The expected name.
        expected: ContentHash,
        /// The name of what is there.
        found: ContentHash,
    },
    /// As many are shared as may be.
    #[error(
        "at most {SHARED_FILES_MAX} files are shared, and {RUN_FILES_MAX} of runs: stop sharing one first"
    )]
    TooMany,
    /// The store failed.
    #[error("the store of files failed: {0}")]
    Store(String),
}

/// Why a file was not fetched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Nobody to ask.
    #[error("no device is known that has the file")]
    NoProvider,
    /// Each device that was asked failed; what arrived is kept, so that the next try goes on.
    #[error("none of {} devices gave the file (the last: {last})", failures.len())]
    AllFailed {
        /// Each of them, and why.
        failures: Vec<(DeviceId, ProviderError)>,
        /// The last of them, in words.
        last: String,
    },
    /// The file is longer than it was said to be.
    #[error("the file has not the {0} bytes that it should have")]
    Length(u64),
    /// More was asked for than a head may have.
    #[error("at most {HEAD_BYTES_MAX} bytes of a file's head are fetched")]
    HeadTooLong,
    /// The file cannot be written.
    #[error("{} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error("the store of files failed: {0}")]
    Store(String),
}

impl FetchError {
    fn of_failures(failures: Vec<(DeviceId, ProviderError)>) -> Self {
        match failures.last() {
            None => Self::NoProvider,
            Some((_, last)) => Self::AllFailed {
                last: last.to_string(),
                failures,
            },
        }
    }

    /// Whether the same may be tried again later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NoProvider | Self::AllFailed { .. })
    }
}

/// Why one device did not give a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// It cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It does not have the file, does not share it, is too busy, or broke off.
    #[error("it gave no more: {0}")]
    Refused(String),
    /// It sent nothing for too long.
    #[error("it sent nothing for {} s", FETCH_SILENCE_MAX.as_secs())]
    Silent,
    /// It sent bytes that are not the file's.
    #[error("it sent bytes that are not the file's")]
    WrongBytes,
}

impl ProviderError {
    /// Whether the device did what no honest device does.
    pub fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::WrongBytes)
    }
}

/// What a file is shared for; each has room of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A model, or what belongs to one.
    Model,
    /// A contribution, a checkpoint or a shard of a run: many, and not for long.
    Run,
}

impl Purpose {
    fn files_max(self) -> usize {
        match self {
            Self::Model => SHARED_FILES_MAX,
            Self::Run => RUN_FILES_MAX,
        }
    }
}

type SharedFiles = BTreeMap<ContentHash, (SharedFile, Purpose)>;
type Shared = Arc<Mutex<SharedFiles>>;

/// The store of files.
#[derive(Debug)]
pub(crate) struct Files {
    store: FsStore,
    shared: Shared,
    folder: PathBuf,
    small: SmallFiles,
    /// Large files that are fetched at once.
    at_once: Semaphore,
    /// Held by the task that fetches the file, and after it until its store is closed.
    fetching: Mutex<BTreeMap<ContentHash, Arc<AsyncMutex<()>>>>,
}

/// A store of one file that is being fetched: the file leaves it for good, and what stays of one
/// that broke off is where the next try finds it.
///
/// It is closed also when the fetch is dropped: until it is, its database cannot be opened again,
/// and what arrived last is not on the disk.
struct Aside {
    files: Files,
    turn: Option<OwnedMutexGuard<()>>,
    is_closed: bool,
}

impl Aside {
    async fn open(folder: PathBuf, turn: OwnedMutexGuard<()>) -> Result<Self, FetchError> {
        let store = FsStore::load(&folder).await;
        let store = store.map_err(|error| FetchError::Store(error.with_causes().to_string()))?;
        Ok(Self {
            files: Files::new(store, folder),
            turn: Some(turn),
            is_closed: false,
        })
    }

    /// Closes the store, and removes what is left in it: indices of a file that is elsewhere now.
    async fn remove(mut self) -> Result<(), FetchError> {
        let closed = self.files.store.shutdown().await;
        self.is_closed = true;
        closed.map_err(|error| FetchError::Store(error.with_causes().to_string()))?;
        // What cannot be removed now is found by the next fetch of the file.
        drop(tokio::fs::remove_dir_all(&self.files.folder).await);
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let turn = self.turn.take();
        if self.is_closed {
            return;
        }
        // Without a runtime the process ends, and the disk keeps what it has.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let store = self.files.store.clone();
        runtime.spawn(async move {
            if let Err(error) = store.shutdown().await {
                debug!(error = %error.with_causes(), "the store of a file that was being fetched did not close");
            }
            drop(turn);
        });
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, SharedFiles> {
    // A map of plain data; a panic elsewhere leaves it usable.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hash_of(hash: ContentHash) -> Hash {
    Hash::from_bytes(hash.0)
}

/// The tag under which a file's hash is remembered, so that it is hashed again only when it
/// changed: its path's hash, its length and when it was last written.
struct FileTag {
    prefix: String,
    name: String,
    bytes: u64,
}

impl FileTag {
    fn prefix(path: &Path) -> String {
        let path_hash = ContentHash::of(path.as_os_str().as_encoded_bytes());
        format!("shared/{path_hash}/")
    }

    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        let since = file.modified()?.duration_since(UNIX_EPOCH);
        let written_ns = since.map_or(0, |since| since.as_nanos());
        let prefix = Self::prefix(path);
        Ok(Self {
            name: format!("{prefix}{}-{written_ns}", file.len()),
            prefix,
            bytes: file.len(),
        })
    }
}

impl Files {
    /// Opens the store and says what decides who is served; both must be run.
    pub(crate) async fn open(
        folder: &Path,
        upload_bytes_per_s: Option<u64>,
    ) -> Result<(Self, BlobsProtocol, Doorkeeper), String> {
        let store = FsStore::load(folder).await;
        let store = store.map_err(|error| error.with_causes().to_string())?;
        let shared = Shared::default();
        let mask = EventMask {
            get: RequestMode::Intercept,
            get_many: RequestMode::Disabled,
            push: RequestMode::Disabled,
            observe: ObserveMode::Intercept,
            throttle: match upload_bytes_per_s {
                Some(_) => ThrottleMode::Intercept,
                None => ThrottleMode::None,
            },
            ..EventMask::DEFAULT
        };
        let (events, requests) = EventSender::channel(EVENTS_MAX, mask);
        let protocol = BlobsProtocol::new(&store, Some(events));
        let doorkeeper = Doorkeeper {
            requests,
            shared: shared.clone(),
            bytes_per_s: upload_bytes_per_s.map(|rate| rate.max(1)),
            transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            free_at: Instant::now(),
        };
        let files = Self {
            shared,
            ..Self::new(store, folder.to_owned())
        };
        Ok((files, protocol, doorkeeper))
    }

    fn new(store: FsStore, folder: PathBuf) -> Self {
        Self {
            store,
            shared: Shared::default(),
            folder,
            small: SmallFiles::default(),
            at_once: Semaphore::new(FETCHES_MAX),
            fetching: Mutex::default(),
        }
    }

    /// Waits until nobody fetches the file, and keeps others from it.
    async fn turn(&self, hash: ContentHash) -> OwnedMutexGuard<()> {
        let turn = {
            let mut fetching = self.turns();
            fetching.retain(|_, turn| Arc::strong_count(turn) > 1);
            fetching.entry(hash).or_default().clone()
        };
        turn.lock_owned().await
    }

    fn turns(&self) -> MutexGuard<'_, BTreeMap<ContentHash, Arc<AsyncMutex<()>>>> {
        // A map of locks; a panic elsewhere leaves it usable.
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what was being fetched is on the disk.
    pub(crate) async fn settle(&self) {
        self.small.close();
        let turns: Vec<_> = self.turns().values().cloned().collect();
        for turn in turns {
            if timeout(CLOSING_MAX, turn.lock()).await.is_err() {
                debug!("a file is still being fetched");
            }
        }
    }

    /// Serves a file from where it is.
    pub(crate) async fn share(
        &self,
        path: &Path,
        expected: Option<ContentHash>,
        purpose: Purpose,
    ) -> Result<SharedFile, ShareError> {
        let read = |source| ShareError::Read {
            path: path.to_owned(),
            source,
        };
        let path = fs::canonicalize(path).map_err(read)?;
        let tag = FileTag::of(&path).map_err(read)?;
        let hash = match self.known(&tag).await? {
            Some(hash) => hash,
            None => self.import(&path, &tag).await?,
        };
        if let Some(expected) = expected.filter(|expected| *expected != hash) {
            return Err(ShareError::Differs {
                path,
                expected,
                found: hash,
            });
        }
        let file = SharedFile {
            hash,
            bytes: tag.bytes,
            path,
        };
        let mut shared = lock(&self.shared);
        let alike = shared.values().filter(|(_, other)| *other == purpose);
        let is_new = shared.get(&hash).is_none_or(|(_, other)| *other != purpose);
        if is_new && alike.count() >= purpose.files_max() {
            return Err(ShareError::TooMany);
        }
        // What is shared as a model too is not let go of with a run.
        let is_model = shared
            .get(&hash)
            .is_some_and(|(_, other)| *other == Purpose::Model);
        let purpose = if is_model { Purpose::Model } else { purpose };
        shared.insert(hash, (file.clone(), purpose));
        Ok(file)
    }

    /// The hash of an unchanged file that was shared before.
    async fn known(&self, tag: &FileTag) -> Result<Option<ContentHash>, ShareError> {
        let store =
            |error: &dyn std::error::Error| ShareError::Store(error.with_causes().to_string());
        let found = self.store.tags().get(&tag.name).await;
        let Some(found) = found.map_err(|error| store(&error))? else {
            return Ok(None);
        };
        let status = self.store.blobs().status(found.hash).await;
        let complete = BlobStatus::Complete { size: tag.bytes };
        let is_complete = status.map_err(|error| store(&error))? == complete;
        Ok(is_complete.then(|| ContentHash(*found.hash.as_bytes())))
    }

    async fn import(&self, path: &Path, tag: &FileTag) -> Result<ContentHash, ShareError> {
        let store =
            |error: &dyn std::error::Error| ShareError::Store(error.with_causes().to_string());
        let options = AddPathOptions {
            path: path.to_owned(),
            format: BlobFormat::Raw,
            mode: ImportMode::TryReference,
        };
        let tags = self.store.tags();
        let stale = tags.delete_prefix(&tag.prefix).await;
        stale.map_err(|error| store(&error))?;
        let added = self.store.blobs().add_path_with_opts(options);
        let added = added.with_named_tag(&tag.name).await;
        let added = added.map_err(|error| store(&error))?;
        Ok(ContentHash(*added.hash.as_bytes()))
    }

    /// Serves a file no longer; transfers that have begun go on.
    pub(crate) fn unshare(&self, hash: ContentHash) -> bool {
        lock(&self.shared).remove(&hash).is_some()
    }

    /// Serves files of runs no longer, and forgets their hashes; says how many were served.
    pub(crate) async fn unshare_of_runs(&self, hashes: &[ContentHash]) -> usize {
        let gone: Vec<_> = {
            let mut shared = lock(&self.shared);
            let of_runs = hashes.iter().filter(|hash| {
                let purpose = shared.get(hash).map(|(_, purpose)| *purpose);
                purpose == Some(Purpose::Run)
            });
            let of_runs: Vec<_> = of_runs.copied().collect();
            let gone = of_runs.iter().filter_map(|hash| shared.remove(hash));
            gone.map(|(file, _)| file).collect()
        };
        for file in &gone {
            let prefix = FileTag::prefix(&file.path);
            if let Err(error) = self.store.tags().delete_prefix(&prefix).await {
                debug!(error = %error.with_causes(), "the hash of a file stays remembered");
            }
        }
        gone.len()
    }

    pub(crate) fn shared(&self) -> Vec<SharedFile> {
        let shared = lock(&self.shared);
        shared.values().map(|(file, _)| file.clone()).collect()
    }

    /// Fetches a whole file.
    pub(crate) async fn fetch(
        &self,
        hub: &Hub,
        wanted: &WantedFile<'_>,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), FetchError> {
        let turn = self.turn(wanted.hash).await;
        if wanted.bytes <= SMALL_FILE_BYTES_MAX {
            self.small.fetch(hub, wanted).await?;
            progress(wanted.bytes);
            return Ok(());
        }
        // The semaphore is never closed; without a permit, the fetch is only not bounded.
        let _permit = self.at_once.acquire().await.ok();
        let folder = self.folder.join(format!("fetching-{}", wanted.hash));
        let aside = Aside::open(folder, turn).await?;
        aside.files.fetch_whole(hub, wanted, progress).await?;
        aside.remove().await
    }

    async fn fetch_whole(
        &self,
        hub: &Hub,
        wanted: &WantedFile<'_>,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), FetchError> {
        let ranges = ChunkRanges::all();
        self.gather(hub, wanted, ranges, wanted.bytes, progress)
            .await?;
        let hash = hash_of(wanted.hash);
        let status = self.store.blobs().status(hash).await;
        let complete = BlobStatus::Complete { size: wanted.bytes };
        if status.map_err(|error| FetchError::Store(error.with_causes().to_string()))? != complete {
            return Err(FetchError::Length(wanted.bytes));
        }
        let exported = self.store.blobs().export_with_opts(ExportOptions {
            hash,
            mode: ExportMode::TryReference,
            target: std::path::absolute(wanted.to).unwrap_or_else(|_| wanted.to.to_owned()),
        });
        let exported = exported.finish().await;
        exported.map_err(|error| FetchError::Store(error.with_causes().to_string()))?;
        Ok(())
    }

    /// Fetches the first `head_bytes` of a file into a sparse file of its full length. The last
    /// chunk is fetched too: only it proves the length.
    pub(crate) async fn fetch_head(
        &self,
        hub: &Hub,
        wanted: &WantedFile<'_>,
        head_bytes: u64,
    ) -> Result<(), FetchError> {
        if head_bytes > HEAD_BYTES_MAX {
            return Err(FetchError::HeadTooLong);
        }
        let head_bytes = head_bytes.min(wanted.bytes);
        let ranges = ChunkRanges::bytes(..head_bytes) | ChunkRanges::last_chunk();
        let at_most = head_bytes.saturating_add(HEAD_SLACK_BYTES);
        self.gather(hub, wanted, ranges, at_most, &mut |_| ())
            .await?;
        let hash = hash_of(wanted.hash);
        let status = self.store.blobs().status(hash).await;
        let status = status.map_err(|error| FetchError::Store(error.with_causes().to_string()))?;
        let size = match status {
            BlobStatus::Complete { size } => Some(size),
            BlobStatus::Partial { size } => size,
            BlobStatus::NotFound => None,
        };
        if size != Some(wanted.bytes) {
            return Err(FetchError::Length(wanted.bytes));
        }
        let items = self.store.blobs().export_ranges(hash, 0..head_bytes);
        write_head(items.stream(), wanted).await
    }

    /// Gets the missing ones of `ranges` into the store, from one device after the other.
    async fn gather(
        &self,
        hub: &Hub,
        wanted: &WantedFile<'_>,
        ranges: ChunkRanges,
        bytes_max: u64,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), FetchError> {
        let store =
            |error: &dyn std::error::Error| FetchError::Store(error.with_causes().to_string());
        let mut failures = Vec::new();
        let request = GetRequest::blob_ranges(hash_of(wanted.hash), ranges);
        let whole = self.store.remote().local_for_request(request.clone()).await;
        if whole.map_err(|error| store(&error))?.is_complete() {
            return Ok(());
        }
        for provider in wanted.from {
            let local = self.store.remote().local_for_request(request.clone()).await;
            let local = local.map_err(|error| store(&error))?;
            let have = local.local_bytes();
            let mut told = |bytes: u64| progress(have.saturating_add(bytes));
            let missing = local.missing();
            match self.get(hub, provider, missing, bytes_max, &mut told).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    debug!(device = %provider.device, error = %error.with_causes(), "a file was not given");
                    failures.push((provider.device, error));
                }
            }
        }
        Err(FetchError::of_failures(failures))
    }

    async fn get(
        &self,
        hub: &Hub,
        provider: &PeerAddress,
        request: GetRequest,
        bytes_max: u64,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), ProviderError> {
        let address = hub.locate(provider.clone());
        let address = address.ok_or(ConnectError::NoDevice(provider.device))?;
        let connection = connect(
            &hub.endpoint,
            address,
            iroh_blobs::ALPN,
            KEEP_ALIVE_INTERVAL,
        )
        .await?;
        let items = self.store.remote().execute_get(connection.clone(), request);
        let mut items = std::pin::pin!(items.stream());
        loop {
            match timeout(FETCH_SILENCE_MAX, items.next()).await {
                Err(_) => return Err(ProviderError::Silent),
                Ok(None) => return Err(ProviderError::Refused("it ended early".to_owned())),
                Ok(Some(GetProgressItem::Progress(bytes))) if bytes > bytes_max => {
                    return Err(ProviderError::Refused("the file is too long".to_owned()));
                }
                Ok(Some(GetProgressItem::Progress(bytes))) => progress(bytes),
                Ok(Some(GetProgressItem::Done(_))) => return Ok(()),
                Ok(Some(GetProgressItem::Error(error))) => {
                    let text = error.with_causes().to_string();
                    return Err(match text.contains("hash mismatch") {
                        true => ProviderError::WrongBytes,
                        false => ProviderError::Refused(text),
                    });
                }
            }
        }
    }
}

/// Beyond the head itself: whole groups of chunks at its end, and the last group.
const HEAD_SLACK_BYTES: u64 = 64 << 10;

/// What is to be fetched.
pub(crate) struct WantedFile<'a> {
    pub(crate) hash: ContentHash,
    pub(crate) bytes: u64,
    pub(crate) from: &'a [PeerAddress],
    pub(crate) to: &'a Path,
}

/// Writes what arrives aside, gives it the file's full length, and puts it in place whole.
async fn write_head(
    items: impl Stream<Item = ExportRangesItem>,
    wanted: &WantedFile<'_>,
) -> Result<(), FetchError> {
    let failed = |source| FetchError::Write {
        path: wanted.to.to_owned(),
        source,
    };
    let mut aside = wanted.to.as_os_str().to_owned();
    aside.push(".part");
    let aside = PathBuf::from(aside);
    let mut file = tokio::fs::File::create(&aside).await.map_err(failed)?;
    let mut items = std::pin::pin!(items);
    while let Some(item) = items.next().await {
        match item {
            ExportRangesItem::Size(_) => {}
            ExportRangesItem::Data(leaf) => {
                let to = io::SeekFrom::Start(leaf.offset);
                file.seek(to).await.map_err(failed)?;
                file.write_all(&leaf.data).await.map_err(failed)?;
            }
            ExportRangesItem::Error(error) => {
                return Err(FetchError::Store(error.with_causes().to_string()));
            }
        }
    }
    file.set_len(wanted.bytes).await.map_err(failed)?;
    file.sync_all().await.map_err(failed)?;
    tokio::fs::rename(&aside, wanted.to).await.map_err(failed)
}

/// Decides which requests are served, and how fast.
pub(crate) struct Doorkeeper {
    requests: mpsc::Receiver<ProviderMessage>,
    shared: Shared,
    bytes_per_s: Option<u64>,
    transfers: Arc<Semaphore>,
    /// When what was let through so far will have been sent.
    free_at: Instant,
}

impl Doorkeeper {
    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        loop {
            let message = tokio::select! {
                _ = stop.changed() => break,
                message = self.requests.recv() => message,
                Some(_) = tasks.join_next() => continue,
            };
            let Some(message) = message else { break };
            self.decide(message, &mut tasks).await;
        }
        tasks.shutdown().await;
    }

    async fn decide(&mut self, message: ProviderMessage, tasks: &mut JoinSet<()>) {
        match message {
            ProviderMessage::GetRequestReceived(mut asked) => {
                let request = &asked.inner.request;
                let hash = ContentHash(*request.hash.as_bytes());
                let is_shared = lock(&self.shared).contains_key(&hash);
                if !is_shared || !request.ranges.is_blob() {
                    // Fails only when the peer that asked is gone.
                    let _ = asked.tx.send(Err(AbortReason::Permission)).await;
                    return;
                }
                let Ok(permit) = self.transfers.clone().try_acquire_owned() else {
                    let _ = asked.tx.send(Err(AbortReason::RateLimited)).await;
                    return;
                };
                let _ = asked.tx.send(Ok(())).await;
                tasks.spawn(async move {
                    // Ends with the transfer.
                    while let Ok(Some(_)) = asked.rx.recv().await {}
                    drop(permit);
                });
            }
            ProviderMessage::Throttle(asked) => {
                let due = self.due(asked.inner.size);
                tasks.spawn(async move {
                    sleep_until(due).await;
                    let _ = asked.tx.send(Ok(())).await;
                });
            }
            ProviderMessage::ObserveRequestReceived(asked) => {
                let _ = asked.tx.send(Err(AbortReason::Permission)).await;
            }
            // Everything else is switched off by the mask.
            _ => {}
        }
    }

    /// When `bytes` more may be sent.
    fn due(&mut self, bytes: u64) -> Instant {
        let now = Instant::now();
        let Some(rate) = self.bytes_per_s else {
            return now;
        };
        let takes = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        self.free_at = self.free_at.max(now) + takes;
        self.free_at
    }
}
