//! Text to token ids and back, as the model's own file says.
//!
//! A payer needs this without the weights: it renders the prompt, and signs its ids. So a
//! vocabulary also loads from a sparse file that holds only the head of a model file, as long as
//! the file has the length of the whole (llama.cpp checks where the tensors would lie, and reads
//! none of them).
//!
//! The bytes of all tokens are taken out of llama.cpp once, so that no id from outside ever
//! reaches it unchecked, and so that ids become text without it: a [`Vocabulary`] is plain data,
//! and only the [`Encoder`] knows llama.cpp. Files come from strangers, so encoders live in reader
//! processes (`reader`).

use std::path::Path;
use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;
use llama_cpp_2::vocab::{LlamaVocab, VocabType};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::backend::{self, OpenError};
use crate::gguf;
use crate::packed::Packed;

#[cfg(test)]
pub(crate) mod made_up;
pub(crate) mod markup;
pub(crate) mod split;
#[cfg(test)]
mod tests;
mod text;

use markup::{Markup, MarkupKind, MarkupToken, PIECES_MAX, Stretch, TooMuchMarkup};
pub use text::TextDecoder;

/// The longest text that is encoded at once, in bytes.
pub const TEXT_BYTES_MAX: usize = 4 << 20;

/// Why a text has no ids. Exhaustive, so that whoever tells it further decides on each cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum EncodeError {
    /// It is longer than [`TEXT_BYTES_MAX`].
    #[error("the text has more than {TEXT_BYTES_MAX} bytes: send less")]
    TooLong,
    /// Its vocabulary has no tokens for plain words.
    #[error("the model's vocabulary turns plain words into control tokens: use another file of it")]
    NoWords,
    /// No thread could be started for it, or the thread broke.
    #[error("the text could not be turned into tokens here: try again")]
    Unavailable,
}

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PromptPart {
    /// A special token that the template wrote.
    Token(u32),
    /// Text in which nothing is markup.
    Words(String),
}

/// A bias is for a token that the vocabulary does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "logit_bias names the token {id}, and the model has {tokens} tokens, the first of which is 0"
)]
pub struct UnknownBias {
    /// The token.
    pub id: u32,
    /// How many tokens there are.
    pub tokens: usize,
}

/// The tokens with a meaning of their own; each may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SpecialTokens {
    /// Begins a text.
    pub beginning: Option<u32>,
    /// Ends a text.
    pub end: Option<u32>,
    /// Ends a turn of a conversation.
    pub end_of_turn: Option<u32>,
    /// Whether texts are meant to begin with `beginning`.
    pub adds_beginning: bool,
}

/// The vocabulary of a model, without what turns texts into ids. Cheap to share, never changes.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    inner: Arc<VocabularyParts>,
}

/// What a vocabulary consists of, as it crosses the pipe of a reader process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VocabularyParts {
    /// The bytes of all tokens, one after the other.
    pub(crate) bytes: Packed,
    /// Where each token ends in `bytes`; it begins where the one before ends.
    #[serde(deserialize_with = "crate::packed::tokens")]
    pub(crate) ends: Vec<u32>,
    /// What each token is, by its id.
    #[serde(deserialize_with = "crate::packed::tokens")]
    pub(crate) kinds: Vec<Kind>,
    pub(crate) special: SpecialTokens,
    pub(crate) template: Option<String>,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Text,
    /// Never shown.
    Control,
    /// Never shown, and ends the text.
    End,
}

/// Why parts are not a vocabulary; what is wrong, for a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the vocabulary makes no sense: {0}")]
pub(crate) struct BadVocabulary(pub(crate) &'static str);

impl TryFrom<VocabularyParts> for Vocabulary {
    type Error = BadVocabulary;

    /// Takes parts in from a process that read the file of a stranger, and is not believed.
    fn try_from(parts: VocabularyParts) -> Result<Self, BadVocabulary> {
        let tokens = parts.ends.len();
        if tokens as u64 > gguf::VOCABULARY_MAX {
            return Err(BadVocabulary("it has too many tokens"));
        }
        if parts.kinds.len() != tokens {
            return Err(BadVocabulary("not every token has a kind"));
        }
        let last = parts.ends.last().map_or(0, |end| *end as usize);
        if !parts.ends.is_sorted() || last != parts.bytes.0.len() {
            return Err(BadVocabulary("the bytes of its tokens do not fit"));
        }
        let special = parts.special;
        let named = [special.beginning, special.end, special.end_of_turn];
        if (named.into_iter().flatten()).any(|id| id as usize >= tokens) {
            return Err(BadVocabulary("a special token is none of its tokens"));
        }
        let template_bytes = parts.template.as_ref().map_or(0, String::len);
        if template_bytes as u64 > gguf::TEXT_BYTES_MAX {
            return Err(BadVocabulary("its chat template is too long"));
        }
        let inner = Arc::new(parts);
        Ok(Self { inner })
    }
}

impl Vocabulary {
    /// A vocabulary of the 256 single bytes and a token that ends the text.
    pub(crate) fn of_bytes() -> Self {
        const END: u32 = 256;
        let end = b"<end>";
        let bytes: Vec<u8> = (0..=u8::MAX).chain(end.iter().copied()).collect();
        let last = bytes.len() as u32;
        let mut kinds = vec![Kind::Text; END as usize];
        kinds.push(Kind::End);
        Self {
            inner: Arc::new(VocabularyParts {
                bytes: Packed(bytes),
                ends: (1..=END).chain([last]).collect(),
                kinds,
                special: SpecialTokens {
                    end: Some(END),
                    ..SpecialTokens::default()
                },
                template: None,
            }),
        }
    }
}

/// What turns texts into ids: the vocabulary as llama.cpp has it. Lives in a reader process only.
#[derive(Debug, Clone)]
pub struct Encoder {
    inner: Arc<Inner>,
    vocabulary: Vocabulary,
}

#[derive(Debug)]
struct Inner {
    model: Arc<LlamaModel>,
    markup: Arc<Markup>,
    /// Whether the markup is more than can be told apart from words.
    too_much_markup: bool,
    /// Whether matchers of the pre-tokenizer recurse.
    recurses: bool,
    /// What llama.cpp puts before the words that it is given, and those that begin with a line feed.
    prefix: Option<Vec<u32>>,
}

impl std::ops::Deref for Encoder {
    type Target = Vocabulary;

    fn deref(&self) -> &Vocabulary {
        &self.vocabulary
    }
}

impl Encoder {
    /// Loads the vocabulary of a model file, or of a sparse file that has its head and its length.
    ///
    /// Takes tens of milliseconds, and blocks. A file of a stranger can end the process.
    ///
    /// # Errors
    /// When the file is missing or is not a model.
    pub fn load(path: &Path) -> Result<Self, OpenError> {
        let params = LlamaModelParams::default().with_vocab_only(true);
        Ok(Self::of(Arc::new(backend::open(path, &params)?)))
    }

    /// The encoder of a model that is loaded already.
    fn of(model: Arc<LlamaModel>) -> Self {
        let vocab = model.vocab();
        let (mut bytes, mut ends, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
        for token in vocab.tokens() {
            let plain = vocab.token_to_piece(token, false, None);
            let shown = !plain.is_empty();
            let piece = if shown {
                plain
            } else {
                vocab.token_to_piece(token, true, None)
            };
            kinds.push(if vocab.is_eog(token) {
                Kind::End
            } else if shown {
                Kind::Text
            } else {
                Kind::Control
            });
            bytes.extend(piece);
            ends.push(u32::try_from(bytes.len()).expect("a vocabulary is less than 4 GiB"));
        }
        let id = |token: LlamaToken| u32::try_from(token.0).ok();
        let special = SpecialTokens {
            beginning: id(vocab.bos()),
            end: id(vocab.eos()),
            end_of_turn: id(vocab.eot()),
            adds_beginning: vocab.should_add_bos(),
        };
        let template = model.chat_template(None).ok();
        let template = template.and_then(|template| template.to_string().ok());
        let parts = Arc::new(VocabularyParts {
            bytes: Packed(bytes),
            ends,
            kinds,
            special,
            template,
        });
        let markup = markup_of(&model);
        Self {
            vocabulary: Vocabulary { inner: parts },
            inner: Arc::new(Inner {
                too_much_markup: markup.is_err(),
                markup: Arc::new(markup.unwrap_or_default()),
                recurses: vocab.vocab_type() == VocabType::BPE,
                prefix: prefix_of(&vocab),
                model,
            }),
        }
    }

    /// The vocabulary's tokens.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The ids of a text.
    ///
    /// With `parse_special` the names of special tokens in the text become those tokens: right for
    /// text of this model's owner, wrong for words of anybody else. Without it no id is a special
    /// token that marks something. No token is added at the beginning.
    ///
    /// # Errors
    /// When the text is too long.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, EncodeError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(EncodeError::TooLong);
        }
        let encode = || {
            let mut ids = Vec::new();
            if !parse_special {
                self.encode_words(text, &mut ids)?;
                return Ok(ids);
            }
            let stretches = self.inner.markup.stretches(text);
            if stretches.len() > PIECES_MAX {
                return Err(EncodeError::TooLong);
            }
            for stretch in stretches {
                match stretch {
                    Stretch::Token(id) => ids.push(id),
                    Stretch::Words(words) => self.encode_words(words, &mut ids)?,
                }
            }
            Ok(ids)
        };
        if text.len() <= split::SHALLOW_BYTES_MAX {
            return encode();
        }
        split::on_deep_stack(encode).map_err(|_| EncodeError::Unavailable)?
    }

    /// The ids of a prompt whose markup is apart from its words.
    ///
    /// # Errors
    /// When it is too long.
    pub(crate) fn encode_parts(&self, parts: &[PromptPart]) -> Result<Vec<u32>, EncodeError> {
        if parts.len() > PIECES_MAX {
            return Err(EncodeError::TooLong);
        }
        let encode = || {
            let mut ids = Vec::new();
            for part in parts {
                match part {
                    PromptPart::Token(id) => ids.push(*id),
                    PromptPart::Words(words) => self.encode_words(words, &mut ids)?,
                }
            }
            Ok(ids)
        };
        split::on_deep_stack(encode).map_err(|_| EncodeError::Unavailable)?
    }

    /// Adds the ids of words, none of which marks anything. To be called with a deep stack.
    pub(crate) fn encode_words(&self, words: &str, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        if self.inner.too_much_markup {
            return Err(EncodeError::NoWords);
        }
        let pieces = self.inner.markup.pieces(words);
        if pieces.len() > PIECES_MAX {
            return Err(EncodeError::TooLong);
        }
        let mut continues = false;
        for piece in pieces {
            let whole = (!self.inner.recurses).then_some(piece);
            let split = self.inner.recurses.then(|| split::pieces(piece));
            for part in whole.into_iter().chain(split.into_iter().flatten()) {
                self.encode_piece(part, continues, ids)?;
                continues = true;
            }
        }
        Ok(())
    }

    /// Adds the ids of a piece. Merges of a tokenizer can make a special token out of its parts;
    /// such a piece is cut until they do not.
    fn encode_piece(
        &self,
        piece: &str,
        continues: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        if piece.is_empty() {
            return Ok(());
        }
        let found = self.tokenize(piece, continues);
        if !found.iter().any(|id| self.inner.markup.forbids(*id)) {
            ids.extend(found);
            return Ok(());
        }
        let mut middle = piece.floor_char_boundary(piece.len() / 2);
        if middle == 0 {
            middle = piece.chars().next().map_or(0, char::len_utf8);
        }
        let (left, right) = piece.split_at(middle);
        if right.is_empty() {
            return Err(EncodeError::NoWords);
        }
        self.encode_piece(left, continues, ids)?;
        self.encode_piece(right, true, ids)
    }

    /// What llama.cpp makes of a piece, without the blank that it may put before it where the piece
    /// continues another.
    fn tokenize(&self, piece: &str, continues: bool) -> Vec<u32> {
        let vocab = self.inner.model.vocab();
        let Some(prefix) = self.inner.prefix.as_ref().filter(|_| continues) else {
            return plain_ids(&vocab, piece);
        };
        if let Some(rest) = piece.strip_prefix(' ').filter(|rest| !rest.is_empty()) {
            return plain_ids(&vocab, rest);
        }
        let after_line = plain_ids(&vocab, &format!("\n{piece}"));
        match after_line.strip_prefix(&prefix[..]) {
            Some(ids) => ids.to_vec(),
            None => plain_ids(&vocab, piece),
        }
    }

    /// The tokens that mark something.
    pub(crate) fn markup(&self) -> &Arc<Markup> {
        &self.inner.markup
    }
}

impl Vocabulary {
    /// What it consists of.
    pub(crate) fn parts(&self) -> &VocabularyParts {
        &self.inner
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.inner.ends.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.inner.ends.is_empty()
    }

    /// The bytes of a token as they are shown: empty for a control token and for an unknown id.
    pub fn shown_bytes(&self, id: u32) -> &[u8] {
        match self.kind(id) {
            Some(Kind::Text) => self.bytes(id),
            _ => &[],
        }
    }

    /// The bytes of a token, the names of control tokens too; empty for an unknown id.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let index = id as usize;
        let Some(end) = self.inner.ends.get(index) else {
            return &[];
        };
        let start = index
            .checked_sub(1)
            .map_or(0, |before| self.inner.ends[before]);
        &self.inner.bytes.0[start as usize..*end as usize]
    }

    /// The shown bytes of several tokens together.
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let bytes = ids.iter().map(|id| self.shown_bytes(*id));
        bytes.collect::<Vec<_>>().concat()
    }

    /// Whether a token ends the text or the turn.
    pub fn is_end_of_text(&self, id: u32) -> bool {
        self.kind(id) == Some(Kind::End)
    }

    /// Whether there is such a token.
    pub fn contains(&self, id: u32) -> bool {
        (id as usize) < self.len()
    }

    /// Whether every biased token is one of these; `biases` are in the order of their ids.
    ///
    /// # Errors
    /// When one is not, with its id.
    pub fn check_biases(&self, biases: &[(u32, i32)]) -> Result<(), UnknownBias> {
        match biases.last() {
            Some((id, _)) if !self.contains(*id) => Err(UnknownBias {
                id: *id,
                tokens: self.len(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether a token is never shown.
    pub(crate) fn is_control(&self, id: u32) -> bool {
        self.kind(id) != Some(Kind::Text)
    }

    /// The tokens with a meaning of their own.
    pub fn special(&self) -> SpecialTokens {
        self.inner.special
    }

    /// The chat template inside the model file, if it has one.
    pub fn template_text(&self) -> Option<&str> {
        self.inner.template.as_deref()
    }

    fn kind(&self, id: u32) -> Option<Kind> {
        self.inner.kinds.get(id as usize).copied()
    }
}

fn plain_ids(vocab: &LlamaVocab<'_>, text: &str) -> Vec<u32> {
    let tokens = vocab.tokenize(text.as_bytes(), false, false);
    let ids = tokens.into_iter().map(|token| u32::try_from(token.0));
    ids.map_while(Result::ok).collect()
}

/// The ids of a line feed, where the tokenizer puts a blank before words.
fn prefix_of(vocab: &LlamaVocab<'_>) -> Option<Vec<u32>> {
    let first = *vocab.tokenize(b"a", false, false).first()?;
    let shown = vocab.token_to_piece(first, false, None);
    (vocab.vocab_type() == VocabType::SPM && shown.first() == Some(&b' '))
        .then(|| plain_ids(vocab, "\n"))
}

/// The special tokens of a vocabulary.
fn markup_of(model: &LlamaModel) -> Result<Markup, TooMuchMarkup> {
    let vocab = model.vocab();
    let unknown = model.meta_val_str("tokenizer.ggml.unknown_token_id").ok();
    let unknown: Option<i32> = unknown.and_then(|id| id.parse().ok());
    Markup::new(vocab.tokens().filter_map(|token| {
        let attributes = vocab.attr(token);
        let has = |attribute| attributes.contains(attribute);
        let kind = if has(LlamaTokenAttr::Unknown) || unknown == Some(token.0) {
            MarkupKind::Unknown
        } else if has(LlamaTokenAttr::Control) {
            MarkupKind::Control
        } else if has(LlamaTokenAttr::UserDefined) {
            MarkupKind::UserDefined
        } else {
            return None;
        };
        Some(MarkupToken {
            id: u32::try_from(token.0).ok()?,
            text: vocab.text(token)?.to_str().ok()?.to_owned(),
            kind,
            strips_left: has(LlamaTokenAttr::LStrip),
            strips_right: has(LlamaTokenAttr::RStrip),
        })
    }))
}
