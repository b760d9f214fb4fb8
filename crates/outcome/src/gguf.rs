//! Models and adapters as GGUF files, which llama.cpp runs.
//!
//! What is written is of version 3 and llama.cpp's family `llama`; the same input gives the same bytes. What is read may
//! be of any maker: the head is read by this crate and not by that of `models`, which passes over the lists of tokens and
//! brings llama.cpp along. Format: ggml's `docs/gguf.md`. spec: 17, section 2.

mod file;
mod head;
mod names;
mod reading;
mod writing;

pub use head::HeadError;
pub use reading::{ImportError, read_model, read_model_file, read_model_head};
pub use writing::{Precision, WriteError, write_adapter, write_model};
