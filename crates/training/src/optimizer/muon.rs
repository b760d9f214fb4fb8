//! Muon: momentum, turned into the nearest matrix without singular values by five Newton-Schulz steps (Jordan and
//! others, 2024; spec: training numerics, section 7.3).

use crate::kernels::lanes::{PART, squares_row, sum_long};
use crate::kernels::matmul::{Grid, Product, multiply, pack, packed_len};
use crate::kernels::rows::scale;
use crate::kernels::update::{combine, descend, momentum};
use crate::optimizer::Muon;
use crate::path::Path;

const STEPS: usize = 5;
/// Of `X <- a X + (b A + c A A) X` with `A = X X^T`.
const A: f32 = 3.4445;
const B: f32 = -4.775;
const C: f32 = 2.0315;
const EPSILON: f32 = 1e-7;
/// Rows of a symmetric product that are computed together: left of them is left to the mirror.
const STRIP: usize = 28;

/// A matrix to be turned.
pub(super) struct Matrix<'a> {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) weights: &'a mut [f32],
    pub(super) gradient: &'a [f32],
    pub(super) velocity: &'a mut [f32],
}

/// What a step does to every matrix.
pub(super) struct Turn {
    clip: f32,
    momentum: f32,
    fresh: f32,
    rate: f64,
    keep: f32,
}

/// Returns the floats in which a matrix is turned.
pub(super) fn scratch_floats(path: Path, rows: usize, columns: usize) -> usize {
    let (s, l) = (rows.min(columns), rows.max(columns));
    let packed = packed_len(path, l, s)
        .max(packed_len(path, s, l))
        .max(packed_len(path, s, s));
    2 * s * l + 2 * s * s + packed
}

impl Turn {
    pub(super) fn new(muon: &Muon, step: u64, clip: f32) -> Self {
        let rate = muon.rate.at(step);
        Self {
            clip,
            momentum: muon.momentum,
            fresh: (1.0 - f64::from(muon.momentum)) as f32,
            rate,
            keep: (1.0 - rate * f64::from(muon.decay)) as f32,
        }
    }

    pub(super) fn apply(&self, path: Path, matrix: Matrix, scratch: &mut [f32]) {
        let (rows, columns) = (matrix.rows, matrix.columns);
        let len = rows * columns;
        let (x, scratch) = scratch.split_at_mut(len);
        let (other, scratch) = scratch.split_at_mut(len);
        momentum(
            path,
            matrix.gradient,
            matrix.velocity,
            other,
            self.clip,
            self.momentum,
            self.fresh,
        );
        let parts: Vec<f32> = other
            .chunks(PART)
            .map(|part| squares_row(path, part))
            .collect();
        let norm = sum_long(path, &parts).sqrt();
        scale(path, other, 1.0 / (norm + EPSILON));
        let tall = rows > columns;
        if tall {
            transpose(other, rows, columns, x);
        } else {
            x.copy_from_slice(other);
        }
        let (short, long) = (rows.min(columns), rows.max(columns));
        for _ in 0..STEPS {
            newton_schulz(path, short, long, x, other, scratch);
            x.copy_from_slice(other);
        }
        let direction = if tall {
            transpose(x, columns, rows, other);
            other
        } else {
            x
        };
        let stretch = (rows as f64 / columns as f64).max(1.0).sqrt();
        let step = (self.rate * stretch) as f32;
        descend(path, matrix.weights, direction, self.keep, step);
    }
}

/// One step: `out = a X + (b A + c A A) X`.
fn newton_schulz(
    path: Path,
    short: usize,
    long: usize,
    x: &[f32],
    out: &mut [f32],
    scratch: &mut [f32],
) {
    let (gram, scratch) = scratch.split_at_mut(short * short);
    let (square, packed) = scratch.split_at_mut(short * short);
    let right = &mut packed[..packed_len(path, long, short)];
    pack(path, Grid::transposed(x, long), long, short, 0, right);
    symmetric(path, Grid::rows(x, long), right, short, long, gram);
    let right = &mut packed[..packed_len(path, short, short)];
    pack(path, Grid::rows(gram, short), short, short, 0, right);
    symmetric(path, Grid::rows(gram, short), right, short, short, square);
    let mix = &mut packed[..short * short];
    combine(path, gram, square, B, C, mix);
    gram.copy_from_slice(mix);
    let right = &mut packed[..packed_len(path, short, long)];
    pack(path, Grid::rows(x, long), short, long, 0, right);
    out.copy_from_slice(x);
    scale(path, out, A);
    let product = Product::new(Grid::rows(gram, short), right, short, long, short);
    multiply(path, &product.going_on(), out, long);
}

/// A product that is symmetric to the bit, because its chains are: the half from the diagonal on, and its mirror.
fn symmetric(path: Path, left: Grid, right: &[f32], size: usize, k: usize, out: &mut [f32]) {
    for start in (0..size).step_by(STRIP) {
        let end = size.min(start + STRIP);
        let strip = Grid {
            values: &left.values[start * left.row_step..],
            ..left
        };
        let product = Product {
            from_column: start,
            ..Product::new(strip, right, end - start, size, k)
        };
        multiply(path, &product, &mut out[start * size..end * size], size);
    }
    for row in 1..size {
        for column in 0..row {
            out[row * size + column] = out[column * size + row];
        }
    }
}

fn transpose(from: &[f32], rows: usize, columns: usize, to: &mut [f32]) {
    const TILE: usize = 16;
    for first in (0..rows).step_by(TILE) {
        for column in 0..columns {
            for row in first..rows.min(first + TILE) {
                to[column * rows + row] = from[row * columns + column];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::symmetric;
    use crate::kernels::matmul::{Grid, Product, multiply, pack, packed_len};
    use crate::path::Path;

    #[test]
    fn half_of_a_symmetric_product_is_all_of_it() {
        let (size, k) = (75, 41);
        let x: Vec<f32> = (0..size * k)
            .map(|i| ((i * 7_919) % 1_000) as f32 / 500.0 - 1.0)
            .collect();
        for path in Path::available() {
            let mut right = vec![0.0; packed_len(path, k, size)];
            pack(path, Grid::transposed(&x, k), k, size, 0, &mut right);
            let (mut half, mut whole) = (vec![0.0; size * size], vec![0.0; size * size]);
            symmetric(path, Grid::rows(&x, k), &right, size, k, &mut half);
            let product = Product::new(Grid::rows(&x, k), &right, size, size, k);
            multiply(path, &product, &mut whole, size);
            assert!(
                half.iter()
                    .zip(&whole)
                    .all(|(a, b)| a.to_bits() == b.to_bits())
            );
        }
    }
}
