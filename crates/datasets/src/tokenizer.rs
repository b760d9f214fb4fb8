//! The tokenizer of a dataset: byte-level BPE, trained on it or loaded, and checked before it is used.
//!
//! A `tokenizer.json` can state far more than BPE: normalizers that lose text, patterns, templates. Only what keeps every
//! text exactly is taken. spec: 15, section 3.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::ops::RangeInclusive;

use serde_json::Value;
use thiserror::Error;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// The longest `tokenizer.json`, in bytes.
pub const TOKENIZER_BYTES_MAX: u64 = 32 << 20;
/// The smallest vocabulary: every byte, and the end of a text.
pub const VOCABULARY_MIN: u32 = 257;
/// The largest vocabulary.
pub const VOCABULARY_MAX: u32 = 1 << 18;
/// The largest vocabulary that is trained.
pub const VOCABULARY_TRAINED_MAX: u32 = 1 << 16;
/// The most text that a tokenizer is trained on, in bytes. Counts of pairs have 31 bits there.
pub const TRAINING_BYTES_MAX: u64 = 256 << 20;
/// The token behind each document, of a tokenizer that is trained here.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// What other tokenizers call it.
const ENDS_OF_TEXT: &[&str] = &[END_OF_TEXT, "<|end_of_text|>", "</s>"];
/// Steps before the model that keep every text.
const HARMLESS: &[&str] = &["ByteLevel", "Digits", "Split", "Sequence"];
/// The characters that stand for bytes which no UTF-8 text has, so that a tokenizer may lack them.
const NEVER_IN_UTF8: [char; 13] = [
    '\u{c0}', '\u{c1}', '\u{f5}', '\u{f6}', '\u{f7}', '\u{f8}', '\u{f9}', '\u{fa}', '\u{fb}',
    '\u{fc}', '\u{fd}', '\u{fe}', '\u{ff}',
];
/// The characters that stand for bytes which texts of people hardly have, so that a tokenizer may lack them too: control
/// characters but NUL and those that lay text out, and what begins the characters of planes that have none. SmolLM2's lacks some
/// of them. A document that has one is refused then, since it does not come back.
const HARDLY_IN_TEXT: [RangeInclusive<char>; 4] = [
    '\u{101}'..='\u{108}',
    '\u{10e}'..='\u{11f}',
    '\u{121}'..='\u{121}',
    '\u{f1}'..='\u{f2}',
];
/// How deep sequences of steps may nest.
const NESTING_MAX: usize = 8;

/// What the tokenizer's library says.
type LibraryError = Box<dyn StdError + Send + Sync>;

/// Why there is no tokenizer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file that is no `tokenizer.json`.
    #[error("the file is not a tokenizer.json")]
    NotATokenizer(#[source] LibraryError),
    /// Too long to be read.
    #[error("the tokenizer has more than {TOKENIZER_BYTES_MAX} bytes")]
    Long,
    /// Something that is not byte-level BPE, or that loses text.
    #[error("the tokenizer is not plain byte-level BPE: {0}")]
    NotByteLevel(&'static str),
    /// A vocabulary out of range.
    #[error("a vocabulary has {VOCABULARY_MIN} to {max} tokens, and not {asked}")]
    Vocabulary {
        /// How many are asked for, or there.
        asked: u64,
        /// The most.
        max: u32,
    },
    /// Ids that are not those from 0 on.
    #[error("the ids of the vocabulary have gaps")]
    Gaps,
    /// No token ends a text.
    #[error("the tokenizer has no special token named {}", ENDS_OF_TEXT.join(", "))]
    NoEnd,
    /// A text that the tokenizer cannot take.
    #[error("the tokenizer breaks on a text")]
    Text(#[source] LibraryError),
    /// A text in which the tokenizer sees its own end-of-text token.
    #[error("the tokenizer finds its end-of-text token inside of a document")]
    EndInside,
    /// A text that the tokens do not give back.
    #[error("the tokenizer does not give a document back as it was")]
    Lossy,
    /// Training broke.
    #[error("no tokenizer could be trained")]
    Training(#[source] LibraryError),
}

/// A tokenizer that keeps every text, and its bytes.
pub struct ByteTokenizer {
    inner: Tokenizer,
    json: Vec<u8>,
    vocabulary: u32,
    end_of_text: u32,
}

impl std::fmt::Debug for ByteTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteTokenizer")
            .field("vocabulary", &self.vocabulary)
            .field("end_of_text", &self.end_of_text)
            .finish_non_exhaustive()
    }
}

impl ByteTokenizer {
    /// Trains one on `texts`. It has fewer tokens than `vocabulary` where the texts have too few pairs that repeat.
    ///
    /// # Errors
    /// When the vocabulary is out of range.
    pub fn train<I>(vocabulary: u32, texts: I) -> Result<Self, TokenizerError>
    where
        I: Iterator<Item = String> + Send,
    {
        if !(VOCABULARY_MIN..=VOCABULARY_TRAINED_MAX).contains(&vocabulary) {
            return Err(TokenizerError::Vocabulary {
                asked: vocabulary.into(),
                max: VOCABULARY_TRAINED_MAX,
            });
        }
        let bytes = ByteLevel::new(false, false, true);
        let trainer = BpeTrainer::builder()
            .vocab_size(vocabulary as usize)
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .build();
        let mut tokenizer = Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(bytes));
        tokenizer.with_decoder(Some(bytes));
        let trained = tokenizer.train(&mut TrainerWrapper::from(trainer), texts);
        trained.map_err(TokenizerError::Training)?;
        let json = tokenizer.to_string(false);
        Self::load(json.map_err(TokenizerError::Training)?.into_bytes())
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// When it is not one of byte-level BPE that keeps every text.
    pub fn load(json: Vec<u8>) -> Result<Self, TokenizerError> {
        if json.len() as u64 > TOKENIZER_BYTES_MAX {
            return Err(TokenizerError::Long);
        }
        let stated: Value = serde_json::from_slice(&json)
            .map_err(|error| TokenizerError::NotATokenizer(error.into()))?;
        check(&stated)?;
        drop(stated);
        let mut inner = Tokenizer::from_bytes(&json).map_err(TokenizerError::NotATokenizer)?;
        // What a document says is never a control token, whatever it spells.
        inner.set_encode_special_tokens(true);
        let vocabulary = size(&inner)?;
        let special = inner.get_added_tokens_decoder();
        let end = |name: &&str| {
            let id = inner.token_to_id(name)?;
            special
                .get(&id)
                .is_some_and(|token| token.special)
                .then_some(id)
        };
        let end_of_text = ENDS_OF_TEXT
            .iter()
            .find_map(end)
            .ok_or(TokenizerError::NoEnd)?;
        Ok(Self {
            inner,
            json,
            vocabulary,
            end_of_text,
        })
    }

    /// Returns the bytes of its `tokenizer.json`.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// Returns how many tokens it has; their ids begin with 0.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// Returns the token behind each document.
    pub fn end_of_text(&self) -> u32 {
        self.end_of_text
    }

    /// Appends the tokens of a document, and the end of text, to `tokens`.
    ///
    /// # Errors
    /// When the tokenizer breaks on it, finds its end-of-text token in it, or does not keep it.
    pub fn encode(&self, document: &str, tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let encoded = self.inner.encode_fast(document, false);
        let encoded = encoded.map_err(TokenizerError::Text)?;
        if encoded.get_ids().contains(&self.end_of_text) {
            return Err(TokenizerError::EndInside);
        }
        if self.decode(encoded.get_ids())? != document {
            return Err(TokenizerError::Lossy);
        }
        tokens.extend_from_slice(encoded.get_ids());
        tokens.push(self.end_of_text);
        Ok(())
    }

    /// Returns the text of some tokens, without special ones.
    ///
    /// # Errors
    /// When the tokenizer breaks.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        self.inner
            .decode(tokens, true)
            .map_err(TokenizerError::Text)
    }
}

/// Checks what a `tokenizer.json` states, before the library builds it.
fn check(stated: &Value) -> Result<(), TokenizerError> {
    let refuse = |reason| Err(TokenizerError::NotByteLevel(reason));
    let model = &stated["model"];
    // Files of the first versions do not name the model; only BPE has merges.
    let unnamed = model["type"].is_null() && model["merges"].is_array();
    if model["type"] != "BPE" && !unnamed {
        return refuse("its model is not BPE");
    }
    if !model["dropout"].is_null() {
        return refuse("it leaves merges out by chance");
    }
    for part in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if !matches!(&model[part], Value::Null) && model[part] != "" {
            return refuse("its pieces have prefixes or suffixes");
        }
    }
    for part in ["normalizer", "truncation", "padding"] {
        if !stated[part].is_null() {
            return refuse("it changes, cuts or pads texts");
        }
    }
    if !steps(&stated["pre_tokenizer"], NESTING_MAX)? {
        return refuse("it does not work on bytes");
    }
    let Some(pieces) = model["vocab"].as_object() else {
        return refuse("it has no vocabulary");
    };
    let bytes = ByteLevel::alphabet();
    let is_rare = |byte: &char| HARDLY_IN_TEXT.iter().any(|range| range.contains(byte));
    let may_lack = |byte: &char| NEVER_IN_UTF8.contains(byte) || is_rare(byte);
    let mut needed = bytes.iter().filter(|byte| !may_lack(byte));
    if !needed.all(|byte| pieces.contains_key(&byte.to_string())) {
        return refuse("its vocabulary lacks some bytes");
    }
    Ok(())
}

/// Whether the steps before the model turn text into bytes, which the last of them must.
fn steps(step: &Value, depth: usize) -> Result<bool, TokenizerError> {
    let name = step["type"].as_str().unwrap_or_default();
    if !HARMLESS.contains(&name) || depth == 0 {
        return Err(TokenizerError::NotByteLevel(
            "it splits texts in a way that is not known",
        ));
    }
    if step["add_prefix_space"] == true {
        return Err(TokenizerError::NotByteLevel(
            "it puts a space in front of texts",
        ));
    }
    if name == "Split" && step["behavior"] == "Removed" {
        return Err(TokenizerError::NotByteLevel("it leaves parts of texts out"));
    }
    let mut on_bytes = name == "ByteLevel";
    for inner in step["pretokenizers"].as_array().into_iter().flatten() {
        on_bytes |= steps(inner, depth - 1)?;
    }
    Ok(on_bytes)
}

/// The number of tokens, whose ids are those from 0 on.
fn size(tokenizer: &Tokenizer) -> Result<u32, TokenizerError> {
    let ids: BTreeSet<u32> = tokenizer.get_vocab(true).into_values().collect();
    let asked = ids.len() as u64;
    let max = VOCABULARY_MAX;
    let count = u32::try_from(asked).ok();
    let count = count.filter(|count| (VOCABULARY_MIN..=max).contains(count));
    let count = count.ok_or(TokenizerError::Vocabulary { asked, max })?;
    if ids.last() != Some(&(count - 1)) {
        return Err(TokenizerError::Gaps);
    }
    Ok(count)
}
