//! The one thread that writes the chain.
//!
//! It owns the store and takes commands in order. Everything that waits when it wakes is handled together:
//! on demand, all of it goes into one block and one durable write (group commit); on a timer, all of it
//! becomes durable in the pool before any caller hears a hash. Readers see a block only after it is durable.
//! When the store fails, nothing more is accepted until a restart: what memory holds might be ahead of the
//! disk. Spec: 05 embedded chain, sections 4 and 6.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use alloy_consensus::transaction::Recovered;
use alloy_consensus::{Transaction, TxEnvelope};
use alloy_primitives::{B256, Bytes};
use hearth_causes::WithCauses;

use super::block::ExecutedBlock;
use super::error::RpcError;
use super::execute::{Applied, BlockBuilder};
use super::limits::MAX_QUEUED_COMMANDS;
use super::pool::{AdmitError, Pending, SenderState};
use super::shared::Shared;
use super::store::{Commit, StateAt, Store, StoreError, StoredPending};
use super::{MAX_TIMESTAMP_S, Mining};

/// What is said of a transaction that is no longer waited for.
const DROPPED: &str = "dropped: the transactions before it never came, or its value exceeds the balance; send those first, then this one again";

/// What the sequencer can be asked for. Each reply is sent once the effect is durable.
#[derive(Debug)]
pub(crate) enum Command {
    Submit {
        transaction: Box<Recovered<TxEnvelope>>,
        raw: Bytes,
        reply: SyncSender<Result<B256, RpcError>>,
    },
    /// Mines `blocks` blocks, empty if nothing waits; the first at `timestamp_s` if given.
    Mine {
        blocks: u64,
        timestamp_s: Option<u64>,
        reply: SyncSender<Result<(), RpcError>>,
    },
    /// The timestamp of the next block, in Unix seconds; later blocks go on from there.
    SetNextTimestamp {
        timestamp_s: u64,
        reply: SyncSender<Result<(), RpcError>>,
    },
    Stop,
}

/// A submitter that waits for its block or for durability.
#[derive(Debug)]
struct Waiter {
    hash: B256,
    reply: SyncSender<Result<B256, RpcError>>,
}

#[derive(Debug)]
pub(crate) struct Sequencer {
    store: Store,
    shared: Arc<Shared>,
    mining: Mining,
    next_timestamp_s: Option<u64>,
    /// Set for good by the first failure of the store.
    failed: Option<RpcError>,
    /// Admitted since the last durable write.
    admitted: Vec<Arc<Pending>>,
    /// Left the pool since the last durable write.
    settled: Vec<Arc<Pending>>,
    /// Accepted, then found invalid by execution.
    invalid: BTreeMap<B256, String>,
    waiters: Vec<Waiter>,
}

impl Sequencer {
    pub(crate) fn new(store: Store, shared: Arc<Shared>, mining: Mining) -> Self {
        Self {
            store,
            shared,
            mining,
            next_timestamp_s: None,
            failed: None,
            admitted: Vec::new(),
            settled: Vec::new(),
            invalid: BTreeMap::new(),
            waiters: Vec::new(),
        }
    }

    /// Works until it is told to stop or nobody can send commands any more.
    pub(crate) fn run(mut self, commands: &Receiver<Command>) {
        // What waited before a restart and still can be mined is mined without being asked for again.
        if let Err(error) = self.tidy() {
            self.fail(&error);
        }
        self.flush(self.mining == Mining::OnDemand);
        let mut next_tick = self.next_tick();
        loop {
            let first = match next_tick {
                None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(tick) => commands.recv_timeout(tick.saturating_duration_since(Instant::now())),
            };
            let stop = match first {
                Ok(command) => self.take_all(command, commands),
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            let due = next_tick.is_some_and(|tick| Instant::now() >= tick);
            self.flush(due || self.mining == Mining::OnDemand);
            if due {
                next_tick = self.next_tick();
            }
            if stop {
                break;
            }
        }
        self.shared.close();
    }

    fn next_tick(&self) -> Option<Instant> {
        match self.mining {
            Mining::OnDemand => None,
            Mining::Every { interval_ms } => {
                Some(Instant::now() + Duration::from_millis(interval_ms.max(1)))
            }
        }
    }

    /// Handles `first` and whatever else has arrived; true when it was told to stop.
    fn take_all(&mut self, first: Command, commands: &Receiver<Command>) -> bool {
        let more = commands.try_iter().take(MAX_QUEUED_COMMANDS);
        for command in std::iter::once(first).chain(more) {
            match command {
                Command::Submit {
                    transaction,
                    raw,
                    reply,
                } => self.submit(*transaction, raw, reply),
                Command::Mine {
                    blocks,
                    timestamp_s,
                    reply,
                } => {
                    let outcome = self.mine_now(blocks, timestamp_s);
                    answer(&reply, outcome);
                }
                Command::SetNextTimestamp { timestamp_s, reply } => {
                    let outcome = self.set_next_timestamp(timestamp_s);
                    answer(&reply, outcome);
                }
                Command::Stop => return true,
            }
        }
        false
    }

    fn submit(
        &mut self,
        transaction: Recovered<TxEnvelope>,
        raw: Bytes,
        reply: SyncSender<Result<B256, RpcError>>,
    ) {
        match self.admit(transaction, raw) {
            Ok(hash) => self.waiters.push(Waiter { hash, reply }),
            Err(error) => answer(&reply, Err(error)),
        }
    }

    fn admit(&mut self, transaction: Recovered<TxEnvelope>, raw: Bytes) -> Result<B256, RpcError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let head = self.shared.head()?;
        let account = StateAt::latest(&head).account(transaction.signer())?;
        let sender = SenderState {
            nonce: account.nonce,
            balance: account.balance,
        };
        let now_ms = self.shared.environment().now_ms();
        let admitted = self
            .shared
            .pool()
            .admit(transaction, raw, sender, now_ms)
            .map_err(|error| reject(&error))?;
        let hash = admitted.pending.hash;
        for dropped in admitted.dropped {
            self.settle_early(&dropped);
            self.invalid.insert(dropped.hash, DROPPED.to_owned());
            self.settled.push(dropped);
        }
        if let Some(replaced) = admitted.replaced {
            self.settle_early(&replaced);
            self.settled.push(replaced);
        }
        self.admitted.push(admitted.pending);
        Ok(hash)
    }

    /// Rechecks the pool, and drops transactions that can no longer be mined or have waited too long.
    fn tidy(&mut self) -> Result<(), StoreError> {
        let Ok(head) = self.shared.head() else {
            return Ok(());
        };
        let state = StateAt::latest(&head);
        let senders: Vec<_> = self.shared.pool().senders().collect();
        let mut accounts = BTreeMap::new();
        for sender in senders {
            let account = state.account(sender)?;
            let (nonce, balance) = (account.nonce, account.balance);
            accounts.insert(sender, SenderState { nonce, balance });
        }
        let now_ms = self.shared.environment().now_ms();
        let dropped = self.shared.pool().tidy(now_ms, &accounts);
        for pending in dropped {
            self.settle_early(&pending);
            let reason = || DROPPED.to_owned();
            self.invalid.entry(pending.hash).or_insert_with(reason);
            self.settled.push(pending);
        }
        Ok(())
    }

    /// A transaction replaced before it was ever written must not be written afterwards.
    fn settle_early(&mut self, replaced: &Pending) {
        self.admitted
            .retain(|pending| pending.sequence != replaced.sequence);
    }

    /// Makes everything taken so far durable, mining what is ready if `mine`, and answers those who wait.
    fn flush(&mut self, mine: bool) {
        if self.failed.is_none() {
            let mined = |chain: &mut Self| chain.mine_ready().and_then(|()| chain.tidy());
            let outcome = if mine { mined(self) } else { Ok(()) };
            if let Err(error) = outcome.and_then(|()| self.write_pool()) {
                self.fail(&error);
            }
        }
        let invalid = std::mem::take(&mut self.invalid);
        for waiter in std::mem::take(&mut self.waiters) {
            let outcome = match (&self.failed, invalid.get(&waiter.hash)) {
                (Some(error), _) => Err(error.clone()),
                (None, Some(reason)) => Err(RpcError::rejected(reason.clone())),
                (None, None) => {
                    self.shared.announce(waiter.hash);
                    Ok(waiter.hash)
                }
            };
            answer(&waiter.reply, outcome);
        }
    }

    /// Mines blocks until nothing is ready.
    fn mine_ready(&mut self) -> Result<(), StoreError> {
        while self.mine_block(false)? {}
        Ok(())
    }

    fn mine_now(&mut self, blocks: u64, timestamp_s: Option<u64>) -> Result<(), RpcError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if let Some(timestamp_s) = timestamp_s {
            self.set_next_timestamp(timestamp_s)?;
        }
        for _ in 0..blocks {
            if let Err(error) = self.mine_block(true) {
                self.fail(&error);
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn set_next_timestamp(&mut self, timestamp_s: u64) -> Result<(), RpcError> {
        let head = self.shared.head()?.head().timestamp;
        if timestamp_s < head {
            return Err(RpcError::rejected(format!(
                "timestamp {timestamp_s} is before the newest block's, which is {head}; give a later one"
            )));
        }
        if timestamp_s > MAX_TIMESTAMP_S {
            return Err(RpcError::rejected(format!(
                "timestamp {timestamp_s} is beyond {MAX_TIMESTAMP_S}"
            )));
        }
        self.next_timestamp_s = Some(timestamp_s);
        Ok(())
    }

    /// Mines one block if something is ready, or anyway if `even_empty`; false when there was none to mine.
    fn mine_block(&mut self, even_empty: bool) -> Result<bool, StoreError> {
        let Ok(head) = self.shared.head() else {
            return Ok(false);
        };
        let state = StateAt::latest(&head);
        let ready = self.ready(&state)?;
        if ready.is_empty() && !even_empty {
            return Ok(false);
        }
        if let Some(timestamp_s) = self.next_timestamp_s {
            self.shared.shift_time_to(timestamp_s);
        }
        let timestamp = self
            .next_timestamp_s
            .unwrap_or_else(|| self.shared.now_s())
            .max(head.head().timestamp);
        let builder = BlockBuilder::new(
            state,
            self.shared.chain_id(),
            head.head().clone(),
            timestamp,
        );
        let (block, settled) = self.fill(builder, ready)?;
        if block.transactions.is_empty() && !even_empty {
            self.drop_settled(settled);
            return Ok(false);
        }
        self.write(Some(&block), settled)?;
        self.next_timestamp_s = None;
        Ok(true)
    }

    /// For each sender its first transaction that can be mined, by order of arrival. Those that the chain has
    /// passed (an authorization can raise a nonce) are settled on the way.
    fn ready(&mut self, state: &StateAt) -> Result<BTreeMap<u64, Arc<Pending>>, StoreError> {
        let shared = Arc::clone(&self.shared);
        let pool = shared.pool();
        let mut ready = BTreeMap::new();
        for sender in pool.senders() {
            let nonce = state.account(sender)?.nonce;
            for passed in pool.passed(sender, nonce) {
                let reason = AdmitError::NonceTooLow {
                    next: nonce,
                    nonce: passed.transaction.nonce(),
                };
                self.invalid.insert(passed.hash, reason.to_string());
                self.settled.push(passed);
            }
            if let Some(pending) = pool.at(sender, nonce) {
                ready.insert(pending.sequence, pending);
            }
        }
        Ok(ready)
    }

    /// Executes what is ready, each sender's nonces in turn, until the block is full or nothing is left.
    fn fill(
        &mut self,
        mut builder: BlockBuilder<StateAt>,
        mut ready: BTreeMap<u64, Arc<Pending>>,
    ) -> Result<(ExecutedBlock, Vec<Arc<Pending>>), StoreError> {
        let mut settled = Vec::new();
        while let Some((_, pending)) = ready.pop_first() {
            match builder.apply(pending.hash, &pending.transaction, &pending.raw)? {
                Applied::Included => {
                    let next = pending
                        .next_nonce()
                        .and_then(|(sender, nonce)| self.shared.pool().at(sender, nonce));
                    ready.extend(next.map(|next| (next.sequence, next)));
                }
                Applied::Invalid(reason) => {
                    self.invalid.insert(pending.hash, reason);
                }
                Applied::Full => break,
            }
            settled.push(pending);
        }
        Ok((builder.seal(), settled))
    }

    /// Makes pool changes durable that came with no block.
    fn write_pool(&mut self) -> Result<(), StoreError> {
        if self.admitted.is_empty() && self.settled.is_empty() {
            return Ok(());
        }
        self.write(None, Vec::new())
    }

    /// One durable write of a block and of the pool's changes; then readers see it.
    fn write(
        &mut self,
        block: Option<&ExecutedBlock>,
        settled: Vec<Arc<Pending>>,
    ) -> Result<(), StoreError> {
        self.settled.extend(settled);
        let gone: BTreeSet<u64> = self
            .settled
            .iter()
            .map(|pending| pending.sequence)
            .collect();
        let admitted = self
            .admitted
            .iter()
            .filter(|pending| !gone.contains(&pending.sequence))
            .map(|pending| StoredPending {
                sequence: pending.sequence,
                sender: pending.transaction.signer(),
                raw: pending.raw.clone(),
            })
            .collect();
        self.store.commit(&Commit {
            block,
            admitted,
            settled: gone.into_iter().collect(),
        })?;
        self.admitted.clear();
        if block.is_some() {
            // The block first, the pool after: a reader that looks into the pool first misses nothing.
            self.shared.publish(self.store.snapshot()?);
        }
        let settled = std::mem::take(&mut self.settled);
        self.forget(&settled);
        Ok(())
    }

    fn drop_settled(&mut self, settled: Vec<Arc<Pending>>) {
        self.forget(&settled);
        self.settled.extend(settled);
    }

    fn forget(&self, settled: &[Arc<Pending>]) {
        let mut pool = self.shared.pool();
        for pending in settled {
            pool.remove(pending);
        }
    }

    fn fail(&mut self, error: &StoreError) {
        tracing::error!(
            error = %error.with_causes(),
            "the embedded chain's store failed; it accepts nothing until a restart"
        );
        self.failed = Some(RpcError::from_store(error));
    }
}

/// A caller that went away needs no answer.
fn answer<T>(reply: &SyncSender<Result<T, RpcError>>, outcome: Result<T, RpcError>) {
    drop(reply.try_send(outcome));
}

fn reject(error: &AdmitError) -> RpcError {
    match error {
        AdmitError::Full | AdmitError::SenderFull => RpcError::limit_exceeded(error.to_string()),
        other => RpcError::rejected(other.to_string()),
    }
}
