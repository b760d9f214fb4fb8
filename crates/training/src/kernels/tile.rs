//! The inner tile of a matrix product for any processor: a block of outputs in registers, one chain each.

#![allow(
    unsafe_code,
    reason = "the inner loop of all products: reads of panels whose sizes `matmul` has checked"
)]

use crate::kernels::fma::Fma;

/// What a tile computes: `c[i][j] = chain over p < k of a[i][p] * b[p][j]`, from zero or from `c`.
///
/// Its maker promises that for all `i < rows`, `p < k`, `j < columns`: `a + i * a_row + p * a_step` and
/// `c + i * c_row + j` are inside their slices, that `b` has `k` rows of the path's panel width, and that no other
/// thread touches these elements of `c`.
pub(super) struct Tile {
    pub(super) rows: usize,
    /// At most the panel's width.
    pub(super) columns: usize,
    pub(super) k: usize,
    pub(super) a: *const f32,
    pub(super) a_row: usize,
    pub(super) a_step: usize,
    pub(super) b: *const f32,
    pub(super) c: *mut f32,
    pub(super) c_row: usize,
    /// The chain goes on from `c`.
    pub(super) goes_on: bool,
}

/// Computes a tile of at most `M` rows in a panel of `N` columns.
///
/// # Safety
/// See [`Tile`]; `tile.rows <= M` and the panel is `N` wide.
#[inline(always)]
pub(super) unsafe fn any<F: Fma, const M: usize, const N: usize>(tile: &Tile) {
    debug_assert!(tile.rows <= M && tile.columns <= N);
    let mut sums = [[0.0f32; N]; M];
    // SAFETY: every index is below the bounds that `Tile` promises; rows past `tile.rows` read row 0 again.
    unsafe {
        if tile.goes_on {
            for (i, sums) in sums.iter_mut().enumerate().take(tile.rows) {
                for (j, sum) in sums.iter_mut().enumerate().take(tile.columns) {
                    *sum = *tile.c.add(i * tile.c_row + j);
                }
            }
        }
        let mut rows = [tile.a; M];
        for (i, row) in rows.iter_mut().enumerate().take(tile.rows) {
            *row = tile.a.add(i * tile.a_row);
        }
        for p in 0..tile.k {
            let b = &*tile.b.add(p * N).cast::<[f32; N]>();
            for (sums, row) in sums.iter_mut().zip(&rows) {
                let a = *row.add(p * tile.a_step);
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = F::fma(a, *b, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate().take(tile.rows) {
            for (j, sum) in sums.iter().enumerate().take(tile.columns) {
                *tile.c.add(i * tile.c_row + j) = *sum;
            }
        }
    }
}
