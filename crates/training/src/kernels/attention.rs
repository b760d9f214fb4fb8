//! Causal attention of one key-value head of one window, forward and backward (spec: training numerics, section 5.4).
//!
//! Scores are computed a block of queries at a time and not kept: the backward pass computes them again from the
//! largest score and the sum of each row.

use crate::kernels::dispatch::kernel;
use crate::kernels::functions::exp;
use crate::kernels::lanes::{dot, fold};
use crate::kernels::matmul::{Grid, Product, multiply, pack, packed_len};
use crate::kernels::rows::largest;
use crate::path::Path;

/// Queries whose scores are held at a time.
const BLOCK: usize = 56;
/// Queries of a block that are multiplied together, so that little is computed above the diagonal.
const STRIP: usize = 14;
/// Rows of scores are as long as the next multiple of this.
const ROW: usize = 16;

/// The sizes of the attention of one window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Tokens of the window.
    pub(crate) tokens: usize,
    /// Width of a head.
    pub(crate) head: usize,
    /// Floats from the queries, keys or values of a token to those of the next.
    pub(crate) row_step: usize,
    /// What scores are multiplied by.
    pub(crate) scale: f32,
}

impl Window {
    fn score_row(&self) -> usize {
        self.tokens.next_multiple_of(ROW)
    }

    /// Returns how many floats [`Scratch`] takes; it depends on the path.
    pub(crate) fn scratch_len(&self, path: Path) -> usize {
        let (t, h) = (self.tokens, self.head);
        2 * BLOCK * self.score_row()
            + 2 * packed_len(path, h, t)
            + 2 * packed_len(path, t, h)
            + 2 * packed_len(path, BLOCK, h)
            + BLOCK
    }
}

/// The room in which attention computes, cut from one slice.
struct Scratch<'a> {
    scores: &'a mut [f32],
    score_gradients: &'a mut [f32],
    keys_across: &'a mut [f32],
    values_across: &'a mut [f32],
    keys: &'a mut [f32],
    values: &'a mut [f32],
    queries_block: &'a mut [f32],
    gradients_block: &'a mut [f32],
    row_sums: &'a mut [f32],
}

impl<'a> Scratch<'a> {
    fn new(path: Path, window: &Window, floats: &'a mut [f32]) -> Self {
        let (t, h) = (window.tokens, window.head);
        let mut rest = floats;
        let mut cut = |len: usize| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(len);
            rest = tail;
            head
        };
        Self {
            scores: cut(BLOCK * window.score_row()),
            score_gradients: cut(BLOCK * window.score_row()),
            keys_across: cut(packed_len(path, h, t)),
            values_across: cut(packed_len(path, h, t)),
            keys: cut(packed_len(path, t, h)),
            values: cut(packed_len(path, t, h)),
            queries_block: cut(packed_len(path, BLOCK, h)),
            gradients_block: cut(packed_len(path, BLOCK, h)),
            row_sums: cut(BLOCK),
        }
    }
}

/// A query head's results of the forward pass, for one window.
pub(crate) struct Attended<'a> {
    /// `tokens` by `head`.
    pub(crate) out: &'a mut [f32],
    /// The largest scaled score of each row.
    pub(crate) top: &'a mut [f32],
    /// One over the sum of each row's exponentials.
    pub(crate) inverse: &'a mut [f32],
}

/// Computes a key-value head's group.
pub(crate) fn forward(
    path: Path,
    window: &Window,
    source: &Source,
    heads: &mut [Attended],
    scratch: &mut [f32],
) {
    let scratch = Scratch::new(path, window, scratch);
    let &Source { rows, columns } = source;
    let (t, h, step) = (window.tokens, window.head, window.row_step);
    let ld = window.score_row();
    pack(
        path,
        Grid::transposed(&rows[columns.key..], step),
        h,
        t,
        0,
        scratch.keys_across,
    );
    pack(
        path,
        Grid::rows(&rows[columns.value..], step),
        t,
        h,
        0,
        scratch.values,
    );
    for (index, head) in heads.iter_mut().enumerate() {
        let queries = &rows[columns.query + index * h..];
        for from in (0..t).step_by(BLOCK) {
            let to = t.min(from + BLOCK);
            scores(
                path,
                window,
                queries,
                scratch.keys_across,
                from..to,
                scratch.scores,
            );
            let (top, inverse) = (&mut head.top[from..to], &mut head.inverse[from..to]);
            softmax(path, scratch.scores, ld, from, window.scale, top, inverse);
            for start in (from..to).step_by(STRIP) {
                let end = to.min(start + STRIP);
                let left = Grid::rows(&scratch.scores[(start - from) * ld..], ld);
                let product = Product {
                    panel_rows: t,
                    ..Product::new(left, scratch.values, end - start, h, end)
                };
                multiply(path, &product, &mut head.out[start * h..end * h], h);
            }
            weigh(
                path,
                &mut head.out[from * h..to * h],
                h,
                &head.inverse[from..to],
            );
        }
    }
}

/// Rows of queries, keys and values, and where a group's columns start in them.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) columns: Columns,
}

/// Where a group's columns start in a row of queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    /// Of the first query head; the others of the group follow.
    pub(crate) query: usize,
    pub(crate) key: usize,
    pub(crate) value: usize,
}

/// Unscaled scores of the queries `block`, up to the diagonal of each strip.
fn scores(
    path: Path,
    window: &Window,
    left: &[f32],
    across: &[f32],
    block: std::ops::Range<usize>,
    out: &mut [f32],
) {
    let ld = window.score_row();
    for start in block.clone().step_by(STRIP) {
        let end = block.end.min(start + STRIP);
        let left = Grid::rows(&left[start * window.row_step..], window.row_step);
        let product = Product::new(left, across, end - start, end, window.head);
        multiply(path, &product, &mut out[(start - block.start) * ld..], ld);
    }
}

/// What the backward pass of one query head reads.
pub(crate) struct Kept<'a> {
    pub(crate) top: &'a [f32],
    pub(crate) inverse: &'a [f32],
}

/// What the backward pass of a group writes, each `tokens` by `head`.
pub(crate) struct Gradients<'a> {
    /// One for each query head.
    pub(crate) queries: Vec<&'a mut [f32]>,
    pub(crate) keys: &'a mut [f32],
    pub(crate) values: &'a mut [f32],
}

/// The rows that the backward pass of a group reads, `first` to each head's columns within them.
#[derive(Clone, Copy)]
pub(crate) struct Outputs<'a> {
    /// Outputs of attention.
    pub(crate) attended: &'a [f32],
    /// Gradients with respect to them.
    pub(crate) gradients: &'a [f32],
    /// Floats from a token to the next, in both.
    pub(crate) row_step: usize,
    /// Where the first head of the group starts.
    pub(crate) first: usize,
}

/// Backward of [`forward`]: gradients of keys and values are chains over the heads of the group, then queries.
pub(crate) fn backward(
    path: Path,
    window: &Window,
    source: &Source,
    outputs: &Outputs,
    kept: &[Kept],
    gradients: &mut Gradients,
    scratch: &mut [f32],
) {
    let mut s = Scratch::new(path, window, scratch);
    let &Source { rows, columns } = source;
    let (t, h, step) = (window.tokens, window.head, window.row_step);
    let (keys, values) = (&rows[columns.key..], &rows[columns.value..]);
    pack(path, Grid::transposed(keys, step), h, t, 0, s.keys_across);
    pack(
        path,
        Grid::transposed(values, step),
        h,
        t,
        0,
        s.values_across,
    );
    pack(path, Grid::rows(keys, step), t, h, 0, s.keys);
    gradients.keys.fill(0.0);
    gradients.values.fill(0.0);
    for (index, kept) in kept.iter().enumerate() {
        let head = Head {
            queries: &rows[columns.query + index * h..],
            attended: &outputs.attended[outputs.first + index * h..],
            gradients: &outputs.gradients[outputs.first + index * h..],
            row_step: outputs.row_step,
            kept,
        };
        for from in (0..t).step_by(BLOCK) {
            let block = from..t.min(from + BLOCK);
            let queries = &mut gradients.queries[index][block.start * h..block.end * h];
            score_gradients(path, window, &head, block.clone(), &mut s);
            query_gradients(path, window, block.clone(), &s, queries);
            key_value_gradients(
                path,
                window,
                &head,
                block,
                &mut s,
                gradients.keys,
                gradients.values,
            );
        }
    }
}

/// One query head of the backward pass.
struct Head<'a> {
    queries: &'a [f32],
    attended: &'a [f32],
    gradients: &'a [f32],
    row_step: usize,
    kept: &'a Kept<'a>,
}

/// Leaves probabilities in `scores` and the gradients of unscaled scores in `score_gradients`.
fn score_gradients(
    path: Path,
    window: &Window,
    head: &Head,
    block: std::ops::Range<usize>,
    s: &mut Scratch,
) {
    let ld = window.score_row();
    scores(
        path,
        window,
        head.queries,
        s.keys_across,
        block.clone(),
        s.scores,
    );
    let through = Window {
        row_step: head.row_step,
        ..*window
    };
    scores(
        path,
        &through,
        head.gradients,
        s.values_across,
        block.clone(),
        s.score_gradients,
    );
    let (top, inverse) = (
        &head.kept.top[block.clone()],
        &head.kept.inverse[block.clone()],
    );
    probabilities(path, s.scores, ld, block.start, window.scale, top, inverse);
    let first = block.start * head.row_step;
    let sums = &mut s.row_sums[..block.len()];
    row_dots(
        path,
        &head.gradients[first..],
        &head.attended[first..],
        head.row_step,
        window.head,
        sums,
    );
    softmax_backward(
        path,
        s.scores,
        s.score_gradients,
        ld,
        block.start,
        window.scale,
        sums,
    );
}

fn query_gradients(
    path: Path,
    window: &Window,
    block: std::ops::Range<usize>,
    s: &Scratch,
    out: &mut [f32],
) {
    let (ld, h) = (window.score_row(), window.head);
    for start in block.clone().step_by(STRIP) {
        let end = block.end.min(start + STRIP);
        let at = start - block.start;
        let product = Product {
            panel_rows: window.tokens,
            ..Product::new(
                Grid::rows(&s.score_gradients[at * ld..], ld),
                s.keys,
                end - start,
                h,
                end,
            )
        };
        multiply(path, &product, &mut out[at * h..(end - block.start) * h], h);
    }
}

fn key_value_gradients(
    path: Path,
    window: &Window,
    head: &Head,
    block: std::ops::Range<usize>,
    s: &mut Scratch,
    keys: &mut [f32],
    values: &mut [f32],
) {
    let (ld, h, rows) = (window.score_row(), window.head, block.len());
    let seen = block.end;
    let len = packed_len(path, rows, h);
    let queries = Grid::rows(
        &head.queries[block.start * window.row_step..],
        window.row_step,
    );
    let gradients = Grid::rows(
        &head.gradients[block.start * head.row_step..],
        head.row_step,
    );
    pack(path, queries, rows, h, 0, &mut s.queries_block[..len]);
    pack(path, gradients, rows, h, 0, &mut s.gradients_block[..len]);
    for (left, right, out) in [
        (&*s.scores, &*s.gradients_block, values),
        (&*s.score_gradients, &*s.queries_block, keys),
    ] {
        let product = Product::new(Grid::transposed(left, ld), right, seen, h, rows).going_on();
        multiply(path, &product, &mut out[..seen * h], h);
    }
}

kernel! {
    /// Turns scores into exponentials, row `i` up to column `first + i` and zero from there; one row for each of `top`.
    softmax<F>(
        scores: &mut [f32],
        row: usize,
        first: usize,
        scale: f32,
        top: &mut [f32],
        inverse: &mut [f32],
    ) {
        let end = (first + top.len()).next_multiple_of(ROW);
        for (i, ((line, top), inverse)) in scores.chunks_exact_mut(row).zip(top).zip(inverse).enumerate() {
            let seen = first + i + 1;
            let padded = seen.next_multiple_of(ROW);
            for z in &mut line[..padded] {
                *z *= scale;
            }
            line[seen..padded].fill(f32::NEG_INFINITY);
            let most = largest(&line[..padded]);
            for z in &mut line[..padded] {
                *z = exp::<F>(*z - most);
            }
            line[padded..end].fill(0.0);
            *top = most;
            *inverse = 1.0 / fold(&line[..padded], |x, lane| lane + x);
        }
    }
}

kernel! {
    /// Turns scores into probabilities, from what [`softmax`] found.
    probabilities<F>(scores: &mut [f32], row: usize, first: usize, scale: f32, top: &[f32], inverse: &[f32]) {
        let end = (first + top.len()).next_multiple_of(ROW);
        for (i, ((line, top), inverse)) in scores.chunks_exact_mut(row).zip(top).zip(inverse).enumerate() {
            let seen = first + i + 1;
            let padded = seen.next_multiple_of(ROW);
            for z in &mut line[..padded] {
                *z = exp::<F>(*z * scale - top) * inverse;
            }
            line[seen..end].fill(0.0);
        }
    }
}

kernel! {
    /// `gradients = (probabilities * (gradients - sum)) * scale` up to the diagonal, zero from there.
    softmax_backward<F>(
        scores: &[f32],
        gradients: &mut [f32],
        row: usize,
        first: usize,
        scale: f32,
        sums: &[f32],
    ) {
        let end = (first + sums.len()).next_multiple_of(ROW);
        let lines = scores.chunks_exact(row).zip(gradients.chunks_exact_mut(row)).zip(sums);
        for (i, ((p, d), sum)) in lines.enumerate() {
            let seen = first + i + 1;
            for (d, p) in d[..seen].iter_mut().zip(&p[..seen]) {
                *d = (p * (*d - sum)) * scale;
            }
            d[seen..end].fill(0.0);
        }
    }
}

kernel! {
    /// `out[i]`: the sum over a head of gradient times output.
    row_dots<F>(a: &[f32], b: &[f32], row_step: usize, head: usize, out: &mut [f32]) {
        for (i, out) in out.iter_mut().enumerate() {
            let at = i * row_step..i * row_step + head;
            *out = dot::<F>(&a[at.clone()], &b[at]);
        }
    }
}

kernel! {
    /// Multiplies row `i` by `inverse[i]`; the addition turns a negative zero into zero.
    weigh<F>(out: &mut [f32], head: usize, inverse: &[f32]) {
        for (row, inverse) in out.chunks_exact_mut(head).zip(inverse) {
            for x in row {
                *x = (*x + 0.0) * inverse;
            }
        }
    }
}
