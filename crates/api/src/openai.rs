//! The shapes of the OpenAI API, as far as the node speaks it.
//!
//! Requests are read leniently: fields that are not known here are passed over, and a field that is
//! `null` counts as absent. What the node cannot do is refused by the node, not by these shapes.
//! Replies hold every field that the SDKs read, and one more, `hearth`, which says where an answer
//! came from and what it cost.

pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod models;
pub mod responses;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::money::Money;
use crate::one_or_list;

/// One value, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a text, or a list of texts")]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// What was said: text, or parts of it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Content {
    /// Text.
    Text(String),
    /// Parts that are read one after the other.
    Parts(Vec<ContentPart>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a text, or a list of parts, each an object with a type";
        one_or_list::read(deserializer, expected, Self::Text, Self::Parts)
    }
}

/// A part of what was said. Only text is supported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ContentPart {
    /// `text` (in responses `input_text` or `output_text`), `refusal`, or what is not supported.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a text.
    #[serde(default)]
    pub text: Option<String>,
    /// Of a `refusal`.
    #[serde(default)]
    pub refusal: Option<String>,
}

/// Text to be continued or embedded: text or token ids, one or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "a text, a list of texts, a list of token ids, or a list of such lists"
)]
pub enum TextInput {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// The token ids of one text.
    Ids(Vec<u32>),
    /// The token ids of several texts.
    ManyIds(Vec<Vec<u32>>),
}

/// What a stream tells beside the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct StreamOptions {
    /// Whether a last chunk tells the usage.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerSource {
    /// This device's own model.
    Device,
    /// Another device of the household.
    Household,
    /// A provider of the network.
    Network,
}

/// What Hearth says of an answer, in a field that other programs pass over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnswerNote {
    /// The answer's name, under which its receipts are kept.
    pub answer_id: String,
    /// Where it comes from; absent where nobody began to work on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<AnswerSource>,
    /// The device that answered last, where it is not this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// What was charged, one entry an asset; empty if nothing was.
    pub charged: Vec<Money>,
}

/// Tokens of a prompt by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct PromptTokensDetails {
    /// Tokens that were still known from an earlier question.
    pub cached_tokens: u32,
}

/// Tokens of an answer by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct CompletionTokensDetails {
    /// Always zero: thoughts are part of the text.
    pub reasoning_tokens: u32,
}

/// How many tokens a question and its answer had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct CompletionUsage {
    /// Of the prompt.
    pub prompt_tokens: u32,
    /// Of the answer.
    pub completion_tokens: u32,
    /// Both.
    pub total_tokens: u32,
    /// Of the prompt, by kind.
    pub prompt_tokens_details: PromptTokensDetails,
    /// Of the answer, by kind.
    pub completion_tokens_details: CompletionTokensDetails,
}

impl CompletionUsage {
    /// The usage of `prompt` tokens, `cached` of which were known, and `output` tokens.
    pub fn new(prompt: u32, cached: u32, output: u32) -> Self {
        Self {
            prompt_tokens: prompt,
            completion_tokens: output,
            total_tokens: prompt.saturating_add(output),
            prompt_tokens_details: PromptTokensDetails {
                cached_tokens: cached,
            },
            completion_tokens_details: CompletionTokensDetails::default(),
        }
    }
}

/// An error: `{"error":{"message":…,"type":…,"param":…,"code":…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorReply {
    /// The error.
    pub error: ErrorDetail,
    /// Of an answer that broke: what was charged until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hearth: Option<AnswerNote>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorDetail {
    /// A sentence for people, with what to do next.
    pub message: String,
    /// The kind of error.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field of the request that is wrong.
    pub param: Option<String>,
    /// A stable word that programs match on.
    pub code: Option<String>,
}
