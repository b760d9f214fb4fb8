//! What a household lets its devices spend (spec: payments, section 10).
//!
//! A token that is not listed is never paid with. Limits hold per payment and per day; what is
//! promised counts as spent until the charge is known, so that no crash opens the purse.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::AssetId;
use crate::money::Amount;
use crate::time::Timestamp;
use crate::x402::{PaymentRequirements, Scheme, TransferMethod};

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

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

impl Spending {
    /// Whether a way to pay is within the limits, given what was spent of its token today.
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
        let limit = AssetLimit {
            per_payment: Amount::new(100),
            per_deposit: Amount::new(1_000),
            per_day: Amount::new(250),
        };
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
