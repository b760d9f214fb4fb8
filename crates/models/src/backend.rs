//! The one instance of llama.cpp that a process has.
//!
//! Its messages go to `tracing` when someone listens to them at the level of debugging, and
//! nowhere otherwise: never to the terminal of whoever runs a device.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::{LogOptions, send_logs_to_tracing};
use thiserror::Error;

/// Why a model file could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such file.
    #[error("there is no model file at {0}")]
    Missing(String),
    /// llama.cpp does not take the file.
    #[error(
        "{path} is not a model that this engine can read: fetch it again, or choose another model"
    )]
    Unreadable {
        /// The file.
        path: String,
        /// What llama.cpp said.
        source: llama_cpp_2::LlamaModelLoadError,
    },
    /// What it says makes no model that can be used.
    #[error("{path} cannot be used as a model: {reason}")]
    Refused {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// Reading its head broke the process that does so, or took too much.
    #[error(
        "{path} breaks what reads models ({how}): it is damaged, or was made to do so; fetch it again, or choose \
         another model"
    )]
    Broken {
        /// The file.
        path: String,
        /// What happened.
        how: String,
    },
    /// The process that reads models could not be started.
    #[error("the process that reads models could not be started ({0}): try again")]
    Reader(String),
    /// llama.cpp itself did not start.
    #[error("the engine could not be started")]
    Backend(#[source] llama_cpp_2::LlamaCppError),
}

/// llama.cpp, started on the first call.
pub(crate) fn backend() -> Result<&'static LlamaBackend, OpenError> {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let _guard = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(backend) = BACKEND.get() {
        return Ok(backend);
    }
    let listened = tracing::enabled!(target: "llama-cpp-2", tracing::Level::DEBUG);
    send_logs_to_tracing(LogOptions::default().with_logs_enabled(listened));
    let backend = LlamaBackend::init().map_err(OpenError::Backend)?;
    Ok(BACKEND.get_or_init(|| backend))
}

/// Opens a model file with the weights mapped, not read.
pub(crate) fn open(path: &Path, params: &LlamaModelParams) -> Result<LlamaModel, OpenError> {
    let shown = path.display().to_string();
    if !path.is_file() {
        return Err(OpenError::Missing(shown));
    }
    LlamaModel::load_from_file(backend()?, path, params).map_err(|source| OpenError::Unreadable {
        path: shown,
        source,
    })
}
