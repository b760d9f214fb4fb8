//! What the files of a model and of an adapter state, and with which numbers.

use std::collections::BTreeSet;
use std::io::{self, Write};

use hearth_training::{Architecture, Role, Tensor, Weights};
use thiserror::Error;

use super::file::{self, Planned, Stated};
use super::names::{self, Renamed};
use crate::blocks::{Storage, half_of};
use crate::label::{Label, LabelError};
use crate::trained::{TrainedAdapter, TrainedModel};
use crate::vocabulary::{TokenKind, Vocabulary};

/// How a file keeps the matrices; norms are always in single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Single precision: nothing is lost.
    F32,
    /// Half precision.
    F16,
    /// Eight bits and a scale for each 32 numbers, as ggml makes them; half precision where rows are no multiple of 32.
    Q8_0,
}

impl Precision {
    /// What `general.file_type` says.
    fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
        }
    }

    fn storage(self, tensor: &Tensor) -> Storage {
        match self {
            _ if tensor.role == Role::Norm => Storage::F32,
            Self::F32 => Storage::F32,
            Self::Q8_0 if Storage::Q8_0.row_bytes(tensor.columns).is_some() => Storage::Q8_0,
            Self::F16 | Self::Q8_0 => Storage::F16,
        }
    }
}

/// A file was not written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Writing failed.
    #[error("the file cannot be written")]
    Io(#[from] io::Error),
    /// A text of the label cannot stand in a file.
    #[error("the label cannot stand in a file")]
    Label(#[from] LabelError),
    /// The numbers are those of another shape.
    #[error("the weights are not of this layout")]
    Weights,
    /// There are more tokens than the model was made for.
    #[error("the tokenizer has {tokens} tokens, and the model only {most}")]
    Tokens {
        /// What the tokenizer has.
        tokens: usize,
        /// What the model has.
        most: usize,
    },
    /// Two tokens have one text.
    #[error("the text {0:?} stands for two tokens")]
    Twice(String),
    /// A number is too large for half precision.
    #[error("{0} has a number that half precision cannot hold: write single precision instead")]
    TooLarge(String),
}

/// Kinds of tokens, as ggml numbers them.
const PLAIN: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Writes a model that llama.cpp runs, and returns the length of the file in bytes. The same input gives the same bytes.
///
/// Numbers are turned into their format a row at a time.
///
/// # Errors
/// When writing fails, or what is given does not fit together; a part of the file may be written then.
pub fn write_model(
    model: &TrainedModel<'_>,
    precision: Precision,
    out: &mut impl Write,
) -> Result<u64, WriteError> {
    model.label.check()?;
    let architecture = model.layout.architecture();
    let padding = padding(model.vocabulary, architecture)?;
    if **model.weights.tensors() != **model.layout.tensors() {
        return Err(WriteError::Weights);
    }
    let tensors = plan(model.weights, precision, |tensor| {
        names::of_tensor(&tensor.name, architecture)
    })?;
    let mut keys = named("model", model.label);
    keys.push(("general.file_type", Stated::Whole(precision.file_type())));
    if precision == Precision::Q8_0 {
        keys.push(("general.quantization_version", Stated::Whole(2)));
    }
    shape(architecture, &mut keys);
    words(model.vocabulary, &padding, &mut keys);
    Ok(file::write(&keys, &tensors, out)?)
}

/// Writes an adapter that llama.cpp puts over its base, and returns the length of the file in bytes. Its numbers are in single
/// precision.
///
/// # Errors
/// When writing fails, or what is given does not fit together.
pub fn write_adapter(
    adapter: &TrainedAdapter<'_>,
    out: &mut impl Write,
) -> Result<u64, WriteError> {
    adapter.label.check()?;
    if **adapter.weights.tensors() != **adapter.layout.tensors() {
        return Err(WriteError::Weights);
    }
    let architecture = adapter.base.architecture();
    let tensors = plan(adapter.weights, Precision::F32, |tensor| {
        names::of_adapter(&tensor.name, architecture)
    })?;
    let mut keys = named("adapter", adapter.label);
    keys.push(("adapter.type", Stated::Text("lora")));
    let alpha = adapter.layout.adapter().alpha;
    keys.push(("adapter.lora.alpha", Stated::Number(alpha)));
    Ok(file::write(&keys, &tensors, out)?)
}

fn plan<'a>(
    weights: &'a Weights,
    precision: Precision,
    rename: impl Fn(&Tensor) -> Option<Renamed>,
) -> Result<Vec<Planned<'a>>, WriteError> {
    let planned = |tensor: &Tensor| {
        let renamed = rename(tensor).ok_or(WriteError::Weights)?;
        let planned = Planned {
            values: &weights.values()[tensor.range()],
            columns: tensor.columns,
            is_vector: tensor.role == Role::Norm,
            storage: precision.storage(tensor),
            turned_head: renamed.turned_head,
            name: renamed.name,
        };
        // A block's scale is its largest number over 127, which fits wherever the number itself does.
        let infinite = |value: &f32| half_of(*value) & 0x7fff == 0x7c00;
        if planned.storage != Storage::F32 && planned.values.iter().any(infinite) {
            return Err(WriteError::TooLarge(planned.name));
        }
        Ok(planned)
    };
    weights.tensors().list().iter().map(planned).collect()
}

fn named<'a>(kind: &'a str, label: &'a Label) -> Vec<(&'static str, Stated<'a>)> {
    let mut keys = vec![
        ("general.architecture", Stated::Text("llama")),
        ("general.type", Stated::Text(kind)),
        ("general.name", Stated::Text(&label.name)),
        ("general.license", Stated::Text(&label.license)),
    ];
    if let Some(description) = &label.description {
        keys.push(("general.description", Stated::Text(description)));
    }
    keys
}

fn shape(a: &Architecture, keys: &mut Vec<(&'static str, Stated<'_>)>) {
    let whole = |number: usize| Stated::Whole(number as u32);
    keys.extend([
        ("llama.block_count", whole(a.layers)),
        ("llama.context_length", whole(a.context)),
        ("llama.embedding_length", whole(a.width)),
        ("llama.feed_forward_length", whole(a.hidden)),
        ("llama.attention.head_count", whole(a.query_heads)),
        ("llama.attention.head_count_kv", whole(a.key_value_heads)),
        ("llama.attention.key_length", whole(a.head)),
        ("llama.attention.value_length", whole(a.head)),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Stated::Number(a.norm_epsilon),
        ),
        ("llama.rope.freq_base", Stated::Number(a.rope_theta)),
        ("llama.rope.dimension_count", whole(a.head)),
        ("llama.vocab_size", whole(a.vocabulary)),
    ]);
}

/// Names of the tokens that a model has beyond its tokenizer's.
fn padding(
    vocabulary: &Vocabulary,
    architecture: &Architecture,
) -> Result<Vec<String>, WriteError> {
    let (tokens, most) = (vocabulary.tokens.len(), architecture.vocabulary);
    if tokens > most {
        return Err(WriteError::Tokens { tokens, most });
    }
    let padding: Vec<String> = (tokens..most).map(|id| format!("[PAD{id}]")).collect();
    let mut seen = BTreeSet::new();
    let ours = vocabulary.tokens.iter().map(|token| &token.text);
    match ours.chain(&padding).find(|text| !seen.insert(*text)) {
        Some(text) => Err(WriteError::Twice(text.clone())),
        None => Ok(padding),
    }
}

fn words<'a>(
    vocabulary: &'a Vocabulary,
    padding: &'a [String],
    keys: &mut Vec<(&'static str, Stated<'a>)>,
) {
    let texts = vocabulary.tokens.iter().map(|token| token.text.as_str());
    let kinds = vocabulary.tokens.iter().map(|token| match token.kind {
        TokenKind::Plain => PLAIN,
        TokenKind::Control => CONTROL,
        TokenKind::Whole => USER_DEFINED,
    });
    let unused = padding.iter().map(|_| UNUSED);
    let texts = texts.chain(padding.iter().map(String::as_str)).collect();
    let merges = vocabulary.merges.iter().map(String::as_str).collect();
    keys.extend([
        ("tokenizer.ggml.model", Stated::Text("gpt2")),
        ("tokenizer.ggml.pre", Stated::Text(vocabulary.split.name())),
        ("tokenizer.ggml.tokens", Stated::Texts(texts)),
        (
            "tokenizer.ggml.token_type",
            Stated::Signed(kinds.chain(unused).collect()),
        ),
        ("tokenizer.ggml.merges", Stated::Texts(merges)),
        (
            "tokenizer.ggml.bos_token_id",
            Stated::Whole(vocabulary.beginning),
        ),
        ("tokenizer.ggml.eos_token_id", Stated::Whole(vocabulary.end)),
        ("tokenizer.ggml.add_bos_token", Stated::Truth(false)),
        ("tokenizer.ggml.add_eos_token", Stated::Truth(false)),
        (
            "tokenizer.chat_template",
            Stated::Text(&vocabulary.chat_template),
        ),
    ]);
}
