//! The manifest: Croissant 1.1 (JSON-LD) in canonical bytes, whose BLAKE3 hash is the dataset's id.
//!
//! Every field of it follows from a [`Manifest`], so a reader takes the values out, checks them, writes the manifest again
//! and compares: what is odd in any other way is not canonical. spec: 15, section 4.

use serde_json::{Value, json};
use thiserror::Error;

use crate::canonical;
use crate::hash::{FileSeal, Hash32};
use crate::shard::{SHARD_TOKENS_MAX, TokenWidth};
use crate::tokenizer::{TOKENIZER_BYTES_MAX, VOCABULARY_MAX, VOCABULARY_MIN};

mod reading;

/// The longest manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 8 << 20;
/// The most shards of a dataset.
pub const SHARDS_MAX: usize = 16_384;
/// The longest name, license, source and the like, in bytes.
pub const TEXT_BYTES_MAX: usize = 2_048;
/// The most documents of a thousand that are held out.
pub const HELD_OUT_PER_MILLE_MAX: u32 = 500;
/// Which version of Croissant it is.
const CONFORMS_TO: &str = "http://mlcommons.org/croissant/1.1";
/// What our own fields are called by.
const NAMESPACE: &str = "urn:hearth:dataset:1#";
/// The tokenizer's file in a dataset's folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// What people say of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Label {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Its license: an SPDX identifier, or the address of its text.
    pub license: String,
    /// Where it comes from, as an address.
    pub source: Option<String>,
    /// How its makers want to be cited.
    pub citation: Option<String>,
}

/// How its tokens are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokens {
    /// How many different tokens there are.
    pub vocabulary: u32,
    /// The token behind each document.
    pub end_of_text: u32,
    /// The tokens of every shard of a part but the last.
    pub of_shard: u32,
    /// The documents of a thousand that are held out, by their hash.
    pub held_out_per_mille: u32,
}

/// One part of a dataset: what is trained on, or what is held out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Part {
    /// How many documents it has.
    pub documents: u64,
    /// How many tokens, ends of texts included.
    pub tokens: u64,
    /// Its shards, in order.
    pub shards: Vec<FileSeal>,
}

/// A dataset, as its manifest states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What people say of it.
    pub label: Label,
    /// Its tokenizer's file.
    pub tokenizer: FileSeal,
    /// How its tokens are made.
    pub tokens: Tokens,
    /// What is trained on.
    pub training: Part,
    /// What only measures.
    pub held_out: Part,
}

/// Why bytes are not a manifest, or values make none.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Too long to be read.
    #[error("the manifest has {0} bytes, and at most {MANIFEST_BYTES_MAX} are read")]
    Long(usize),
    /// Not JSON.
    #[error("the manifest is not JSON")]
    Json(#[source] serde_json::Error),
    /// A field that is not there, or of another type.
    #[error("the manifest has no valid {0}")]
    Field(&'static str),
    /// A text that is empty, too long, or not one line.
    #[error(
        "the {0} has to be one line of 1 to {TEXT_BYTES_MAX} bytes, without blanks at its ends"
    )]
    Text(&'static str),
    /// A source that is no address of the web.
    #[error("the source has to begin with http:// or https://")]
    Source,
    /// A number out of range.
    #[error("the {field} is {value}, and has to be from {least} to {most}")]
    Range {
        /// Which.
        field: &'static str,
        /// What it is.
        value: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// Another number of shards than the tokens of a part fill, or of another size.
    #[error("the shards of the {0} part do not have its tokens")]
    Shards(&'static str),
    /// Values that are all right, in another form than they must have.
    #[error("the manifest is not in canonical form, or states something that no manifest has")]
    NotCanonical,
}

/// The names of the two parts.
const TRAINING: &str = "training";
const HELD_OUT: &str = "held-out";

impl Manifest {
    /// Returns the canonical bytes.
    ///
    /// # Errors
    /// When a value is out of range.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let bytes = canonical::bytes(&self.to_json());
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::Long(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// When they are not those of a manifest, to the byte.
    pub fn read(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::Long(bytes.len()));
        }
        let stated: Value = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        let manifest = reading::manifest(&stated)?;
        manifest.check()?;
        if canonical::bytes(&manifest.to_json()) != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    /// Returns the id of the dataset whose manifest these bytes are.
    pub fn id(bytes: &[u8]) -> Hash32 {
        Hash32::blake3(bytes)
    }

    fn check(&self) -> Result<(), ManifestError> {
        self.label.check()?;
        let tokens = &self.tokens;
        let between = |field, value: u64, least: u64, most: u64| {
            let out = ManifestError::Range {
                field,
                value,
                least,
                most,
            };
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(out)
            }
        };
        let vocabulary = u64::from(tokens.vocabulary);
        between(
            "vocabulary",
            vocabulary,
            VOCABULARY_MIN.into(),
            VOCABULARY_MAX.into(),
        )?;
        between(
            "end-of-text token",
            tokens.end_of_text.into(),
            0,
            vocabulary - 1,
        )?;
        between(
            "tokens of a shard",
            tokens.of_shard.into(),
            1,
            SHARD_TOKENS_MAX.into(),
        )?;
        let (held_out, most) = (tokens.held_out_per_mille, HELD_OUT_PER_MILLE_MAX);
        between("share that is held out", held_out.into(), 0, most.into())?;
        between(
            "tokenizer's size",
            self.tokenizer.bytes,
            1,
            TOKENIZER_BYTES_MAX,
        )?;
        between("tokens for training", self.training.tokens, 1, u64::MAX)?;
        let shards = self.training.shards.len() + self.held_out.shards.len();
        between("number of shards", shards as u64, 1, SHARDS_MAX as u64)?;
        self.training.check(TRAINING, tokens)?;
        self.held_out.check(HELD_OUT, tokens)
    }

    fn to_json(&self) -> Value {
        let mut files = vec![file(
            "tokenizer",
            TOKENIZER_FILE,
            "application/json",
            &self.tokenizer,
        )];
        for (name, part) in [(TRAINING, &self.training), (HELD_OUT, &self.held_out)] {
            for (index, seal) in part.shards.iter().enumerate() {
                let path = shard_path(&seal.blake3);
                let id = format!("{name}-{index:05}");
                files.push(file(&id, &path, "application/octet-stream", seal));
            }
        }
        let tokens = &self.tokens;
        let mut manifest = json!({
            "@context": context(),
            "@type": "sc:Dataset",
            "conformsTo": CONFORMS_TO,
            "name": self.label.name,
            "description": self.label.description,
            "license": self.label.license,
            "distribution": files,
            "hearth:vocabulary": tokens.vocabulary,
            "hearth:endOfText": tokens.end_of_text,
            "hearth:tokenBytes": TokenWidth::of(tokens.vocabulary).bytes(),
            "hearth:shardTokens": tokens.of_shard,
            "hearth:heldOutPerMille": tokens.held_out_per_mille,
            "hearth:tokenizer": self.tokenizer.blake3.to_string(),
            "hearth:trainingDocuments": self.training.documents,
            "hearth:trainingTokens": self.training.tokens,
            "hearth:heldOutDocuments": self.held_out.documents,
            "hearth:heldOutTokens": self.held_out.tokens,
        });
        if let Some(source) = &self.label.source {
            manifest["url"] = source.as_str().into();
        }
        if let Some(citation) = &self.label.citation {
            manifest["citeAs"] = citation.as_str().into();
        }
        manifest
    }
}

/// Returns where a shard stands in a dataset's folder.
pub fn shard_path(blake3: &Hash32) -> String {
    format!("shards/{blake3}.tokens")
}

fn context() -> Value {
    json!({
        "@language": "en",
        "@vocab": "https://schema.org/",
        "citeAs": "cr:citeAs",
        "conformsTo": "dct:conformsTo",
        "cr": "http://mlcommons.org/croissant/",
        "dct": "http://purl.org/dc/terms/",
        "hearth": NAMESPACE,
        "sc": "https://schema.org/",
    })
}

fn file(id: &str, path: &str, format: &str, seal: &FileSeal) -> Value {
    json!({
        "@id": id,
        "@type": "cr:FileObject",
        "name": id,
        "contentUrl": path,
        "contentSize": format!("{} B", seal.bytes),
        "encodingFormat": format,
        "sha256": seal.sha256.to_string(),
        "hearth:blake3": seal.blake3.to_string(),
    })
}

impl Label {
    /// Checks every text.
    ///
    /// # Errors
    /// Which text cannot stand in a manifest.
    pub fn check(&self) -> Result<(), ManifestError> {
        let texts = [
            ("name", Some(&self.name)),
            ("description", Some(&self.description)),
            ("license", Some(&self.license)),
            ("source", self.source.as_ref()),
            ("citation", self.citation.as_ref()),
        ];
        for (name, text) in texts {
            let plain = |text: &String| {
                (1..=TEXT_BYTES_MAX).contains(&text.len())
                    && text.trim() == text
                    && !text.chars().any(char::is_control)
            };
            if text.is_some_and(|text| !plain(text)) {
                return Err(ManifestError::Text(name));
            }
        }
        let web = |text: &String| text.starts_with("http://") || text.starts_with("https://");
        if self.source.as_ref().is_some_and(|source| !web(source)) {
            return Err(ManifestError::Source);
        }
        Ok(())
    }
}

impl Part {
    /// Returns how many tokens the shard of that index has.
    pub fn tokens_of(&self, shard: usize, of_shard: u32) -> u64 {
        let begin = (shard as u64).saturating_mul(of_shard.into());
        self.tokens.saturating_sub(begin).min(of_shard.into())
    }

    fn check(&self, name: &'static str, tokens: &Tokens) -> Result<(), ManifestError> {
        let wrong = ManifestError::Shards(name);
        if self.tokens.div_ceil(tokens.of_shard.into()) != self.shards.len() as u64 {
            return Err(wrong);
        }
        let width = TokenWidth::of(tokens.vocabulary).bytes() as u64;
        let sized = |(index, seal): (usize, &FileSeal)| {
            seal.bytes == self.tokens_of(index, tokens.of_shard) * width
        };
        // Each document has its end of text at least.
        if self.documents > self.tokens || !self.shards.iter().enumerate().all(sized) {
            return Err(wrong);
        }
        Ok(())
    }
}
