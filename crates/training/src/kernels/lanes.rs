//! Sums in one fixed order: eight lanes, then a tree of them (spec: training numerics, section 3).
//!
//! Element `i` of a row belongs to lane `i % 8`; a lane adds its elements in ascending order, from zero. The eight
//! lanes are added as `((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))`.

use crate::kernels::dispatch::kernel;
use crate::kernels::fma::Fma;

pub(crate) const LANES: usize = 8;
/// Elements of a long vector that are summed as one row; the sums of the parts are summed in the same way.
pub(crate) const PART: usize = 4_096;

#[inline(always)]
pub(crate) fn tree(l: [f32; LANES]) -> f32 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// Sums `f(a[i], lane)` over lanes: `f` is given an element of each slice and the lane so far.
#[inline(always)]
pub(crate) fn fold(a: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let mut eights = a.chunks_exact(LANES);
    for eight in &mut eights {
        for (lane, x) in lanes.iter_mut().zip(eight) {
            *lane = f(*x, *lane);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(eights.remainder()) {
        *lane = f(*x, *lane);
    }
    tree(lanes)
}

/// The same over two slices of one length.
#[inline(always)]
pub(crate) fn fold2(a: &[f32], b: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (mut xs, mut ys) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (x8, y8) in (&mut xs).zip(&mut ys) {
        for ((lane, x), y) in lanes.iter_mut().zip(x8).zip(y8) {
            *lane = f(*x, *y, *lane);
        }
    }
    for ((lane, x), y) in lanes.iter_mut().zip(xs.remainder()).zip(ys.remainder()) {
        *lane = f(*x, *y, *lane);
    }
    tree(lanes)
}

#[inline(always)]
pub(crate) fn dot<F: Fma>(a: &[f32], b: &[f32]) -> f32 {
    fold2(a, b, |x, y, lane| F::fma(x, y, lane))
}

kernel! {
    /// Returns the sum of a row.
    sum_row<F>(row: &[f32]) -> f32 {
        fold(row, |x, lane| lane + x)
    }
}

kernel! {
    /// Returns the sum of the squares of a row.
    squares_row<F>(row: &[f32]) -> f32 {
        fold(row, |x, lane| F::fma(x, x, lane))
    }
}

/// Returns the sum of a vector of any length: parts of [`PART`] elements, then their sums in the same way.
pub(crate) fn sum_long(path: crate::path::Path, values: &[f32]) -> f32 {
    if values.len() <= PART {
        return sum_row(path, values);
    }
    let parts: Vec<f32> = values
        .chunks(PART)
        .map(|part| sum_row(path, part))
        .collect();
    sum_long(path, &parts)
}

#[cfg(test)]
mod tests {
    use super::{squares_row, sum_long, sum_row};
    use crate::path::Path;

    /// The specification's words, one element at a time.
    fn by_the_words(row: &[f32]) -> f32 {
        let mut l = [0.0f32; 8];
        for (i, x) in row.iter().enumerate() {
            l[i % 8] += x;
        }
        ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
    }

    fn noise(count: usize) -> Vec<f32> {
        (0..count as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0 - 0.5)
            .collect()
    }

    #[test]
    fn every_path_adds_in_the_order_of_the_specification() {
        for count in [0, 1, 7, 8, 9, 31, 64, 1_000, 4_096] {
            let row = noise(count);
            let squares: Vec<f32> = row.iter().map(|x| x.abs().sqrt()).collect();
            for path in Path::available() {
                assert_eq!(sum_row(path, &row).to_bits(), by_the_words(&row).to_bits());
                let here = squares_row(path, &squares).to_bits();
                let scalar = squares_row(Path::available()[0], &squares).to_bits();
                assert_eq!(here, scalar, "{path:?} {count}");
            }
        }
    }

    #[test]
    fn long_vectors_are_summed_in_parts() {
        let values = noise(10_000);
        let parts: Vec<f32> = values.chunks(4_096).map(by_the_words).collect();
        for path in Path::available() {
            let sum = sum_long(path, &values);
            assert_eq!(sum.to_bits(), by_the_words(&parts).to_bits());
        }
    }
}
