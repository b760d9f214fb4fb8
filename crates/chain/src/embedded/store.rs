//! Blocks, transactions, receipts, logs and state in one redb file.
//!
//! One block is one durable redb transaction, so a crash at any write leaves the chain before the block or
//! after it. State rows carry the number of the block that wrote them, so reading an old block is the
//! same lookup as reading the newest, nothing is copied, and opening reads only the last header however
//! long the chain is (spec: 05 embedded chain, section 7). It deliberately never prunes.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use alloy_consensus::{Header, Sealed};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, map::B256HashMap};
use alloy_rlp::{Decodable, Encodable};
use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};
use revm::bytecode::Bytecode;
use revm::database_interface::{DBErrorMarker, DatabaseRef};
use revm::state::AccountInfo;

use super::block::{ACCOUNT_BYTES, AccountState, ExecutedBlock, MinedTransaction, StateChanges};
use super::limits::{MAX_CACHED_CODES, MAX_POOL_TRANSACTIONS};

/// Version of the tables below; a store of another version is refused, not guessed at.
const FORMAT: u64 = 1;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const HEADERS: TableDefinition<u64, &[u8]> = TableDefinition::new("headers");
const BLOCK_NUMBERS: TableDefinition<&[u8; 32], u64> = TableDefinition::new("block_numbers");
const TRANSACTIONS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("transactions");
const LOCATIONS: TableDefinition<&[u8; 32], (u64, u64)> = TableDefinition::new("locations");
/// Which blocks hold a log of an address: what makes a log query of one contract independent of the range.
const LOG_BLOCKS: TableDefinition<(&[u8; 20], u64), ()> = TableDefinition::new("log_blocks");
const ACCOUNTS: TableDefinition<(&[u8; 20], u64), &[u8; ACCOUNT_BYTES]> =
    TableDefinition::new("accounts");
const STORAGE: TableDefinition<(&[u8; 52], u64), &[u8; 32]> = TableDefinition::new("storage");
const CODE: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("code");
/// Accepted transactions that no block holds yet, by order of arrival.
const POOL: TableDefinition<u64, &[u8]> = TableDefinition::new("pool");

/// Why the store could not be read or written. None of these is worth a retry: the process must be
/// restarted, or the file repaired or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database refused, or its disk did.
    #[error("the chain's database failed; check the disk, then start again")]
    Database(#[source] Box<redb::Error>),
    /// A row does not decode.
    #[error(
        "the chain's database holds a damaged row in table {table}; restore the file from a copy"
    )]
    Damaged {
        /// Name of the table.
        table: &'static str,
    },
}

impl DBErrorMarker for StoreError {}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// A transaction that waits, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredPending {
    pub(crate) sequence: u64,
    pub(crate) sender: Address,
    pub(crate) raw: Bytes,
}

/// All that one durable write changes.
#[derive(Debug, Default)]
pub(crate) struct Commit<'a> {
    pub(crate) block: Option<&'a ExecutedBlock>,
    pub(crate) admitted: Vec<StoredPending>,
    /// Sequence numbers of pool rows that are settled; a number without a row is ignored.
    pub(crate) settled: Vec<u64>,
}

/// The writing side, owned by the sequencer.
#[derive(Debug)]
pub(crate) struct Store {
    database: Database,
    codes: Arc<CodeCache>,
}

impl Store {
    pub(crate) fn new(database: Database) -> Self {
        Self {
            database,
            codes: Arc::default(),
        }
    }

    /// The chain id that the store was made for; `None` for an empty store.
    pub(crate) fn chain_id(&self) -> Result<Option<u64>, StoreError> {
        let transaction = self.database.begin_read()?;
        let meta = match transaction.open_table(META) {
            Ok(meta) => meta,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match meta.get("format")?.map(|format| format.value()) {
            None => return Ok(None),
            Some(FORMAT) => {}
            Some(_) => return Err(StoreError::Damaged { table: "meta" }),
        }
        Ok(meta.get("chain_id")?.map(|id| id.value()))
    }

    /// Writes block 0 and the chain's identity in one transaction, so that no store is half made.
    pub(crate) fn initialise(
        &self,
        chain_id: u64,
        genesis: &ExecutedBlock,
    ) -> Result<(), StoreError> {
        let transaction = self.begin()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert("format", FORMAT)?;
            meta.insert("chain_id", chain_id)?;
        }
        // Opening a table makes it, and readers rely on all of them.
        transaction.open_table(POOL)?;
        write_block(&transaction, genesis)?;
        transaction.commit()?;
        Ok(())
    }

    /// Makes `commit` durable, whole or not at all.
    pub(crate) fn commit(&self, commit: &Commit<'_>) -> Result<(), StoreError> {
        let transaction = self.begin()?;
        {
            let mut pool = transaction.open_table(POOL)?;
            for pending in &commit.admitted {
                let mut row = Vec::with_capacity(pending.raw.len().saturating_add(20));
                row.extend_from_slice(pending.sender.as_slice());
                row.extend_from_slice(&pending.raw);
                pool.insert(pending.sequence, row.as_slice())?;
            }
            for sequence in &commit.settled {
                pool.remove(sequence)?;
            }
        }
        if let Some(block) = commit.block {
            write_block(&transaction, block)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// A write transaction after which a crash needs no walk over the file at the next start.
    fn begin(&self) -> Result<redb::WriteTransaction, StoreError> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    /// The waiting transactions, by order of arrival.
    pub(crate) fn pending(&self) -> Result<Vec<StoredPending>, StoreError> {
        let table = self.database.begin_read()?.open_table(POOL)?;
        let mut pending = Vec::new();
        for row in table.iter()?.take(MAX_POOL_TRANSACTIONS) {
            let (sequence, row) = row?;
            let (sender, raw) = row
                .value()
                .split_first_chunk::<20>()
                .ok_or(StoreError::Damaged { table: "pool" })?;
            pending.push(StoredPending {
                sequence: sequence.value(),
                sender: Address::from(*sender),
                raw: Bytes::copy_from_slice(raw),
            });
        }
        Ok(pending)
    }

    /// What readers see from now until the next one is taken.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let transaction = self.database.begin_read()?;
        let headers = transaction.open_table(HEADERS)?;
        let head = {
            let (_, row) = headers
                .last()?
                .ok_or(StoreError::Damaged { table: "headers" })?;
            decode_header(row.value())?
        };
        Ok(Snapshot {
            head,
            headers,
            block_numbers: transaction.open_table(BLOCK_NUMBERS)?,
            transactions: transaction.open_table(TRANSACTIONS)?,
            locations: transaction.open_table(LOCATIONS)?,
            log_blocks: transaction.open_table(LOG_BLOCKS)?,
            accounts: transaction.open_table(ACCOUNTS)?,
            storage: transaction.open_table(STORAGE)?,
            code: transaction.open_table(CODE)?,
            codes: Arc::clone(&self.codes),
        })
    }
}

fn write_block(
    transaction: &redb::WriteTransaction,
    block: &ExecutedBlock,
) -> Result<(), StoreError> {
    let number = block.header.number;
    let mut row = Vec::with_capacity(640);
    row.extend_from_slice(block.header.hash().as_slice());
    block.header.inner().encode(&mut row);
    transaction
        .open_table(HEADERS)?
        .insert(number, row.as_slice())?;
    transaction
        .open_table(BLOCK_NUMBERS)?
        .insert(&block.header.hash().0, number)?;
    write_transactions(transaction, number, &block.transactions)?;
    write_state(transaction, number, &block.changes)
}

fn write_transactions(
    transaction: &redb::WriteTransaction,
    number: u64,
    mined: &[(B256, MinedTransaction)],
) -> Result<(), StoreError> {
    let mut transactions = transaction.open_table(TRANSACTIONS)?;
    let mut locations = transaction.open_table(LOCATIONS)?;
    let mut log_blocks = transaction.open_table(LOG_BLOCKS)?;
    for (index, (hash, mined)) in (0_u64..).zip(mined) {
        let mut row = Vec::with_capacity(mined.length());
        mined.encode(&mut row);
        transactions.insert((number, index), row.as_slice())?;
        locations.insert(&hash.0, (number, index))?;
        for log in &mined.logs {
            log_blocks.insert((&log.address.into_array(), number), ())?;
        }
    }
    Ok(())
}

fn write_state(
    transaction: &redb::WriteTransaction,
    number: u64,
    changes: &StateChanges,
) -> Result<(), StoreError> {
    let mut accounts = transaction.open_table(ACCOUNTS)?;
    for (address, account) in &changes.accounts {
        accounts.insert((&address.into_array(), number), &account.encode())?;
    }
    let mut storage = transaction.open_table(STORAGE)?;
    for ((address, key), value) in &changes.storage {
        storage.insert(
            (&slot_key(*address, *key), number),
            &value.to_be_bytes::<32>(),
        )?;
    }
    let mut code = transaction.open_table(CODE)?;
    for (hash, bytes) in &changes.code {
        code.insert(&hash.0, bytes.as_ref())?;
    }
    Ok(())
}

fn slot_key(address: Address, key: U256) -> [u8; 52] {
    let mut slot = [0; 52];
    slot[..20].copy_from_slice(address.as_slice());
    slot[20..].copy_from_slice(&key.to_be_bytes::<32>());
    slot
}

fn decode_header(row: &[u8]) -> Result<Sealed<Header>, StoreError> {
    const DAMAGED: StoreError = StoreError::Damaged { table: "headers" };
    let (hash, mut rest) = row.split_first_chunk::<32>().ok_or(DAMAGED)?;
    let header = Header::decode(&mut rest).map_err(|_| DAMAGED)?;
    Ok(Sealed::new_unchecked(header, B256::from(*hash)))
}

/// Analysed contract code by hash. Code never changes under its hash, so every snapshot shares it.
#[derive(Debug, Default)]
struct CodeCache(Mutex<B256HashMap<Bytecode>>);

impl CodeCache {
    fn get(&self, hash: &B256) -> Option<Bytecode> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(hash)
            .cloned()
    }

    fn put(&self, hash: B256, code: Bytecode) {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if codes.len() >= MAX_CACHED_CODES {
            codes.clear();
        }
        codes.insert(hash, code);
    }
}

/// The chain as it was when one block was its head. Reading it takes no lock and blocks no writer.
pub(crate) struct Snapshot {
    head: Sealed<Header>,
    headers: ReadOnlyTable<u64, &'static [u8]>,
    block_numbers: ReadOnlyTable<&'static [u8; 32], u64>,
    transactions: ReadOnlyTable<(u64, u64), &'static [u8]>,
    locations: ReadOnlyTable<&'static [u8; 32], (u64, u64)>,
    log_blocks: ReadOnlyTable<(&'static [u8; 20], u64), ()>,
    accounts: ReadOnlyTable<(&'static [u8; 20], u64), &'static [u8; ACCOUNT_BYTES]>,
    storage: ReadOnlyTable<(&'static [u8; 52], u64), &'static [u8; 32]>,
    code: ReadOnlyTable<&'static [u8; 32], &'static [u8]>,
    codes: Arc<CodeCache>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Snapshot")
            .field("head", &self.head.number)
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Header of the newest block.
    pub(crate) fn head(&self) -> &Sealed<Header> {
        &self.head
    }

    pub(crate) fn header(&self, number: u64) -> Result<Option<Sealed<Header>>, StoreError> {
        if number == self.head.number {
            return Ok(Some(self.head.clone()));
        }
        self.headers
            .get(number)?
            .map(|row| decode_header(row.value()))
            .transpose()
    }

    pub(crate) fn block_number(&self, hash: B256) -> Result<Option<u64>, StoreError> {
        Ok(self
            .block_numbers
            .get(&hash.0)?
            .map(|number| number.value()))
    }

    /// Block and index of a mined transaction.
    pub(crate) fn location(&self, hash: B256) -> Result<Option<(u64, u64)>, StoreError> {
        Ok(self
            .locations
            .get(&hash.0)?
            .map(|location| location.value()))
    }

    pub(crate) fn transaction(
        &self,
        number: u64,
        index: u64,
    ) -> Result<Option<MinedTransaction>, StoreError> {
        self.transactions
            .get((number, index))?
            .map(|row| decode_transaction(row.value()))
            .transpose()
    }

    /// All transactions of a block, in order.
    pub(crate) fn transactions(&self, number: u64) -> Result<Vec<MinedTransaction>, StoreError> {
        self.transactions
            .range((number, 0)..=(number, u64::MAX))?
            .map(|row| decode_transaction(row?.1.value()))
            .collect()
    }

    /// Ascending numbers of at most `limit` blocks of `range` that hold a log of `address`.
    pub(crate) fn log_blocks(
        &self,
        address: Address,
        range: RangeInclusive<u64>,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError> {
        let address = address.into_array();
        self.log_blocks
            .range((&address, *range.start())..=(&address, *range.end()))?
            .take(limit)
            .map(|row| Ok(row?.0.value().1))
            .collect()
    }

    fn account(&self, address: Address, number: u64) -> Result<AccountState, StoreError> {
        let address = address.into_array();
        let newest = self
            .accounts
            .range((&address, 0)..=(&address, number))?
            .next_back()
            .transpose()?;
        Ok(newest.map_or(AccountState::EMPTY, |(_, row)| {
            AccountState::decode(row.value())
        }))
    }

    fn slot(&self, address: Address, key: U256, number: u64) -> Result<U256, StoreError> {
        let slot = slot_key(address, key);
        let newest = self
            .storage
            .range((&slot, 0)..=(&slot, number))?
            .next_back()
            .transpose()?;
        Ok(newest.map_or(U256::ZERO, |(_, row)| U256::from_be_bytes(*row.value())))
    }

    fn code(&self, hash: B256) -> Result<Bytecode, StoreError> {
        if hash == KECCAK256_EMPTY {
            return Ok(Bytecode::default());
        }
        if let Some(code) = self.codes.get(&hash) {
            return Ok(code);
        }
        const DAMAGED: StoreError = StoreError::Damaged { table: "code" };
        let row = self.code.get(&hash.0)?.ok_or(DAMAGED)?;
        let code =
            Bytecode::new_raw_checked(Bytes::copy_from_slice(row.value())).map_err(|_| DAMAGED)?;
        self.codes.put(hash, code.clone());
        Ok(code)
    }
}

fn decode_transaction(mut row: &[u8]) -> Result<MinedTransaction, StoreError> {
    MinedTransaction::decode(&mut row).map_err(|_| StoreError::Damaged {
        table: "transactions",
    })
}

/// The state after one block: what the EVM reads.
#[derive(Debug, Clone)]
pub(crate) struct StateAt {
    snapshot: Arc<Snapshot>,
    number: u64,
}

impl StateAt {
    /// The state after block `number`, which the snapshot must have.
    pub(crate) fn new(snapshot: Arc<Snapshot>, number: u64) -> Self {
        Self { snapshot, number }
    }

    /// The newest state of a snapshot.
    pub(crate) fn latest(snapshot: &Arc<Snapshot>) -> Self {
        Self::new(Arc::clone(snapshot), snapshot.head().number)
    }

    pub(crate) fn account(&self, address: Address) -> Result<AccountState, StoreError> {
        self.snapshot.account(address, self.number)
    }

    pub(crate) fn slot(&self, address: Address, key: U256) -> Result<U256, StoreError> {
        self.snapshot.slot(address, key, self.number)
    }

    pub(crate) fn code_of(&self, address: Address) -> Result<Bytes, StoreError> {
        let account = self.account(address)?;
        Ok(self.snapshot.code(account.code_hash)?.original_bytes())
    }
}

impl DatabaseRef for StateAt {
    type Error = StoreError;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, StoreError> {
        let account = self.account(address)?;
        if account == AccountState::EMPTY {
            return Ok(None);
        }
        let code = self.snapshot.code(account.code_hash)?;
        Ok(Some(AccountInfo::new(
            account.balance,
            account.nonce,
            account.code_hash,
            code,
        )))
    }

    fn code_by_hash_ref(&self, code_hash: B256) -> Result<Bytecode, StoreError> {
        self.snapshot.code(code_hash)
    }

    fn storage_ref(&self, address: Address, index: U256) -> Result<U256, StoreError> {
        self.slot(address, index)
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, StoreError> {
        Ok(self
            .snapshot
            .header(number)?
            .map_or(B256::ZERO, |header| header.hash()))
    }
}
