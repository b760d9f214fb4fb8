//! Follows the settlement contract's events, so that what happens to a channel of this provider is
//! known within seconds, without reading every channel again and again.
//!
//! An event is a hint and nothing more: the channel that it names is read from the chain, and the
//! desk is told what the chain has. So an event that is heard twice, or undone by a reorganisation,
//! does no harm, and nothing has to be written in the index's own transaction. The index goes on
//! from where it was after a crash; what it told just before one is not lost either, because
//! settlement reads every channel with something due once when it starts.
//!
//! Once the channels that events named are read, the desk is told up to when it knows everything
//! ([`Desk::hear`]): it admits work on that, or has the chain read where it is too old. Where events
//! cannot be followed (an endpoint may refuse `eth_getLogs`, which is tried at first), the desk reads
//! the chain for every request, and settlement reads channels as before ([`Followed`]). A provider
//! that is new to a chain begins at its newest block: its channels are younger than itself
//! (spec: payments, section 8; 06-chain, section 4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy_sol_types::SolEvent;
use futures::StreamExt;
use hearth_causes::WithCauses;
use hearth_chain::bindings::Settlement;
use hearth_chain::client::ChainError;
use hearth_chain::index::{
    EventIndex, IndexConfig, IndexConsumer, IndexError, IndexEvent, IndexStoreError, IndexedLog,
    Level, LogFilter, SettlementEvent,
};
use hearth_protocol::eip712::SETTLEMENT_ADDRESS;
use hearth_protocol::id::{ChainId, ChannelId};
use hearth_protocol::time::Timestamp;
use redb::WriteTransaction;
use thiserror::Error;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::desk::{Desk, DeskStopped};
use super::escrow::Escrow;
use crate::store::{Batch, Store, StoreError, Table};

/// From which block on the events of a chain are followed, by chain.
const INDEX_START: Table<u64> = Table::own("index_start");
/// How often a chain is usually asked for new blocks, in milliseconds: often beside the 15 minutes
/// that a withdrawal takes at least, and seldom enough for an endpoint that many share.
pub const POLL_INTERVAL_MS: u64 = 5_000;
/// How long to wait before an index that had to stop is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// How long it counts that everything up to the newest block was heard, in milliseconds: an index waits for its endpoint
/// where that refuses or answers nothing, and says nothing meanwhile.
const SILENT_MS_MAX: u64 = 60_000;
/// Channels that wait to be read; with more, every channel is read instead.
const HINTS_MAX: usize = 10_000;
/// Channels that are read from the chain at once.
const READS_AT_ONCE: usize = 8;

/// On which chains events are followed. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Followed(Arc<Mutex<Chains>>);

#[derive(Debug, Default)]
struct Chains {
    /// When everything up to the newest block was heard last.
    live: BTreeMap<ChainId, Timestamp>,
    /// Too much happened at once to say what.
    missed: BTreeSet<ChainId>,
}

impl Followed {
    fn lock(&self) -> MutexGuard<'_, Chains> {
        // Sets of numbers are whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what happened on a chain may be unknown, so that its channels should be read. Having
    /// said that events were missed, it counts them as made good.
    pub fn may_have_missed(&self, chain: ChainId, now: Timestamp) -> bool {
        let mut chains = self.lock();
        let is_live = chains.live.get(&chain).is_some_and(|heard_at| {
            // Of a time that is still to come it was said before the clock was set back.
            *heard_at <= now && now.ms_since(*heard_at) < SILENT_MS_MAX
        });
        chains.missed.remove(&chain) || !is_live
    }

    /// Everything up to the newest block was heard at this time; nothing where that is not so. Returns whether the chain was
    /// followed until now.
    fn set_live(&self, chain: ChainId, heard_at: Option<Timestamp>) -> bool {
        let mut chains = self.lock();
        let before = match heard_at {
            Some(heard_at) => chains.live.insert(chain, heard_at),
            None => chains.live.remove(&chain),
        };
        before.is_some()
    }

    fn miss(&self, chain: ChainId) {
        self.lock().missed.insert(chain);
    }
}

/// Why events cannot be followed for now.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The index stopped.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The index cannot be opened.
    #[error(transparent)]
    IndexStore(#[from] IndexStoreError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The desk.
    #[error(transparent)]
    Desk(#[from] DeskStopped),
}

/// Follows one chain.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    escrow: Arc<Escrow>,
    desk: Desk,
    followed: Followed,
    poll_interval_ms: u64,
}

/// The channels that events named, until they are read.
#[derive(Debug, Default)]
struct Hints(Mutex<Hinted>);

#[derive(Debug, Default)]
struct Hinted {
    channels: BTreeSet<ChannelId>,
    /// There were more than can be noted.
    overflowed: bool,
}

impl Hints {
    fn lock(&self) -> MutexGuard<'_, Hinted> {
        // A set of numbers is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Hinted {
        std::mem::take(&mut *self.lock())
    }

    /// Puts channels back that could not be read.
    fn put_back(&self, channels: impl IntoIterator<Item = ChannelId>) {
        self.lock().channels.extend(channels);
    }
}

/// Notes which channels events concern.
struct Listener {
    hints: Arc<Hints>,
    followed: Followed,
    chain: ChainId,
}

impl Listener {
    fn hear(&self, log: &IndexedLog) {
        let Some(channel) = log.settlement().as_ref().and_then(concerned) else {
            return;
        };
        let mut hinted = self.hints.lock();
        hinted.channels.insert(channel);
        if hinted.channels.len() > HINTS_MAX {
            hinted.channels.clear();
            hinted.overflowed = true;
            self.followed.miss(self.chain);
        }
    }
}

impl IndexConsumer for Listener {
    fn apply(
        &mut self,
        _transaction: &WriteTransaction,
        event: &IndexEvent<'_>,
    ) -> Result<(), Box<redb::Error>> {
        match event {
            IndexEvent::Applied(log) => self.hear(log),
            IndexEvent::RolledBack { undone, .. } => undone.iter().for_each(|log| self.hear(log)),
            // The index's own tip says so once it is durable.
            IndexEvent::Head(_) => {}
        }
        Ok(())
    }
}

/// The channel whose state an event changes.
fn concerned(event: &SettlementEvent) -> Option<ChannelId> {
    match event {
        SettlementEvent::Deposited { channel, .. }
        | SettlementEvent::Claimed { channel, .. }
        | SettlementEvent::Refunded { channel, .. }
        | SettlementEvent::WithdrawInitiated { channel, .. }
        | SettlementEvent::WithdrawFinalized { channel, .. } => Some(*channel),
        SettlementEvent::ChannelCreated { .. }
        | SettlementEvent::ChannelClosed { .. }
        | SettlementEvent::Settled { .. } => None,
    }
}

/// The events that [`concerned`] knows.
fn filter() -> LogFilter {
    let events = [
        Settlement::Deposited::SIGNATURE_HASH,
        Settlement::Claimed::SIGNATURE_HASH,
        Settlement::Refunded::SIGNATURE_HASH,
        Settlement::WithdrawInitiated::SIGNATURE_HASH,
        Settlement::WithdrawFinalized::SIGNATURE_HASH,
    ];
    LogFilter {
        address: SETTLEMENT_ADDRESS,
        events: events.into(),
    }
}

impl Follower {
    /// A follower of `escrow`'s chain for the channels in `store`; it tells `desk` what it sees, and
    /// `followed` whether it is up to date. It asks for new blocks every `poll_interval_ms`.
    pub fn new(
        store: Store,
        escrow: Arc<Escrow>,
        desk: Desk,
        followed: Followed,
        poll_interval_ms: u64,
    ) -> Self {
        Self {
            store,
            escrow,
            desk,
            followed,
            poll_interval_ms,
        }
    }

    fn chain(&self) -> ChainId {
        self.escrow.domain().chain()
    }

    /// Follows until the future is dropped.
    pub async fn run(self) {
        let environment = Arc::clone(self.escrow.client().environment());
        let mut is_first = true;
        loop {
            let Err(error) = self.follow().await;
            let was_live = self.followed.set_live(self.chain(), None);
            // A desk that has stopped admits nothing anyway.
            let _ = self.desk.hear(self.chain(), None);
            let chain = self.chain();
            // A chain that stays away for days is told of once.
            if was_live || is_first {
                warn!(%chain, error = %error.with_causes(), "events cannot be followed; channels are read one by one");
            } else {
                debug!(%chain, error = %error.with_causes(), "events can still not be followed");
            }
            is_first = false;
            environment.sleep(RETRY).await;
        }
    }

    async fn follow(&self) -> Result<std::convert::Infallible, FollowError> {
        let client = self.escrow.client();
        let newest = client.head().await?.number;
        // An endpoint that refuses this would look live until the first block with an event.
        client.probe_logs(newest).await?;
        let config = IndexConfig {
            filters: vec![filter()],
            start_block: self.start_block(newest).await?,
            poll_interval_ms: self.poll_interval_ms,
            ..IndexConfig::default()
        };
        let hints = Arc::new(Hints::default());
        let listener = Listener {
            hints: Arc::clone(&hints),
            followed: self.followed.clone(),
            chain: self.chain(),
        };
        let database = Arc::clone(self.store.database());
        let index = EventIndex::open(client.clone(), database, config, Box::new(listener))?;
        let level = index.level();
        tokio::select! {
            outcome = index.run() => match outcome {
                Ok(()) => unreachable!("an index runs until it cannot go on"),
                Err(error) => Err(error.into()),
            },
            stopped = self.read_hinted(&hints, level) => stopped,
        }
    }

    /// The block from which on this store's channels can matter.
    async fn start_block(&self, newest: u64) -> Result<u64, StoreError> {
        let key = self.chain().0.to_be_bytes();
        if let Some(block) = self.store.get(INDEX_START, &key)? {
            return Ok(block);
        }
        let mut batch = Batch::default();
        batch.put(INDEX_START, &key, &newest)?;
        self.store.commit(batch).await?;
        Ok(newest)
    }

    /// Reads the channels that events named, whenever the index is level with the chain, and tells the
    /// desk that it knows everything up to then.
    async fn read_hinted(
        &self,
        hints: &Hints,
        mut level: watch::Receiver<Option<Level>>,
    ) -> Result<std::convert::Infallible, FollowError> {
        loop {
            let reached = *level.borrow_and_update();
            if let Some(reached) = reached {
                self.reach(hints, reached).await?;
            }
            if level.changed().await.is_err() {
                // The index has ended, and says why.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn reach(&self, hints: &Hints, level: Level) -> Result<(), FollowError> {
        let hinted = hints.take();
        if hinted.overflowed {
            self.desk.miss(self.chain())?;
        }
        let known = if hinted.channels.is_empty() {
            hinted.channels
        } else {
            self.desk.known(hinted.channels)?
        };
        let from = level.number;
        let mut reads = futures::stream::iter(known)
            .map(|channel| async move { (channel, self.escrow.look_from(channel, from).await) })
            .buffer_unordered(READS_AT_ONCE);
        let mut unread = Vec::new();
        while let Some((channel, read)) = reads.next().await {
            match read {
                Ok(reading) => self.desk.observe(channel, reading)?,
                Err(error) => {
                    warn!(error = %error.with_causes(), %channel, "a channel could not be read");
                    unread.push(channel);
                }
            }
        }
        let is_all = unread.is_empty();
        hints.put_back(unread);
        let asked_at = Timestamp(level.asked_at_ms);
        self.followed
            .set_live(self.chain(), is_all.then_some(asked_at));
        let sight = is_all.then(|| self.escrow.sight(asked_at, level.timestamp_s));
        Ok(self.desk.hear(self.chain(), sight)?)
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256, U256};

    use super::*;

    const CHAIN: ChainId = ChainId(402_402);
    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn claimed(channel: u64) -> IndexedLog {
        let event = Settlement::Claimed {
            channelId: B256::from(U256::from(channel)),
            sender: Address::ZERO,
            claimAmount: 1,
            newTotalClaimed: 1,
        };
        let data = event.encode_log_data();
        IndexedLog {
            address: SETTLEMENT_ADDRESS,
            topics: data.topics().to_vec(),
            data: data.data,
            block_number: 1,
            block_hash: B256::ZERO,
            transaction_hash: B256::ZERO,
            log_index: 0,
        }
    }

    #[test]
    fn every_event_that_is_asked_for_names_its_channel() {
        let log = claimed(7);
        assert!(filter().matches(&log));
        let channel = log.settlement().as_ref().and_then(concerned);
        assert_eq!(channel, Some(ChannelId(B256::from(U256::from(7)))));
    }

    #[test]
    fn more_than_can_be_noted_makes_every_channel_read_once() {
        let followed = Followed::default();
        assert!(
            followed.may_have_missed(CHAIN, NOW),
            "nothing is followed at first"
        );
        followed.set_live(CHAIN, Some(NOW));
        assert!(!followed.may_have_missed(CHAIN, NOW));
        let listener = Listener {
            hints: Arc::default(),
            followed: followed.clone(),
            chain: CHAIN,
        };
        let most = u64::try_from(HINTS_MAX).unwrap();
        (0..most).for_each(|channel| listener.hear(&claimed(channel)));
        listener.hear(&claimed(0));
        assert_eq!(listener.hints.lock().channels.len(), HINTS_MAX);
        assert!(!followed.may_have_missed(CHAIN, NOW));
        listener.hear(&claimed(most));
        let hinted = listener.hints.take();
        assert!(hinted.channels.is_empty() && hinted.overflowed);
        assert!(followed.may_have_missed(CHAIN, NOW));
        assert!(!followed.may_have_missed(CHAIN, NOW), "read once");
        followed.set_live(CHAIN, None);
        assert!(followed.may_have_missed(CHAIN, NOW));
    }

    #[test]
    fn what_was_heard_long_ago_or_at_a_time_still_to_come_proves_nothing() {
        let followed = Followed::default();
        for (heard_ms_ago, may_have_missed) in [
            (0, false),
            (SILENT_MS_MAX as i64 - 1, false),
            (SILENT_MS_MAX as i64, true),
            (-1, true),
            (-3_600_000, true),
        ] {
            let heard_at = Timestamp(NOW.0.saturating_add_signed(-heard_ms_ago));
            followed.set_live(CHAIN, Some(heard_at));
            assert_eq!(
                followed.may_have_missed(CHAIN, NOW),
                may_have_missed,
                "{heard_ms_ago}"
            );
        }
    }
}
