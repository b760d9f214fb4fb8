//! The provider's side of one stream, as a machine (spec: answers, sections 7 and 9).
//!
//! It takes the question, has each promise admitted, lets the model go on as far as promises reach,
//! charges part by part, and ends with a signed receipt. A payer that goes away is charged for what
//! was sent to it. A stream can carry a refund instead.
//!
//! Three rules carry the rest:
//!
//! * **Nothing uncovered leaves.** The model is allowed no token beyond what admitted promises pay
//!   for ([`AnsweringEffect::Allow`]).
//! * **A receipt says what was sent.** While a charge is being made durable, tokens are held back:
//!   a payer compares the receipt with what came before it.
//! * **Every wait has an end.** A payer has [`PAYER_MS_MAX`] to say what it has to say, and
//!   [`CORRECTIONS_MAX`] promises in a row that come to nothing. The time that a deposit takes is not
//!   the payer's.
//!
//! Deliberately absent: where the model runs, what signs, and how the payment desk keeps a channel
//! (`channel::provider`). The driver performs effects in their order and reports what came of them.

use std::collections::VecDeque;

use alloy_primitives::{Address, B256};

use super::frame::{PayerFrame, ProviderFrame, Refusal, RefusalCode, TokenLogprobs, Tokens};
use super::price::Price;
use super::receipt::{Receipt, SignedReceipt, StopReason};
use super::request::AnswerRequest;
use super::spec::{Serving, Spec};
use super::tab::{Paid, Tab};
use crate::accepted::AcceptedAsset;
use crate::audience::{Audience, Openness};
use crate::channel::provider::{Correction, PaymentStatement, Quote};
use crate::channel::{CheckedPayment, PaymentKind};
use crate::content::ContentHash;
use crate::id::{AssetId, ChainId, ChannelId};
use crate::money::Amount;
use crate::time::Timestamp;
use crate::x402::{ErrorCode, PaymentJson, RequirementsJson, SettleResponse, SettlementJson};

/// How long a payer may take to ask, to correct a promise, and to promise more once nothing is
/// covered any more, in milliseconds.
pub const PAYER_MS_MAX: u64 = 10_000;
/// How often a payer hears, before the first token, that its question is worked on, in milliseconds.
pub const WORKING_EVERY_MS: u64 = 1_000;
/// Promises, or requests for a refund, that may come to nothing one after the other.
pub const CORRECTIONS_MAX: usize = 3;

/// For whom a stream is served, and on what terms.
#[derive(Debug, Clone)]
pub struct AnsweringTerms {
    /// The device that asks belongs to the household, which answers itself for nothing.
    pub is_household: bool,
    /// Which devices may use this one now.
    pub openness: Openness,
    /// The assets that are taken by channel; nothing where no payments can be taken now.
    pub accepts: Option<Vec<AcceptedAsset>>,
}

/// What a device has for a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What the model is served with, as specs name it.
    pub serving: Serving,
    /// Whom it answers.
    pub audience: Audience,
    /// What answers cost other households; nothing at all means that they are free.
    pub prices: Vec<Price>,
}

/// Why a payment is refused, and how an honest payer recovers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentRefusal {
    /// Why.
    pub code: ErrorCode,
    /// From which a payer recovers, where it can.
    pub correction: Option<Box<Correction>>,
}

/// What happens on a stream.
#[derive(Debug, Clone)]
pub enum AnsweringEvent {
    /// The payer said something.
    Said(PayerFrame),
    /// The payer will say nothing more; it may still listen.
    SaidAll,
    /// The stream broke, or what came over it was not a frame.
    Broken,
    /// The model that the question is for, where it is served here ([`AnsweringEffect::Find`]).
    Found(Option<Box<Found>>),
    /// The parts of a promise are admitted on the channel, or refused ([`AnsweringEffect::Admit`]).
    Admitted(Result<(), PaymentRefusal>),
    /// The refund is done, or refused ([`AnsweringEffect::Refund`]).
    Refunded(Result<PaymentStatement, PaymentRefusal>),
    /// The model does not take the question ([`AnsweringEffect::Submit`]).
    NotTaken(Refusal),
    /// The model has taken the question; so many are before it.
    Taken {
        /// The requests before it.
        waiting: u32,
    },
    /// The model is reading the prompt.
    Read {
        /// Tokens read so far.
        tokens: u32,
    },
    /// The model made tokens.
    Made {
        /// Their ids.
        ids: Vec<u32>,
        /// As many as there are ids, or none at all.
        logprobs: Vec<TokenLogprobs>,
    },
    /// The model has ended.
    MadeAll(StopReason),
    /// What was to be charged is durable ([`AnsweringEffect::Charge`]).
    Charged {
        /// The receipt, signed.
        receipt: Box<SignedReceipt>,
        /// What the channel states; nothing where nothing was charged.
        statement: Option<PaymentStatement>,
    },
    /// The owner says who may use the device from now on.
    Openness(Openness),
    /// Time passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum AnsweringEffect {
    /// Look up the model, and answer with [`AnsweringEvent::Found`].
    Find(ContentHash),
    /// Have these parts admitted on the payment's channel, together or not at all, and answer with
    /// [`AnsweringEvent::Admitted`].
    Admit {
        /// The payment, which starts the first part with all that it brings.
        payment: Box<CheckedPayment>,
        /// The chain of its channel.
        chain: ChainId,
        /// What all of it costs at most.
        quote: Quote,
        /// What each part reserves; at least one.
        needs: Vec<Amount>,
    },
    /// Return what is left in a channel, and answer with [`AnsweringEvent::Refunded`].
    Refund {
        /// The payment, a refund.
        payment: Box<CheckedPayment>,
        /// The chain of its channel.
        chain: ChainId,
    },
    /// Have the model answer, up to so many tokens for now.
    Submit {
        /// The question.
        request: Box<AnswerRequest>,
        /// Output tokens that are covered.
        allowance: u32,
    },
    /// Let the model go on up to so many output tokens.
    Allow(u32),
    /// Sign the receipt, charge the oldest admitted parts with these amounts, durably and with the
    /// receipt, and answer with [`AnsweringEvent::Charged`].
    Charge {
        /// What was done and charged.
        receipt: Box<Receipt>,
        /// One for each part, the oldest first; none where nothing is charged. Parts that remain
        /// after the last receipt are let go.
        amounts: Vec<Amount>,
        /// The asset that pays; nothing where the answer is free.
        asset: Option<AssetId>,
    },
    /// Say this to the payer.
    Send(ProviderFrame),
    /// Nothing more will happen: finish the stream, and let go of the model and of admitted parts.
    End(StreamEnd),
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamEnd {
    /// The last frame was sent.
    #[error("the last frame was sent")]
    Finished,
    /// The payer said nothing in time.
    #[error("the payer said nothing in time")]
    Silent,
    /// The payer spoke out of turn.
    #[error("the payer spoke out of turn")]
    OutOfTurn,
    /// The payer went away.
    #[error("the payer went away")]
    Gone,
}

#[derive(Debug, Clone)]
enum Stage {
    /// The payer has to say what it wants.
    Greeting,
    /// The model is looked up.
    Finding(Box<AnswerRequest>, Option<PaymentJson>),
    /// The payer has to promise, or its promise is being admitted; nothing is worked on.
    Unpaid,
    /// The model works.
    Working,
    /// The payer has to correct its request for a refund.
    RefundRefused,
    /// A refund is under way.
    Refunding {
        asset: Box<AcceptedAsset>,
        payer: Address,
    },
    /// The last receipt is being made durable.
    Closing(Hearing),
    /// Nothing happens any more.
    Ended,
}

/// Whether the payer still listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hearing {
    Listens,
    /// It is left without a word, for this reason.
    Left(StreamEnd),
}

/// An answer in the making.
#[derive(Debug, Clone)]
struct Work {
    request: AnswerRequest,
    spec: ContentHash,
    started_at: Timestamp,
    read_tokens: u32,
    delivered: Vec<u32>,
    /// How it is paid; nothing where it is free.
    tab: Option<Tab>,
    /// A promise came while another one was being admitted.
    next_payment: Option<PaymentJson>,
    /// A charge is being made durable.
    charging: bool,
    /// Tokens that came meanwhile.
    held: VecDeque<(Vec<u32>, Vec<TokenLogprobs>)>,
    /// The answer ends once the charge is durable.
    ending: Option<(StopReason, Hearing)>,
    /// When a payer that owes a promise is left.
    unpaid_at: Option<Timestamp>,
    /// When the payer is told again that its question is worked on.
    working_at: Timestamp,
}

/// One stream, seen by its provider.
#[derive(Debug, Clone)]
pub struct Answering {
    terms: AnsweringTerms,
    stage: Stage,
    work: Option<Box<Work>>,
    /// When a payer that has to say something is left.
    until: Option<Timestamp>,
    /// Promises or refunds that came to nothing since the last one that did.
    corrections: usize,
}

impl Answering {
    /// A stream that was just opened.
    pub fn new(terms: AnsweringTerms, now: Timestamp) -> Self {
        Self {
            terms,
            stage: Stage::Greeting,
            work: None,
            until: Some(now.plus_ms(PAYER_MS_MAX)),
            corrections: 0,
        }
    }

    /// When [`AnsweringEvent::Tick`] is due.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let work = self
            .work
            .as_deref()
            .filter(|_| matches!(self.stage, Stage::Working));
        let unpaid_at = work.and_then(|work| work.unpaid_at);
        let working_at = work.and_then(Work::working_at);
        self.until
            .into_iter()
            .chain(unpaid_at)
            .chain(working_at)
            .min()
    }

    /// Takes one event and appends what is to be done.
    pub fn handle(
        &mut self,
        now: Timestamp,
        event: AnsweringEvent,
        out: &mut Vec<AnsweringEffect>,
    ) {
        match event {
            AnsweringEvent::Said(frame) => self.said(now, frame, out),
            AnsweringEvent::SaidAll => self.said_all(now, out),
            AnsweringEvent::Broken => self.leave(now, StreamEnd::Gone, out),
            AnsweringEvent::Found(found) => self.found(now, found, out),
            AnsweringEvent::Admitted(outcome) => self.admitted(now, outcome, out),
            AnsweringEvent::Refunded(outcome) => self.refunded(now, outcome, out),
            AnsweringEvent::NotTaken(refusal) => self.not_taken(refusal, out),
            AnsweringEvent::Taken { waiting } => self.taken(waiting, out),
            AnsweringEvent::Read { tokens } => self.read(tokens, out),
            AnsweringEvent::Made { ids, logprobs } => self.made(now, ids, logprobs, out),
            AnsweringEvent::MadeAll(stop) => self.finish(now, stop, Hearing::Listens, out),
            AnsweringEvent::Charged { receipt, statement } => {
                self.charge_done(now, receipt, statement, out);
            }
            AnsweringEvent::Openness(openness) => self.open_to(now, openness, out),
            AnsweringEvent::Tick => self.tick(now, out),
        }
        self.watch_promises(now);
    }

    fn said(&mut self, now: Timestamp, frame: PayerFrame, out: &mut Vec<AnsweringEffect>) {
        match (&self.stage, frame) {
            (Stage::Greeting, PayerFrame::Ask { request, payment }) => {
                self.ask(request, payment, out);
            }
            (Stage::Greeting | Stage::RefundRefused, PayerFrame::Refund(payment)) => {
                self.refund(now, &payment, out);
            }
            (Stage::Unpaid | Stage::Working, PayerFrame::Pay(payment)) => {
                self.pay(now, payment, out);
            }
            (Stage::Working, PayerFrame::Cancel) => {
                self.finish(now, StopReason::Cancelled, Hearing::Listens, out);
            }
            // What comes once the last receipt is on its way crossed it.
            (Stage::Closing(_) | Stage::Ended, _) => {}
            (_, PayerFrame::Cancel) => self.leave(now, StreamEnd::Gone, out),
            _ => self.leave(now, StreamEnd::OutOfTurn, out),
        }
    }

    fn said_all(&mut self, now: Timestamp, out: &mut Vec<AnsweringEffect>) {
        if self.until.is_some() {
            self.leave(now, StreamEnd::Gone, out);
        }
    }

    fn ask(
        &mut self,
        request: Box<AnswerRequest>,
        payment: Option<PaymentJson>,
        out: &mut Vec<AnsweringEffect>,
    ) {
        self.until = None;
        if let Err(error) = request.check() {
            return self.refuse(error.into(), out);
        }
        if !self.terms.openness.admits(self.terms.is_household) {
            return self.refuse(not_now(self.terms.openness), out);
        }
        out.push(AnsweringEffect::Find(request.weights));
        self.stage = Stage::Finding(request, payment);
    }

    fn found(&mut self, now: Timestamp, found: Option<Box<Found>>, out: &mut Vec<AnsweringEffect>) {
        let stage = std::mem::replace(&mut self.stage, Stage::Ended);
        let Stage::Finding(request, payment) = stage else {
            self.stage = stage;
            return;
        };
        match self.check_found(&request, found) {
            Ok((spec, prices)) => self.begin(now, *request, spec, &prices, payment, out),
            Err(refusal) => self.refuse(refusal, out),
        }
    }

    /// The spec that the question is answered with, and the prices.
    fn check_found(
        &self,
        request: &AnswerRequest,
        found: Option<Box<Found>>,
    ) -> Result<(ContentHash, Vec<Price>), Refusal> {
        let not_served = |message| Refusal::new(RefusalCode::ModelNotServed, None, None, message);
        let found = found.ok_or_else(|| not_served("the model is not served here"))?;
        if found.audience == Audience::Household && !self.terms.is_household {
            return Err(not_served("the model answers its own household only"));
        }
        let spec = Spec {
            sampling: request.sampling.clone(),
            serving: found.serving,
        }
        .hash();
        if spec != request.spec {
            let message = "the model is served with another spec: take the newest offer";
            return Err(Refusal::new(RefusalCode::SpecDiffers, None, None, message));
        }
        Ok((spec, found.prices))
    }

    fn begin(
        &mut self,
        now: Timestamp,
        request: AnswerRequest,
        spec: ContentHash,
        prices: &[Price],
        payment: Option<PaymentJson>,
        out: &mut Vec<AnsweringEffect>,
    ) {
        let is_free = self.terms.is_household || prices.is_empty();
        let tab = match (&self.terms.accepts, is_free) {
            (_, true) => None,
            (Some(accepts), false) => Some(Tab::new(accepts, prices, &request)),
            (None, false) => {
                return self.refuse_payment("no payments can be taken here now", out);
            }
        };
        self.work = Some(Box::new(Work {
            request,
            spec,
            started_at: now,
            read_tokens: 0,
            delivered: Vec::new(),
            tab,
            next_payment: None,
            charging: false,
            held: VecDeque::new(),
            ending: None,
            unpaid_at: None,
            working_at: now.plus_ms(WORKING_EVERY_MS),
        }));
        if is_free {
            return self.submit(now, out);
        }
        self.stage = Stage::Unpaid;
        match payment {
            Some(payment) => self.promise(now, &payment, out),
            None => self.correct(now, None, out),
        }
    }

    fn submit(&mut self, now: Timestamp, out: &mut Vec<AnsweringEffect>) {
        let Some(work) = &mut self.work else { return };
        self.stage = Stage::Working;
        work.started_at = now;
        work.working_at = now.plus_ms(WORKING_EVERY_MS);
        let covered_tokens = work.tab.as_ref().map(Tab::covered_tokens);
        out.push(AnsweringEffect::Submit {
            request: Box::new(work.request.clone()),
            allowance: covered_tokens.unwrap_or(work.request.output_tokens_max),
        });
    }

    /// A promise came. One that is for the next part waits while another one is admitted.
    fn pay(&mut self, now: Timestamp, payment: PaymentJson, out: &mut Vec<AnsweringEffect>) {
        let Some(work) = self.work.as_deref_mut() else {
            return;
        };
        let Some(tab) = &work.tab else {
            return self.leave(now, StreamEnd::OutOfTurn, out);
        };
        if !tab.is_admitting() && !work.charging {
            self.until = None;
            return self.promise(now, &payment, out);
        }
        // A promise is for one part, of which two are ahead at most.
        if work.next_payment.is_some() {
            return self.leave(now, StreamEnd::OutOfTurn, out);
        }
        work.next_payment = Some(payment);
    }

    /// Begins to have a promise admitted.
    fn promise(&mut self, now: Timestamp, payment: &PaymentJson, out: &mut Vec<AnsweringEffect>) {
        let Some(tab) = self.work.as_mut().and_then(|work| work.tab.as_mut()) else {
            return;
        };
        match tab.promise(payment, now) {
            Ok(Some(admission)) => {
                let (payment, chain) = (Box::new(admission.payment), admission.chain);
                let (quote, needs) = (admission.quote, admission.needs);
                out.push(AnsweringEffect::Admit {
                    payment,
                    chain,
                    quote,
                    needs,
                });
            }
            Ok(None) if matches!(self.stage, Stage::Unpaid) => self.correct(now, None, out),
            // It covers nothing that was not covered: harmless now and then.
            Ok(None) => {
                self.corrections += 1;
                if self.corrections > CORRECTIONS_MAX {
                    self.refuse_promise("the promises cover nothing new", now, out);
                }
            }
            Err(ErrorCode::InvalidRequirements) => self.correct(now, None, out),
            Err(code) => self.refuse_promise(code.message(), now, out),
        }
    }

    fn admitted(
        &mut self,
        now: Timestamp,
        outcome: Result<(), PaymentRefusal>,
        out: &mut Vec<AnsweringEffect>,
    ) {
        let Some(work) = self.work.as_deref_mut() else {
            return;
        };
        let Some(tab) = work.tab.as_mut().filter(|tab| tab.is_admitting()) else {
            return;
        };
        let stage_is_open = matches!(self.stage, Stage::Unpaid | Stage::Working);
        if !stage_is_open {
            return;
        }
        match outcome {
            Ok(()) => {
                let covered_tokens = tab.admit();
                self.corrections = 0;
                if matches!(self.stage, Stage::Unpaid) {
                    self.submit(now, out);
                } else {
                    out.push(AnsweringEffect::Allow(covered_tokens));
                }
            }
            Err(PaymentRefusal { code, correction }) => {
                let corrected = correction.and_then(|correction| tab.corrected(*correction, code));
                tab.refuse();
                match corrected {
                    Some(corrected) => self.correct(now, Some(corrected), out),
                    None => self.refuse_promise(code.message(), now, out),
                }
            }
        }
        self.take_next(now, out);
    }

    /// Charges what is used up, then looks at the promise that came meanwhile.
    fn take_next(&mut self, now: Timestamp, out: &mut Vec<AnsweringEffect>) {
        self.charge_part(now, out);
        let Some(work) = self.work.as_deref_mut() else {
            return;
        };
        let is_admitting = work.tab.as_ref().is_some_and(Tab::is_admitting);
        if !matches!(self.stage, Stage::Unpaid | Stage::Working) || is_admitting || work.charging {
            return;
        }
        if let Some(payment) = work.next_payment.take() {
            self.until = None;
            self.promise(now, &payment, out);
        }
    }

    /// Asks for another promise: in every asset that is taken, or by what the channel's state says.
    fn correct(
        &mut self,
        now: Timestamp,
        corrected: Option<RequirementsJson>,
        out: &mut Vec<AnsweringEffect>,
    ) {
        self.corrections += 1;
        if self.corrections > CORRECTIONS_MAX {
            let message = "the promise had to be corrected too often";
            return self.refuse_promise(message, now, out);
        }
        let Some(tab) = self.work.as_ref().and_then(|work| work.tab.as_ref()) else {
            return;
        };
        let required = corrected.unwrap_or_else(|| tab.required(ErrorCode::InvalidRequirements));
        out.push(AnsweringEffect::Send(ProviderFrame::PaymentRequired(
            required,
        )));
        if matches!(self.stage, Stage::Unpaid) {
            self.until = Some(now.plus_ms(PAYER_MS_MAX));
        }
    }

    /// A promise is refused for good: the answer does not begin, or ends where promises reach.
    fn refuse_promise(&mut self, message: &str, now: Timestamp, out: &mut Vec<AnsweringEffect>) {
        if matches!(self.stage, Stage::Working) {
            self.finish(now, StopReason::Unpaid, Hearing::Listens, out);
        } else {
            self.refuse_payment(message, out);
        }
    }

    fn refund(&mut self, now: Timestamp, payment: &PaymentJson, out: &mut Vec<AnsweringEffect>) {
        self.until = None;
        let Some(accepts) = &self.terms.accepts else {
            return self.refuse_payment("no chain can be reached here now", out);
        };
        let paid = match Paid::read(accepts, payment, now) {
            Ok(paid) => paid,
            Err(code) => return self.refuse_payment(code.message(), out),
        };
        if !matches!(paid.checked.kind, PaymentKind::Refund(_)) {
            return self.refuse_payment(ErrorCode::InvalidPayload.message(), out);
        }
        let chain = paid.asset.chain();
        let payer = paid.checked.config.payer;
        self.stage = Stage::Refunding {
            asset: Box::new(paid.asset),
            payer,
        };
        let payment = Box::new(paid.checked);
        out.push(AnsweringEffect::Refund { payment, chain });
    }

    fn refunded(
        &mut self,
        now: Timestamp,
        outcome: Result<PaymentStatement, PaymentRefusal>,
        out: &mut Vec<AnsweringEffect>,
    ) {
        let Stage::Refunding { asset, payer } = &self.stage else {
            return;
        };
        let chain = asset.chain();
        let settled = match outcome {
            Ok(statement) => statement.response(chain, *payer),
            Err(PaymentRefusal {
                code,
                correction: Some(correction),
            }) => {
                let required = super::tab::corrected(asset, Amount::ZERO, *correction, code);
                return self.correct_refund(now, required, out);
            }
            Err(PaymentRefusal { code, .. }) => SettleResponse::failure(chain, Some(*payer), code),
        };
        let settlement = SettlementJson::from(&settled);
        out.push(AnsweringEffect::Send(ProviderFrame::Refunded(settlement)));
        self.end(StreamEnd::Finished, out);
    }

    fn correct_refund(
        &mut self,
        now: Timestamp,
        required: RequirementsJson,
        out: &mut Vec<AnsweringEffect>,
    ) {
        self.corrections += 1;
        if self.corrections >= CORRECTIONS_MAX {
            return self.refuse_payment("the refund had to be corrected too often", out);
        }
        out.push(AnsweringEffect::Send(ProviderFrame::PaymentRequired(
            required,
        )));
        self.stage = Stage::RefundRefused;
        self.until = Some(now.plus_ms(PAYER_MS_MAX));
    }

    fn not_taken(&mut self, refusal: Refusal, out: &mut Vec<AnsweringEffect>) {
        if matches!(self.stage, Stage::Working) {
            self.refuse(refusal, out);
        }
    }

    fn taken(&mut self, waiting: u32, out: &mut Vec<AnsweringEffect>) {
        if matches!(self.stage, Stage::Working) {
            out.push(AnsweringEffect::Send(ProviderFrame::Accepted { waiting }));
        }
    }

    fn read(&mut self, tokens: u32, out: &mut Vec<AnsweringEffect>) {
        if let (Stage::Working, Some(work)) = (&self.stage, self.work.as_deref_mut()) {
            work.read_tokens = tokens;
            out.push(work.say_working());
        }
    }

    fn made(
        &mut self,
        now: Timestamp,
        ids: Vec<u32>,
        logprobs: Vec<TokenLogprobs>,
        out: &mut Vec<AnsweringEffect>,
    ) {
        let (Stage::Working, Some(work)) = (&self.stage, self.work.as_deref_mut()) else {
            return;
        };
        if work.ending.is_some() {
            return;
        }
        if work.charging {
            work.held.push_back((ids, logprobs));
            return;
        }
        out.push(work.deliver(ids, logprobs));
        self.charge_part(now, out);
    }

    /// Charges the oldest part if it is used up.
    fn charge_part(&mut self, now: Timestamp, out: &mut Vec<AnsweringEffect>) {
        let (Stage::Working, Some(work)) = (&self.stage, self.work.as_deref_mut()) else {
            return;
        };
        if work.charging {
            return;
        }
        let Some(tab) = &mut work.tab else { return };
        let Some(amount) = tab.charge_part() else {
            return;
        };
        let (charge, asset) = (tab.charged(), tab.asset());
        work.charging = true;
        out.push(AnsweringEffect::Charge {
            receipt: Box::new(work.receipt(StopReason::Unfinished, charge, now)),
            amounts: vec![amount],
            asset,
        });
    }

    fn charge_done(
        &mut self,
        now: Timestamp,
        receipt: Box<SignedReceipt>,
        statement: Option<PaymentStatement>,
        out: &mut Vec<AnsweringEffect>,
    ) {
        let Some(work) = self.work.as_deref_mut() else {
            return;
        };
        let settlement = statement.and_then(|statement| work.tab.as_ref()?.settlement(&statement));
        let frame = ProviderFrame::Charged {
            receipt,
            settlement,
        };
        match self.stage {
            Stage::Closing(Hearing::Listens) => {
                out.push(AnsweringEffect::Send(frame));
                self.end(StreamEnd::Finished, out);
            }
            Stage::Closing(Hearing::Left(end)) => self.end(end, out),
            Stage::Working if work.charging => {
                work.charging = false;
                let ending = work.ending.take();
                let listens = ending.is_none_or(|(_, hearing)| hearing == Hearing::Listens);
                if listens {
                    out.push(AnsweringEffect::Send(frame));
                    while let Some((ids, logprobs)) = work.held.pop_front() {
                        out.push(work.deliver(ids, logprobs));
                    }
                }
                match ending {
                    Some((stop, hearing)) => self.finish(now, stop, hearing, out),
                    None => self.take_next(now, out),
                }
            }
            _ => {}
        }
    }

    fn open_to(&mut self, now: Timestamp, openness: Openness, out: &mut Vec<AnsweringEffect>) {
        self.terms.openness = openness;
        if openness.admits(self.terms.is_household) {
            return;
        }
        match self.stage {
            Stage::Working => self.finish(now, StopReason::Failed, Hearing::Listens, out),
            Stage::Finding(..) | Stage::Unpaid => self.refuse(not_now(openness), out),
            // What is left in a channel is the payer's, whatever the device is open to.
            _ => {}
        }
    }

    fn tick(&mut self, now: Timestamp, out: &mut Vec<AnsweringEffect>) {
        if self.until.is_some_and(|until| now >= until) {
            return self.leave(now, StreamEnd::Silent, out);
        }
        let (Stage::Working, Some(work)) = (&self.stage, self.work.as_deref_mut()) else {
            return;
        };
        if work.unpaid_at.is_some_and(|at| now >= at) {
            return self.finish(now, StopReason::Unpaid, Hearing::Listens, out);
        }
        if work.working_at().is_some_and(|at| now >= at) {
            work.working_at = now.plus_ms(WORKING_EVERY_MS);
            out.push(work.say_working());
        }
    }

    /// Notes since when the payer owes a promise, where it does.
    fn watch_promises(&mut self, now: Timestamp) {
        if let (Stage::Working, Some(work)) = (&self.stage, self.work.as_deref_mut()) {
            let owes = work.owes_promise();
            let since = work.unpaid_at;
            work.unpaid_at = owes.then(|| since.unwrap_or_else(|| now.plus_ms(PAYER_MS_MAX)));
        }
    }

    /// Ends the answer: the last receipt is made, and what is owed charged.
    fn finish(
        &mut self,
        now: Timestamp,
        stop: StopReason,
        hearing: Hearing,
        out: &mut Vec<AnsweringEffect>,
    ) {
        let (Stage::Working, Some(work)) = (&self.stage, self.work.as_deref_mut()) else {
            return;
        };
        if work.charging {
            // The first reason stands, but a payer that is gone hears of none.
            let (stop, before) = work.ending.unwrap_or((stop, hearing));
            let hearing = if before == Hearing::Listens {
                hearing
            } else {
                before
            };
            work.ending = Some((stop, hearing));
            return;
        }
        if work.tab.is_none()
            && let Hearing::Left(end) = hearing
        {
            return self.end(end, out);
        }
        let (mut amounts, mut asset) = (Vec::new(), None);
        if let Some(tab) = &mut work.tab {
            (amounts, asset) = (tab.charge_rest(), tab.asset());
        }
        let charge = work.tab.as_ref().map_or(Amount::ZERO, Tab::charged);
        let receipt = Box::new(work.receipt(stop, charge, now));
        self.until = None;
        self.stage = Stage::Closing(hearing);
        out.push(AnsweringEffect::Charge {
            receipt,
            amounts,
            asset,
        });
    }

    /// Leaves the payer without a word. What was sent is owed all the same.
    fn leave(&mut self, now: Timestamp, end: StreamEnd, out: &mut Vec<AnsweringEffect>) {
        match self.stage {
            Stage::Working => self.finish(now, StopReason::Cancelled, Hearing::Left(end), out),
            Stage::Closing(_) => self.stage = Stage::Closing(Hearing::Left(end)),
            Stage::Ended => {}
            _ => self.end(end, out),
        }
    }

    fn refuse_payment(&mut self, message: &str, out: &mut Vec<AnsweringEffect>) {
        let refusal = Refusal::new(RefusalCode::PaymentRefused, None, None, message);
        self.refuse(refusal, out);
    }

    fn refuse(&mut self, refusal: Refusal, out: &mut Vec<AnsweringEffect>) {
        out.push(AnsweringEffect::Send(ProviderFrame::Refused(refusal)));
        self.end(StreamEnd::Finished, out);
    }

    fn end(&mut self, end: StreamEnd, out: &mut Vec<AnsweringEffect>) {
        self.stage = Stage::Ended;
        self.until = None;
        out.push(AnsweringEffect::End(end));
    }
}

impl Work {
    /// Sends tokens; nothing that is sent is taken back, so that it is owed from here on.
    fn deliver(&mut self, ids: Vec<u32>, logprobs: Vec<TokenLogprobs>) -> AnsweringEffect {
        let delivered = count(self.delivered.len());
        let first = self.request.answered_tokens.saturating_add(delivered);
        self.delivered.extend_from_slice(&ids);
        if let Some(tab) = &mut self.tab {
            tab.deliver(count(ids.len()));
        }
        AnsweringEffect::Send(ProviderFrame::Tokens(Tokens {
            first,
            ids,
            logprobs,
        }))
    }

    fn say_working(&self) -> AnsweringEffect {
        AnsweringEffect::Send(ProviderFrame::Working {
            prompt_tokens: self.read_tokens,
        })
    }

    /// When the payer is to be told that its question is worked on: before the first token only.
    fn working_at(&self) -> Option<Timestamp> {
        self.delivered.is_empty().then_some(self.working_at)
    }

    /// Whether nothing more can be made until the payer promises more.
    fn owes_promise(&self) -> bool {
        let Some(tab) = &self.tab else { return false };
        let covered_tokens = tab.covered_tokens();
        !tab.is_admitting()
            && !self.charging
            && covered_tokens <= count(self.delivered.len())
            && covered_tokens < self.request.output_tokens_max
    }

    fn receipt(&self, stop: StopReason, charge: Amount, now: Timestamp) -> Receipt {
        let request = &self.request;
        Receipt {
            answer: request.id,
            spec: self.spec,
            noise_spec: request.noise_spec,
            seed: request.seed,
            prompt: ContentHash::of_ids(&request.ids),
            output: ContentHash::of_ids(&self.delivered),
            prompt_tokens: count(request.ids.len()),
            answered_tokens: request.answered_tokens,
            output_tokens: count(self.delivered.len()),
            stop,
            channel: self.channel(),
            charge,
            started_at: self.started_at,
            ended_at: now,
        }
    }

    fn channel(&self) -> ChannelId {
        let channel = self.tab.as_ref().and_then(Tab::channel);
        channel.unwrap_or(ChannelId(B256::ZERO))
    }
}

fn not_now(openness: Openness) -> Refusal {
    let message = match openness {
        Openness::Nobody => "the owner shares this device with nobody",
        Openness::Household | Openness::Everyone => {
            "the owner keeps this device to the household now"
        }
    };
    Refusal::new(RefusalCode::NotNow, None, None, message)
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "answering_tests.rs"]
mod tests;
