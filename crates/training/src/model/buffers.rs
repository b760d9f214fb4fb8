//! The room of both passes, in one place, so that its size is known before it is taken.

use crate::adapter::AdapterLayout;
use crate::kernels::matmul::packed_len;
use crate::layout::Layout;
use crate::model::linear::{Linear, PackedLinear, Which};
use crate::path::Path;

/// Gives room for so many floats: the allocator, or a counter that gives none.
pub(crate) type Take<'a> = &'a mut dyn FnMut(usize) -> Vec<f32>;

/// What a layer keeps for its backward pass, a row for each token.
pub(crate) struct Kept {
    /// What came in.
    pub(crate) x: Vec<f32>,
    pub(crate) x_inverse: Vec<f32>,
    /// Queries and keys after they were turned, and values.
    pub(crate) qkv: Vec<f32>,
    /// For each window, query head and token.
    pub(crate) top: Vec<f32>,
    pub(crate) inverse: Vec<f32>,
    pub(crate) attended: Vec<f32>,
    /// Between attention and the feed-forward block.
    pub(crate) middle: Vec<f32>,
    pub(crate) middle_inverse: Vec<f32>,
    /// Becomes its own gradient.
    pub(crate) gate_up: Vec<f32>,
    /// For each product, what the adapters' first matrices gave.
    pub(crate) low: [Vec<f32>; 4],
}

/// Gradients and other room that layers share.
pub(crate) struct Shared {
    /// Attention's outputs, or its gradients, head after head.
    pub(crate) by_head: Vec<f32>,
    /// Gradient of what goes out of a layer, and of what comes in.
    pub(crate) out: Vec<f32>,
    pub(crate) into: Vec<f32>,
    pub(crate) middle: Vec<f32>,
    pub(crate) attended: Vec<f32>,
    pub(crate) qkv: Vec<f32>,
    /// What the two norms gave, and its gradient.
    pub(crate) normed: [Vec<f32>; 2],
    pub(crate) normed_gradients: [Vec<f32>; 2],
    /// Inside the feed-forward block.
    pub(crate) hidden: Vec<f32>,
    /// Gradients of what the adapters' first matrices gave.
    pub(crate) low: [Vec<f32>; 4],
    /// Inputs of the four products, packed for the gradients of their weights.
    pub(crate) inputs_packed: [Vec<f32>; 4],
    pub(crate) low_packed: [Vec<f32>; 4],
}

/// Room of the output head, for some rows at a time.
pub(crate) struct HeadRoom {
    pub(crate) rows: usize,
    pub(crate) logits: Vec<f32>,
    pub(crate) forward: Vec<f32>,
    pub(crate) backward: Vec<f32>,
    pub(crate) inputs_packed: Vec<f32>,
    pub(crate) normed: Vec<f32>,
    pub(crate) normed_gradients: Vec<f32>,
    pub(crate) inverse: Vec<f32>,
    pub(crate) losses: Vec<f32>,
}

/// All room of a pass.
pub(crate) struct Buffers {
    pub(crate) kept: Vec<Kept>,
    /// What the last layer gave.
    pub(crate) last: Vec<f32>,
    pub(crate) shared: Shared,
    pub(crate) packed: [PackedLinear; 4],
    pub(crate) head: HeadRoom,
}

/// Logits that are held at a time, unless a few rows are more.
const LOGITS: usize = 1 << 24;
/// Rows of logits that are held at least.
const LEAST_LOGIT_ROWS: usize = 64;

/// The sizes on which room depends.
#[derive(Clone, Copy)]
pub(crate) struct Extent<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) adapter: Option<&'a AdapterLayout>,
    pub(crate) path: Path,
    /// Tokens of all windows of a pass.
    pub(crate) rows: usize,
}

impl Extent<'_> {
    fn linears(&self) -> [Linear; 4] {
        Which::ALL.map(|which| Linear::sized(self.layout, self.adapter, which))
    }
}

impl Buffers {
    pub(crate) fn new(extent: &Extent, take: Take) -> Self {
        let linears = extent.linears();
        let a = extent.layout.architecture();
        let kept = (0..a.layers).map(|_| Kept::new(extent, &linears, take));
        Self {
            kept: kept.collect(),
            last: take(extent.rows * a.width),
            shared: Shared::new(extent, &linears, take),
            packed: linears
                .each_ref()
                .map(|linear| PackedLinear::new(linear, extent.path, take)),
            head: HeadRoom::new(extent, take),
        }
    }
}

impl Kept {
    fn new(extent: &Extent, linears: &[Linear; 4], take: Take) -> Self {
        let (a, n) = (extent.layout.architecture(), extent.rows);
        Self {
            x: take(n * a.width),
            x_inverse: take(n),
            qkv: take(n * a.qkv_width()),
            top: take(n * a.query_heads),
            inverse: take(n * a.query_heads),
            attended: take(n * a.query_width()),
            middle: take(n * a.width),
            middle_inverse: take(n),
            gate_up: take(n * 2 * a.hidden),
            low: linears
                .each_ref()
                .map(|linear| take(n * linear.low_width())),
        }
    }
}

impl Shared {
    fn new(extent: &Extent, linears: &[Linear; 4], take: Take) -> Self {
        let (a, n) = (extent.layout.architecture(), extent.rows);
        Self {
            by_head: take(n * a.qkv_width()),
            out: take(n * a.width),
            into: take(n * a.width),
            middle: take(n * a.width),
            attended: take(n * a.query_width()),
            qkv: take(n * a.qkv_width()),
            normed: [(); 2].map(|()| take(n * a.width)),
            normed_gradients: [(); 2].map(|()| take(n * a.width)),
            hidden: take(n * a.hidden),
            low: linears
                .each_ref()
                .map(|linear| take(n * linear.low_width())),
            inputs_packed: linears
                .each_ref()
                .map(|linear| take(packed_len(extent.path, n, linear.inputs))),
            low_packed: linears
                .each_ref()
                .map(|linear| take(linear.parts.len() * packed_len(extent.path, n, linear.rank))),
        }
    }
}

impl HeadRoom {
    fn new(extent: &Extent, take: Take) -> Self {
        let (a, n) = (extent.layout.architecture(), extent.rows);
        let rows = (LOGITS / a.vocabulary).max(LEAST_LOGIT_ROWS).min(n);
        Self {
            rows,
            logits: take(rows * a.vocabulary),
            forward: take(packed_len(extent.path, a.width, a.vocabulary)),
            backward: take(packed_len(extent.path, a.vocabulary, a.width)),
            inputs_packed: take(packed_len(extent.path, rows, a.width)),
            normed: take(n * a.width),
            normed_gradients: take(n * a.width),
            inverse: take(n),
            losses: take(n),
        }
    }
}

/// How rows are split into tasks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    rows: usize,
    /// Rows of a block; the last may have fewer.
    pub(crate) each: usize,
    count: usize,
}

impl Blocks {
    pub(crate) fn new(rows: usize, each: usize) -> Self {
        let each = each.max(1);
        Self {
            rows,
            each,
            count: rows.div_ceil(each),
        }
    }

    /// Returns the blocks of rows of `width` floats.
    pub(crate) fn of(self, values: &[f32], width: usize) -> impl Iterator<Item = &[f32]> {
        (0..self.count).map(move |index| {
            let end = self.rows.min((index + 1) * self.each);
            &values[index * self.each * width..end * width]
        })
    }

    /// The same, to be written.
    pub(crate) fn of_mut(
        self,
        values: &mut [f32],
        width: usize,
    ) -> impl Iterator<Item = &mut [f32]> {
        let mut rest = &mut values[..self.rows * width];
        (0..self.count).map(move |index| {
            let rows = self.each.min(self.rows - index * self.each);
            let (block, tail) = std::mem::take(&mut rest).split_at_mut(rows * width);
            rest = tail;
            block
        })
    }
}
