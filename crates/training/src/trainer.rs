//! Steps of training: weights and windows of tokens in, new weights, a loss log and a state hash out.

use std::fmt;
use std::sync::Arc;

use crate::adapter::AdapterLayout;
use crate::crew::Crew;
use crate::kernels::lanes::sum_long;
use crate::kernels::rows::add_to;
use crate::layout::{Layout, Tensors};
use crate::memory::Memory;
use crate::model::{self, Buffers, Extent, Model, Parameters, Passage, Rope, Trained};
use crate::optimizer::{self, Moments, Optimizer, OptimizerError};
use crate::path::Path;
use crate::weights::Weights;

/// Settings of a training that do not depend on the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Training {
    /// Tokens of a window that are read; as many are foretold.
    pub tokens: usize,
    /// Windows of a step.
    pub windows: usize,
    /// Windows that are computed together: fewer take less memory, and give the same bits.
    pub windows_together: usize,
    /// What turns gradients into weights.
    pub optimizer: Optimizer,
    /// Gradients are scaled down to this global norm.
    pub clip_norm: f32,
    /// Threads that compute; any number gives the same bits.
    pub threads: usize,
    /// Instructions that compute; any path gives the same bits.
    pub path: Path,
}

/// A training cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A size is zero or too large.
    #[error("{what} is {value}, which is not in 1..={most}")]
    Size {
        /// The setting.
        what: &'static str,
        /// What it is.
        value: usize,
        /// The most that is taken.
        most: usize,
    },
    /// The clipping norm is not a positive number.
    #[error("clip_norm is {0}, which is not above 0 and finite")]
    ClipNorm(f32),
    /// A setting of the optimizer is out of bounds.
    #[error("the optimizer cannot be used")]
    Optimizer(#[source] OptimizerError),
    /// The weights are those of other tensors.
    #[error("the weights are not of this layout")]
    Weights,
    /// The moments are those of another optimizer or other tensors, or not finite.
    #[error("the moments are not of this optimizer and these tensors")]
    Moments,
    /// Something in this process made threads flush subnormal numbers, or round otherwise than to nearest.
    #[error(
        "threads of this process do not compute as IEEE 754 says: results could not be replayed"
    )]
    Arithmetic,
    /// Threads did not start.
    #[error("threads did not start")]
    Threads(#[source] rayon::ThreadPoolBuildError),
}

/// Tokens of some windows: each `tokens + 1` long, one after the other.
pub type Batch<'a> = &'a [u32];

/// A batch is not one of this training.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchError {
    /// It has the wrong number of tokens.
    #[error("the batch has {found} tokens, not {wanted}")]
    Length {
        /// Its tokens.
        found: usize,
        /// The tokens of a step.
        wanted: usize,
    },
    /// A token is not in the vocabulary.
    #[error("token {token} at {index} is not in a vocabulary of {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// Its place in the batch.
        index: usize,
        /// Tokens that exist.
        vocabulary: usize,
    },
}

/// A step was not taken; weights are as they were before it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The batch is not one of this training.
    #[error("the batch cannot be trained on")]
    Batch(#[source] BatchError),
    /// Something in this process made threads flush subnormal numbers, or round otherwise than to nearest.
    #[error(
        "threads of this process do not compute as IEEE 754 says: results could not be replayed"
    )]
    Arithmetic,
    /// The loss, a gradient or a weight is infinite or not a number: the training diverged.
    #[error("step {step} diverged: loss {loss}, gradient norm {gradient_norm}")]
    Diverged {
        /// The step, from 1.
        step: u64,
        /// Its loss.
        loss: f32,
        /// The norm of its gradients.
        gradient_norm: f32,
    },
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLog {
    /// The step, from 1, counted over all rounds whose moments were carried.
    pub step: u64,
    /// Mean cross entropy of the batch before the step, in nats a token.
    pub loss: f32,
    /// Norm of all gradients, before clipping.
    pub gradient_norm: f32,
    /// Learning rate of the step.
    pub rate: f64,
}

/// BLAKE3 of what a training is at a step: everything on which later steps depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateHash(pub [u8; 32]);

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// What some steps gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// One for each step.
    pub log: Vec<StepLog>,
    /// The state after the last.
    pub state: StateHash,
}

/// Separates the hash of a state from all other hashes.
const STATE_DOMAIN: &str = "hearth training state f32-fma/1";
/// Bounds of [`Training`].
const MOST_WINDOWS: usize = 1 << 16;
const MOST_THREADS: usize = 1_024;
/// What the norm is increased by before gradients are divided by it.
const CLIP_EPSILON: f32 = 1e-6;
/// Rows of an embedding that one task adds gradients to.
const EMBEDDING_ROWS: usize = 512;

/// A model in training.
pub struct Trainer {
    model: Model,
    training: Training,
    weights: Weights,
    /// Trained over frozen weights.
    adapter: Option<Weights>,
    gradient: Vec<f32>,
    moments: Moments,
    buffers: Buffers,
    inputs: Vec<u32>,
    targets: Vec<u32>,
    losses: Vec<f32>,
    /// Gradients of the embedding's rows for every token of a step; empty with an adapter.
    embedding_rows: Vec<f32>,
}

fn check(layout: &Layout, training: &Training) -> Result<(), StartError> {
    let sizes = [
        ("tokens", training.tokens, layout.architecture().context),
        ("windows", training.windows, MOST_WINDOWS),
        (
            "windows_together",
            training.windows_together,
            training.windows,
        ),
        ("threads", training.threads, MOST_THREADS),
    ];
    for (what, value, most) in sizes {
        if value == 0 || value > most {
            return Err(StartError::Size { what, value, most });
        }
    }
    if !(training.clip_norm > 0.0 && training.clip_norm.is_finite()) {
        return Err(StartError::ClipNorm(training.clip_norm));
    }
    training.optimizer.check().map_err(StartError::Optimizer)
}

fn extent<'a>(
    layout: &'a Layout,
    adapter: Option<&'a AdapterLayout>,
    training: &Training,
) -> Extent<'a> {
    Extent {
        layout,
        adapter,
        path: training.path,
        rows: training.windows_together * training.tokens,
    }
}

fn scratch_floats(layout: &Layout, trained: &Tensors, training: &Training) -> usize {
    let passes = model::scratch_floats(layout, training.path, training.tokens);
    let optimizer = training.optimizer.scratch_floats(training.path, trained);
    passes.max(optimizer)
}

impl Trainer {
    /// Returns the memory that a training takes, without taking it.
    ///
    /// # Errors
    /// When a setting is out of bounds.
    pub fn memory(
        layout: &Layout,
        adapter: Option<&AdapterLayout>,
        training: &Training,
    ) -> Result<Memory, StartError> {
        check(layout, training)?;
        let trained = adapter.map_or(layout.tensors(), |adapter| adapter.tensors());
        let mut room = 0;
        let mut count = |floats: usize| {
            room += floats;
            Vec::new()
        };
        Buffers::new(&extent(layout, adapter, training), &mut count);
        let a = layout.architecture();
        let tokens = training.tokens * training.windows;
        let rows = if adapter.is_some() {
            0
        } else {
            tokens * a.width
        };
        let of_step = tokens + rows + 2 * training.windows_together * training.tokens;
        let floats = |count: usize| count as u64 * 4;
        let weights = layout.tensors().len() + adapter.map_or(0, |adapter| adapter.tensors().len());
        let moments = trained.len() + training.optimizer.second_len(trained);
        let threads = training.threads * scratch_floats(layout, trained, training);
        Ok(Memory {
            weights_bytes: floats(weights),
            gradients_bytes: floats(trained.len()),
            optimizer_bytes: floats(moments),
            activations_bytes: floats(room + of_step + Rope::floats(training.tokens, a.head)),
            threads_bytes: floats(threads),
        })
    }

    /// Starts to train all weights of a model.
    ///
    /// It takes what [`Self::memory`] says at once: a caller refuses before that what does not fit.
    ///
    /// # Errors
    /// When a setting is out of bounds, or the weights are of another layout.
    pub fn start(
        layout: &Arc<Layout>,
        weights: Weights,
        training: Training,
    ) -> Result<Self, StartError> {
        Self::new(layout, weights, None, training)
    }

    /// Starts to train an adapter over frozen weights.
    ///
    /// # Errors
    /// When a setting is out of bounds, or the weights are of other layouts.
    pub fn start_adapter(
        layout: &Arc<Layout>,
        weights: Weights,
        adapter: (&Arc<AdapterLayout>, Weights),
        training: Training,
    ) -> Result<Self, StartError> {
        Self::new(layout, weights, Some(adapter), training)
    }

    fn new(
        layout: &Arc<Layout>,
        weights: Weights,
        adapter: Option<(&Arc<AdapterLayout>, Weights)>,
        training: Training,
    ) -> Result<Self, StartError> {
        check(layout, &training)?;
        let (adapter_layout, adapter) = adapter.map_or((None, None), |(l, w)| (Some(l), Some(w)));
        let right = |weights: &Weights, tensors: &Tensors| **weights.tensors() == *tensors;
        let adapter_right = match (adapter_layout, &adapter) {
            (Some(layout), Some(weights)) => right(weights, layout.tensors()),
            _ => true,
        };
        if !right(&weights, layout.tensors()) || !adapter_right {
            return Err(StartError::Weights);
        }
        let trained = adapter.as_ref().unwrap_or(&weights).tensors();
        let scratch = scratch_floats(layout, trained, &training);
        let crew = Crew::new(training.threads, scratch).map_err(StartError::Threads)?;
        if !crew.computes_as_standard() {
            return Err(StartError::Arithmetic);
        }
        let a = layout.architecture();
        let mut take = |floats: usize| vec![0.0f32; floats];
        let extent = extent(layout, adapter_layout.map(|layout| &**layout), &training);
        let step_tokens = training.tokens * training.windows;
        let embedding_floats = if adapter.is_some() {
            0
        } else {
            step_tokens * a.width
        };
        Ok(Self {
            buffers: Buffers::new(&extent, &mut take),
            gradient: vec![0.0; trained.len()],
            moments: Moments::none(&training.optimizer, trained),
            inputs: Vec::with_capacity(extent.rows),
            targets: Vec::with_capacity(extent.rows),
            losses: Vec::with_capacity(step_tokens),
            embedding_rows: vec![0.0; embedding_floats],
            model: Model {
                layout: Arc::clone(layout),
                adapter: adapter_layout.map(Arc::clone),
                path: training.path,
                tokens: training.tokens,
                crew,
                rope: Rope::new(training.tokens, a.head, a.rope_theta),
            },
            weights,
            adapter,
            training,
        })
    }

    /// Returns the settings.
    #[must_use]
    pub fn training(&self) -> &Training {
        &self.training
    }

    /// Returns the weights of the model: those in training, or those under the adapter.
    #[must_use]
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Returns the adapter in training.
    #[must_use]
    pub fn adapter(&self) -> Option<&Weights> {
        self.adapter.as_ref()
    }

    /// Returns what is trained: the adapter, or else the model.
    #[must_use]
    pub fn trained(&self) -> &Weights {
        self.adapter.as_ref().unwrap_or(&self.weights)
    }

    /// Ends the training and gives what was trained.
    #[must_use]
    pub fn into_trained(self) -> Weights {
        self.adapter.unwrap_or(self.weights)
    }

    /// Returns what the optimizer remembers, to be carried into the next round.
    #[must_use]
    pub fn moments(&self) -> &Moments {
        &self.moments
    }

    /// Starts the next round: other weights in training, and moments that were carried, or none.
    ///
    /// # Errors
    /// When either is of another training; then nothing has changed.
    pub fn begin_round(
        &mut self,
        trained: Weights,
        moments: Option<Moments>,
    ) -> Result<(), StartError> {
        let optimizer = &self.training.optimizer;
        let tensors = self.trained().tensors();
        if trained.tensors() != tensors {
            return Err(StartError::Weights);
        }
        let moments = moments.unwrap_or_else(|| Moments::none(optimizer, tensors));
        if !moments.fit(optimizer, tensors) {
            return Err(StartError::Moments);
        }
        self.moments = moments;
        *self.adapter.as_mut().unwrap_or(&mut self.weights) = trained;
        Ok(())
    }

    /// Returns the gradient of the last step or [`Self::gradient_of`], before clipping.
    #[must_use]
    pub fn gradient(&self) -> &[f32] {
        &self.gradient
    }

    /// Trains on batches, a step each.
    ///
    /// # Errors
    /// When a batch is not one of this training, or the training diverges; the steps before it were taken.
    pub fn run<'a>(
        &mut self,
        batches: impl IntoIterator<Item = Batch<'a>>,
    ) -> Result<Progress, StepError> {
        let mut log = Vec::new();
        for batch in batches {
            log.push(self.step(batch)?);
        }
        // Steps look at their losses and gradients; what the last one made is looked at here.
        if let Some(last) = log.last()
            && !self.is_finite()
        {
            return Err(StepError::Diverged {
                step: last.step,
                loss: last.loss,
                gradient_norm: last.gradient_norm,
            });
        }
        let state = self.state_hash();
        Ok(Progress { log, state })
    }

    fn is_finite(&self) -> bool {
        let parts = [
            self.trained().values(),
            &self.moments.first,
            &self.moments.second,
        ];
        parts
            .iter()
            .all(|part| part.iter().all(|value| value.is_finite()))
    }

    /// Trains on one batch.
    ///
    /// # Errors
    /// When the batch is not one of this training, or the loss or a gradient is not finite.
    pub fn step(&mut self, batch: Batch) -> Result<StepLog, StepError> {
        let step = self.moments.steps + 1;
        if !self.model.crew.computes_as_standard() {
            return Err(StepError::Arithmetic);
        }
        let loss = self.gradient_of(batch).map_err(StepError::Batch)?;
        let Self {
            model,
            training,
            weights,
            adapter,
            gradient,
            moments,
            ..
        } = self;
        let trained = adapter.as_mut().unwrap_or(weights);
        let tensors = Arc::clone(trained.tensors());
        let path = model.path;
        let norm = optimizer::global_norm(path, &model.crew, &tensors, gradient);
        if !loss.is_finite() || !norm.is_finite() {
            return Err(StepError::Diverged {
                step,
                loss,
                gradient_norm: norm,
            });
        }
        let clip = training.clip_norm / (norm + CLIP_EPSILON);
        let clip = if clip < 1.0 { clip } else { 1.0 };
        let how = optimizer::Step {
            optimizer: &training.optimizer,
            path,
            crew: &model.crew,
            tensors: &tensors,
            clip,
        };
        optimizer::step(&how, trained.values_mut(), gradient, moments);
        Ok(StepLog {
            step,
            loss,
            gradient_norm: norm,
            rate: training.optimizer.rate(step),
        })
    }

    /// Computes the loss and the gradient of a batch, and changes no weight.
    ///
    /// # Errors
    /// When the batch is not one of this training.
    pub fn gradient_of(&mut self, batch: Batch) -> Result<f32, BatchError> {
        self.check_batch(batch, self.training.windows)?;
        self.gradient.fill(0.0);
        self.losses.clear();
        let weight = 1.0 / (self.training.windows * self.training.tokens) as f32;
        let window = self.training.tokens + 1;
        for windows in batch.chunks(self.training.windows_together * window) {
            self.load(windows);
            self.pass(weight);
        }
        if self.adapter.is_none() {
            self.add_embedding_rows(batch);
        }
        Ok(sum_long(self.model.path, &self.losses) / self.losses.len() as f32)
    }

    /// Computes the mean loss of any number of windows, without training on them.
    ///
    /// # Errors
    /// When they are not whole windows of tokens that exist.
    pub fn loss_of(&mut self, windows: Batch) -> Result<f32, BatchError> {
        let window = self.training.tokens + 1;
        let count = (windows.len() / window).max(1);
        self.check_batch(windows, count)?;
        self.losses.clear();
        for windows in windows.chunks(self.training.windows_together * window) {
            self.load(windows);
            let passage = Passage {
                inputs: &self.inputs,
                targets: &self.targets,
                weight: 1.0,
            };
            let parameters = parameters(&self.weights, self.adapter.as_ref());
            self.model
                .forward(parameters, &self.inputs, &mut self.buffers);
            self.model
                .head(parameters, passage, &mut self.buffers, None);
            let losses = &self.buffers.head.losses[..self.inputs.len()];
            self.losses.extend_from_slice(losses);
        }
        Ok(sum_long(self.model.path, &self.losses) / self.losses.len() as f32)
    }

    /// Computes the logits of every token of one window: `tokens` rows, as wide as the vocabulary.
    ///
    /// What follows a token does not change its row, so a shorter text may be filled up with any token.
    ///
    /// # Errors
    /// When it is not a window of [`Training::tokens`] tokens that exist.
    pub fn logits_of(&mut self, window: Batch) -> Result<Vec<f32>, BatchError> {
        self.check_tokens(window, self.training.tokens)?;
        let parameters = parameters(&self.weights, self.adapter.as_ref());
        self.model.forward(parameters, window, &mut self.buffers);
        Ok(self
            .model
            .all_logits(parameters, window.len(), &mut self.buffers))
    }

    fn check_batch(&self, batch: Batch, windows: usize) -> Result<(), BatchError> {
        self.check_tokens(batch, windows * (self.training.tokens + 1))
    }

    fn check_tokens(&self, batch: Batch, wanted: usize) -> Result<(), BatchError> {
        if batch.len() != wanted {
            let found = batch.len();
            return Err(BatchError::Length { found, wanted });
        }
        let vocabulary = self.model.layout.architecture().vocabulary;
        match batch.iter().position(|token| *token as usize >= vocabulary) {
            None => Ok(()),
            Some(index) => Err(BatchError::Token {
                token: batch[index],
                index,
                vocabulary,
            }),
        }
    }

    /// Splits windows into what is read and what is foretold.
    fn load(&mut self, windows: &[u32]) {
        self.inputs.clear();
        self.targets.clear();
        for window in windows.chunks_exact(self.training.tokens + 1) {
            self.inputs.extend_from_slice(&window[..window.len() - 1]);
            self.targets.extend_from_slice(&window[1..]);
        }
    }

    fn pass(&mut self, weight: f32) {
        let passage = Passage {
            inputs: &self.inputs,
            targets: &self.targets,
            weight,
        };
        let parameters = parameters(&self.weights, self.adapter.as_ref());
        let trained = match self.adapter {
            None => Trained::Model(&mut self.gradient),
            Some(_) => Trained::Adapter(&mut self.gradient),
        };
        self.model
            .learn(parameters, passage, &mut self.buffers, trained);
        let done = self.losses.len();
        let n = self.inputs.len();
        self.losses
            .extend_from_slice(&self.buffers.head.losses[..n]);
        if self.adapter.is_none() {
            let width = self.model.layout.architecture().width;
            let rows = &mut self.embedding_rows[done * width..(done + n) * width];
            rows.copy_from_slice(&self.buffers.shared.out[..n * width]);
        }
    }

    /// Adds each token's row to the embedding's gradient, in the order of tokens.
    fn add_embedding_rows(&mut self, batch: Batch) {
        let width = self.model.layout.architecture().width;
        let window = self.training.tokens + 1;
        let gradient = &mut self.gradient[self.model.layout.embedding.clone()];
        let tasks: Vec<_> = gradient
            .chunks_mut(EMBEDDING_ROWS * width)
            .enumerate()
            .collect();
        let rows = &self.embedding_rows;
        let path = self.model.path;
        self.model.crew.each(tasks, |(index, part), _| {
            let first = index * EMBEDDING_ROWS;
            let inputs = batch
                .chunks_exact(window)
                .flat_map(|window| &window[..window.len() - 1]);
            for (token, row) in inputs.zip(rows.chunks_exact(width)) {
                let place = (*token as usize).wrapping_sub(first);
                if place < part.len() / width {
                    add_to(path, &mut part[place * width..(place + 1) * width], row);
                }
            }
        });
    }

    /// Returns the hash of the state: steps, weights in training, and moments, as little-endian bytes.
    #[must_use]
    pub fn state_hash(&self) -> StateHash {
        let mut hasher = blake3::Hasher::new_derive_key(STATE_DOMAIN);
        hasher.update(&self.moments.steps.to_le_bytes());
        let parts = [
            self.trained().values(),
            &self.moments.first,
            &self.moments.second,
        ];
        let mut bytes = Vec::with_capacity(HASH_FLOATS * 4);
        for values in parts {
            hasher.update(&(values.len() as u64).to_le_bytes());
            for some in values.chunks(HASH_FLOATS) {
                bytes.clear();
                bytes.extend(some.iter().flat_map(|value| value.to_le_bytes()));
                hasher.update(&bytes);
            }
        }
        StateHash(*hasher.finalize().as_bytes())
    }
}

/// Floats that are turned into bytes at a time.
const HASH_FLOATS: usize = 1 << 14;

fn parameters<'a>(weights: &'a Weights, adapter: Option<&'a Weights>) -> Parameters<'a> {
    Parameters {
        model: weights.values(),
        adapter: adapter.map_or(&[], Weights::values),
    }
}
