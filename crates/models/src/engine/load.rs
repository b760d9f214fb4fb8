//! From a file and options to a model and figures that fit together.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};
use thiserror::Error;

use crate::backend::{self, OpenError};
use crate::gpu::{self, Gpu};
use crate::scheduler::{GRID_TOKENS, PIECE_TOKENS_MIN};

/// The engine's name, with the version of the bindings, which pins llama.cpp's own source.
pub const ENGINE: &str = "llama.cpp (llama-cpp-sys-2 0.1.161)";
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
    /// The most layers that a GPU computes; fewer are where its memory holds no more. Has no effect without a GPU.
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
    #[error(transparent)]
    Open(#[from] OpenError),
    /// llama.cpp does not take the adapter.
    #[error("{path} is not an adapter of this model")]
    Adapter {
        /// The file.
        path: String,
        /// What llama.cpp said.
        source: llama_cpp_2::LlamaLoraAdapterInitError,
    },
    /// llama.cpp does not put the adapter over the model.
    #[error("the engine does not put the adapter over the model")]
    Adapting(#[from] llama_cpp_2::LlamaLoraAdapterSetError),
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
    /// The class of backends: `cpu-avx2`, `cpu-neon`, `cuda`, `metal` or `vulkan`. A model that is shared between a
    /// GPU and the processor is of the GPU's class.
    pub backend: &'static str,
    /// What computes, in words for the owner.
    pub runs_on: String,
    /// Layers of the model that a GPU computes, the output counted as one of them.
    pub gpu_layers: u32,
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

/// The class of backends that computes.
fn backend_class(gpus: &[Gpu], gpu_layers: u32) -> &'static str {
    match gpus.first() {
        Some(gpu) if gpu_layers > 0 => gpu.backend,
        _ if cfg!(target_arch = "aarch64") => "cpu-neon",
        _ => "cpu-avx2",
    }
}

/// What computes, in words; `layers` are those of the model, the output counted as one.
fn runs_on(gpus: &[Gpu], gpu_layers: u32, layers: u32) -> String {
    if gpus.is_empty() || gpu_layers == 0 {
        return "the processor".to_owned();
    }
    let names: Vec<&str> = gpus.iter().map(|gpu| gpu.name.as_str()).collect();
    let (names, backend) = (names.join(" and "), gpus[0].backend);
    if gpu_layers < layers {
        format!(
            "{names} by {backend}: {gpu_layers} of {layers} layers, the others on the processor"
        )
    } else {
        format!("{names} by {backend}")
    }
}

/// What a model is opened for. Where graphics processors have too little memory, [`Placement::fewer`] is tried next.
#[derive(Debug)]
pub(super) struct Placement {
    gpus: Vec<Gpu>,
    gpu_layers: u32,
}

impl Placement {
    /// As many layers on graphics processors as the options ask for.
    pub(super) fn first(options: &EngineOptions) -> Self {
        let gpus = if options.gpu_layers > 0 {
            gpu::gpus()
        } else {
            Vec::new()
        };
        let gpu_layers = if gpus.is_empty() {
            0
        } else {
            options.gpu_layers
        };
        Self { gpus, gpu_layers }
    }

    /// About a quarter of the model's layers fewer on graphics processors, if loading failed for a reason that this
    /// may mend; nothing when the processor has all of them already.
    ///
    /// llama.cpp does not say why a file could not be loaded, so whether it is a model at all is asked first: its
    /// vocabulary is read without the weights.
    pub(super) fn fewer(self, path: &Path, error: &LoadError) -> Option<Self> {
        let of_memory = matches!(
            error,
            LoadError::Open(OpenError::Unreadable { .. }) | LoadError::Memory { .. }
        );
        if self.gpu_layers == 0 || !of_memory {
            return None;
        }
        let head = params(0).ok()?.with_vocab_only(true);
        let layers = layers(&backend::open(path, &head).ok()?);
        let gpu_layers = fewer_layers(self.gpu_layers, layers);
        tracing::warn!(
            gpu_layers,
            layers,
            "the graphics processor has too little memory for the model: the processor computes the other layers"
        );
        Some(Self {
            gpus: self.gpus,
            gpu_layers,
        })
    }
}

/// About a quarter of `layers` fewer than `tried`, so that a few tries end at none.
fn fewer_layers(tried: u32, layers: u32) -> u32 {
    tried.min(layers).saturating_sub(layers.div_ceil(4).max(1))
}

/// The layers of a model that can be on a graphics processor: llama.cpp counts the output as one.
fn layers(model: &LlamaModel) -> u32 {
    let architecture = model.meta_val_str("general.architecture");
    let key = architecture.map(|name| format!("{name}.block_count"));
    let count = key.and_then(|key| model.meta_val_str(&key));
    count
        .ok()
        .and_then(|count| count.parse::<u32>().ok())
        .unwrap_or(0)
        .saturating_add(1)
}

pub(super) fn open(path: &Path, placement: &Placement) -> Result<Arc<LlamaModel>, LoadError> {
    let params = params(placement.gpu_layers)?;
    Ok(Arc::new(backend::open(path, &params)?))
}

/// Opens a model, and an adapter if there is one: that is to be done before a context is made, which reckons with it. The
/// adapter lives as long as the model.
pub(super) fn open_adapted(
    path: &Path,
    adapter: Option<&Path>,
    placement: &Placement,
) -> Result<(Arc<LlamaModel>, Option<LlamaLoraAdapter>), LoadError> {
    let Some(adapter) = adapter else {
        return Ok((open(path, placement)?, None));
    };
    let shown = adapter.display().to_string();
    if !adapter.is_file() {
        return Err(OpenError::Missing(shown).into());
    }
    let mut model = backend::open(path, &params(placement.gpu_layers)?)?;
    let opened = model.lora_adapter_init(adapter);
    let adapter = opened.map_err(|source| LoadError::Adapter {
        path: shown,
        source,
    })?;
    Ok((Arc::new(model), Some(adapter)))
}

/// How llama.cpp shall open a model. Without a layer on graphics processors they are left out altogether: otherwise it
/// computes large batches on them even so, and the bits would be neither of the processor's class nor of theirs.
fn params(gpu_layers: u32) -> Result<LlamaModelParams, OpenError> {
    let params = LlamaModelParams::default().with_n_gpu_layers(gpu_layers);
    if gpu_layers > 0 {
        return Ok(params);
    }
    backend::backend()?;
    params.with_devices(&[]).map_err(OpenError::Backend)
}

pub(super) fn plan(
    model: &LlamaModel,
    options: &EngineOptions,
    placement: &Placement,
) -> Result<LoadPlan, LoadError> {
    let within = |name, value: u32, min, max| {
        let sound = (min..=max).contains(&value);
        sound
            .then_some(value)
            .ok_or(LoadError::Option { name, min, max })
    };
    let threads = within("threads", options.threads, 1, 512)?;
    let sequences = within("sequences_max", options.sequences_max, 1, SEQUENCES_MAX)?;
    within("queue_max", options.queue_max, 0, 65_536)?;
    let least = GRID_TOKENS.max(2 * PIECE_TOKENS_MIN + SEQUENCES_MAX);
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
    let layers = layers(model);
    let gpu_layers = placement.gpu_layers.min(layers);
    Ok(LoadPlan {
        threads: threads as i32,
        sequences,
        cells,
        forgets_ends,
        batch_tokens: batch,
        embedding_tokens: context.min(EMBEDDING_TOKENS_MAX),
        description: EngineDescription {
            engine: ENGINE.to_owned(),
            backend: backend_class(&placement.gpus, gpu_layers),
            runs_on: runs_on(&placement.gpus, gpu_layers, layers),
            gpu_layers,
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

    fn gpu(name: &str) -> Gpu {
        Gpu {
            name: name.to_owned(),
            backend: "vulkan",
            memory_bytes: 8 << 30,
            memory_free_bytes: 7 << 30,
            integrated: false,
        }
    }

    #[test]
    fn what_computes_is_what_is_there_and_not_what_was_built() {
        let processor = backend_class(&[], 0);
        assert!(processor.starts_with("cpu-"), "{processor}");
        // A build for a GPU on a machine without one, and a GPU that holds no layer.
        assert_eq!(backend_class(&[], 31), processor);
        assert_eq!(backend_class(&[gpu("one")], 0), processor);
        assert_eq!(backend_class(&[gpu("one")], 1), "vulkan");
    }

    #[test]
    fn the_owner_is_told_what_computes() {
        assert_eq!(runs_on(&[], 0, 31), "the processor");
        assert_eq!(runs_on(&[gpu("one")], 0, 31), "the processor");
        assert_eq!(runs_on(&[gpu("one")], 31, 31), "one by vulkan");
        let both = [gpu("one"), gpu("two")];
        assert_eq!(
            runs_on(&both, 23, 31),
            "one and two by vulkan: 23 of 31 layers, the others on the processor"
        );
    }

    #[test]
    fn a_few_tries_end_with_no_layer_on_a_gpu() {
        for layers in [1, 2, 3, 4, 31, 32, 33, 65] {
            let (mut tried, mut tries) = (u32::MAX, 0);
            while tried > 0 {
                let next = fewer_layers(tried, layers);
                assert!(next < tried, "{next} of {layers} after {tried}");
                (tried, tries) = (next, tries + 1);
            }
            assert!(tries <= 4, "{tries} tries for {layers} layers");
        }
        assert_eq!(fewer_layers(u32::MAX, 31), 23);
        assert_eq!(fewer_layers(10, 31), 2);
    }
}
