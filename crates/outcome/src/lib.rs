//! What comes out of training, and what goes in: model files that other programs run, and base weights that they left.
//!
//! [`gguf`] writes a model, or an adapter, as the file that llama.cpp runs, and reads such files back into weights.
//! [`transformers`] writes and reads the folder that Python programs of the field use. [`manifest`] says where a model comes
//! from, in canonical bytes whose hash is the model's id.
//!
//! Nothing here trains, runs a model, or asks a network or a clock. Files are written row by row, so that no second copy of
//! the weights is held; what a stranger wrote is bounded and checked before room is taken for it.
//!
//! spec: docs/spec/17-outcome.md

mod base;
mod blocks;
pub mod gguf;
mod label;
pub mod manifest;
mod merging;
mod rotary;
mod seal;
mod trained;
pub mod transformers;
mod vocabulary;

pub use base::{Base, BaseHead};
pub use label::{Label, LabelError};
pub use merging::{MergeError, merge};
pub use seal::seal_file;
pub use trained::{TrainedAdapter, TrainedModel};
pub use vocabulary::{PLAIN_TEMPLATE, Split, Token, TokenKind, Vocabulary, VocabularyError};
