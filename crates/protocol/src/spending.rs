//! What a household lets its devices spend (spec: payments, section 10).
//!
//! A token that is not listed is never paid with. Limits hold per payment, per deposit and per day;
//! what was signed counts as spent until the chain says less ([`Outlays`]), so that neither a crash
//! nor a seller that breaks off opens the purse.

mod book;
mod outlay;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::eip712::{WITHDRAW_DELAY_MAX_S, WITHDRAW_DELAY_MIN_S};
use crate::id::AssetId;
use crate::money::Amount;
use crate::time::Timestamp;
use crate::x402::{PaymentRequirements, Scheme, TransferMethod};

pub use book::{ACCOUNTS_MAX, Book, RESERVATIONS_MAX, Reservation, ReserveError};
pub use outlay::{
    AUTHORIZATIONS_MAX, Account, AuthorizationOutlay, AuthorizationReservation, ChannelOutlay,
    Outlays, PromiseReservation, Promised, Purpose, SeenChannel,
};

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// The longest that anything signed for a payment stands, in seconds.
pub const TIMEOUT_S_MAX: u64 = 600;
/// The shortest that anything signed for a payment stands, in seconds: the time of a few slow blocks.
pub const TIMEOUT_S_MIN: u64 = 60;
/// The longest withdraw delay that is accepted unless the owner says otherwise, in seconds.
pub const WITHDRAW_DELAY_S_DEFAULT: u64 = 7 * 24 * 60 * 60;
/// What may be locked at once unless the owner says otherwise, in limits of a day.
const LOCKED_DAYS: u128 = 5;

/// The limits of one token, in its atomic units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssetLimit {
    /// The most that one request may cost.
    pub per_payment: Amount,
    /// The most that is put into a channel at once.
    pub per_deposit: Amount,
    /// The most that is spent in one day, by UTC.
    pub per_day: Amount,
    /// The most that is put into channels in one day, by UTC.
    pub deposits_per_day: Amount,
    /// The most that is in channels at once and not charged.
    pub locked: Amount,
    /// The longest withdraw delay of a channel, in seconds.
    pub withdraw_delay_s_max: u64,
}

impl AssetLimit {
    /// Limits whose rest follows from these three: as much may be deposited in a day as may be spent
    /// (one deposit at least), and five times as much may be locked at once.
    pub fn new(per_payment: Amount, per_deposit: Amount, per_day: Amount) -> Self {
        let deposits_per_day = per_day.max(per_deposit);
        Self {
            per_payment,
            per_deposit,
            per_day,
            deposits_per_day,
            locked: deposits_per_day.saturating_mul(LOCKED_DAYS),
            withdraw_delay_s_max: WITHDRAW_DELAY_S_DEFAULT,
        }
    }
}

/// Until when what is signed at `now` for a payment that may take `timeout_s` stands, in seconds.
pub fn valid_before_s(now: Timestamp, timeout_s: u64) -> u64 {
    let timeout_s = timeout_s.clamp(TIMEOUT_S_MIN, TIMEOUT_S_MAX);
    now.as_secs().saturating_add(timeout_s)
}

/// The limits of every token that may be spent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spending(pub BTreeMap<AssetId, AssetLimit>);

/// Why one way to pay is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Declined {
    /// The token is not listed.
    #[error("{0} is not among the tokens that may be spent; allow it in the configuration")]
    Asset(AssetId),
    /// The scheme is not spoken.
    #[error("the scheme {0:?} is not spoken here")]
    Scheme(String),
    /// The way to move tokens is not spoken.
    #[error("deposits by {0:?} are not spoken here")]
    TransferMethod(TransferMethod),
    /// It costs too much at once.
    #[error("{asked} is above the limit of {limit} for one payment")]
    PerPayment {
        /// What it costs.
        asked: Amount,
        /// The limit.
        limit: Amount,
    },
    /// Too much would go into a channel at once.
    #[error("{asked} is above the limit of {limit} for one deposit")]
    PerDeposit {
        /// What would be deposited.
        asked: Amount,
        /// The limit.
        limit: Amount,
    },
    /// It costs too much for today.
    #[error("{asked} is more than the {left} that may still be spent today")]
    PerDay {
        /// What it costs.
        asked: Amount,
        /// What is left.
        left: Amount,
    },
    /// Too much would go into channels today.
    #[error("{asked} is more than the {left} that may still be deposited today")]
    DepositsPerDay {
        /// What would be deposited.
        asked: Amount,
        /// What is left.
        left: Amount,
    },
    /// Too much would be in channels at once.
    #[error(
        "a deposit of {asked} is more than the {left} that may still be locked in channels; get back what lies in \
         others with `hearth channels refund`"
    )]
    Locked {
        /// What would be deposited.
        asked: Amount,
        /// What is left.
        left: Amount,
    },
    /// What is signed would stand for too long.
    #[error(
        "the service wants the payment to stand for {asked_s} s; more than {TIMEOUT_S_MAX} s are not signed for"
    )]
    Timeout {
        /// What it wants.
        asked_s: u64,
    },
    /// A deposit would be locked for too short or too long.
    #[error(
        "a withdraw delay of {asked_s} s is outside the {least_s} s to {most_s} s that are accepted"
    )]
    WithdrawDelay {
        /// What the service wants.
        asked_s: u64,
        /// The least.
        least_s: u64,
        /// The most, as the configuration says.
        most_s: u64,
    },
    /// Too much is outstanding.
    #[error("too many payments are outstanding; wait until some have ended")]
    TooMany,
}

/// The number of a day since the Unix epoch, by UTC.
pub fn day(now: Timestamp) -> u64 {
    now.0 / DAY_MS
}

/// The token of a way to pay.
pub fn asset_of(requirements: &PaymentRequirements) -> AssetId {
    AssetId {
        chain: requirements.network,
        token: requirements.asset,
    }
}

impl AssetLimit {
    /// Whether what a way to pay would have signed stands, and a deposit would be locked, for an
    /// acceptable time.
    ///
    /// # Errors
    /// Why not.
    pub fn allows_times(&self, requirements: &PaymentRequirements) -> Result<(), Declined> {
        let asked_s = requirements.max_timeout_seconds;
        if asked_s > TIMEOUT_S_MAX {
            return Err(Declined::Timeout { asked_s });
        }
        let delay = requirements.extra.get("withdrawDelay");
        let delay = delay.and_then(serde_json::Value::as_u64);
        if let Some(asked_s) = delay.filter(|_| requirements.scheme == Scheme::BatchSettlement) {
            let (least_s, most_s) = (
                WITHDRAW_DELAY_MIN_S,
                self.withdraw_delay_s_max.min(WITHDRAW_DELAY_MAX_S),
            );
            if !(least_s..=most_s).contains(&asked_s) {
                return Err(Declined::WithdrawDelay {
                    asked_s,
                    least_s,
                    most_s,
                });
            }
        }
        Ok(())
    }
}

impl Spending {
    /// Whether a way to pay is within the limits, given what was spent of its token today. Nothing is
    /// counted: what passes here must still be reserved ([`Outlays`]).
    ///
    /// # Errors
    /// Why not.
    pub fn allows(
        &self,
        requirements: &PaymentRequirements,
        spent_today: Amount,
    ) -> Result<AssetLimit, Declined> {
        if let Scheme::Other(name) = &requirements.scheme {
            return Err(Declined::Scheme(name.clone()));
        }
        let method = requirements.extra.get("assetTransferMethod").cloned();
        let method = method.and_then(|method| serde_json::from_value(method).ok());
        if let Some(method) = method.filter(|method| *method != TransferMethod::Eip3009) {
            return Err(Declined::TransferMethod(method));
        }
        let asset = asset_of(requirements);
        let limit = self.0.get(&asset).ok_or(Declined::Asset(asset))?;
        let asked = requirements.amount;
        if asked > limit.per_payment {
            return Err(Declined::PerPayment {
                asked,
                limit: limit.per_payment,
            });
        }
        let left = limit.per_day.saturating_sub(spent_today);
        if asked > left {
            return Err(Declined::PerDay { asked, left });
        }
        limit.allows_times(requirements)?;
        Ok(*limit)
    }

    /// The first way to pay that is within the limits, in the provider's order.
    ///
    /// # Errors
    /// Why each of them is not.
    pub fn choose<'a>(
        &self,
        accepts: &'a [PaymentRequirements],
        spent_today: impl Fn(&AssetId) -> Amount,
    ) -> Result<(&'a PaymentRequirements, AssetLimit), Vec<Declined>> {
        let mut declined = Vec::new();
        for requirements in accepts {
            match self.allows(requirements, spent_today(&asset_of(requirements))) {
                Ok(limit) => return Ok((requirements, limit)),
                Err(why) => declined.push(why),
            }
        }
        Err(declined)
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;

    use super::*;
    use crate::id::ChainId;

    fn way(token: u8, units: u128) -> PaymentRequirements {
        PaymentRequirements {
            scheme: Scheme::Exact,
            network: ChainId(1),
            amount: Amount::new(units),
            asset: Address::repeat_byte(token),
            pay_to: Address::repeat_byte(9),
            max_timeout_seconds: 60,
            extra: serde_json::Map::new(),
        }
    }

    fn limits() -> Spending {
        let limit = AssetLimit::new(Amount::new(100), Amount::new(1_000), Amount::new(250));
        let asset = AssetId {
            chain: ChainId(1),
            token: Address::repeat_byte(2),
        };
        Spending(BTreeMap::from([(asset, limit)]))
    }

    #[test]
    fn the_first_way_within_the_limits_is_chosen() {
        let ways = [way(1, 1), way(2, 101), way(2, 100)];
        let (chosen, _) = limits().choose(&ways, |_| Amount::ZERO).unwrap();
        assert_eq!(chosen, &ways[2]);
    }

    #[test]
    fn nothing_is_signed_for_longer_than_ten_minutes() {
        let now = Timestamp::from_secs(1_000);
        for timeout_s in [0, 1, 60, 600, 601, 31_536_000, u64::MAX] {
            let mut slow = way(2, 1);
            slow.max_timeout_seconds = timeout_s;
            let allowed = limits().allows(&slow, Amount::ZERO);
            assert_eq!(allowed.is_ok(), timeout_s <= TIMEOUT_S_MAX, "{timeout_s}");
            let until = valid_before_s(now, timeout_s);
            assert!((1_060..=1_600).contains(&until), "{timeout_s}: {until}");
        }
    }

    #[test]
    fn a_deposit_is_locked_within_the_bounds_of_the_contract_and_the_owner() {
        for (delay, good) in [
            (0_u64, false),
            (899, false),
            (900, true),
            (604_800, true),
            (604_801, false),
            (u64::MAX, false),
        ] {
            let mut batch = way(2, 1);
            batch.scheme = Scheme::BatchSettlement;
            batch.extra.insert("withdrawDelay".into(), delay.into());
            let allowed = limits().allows(&batch, Amount::ZERO);
            assert_eq!(allowed.is_ok(), good, "{delay}");
        }
        let mut limits = limits();
        let limit = limits.0.values_mut().next().unwrap();
        limit.withdraw_delay_s_max = u64::MAX;
        let mut batch = way(2, 1);
        batch.scheme = Scheme::BatchSettlement;
        for (delay, good) in [
            (WITHDRAW_DELAY_MAX_S, true),
            (WITHDRAW_DELAY_MAX_S + 1, false),
        ] {
            batch.extra.insert("withdrawDelay".into(), delay.into());
            let allowed = limits.allows(&batch, Amount::ZERO);
            assert_eq!(
                allowed.is_ok(),
                good,
                "no owner can allow more than the contract"
            );
        }
    }

    #[test]
    fn every_reason_is_told() {
        let mut permit2 = way(2, 1);
        permit2
            .extra
            .insert("assetTransferMethod".into(), "permit2".into());
        let mut other = way(2, 1);
        other.scheme = Scheme::Other("upto".into());
        let ways = [way(1, 1), way(2, 101), way(2, 51), permit2, other];
        let declined = limits().choose(&ways, |_| Amount::new(200)).unwrap_err();
        let asset = AssetId {
            chain: ChainId(1),
            token: Address::repeat_byte(1),
        };
        assert_eq!(
            declined,
            [
                Declined::Asset(asset),
                Declined::PerPayment {
                    asked: Amount::new(101),
                    limit: Amount::new(100)
                },
                Declined::PerDay {
                    asked: Amount::new(51),
                    left: Amount::new(50)
                },
                Declined::TransferMethod(TransferMethod::Permit2),
                Declined::Scheme("upto".into()),
            ]
        );
    }
}
