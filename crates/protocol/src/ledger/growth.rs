//! Votes earned later weigh more: `2^(t / H)`, in the contracts' fixed point (spec: 14 ledger, section 2).

use alloy_primitives::U256;

/// Seconds in which a vote halves beside newer ones.
pub const HALF_LIFE_S: u64 = 180 * 24 * 60 * 60;

/// Half-lives after which the factor stays as it is.
pub const HALF_LIVES_MAX: u64 = 128;

/// Bits of a half-life that count.
const FRACTION_BITS: usize = 24;

/// `2^64 * 2^(2^-n)` for n from 1, rounded to the nearest.
const FACTORS: [u128; FRACTION_BITS] = [
    0x1_6a09_e667_f3bc_c909,
    0x1_306f_e0a3_1b71_52df,
    0x1_172b_83c7_d517_adce,
    0x1_0b55_86cf_9890_f62a,
    0x1_059b_0d31_5857_43ae,
    0x1_02c9_a3e7_7806_0ee7,
    0x1_0163_da9f_b333_56d8,
    0x1_00b1_afa5_abcb_ed61,
    0x1_0058_c86d_a1c0_9ea2,
    0x1_002c_605e_2e8c_ec50,
    0x1_0016_2f39_0405_1fa1,
    0x1_000b_175e_ffdc_76ba,
    0x1_0005_8ba0_1fb9_f96d,
    0x1_0002_c5cc_37da_9492,
    0x1_0001_62e5_25ee_0547,
    0x1_0000_b172_5577_5c04,
    0x1_0000_58b9_1b5b_c9ae,
    0x1_0000_2c5c_89d5_ec6d,
    0x1_0000_162e_43f4_f831,
    0x1_0000_0b17_21bc_fc9a,
    0x1_0000_058b_90cf_1e6e,
    0x1_0000_02c5_c863_b73f,
    0x1_0000_0162_e430_e5a2,
    0x1_0000_00b1_7218_3551,
];

/// The votes that `weight` is worth to somebody who earned it `elapsed_s` seconds after the origin.
#[must_use]
pub fn votes(weight: u128, elapsed_s: u64) -> U256 {
    let weight = U256::from(weight);
    let time = (u128::from(elapsed_s) << FRACTION_BITS) / u128::from(HALF_LIFE_S);
    let whole = time >> FRACTION_BITS;
    match u64::try_from(whole) {
        Ok(whole) if whole < HALF_LIVES_MAX => {
            ((weight * factor(time)) >> 64_usize) << usize::try_from(whole).unwrap_or(0)
        }
        _ => weight << usize::try_from(HALF_LIVES_MAX).unwrap_or(0),
    }
}

/// Votes in units of the last whole half-life before `elapsed_s`: what the draw weighs with.
#[must_use]
pub fn weight(votes: U256, elapsed_s: u64) -> U256 {
    let halvings = (elapsed_s / HALF_LIFE_S).min(HALF_LIVES_MAX);
    votes >> usize::try_from(halvings).unwrap_or(0)
}

/// `2^64` times two to the power of the fraction in the lower bits of `time`.
fn factor(time: u128) -> U256 {
    let mut product = U256::from(1_u128 << 64);
    for (place, factor) in FACTORS.iter().enumerate() {
        if time >> (FRACTION_BITS - 1 - place) & 1 == 1 {
            product = (product * U256::from(*factor)) >> 64_usize;
        }
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_doubles_in_each_half_life_and_stops_at_the_horizon() {
        let one = votes(1_000_000, 0);
        assert_eq!(one, U256::from(1_000_000));
        assert_eq!(votes(1_000_000, HALF_LIFE_S), one * U256::from(2));
        assert_eq!(votes(1_000_000, 10 * HALF_LIFE_S), one * U256::from(1_024));
        let last = votes(u128::MAX, HALF_LIVES_MAX * HALF_LIFE_S);
        assert_eq!(last, U256::from(u128::MAX) << 128_usize);
        assert_eq!(votes(u128::MAX, u64::MAX), last);
    }

    #[test]
    fn the_factor_is_the_power_of_two_to_nine_digits() {
        for days in [1_u64, 17, 45, 90, 179, 181, 365, 3_650] {
            let elapsed = days * 86_400;
            let exact = 2_f64.powf(elapsed as f64 / HALF_LIFE_S as f64) * 1e9;
            let ours: f64 = votes(1_000_000_000, elapsed).to_string().parse().unwrap();
            assert!((ours / exact - 1.0).abs() < 1e-6, "{days}: {ours} {exact}");
        }
    }

    #[test]
    fn later_work_is_never_worth_less() {
        let mut before = U256::ZERO;
        for second in (0..3 * HALF_LIFE_S).step_by(7_919) {
            let now = votes(1 << 60, second);
            assert!(now >= before, "second {second}");
            before = now;
        }
    }

    /// Four fifths of all work for half a year against votes that were there before: the design's example.
    #[test]
    fn a_newcomer_needs_time_to_outweigh_what_was_earned() {
        let day = 24 * 60 * 60;
        let (mut old, mut new) = (U256::ZERO, U256::ZERO);
        // What ten years of steady work left, then half a year in which the newcomer does 80%.
        for epoch in 0..3_650 {
            old += votes(1_000_000, epoch * day);
        }
        for epoch in 3_650..3_830 {
            old += votes(200_000, epoch * day);
            new += votes(800_000, epoch * day);
        }
        let share = new * U256::from(100) / (old + new);
        assert!(
            (U256::from(39)..=U256::from(41)).contains(&share),
            "{share}"
        );
    }
}
