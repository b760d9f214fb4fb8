//! The payer's side of one answer, as a machine (spec: answers, section 9).
//!
//! It holds the ids so far. When a provider stalls, dies, refuses or says what cannot be true, it
//! goes on with the next candidate: the same prompt, the same noise, the position that was reached.
//! The reader of the answer sees one stream. Each provider is paid for what it delivered and signed,
//! and nothing is charged that was not delivered: every figure of a receipt is checked against the
//! ids that came.
//!
//! Deliberately absent: which candidates there are and in what order (`market`), what a promise
//! looks like (`channel`), links and text (the driver).

use std::collections::VecDeque;

use alloy_primitives::Address;

use super::frame::{FRAME_TOKENS_MAX, PayerFrame, ProviderFrame, Refusal, Tokens};
use super::price::Price;
use super::receipt::{Receipt, SignedReceipt, StopReason};
use super::request::AnswerRequest;
use crate::content::ContentHash;
use crate::id::DeviceId;
use crate::money::Amount;
use crate::time::Timestamp;
use crate::x402::{PaymentJson, RequirementsJson, SettlementJson};

/// Providers that are tried for one answer at most.
pub const ATTEMPTS_MAX: usize = 16;

/// How patient a payer is, and how much it promises ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long the next token may take, in milliseconds.
    pub stall_ms: u64,
    /// How long a provider may take to answer at all, in milliseconds.
    pub connect_ms: u64,
    /// How long a provider that says that it works may take without getting on, in its queue or
    /// with the prompt, in milliseconds.
    pub queue_ms: u64,
    /// How long a deposit may take to become final, in milliseconds.
    pub deposit_ms: u64,
    /// Output tokens that are promised for beyond those that were charged.
    pub window_tokens: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            stall_ms: 3_000,
            connect_ms: 3_000,
            queue_ms: 15_000,
            deposit_ms: 60_000,
            window_tokens: 512,
        }
    }
}

/// Someone who could answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The device; nothing means this one.
    pub device: Option<DeviceId>,
    /// The spec that it answers with.
    pub spec: ContentHash,
    /// The key that signs its receipts.
    pub session_key: Address,
    /// What it costs; nothing means that it is free.
    pub price: Option<Price>,
    /// How fast it reads a prompt, by its own word.
    pub prompt_tokens_per_s: u32,
}

/// What happens to an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum AskingEvent {
    /// The link to the candidate stands, and its promise, if one was asked for, is signed.
    Opened {
        /// The promise.
        payment: Option<PaymentJson>,
        /// Whether a deposit goes with it.
        deposits: bool,
    },
    /// The link cannot be had.
    NotOpened,
    /// No promise may be made: a limit of the household was hit, or its books failed.
    NotPaid(String),
    /// A further promise is signed.
    Promised {
        /// The promise.
        payment: PaymentJson,
        /// Whether a deposit goes with it.
        deposits: bool,
    },
    /// The provider said something.
    Frame(Box<ProviderFrame>),
    /// This device's own model made tokens.
    Made(Tokens),
    /// This device's own model has ended.
    MadeAll(StopReason),
    /// This device's own model does not take the question.
    Refused(Refusal),
    /// This device found that the question itself is at fault: nobody else could answer it.
    Faulty(String),
    /// The link broke, or what came over it was not a frame.
    Closed {
        /// It was the peer's doing: what came could not be read.
        garbage: bool,
    },
    /// Nothing at all comes from the provider's device any more, not even that it is alive.
    Unheard,
    /// The asker has gone, or wants no more.
    Cancel,
    /// Time passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum AskingEffect {
    /// Reach the candidate, and promise `promise` to it; answer with [`AskingEvent::Opened`],
    /// [`AskingEvent::NotOpened`] or [`AskingEvent::NotPaid`].
    Open {
        /// Who.
        candidate: Box<Candidate>,
        /// What is promised first, if it is to be paid.
        promise: Option<Amount>,
    },
    /// Begin to make tokens with this device's own model.
    Make(Box<AnswerRequest>),
    /// Have a link ready to this candidate, which is the next to be asked. Nothing is asked or
    /// promised yet, and nothing is answered to this.
    Prepare(Box<Candidate>),
    /// Say this to the provider.
    Send(PayerFrame),
    /// Sign a promise of this amount, and answer with [`AskingEvent::Promised`] or [`AskingEvent::NotPaid`].
    Promise(Amount),
    /// Take the provider's correction into the books, then sign the same promise again; answer
    /// with [`AskingEvent::Promised`] or [`AskingEvent::NotPaid`].
    Correct {
        /// The correction.
        required: RequirementsJson,
        /// What is promised.
        promise: Amount,
    },
    /// Take what was charged into the books, and keep the receipt.
    Settle {
        /// What the provider signed.
        receipt: Box<SignedReceipt>,
        /// The statement of what was charged; nothing where nothing was to be paid.
        settlement: Option<SettlementJson>,
    },
    /// Hand these on.
    Deliver(Tokens),
    /// Leave the provider: close the link, and end its payments.
    Leave {
        /// Who.
        candidate: Box<Candidate>,
        /// Why.
        why: Departure,
    },
    /// The answer has ended.
    Ended(End),
}

/// Why a provider is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Departure {
    /// It did its part.
    Done,
    /// It was not needed any more.
    Cancelled,
    /// It refused before it worked.
    Refused(Refusal),
    /// It could not be reached, fell silent, or broke off.
    Lost,
    /// It said what cannot be true.
    Distrusted(AnswerDistrust),
    /// It could not be paid.
    NotPaid(String),
    /// The question itself is at fault, as this device found.
    Faulty(String),
}

/// What a provider said that cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerDistrust {
    /// What came was not a frame.
    #[error("it sent what cannot be read")]
    Garbage,
    /// A frame came out of turn.
    #[error("it spoke out of turn")]
    OutOfTurn,
    /// Tokens of another position, or more than were asked for.
    #[error("it sent tokens that were not asked for")]
    WrongTokens,
    /// The receipt is for something else.
    #[error("its receipt does not say what happened")]
    WrongReceipt,
    /// The receipt is signed by someone else.
    #[error("its receipt is signed by another key")]
    WrongSigner,
    /// It charged more than its price.
    #[error("it charged more than its price")]
    Overcharged,
    /// It ended before the end.
    #[error("it ended the answer without a reason")]
    EndedEarly,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As the last provider signed it.
    Stopped(StopReason),
    /// The asker wanted no more.
    Cancelled,
    /// Nobody is left to go on.
    Broken {
        /// Why the last candidate was left.
        last: Option<Departure>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The link is being made.
    Opening,
    /// The question was sent.
    Asked,
    /// It is worked on.
    Accepted,
    /// Cancelled; the last receipt is awaited.
    Cancelling,
}

#[derive(Debug, Clone)]
struct Attempt {
    candidate: Candidate,
    stage: Stage,
    /// Ids that it was given: prompt and what was answered before.
    asked: AnswerRequest,
    /// What was delivered by it, in the ids of the answer.
    first: usize,
    /// Output tokens that its promises cover.
    covered_tokens: u32,
    /// What is promised for what comes next.
    promise: Amount,
    /// Output tokens that were paid for before the newest promise, or before the one whose deposit is awaited.
    covered_before: u32,
    /// Until when a deposit may keep it from going on beyond those.
    deposit_until: Option<Timestamp>,
    /// What it charged so far, by its receipts.
    charged: Amount,
    /// Tokens of the prompt that it has read, by its word.
    prompt_tokens_read: u32,
    /// When it is left unless something comes.
    until: Timestamp,
    /// When it is left unless it gets on with the prompt, whatever it says.
    progress_by: Timestamp,
}

/// One answer, seen by its payer.
#[derive(Debug, Clone)]
pub struct Asking {
    question: AnswerRequest,
    ids: Vec<u32>,
    candidates: VecDeque<Candidate>,
    attempts: usize,
    attempt: Option<Attempt>,
    /// The spec that the noise is drawn from: that of the first who delivered.
    noise_spec: Option<ContentHash>,
    patience: Patience,
    last: Option<Departure>,
    ended: bool,
}

impl Asking {
    /// An answer to `question`, by the first of `candidates` that can. The specs and the answered
    /// ids of the question are filled in for each.
    pub fn new(question: AnswerRequest, candidates: Vec<Candidate>, patience: Patience) -> Self {
        Self {
            question,
            ids: Vec::new(),
            candidates: candidates.into_iter().take(ATTEMPTS_MAX).collect(),
            attempts: 0,
            attempt: None,
            noise_spec: None,
            patience,
            last: None,
            ended: false,
        }
    }

    /// Whether a provider has taken the question and works on it, or this device does.
    pub fn is_worked_on(&self) -> bool {
        self.attempt.as_ref().is_some_and(Attempt::is_on)
    }

    /// What was answered so far.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// When [`AskingEvent::Tick`] is due.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.attempt.as_ref().map(|attempt| attempt.until)
    }

    /// Begins with the first candidate.
    pub fn start(&mut self, now: Timestamp, out: &mut Vec<AskingEffect>) {
        self.next(now, out);
    }

    /// Takes one event and appends what is to be done.
    pub fn handle(&mut self, now: Timestamp, event: AskingEvent, out: &mut Vec<AskingEffect>) {
        if self.ended {
            return;
        }
        match event {
            AskingEvent::Opened { payment, deposits } => self.opened(now, payment, deposits, out),
            AskingEvent::NotOpened => self.leave(now, Departure::Lost, out),
            AskingEvent::NotPaid(why) => self.leave(now, Departure::NotPaid(why), out),
            AskingEvent::Promised { payment, deposits } => {
                self.promised(now, payment, deposits, out)
            }
            AskingEvent::Frame(frame) => self.frame(now, *frame, out),
            AskingEvent::Made(tokens) => self.tokens(now, tokens, out),
            AskingEvent::MadeAll(stop) => self.finish(now, stop, out),
            AskingEvent::Refused(refusal) => self.refused(now, refusal, out),
            AskingEvent::Faulty(why) => self.faulty(why, out),
            AskingEvent::Closed { garbage: true } => {
                self.distrust(now, AnswerDistrust::Garbage, out)
            }
            AskingEvent::Closed { garbage: false } => self.closed(now, out),
            AskingEvent::Unheard => self.unheard(now, out),
            AskingEvent::Cancel => self.cancel(now, out),
            AskingEvent::Tick => self.tick(now, out),
        }
    }

    /// Goes on with the next candidate, or ends.
    fn next(&mut self, now: Timestamp, out: &mut Vec<AskingEffect>) {
        let Some(candidate) = self.candidates.pop_front() else {
            let last = self.last.take();
            self.end(End::Broken { last }, out);
            return;
        };
        self.attempts += 1;
        let asked = self.ask_of(&candidate);
        let prompt_tokens = count(asked.ids.len());
        let covered_tokens = asked.output_tokens_max.min(self.patience.window_tokens);
        let promise = candidate
            .price
            .map(|price| price.cost(prompt_tokens, covered_tokens));
        let is_here = candidate.device.is_none();
        let patience_ms = if is_here {
            u64::MAX
        } else {
            self.patience.connect_ms
        };
        self.attempt = Some(Attempt {
            candidate: candidate.clone(),
            stage: if is_here {
                Stage::Accepted
            } else {
                Stage::Opening
            },
            first: self.ids.len(),
            covered_tokens,
            promise: promise.unwrap_or(Amount::ZERO),
            covered_before: 0,
            deposit_until: None,
            charged: Amount::ZERO,
            prompt_tokens_read: 0,
            until: now.plus_ms(patience_ms),
            progress_by: now,
            asked: asked.clone(),
        });
        if is_here {
            out.push(AskingEffect::Make(Box::new(asked)));
        } else {
            let candidate = Box::new(candidate);
            out.push(AskingEffect::Open { candidate, promise });
        }
    }

    /// The question as it stands for a candidate.
    fn ask_of(&self, candidate: &Candidate) -> AnswerRequest {
        let answered = count(self.ids.len());
        let mut asked = self.question.clone();
        asked.spec = candidate.spec;
        asked.noise_spec = self.noise_spec.unwrap_or(candidate.spec);
        asked.ids.extend_from_slice(&self.ids);
        asked.answered_tokens = answered;
        asked.output_tokens_max = self.question.output_tokens_max.saturating_sub(answered);
        asked
    }

    fn opened(
        &mut self,
        now: Timestamp,
        payment: Option<PaymentJson>,
        deposits: bool,
        out: &mut Vec<AskingEffect>,
    ) {
        let patience = self.patience;
        let Some(attempt) = self.attempt.as_mut() else {
            return;
        };
        if attempt.stage != Stage::Opening {
            return;
        }
        attempt.stage = Stage::Asked;
        let wait_ms = patience
            .connect_ms
            .max(if deposits { patience.deposit_ms } else { 0 });
        attempt.until = now.plus_ms(wait_ms);
        out.push(AskingEffect::Send(PayerFrame::Ask {
            request: Box::new(attempt.asked.clone()),
            payment,
        }));
    }

    fn promised(
        &mut self,
        now: Timestamp,
        payment: PaymentJson,
        deposits: bool,
        out: &mut Vec<AskingEffect>,
    ) {
        let deposit_ms = self.patience.deposit_ms;
        let reached = self.ids.len();
        // Also before the question is accepted: then it answers a correction.
        let attempt = self.attempt.as_mut();
        let Some(attempt) = attempt.filter(|attempt| attempt.stage != Stage::Opening) else {
            return;
        };
        if deposits {
            attempt.deposit_until = Some(now.plus_ms(deposit_ms));
            attempt.await_deposit(reached);
        }
        out.push(AskingEffect::Send(PayerFrame::Pay(payment)));
    }

    fn frame(&mut self, now: Timestamp, frame: ProviderFrame, out: &mut Vec<AskingEffect>) {
        match frame {
            ProviderFrame::PaymentRequired(required) => self.correct(now, required, out),
            ProviderFrame::Refused(refusal) => self.refused(now, refusal, out),
            ProviderFrame::Accepted { waiting } => self.accepted(now, waiting, out),
            ProviderFrame::Working { prompt_tokens } => self.working(now, prompt_tokens, out),
            ProviderFrame::Tokens(tokens) => self.tokens(now, tokens, out),
            ProviderFrame::Charged {
                receipt,
                settlement,
            } => self.charged(now, receipt, settlement, out),
            // Nobody asks for a refund on the stream of an answer.
            ProviderFrame::Refunded(_) => self.distrust(now, AnswerDistrust::OutOfTurn, out),
        }
    }

    fn correct(&mut self, now: Timestamp, required: RequirementsJson, out: &mut Vec<AskingEffect>) {
        let patience_ms = self.patience.deposit_ms;
        let attempt = self.attempt.as_mut();
        let Some(attempt) = attempt.filter(|attempt| attempt.candidate.price.is_some()) else {
            return self.distrust(now, AnswerDistrust::OutOfTurn, out);
        };
        if attempt.stage == Stage::Opening {
            return self.distrust(now, AnswerDistrust::OutOfTurn, out);
        }
        // Nothing is generated meanwhile, so time is only lost; a second correction is refused by
        // the books.
        attempt.until = now.plus_ms(patience_ms);
        out.push(AskingEffect::Correct {
            required,
            promise: attempt.promise,
        });
    }

    fn refused(&mut self, now: Timestamp, refusal: Refusal, out: &mut Vec<AskingEffect>) {
        self.leave(now, Departure::Refused(refusal), out);
    }

    /// Ends the answer: the next provider would find the same fault.
    fn faulty(&mut self, why: String, out: &mut Vec<AskingEffect>) {
        let Some(attempt) = self.attempt.as_ref() else {
            return;
        };
        let cancelling = attempt.stage == Stage::Cancelling;
        self.drop_attempt(Departure::Faulty(why.clone()), out);
        let end = if cancelling {
            End::Cancelled
        } else {
            let last = Some(Departure::Faulty(why));
            End::Broken { last }
        };
        self.end(end, out);
    }

    fn accepted(&mut self, now: Timestamp, waiting: u32, out: &mut Vec<AskingEffect>) {
        let patience = self.patience;
        let attempt = self.attempt.as_mut();
        let Some(attempt) = attempt.filter(|attempt| attempt.stage == Stage::Asked) else {
            return self.distrust(now, AnswerDistrust::OutOfTurn, out);
        };
        attempt.stage = Stage::Accepted;
        let wait_ms = if waiting == 0 {
            attempt.read_ms(patience.stall_ms)
        } else {
            patience.queue_ms
        };
        attempt.until = now.plus_ms(wait_ms);
        attempt.progress_by = now.plus_ms(wait_ms.max(patience.queue_ms));
    }

    fn working(&mut self, now: Timestamp, prompt_tokens: u32, out: &mut Vec<AskingEffect>) {
        let patience = self.patience;
        let reached = self.ids.len();
        let attempt = self.attempt.as_mut();
        let Some(attempt) = attempt.filter(|attempt| attempt.is_on()) else {
            return self.distrust(now, AnswerDistrust::OutOfTurn, out);
        };
        let more = prompt_tokens > attempt.prompt_tokens_read;
        if more && prompt_tokens as usize <= attempt.asked.ids.len() {
            attempt.prompt_tokens_read = prompt_tokens;
            let read_ms = attempt.read_ms(patience.stall_ms);
            attempt.until = now.plus_ms(read_ms);
            attempt.progress_by = now.plus_ms(read_ms.max(patience.queue_ms));
        } else if prompt_tokens == attempt.prompt_tokens_read && reached == attempt.first {
            // It lives, and others are before this prompt; but words alone do not hold for long.
            let lives = now.plus_ms(patience.stall_ms).min(attempt.progress_by);
            attempt.until = attempt.until.max(lives);
        }
    }

    fn tokens(&mut self, now: Timestamp, tokens: Tokens, out: &mut Vec<AskingEffect>) {
        let stall_ms = self.patience.stall_ms;
        let reached = self.ids.len();
        let attempt = self.attempt.as_mut();
        let Some(attempt) = attempt.filter(|attempt| attempt.is_on()) else {
            return self.distrust(now, AnswerDistrust::OutOfTurn, out);
        };
        let delivered = reached - attempt.first;
        let asked = attempt.asked.output_tokens_max as usize;
        let whole_logprobs =
            tokens.logprobs.len() == tokens.ids.len() || tokens.logprobs.is_empty();
        let right = tokens.first as usize == reached
            && !tokens.ids.is_empty()
            && tokens.ids.len() <= FRAME_TOKENS_MAX
            && delivered + tokens.ids.len() <= asked
            && whole_logprobs
            && (attempt.asked.logprobs.is_some() || tokens.logprobs.is_empty());
        if !right {
            return self.distrust(now, AnswerDistrust::WrongTokens, out);
        }
        if attempt.candidate.device.is_some() {
            attempt.until = now.plus_ms(stall_ms);
            let next = self.candidates.front();
            if let Some(next) = next.filter(|next| delivered == 0 && next.device.is_some()) {
                out.push(AskingEffect::Prepare(Box::new(next.clone())));
            }
        }
        attempt.await_deposit(reached + tokens.ids.len());
        self.noise_spec.get_or_insert(attempt.asked.noise_spec);
        self.ids.extend_from_slice(&tokens.ids);
        // Once cancelled nobody listens any more, but what was delivered is still paid for.
        if attempt.stage != Stage::Cancelling {
            out.push(AskingEffect::Deliver(tokens));
        }
    }

    fn charged(
        &mut self,
        now: Timestamp,
        signed: Box<SignedReceipt>,
        settlement: Option<SettlementJson>,
        out: &mut Vec<AskingEffect>,
    ) {
        if let Err(distrust) = self.check_receipt(&signed) {
            return self.distrust(now, distrust, out);
        }
        let stop = signed.receipt.stop;
        let delivered = signed.receipt.output_tokens;
        let charge = signed.receipt.charge;
        let window_tokens = self.patience.window_tokens;
        let Some(attempt) = self.attempt.as_mut() else {
            return;
        };
        attempt.charged = charge;
        let receipt = signed;
        out.push(AskingEffect::Settle {
            receipt,
            settlement,
        });
        if stop != StopReason::Unfinished {
            return self.finish(now, stop, out);
        }
        if attempt.stage == Stage::Cancelling {
            return;
        }
        let Some(price) = attempt.candidate.price else {
            return;
        };
        let most = attempt.asked.output_tokens_max;
        if attempt.covered_tokens >= most {
            return;
        }
        let prompt_tokens = count(attempt.asked.ids.len());
        if attempt.deposit_until.is_none() {
            let before = price.cost(prompt_tokens, attempt.covered_tokens);
            attempt.covered_before = price.output_tokens_for(prompt_tokens, before, most);
        }
        attempt.covered_tokens = delivered.saturating_add(window_tokens).min(most);
        attempt.promise = price
            .cost(prompt_tokens, attempt.covered_tokens)
            .saturating_sub(charge);
        out.push(AskingEffect::Promise(attempt.promise));
    }

    /// Whether a receipt says what happened, and no more than that.
    fn check_receipt(&self, signed: &SignedReceipt) -> Result<(), AnswerDistrust> {
        let Some(attempt) = self.attempt.as_ref().filter(|attempt| attempt.is_on()) else {
            return Err(AnswerDistrust::OutOfTurn);
        };
        let asked = &attempt.asked;
        let receipt: &Receipt = &signed.receipt;
        let delivered = &self.ids[attempt.first..];
        let right = receipt.answer == asked.id
            && receipt.spec == asked.spec
            && receipt.noise_spec == asked.noise_spec
            && receipt.seed == asked.seed
            && receipt.prompt == ContentHash::of_ids(&asked.ids)
            && receipt.prompt_tokens as usize == asked.ids.len()
            && receipt.answered_tokens == asked.answered_tokens
            && receipt.output_tokens as usize == delivered.len()
            && receipt.output == ContentHash::of_ids(delivered);
        if !right {
            return Err(AnswerDistrust::WrongReceipt);
        }
        if signed.signer() != Ok(attempt.candidate.session_key) {
            return Err(AnswerDistrust::WrongSigner);
        }
        let cost = match attempt.candidate.price {
            Some(price) if !delivered.is_empty() => {
                price.cost(receipt.prompt_tokens, receipt.output_tokens)
            }
            _ => Amount::ZERO,
        };
        if receipt.charge > cost || receipt.charge < attempt.charged {
            return Err(AnswerDistrust::Overcharged);
        }
        Ok(())
    }

    /// The provider says that it ended; what then follows depends on why.
    fn finish(&mut self, now: Timestamp, stop: StopReason, out: &mut Vec<AskingEffect>) {
        let Some(attempt) = self.attempt.as_ref() else {
            return;
        };
        let cancelling = attempt.stage == Stage::Cancelling;
        let delivered = self.ids.len() - attempt.first;
        let is_whole = match stop {
            StopReason::EndOfText | StopReason::Grammar => true,
            StopReason::Length => delivered == attempt.asked.output_tokens_max as usize,
            // The owner of the provider took it back, or a promise came too late: others go on.
            StopReason::Failed | StopReason::Unpaid => {
                return self.leave(now, Departure::Lost, out);
            }
            StopReason::Cancelled => cancelling,
            StopReason::Unfinished => return,
        };
        // A context that is full ends the answer as well, wherever it is continued.
        if !is_whole && stop != StopReason::Length {
            return self.distrust(now, AnswerDistrust::EndedEarly, out);
        }
        let why = if cancelling {
            Departure::Cancelled
        } else {
            Departure::Done
        };
        self.drop_attempt(why, out);
        let end = if cancelling {
            End::Cancelled
        } else {
            End::Stopped(stop)
        };
        self.end(end, out);
    }

    fn closed(&mut self, now: Timestamp, out: &mut Vec<AskingEffect>) {
        let cancelling = self
            .attempt
            .as_ref()
            .is_some_and(|attempt| attempt.stage == Stage::Cancelling);
        if cancelling {
            self.drop_attempt(Departure::Lost, out);
            self.end(End::Cancelled, out);
        } else {
            self.leave(now, Departure::Lost, out);
        }
    }

    /// A device that is gone is left without waiting for the stall rule, which is for devices that
    /// are slow; where nobody else could go on, it may yet come back within that time.
    fn unheard(&mut self, now: Timestamp, out: &mut Vec<AskingEffect>) {
        let is_peer = |attempt: &Attempt| attempt.candidate.device.is_some();
        if self.attempt.as_ref().is_some_and(is_peer) && !self.candidates.is_empty() {
            self.closed(now, out);
        }
    }

    fn cancel(&mut self, now: Timestamp, out: &mut Vec<AskingEffect>) {
        let stall_ms = self.patience.stall_ms;
        let Some(attempt) = self.attempt.as_mut() else {
            return self.end(End::Cancelled, out);
        };
        // A provider that works is waited for: its last receipt says what is owed.
        if attempt.candidate.device.is_some() && attempt.is_on() {
            if attempt.stage != Stage::Cancelling {
                attempt.stage = Stage::Cancelling;
                attempt.until = now.plus_ms(stall_ms);
                out.push(AskingEffect::Send(PayerFrame::Cancel));
            }
            return;
        }
        self.drop_attempt(Departure::Cancelled, out);
        self.end(End::Cancelled, out);
    }

    fn tick(&mut self, now: Timestamp, out: &mut Vec<AskingEffect>) {
        if self
            .attempt
            .as_ref()
            .is_some_and(|attempt| now >= attempt.until)
        {
            self.closed(now, out);
        }
    }

    fn distrust(&mut self, now: Timestamp, distrust: AnswerDistrust, out: &mut Vec<AskingEffect>) {
        self.leave(now, Departure::Distrusted(distrust), out);
    }

    fn leave(&mut self, now: Timestamp, why: Departure, out: &mut Vec<AskingEffect>) {
        let Some(attempt) = self.attempt.as_ref() else {
            return;
        };
        let cancelling = attempt.stage == Stage::Cancelling;
        let ends_all = matches!(why, Departure::NotPaid(_)) && self.ids.len() > attempt.first;
        self.last = Some(why.clone());
        self.drop_attempt(why, out);
        if cancelling {
            return self.end(End::Cancelled, out);
        }
        if ends_all {
            // The household's own limit was hit in the middle: nobody else may be paid either.
            let last = self.last.take();
            return self.end(End::Broken { last }, out);
        }
        if count(self.ids.len()) >= self.question.output_tokens_max {
            return self.end(End::Stopped(StopReason::Length), out);
        }
        self.next(now, out);
    }

    fn drop_attempt(&mut self, why: Departure, out: &mut Vec<AskingEffect>) {
        if let Some(attempt) = self.attempt.take() {
            let candidate = Box::new(attempt.candidate);
            out.push(AskingEffect::Leave { candidate, why });
        }
    }

    fn end(&mut self, end: End, out: &mut Vec<AskingEffect>) {
        self.ended = true;
        out.push(AskingEffect::Ended(end));
    }
}

impl Attempt {
    /// Whether the provider has accepted the question.
    fn is_on(&self) -> bool {
        matches!(self.stage, Stage::Accepted | Stage::Cancelling)
    }

    /// Notes that the answer has `reached` ids. Where all that was promised before is used up, the
    /// provider waits for the deposit that goes with the newest promise, and is waited for; what it
    /// sends beyond that shows that the deposit is there.
    fn await_deposit(&mut self, reached: usize) {
        let Some(until) = self.deposit_until else {
            return;
        };
        let delivered = count(reached.saturating_sub(self.first));
        if delivered > self.covered_before {
            self.deposit_until = None;
        } else if delivered == self.covered_before {
            self.until = self.until.max(until);
        }
    }

    /// How long the rest of the prompt may take to be read, in milliseconds: twice what the
    /// provider's own figure says, and the usual time for a token.
    fn read_ms(&self, stall_ms: u64) -> u64 {
        let left = (self.asked.ids.len() as u64).saturating_sub(u64::from(self.prompt_tokens_read));
        let speed = u64::from(self.candidate.prompt_tokens_per_s.max(1));
        let reading = left.saturating_mul(2_000) / speed;
        stall_ms.saturating_add(reading.min(PROMPT_MS_MAX))
    }
}

/// The longest that a prompt may take to be read without a word, in milliseconds.
const PROMPT_MS_MAX: u64 = 60_000;

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "payer_tests.rs"]
mod tests;
