//! Who validates: seats of an epoch and of a run, drawn by a race of weights, and what each counts for
//! (spec: 14 ledger, section 4).
//!
//! The contract fills the seats as devices enroll; here is what a device computes to know beforehand, and to check.

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::SolValue;

/// Seats of an epoch.
pub const SEATS: usize = 32;
/// Seats of one run in an epoch.
pub const RUN_SEATS: usize = 16;
/// A seat counts for at most one part in this many of its set.
pub const CAP_PARTS: u128 = 8;

const RANDOM_BITS: u32 = 63;
const FRACTION_BITS: u32 = 32;
const TIME_SHIFT: u32 = 58;

/// A place among the validators of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// The session key that signs.
    pub device: Address,
    /// The household it counts for.
    pub household: Address,
    /// Weight of the household when the epoch began, not capped; above zero.
    pub weight: u128,
}

/// The validators of an epoch or of a run: what the contract seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committee {
    /// Bit i is set where seat i belongs to it.
    pub mask: u32,
    /// The most that one seat counts for.
    pub cap: u128,
    /// What all its seats count for.
    pub total: u128,
}

/// The time of a household in the race of (`beacon`, `run`); the shortest times are drawn. `run` is zero in the race
/// for the seats of the epoch. A weight of zero never arrives.
#[must_use]
pub fn race_time(beacon: B256, run: B256, household: Address, weight: u128) -> u128 {
    if weight == 0 {
        return u128::MAX;
    }
    let hash: U256 = keccak256((beacon, run, household).abi_encode()).into();
    let random = (hash >> (256 - RANDOM_BITS as usize)).to::<u64>() + 1;
    let length = (u128::from(RANDOM_BITS) << FRACTION_BITS) - u128::from(log2(random));
    (length << TIME_SHIFT) / weight
}

/// Binary logarithm of 1 to 2^63, rounded down to 32 bits behind the point.
fn log2(value: u64) -> u64 {
    let whole = value.ilog2();
    let mut result = u64::from(whole);
    let mut mantissa = u128::from(value) << (RANDOM_BITS - whole);
    for _ in 0..FRACTION_BITS {
        mantissa = (mantissa * mantissa) >> RANDOM_BITS;
        let bit = mantissa >> (RANDOM_BITS + 1);
        mantissa >>= bit;
        result = result << 1 | u64::try_from(bit).unwrap_or(1);
    }
    result
}

/// The set of the whole epoch where `run` is zero, and that of the run otherwise. `seats` are those of the epoch in the
/// contract's order; those beyond [`SEATS`] are not looked at.
#[must_use]
pub fn committee(beacon: B256, run: B256, seats: &[Seat]) -> Committee {
    let seats = &seats[..seats.len().min(SEATS)];
    let mut drawn: Vec<usize> = (0..seats.len()).collect();
    if !run.is_zero() && seats.len() > RUN_SEATS {
        drawn.sort_by_key(|&seat| {
            let Seat {
                household, weight, ..
            } = seats[seat];
            (race_time(beacon, run, household, weight), seat)
        });
        drawn.truncate(RUN_SEATS);
    }
    let weight: u128 = drawn.iter().map(|&seat| seats[seat].weight).sum();
    let cap = (weight / CAP_PARTS).max(1);
    Committee {
        mask: drawn.iter().fold(0, |mask, &seat| mask | 1 << seat),
        cap,
        total: drawn.iter().map(|&seat| seats[seat].weight.min(cap)).sum(),
    }
}

impl Committee {
    /// What the seats of `mask` count for; seats that do not belong to the set count nothing.
    #[must_use]
    pub fn weight_of(&self, mask: u32, seats: &[Seat]) -> u128 {
        let signed = self.mask & mask;
        let seats = seats.iter().take(SEATS).enumerate();
        seats
            .filter(|(seat, _)| signed >> seat & 1 == 1)
            .map(|(_, seat)| seat.weight.min(self.cap))
            .sum()
    }

    /// Whether the seats of `mask` decide: two thirds of the weight.
    #[must_use]
    pub fn is_decided_by(&self, mask: u32, seats: &[Seat]) -> bool {
        self.weight_of(mask, seats).saturating_mul(3) >= self.total.saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(byte: u8, weight: u128) -> Seat {
        Seat {
            device: Address::repeat_byte(byte),
            household: Address::repeat_byte(byte),
            weight,
        }
    }

    #[test]
    fn the_logarithm_is_that_of_the_textbook() {
        assert_eq!(log2(1), 0);
        assert_eq!(log2(1 << 63), 63 << 32);
        for value in [2, 3, 10, 1_000_003, (1 << 40) - 1, (1 << 63) - 1] {
            let exact = (value as f64).log2();
            let ours = log2(value) as f64 / 2_f64.powi(32);
            assert!((exact - ours).abs() < 1e-9, "{value}: {ours} {exact}");
        }
    }

    #[test]
    fn seats_are_drawn_by_weight() {
        let (mut heavy, races) = (0, 4_000);
        for race in 0..races {
            let beacon = keccak256(u32::to_be_bytes(race));
            let three = race_time(beacon, B256::ZERO, Address::repeat_byte(1), 3_000_000);
            let one = race_time(beacon, B256::ZERO, Address::repeat_byte(2), 1_000_000);
            heavy += u32::from(three < one);
        }
        // Three quarters, within five standard deviations.
        assert!((2_860..=3_140).contains(&heavy), "{heavy} of {races}");
    }

    #[test]
    fn many_names_are_drawn_as_often_as_one() {
        let (mut split, races) = (0, 4_000);
        for race in 0..races {
            let beacon = keccak256(u32::to_be_bytes(race));
            let honest = race_time(beacon, B256::ZERO, Address::repeat_byte(0xff), 5_000_000);
            let best = (0..50_u8)
                .map(|name| race_time(beacon, B256::ZERO, Address::repeat_byte(name), 100_000))
                .min();
            split += u32::from(best < Some(honest));
        }
        assert!((1_840..=2_160).contains(&split), "{split} of {races}");
    }

    #[test]
    fn no_seat_counts_for_more_than_the_cap() {
        let seats: Vec<Seat> = (0..10)
            .map(|n| seat(n, if n == 0 { 10_000 } else { 100 }))
            .collect();
        let set = committee(B256::ZERO, B256::ZERO, &seats);
        assert_eq!(set.mask, 0x3ff);
        assert_eq!(set.cap, 10_900 / 8);
        assert_eq!(set.total, 1_362 + 900);
        assert!(
            !set.is_decided_by(1, &seats),
            "the heaviest alone does not decide"
        );
        assert!(set.is_decided_by(0x3f, &seats));
        assert!(!set.is_decided_by(0x3fe, &seats));
    }

    #[test]
    fn a_run_has_sixteen_seats_and_other_runs_have_others() {
        let seats: Vec<Seat> = (0..32).map(|n| seat(n, 1_000)).collect();
        let beacon = B256::repeat_byte(7);
        let first = committee(beacon, B256::repeat_byte(1), &seats);
        let second = committee(beacon, B256::repeat_byte(2), &seats);
        assert_eq!(first.mask.count_ones(), 16);
        assert_ne!(first.mask, second.mask);
        assert_eq!(committee(beacon, B256::ZERO, &seats).mask, u32::MAX);
    }

    #[test]
    fn an_empty_set_has_no_seat_and_one_alone_decides() {
        assert_eq!(committee(B256::ZERO, B256::ZERO, &[]).mask, 0);
        let seats = [seat(1, 3)];
        let set = committee(B256::ZERO, B256::ZERO, &seats);
        assert!(set.is_decided_by(1, &seats));
    }
}
