//! The folder that Hugging Face's `transformers` loads with `from_pretrained`, written and read.
//!
//! Weights are safetensors files with the names and the order of rows that training has, so nothing is turned or renamed.
//! spec: 17, section 4.

mod config;
mod reading;
mod stored;
mod writing;

pub use config::ConfigError;
pub use reading::{
    FolderError, check_weights, read_adapter_weights, read_folder, read_folder_head, read_weights,
};
pub use writing::{FolderWriteError, write_adapter_folder, write_folder};

/// The file of the shape.
pub const CONFIG_FILE: &str = "config.json";
/// The file of the weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The file that says which of several files has which weights.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// The file of an adapter's weights.
pub const ADAPTER_WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// The file of an adapter's shape.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
/// The file of the tokenizer.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The file of the tokenizer's settings.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
