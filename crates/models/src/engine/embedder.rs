//! Embeddings: a context of its own, made when the first one is asked for.
//!
//! A text is read one micro-batch at a time, so that answers go on between. The mean over all of
//! its tokens is taken here rather than in llama.cpp, which takes it over one micro-batch only.

use std::num::NonZeroU32;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaPoolingType;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};
use llama_cpp_2::token::LlamaToken;

use super::load::LoadPlan;
use super::shared::Embedding;
use super::{EmbedError, worker};

pub(super) struct Embedder<'model> {
    context: LlamaContext<'model>,
    batch_tokens: usize,
    current: Option<Current>,
}

struct Current {
    task: Embedding,
    read: usize,
    sum: Vec<f64>,
}

impl<'model> Embedder<'model> {
    pub(super) fn new(
        model: &'model LlamaModel,
        plan: &LoadPlan,
        adapter: Option<&mut LlamaLoraAdapter>,
    ) -> Result<Self, EmbedError> {
        let failed = |error: String| EmbedError::Failed(error);
        let params = worker::context_params(plan)
            .with_n_ctx(NonZeroU32::new(plan.embedding_tokens))
            .with_n_seq_max(1)
            .with_embeddings(true)
            .with_pooling_type(LlamaPoolingType::None);
        let backend = crate::backend::backend().map_err(|error| failed(error.to_string()))?;
        let context = model.new_context(backend, params);
        let mut context = context.map_err(|error| failed(error.to_string()))?;
        worker::adapt(&mut context, adapter).map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            context,
            batch_tokens: plan.batch_tokens as usize,
            current: None,
        })
    }

    /// Whether a text is being read.
    pub(super) fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    pub(super) fn begin(&mut self, task: Embedding) {
        self.context.clear_kv_cache();
        self.current = Some(Current {
            task,
            read: 0,
            sum: Vec::new(),
        });
    }

    /// Reads the next micro-batch.
    pub(super) fn step(&mut self) {
        let Some(mut current) = self.current.take() else {
            return;
        };
        if current.task.done.is_closed() {
            return;
        }
        match self.read(&mut current) {
            Ok(false) => self.current = Some(current),
            Ok(true) => {
                let _ = current.task.done.send(Ok(unit(&current.sum)));
            }
            Err(error) => {
                let _ = current.task.done.send(Err(EmbedError::Failed(error)));
            }
        }
    }

    /// Reads a part of a text, and says whether it was the last.
    fn read(&mut self, current: &mut Current) -> Result<bool, String> {
        let ids = &current.task.ids;
        let end = ids.len().min(current.read + self.batch_tokens);
        let mut batch = LlamaBatch::new(end - current.read, 1);
        for (position, id) in ids.iter().enumerate().take(end).skip(current.read) {
            let token = LlamaToken(*id as i32);
            let added = batch.add(token, position as i32, &[0], true);
            added.map_err(|error| error.to_string())?;
        }
        let decoded = self.context.decode(&mut batch);
        decoded.map_err(|error| error.to_string())?;
        for row in 0..batch.n_tokens() {
            let row = self.context.embeddings_ith(row);
            let row = row.map_err(|error| error.to_string())?;
            current.sum.resize(row.len(), 0.0);
            for (sum, value) in current.sum.iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
        }
        current.read = end;
        Ok(end == ids.len())
    }
}

/// The vector of length one in the same direction.
fn unit(sum: &[f64]) -> Vec<f32> {
    let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    sum.iter().map(|value| (value * scale) as f32).collect()
}
