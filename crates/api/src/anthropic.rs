//! The shapes of the Anthropic API, as far as the node speaks it.
//!
//! Requests are read leniently, as those of [`crate::openai`]. Replies have one more field, `hearth`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::openai::AnswerNote;
use crate::{objects, one_or_list};

/// An error: `{"type":"error","error":{"type":…,"message":…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnthropicErrorReply {
    /// Always `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The error.
    pub error: AnthropicErrorDetail,
    /// Of an answer that broke: what was charged until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hearth: Option<AnswerNote>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnthropicErrorDetail {
    /// The kind of error.
    #[serde(rename = "type")]
    pub kind: String,
    /// A sentence for people, with what to do next.
    pub message: String,
}

/// A conversation that shall go on, or whose tokens are counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MessagesRequest {
    /// The model.
    pub model: String,
    /// What was said, the oldest first.
    pub messages: Vec<MessageParam>,
    /// The most tokens of the answer; needed unless tokens are only counted.
    #[serde(default)]
    pub max_tokens: Option<u64>,
    /// Instructions.
    #[serde(default)]
    pub system: Option<AnthropicContent>,
    /// Tools that the model may ask for.
    #[serde(default)]
    pub tools: Option<Vec<ToolParam>>,
    /// Whether it may, must or must not ask for a tool.
    #[serde(default, deserialize_with = "objects::optional")]
    pub tool_choice: Option<AnthropicToolChoice>,
    /// What the answer must look like.
    #[serde(default)]
    pub output_config: Option<OutputConfig>,
    /// The older place of `output_config.format`.
    #[serde(default, deserialize_with = "objects::optional")]
    pub output_format: Option<OutputFormat>,
    /// Whether the answer comes in pieces, as server-sent events.
    #[serde(default)]
    pub stream: Option<bool>,
    /// 0 to 1; 0 takes the likeliest token each time. 1 unless said otherwise.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// 0 to 1: only as many of the likeliest tokens as have this share of the probability.
    #[serde(default)]
    pub top_p: Option<f64>,
    /// Only this many of the likeliest tokens.
    #[serde(default)]
    pub top_k: Option<u64>,
    /// Texts at which the answer ends.
    #[serde(default)]
    pub stop_sequences: Option<Vec<String>>,
    /// Not supported: no servers of tools are asked here.
    #[serde(default)]
    pub mcp_servers: Option<Vec<Value>>,
    /// Not supported: no code is run here.
    #[serde(default)]
    pub container: Option<Value>,
    /// Passed over: how much a model thinks is its own.
    #[serde(default)]
    pub thinking: Option<Value>,
    /// Passed over.
    #[serde(default)]
    pub metadata: Option<Value>,
    /// Passed over.
    #[serde(default)]
    pub service_tier: Option<Value>,
}

/// How many tokens a conversation has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenCount {
    /// Of the prompt.
    pub input_tokens: u32,
}

/// Who said a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AnthropicRole {
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// Instructions that stand in the middle of a conversation.
    #[serde(alias = "developer")]
    System,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MessageParam {
    /// Who said it.
    pub role: AnthropicRole,
    /// What was said.
    pub content: AnthropicContent,
}

/// What was said: text, or blocks of it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum AnthropicContent {
    /// Text.
    Text(String),
    /// Blocks that are read one after the other.
    Blocks(Vec<BlockParam>),
}

impl<'de> Deserialize<'de> for AnthropicContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a text, or a list of blocks, each an object with a type";
        one_or_list::read(deserializer, expected, Self::Text, Self::Blocks)
    }
}

/// A block of a message: text (also of a document or a search result), a call of a tool, or its result.
/// Others are not supported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BlockParam {
    /// `text`, `document`, `search_result`, `tool_use`, `tool_result`, or what is passed over (`thinking`,
    /// `redacted_thinking`) or not supported.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a `text`.
    #[serde(default)]
    pub text: Option<String>,
    /// Of a `tool_use`: its name in the conversation.
    #[serde(default)]
    pub id: Option<String>,
    /// Of a `tool_use`: the tool.
    #[serde(default)]
    pub name: Option<String>,
    /// Of a `tool_use`: the arguments.
    #[serde(default)]
    pub input: Option<Value>,
    /// Of a `tool_result`: the call that it answers.
    #[serde(default)]
    pub tool_use_id: Option<String>,
    /// Of a `document` or a `search_result`: what it is called.
    #[serde(default)]
    pub title: Option<String>,
    /// Of a `document`: its text. Of a `search_result`: where it was found.
    #[serde(default)]
    pub source: Option<Value>,
    /// Of a `tool_result`: what came of it. Of a `search_result`: what was found.
    #[serde(default)]
    pub content: Option<Box<AnthropicContent>>,
    /// Of a `tool_result`: whether it is an error.
    #[serde(default)]
    pub is_error: Option<bool>,
}

/// A tool that the model may ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolParam {
    /// `custom`, or absent; the tools of Anthropic's own servers are not supported.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// What it does.
    #[serde(default)]
    pub description: Option<String>,
    /// The JSON Schema of its arguments.
    #[serde(default)]
    pub input_schema: Option<Map<String, Value>>,
}

/// Whether the model asks for a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AnthropicToolChoice {
    /// As it likes.
    Auto {
        /// Whether it asks for one tool at most.
        #[serde(default)]
        disable_parallel_tool_use: Option<bool>,
    },
    /// In any case.
    Any {
        /// Whether it asks for one tool only.
        #[serde(default)]
        disable_parallel_tool_use: Option<bool>,
    },
    /// For this one.
    Tool {
        /// Its name.
        name: String,
        /// Passed over: it is asked for once.
        #[serde(default)]
        disable_parallel_tool_use: Option<bool>,
    },
    /// Not at all.
    None,
}

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicOutputConfig")]
pub struct OutputConfig {
    /// The form of its text.
    #[serde(default, deserialize_with = "objects::optional")]
    pub format: Option<OutputFormat>,
}

/// The form of an answer's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicOutputFormat")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputFormat {
    /// JSON that follows a schema.
    JsonSchema {
        /// The schema.
        schema: Map<String, Value>,
    },
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicStopReason")]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended it.
    EndTurn,
    /// As many tokens as were asked for, or as fit.
    MaxTokens,
    /// A stop text came.
    StopSequence,
    /// The model asks for tools.
    ToolUse,
}

/// How many tokens a question and its answer had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicUsage")]
pub struct Usage {
    /// Of the prompt, without those still known.
    pub input_tokens: u32,
    /// Always zero: what is kept is kept without being asked.
    pub cache_creation_input_tokens: u32,
    /// Of the prompt, those still known from an earlier question.
    pub cache_read_input_tokens: u32,
    /// Of the answer.
    pub output_tokens: u32,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicMessage")]
pub struct Message {
    /// The answer's name, in Anthropic's form.
    pub id: String,
    /// Always `message`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Always `assistant`.
    pub role: AnthropicRole,
    /// What was said.
    pub content: Vec<AnthropicBlock>,
    /// The model.
    pub model: String,
    /// Why it ended; absent while it goes on.
    pub stop_reason: Option<StopReason>,
    /// The stop text that came.
    pub stop_sequence: Option<String>,
    /// How many tokens there were.
    pub usage: Usage,
    /// Where it came from and what it cost; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hearth: Option<AnswerNote>,
}

/// A block of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AnthropicBlock {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// A tool that the model asks for.
    ToolUse {
        /// Its name in the conversation.
        id: String,
        /// The tool.
        name: String,
        /// The arguments.
        input: Value,
    },
}

/// An event of a streamed answer. The event's name is its `type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicEvent")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The answer begins.
    MessageStart {
        /// The answer so far: empty.
        message: Box<Message>,
    },
    /// A block begins.
    ContentBlockStart {
        /// Its place.
        index: u32,
        /// The block so far: empty.
        content_block: AnthropicBlock,
    },
    /// A block goes on.
    ContentBlockDelta {
        /// Its place.
        index: u32,
        /// What is new.
        delta: BlockDelta,
    },
    /// A block is complete.
    ContentBlockStop {
        /// Its place.
        index: u32,
    },
    /// The answer has ended.
    MessageDelta {
        /// Why.
        delta: MessageEnd,
        /// How many tokens there were.
        usage: Usage,
        /// Where it came from and what it cost.
        hearth: Box<AnswerNote>,
    },
    /// Nothing follows.
    MessageStop {},
    /// A sign of life.
    Ping {},
}

impl Event {
    /// The event's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop {} => "message_stop",
            Self::Ping {} => "ping",
        }
    }
}

/// What is new in a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AnthropicBlockDelta")]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BlockDelta {
    /// Text.
    TextDelta {
        /// The text.
        text: String,
    },
    /// Arguments of a tool.
    InputJsonDelta {
        /// A piece of their JSON.
        partial_json: String,
    },
}

/// The models that can be asked, page by page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnthropicModelList {
    /// The models, by name.
    pub data: Vec<AnthropicModel>,
    /// Whether others follow; `after_id` asks for them.
    pub has_more: bool,
    /// The first of them.
    pub first_id: Option<String>,
    /// The last of them.
    pub last_id: Option<String>,
}

/// A model that can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnthropicModel {
    /// Always `model`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub id: String,
    /// Its name, for people.
    pub display_name: String,
    /// When it was first seen, as RFC 3339 writes it.
    pub created_at: String,
    /// What Hearth knows of it.
    pub hearth: crate::openai::models::ModelNote,
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MessageEnd {
    /// Why.
    pub stop_reason: StopReason,
    /// The stop text that came.
    pub stop_sequence: Option<String>,
}
