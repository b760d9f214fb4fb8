//! The durable memory of a sender: what was signed for which intent, and what came of it.
//!
//! An entry is written before its transaction is broadcast. After a kill at any moment the journal therefore holds
//! every transaction that can be in the chain, and the same intent submitted again leads to the same transaction.
//! Entries of finished intents stay until the caller says that it will not ask again ([`Journal::forget`]).
//!
//! Intents that were only queued are deliberately not written: a caller that wants them asks again after a restart.

use std::{fmt, sync::Arc};

use alloy_primitives::Address;
use hearth_protocol::id::ChainId;
use redb::{Database, ReadableDatabase, TableDefinition};
use serde::{Deserialize, Serialize};

use super::intent::{Attempt, IntentId, Receipt, TxIntent};

/// Key: chain id, account, name of the intent. Value: [`FORMAT`], then a postcard of [`JournalEntry`].
const ENTRIES: TableDefinition<'_, (u64, [u8; 20], &str), &[u8]> =
    TableDefinition::new("sender_journal");

/// First byte of every value, so that a later layout can be told apart.
const FORMAT: u8 = 1;

/// Whose journal: one account on one chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JournalKey {
    /// The chain.
    pub chain: ChainId,
    /// The account.
    pub account: Address,
}

/// What is known of one intent that was signed at least once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Its name.
    pub id: IntentId,
    /// What it is to do.
    pub intent: TxIntent,
    /// The nonce that all its attempts share.
    pub nonce: u64,
    /// The gas limit that all its attempts share.
    pub gas_limit: u64,
    /// What was signed, oldest first.
    pub attempts: Vec<Attempt>,
    /// Set once it is final.
    pub outcome: Option<Receipt>,
}

/// The journal could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The store failed.
    #[error("the sender's journal could not be read or written; check the disk")]
    Store(#[source] Box<redb::Error>),
    /// An entry does not decode.
    #[error(
        "the sender's journal has an entry for `{id}` that cannot be read; nothing is sent until it is restored from a \
         backup, because it may be of a transaction that is under way"
    )]
    Corrupt {
        /// The intent's name.
        id: String,
    },
}

impl<E: Into<redb::Error>> From<E> for JournalError {
    fn from(error: E) -> Self {
        Self::Store(Box::new(error.into()))
    }
}

/// Where a sender keeps its memory. Every write is durable when it returns.
pub trait Journal: fmt::Debug + Send + Sync + 'static {
    /// Everything of one account.
    ///
    /// # Errors
    /// See [`JournalError`].
    fn load(&self, key: JournalKey) -> Result<Vec<JournalEntry>, JournalError>;

    /// One intent.
    ///
    /// # Errors
    /// See [`JournalError`].
    fn find(&self, key: JournalKey, id: &IntentId) -> Result<Option<JournalEntry>, JournalError>;

    /// Writes or replaces one intent.
    ///
    /// # Errors
    /// See [`JournalError`].
    fn record(&self, key: JournalKey, entry: &JournalEntry) -> Result<(), JournalError>;

    /// Removes one intent.
    ///
    /// # Errors
    /// See [`JournalError`].
    fn forget(&self, key: JournalKey, id: &IntentId) -> Result<(), JournalError>;
}

/// A journal in a redb database, which may hold other tables too.
#[derive(Clone)]
pub struct RedbJournal {
    database: Arc<Database>,
}

impl fmt::Debug for RedbJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbJournal").finish_non_exhaustive()
    }
}

impl RedbJournal {
    /// A journal in `database`.
    ///
    /// # Errors
    /// [`JournalError::Store`] if its table cannot be made.
    pub fn new(database: Arc<Database>) -> Result<Self, JournalError> {
        let transaction = database.begin_write()?;
        transaction.open_table(ENTRIES)?;
        transaction.commit()?;
        Ok(Self { database })
    }
}

impl Journal for RedbJournal {
    fn load(&self, key: JournalKey) -> Result<Vec<JournalEntry>, JournalError> {
        let table = self.database.begin_read()?.open_table(ENTRIES)?;
        let account = key.account.into_array();
        let mut entries = Vec::new();
        for row in table.range((key.chain.0, account, "")..)? {
            let (place, value) = row?;
            let (chain_id, row_account, id) = place.value();
            if (chain_id, row_account) != (key.chain.0, account) {
                break;
            }
            entries.push(decode(id, value.value())?);
        }
        Ok(entries)
    }

    fn find(&self, key: JournalKey, id: &IntentId) -> Result<Option<JournalEntry>, JournalError> {
        let table = self.database.begin_read()?.open_table(ENTRIES)?;
        let value = table.get((key.chain.0, key.account.into_array(), id.as_str()))?;
        value
            .map(|value| decode(id.as_str(), value.value()))
            .transpose()
    }

    fn record(&self, key: JournalKey, entry: &JournalEntry) -> Result<(), JournalError> {
        let value =
            postcard::to_extend(entry, vec![FORMAT]).expect("a journal entry always serialises");
        let transaction = self.database.begin_write()?;
        transaction.open_table(ENTRIES)?.insert(
            (key.chain.0, key.account.into_array(), entry.id.as_str()),
            value.as_slice(),
        )?;
        transaction.commit()?;
        Ok(())
    }

    fn forget(&self, key: JournalKey, id: &IntentId) -> Result<(), JournalError> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(ENTRIES)?.remove((
            key.chain.0,
            key.account.into_array(),
            id.as_str(),
        ))?;
        transaction.commit()?;
        Ok(())
    }
}

fn decode(id: &str, value: &[u8]) -> Result<JournalEntry, JournalError> {
    let corrupt = || JournalError::Corrupt { id: id.to_owned() };
    let (&format, bytes) = value.split_first().ok_or_else(corrupt)?;
    if format != FORMAT {
        return Err(corrupt());
    }
    postcard::from_bytes(bytes).map_err(|_| corrupt())
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{B256, Bytes, U256};
    use redb::Builder;

    use super::*;
    use crate::{
        fault::{FaultyBackend, Unsynced},
        sender::fees::Fees,
    };

    const KEY: JournalKey = JournalKey {
        chain: ChainId(1),
        account: Address::repeat_byte(1),
    };

    fn entry(name: &str, attempts: u8, done: bool) -> JournalEntry {
        let fees = Fees {
            max_fee_per_gas: 9,
            max_priority_fee_per_gas: 1,
        };
        let attempt = |n| Attempt {
            hash: B256::repeat_byte(n),
            raw: Bytes::from(vec![n; 100]),
            fees,
        };
        let receipt = Receipt {
            transaction_hash: B256::repeat_byte(0),
            block_number: 7,
            block_hash: B256::repeat_byte(8),
            success: true,
            gas_used: 21_000,
            effective_gas_price: 3,
        };
        JournalEntry {
            id: IntentId::new(name).unwrap(),
            intent: TxIntent {
                to: Address::repeat_byte(2),
                data: Bytes::from_static(b"data"),
                value: U256::from(5),
                gas_cap: 100,
                deadline_ms: 1_000,
            },
            nonce: 4,
            gas_limit: 60,
            attempts: (0..attempts).map(attempt).collect(),
            outcome: done.then_some(receipt),
        }
    }

    fn journal(backend: FaultyBackend) -> Result<RedbJournal, JournalError> {
        RedbJournal::new(Arc::new(Builder::new().create_with_backend(backend)?))
    }

    #[test]
    fn accounts_and_chains_do_not_see_each_other() {
        let journal = journal(FaultyBackend::new()).unwrap();
        journal.record(KEY, &entry("a", 1, false)).unwrap();
        for other in [
            JournalKey {
                chain: ChainId(2),
                ..KEY
            },
            JournalKey {
                account: Address::repeat_byte(3),
                ..KEY
            },
            JournalKey {
                account: Address::ZERO,
                ..KEY
            },
        ] {
            assert_eq!(journal.load(other).unwrap(), []);
            assert_eq!(
                journal.find(other, &IntentId::new("a").unwrap()).unwrap(),
                None
            );
        }
        assert_eq!(journal.load(KEY).unwrap(), [entry("a", 1, false)]);
        journal.forget(KEY, &IntentId::new("a").unwrap()).unwrap();
        assert_eq!(journal.load(KEY).unwrap(), []);
    }

    #[test]
    fn an_entry_that_cannot_be_read_stops_the_sender() {
        let journal = journal(FaultyBackend::new()).unwrap();
        for value in [
            &[][..],
            &[FORMAT][..],
            &[99, 1, 2][..],
            &[FORMAT, 1, b'a', 0xff][..],
        ] {
            let transaction = journal.database.begin_write().unwrap();
            let place = (KEY.chain.0, KEY.account.into_array(), "a");
            transaction
                .open_table(ENTRIES)
                .unwrap()
                .insert(place, value)
                .unwrap();
            transaction.commit().unwrap();
            assert!(
                matches!(journal.load(KEY), Err(JournalError::Corrupt { id }) if id == "a"),
                "{value:?}"
            );
        }
    }

    /// Writes in a fixed order; each is acknowledged to the list given.
    fn write_all(
        backend: FaultyBackend,
        acknowledged: &mut Vec<JournalEntry>,
    ) -> Result<(), JournalError> {
        let journal = journal(backend)?;
        for (attempts, done) in [(1, false), (2, false), (3, false), (3, true)] {
            let entry = entry("claim-1", attempts, done);
            journal.record(KEY, &entry)?;
            acknowledged.push(entry);
        }
        Ok(())
    }

    #[test]
    fn what_was_acknowledged_survives_a_stop_at_every_write() {
        let unharmed = FaultyBackend::new();
        write_all(unharmed.clone(), &mut Vec::new()).unwrap();
        let total = unharmed.operations();
        for stop in 1..=total {
            let backend = FaultyBackend::stopping_at(stop);
            let mut acknowledged = Vec::new();
            let finished = write_all(backend.clone(), &mut acknowledged).is_ok();
            for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn(stop)] {
                let survivor = backend.survivor(unsynced);
                if acknowledged.is_empty() {
                    continue;
                }
                let found = journal(survivor).unwrap().load(KEY).unwrap();
                let newest = acknowledged.last().unwrap();
                let context = format!("stop {stop} of {total}, {unsynced:?}, finished {finished}");
                assert_eq!(found.len(), 1, "{context}");
                // The write that was cut off may have arrived, or not; nothing older may come back.
                assert!(
                    found[0].attempts.len() >= newest.attempts.len(),
                    "{context}"
                );
                assert!(
                    newest.outcome.is_none() || found[0].outcome.is_some(),
                    "{context}"
                );
            }
        }
    }
}
