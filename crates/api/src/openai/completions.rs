//! `/v1/completions`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::chat::FinishReason;
use super::{AnswerNote, CompletionUsage, OneOrMany, StreamOptions, TextInput};

/// Text that shall go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CompletionRequest {
    /// The model.
    pub model: String,
    /// The text, several texts, or token ids.
    pub prompt: TextInput,
    /// Whether the names of control tokens in the text, such as `<|im_start|>`, mean these tokens; otherwise
    /// they are text like any other. Not where answers are sold.
    #[serde(default)]
    pub special_tokens: Option<bool>,
    /// The most tokens of each answer; 16 unless said otherwise.
    #[serde(default)]
    pub max_tokens: Option<u64>,
    /// Whether the text stands before the answer.
    #[serde(default)]
    pub echo: Option<bool>,
    /// How many alternatives to each token are told, 0 to 5.
    #[serde(default)]
    pub logprobs: Option<u64>,
    /// Whether the answer comes in pieces, as server-sent events.
    #[serde(default)]
    pub stream: Option<bool>,
    /// What the stream tells beside the answer.
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    /// 0 to 2; 0 takes the likeliest token each time. 1 unless said otherwise.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// 0 to 1: only as many of the likeliest tokens as have this share of the probability.
    #[serde(default)]
    pub top_p: Option<f64>,
    /// Only this many of the likeliest tokens; not among OpenAI's own fields, as other servers take it.
    #[serde(default)]
    pub top_k: Option<i64>,
    /// -2 to 2: taken from a token's logit for each time that it was said.
    #[serde(default)]
    pub frequency_penalty: Option<f64>,
    /// -2 to 2: taken from the logit of each token that was said.
    #[serde(default)]
    pub presence_penalty: Option<f64>,
    /// -100 to 100, by token id: added to its logit.
    #[serde(default)]
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Texts at which the answer ends.
    #[serde(default)]
    pub stop: Option<OneOrMany>,
    /// The same seed and question give the same answer on the same provider.
    #[serde(default)]
    pub seed: Option<i64>,
    /// Answers to one text: only 1 is supported.
    #[serde(default)]
    pub n: Option<u64>,
    /// Answers to choose from: only 1 is supported.
    #[serde(default)]
    pub best_of: Option<u64>,
    /// Not supported.
    #[serde(default)]
    pub suffix: Option<String>,
    /// Passed over.
    #[serde(default)]
    pub user: Option<serde_json::Value>,
}

/// What came after the texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Completion<'a> {
    /// The first answer's name, in OpenAI's form.
    pub id: Cow<'a, str>,
    /// Always `text_completion`, in pieces too.
    pub object: Cow<'a, str>,
    /// In seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: Cow<'a, str>,
    /// One for each text; in a stream the new piece of one.
    pub choices: Vec<CompletionChoice>,
    /// How many tokens there were; in a stream in the last piece, if it was asked for, and null in the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<CompletionUsage>>,
    /// Where the answers came from and what they cost; in a stream in the pieces that end them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hearth: Option<AnswerNote>,
}

/// What came after a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CompletionChoice {
    /// The place of the text among those asked for.
    pub index: u32,
    /// The text.
    pub text: String,
    /// Why it ended; absent in a piece that does not end it.
    pub finish_reason: Option<FinishReason>,
    /// Log-probabilities, if they were asked for.
    pub logprobs: Option<CompletionLogprobs>,
}

/// Log-probabilities in the older form.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct CompletionLogprobs {
    /// The tokens as text.
    pub tokens: Vec<String>,
    /// Natural logarithms.
    pub token_logprobs: Vec<f32>,
    /// The likeliest alternatives of each token.
    pub top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where each token begins in the text, in characters.
    pub text_offset: Vec<usize>,
}
