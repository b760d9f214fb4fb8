//! `/v1/responses`, without anything kept between requests.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::chat::{TokenLogprob, ToolMode};
use super::{AnswerNote, Content, ErrorDetail};
use crate::{objects, one_or_list};

/// A conversation that shall go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResponsesRequest {
    /// The model.
    pub model: String,
    /// What was said.
    pub input: ResponsesInput,
    /// Instructions that stand before all else.
    #[serde(default)]
    pub instructions: Option<String>,
    /// Whether the answer comes in pieces, as server-sent events.
    #[serde(default)]
    pub stream: Option<bool>,
    /// 0 to 2; 0 takes the likeliest token each time. 1 unless said otherwise.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// 0 to 1: only as many of the likeliest tokens as have this share of the probability.
    #[serde(default)]
    pub top_p: Option<f64>,
    /// The most tokens of the answer.
    #[serde(default)]
    pub max_output_tokens: Option<u64>,
    /// Tools that the model may ask for.
    #[serde(default)]
    pub tools: Option<Vec<ResponsesTool>>,
    /// Whether it may, must or must not ask for a tool: `auto` unless said otherwise.
    #[serde(default)]
    pub tool_choice: Option<ResponsesToolChoice>,
    /// Whether it may ask for several at once: true unless said otherwise.
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// What the answer must look like.
    #[serde(default)]
    pub text: Option<TextConfig>,
    /// Not supported: nothing is kept here. Send the conversation again.
    #[serde(default)]
    pub previous_response_id: Option<String>,
    /// Passed over: nothing is kept here.
    #[serde(default)]
    pub store: Option<bool>,
    /// Not supported.
    #[serde(default)]
    pub background: Option<bool>,
    /// Given back as it came.
    #[serde(default)]
    pub metadata: Option<Map<String, Value>>,
    /// Not supported: nothing is kept here.
    #[serde(default)]
    pub conversation: Option<Value>,
    /// Not supported: no prompts are kept here.
    #[serde(default)]
    pub prompt: Option<Value>,
    /// How many alternatives to each token are told, 0 to 20.
    #[serde(default)]
    pub top_logprobs: Option<u64>,
    /// What else is told: `message.output_text.logprobs`; others are passed over.
    #[serde(default)]
    pub include: Option<Vec<String>>,
    /// Passed over: how much a model thinks is its own.
    #[serde(default)]
    pub reasoning: Option<Value>,
    /// Passed over: what does not fit is refused.
    #[serde(default)]
    pub truncation: Option<Value>,
    /// Passed over.
    #[serde(default)]
    pub service_tier: Option<Value>,
    /// Passed over.
    #[serde(default)]
    pub user: Option<Value>,
}

/// What was said: text, or items.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ResponsesInput {
    /// Text of the user.
    Text(String),
    /// Messages, calls of tools and what came of them, the oldest first.
    Items(Vec<InputItem>),
}

impl<'de> Deserialize<'de> for ResponsesInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a text, or a list of items, each an object with the fields of its type";
        one_or_list::read(deserializer, expected, Self::Text, Self::Items)
    }
}

/// A message, a call of a tool, or what came of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InputItem {
    /// `message` (also if absent), `function_call`, `function_call_output`; `reasoning` is passed
    /// over.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// Of a message: `user`, `assistant`, `system` or `developer`.
    #[serde(default)]
    pub role: Option<super::chat::Role>,
    /// Of a message.
    #[serde(default)]
    pub content: Option<Content>,
    /// Of a call, or of what came of it.
    #[serde(default)]
    pub call_id: Option<String>,
    /// Of a call: the function.
    #[serde(default)]
    pub name: Option<String>,
    /// Of a call: JSON in a text.
    #[serde(default)]
    pub arguments: Option<String>,
    /// What came of a call.
    #[serde(default)]
    pub output: Option<Content>,
}

/// A tool that the model may ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResponsesTool {
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// What it does.
    #[serde(default)]
    pub description: Option<String>,
    /// The JSON Schema of its arguments.
    #[serde(default)]
    pub parameters: Option<Map<String, Value>>,
    /// Whether the arguments must follow the schema.
    #[serde(default)]
    pub strict: Option<bool>,
}

/// Whether the model asks for a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ResponsesToolChoice {
    /// As it likes, in any case, or not at all.
    Mode(ToolMode),
    /// For one of these.
    Of(ResponsesChosenTool),
}

impl<'de> Deserialize<'de> for ResponsesToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "`none`, `auto`, `required`, or an object with a type";
        objects::or_word(deserializer, expected, Self::Mode, Self::Of)
    }
}

/// A tool that must be asked for, or those that may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResponsesChosenTool {
    /// `function` or `allowed_tools`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a `function`: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of `allowed_tools`: `auto` or `required`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ToolMode>,
    /// Of `allowed_tools`: the tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<ResponsesChosenTool>>,
}

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct TextConfig {
    /// The form of the text.
    #[serde(default, deserialize_with = "objects::optional")]
    pub format: Option<TextFormat>,
}

/// The form of an answer's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TextFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that follows a schema.
    JsonSchema {
        /// The schema's name.
        name: String,
        /// The schema.
        schema: Map<String, Value>,
        /// Passed over: the answer always follows the schema.
        #[serde(default)]
        strict: Option<bool>,
    },
}

/// Whether something is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It goes on.
    InProgress,
    /// It is complete.
    Completed,
    /// It ended early.
    Incomplete,
    /// It broke.
    Failed,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Response {
    /// The answer's name, in OpenAI's form.
    pub id: String,
    /// Always `response`.
    pub object: String,
    /// In seconds since 1970.
    pub created_at: u64,
    /// Whether it is complete.
    pub status: Status,
    /// Why it broke.
    pub error: Option<ErrorDetail>,
    /// Why it ended early.
    pub incomplete_details: Option<IncompleteDetails>,
    /// As they were given.
    pub instructions: Option<String>,
    /// As it was given.
    pub max_output_tokens: Option<u64>,
    /// The model.
    pub model: String,
    /// Messages and calls of tools, in order.
    pub output: Vec<OutputItem>,
    /// As it was given.
    pub parallel_tool_calls: bool,
    /// Always absent.
    pub previous_response_id: Option<String>,
    /// Always false.
    pub store: bool,
    /// As it was given.
    pub temperature: f64,
    /// As it was given.
    pub top_p: f64,
    /// As it was given.
    pub text: TextConfig,
    /// As it was given.
    pub tool_choice: ResponsesToolChoice,
    /// As they were given.
    pub tools: Vec<ResponsesTool>,
    /// Always `disabled`.
    pub truncation: String,
    /// As it was given.
    pub metadata: Map<String, Value>,
    /// How many tokens there were; absent while it goes on.
    pub usage: Option<ResponseUsage>,
    /// Where it came from and what it cost; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hearth: Option<AnswerNote>,
}

/// Why an answer ended early.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IncompleteDetails {
    /// Always `max_output_tokens`.
    pub reason: String,
}

/// How many tokens a question and its answer had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ResponseUsage {
    /// Of the prompt.
    pub input_tokens: u32,
    /// Of the prompt, by kind.
    pub input_tokens_details: super::PromptTokensDetails,
    /// Of the answer.
    pub output_tokens: u32,
    /// Of the answer, by kind.
    pub output_tokens_details: super::CompletionTokensDetails,
    /// Both.
    pub total_tokens: u32,
}

/// A message or a call of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// What the model said.
    Message {
        /// Its name.
        id: String,
        /// Whether it is complete.
        status: Status,
        /// Always `assistant`.
        role: super::chat::Role,
        /// One part.
        content: Vec<OutputPart>,
    },
    /// A tool that the model asks for.
    FunctionCall {
        /// Its name.
        id: String,
        /// Whether it is complete.
        status: Status,
        /// The call's name in the conversation.
        call_id: String,
        /// The function.
        name: String,
        /// JSON in a text.
        arguments: String,
    },
}

/// A part of what the model said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputPart {
    /// Text.
    OutputText {
        /// The text.
        text: String,
        /// Always empty.
        annotations: Vec<Value>,
        /// One entry a token, if they were asked for.
        logprobs: Vec<TokenLogprob>,
    },
}

/// An event of a streamed answer. The event's name is its `type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResponseEvent {
    /// Its place in the stream.
    pub sequence_number: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: ResponseEventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
pub enum ResponseEventKind {
    /// The answer is there.
    #[serde(rename = "response.created")]
    Created {
        /// Empty so far.
        response: Box<Response>,
    },
    /// It goes on.
    #[serde(rename = "response.in_progress")]
    InProgress {
        /// Empty so far.
        response: Box<Response>,
    },
    /// An item begins.
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        /// Its place.
        output_index: usize,
        /// Empty so far.
        item: OutputItem,
    },
    /// A part of a message begins.
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        /// The message.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place.
        content_index: usize,
        /// Empty so far.
        part: OutputPart,
    },
    /// Text.
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        /// The message.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place.
        content_index: usize,
        /// What is new.
        delta: String,
        /// Always empty.
        logprobs: Vec<TokenLogprob>,
    },
    /// A part's text is complete.
    #[serde(rename = "response.output_text.done")]
    TextDone {
        /// The message.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place.
        content_index: usize,
        /// The whole text.
        text: String,
        /// Always empty.
        logprobs: Vec<TokenLogprob>,
    },
    /// A part is complete.
    #[serde(rename = "response.content_part.done")]
    PartDone {
        /// The message.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The part's place.
        content_index: usize,
        /// The part.
        part: OutputPart,
    },
    /// Arguments of a call.
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta {
        /// The call's item.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// What is new.
        delta: String,
    },
    /// The arguments of a call are complete.
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        /// The call's item.
        item_id: String,
        /// Its place.
        output_index: usize,
        /// The function.
        name: String,
        /// All of them.
        arguments: String,
    },
    /// An item is complete.
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        /// Its place.
        output_index: usize,
        /// The item.
        item: OutputItem,
    },
    /// The answer is complete.
    #[serde(rename = "response.completed")]
    Completed {
        /// All of it.
        response: Box<Response>,
    },
    /// The answer ended early.
    #[serde(rename = "response.incomplete")]
    Incomplete {
        /// All of it.
        response: Box<Response>,
    },
    /// The answer broke.
    #[serde(rename = "response.failed")]
    Failed {
        /// What there is of it.
        response: Box<Response>,
    },
    /// The answer broke, for programs that look for an error.
    #[serde(rename = "error")]
    Error {
        /// A stable word.
        code: Option<String>,
        /// A sentence.
        message: String,
        /// Always absent.
        param: Option<String>,
        /// The same, where the SDKs look.
        error: ErrorDetail,
    },
}

impl ResponseEventKind {
    /// The event's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::InProgress { .. } => "response.in_progress",
            Self::ItemAdded { .. } => "response.output_item.added",
            Self::PartAdded { .. } => "response.content_part.added",
            Self::TextDelta { .. } => "response.output_text.delta",
            Self::TextDone { .. } => "response.output_text.done",
            Self::PartDone { .. } => "response.content_part.done",
            Self::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Self::ArgumentsDone { .. } => "response.function_call_arguments.done",
            Self::ItemDone { .. } => "response.output_item.done",
            Self::Completed { .. } => "response.completed",
            Self::Incomplete { .. } => "response.incomplete",
            Self::Failed { .. } => "response.failed",
            Self::Error { .. } => "error",
        }
    }
}
