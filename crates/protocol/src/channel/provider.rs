//! The provider's side of one channel, as a machine (spec: payments, section 5).
//!
//! Events go in, effects come out, in order: whatever follows a [`ChannelEffect::Persist`] may be
//! performed only after the record is durable. That is the whole of the crash rule: before a figure
//! leaves, the charge, the voucher that covers it and the most that the payer can believe are
//! durable together. Until then nothing was promised: work that a crash cuts off is not charged, and
//! the payer's voucher, which it still has, is as good as before.
//!
//! Six ideas carry the rest:
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
//! * **A voucher is a bearer token.** It starts work once, and never after it left this node in a
//!   claim, a refund or for a watchtower ([`PublicVouchers`]): what leaves is noted durably before.
//! * **Knowledge ages.** Work is admitted on what the chain has now, not on what it once had
//!   ([`Sight`]).

mod judge;
mod record;
mod refunds;
mod sight;
mod vouchers;

use std::collections::{BTreeMap, VecDeque};

use alloy_primitives::{Address, U256};

use crate::id::{ChainId, ChannelId};
use crate::money::Amount;
use crate::time::Timestamp;
use crate::x402::{
    ChannelState, ChargeStatement, ClaimRow, ErrorCode, SettleResponse, VoucherState,
};

use super::{CheckedDeposit, CheckedPayment, OnchainState, PaymentKind, Voucher, channel_state};
use judge::Verdict;
use vouchers::UsedVouchers;

pub use record::{LOWER_VOUCHERS_MAX, ProviderRecord, Spread};
pub use refunds::SignedRefunds;
pub use sight::{HEARD_MS_MAX, Moment, READ_MS_MAX, Sight};
pub use vouchers::{PUBLIC_VOUCHERS_MAX, PublicVouchers, USED_VOUCHERS_MAX};

/// Requests that may wait for one channel; more are told that it is busy.
pub const WAITING_MAX: usize = 64;
/// Requests that may be worked on at once on one channel.
pub const ADMITTED_MAX: usize = 256;
/// How long a request waits for the channel before it is told that it is busy, in milliseconds.
pub const WAIT_MS_MAX: u64 = 30_000;

/// How long a reply can be on its way to a payer that lives, in milliseconds.
pub const TRANSIT_MS_MAX: u64 = 10_000;

/// Refunds of one channel within [`REFUND_WINDOW_MS`]; each costs this provider the gas.
pub const REFUNDS_MAX: usize = 8;
/// The time over which refunds are counted, in milliseconds.
pub const REFUND_WINDOW_MS: u64 = 3_600_000;

/// A request, named by the driver; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a request costs at most, in two senses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// The ceiling that the payer was quoted and signed for.
    pub ceiling: Amount,
    /// The most that this request can really cost; at most `ceiling`. Quoting more than is needed
    /// leaves room for requests in parallel on one voucher.
    pub need: Amount,
    /// The least that is worth depositing.
    pub least_deposit: Amount,
}

/// What happens to a channel.
#[derive(Debug, Clone)]
pub enum ChannelEvent {
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
    /// An admitted request goes on as two, which together need what it needed.
    Split {
        /// The request.
        request: RequestId,
        /// The second half.
        rest: RequestId,
        /// What the second half needs; at most what the request needed.
        need: Amount,
    },
    /// The work failed, or nobody wants it any more. Nothing is charged.
    Abort {
        /// The request.
        request: RequestId,
    },
    /// The voucher with this maximum is about to leave this node.
    Publish {
        /// What it promises.
        max_claimable: Amount,
    },
    /// The chain was read.
    Onchain {
        /// The channel.
        state: OnchainState,
        /// When it had this state.
        sight: Sight,
    },
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
    /// When it had this state.
    pub sight: Sight,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelEffect {
    /// Make the record durable before anything that follows.
    Persist(Box<ProviderRecord>),
    /// Read the channel on chain and answer with [`ChannelEvent::Onchain`] or [`ChannelEvent::ReadFailed`].
    ReadChain,
    /// Send the deposit and answer with [`ChannelEvent::Done`].
    SendDeposit {
        /// For this request.
        request: RequestId,
        /// The deposit.
        deposit: CheckedDeposit,
    },
    /// Claim what is owed and refund, in one transaction, and answer with [`ChannelEvent::Done`].
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
        statement: PaymentStatement,
    },
    /// The charge is durable: state it.
    Charged {
        /// The request.
        request: RequestId,
        /// What this request was charged.
        amount: Amount,
        /// What to state in the headers, if they have not left.
        statement: PaymentStatement,
    },
    /// The refund is final: state it.
    Refunded {
        /// The request.
        request: RequestId,
        /// What to state.
        statement: PaymentStatement,
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
pub struct PaymentStatement {
    /// The transaction that this request caused, and what moved in it.
    pub moved: Option<(String, Amount)>,
    /// The charge and the channel.
    pub charge: ChargeStatement,
}

impl PaymentStatement {
    /// What it says, as it travels.
    pub fn response(&self, network: ChainId, payer: Address) -> SettleResponse {
        let mut response = SettleResponse::success(network, payer);
        if let Some((transaction, amount)) = &self.moved {
            response.transaction.clone_from(transaction);
            response.amount = Some(amount.to_string());
        }
        response.extra = self.charge.clone().into_map();
        response
    }
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
    /// The maximum of the voucher that it was admitted on.
    max_claimable: Amount,
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
    came_at: Timestamp,
    /// Its voucher had done its work, or was public, when it came.
    replayed: bool,
    /// The chain was read since this request came.
    read: bool,
    /// The deposit that this request brought is done.
    moved: Option<(String, Amount)>,
}

/// One channel, seen by its provider.
#[derive(Debug, Clone)]
pub struct ProviderChannel {
    id: ChannelId,
    record: ProviderRecord,
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
    /// When the chain was last read for this channel, since this process began.
    read: Option<Sight>,
    /// What the vouchers were used for.
    used: UsedVouchers,
    /// When refunds were begun, the oldest first.
    refunds: VecDeque<Timestamp>,
    /// The nonce of the refund under way, and what was signed for that nonce before it.
    refunding: Option<(U256, Option<Amount>)>,
}

impl ProviderChannel {
    /// A channel whose record came from the store when the process began, or was never there: the
    /// payer may know better.
    pub fn restored(id: ChannelId, record: ProviderRecord) -> Self {
        Self {
            unproved: true,
            read: None,
            ..Self::resumed(id, record)
        }
    }

    /// A channel whose record was let go and taken up again by one and the same process.
    pub fn resumed(id: ChannelId, record: ProviderRecord) -> Self {
        let record_was_read = record.onchain.map(|_| Sight {
            asked_at: Timestamp::default(),
            block_at: None,
        });
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
            // It was read for everything that this process admitted on it; what happened since is
            // known as far as a follower has heard.
            read: record_was_read,
            used: UsedVouchers::default(),
            refunds: VecDeque::new(),
            refunding: None,
        }
    }

    /// What must not be forgotten.
    pub fn record(&self) -> &ProviderRecord {
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

    /// Forgets that the chain was read: something may have happened that nobody heard of.
    pub fn doubt(&mut self) {
        self.read = None;
    }

    /// Takes one event and appends what is to be done.
    pub fn handle(&mut self, at: Moment, event: ChannelEvent, out: &mut Vec<ChannelEffect>) {
        let now = at.now;
        match event {
            ChannelEvent::Pay {
                request,
                payment,
                quote,
            } => self.enqueue(now, request, *payment, quote, out),
            ChannelEvent::Charge { request, amount } => self.charge(now, request, amount, out),
            ChannelEvent::StateEarly { request } => self.state_early(request, out),
            ChannelEvent::Split {
                request,
                rest,
                need,
            } => self.split(request, rest, need),
            ChannelEvent::Abort { request } => {
                self.admitted.remove(&request);
                self.waiting.retain(|waiting| {
                    waiting.request != request || self.transacting == Some(request)
                });
            }
            ChannelEvent::Publish { max_claimable } => self.publish(max_claimable, out),
            ChannelEvent::Onchain { state, sight } => self.adopt_onchain(now, state, sight, out),
            ChannelEvent::ReadFailed => self.fail_read(out),
            ChannelEvent::Done { request, outcome } => self.finish(now, request, outcome, out),
            ChannelEvent::Tick => {}
        }
        self.advance(at, out);
    }

    fn enqueue(
        &mut self,
        now: Timestamp,
        request: RequestId,
        payment: CheckedPayment,
        quote: Quote,
        out: &mut Vec<ChannelEffect>,
    ) {
        if self.waiting.len() >= WAITING_MAX {
            out.push(ChannelEffect::Refuse {
                request,
                code: ErrorCode::ChannelBusy,
                correction: None,
            });
            return;
        }
        let max = payment.voucher.max_claimable;
        let replayed = match payment.kind {
            PaymentKind::Voucher => self.is_spent(max, now),
            // The deposit that comes with it was signed just now; and a refund is judged alone.
            PaymentKind::Deposit(_) | PaymentKind::Refund(_) => {
                self.record.spread.public.contains(max)
            }
        };
        self.waiting.push_back(Waiting {
            request,
            payment,
            quote,
            came_at: now,
            replayed,
            read: false,
            moved: None,
        });
    }

    /// Whether a voucher starts nothing more. One that is not public is the payer's own: as long as
    /// its requests are in flight, further ones may come on it.
    fn is_spent(&self, max: Amount, now: Timestamp) -> bool {
        let works = |admitted: &Admitted| admitted.max_claimable == max;
        self.record.spread.public.contains(max)
            || (self.used.is_spent(max, now) && !self.admitted.values().any(works))
    }

    /// Notes that a voucher leaves this node, before it does.
    fn publish(&mut self, max: Amount, out: &mut Vec<ChannelEffect>) {
        if self.record.spread.public.insert(max) {
            self.persist(out);
        }
    }

    fn split(&mut self, request: RequestId, rest: RequestId, need: Amount) {
        let Some(admitted) = self.admitted.get_mut(&request) else {
            return;
        };
        let need = need.min(admitted.quote.need);
        admitted.quote.need = admitted.quote.need.saturating_sub(need);
        let second = Admitted {
            quote: Quote {
                need,
                ..admitted.quote
            },
            sum_before: None,
            statements_before: self.statements,
            stated_early: false,
            moved: None,
            ..*admitted
        };
        self.admitted.insert(rest, second);
    }

    /// Lets every waiting request go on that can, in the order of arrival.
    ///
    /// A request that must wait for others does not hold up those behind it, except that a refund
    /// lets nothing pass: otherwise a steady stream of requests would keep it waiting for ever.
    fn advance(&mut self, at: Moment, out: &mut Vec<ChannelEffect>) {
        let now = at.now;
        let mut index = 0;
        while index < self.waiting.len() {
            let lets_pass = !matches!(self.waiting[index].payment.kind, PaymentKind::Refund(_));
            let before = self.waiting.len();
            match self.judge(at, &self.waiting[index]) {
                Verdict::Wait if self.has_waited(now, index) => {
                    self.refuse_at(now, index, ErrorCode::ChannelBusy, false, out);
                }
                Verdict::Wait => {}
                Verdict::Read => {
                    self.reading = true;
                    out.push(ChannelEffect::ReadChain);
                }
                Verdict::Deposit => self.send_deposit(index, out),
                Verdict::Refund(amount) => self.send_refund(now, index, amount, out),
                Verdict::Admit => self.admit_at(now, index, out),
                Verdict::Refuse(code) => self.refuse_at(now, index, code, false, out),
                Verdict::Correct(code) => self.refuse_at(now, index, code, true, out),
            }
            let stays = self.waiting.len() == before;
            if stays && !lets_pass {
                return;
            }
            index += usize::from(stays);
        }
    }

    /// Whether the request at `index` has waited for long enough. One that has a transaction under way
    /// must not be dropped.
    fn has_waited(&self, now: Timestamp, index: usize) -> bool {
        let waiting = &self.waiting[index];
        now.ms_since(waiting.came_at) >= WAIT_MS_MAX && self.transacting != Some(waiting.request)
    }

    fn reserved(&self) -> Amount {
        self.admitted.values().fold(Amount::ZERO, |sum, admitted| {
            sum.saturating_add(admitted.quote.need)
        })
    }

    fn adopt_view(&mut self, view: Amount) {
        if view > self.record.told {
            self.record.charged = view;
            self.record.told = view;
        }
        self.unproved = false;
    }

    fn admit_at(&mut self, now: Timestamp, index: usize, out: &mut Vec<ChannelEffect>) {
        let Some(waiting) = self.waiting.remove(index) else {
            return;
        };
        let request = waiting.request;
        let voucher = waiting.payment.voucher;
        let view = voucher.max_claimable.saturating_sub(waiting.quote.ceiling);
        let sum_before = self.weigh_view(now, view, voucher);
        self.adopt_view(view);
        self.record.keep(voucher);
        self.used.admit(voucher.max_claimable, now);
        self.record.last_paid_at = now;
        let admitted = Admitted {
            quote: waiting.quote,
            max_claimable: voucher.max_claimable,
            sum_before,
            statements_before: self.statements,
            stated_early: false,
            moved: waiting.moved,
        };
        self.admitted.insert(request, admitted);
        self.tell_at_most(self.believed_max);
        self.unsaved = true;
        out.push(ChannelEffect::Admit { request });
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

    fn state_early(&mut self, request: RequestId, out: &mut Vec<ChannelEffect>) {
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
        out.push(ChannelEffect::StateEarly { request, statement });
    }

    fn charge(
        &mut self,
        now: Timestamp,
        request: RequestId,
        amount: Amount,
        out: &mut Vec<ChannelEffect>,
    ) {
        let Some(admitted) = self.admitted.remove(&request) else {
            return;
        };
        let amount = amount.min(admitted.quote.need);
        self.record.charged = self.record.charged.saturating_add(amount);
        self.record.told = self.record.told.max(self.record.charged);
        self.record.last_paid_at = now;
        if !amount.is_zero() {
            self.used.charge(admitted.max_claimable, now);
            self.used.forget_to(self.record.charged);
            self.record.drop_low();
        }
        self.persist(out);
        let mut statement = if admitted.stated_early {
            self.statement(amount, None, admitted.moved)
        } else {
            self.state(&admitted, self.admitted.is_empty())
        };
        statement.charge.charged_total = Some(self.record.charged);
        out.push(ChannelEffect::Charged {
            request,
            amount,
            statement,
        });
    }

    /// The statement that leaves now: what leads from all that was stated before to all that is
    /// charged, where streams in flight count with their need.
    fn state(&mut self, admitted: &Admitted, is_alone: bool) -> PaymentStatement {
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
        let Quote { ceiling, need, .. } = admitted.quote;
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
    ) -> PaymentStatement {
        let onchain = self.record.onchain.unwrap_or_default();
        PaymentStatement {
            moved,
            charge: ChargeStatement {
                charged_amount: Some(charged),
                charged_total: None,
                channel_state: Some(channel_state(self.id, &onchain, cumulative)),
            },
        }
    }

    fn refuse_at(
        &mut self,
        now: Timestamp,
        index: usize,
        code: ErrorCode,
        correct: bool,
        out: &mut Vec<ChannelEffect>,
    ) {
        let Some(waiting) = self.waiting.remove(index) else {
            return;
        };
        let correction = correct.then(|| {
            let figure = match waiting.payment.kind {
                PaymentKind::Refund(_) => self.figure_for_refund(),
                _ => self.figure_for(waiting.quote.ceiling, now),
            };
            self.correct(figure, out)
        });
        out.push(ChannelEffect::Refuse {
            request: waiting.request,
            code,
            correction,
        });
    }

    /// The figure from which an honest payer's next voucher, `ceiling` above it, is surely good.
    ///
    /// It is never below what the payer believes already, which later statements rest on; and it
    /// leads to no voucher that starts nothing any more.
    fn figure_for(&self, ceiling: Amount, now: Timestamp) -> Amount {
        let promised = self.promised();
        let figure = self.record.charged.saturating_add(self.reserved());
        let figure = figure.max(self.believed.min(promised));
        let further = figure.units()..=promised.units();
        further
            .take(PUBLIC_VOUCHERS_MAX + USED_VOUCHERS_MAX + 1)
            .map(Amount::new)
            .find(|figure| !self.is_spent(figure.saturating_add(ceiling), now))
            .unwrap_or(figure)
    }

    fn correct(&mut self, figure: Amount, out: &mut Vec<ChannelEffect>) -> Box<Correction> {
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

    fn send_deposit(&mut self, index: usize, out: &mut Vec<ChannelEffect>) {
        let waiting = &self.waiting[index];
        if let PaymentKind::Deposit(deposit) = &waiting.payment.kind {
            self.transacting = Some(waiting.request);
            out.push(ChannelEffect::SendDeposit {
                request: waiting.request,
                deposit: deposit.clone(),
            });
        }
    }

    fn send_refund(
        &mut self,
        now: Timestamp,
        index: usize,
        amount: Amount,
        out: &mut Vec<ChannelEffect>,
    ) {
        let request = self.waiting[index].request;
        let voucher = self.waiting[index].payment.voucher;
        self.adopt_view(voucher.max_claimable);
        self.record.keep(voucher);
        self.refunds.push_back(now);
        while self.refunds.len() > REFUNDS_MAX {
            self.refunds.pop_front();
        }
        self.transacting = Some(request);
        let nonce = self.record.onchain.unwrap_or_default().refund_nonce;
        let before = self.record.spread.refunds.sign(nonce, amount);
        self.refunding = Some((nonce, before));
        // What signs for a refund does so once, whether or not it is in the transaction.
        let public = &mut self.record.spread.public;
        public.insert(voucher.max_claimable);
        let claim = self.record.claim_row().map(Box::new);
        if let Some(row) = &claim {
            let claimed_with = row.voucher.max_claimable_amount;
            self.record.spread.public.insert(claimed_with);
        }
        self.persist(out);
        out.push(ChannelEffect::SendRefund {
            request,
            claim,
            amount,
            nonce,
        });
    }

    fn finish(
        &mut self,
        now: Timestamp,
        request: RequestId,
        outcome: Result<Transacted, ErrorCode>,
        out: &mut Vec<ChannelEffect>,
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
        self.end_refund(outcome.as_ref().err().copied());
        match outcome {
            Err(code) => {
                let waiting = self.waiting.remove(index);
                let was_refund = |waiting: &Waiting| {
                    matches!(waiting.payment.kind, PaymentKind::Refund(_)) && !self.reading
                };
                // Its claim may have been seen in a block that was undone. Without this nothing would seem
                // due on the channel, and nobody would look again.
                if waiting.as_ref().is_some_and(was_refund) {
                    self.reading = true;
                    out.push(ChannelEffect::ReadChain);
                }
                out.extend(waiting.map(|waiting| ChannelEffect::Refuse {
                    request: waiting.request,
                    code,
                    correction: None,
                }));
            }
            Ok(done) => {
                self.adopt_onchain(now, done.onchain, done.sight, out);
                let moved = Some((done.transaction, done.amount));
                if matches!(self.waiting[index].payment.kind, PaymentKind::Refund(_)) {
                    self.waiting.remove(index);
                    out.push(ChannelEffect::Refunded {
                        request,
                        statement: self.refunded(moved),
                    });
                } else {
                    self.used.clear();
                    self.waiting[index].moved = moved;
                }
            }
        }
    }

    /// Forgets a refund that is final, or that never left: its amount or the payer's other transactions
    /// stood against it before anything was signed. Of all others nobody knows whether they will land.
    fn end_refund(&mut self, failure: Option<ErrorCode>) {
        let Some((nonce, before)) = self.refunding.take() else {
            return;
        };
        let refunds = &mut self.record.spread.refunds;
        match failure {
            None => refunds.forget_to(nonce),
            Some(ErrorCode::RefundAmount | ErrorCode::ChannelBusy) => {
                refunds.take_back(nonce, before);
            }
            Some(_) => {}
        }
    }

    fn refunded(&self, moved: Option<(String, Amount)>) -> PaymentStatement {
        let onchain = self.record.onchain.unwrap_or_default();
        PaymentStatement {
            moved,
            charge: ChargeStatement {
                charged_amount: None,
                charged_total: Some(self.record.charged),
                channel_state: Some(channel_state(self.id, &onchain, Some(self.record.charged))),
            },
        }
    }

    fn adopt_onchain(
        &mut self,
        now: Timestamp,
        onchain: OnchainState,
        sight: Sight,
        out: &mut Vec<ChannelEffect>,
    ) {
        self.reading = false;
        for waiting in &mut self.waiting {
            waiting.read = true;
        }
        // Of two answers that overtook one another the one that was asked for later is newer. One that was asked for at a
        // time still to come was asked for before the clock was set back, and proves nothing.
        let overtook = |read: Sight| read.asked_at > sight.asked_at && read.asked_at <= now;
        if self.read.is_some_and(overtook) {
            return;
        }
        self.read = Some(sight);
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

    /// Refuses everyone who waits: what would have to be known is not.
    fn fail_read(&mut self, out: &mut Vec<ChannelEffect>) {
        self.reading = false;
        let held = self.transacting;
        let (kept, refused): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| held == Some(waiting.request));
        self.waiting = kept;
        out.extend(refused.into_iter().map(|waiting| ChannelEffect::Refuse {
            request: waiting.request,
            code: ErrorCode::ChannelStateRead,
            correction: None,
        }));
    }

    fn persist(&mut self, out: &mut Vec<ChannelEffect>) {
        self.unsaved = false;
        out.push(ChannelEffect::Persist(Box::new(self.record.clone())));
    }
}

#[cfg(test)]
#[path = "provider_tests.rs"]
mod tests;
