//! The household that asks and pays: drives `answer::payer` and the payer's side of its channels.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::answer::payer::{
    Asking as Machine, AskingEffect, AskingEvent, Candidate, Departure, End, Patience,
};
use hearth_protocol::answer::{
    AnswerId, AnswerRequest, PayerFrame, ProviderFrame, Receipt, Sampling, SignedReceipt,
};
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::ChannelId;
use hearth_protocol::market::{Market, Wish};
use hearth_protocol::money::Amount;
use hearth_protocol::offer::{DeviceId, Offer};
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::{PaymentJson, SettlementJson};

use crate::invariant::{Broken, ensure};
use crate::outside::{Down, Happening, Outside, SellerNumber, StreamId, Up};
use crate::purse::{Purse, Tab};

/// Output tokens that are promised ahead.
pub(crate) const WINDOW_TOKENS: u32 = 8;
/// The longest that any answer takes, in milliseconds: sixteen attempts with a deposit each would be
/// longer, but there are fewer providers.
const ANSWER_MS_MAX: u64 = 900_000;

/// How long a refund may take, in milliseconds.
const REFUND_MS_MAX: u64 = 120_000;

/// What the payer does to providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// It keeps the rules.
    Honest,
    /// It never promises more than at first.
    NeverRenews,
    /// It breaks off after so many tokens.
    BreaksOff(u32),
    /// It pays with payments that it sent before.
    Replays,
    /// It says things out of turn.
    SpeaksOutOfTurn,
    /// It says each promise many times.
    RepeatsPromises,
    /// It takes its money back while it is being served.
    Withdraws,
    /// It says nothing after it connected, or after it was asked to correct something.
    FallsSilent,
}

impl Habit {
    /// Everything that is not honest.
    pub const BAD: [Self; 7] = [
        Self::NeverRenews,
        Self::BreaksOff(3),
        Self::Replays,
        Self::SpeaksOutOfTurn,
        Self::RepeatsPromises,
        Self::Withdraws,
        Self::FallsSilent,
    ];
}

/// An answer that is being given.
#[derive(Debug)]
struct Asking {
    machine: Machine,
    prompt_tokens: u32,
    asked_at: Timestamp,
    offers: BTreeMap<DeviceId, Offer>,
    candidate: Option<Candidate>,
    stream: Option<StreamId>,
    tab: Option<Tab>,
    /// What the attempts so far can cost.
    risked: Amount,
    delivered: Vec<u32>,
    /// What of it the present provider delivered.
    delivered_here: u32,
    /// It was cancelled: what comes now is paid for, and not delivered.
    is_cancelled: bool,
}

/// What came of the answers, and what they may have cost.
#[derive(Debug, Default, Clone)]
pub struct PayerTally {
    /// Answers that ended as their provider signed it.
    pub whole: u64,
    /// Answers that ended otherwise.
    pub broken: u64,
    /// Tokens that were delivered.
    pub tokens: u64,
    /// Providers that were asked.
    pub attempts: u64,
    /// Providers that were caught at a lie.
    pub distrusted: u64,
    /// Promises that a provider corrected.
    pub corrected: u64,
    /// Promises that brought a deposit.
    pub deposits: u64,
    /// Providers that were lost in the middle of an answer.
    pub failovers: u64,
    /// Refunds that were asked for.
    pub refunds: u64,
}

/// The household that asks.
#[derive(Debug)]
pub(crate) struct Payer {
    pub(crate) purse: Purse,
    pub(crate) habit: Habit,
    pub(crate) market: Market,
    asking: BTreeMap<AnswerId, Asking>,
    by_stream: BTreeMap<StreamId, AnswerId>,
    /// Refunds that are asked for, each on a stream of its own.
    refunds: BTreeMap<StreamId, ChannelId>,
    asked: u64,
    /// Payments that were sent, for one who sends them again.
    sent_payments: Vec<PaymentJson>,
    /// Streams that began with a payment of another one.
    replayed: BTreeSet<StreamId>,
    /// The most that each provider can have earned from an honest payer: the price of what it
    /// delivered, and one window for each attempt.
    pub(crate) earned_max: BTreeMap<SellerNumber, Amount>,
    pub(crate) tally: PayerTally,
}

impl Payer {
    pub(crate) fn new(purse: Purse, habit: Habit) -> Self {
        Self {
            purse,
            habit,
            market: Market::default(),
            asking: BTreeMap::new(),
            by_stream: BTreeMap::new(),
            refunds: BTreeMap::new(),
            asked: 0,
            sent_payments: Vec::new(),
            replayed: BTreeSet::new(),
            earned_max: BTreeMap::new(),
            tally: PayerTally::default(),
        }
    }

    /// How many answers are being given.
    pub(crate) fn asking(&self) -> usize {
        self.asking.len()
    }

    /// Asks for an answer, by what the market says of the offers that stand.
    pub(crate) fn ask(
        &mut self,
        outside: &mut Outside,
        weights: ContentHash,
    ) -> Result<(), Broken> {
        self.asked += 1;
        let prompt_tokens = u32::try_from(outside.random.between(1, 40)).unwrap_or(1);
        let output_tokens = u32::try_from(outside.random.between(1, 60)).unwrap_or(1);
        let wish = Wish {
            weights,
            prompt_tokens,
            output_tokens,
            household_only: false,
        };
        let sampling = Sampling::default();
        let (candidates, offers) = self.candidates(outside.now, &wish, &sampling);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.asked.to_le_bytes());
        let id = AnswerId(id);
        let request = AnswerRequest {
            id,
            spec: ContentHash::default(),
            noise_spec: ContentHash::default(),
            weights,
            ids: (0..prompt_tokens).collect(),
            answered_tokens: 0,
            sampling,
            grammar: None,
            output_tokens_max: output_tokens,
            seed: [7; 32],
            logprobs: None,
        };
        let patience = Patience {
            window_tokens: WINDOW_TOKENS,
            ..Patience::default()
        };
        let count = candidates.len();
        outside.say(format_args!(
            "answer {} is asked of {count}: {output_tokens} tokens",
            self.asked
        ));
        let mut machine = Machine::new(request, candidates, patience);
        let mut out = Vec::new();
        machine.start(outside.now, &mut out);
        let asking = Asking {
            machine,
            prompt_tokens,
            asked_at: outside.now,
            offers,
            candidate: None,
            stream: None,
            tab: None,
            risked: Amount::ZERO,
            delivered: Vec::new(),
            delivered_here: 0,
            is_cancelled: false,
        };
        self.asking.insert(id, asking);
        self.perform_all(outside, id, out)
    }

    /// Whom to ask, in the order of the market, and what each offers.
    fn candidates(
        &self,
        now: Timestamp,
        wish: &Wish,
        sampling: &Sampling,
    ) -> (Vec<Candidate>, BTreeMap<DeviceId, Offer>) {
        let weighed = self
            .market
            .weigh(now, wish, &self.purse.spending, |_| false);
        let (mut candidates, mut offers) = (Vec::new(), BTreeMap::new());
        for one in weighed.into_iter().filter(|one| one.passed.is_none()) {
            candidates.push(Candidate {
                device: Some(one.device),
                spec: one.model.spec(sampling.clone()).hash(),
                session_key: one.offer.session_key,
                price: one.price,
                prompt_tokens_per_s: one.model.prompt_tokens_per_s,
            });
            offers.insert(one.device, one.offer);
        }
        (candidates, offers)
    }

    /// Something arrives.
    pub(crate) fn hear(
        &mut self,
        outside: &mut Outside,
        stream: StreamId,
        what: Down,
    ) -> Result<(), Broken> {
        if let Some(channel) = self.refunds.get(&stream).copied() {
            self.hear_refund(outside, stream, channel, what);
            return Ok(());
        }
        let Some(id) = self.by_stream.get(&stream).copied() else {
            return Ok(());
        };
        let event = match what {
            Down::Frame(frame) => AskingEvent::Frame(Box::new(frame)),
            Down::Closed { garbage } => AskingEvent::Closed { garbage },
            Down::Unheard => AskingEvent::Unheard,
        };
        self.tell(outside, id, event)
    }

    /// Asks a provider to return what is left in some channel.
    pub(crate) fn ask_refund(&mut self, outside: &mut Outside) {
        let Some((channel, seller, payment)) = self.purse.begin_refund(outside.now) else {
            return;
        };
        let stream = outside.open(seller);
        outside.say(format_args!(
            "provider {seller} is asked for a refund on stream {}",
            stream.0
        ));
        self.refunds.insert(stream, channel);
        outside.send_up(stream, Up::Frame(PayerFrame::Refund(payment)));
        outside.after(
            REFUND_MS_MAX,
            Happening::Down(stream, Down::Closed { garbage: false }),
        );
    }

    fn hear_refund(
        &mut self,
        outside: &mut Outside,
        stream: StreamId,
        channel: ChannelId,
        what: Down,
    ) {
        if let Down::Frame(ProviderFrame::PaymentRequired(required)) = &what {
            match self.purse.correct_refund(outside, channel, required) {
                Ok(payment) => {
                    return outside.send_up(stream, Up::Frame(PayerFrame::Refund(payment)));
                }
                Err(why) => outside.say(format_args!("a refund is given up: {why}")),
            }
        }
        let refused = matches!(what, Down::Frame(ProviderFrame::Refused(_)));
        outside.say(format_args!("a refund ends: {what:?}"));
        self.refunds.remove(&stream);
        self.tally.refunds += 1;
        outside.send_up(stream, Up::Finished);
        self.purse.end_refund(outside, channel, !refused);
    }

    /// Time passed.
    pub(crate) fn tick(&mut self, outside: &mut Outside) -> Result<(), Broken> {
        let due: Vec<_> = self.asking.keys().copied().collect();
        for id in due {
            let wake_at = self
                .asking
                .get(&id)
                .and_then(|asking| asking.machine.wake_at());
            if wake_at.is_some_and(|at| at <= outside.now) {
                self.tell(outside, id, AskingEvent::Tick)?;
            }
        }
        Ok(())
    }

    /// Cancels an answer that is being given, if there is one.
    pub(crate) fn cancel(&mut self, outside: &mut Outside) -> Result<(), Broken> {
        match self.asking.keys().next().copied() {
            Some(id) => {
                if let Some(asking) = self.asking.get_mut(&id) {
                    asking.is_cancelled = true;
                }
                self.tell(outside, id, AskingEvent::Cancel)
            }
            None => Ok(()),
        }
    }

    /// The payer's program is killed, and starts again.
    pub(crate) fn crash(&mut self, outside: &mut Outside) {
        outside.say(format_args!("the payer is killed"));
        for asking in std::mem::take(&mut self.asking).into_values() {
            if let Some(stream) = asking.stream {
                outside.break_stream(stream);
            }
            self.note_earned(&asking);
        }
        self.by_stream.clear();
        for stream in std::mem::take(&mut self.refunds).into_keys() {
            outside.break_stream(stream);
        }
        self.purse.restart();
    }

    fn tell(
        &mut self,
        outside: &mut Outside,
        id: AnswerId,
        event: AskingEvent,
    ) -> Result<(), Broken> {
        let Some(asking) = self.asking.get_mut(&id) else {
            return Ok(());
        };
        let mut out = Vec::new();
        asking.machine.handle(outside.now, event, &mut out);
        self.perform_all(outside, id, out)
    }

    fn perform_all(
        &mut self,
        outside: &mut Outside,
        id: AnswerId,
        effects: Vec<AskingEffect>,
    ) -> Result<(), Broken> {
        ensure(effects.len() <= 16, "bounded-work", || {
            format!("the payer does {} things at once", effects.len())
        })?;
        for effect in effects {
            self.perform(outside, id, effect)?;
        }
        let wake_at = self
            .asking
            .get(&id)
            .and_then(|asking| asking.machine.wake_at());
        if let Some(at) = wake_at {
            outside.at(at, Happening::PayerTick);
        }
        Ok(())
    }

    fn perform(
        &mut self,
        outside: &mut Outside,
        id: AnswerId,
        effect: AskingEffect,
    ) -> Result<(), Broken> {
        match effect {
            AskingEffect::Open { candidate, promise } => {
                self.open(outside, id, *candidate, promise)
            }
            AskingEffect::Send(frame) => {
                self.send(outside, id, frame);
                Ok(())
            }
            AskingEffect::Promise(amount) => {
                let event = self.promise(outside, id, amount)?;
                self.tell(outside, id, event)
            }
            AskingEffect::Correct { required, promise } => {
                self.tally.corrected += 1;
                let Some((purse, asking)) = self.of(id) else {
                    return Ok(());
                };
                let tab = asking.tab.as_mut();
                let corrected = tab.ok_or_else(|| "no tab".to_owned());
                let corrected = corrected.and_then(|tab| purse.correct(outside, tab, &required));
                let event = match corrected {
                    Ok(()) => self.promise(outside, id, promise)?,
                    Err(why) => AskingEvent::NotPaid(why),
                };
                self.tell(outside, id, event)
            }
            AskingEffect::Settle {
                receipt,
                settlement,
            } => self.settle(outside, id, &receipt, settlement.as_ref()),
            AskingEffect::Deliver(tokens) => self.deliver(outside, id, tokens.first, &tokens.ids),
            AskingEffect::Leave { candidate, why } => self.leave(outside, id, &candidate, why),
            AskingEffect::Prepare(_) | AskingEffect::Make(_) => Ok(()),
            AskingEffect::Ended(end) => self.ended(outside, id, &end),
        }
    }

    fn of(&mut self, id: AnswerId) -> Option<(&mut Purse, &mut Asking)> {
        Some((&mut self.purse, self.asking.get_mut(&id)?))
    }

    fn open(
        &mut self,
        outside: &mut Outside,
        id: AnswerId,
        candidate: Candidate,
        promise: Option<Amount>,
    ) -> Result<(), Broken> {
        self.tally.attempts += 1;
        let device = candidate.device.unwrap_or(DeviceId([0; 32]));
        let seller = SellerNumber::from(device.0[0]);
        let trusted = !self.purse.is_distrusted(seller);
        ensure(
            trusted || self.habit != Habit::Honest,
            "liars-are-left",
            || format!("provider {seller} lied on a channel, and is asked again"),
        )?;
        let Some((purse, asking)) = self.of(id) else {
            return Ok(());
        };
        asking.candidate = Some(candidate.clone());
        asking.delivered_here = 0;
        let opened = match (promise, candidate.price, asking.offers.get(&device)) {
            (Some(amount), Some(price), Some(offer)) => {
                let mut tab = purse.open_tab(seller, offer, &price, asking.risked);
                let promised = purse.promise(outside, &mut tab, amount);
                asking.tab = Some(tab);
                promised.map(|(payment, deposits)| (Some(payment), deposits))
            }
            _ => Ok((None, false)),
        };
        let event = match opened {
            Ok((payment, deposits)) => {
                self.tally.deposits += u64::from(deposits);
                let stream = outside.open(seller);
                if let Some(asking) = self.asking.get_mut(&id) {
                    asking.stream = Some(stream);
                }
                self.by_stream.insert(stream, id);
                outside.say(format_args!(
                    "provider {seller} is asked on stream {}",
                    stream.0
                ));
                AskingEvent::Opened { payment, deposits }
            }
            Err(why) => {
                outside.say(format_args!("provider {seller} is not paid: {why}"));
                AskingEvent::NotPaid(why)
            }
        };
        self.check_window(id)?;
        self.tell(outside, id, event)
    }

    fn promise(
        &mut self,
        outside: &mut Outside,
        id: AnswerId,
        amount: Amount,
    ) -> Result<AskingEvent, Broken> {
        let Some((purse, asking)) = self.of(id) else {
            return Ok(AskingEvent::NotOpened);
        };
        let Some(tab) = asking.tab.as_mut() else {
            return Ok(AskingEvent::NotPaid("no tab".to_owned()));
        };
        let promised = purse.promise(outside, tab, amount);
        self.check_window(id)?;
        Ok(match promised {
            Ok((payment, deposits)) => {
                self.tally.deposits += u64::from(deposits);
                AskingEvent::Promised { payment, deposits }
            }
            Err(why) => AskingEvent::NotPaid(why),
        })
    }

    /// What an attempt can cost is the price of what was delivered and one window.
    fn check_window(&mut self, id: AnswerId) -> Result<(), Broken> {
        let Some(asking) = self.asking.get(&id) else {
            return Ok(());
        };
        let most = asking.cost_max();
        let risked = asking.tab.as_ref().map_or(Amount::ZERO, |tab| tab.risked);
        let keeps_rules = self.habit == Habit::Honest;
        ensure(
            !keeps_rules || risked <= most,
            "promises-reach-one-window",
            || format!("{risked} is promised where {most} is the price of one window more"),
        )
    }

    fn send(&mut self, outside: &mut Outside, id: AnswerId, frame: PayerFrame) {
        let Some(asking) = self.asking.get_mut(&id) else {
            return;
        };
        let Some(stream) = asking.stream else { return };
        let frames = match (self.habit, frame) {
            (Habit::NeverRenews, PayerFrame::Pay(_)) => Vec::new(),
            (Habit::FallsSilent, PayerFrame::Pay(_)) => Vec::new(),
            (Habit::FallsSilent, PayerFrame::Ask { .. }) if outside.random.one_in(2) => Vec::new(),
            (Habit::RepeatsPromises, PayerFrame::Pay(payment)) => {
                vec![PayerFrame::Pay(payment); 2 + outside.random.index(6)]
            }
            (Habit::SpeaksOutOfTurn, frame) => {
                let request = match &frame {
                    PayerFrame::Ask { payment, .. } => payment.clone(),
                    _ => None,
                };
                let strange = match outside.random.below(4) {
                    0 => PayerFrame::Cancel,
                    1 => PayerFrame::Pay(b"{}".to_vec().into()),
                    2 => PayerFrame::Refund(b"nonsense".to_vec().into()),
                    _ => PayerFrame::Pay(request.unwrap_or_else(|| Vec::new().into())),
                };
                vec![frame, strange]
            }
            (Habit::Replays, PayerFrame::Ask { request, payment })
                if !self.sent_payments.is_empty() =>
            {
                let old =
                    self.sent_payments[outside.random.index(self.sent_payments.len())].clone();
                if payment.as_ref() != Some(&old) {
                    self.replayed.insert(stream);
                }
                vec![PayerFrame::Ask {
                    request,
                    payment: Some(old),
                }]
            }
            (Habit::Replays, PayerFrame::Pay(_)) if self.replayed.contains(&stream) => {
                let old =
                    self.sent_payments[outside.random.index(self.sent_payments.len())].clone();
                vec![PayerFrame::Pay(old)]
            }
            (_, frame) => vec![frame],
        };
        for frame in frames {
            if let PayerFrame::Ask {
                payment: Some(payment),
                ..
            }
            | PayerFrame::Pay(payment) = &frame
                && self.sent_payments.len() < 64
                && !self.replayed.contains(&stream)
            {
                self.sent_payments.push(payment.clone());
            }
            outside.send_up(stream, Up::Frame(frame));
        }
    }

    fn settle(
        &mut self,
        outside: &mut Outside,
        id: AnswerId,
        receipt: &SignedReceipt,
        settlement: Option<&SettlementJson>,
    ) -> Result<(), Broken> {
        let Some((purse, asking)) = self.of(id) else {
            return Ok(());
        };
        asking.check_receipt(&receipt.receipt)?;
        if let (Some(tab), Some(settlement)) = (asking.tab.as_mut(), settlement)
            && let Err(why) = purse.settle(tab, settlement)
        {
            outside.say(format_args!("a statement is not believed: {why}"));
            return self.tell(outside, id, AskingEvent::Closed { garbage: true });
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        outside: &mut Outside,
        id: AnswerId,
        first: u32,
        ids: &[u32],
    ) -> Result<(), Broken> {
        let Some(asking) = self.asking.get_mut(&id) else {
            return Ok(());
        };
        let reached = asking.delivered.len();
        ensure(first as usize == reached, "the-answer-has-no-gap", || {
            format!("tokens from {first} on are delivered where {reached} were")
        })?;
        asking.delivered.extend_from_slice(ids);
        asking.delivered_here += u32::try_from(ids.len()).unwrap_or(u32::MAX);
        self.tally.tokens += ids.len() as u64;
        if let Habit::BreaksOff(after) = self.habit
            && asking.delivered_here >= after
            && let Some(stream) = asking.stream
        {
            outside.break_stream(stream);
        }
        Ok(())
    }

    fn leave(
        &mut self,
        outside: &mut Outside,
        id: AnswerId,
        candidate: &Candidate,
        why: Departure,
    ) -> Result<(), Broken> {
        let Some(mut asking) = self.asking.remove(&id) else {
            return Ok(());
        };
        if let Some(stream) = asking.stream.take() {
            outside.say(format_args!("stream {} is left: {why:?}", stream.0));
            outside.send_up(stream, Up::Finished);
            self.by_stream.remove(&stream);
        }
        self.note_earned(&asking);
        if let Some(tab) = asking.tab.take() {
            asking.risked = asking.risked.saturating_add(tab.risked);
            let is_known = matches!(
                why,
                Departure::Refused(_) | Departure::Done | Departure::Cancelled
            );
            self.purse.close(&tab, is_known);
        }
        let device = candidate.device.unwrap_or(DeviceId([0; 32]));
        match why {
            Departure::Done | Departure::Cancelled => {
                self.market.succeeded(device, asking.delivered_here, 10, 10);
            }
            Departure::Distrusted(distrust) => {
                self.tally.distrusted += 1;
                self.market.distrusted(outside.now, device, distrust);
            }
            Departure::Lost | Departure::Refused(_) => {
                self.tally.failovers += u64::from(asking.delivered_here > 0);
                self.market.failed(outside.now, device);
            }
            Departure::NotPaid(_) | Departure::Faulty(_) => {}
        }
        self.asking.insert(id, asking);
        Ok(())
    }

    /// What a provider can have earned by an attempt that is over.
    fn note_earned(&mut self, asking: &Asking) {
        let Some(device) = asking.candidate.as_ref().and_then(|one| one.device) else {
            return;
        };
        let earned = self
            .earned_max
            .entry(SellerNumber::from(device.0[0]))
            .or_default();
        *earned = earned.saturating_add(asking.cost_max());
    }

    fn ended(&mut self, outside: &mut Outside, id: AnswerId, end: &End) -> Result<(), Broken> {
        let Some(asking) = self.asking.remove(&id) else {
            return Ok(());
        };
        outside.say(format_args!(
            "an answer of {} tokens ends: {end:?}",
            asking.delivered.len()
        ));
        let took_ms = outside.now.ms_since(asking.asked_at);
        ensure(took_ms <= ANSWER_MS_MAX, "every-answer-ends", || {
            format!("one took {took_ms} ms")
        })?;
        match end {
            End::Stopped(_) => self.tally.whole += 1,
            End::Cancelled | End::Broken { .. } => self.tally.broken += 1,
        }
        Ok(())
    }
}

impl Asking {
    /// The price of what the present provider delivered and one window more.
    fn cost_max(&self) -> Amount {
        let price = self
            .candidate
            .as_ref()
            .and_then(|candidate| candidate.price);
        let answered = u32::try_from(self.delivered.len()).unwrap_or(u32::MAX);
        let prompt_tokens = self.prompt_tokens + (answered - self.delivered_here);
        let tokens = self.delivered_here.saturating_add(WINDOW_TOKENS);
        price.map_or(Amount::ZERO, |price| price.cost(prompt_tokens, tokens))
    }

    /// A receipt that is believed charges no more than the price of what was delivered.
    fn check_receipt(&self, receipt: &Receipt) -> Result<(), Broken> {
        let price = self
            .candidate
            .as_ref()
            .and_then(|candidate| candidate.price);
        let said = receipt.output_tokens;
        let delivered = if self.is_cancelled {
            said.max(self.delivered_here)
        } else {
            self.delivered_here
        };
        let cost = match price {
            Some(price) if delivered > 0 => price.cost(receipt.prompt_tokens, delivered),
            _ => Amount::ZERO,
        };
        ensure(receipt.charge <= cost, "no-charge-above-the-price", || {
            format!(
                "{} is charged for {delivered} tokens that cost {cost}",
                receipt.charge
            )
        })?;
        ensure(said == delivered, "receipts-say-what-came", || {
            format!("a receipt for {said} tokens of {delivered}")
        })
    }
}
