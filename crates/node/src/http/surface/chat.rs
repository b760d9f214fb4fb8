//! `/v1/chat/completions`.

use std::borrow::Cow;

use axum::extract::{Request, State};
use axum::response::Response;
use hearth_api::openai::chat::{
    AnswerMessage, CallDelta, ChatChunk, ChatCompletion, ChatMessage, ChatRequest, ChatTool,
    Choice, ChoiceLogprobs, ChunkChoice, Delta, FinishReason, FunctionCall, ResponseFormat, Role,
    TokenLogprob, ToolCall, ToolChoice, ToolMode, TopLogprob,
};
use hearth_api::openai::{CompletionUsage, Content, OneOrMany};
use serde_json::{Value, json};

use super::answering::{self, Asked, Asking};
use super::failure::{Failure, Form};
use super::reader::{Call, End, Piece, Reader, Reason};
use super::sampling::{self, Figures};
use super::sse::{self, Frames};
use super::tools::{self, parameters, tooling};
use super::{At, json, replied, request};
use crate::answers::{AskError, Logprob, Message, Speaker, Tool, Usage};

/// The route.
pub(super) async fn chat(State(at): State<At>, request: Request) -> Response {
    replied(answer(at, request).await, Form::OpenAi)
}

async fn answer(at: At, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let asking = Asking::new(at, &parts.headers, &parts.extensions)?;
    let request: ChatRequest = request::read(body).await?;
    let streams = request.stream.unwrap_or(false);
    let options = request.stream_options.unwrap_or_default();
    let logprobs = request.logprobs.unwrap_or(false);
    let reader = asking.open(question(request)?).await?;
    let created = asking.at.surface.now_s();
    let id = reader.id;
    let head = Head::new("chatcmpl", &reader, created);
    let response = if streams {
        let frames = Chunks {
            head,
            usage: options.include_usage.unwrap_or(false),
        };
        sse::reply(sse::frames(reader, frames))
    } else {
        whole(reader, head, logprobs).await?
    };
    Ok(answering::name(response, id))
}

/// What every piece of an answer begins with.
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

impl Head {
    pub(super) fn new(kind: &str, reader: &Reader, created: u64) -> Self {
        Self {
            id: format!("{kind}-{}", reader.id),
            created,
            model: reader.model.clone(),
        }
    }
}

/// The question that a request asks.
pub(super) fn question(request: ChatRequest) -> Result<Asked, Failure> {
    sampling::only_one("n", request.n)?;
    let figures = Figures {
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: None,
        frequency_penalty: request.frequency_penalty,
        presence_penalty: request.presence_penalty,
        logit_bias: request.logit_bias,
    };
    let tools = request.tools.unwrap_or_default();
    let tools = tools.into_iter().enumerate();
    let tools: Vec<Tool> = tools.map(tool).collect::<Result<_, _>>()?;
    let has_tools = !tools.is_empty();
    let parallel = request.parallel_tool_calls.unwrap_or(true);
    let tooling = tooling(
        tools,
        choice(request.tool_choice, has_tools)?,
        parallel,
        request.response_format.and_then(schema),
    )?;
    let messages = messages(request.messages)?;
    let mut asked = Asked::chat(request.model, messages, tooling, figures.sampling()?)?;
    let question = &mut asked.question;
    question.output_tokens_max = match request.max_completion_tokens {
        None => sampling::output_tokens("max_tokens", request.max_tokens)?,
        asked => sampling::output_tokens("max_completion_tokens", asked)?,
    };
    let stops = request.stop.map_or_else(Vec::new, OneOrMany::into_vec);
    question.stops = sampling::stops("stop", stops)?;
    question.seed = request.seed.map(i64::cast_unsigned);
    question.logprobs = logprobs(request.logprobs, request.top_logprobs)?;
    Ok(asked)
}

fn logprobs(asked: Option<bool>, top: Option<u64>) -> Result<Option<u8>, Failure> {
    let param = "top_logprobs";
    match (asked.unwrap_or(false), top) {
        (true, top) => sampling::logprobs(param, top.unwrap_or(0), 20).map(Some),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            let message = "top_logprobs needs logprobs to be true";
            Err(Failure::invalid(param, message))
        }
    }
}

fn tool((index, tool): (usize, ChatTool)) -> Result<Tool, Failure> {
    let function = tool.function.filter(|_| tool.kind == "function");
    let Some(function) = function else {
        let message = format!(
            "a tool of type {:?} is not supported; define it as a function",
            tool.kind
        );
        return Err(Failure::unsupported(format!("tools[{index}]"), message));
    };
    Ok(Tool {
        name: function.name,
        description: function.description.unwrap_or_default(),
        parameters: parameters(function.parameters),
    })
}

fn choice(asked: Option<ToolChoice>, has_tools: bool) -> Result<tools::Choice, Failure> {
    match asked {
        None => Ok(tools::Choice::Auto),
        Some(ToolChoice::Mode(ToolMode::None)) => Ok(tools::Choice::None),
        Some(ToolChoice::Mode(ToolMode::Auto)) => Ok(tools::Choice::Auto),
        Some(ToolChoice::Mode(ToolMode::Required)) => Ok(tools::Choice::Required),
        Some(ToolChoice::Named(named)) if named.kind == "function" && has_tools => {
            Ok(tools::Choice::Named(named.function.name))
        }
        Some(ToolChoice::Named(_)) => {
            let message = "tool_choice names a function that is not in tools";
            Err(Failure::invalid("tool_choice", message))
        }
    }
}

/// What an answer's text must look like.
fn schema(format: ResponseFormat) -> Option<Value> {
    match format {
        ResponseFormat::Text => None,
        ResponseFormat::JsonObject => Some(json!({ "type": "object" })),
        ResponseFormat::JsonSchema { json_schema } => Some(match json_schema.schema {
            Some(schema) => Value::Object(schema),
            None => json!({ "type": "object" }),
        }),
    }
}

fn messages(given: Vec<ChatMessage>) -> Result<Vec<Message>, Failure> {
    given.into_iter().enumerate().map(message).collect()
}

fn message((index, message): (usize, ChatMessage)) -> Result<Message, Failure> {
    let place = |field: &str| format!("messages[{index}].{field}");
    let speaker = match message.role {
        Role::System | Role::Developer => Speaker::System,
        Role::User => Speaker::User,
        Role::Assistant => Speaker::Assistant,
        Role::Tool => Speaker::Tool,
    };
    if speaker == Speaker::Tool && message.tool_call_id.is_none() {
        let message = "a tool's message names the call that it answers";
        return Err(Failure::invalid(place("tool_call_id"), message));
    }
    let calls = message.tool_calls.unwrap_or_default();
    if message.content.is_none() && speaker != Speaker::Assistant {
        let message = "a message has content";
        return Err(Failure::invalid(place("content"), message));
    }
    let calls = calls.into_iter().enumerate().map(|(call, said)| {
        let field = format!("tool_calls[{call}].function.arguments");
        past_call(
            said.id,
            said.function.name,
            &said.function.arguments,
            || place(&field),
        )
    });
    Ok(Message {
        speaker,
        text: message.content.map_or_else(
            || Ok(String::new()),
            |content| text(content, &place("content")),
        )?,
        calls: calls.collect::<Result<_, _>>()?,
        call_id: message.tool_call_id,
        name: message.name,
    })
}

/// A call that the model asked for earlier in the conversation.
pub(super) fn past_call(
    id: String,
    tool: String,
    arguments: &str,
    place: impl Fn() -> String,
) -> Result<crate::answers::ToolCall, Failure> {
    let arguments = if arguments.trim().is_empty() {
        Ok(json!({}))
    } else {
        request::parse_value(arguments)
    };
    let arguments = arguments.map_err(|reason| {
        let message = format!("the arguments of a call are JSON in a text: {reason}");
        Failure::invalid(place(), message)
    })?;
    Ok(crate::answers::ToolCall {
        id,
        tool,
        arguments,
    })
}

/// The text of what was said at `place` of the request.
pub(super) fn text(content: Content, place: &str) -> Result<String, Failure> {
    let parts = match content {
        Content::Text(text) => return Ok(text),
        Content::Parts(parts) => parts,
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (index, part) in parts.into_iter().enumerate() {
        match (part.kind.as_str(), part.text, part.refusal) {
            ("text" | "input_text" | "output_text", Some(text), _) | ("refusal", _, Some(text)) => {
                texts.push(text)
            }
            (kind, ..) => {
                let place = format!("{place}[{index}]");
                let message = format!("a part of type {kind:?} is not supported; send text");
                return Err(Failure::unsupported(place, message));
            }
        }
    }
    Ok(texts.join("\n"))
}

/// A whole answer.
async fn whole(mut reader: Reader, head: Head, told: bool) -> Result<Response, Failure> {
    let (mut text, mut calls, mut logprobs) = (String::new(), Vec::new(), Vec::new());
    let end = loop {
        match reader.next().await {
            Some(Piece::Text {
                text: more,
                logprobs: of,
            }) => {
                text.push_str(&more);
                logprobs.extend(of.iter().map(token_logprob));
            }
            Some(Piece::Call(call)) => calls.push(tool_call(&head, call)),
            Some(Piece::Ended(end)) => break end,
            None => return Err(unended()),
        }
    };
    let finish_reason = finish(&end)?;
    let content = (!text.is_empty() || calls.is_empty()).then_some(text);
    Ok(json(&ChatCompletion {
        id: head.id,
        object: "chat.completion".to_owned(),
        created: head.created,
        model: head.model,
        choices: vec![Choice {
            index: 0,
            message: AnswerMessage {
                role: Role::Assistant,
                content,
                refusal: None,
                tool_calls: calls,
            },
            finish_reason,
            logprobs: told.then_some(ChoiceLogprobs {
                content: logprobs,
                refusal: None,
            }),
        }],
        usage: usage(&end.usage),
        system_fingerprint: None,
        hearth: end.note,
    }))
}

/// An answer's reader ends with an end; this is for one that does not.
pub(super) fn unended() -> Failure {
    let error = AskError::Failed("the answer stopped without an end".to_owned());
    Failure::from_ask(error, None)
}

/// The error that an answer ended with.
pub(super) fn broken(error: &AskError, end: &End) -> Failure {
    Failure::from_ask(error.clone(), None).with_note(end.note.clone())
}

/// Why an answer ended, in OpenAI's words.
pub(super) fn finish(end: &End) -> Result<FinishReason, Failure> {
    match &end.reason {
        Reason::Turn | Reason::Stop(_) => Ok(FinishReason::Stop),
        Reason::Length => Ok(FinishReason::Length),
        Reason::Calls => Ok(FinishReason::ToolCalls),
        Reason::Broken(error) => Err(broken(error, end)),
    }
}

pub(super) fn usage(usage: &Usage) -> CompletionUsage {
    CompletionUsage::new(
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.output_tokens,
    )
}

fn call_id(head: &Head, call: &Call) -> String {
    let answer = head.id.rsplit('-').next().unwrap_or_default();
    format!("call_{answer}{}", call.index)
}

fn tool_call(head: &Head, call: Call) -> ToolCall {
    ToolCall {
        id: call_id(head, &call),
        kind: "function".to_owned(),
        function: FunctionCall {
            name: call.tool,
            arguments: call.arguments,
        },
    }
}

fn token_logprob(logprob: &Logprob) -> TokenLogprob {
    let top = logprob.top.iter().map(|(bytes, logprob)| TopLogprob {
        token: String::from_utf8_lossy(bytes).into_owned(),
        logprob: *logprob,
        bytes: bytes.clone(),
    });
    TokenLogprob {
        token: String::from_utf8_lossy(&logprob.bytes).into_owned(),
        logprob: logprob.logprob,
        bytes: logprob.bytes.clone(),
        top_logprobs: top.collect(),
    }
}

/// An answer in pieces.
struct Chunks {
    head: Head,
    usage: bool,
}

impl Chunks {
    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatChunk<'_> {
        ChatChunk {
            id: Cow::Borrowed(&self.head.id),
            object: Cow::Borrowed("chat.completion.chunk"),
            created: self.head.created,
            model: Cow::Borrowed(&self.head.model),
            choices,
            usage: None,
            hearth: None,
        }
    }

    fn delta(&self, delta: Delta, logprobs: &[Logprob], out: &mut Vec<u8>) {
        let logprobs = (!logprobs.is_empty()).then(|| ChoiceLogprobs {
            content: logprobs.iter().map(token_logprob).collect(),
            refusal: None,
        });
        let choice = ChunkChoice {
            index: 0,
            delta,
            finish_reason: None,
            logprobs,
        };
        sse::data(out, &self.chunk(vec![choice]));
    }

    fn call(&self, call: Call, out: &mut Vec<u8>) {
        let call = CallDelta {
            index: call.index,
            id: call_id(&self.head, &call),
            kind: "function".to_owned(),
            function: FunctionCall {
                name: call.tool,
                arguments: call.arguments,
            },
        };
        let delta = Delta {
            tool_calls: Some(vec![call]),
            ..Delta::default()
        };
        self.delta(delta, &[], out);
    }

    fn end(&self, end: End, out: &mut Vec<u8>) {
        let finish_reason = match finish(&end) {
            Ok(reason) => reason,
            Err(failure) => return sse::data(out, &failure.openai()),
        };
        let mut chunk = self.chunk(vec![ChunkChoice {
            index: 0,
            delta: Delta::default(),
            finish_reason: Some(finish_reason),
            logprobs: None,
        }]);
        chunk.hearth = Some(end.note);
        sse::data(out, &chunk);
        if self.usage {
            let mut chunk = self.chunk(Vec::new());
            chunk.usage = Some(usage(&end.usage));
            sse::data(out, &chunk);
        }
        out.extend_from_slice(sse::DONE);
    }
}

impl Frames for Chunks {
    fn begin(&mut self, out: &mut Vec<u8>) {
        let delta = Delta {
            role: Some(Role::Assistant),
            content: Some(String::new()),
            tool_calls: None,
        };
        self.delta(delta, &[], out);
    }

    fn piece(&mut self, piece: Piece, out: &mut Vec<u8>) {
        match piece {
            Piece::Text { text, logprobs } => {
                let delta = Delta {
                    content: Some(text),
                    ..Delta::default()
                };
                self.delta(delta, &logprobs, out);
            }
            Piece::Call(call) => self.call(call, out),
            Piece::Ended(end) => self.end(end, out),
        }
    }
}
