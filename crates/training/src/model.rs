//! Forward and backward pass of a model on a few windows at a time.
//!
//! The passes are phases of tasks: each task owns the rows, or the part of a gradient, that it writes. A layer keeps what
//! its backward pass cannot cheaply compute again; everything else is shared by all layers.

mod backward;
mod buffers;
mod forward;
mod gradients;
mod head;
mod linear;
mod rope;

use std::sync::Arc;

use crate::adapter::AdapterLayout;
use crate::crew::Crew;
use crate::kernels::attention::Window;
use crate::layout::Layout;
use crate::path::Path;

pub(crate) use backward::Trained;
pub(crate) use buffers::{Buffers, Extent};
pub(crate) use rope::Rope;

/// Rows of activations that a task computes: few enough to stay near, many enough to use a panel well.
pub(crate) const ROWS: usize = 112;

/// What does not change while a model trains.
pub(crate) struct Model {
    pub(crate) layout: Arc<Layout>,
    pub(crate) adapter: Option<Arc<AdapterLayout>>,
    pub(crate) path: Path,
    /// Tokens of a window.
    pub(crate) tokens: usize,
    pub(crate) crew: Crew,
    pub(crate) rope: Rope,
}

/// Weights that a pass reads.
#[derive(Clone, Copy)]
pub(crate) struct Parameters<'a> {
    pub(crate) model: &'a [f32],
    /// Empty without an adapter.
    pub(crate) adapter: &'a [f32],
}

/// A layer of a pass over `n` tokens.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) layer: usize,
    pub(crate) parameters: Parameters<'a>,
    pub(crate) n: usize,
}

/// Tokens of some windows: those read and those to be foretold, window after window.
#[derive(Clone, Copy)]
pub(crate) struct Passage<'a> {
    pub(crate) inputs: &'a [u32],
    pub(crate) targets: &'a [u32],
    /// One over the tokens of the step.
    pub(crate) weight: f32,
}

impl Model {
    fn window(&self) -> Window {
        let a = self.layout.architecture();
        Window {
            tokens: self.tokens,
            head: a.head,
            row_step: a.qkv_width(),
            scale: 1.0 / (a.head as f32).sqrt(),
        }
    }
}

/// Returns the floats that each thread computes in.
pub(crate) fn scratch_floats(layout: &Layout, path: Path, tokens: usize) -> usize {
    let a = layout.architecture();
    let window = Window {
        tokens,
        head: a.head,
        row_step: 0,
        scale: 0.0,
    };
    let rows = ROWS * (2 * a.width + a.hidden);
    rows.max(window.scratch_len(path))
}
