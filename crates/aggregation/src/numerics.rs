//! The arithmetic that is fixed to the bit (spec: aggregation, section 1).

/// The lanes of a sum.
const LANES: usize = 8;
/// The bits of binary32 that bfloat16 lacks.
const DROPPED_BITS: u32 = 16;

/// A sum of binary64 numbers in the fixed order of eight lanes: term i goes to lane i modulo 8.
#[derive(Debug, Clone, Default)]
pub(crate) struct TreeSum {
    lanes: [f64; LANES],
    next: usize,
}

impl TreeSum {
    pub(crate) fn push(&mut self, term: f64) {
        self.lanes[self.next] += term;
        self.next = (self.next + 1) % LANES;
    }

    /// Returns `((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))`.
    pub(crate) fn total(&self) -> f64 {
        let [l0, l1, l2, l3, l4, l5, l6, l7] = self.lanes;
        ((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))
    }
}

/// Sums terms by one tree.
pub(crate) fn tree_sum(terms: impl IntoIterator<Item = f64>) -> f64 {
    let mut sum = TreeSum::default();
    for term in terms {
        sum.push(term);
    }
    sum.total()
}

/// Rounds to the nearest bfloat16, ties to even. The number must be finite and at most 2^127.
pub(crate) fn to_bfloat16(number: f32) -> f32 {
    let bits = number.to_bits();
    let odd = (bits >> DROPPED_BITS) & 1;
    let rounded = bits + (0x7fff + odd);
    f32::from_bits(rounded & 0xffff_0000)
}

/// Rounds to binary32, then to bfloat16.
pub(crate) fn mean_to_bfloat16(mean: f64) -> f32 {
    // A mean of magnitudes of binary32 is one of its numbers again, but for the rounding.
    #[expect(clippy::cast_possible_truncation, reason = "rounding is the purpose")]
    let mean = mean as f32;
    to_bfloat16(mean)
}

/// Returns the two bytes of a number that is a bfloat16.
pub(crate) fn bfloat16_bytes(number: f32) -> [u8; 2] {
    let [_, _, low, high] = number.to_bits().to_le_bytes();
    [low, high]
}

/// Reads two bytes as a bfloat16.
pub(crate) fn from_bfloat16_bytes([low, high]: [u8; 2]) -> f32 {
    f32::from_bits(u32::from_le_bytes([0, 0, low, high]))
}

/// Rounds a number of at most 2^22 to the nearest whole number, ties to even, by the rounding of an addition.
pub(crate) fn round_ties_even(number: f32) -> f32 {
    const ONE_AND_A_HALF_TIMES_2_TO_23: f32 = 12_582_912.0;
    (number + ONE_AND_A_HALF_TIMES_2_TO_23) - ONE_AND_A_HALF_TIMES_2_TO_23
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_added_in_the_order_of_the_tree() {
        // 2^53 + 1 is not a binary64: the order shows in what is lost.
        let large = 9_007_199_254_740_992.0;
        let mut terms = vec![0.0; 16];
        terms[0] = large;
        terms[8] = 1.0;
        assert_eq!(tree_sum(terms.clone()), large, "one lane");
        terms[8] = 0.0;
        terms[1] = 1.0;
        terms[5] = 1.0;
        assert_eq!(tree_sum(terms), large + 2.0, "lanes 1 and 5 meet first");
    }

    #[test]
    fn bfloat16_is_the_nearest_with_ties_to_even() {
        let cases = [
            (0x3f80_0000, 0x3f80_0000),
            (0x3f80_7fff, 0x3f80_0000),
            (0x3f80_8000, 0x3f80_0000),
            (0x3f80_8001, 0x3f81_0000),
            (0x3f81_8000, 0x3f82_0000),
            (0x3fff_ffff, 0x4000_0000),
            (0x0000_8000, 0x0000_0000),
            (0x0000_8001, 0x0001_0000),
        ];
        for (from, to) in cases {
            let rounded = to_bfloat16(f32::from_bits(from));
            assert_eq!(rounded.to_bits(), to, "{from:08x}");
            assert_eq!(from_bfloat16_bytes(bfloat16_bytes(rounded)), rounded);
        }
    }

    #[test]
    fn halves_go_to_the_even_number() {
        let cases = [
            (0.5, 0.0),
            (1.5, 2.0),
            (-2.5, -2.0),
            (126.5, 126.0),
            (126.51, 127.0),
        ];
        for (from, to) in cases {
            assert_eq!(round_ties_even(from), to, "{from}");
        }
    }
}
