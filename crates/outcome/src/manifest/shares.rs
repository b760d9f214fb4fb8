//! Whole shares from what each did.

/// The shares of a model together: a share is a millionth of what it earns.
pub const SHARES: u32 = 1_000_000;

/// Divides `whole` among `parts` in proportion: each gets its part rounded down, and what is left goes, one each, to those whose
/// remainders are the largest, the earlier one first. Where all parts are zero, so is everything. spec: 17, section 5.
///
/// The shares are `whole` together, unless all parts are zero.
#[must_use]
pub fn apportion(whole: u32, parts: &[u64]) -> Vec<u32> {
    let sum: u128 = parts.iter().map(|part| u128::from(*part)).sum();
    if sum == 0 {
        return vec![0; parts.len()];
    }
    let exact = |part: &u64| u128::from(*part) * u128::from(whole);
    let mut shares: Vec<u32> = parts
        .iter()
        // A part is at most the sum, so its share is at most the whole.
        .map(|part| (exact(part) / sum) as u32)
        .collect();
    let given: u64 = shares.iter().map(|share| u64::from(*share)).sum();
    let left = u64::from(whole) - given;
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(exact(&parts[*index]) % sum));
    for (index, _) in order.into_iter().zip(0..left) {
        shares[index] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_left_goes_to_the_largest_remainders_and_then_to_the_first() {
        assert_eq!(apportion(10, &[1, 1, 1]), [4, 3, 3]);
        assert_eq!(apportion(10, &[5, 3, 3]), [4, 3, 3]);
        assert_eq!(apportion(7, &[0, 0]), [0, 0]);
        assert_eq!(apportion(7, &[]), [0u32; 0]);
        assert_eq!(apportion(SHARES, &[u64::MAX, u64::MAX]), [500_000, 500_000]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nobody_is_off_by_one(
            whole in 0..=SHARES,
            parts in proptest::collection::vec(0..=1u64 << 53, 1..40),
        ) {
            let shares = apportion(whole, &parts);
            let sum: u128 = parts.iter().map(|part| u128::from(*part)).sum();
            prop_assume!(sum > 0);
            prop_assert_eq!(shares.iter().sum::<u32>(), whole);
            for (part, share) in parts.iter().zip(shares) {
                let exact = u128::from(*part) * u128::from(whole);
                let floor = (exact / sum) as u32;
                prop_assert!(share == floor || share == floor + 1);
            }
        }
    }
}
