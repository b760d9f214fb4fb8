//! The four products of a layer with its weights, each with the adapters of its parts.
//!
//! Queries, keys and values are one product, and so are gate and up: their matrices lie one after the other.

use crate::adapter::Target;
use crate::kernels::matmul::{Grid, Product, multiply, pack, packed_len, panel_columns};
use crate::kernels::rows::scale;
use crate::model::{Model, Parameters};
use crate::path::Path;

/// One of the products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Qkv,
    Output,
    GateUp,
    Down,
}

impl Which {
    pub(crate) const ALL: [Self; 4] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down];

    fn targets(self) -> &'static [Target] {
        match self {
            Self::Qkv => &[Target::Query, Target::Key, Target::Value],
            Self::Output => &[Target::Output],
            Self::GateUp => &[Target::Gate, Target::Up],
            Self::Down => &[Target::Down],
        }
    }
}

/// An adapted part of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Its place among the adapted matrices of the layer.
    pub(crate) index: usize,
    /// Where its columns start in a row of outputs.
    pub(crate) first: usize,
    pub(crate) columns: usize,
}

/// The sizes of a product: inputs to outputs, with its adapted parts.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) which: Which,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) parts: Vec<Part>,
    pub(crate) rank: usize,
    pub(crate) factor: f32,
}

impl Linear {
    pub(crate) fn new(model: &Model, which: Which) -> Self {
        Self::sized(&model.layout, model.adapter.as_deref(), which)
    }

    pub(crate) fn sized(
        layout: &crate::layout::Layout,
        adapter: Option<&crate::adapter::AdapterLayout>,
        which: Which,
    ) -> Self {
        let a = layout.architecture();
        let (mut outputs, mut inputs, mut parts) = (0, 0, Vec::new());
        for &target in which.targets() {
            let (rows, columns) = a.shape_of(target);
            let adapted = adapter.map_or(&[][..], |adapter| &adapter.layers[0]);
            if let Some(index) = adapted.iter().position(|spans| spans.target == target) {
                parts.push(Part {
                    index,
                    first: outputs,
                    columns: rows,
                });
            }
            (outputs, inputs) = (outputs + rows, columns);
        }
        Self {
            which,
            inputs,
            outputs,
            parts,
            rank: adapter.map_or(0, |adapter| adapter.adapter().rank),
            factor: adapter.map_or(0.0, crate::adapter::AdapterLayout::factor),
        }
    }

    /// Width of a row of what the adapters' first matrices give.
    pub(crate) fn low_width(&self) -> usize {
        self.parts.len() * self.rank
    }

    fn matrix<'a>(&self, model: &Model, layer: usize, parameters: Parameters<'a>) -> &'a [f32] {
        let spans = &model.layout.layers[layer];
        let range = match self.which {
            Which::Qkv => &spans.qkv,
            Which::Output => &spans.output,
            Which::GateUp => &spans.gate_up,
            Which::Down => &spans.down,
        };
        &parameters.model[range.clone()]
    }
}

/// Packed weights of a layer, for one direction at a time.
#[derive(Debug, Default)]
pub(crate) struct PackedLinear {
    pub(crate) matrix: Vec<f32>,
    /// For each adapted part its two matrices.
    pub(crate) parts: Vec<(Vec<f32>, Vec<f32>)>,
}

impl PackedLinear {
    /// Room for either direction.
    pub(crate) fn new(
        linear: &Linear,
        path: Path,
        take: &mut dyn FnMut(usize) -> Vec<f32>,
    ) -> Self {
        let either = |k, n| packed_len(path, k, n).max(packed_len(path, n, k));
        Self {
            matrix: take(either(linear.inputs, linear.outputs)),
            parts: linear
                .parts
                .iter()
                .map(|part| {
                    (
                        take(either(linear.inputs, linear.rank)),
                        take(either(linear.rank, part.columns)),
                    )
                })
                .collect(),
        }
    }
}

/// Which way weights are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Inputs to outputs.
    Forward,
    /// Gradients of outputs to those of inputs.
    Backward,
}

/// A few panels to pack.
pub(crate) struct PackTask<'a> {
    source: Grid<'a>,
    k: usize,
    n: usize,
    first: usize,
    out: &'a mut [f32],
}

impl PackTask<'_> {
    pub(crate) fn run(self, path: Path) {
        pack(path, self.source, self.k, self.n, self.first, self.out);
    }
}

/// Floats that one task packs, at least.
const PACK_FLOATS: usize = 1 << 15;

/// Splits the packing of a matrix of `k` rows and `n` columns into tasks.
pub(crate) fn push_pack<'a>(
    tasks: &mut Vec<PackTask<'a>>,
    path: Path,
    source: Grid<'a>,
    (k, n): (usize, usize),
    out: &'a mut [f32],
) {
    let width = panel_columns(path);
    let panels = (PACK_FLOATS / (k * width)).max(1);
    let out = &mut out[..packed_len(path, k, n)];
    for (index, out) in out.chunks_mut(panels * k * width).enumerate() {
        tasks.push(PackTask {
            source,
            k,
            n,
            first: index * panels * width,
            out,
        });
    }
}

/// Packs the weights of a layer for a direction.
pub(crate) fn pack_layer(
    model: &Model,
    layer: usize,
    parameters: Parameters,
    direction: Direction,
    packed: &mut [PackedLinear; 4],
) {
    let mut tasks = Vec::new();
    for (which, packed) in Which::ALL.into_iter().zip(packed) {
        let linear = Linear::new(model, which);
        let mut push = |values, outputs: usize, inputs: usize, out| {
            let (source, sizes) = match direction {
                Direction::Forward => (Grid::transposed(values, inputs), (inputs, outputs)),
                Direction::Backward => (Grid::rows(values, inputs), (outputs, inputs)),
            };
            push_pack(&mut tasks, model.path, source, sizes, out);
        };
        let matrix = linear.matrix(model, layer, parameters);
        push(matrix, linear.outputs, linear.inputs, &mut packed.matrix);
        for (part, (a, b)) in linear.parts.iter().zip(&mut packed.parts) {
            let adapter = model.adapter.as_ref().expect("only adapters have parts");
            let spans = &adapter.layers[layer][part.index];
            push(
                &parameters.adapter[spans.a.clone()],
                linear.rank,
                linear.inputs,
                a,
            );
            push(
                &parameters.adapter[spans.b.clone()],
                part.columns,
                linear.rank,
                b,
            );
        }
    }
    let path = model.path;
    model.crew.each(tasks, |task, _| task.run(path));
}

/// Multiplies rows with the weights; `low` keeps what the adapters' first matrices gave, times the factor.
pub(crate) fn forward(
    path: Path,
    linear: &Linear,
    packed: &PackedLinear,
    x: &[f32],
    low: &mut [f32],
    out: &mut [f32],
) {
    let (k, n, rank, low_row) = (
        linear.inputs,
        linear.outputs,
        linear.rank,
        linear.low_width(),
    );
    let rows = out.len() / n;
    let x = Grid::rows(x, k);
    multiply(path, &Product::new(x, &packed.matrix, rows, n, k), out, n);
    for (index, (part, (a, b))) in linear.parts.iter().zip(&packed.parts).enumerate() {
        let at = index * rank;
        multiply(
            path,
            &Product::new(x, a, rows, rank, k),
            &mut low[at..],
            low_row,
        );
        for row in low.chunks_exact_mut(low_row) {
            scale(path, &mut row[at..at + rank], linear.factor);
        }
        let product = Product::new(Grid::rows(&low[at..], low_row), b, rows, part.columns, rank);
        multiply(path, &product.going_on(), &mut out[part.first..], n);
    }
}

/// Multiplies gradients of outputs back; `low` gets the gradients of what the adapters' first matrices gave.
pub(crate) fn backward(
    path: Path,
    linear: &Linear,
    packed: &PackedLinear,
    dy: &[f32],
    low: &mut [f32],
    dx: &mut [f32],
) {
    let (k, n, rank, low_row) = (
        linear.outputs,
        linear.inputs,
        linear.rank,
        linear.low_width(),
    );
    let rows = dx.len() / n;
    multiply(
        path,
        &Product::new(Grid::rows(dy, k), &packed.matrix, rows, n, k),
        dx,
        n,
    );
    for (index, (part, (a, b))) in linear.parts.iter().zip(&packed.parts).enumerate() {
        let at = index * rank;
        let dy = Grid::rows(&dy[part.first..], k);
        let product = Product::new(dy, b, rows, rank, part.columns);
        multiply(path, &product, &mut low[at..], low_row);
        for row in low.chunks_exact_mut(low_row) {
            scale(path, &mut row[at..at + rank], linear.factor);
        }
        let product = Product::new(Grid::rows(&low[at..], low_row), a, rows, n, rank);
        multiply(path, &product.going_on(), dx, n);
    }
}
