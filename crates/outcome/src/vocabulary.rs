//! The tokens of a model, and how texts become them: what a `tokenizer.json` and the keys of a GGUF file both say.
//!
//! Only byte-level BPE is known, and only with patterns of words for which llama.cpp has a name: with another, its tokens would
//! differ from those that the model was trained on. spec: 17, section 3.

use std::collections::BTreeMap;

use hearth_datasets::canonical;
use hearth_datasets::tokenizer::{ByteTokenizer, TokenizerError, VOCABULARY_MAX};
use serde_json::{Value, json};
use thiserror::Error;

/// The template of a model that nobody taught to converse: it goes on with the last message.
pub const PLAIN_TEMPLATE: &str = "{{ (messages | last)['content'] }}";
/// The most merges.
pub(crate) const MERGES_MAX: usize = 1 << 20;
/// The longest chat template, in bytes.
pub(crate) const TEMPLATE_BYTES_MAX: usize = 256 << 10;

/// GPT-2's pattern of words is the one of `ByteLevel` itself; these are those of others.
const LLAMA_3: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const QWEN_2: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/// How a text is split before its bytes are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// GPT-2's words; what datasets train.
    Gpt2,
    /// Each digit alone, then GPT-2's words.
    Smollm,
    /// The words of Llama 3; whole words that are tokens need no merges.
    Llama3,
    /// The words of Qwen 2.
    Qwen2,
}

impl Split {
    const ALL: [Self; 4] = [Self::Gpt2, Self::Smollm, Self::Llama3, Self::Qwen2];

    /// Returns its name in GGUF files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt-2",
            Self::Smollm => "smollm",
            Self::Llama3 => "llama-bpe",
            Self::Qwen2 => "qwen2",
        }
    }

    /// Returns the split of that name in GGUF files.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|split| split.name() == name)
    }

    /// Whether a word that is a token is not merged.
    fn ignores_merges(self) -> bool {
        self == Self::Llama3
    }

    /// Returns the steps before the model, as `tokenizers` has them.
    fn steps(self) -> Vec<Value> {
        let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let words = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        match self {
            Self::Gpt2 => vec![bytes(true)],
            Self::Smollm => vec![
                json!({"type": "Digits", "individual_digits": true}),
                bytes(true),
            ],
            Self::Llama3 => vec![words(LLAMA_3), bytes(false)],
            Self::Qwen2 => vec![words(QWEN_2), bytes(false)],
        }
    }

    /// Returns the split that these steps are.
    fn of(steps: &[&Value]) -> Option<Self> {
        Self::ALL.into_iter().find(|split| {
            let known = split.steps();
            known.len() == steps.len() && known.iter().zip(steps).all(|(a, b)| same_step(a, b))
        })
    }
}

/// Whether two steps split alike; what they say of offsets makes no token.
fn same_step(known: &Value, stated: &Value) -> bool {
    let field = |name: &str| known[name] == stated[name];
    match known["type"].as_str() {
        Some("ByteLevel") => {
            // Files of the first versions do not state it.
            let regex = stated.get("use_regex").unwrap_or(&Value::Bool(true));
            field("type") && field("add_prefix_space") && known["use_regex"] == *regex
        }
        Some("Digits") => field("type") && field("individual_digits"),
        _ => field("type") && field("pattern") && field("behavior") && field("invert"),
    }
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Some bytes.
    Plain,
    /// A sign that no text spells, such as the end of a text.
    Control,
    /// A text that is always one token.
    Whole,
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its bytes, each as the character that byte-level BPE writes it with; the text itself, where it is not plain.
    pub text: String,
    /// What it is.
    pub kind: TokenKind,
}

/// The tokens of a model, and how texts become them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    pub(crate) tokens: Vec<Token>,
    /// Two tokens with a blank between them, in the order in which they are merged.
    pub(crate) merges: Vec<String>,
    pub(crate) split: Split,
    /// The token that ends a text.
    pub(crate) end: u32,
    /// The token that begins one.
    pub(crate) beginning: u32,
    pub(crate) chat_template: String,
}

/// A tokenizer is not one that a model's file can state.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VocabularyError {
    /// It is no tokenizer of a dataset.
    #[error("the file is not a tokenizer that datasets take")]
    Tokenizer(#[source] TokenizerError),
    /// Something is missing, or of another type.
    #[error("the tokenizer has no sound {0}")]
    Field(&'static str),
    /// It splits texts in a way that llama.cpp has no name for.
    #[error(
        "the tokenizer splits texts in a way that model files have no name for: take one of GPT-2's, SmolLM's, Llama 3's or Qwen 2's pattern"
    )]
    Split,
    /// The chat template is empty or too long.
    #[error("the chat template has {0} bytes, and has to have 1 to {TEMPLATE_BYTES_MAX}")]
    Template(usize),
    /// A token is not in the vocabulary.
    #[error("the token {0} is not in the vocabulary")]
    Token(u32),
}

impl Vocabulary {
    /// Takes the vocabulary out of a tokenizer of datasets. Texts begin and end with its end of text; the template is
    /// [`PLAIN_TEMPLATE`].
    ///
    /// # Errors
    /// When its splitting of texts has no name in model files.
    pub fn of(tokenizer: &ByteTokenizer) -> Result<Self, VocabularyError> {
        let stated: Value =
            serde_json::from_slice(tokenizer.json()).map_err(|_| VocabularyError::Field("JSON"))?;
        let model = &stated["model"];
        let mut steps = Vec::new();
        flatten(&stated["pre_tokenizer"], &mut steps);
        let split = Split::of(&steps).ok_or(VocabularyError::Split)?;
        if model["ignore_merges"].as_bool().unwrap_or(false) != split.ignores_merges() {
            return Err(VocabularyError::Split);
        }
        let tokens = tokens(&stated, tokenizer.vocabulary())?;
        let end = tokenizer.end_of_text();
        Ok(Self {
            tokens,
            merges: merges(&model["merges"])?,
            split,
            end,
            beginning: end,
            chat_template: PLAIN_TEMPLATE.to_owned(),
        })
    }

    /// Reads the vocabulary of a `tokenizer.json`.
    ///
    /// # Errors
    /// When datasets do not take it, or its splitting of texts has no name in model files.
    pub fn read(tokenizer_json: &[u8]) -> Result<Self, VocabularyError> {
        let tokenizer = ByteTokenizer::load(tokenizer_json.to_vec());
        Self::of(&tokenizer.map_err(VocabularyError::Tokenizer)?)
    }

    /// Takes another chat template, in Jinja.
    ///
    /// # Errors
    /// When it is empty or too long.
    pub fn with_template(mut self, template: &str) -> Result<Self, VocabularyError> {
        if template.is_empty() || template.len() > TEMPLATE_BYTES_MAX {
            return Err(VocabularyError::Template(template.len()));
        }
        self.chat_template = template.to_owned();
        Ok(self)
    }

    /// Takes other tokens as those that begin and end a text.
    ///
    /// # Errors
    /// When one of them is not in the vocabulary.
    pub fn with_ends(mut self, beginning: u32, end: u32) -> Result<Self, VocabularyError> {
        let unknown = [beginning, end]
            .into_iter()
            .find(|id| *id as usize >= self.tokens.len());
        if let Some(id) = unknown {
            return Err(VocabularyError::Token(id));
        }
        (self.beginning, self.end) = (beginning, end);
        Ok(self)
    }

    /// Whether every text becomes the same tokens with both. Which tokens begin and end a text, and the template, do not count.
    #[must_use]
    pub fn has_tokens_of(&self, other: &Self) -> bool {
        let alike = self.split == other.split && self.merges == other.merges;
        alike && self.tokens == other.tokens
    }

    /// Returns the tokens, by their ids.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Returns how texts are split.
    #[must_use]
    pub fn split(&self) -> Split {
        self.split
    }

    /// Returns the token that ends a text.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Returns the token that begins a text.
    #[must_use]
    pub fn beginning(&self) -> u32 {
        self.beginning
    }

    /// Returns the chat template.
    #[must_use]
    pub fn chat_template(&self) -> &str {
        &self.chat_template
    }

    /// Writes a `tokenizer.json` that makes the same tokens, in canonical bytes. Datasets take it where one of their names for
    /// the end of a text is among its control tokens.
    #[must_use]
    pub fn to_tokenizer_json(&self) -> Vec<u8> {
        let mut pieces = serde_json::Map::new();
        let mut added = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            pieces.insert(token.text.clone(), id.into());
            if token.kind != TokenKind::Plain {
                added.push(json!({
                    "id": id,
                    "content": token.text,
                    "special": token.kind == TokenKind::Control,
                    "normalized": false,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                }));
            }
        }
        let mut steps = self.split.steps();
        let before = if steps.len() == 1 {
            steps.swap_remove(0)
        } else {
            json!({"type": "Sequence", "pretokenizers": steps})
        };
        canonical::bytes(&json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": before,
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": self.split.ignores_merges(),
                "vocab": pieces,
                "merges": self.merges,
            },
        }))
    }
}

/// The steps of sequences within sequences, one after the other. The tokenizer was checked to nest but a little.
fn flatten<'a>(step: &'a Value, steps: &mut Vec<&'a Value>) {
    match step["pretokenizers"].as_array() {
        Some(inner) => inner.iter().for_each(|step| flatten(step, steps)),
        None => steps.push(step),
    }
}

fn tokens(stated: &Value, count: u32) -> Result<Vec<Token>, VocabularyError> {
    const FIELD: VocabularyError = VocabularyError::Field("vocabulary");
    let mut by_id = BTreeMap::new();
    let id_of = |value: &Value| value.as_u64().filter(|id| *id < count.into());
    let pieces = stated["model"]["vocab"].as_object().ok_or(FIELD)?;
    for (text, id) in pieces {
        let token = Token {
            text: text.clone(),
            kind: TokenKind::Plain,
        };
        by_id.insert(id_of(id).ok_or(FIELD)?, token);
    }
    for added in stated["added_tokens"].as_array().into_iter().flatten() {
        let token = Token {
            text: added["content"].as_str().ok_or(FIELD)?.to_owned(),
            kind: if added["special"] == true {
                TokenKind::Control
            } else {
                TokenKind::Whole
            },
        };
        by_id.insert(id_of(&added["id"]).ok_or(FIELD)?, token);
    }
    if count > VOCABULARY_MAX || by_id.len() != count as usize {
        return Err(FIELD);
    }
    Ok(by_id.into_values().collect())
}

/// Merges, which files have as texts or as pairs.
fn merges(stated: &Value) -> Result<Vec<String>, VocabularyError> {
    const FIELD: VocabularyError = VocabularyError::Field("merges");
    let list = stated.as_array().ok_or(FIELD)?;
    if list.len() > MERGES_MAX {
        return Err(FIELD);
    }
    let merge = |value: &Value| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Array(pair) => {
                let [left, right] = pair.as_slice() else {
                    return Err(FIELD);
                };
                let (left, right) = (left.as_str().ok_or(FIELD)?, right.as_str().ok_or(FIELD)?);
                format!("{left} {right}")
            }
            _ => return Err(FIELD),
        };
        is_merge(&text).then_some(text).ok_or(FIELD)
    };
    list.iter().map(merge).collect()
}

/// Whether a text is two tokens with a blank between them.
pub(crate) fn is_merge(text: &str) -> bool {
    let parts: Vec<&str> = text.split(' ').collect();
    parts.len() == 2 && parts.iter().all(|part| !part.is_empty())
}
