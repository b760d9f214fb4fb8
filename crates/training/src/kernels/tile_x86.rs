//! The inner tile of a matrix product in AVX2 and AVX-512 instructions.

#![allow(
    unsafe_code,
    reason = "vector instructions on panels whose sizes `matmul` has checked"
)]

use std::arch::x86_64::{
    __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

use crate::kernels::tile::Tile;

/// Rows of the tile of each path.
pub(super) const AVX2_ROWS: usize = 6;
pub(super) const AVX512_ROWS: usize = 14;
/// Columns of a panel of each path: two vectors.
pub(super) const AVX2_COLUMNS: usize = 16;
pub(super) const AVX512_COLUMNS: usize = 32;

/// Computes a tile with AVX-512.
///
/// # Safety
/// See [`Tile`]; the processor has AVX-512F, `tile.rows` is 1 to 14, the panel is 32 wide.
pub(super) unsafe fn avx512(tile: &Tile) {
    macro_rules! by_rows {
        ($($rows:literal)*) => {
            match (tile.rows, tile.columns > 16, tile.a_row == 1) {
                $(
                    // SAFETY: as promised to this function.
                    ($rows, true, false) => unsafe { avx512_tile::<$rows, 2, false>(tile) },
                    ($rows, true, true) => unsafe { avx512_tile::<$rows, 2, true>(tile) },
                    ($rows, false, false) => unsafe { avx512_tile::<$rows, 1, false>(tile) },
                    ($rows, false, true) => unsafe { avx512_tile::<$rows, 1, true>(tile) },
                )*
                _ => unreachable!("a tile has 1 to 14 rows"),
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// `ADJACENT`: the rows of `a` are neighbours in memory, so that their addresses are constants.
#[target_feature(enable = "avx512f")]
unsafe fn avx512_tile<const M: usize, const V: usize, const ADJACENT: bool>(tile: &Tile) {
    // SAFETY: the promises of `Tile`; masks keep reads and writes of `c` within its columns.
    unsafe {
        let a_row = if ADJACENT { 1 } else { tile.a_row };
        let a_step = if ADJACENT { tile.a_step } else { 1 };
        let last = u16::MAX >> (16 * V - tile.columns);
        let mut sums: [[__m512; V]; M] = [[_mm512_setzero_ps(); V]; M];
        if tile.goes_on {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    let mask = if v + 1 == V { last } else { u16::MAX };
                    *sum = _mm512_maskz_loadu_ps(mask, tile.c.add(i * tile.c_row + 16 * v));
                }
            }
        }
        let (mut a, mut b) = (tile.a, tile.b);
        for _ in 0..tile.k {
            let mut bs = [_mm512_setzero_ps(); V];
            for (v, b_v) in bs.iter_mut().enumerate() {
                *b_v = _mm512_loadu_ps(b.add(16 * v));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(i * a_row));
                for (sum, b_v) in sums.iter_mut().zip(&bs) {
                    *sum = _mm512_fmadd_ps(x, *b_v, *sum);
                }
            }
            // Past the last step these leave their slices, which only a wrapping addition may.
            a = a.wrapping_add(a_step);
            b = b.wrapping_add(AVX512_COLUMNS);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                let mask = if v + 1 == V { last } else { u16::MAX };
                _mm512_mask_storeu_ps(tile.c.add(i * tile.c_row + 16 * v), mask, *sum);
            }
        }
    }
}

/// Computes a tile with AVX2 and FMA.
///
/// # Safety
/// See [`Tile`]; the processor has AVX2 and FMA, `tile.rows` is 1 to 6, the panel is 16 wide.
pub(super) unsafe fn avx2(tile: &Tile) {
    macro_rules! by_rows {
        ($($rows:literal)*) => {
            match tile.rows {
                // SAFETY: as promised to this function.
                $($rows => unsafe { avx2_tile::<$rows>(tile) },)*
                _ => unreachable!("a tile has 1 to 6 rows"),
            }
        };
    }
    by_rows!(1 2 3 4 5 6);
}

#[target_feature(enable = "avx2,fma")]
unsafe fn avx2_tile<const M: usize>(tile: &Tile) {
    let full = tile.columns == AVX2_COLUMNS;
    let mut edge = [[0.0f32; AVX2_COLUMNS]; M];
    // SAFETY: the promises of `Tile`; a tile narrower than its panel goes through `edge`.
    unsafe {
        let mut sums: [[__m256; 2]; M] = [[_mm256_setzero_ps(); 2]; M];
        if tile.goes_on {
            for (i, sums) in sums.iter_mut().enumerate() {
                let row = tile.c.add(i * tile.c_row);
                if full {
                    *sums = [_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8))];
                } else {
                    for (j, value) in edge[i].iter_mut().enumerate().take(tile.columns) {
                        *value = *row.add(j);
                    }
                    let row = edge[i].as_ptr();
                    *sums = [_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8))];
                }
            }
        }
        let (mut a, mut b) = (tile.a, tile.b);
        for _ in 0..tile.k {
            let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*a.add(i * tile.a_row));
                sums[0] = _mm256_fmadd_ps(x, b0, sums[0]);
                sums[1] = _mm256_fmadd_ps(x, b1, sums[1]);
            }
            // Past the last step these leave their slices, which only a wrapping addition may.
            a = a.wrapping_add(tile.a_step);
            b = b.wrapping_add(AVX2_COLUMNS);
        }
        for (i, sums) in sums.iter().enumerate() {
            let row = tile.c.add(i * tile.c_row);
            if full {
                _mm256_storeu_ps(row, sums[0]);
                _mm256_storeu_ps(row.add(8), sums[1]);
            } else {
                let line = edge[i].as_mut_ptr();
                _mm256_storeu_ps(line, sums[0]);
                _mm256_storeu_ps(line.add(8), sums[1]);
                for (j, value) in edge[i].iter().enumerate().take(tile.columns) {
                    *row.add(j) = *value;
                }
            }
        }
    }
}
