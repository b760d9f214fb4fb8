//! The store and its journal on a machine that stops at every write, in turn.

use std::collections::BTreeMap;

use hearth_chain::fault::{FaultyBackend, Unsynced};
use hearth_environment::SystemEnvironment;
use redb::{Database, StorageBackend};

use super::*;

const VALUES: Table<Vec<u8>> = Table::new("values");
const FIRST: Table<u64> = Table::new("first");
const LAST: Table<u64> = Table::new("last");
/// Each commit's value: a dozen fill both halves of a journal.
const VALUE_BYTES: usize = 200_000;
const COMMITS: u64 = 14;
/// The commit whose value no record can hold.
const STRAIGHT: u64 = 5;

/// The two files of a store.
struct Disk {
    database: FaultyBackend,
    journal: FaultyBackend,
}

impl Disk {
    /// A machine on which the database has been made, as the store makes it: whole or not at all.
    fn new() -> Self {
        let database = FaultyBackend::new();
        drop(
            Database::builder()
                .create_with_backend(database.clone())
                .unwrap(),
        );
        let journal = database.beside();
        Self { database, journal }
    }

    fn open(&self) -> Option<Store> {
        let database = Database::builder().create_with_backend(self.database.clone());
        Store::with_journal(database.ok()?, self.journal.clone(), &SystemEnvironment).ok()
    }

    fn survivor(&self, unsynced: Unsynced) -> Self {
        let database = self.database.survivor(unsynced);
        let journal = self.journal.survivor_beside(&database, unsynced);
        Self { database, journal }
    }
}

fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// One commit: a value comes, an older one goes, and one stays as the first put it.
fn batch(number: u64) -> Batch {
    let length = if number == STRAIGHT {
        VALUE_BYTES_MAX - 16
    } else {
        VALUE_BYTES
    };
    let mut batch = Batch::default();
    let value = vec![u8::try_from(number).unwrap(); length];
    batch.put(VALUES, &key(number), &value).unwrap();
    if let Some(older) = number.checked_sub(2) {
        batch.remove(VALUES, &key(older));
    }
    batch.put_new(FIRST, b"first", &number).unwrap();
    batch.put(LAST, b"last", &number).unwrap();
    batch
}

/// Commits until the machine stops. Returns how many commits were answered.
fn write(store: &Store, runtime: &tokio::runtime::Runtime) -> u64 {
    for number in 0..COMMITS {
        if runtime.block_on(store.commit(batch(number))).is_err() {
            return number;
        }
    }
    COMMITS
}

/// How many commits the store has: what it holds must be exactly what they leave.
fn commits_in(store: &Store) -> u64 {
    let last: Option<u64> = store.get(LAST, b"last").unwrap();
    let commits = last.map_or(0, |last| last + 1);
    let mut found = BTreeMap::new();
    store
        .each(VALUES, |key, value: Vec<u8>| {
            found.insert(key.to_vec(), value[0]);
        })
        .unwrap();
    let kept = commits.saturating_sub(2)..commits;
    let expected = kept.map(|number| (key(number).to_vec(), u8::try_from(number).unwrap()));
    assert_eq!(found, expected.collect());
    let first = store.get(FIRST, b"first").unwrap();
    assert_eq!(first, last.map(|_| 0));
    commits
}

#[test]
fn what_was_answered_survives_a_stop_at_any_write() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut stops = 0;
    // Opening and the first commits write by write, what repeats in steps that meet each part of it.
    for stop in (1..40).chain((40..).step_by(17)) {
        let disk = Disk::new();
        disk.database.stop_at(disk.database.operations() + stop);
        let answered = disk.open().map_or(0, |store| write(&store, &runtime));
        if !disk.database.stopped() {
            assert_eq!(answered, COMMITS);
            break;
        }
        stops += 1;
        for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn(stop)] {
            let context = format!("stop {stop}, {unsynced:?}, {answered} answered");
            let store = disk.survivor(unsynced).open().expect(&context);
            let commits = commits_in(&store);
            assert!(
                (answered..=answered + 1).contains(&commits),
                "{context}: {commits} are there"
            );
            // It goes on, and everything is there once more after it was closed.
            runtime.block_on(store.commit(batch(commits))).unwrap();
            assert_eq!(commits_in(&store), commits + 1, "{context}");
        }
    }
    assert!(stops > 40, "only {stops} writes: make the script longer");
}

#[test]
fn a_journal_is_taken_by_its_own_store_alone() {
    let refused = |database: &FaultyBackend, journal: &FaultyBackend| {
        let database = Database::builder()
            .create_with_backend(database.clone())
            .unwrap();
        match Store::with_journal(database, journal.clone(), &SystemEnvironment) {
            Err(OpenError::Journal { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let (disk, other) = (Disk::new(), Disk::new());
    let store = disk.open().unwrap();
    drop(other.open().unwrap());
    let young = disk.database.survivor(Unsynced::Lost);
    assert_eq!(write(&store, &runtime), COMMITS);
    let old = disk.survivor(Unsynced::Lost);
    drop(store);
    let journal = &old.journal;
    let elsewhere = refused(&other.database.survivor(Unsynced::Kept), journal);
    assert!(matches!(elsewhere, JournalError::OtherStore));
    // Both halves were written over since this copy was made: what lies between is nowhere.
    let gap = refused(&young, journal);
    assert!(matches!(gap, JournalError::Gap));
    for error in [elsewhere, gap] {
        assert!(error.to_string().contains("move the journal away"));
    }
    old.journal.write(0, b"something else..").unwrap();
    let format = refused(&old.database, &old.journal);
    assert!(matches!(format, JournalError::Format));
}

#[tokio::test]
async fn whoever_reads_sees_everything_that_was_answered() {
    let store = Disk::new().open().unwrap();
    for number in 0..200_u64 {
        let mut batch = Batch::default();
        batch.put(LAST, b"last", &number).unwrap();
        store.commit(batch).await.unwrap();
        assert_eq!(store.get(LAST, b"last").unwrap(), Some(number));
    }
}

#[test]
fn a_lone_writer_is_answered_on_its_own_thread_and_in_its_turn() {
    let store = Disk::new().open().unwrap();
    let (say, heard) = std::sync::mpsc::channel();
    for number in 0..3_u64 {
        let mut batch = Batch::default();
        if number < 2 {
            batch.put(LAST, b"last", &number).unwrap();
        }
        let say = say.clone();
        let done = move |outcome: Result<(), StoreError>| {
            say.send((number, outcome.is_ok(), std::thread::current().id()))
                .unwrap();
        };
        assert!(store.submit(batch, Box::new(done)).is_ok());
    }
    assert!(
        heard.try_recv().is_err(),
        "nothing happens before it is told to"
    );
    store.write_here();
    let here = std::thread::current().id();
    let answers: Vec<_> = heard.try_iter().collect();
    assert_eq!(answers, [0, 1, 2].map(|number| (number, true, here)));
    assert_eq!(store.get(LAST, b"last").unwrap(), Some(1_u64));
}
