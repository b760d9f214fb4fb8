//! A dataset's folder: read back, and believed only as far as the manifest's hashes reach.
//!
//! A folder may come from another device, so that links in it are not followed, and no file is read that is longer than the
//! manifest says.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::hash::{FileSeal, Hash32, SealError};
use crate::manifest::{
    MANIFEST_BYTES_MAX, Manifest, ManifestError, Part, TOKENIZER_FILE, shard_path,
};
use crate::shard::{self, ShardError};
use crate::tokenizer::{ByteTokenizer, TokenizerError};
use crate::windows::{WindowError, Windowed};

/// The manifest's file in a dataset's folder.
pub const MANIFEST_FILE: &str = "croissant.json";
/// The folder of shards in it.
pub const SHARDS_FOLDER: &str = "shards";

/// Why a folder, or something in it, cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FolderError {
    /// The system.
    #[error("{} cannot be read", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A link, a folder or a device in the place of a file.
    #[error("{} is not a plain file", .0.display())]
    NotAFile(PathBuf),
    /// The manifest.
    #[error("{} is not the manifest of a dataset", .path.display())]
    Manifest {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// Another dataset than the one that was meant.
    #[error("the folder has the dataset {found}, and {wanted} is wanted")]
    OtherDataset {
        /// What is there.
        found: Hash32,
        /// What is wanted.
        wanted: Hash32,
    },
    /// A shard that is not what the manifest says.
    #[error("the shard {} is damaged", .path.display())]
    Shard {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ShardError,
    },
    /// Bytes that have one hash of the manifest and not the other.
    #[error("{} is damaged", .path.display())]
    Seal {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: SealError,
    },
    /// A tokenizer that cannot be used.
    #[error("the dataset's tokenizer cannot be used")]
    Tokenizer(#[from] TokenizerError),
    /// A tokenizer that would give other tokens.
    #[error(
        "the dataset's tokenizer has another vocabulary, or another end of text, than the manifest says"
    )]
    OtherTokenizer,
    /// Another number of documents than the manifest says.
    #[error("the {part} part has {found} documents, and the manifest says {stated}")]
    Documents {
        /// Which part.
        part: &'static str,
        /// What is there.
        found: u64,
        /// What the manifest says.
        stated: u64,
    },
    /// A window that cannot be.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// A window that is not there.
    #[error("window {asked} is asked for, and there are {there}")]
    NoWindow {
        /// Which.
        asked: u64,
        /// How many there are.
        there: u64,
    },
}

/// One of the two parts of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichPart {
    /// What is trained on.
    Training,
    /// What only measures.
    HeldOut,
}

/// A dataset in a folder.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    id: Hash32,
    manifest: Manifest,
    /// The shard that was read last: windows that follow each other are in few shards.
    read: Option<(Hash32, Vec<u32>)>,
}

impl Folder {
    /// Reads the manifest of a folder.
    ///
    /// # Errors
    /// When there is none, or it is not one to the byte.
    pub fn open(root: &Path) -> Result<Self, FolderError> {
        let path = root.join(MANIFEST_FILE);
        let bytes = read_plain(&path, MANIFEST_BYTES_MAX as u64)?;
        let manifest = Manifest::read(&bytes);
        let manifest = manifest.map_err(|source| FolderError::Manifest { path, source })?;
        Ok(Self {
            root: root.to_owned(),
            id: Manifest::id(&bytes),
            manifest,
            read: None,
        })
    }

    /// Reads the manifest of a folder that must have a certain dataset.
    ///
    /// # Errors
    /// When there is none, or that of another one.
    pub fn open_as(root: &Path, wanted: Hash32) -> Result<Self, FolderError> {
        let folder = Self::open(root)?;
        let found = folder.id;
        if found != wanted {
            return Err(FolderError::OtherDataset { found, wanted });
        }
        Ok(folder)
    }

    /// Returns the dataset's id.
    pub fn id(&self) -> Hash32 {
        self.id
    }

    /// Returns the manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns a part as windows of a size.
    pub fn windowed(&self, part: WhichPart, window_tokens: u32) -> Windowed {
        Windowed {
            dataset: self.id,
            tokens: self.part(part).tokens,
            window_tokens,
        }
    }

    /// Reads the tokenizer.
    ///
    /// # Errors
    /// When it is not the one that the manifest names.
    pub fn tokenizer(&self) -> Result<ByteTokenizer, FolderError> {
        let path = self.root.join(TOKENIZER_FILE);
        let seal = &self.manifest.tokenizer;
        let bytes = read_plain(&path, seal.bytes)?;
        let checked = seal.check_all(&bytes);
        checked.map_err(|source| FolderError::Seal { path, source })?;
        let tokenizer = ByteTokenizer::load(bytes)?;
        let stated = &self.manifest.tokens;
        if (tokenizer.vocabulary(), tokenizer.end_of_text())
            != (stated.vocabulary, stated.end_of_text)
        {
            return Err(FolderError::OtherTokenizer);
        }
        Ok(tokenizer)
    }

    /// Reads the `window_tokens + 1` tokens of a window.
    ///
    /// # Errors
    /// When there is no such window, or a shard of it is not what the manifest says.
    pub fn window(
        &mut self,
        part: WhichPart,
        window_tokens: u32,
        window: u64,
    ) -> Result<Vec<u32>, FolderError> {
        let there = self.windowed(part, window_tokens).count()?;
        if window >= there {
            let asked = window;
            return Err(FolderError::NoWindow { asked, there });
        }
        let of_shard = u64::from(self.manifest.tokens.of_shard);
        let begin = window * u64::from(window_tokens);
        let end = begin + u64::from(window_tokens) + 1;
        let mut tokens = Vec::with_capacity(window_tokens as usize + 1);
        let mut place = begin;
        while place < end {
            let shard = place / of_shard;
            let until = end.min((shard + 1) * of_shard);
            let shard_begin = shard * of_shard;
            let index = usize::try_from(shard).expect("a manifest lists few shards");
            let range = place - shard_begin..until - shard_begin;
            let range = range.start as usize..range.end as usize;
            tokens.extend_from_slice(&self.shard(part, index)?[range]);
            place = until;
        }
        Ok(tokens)
    }

    fn part(&self, part: WhichPart) -> &Part {
        match part {
            WhichPart::Training => &self.manifest.training,
            WhichPart::HeldOut => &self.manifest.held_out,
        }
    }

    fn shard(&mut self, part: WhichPart, index: usize) -> Result<&[u32], FolderError> {
        let seal = self.part(part).shards[index];
        let kept = self.read.take().filter(|(name, _)| *name == seal.blake3);
        let read = match kept {
            Some(read) => read,
            None => (seal.blake3, self.read_shard(&seal)?.1),
        };
        Ok(&self.read.insert(read).1)
    }

    /// The bytes of a shard, and its tokens.
    fn read_shard(&self, seal: &FileSeal) -> Result<(Vec<u8>, Vec<u32>), FolderError> {
        let path = self.root.join(shard_path(&seal.blake3));
        let bytes = read_plain(&path, seal.bytes)?;
        let tokens = shard::tokens(&bytes, seal, self.manifest.tokens.vocabulary);
        let tokens = tokens.map_err(|source| FolderError::Shard { path, source })?;
        Ok((bytes, tokens))
    }

    /// Reads everything and compares it with the manifest. `watch` is told how many bytes of shards were read.
    ///
    /// # Errors
    /// What differs first.
    pub fn verify(&self, watch: &mut dyn FnMut(u64)) -> Result<(), FolderError> {
        self.tokenizer()?;
        let mut done_bytes = 0;
        for (name, part) in [
            ("training", &self.manifest.training),
            ("held-out", &self.manifest.held_out),
        ] {
            let mut found = 0;
            for seal in &part.shards {
                let (bytes, tokens) = self.read_shard(seal)?;
                let checked = seal.check_all(&bytes);
                let path = self.root.join(shard_path(&seal.blake3));
                checked.map_err(|source| FolderError::Seal { path, source })?;
                let end = self.manifest.tokens.end_of_text;
                found += tokens.iter().filter(|token| **token == end).count() as u64;
                done_bytes += seal.bytes;
                watch(done_bytes);
            }
            let stated = part.documents;
            if found != stated {
                return Err(FolderError::Documents {
                    part: name,
                    found,
                    stated,
                });
            }
        }
        Ok(())
    }
}

/// Reads a file that is one, and at most one byte more than it may have.
fn read_plain(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FolderError> {
    let io = |source| FolderError::Io {
        path: path.to_owned(),
        source,
    };
    if !fs::symlink_metadata(path).map_err(io)?.is_file() {
        return Err(FolderError::NotAFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    Ok(bytes)
}
