//! A few tokens of a model, for a process that may break where they cannot be computed.

use std::num::NonZeroU32;
use std::path::Path;

use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use super::embedder::Embedder;
use super::load::{self, EngineOptions, LoadError, LoadPlan, Placement};
use super::worker::context_params;
use crate::backend::OpenError;

/// The shortest context that the engine takes: nothing is kept.
const CONTEXT_TOKENS: u32 = 16;

/// Loads the model in a file, makes the contexts that the engine makes, and computes two tokens one after the other.
///
/// # Errors
/// Why it does not run, in words.
pub(crate) fn run(path: &Path) -> Result<(), String> {
    let options = EngineOptions {
        threads: 1,
        context_tokens: CONTEXT_TOKENS,
        sequences_max: 1,
        queue_max: 0,
        gpu_layers: 0,
        ..EngineOptions::default()
    };
    let placement = Placement::first(&options);
    let told = |error: LoadError| match error {
        // The caller adds the path.
        LoadError::Open(OpenError::Unreadable { source, .. }) => {
            format!("the engine cannot load it ({source})")
        }
        error => error.to_string(),
    };
    let model = load::open(path, &placement).map_err(told)?;
    let plan = load::plan(&model, &options, &placement).map_err(told)?;
    compute(&model, &plan)?;
    // Not every model embeds; a request for an embedding is then refused.
    drop(Embedder::new(&model, &plan, None));
    Ok(())
}

fn compute(model: &LlamaModel, plan: &LoadPlan) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let params = context_params(plan)
        .with_n_ctx(NonZeroU32::new(plan.cells))
        .with_n_seq_max(plan.sequences);
    let backend = crate::backend::backend().map_err(|error| told(&error))?;
    let context = model.new_context(backend, params);
    let mut context = context.map_err(|error| told(&error))?;
    let last = plan.description.vocabulary_tokens.saturating_sub(1) as i32;
    for (position, token) in [0, last].into_iter().enumerate() {
        let mut batch = LlamaBatch::new(1, 1);
        let added = batch.add(LlamaToken(token), position as i32, &[0], true);
        added.map_err(|error| told(&error))?;
        context.decode(&mut batch).map_err(|error| told(&error))?;
    }
    Ok(())
}
