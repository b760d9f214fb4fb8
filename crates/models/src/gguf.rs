//! The head of a GGUF model file, read and bounded by us before llama.cpp sees the file.
//!
//! A model file comes from a stranger, and the engine that runs it is C++ that ends the whole process where it finds
//! what it did not expect. So a file is read here first: every count, length and product is checked against what the
//! file has and against the bounds below, and nothing is allocated for more than was read. What llama.cpp would stop
//! at with an assertion, as far as that can be told from the head, is refused here with a sentence instead.
//!
//! Versions 2 and 3, little endian, are read. Values of arrays are checked and passed over, not kept: the vocabulary is
//! the engine's. The weights themselves are not looked at; that they are the right ones is what their hash says.
//! Format: ggml's `docs/gguf.md`.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use thiserror::Error;

mod engine;
mod quantisation;
#[cfg(test)]
pub(crate) mod sample;
mod source;
mod tensor;
mod value;
mod vocabulary;

pub use tensor::{Tensor, TensorType};
pub use value::{Kind, Value};

use source::Source;
#[cfg(test)]
pub(crate) use vocabulary::PRE_TOKENIZERS;

/// The longest head that is read, in bytes: all but the tensor data. The largest vocabularies take a quarter of it.
pub const HEAD_BYTES_MAX: u64 = 64 << 20;

/// The most keys a file may have.
pub const KEYS_MAX: u64 = 16_384;

/// The most tensors a file may have.
pub const TENSORS_MAX: u64 = 65_536;

/// The most tokens a vocabulary may have.
pub const VOCABULARY_MAX: u64 = 1 << 20;

/// The longest text that is kept, in bytes; longer ones are passed over, and a longer chat template is an error.
pub const TEXT_BYTES_MAX: u64 = 1 << 20;

/// The most bytes of keys, texts and names that are kept of one file.
pub const KEPT_BYTES_MAX: u64 = 16 << 20;

/// The largest file that is reckoned with, in bytes: a pebibyte.
const FILE_BYTES_MAX: u64 = 1 << 50;

/// The longest key, in bytes, as the format has it.
const KEY_BYTES_MAX: u64 = 65_535;

/// How tensor data is aligned where the file does not say, in bytes.
const ALIGNMENT_DEFAULT: u64 = 32;

/// The largest alignment that is accepted, in bytes.
const ALIGNMENT_MAX: u64 = 1 << 20;

/// Why a file is not accepted as a model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GgufError {
    /// Reading failed: the disk, not the file.
    #[error("the model file cannot be read")]
    Io(#[source] io::Error),
    /// It begins with other bytes.
    #[error("this is no GGUF file: choose a file whose name ends in .gguf")]
    NotGguf,
    /// Another version, or the other byte order.
    #[error(
        "this file has GGUF version {0}, and only 2 and 3 in little endian are read: look for another file of this model"
    )]
    Version(u32),
    /// Fewer bytes than its own head needs.
    #[error("the file ends within {0}: it was cut off, so fetch it again")]
    CutOff(&'static str),
    /// More head than [`HEAD_BYTES_MAX`].
    #[error(
        "the head of the file is longer than {HEAD_BYTES_MAX} bytes, which no known model needs"
    )]
    HeadTooLong,
    /// More keys and texts than [`KEPT_BYTES_MAX`].
    #[error(
        "the keys and texts of the file take more than {KEPT_BYTES_MAX} bytes, which no known model needs"
    )]
    TooMuchText,
    /// A count beyond its bound.
    #[error("the file states {count} {what}, and at most {most} are accepted")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many the file states.
        count: u64,
        /// How many are accepted.
        most: u64,
    },
    /// A key or its value that cannot be.
    #[error("the key `{key}` {problem}")]
    Key {
        /// The key, or as much of it as could be read.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor that cannot be.
    #[error("the tensor `{name}` {problem}")]
    Tensor {
        /// The tensor's name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A key that every model has is not there.
    #[error("the file has no key `{0}`, so it is no model that can be run")]
    Missing(String),
    /// Tensor data beyond the end of the file.
    #[error(
        "the tensors end at byte {end}, and the file has only {file_bytes}: it was cut off, so fetch it again"
    )]
    TensorsOutside {
        /// Where the data of the last tensor ends, in bytes from the file's begin.
        end: u64,
        /// The file's length in bytes.
        file_bytes: u64,
    },
}

impl GgufError {
    fn key(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Key {
            key: key.into(),
            problem: problem.into(),
        }
    }
}

/// What the head of a model file says. Every number in it fits the file it was read from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Header {
    /// The version of the format, 2 or 3.
    pub version: u32,
    /// How many bytes of the file hold everything but tensor data.
    pub head_bytes: u64,
    /// The file's length, in bytes.
    pub file_bytes: u64,
    /// How tensor data is aligned, in bytes.
    pub alignment: u64,
    /// The family of the model, for example `llama`.
    pub architecture: String,
    /// How many parameters all tensors have together.
    pub parameters: u64,
    /// The tensors, in the order of their data.
    pub tensors: Vec<Tensor>,
    values: BTreeMap<String, Value>,
}

impl Header {
    /// Reads the head of the file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or is not a model that can be run safely.
    pub fn of_file(path: &Path) -> Result<Self, GgufError> {
        let file = File::open(path).map_err(GgufError::Io)?;
        let bytes = file.metadata().map_err(GgufError::Io)?.len();
        Self::read(file, bytes)
    }

    /// Reads the head of a file of `file_bytes` bytes from its begin. `source` need not hold more than the head, so
    /// that the head alone, as fetched from a peer, can be read too.
    ///
    /// # Errors
    /// Reading fails, or the file is not a model that can be run safely.
    pub fn read(source: impl Read, file_bytes: u64) -> Result<Self, GgufError> {
        let file_bytes = file_bytes.min(FILE_BYTES_MAX);
        let mut source = Source::new(source, file_bytes);
        if source.array::<4>("its first bytes").ok() != Some(*b"GGUF") {
            return Err(GgufError::NotGguf);
        }
        let version = source.u32("its version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let tensor_count = source.count("tensors", TENSORS_MAX)?;
        let key_count = source.count("keys", KEYS_MAX)?;
        let mut facts = vocabulary::Facts::default();
        let values = read_values(&mut source, key_count, &mut facts)?;
        let alignment = alignment(&values)?;
        let tensors = read_tensors(&mut source, tensor_count)?;
        let head_bytes = if tensors.is_empty() {
            source.position()
        } else {
            source.position().next_multiple_of(alignment)
        };
        tensor::check_extents(&tensors, alignment, head_bytes, file_bytes)?;
        // Tensors within a file of at most `FILE_BYTES_MAX` have fewer elements than 64 bits count.
        let parameters = tensors.iter().map(Tensor::elements).sum();
        let architecture = match values.get("general.architecture") {
            Some(Value::Text(name)) => name.clone(),
            Some(_) => return Err(GgufError::key("general.architecture", "is not a text")),
            None => return Err(GgufError::Missing("general.architecture".to_owned())),
        };
        let header = Self {
            version,
            head_bytes,
            file_bytes,
            alignment,
            architecture,
            parameters,
            tensors,
            values,
        };
        engine::check(&header, &facts)?;
        Ok(header)
    }

    /// The value of a key; of an array only its kind and length are known.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The whole number under `ARCHITECTURE.name`, for example `block_count`.
    pub fn of_architecture(&self, name: &str) -> Option<u64> {
        self.value(&format!("{}.{name}", self.architecture))?
            .whole()
    }

    /// The number of tokens that the model was made for.
    pub fn context_tokens(&self) -> Option<u64> {
        self.of_architecture("context_length")
    }

    /// The width of the model: how many numbers one position is.
    pub fn embedding_width(&self) -> Option<u64> {
        self.of_architecture("embedding_length")
    }

    /// The number of layers.
    pub fn layers(&self) -> Option<u64> {
        self.of_architecture("block_count")
    }

    /// The number of attention heads, where it is the same in all layers.
    pub fn heads(&self) -> Option<u64> {
        self.of_architecture("attention.head_count")
    }

    /// The number of key and value heads, where it is the same in all layers; without a statement, that of the heads.
    pub fn kv_heads(&self) -> Option<u64> {
        self.of_architecture("attention.head_count_kv")
            .or_else(|| self.heads())
    }

    /// The number of tokens in the vocabulary.
    pub fn vocabulary(&self) -> Option<u64> {
        match self.value("tokenizer.ggml.tokens") {
            Some(Value::Array { count, .. }) => Some(*count),
            _ => self.of_architecture("vocab_size"),
        }
    }

    /// The bytes that the keys and values of one token take at 16 bits each, where the head tells: what a context
    /// costs beside the weights.
    pub fn kv_bytes_per_token(&self) -> Option<u64> {
        let (width, heads) = (self.embedding_width()?, self.heads()?);
        let head = width.checked_div(heads)?;
        let of = |name| self.of_architecture(name).unwrap_or(head);
        let numbers = of("attention.key_length").checked_add(of("attention.value_length"))?;
        self.layers()?
            .checked_mul(self.kv_heads()?)?
            .checked_mul(numbers)?
            .checked_mul(2)
    }

    /// The template that makes a prompt of a chat, as the file carries it.
    pub fn chat_template(&self) -> Option<&str> {
        self.text("tokenizer.chat_template")
    }

    /// The kind of tokenizer, for example `gpt2`.
    pub fn tokenizer(&self) -> Option<&str> {
        self.text("tokenizer.ggml.model")
    }

    /// The model's name, as its maker wrote it.
    pub fn name(&self) -> Option<&str> {
        self.text("general.name")
    }

    /// The licence that the file states, usually by its SPDX name in lower case.
    pub fn licence(&self) -> Option<&str> {
        self.text("general.license")
    }

    /// How the weights are stored, for example `Q4_K_M`: what the file says, or else the type that most of its bytes
    /// have.
    pub fn quantisation(&self) -> String {
        let stated = self.value("general.file_type").and_then(Value::whole);
        if let Some(name) = stated.and_then(quantisation::name) {
            return name.to_owned();
        }
        let mut bytes: BTreeMap<&'static str, u64> = BTreeMap::new();
        for tensor in &self.tensors {
            *bytes.entry(tensor.kind.name()).or_default() += tensor.bytes();
        }
        bytes
            .into_iter()
            .max_by_key(|(_, bytes)| *bytes)
            .map_or_else(|| "none".to_owned(), |(name, _)| name.to_uppercase())
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.value(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

fn read_values<R: Read>(
    source: &mut Source<R>,
    count: u64,
    facts: &mut vocabulary::Facts,
) -> Result<BTreeMap<String, Value>, GgufError> {
    let mut values = BTreeMap::new();
    for _ in 0..count {
        let key = source.kept_text("a key", KEY_BYTES_MAX)?;
        let key = key.filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| GgufError::key("", "is empty, too long, or no text"))?;
        let value = value::read(source, &key, facts)?;
        if values.insert(key.clone(), value).is_some() {
            return Err(GgufError::key(key, "is there twice"));
        }
    }
    Ok(values)
}

fn alignment(values: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    const KEY: &str = "general.alignment";
    let Some(value) = values.get(KEY) else {
        return Ok(ALIGNMENT_DEFAULT);
    };
    value
        .whole()
        .filter(|alignment| alignment.is_power_of_two() && *alignment <= ALIGNMENT_MAX)
        .ok_or_else(|| GgufError::key(KEY, format!("must be a power of two up to {ALIGNMENT_MAX}")))
}

fn read_tensors<R: Read>(source: &mut Source<R>, count: u64) -> Result<Vec<Tensor>, GgufError> {
    let mut tensors: Vec<Tensor> = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..count {
        let tensor = tensor::read(source)?;
        if !names.insert(tensor.name.clone()) {
            return Err(tensor.error("is there twice"));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

#[cfg(test)]
#[path = "gguf/tests.rs"]
mod tests;
