//! From a GGUF file to weights in the order of training.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use hearth_training::{Architecture, ArchitectureError, Layout, Tensor, Weights, WeightsError};
use thiserror::Error;

use super::head::{self, Entry, Head, HeadError, Kept};
use super::names;
use crate::base::{Base, BaseHead, Stored, read_rows};
use crate::blocks::Storage;
use crate::label::check_text;
use crate::vocabulary::{
    MERGES_MAX, PLAIN_TEMPLATE, Split, TEMPLATE_BYTES_MAX, Token, TokenKind, Vocabulary, is_merge,
};

/// A GGUF file is no base to train from.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Reading failed.
    #[error("the file cannot be read")]
    Io(#[from] io::Error),
    /// Its head is unsound.
    #[error("the head of the file is unsound")]
    Head(#[from] HeadError),
    /// It is of another family.
    #[error("the model is of the family {0:?}, and only `llama` can be trained")]
    Family(String),
    /// A key is missing, or its value is one that cannot be trained.
    #[error("the key `llama.{0}` is missing, or states something that cannot be trained here")]
    Key(&'static str),
    /// The shape is out of bounds.
    #[error("the model has a shape that cannot be trained")]
    Architecture(#[source] ArchitectureError),
    /// A tensor is missing.
    #[error("the tensor {0} is missing")]
    Missing(String),
    /// A tensor that models of this shape do not have.
    #[error("the file has the tensor {0:?}, which cannot be trained here")]
    Unknown(String),
    /// A tensor of another shape, of a format that is not read, or beyond the end of the file.
    #[error("the tensor {0} has another shape, an unknown format, or lies outside of the file")]
    Tensor(String),
    /// Its numbers are no weights.
    #[error("the numbers of the file are no weights")]
    Numbers(#[source] WeightsError),
}

/// Reads the model in the file at `path`.
///
/// # Errors
/// When the file cannot be read, or is no model of the family that is sound to the last number.
pub fn read_model_file(path: &Path) -> Result<Base, ImportError> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    read_model(BufReader::with_capacity(1 << 16, file), bytes)
}

/// Reads a model from a source of `file_bytes` bytes. Room is taken for the weights once every tensor was found to be there,
/// at most eight bytes for each byte of the file.
///
/// # Errors
/// When reading fails, or the bytes are no model of the family that is sound to the last number.
pub fn read_model(mut source: impl Read + Seek, file_bytes: u64) -> Result<Base, ImportError> {
    let (head, places) = head_of(&mut source, file_bytes)?;
    let tensors = head.layout.tensors();
    let mut values = vec![0.0; tensors.len()];
    for (tensor, place) in tensors.list().iter().zip(places) {
        read_rows(&mut source, place, tensor, &mut values[tensor.range()])?;
    }
    let weights = Weights::new(tensors, values).map_err(ImportError::Numbers)?;
    Ok(Base {
        layout: head.layout,
        weights,
        vocabulary: head.vocabulary,
        name: head.name,
    })
}

/// Reads what the model in the file at `path` is, without its numbers; they are looked for, and found to be within the file.
///
/// # Errors
/// When the file cannot be read, or is no model of the family.
pub fn read_model_head(path: &Path) -> Result<BaseHead, ImportError> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let (head, _) = head_of(&mut BufReader::with_capacity(1 << 16, file), bytes)?;
    Ok(head)
}

/// What a file says, and where the numbers of each tensor stand in it.
fn head_of(
    source: &mut impl Read,
    file_bytes: u64,
) -> Result<(BaseHead, Vec<Stored>), ImportError> {
    let head = head::read(source, file_bytes)?;
    let architecture = architecture(&head)?;
    let layout = Arc::new(Layout::new(architecture).map_err(ImportError::Architecture)?);
    let places = places(&head, &layout, file_bytes)?;
    let name = match head.keys.get("general.name") {
        Some(Kept::Text(name)) if check_text("name", name).is_ok() => Some(name.clone()),
        _ => None,
    };
    let stated = BaseHead {
        vocabulary: vocabulary(&head),
        layout,
        name,
    };
    Ok((stated, places))
}

fn architecture(head: &Head) -> Result<Architecture, ImportError> {
    match head.keys.get("general.architecture") {
        Some(Kept::Text(family)) if family == "llama" => {}
        Some(Kept::Text(family)) => return Err(ImportError::Family(head::shown(family))),
        _ => return Err(ImportError::Family(String::new())),
    }
    let of = Shape(head);
    let width = of.size("embedding_length", None)?;
    let query_heads = of.size("attention.head_count", None)?;
    let even = width.checked_div(query_heads);
    let head_width = of.size("attention.key_length", even)?;
    for name in ["attention.value_length", "rope.dimension_count"] {
        if of.size(name, Some(head_width))? != head_width {
            return Err(ImportError::Key(name));
        }
    }
    if of.size("expert_count", Some(0))? != 0 {
        return Err(ImportError::Key("expert_count"));
    }
    match head.keys.get("llama.rope.scaling.type") {
        None => {}
        Some(Kept::Text(kind)) if kind == "none" => {}
        Some(_) => return Err(ImportError::Key("rope.scaling.type")),
    }
    let embedding = head.tensors.get("token_embd.weight");
    let embedding =
        embedding.ok_or_else(|| ImportError::Missing("token_embd.weight".to_owned()))?;
    let vocabulary = embedding.dimensions.get(1).copied().unwrap_or(0);
    Ok(Architecture {
        vocabulary: usize::try_from(vocabulary).unwrap_or(usize::MAX),
        width,
        layers: of.size("block_count", None)?,
        query_heads,
        key_value_heads: of.size("attention.head_count_kv", Some(query_heads))?,
        head: head_width,
        hidden: of.size("feed_forward_length", None)?,
        context: of.size("context_length", None)?,
        rope_theta: of.number("rope.freq_base", Some(10_000.0))?,
        norm_epsilon: of.number("attention.layer_norm_rms_epsilon", None)?,
        tied_head: !head.tensors.contains_key("output.weight"),
    })
}

/// The keys of the family.
struct Shape<'a>(&'a Head);

impl Shape<'_> {
    fn size(&self, name: &'static str, default: Option<usize>) -> Result<usize, ImportError> {
        let value = match self.0.keys.get(&format!("llama.{name}")) {
            None => default,
            Some(Kept::Whole(value)) => usize::try_from(*value).ok(),
            Some(_) => None,
        };
        value.ok_or(ImportError::Key(name))
    }

    fn number(&self, name: &'static str, default: Option<f32>) -> Result<f32, ImportError> {
        let value = match self.0.keys.get(&format!("llama.{name}")) {
            None => default,
            Some(Kept::Number(value)) => Some(*value as f32),
            Some(_) => None,
        };
        value.ok_or(ImportError::Key(name))
    }
}

/// Finds every tensor of the layout, and nothing else, within the file.
fn places(head: &Head, layout: &Layout, file_bytes: u64) -> Result<Vec<Stored>, ImportError> {
    let mut unknown = head.tensors.clone();
    let mut places = Vec::new();
    let mut stored_bytes = 0u64;
    for tensor in layout.tensors().list() {
        let renamed = names::of_tensor(&tensor.name, layout.architecture())
            .ok_or_else(|| ImportError::Missing(tensor.name.clone()))?;
        let entry = unknown.remove(&renamed.name);
        let entry = entry.ok_or_else(|| ImportError::Missing(renamed.name.clone()))?;
        let place = place(&entry, tensor, head.data_begin, file_bytes);
        let wrong = ImportError::Tensor(renamed.name);
        let Some((mut place, bytes)) = place else {
            return Err(wrong);
        };
        // Tensors that share their bytes would make a small file take much room.
        stored_bytes = stored_bytes.saturating_add(bytes);
        if stored_bytes > file_bytes {
            return Err(wrong);
        }
        place.turned_head = renamed.turned_head;
        places.push(place);
    }
    match unknown.first_key_value() {
        Some((name, _)) => Err(ImportError::Unknown(head::shown(name))),
        None => Ok(places),
    }
}

/// Where a tensor stands, and how many bytes it has there.
fn place(
    entry: &Entry,
    tensor: &Tensor,
    data_begin: u64,
    file_bytes: u64,
) -> Option<(Stored, u64)> {
    let shape = tensor.shape();
    let wanted = shape.iter().rev().map(|size| *size as u64);
    if !wanted.eq(entry.dimensions.iter().copied()) {
        return None;
    }
    let storage = Storage::of_number(entry.format)?;
    let bytes = storage
        .row_bytes(tensor.columns)?
        .checked_mul(tensor.rows)?;
    let begin = data_begin.checked_add(entry.offset)?;
    let end = begin.checked_add(bytes as u64)?;
    let stored = Stored {
        storage,
        begin,
        turned_head: None,
    };
    (end <= file_bytes).then_some((stored, bytes as u64))
}

/// The vocabulary, where it is one that can be stated in a `tokenizer.json`. Tokens that only fill up the model are left out.
fn vocabulary(head: &Head) -> Option<Vocabulary> {
    let text = |key: &str| match head.keys.get(key) {
        Some(Kept::Text(text)) => Some(text.as_str()),
        _ => None,
    };
    if text("tokenizer.ggml.model") != Some("gpt2") {
        return None;
    }
    let split = Split::named(text("tokenizer.ggml.pre")?)?;
    let (Kept::Texts(texts), Kept::Texts(merges), Kept::Signed(kinds)) = (
        head.keys.get(head::TOKENS)?,
        head.keys.get(head::MERGES)?,
        head.keys.get(head::TOKEN_TYPES)?,
    ) else {
        return None;
    };
    let sound = texts.len() == kinds.len() && merges.len() <= MERGES_MAX;
    if !sound || !head::distinct(texts) || !merges.iter().all(|merge| is_merge(merge)) {
        return None;
    }
    let used = kinds.iter().rposition(|kind| *kind != 5)? + 1;
    let tokens: Option<Vec<Token>> = texts[..used]
        .iter()
        .zip(kinds)
        .map(|(text, kind)| {
            let kind = match kind {
                1 => TokenKind::Plain,
                // Unknown, control and unused ones: none of them is spelled by a text.
                2 | 3 | 5 => TokenKind::Control,
                4 => TokenKind::Whole,
                _ => return None,
            };
            let text = text.clone();
            Some(Token { text, kind })
        })
        .collect();
    let tokens = tokens?;
    let id = |name: &str| match head.keys.get(&format!("tokenizer.ggml.{name}_token_id")) {
        Some(Kept::Whole(id)) if *id < used as u64 => Some(*id as u32),
        _ => None,
    };
    let end = id("eos")?;
    let template = text("tokenizer.chat_template").unwrap_or(PLAIN_TEMPLATE);
    let fits = (1..=TEMPLATE_BYTES_MAX).contains(&template.len());
    fits.then(|| Vocabulary {
        tokens,
        merges: merges.clone(),
        split,
        end,
        beginning: id("bos").unwrap_or(end),
        chat_template: template.to_owned(),
    })
}
