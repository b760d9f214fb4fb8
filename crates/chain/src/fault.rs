//! A redb storage backend that loses power on purpose.
//!
//! Crash safety is a promise about what survives when a process is killed between two writes. This
//! backend keeps two images of the file: what has been written, and what has been synced. At the
//! n-th operation (a write, a change of length or a sync) it stops the world: that operation and all
//! later ones fail, as they would for a process that is gone. [`FaultyBackend::survivor`] then gives
//! the file that the next process would find, with the unsynced writes lost, kept, or torn.
//!
//! It deliberately does not model a disk that lies about a sync, nor bits that rot; redb's
//! checksums are tested by redb itself. It exists for tests only (feature `fault`).

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::StorageBackend;

/// The largest image a test may grow, in bytes; beyond it a write fails instead of eating memory.
pub const MAX_IMAGE_BYTES: u64 = 1 << 30;

/// What the disk kept of the writes that were never synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// None of them: the cache was lost.
    Lost,
    /// All of them: the process died but the machine went on.
    Kept,
    /// Each was kept or lost, drawn from this seed: power failed while the cache was being emptied.
    Torn(u64),
}

/// One operation that has not been synced yet.
#[derive(Clone, Debug)]
enum Pending {
    Write { offset: u64, data: Vec<u8> },
    Length(u64),
}

#[derive(Debug, Default)]
struct Image {
    synced: Vec<u8>,
    written: Vec<u8>,
    pending: Vec<Pending>,
}

/// What stops all files of a machine at once.
#[derive(Debug, Default)]
struct Power {
    operations: u64,
    stop_at: Option<u64>,
}

/// An in-memory file that stops working at a chosen operation. Clones share the same file, so that a
/// test keeps a handle while redb owns another.
#[derive(Clone, Debug, Default)]
pub struct FaultyBackend {
    image: Arc<Mutex<Image>>,
    power: Arc<Mutex<Power>>,
}

impl FaultyBackend {
    /// An empty file that never fails.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty file whose `operation`-th write, change of length or sync (counted from 1) fails, and
    /// every one after it.
    #[must_use]
    pub fn stopping_at(operation: u64) -> Self {
        let backend = Self::default();
        backend.stop_at(operation);
        backend
    }

    /// An empty file of the same machine: operations on both are counted together, and both stop at once.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self {
            image: Arc::default(),
            power: Arc::clone(&self.power),
        }
    }

    /// Makes the `operation`-th operation (counted from the backend's start) fail, and all later ones.
    pub fn stop_at(&self, operation: u64) {
        lock(&self.power).stop_at = Some(operation);
    }

    /// How many writes, changes of length and syncs were asked for so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        lock(&self.power).operations
    }

    /// Whether the chosen operation has been reached.
    #[must_use]
    pub fn stopped(&self) -> bool {
        let power = lock(&self.power);
        power
            .stop_at
            .is_some_and(|stop_at| power.operations >= stop_at)
    }

    /// The file that a process started after the crash finds: a new backend that does not fail.
    #[must_use]
    pub fn survivor(&self, unsynced: Unsynced) -> Self {
        let image = lock(&self.image);
        let mut bytes = image.synced.clone();
        let mut state = match unsynced {
            Unsynced::Torn(seed) => seed,
            Unsynced::Lost | Unsynced::Kept => 0,
        };
        for pending in &image.pending {
            let keep = match unsynced {
                Unsynced::Lost => false,
                Unsynced::Kept => true,
                Unsynced::Torn(_) => draw_bit(&mut state),
            };
            if keep {
                apply(&mut bytes, pending);
            }
        }
        let survivor = Image {
            synced: bytes.clone(),
            written: bytes,
            pending: Vec::new(),
        };
        Self {
            image: Arc::new(Mutex::new(survivor)),
            power: Arc::default(),
        }
    }

    /// The same for a file of the machine that `survivor` is on by now.
    #[must_use]
    pub fn survivor_beside(&self, survivor: &Self, unsynced: Unsynced) -> Self {
        Self {
            power: Arc::clone(&survivor.power),
            ..self.survivor(unsynced)
        }
    }

    /// Counts one operation and fails once the chosen one is reached.
    fn begin(&self) -> io::Result<MutexGuard<'_, Image>> {
        let mut power = lock(&self.power);
        power.operations += 1;
        if power
            .stop_at
            .is_some_and(|stop_at| power.operations >= stop_at)
        {
            return Err(io::Error::other("the process was stopped here by the test"));
        }
        drop(power);
        Ok(lock(&self.image))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked elsewhere must still be able to read what survived.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Applies one operation to an image; a write that was kept while its change of length was lost grows
/// the file, as a disk would.
fn apply(bytes: &mut Vec<u8>, pending: &Pending) {
    match pending {
        Pending::Length(len) => bytes.resize(to_index(*len), 0),
        Pending::Write { offset, data } => {
            let start = to_index(*offset);
            let end = start + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(data);
        }
    }
}

/// The next bit of a SplitMix64 sequence (Steele, Lea and Flood, 2014): seeded, so that a failing
/// case can be run again.
fn draw_bit(state: &mut u64) -> bool {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) & 1 == 1
}

fn to_index(offset: u64) -> usize {
    usize::try_from(offset)
        .expect("offsets are checked against MAX_IMAGE_BYTES, which fits in usize")
}

fn check_bound(end: u64) -> io::Result<()> {
    if end > MAX_IMAGE_BYTES {
        return Err(io::Error::other(
            "the test file grew beyond MAX_IMAGE_BYTES",
        ));
    }
    Ok(())
}

impl StorageBackend for FaultyBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.image).written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(out.len() as u64);
        check_bound(end)?;
        let image = lock(&self.image);
        let bytes = image
            .written
            .get(to_index(offset)..to_index(end))
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        check_bound(len)?;
        let mut image = self.begin()?;
        let pending = Pending::Length(len);
        apply(&mut image.written, &pending);
        image.pending.push(pending);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.begin()?;
        image.synced = image.written.clone();
        image.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        check_bound(offset.saturating_add(data.len() as u64))?;
        let mut image = self.begin()?;
        let pending = Pending::Write {
            offset,
            data: data.to_vec(),
        };
        apply(&mut image.written, &pending);
        image.pending.push(pending);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use redb::{Builder, Database, ReadableDatabase, TableDefinition};

    use super::*;

    const NUMBERS: TableDefinition<'_, u64, u64> = TableDefinition::new("numbers");

    fn write_numbers(database: &Database, count: u64) -> Result<(), redb::Error> {
        for number in 0..count {
            let transaction = database.begin_write()?;
            transaction.open_table(NUMBERS)?.insert(number, number)?;
            transaction.commit()?;
        }
        Ok(())
    }

    #[test]
    fn unsynced_writes_are_lost_kept_or_torn() {
        let backend = FaultyBackend::new();
        backend.set_len(4).unwrap();
        backend.write(0, b"old!").unwrap();
        backend.sync_data().unwrap();
        backend.write(0, b"new!").unwrap();

        let read = |backend: &FaultyBackend| {
            let mut out = [0; 4];
            backend.read(0, &mut out).unwrap();
            out
        };
        assert_eq!(&read(&backend), b"new!");
        assert_eq!(&read(&backend.survivor(Unsynced::Lost)), b"old!");
        assert_eq!(&read(&backend.survivor(Unsynced::Kept)), b"new!");
        let torn: std::collections::BTreeSet<_> = (0..16)
            .map(|seed| read(&backend.survivor(Unsynced::Torn(seed))))
            .collect();
        assert_eq!(torn.len(), 2, "sixteen seeds must show both outcomes");
    }

    #[test]
    fn files_of_one_machine_stop_together_and_what_each_synced_survives() {
        let first = FaultyBackend::new();
        let second = first.beside();
        first.write(0, b"one").unwrap();
        first.sync_data().unwrap();
        second.write(0, b"two").unwrap();
        first.stop_at(4);
        assert!(second.sync_data().is_err() && first.write(0, b"!").is_err());
        let revived = first.survivor(Unsynced::Lost);
        let beside = second.survivor_beside(&revived, Unsynced::Lost);
        assert_eq!((revived.len().unwrap(), beside.len().unwrap()), (3, 0));
        revived.stop_at(1);
        assert!(beside.write(0, b"two").is_err());
    }

    #[test]
    fn every_stop_leaves_a_database_with_a_prefix_of_the_commits() {
        const COMMITS: u64 = 4;
        let unharmed = FaultyBackend::new();
        let database = Builder::new()
            .create_with_backend(unharmed.clone())
            .unwrap();
        let first = unharmed.operations();
        write_numbers(&database, COMMITS).unwrap();
        let last = unharmed.operations();
        drop(database);
        assert!(last > first + COMMITS, "every commit writes and syncs");

        for stop in first + 1..=last {
            let backend = FaultyBackend::stopping_at(stop);
            let database = Builder::new().create_with_backend(backend.clone()).unwrap();
            assert!(
                write_numbers(&database, COMMITS).is_err(),
                "operation {stop} must fail"
            );
            assert!(backend.stopped());
            drop(database);
            for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn(stop)] {
                let database = Builder::new()
                    .create_with_backend(backend.survivor(unsynced))
                    .unwrap();
                let transaction = database.begin_read().unwrap();
                let Ok(table) = transaction.open_table(NUMBERS) else {
                    continue;
                };
                let numbers: Vec<u64> = table
                    .range(0..)
                    .unwrap()
                    .map(|row| row.unwrap().0.value())
                    .collect();
                let expected: Vec<u64> = (0..numbers.len() as u64).collect();
                assert_eq!(numbers, expected, "stop {stop}, {unsynced:?}");
            }
        }
    }
}
