//! `/v1/chat/completions`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{AnswerNote, CompletionUsage, Content, OneOrMany, StreamOptions};
use crate::objects;

/// A conversation that shall go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatRequest {
    /// The model.
    pub model: String,
    /// What was said, the oldest first.
    pub messages: Vec<ChatMessage>,
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
    /// The most tokens of the answer.
    #[serde(default)]
    pub max_completion_tokens: Option<u64>,
    /// The older name of `max_completion_tokens`.
    #[serde(default)]
    pub max_tokens: Option<u64>,
    /// Answers to one question: only 1 is supported.
    #[serde(default)]
    pub n: Option<u64>,
    /// Texts at which the answer ends.
    #[serde(default)]
    pub stop: Option<OneOrMany>,
    /// The same seed and question give the same answer on the same provider.
    #[serde(default)]
    pub seed: Option<i64>,
    /// Whether the log-probability of each token is told.
    #[serde(default)]
    pub logprobs: Option<bool>,
    /// How many alternatives to each token are told, 0 to 20.
    #[serde(default)]
    pub top_logprobs: Option<u64>,
    /// Tools that the model may ask for.
    #[serde(default)]
    pub tools: Option<Vec<ChatTool>>,
    /// Whether it may, must or must not ask for a tool: `auto` unless said otherwise.
    #[serde(default)]
    pub tool_choice: Option<ToolChoice>,
    /// Whether it may ask for several at once: true unless said otherwise.
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// The older form of `tools`; an answer is then in the older form as well.
    #[serde(default)]
    pub functions: Option<Vec<FunctionTool>>,
    /// The older form of `tool_choice`: `none`, `auto`, or a function.
    #[serde(default)]
    pub function_call: Option<FunctionChoice>,
    /// What the answer must look like.
    #[serde(default)]
    pub response_format: Option<ResponseFormat>,
    /// What the answer is made of: only `text` is supported.
    #[serde(default)]
    pub modalities: Option<Vec<String>>,
    /// Not supported.
    #[serde(default)]
    pub audio: Option<Value>,
    /// Not supported: nothing is looked up in the web.
    #[serde(default)]
    pub web_search_options: Option<Value>,
    /// Passed over: how much a model thinks is its own.
    #[serde(default)]
    pub reasoning_effort: Option<Value>,
    /// Passed over.
    #[serde(default)]
    pub verbosity: Option<Value>,
    /// Passed over.
    #[serde(default)]
    pub prediction: Option<Value>,
    /// Passed over: nothing is kept here.
    #[serde(default)]
    pub store: Option<Value>,
    /// Passed over.
    #[serde(default)]
    pub metadata: Option<Value>,
    /// Passed over.
    #[serde(default)]
    pub service_tier: Option<Value>,
    /// Passed over.
    #[serde(default)]
    pub user: Option<Value>,
}

/// A function that must be asked for, in the older form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum FunctionChoice {
    /// `none` or `auto`.
    Mode(String),
    /// This one.
    Named(FunctionName),
}

impl<'de> Deserialize<'de> for FunctionChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "`none`, `auto`, or an object with the name of a function";
        objects::or_word(deserializer, expected, Self::Mode, Self::Named)
    }
}

/// Who said a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// Instructions, by their newer name.
    Developer,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// A tool.
    Tool,
    /// A tool, by its older name: it answers the call before it.
    Function,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatMessage {
    /// Who said it.
    pub role: Role,
    /// What was said.
    #[serde(default)]
    pub content: Option<Content>,
    /// Who said it, by name.
    #[serde(default)]
    pub name: Option<String>,
    /// Of an assistant's message: the tools that it asked for.
    #[serde(default)]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Of an assistant's message: the tool that it asked for, in the older form.
    #[serde(default)]
    pub function_call: Option<FunctionCall>,
    /// Of an assistant's message: why it did not do what was asked.
    #[serde(default)]
    pub refusal: Option<String>,
    /// Of a tool's message: the call that it answers.
    #[serde(default)]
    pub tool_call_id: Option<String>,
}

/// A tool that the model may ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatTool {
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    #[serde(default)]
    pub function: Option<FunctionTool>,
}

/// A function that the model may ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FunctionTool {
    /// Its name.
    pub name: String,
    /// What it does.
    #[serde(default)]
    pub description: Option<String>,
    /// The JSON Schema of its arguments; no arguments if it is absent.
    #[serde(default)]
    pub parameters: Option<Map<String, Value>>,
    /// Whether the arguments must follow the schema. A call that is asked for by `tool_choice`
    /// always does.
    #[serde(default)]
    pub strict: Option<bool>,
}

/// Whether the model asks for a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    /// As it likes, in any case, or not at all.
    Mode(ToolMode),
    /// For one of these.
    Of(ChosenTool),
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected =
            "`none`, `auto`, `required`, or an object of type `function` or `allowed_tools`";
        objects::or_word(deserializer, expected, Self::Mode, Self::Of)
    }
}

/// Whether the model asks for a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolMode {
    /// Not at all.
    None,
    /// As it likes.
    Auto,
    /// In any case.
    Required,
}

/// A tool that must be asked for, or those that may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChosenTool {
    /// `function` or `allowed_tools`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a `function`: which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionName>,
    /// Of `allowed_tools`: which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_tools: Option<AllowedTools>,
}

/// Tools that may be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AllowedTools {
    /// `auto` or `required`.
    pub mode: ToolMode,
    /// The tools.
    pub tools: Vec<ChosenTool>,
}

/// A function by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FunctionName {
    /// Its name.
    pub name: String,
}

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject {
        /// A schema that it follows; not among OpenAI's own fields, as other servers take it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        schema: Option<Map<String, Value>>,
    },
    /// JSON that follows a schema.
    JsonSchema {
        /// The schema.
        json_schema: NamedSchema,
    },
}

impl<'de> Deserialize<'de> for ResponseFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Read as an object with all fields, so that an error knows the field within.
        let format = FormatFields::deserialize(deserializer)?;
        Ok(match format.kind {
            FormatKind::Text => Self::Text,
            FormatKind::JsonObject => Self::JsonObject {
                schema: format.schema,
            },
            FormatKind::JsonSchema => Self::JsonSchema {
                json_schema: format
                    .json_schema
                    .ok_or_else(|| D::Error::missing_field("json_schema"))?,
            },
        })
    }
}

#[derive(Deserialize)]
struct FormatFields {
    #[serde(rename = "type")]
    kind: FormatKind,
    #[serde(default)]
    schema: Option<Map<String, Value>>,
    #[serde(default)]
    json_schema: Option<NamedSchema>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum FormatKind {
    Text,
    JsonObject,
    JsonSchema,
}

/// A JSON Schema with a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NamedSchema {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// The schema; any JSON object if it is absent.
    #[serde(default)]
    pub schema: Option<Map<String, Value>>,
    /// Passed over: the answer always follows the schema.
    #[serde(default)]
    pub strict: Option<bool>,
}

/// A call that the model asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCall {
    /// Its name in the conversation.
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

fn function() -> String {
    "function".to_owned()
}

/// A function and its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// The arguments: JSON in a text.
    pub arguments: String,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop text came.
    Stop,
    /// As many tokens as were asked for, or as fit.
    Length,
    /// The model asks for tools.
    ToolCalls,
    /// The model asks for a tool, in the older form.
    FunctionCall,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatCompletion {
    /// The answer's name, in OpenAI's form.
    pub id: String,
    /// Always `chat.completion`.
    pub object: String,
    /// In seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// One answer.
    pub choices: Vec<Choice>,
    /// How many tokens there were.
    pub usage: CompletionUsage,
    /// Always absent.
    pub system_fingerprint: Option<String>,
    /// Where it came from and what it cost.
    pub hearth: AnswerNote,
}

/// An answer's message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Choice {
    /// Always zero.
    pub index: u32,
    /// The message.
    pub message: AnswerMessage,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Log-probabilities, if they were asked for.
    pub logprobs: Option<ChoiceLogprobs>,
}

/// What the model said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnswerMessage {
    /// Always `assistant`.
    pub role: Role,
    /// The text; absent where the model only asks for tools.
    pub content: Option<String>,
    /// Always absent.
    pub refusal: Option<String>,
    /// The tools that it asks for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The tool that it asks for, in the older form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCall>,
}

/// The log-probabilities of an answer's tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChoiceLogprobs {
    /// One entry a token.
    pub content: Vec<TokenLogprob>,
    /// Always absent.
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// The log-probability of a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenLogprob {
    /// The token as text, with U+FFFD where its bytes are no whole character.
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// The likeliest alternatives.
    pub top_logprobs: Vec<TopLogprob>,
}

/// An alternative to a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopLogprob {
    /// The token as text, with U+FFFD where its bytes are no whole character.
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    /// The token's bytes.
    pub bytes: Vec<u8>,
}

/// A piece of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatChunk<'a> {
    /// The answer's name, the same in all pieces.
    pub id: Cow<'a, str>,
    /// Always `chat.completion.chunk`.
    pub object: Cow<'a, str>,
    /// In seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: Cow<'a, str>,
    /// One piece; none in the chunk that tells the usage.
    pub choices: Vec<ChunkChoice>,
    /// In the last chunk, if it was asked for; then it is null in the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<CompletionUsage>>,
    /// In the chunk that ends the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hearth: Option<AnswerNote>,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChunkChoice {
    /// Always zero.
    pub index: u32,
    /// What is new.
    pub delta: Delta,
    /// Why it ended, in the last piece.
    pub finish_reason: Option<FinishReason>,
    /// Log-probabilities, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<ChoiceLogprobs>,
}

/// What is new in a piece.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Delta {
    /// `assistant`, in the first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Tools that the model asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<CallDelta>>,
    /// A tool that the model asks for, in the older form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCall>,
}

/// A tool that the model asks for, complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CallDelta {
    /// Its place among the calls of the answer.
    pub index: u32,
    /// Its name in the conversation.
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}
