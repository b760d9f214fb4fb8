//! Matrix products: every output is one chain of fused multiply-adds over ascending `k` (spec: training numerics,
//! section 6).
//!
//! The right side is packed into panels as wide as a tile, once for all its uses; the left side is read where it lies,
//! by rows or by columns. Vector lanes, tiles and threads split outputs and never `k`: a block of `k` stores its partial
//! sums and the next reloads them, which rounds nothing.

#![allow(
    unsafe_code,
    reason = "tiles are given addresses inside slices whose lengths are asserted here"
)]

use crate::kernels::fma::FromDoubles;
#[cfg(target_arch = "aarch64")]
use crate::kernels::fma::Fused;
use crate::kernels::tile::{self, Tile};
#[cfg(target_arch = "x86_64")]
use crate::kernels::tile_x86;
use crate::path::{Kind, Path};

/// Rows of a panel that one pass multiplies: what of them and of the left side stays in the nearest caches.
const K_BLOCK: usize = 384;
/// The same where the left side lies by columns: each step of `k` is then another line of the cache.
const K_BLOCK_BY_COLUMNS: usize = 256;
/// Columns of a pass: with [`K_BLOCK`] rows they fit half of a second-level cache.
const COLUMN_BLOCK: usize = 256;

/// Columns of a panel, and the most rows of a tile.
#[derive(Clone, Copy, Debug)]
struct Shape {
    columns: usize,
    rows: usize,
}

fn shape(path: Path) -> Shape {
    let (columns, rows) = match path.kind() {
        Kind::Scalar => (8, 4),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => (tile_x86::AVX2_COLUMNS, tile_x86::AVX2_ROWS),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => (tile_x86::AVX512_COLUMNS, tile_x86::AVX512_ROWS),
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => (12, 8),
    };
    Shape { columns, rows }
}

/// Returns the columns of one panel: packed matrices are split between threads at multiples of it.
#[must_use]
pub fn panel_columns(path: Path) -> usize {
    shape(path).columns
}

/// Returns how many floats a packed matrix of `k` rows and `n` columns takes.
#[must_use]
pub fn packed_len(path: Path, k: usize, n: usize) -> usize {
    k * n.next_multiple_of(panel_columns(path))
}

/// A matrix in memory: element `(i, j)` is `values[i * row_step + j * column_step]`.
#[derive(Clone, Copy, Debug)]
pub struct Grid<'a> {
    /// The numbers.
    pub values: &'a [f32],
    /// From a row to the next.
    pub row_step: usize,
    /// From a column to the next.
    pub column_step: usize,
}

impl<'a> Grid<'a> {
    /// A matrix whose rows lie one after the other, `row_step` apart.
    #[must_use]
    pub fn rows(values: &'a [f32], row_step: usize) -> Self {
        Self {
            values,
            row_step,
            column_step: 1,
        }
    }

    /// The transpose of [`Grid::rows`].
    #[must_use]
    pub fn transposed(values: &'a [f32], row_step: usize) -> Self {
        Self {
            values,
            row_step: 1,
            column_step: row_step,
        }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row_step + (columns - 1) * self.column_step < self.values.len()
    }
}

/// Packs columns `first ..` of a `k` row matrix into panels; `out` says how many.
///
/// `n` is the number of columns that the matrix has: the last panel is filled up with zeros.
pub fn pack(path: Path, source: Grid, k: usize, n: usize, first: usize, out: &mut [f32]) {
    let width = panel_columns(path);
    assert!(source.holds(k, n), "the matrix has k rows and n columns");
    assert!(k > 0 && out.len().is_multiple_of(k * width) && first.is_multiple_of(width));
    for (index, panel) in out.chunks_exact_mut(k * width).enumerate() {
        let start = first + index * width;
        let columns = width.min(n.saturating_sub(start));
        if columns < width {
            panel.fill(0.0);
        }
        if columns == 0 {
            continue;
        }
        if source.column_step == 1 {
            for (p, line) in panel.chunks_exact_mut(width).enumerate() {
                let from = p * source.row_step + start;
                line[..columns].copy_from_slice(&source.values[from..from + columns]);
            }
        } else {
            transpose(source, start, columns, k, width, panel);
        }
    }
}

/// Packs a panel of a matrix whose columns are contiguous, a few rows at a time so that both sides stay near.
fn transpose(
    source: Grid,
    start: usize,
    columns: usize,
    k: usize,
    width: usize,
    panel: &mut [f32],
) {
    const STRIP: usize = 16;
    assert!(source.row_step == 1, "one of the steps is 1");
    for p in (0..k).step_by(STRIP) {
        let strip = STRIP.min(k - p);
        for c in 0..columns {
            let from = (start + c) * source.column_step + p;
            let column = &source.values[from..from + strip];
            for (value, place) in column
                .iter()
                .zip(panel[p * width + c..].iter_mut().step_by(width))
            {
                *place = *value;
            }
        }
    }
}

/// Where a product starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Each chain from zero.
    Zero,
    /// Each chain from what the output holds: the product over a longer `k` that began there.
    Output,
}

/// The left side and the sizes of a product.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// `m` by `k`; one of its steps is 1.
    pub left: Grid<'a>,
    /// The right side, as [`pack`] lays it out: all its columns, of which the first `n` are computed.
    pub right: &'a [f32],
    /// Rows of the output.
    pub m: usize,
    /// Columns of the output.
    pub n: usize,
    /// Length of each chain.
    pub k: usize,
    /// Rows that the panels have: `k`, or more when only the first `k` are used.
    pub panel_rows: usize,
    /// Where each chain starts.
    pub start: Start,
    /// Columns left of this one are left alone, to whole panels: for half of a symmetric product.
    pub from_column: usize,
}

impl<'a> Product<'a> {
    /// A product of all of both sides, from zero.
    #[must_use]
    pub fn new(left: Grid<'a>, right: &'a [f32], m: usize, n: usize, k: usize) -> Self {
        Self {
            left,
            right,
            m,
            n,
            k,
            panel_rows: k,
            start: Start::Zero,
            from_column: 0,
        }
    }

    /// The same, going on from what the output holds.
    #[must_use]
    pub fn going_on(self) -> Self {
        Self {
            start: Start::Output,
            ..self
        }
    }
}

/// Computes a product into `out`, whose rows are `out_row` apart.
///
/// # Panics
/// When a slice is shorter than the sizes say.
pub fn multiply(path: Path, product: &Product, out: &mut [f32], out_row: usize) {
    let &Product {
        left,
        m,
        n,
        k,
        panel_rows,
        ..
    } = product;
    if m == 0 || n == 0 {
        return;
    }
    let shape = shape(path);
    assert!(
        k <= panel_rows && left.holds(m, k),
        "the left side is m by k"
    );
    assert!(
        left.row_step == 1 || left.column_step == 1,
        "one of the steps is 1"
    );
    assert!(
        product.right.len() >= packed_len(path, panel_rows, n),
        "the right side has n columns"
    );
    assert!(n <= out_row || m == 1, "rows of the output do not overlap");
    assert!((m - 1) * out_row + n <= out.len(), "the output is m by n");
    if k == 0 {
        if product.start == Start::Zero {
            out.chunks_mut(out_row)
                .take(m)
                .for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    // Tiles of nearly equal height, so that none is too low to hide the latency of its chains.
    let tiles = m.div_ceil(shape.rows);
    let k_block = if left.row_step == 1 {
        K_BLOCK_BY_COLUMNS
    } else {
        K_BLOCK
    };
    let first_column = product.from_column / shape.columns * shape.columns;
    for columns in (first_column..n).step_by(COLUMN_BLOCK) {
        let columns = columns..n.min(columns + COLUMN_BLOCK);
        for from in (0..k).step_by(k_block) {
            let to = k.min(from + k_block);
            for tile in 0..tiles {
                let rows = tile * m / tiles..(tile + 1) * m / tiles;
                for column in columns.clone().step_by(shape.columns) {
                    let tile = Tile {
                        rows: rows.len(),
                        columns: shape.columns.min(n - column),
                        k: to - from,
                        a: left.values[rows.start * left.row_step + from * left.column_step..]
                            .as_ptr(),
                        a_row: left.row_step,
                        a_step: left.column_step,
                        b: product.right[column * panel_rows + from * shape.columns..].as_ptr(),
                        c: out[rows.start * out_row + column..].as_mut_ptr(),
                        c_row: out_row,
                        goes_on: from > 0 || product.start == Start::Output,
                    };
                    // SAFETY: the assertions above bound every index that the tile makes.
                    unsafe { compute(path, &tile) };
                }
            }
        }
    }
}

/// # Safety
/// See [`Tile`]; its rows and columns are within the path's shape.
unsafe fn compute(path: Path, tile: &Tile) {
    // SAFETY: as promised to this function; a path exists only where the processor has its instructions.
    unsafe {
        match path.kind() {
            Kind::Scalar => tile::any::<FromDoubles, 4, 8>(tile),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => tile_x86::avx2(tile),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => tile_x86::avx512(tile),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => tile::any::<Fused, 8, 12>(tile),
        }
    }
}
