//! What runs a model: its file, where it comes from, and the engine that answers with it.

pub mod asker;
mod backend;
pub mod catalogue;
pub mod digest;
pub mod engine;
pub mod fetch;
pub mod gguf;
pub mod gpu;
pub mod grammar;
pub mod library;
mod packed;
pub mod prompt;
pub mod reader;
pub mod reading;
pub mod sampling;
mod scheduler;
pub mod template;
pub mod tools;
pub mod vocabulary;

pub use backend::OpenError;
