//! Import: files become a dataset's folder.
//!
//! The folder appears whole or not at all: it is made under another name beside its place. The files are read twice
//! where a tokenizer is trained: once for it, once for the tokens. spec: 15, sections 2 and 3.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::documents::{self, DocumentError, Documents, SourceFile};
use crate::folder::{MANIFEST_FILE, SHARDS_FOLDER};
use crate::hash::{FileSeal, Hash32};
use crate::manifest::{
    Label, Manifest, ManifestError, Part, SHARDS_MAX, TOKENIZER_FILE, Tokens, shard_path,
};
use crate::shard::{SHARD_TOKENS, TokenWidth};
use crate::tokenizer::{ByteTokenizer, TRAINING_BYTES_MAX, TokenizerError};

/// The documents of a thousand that are held out, unless said otherwise.
pub const HELD_OUT_PER_MILLE: u32 = 20;
/// The field of JSON lines that has the text, unless said otherwise.
pub const FIELD: &str = "text";

/// Where the tokenizer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerChoice {
    /// It is trained on what is not held out, to so many tokens.
    Train(u32),
    /// It is read from these bytes of a `tokenizer.json`.
    Load(Vec<u8>),
}

/// What to import, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The files, and folders of files, in order.
    pub files: Vec<PathBuf>,
    /// The field of JSON lines that has the text.
    pub field: String,
    /// What people are told of it.
    pub label: Label,
    /// Where the tokenizer comes from.
    pub tokenizer: TokenizerChoice,
    /// The documents of a thousand that are held out.
    pub held_out_per_mille: u32,
    /// The tokens of a shard.
    pub shard_tokens: u32,
}

impl Import {
    /// Imports `files` under `label`, with the usual settings for everything else.
    pub fn of(files: Vec<PathBuf>, label: Label, tokenizer: TokenizerChoice) -> Self {
        Self {
            files,
            field: FIELD.to_owned(),
            label,
            tokenizer,
            held_out_per_mille: HELD_OUT_PER_MILLE,
            shard_tokens: SHARD_TOKENS,
        }
    }
}

/// What an import is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportStage {
    /// It trains the tokenizer.
    Learning,
    /// It writes shards.
    Writing,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// What it is at.
    pub stage: ImportStage,
    /// Bytes of the files that this stage has read.
    pub done_bytes: u64,
    /// Bytes of the files.
    pub total_bytes: u64,
}

/// Why no dataset was made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A label or setting that no manifest can state.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Something is where the dataset would be.
    #[error("the folder {} exists already", .0.display())]
    Exists(PathBuf),
    /// Writing.
    #[error("{} cannot be written", .path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing to train on.
    #[error("the files have no text that is not held out")]
    Empty,
    /// More than a manifest can list.
    #[error("the text fills more than {SHARDS_MAX} shards")]
    Large,
}

/// A dataset that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its id.
    pub id: Hash32,
    /// Its manifest.
    pub manifest: Manifest,
}

/// Whether a document is held out: its hash says so, so that the same text is never on both sides.
pub fn is_held_out(document: &str, per_mille: u32) -> bool {
    let hash = Hash32::blake3(document.as_bytes()).0;
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(first) % 1_000 < u64::from(per_mille)
}

/// Makes the dataset's folder `out`, which must not exist.
///
/// # Errors
/// When a file is not text, the tokenizer does not do, or the disk does not take it; then nothing is left behind.
pub fn import(
    import: &Import,
    out: &Path,
    watch: &mut (dyn FnMut(ImportProgress) + Send),
) -> Result<Imported, ImportError> {
    import.label.check()?;
    if fs::symlink_metadata(out).is_ok() {
        return Err(ImportError::Exists(out.to_owned()));
    }
    let files = documents::find(&import.files)?;
    let tokenizer = match &import.tokenizer {
        TokenizerChoice::Load(json) => ByteTokenizer::load(json.clone())?,
        TokenizerChoice::Train(vocabulary) => train(import, *vocabulary, &files, watch)?,
    };
    let failed = write_error(out);
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let aside = tempfile::Builder::new()
        .prefix(".hearth-data-")
        .tempdir_in(parent);
    let aside = aside.map_err(&failed)?;
    fs::create_dir(aside.path().join(SHARDS_FOLDER)).map_err(&failed)?;
    let manifest = write_shards(import, files, &tokenizer, aside.path(), watch)?;
    let bytes = manifest.to_bytes()?;
    let json = tokenizer.json();
    fs::write(aside.path().join(TOKENIZER_FILE), json).map_err(&failed)?;
    fs::write(aside.path().join(MANIFEST_FILE), &bytes).map_err(&failed)?;
    fs::rename(aside.path(), out).map_err(&failed)?;
    Ok(Imported {
        id: Manifest::id(&bytes),
        manifest,
    })
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> ImportError {
    let path = path.to_owned();
    move |source| ImportError::Write {
        path: path.clone(),
        source,
    }
}

fn total_bytes(files: &[SourceFile]) -> u64 {
    files
        .iter()
        .fold(0, |sum, file| sum.saturating_add(file.bytes))
}

/// Trains the tokenizer on the first documents that are not held out.
fn train(
    import: &Import,
    vocabulary: u32,
    files: &[SourceFile],
    watch: &mut (dyn FnMut(ImportProgress) + Send),
) -> Result<ByteTokenizer, ImportError> {
    let total_bytes = total_bytes(files);
    let mut documents = Documents::of(files.to_vec(), &import.field);
    let mut taken_bytes = 0;
    let mut broken = None;
    let texts = std::iter::from_fn(|| {
        loop {
            let document = match documents.next()? {
                Ok(document) => document,
                Err(error) => {
                    broken = Some(error);
                    return None;
                }
            };
            watch(ImportProgress {
                stage: ImportStage::Learning,
                done_bytes: documents.read_bytes(),
                total_bytes,
            });
            if is_held_out(&document, import.held_out_per_mille) {
                continue;
            }
            taken_bytes += document.len() as u64;
            return (taken_bytes <= TRAINING_BYTES_MAX).then_some(document);
        }
    });
    let trained = ByteTokenizer::train(vocabulary, texts.fuse());
    if let Some(error) = broken {
        return Err(error.into());
    }
    if taken_bytes == 0 {
        trained?;
        return Err(ImportError::Empty);
    }
    Ok(trained?)
}

fn write_shards(
    import: &Import,
    files: Vec<SourceFile>,
    tokenizer: &ByteTokenizer,
    folder: &Path,
    watch: &mut (dyn FnMut(ImportProgress) + Send),
) -> Result<Manifest, ImportError> {
    let tokens = Tokens {
        vocabulary: tokenizer.vocabulary(),
        end_of_text: tokenizer.end_of_text(),
        of_shard: import.shard_tokens.max(1),
        held_out_per_mille: import.held_out_per_mille,
    };
    let total_bytes = total_bytes(&files);
    let mut documents = Documents::of(files, &import.field);
    let mut training = PartWriter::new(folder, &tokens);
    let mut held_out = PartWriter::new(folder, &tokens);
    while let Some(document) = documents.next() {
        let document = document?;
        let part = if is_held_out(&document, tokens.held_out_per_mille) {
            &mut held_out
        } else {
            &mut training
        };
        tokenizer.encode(&document, &mut part.waiting)?;
        part.part.documents += 1;
        part.write_full()?;
        if training.part.shards.len() + held_out.part.shards.len() > SHARDS_MAX {
            return Err(ImportError::Large);
        }
        watch(ImportProgress {
            stage: ImportStage::Writing,
            done_bytes: documents.read_bytes(),
            total_bytes,
        });
    }
    let (training, held_out) = (training.finish()?, held_out.finish()?);
    if training.tokens == 0 {
        return Err(ImportError::Empty);
    }
    Ok(Manifest {
        label: import.label.clone(),
        tokenizer: FileSeal::of(tokenizer.json()),
        tokens,
        training,
        held_out,
    })
}

/// A part in the making.
struct PartWriter<'a> {
    folder: &'a Path,
    width: TokenWidth,
    of_shard: usize,
    waiting: Vec<u32>,
    part: Part,
}

impl<'a> PartWriter<'a> {
    fn new(folder: &'a Path, tokens: &Tokens) -> Self {
        Self {
            folder,
            width: TokenWidth::of(tokens.vocabulary),
            of_shard: tokens.of_shard as usize,
            waiting: Vec::new(),
            part: Part::default(),
        }
    }

    fn write_full(&mut self) -> Result<(), ImportError> {
        let mut written = 0;
        while self.waiting.len() - written >= self.of_shard {
            self.write(written..written + self.of_shard)?;
            written += self.of_shard;
        }
        self.waiting.drain(..written);
        Ok(())
    }

    fn finish(mut self) -> Result<Part, ImportError> {
        if !self.waiting.is_empty() {
            self.write(0..self.waiting.len())?;
        }
        Ok(self.part)
    }

    fn write(&mut self, range: std::ops::Range<usize>) -> Result<(), ImportError> {
        let tokens = &self.waiting[range];
        let bytes = self.width.encode(tokens);
        let seal = FileSeal::of(&bytes);
        let path = self.folder.join(shard_path(&seal.blake3));
        fs::write(&path, &bytes).map_err(write_error(&path))?;
        self.part.tokens += tokens.len() as u64;
        self.part.shards.push(seal);
        Ok(())
    }
}
