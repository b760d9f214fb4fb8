//! What runs a model: its file, where it comes from, and the engine that answers with it.

pub mod asker;
mod backend;
pub mod catalogue;
pub mod digest;
pub mod engine;
pub mod fetch;
pub mod generator;
pub mod gguf;
pub mod gpu;
pub mod grammar;
pub mod library;
mod packed;
pub mod prompt;
pub mod reader;
pub mod sampling;
mod scheduler;
pub mod template;
pub mod vocabulary;

pub use backend::OpenError;

/// Serves as a reader until the process that started this one closes its standard input. For a process for which
/// [`reader::is_reader`] says so.
pub fn serve_as_reader() -> std::process::ExitCode {
    reader::serve(engine::trial::run)
}
