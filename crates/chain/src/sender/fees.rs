//! What to offer for gas, and how to outbid oneself.
//!
//! EIP-1559: a transaction names the most it pays per unit of gas and the part of it that goes to the builder of the
//! block. Twice the base fee leaves room for six full blocks in a row (1.125^6 = 2.03). On a chain whose base fee and
//! gas price are both zero, such as the embedded one, both are zero. Fees are in wei per unit of gas throughout.

use serde::{Deserialize, Serialize};

/// The most that is ever offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeeCaps {
    /// Upper bound of the whole fee, in wei per unit of gas.
    pub max_fee_per_gas: u128,
    /// Upper bound of the suggested priority fee, in wei per unit of gas; replacements may go beyond it.
    pub max_priority_fee_per_gas: u128,
}

impl Default for FeeCaps {
    fn default() -> Self {
        const GWEI: u128 = 1_000_000_000;
        Self {
            max_fee_per_gas: 200 * GWEI,
            max_priority_fee_per_gas: 5 * GWEI,
        }
    }
}

/// What the chain asks now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeeMarket {
    /// Base fee of the newest block, 0 where there is none.
    pub base_fee_per_gas: u128,
    /// `eth_gasPrice`.
    pub gas_price: u128,
    /// `eth_maxPriorityFeePerGas`.
    pub priority_fee_per_gas: u128,
}

impl FeeMarket {
    /// Whether gas costs nothing here.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.base_fee_per_gas == 0 && self.gas_price == 0
    }
}

/// The fees of one transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fees {
    /// The most to pay per unit of gas.
    pub max_fee_per_gas: u128,
    /// The part of it that is offered on top of the base fee.
    pub max_priority_fee_per_gas: u128,
}

/// The fees for a first try; `None` while the base fee is above the cap, when waiting is all that can be done.
#[must_use]
pub fn first_offer(market: &FeeMarket, caps: &FeeCaps) -> Option<Fees> {
    if market.is_free() {
        return Some(Fees::default());
    }
    let priority = market
        .priority_fee_per_gas
        .min(caps.max_priority_fee_per_gas);
    let wanted = if market.base_fee_per_gas == 0 {
        market.gas_price.max(priority)
    } else {
        market
            .base_fee_per_gas
            .saturating_mul(2)
            .saturating_add(priority)
    };
    let max_fee_per_gas = wanted.min(caps.max_fee_per_gas);
    if max_fee_per_gas < market.base_fee_per_gas {
        return None;
    }
    Some(Fees {
        max_fee_per_gas,
        max_priority_fee_per_gas: priority.min(max_fee_per_gas),
    })
}

/// The fees of a replacement: at least an eighth more than `previous` in both parts, which every known client accepts
/// (geth asks for a tenth), and no less than a first offer now. `None` if that is above the cap, or if gas is free and
/// nothing can be outbid.
#[must_use]
pub fn replacement(previous: &Fees, market: &FeeMarket, caps: &FeeCaps) -> Option<Fees> {
    if market.is_free() {
        return None;
    }
    let fresh = first_offer(market, caps).unwrap_or_default();
    let max_fee_per_gas = eighth_more(previous.max_fee_per_gas).max(fresh.max_fee_per_gas);
    let max_priority_fee_per_gas =
        eighth_more(previous.max_priority_fee_per_gas).max(fresh.max_priority_fee_per_gas);
    let fits =
        max_fee_per_gas <= caps.max_fee_per_gas && max_priority_fee_per_gas <= max_fee_per_gas;
    fits.then_some(Fees {
        max_fee_per_gas,
        max_priority_fee_per_gas,
    })
}

/// An eighth more, rounded up, and always more.
fn eighth_more(fee: u128) -> u128 {
    fee.saturating_add(fee.div_ceil(8))
        .max(fee.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn market(base: u128, price: u128, priority: u128) -> FeeMarket {
        FeeMarket {
            base_fee_per_gas: base,
            gas_price: price,
            priority_fee_per_gas: priority,
        }
    }

    fn fees(max: u128, priority: u128) -> Fees {
        Fees {
            max_fee_per_gas: max,
            max_priority_fee_per_gas: priority,
        }
    }

    #[test]
    fn offers_follow_the_market_and_stop_at_the_cap() {
        let caps = FeeCaps {
            max_fee_per_gas: 100,
            max_priority_fee_per_gas: 5,
        };
        let cases = [
            (market(0, 0, 9), Some(fees(0, 0))),
            (market(10, 12, 2), Some(fees(22, 2))),
            (market(10, 12, 9), Some(fees(25, 5))),
            (market(60, 70, 9), Some(fees(100, 5))),
            (market(101, 110, 1), None),
            (market(0, 3, 1), Some(fees(3, 1))),
        ];
        for (market, expected) in cases {
            assert_eq!(first_offer(&market, &caps), expected, "{market:?}");
        }
    }

    proptest! {
        #[test]
        fn a_replacement_outbids_by_an_eighth_within_the_cap(
            base in 0..1_000_000_u128, price in 0..1_000_000_u128, priority in 0..1_000_000_u128,
            old_max in 0..1_000_000_u128, old_share in 0..=100_u128, cap in 0..2_000_000_u128,
        ) {
            let previous = fees(old_max, old_max * old_share / 100);
            let caps = FeeCaps { max_fee_per_gas: cap, max_priority_fee_per_gas: cap };
            if let Some(new) = replacement(&previous, &market(base, price, priority), &caps) {
                prop_assert!(new.max_fee_per_gas * 8 >= previous.max_fee_per_gas * 9);
                prop_assert!(new.max_priority_fee_per_gas * 8 >= previous.max_priority_fee_per_gas * 9);
                prop_assert!(new.max_fee_per_gas > previous.max_fee_per_gas);
                prop_assert!(new.max_priority_fee_per_gas > previous.max_priority_fee_per_gas);
                prop_assert!(new.max_fee_per_gas <= cap);
                prop_assert!(new.max_priority_fee_per_gas <= new.max_fee_per_gas);
            }
        }
    }
}
