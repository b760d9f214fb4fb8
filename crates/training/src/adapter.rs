//! Low-rank adapters over a frozen model (Hu and others, arXiv 2106.09685).

use std::ops::Range;
use std::sync::Arc;

use crate::layout::{Fill, Layout, Role, Tensors};

/// A matrix of a layer that an adapter changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// The output of attention.
    Output,
    /// The gate of the feed-forward block.
    Gate,
    /// What the gate is multiplied with.
    Up,
    /// The output of the feed-forward block.
    Down,
}

impl Target {
    /// Every target, in the order in which their tensors lie.
    pub const ALL: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// Returns its name in `peft`'s configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    fn block(self) -> &'static str {
        match self {
            Self::Query | Self::Key | Self::Value | Self::Output => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        }
    }
}

/// What an adapter is: the product `W x` becomes `W x + B ((alpha / rank) A x)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Rows of `A`.
    pub rank: usize,
    /// Numerator of the factor.
    pub alpha: f32,
    /// Which matrices have one, in every layer.
    pub targets: Vec<Target>,
}

/// The adapter is not one that can be trained here.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum AdapterError {
    /// The rank is zero or too large.
    #[error("rank is {0}, which is not in 1..={MOST_RANK}")]
    Rank(usize),
    /// `alpha` is not a positive number.
    #[error("alpha is {0}, which is not above 0 and at most 1e6")]
    Alpha(f32),
    /// No target, or one of them twice.
    #[error("targets must name at least one matrix, and none twice")]
    Targets,
}

const MOST_RANK: usize = 1_024;

/// One adapted matrix of a layer.
#[derive(Clone, Debug)]
pub(crate) struct AdaptedSpans {
    pub(crate) target: Target,
    /// `rank` by the matrix's columns.
    pub(crate) a: Range<usize>,
    /// The matrix's rows by `rank`.
    pub(crate) b: Range<usize>,
}

/// Where the tensors of an adapter lie.
#[derive(Clone, Debug)]
pub struct AdapterLayout {
    adapter: Adapter,
    tensors: Arc<Tensors>,
    /// For each layer, in the order of [`Target::ALL`].
    pub(crate) layers: Vec<Vec<AdaptedSpans>>,
}

impl AdapterLayout {
    /// Lays out an adapter of a model.
    ///
    /// # Errors
    /// When the rank, alpha or the targets are out of bounds.
    pub fn new(model: &Layout, adapter: Adapter) -> Result<Self, AdapterError> {
        if adapter.rank == 0 || adapter.rank > MOST_RANK {
            return Err(AdapterError::Rank(adapter.rank));
        }
        if !(adapter.alpha > 0.0 && adapter.alpha <= 1e6) {
            return Err(AdapterError::Alpha(adapter.alpha));
        }
        let mut targets = adapter.targets.clone();
        targets.sort_unstable();
        targets.dedup();
        if targets.is_empty() || targets.len() != adapter.targets.len() {
            return Err(AdapterError::Targets);
        }
        let architecture = model.architecture();
        let mut tensors = Tensors::default();
        let layers = (0..architecture.layers).map(|layer| {
            let adapted = targets.iter().map(|&target| {
                let (rows, columns) = architecture.shape_of(target);
                let mut push = |side: &str, shape, fill| {
                    let (block, matrix) = (target.block(), target.name());
                    let name = format!(
                        "base_model.model.model.layers.{layer}.{block}.{matrix}.lora_{side}.weight"
                    );
                    tensors.push(name, shape, Role::Matrix, fill)
                };
                let bound = Fill::Even(1.0 / (columns as f32).sqrt());
                let a = push("A", (adapter.rank, columns), bound);
                let b = push("B", (rows, adapter.rank), Fill::Zero);
                AdaptedSpans { target, a, b }
            });
            adapted.collect()
        });
        let layers = layers.collect();
        Ok(Self {
            adapter,
            tensors: Arc::new(tensors),
            layers,
        })
    }

    /// Returns what it lays out.
    #[must_use]
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Returns its tensors.
    #[must_use]
    pub fn tensors(&self) -> &Arc<Tensors> {
        &self.tensors
    }

    pub(crate) fn factor(&self) -> f32 {
        self.adapter.alpha / self.adapter.rank as f32
    }
}

impl crate::architecture::Architecture {
    /// Returns rows and columns of a target.
    pub(crate) fn shape_of(&self, target: Target) -> (usize, usize) {
        match target {
            Target::Query => (self.query_width(), self.width),
            Target::Key | Target::Value => (self.key_width(), self.width),
            Target::Output => (self.width, self.query_width()),
            Target::Gate | Target::Up => (self.hidden, self.width),
            Target::Down => (self.width, self.hidden),
        }
    }
}
