//! The driver of one answer: it performs what the answer's machine decides.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::time::Duration;

use hearth_causes::WithCauses;
use hearth_models::engine::{EndReason, Event as Made, Generation};
use hearth_net::{FrameReceiver, FrameSender, Liveness, RecvError};
use hearth_payments::purse::{PayError, Tab};
use hearth_payments::store::Batch;
use hearth_protocol::answer::frame::{RefusalCode, TokenLogprobs};
use hearth_protocol::answer::payer::{
    Asking as Machine, AskingEffect, AskingEvent, Candidate, Departure, End,
};
use hearth_protocol::answer::{
    AnswerId, AnswerRequest, PayerFrame, ProviderFrame, Refusal, SignedReceipt, StopReason, Tokens,
};
use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;
use hearth_protocol::offer::{DeviceId, Offer};
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::{
    BatchExtra, PaymentJson, PaymentRequirements, RequirementsJson, Scheme, SettlementJson,
};
use hearth_surface::answers::{AskError, Ending, Logprob, Part, Promises, Question, Source, Usage};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::readers::Reader;
use super::refund::provider_name;
use super::text;
use super::{BOUGHT, Payer, Prepared, StoredPurchase, count};
use crate::roles::causes::{self, Verdict};
use crate::roles::served::{Gathered, stop_reason};
use crate::wallet::money;

/// How long a payment may take, as it is promised, in seconds.
const MAX_TIMEOUT_S: u64 = 120;

/// When to come again after a question has waited in vain, in seconds.
const RETRY_S: u32 = 60;

/// Where the answer comes from now.
enum Link {
    Nobody,
    Here(Generation),
    Peer(Box<Peer>),
}

/// A stream to a provider.
struct Peer {
    sender: FrameSender<PayerFrame>,
    receiver: FrameReceiver<ProviderFrame>,
    liveness: Liveness,
}

/// What is measured of a provider.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    asked_at: Timestamp,
    first_at: Option<Timestamp>,
    last_at: Timestamp,
    tokens: u32,
}

/// One answer in the making.
pub(super) struct Asking {
    payer: Payer,
    machine: Machine,
    effects: VecDeque<AskingEffect>,
    link: Link,
    tab: Option<Tab>,
    /// Whether the promise on the tab has not been answered by a charge.
    promised: bool,
    offers: BTreeMap<DeviceId, Offer>,
    question: Question,
    reader: Reader,
    text: Option<text::Reader>,
    answer: AnswerId,
    model: String,
    prompt_tokens: u32,
    cached_tokens: u32,
    charged: BTreeMap<AssetId, Amount>,
    /// The most that providers that were left can take for this answer.
    risked: BTreeMap<AssetId, Amount>,
    pace: Pace,
    /// Whom the text comes from that was handed on last.
    source: Option<Option<DeviceId>>,
    /// Until when this device's own engine may keep the question waiting for its turn.
    turn_by: Option<Timestamp>,
    /// Whether the prompt has been read, and whoever asked knows it.
    read: bool,
    current: Option<Candidate>,
    attempts: usize,
    /// Why nobody has answered so far.
    cause: Option<AskError>,
    stopped_by: Option<String>,
    parts: mpsc::Sender<Part>,
    cancelled: bool,
}

impl Asking {
    pub(super) fn new(
        payer: Payer,
        prepared: Prepared,
        reader: Reader,
        question: Question,
        parts: mpsc::Sender<Part>,
    ) -> Self {
        let Prepared {
            request,
            candidates,
            offers,
            model,
        } = prepared;
        let patience = payer.parts().patience;
        Self {
            text: Some(text::Reader::new(question.stops.clone())),
            answer: request.id,
            prompt_tokens: count(request.ids.len()),
            machine: Machine::new(request, candidates, patience),
            effects: VecDeque::new(),
            link: Link::Nobody,
            tab: None,
            promised: false,
            offers,
            question,
            reader,
            model,
            cached_tokens: 0,
            charged: BTreeMap::new(),
            risked: BTreeMap::new(),
            pace: Pace::default(),
            source: None,
            turn_by: None,
            read: false,
            current: None,
            attempts: 0,
            cause: None,
            stopped_by: None,
            parts,
            cancelled: false,
            payer,
        }
    }

    /// Answers, to the end.
    pub(super) async fn run(mut self) {
        let mut out = Vec::new();
        self.machine.start(self.payer.now(), &mut out);
        self.effects.extend(out);
        loop {
            while let Some(effect) = self.effects.pop_front() {
                self.perform(effect).await;
            }
            if self.machine.has_ended() {
                return;
            }
            let event = self.next().await;
            let accepted = matches!(&event, AskingEvent::Frame(frame) if matches!(**frame, ProviderFrame::Accepted { .. }));
            self.tell(event);
            if accepted && self.machine.is_worked_on() {
                self.say_source().await;
            }
        }
    }

    fn tell(&mut self, event: AskingEvent) {
        let mut out = Vec::new();
        self.machine.handle(self.payer.now(), event, &mut out);
        self.effects.extend(out);
    }

    /// What happens next.
    async fn next(&mut self) -> AskingEvent {
        let wake = self.machine.wake_at().filter(|at| at.0 != u64::MAX);
        let wake = self.turn_by.or(wake);
        let wait_ms = wake.map(|at| at.ms_since(self.payer.now()));
        let tick = async {
            match wait_ms {
                Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                None => pending().await,
            }
        };
        let gone = async {
            if self.cancelled {
                pending::<()>().await;
            }
            self.parts.closed().await;
        };
        let position = count(self.machine.ids().len());
        tokio::select! {
            biased;
            event = heard(&mut self.link, position, &mut self.cached_tokens, &mut self.turn_by, &mut self.cause) => event,
            () = gone => {
                self.cancelled = true;
                AskingEvent::Cancel
            }
            () = tick => self.waited(),
        }
    }

    /// Time passed: the engine of this device may have kept the question waiting for too long.
    fn waited(&mut self) -> AskingEvent {
        if self.turn_by.take_if(|by| *by <= self.payer.now()).is_none() {
            return AskingEvent::Tick;
        }
        // Dropping it takes the question out of the queue.
        self.link = Link::Nobody;
        self.note(AskError::Busy {
            retry_after_s: RETRY_S,
        });
        let message = "the question has waited for its turn as long as it may".to_owned();
        AskingEvent::Refused(Refusal {
            code: RefusalCode::Busy,
            field: None,
            retry_after_ms: Some(u64::from(RETRY_S) * 1_000),
            message,
        })
    }

    async fn perform(&mut self, effect: AskingEffect) {
        match effect {
            AskingEffect::Open { candidate, promise } => {
                let event = self.open(*candidate, promise).await;
                self.tell(event);
            }
            AskingEffect::Make(request) => self.make(&request).await,
            AskingEffect::Prepare(candidate) => self.prepare(&candidate),
            AskingEffect::Send(frame) => self.send(&frame).await,
            AskingEffect::Promise(amount) => {
                let event = self.promise(amount).await;
                self.tell(event);
            }
            AskingEffect::Correct { required, promise } => {
                let event = self.correct(&required, promise).await;
                self.tell(event);
            }
            AskingEffect::Settle {
                receipt,
                settlement,
            } => self.settle(*receipt, settlement.as_ref()).await,
            AskingEffect::Deliver(tokens) => self.deliver(tokens).await,
            AskingEffect::Leave { candidate, why } => self.leave(&candidate, why).await,
            AskingEffect::Ended(end) => self.ended(end).await,
        }
    }

    /// Connects, and signs the first promise.
    async fn open(&mut self, candidate: Candidate, promise: Option<Amount>) -> AskingEvent {
        self.attempts += 1;
        self.pace = Pace {
            asked_at: self.payer.now(),
            ..Pace::default()
        };
        let parts = self.payer.parts();
        let (Some(network), Some(device)) = (&parts.network, candidate.device) else {
            return AskingEvent::NotOpened;
        };
        let connect = Duration::from_millis(parts.patience.connect_ms);
        let connected = tokio::time::timeout(connect, network.ask(device, None)).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                info!(%device, error = %error.with_causes(), "a provider cannot be reached");
                return AskingEvent::NotOpened;
            }
            Err(_) => return AskingEvent::NotOpened,
        };
        let liveness = stream.liveness();
        let (sender, receiver) = stream.split();
        self.link = Link::Peer(Box::new(Peer {
            sender,
            receiver,
            liveness,
        }));
        self.current = Some(candidate.clone());
        if self.source.is_some() {
            // From now on it may cost something, whoever took the question before: budgets go by that.
            self.say_source().await;
        }
        let Some(amount) = promise else {
            return AskingEvent::Opened {
                payment: None,
                deposits: false,
            };
        };
        match self.open_tab(&candidate, amount).await {
            Ok((payment, deposits)) => AskingEvent::Opened {
                payment: Some(payment),
                deposits,
            },
            Err(error) => AskingEvent::NotPaid(error.with_causes().to_string()),
        }
    }

    /// Has a connection made to whoever is asked next, while the answer goes on.
    fn prepare(&self, candidate: &Candidate) {
        let (Some(network), Some(device)) = (&self.payer.parts().network, candidate.device) else {
            return;
        };
        let network = network.clone();
        // Not waited for: it ends when the connection stands, or after the time that one may take.
        tokio::spawn(async move {
            if let Err(error) = network.prepare(device).await {
                info!(%device, error = %error.with_causes(), "the next provider cannot be reached now");
            }
        });
    }

    async fn open_tab(
        &mut self,
        candidate: &Candidate,
        amount: Amount,
    ) -> Result<(PaymentJson, bool), PayError> {
        let parts = self.payer.parts();
        let offered = candidate.device.and_then(|device| self.offers.get(&device));
        let (Some(purse), Some(price), Some(offer)) = (&parts.purse, candidate.price, offered)
        else {
            return Err(PayError::NoChannelTaken);
        };
        let requirements = self.requirements(offer, price.asset, amount)?;
        let provider = provider_name(&offer.device);
        let mut tab = purse.open_tab(&provider, requirements).await?;
        // All providers of one answer share what one answer may cost, whatever they state.
        let ceilings = &self.question.ceilings;
        if let Some((_, most)) = ceilings.iter().find(|(asset, _)| *asset == price.asset) {
            tab.cap(*most);
        }
        tab.go_on_after(self.risked.get(&price.asset).copied().unwrap_or_default());
        let payment =
            promise_on(&mut tab, amount, &self.question.promised, self.payer.now()).await?;
        let deposits = tab.deposits();
        self.tab = Some(tab);
        self.promised = true;
        Ok((payment, deposits))
    }

    /// The way to pay a provider, as its offer says it.
    fn requirements(
        &self,
        offer: &Offer,
        asset: AssetId,
        amount: Amount,
    ) -> Result<PaymentRequirements, PayError> {
        let known = self.payer.parts().config.asset(&asset.to_string());
        let eip712 = known.and_then(|(_, asset)| asset.eip712.clone());
        let eip712 = eip712.ok_or_else(|| {
            PayError::Offer(format!(
                "config.toml has no eip712 name and version of {asset}"
            ))
        })?;
        let extra = BatchExtra {
            receiver_authorizer: offer.session_key,
            withdraw_delay: offer.withdraw_delay_s,
            name: eip712.name,
            version: eip712.version,
            asset_transfer_method: None,
            min_deposit: None,
            channel_state: None,
            voucher_state: None,
        };
        Ok(PaymentRequirements {
            scheme: Scheme::BatchSettlement,
            network: asset.chain,
            amount,
            asset: asset.token,
            pay_to: offer.household,
            max_timeout_seconds: MAX_TIMEOUT_S,
            extra: extra.into_map(),
        })
    }

    async fn make(&mut self, request: &AnswerRequest) {
        self.current = None;
        let served = self.payer.parts().provider.find(&request.weights);
        let Some(served) = served else {
            return self.tell(AskingEvent::NotOpened);
        };
        let asker = super::asker(&self.question);
        let job = served.job(request, asker, request.output_tokens_max);
        // For its turn, and before that for a process that follows its grammar.
        let wait_s = u64::from(self.payer.parts().config.engine.wait_s);
        let turn_by = self.payer.now().plus_ms(wait_s * 1_000);
        let submitting = (served.generator).submit_within(job, Duration::from_secs(wait_s));
        let submitted = tokio::select! {
            biased;
            submitted = submitting => submitted,
            () = self.parts.closed() => {
                self.cancelled = true;
                return self.tell(AskingEvent::Cancel);
            }
        };
        match submitted {
            Ok(generation) => {
                self.link = Link::Here(generation);
                self.turn_by = Some(turn_by);
                self.say_source().await;
            }
            Err(error) => {
                info!(error = %error.with_causes(), "this device does not answer");
                let (cause, verdict) = causes::of_submit(&error);
                self.refuse(cause, verdict, causes::to_refusal(&error));
            }
        }
    }

    /// Keeps why this device does not answer, and goes on with the next where another could.
    fn refuse(&mut self, cause: AskError, verdict: Verdict, refusal: Refusal) {
        self.note(cause);
        self.tell(match verdict {
            Verdict::Faulty => AskingEvent::Faulty(refusal.message),
            Verdict::Elsewhere => AskingEvent::Refused(refusal),
        });
    }

    /// Keeps why somebody does not answer, to be told if nobody does.
    fn note(&mut self, cause: AskError) {
        self.cause = Some(causes::worthier(self.cause.take(), cause));
    }

    async fn send(&mut self, frame: &PayerFrame) {
        let Link::Peer(peer) = &mut self.link else {
            return;
        };
        if let Err(error) = peer.sender.send(frame).await {
            info!(error = %error.with_causes(), "a provider takes nothing more");
            self.tell(AskingEvent::Closed { garbage: false });
        }
    }

    async fn promise(&mut self, amount: Amount) -> AskingEvent {
        let now = self.payer.now();
        let Some(tab) = &mut self.tab else {
            return AskingEvent::NotPaid("no payment is open with the provider".to_owned());
        };
        match promise_on(tab, amount, &self.question.promised, now).await {
            Ok(payment) => {
                self.promised = true;
                let deposits = tab.deposits();
                AskingEvent::Promised { payment, deposits }
            }
            Err(error) => AskingEvent::NotPaid(error.with_causes().to_string()),
        }
    }

    async fn correct(&mut self, required: &RequirementsJson, amount: Amount) -> AskingEvent {
        let Some(tab) = &mut self.tab else {
            return AskingEvent::NotPaid("no payment is open with the provider".to_owned());
        };
        self.promised = false;
        match tab.correct(required).await {
            Ok(()) => self.promise(amount).await,
            Err(error) => AskingEvent::NotPaid(error.with_causes().to_string()),
        }
    }

    /// Takes a charge into the books, and keeps its receipt.
    async fn settle(&mut self, receipt: SignedReceipt, settlement: Option<&SettlementJson>) {
        if let (Some(tab), Some(settlement)) = (&mut self.tab, settlement) {
            self.promised = false;
            match tab.settle(settlement).await {
                Ok(charged) => add(&mut self.charged, tab.asset(), charged),
                Err(error) => {
                    warn!(error = %error.with_causes(), "a provider's charge is not believed");
                    self.tell(AskingEvent::Closed { garbage: true });
                    return;
                }
            }
        }
        let Some(device) = self.current.as_ref().and_then(|one| one.device) else {
            return;
        };
        let key = receipt_key(self.answer, self.attempts.saturating_sub(1));
        let stored = StoredPurchase {
            receipt,
            device,
            asset: self.tab.as_ref().map(Tab::asset),
            model: self.model.clone(),
        };
        let mut batch = Batch::default();
        let written = match batch.put(BOUGHT, &key, &stored) {
            Ok(()) => self.payer.parts().store.commit(batch).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            warn!(error = %error.with_causes(), "a receipt could not be kept");
        }
    }

    async fn deliver(&mut self, tokens: Tokens) {
        let now = self.payer.now();
        self.pace.first_at.get_or_insert(now);
        self.pace.last_at = now;
        self.pace.tokens = self.pace.tokens.saturating_add(count(tokens.ids.len()));
        // Who answers now can go on: what kept others from it does not matter any more.
        self.cause = None;
        self.say_source().await;
        if !std::mem::replace(&mut self.read, true) {
            let cached_tokens = self.cached_tokens;
            self.hand_on(Part::Read { cached_tokens }).await;
        }
        let Some(text) = &mut self.text else {
            return;
        };
        let shown = text.push(self.reader.vocabulary(), &tokens.ids);
        let logprobs = tokens
            .ids
            .iter()
            .zip(&tokens.logprobs)
            .map(|(id, logprobs)| self.logprob(*id, logprobs))
            .collect();
        let stopped = shown.stopped_by.is_some();
        self.hand_on(Part::Text {
            text: shown.text,
            tokens: count(tokens.ids.len()),
            logprobs,
        })
        .await;
        if stopped {
            self.text = None;
            self.stopped_by = shown.stopped_by;
            self.tell(AskingEvent::Cancel);
        }
    }

    /// Says who works on the answer, where that is another than before.
    async fn say_source(&mut self) {
        let from = self.current.as_ref().and_then(|one| one.device);
        if self.source != Some(from) {
            self.source = Some(from);
            let source = self.source_of(from);
            self.hand_on(Part::Source(source)).await;
        }
    }

    fn logprob(&self, id: u32, of: &TokenLogprobs) -> Logprob {
        let bytes = |id: u32| self.reader.vocabulary().shown_bytes(id).to_vec();
        Logprob {
            bytes: bytes(id),
            logprob: of.chosen,
            top: of.top.iter().map(|(id, p)| (bytes(*id), *p)).collect(),
        }
    }

    fn source_of(&self, device: Option<DeviceId>) -> Source {
        match device {
            None => Source::Device,
            Some(device) => Source::Peer {
                household: (self.payer.parts().is_household)(&device),
                device: device.to_string(),
            },
        }
    }

    async fn hand_on(&mut self, part: Part) {
        if self.parts.send(part).await.is_err() && !self.cancelled {
            self.cancelled = true;
            self.tell(AskingEvent::Cancel);
        }
    }

    /// Closes the link, ends the tab, and remembers how it went.
    async fn leave(&mut self, candidate: &Candidate, why: Departure) {
        if let Link::Peer(mut peer) = std::mem::replace(&mut self.link, Link::Nobody) {
            peer.sender.finish();
        }
        if let Some(tab) = self.tab.take() {
            add(&mut self.risked, tab.asset(), tab.risked());
            let refused = matches!(why, Departure::Refused(_));
            let finished = matches!(why, Departure::Done | Departure::Cancelled);
            let closed = match (self.promised, refused || finished) {
                (false, _) => Ok(()),
                (true, true) => tab.not_charged().await,
                (true, false) => tab.lost().await,
            };
            if let Err(error) = closed {
                warn!(error = %error.with_causes(), "a payment could not be brought to its end");
            }
        }
        self.promised = false;
        let Some(device) = candidate.device else {
            // Why this device does not take a question is known better than a refusal tells it.
            if why == Departure::Lost {
                self.note(causes::of_departure(&why));
            }
            return;
        };
        match why {
            Departure::Done | Departure::Cancelled | Departure::Faulty(_) => {}
            _ => self.note(causes::of_departure(&why)),
        }
        if why == Departure::Lost
            && let Some(network) = &self.payer.parts().network
        {
            // A device that was killed says nothing: the next question dials it anew.
            network.disconnect(device);
        }
        let now = self.payer.now();
        let mut market = self.payer.market();
        match why {
            Departure::Done | Departure::Cancelled => {
                let first_at = self.pace.first_at.unwrap_or(now);
                let delay_ms = first_at.ms_since(self.pace.asked_at);
                let took_ms = self.pace.last_at.ms_since(first_at);
                if self.pace.tokens > 0 {
                    market.succeeded(device, self.pace.tokens, delay_ms, took_ms);
                }
            }
            Departure::Refused(Refusal {
                code: RefusalCode::ModelNotServed | RefusalCode::SpecDiffers,
                ..
            }) => market.withdraw(&device),
            // It had room for the prompt, and not for what others answered to it.
            Departure::Refused(Refusal {
                code: RefusalCode::TooLong,
                ..
            }) if !self.machine.ids().is_empty() => {}
            Departure::Distrusted(distrust) => {
                warn!(%device, %distrust, "a provider is not asked again");
                market.distrusted(now, device, distrust);
            }
            Departure::Lost | Departure::Refused(_) => market.failed(now, device),
            Departure::NotPaid(_) | Departure::Faulty(_) => {}
        }
    }

    async fn ended(&mut self, end: End) {
        if let Some(text) = self.text.take() {
            let text = text.finish();
            if !text.is_empty() {
                self.hand_on(Part::Text {
                    text,
                    tokens: 0,
                    logprobs: Vec::new(),
                })
                .await;
            }
        }
        let stop = match (self.stopped_by.take(), end) {
            (Some(stop), _) => Ending::Stop(stop),
            (None, End::Stopped(reason)) => Ending::Model(reason),
            (None, End::Cancelled) => Ending::Model(StopReason::Cancelled),
            (None, End::Broken { .. }) => {
                Ending::Broken(self.cause.take().unwrap_or_else(|| {
                    AskError::NoProvider("nobody serves the model now".to_owned())
                }))
            }
        };
        let config = &self.payer.parts().config;
        let charged = self.charged.iter().filter_map(|(asset, amount)| {
            let (symbol, asset) = config.asset(&asset.to_string())?;
            Some(money(symbol, asset, *amount))
        });
        let usage = Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            output_tokens: count(self.machine.ids().len()),
            charged: charged.collect(),
        };
        // Whoever asked may have gone.
        let _ = self.parts.send(Part::Ended { stop, usage }).await;
    }
}

fn add(sums: &mut BTreeMap<AssetId, Amount>, asset: AssetId, amount: Amount) {
    let sum = sums.entry(asset).or_default();
    *sum = sum.saturating_add(amount);
}

/// Promises `amount` on a tab, and counts it for the one who asks before it leaves.
async fn promise_on(
    tab: &mut Tab,
    amount: Amount,
    promised: &Promises,
    now: Timestamp,
) -> Result<PaymentJson, PayError> {
    let kept = promised.kept(now).await;
    kept.map_err(|error| PayError::Uncounted(Box::new(error)))?;
    let payment = tab.promise(amount).await?;
    if promised.add(tab.asset(), tab.newly_counted()) {
        return Ok(payment);
    }
    // Nobody waits for the answer, so nobody would count it.
    Err(PayError::NotApproved)
}

/// The key under which a receipt is kept.
pub(super) fn receipt_key(answer: AnswerId, number: usize) -> [u8; 17] {
    let mut key = [0; 17];
    key[..16].copy_from_slice(&answer.0);
    key[16] = u8::try_from(number).unwrap_or(u8::MAX);
    key
}

/// What comes from whoever answers.
async fn heard(
    link: &mut Link,
    position: u32,
    cached_tokens: &mut u32,
    turn_by: &mut Option<Timestamp>,
    cause: &mut Option<AskError>,
) -> AskingEvent {
    match link {
        Link::Nobody => pending().await,
        Link::Peer(peer) => {
            let received = tokio::select! {
                biased;
                received = peer.receiver.recv() => received,
                () = peer.liveness.lost() => return AskingEvent::Unheard,
            };
            match received {
                Ok(Some(frame)) => AskingEvent::Frame(Box::new(frame)),
                Ok(None) => AskingEvent::Closed { garbage: false },
                Err(error) => {
                    info!(error = %error.with_causes(), "a provider's stream ended");
                    let garbage = matches!(error, RecvError::Garbage { .. });
                    AskingEvent::Closed { garbage }
                }
            }
        }
        Link::Here(generation) => {
            let event = made(generation, position, cached_tokens, turn_by, cause).await;
            *turn_by = None;
            event
        }
    }
}

async fn made(
    generation: &mut Generation,
    position: u32,
    cached_tokens: &mut u32,
    turn_by: &mut Option<Timestamp>,
    cause: &mut Option<AskError>,
) -> AskingEvent {
    loop {
        match generation.next().await {
            Some(Made::Token { id, logprobs }) => {
                let mut gathered = Gathered::default();
                gathered.push(id, logprobs);
                if let Some((ids, logprobs)) = gathered.take() {
                    return AskingEvent::Made(Tokens {
                        first: position,
                        ids,
                        logprobs,
                    });
                }
            }
            Some(Made::Prompt { cached, .. }) => {
                *cached_tokens = cached;
                *turn_by = None;
            }
            Some(Made::Ended(reason)) => {
                let EndReason::Unfollowed(grammar) = &reason else {
                    return AskingEvent::MadeAll(stop_reason(&reason));
                };
                let (fault, verdict) = causes::of_grammar(grammar);
                *cause = Some(causes::worthier(cause.take(), fault));
                // Nobody else could go on with it either.
                return match verdict {
                    Verdict::Faulty => AskingEvent::Faulty(grammar.to_string()),
                    Verdict::Elsewhere => AskingEvent::MadeAll(StopReason::Failed),
                };
            }
            Some(_) => {}
            None => return AskingEvent::Closed { garbage: false },
        }
    }
}
