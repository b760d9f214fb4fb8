//! The payer's side of one channel, as a machine (spec: payments, section 6).
//!
//! One request is in flight at a time; a payer that wants more opens more channels, told apart by
//! their salt. Everything that is signed is durable before it leaves: after a crash the payer knows
//! the most that can be taken from it, and finds back to the true figure by the provider's
//! correction, which counts only with the payer's own signature as proof.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::eip712::{ChannelConfig, SettlementDomain};
use crate::id::ChannelId;
use crate::money::Amount;
use crate::time::Timestamp;
use crate::x402::{BatchExtra, ChargeStatement};

use super::{OnchainState, Voucher};

/// Where a channel is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// May pay.
    Open,
    /// A refund was asked for, and its outcome is not known.
    Refunding,
    /// Everything left was returned. Its salt is never used again: an old, higher voucher would
    /// come back to life with the next deposit.
    Closed,
    /// The provider said something that cannot be true. Nothing more is signed.
    Distrusted(ChannelDistrust),
}

/// What a provider said that cannot be true.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ChannelDistrust {
    /// More was charged than the ceiling.
    #[error("it charged {charged} where at most {ceiling} was promised")]
    ChargeAboveCeiling {
        /// What it says it charged.
        charged: Amount,
        /// What was promised.
        ceiling: Amount,
    },
    /// More was charged than was ever signed for.
    #[error("it charged {charged} in all, where at most {promised} was promised")]
    TotalAbovePromise {
        /// What it says it charged in all.
        charged: Amount,
        /// What was promised in all.
        promised: Amount,
    },
    /// The sum does not add up.
    #[error("it states {stated} as the sum of charges, where {expected} is right")]
    WrongSum {
        /// The sum that it states.
        stated: Amount,
        /// The sum that follows.
        expected: Amount,
    },
    /// Another channel than the one that paid.
    #[error("it answered for another channel")]
    WrongChannel,
    /// Less in the channel than was deposited.
    #[error("it states a balance of {stated}, where {expected} was deposited")]
    BalanceMissing {
        /// What it states.
        stated: Amount,
        /// What must be there.
        expected: Amount,
    },
}

/// Why a provider's correction is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CorrectionError {
    /// It does not say what was charged.
    #[error("the provider's correction does not say what it charged")]
    Incomplete,
    /// It is about another channel.
    #[error("the provider's correction is about another channel")]
    WrongChannel,
    /// The proof is not the payer's own signature.
    #[error("the provider's correction rests on a voucher that this payer never signed")]
    NotSigned,
    /// It says that more was charged than was ever signed for.
    #[error("the provider says it charged {charged}, but only {signed} was ever promised")]
    AbovePromise {
        /// What it says.
        charged: Amount,
        /// What the voucher allows.
        signed: Amount,
    },
    /// It charged the promise that it refuses.
    #[error(
        "the provider refuses a payment and says it charged {charged} in all, where {before} was promised before that payment"
    )]
    ChargedRefused {
        /// What it says.
        charged: Amount,
        /// What was promised before the payment that it refuses.
        before: Amount,
    },
    /// Without a voucher, only what the chain says counts.
    #[error("the provider's correction has no proof, and the chain has {claimed} as claimed")]
    NotOnChain {
        /// Claimed on chain.
        claimed: Amount,
    },
}

/// Why no payment can be made on a channel.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// A request is in flight.
    #[error("a payment is in flight on this channel")]
    InFlight,
    /// Closed, closing or distrusted.
    #[error("the channel takes no more payments")]
    NotOpen,
    /// Beyond 128 bits.
    #[error("the channel's total would not fit in 128 bits")]
    Overflow,
    /// Nothing is asked of a provider that said what cannot be true.
    #[error(
        "the provider said what cannot be true; take the rest back without it with `hearth channels close`"
    )]
    Distrusted,
    /// Nothing to return.
    #[error("nothing is left in the channel")]
    Empty,
}

/// What a payer must not forget about a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayerRecord {
    /// The channel's parameters.
    pub config: ChannelConfig,
    /// What was charged, as far as this payer was told.
    pub charged: Amount,
    /// The highest voucher that was ever signed: the most that can be taken.
    pub signed: Option<Voucher>,
    /// In the channel, as last known.
    pub balance: Amount,
    /// Claimed on chain, as last known.
    pub total_claimed: Amount,
    /// Everything that was ever put in.
    pub deposited: Amount,
    /// A deposit was signed and nobody said what became of it: the chain must be asked before
    /// another one is signed.
    pub deposit_in_doubt: bool,
    /// Everything that ever came back.
    pub refunded: Amount,
    /// Where the channel is in its life.
    pub status: Status,
    /// When it was last used.
    pub last_used_at: Timestamp,
}

/// What a payment needs to have signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// The voucher's cumulative amount.
    pub max_claimable: Amount,
    /// What is deposited first, if anything.
    pub deposit: Option<Amount>,
}

/// What became of a request.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// A settlement response that says the payment stands.
    Stated(Box<ChargeStatement>),
    /// The request failed before anything was charged: a status of 400 and above without one.
    NotCharged,
    /// Nobody knows: the connection broke.
    Unknown,
}

/// What a refund brought back.
#[derive(Debug, Clone, Copy)]
pub struct Returned {
    /// What went back.
    pub amount: Amount,
    /// The channel's balance after it, if that is known.
    pub balance: Option<Amount>,
    /// What the provider says it charged in all.
    pub charged_total: Option<Amount>,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    ceiling: Amount,
    deposit: Option<Amount>,
}

/// One channel, seen by its payer.
#[derive(Debug, Clone)]
pub struct PayerChannel {
    id: ChannelId,
    record: PayerRecord,
    in_flight: Option<InFlight>,
    /// What was promised before the newest payment, as long as that one cannot have been charged: a
    /// correction of it can state no more.
    before: Amount,
}

impl PayerRecord {
    /// A channel before its first deposit.
    pub fn new(config: ChannelConfig) -> Self {
        Self {
            config,
            charged: Amount::ZERO,
            signed: None,
            balance: Amount::ZERO,
            total_claimed: Amount::ZERO,
            deposited: Amount::ZERO,
            deposit_in_doubt: false,
            refunded: Amount::ZERO,
            status: Status::Open,
            last_used_at: Timestamp::default(),
        }
    }

    /// What could still come back: the balance less what was charged.
    pub fn refundable(&self) -> Amount {
        self.balance.saturating_sub(self.charged)
    }

    /// What was ever promised: the most that can be taken.
    pub fn promised(&self) -> Amount {
        self.signed
            .map_or(Amount::ZERO, |voucher| voucher.max_claimable)
    }

    /// What is promised beyond what was charged: at risk until the provider states its charge.
    /// Nothing is, where everything left was returned.
    pub fn reserved(&self) -> Amount {
        match self.status {
            Status::Closed => Amount::ZERO,
            _ => self.promised().saturating_sub(self.charged),
        }
    }
}

impl PayerChannel {
    /// A channel as it was last made durable. Nothing is in flight on it.
    pub fn new(id: ChannelId, record: PayerRecord) -> Self {
        let before = record.promised();
        Self {
            id,
            record,
            in_flight: None,
            before,
        }
    }

    /// The channel's id.
    pub fn id(&self) -> ChannelId {
        self.id
    }

    /// What must not be forgotten.
    pub fn record(&self) -> &PayerRecord {
        &self.record
    }

    /// Whether a payment has begun and not ended.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether a payment could begin now.
    pub fn is_ready(&self) -> bool {
        self.in_flight.is_none() && self.record.status == Status::Open
    }

    /// Whether a payment of `ceiling` needs no deposit.
    pub fn covers(&self, ceiling: Amount) -> bool {
        self.record.charged.saturating_add(ceiling) <= self.record.balance
    }

    /// Begins a payment of at most `ceiling`, with a deposit of `deposit` where one is needed.
    ///
    /// A deposit that is smaller than what is missing is raised to that.
    ///
    /// # Errors
    /// When the channel takes no payment now.
    pub fn prepare(&mut self, ceiling: Amount, deposit: Amount) -> Result<Promise, PrepareError> {
        if self.in_flight.is_some() {
            return Err(PrepareError::InFlight);
        }
        if self.record.status != Status::Open {
            return Err(PrepareError::NotOpen);
        }
        let max = self
            .record
            .charged
            .checked_add(ceiling)
            .ok_or(PrepareError::Overflow)?;
        let missing = max.saturating_sub(self.record.balance);
        let deposit = (!missing.is_zero()).then(|| deposit.max(missing));
        if let Some(deposit) = deposit {
            self.record
                .balance
                .checked_add(deposit)
                .ok_or(PrepareError::Overflow)?;
        }
        self.in_flight = Some(InFlight { ceiling, deposit });
        Ok(Promise {
            max_claimable: max,
            deposit,
        })
    }

    /// Keeps a voucher that was signed. The record must be durable before the voucher leaves.
    pub fn sign(&mut self, now: Timestamp, voucher: Voucher) -> &PayerRecord {
        self.before = self.record.promised();
        let higher = self
            .record
            .signed
            .is_none_or(|held| voucher.max_claimable > held.max_claimable);
        if higher {
            self.record.signed = Some(voucher);
        }
        self.record.deposit_in_doubt |= self
            .in_flight
            .is_some_and(|in_flight| in_flight.deposit.is_some());
        self.record.last_used_at = now;
        &self.record
    }

    /// Ends the payment in flight. The record must be made durable after it.
    ///
    /// # Errors
    /// When the provider said something that cannot be true; the channel signs nothing more.
    pub fn finish(&mut self, outcome: Outcome) -> Result<&PayerRecord, ChannelDistrust> {
        let Some(in_flight) = self.in_flight.take() else {
            return Ok(&self.record);
        };
        if !matches!(outcome, Outcome::NotCharged) {
            self.before = self.record.promised();
        }
        let Outcome::Stated(statement) = outcome else {
            return Ok(&self.record);
        };
        match self.believe(&in_flight, &statement) {
            Ok(()) => Ok(&self.record),
            Err(distrust) => {
                self.record.status = Status::Distrusted(distrust.clone());
                Err(distrust)
            }
        }
    }

    fn believe(
        &mut self,
        in_flight: &InFlight,
        statement: &ChargeStatement,
    ) -> Result<(), ChannelDistrust> {
        let charged = statement.charged_amount.unwrap_or(in_flight.ceiling);
        if charged > in_flight.ceiling {
            return Err(ChannelDistrust::ChargeAboveCeiling {
                charged,
                ceiling: in_flight.ceiling,
            });
        }
        let sum = self.record.charged.saturating_add(charged);
        let promised = self.record.promised().max(sum);
        if let Some(charged) = statement.charged_total.filter(|total| *total > promised) {
            return Err(ChannelDistrust::TotalAbovePromise { charged, promised });
        }
        let total = statement.charged_total.unwrap_or(sum);
        let deposit = in_flight.deposit.unwrap_or(Amount::ZERO);
        let expected = self.record.balance.saturating_add(deposit);
        let Some(state) = &statement.channel_state else {
            self.credit(deposit, expected);
            self.record.charged = total.max(self.record.total_claimed);
            return Ok(());
        };
        if state.channel_id != self.id {
            return Err(ChannelDistrust::WrongChannel);
        }
        if let Some(stated) = state
            .charged_cumulative_amount
            .filter(|stated| *stated != sum)
        {
            return Err(ChannelDistrust::WrongSum {
                stated,
                expected: sum,
            });
        }
        // A deposit is not sent where the channel already holds enough, so only what was there
        // before must still be there.
        if state.balance < self.record.balance {
            let expected = self.record.balance;
            return Err(ChannelDistrust::BalanceMissing {
                stated: state.balance,
                expected,
            });
        }
        self.credit(
            state.balance.saturating_sub(self.record.balance),
            state.balance,
        );
        self.record.total_claimed = self.record.total_claimed.max(state.total_claimed);
        self.record.charged = total.max(self.record.total_claimed);
        Ok(())
    }

    fn credit(&mut self, deposit: Amount, balance: Amount) {
        self.record.deposited = self.record.deposited.saturating_add(deposit);
        self.record.deposit_in_doubt &= deposit.is_zero();
        self.record.balance = balance;
    }

    /// Comes down to the true charge at the end of a stream whose headers stated the most that it
    /// could become.
    pub fn correct_down(&mut self, charged_total: Amount) -> &PayerRecord {
        self.record.charged = self
            .record
            .charged
            .min(charged_total)
            .max(self.record.total_claimed);
        &self.record
    }

    /// Takes a provider's correction, so that the payment can be prepared once more. The record
    /// must be made durable after it.
    ///
    /// `claimed` is what the chain has as claimed, where this payer can read it.
    ///
    /// # Errors
    /// When the correction is not proved by this payer's own signature or by the chain.
    pub fn correct(
        &mut self,
        extra: &BatchExtra,
        domain: &SettlementDomain,
        onchain: Option<&OnchainState>,
    ) -> Result<&PayerRecord, CorrectionError> {
        let state = extra
            .channel_state
            .as_ref()
            .ok_or(CorrectionError::Incomplete)?;
        if state.channel_id != self.id {
            return Err(CorrectionError::WrongChannel);
        }
        let charged = state
            .charged_cumulative_amount
            .ok_or(CorrectionError::Incomplete)?;
        // What this payer does not remember having signed may have been charged: its store is old.
        let remembered = charged <= self.record.promised();
        if remembered && charged > self.before {
            let before = self.before;
            return Err(CorrectionError::ChargedRefused { charged, before });
        }
        match (&extra.voucher_state, onchain) {
            (Some(proof), _) => {
                let signed = proof.signed_max_claimable;
                let digest = domain.voucher_digest(self.id, signed);
                if proof.signature.signer(digest) != Ok(self.record.config.payer_authorizer) {
                    return Err(CorrectionError::NotSigned);
                }
                if charged > signed {
                    return Err(CorrectionError::AbovePromise { charged, signed });
                }
                self.keep_proof(Voucher {
                    max_claimable: signed,
                    signature: proof.signature,
                });
                self.before = self.before.max(charged);
            }
            (None, Some(onchain)) if onchain.total_claimed == charged => {}
            (None, onchain) => {
                let claimed = onchain.map_or(Amount::ZERO, |onchain| onchain.total_claimed);
                return Err(CorrectionError::NotOnChain { claimed });
            }
        }
        self.in_flight = None;
        self.record.charged = charged;
        if let Some(onchain) = onchain {
            self.read_balance(onchain);
            self.record.total_claimed = onchain.total_claimed;
        }
        Ok(&self.record)
    }

    fn keep_proof(&mut self, voucher: Voucher) {
        let higher = self
            .record
            .signed
            .is_none_or(|held| voucher.max_claimable > held.max_claimable);
        if higher {
            self.record.signed = Some(voucher);
        }
    }

    /// Takes what the chain says, after a restart or a transaction of the payer's own.
    ///
    /// A balance that fell while the outcome of a refund was not known is that refund.
    pub fn observe(&mut self, onchain: &OnchainState) -> &PayerRecord {
        self.record.total_claimed = onchain.total_claimed;
        self.record.charged = self.record.charged.max(onchain.total_claimed);
        let returned = self.record.balance.saturating_sub(onchain.balance);
        if self.record.status == Status::Refunding && !returned.is_zero() {
            self.finish_refund(Some(Returned {
                amount: returned,
                balance: Some(onchain.balance),
                charged_total: None,
            }));
        }
        self.read_balance(onchain);
        &self.record
    }

    /// Takes the balance from the chain, and with it every deposit whose reply was lost.
    fn read_balance(&mut self, onchain: &OnchainState) {
        let arrived = onchain.balance.saturating_sub(self.record.balance);
        self.record.deposited = self.record.deposited.saturating_add(arrived);
        self.record.deposit_in_doubt = false;
        self.record.balance = onchain.balance;
    }

    /// Begins a refund: the amount of the voucher that adds nothing.
    ///
    /// # Errors
    /// When a payment is in flight, nothing is left, or the provider is not trusted.
    pub fn prepare_refund(&mut self) -> Result<Amount, PrepareError> {
        if self.in_flight.is_some() {
            return Err(PrepareError::InFlight);
        }
        if self.record.refundable().is_zero() {
            return Err(PrepareError::Empty);
        }
        // Its end would open the channel again.
        if matches!(self.record.status, Status::Distrusted(_)) {
            return Err(PrepareError::Distrusted);
        }
        self.record.status = Status::Refunding;
        Ok(self.record.charged)
    }

    /// Ends a refund. `returned` is what the provider says went back, `None` where it refused.
    pub fn finish_refund(&mut self, returned: Option<Returned>) -> &PayerRecord {
        let Some(returned) = returned else {
            self.record.status = Status::Open;
            return &self.record;
        };
        let record = &mut self.record;
        let balance = record.balance.saturating_sub(returned.amount);
        record.refunded = record.refunded.saturating_add(returned.amount);
        record.balance = returned.balance.unwrap_or(balance);
        let promised = record.promised();
        if let Some(total) = returned.charged_total.filter(|total| *total <= promised) {
            record.charged = total.max(record.total_claimed);
        }
        let empty = record.refundable().is_zero();
        record.status = if empty { Status::Closed } else { Status::Open };
        &self.record
    }
}

#[cfg(test)]
#[path = "payer_tests.rs"]
mod tests;
