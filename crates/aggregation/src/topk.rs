//! Which values of a chunk are kept (spec: aggregation, section 4).

use crate::shape::CHUNK_VALUES;

/// The bits of a binary32 without its sign: for finite numbers they are ordered as the magnitudes are.
const MAGNITUDE_BITS: u32 = 0x7fff_ffff;

/// Appends the indices of the `kept` largest magnitudes in ascending order; of equal ones the lower indices are
/// kept. Values are finite, at most [`CHUNK_VALUES`], and not fewer than `kept`, which is at least 1.
///
/// Selecting takes time in proportion to the values: the threshold by `select_nth_unstable`, then one pass.
pub(crate) fn select(values: &[f32], kept: usize, indices: &mut Vec<u16>) {
    let mut room = [0_u32; CHUNK_VALUES];
    let magnitudes = &mut room[..values.len()];
    for (magnitude, value) in magnitudes.iter_mut().zip(values) {
        *magnitude = value.to_bits() & MAGNITUDE_BITS;
    }
    let (_, &mut threshold, larger) = magnitudes.select_nth_unstable(values.len() - kept);
    let larger = larger.iter().filter(|larger| **larger > threshold).count();
    let mut equal_left = kept - larger;
    for (index, value) in (0..).zip(values) {
        let magnitude = value.to_bits() & MAGNITUDE_BITS;
        let is_tied = magnitude == threshold && equal_left > 0;
        equal_left -= usize::from(is_tied);
        if magnitude > threshold || is_tied {
            indices.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selected(values: &[f32], kept: usize) -> Vec<u16> {
        let mut indices = Vec::new();
        select(values, kept, &mut indices);
        indices
    }

    #[test]
    fn of_equal_magnitudes_the_lower_indices_are_kept() {
        let values = [1.0, -2.0, 2.0, 0.5, -1.0, 1.0];
        assert_eq!(selected(&values, 1), [1]);
        assert_eq!(selected(&values, 3), [0, 1, 2]);
        assert_eq!(selected(&values, 4), [0, 1, 2, 4]);
        assert_eq!(selected(&values, 6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(selected(&[0.0, -0.0, 0.0], 2), [0, 1]);
    }

    proptest! {
        #[test]
        fn a_sort_selects_the_same(
            values in prop::collection::vec(prop_oneof![-2_i8..3, any::<i8>()], 1..300),
            share in 0.0..1.0,
        ) {
            let values: Vec<f32> = values.into_iter().map(f32::from).collect();
            let kept = ((values.len() as f64 * share) as usize).max(1);
            let mut order: Vec<u16> = (0..values.len() as u16).collect();
            order.sort_by(|a, b| {
                let (x, y) = (values[*a as usize].abs(), values[*b as usize].abs());
                y.total_cmp(&x).then(a.cmp(b))
            });
            order.truncate(kept);
            order.sort_unstable();
            prop_assert_eq!(selected(&values, kept), order);
        }
    }
}
