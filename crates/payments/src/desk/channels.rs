//! The channels' machines, what waits for them, and what they let out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hearth_causes::WithCauses;
use hearth_environment::Environment;
use hearth_protocol::channel::CheckedDeposit;
use hearth_protocol::channel::provider::{
    ChannelEffect, ChannelEvent, Moment, PaymentStatement, ProviderChannel, ProviderRecord,
    RequestId, Sight,
};
use hearth_protocol::eip712::deposit_nonce;
use hearth_protocol::id::{AssetId, ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::task::{Errand, Job, SentDeposit};
use super::{
    Admission, Alongside, Charged, Desk, PROVIDER_CHANNELS, Refusal, StoredChannel, Ticket,
};
use crate::escrow::{Escrow, Escrows};
use crate::store::{Batch, Done, Store, StoreError};

/// Channels that are kept in memory while nothing happens on them.
const IDLE_CHANNELS_MAX: usize = 4_096;

/// The caller that waits for what becomes of a request.
pub(super) enum Waiter {
    Admission(oneshot::Sender<Admission>, Arc<OwnedSemaphorePermit>),
    Early(oneshot::Sender<PaymentStatement>),
    Charge(oneshot::Sender<Charged>, Option<Alongside>),
}

/// A channel that is in memory.
struct Open {
    chain: ChainId,
    escrow: Arc<Escrow>,
    machine: ProviderChannel,
    /// Commits under way: what the machine says meanwhile waits for them too, and it stays in memory.
    commits: Arc<AtomicUsize>,
}

impl Open {
    fn is_written(&self) -> bool {
        self.commits.load(Ordering::Acquire) == 0
    }

    fn can_be_forgotten(&self) -> bool {
        self.machine.is_idle() && self.is_written()
    }

    /// A channel that never paid is anyone's invention: it is not kept for a moment.
    fn is_strangers(&self) -> bool {
        self.can_be_forgotten() && !self.machine.has_paid()
    }
}

/// The channels of a desk.
pub(super) struct Channels {
    store: Store,
    escrows: Escrows,
    environment: Arc<dyn Environment>,
    run: u64,
    open: BTreeMap<ChannelId, Open>,
    waiting: BTreeMap<RequestId, Waiter>,
    last_request: u64,
    /// Up to when each chain is followed.
    heard: BTreeMap<ChainId, Sight>,
    is_stopped: bool,
}

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channels")
            .field("open", &self.open.len())
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

/// Something that leaves the machines.
enum Release {
    Admission(oneshot::Sender<Admission>, Box<Admission>),
    Early(oneshot::Sender<PaymentStatement>, PaymentStatement),
    Charge(oneshot::Sender<Charged>, Charged),
    Written(oneshot::Sender<()>),
    Errand(Errand),
    /// A commit that the store did not take.
    Untaken(Done),
}

/// What leaves once nobody holds the channels.
pub(super) struct Releases {
    desk: Desk,
    free: Vec<Release>,
    /// The store, if something was queued there.
    queued: Option<Store>,
}

impl Releases {
    pub(super) fn new(desk: Desk) -> Self {
        Self {
            desk,
            free: Vec::new(),
            queued: None,
        }
    }

    pub(super) fn let_out(self) {
        for release in self.free {
            release.let_out(&self.desk);
        }
        match self.queued {
            // To wake a thread and to be woken by it would take a lone request as long as half the write.
            Some(store) if self.desk.requests() <= 1 => store.write_here(),
            Some(store) => store.write(),
            None => {}
        }
    }
}

impl Release {
    fn let_out(self, desk: &Desk) {
        // The caller may have stopped waiting. A ticket that nobody takes is dropped, and so aborts the request.
        match self {
            Self::Admission(answer, admission) => drop(answer.send(*admission)),
            Self::Early(answer, statement) => drop(answer.send(statement)),
            Self::Charge(answer, charged) => drop(answer.send(charged)),
            Self::Written(answer) => drop(answer.send(())),
            Self::Errand(errand) => desk.run_errand(errand),
            Self::Untaken(done) => done(Err(StoreError::Stopped)),
        }
    }
}

impl Channels {
    pub(super) fn new(
        store: Store,
        escrows: Escrows,
        environment: Arc<dyn Environment>,
        run: u64,
    ) -> Self {
        Self {
            store,
            escrows,
            environment,
            run,
            open: BTreeMap::new(),
            waiting: BTreeMap::new(),
            last_request: 0,
            heard: BTreeMap::new(),
            is_stopped: false,
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Takes nothing any more. Returns those who wait, who hear of it when this is dropped: that must not be while
    /// the channels are locked.
    pub(super) fn stop(&mut self) -> BTreeMap<RequestId, Waiter> {
        self.is_stopped = true;
        std::mem::take(&mut self.waiting)
    }

    pub(super) fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    /// Names a request, and who waits for it.
    pub(super) fn expect(&mut self, waiter: Waiter) -> RequestId {
        let request = self.next_request();
        self.wait_for(request, waiter);
        request
    }

    pub(super) fn wait_for(&mut self, request: RequestId, waiter: Waiter) {
        self.waiting.insert(request, waiter);
    }

    pub(super) fn hear(&mut self, chain: ChainId, sight: Option<Sight>) {
        match sight {
            Some(sight) => self.heard.insert(chain, sight),
            None => self.heard.remove(&chain),
        };
    }

    pub(super) fn miss(&mut self, chain: ChainId) {
        self.heard.remove(&chain);
        // What this run wrote so far counts no more than what an earlier one did.
        self.run = self.run.wrapping_add(1);
        let on_chain = self.open.values_mut().filter(|open| open.chain == chain);
        on_chain.for_each(|open| open.machine.doubt());
    }

    /// The channels on which somebody waits. Forgets those of strangers whose last commit has ended.
    pub(super) fn busy(&mut self) -> Vec<ChannelId> {
        self.open.retain(|_, open| !open.is_strangers());
        let busy = self.open.iter().filter(|(_, open)| !open.machine.is_idle());
        busy.map(|(channel, _)| *channel).collect()
    }

    /// Makes sure that the channel's machine is in memory; `unknown` is its record if it is new.
    /// `false` if this node does not use its chain.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn open(
        &mut self,
        chain: ChainId,
        channel: ChannelId,
        unknown: impl FnOnce() -> ProviderRecord,
    ) -> Result<bool, StoreError> {
        if self.open_stored(channel)? {
            return Ok(true);
        }
        Ok(self.take_up(chain, channel, || {
            ProviderChannel::restored(channel, unknown())
        }))
    }

    /// The same for a channel that this node knows; `false` if it does not.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn open_stored(&mut self, channel: ChannelId) -> Result<bool, StoreError> {
        if self.open.contains_key(&channel) {
            return Ok(true);
        }
        let stored: Option<StoredChannel> =
            self.store.get(PROVIDER_CHANNELS, channel.0.as_slice())?;
        let Some(stored) = stored else {
            return Ok(false);
        };
        let is_of_this_run = stored.saved_by == self.run;
        Ok(self.take_up(stored.chain, channel, || {
            if is_of_this_run {
                ProviderChannel::resumed(channel, stored.record)
            } else {
                ProviderChannel::restored(channel, stored.record)
            }
        }))
    }

    fn take_up(
        &mut self,
        chain: ChainId,
        channel: ChannelId,
        machine: impl FnOnce() -> ProviderChannel,
    ) -> bool {
        let Some(escrow) = self.escrows.get(chain) else {
            return false;
        };
        if self.open.len() >= IDLE_CHANNELS_MAX {
            self.open.retain(|_, open| !open.can_be_forgotten());
        }
        let open = Open {
            chain,
            escrow,
            machine: machine(),
            commits: Arc::default(),
        };
        self.open.insert(channel, open);
        true
    }

    /// Tells a channel's machine what happened. What it lets out leaves when what it keeps is durable.
    ///
    /// # Errors
    /// When what it keeps cannot be written.
    pub(super) fn feed(
        &mut self,
        channel: ChannelId,
        event: ChannelEvent,
        releases: &mut Releases,
    ) -> Result<(), StoreError> {
        self.feed_and_forget(channel, event, None, releases)
    }

    /// The same; `deposit` is forgotten once what the machine keeps of it is durable.
    pub(super) fn feed_and_forget(
        &mut self,
        channel: ChannelId,
        event: ChannelEvent,
        deposit: Option<SentDeposit>,
        releases: &mut Releases,
    ) -> Result<(), StoreError> {
        let now = Timestamp(self.environment.now_ms());
        let Some(open) = self.open.get_mut(&channel) else {
            return Ok(());
        };
        let heard = self.heard.get(&open.chain).copied();
        let mut effects = Vec::new();
        open.machine
            .handle(Moment { now, heard }, event, &mut effects);
        let (chain, commits) = (open.chain, Arc::clone(&open.commits));
        let mut batch = Batch::default();
        let mut leaving = Vec::new();
        for effect in effects {
            if let ChannelEffect::Persist(record) = effect {
                let stored = StoredChannel {
                    chain,
                    record: *record,
                    saved_by: self.run,
                };
                batch.put(PROVIDER_CHANNELS, channel.0.as_slice(), &stored)?;
            } else {
                let desk = &releases.desk;
                leaving.extend(self.release(desk, channel, effect, &mut batch)?);
            }
        }
        leaving.extend(deposit.map(|sent| Release::Errand(Errand::Forget(sent))));
        if batch.is_empty() && commits.load(Ordering::Acquire) == 0 {
            // Nothing becomes durable for these: they need not wait for others.
            releases.free.append(&mut leaving);
        } else {
            commits.fetch_add(1, Ordering::AcqRel);
            self.commit(batch, leaving, Some(commits), releases);
        }
        if self.open.get(&channel).is_some_and(Open::is_strangers) {
            self.open.remove(&channel);
        }
        Ok(())
    }

    /// Answers when everything that was handed to the store before is durable.
    pub(super) fn after_all(&self, answer: oneshot::Sender<()>, releases: &mut Releases) {
        let written = vec![Release::Written(answer)];
        self.commit(Batch::default(), written, None, releases);
    }

    fn commit(
        &self,
        batch: Batch,
        leaving: Vec<Release>,
        commits: Option<Arc<AtomicUsize>>,
        releases: &mut Releases,
    ) {
        let desk = releases.desk.clone();
        let done = move |outcome: Result<(), StoreError>| {
            if let Some(commits) = commits {
                commits.fetch_sub(1, Ordering::AcqRel);
            }
            match outcome {
                Ok(()) => leaving
                    .into_iter()
                    .for_each(|release| release.let_out(&desk)),
                Err(error) => desk.run_errand(Errand::Stop(error)),
            }
        };
        match self.store.submit(batch, Box::new(done)) {
            Ok(()) => releases.queued = Some(self.store.clone()),
            Err(done) => releases.free.push(Release::Untaken(done)),
        }
    }

    pub(super) fn refuse(&mut self, request: RequestId, code: ErrorCode, releases: &mut Releases) {
        let refusal = Refusal {
            code,
            correction: None,
        };
        let answer = self.answer(request, |_| Admission::Refused(refusal));
        releases.free.extend(answer);
    }

    /// What leaves for an effect, and what must become durable together with it.
    fn release(
        &mut self,
        desk: &Desk,
        channel: ChannelId,
        effect: ChannelEffect,
        batch: &mut Batch,
    ) -> Result<Option<Release>, StoreError> {
        Ok(match effect {
            ChannelEffect::Persist(_) => unreachable!("records are taken out before"),
            ChannelEffect::ReadChain => self.read_chain(channel),
            ChannelEffect::SendDeposit { request, deposit } => {
                self.send_deposit(channel, request, deposit)
            }
            ChannelEffect::SendRefund {
                request,
                claim,
                amount,
                nonce,
            } => self.open.get(&channel).map(|open| {
                let (escrow, config) = (Arc::clone(&open.escrow), open.machine.record().config);
                let worth = self.coin_worth(open);
                job(channel, unsettled(request), None, async move {
                    let claim = claim.map(|row| *row);
                    let refund = escrow.refund(&config, channel, claim, amount, nonce, worth);
                    let outcome = refund.await;
                    ChannelEvent::Done { request, outcome }
                })
            }),
            ChannelEffect::Admit { request } => {
                let desk = desk.clone();
                self.answer(request, |place| {
                    Admission::Admitted(Ticket {
                        desk,
                        channel,
                        request,
                        on_drop: None,
                        spent: false,
                        place,
                    })
                })
            }
            ChannelEffect::StateEarly { request, statement } => match self.waiting.remove(&request)
            {
                Some(Waiter::Early(answer)) => Some(Release::Early(answer, statement)),
                _ => None,
            },
            ChannelEffect::Charged {
                request,
                amount,
                statement,
            } => {
                let charged = Charged { amount, statement };
                self.charged(request, charged, batch)?
            }
            ChannelEffect::Refunded { request, statement } => {
                self.answer(request, |_| Admission::Refunded(statement))
            }
            ChannelEffect::Refuse {
                request,
                code,
                correction,
            } => self.answer(request, |_| {
                Admission::Refused(Refusal { code, correction })
            }),
        })
    }

    fn charged(
        &mut self,
        request: RequestId,
        charged: Charged,
        batch: &mut Batch,
    ) -> Result<Option<Release>, StoreError> {
        let Some(Waiter::Charge(answer, alongside)) = self.waiting.remove(&request) else {
            return Ok(None);
        };
        if let Some(alongside) = alongside {
            batch.append(alongside(&charged)?);
        }
        Ok(Some(Release::Charge(answer, charged)))
    }

    fn answer(
        &mut self,
        request: RequestId,
        admission: impl FnOnce(Arc<OwnedSemaphorePermit>) -> Admission,
    ) -> Option<Release> {
        match self.waiting.remove(&request) {
            Some(Waiter::Admission(answer, place)) => {
                Some(Release::Admission(answer, Box::new(admission(place))))
            }
            _ => None,
        }
    }

    fn send_deposit(
        &self,
        channel: ChannelId,
        request: RequestId,
        deposit: CheckedDeposit,
    ) -> Option<Release> {
        let open = self.open.get(&channel)?;
        let (escrow, config) = (Arc::clone(&open.escrow), open.machine.record().config);
        let worth = self.coin_worth(open);
        let sent = SentDeposit {
            escrow: Arc::clone(&escrow),
            nonce: deposit_nonce(channel, deposit.authorization.salt),
        };
        Some(job(channel, unsettled(request), Some(sent), async move {
            let outcome = escrow.deposit(&config, channel, &deposit, worth).await;
            ChannelEvent::Done { request, outcome }
        }))
    }

    /// What a coin of the channel's chain is worth in its token.
    fn coin_worth(&self, open: &Open) -> Option<Amount> {
        let token = open.machine.record().config.token;
        let chain = open.chain;
        self.escrows.coin_worth(AssetId { chain, token })
    }

    fn read_chain(&self, channel: ChannelId) -> Option<Release> {
        let escrow = Arc::clone(&self.open.get(&channel)?.escrow);
        Some(job(channel, ChannelEvent::ReadFailed, None, async move {
            match escrow.look(channel).await {
                Ok((state, sight)) => ChannelEvent::Onchain { state, sight },
                Err(error) => {
                    tracing::warn!(error = %error.with_causes(), %channel, "a channel could not be read");
                    ChannelEvent::ReadFailed
                }
            }
        }))
    }
}

fn job(
    channel: ChannelId,
    failure: ChannelEvent,
    deposit: Option<SentDeposit>,
    work: impl Future<Output = ChannelEvent> + Send + 'static,
) -> Release {
    Release::Errand(Errand::Job(Box::new(Job {
        channel,
        failure,
        deposit,
        work: Box::pin(work),
    })))
}

/// What a channel is told where the task of its transaction failed.
fn unsettled(request: RequestId) -> ChannelEvent {
    ChannelEvent::Done {
        request,
        outcome: Err(ErrorCode::UnexpectedSettle),
    }
}
