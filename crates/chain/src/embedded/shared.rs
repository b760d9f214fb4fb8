//! What the sequencer shows to readers.
//!
//! Readers take an `Arc` of the newest snapshot and then hold no lock. The pool is written by the sequencer
//! only; its lock is held for look-ups. Nothing here is durable: the store is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use alloy_primitives::B256;
use hearth_environment::Environment;

use super::error::RpcError;
use super::limits::MAX_PENDING_FEED;
use super::pool::Pool;
use super::store::Snapshot;

#[derive(Debug)]
pub(crate) struct Shared {
    chain_id: u64,
    environment: Arc<dyn Environment>,
    /// Seconds that the chain's time is ahead of the clock; moved by development methods only.
    ahead_s: AtomicU64,
    head: RwLock<Option<Arc<Snapshot>>>,
    pool: Mutex<Pool>,
    feed: Mutex<PendingFeed>,
}

impl Shared {
    pub(crate) fn new(
        chain_id: u64,
        environment: Arc<dyn Environment>,
        head: Snapshot,
        pool: Pool,
    ) -> Self {
        Self {
            chain_id,
            environment,
            ahead_s: AtomicU64::new(0),
            head: RwLock::new(Some(Arc::new(head))),
            pool: Mutex::new(pool),
            feed: Mutex::default(),
        }
    }

    pub(crate) fn chain_id(&self) -> u64 {
        self.chain_id
    }

    pub(crate) fn environment(&self) -> &dyn Environment {
        self.environment.as_ref()
    }

    /// The chain's time in Unix seconds.
    pub(crate) fn now_s(&self) -> u64 {
        (self.environment.now_ms() / 1_000).saturating_add(self.ahead_s.load(Ordering::SeqCst))
    }

    /// Moves the chain's time forward and returns by how much it is ahead of the clock, in seconds.
    pub(crate) fn shift_time_by(&self, seconds: u64) -> u64 {
        let shift = |ahead: u64| Some(ahead.saturating_add(seconds));
        let before = self
            .ahead_s
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, shift)
            .unwrap_or_else(|same| same);
        before.saturating_add(seconds)
    }

    /// Moves the chain's time so that it is now `timestamp_s`, which may be before the clock's.
    pub(crate) fn shift_time_to(&self, timestamp_s: u64) {
        let ahead_s = timestamp_s.saturating_sub(self.environment.now_ms() / 1_000);
        self.ahead_s.store(ahead_s, Ordering::SeqCst);
    }

    /// The newest durable state of the chain.
    pub(crate) fn head(&self) -> Result<Arc<Snapshot>, RpcError> {
        self.head
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(RpcError::closed)
    }

    pub(crate) fn publish(&self, head: Snapshot) {
        *self.head.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(head));
    }

    /// Lets go of the store, so that its file can be opened again.
    pub(crate) fn close(&self) {
        *self.head.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn announce(&self, hash: B256) {
        self.feed().push(hash);
    }

    pub(crate) fn feed(&self) -> MutexGuard<'_, PendingFeed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest accepted transactions, numbered from the start of the process.
#[derive(Debug, Default)]
pub(crate) struct PendingFeed {
    first: u64,
    hashes: VecDeque<B256>,
}

impl PendingFeed {
    fn push(&mut self, hash: B256) {
        if self.hashes.len() >= MAX_PENDING_FEED {
            self.hashes.pop_front();
            self.first = self.first.saturating_add(1);
        }
        self.hashes.push_back(hash);
    }

    /// The number that the next hash will have.
    pub(crate) fn next(&self) -> u64 {
        self.first.saturating_add(self.hashes.len() as u64)
    }

    /// Hashes from number `from` on, as far as they are still kept.
    pub(crate) fn since(&self, from: u64) -> Vec<B256> {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.hashes.iter().skip(skip).copied().collect()
    }
}
