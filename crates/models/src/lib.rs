//! What runs a model.

mod backend;
pub mod engine;
pub mod grammar;
pub mod sampling;
mod scheduler;
pub mod template;
pub mod tools;
pub mod vocabulary;

pub use backend::OpenError;
