//! The durable state of an index: which blocks are remembered, and the events applied from them.
//!
//! One redb transaction holds the index's own change and whatever its consumer writes for it. That is what makes
//! applying twice impossible: after a crash either both are there or neither is. A consumer must therefore write only
//! through the transaction it is given, and do nothing else that it could not do again.

use std::{collections::VecDeque, fmt, sync::Arc};

use alloy_primitives::{B256, keccak256};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::{
    event::{IndexEvent, IndexedLog, LogFilter},
    machine::{Batch, BlockRef, IndexConfig},
};

/// Key: chain id and height. Value: hash. The remembered blocks.
const BLOCKS: TableDefinition<'_, (u64, u64), [u8; 32]> = TableDefinition::new("index_blocks");

/// Key: chain id, height, place in the block. Value: postcard of [`IndexedLog`]. Events above the oldest remembered
/// block.
const EVENTS: TableDefinition<'_, (u64, u64, u64), &[u8]> = TableDefinition::new("index_events");

/// Key: chain id. Value: the digest of what is followed.
const FOLLOWED: TableDefinition<'_, u64, [u8; 32]> = TableDefinition::new("index_followed");

/// The index's state could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexStoreError {
    /// The store failed.
    #[error("the event index could not be read or written; check the disk")]
    Store(#[source] Box<redb::Error>),
    /// An event does not decode.
    #[error("the event index is damaged at block {block}; delete it and build it again")]
    Corrupt {
        /// The height.
        block: u64,
    },
    /// The index was built for something else.
    #[error(
        "the event index was built for other contracts or another start block; delete it and build it again, or \
         restore the configuration"
    )]
    FollowsOther,
}

impl<E: Into<redb::Error>> From<E> for IndexStoreError {
    fn from(error: E) -> Self {
        Self::Store(Box::new(error.into()))
    }
}

/// Does something with what happens on the chain.
pub trait IndexConsumer: Send + Sync + 'static {
    /// Applies or undoes one event. All writes go through `transaction`, which also records that this event was told;
    /// an error undoes the whole step, and it is told again later.
    ///
    /// # Errors
    /// Whatever the store says.
    fn apply(
        &mut self,
        transaction: &WriteTransaction,
        event: &IndexEvent<'_>,
    ) -> Result<(), Box<redb::Error>>;
}

/// Where an index for one chain keeps its state.
#[derive(Clone)]
pub struct IndexStore {
    database: Arc<Database>,
    chain_id: u64,
}

impl fmt::Debug for IndexStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexStore")
            .field("chain_id", &self.chain_id)
            .finish_non_exhaustive()
    }
}

impl IndexStore {
    /// The state for `chain_id` in `database`, which may hold other tables and other chains too.
    ///
    /// # Errors
    /// [`IndexStoreError::FollowsOther`] if it was built for another configuration; otherwise the store's errors.
    pub fn open(
        database: Arc<Database>,
        chain_id: u64,
        config: &IndexConfig,
    ) -> Result<Self, IndexStoreError> {
        let digest = followed_digest(&config.filters, config.start_block);
        let transaction = database.begin_write()?;
        {
            let mut followed = transaction.open_table(FOLLOWED)?;
            let known = followed
                .get(chain_id)?
                .map(|value| B256::from(value.value()));
            if known.is_some_and(|known| known != digest) {
                return Err(IndexStoreError::FollowsOther);
            }
            followed.insert(chain_id, digest.0)?;
            transaction.open_table(BLOCKS)?;
            transaction.open_table(EVENTS)?;
        }
        transaction.commit()?;
        Ok(Self { database, chain_id })
    }

    /// The remembered blocks, oldest first.
    ///
    /// # Errors
    /// The store's errors.
    pub fn remembered(&self) -> Result<VecDeque<BlockRef>, IndexStoreError> {
        let table = self.database.begin_read()?.open_table(BLOCKS)?;
        let mut blocks = VecDeque::new();
        for row in table.range((self.chain_id, 0)..=(self.chain_id, u64::MAX))? {
            let (place, hash) = row?;
            blocks.push_back(BlockRef {
                number: place.value().1,
                hash: B256::from(hash.value()),
            });
        }
        Ok(blocks)
    }

    /// Makes one step durable, together with what the consumer makes of it.
    ///
    /// # Errors
    /// The store's and the consumer's errors; then nothing has changed.
    pub fn commit(
        &self,
        batch: &Batch,
        consumer: &mut dyn IndexConsumer,
    ) -> Result<(), IndexStoreError> {
        let transaction = self.database.begin_write()?;
        if let Some(to_block) = batch.roll_back_to {
            let undone = self.take_events_above(&transaction, to_block)?;
            tell(
                consumer,
                &transaction,
                &IndexEvent::RolledBack {
                    to_block,
                    undone: &undone,
                },
            )?;
        }
        for log in &batch.applied {
            tell(consumer, &transaction, &IndexEvent::Applied(log))?;
        }
        if let Some(tip) = batch.remembered.back() {
            tell(consumer, &transaction, &IndexEvent::Head(*tip))?;
        }
        self.write_events(&transaction, batch)?;
        self.write_blocks(&transaction, batch)?;
        transaction.commit()?;
        Ok(())
    }

    /// Removes the events above a height and returns them, newest first.
    fn take_events_above(
        &self,
        transaction: &WriteTransaction,
        height: u64,
    ) -> Result<Vec<IndexedLog>, IndexStoreError> {
        let mut events = transaction.open_table(EVENTS)?;
        let above = (self.chain_id, height + 1, 0)..=(self.chain_id, u64::MAX, u64::MAX);
        let mut undone = Vec::new();
        for row in events.range(above.clone())?.rev() {
            let (place, value) = row?;
            let block = place.value().1;
            undone.push(
                postcard::from_bytes(value.value())
                    .map_err(|_| IndexStoreError::Corrupt { block })?,
            );
        }
        events.retain_in(above, |_, _| false)?;
        Ok(undone)
    }

    /// Adds the new events, and drops those that can no longer be rolled back.
    fn write_events(
        &self,
        transaction: &WriteTransaction,
        batch: &Batch,
    ) -> Result<(), IndexStoreError> {
        let oldest = batch.remembered.front().map_or(0, |block| block.number);
        let mut events = transaction.open_table(EVENTS)?;
        for log in batch.applied.iter().filter(|log| log.block_number > oldest) {
            let value = postcard::to_stdvec(log).expect("an event always serialises");
            events.insert(
                (self.chain_id, log.block_number, log.log_index),
                value.as_slice(),
            )?;
        }
        events.retain_in(
            (self.chain_id, 0, 0)..=(self.chain_id, oldest, u64::MAX),
            |_, _| false,
        )?;
        Ok(())
    }

    fn write_blocks(
        &self,
        transaction: &WriteTransaction,
        batch: &Batch,
    ) -> Result<(), IndexStoreError> {
        let mut blocks = transaction.open_table(BLOCKS)?;
        let whole = (self.chain_id, 0)..=(self.chain_id, u64::MAX);
        let keep: std::collections::BTreeMap<u64, B256> = batch
            .remembered
            .iter()
            .map(|block| (block.number, block.hash))
            .collect();
        blocks.retain_in(whole, |(_, number), hash| {
            keep.get(&number).is_some_and(|kept| kept.0 == hash)
        })?;
        for (number, hash) in keep {
            blocks.insert((self.chain_id, number), hash.0)?;
        }
        Ok(())
    }
}

fn tell(
    consumer: &mut dyn IndexConsumer,
    transaction: &WriteTransaction,
    event: &IndexEvent<'_>,
) -> Result<(), IndexStoreError> {
    consumer
        .apply(transaction, event)
        .map_err(IndexStoreError::Store)
}

/// What is followed, as a number that changes when it does.
fn followed_digest(filters: &[LogFilter], start_block: u64) -> B256 {
    keccak256(postcard::to_stdvec(&(filters, start_block)).expect("filters always serialise"))
}
