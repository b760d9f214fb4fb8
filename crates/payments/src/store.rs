//! The node's durable store: a redb database with a journal in front of it.
//!
//! A commit costs a sync of the disk, whatever its size. So writers hand their batches to one thread, which puts all
//! that wait into one record of the journal, syncs it and answers them together: under load the disk is synced once for
//! many vouchers, and at rest once for one. The database takes the rows a moment later; it is synced when half of the
//! journal is full, or when nothing was written for a second. A crash in between loses nothing: what the database lacks
//! is read from the journal when the store is opened.
//!
//! When a commit fails, nothing can be promised any more: every later commit is refused until the process starts again.
//!
//! Values are opaque bytes here; what they mean is known where they are written. The first byte of
//! a value is its format's number (see [`encode`]).

#[cfg(test)]
mod crash_tests;
mod journal;
mod table;
mod wiping;
mod writer;

use std::borrow::Cow;
use std::fs::Permissions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use hearth_environment::Environment;
use redb::backends::FileBackend;
use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, StorageBackend,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{Semaphore, oneshot};

pub use journal::JournalError;
use journal::{Journal, StoreId};
use table::Definition;
pub(crate) use table::OLD_REPLIES_NAME;
pub use table::Table;
use writer::{Applier, Job, Progress, Queue, Writer};

/// Batches of [`Store::commit`] that may wait for the writer; senders wait beyond.
const QUEUE_BATCHES_MAX: usize = 4_096;
/// Which store this is, and up to which number it has the records of its journal.
const JOURNAL_STATE: Definition<'static> = Definition::new("journal");
/// The one key of [`JOURNAL_STATE`].
const JOURNAL_STATE_KEY: &[u8] = b"applied";
/// The longest value that is written, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// The permissions of a store: what was answered and paid is for nobody else to read.
const FILE_MODE: u32 = 0o600;
/// The number of the format that [`encode`] writes.
const FORMAT: u8 = 1;

/// Why the store cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file cannot be opened as a store.
    #[error(
        "the store at {path} cannot be opened; if another hearth process uses it, stop that one first"
    )]
    Database {
        /// Where it is.
        path: String,
        /// Why.
        #[source]
        source: redb::DatabaseError,
    },
    /// The tables cannot be made.
    #[error("the store cannot be prepared")]
    Prepare(#[source] Box<redb::Error>),
    /// Its journal cannot be used.
    #[error("the store's journal at {path} cannot be used")]
    Journal {
        /// Where it is.
        path: String,
        /// Why.
        #[source]
        source: JournalError,
    },
    /// What the journal has could not be brought into the store.
    #[error("what the store's journal has cannot be brought into the store")]
    Recover(#[source] StoreError),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes; the store was not opened")]
    Randomness,
    /// The writer thread cannot be started.
    #[error("the store's writer cannot be started")]
    Thread(#[source] std::io::Error),
}

/// Why something could not be read or made durable.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk, or the file on it.
    #[error("the store failed: {0}; nothing more is promised until the node starts again")]
    Failed(Arc<redb::Error>),
    /// A commit failed before; nothing is taken any more.
    #[error("the store failed earlier; start the node again")]
    Stopped,
    /// A value is not in the format that is expected.
    #[error("the store holds a value that this version cannot read")]
    Format,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes; nothing was written")]
    Randomness,
    /// A value is longer than [`VALUE_BYTES_MAX`].
    #[error("a value of {bytes} bytes is too long for the store")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Failed(Arc::new(error.into()))
    }
}

/// One write: a value for a key, or that there is none any more.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    /// The table's name. One that a consumer names no more is written all the same: its rows were promised.
    table: Cow<'static, str>,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    /// Whether what is there already stays.
    is_new_only: bool,
}

impl Row {
    /// The most bytes that it takes in a record.
    fn bytes_max(&self) -> usize {
        let value_bytes = self.value.as_ref().map_or(0, Vec::len);
        // Lengths and flags take a few bytes each.
        self.table.len() + self.key.len() + value_bytes + 16
    }
}

/// Writes that become durable together or not at all.
#[derive(Debug, Default)]
pub struct Batch(Vec<Row>);

/// Hears what became of a batch, on the writer's thread: it must neither block nor take long.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

impl Batch {
    /// Puts a value.
    ///
    /// # Errors
    /// When the value is too long.
    pub fn put<T: Serialize>(
        &mut self,
        table: Table<T>,
        key: &[u8],
        value: &T,
    ) -> Result<(), StoreError> {
        self.push(table.name(), key, Some(encode(value)?), false);
        Ok(())
    }

    /// Puts a value where there is none; one that is there stays.
    ///
    /// # Errors
    /// When the value is too long.
    pub fn put_new<T: Serialize>(
        &mut self,
        table: Table<T>,
        key: &[u8],
        value: &T,
    ) -> Result<(), StoreError> {
        self.push(table.name(), key, Some(encode(value)?), true);
        Ok(())
    }

    fn push(&mut self, table: &'static str, key: &[u8], value: Option<Vec<u8>>, is_new_only: bool) {
        self.0.push(Row {
            table: table.into(),
            key: key.to_vec(),
            value,
            is_new_only,
        });
    }

    /// Removes a value.
    pub fn remove<T>(&mut self, table: Table<T>, key: &[u8]) {
        self.push(table.name(), key, None, false);
    }

    /// Adds the writes of another batch.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A handle to the store. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    database: Arc<Database>,
    queue: Arc<OpenQueue>,
    places: Arc<Semaphore>,
    progress: Arc<Progress>,
}

/// A queue that is closed when the last handle is gone.
struct OpenQueue(Arc<Queue>);

impl std::fmt::Debug for OpenQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenQueue").finish_non_exhaustive()
    }
}

impl Drop for OpenQueue {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Store {
    /// Opens the store at `path`, or makes it, with its journal beside it.
    ///
    /// # Errors
    /// When a file is not a store or its journal, is in use, or cannot be written.
    pub fn open(path: &Path, environment: &dyn Environment) -> Result<Self, OpenError> {
        let named = |source| OpenError::Database {
            path: path.display().to_string(),
            source,
        };
        let io = |error| redb::DatabaseError::Storage(redb::StorageError::Io(error));
        if !path.exists() {
            create_file(path).map_err(named)?;
        }
        make_private(path).map_err(|error| named(io(error)))?;
        let mut database = Database::open(path).map_err(named)?;
        shed(&mut database, path).map_err(|error| OpenError::Prepare(Box::new(error)))?;
        let journal = path.with_added_extension("journal");
        let unusable = |source| OpenError::Journal {
            path: journal.display().to_string(),
            source,
        };
        let file = open_journal(&journal).map_err(|error| unusable(error.into()))?;
        Self::recover(database, Box::new(file), environment, unusable)
    }

    /// Takes an open database, which is synced at each commit, and of which this store becomes the main user.
    ///
    /// # Errors
    /// When the tables cannot be made.
    pub fn with_database(
        database: Database,
        environment: &dyn Environment,
    ) -> Result<Self, OpenError> {
        let applier = prepare(database, environment)?;
        Self::start(
            Arc::clone(&applier.database),
            Writer::without_journal(applier),
        )
    }

    /// Takes an open database and the file of its journal.
    ///
    /// # Errors
    /// When the tables cannot be made, or the journal is not this database's.
    pub fn with_journal(
        database: Database,
        journal: impl StorageBackend,
        environment: &dyn Environment,
    ) -> Result<Self, OpenError> {
        let unusable = |source| OpenError::Journal {
            path: "the file that was handed over".to_owned(),
            source,
        };
        Self::recover(database, Box::new(journal), environment, unusable)
    }

    fn recover(
        database: Database,
        journal: Box<dyn StorageBackend>,
        environment: &dyn Environment,
        unusable: impl FnOnce(JournalError) -> OpenError,
    ) -> Result<Self, OpenError> {
        let mut applier = prepare(database, environment)?;
        let (journal, missing) =
            Journal::open(journal, applier.id, applier.applied).map_err(unusable)?;
        if let Some(last) = missing.last() {
            let rows = missing.iter().flat_map(|record| &record.rows);
            let written = applier.write(rows, Some(last.number), Durability::Immediate);
            written.map_err(OpenError::Recover)?;
        }
        let database = Arc::clone(&applier.database);
        let writer = Writer::with_journal(journal, applier).map_err(OpenError::Thread)?;
        Self::start(database, writer)
    }

    fn start(database: Arc<Database>, writer: Writer) -> Result<Self, OpenError> {
        let progress = writer.progress();
        let queue = Queue::start(writer).map_err(OpenError::Thread)?;
        Ok(Self {
            database,
            queue: Arc::new(OpenQueue(queue)),
            places: Arc::new(Semaphore::new(QUEUE_BATCHES_MAX)),
            progress,
        })
    }

    /// The database, for parts that keep their own tables in the same file.
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Makes a batch durable. When this returns, it survives a power cut.
    ///
    /// # Errors
    /// When the disk fails, now or earlier.
    pub async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| StoreError::Stopped)?;
        let (done, wait) = oneshot::channel();
        let answer = move |outcome| {
            drop(place);
            // A caller that stopped waiting has lost interest in the answer, not in the write.
            let _ = done.send(outcome);
        };
        self.submit(batch, Box::new(answer))
            .map_err(|_| StoreError::Stopped)?;
        self.write();
        wait.await.map_err(|_| StoreError::Stopped)?
    }

    /// Queues a batch, to be made durable after all that were queued before it; `done` hears of it. An empty batch is
    /// done when those are. Nothing happens before [`Store::write`] or [`Store::write_here`]. The caller bounds how many
    /// it has under way.
    ///
    /// # Errors
    /// Gives `done` back when the store has stopped.
    pub fn submit(&self, batch: Batch, done: Done) -> Result<(), Done> {
        let rows = batch.0;
        self.queue.0.add(Job { rows, done })
    }

    /// Has what is queued made durable.
    pub fn write(&self) {
        self.queue.0.wake();
    }

    /// Makes durable what is queued before it returns, where the disk is quick and nobody else is writing; otherwise the
    /// same as [`Store::write`]. For a caller beside which nothing else waits for this thread.
    pub fn write_here(&self) {
        self.queue.0.write_here();
    }

    /// A transaction that sees everything that was committed.
    fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        self.progress.settle()?;
        Ok(self.database.begin_read()?)
    }

    /// Reads a value.
    ///
    /// # Errors
    /// When the disk fails, or the value is in another format.
    pub fn get<T: DeserializeOwned>(
        &self,
        table: Table<T>,
        key: &[u8],
    ) -> Result<Option<T>, StoreError> {
        let Some(table) = opened(&self.begin_read()?, table)? else {
            return Ok(None);
        };
        let Some(value) = table.get(key)? else {
            return Ok(None);
        };
        decode(value.value()).map(Some)
    }

    /// Visits every value of a table in the order of the keys.
    ///
    /// # Errors
    /// When the disk fails, or a value is in another format.
    pub fn each<T: DeserializeOwned>(
        &self,
        table: Table<T>,
        visit: impl FnMut(&[u8], T),
    ) -> Result<(), StoreError> {
        self.view()?.each(table, visit)
    }

    /// Visits the first values of a table in the order of the keys: those before `end`, `most` at most.
    ///
    /// # Errors
    /// When the disk fails, or a value is in another format.
    pub fn first<T: DeserializeOwned>(
        &self,
        table: Table<T>,
        end: &[u8],
        most: usize,
        mut visit: impl FnMut(&[u8], T),
    ) -> Result<(), StoreError> {
        let Some(table) = opened(&self.begin_read()?, table)? else {
            return Ok(());
        };
        for entry in table.range(..end)?.take(most) {
            let (key, value) = entry?;
            visit(key.value(), decode(value.value())?);
        }
        Ok(())
    }

    /// What the store holds now, whatever is written meanwhile.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn view(&self) -> Result<View, StoreError> {
        Ok(View(self.begin_read()?))
    }
}

/// A store as it was at one moment.
pub struct View(ReadTransaction);

impl View {
    /// Visits every value of a table in the order of the keys.
    ///
    /// # Errors
    /// When the disk fails, or a value is in another format.
    pub fn each<T: DeserializeOwned>(
        &self,
        table: Table<T>,
        mut visit: impl FnMut(&[u8], T),
    ) -> Result<(), StoreError> {
        let Some(table) = opened(&self.0, table)? else {
            return Ok(());
        };
        for entry in table.iter()? {
            let (key, value) = entry?;
            visit(key.value(), decode(value.value())?);
        }
        Ok(())
    }
}

/// A table that is open for reading: keys and values are bytes.
type OpenTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// Opens a table for reading; there is none before something was put into it.
fn opened<T>(read: &ReadTransaction, table: Table<T>) -> Result<Option<OpenTable>, StoreError> {
    match read.open_table(Definition::new(table.name())) {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// Writes a value in the store's format: a byte that numbers it, then postcard.
fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    let bytes = postcard::to_extend(value, vec![FORMAT]).map_err(|_| StoreError::Format)?;
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(StoreError::TooLong { bytes: bytes.len() });
    }
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    match bytes {
        [FORMAT, value @ ..] => postcard::from_bytes(value).map_err(|_| StoreError::Format),
        _ => Err(StoreError::Format),
    }
}

/// Makes the file under another name and renames it when it is whole: a crash meanwhile leaves
/// nothing at `path` that cannot be opened.
fn create_file(path: &Path) -> Result<(), redb::DatabaseError> {
    let fresh = path.with_added_extension("new");
    let io = |error| redb::DatabaseError::Storage(redb::StorageError::Io(error));
    if fresh.exists() {
        // What an earlier attempt left behind when it was stopped: nothing was promised on it.
        std::fs::remove_file(&fresh).map_err(io)?;
    }
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&fresh)
        .map_err(io)?;
    drop(Database::builder().create_with_backend(redb::backends::FileBackend::new(file)?)?);
    std::fs::rename(&fresh, path).map_err(io)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    // Where folders can be synced the new name is durable now; elsewhere the system sees to it.
    if let Ok(folder) = std::fs::File::open(folder.unwrap_or(Path::new("."))) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Reads up to where the database has its journal; a new one draws its id.
fn prepare(database: Database, environment: &dyn Environment) -> Result<Applier, OpenError> {
    let id: StoreId = environment.draw().map_err(|_| OpenError::Randomness)?;
    let fresh = encode(&(id, 0_u64)).map_err(OpenError::Recover)?;
    let state =
        prepare_state(&database, fresh).map_err(|error| OpenError::Prepare(Box::new(error)))?;
    let (id, applied) = decode(&state).map_err(OpenError::Recover)?;
    Ok(Applier {
        database: Arc::new(database),
        id,
        applied,
        progress: Arc::default(),
    })
}

fn prepare_state(database: &Database, fresh: Vec<u8>) -> Result<Vec<u8>, redb::Error> {
    let write = database.begin_write()?;
    let state = {
        let mut table = write.open_table(JOURNAL_STATE)?;
        let kept = table
            .get(JOURNAL_STATE_KEY)?
            .map(|kept| kept.value().to_vec());
        let state = kept.unwrap_or(fresh);
        table.insert(JOURNAL_STATE_KEY, state.as_slice())?;
        state
    };
    write.commit()?;
    Ok(state)
}

/// Opens the file of a journal, or makes it.
fn open_journal(path: &Path) -> std::io::Result<FileBackend> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)?;
    FileBackend::new(file).map_err(std::io::Error::other)
}

/// Takes from others the permission to read a file that an earlier version made.
fn make_private(path: &Path) -> std::io::Result<()> {
    let found = std::fs::metadata(path)?.permissions().mode();
    if found & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(found & 0o700))
}

/// Drops the table of replies in clear once nothing is in it, and writes over the pages that held them.
fn shed(database: &mut Database, path: &Path) -> Result<(), redb::Error> {
    let old = Definition::new(OLD_REPLIES_NAME);
    let is_empty = match database.begin_read()?.open_table(old) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
        table => table?.is_empty()?,
    };
    if is_empty {
        // Before the table goes, so that a crash meanwhile has it done again.
        wiping::overwrite_free(database, path)?;
        let write = database.begin_write()?;
        write.delete_table(old)?;
        write.commit()?;
        database.compact()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hearth_environment::SystemEnvironment;

    use super::*;

    const WORDS: Table<String> = Table::new("words");
    const NUMBERS: Table<u64> = Table::new("numbers");

    #[tokio::test]
    async fn what_was_committed_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let store = Store::open(&path, &SystemEnvironment).unwrap();
        let mut batch = Batch::default();
        batch.put(WORDS, b"a", &"one".to_owned()).unwrap();
        batch.put(WORDS, b"b", &"two".to_owned()).unwrap();
        store.commit(batch).await.unwrap();
        let mut batch = Batch::default();
        batch.remove(WORDS, b"a");
        store.commit(batch).await.unwrap();
        drop(store);
        let store = reopen(&path).await;
        assert_eq!(store.get(WORDS, b"a").unwrap(), None);
        assert_eq!(store.get(WORDS, b"b").unwrap(), Some("two".to_owned()));
        let wrong = store.get(NUMBERS, b"b").unwrap();
        assert_eq!(wrong, None);
    }

    /// The writer thread lets go of the file when it sees that the last handle is gone.
    async fn reopen(path: &Path) -> Store {
        let opened = async {
            loop {
                if let Ok(store) = Store::open(path, &SystemEnvironment) {
                    return store;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let within = Duration::from_secs(20);
        let opened = tokio::time::timeout(within, opened).await;
        opened.expect("the writer thread lets go of the file")
    }

    #[test]
    fn a_file_that_was_never_finished_does_not_stand_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        std::fs::write(path.with_added_extension("new"), b"half a file").unwrap();
        Store::open(&path, &SystemEnvironment).unwrap();
        assert!(!path.with_added_extension("new").exists());
    }

    #[test]
    fn a_store_is_its_owners_alone_and_an_old_one_is_made_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        drop(Store::open(&path, &SystemEnvironment).unwrap());
        assert_eq!(mode(), 0o600);
        let other = folder.path().join("old.redb");
        drop(Database::create(&other).unwrap());
        std::fs::set_permissions(&other, Permissions::from_mode(0o664)).unwrap();
        drop(Store::open(&other, &SystemEnvironment).unwrap());
        let mode = std::fs::metadata(&other).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    #[tokio::test]
    async fn a_value_that_is_there_stays_where_only_new_ones_are_put() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store.redb"), &SystemEnvironment).unwrap();
        for number in 1..4_u64 {
            let mut batch = Batch::default();
            batch.put_new(NUMBERS, b"a", &number).unwrap();
            store.commit(batch).await.unwrap();
        }
        assert_eq!(store.get(NUMBERS, b"a").unwrap(), Some(1));
    }

    #[tokio::test]
    async fn many_writers_share_commits_and_all_are_answered() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store.redb"), &SystemEnvironment).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..500_u64 {
            let store = store.clone();
            tasks.spawn(async move {
                let mut batch = Batch::default();
                batch.put(NUMBERS, &number.to_be_bytes(), &number).unwrap();
                store.commit(batch).await
            });
        }
        for outcome in tasks.join_all().await {
            outcome.unwrap();
        }
        let mut seen = Vec::new();
        store
            .each(NUMBERS, |_, number: u64| seen.push(number))
            .unwrap();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn values_too_long_or_of_another_format_are_refused() {
        let long = vec![0_u8; VALUE_BYTES_MAX];
        assert!(matches!(encode(&long), Err(StoreError::TooLong { .. })));
        assert!(matches!(decode::<u64>(&[]), Err(StoreError::Format)));
        assert!(matches!(decode::<u64>(&[2, 1]), Err(StoreError::Format)));
    }
}
