//! From a folder of `transformers` to weights.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path};
use std::sync::Arc;

use hearth_datasets::tokenizer::TOKENIZER_BYTES_MAX;
use hearth_training::{
    AdapterLayout, ArchitectureError, Layout, Tensor, Tensors, Weights, WeightsError,
};
use serde_json::Value;
use thiserror::Error;

use super::config::{self, CONFIG_BYTES_MAX, ConfigError};
use super::stored::{self, StoredError, StoredFile};
use super::{
    ADAPTER_WEIGHTS_FILE, CONFIG_FILE, INDEX_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE,
    WEIGHTS_FILE,
};
use crate::base::{Base, BaseHead, Stored, read_rows};
use crate::vocabulary::{TEMPLATE_BYTES_MAX, Vocabulary};

/// A file that has the chat template alone, where there is one.
const TEMPLATE_FILE: &str = "chat_template.jinja";
/// The longest index, in bytes.
const INDEX_BYTES_MAX: u64 = 4 << 20;
/// The most files of weights.
const FILES_MAX: usize = 256;
/// Characters of a name that an error repeats.
const SHOWN_CHARACTERS: usize = 100;

/// A folder is no base to train from.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FolderError {
    /// A file cannot be read.
    #[error("{file} cannot be read")]
    Io {
        /// Which.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A file is longer than any of its kind.
    #[error("{0} is longer than such files are")]
    Long(&'static str),
    /// The shape is not stated soundly.
    #[error("the shape is not one that can be trained")]
    Config(#[from] ConfigError),
    /// The shape is out of bounds.
    #[error("the model has a shape that cannot be trained")]
    Architecture(#[source] ArchitectureError),
    /// The index is not one, or names a file outside of the folder.
    #[error("{INDEX_FILE} is unsound")]
    Index,
    /// A file of weights is unsound.
    #[error("{file} is no sound safetensors file")]
    Stored {
        /// Which.
        file: String,
        /// What is wrong.
        source: StoredError,
    },
    /// A tensor is missing.
    #[error("the tensor {0} is missing")]
    Missing(String),
    /// A tensor that models of this shape do not have, or one that is there twice.
    #[error("the tensor {0:?} is there twice, or cannot be trained here")]
    Unknown(String),
    /// A tensor of another shape or type.
    #[error("the tensor {0} has another shape, or a type that is not read")]
    Tensor(String),
    /// The numbers are no weights.
    #[error("the numbers of the files are no weights")]
    Numbers(#[source] WeightsError),
}

/// Reads the model in a folder. Its vocabulary is nothing where `tokenizer.json` is missing or not one that datasets take.
///
/// Links in the folder are followed, as caches of downloads need it; files of weights are named by the folder alone.
///
/// # Errors
/// When a file cannot be read, or the folder is no model of the family that is sound to the last number.
pub fn read_folder(folder: &Path) -> Result<Base, FolderError> {
    let head = read_folder_head(folder)?;
    let weights = numbers(
        &mut open(folder)?,
        head.layout.tensors(),
        head.layout.architecture().tied_head,
    )?;
    Ok(Base {
        layout: head.layout,
        weights,
        vocabulary: head.vocabulary,
        name: head.name,
    })
}

/// Reads what the model in a folder is, without its numbers.
///
/// # Errors
/// When a file cannot be read, or the folder is no model of the family.
pub fn read_folder_head(folder: &Path) -> Result<BaseHead, FolderError> {
    let config = read_file(folder, CONFIG_FILE, CONFIG_BYTES_MAX)?;
    let (architecture, ends) = config::read(&config)?;
    let layout = Arc::new(Layout::new(architecture).map_err(FolderError::Architecture)?);
    Ok(BaseHead {
        layout,
        vocabulary: vocabulary(folder, ends),
        name: None,
    })
}

/// Reads the weights of a model of that shape from one safetensors file, which has all of them.
///
/// # Errors
/// When the file cannot be read, or has not the tensors of the shape and no others, sound to the last number.
pub fn read_weights(path: &Path, layout: &Layout) -> Result<Weights, FolderError> {
    numbers(
        &mut open_one(path)?,
        layout.tensors(),
        layout.architecture().tied_head,
    )
}

/// Sees that one safetensors file has all tensors of a model of that shape and no others, without reading their numbers.
///
/// # Errors
/// As [`read_weights`], but for the numbers.
pub fn check_weights(path: &Path, layout: &Layout) -> Result<(), FolderError> {
    places(
        &open_one(path)?,
        layout.tensors(),
        layout.architecture().tied_head,
    )
    .map(drop)
}

/// Reads the weights of an adapter from the folder that [`write_adapter_folder`](super::write_adapter_folder) made.
///
/// # Errors
/// When its file cannot be read, or has not the tensors of the adapter and no others, sound to the last number.
pub fn read_adapter_weights(
    folder: &Path,
    adapter: &AdapterLayout,
) -> Result<Weights, FolderError> {
    let mut files = open_one(&folder.join(ADAPTER_WEIGHTS_FILE))?;
    numbers(&mut files, adapter.tensors(), false)
}

fn open_one(path: &Path) -> Result<Vec<(String, StoredFile)>, FolderError> {
    let name = path.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    Ok(vec![open_file(name, path)?])
}

/// Reads the numbers of all tensors.
fn numbers(
    files: &mut [(String, StoredFile)],
    tensors: &Arc<Tensors>,
    head_is_tied: bool,
) -> Result<Weights, FolderError> {
    let places = places(files, tensors, head_is_tied)?;
    let mut values = vec![0.0; tensors.len()];
    for (tensor, (file, stored)) in tensors.list().iter().zip(places) {
        let (name, stored_file) = &mut files[file];
        read_rows(
            &mut stored_file.file,
            stored,
            tensor,
            &mut values[tensor.range()],
        )
        .map_err(|source| FolderError::Io {
            file: name.clone(),
            source,
        })?;
    }
    Weights::new(tensors, values).map_err(FolderError::Numbers)
}

fn vocabulary(folder: &Path, [beginning, end]: [Option<u32>; 2]) -> Option<Vocabulary> {
    let json = read_file(folder, TOKENIZER_FILE, TOKENIZER_BYTES_MAX).ok()?;
    let vocabulary = Vocabulary::read(&json).ok()?;
    let end = end.unwrap_or(vocabulary.end());
    let vocabulary = vocabulary.with_ends(beginning.unwrap_or(end), end).ok()?;
    match template(folder) {
        Some(template) => vocabulary.with_template(&template).ok(),
        None => Some(vocabulary),
    }
}

/// The chat template: a file of its own, or a field of the tokenizer's settings. Some models have several, by name: those are
/// left out.
fn template(folder: &Path) -> Option<String> {
    if let Ok(template) = read_file(folder, TEMPLATE_FILE, TEMPLATE_BYTES_MAX as u64) {
        return String::from_utf8(template).ok();
    }
    let settings = read_file(folder, TOKENIZER_CONFIG_FILE, CONFIG_BYTES_MAX).ok()?;
    let settings: Value = serde_json::from_slice(&settings).ok()?;
    settings["chat_template"].as_str().map(str::to_owned)
}

/// Reads a whole small file.
fn read_file(folder: &Path, name: &'static str, most: u64) -> Result<Vec<u8>, FolderError> {
    let failed = |source| FolderError::Io {
        file: name.to_owned(),
        source,
    };
    let file = File::open(folder.join(name)).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(FolderError::Long(name));
    }
    Ok(bytes)
}

/// Opens the files of weights and reads their heads.
fn open(folder: &Path) -> Result<Vec<(String, StoredFile)>, FolderError> {
    let names = if folder.join(INDEX_FILE).exists() {
        indexed(&read_file(folder, INDEX_FILE, INDEX_BYTES_MAX)?).ok_or(FolderError::Index)?
    } else {
        BTreeSet::from([WEIGHTS_FILE.to_owned()])
    };
    let open = |name: String| {
        let path = folder.join(&name);
        open_file(name, &path)
    };
    names.into_iter().map(open).collect()
}

fn open_file(name: String, path: &Path) -> Result<(String, StoredFile), FolderError> {
    let file = File::open(path).map_err(|source| FolderError::Io {
        file: name.clone(),
        source,
    })?;
    match StoredFile::open(file) {
        Ok(file) => Ok((name, file)),
        Err(source) => Err(FolderError::Stored { file: name, source }),
    }
}

/// The files that an index names, each a plain name.
fn indexed(index: &[u8]) -> Option<BTreeSet<String>> {
    let index: Value = serde_json::from_slice(index).ok()?;
    let map = index["weight_map"].as_object()?;
    let names: Option<BTreeSet<String>> = map
        .values()
        .map(|name| {
            name.as_str()
                .filter(|name| is_plain(name))
                .map(str::to_owned)
        })
        .collect();
    names.filter(|names| (1..=FILES_MAX).contains(&names.len()))
}

/// Whether a name is one of a file in this folder.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
    plain && parts.next().is_none() && name.ends_with(".safetensors")
}

/// Finds every tensor, and nothing else, in the files.
fn places(
    files: &[(String, StoredFile)],
    tensors: &Tensors,
    head_is_tied: bool,
) -> Result<Vec<(usize, Stored)>, FolderError> {
    let mut by_name: BTreeMap<String, usize> = BTreeMap::new();
    let shown = |name: &str| name.chars().take(SHOWN_CHARACTERS).collect::<String>();
    for (index, (_, stored)) in files.iter().enumerate() {
        for name in stored.metadata.offset_keys() {
            if by_name.contains_key(&name) {
                return Err(FolderError::Unknown(shown(&name)));
            }
            by_name.insert(name, index);
        }
    }
    let mut places = Vec::new();
    for tensor in tensors.list() {
        let file = by_name.remove(&tensor.name);
        let file = file.ok_or_else(|| FolderError::Missing(tensor.name.clone()))?;
        let place = place(&files[file].1, tensor);
        places.push((
            file,
            place.ok_or_else(|| FolderError::Tensor(tensor.name.clone()))?,
        ));
    }
    // A tied head is written a second time by some programs, and tables of positions were by others.
    let spare = |name: &str| {
        let tied = head_is_tied && name == "lm_head.weight";
        tied || name.ends_with(".rotary_emb.inv_freq")
    };
    match by_name.keys().find(|name| !spare(name)) {
        Some(name) => Err(FolderError::Unknown(shown(name))),
        None => Ok(places),
    }
}

fn place(file: &StoredFile, tensor: &Tensor) -> Option<Stored> {
    let info = file.metadata.info(&tensor.name)?;
    let storage = stored::storage(info.dtype)?;
    let begin = file.data_begin.checked_add(info.data_offsets.0 as u64)?;
    (info.shape == tensor.shape()).then_some(Stored {
        storage,
        begin,
        turned_head: None,
    })
}
