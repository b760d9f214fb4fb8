//! How much Ember and Voice an epoch can give (spec: 14 ledger, section 3).

use alloy_primitives::U256;

use crate::money::Amount;

use super::growth;

/// Seconds between two halvings: four years of 365 days.
pub const ERA_S: u64 = 1_460 * 24 * 60 * 60;

/// Atomic units of Ember that the first era gives; all eras together give twice that.
pub const FIRST_ERA: Amount = Amount::new(500_000_000 * 1_000_000_000_000_000_000);

/// Atomic units of Ember that are worth one atomic unit of Voice at the origin.
pub const EMBER_OF_VOICE: u128 = 1_000_000_000;

/// The most Ember that one epoch of `epoch_s` seconds gives.
#[must_use]
pub fn ember_cap(epoch: u64, epoch_s: u64) -> Amount {
    // 5e26 times a week in seconds stays below 2^128, and an epoch is at most that long.
    let first = FIRST_ERA.units().saturating_mul(u128::from(epoch_s)) / u128::from(ERA_S);
    let era = u128::from(epoch) * u128::from(epoch_s) / u128::from(ERA_S);
    let era = u32::try_from(era).unwrap_or(u32::MAX);
    Amount::new(first.checked_shr(era).unwrap_or(0))
}

/// The most Voice that one epoch gives: that of all its Ember, earned at its end.
#[must_use]
pub fn voice_cap(epoch: u64, epoch_s: u64) -> U256 {
    let weight = ember_cap(epoch, epoch_s).units() / EMBER_OF_VOICE;
    growth::votes(weight, epoch.saturating_add(1).saturating_mul(epoch_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_epochs_together_give_a_billion_at_most() {
        for epoch_s in [4, 3_600, 86_400, 604_800 / 7 * 5] {
            let per_era = u128::from(ERA_S / epoch_s);
            let mut given = 0;
            for era in 0..200 {
                let first = era * (ERA_S / epoch_s);
                let cap = ember_cap(first, epoch_s);
                assert_eq!(ember_cap(first + ERA_S / epoch_s - 1, epoch_s), cap);
                given += cap.units() * per_era;
            }
            assert!(given <= 2 * FIRST_ERA.units(), "{epoch_s}");
            // What rounding leaves out is below a millionth.
            assert!(
                given >= 2 * FIRST_ERA.units() / 1_000_000 * 999_999,
                "{epoch_s}"
            );
        }
    }

    #[test]
    fn far_epochs_give_nothing_and_do_not_overflow() {
        assert_eq!(ember_cap(u64::MAX, 604_800), Amount::ZERO);
        assert_eq!(voice_cap(u64::MAX, 604_800), U256::ZERO);
    }
}
