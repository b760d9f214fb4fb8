//! Gradients of weights: products over all tokens, whose chains go on from pass to pass.

use crate::kernels::matmul::{Grid, Product as KernelProduct, multiply};
use crate::kernels::rows::norm_gain;
use crate::model::Model;

/// `out += left^T right` over the tokens: `left` has a row for each token, `right` is packed.
pub(crate) struct Product<'a> {
    pub(crate) left: &'a [f32],
    pub(crate) left_row: usize,
    pub(crate) right: &'a [f32],
    /// Columns of the gradient.
    pub(crate) columns: usize,
    /// As many rows as it has, from the first column of `left` on.
    pub(crate) out: &'a mut [f32],
}

/// The gradient of a norm's gain.
pub(crate) struct Gain<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) inverse: &'a [f32],
    pub(crate) gradient: &'a [f32],
    pub(crate) out: &'a mut [f32],
}

enum Task<'a> {
    Product {
        left: &'a [f32],
        left_row: usize,
        right: &'a [f32],
        columns: usize,
        out: &'a mut [f32],
    },
    Gain {
        x: &'a [f32],
        inverse: &'a [f32],
        gradient: &'a [f32],
        width: usize,
        first: usize,
        out: &'a mut [f32],
    },
}

/// Rows of a gradient that a task computes at most and at least: many use each panel of inputs well, few let threads
/// share the work.
const MOST_ROWS: usize = 112;
const LEAST_ROWS: usize = 28;
/// Columns of a gain that a task sums at least.
const GAIN_COLUMNS: usize = 64;

/// Goes on with gradients over `n` tokens.
pub(crate) fn accumulate(model: &Model, n: usize, products: Vec<Product>, gains: Vec<Gain>) {
    let mut tasks = Vec::new();
    for product in products {
        let rows = product.out.len() / product.columns;
        let count = rows
            .div_ceil(MOST_ROWS)
            .next_multiple_of(model.crew.threads());
        let each = rows.div_ceil(count).max(LEAST_ROWS);
        let out = product.out.chunks_mut(each * product.columns);
        tasks.extend(out.enumerate().map(|(index, out)| Task::Product {
            left: &product.left[index * each..],
            left_row: product.left_row,
            right: product.right,
            columns: product.columns,
            out,
        }));
    }
    for gain in gains {
        let width = gain.out.len();
        let out = gain.out.chunks_mut(GAIN_COLUMNS);
        tasks.extend(out.enumerate().map(|(index, out)| Task::Gain {
            x: &gain.x[..n * width],
            inverse: &gain.inverse[..n],
            gradient: &gain.gradient[..n * width],
            width,
            first: index * GAIN_COLUMNS,
            out,
        }));
    }
    let path = model.path;
    model.crew.each(tasks, |task, _| match task {
        Task::Product {
            left,
            left_row,
            right,
            columns,
            out,
        } => {
            let left = Grid::transposed(left, left_row);
            let product = KernelProduct::new(left, right, out.len() / columns, columns, n);
            multiply(path, &product.going_on(), out, columns);
        }
        Task::Gain {
            x,
            inverse,
            gradient,
            width,
            first,
            out,
        } => norm_gain(path, x, gradient, inverse, width, first, out),
    });
}
