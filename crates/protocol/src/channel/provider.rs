//! The provider's side of one channel, as a machine (spec: payments, section 5).
//!
//! Events go in, effects come out, in order: whatever follows an [`Effect::Persist`] may be
//! performed only after the record is durable. That is the whole of the crash rule: before a figure
//! leaves, the charge, the voucher that covers it and the most that the payer can believe are
//! durable together. Until then nothing was promised: work that a crash cuts off is not charged, and
//! the payer's voucher, which it still has, is as good as before.
//!
//! Four ideas carry the rest:
//!
//! * **The payer's view.** A payer signs `max = view + ceiling`, so its view of what it was charged
//!   can be read from every voucher. A voucher is good when `max >= charged + reserved + need`;
//!   equality, which the standard's text asks for, would refuse payers that are merely ahead.
//! * **The upper view.** The headers of a stream leave before its charge is known. They state the
//!   most it can become, so that the payer's next voucher is surely high enough. `told` is at least
//!   the highest figure that a payer can believe; only the true charge is claimed.
//! * **Requests side by side.** A client signs one and the same voucher for all of them and adds up
//!   their replies in any order. So a statement says what is missing between what was stated before
//!   and what is charged now, and a sum only where nothing else can be on its way. What the payer
//!   believes once everything stated has reached it is `believed`. A lower view means that replies
//!   are on their way or lost; they count as lost when nothing was stated for [`TRANSIT_MS_MAX`].
//! * **Memory lost.** A view above everything that was ever told proves that this record is older
//!   than the payer's. The payer signed for that view, so it is adopted: nobody loses. That can be
//!   so only on the first voucher after the record came from the store; later it is an error.

use std::collections::{BTreeMap, VecDeque};

use alloy_primitives::U256;
use serde::{Deserialize, Serialize};

use crate::eip712::ChannelConfig;
use crate::id::ChannelId;
use crate::money::Amount;
use crate::time::Timestamp;
use crate::x402::{ChannelState, ChargeStatement, ClaimRow, ErrorCode, VoucherState};

use super::{CheckedDeposit, CheckedPayment, OnchainState, PaymentKind, Voucher, channel_state};

/// Requests that may wait for one channel; more are told that it is busy.
pub const WAITING_MAX: usize = 64;
/// Requests that may be worked on at once on one channel.
pub const ADMITTED_MAX: usize = 256;
/// How long a request waits for the channel before it is told that it is busy, in milliseconds.
pub const WAIT_MS_MAX: u64 = 30_000;

/// How long a reply can be on its way to a payer that lives, in milliseconds.
pub const TRANSIT_MS_MAX: u64 = 10_000;

/// A request, named by the driver; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a provider must not forget about a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The channel's parameters.
    pub config: ChannelConfig,
    /// What was charged, cumulative. This, and nothing more, is claimed.
    pub charged: Amount,
    /// The highest cumulative figure that the payer was ever told; at least `charged`.
    pub told: Amount,
    /// The highest voucher that was accepted.
    pub voucher: Option<Voucher>,
    /// The channel as the chain last had it; `None` before it was first read.
    pub onchain: Option<OnchainState>,
    /// When the last request was paid.
    pub last_paid_at: Timestamp,
}

/// What a request costs at most, in two senses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// The ceiling that the payer was quoted and signed for.
    pub ceiling: Amount,
    /// The most that this request can really cost; at most `ceiling`. Quoting more than is needed
    /// leaves room for requests in parallel on one voucher.
    pub need: Amount,
}

/// What happens to a channel.
#[derive(Debug, Clone)]
pub enum Event {
    /// A request came with a checked payment.
    Pay {
        /// The request.
        request: RequestId,
        /// The payment.
        payment: Box<CheckedPayment>,
        /// What the request costs at most.
        quote: Quote,
    },
    /// The work was done.
    Charge {
        /// The request.
        request: RequestId,
        /// What it costs; the request's `need` at most.
        amount: Amount,
    },
    /// The reply's headers must leave before the charge is known: what should they state?
    StateEarly {
        /// The request.
        request: RequestId,
    },
    /// The work failed, or nobody wants it any more. Nothing is charged.
    Abort {
        /// The request.
        request: RequestId,
    },
    /// The chain was read, or an event of the chain changed the channel.
    Onchain(OnchainState),
    /// The chain could not be read.
    ReadFailed,
    /// A transaction that was asked for is final.
    Done {
        /// The request that asked for it.
        request: RequestId,
        /// The channel after it, and the transaction; or the code that the payer is told.
        outcome: Result<Transacted, ErrorCode>,
    },
    /// Time passed.
    Tick,
}

/// A transaction that is final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transacted {
    /// Its hash, as it travels.
    pub transaction: String,
    /// What moved.
    pub amount: Amount,
    /// The channel after it.
    pub onchain: OnchainState,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make the record durable before anything that follows.
    Persist(Box<Record>),
    /// Read the channel on chain and answer with [`Event::Onchain`] or [`Event::ReadFailed`].
    ReadChain,
    /// Send the deposit and answer with [`Event::Done`].
    SendDeposit {
        /// For this request.
        request: RequestId,
        /// The deposit.
        deposit: CheckedDeposit,
    },
    /// Claim what is owed and refund, in one transaction, and answer with [`Event::Done`].
    SendRefund {
        /// For this request.
        request: RequestId,
        /// The claim that must come first, if any is due.
        claim: Option<Box<ClaimRow>>,
        /// What is returned.
        amount: Amount,
        /// The refund's nonce.
        nonce: U256,
    },
    /// Begin to work.
    Admit {
        /// The request.
        request: RequestId,
    },
    /// State this in the headers that leave now: the most that the charge can become.
    StateEarly {
        /// The request.
        request: RequestId,
        /// What to state.
        statement: Statement,
    },
    /// The charge is durable: state it.
    Charged {
        /// The request.
        request: RequestId,
        /// What this request was charged.
        amount: Amount,
        /// What to state in the headers, if they have not left.
        statement: Statement,
    },
    /// The refund is final: state it.
    Refunded {
        /// The request.
        request: RequestId,
        /// What to state.
        statement: Statement,
    },
    /// Refuse.
    Refuse {
        /// The request.
        request: RequestId,
        /// Why.
        code: ErrorCode,
        /// From which an honest payer recovers, where the code is one of those.
        correction: Option<Box<Correction>>,
    },
}

/// What a `PAYMENT-RESPONSE` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The transaction that this request caused, and what moved in it.
    pub moved: Option<(String, Amount)>,
    /// The charge and the channel.
    pub charge: ChargeStatement,
}

/// What a corrective 402 says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correction {
    /// The channel.
    pub channel: ChannelState,
    /// The proof: the newest voucher.
    pub voucher: Option<VoucherState>,
}

#[derive(Debug, Clone)]
struct Admitted {
    quote: Quote,
    /// The sum that the payer had when it signed, if that is surely what it has: its voucher is the
    /// highest yet, nothing else was in flight, and everything stated had reached it.
    sum_before: Option<Amount>,
    /// How many statements had left when this request was admitted.
    statements_before: u64,
    /// An early statement left.
    stated_early: bool,
    moved: Option<(String, Amount)>,
}

#[derive(Debug, Clone)]
struct Waiting {
    request: RequestId,
    payment: CheckedPayment,
    quote: Quote,
    until: Timestamp,
    /// The chain was read since this request came.
    read: bool,
    /// The deposit that this request brought is done.
    moved: Option<(String, Amount)>,
}

/// Why a channel cannot take a request now.
enum Verdict {
    Admit,
    Refund(Amount),
    Deposit,
    Read,
    Wait,
    Refuse(ErrorCode),
    Correct(ErrorCode),
}

/// One channel, seen by its provider.
#[derive(Debug, Clone)]
pub struct Channel {
    id: ChannelId,
    record: Record,
    admitted: BTreeMap<RequestId, Admitted>,
    waiting: VecDeque<Waiting>,
    /// A transaction or a read is under way for the request at the front of `waiting`.
    reading: bool,
    transacting: Option<RequestId>,
    /// Something in the record is not durable yet; no statement rests on it.
    unsaved: bool,
    /// How many statements have left.
    statements: u64,
    /// What the payer believes that it was charged, if every statement has reached it.
    believed: Amount,
    /// The most that the payer can believe; at most `told`.
    believed_max: Amount,
    /// The record came from the store and no voucher has agreed with it yet.
    unproved: bool,
}

impl Record {
    /// A channel that nothing is known of but its parameters.
    pub fn new(config: ChannelConfig) -> Self {
        Self {
            config,
            charged: Amount::ZERO,
            told: Amount::ZERO,
            voucher: None,
            onchain: None,
            last_paid_at: Timestamp::default(),
        }
    }

    /// What is charged and not yet claimed.
    pub fn unclaimed(&self) -> Amount {
        let claimed = self
            .onchain
            .map_or(Amount::ZERO, |onchain| onchain.total_claimed);
        self.charged.saturating_sub(claimed)
    }

    /// The row that claims everything that is due, if anything is.
    pub fn claim_row(&self) -> Option<ClaimRow> {
        if self.unclaimed().is_zero() {
            return None;
        }
        let voucher = self.voucher?;
        Some(voucher.claim_row(&self.config, self.charged))
    }
}

impl Channel {
    /// A channel whose record came from the store when the process began, or was never there: the
    /// payer may know better.
    pub fn restored(id: ChannelId, record: Record) -> Self {
        Self {
            unproved: true,
            ..Self::resumed(id, record)
        }
    }

    /// A channel whose record was let go and taken up again by one and the same process.
    pub fn resumed(id: ChannelId, record: Record) -> Self {
        Self {
            id,
            believed: record.charged,
            believed_max: record.told,
            record,
            admitted: BTreeMap::new(),
            waiting: VecDeque::new(),
            reading: false,
            transacting: None,
            unsaved: false,
            statements: 0,
            unproved: false,
        }
    }

    /// What must not be forgotten.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Whether there is anything that must not be forgotten.
    pub fn has_paid(&self) -> bool {
        self.record.voucher.is_some()
    }

    /// Whether nothing is under way, so that the machine may be dropped and made anew.
    pub fn is_idle(&self) -> bool {
        self.admitted.is_empty()
            && self.waiting.is_empty()
            && !self.reading
            && self.transacting.is_none()
    }

    /// Takes one event and appends what is to be done.
    pub fn handle(&mut self, now: Timestamp, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Pay {
                request,
                payment,
                quote,
            } => {
                self.enqueue(now, request, *payment, quote, out);
            }
            Event::Charge { request, amount } => self.charge(now, request, amount, out),
            Event::StateEarly { request } => self.state_early(request, out),
            Event::Abort { request } => {
                self.admitted.remove(&request);
                self.waiting.retain(|waiting| {
                    waiting.request != request || self.transacting == Some(request)
                });
            }
            Event::Onchain(onchain) => self.adopt_onchain(onchain, out),
            Event::ReadFailed => self.fail_read(out),
            Event::Done { request, outcome } => self.finish(request, outcome, out),
            Event::Tick => {}
        }
        self.advance(now, out);
    }

    fn enqueue(
        &mut self,
        now: Timestamp,
        request: RequestId,
        payment: CheckedPayment,
        quote: Quote,
        out: &mut Vec<Effect>,
    ) {
        if self.waiting.len() >= WAITING_MAX {
            out.push(Effect::Refuse {
                request,
                code: ErrorCode::ChannelBusy,
                correction: None,
            });
            return;
        }
        self.waiting.push_back(Waiting {
            request,
            payment,
            quote,
            until: now.plus_ms(WAIT_MS_MAX),
            read: false,
            moved: None,
        });
    }

    /// Lets every waiting request go on that can, in the order of arrival.
    ///
    /// A request that must wait for others does not hold up those behind it, except that a refund
    /// lets nothing pass: otherwise a steady stream of requests would keep it waiting for ever.
    fn advance(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let mut index = 0;
        while index < self.waiting.len() {
            let lets_pass = !matches!(self.waiting[index].payment.kind, PaymentKind::Refund(_));
            let before = self.waiting.len();
            match self.judge(&self.waiting[index]) {
                Verdict::Wait if now >= self.waiting[index].until && !self.is_held(index) => {
                    self.refuse_at(index, ErrorCode::ChannelBusy, false, out);
                }
                Verdict::Wait => {}
                Verdict::Read => {
                    self.reading = true;
                    out.push(Effect::ReadChain);
                }
                Verdict::Deposit => self.send_deposit(index, out),
                Verdict::Refund(amount) => self.send_refund(index, amount, out),
                Verdict::Admit => self.admit_at(now, index, out),
                Verdict::Refuse(code) => self.refuse_at(index, code, false, out),
                Verdict::Correct(code) => self.refuse_at(index, code, true, out),
            }
            let stays = self.waiting.len() == before;
            if stays && !lets_pass {
                return;
            }
            index += usize::from(stays);
        }
    }

    /// Whether the request at `index` has a transaction under way, and so must not be dropped.
    fn is_held(&self, index: usize) -> bool {
        self.transacting == Some(self.waiting[index].request)
    }

    fn reserved(&self) -> Amount {
        self.admitted.values().fold(Amount::ZERO, |sum, admitted| {
            sum.saturating_add(admitted.quote.need)
        })
    }

    fn judge(&self, waiting: &Waiting) -> Verdict {
        let Some(onchain) = self.record.onchain else {
            return if self.reading {
                Verdict::Wait
            } else {
                Verdict::Read
            };
        };
        if self.transacting == Some(waiting.request) {
            return Verdict::Wait;
        }
        match waiting.payment.kind {
            PaymentKind::Refund(amount) => self.judge_refund(waiting, amount, &onchain),
            PaymentKind::Voucher | PaymentKind::Deposit(_) => self.judge_payment(waiting, &onchain),
        }
    }

    fn judge_payment(&self, waiting: &Waiting, onchain: &OnchainState) -> Verdict {
        let max = waiting.payment.voucher.max_claimable;
        let Some(view) = max.checked_sub(waiting.quote.ceiling) else {
            return Verdict::Correct(ErrorCode::CumulativeMismatch);
        };
        let Some(charged) = self.charged_given(view, onchain) else {
            return Verdict::Correct(ErrorCode::CumulativeMismatch);
        };
        if max <= onchain.total_claimed {
            return Verdict::Correct(ErrorCode::CumulativeBelowClaimed);
        }
        let needed = charged.saturating_add(waiting.quote.need);
        if max < needed {
            return Verdict::Correct(ErrorCode::CumulativeMismatch);
        }
        if self.admitted.len() >= ADMITTED_MAX || max < needed.saturating_add(self.reserved()) {
            return Verdict::Wait;
        }
        match &waiting.payment.kind {
            PaymentKind::Deposit(deposit) if waiting.moved.is_none() => {
                let funds = onchain.spendable().saturating_add(deposit.amount);
                self.judge_funds(waiting, max <= funds, Verdict::Deposit)
            }
            _ if max <= onchain.spendable() => Verdict::Admit,
            _ => self.judge_funds(waiting, false, Verdict::Admit),
        }
    }

    /// What to do where the channel's funds matter: read them before anyone is refused.
    ///
    /// A deposit is sent even where the channel holds enough: the published clients count every
    /// deposit that was answered, and would later sign for money that is not there.
    fn judge_funds(&self, waiting: &Waiting, enough: bool, then: Verdict) -> Verdict {
        if self.transacting.is_some() || self.reading {
            return Verdict::Wait;
        }
        match (enough, waiting.read) {
            (true, _) => then,
            (false, false) => Verdict::Read,
            (false, true) => Verdict::Correct(ErrorCode::CumulativeExceedsBalance),
        }
    }

    fn judge_refund(
        &self,
        waiting: &Waiting,
        amount: Option<Amount>,
        onchain: &OnchainState,
    ) -> Verdict {
        if !self.admitted.is_empty() || self.transacting.is_some() || self.reading {
            return Verdict::Wait;
        }
        if !waiting.read {
            return Verdict::Read;
        }
        let max = waiting.payment.voucher.max_claimable;
        // A view below what was charged lacks a reply that was lost; the voucher held covers it.
        let Some(charged) = self.charged_given(max, onchain) else {
            return Verdict::Correct(ErrorCode::CumulativeMismatch);
        };
        let left = onchain.balance.saturating_sub(charged);
        if left.is_zero() {
            return Verdict::Refuse(ErrorCode::RefundNoBalance);
        }
        match amount {
            None => Verdict::Refund(left),
            Some(amount) if amount.is_zero() || amount > left => {
                Verdict::Refuse(ErrorCode::RefundAmount)
            }
            Some(amount) => Verdict::Refund(amount),
        }
    }

    /// What was charged, given the payer's view; `None` where that view cannot be.
    ///
    /// A view above all that was told is believed where this record may be old, and as far as the
    /// channel held so much.
    fn charged_given(&self, view: Amount, onchain: &OnchainState) -> Option<Amount> {
        if view <= self.record.told {
            return Some(self.record.charged);
        }
        (self.unproved && view <= onchain.balance).then_some(view)
    }

    fn adopt_view(&mut self, view: Amount) {
        if view > self.record.told {
            self.record.charged = view;
            self.record.told = view;
        }
        self.unproved = false;
    }

    fn keep_voucher(&mut self, voucher: Voucher) {
        let higher = self
            .record
            .voucher
            .is_none_or(|held| voucher.max_claimable > held.max_claimable);
        if higher {
            self.record.voucher = Some(voucher);
        }
    }

    fn admit_at(&mut self, now: Timestamp, index: usize, out: &mut Vec<Effect>) {
        let Some(waiting) = self.waiting.remove(index) else {
            return;
        };
        let request = waiting.request;
        let voucher = waiting.payment.voucher;
        let view = voucher.max_claimable.saturating_sub(waiting.quote.ceiling);
        let sum_before = self.weigh_view(now, view, voucher);
        self.adopt_view(view);
        self.keep_voucher(voucher);
        self.record.last_paid_at = now;
        let admitted = Admitted {
            quote: waiting.quote,
            sum_before,
            statements_before: self.statements,
            stated_early: false,
            moved: waiting.moved,
        };
        self.admitted.insert(request, admitted);
        self.tell_at_most(self.believed_max);
        self.unsaved = true;
        out.push(Effect::Admit { request });
    }

    /// Learns from a voucher what the payer believes. Returns that sum where it is certain.
    ///
    /// A voucher that is no higher than the one held may have been signed together with it, before
    /// the last replies were read: it says nothing new while those can be on their way.
    fn weigh_view(&mut self, now: Timestamp, view: Amount, voucher: Voucher) -> Option<Amount> {
        let held = self.record.voucher;
        let is_new = held.is_none_or(|held| voucher.max_claimable > held.max_claimable);
        let is_quiet = now >= self.record.last_paid_at.plus_ms(TRANSIT_MS_MAX);
        let is_alone = self.admitted.is_empty();
        if is_alone && is_quiet {
            self.believed = view;
            if is_new {
                self.believed_max = view;
            }
        }
        self.believed = self.believed.max(view);
        self.believed_max = self.believed_max.max(view);
        (is_alone && (is_new || is_quiet) && view == self.believed).then_some(view)
    }

    /// Raises `told` to all that a payer which believes `sum` now can come to believe, so that one
    /// write serves every statement that follows.
    fn tell_at_most(&mut self, sum: Amount) {
        let reached = self.record.charged.saturating_add(self.reserved());
        let more = reached.saturating_sub(self.believed);
        let highest = reached.max(sum.saturating_add(more));
        self.record.told = self.record.told.max(highest);
    }

    fn state_early(&mut self, request: RequestId, out: &mut Vec<Effect>) {
        let Some(admitted) = self.admitted.get_mut(&request) else {
            return;
        };
        admitted.stated_early = true;
        let admitted = admitted.clone();
        let is_alone = self.admitted.len() == 1;
        if self.unsaved {
            self.persist(out);
        }
        let statement = self.state(&admitted, is_alone);
        out.push(Effect::StateEarly { request, statement });
    }

    fn charge(
        &mut self,
        now: Timestamp,
        request: RequestId,
        amount: Amount,
        out: &mut Vec<Effect>,
    ) {
        let Some(admitted) = self.admitted.remove(&request) else {
            return;
        };
        let amount = amount.min(admitted.quote.need);
        self.record.charged = self.record.charged.saturating_add(amount);
        self.record.told = self.record.told.max(self.record.charged);
        self.record.last_paid_at = now;
        self.persist(out);
        let mut statement = if admitted.stated_early {
            self.statement(amount, None, admitted.moved)
        } else {
            self.state(&admitted, self.admitted.is_empty())
        };
        statement.charge.charged_total = Some(self.record.charged);
        out.push(Effect::Charged {
            request,
            amount,
            statement,
        });
    }

    /// The statement that leaves now: what leads from all that was stated before to all that is
    /// charged, where streams in flight count with their need.
    fn state(&mut self, admitted: &Admitted, is_alone: bool) -> Statement {
        let streams = self.admitted.values().filter(|other| other.stated_early);
        let reached = streams.fold(self.record.charged, |sum, stream| {
            sum.saturating_add(stream.quote.need)
        });
        let charged = reached
            .saturating_sub(self.believed)
            .min(admitted.quote.ceiling);
        let is_alone =
            is_alone && self.waiting.is_empty() && self.statements == admitted.statements_before;
        // Where the voucher has room for one more call, that call may be on its way, and its reply
        // may overtake this one.
        let Quote { ceiling, need } = admitted.quote;
        let has_room = |sum: Amount| sum.saturating_add(ceiling) >= reached.saturating_add(need);
        let sum = admitted
            .sum_before
            .filter(|sum| is_alone && !has_room(*sum));
        self.statements += 1;
        self.believed = self.believed.saturating_add(charged);
        self.believed_max = self.believed_max.saturating_add(charged);
        let sum = sum.map(|sum| sum.saturating_add(charged));
        self.statement(charged, sum, admitted.moved.clone())
    }

    fn statement(
        &self,
        charged: Amount,
        cumulative: Option<Amount>,
        moved: Option<(String, Amount)>,
    ) -> Statement {
        let onchain = self.record.onchain.unwrap_or_default();
        Statement {
            moved,
            charge: ChargeStatement {
                charged_amount: Some(charged),
                charged_total: None,
                channel_state: Some(channel_state(self.id, &onchain, cumulative)),
            },
        }
    }

    fn refuse_at(&mut self, index: usize, code: ErrorCode, correct: bool, out: &mut Vec<Effect>) {
        let Some(waiting) = self.waiting.remove(index) else {
            return;
        };
        let correction = correct.then(|| self.correct(out));
        out.push(Effect::Refuse {
            request: waiting.request,
            code,
            correction,
        });
    }

    /// The figures from which an honest payer's next voucher is surely good.
    ///
    /// They are never below what the payer believes already, which later statements rest on.
    fn correct(&mut self, out: &mut Vec<Effect>) -> Box<Correction> {
        let figure = self.record.charged.saturating_add(self.reserved());
        let promised = self.record.voucher.map(|voucher| voucher.max_claimable);
        let figure = figure.max(self.believed.min(promised.unwrap_or_default()));
        self.believed_max = self.believed_max.max(figure);
        let told = self.record.told;
        self.tell_at_most(self.believed_max);
        if self.unsaved || self.record.told > told {
            self.persist(out);
        }
        let onchain = self.record.onchain.unwrap_or_default();
        Box::new(Correction {
            channel: channel_state(self.id, &onchain, Some(figure)),
            voucher: self.record.voucher.map(|voucher| VoucherState {
                signed_max_claimable: voucher.max_claimable,
                signature: voucher.signature,
            }),
        })
    }

    fn send_deposit(&mut self, index: usize, out: &mut Vec<Effect>) {
        let waiting = &self.waiting[index];
        if let PaymentKind::Deposit(deposit) = &waiting.payment.kind {
            self.transacting = Some(waiting.request);
            out.push(Effect::SendDeposit {
                request: waiting.request,
                deposit: deposit.clone(),
            });
        }
    }

    fn send_refund(&mut self, index: usize, amount: Amount, out: &mut Vec<Effect>) {
        let request = self.waiting[index].request;
        let voucher = self.waiting[index].payment.voucher;
        self.adopt_view(voucher.max_claimable);
        self.keep_voucher(voucher);
        self.transacting = Some(request);
        let nonce = self.record.onchain.unwrap_or_default().refund_nonce;
        let claim = self.record.claim_row().map(Box::new);
        self.persist(out);
        out.push(Effect::SendRefund {
            request,
            claim,
            amount,
            nonce,
        });
    }

    fn finish(
        &mut self,
        request: RequestId,
        outcome: Result<Transacted, ErrorCode>,
        out: &mut Vec<Effect>,
    ) {
        if self.transacting != Some(request) {
            return;
        }
        self.transacting = None;
        let index = self
            .waiting
            .iter()
            .position(|waiting| waiting.request == request);
        let Some(index) = index else { return };
        match outcome {
            Err(code) => self.refuse_at(index, code, false, out),
            Ok(done) => {
                self.adopt_onchain(done.onchain, out);
                let moved = Some((done.transaction, done.amount));
                if matches!(self.waiting[index].payment.kind, PaymentKind::Refund(_)) {
                    self.waiting.remove(index);
                    out.push(Effect::Refunded {
                        request,
                        statement: self.refunded(moved),
                    });
                } else {
                    self.waiting[index].moved = moved;
                }
            }
        }
    }

    fn refunded(&self, moved: Option<(String, Amount)>) -> Statement {
        let onchain = self.record.onchain.unwrap_or_default();
        Statement {
            moved,
            charge: ChargeStatement {
                charged_amount: None,
                charged_total: Some(self.record.charged),
                channel_state: Some(channel_state(self.id, &onchain, Some(self.record.charged))),
            },
        }
    }

    fn adopt_onchain(&mut self, onchain: OnchainState, out: &mut Vec<Effect>) {
        self.reading = false;
        for waiting in &mut self.waiting {
            waiting.read = true;
        }
        let changed = self.record.onchain != Some(onchain);
        self.record.onchain = Some(onchain);
        // What the chain has as claimed was charged, whatever this record remembers.
        self.record.charged = self.record.charged.max(onchain.total_claimed);
        self.record.told = self.record.told.max(self.record.charged);
        // A channel that never paid is not worth a place in the store: anyone can name channels.
        if changed && self.record.voucher.is_some() {
            self.persist(out);
        }
    }

    fn fail_read(&mut self, out: &mut Vec<Effect>) {
        self.reading = false;
        let unread = |waiting: &Waiting| !waiting.read;
        while let Some(index) = self.waiting.iter().position(unread) {
            self.refuse_at(index, ErrorCode::ChannelStateRead, false, out);
        }
    }

    fn persist(&mut self, out: &mut Vec<Effect>) {
        self.unsaved = false;
        out.push(Effect::Persist(Box::new(self.record.clone())));
    }
}

#[cfg(test)]
#[path = "provider_tests.rs"]
mod tests;
