//! Where each tensor of a model lies in one long vector of weights, in the order of its state hash.

use std::ops::Range;
use std::sync::Arc;

use crate::architecture::{Architecture, ArchitectureError};

/// What a tensor is to an optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A row for each token.
    Embedding,
    /// The output head, where it is not the embedding.
    Head,
    /// The gain of a norm.
    Norm,
    /// A matrix inside a layer, which Muon may turn.
    Matrix,
}

/// How a tensor is filled at first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fill {
    /// Evenly between minus and plus this bound.
    Even(f32),
    One,
    Zero,
}

/// One tensor of a model or an adapter: `rows` by `columns`, row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name in safetensors files, as `transformers` and `peft` write it.
    pub name: String,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// What it is to an optimizer.
    pub role: Role,
    /// Where it starts.
    pub offset: usize,
    pub(crate) fill: Fill,
}

impl Tensor {
    /// Returns where its numbers lie.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.rows * self.columns
    }

    /// Returns its shape in a file: a vector has one dimension.
    #[must_use]
    pub fn shape(&self) -> Vec<usize> {
        match self.role {
            Role::Norm => vec![self.columns],
            _ => vec![self.rows, self.columns],
        }
    }
}

/// Tensors, one after the other without gaps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensors {
    list: Vec<Tensor>,
    len: usize,
}

impl Tensors {
    /// Returns them in order.
    #[must_use]
    pub fn list(&self) -> &[Tensor] {
        &self.list
    }

    /// Returns how many numbers they hold together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no tensor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(
        &mut self,
        name: String,
        (rows, columns): (usize, usize),
        role: Role,
        fill: Fill,
    ) -> Range<usize> {
        let tensor = Tensor {
            name,
            rows,
            columns,
            role,
            offset: self.len,
            fill,
        };
        let range = tensor.range();
        self.len = range.end;
        self.list.push(tensor);
        range
    }
}

/// Where the tensors of a layer lie; queries, keys and values follow each other, and so do gate and up.
#[derive(Clone, Debug)]
pub(crate) struct LayerSpans {
    pub(crate) attention_norm: Range<usize>,
    pub(crate) qkv: Range<usize>,
    pub(crate) output: Range<usize>,
    pub(crate) hidden_norm: Range<usize>,
    pub(crate) gate_up: Range<usize>,
    pub(crate) down: Range<usize>,
}

/// A checked architecture and where its tensors lie.
#[derive(Clone, Debug)]
pub struct Layout {
    architecture: Architecture,
    tensors: Arc<Tensors>,
    pub(crate) embedding: Range<usize>,
    pub(crate) layers: Vec<LayerSpans>,
    pub(crate) final_norm: Range<usize>,
    pub(crate) head: Range<usize>,
}

/// The usual deviation of fresh weights.
const DEVIATION: f32 = 0.02;

impl Layout {
    /// Lays out a model.
    ///
    /// # Errors
    /// When a size is out of bounds, or sizes do not fit each other.
    pub fn new(architecture: Architecture) -> Result<Self, ArchitectureError> {
        architecture.check()?;
        let a = &architecture;
        let mut tensors = Tensors::default();
        // Even numbers between -b and b deviate by b / sqrt 3.
        let even = Fill::Even(DEVIATION * 3.0f32.sqrt());
        let depth = (2.0 * a.layers as f32).sqrt();
        let residual = Fill::Even(DEVIATION * 3.0f32.sqrt() / depth);
        let vocabulary = (a.vocabulary, a.width);
        let name = "model.embed_tokens.weight".to_owned();
        let embedding = tensors.push(name, vocabulary, Role::Embedding, even);
        let layers = (0..a.layers)
            .map(|index| Self::layer(a, index, even, residual, &mut tensors))
            .collect();
        let name = "model.norm.weight".to_owned();
        let final_norm = tensors.push(name, (1, a.width), Role::Norm, Fill::One);
        let head = if a.tied_head {
            embedding.clone()
        } else {
            tensors.push("lm_head.weight".to_owned(), vocabulary, Role::Head, even)
        };
        Ok(Self {
            architecture,
            tensors: Arc::new(tensors),
            embedding,
            layers,
            final_norm,
            head,
        })
    }

    fn layer(
        a: &Architecture,
        index: usize,
        even: Fill,
        residual: Fill,
        tensors: &mut Tensors,
    ) -> LayerSpans {
        let (d, q, kv, f) = (a.width, a.query_width(), a.key_width(), a.hidden);
        let mut push = |name: &str, shape: (usize, usize), fill: Fill| {
            let role = if shape.0 == 1 && fill == Fill::One {
                Role::Norm
            } else {
                Role::Matrix
            };
            let name = format!("model.layers.{index}.{name}.weight");
            tensors.push(name, shape, role, fill)
        };
        let attention_norm = push("input_layernorm", (1, d), Fill::One);
        let queries = push("self_attn.q_proj", (q, d), even);
        push("self_attn.k_proj", (kv, d), even);
        let values = push("self_attn.v_proj", (kv, d), even);
        let output = push("self_attn.o_proj", (d, q), residual);
        let hidden_norm = push("post_attention_layernorm", (1, d), Fill::One);
        let gate = push("mlp.gate_proj", (f, d), even);
        let up = push("mlp.up_proj", (f, d), even);
        let down = push("mlp.down_proj", (d, f), residual);
        LayerSpans {
            attention_norm,
            qkv: queries.start..values.end,
            output,
            hidden_norm,
            gate_up: gate.start..up.end,
            down,
        }
    }

    /// Returns the architecture.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Returns its tensors.
    #[must_use]
    pub fn tensors(&self) -> &Arc<Tensors> {
        &self.tensors
    }
}
