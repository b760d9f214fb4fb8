//! The store's journal: what was promised since the database was last synced.
//!
//! To sync a database costs several writes and the work to find free pages for them. To sync a journal costs one
//! write of the bytes that are new, into blocks that the file has already. So a commit is durable as soon as its record
//! is synced here; the database takes the rows after that, and is synced once for thousands of them.
//!
//! The file has a head, which names the store that it belongs to, and two halves. Records fill one half while the rows
//! of the other become durable in the database; a half is written over only after that. A record has the next number,
//! so what an earlier round left behind a half's newest record is never taken for its successor.
//!
//! Layout: 16 bytes [`MAGIC`], 16 bytes of the store's id, zeros up to [`HEAD_BYTES`]; then the halves. A record is the
//! length of its body (u32), its number (u64), the first 16 bytes of the BLAKE3 hash of number and body, and the body:
//! a postcard of its rows. Numbers are little-endian.

use std::io;

use redb::StorageBackend;
use thiserror::Error;

use super::Row;

/// What a journal begins with.
const MAGIC: [u8; 16] = *b"hearth journal 1";
/// The head has a block of its own, so that no record is in the block that it is in.
const HEAD_BYTES: u64 = 4_096;
/// The length of a half.
const HALF_BYTES: u64 = 1 << 20;
/// Length, number and hash, in front of a body.
const PREFIX_BYTES: usize = 4 + 8 + HASH_BYTES;
const HASH_BYTES: usize = 16;
/// The longest body of a record.
pub(super) const BODY_BYTES_MAX: usize = HALF_BYTES as usize - PREFIX_BYTES;

/// Which store a journal belongs to.
pub(super) type StoreId = [u8; 16];

/// Why a journal cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The disk, or the file on it.
    #[error("it cannot be read or written")]
    Io(#[from] io::Error),
    /// It is not a journal.
    #[error("it is not a journal that this version of Hearth can read")]
    Format,
    /// It is another store's.
    #[error(
        "it belongs to another store; restore the store and its journal from the same copy, or move the journal away to \
         go on with what the store has"
    )]
    OtherStore,
    /// Between what the database has and what the journal has, something is missing.
    #[error(
        "the store is older than its journal; restore both from the same copy, or move the journal away to go on with \
         what the store has"
    )]
    Gap,
}

/// Rows that became durable together.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) rows: Vec<Row>,
}

/// An open journal, all of whose records are durable in the database.
#[derive(Debug)]
pub(super) struct Journal {
    file: Box<dyn StorageBackend>,
    half: Half,
    /// Where in the half the next record goes.
    offset: u64,
    /// The last number in each half, as far as this run wrote it.
    last_numbers: [u64; 2],
    buffer: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    First,
    Second,
}

impl Half {
    const ALL: [Self; 2] = [Self::First, Self::Second];

    fn start(self) -> u64 {
        HEAD_BYTES + self as u64 * HALF_BYTES
    }

    fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// Whether a record fits where the journal stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It does.
    Here,
    /// Only in the other half, once all up to this number are durable in the database.
    OtherHalf {
        /// The last number in the other half.
        after: u64,
    },
}

impl Journal {
    /// Opens the journal of the store `id`, which has everything up to the number `applied`. Returns what the store
    /// lacks: it must be durable in the database before the first [`Journal::append`].
    ///
    /// # Errors
    /// See [`JournalError`].
    pub(super) fn open(
        file: Box<dyn StorageBackend>,
        id: StoreId,
        applied: u64,
    ) -> Result<(Self, Vec<Record>), JournalError> {
        let missing = if is_new(file.as_ref())? {
            make(file.as_ref(), id)?;
            Vec::new()
        } else {
            read_missing(file.as_ref(), id, applied)?
        };
        let journal = Self {
            file,
            half: Half::First,
            offset: 0,
            last_numbers: [0; 2],
            buffer: Vec::new(),
        };
        Ok((journal, missing))
    }

    /// Makes a record of `rows`, and says where it fits; nothing if it is too long for any place.
    ///
    /// # Errors
    /// When the rows cannot be encoded.
    pub(super) fn prepare(
        &mut self,
        number: u64,
        rows: &[Row],
    ) -> Result<Option<Place>, postcard::Error> {
        self.buffer.clear();
        self.buffer.resize(PREFIX_BYTES, 0);
        self.buffer = postcard::to_extend(rows, std::mem::take(&mut self.buffer))?;
        let (prefix, body) = self.buffer.split_at_mut(PREFIX_BYTES);
        let Ok(length) = u32::try_from(body.len()) else {
            return Ok(None);
        };
        if body.len() > BODY_BYTES_MAX {
            return Ok(None);
        }
        prefix[..4].copy_from_slice(&length.to_le_bytes());
        prefix[4..12].copy_from_slice(&number.to_le_bytes());
        prefix[12..].copy_from_slice(&hash(number, body));
        let end = self.offset + self.buffer.len() as u64;
        Ok(Some(if end <= HALF_BYTES {
            Place::Here
        } else {
            let after = self.last_numbers[self.half.other() as usize];
            Place::OtherHalf { after }
        }))
    }

    /// Goes over to the other half, whose records are all durable in the database.
    pub(super) fn turn_over(&mut self) {
        self.half = self.half.other();
        self.offset = 0;
    }

    /// Writes the record that was prepared. When this returns, it survives a power cut.
    ///
    /// # Errors
    /// When the disk fails: then nobody knows whether the record is there.
    pub(super) fn append(&mut self, number: u64) -> io::Result<()> {
        self.file
            .write(self.half.start() + self.offset, &self.buffer)?;
        self.file.sync_data()?;
        self.offset += self.buffer.len() as u64;
        self.last_numbers[self.half as usize] = number;
        // One long record must not keep its memory for ever.
        self.buffer.shrink_to(1 << 16);
        Ok(())
    }
}

fn hash(number: u64, body: &[u8]) -> [u8; HASH_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes()).update(body);
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..HASH_BYTES]);
    hash
}

/// Whether nothing was ever promised on this file: its head is written last.
fn is_new(file: &dyn StorageBackend) -> io::Result<bool> {
    if file.len()? < Half::Second.start() + HALF_BYTES {
        return Ok(true);
    }
    let mut head = [0; MAGIC.len()];
    file.read(0, &mut head)?;
    Ok(head == [0; MAGIC.len()])
}

fn make(file: &dyn StorageBackend, id: StoreId) -> io::Result<()> {
    file.set_len(0)?;
    file.set_len(Half::Second.start() + HALF_BYTES)?;
    // Blocks that were never written would have to be found by each sync.
    let zeros = vec![0; 1 << 18];
    for half in Half::ALL {
        for offset in (0..HALF_BYTES).step_by(zeros.len()) {
            file.write(half.start() + offset, &zeros)?;
        }
    }
    file.sync_data()?;
    file.write(0, &[MAGIC, id].concat())?;
    file.sync_data()
}

fn read_missing(
    file: &dyn StorageBackend,
    id: StoreId,
    applied: u64,
) -> Result<Vec<Record>, JournalError> {
    let mut head = [0; MAGIC.len() + size_of::<StoreId>()];
    file.read(0, &mut head)?;
    let (magic, found) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(JournalError::Format);
    }
    if found != id {
        return Err(JournalError::OtherStore);
    }
    let mut missing = Vec::new();
    for half in Half::ALL {
        let mut bytes = vec![0; HALF_BYTES as usize];
        file.read(half.start(), &mut bytes)?;
        for (number, body) in records(&bytes) {
            if number > applied {
                let rows = postcard::from_bytes(body).map_err(|_| JournalError::Format)?;
                missing.push(Record { number, rows });
            }
        }
    }
    missing.sort_by_key(|record| record.number);
    let mut expected = applied;
    for record in &missing {
        expected += 1;
        if record.number != expected {
            return Err(JournalError::Gap);
        }
    }
    Ok(missing)
}

/// The records of a half, oldest first: those that are whole and follow one another.
fn records(mut bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut previous: Option<u64> = None;
    std::iter::from_fn(move || {
        let (prefix, rest) = bytes.split_at_checked(PREFIX_BYTES)?;
        let length = u32::from_le_bytes(prefix[..4].try_into().ok()?);
        let number = u64::from_le_bytes(prefix[4..12].try_into().ok()?);
        let (body, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        let follows = previous.is_none_or(|previous| previous.checked_add(1) == Some(number));
        if !follows || prefix[12..] != hash(number, body) {
            return None;
        }
        previous = Some(number);
        bytes = rest;
        Some((number, body))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;

    use super::*;

    const ID: StoreId = [7; 16];

    fn row(byte: u8, length: usize) -> Row {
        Row {
            table: "watched".into(),
            key: vec![byte],
            value: Some(vec![byte; length]),
            is_new_only: false,
        }
    }

    /// The first half of a journal with a record for each length.
    fn half(lengths: &[usize]) -> Vec<u8> {
        let (mut journal, missing) =
            Journal::open(Box::new(InMemoryBackend::new()), ID, 10).unwrap();
        assert!(missing.is_empty());
        for (number, length) in (11..).zip(lengths) {
            let rows = [row(number as u8, *length)];
            assert_eq!(journal.prepare(number, &rows).unwrap(), Some(Place::Here));
            journal.append(number).unwrap();
        }
        let mut bytes = vec![0; HALF_BYTES as usize];
        journal.file.read(Half::First.start(), &mut bytes).unwrap();
        bytes
    }

    fn numbers(bytes: &[u8]) -> Vec<u64> {
        records(bytes).map(|(number, _)| number).collect()
    }

    proptest! {
        /// Whatever a disk makes of a half, what is read of it was written, in order, from the start.
        #[test]
        fn damage_ends_the_records_and_changes_none(
            lengths in prop::collection::vec(0_usize..300, 1..12),
            at in any::<prop::sample::Index>(),
            bits in 1_u8..,
        ) {
            let bytes = half(&lengths);
            let whole: Vec<_> = records(&bytes).map(|(number, body)| (number, body.to_vec())).collect();
            prop_assert_eq!(whole.len(), lengths.len());
            let used = lengths.len() * PREFIX_BYTES + whole.iter().map(|(_, body)| body.len()).sum::<usize>();
            let mut damaged = bytes.clone();
            damaged[at.index(used)] ^= bits;
            let found: Vec<_> = records(&damaged).map(|(number, body)| (number, body.to_vec())).collect();
            prop_assert!(found.len() < whole.len());
            prop_assert_eq!(&found[..], &whole[..found.len()]);
        }

        #[test]
        fn any_bytes_are_read_within_their_bounds(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(numbers(&bytes).is_empty());
        }
    }

    #[test]
    fn what_an_earlier_round_left_is_nobodys_successor() {
        let mut bytes = half(&[40, 40, 40]);
        let length = PREFIX_BYTES + records(&bytes).next().unwrap().1.len();
        let earlier = bytes[..length].to_vec();
        // Number 11 again, behind number 13.
        bytes[3 * length..4 * length].copy_from_slice(&earlier);
        assert_eq!(numbers(&bytes), [11, 12, 13]);
    }

    #[test]
    fn a_record_that_no_half_can_hold_is_not_prepared() {
        let (mut journal, _) = Journal::open(Box::new(InMemoryBackend::new()), ID, 0).unwrap();
        let place = journal.prepare(1, &[row(1, BODY_BYTES_MAX)]).unwrap();
        assert_eq!(place, None);
        let fits = journal.prepare(1, &[row(1, BODY_BYTES_MAX - 64)]).unwrap();
        assert_eq!(fits, Some(Place::Here));
        journal.append(1).unwrap();
        let next = journal.prepare(2, &[row(1, 100)]).unwrap();
        assert_eq!(next, Some(Place::OtherHalf { after: 0 }));
    }
}
