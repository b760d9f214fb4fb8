//! Datasets, for the owner's commands: import, show, verify.
//!
//! The work is done in `hearth-datasets`; here it gets the advice that people need.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hearth_datasets::documents::DocumentError;
use hearth_datasets::folder::{Folder, FolderError};
use hearth_datasets::hash::Hash32;
use hearth_datasets::import::{self, ImportError};
use hearth_datasets::manifest::{Manifest, ManifestError};
use hearth_datasets::tokenizer::{TOKENIZER_BYTES_MAX, TokenizerError};
use hearth_outcome::gguf::{self, read_model_head};
use thiserror::Error;

use crate::advice::Advice;
use crate::license;

pub use hearth_datasets::import::{FIELD, Import, ImportProgress, ImportStage, TokenizerChoice};
pub use hearth_datasets::manifest::{Label, Part};

/// Why nothing could be done with a dataset.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// It was not made.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The license is not named so that others can find it.
    #[error("{0:?} names no license")]
    License(String),
    /// It cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The tokenizer's file cannot be read.
    #[error("{} cannot be read", .path.display())]
    TokenizerFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The model that should have a tokenizer cannot be read.
    #[error("{} cannot be read as a model, so its tokenizer cannot be taken", .path.display())]
    TokenizerModel {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: gguf::ImportError,
    },
    /// The model's tokenizer is of another kind.
    #[error("the tokenizer of {} is missing, or is not plain byte-level BPE with words that are known", .0.display())]
    NoTokenizer(PathBuf),
}

impl Advice for DatasetError {
    fn code(&self) -> &str {
        match self {
            Self::Import(ImportError::Document(error)) => document_code(error),
            Self::Import(ImportError::Tokenizer(_))
            | Self::TokenizerFile { .. }
            | Self::TokenizerModel { .. }
            | Self::NoTokenizer(_) => "bad_tokenizer",
            Self::Import(ImportError::Manifest(_)) => "bad_label",
            Self::License(_) => "bad_license",
            Self::Import(ImportError::Exists(_)) => "exists",
            Self::Import(ImportError::Write { .. }) => "not_written",
            Self::Import(ImportError::Empty) => "no_text",
            Self::Import(_) => "not_imported",
            Self::Folder(FolderError::Manifest { .. }) => "not_a_dataset",
            Self::Folder(FolderError::Io { .. }) => "not_readable",
            Self::Folder(_) => "damaged",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Import(ImportError::Document(error)) => document_step(error),
            Self::Import(ImportError::Tokenizer(error)) => tokenizer_step(error),
            Self::TokenizerFile { .. } => {
                "Name a tokenizer.json or a GGUF file that you may read, or a model that `hearth models` shows as here".to_owned()
            }
            Self::TokenizerModel { .. } | Self::NoTokenizer(_) => {
                "Name the tokenizer.json of that model, or a model of the family Llama with byte-level BPE, such as SmolLM2".to_owned()
            }
            Self::Import(ImportError::Manifest(error)) => label_step(error),
            Self::License(_) => license::ADVICE.to_owned(),
            Self::Import(ImportError::Exists(_)) => {
                "Name another folder with --out, or remove that one".to_owned()
            }
            Self::Import(ImportError::Write { .. }) => {
                "Check that the folder above it exists, that you may write there, and that the disk has room".to_owned()
            }
            Self::Import(ImportError::Empty) => {
                "Name files with more text: what is held out, about one document in fifty, is not trained on".to_owned()
            }
            Self::Import(_) => "Import the text in several datasets".to_owned(),
            Self::Folder(FolderError::Io { .. } | FolderError::Manifest { .. }) => {
                "Name the folder that `hearth data import` made, with croissant.json in it".to_owned()
            }
            Self::Folder(_) => {
                "Fetch the folder again, or import the text again: this one is not what its manifest says".to_owned()
            }
        }
    }
}

fn document_code(error: &DocumentError) -> &'static str {
    match error {
        DocumentError::NotUtf8 { .. } | DocumentError::Nul { .. } => "not_text",
        DocumentError::LongLine { .. } => "long_line",
        DocumentError::Json { .. } | DocumentError::NoField { .. } => "bad_json_line",
        _ => "bad_file",
    }
}

fn document_step(error: &DocumentError) -> String {
    let step = match error {
        DocumentError::NotUtf8 { .. } => {
            "Convert the file to UTF-8, for example with `iconv -f latin1 -t utf-8`, or correct that line"
        }
        DocumentError::Nul { .. } => {
            "Take the NUL characters out of the file, or leave the file out if it is not text"
        }
        DocumentError::LongLine { .. } => "Cut the line into several",
        DocumentError::Json { .. } => "Correct that line: each has to be one JSON object",
        DocumentError::NoField { .. } => "Name the field that has the text with --jsonl-field",
        DocumentError::Parquet(_) => "Write it as JSON lines first, one object a row",
        DocumentError::Link(_) => {
            "Name the file that the link leads to, or remove the link from the folder"
        }
        DocumentError::ManyFiles => "Put several texts into one file, such as one of JSON lines",
        DocumentError::NothingInside(_) => {
            "Name the files themselves, or a folder that has them directly in it"
        }
        _ => "Check that it exists, and that you may read it",
    };
    step.to_owned()
}

fn tokenizer_step(error: &TokenizerError) -> String {
    let step = match error {
        TokenizerError::Vocabulary { .. } => "Say another number with --vocabulary",
        TokenizerError::NotATokenizer(_) | TokenizerError::Long => {
            "Name a tokenizer.json of Hugging Face's tokenizers, or leave --tokenizer out to train one"
        }
        TokenizerError::Text(_) | TokenizerError::EndInside | TokenizerError::Lossy => {
            "Take what the tokenizer has no tokens for out of the text, such as control characters, or leave --tokenizer out to train one on it"
        }
        TokenizerError::Training(_) => "Try again with less text, or with --tokenizer",
        _ => {
            "Choose a tokenizer of byte-level BPE, such as GPT-2's or SmolLM2's, or leave --tokenizer out to train one"
        }
    };
    step.to_owned()
}

fn label_step(error: &ManifestError) -> String {
    let step = match error {
        ManifestError::Source => "Say with --source at which address the text can be found",
        ManifestError::Text("license") => {
            "Say with --license which license the text has, such as CC0-1.0"
        }
        _ => "See `hearth data import --help`",
    };
    step.to_owned()
}

/// A dataset: its id, and what its manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Its id.
    pub id: Hash32,
    /// What its manifest says.
    pub manifest: Manifest,
}

/// Makes a dataset's folder.
///
/// # Errors
/// When the license is not named as `license` says, a file is not text, the tokenizer does not do, or the disk does not take it; then nothing is left behind.
pub fn make(
    asked: &Import,
    out: &Path,
    watch: &mut (dyn FnMut(ImportProgress) + Send),
) -> Result<Dataset, DatasetError> {
    if !license::is_license(&asked.label.license) {
        return Err(DatasetError::License(license::shown(&asked.label.license)));
    }
    let made = import::import(asked, out, watch)?;
    Ok(Dataset {
        id: made.id,
        manifest: made.manifest,
    })
}

/// Whether a file is a GGUF file by its first bytes.
fn is_gguf(path: &Path) -> io::Result<bool> {
    let mut magic = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut magic)?;
    Ok(magic == b"GGUF")
}

/// Reads the tokenizer of a `tokenizer.json`, or of a model's GGUF file.
///
/// # Errors
/// When it cannot be read, or is one that datasets do not take.
pub fn tokenizer_file(path: &Path) -> Result<TokenizerChoice, DatasetError> {
    if is_gguf(path).unwrap_or(false) {
        let head = read_model_head(path).map_err(|source| DatasetError::TokenizerModel {
            path: path.to_owned(),
            source,
        })?;
        let vocabulary = head.vocabulary;
        let vocabulary = vocabulary.ok_or_else(|| DatasetError::NoTokenizer(path.to_owned()))?;
        return Ok(TokenizerChoice::Load(vocabulary.to_tokenizer_json()));
    }
    let mut json = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(TOKENIZER_BYTES_MAX + 1).read_to_end(&mut json));
    match read {
        Ok(_) => Ok(TokenizerChoice::Load(json)),
        Err(source) => Err(DatasetError::TokenizerFile {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Reads the manifest of a folder.
///
/// # Errors
/// When there is none.
pub fn look(folder: &Path) -> Result<Dataset, DatasetError> {
    let folder = Folder::open(folder)?;
    Ok(Dataset {
        id: folder.id(),
        manifest: folder.manifest().clone(),
    })
}

/// Compares everything in a folder with its manifest. `watch` is told how many bytes of shards were read, and of how many.
///
/// # Errors
/// What differs first.
pub fn verify(folder: &Path, watch: &mut dyn FnMut(u64, u64)) -> Result<Dataset, DatasetError> {
    let opened = Folder::open(folder)?;
    let manifest = opened.manifest().clone();
    let shards = manifest
        .training
        .shards
        .iter()
        .chain(&manifest.held_out.shards);
    let total_bytes = shards.map(|shard| shard.bytes).sum();
    opened.verify(&mut |done_bytes| watch(done_bytes, total_bytes))?;
    Ok(Dataset {
        id: opened.id(),
        manifest,
    })
}
