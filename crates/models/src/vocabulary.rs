//! Text to token ids and back, as the model's own file says.
//!
//! A payer needs this without the weights: it renders the prompt, and signs its ids. So a
//! vocabulary also loads from a sparse file that holds only the head of a model file, as long as
//! the file has the length of the whole (llama.cpp checks where the tensors would lie, and reads
//! none of them).
//!
//! The bytes of all tokens are taken out of llama.cpp once, so that no id from outside ever
//! reaches it unchecked.

use std::path::Path;
use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use thiserror::Error;

use crate::backend::{self, OpenError};

mod text;

pub use text::TextDecoder;

/// The longest text that is encoded at once, in bytes.
pub const TEXT_BYTES_MAX: usize = 4 << 20;

/// Why a text has no ids. Exhaustive, so that whoever tells it further decides on each cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// It is longer than [`TEXT_BYTES_MAX`].
    #[error("the text has more than {TEXT_BYTES_MAX} bytes: send less")]
    TooLong,
}

/// The tokens with a meaning of their own; each may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

/// The vocabulary of a model. Cheap to share, never changes.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    model: Arc<LlamaModel>,
    bytes: Vec<u8>,
    /// Where each token ends in `bytes`; it begins where the one before ends.
    ends: Vec<u32>,
    /// What each token is, by its id.
    kinds: Vec<Kind>,
    special: SpecialTokens,
    template: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// Never shown.
    Control,
    /// Never shown, and ends the text.
    End,
}

impl Vocabulary {
    /// Loads the vocabulary of a model file, or of a sparse file that has its head and its length.
    ///
    /// Takes tens of milliseconds, and blocks.
    ///
    /// # Errors
    /// When the file is missing or is not a model.
    pub fn load(path: &Path) -> Result<Self, OpenError> {
        let params = LlamaModelParams::default().with_vocab_only(true);
        Ok(Self::of(Arc::new(backend::open(path, &params)?)))
    }

    /// The vocabulary of a model that is loaded already.
    pub(crate) fn of(model: Arc<LlamaModel>) -> Self {
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
        Self {
            inner: Arc::new(Inner {
                bytes,
                ends,
                kinds,
                special,
                template,
                model,
            }),
        }
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.inner.ends.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.inner.ends.is_empty()
    }

    /// The ids of a text.
    ///
    /// With `parse_special` the names of special tokens in the text become those tokens: right for
    /// a rendered template, wrong for words of a stranger. No token is added at the beginning.
    ///
    /// # Errors
    /// When the text is too long.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, EncodeError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(EncodeError::TooLong);
        }
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let vocab = self.inner.model.vocab();
        let tokens = vocab.tokenize(text.as_bytes(), false, parse_special);
        let ids = tokens.into_iter().map(|token| u32::try_from(token.0));
        Ok(ids.map_while(Result::ok).collect())
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
        &self.inner.bytes[start as usize..*end as usize]
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
