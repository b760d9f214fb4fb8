//! Whether a channel takes a request now (spec: payments, section 5).

use crate::channel::{OnchainState, PaymentKind};
use crate::money::Amount;
use crate::time::Timestamp;
use crate::x402::ErrorCode;

use super::sight::Freshness;
use super::{ADMITTED_MAX, Moment, ProviderChannel, REFUND_WINDOW_MS, REFUNDS_MAX, Waiting};

/// What becomes of a request that waits.
pub(super) enum Verdict {
    Admit,
    Refund(Amount),
    Deposit,
    Read,
    Wait,
    Refuse(ErrorCode),
    Correct(ErrorCode),
}

impl ProviderChannel {
    pub(super) fn judge(&self, at: Moment, waiting: &Waiting) -> Verdict {
        let Some(onchain) = self.record.onchain else {
            return self.read_first();
        };
        if self.transacting == Some(waiting.request) {
            return Verdict::Wait;
        }
        match waiting.payment.kind {
            PaymentKind::Refund(amount) => self.judge_refund(at.now, waiting, amount, &onchain),
            PaymentKind::Voucher | PaymentKind::Deposit(_) => {
                self.judge_payment(at, waiting, &onchain)
            }
        }
    }

    fn read_first(&self) -> Verdict {
        if self.reading {
            Verdict::Wait
        } else {
            Verdict::Read
        }
    }

    fn judge_payment(&self, at: Moment, waiting: &Waiting, onchain: &OnchainState) -> Verdict {
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
        if max < needed || waiting.replayed {
            return Verdict::Correct(ErrorCode::CumulativeMismatch);
        }
        if self.admitted.len() >= ADMITTED_MAX || max < needed.saturating_add(self.reserved()) {
            return Verdict::Wait;
        }
        let deposit = match &waiting.payment.kind {
            PaymentKind::Deposit(deposit) if waiting.moved.is_none() => Some(deposit.amount),
            _ => None,
        };
        if deposit.is_some_and(|amount| amount < waiting.quote.least_deposit) {
            return Verdict::Refuse(ErrorCode::DepositPayload);
        }
        let delay_s = self.record.config.withdraw_delay;
        match at.weigh(self.read, waiting.came_at, delay_s) {
            Freshness::Fresh => {}
            Freshness::Old => return self.read_first(),
            Freshness::Stalled => return Verdict::Refuse(ErrorCode::ChannelStateRead),
        }
        match deposit {
            Some(amount) => {
                let funds = self.record.spendable(onchain).saturating_add(amount);
                self.judge_funds(waiting, max <= funds, Verdict::Deposit)
            }
            None if max <= self.record.spendable(onchain) => Verdict::Admit,
            None => self.judge_funds(waiting, false, Verdict::Admit),
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
        now: Timestamp,
        waiting: &Waiting,
        amount: Option<Amount>,
        onchain: &OnchainState,
    ) -> Verdict {
        let left = onchain.balance.saturating_sub(self.record.charged);
        if waiting.replayed {
            // Anyone may have sent this: it costs nobody a look at the chain.
            return if left.is_zero() {
                Verdict::Refuse(ErrorCode::RefundNoBalance)
            } else {
                Verdict::Correct(ErrorCode::CumulativeMismatch)
            };
        }
        if !self.admitted.is_empty() || self.transacting.is_some() || self.reading {
            return Verdict::Wait;
        }
        if !waiting.read {
            return Verdict::Read;
        }
        let max = waiting.payment.voucher.max_claimable;
        if left.is_zero() {
            return Verdict::Refuse(ErrorCode::RefundNoBalance);
        }
        let Some(charged) = self.charged_of_refund(max, onchain) else {
            return Verdict::Correct(ErrorCode::CumulativeMismatch);
        };
        let open = self.record.spread.refunds.open_after(onchain.refund_nonce);
        let left = onchain.balance.saturating_sub(charged);
        let left = left.saturating_sub(open);
        let amount = amount.unwrap_or(left);
        if amount.is_zero() || amount > left {
            return Verdict::Refuse(ErrorCode::RefundAmount);
        }
        if self.refunds_within(now) >= REFUNDS_MAX {
            return Verdict::Refuse(ErrorCode::ChannelBusy);
        }
        Verdict::Refund(amount)
    }

    fn refunds_within(&self, now: Timestamp) -> usize {
        let recent = |begun: &&Timestamp| now.ms_since(**begun) < REFUND_WINDOW_MS;
        self.refunds.iter().filter(recent).count()
    }

    /// What was charged, given the maximum that a refund is signed for; `None` where it is not the
    /// figure that the payer has.
    fn charged_of_refund(&self, max: Amount, onchain: &OnchainState) -> Option<Amount> {
        if self.unproved && max > self.record.told {
            // A provider that lost its memory does not know which vouchers its claims made public.
            let may_be_public = self.record.voucher.is_none() && !onchain.total_claimed.is_zero();
            return self.charged_given(max, onchain).filter(|_| !may_be_public);
        }
        // What the payer believes is not known since the process began.
        let may_be_believed = self.unproved && max >= self.record.charged;
        (may_be_believed || max == self.believed || Some(max) == self.refund_figure())
            .then_some(self.record.charged)
    }

    /// The figure that a refund must be signed for. Where a claim made the voucher of what is charged
    /// public, it is the nearest one that only the payer can sign: above, as far as the payer
    /// promised, or else below.
    pub(super) fn refund_figure(&self) -> Option<Amount> {
        let public = &self.record.spread.public;
        let promised = self.promised().max(self.record.charged);
        public
            .first_private(self.record.charged, promised)
            .or_else(|| public.last_private(self.record.charged))
    }

    /// The figure from which a payer's refund is surely good: what it believes, where that is more
    /// than was charged.
    pub(super) fn figure_for_refund(&self) -> Amount {
        let believed = self.believed.min(self.promised());
        if believed > self.record.charged && !self.record.spread.public.contains(believed) {
            return believed;
        }
        self.refund_figure().unwrap_or(self.record.charged)
    }

    pub(super) fn promised(&self) -> Amount {
        let voucher = self.record.voucher;
        voucher.map_or(Amount::ZERO, |voucher| voucher.max_claimable)
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
}
