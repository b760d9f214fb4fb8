//! The node's durable store: one redb file, one writer thread, many promises per commit.
//!
//! A commit costs a sync of the disk, whatever its size. So writers hand their batches to one
//! thread, which puts all that wait into one transaction and answers them together: under load the
//! disk is synced once for many vouchers, and at rest once for one. When a commit fails, nothing
//! can be promised any more: every later commit is refused until the process starts again.
//!
//! Values are opaque bytes here; what they mean is known where they are written. The first byte of
//! a value is its format's number (see [`encode`]).

mod wiping;

use std::fs::Permissions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Batches that may wait for the writer; senders wait beyond.
const QUEUE_BATCHES_MAX: usize = 4_096;
/// Batches that share one commit at most.
const GROUP_BATCHES_MAX: usize = 1_024;
/// The longest value that is written, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// The permissions of a store: what was answered and paid is for nobody else to read.
const FILE_MODE: u32 = 0o600;
/// The number of the format that [`encode`] writes.
const FORMAT: u8 = 1;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Channels on which this node is paid, by channel id.
    ProviderChannels,
    /// Channels from which this node pays, by channel id.
    PayerChannels,
    /// What earlier versions counted as spent, by day and token.
    Spent,
    /// What counts of each channel from which this node pays, by channel id.
    Outlays,
    /// One-off payments that this node signed, by their nonce.
    Authorized,
    /// One-off payments that were taken, by token and nonce.
    Transfers,
    /// Replies kept for requests that are asked again, sealed, by route and payment identifier.
    Replies,
    /// When each of them was kept: the time, then its key.
    ReplyTimes,
    /// Replies as earlier versions kept them, in clear. They are sealed or dropped, and the table with them.
    OldReplies,
    /// Claims that another device asked this one to watch, by channel id.
    Watched,
    /// From which block on the events of a chain are followed, by chain.
    IndexStart,
    /// Answers that were sold, by the answer's id, the channel, and a number of the provider's own.
    Sales,
    /// Answers that were asked for, by the answer's id and the number of the provider.
    Bought,
    /// What API keys have spent, by asset and key.
    KeysSpent,
    /// What this device knows of its household, under one key.
    Household,
    /// What sales came to whose receipts are gone, by model and token.
    SoldSums,
    /// What purchases came to whose receipts are gone, by model and token.
    BoughtSums,
    /// Whose channels are whose of those that ask the facilitator, by channel id.
    Facilitated,
}

impl Table {
    const ALL: [Self; 18] = [
        Self::ProviderChannels,
        Self::PayerChannels,
        Self::Spent,
        Self::Outlays,
        Self::Authorized,
        Self::Transfers,
        Self::Replies,
        Self::ReplyTimes,
        Self::OldReplies,
        Self::Watched,
        Self::IndexStart,
        Self::Sales,
        Self::Bought,
        Self::KeysSpent,
        Self::Household,
        Self::SoldSums,
        Self::BoughtSums,
        Self::Facilitated,
    ];

    const fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(match self {
            Self::ProviderChannels => "provider_channels",
            Self::PayerChannels => "payer_channels",
            Self::Spent => "spent",
            Self::Outlays => "outlays",
            Self::Authorized => "authorized",
            Self::Transfers => "transfers",
            Self::Replies => "sealed_replies",
            Self::ReplyTimes => "reply_times",
            Self::OldReplies => "replies",
            Self::Watched => "watched",
            Self::IndexStart => "index_start",
            Self::Sales => "sales",
            Self::Bought => "bought",
            Self::KeysSpent => "keys_spent",
            Self::Household => "household",
            Self::SoldSums => "sold_sums",
            Self::BoughtSums => "bought_sums",
            Self::Facilitated => "facilitated",
        })
    }
}

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

#[derive(Debug)]
struct Write {
    table: Table,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    /// Whether what is there already stays.
    is_new_only: bool,
}

/// Writes that become durable together or not at all.
#[derive(Debug, Default)]
pub struct Batch(Vec<Write>);

impl Batch {
    /// Puts a value.
    ///
    /// # Errors
    /// When the value is too long.
    pub fn put<T: Serialize>(
        &mut self,
        table: Table,
        key: &[u8],
        value: &T,
    ) -> Result<(), StoreError> {
        self.push(table, key, Some(encode(value)?), false);
        Ok(())
    }

    /// Puts a value where there is none; one that is there stays.
    ///
    /// # Errors
    /// When the value is too long.
    pub fn put_new<T: Serialize>(
        &mut self,
        table: Table,
        key: &[u8],
        value: &T,
    ) -> Result<(), StoreError> {
        self.push(table, key, Some(encode(value)?), true);
        Ok(())
    }

    fn push(&mut self, table: Table, key: &[u8], value: Option<Vec<u8>>, is_new_only: bool) {
        self.0.push(Write {
            table,
            key: key.to_vec(),
            value,
            is_new_only,
        });
    }

    /// Removes a value.
    pub fn remove(&mut self, table: Table, key: &[u8]) {
        self.push(table, key, None, false);
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

#[derive(Debug)]
struct Job {
    batch: Batch,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// A handle to the store. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    database: Arc<Database>,
    jobs: mpsc::Sender<Job>,
}

impl Store {
    /// Opens the store at `path`, or makes it.
    ///
    /// # Errors
    /// When the file is not a store, is in use, or cannot be written.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
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
        Self::with_database(database)
    }

    /// Takes an open database, of which this store becomes the main user.
    ///
    /// # Errors
    /// When the tables cannot be made.
    pub fn with_database(database: Database) -> Result<Self, OpenError> {
        prepare(&database).map_err(|error| OpenError::Prepare(Box::new(error)))?;
        let database = Arc::new(database);
        let (jobs, queue) = mpsc::channel(QUEUE_BATCHES_MAX);
        let writer = Arc::clone(&database);
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || write_all(&writer, queue))
            .map_err(OpenError::Thread)?;
        Ok(Self { database, jobs })
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
        let (done, wait) = oneshot::channel();
        self.jobs
            .send(Job { batch, done })
            .await
            .map_err(|_| StoreError::Stopped)?;
        wait.await.map_err(|_| StoreError::Stopped)?
    }

    /// Reads a value.
    ///
    /// # Errors
    /// When the disk fails, or the value is in another format.
    pub fn get<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<T>, StoreError> {
        let read = self.database.begin_read()?;
        let table = read.open_table(table.definition())?;
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
        table: Table,
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
        table: Table,
        end: &[u8],
        most: usize,
        mut visit: impl FnMut(&[u8], T),
    ) -> Result<(), StoreError> {
        let read = self.database.begin_read()?;
        let table = match read.open_table(table.definition()) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
            opened => opened?,
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
        Ok(View(self.database.begin_read()?))
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
        table: Table,
        mut visit: impl FnMut(&[u8], T),
    ) -> Result<(), StoreError> {
        let table = self.0.open_table(table.definition())?;
        for entry in table.iter()? {
            let (key, value) = entry?;
            visit(key.value(), decode(value.value())?);
        }
        Ok(())
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

fn prepare(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    for table in Table::ALL {
        // What is empty of it is gone, and is not made again.
        if table != Table::OldReplies {
            write.open_table(table.definition())?;
        }
    }
    write.commit()?;
    Ok(())
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
    let old = Table::OldReplies.definition();
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

/// Commits what waits, group by group, until every handle is gone or the disk fails.
fn write_all(database: &Database, mut queue: mpsc::Receiver<Job>) {
    let mut group = Vec::new();
    while queue.blocking_recv_many(&mut group, GROUP_BATCHES_MAX) > 0 {
        let outcome = write_group(database, &group);
        let failed = outcome.is_err();
        for job in group.drain(..) {
            // Whoever no longer waits has lost interest in the answer, not in the write.
            let _ = job.done.send(outcome.clone());
        }
        if failed {
            return;
        }
    }
}

fn write_group(database: &Database, group: &[Job]) -> Result<(), StoreError> {
    let write = database.begin_write()?;
    let writes = || group.iter().flat_map(|job| &job.batch.0);
    // Each table is opened once, because to open one costs more than to write a row.
    for table in Table::ALL {
        let mut rows = writes().filter(|row| row.table == table).peekable();
        if rows.peek().is_none() {
            continue;
        }
        let mut table = write.open_table(table.definition())?;
        for Write {
            key,
            value,
            is_new_only,
            ..
        } in rows
        {
            if *is_new_only && table.get(key.as_slice())?.is_some() {
                continue;
            }
            match value {
                Some(value) => table.insert(key.as_slice(), value.as_slice())?,
                None => table.remove(key.as_slice())?,
            };
        }
    }
    write.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_committed_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let store = Store::open(&path).unwrap();
        let mut batch = Batch::default();
        batch.put(Table::Replies, b"a", &"one".to_owned()).unwrap();
        batch.put(Table::Replies, b"b", &"two".to_owned()).unwrap();
        store.commit(batch).await.unwrap();
        let mut batch = Batch::default();
        batch.remove(Table::Replies, b"a");
        store.commit(batch).await.unwrap();
        drop(store);
        let store = reopen(&path).await;
        assert_eq!(store.get::<String>(Table::Replies, b"a").unwrap(), None);
        assert_eq!(
            store.get::<String>(Table::Replies, b"b").unwrap(),
            Some("two".to_owned())
        );
        let wrong = store.get::<u64>(Table::Transfers, b"b").unwrap();
        assert_eq!(wrong, None);
    }

    /// The writer thread lets go of the file when it sees that the last handle is gone.
    async fn reopen(path: &Path) -> Store {
        for _ in 0..1_000 {
            if let Ok(store) = Store::open(path) {
                return store;
            }
            tokio::task::yield_now().await;
            thread::yield_now();
        }
        panic!("the store stays locked");
    }

    #[test]
    fn a_file_that_was_never_finished_does_not_stand_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        std::fs::write(path.with_added_extension("new"), b"half a file").unwrap();
        Store::open(&path).unwrap();
        assert!(!path.with_added_extension("new").exists());
    }

    #[test]
    fn a_store_is_its_owners_alone_and_an_old_one_is_made_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        drop(Store::open(&path).unwrap());
        assert_eq!(mode(), 0o600);
        let other = folder.path().join("old.redb");
        drop(Database::create(&other).unwrap());
        std::fs::set_permissions(&other, Permissions::from_mode(0o664)).unwrap();
        drop(Store::open(&other).unwrap());
        let mode = std::fs::metadata(&other).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    #[tokio::test]
    async fn a_value_that_is_there_stays_where_only_new_ones_are_put() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store.redb")).unwrap();
        for number in 1..4_u64 {
            let mut batch = Batch::default();
            batch.put_new(Table::Facilitated, b"a", &number).unwrap();
            store.commit(batch).await.unwrap();
        }
        assert_eq!(store.get::<u64>(Table::Facilitated, b"a").unwrap(), Some(1));
    }

    #[tokio::test]
    async fn many_writers_share_commits_and_all_are_answered() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store.redb")).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..500_u64 {
            let store = store.clone();
            tasks.spawn(async move {
                let mut batch = Batch::default();
                batch
                    .put(Table::Transfers, &number.to_be_bytes(), &number)
                    .unwrap();
                store.commit(batch).await
            });
        }
        for outcome in tasks.join_all().await {
            outcome.unwrap();
        }
        let mut seen = Vec::new();
        store
            .each(Table::Transfers, |_, number: u64| seen.push(number))
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
