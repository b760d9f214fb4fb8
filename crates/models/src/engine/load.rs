//! From a file and options to a model and figures that fit together.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use thiserror::Error;

use crate::backend::{self, OpenError};
use crate::scheduler::PIECE_TOKENS_MIN;

/// The engine's name, with the version of the bindings, which pins llama.cpp's own source.
const ENGINE: &str = "llama.cpp (llama-cpp-sys-2 0.1.161)";
/// The most sequences at the same time.
const SEQUENCES_MAX: u32 = 64;
/// The largest micro-batch.
const MICRO_BATCH_TOKENS_MAX: u32 = 4_096;
/// llama.cpp rounds the cells of a sequence up to a multiple of this.
const CELLS_MULTIPLE: u32 = 256;
/// The longest text that is embedded, in tokens.
const EMBEDDING_TOKENS_MAX: u32 = 2_048;

/// How a model is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Threads that compute.
    pub threads: u32,
    /// The longest prompt and answer together, in tokens; what the model was made for bounds it.
    /// Memory is taken for the keys and values of so many tokens for each of `sequences_max`.
    pub context_tokens: u32,
    /// Answers that are computed at the same time.
    pub sequences_max: u32,
    /// Answers that wait for a place.
    pub queue_max: u32,
    /// Tokens that are computed together at most.
    pub micro_batch_tokens: u32,
    /// Layers that a GPU computes; has no effect without a GPU backend.
    pub gpu_layers: u32,
}

impl Default for EngineOptions {
    /// All cores, four answers at a time, and everything on the GPU if there is one.
    fn default() -> Self {
        Self {
            threads: thread::available_parallelism().map_or(1, |count| count.get() as u32),
            context_tokens: 8_192,
            sequences_max: 4,
            queue_max: 64,
            micro_batch_tokens: 512,
            gpu_layers: u32::MAX,
        }
    }
}

/// Why a model cannot be run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file cannot be opened.
    #[error("the model cannot be loaded")]
    Open(#[from] OpenError),
    /// An option makes no sense.
    #[error("the option {name} must be from {min} to {max}")]
    Option {
        /// Its name.
        name: &'static str,
        /// The least it may be.
        min: u32,
        /// The most it may be.
        max: u32,
    },
    /// The context does not fit into memory.
    #[error(
        "the engine found no memory for {tokens} tokens: lower the number of answers or context_tokens"
    )]
    Memory {
        /// Tokens that were asked for, of all answers together.
        tokens: u32,
        /// What llama.cpp said.
        source: llama_cpp_2::LlamaContextLoadError,
    },
    /// No thread could be started.
    #[error("the engine's thread could not be started")]
    Thread(#[from] std::io::Error),
    /// The thread ended before it began.
    #[error("the engine's thread ended at once")]
    ThreadEnded,
}

/// What computes, and how: everything that may change the bits of the logits, and the bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineDescription {
    /// The engine and its version.
    pub engine: String,
    /// The class of backends: `cpu-avx2`, `cpu-neon`, `cuda`, `metal` or `vulkan`.
    pub backend: &'static str,
    /// How keys and values are kept.
    pub kv_type: &'static str,
    /// Whether attention is computed in the fused way.
    pub flash_attention: bool,
    /// Tokens that are computed together at most.
    pub micro_batch_tokens: u32,
    /// The longest prompt and answer together, in tokens.
    pub context_tokens: u32,
    /// Answers that are computed at the same time.
    pub sequences_max: u32,
    /// Tokens of the vocabulary.
    pub vocabulary_tokens: u32,
    /// Whether what two prompts share at their beginning is read once.
    pub reuses_prefixes: bool,
    /// The length of an embedding.
    pub embedding_length: u32,
}

/// Figures for the thread.
#[derive(Debug, Clone)]
pub(super) struct LoadPlan {
    pub(super) threads: i32,
    pub(super) sequences: u32,
    /// Tokens whose keys and values are kept, of all sequences together.
    pub(super) cells: u32,
    pub(super) forgets_ends: bool,
    pub(super) batch_tokens: u32,
    pub(super) embedding_tokens: u32,
    pub(super) description: EngineDescription,
}

/// The class of backends that this build computes with.
fn backend_class(gpu_layers: u32) -> &'static str {
    let metal = cfg!(feature = "metal") || cfg!(all(target_os = "macos", target_arch = "aarch64"));
    match gpu_layers {
        1.. if cfg!(feature = "cuda") => "cuda",
        1.. if cfg!(feature = "vulkan") => "vulkan",
        1.. if metal => "metal",
        _ if cfg!(target_arch = "aarch64") => "cpu-neon",
        _ => "cpu-avx2",
    }
}

pub(super) fn open(path: &Path, options: &EngineOptions) -> Result<Arc<LlamaModel>, LoadError> {
    let params = LlamaModelParams::default().with_n_gpu_layers(options.gpu_layers);
    Ok(Arc::new(backend::open(path, &params)?))
}

pub(super) fn plan(model: &LlamaModel, options: &EngineOptions) -> Result<LoadPlan, LoadError> {
    let within = |name, value: u32, min, max| {
        let sound = (min..=max).contains(&value);
        sound
            .then_some(value)
            .ok_or(LoadError::Option { name, min, max })
    };
    let threads = within("threads", options.threads, 1, 512)?;
    let sequences = within("sequences_max", options.sequences_max, 1, SEQUENCES_MAX)?;
    within("queue_max", options.queue_max, 0, 65_536)?;
    let least = 2 * PIECE_TOKENS_MIN + SEQUENCES_MAX;
    let most = MICRO_BATCH_TOKENS_MAX;
    let batch = within(
        "micro_batch_tokens",
        options.micro_batch_tokens,
        least,
        most,
    )?;
    let context = within("context_tokens", options.context_tokens, 16, 1 << 20)?;
    let context = context.min(model.n_ctx_train().max(16));
    let positive = |value: i32| u32::try_from(value).unwrap_or(0);
    let cells = context.next_multiple_of(CELLS_MULTIPLE) * sequences;
    // A recurrent state holds all that was read at once, and cannot be turned back.
    let forgets_ends = !model.is_recurrent() && !model.is_hybrid();
    Ok(LoadPlan {
        threads: threads as i32,
        sequences,
        cells,
        forgets_ends,
        batch_tokens: batch,
        embedding_tokens: context.min(EMBEDDING_TOKENS_MAX),
        description: EngineDescription {
            engine: ENGINE.to_owned(),
            backend: backend_class(options.gpu_layers),
            kv_type: "f16",
            flash_attention: false,
            micro_batch_tokens: batch,
            context_tokens: context,
            sequences_max: sequences,
            vocabulary_tokens: positive(model.n_vocab()),
            reuses_prefixes: forgets_ends,
            embedding_length: positive(model.n_embd_out()),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_is_told_is_the_one_that_is_built() {
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
        let lock = std::fs::read_to_string(lock).unwrap();
        let (_, after) = lock
            .split_once("name = \"llama-cpp-sys-2\"\nversion = \"")
            .unwrap();
        let (version, _) = after.split_once('"').unwrap();
        assert!(
            ENGINE.contains(&format!("llama-cpp-sys-2 {version})")),
            "{version}"
        );
        assert!(ENGINE.len() <= 64);
    }
}
