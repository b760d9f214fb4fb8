//! Asks the chain what the index's machine wants to know, and commits what it decides.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Address, B256};
use alloy_rpc_types_eth::{Filter, Log};
use futures::future::BoxFuture;
use hearth_causes::WithCauses;
use redb::Database;
use tokio::{sync::watch, task::spawn_blocking};

use super::{
    event::IndexedLog,
    machine::{
        Answer, Batch, BlockRef, IndexConfig, IndexMachine, IndexReject, Notice, Question, Step,
    },
    store::{IndexConsumer, IndexStore, IndexStoreError},
};
use crate::client::{BlockAt, BlockHeader, ChainClient, ChainError, ErrorKind};

/// An index has to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Its state could not be read or written.
    #[error(transparent)]
    Store(#[from] IndexStoreError),
    /// The chain does not go on from where the index is.
    #[error(transparent)]
    Reject(#[from] IndexReject),
    /// The endpoint serves another chain, or refuses what is needed.
    #[error("the event index cannot read the chain")]
    Chain(#[source] ChainError),
}

/// A follower of one chain's events.
pub struct EventIndex {
    client: ChainClient,
    config: IndexConfig,
    machine: IndexMachine,
    store: IndexStore,
    /// Absent only while a commit holds it.
    consumer: Option<Box<dyn IndexConsumer>>,
    tip: watch::Sender<Option<BlockRef>>,
    level: watch::Sender<Option<Level>>,
}

/// A moment at which every event up to the newest block was applied and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// When the chain was asked for its newest block, in milliseconds since the Unix epoch.
    pub asked_at_ms: u64,
    /// Height of that block.
    pub number: u64,
    /// When it was made, in seconds since the Unix epoch.
    pub timestamp_s: u64,
}

impl std::fmt::Debug for EventIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventIndex")
            .field("machine", &self.machine)
            .finish_non_exhaustive()
    }
}

/// Whether there is more to do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    More,
    Wait,
}

impl EventIndex {
    /// An index for the client's chain, with its state in `database`, going on from where it was.
    ///
    /// # Errors
    /// [`IndexStoreError`].
    pub fn open(
        client: ChainClient,
        database: Arc<Database>,
        config: IndexConfig,
        consumer: Box<dyn IndexConsumer>,
    ) -> Result<Self, IndexStoreError> {
        let store = IndexStore::open(database, client.chain().0, &config)?;
        let machine = IndexMachine::restore(config.clone(), store.remembered()?);
        let tip = watch::Sender::new(machine.tip());
        Ok(Self {
            client,
            config,
            machine,
            store,
            consumer: Some(consumer),
            tip,
            level: watch::Sender::new(None),
        })
    }

    /// The newest block whose events are applied and durable, as it changes.
    #[must_use]
    pub fn tip(&self) -> watch::Receiver<Option<BlockRef>> {
        self.tip.subscribe()
    }

    /// When the index was last level with the chain, as that comes nearer. An index that only waits for
    /// [`IndexConfig::blocks_on_top`] is level too.
    #[must_use]
    pub fn level(&self) -> watch::Receiver<Option<Level>> {
        self.level.subscribe()
    }

    /// Follows the chain until it cannot go on. Dropping the future at any point loses nothing.
    ///
    /// # Errors
    /// [`IndexError`]; an endpoint that is only slow, busy or behind is not an error, and is asked again.
    pub fn run(self) -> BoxFuture<'static, Result<(), IndexError>> {
        Box::pin(self.follow())
    }

    async fn follow(mut self) -> Result<(), IndexError> {
        let environment = Arc::clone(self.client.environment());
        loop {
            if self.advance().await? == Pace::Wait {
                environment
                    .sleep(Duration::from_millis(self.config.poll_interval_ms))
                    .await;
            }
        }
    }

    /// Asks and answers until something is committed or there is nothing to do.
    pub(super) async fn advance(&mut self) -> Result<Pace, IndexError> {
        let mut question = Question::View;
        let asked_at_ms = self.client.environment().now_ms();
        let mut head = None;
        loop {
            let answer = match self.ask(&question).await {
                Ok(answer) => answer,
                Err(error) if may_pass(&error) => {
                    tracing::warn!(chain = %self.client.chain(), error = %error.with_causes(), "the event index waits for its endpoint");
                    return Ok(Pace::Wait);
                }
                Err(error) => return Err(IndexError::Chain(error)),
            };
            if let Answer::View { head: newest, .. } = &answer {
                head = Some(*newest);
            }
            match self.machine.handle(answer) {
                Ok(Step::Ask(next)) => question = next,
                Ok(Step::Commit(batch)) => {
                    self.commit(batch).await?;
                    return Ok(Pace::More);
                }
                Ok(Step::Wait(notice)) => {
                    if let (None, Some(head)) = (notice, head) {
                        self.level.send_replace(Some(Level {
                            asked_at_ms,
                            number: head.number,
                            timestamp_s: head.timestamp_s,
                        }));
                    }
                    self.say(notice);
                    return Ok(Pace::Wait);
                }
                Err(reject @ IndexReject::Contradiction { .. }) => {
                    tracing::warn!(chain = %self.client.chain(), reject = %reject.with_causes(), "nothing was applied; asking again");
                    return Ok(Pace::Wait);
                }
                Err(reject) => return Err(reject.into()),
            }
        }
    }

    fn say(&self, notice: Option<Notice>) {
        let chain = self.client.chain();
        match notice {
            Some(Notice::Behind { head, tip }) => {
                tracing::warn!(%chain, head, tip, "the endpoint is behind the event index; nothing is rolled back");
            }
            Some(Notice::Moved) => {
                tracing::debug!(%chain, "the chain moved while it was read; reading again")
            }
            None => {}
        }
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), IndexError> {
        if let Some(to_block) = batch.roll_back_to {
            tracing::warn!(chain = %self.client.chain(), to_block, "the chain was reorganised; rolling back");
        }
        let store = self.store.clone();
        let mut consumer = self
            .consumer
            .take()
            .expect("a commit always gives the consumer back");
        let work = spawn_blocking(move || {
            let outcome = store.commit(&batch, consumer.as_mut());
            (outcome, consumer, batch)
        });
        let (outcome, consumer, batch) = match work.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that is being shut down cancels blocking work, and it will not poll this again.
                Err(_cancelled) => std::future::pending().await,
            },
        };
        self.consumer = Some(consumer);
        outcome?;
        self.machine.committed(&batch);
        self.tip.send_replace(self.machine.tip());
        Ok(())
    }

    async fn ask(&self, question: &Question) -> Result<Answer, ChainError> {
        match question {
            Question::View => {
                let head = self.client.head().await?;
                let at_tip = match self.machine.tip() {
                    Some(tip) if tip.number == head.number => Some(head),
                    Some(tip) => self.client.block(BlockAt::Number(tip.number)).await?,
                    None => None,
                };
                Ok(Answer::View { head, at_tip })
            }
            Question::Remembered(heights) => {
                Ok(Answer::Remembered(self.client.blocks(heights).await?))
            }
            Question::Range { first, last } => self.ask_range(*first, *last).await,
            Question::Near { first, last } => self.ask_near(*first, *last).await,
        }
    }

    async fn ask_range(&self, first: u64, last: u64) -> Result<Answer, ChainError> {
        let filter = self.filter().from_block(first).to_block(last);
        let (first, logs, last) = match self.client.logs_with_ends(&filter, first, last).await {
            Ok(answer) => answer,
            Err(ChainError::RangeTooWide { .. }) => return Ok(Answer::TooMuch),
            // An answer beyond the size that is read is too much as well.
            Err(ChainError::Malformed { .. }) if last > first => return Ok(Answer::TooMuch),
            Err(error) => return Err(error),
        };
        Ok(Answer::Range {
            first,
            logs: self.wanted(logs)?,
            last,
        })
    }

    async fn ask_near(&self, first: u64, last: u64) -> Result<Answer, ChainError> {
        let heights: Vec<u64> = (first..=last).collect();
        let headers: Vec<BlockHeader> = self
            .client
            .blocks(&heights)
            .await?
            .into_iter()
            .map_while(|it| it)
            .collect();
        let hashes: Vec<B256> = headers.iter().map(|header| header.hash).collect();
        let logs = self.client.logs_of_blocks(&self.filter(), &hashes).await?;
        let mut blocks = Vec::with_capacity(headers.len());
        for (header, logs) in headers.into_iter().zip(logs) {
            blocks.push((header, self.wanted(logs)?));
        }
        Ok(Answer::Near(blocks))
    }

    /// All filters in one question; what it lets through too much is left out by [`Self::wanted`].
    fn filter(&self) -> Filter {
        let filters = &self.config.filters;
        let addresses: Vec<Address> = filters.iter().map(|filter| filter.address).collect();
        let filter = Filter::new().address(addresses);
        if filters.iter().any(|filter| filter.events.is_empty()) {
            return filter;
        }
        let events: Vec<B256> = filters
            .iter()
            .flat_map(|filter| filter.events.iter().copied())
            .collect();
        filter.event_signature(events)
    }

    fn wanted(&self, logs: Vec<Log>) -> Result<Vec<IndexedLog>, ChainError> {
        let mut wanted = Vec::with_capacity(logs.len());
        for log in logs {
            let log = IndexedLog::from_wire(log).ok_or_else(|| {
                ChainError::malformed("eth_getLogs", "an event without a place in the chain")
            })?;
            if self
                .config
                .filters
                .iter()
                .any(|filter| filter.matches(&log))
            {
                wanted.push(log);
            }
        }
        Ok(wanted)
    }
}

/// Whether asking again later may help: an endpoint that is slow, busy, broken or catching up.
fn may_pass(error: &ChainError) -> bool {
    match error.kind() {
        ErrorKind::Retryable | ErrorKind::Malformed => true,
        // A block that was just shown may be unknown to the next machine behind the same address.
        ErrorKind::Refused => matches!(error, ChainError::Refused { code, .. } if *code < 0),
        ErrorKind::WrongChain => false,
    }
}

#[cfg(test)]
mod tests;
