//! The desk: the one owner of the channels on which this node is paid.
//!
//! Requests reach it as messages; it feeds them to the channels' machines, makes what must not be
//! forgotten durable in one commit for all that wait, and only then lets the other effects out.
//! While a commit runs, further messages gather, so that the disk is synced once for many.
//!
//! A channel is taken up only together with the way to its chain: one whose chain this node does not
//! use cannot wait for a reading or a transaction that never comes.

mod stored;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use hearth_chain::client::Environment;
use hearth_protocol::channel::provider::{
    Channel, Correction, Effect, Event, Moment, Quote, Record, RequestId, Sight, Statement,
};
use hearth_protocol::channel::{CheckedDeposit, CheckedPayment, OnchainState};
use hearth_protocol::eip712::{ChannelConfig, deposit_nonce};
use hearth_protocol::id::{AssetId, ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::ErrorCode;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tracing::{error, warn};

use super::escrow::{Escrow, Escrows};
use crate::store::{Batch, Store, StoreError, Table};
pub use stored::StoredChannel;

/// Messages that are taken up together at most.
const TURN_MESSAGES_MAX: usize = 512;
/// Channels that are kept in memory while nothing happens on them.
const IDLE_CHANNELS_MAX: usize = 4_096;
/// How often those who wait are looked at, in milliseconds.
const TICK_MS: u64 = 1_000;
/// Requests that are waited for or worked on at once; more are told that the desk is busy. Each has
/// few messages under way, so this bounds the queue.
const REQUESTS_MAX: usize = 8_192;

/// Why the desk does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the payment desk has stopped, because the store failed or the node is shutting down")]
pub struct DeskStopped;

/// What became of a payment.
#[derive(Debug)]
pub enum Admission {
    /// Work may begin.
    Admitted(Ticket),
    /// The refund that was asked for is done.
    Refunded(Statement),
    /// The payment is refused.
    Refused(Refusal),
}

/// Why a payment is refused, and how an honest payer recovers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: ErrorCode,
    /// From which a payer recovers, where it can.
    pub correction: Option<Box<Correction>>,
}

/// A charge that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charged {
    /// What the request was charged.
    pub amount: Amount,
    /// What to state.
    pub statement: Statement,
}

/// What else must become durable with a charge, made from what the charge states.
pub type Alongside = Box<dyn FnOnce(&Charged) -> Result<Batch, StoreError> + Send>;

enum Message {
    Pay {
        chain: ChainId,
        payment: Box<CheckedPayment>,
        quote: Quote,
        answer: oneshot::Sender<Admission>,
        place: Arc<OwnedSemaphorePermit>,
    },
    Split {
        channel: ChannelId,
        request: RequestId,
        need: Amount,
        answer: oneshot::Sender<RequestId>,
    },
    StateEarly {
        channel: ChannelId,
        request: RequestId,
        answer: oneshot::Sender<Statement>,
    },
    Charge {
        channel: ChannelId,
        request: RequestId,
        amount: Amount,
        answer: Option<ChargeWaiter>,
    },
    Abort {
        channel: ChannelId,
        request: RequestId,
    },
    Onchain {
        channel: ChannelId,
        state: OnchainState,
        sight: Sight,
    },
    Heard {
        chain: ChainId,
        sight: Option<Sight>,
    },
    Missed {
        chain: ChainId,
    },
    Known {
        channels: BTreeSet<ChannelId>,
        answer: oneshot::Sender<BTreeSet<ChannelId>>,
    },
    Publish {
        channel: ChannelId,
        max_claimable: Amount,
        answer: oneshot::Sender<()>,
    },
    Written {
        answer: oneshot::Sender<()>,
    },
}

/// A message, and its place in the queue until it is taken.
struct Sent {
    message: Message,
    _place: Option<OwnedSemaphorePermit>,
}

/// A handle to the desk. Clones share it.
#[derive(Debug, Clone)]
pub struct Desk {
    // A ticket must be able to say its last word while it is dropped, when it cannot wait. So the
    // places bound the queue: a message has one until it is taken, a request until it has ended.
    messages: mpsc::UnboundedSender<Sent>,
    places: Arc<Semaphore>,
}

/// The right to work on a request, and the duty to say what came of it.
///
/// A ticket that is dropped says it too: nothing is charged, unless [`Ticket::charge_on_drop`]
/// named an amount for what had been delivered by then.
#[derive(Debug)]
pub struct Ticket {
    desk: Desk,
    channel: ChannelId,
    request: RequestId,
    on_drop: Option<Amount>,
    spent: bool,
    place: Arc<OwnedSemaphorePermit>,
}

impl Desk {
    /// A desk over `store`, and the task that must be run for it.
    pub fn new(
        store: Store,
        escrows: Escrows,
        environment: Arc<dyn Environment>,
        run: u64,
    ) -> (Self, DeskTask) {
        let (messages, inbox) = mpsc::unbounded_channel();
        let places = Arc::new(Semaphore::new(REQUESTS_MAX));
        let desk = Self { messages, places };
        let task = DeskTask {
            desk: desk.clone(),
            inbox,
            store,
            escrows,
            environment,
            run,
            channels: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_request: 0,
            jobs: JoinSet::new(),
            failures: HashMap::new(),
            heard: BTreeMap::new(),
            sent: BTreeMap::new(),
        };
        (desk, task)
    }

    /// Offers a payment and waits until it is admitted, refunded or refused.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub async fn pay(
        &self,
        chain: ChainId,
        payment: CheckedPayment,
        quote: Quote,
    ) -> Result<Admission, DeskStopped> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Ok(Admission::Refused(Refusal {
                code: ErrorCode::ChannelBusy,
                correction: None,
            }));
        };
        let (answer, wait) = oneshot::channel();
        let payment = Box::new(payment);
        self.send(Message::Pay {
            chain,
            payment,
            quote,
            answer,
            place: Arc::new(place),
        })?;
        wait.await.map_err(|_| DeskStopped)
    }

    /// Says what the chain has for a channel now.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub async fn observe(
        &self,
        channel: ChannelId,
        (state, sight): (OnchainState, Sight),
    ) -> Result<(), DeskStopped> {
        self.send_in_turn(Message::Onchain {
            channel,
            state,
            sight,
        })
        .await
    }

    /// Says up to when everything that happened on a chain was told by [`Desk::observe`]; nothing
    /// where that is not known any more.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub async fn hear(&self, chain: ChainId, sight: Option<Sight>) -> Result<(), DeskStopped> {
        self.send_in_turn(Message::Heard { chain, sight }).await
    }

    /// Says that nobody knows which channels of a chain changed: each is read before it counts again.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub async fn miss(&self, chain: ChainId) -> Result<(), DeskStopped> {
        self.send_in_turn(Message::Missed { chain }).await
    }

    /// Those of `channels` on which this node is or may be paid.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub async fn known(
        &self,
        channels: BTreeSet<ChannelId>,
    ) -> Result<BTreeSet<ChannelId>, DeskStopped> {
        let (answer, wait) = oneshot::channel();
        self.send_in_turn(Message::Known { channels, answer })
            .await?;
        wait.await.map_err(|_| DeskStopped)
    }

    /// Notes that the voucher with this maximum leaves this node. When this returns the note is
    /// durable, and the voucher starts nothing any more.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub async fn publish(
        &self,
        channel: ChannelId,
        max_claimable: Amount,
    ) -> Result<(), DeskStopped> {
        let (answer, wait) = oneshot::channel();
        self.send_in_turn(Message::Publish {
            channel,
            max_claimable,
            answer,
        })
        .await?;
        wait.await.map_err(|_| DeskStopped)
    }

    /// Returns when everything that the desk was told before is durable.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub async fn written(&self) -> Result<(), DeskStopped> {
        let (answer, wait) = oneshot::channel();
        self.send_in_turn(Message::Written { answer }).await?;
        wait.await.map_err(|_| DeskStopped)
    }

    /// Sends a message once there is a place for it.
    async fn send_in_turn(&self, message: Message) -> Result<(), DeskStopped> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| DeskStopped)?;
        let sent = Sent {
            message,
            _place: Some(place),
        };
        self.messages.send(sent).map_err(|_| DeskStopped)
    }

    /// Sends a message of a request, which has its place.
    fn send(&self, message: Message) -> Result<(), DeskStopped> {
        let sent = Sent {
            message,
            _place: None,
        };
        self.messages.send(sent).map_err(|_| DeskStopped)
    }
}

impl Ticket {
    /// What the headers of a reply must state whose charge is not known yet.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub async fn state_early(&self) -> Result<Statement, DeskStopped> {
        let (answer, wait) = oneshot::channel();
        let (channel, request) = (self.channel, self.request);
        self.desk.send(Message::StateEarly {
            channel,
            request,
            answer,
        })?;
        wait.await.map_err(|_| DeskStopped)
    }

    /// Charges, and returns when the charge is durable, together with what `alongside` adds: a
    /// reply that is kept with its charge cannot be lost to a crash in between.
    ///
    /// # Errors
    /// When the desk has stopped: then nothing is promised about this charge.
    pub async fn charge(
        mut self,
        amount: Amount,
        alongside: Option<Alongside>,
    ) -> Result<Charged, DeskStopped> {
        self.spent = true;
        let (answer, wait) = oneshot::channel();
        let (channel, request) = (self.channel, self.request);
        let answer = Some(ChargeWaiter { answer, alongside });
        self.desk.send(Message::Charge {
            channel,
            request,
            amount,
            answer,
        })?;
        wait.await.map_err(|_| DeskStopped)
    }

    /// Takes `need` of what this ticket may be charged into a ticket of its own.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub async fn split(&self, need: Amount) -> Result<Self, DeskStopped> {
        let (answer, wait) = oneshot::channel();
        let (channel, request) = (self.channel, self.request);
        self.desk.send(Message::Split {
            channel,
            request,
            need,
            answer,
        })?;
        let request = wait.await.map_err(|_| DeskStopped)?;
        Ok(Self {
            desk: self.desk.clone(),
            channel,
            request,
            on_drop: None,
            spent: false,
            place: Arc::clone(&self.place),
        })
    }

    /// What to charge if this ticket is dropped before it is charged.
    pub fn charge_on_drop(&mut self, amount: Amount) {
        self.on_drop = Some(amount);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.spent {
            return;
        }
        let (channel, request) = (self.channel, self.request);
        let message = match self.on_drop {
            Some(amount) => Message::Charge {
                channel,
                request,
                amount,
                answer: None,
            },
            None => Message::Abort { channel, request },
        };
        // A desk that has stopped has forgotten the request anyway.
        let _ = self.desk.send(message);
    }
}

struct ChargeWaiter {
    answer: oneshot::Sender<Charged>,
    alongside: Option<Alongside>,
}

enum Waiter {
    Admission(oneshot::Sender<Admission>, Arc<OwnedSemaphorePermit>),
    Early(oneshot::Sender<Statement>),
    Charge(ChargeWaiter),
}

struct Open {
    chain: ChainId,
    escrow: Arc<Escrow>,
    machine: Channel,
}

/// The desk's task.
pub struct DeskTask {
    desk: Desk,
    inbox: mpsc::UnboundedReceiver<Sent>,
    store: Store,
    escrows: Escrows,
    environment: Arc<dyn Environment>,
    run: u64,
    channels: BTreeMap<ChannelId, Open>,
    waiting: BTreeMap<RequestId, Waiter>,
    next_request: u64,
    jobs: JoinSet<(ChannelId, Event)>,
    /// What a channel is told if its job ends without an answer.
    failures: HashMap<tokio::task::Id, (ChannelId, Event)>,
    /// Up to when each chain is followed.
    heard: BTreeMap<ChainId, Sight>,
    /// Deposits under way.
    sent: BTreeMap<RequestId, SentDeposit>,
}

impl std::fmt::Debug for DeskTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeskTask")
            .field("channels", &self.channels.len())
            .finish_non_exhaustive()
    }
}

/// A deposit that was sent: the contract, and the authorization's nonce.
type SentDeposit = (Arc<Escrow>, B256);

/// What one turn of the desk brought about.
#[derive(Default)]
struct Turn {
    /// The newest record of each channel that changed.
    records: BTreeMap<ChannelId, StoredChannel>,
    /// What may happen once they are durable.
    effects: Vec<(ChannelId, Effect)>,
    /// Deposits whose outcome the records have.
    deposits: Vec<SentDeposit>,
    /// Who waits for that alone.
    written: Vec<oneshot::Sender<()>>,
}

impl DeskTask {
    /// Runs until the store fails or the future is dropped.
    ///
    /// # Errors
    /// When the store fails. Whoever waits for an answer is told that the desk has stopped.
    pub async fn run(mut self) -> Result<(), StoreError> {
        let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut inbox = Vec::new();
        loop {
            let mut turn = Turn::default();
            tokio::select! {
                count = self.inbox.recv_many(&mut inbox, TURN_MESSAGES_MAX) => {
                    if count == 0 {
                        return Ok(());
                    }
                    // Whoever is ready to speak does so before the commit, and so shares it.
                    tokio::task::yield_now().await;
                    while inbox.len() < TURN_MESSAGES_MAX
                        && let Ok(message) = self.inbox.try_recv()
                    {
                        inbox.push(message);
                    }
                    for sent in inbox.drain(..) {
                        self.take(sent.message, &mut turn)?;
                    }
                }
                Some(job) = self.jobs.join_next_with_id() => self.end_job(job, &mut turn),
                _ = tick.tick() => self.tick(&mut turn),
            }
            self.finish(turn).await?;
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.environment.now_ms())
    }

    fn end_job(
        &mut self,
        job: Result<(tokio::task::Id, (ChannelId, Event)), JoinError>,
        turn: &mut Turn,
    ) {
        let (channel, event) = match job {
            Ok((id, done)) => {
                self.failures.remove(&id);
                done
            }
            Err(error) => {
                error!(%error, "a payment's transaction task failed");
                let Some(failure) = self.failures.remove(&error.id()) else {
                    return;
                };
                failure
            }
        };
        if let Event::Done { request, outcome } = &event
            && let Some(sent) = self.sent.remove(request)
            && outcome.is_ok()
        {
            turn.deposits.push(sent);
        }
        self.feed(channel, event, turn);
    }

    /// Runs a job of a channel, which is told `failure` if it ends without an answer.
    fn spawn(
        &mut self,
        channel: ChannelId,
        failure: Event,
        job: impl Future<Output = Event> + Send + 'static,
    ) {
        let handle = self.jobs.spawn(async move { (channel, job.await) });
        self.failures.insert(handle.id(), (channel, failure));
    }

    fn take(&mut self, message: Message, turn: &mut Turn) -> Result<(), StoreError> {
        match message {
            Message::Pay {
                chain,
                payment,
                quote,
                answer,
                place,
            } => {
                let request = self.next_request();
                let waiter = Waiter::Admission(answer, place);
                self.waiting.insert(request, waiter);
                if self.open(chain, payment.channel, || Record::new(payment.config))? {
                    let channel = payment.channel;
                    let pay = Event::Pay {
                        request,
                        payment,
                        quote,
                    };
                    self.feed(channel, pay, turn);
                } else {
                    self.refuse(request, ErrorCode::InvalidNetwork, None);
                }
            }
            Message::Split {
                channel,
                request,
                need,
                answer,
            } => {
                let rest = self.next_request();
                let split = Event::Split {
                    request,
                    rest,
                    need,
                };
                self.feed(channel, split, turn);
                let _ = answer.send(rest);
            }
            Message::StateEarly {
                channel,
                request,
                answer,
            } => {
                self.waiting.insert(request, Waiter::Early(answer));
                self.feed(channel, Event::StateEarly { request }, turn);
            }
            Message::Charge {
                channel,
                request,
                amount,
                answer,
            } => {
                if let Some(answer) = answer {
                    self.waiting.insert(request, Waiter::Charge(answer));
                }
                self.feed(channel, Event::Charge { request, amount }, turn);
            }
            Message::Abort { channel, request } => {
                self.feed(channel, Event::Abort { request }, turn);
            }
            other => self.take_news(other, turn)?,
        }
        Ok(())
    }

    /// Takes what others than requests say.
    fn take_news(&mut self, message: Message, turn: &mut Turn) -> Result<(), StoreError> {
        match message {
            Message::Onchain {
                channel,
                state,
                sight,
            } => {
                if self.open_stored(channel)? {
                    self.feed(channel, Event::Onchain { state, sight }, turn);
                }
            }
            Message::Heard { chain, sight } => {
                match sight {
                    Some(sight) => self.heard.insert(chain, sight),
                    None => self.heard.remove(&chain),
                };
            }
            Message::Missed { chain } => {
                self.heard.remove(&chain);
                // What this run wrote so far counts no more than what an earlier one did.
                self.run = self.run.wrapping_add(1);
                let on_chain = self
                    .channels
                    .values_mut()
                    .filter(|open| open.chain == chain);
                on_chain.for_each(|open| open.machine.doubt());
            }
            Message::Known { channels, answer } => {
                let mut known = BTreeSet::new();
                for channel in channels {
                    if self.open_stored(channel)? {
                        known.insert(channel);
                    }
                }
                let _ = answer.send(known);
            }
            Message::Publish {
                channel,
                max_claimable,
                answer,
            } => {
                if self.open_stored(channel)? {
                    self.feed(channel, Event::Publish { max_claimable }, turn);
                }
                turn.written.push(answer);
            }
            Message::Written { answer } => turn.written.push(answer),
            Message::Pay { .. }
            | Message::Split { .. }
            | Message::StateEarly { .. }
            | Message::Charge { .. }
            | Message::Abort { .. } => unreachable!("requests are taken apart"),
        }
        Ok(())
    }

    fn next_request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    fn tick(&mut self, turn: &mut Turn) {
        let busy: Vec<_> = self
            .channels
            .iter()
            .filter(|(_, open)| !open.machine.is_idle())
            .map(|(channel, _)| *channel)
            .collect();
        for channel in busy {
            self.feed(channel, Event::Tick, turn);
        }
    }

    /// Makes sure that the channel's machine is in memory; `unknown` is its record if it is new.
    /// `false` if this node does not use its chain.
    fn open(
        &mut self,
        chain: ChainId,
        channel: ChannelId,
        unknown: impl FnOnce() -> Record,
    ) -> Result<bool, StoreError> {
        if self.open_stored(channel)? {
            return Ok(true);
        }
        let Some(escrow) = self.escrows.get(chain) else {
            return Ok(false);
        };
        let machine = Channel::restored(channel, unknown());
        let open = Open {
            chain,
            escrow,
            machine,
        };
        self.channels.insert(channel, open);
        Ok(true)
    }

    /// The same for a channel that this node knows; `false` if it does not.
    fn open_stored(&mut self, channel: ChannelId) -> Result<bool, StoreError> {
        if self.channels.contains_key(&channel) {
            return Ok(true);
        }
        let stored: Option<StoredChannel> = self
            .store
            .get(Table::ProviderChannels, channel.0.as_slice())?;
        let Some(stored) = stored else {
            return Ok(false);
        };
        let Some(escrow) = self.escrows.get(stored.chain) else {
            return Ok(false);
        };
        let machine = if stored.saved_by == self.run {
            Channel::resumed(channel, stored.record)
        } else {
            Channel::restored(channel, stored.record)
        };
        let open = Open {
            chain: stored.chain,
            escrow,
            machine,
        };
        self.channels.insert(channel, open);
        Ok(true)
    }

    fn feed(&mut self, channel: ChannelId, event: Event, turn: &mut Turn) {
        let now = self.now();
        let Some(open) = self.channels.get_mut(&channel) else {
            return;
        };
        let heard = self.heard.get(&open.chain).copied();
        let mut effects = Vec::new();
        open.machine
            .handle(Moment { now, heard }, event, &mut effects);
        let (chain, saved_by) = (open.chain, self.run);
        for effect in effects {
            if let Effect::Persist(record) = effect {
                turn.records.insert(
                    channel,
                    StoredChannel {
                        chain,
                        record: *record,
                        saved_by,
                    },
                );
            } else {
                turn.effects.push((channel, effect));
            }
        }
    }

    async fn finish(&mut self, mut turn: Turn) -> Result<(), StoreError> {
        // Nothing becomes durable for these: they need not wait for others.
        let is_free = |channel: &ChannelId| !turn.records.contains_key(channel);
        let free = turn.effects.extract_if(.., |(channel, _)| is_free(channel));
        for (channel, effect) in free.collect::<Vec<_>>() {
            self.perform(channel, effect);
        }
        let mut batch = Batch::default();
        for (channel, stored) in &turn.records {
            batch.put(Table::ProviderChannels, channel.0.as_slice(), stored)?;
        }
        for (_, effect) in &turn.effects {
            self.add_alongside(effect, &mut batch)?;
        }
        self.store.commit(batch).await?;
        for (channel, effect) in turn.effects {
            self.perform(channel, effect);
        }
        for (escrow, nonce) in turn.deposits {
            // Until now the same deposit was answered with the same transaction, so that a crash loses none. From now
            // on it is one that was used before.
            tokio::spawn(async move {
                if let Err(error) = escrow.forget_deposit(nonce).await {
                    warn!(%error, "a deposit that is on record stays in the journal");
                }
            });
        }
        for answer in turn.written {
            // Who does not wait any more need not hear it.
            let _ = answer.send(());
        }
        if self.channels.len() > IDLE_CHANNELS_MAX {
            self.channels.retain(|_, open| !open.machine.is_idle());
        } else {
            // A channel that never paid is anyone's invention: it is not kept for a moment.
            let touched = turn.records.into_keys();
            for channel in touched {
                self.forget_stranger(channel);
            }
        }
        Ok(())
    }

    /// Adds what must become durable together with a charge.
    fn add_alongside(&mut self, effect: &Effect, batch: &mut Batch) -> Result<(), StoreError> {
        let Effect::Charged {
            request,
            amount,
            statement,
        } = effect
        else {
            return Ok(());
        };
        let Some(Waiter::Charge(waiter)) = self.waiting.get_mut(request) else {
            return Ok(());
        };
        if let Some(alongside) = waiter.alongside.take() {
            let (amount, statement) = (*amount, statement.clone());
            batch.append(alongside(&Charged { amount, statement })?);
        }
        Ok(())
    }

    fn forget_stranger(&mut self, channel: ChannelId) {
        let stranger = self
            .channels
            .get(&channel)
            .is_some_and(|open| open.machine.is_idle() && !open.machine.has_paid());
        if stranger {
            self.channels.remove(&channel);
        }
    }

    fn perform(&mut self, channel: ChannelId, effect: Effect) {
        match effect {
            Effect::Persist(_) => {
                unreachable!("records are taken out before effects are performed")
            }
            Effect::ReadChain => self.read_chain(channel),
            Effect::SendDeposit { request, deposit } => {
                self.send_deposit(channel, request, deposit);
            }
            Effect::SendRefund {
                request,
                claim,
                amount,
                nonce,
            } => {
                let Some((escrow, config)) = self.escrow(channel) else {
                    return;
                };
                let worth = self.coin_worth(channel);
                self.spawn(channel, unsettled(request), async move {
                    let claim = claim.map(|row| *row);
                    let refund = escrow.refund(&config, channel, claim, amount, nonce, worth);
                    let outcome = refund.await;
                    Event::Done { request, outcome }
                });
            }
            Effect::Admit { request } => self.admit(channel, request),
            Effect::StateEarly { request, statement } => {
                if let Some(Waiter::Early(answer)) = self.waiting.remove(&request) {
                    let _ = answer.send(statement);
                }
            }
            Effect::Charged {
                request,
                amount,
                statement,
            } => {
                if let Some(Waiter::Charge(waiter)) = self.waiting.remove(&request) {
                    let _ = waiter.answer.send(Charged { amount, statement });
                }
            }
            Effect::Refunded { request, statement } => {
                self.answer(request, |_| Admission::Refunded(statement));
            }
            Effect::Refuse {
                request,
                code,
                correction,
            } => {
                self.refuse(request, code, correction);
                self.forget_stranger(channel);
            }
        }
    }

    fn send_deposit(&mut self, channel: ChannelId, request: RequestId, deposit: CheckedDeposit) {
        let Some((escrow, config)) = self.escrow(channel) else {
            return;
        };
        let worth = self.coin_worth(channel);
        let nonce = deposit_nonce(channel, deposit.authorization.salt);
        self.sent.insert(request, (Arc::clone(&escrow), nonce));
        self.spawn(channel, unsettled(request), async move {
            let outcome = escrow.deposit(&config, channel, &deposit, worth).await;
            Event::Done { request, outcome }
        });
    }

    /// What a coin of the channel's chain is worth in its token.
    fn coin_worth(&self, channel: ChannelId) -> Option<Amount> {
        let open = self.channels.get(&channel)?;
        let token = open.machine.record().config.token;
        let chain = open.chain;
        self.escrows.coin_worth(AssetId { chain, token })
    }

    fn refuse(&mut self, request: RequestId, code: ErrorCode, correction: Option<Box<Correction>>) {
        self.answer(request, |_| {
            Admission::Refused(Refusal { code, correction })
        });
    }

    fn admit(&mut self, channel: ChannelId, request: RequestId) {
        let desk = self.desk.clone();
        // A ticket that nobody takes is dropped, and so aborts the request.
        self.answer(request, |place| {
            Admission::Admitted(Ticket {
                desk,
                channel,
                request,
                on_drop: None,
                spent: false,
                place,
            })
        });
    }

    fn answer(
        &mut self,
        request: RequestId,
        admission: impl FnOnce(Arc<OwnedSemaphorePermit>) -> Admission,
    ) {
        if let Some(Waiter::Admission(answer, place)) = self.waiting.remove(&request) {
            let _ = answer.send(admission(place));
        }
    }

    /// A channel that is taken up has its way to the chain; it stays while it waits for anything.
    fn escrow(&self, channel: ChannelId) -> Option<(Arc<Escrow>, ChannelConfig)> {
        let open = self.channels.get(&channel)?;
        Some((Arc::clone(&open.escrow), open.machine.record().config))
    }

    fn read_chain(&mut self, channel: ChannelId) {
        let Some((escrow, _)) = self.escrow(channel) else {
            return;
        };
        self.spawn(channel, Event::ReadFailed, async move {
            match escrow.look(channel).await {
                Ok((state, sight)) => Event::Onchain { state, sight },
                Err(error) => {
                    warn!(%error, %channel, "a channel could not be read");
                    Event::ReadFailed
                }
            }
        });
    }
}

/// What a channel is told where the task of its transaction failed.
fn unsettled(request: RequestId) -> Event {
    Event::Done {
        request,
        outcome: Err(ErrorCode::UnexpectedSettle),
    }
}
