//! From weights to a folder of `transformers`, or of `peft`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use hearth_datasets::canonical;
use hearth_training::{Adapter, Tensor, Weights};
use safetensors::tensor::{Dtype, SafeTensorError, View, serialize_to_file};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use thiserror::Error;

use super::{
    ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE,
    WEIGHTS_FILE, config,
};
use crate::trained::{TrainedAdapter, TrainedModel};
use crate::vocabulary::Vocabulary;

/// A folder was not written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FolderWriteError {
    /// A file cannot be written.
    #[error("{file} cannot be written")]
    Io {
        /// Which.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The weights cannot be written.
    #[error("the file of weights cannot be written")]
    Weights(#[source] SafeTensorError),
    /// The numbers are those of another shape.
    #[error("the weights are not of this layout")]
    Layout,
    /// There are more tokens than the model was made for.
    #[error("the tokenizer has {tokens} tokens, and the model only {most}")]
    Tokens {
        /// What the tokenizer has.
        tokens: usize,
        /// What the model has.
        most: usize,
    },
}

/// A tensor whose bytes are made when they are written.
struct Lazy<'a> {
    shape: Vec<usize>,
    values: &'a [f32],
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = self.values.iter().flat_map(|value| value.to_le_bytes());
        bytes.collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        self.values.len() * 4
    }
}

/// Writes a model's shape, weights, tokenizer and generation settings into a folder that is there, in single precision, and
/// returns the names of the files. `tokenizer_json` is the file that the model was trained with; without it, one is made of
/// the vocabulary. The same input gives the same bytes. Each file is put in place whole.
///
/// # Errors
/// When a file cannot be written, or what is given does not fit together.
pub fn write_folder(
    model: &TrainedModel<'_>,
    tokenizer_json: Option<&[u8]>,
    folder: &Path,
) -> Result<Vec<&'static str>, FolderWriteError> {
    let (architecture, vocabulary) = (model.layout.architecture(), model.vocabulary);
    let (tokens, most) = (vocabulary.tokens().len(), architecture.vocabulary);
    if tokens > most {
        return Err(FolderWriteError::Tokens { tokens, most });
    }
    if **model.weights.tensors() != **model.layout.tensors() {
        return Err(FolderWriteError::Layout);
    }
    write_weights(model.weights, &folder.join(WEIGHTS_FILE))?;
    let tokenizer =
        tokenizer_json.map_or_else(|| Cow::Owned(vocabulary.to_tokenizer_json()), Cow::Borrowed);
    let [beginning, end] = [vocabulary.beginning(), vocabulary.end()];
    let generation = json!({"bos_token_id": beginning, "eos_token_id": end});
    let files = [
        (CONFIG_FILE, pretty(&config::of(architecture, vocabulary))),
        ("generation_config.json", pretty(&generation)),
        (TOKENIZER_FILE, tokenizer.into_owned()),
        (
            TOKENIZER_CONFIG_FILE,
            pretty(&tokenizer_config(vocabulary, architecture.context)),
        ),
    ];
    let mut names = vec![WEIGHTS_FILE];
    for (name, bytes) in files {
        write_file(folder, name, &bytes)?;
        names.push(name);
    }
    Ok(names)
}

/// Writes an adapter into a folder that `peft` loads over its base, and returns the names of the files. `base` names the model
/// under it, as `transformers` would find it.
///
/// # Errors
/// When a file cannot be written, or the weights are not of the adapter.
pub fn write_adapter_folder(
    adapter: &TrainedAdapter<'_>,
    base: &str,
    folder: &Path,
) -> Result<Vec<&'static str>, FolderWriteError> {
    if **adapter.weights.tensors() != **adapter.layout.tensors() {
        return Err(FolderWriteError::Layout);
    }
    write_weights(adapter.weights, &folder.join(ADAPTER_WEIGHTS_FILE))?;
    let config = pretty(&adapter_config(adapter.layout.adapter(), base));
    write_file(folder, ADAPTER_CONFIG_FILE, &config)?;
    Ok(vec![ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE])
}

fn adapter_config(adapter: &Adapter, base: &str) -> Value {
    let targets: Vec<&str> = adapter.targets.iter().map(|target| target.name()).collect();
    json!({
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "lora_alpha": f64::from(adapter.alpha),
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": adapter.rank,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
    })
}

fn tokenizer_config(vocabulary: &Vocabulary, context: usize) -> Value {
    let text = |id: u32| &vocabulary.tokens()[id as usize].text;
    json!({
        "add_prefix_space": false,
        "bos_token": text(vocabulary.beginning()),
        "chat_template": vocabulary.chat_template(),
        "clean_up_tokenization_spaces": false,
        "eos_token": text(vocabulary.end()),
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}

fn write_weights(weights: &Weights, path: &Path) -> Result<(), FolderWriteError> {
    let lazy = |tensor: &Tensor| {
        let view = Lazy {
            shape: tensor.shape(),
            values: &weights.values()[tensor.range()],
        };
        (tensor.name.clone(), view)
    };
    // `transformers` refuses a file that does not say whose tensors it has.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let views = weights.tensors().list().iter().map(lazy);
    serialize_to_file(views, Some(metadata), path).map_err(FolderWriteError::Weights)
}

/// JSON as people read it: in canonical order, indented.
fn pretty(value: &Value) -> Vec<u8> {
    let ordered: serde_json::Value =
        serde_json::from_slice(&canonical::bytes(value)).expect("canonical bytes are JSON");
    let mut bytes = serde_json::to_vec_pretty(&ordered).expect("a value can be written");
    bytes.push(b'\n');
    bytes
}

fn write_file(folder: &Path, name: &'static str, bytes: &[u8]) -> Result<(), FolderWriteError> {
    let write = || -> io::Result<()> {
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(folder.join(name))?;
        Ok(())
    };
    write().map_err(|source| FolderWriteError::Io { file: name, source })
}
