//! `/v1/chat/completions`.

use std::borrow::Cow;

use axum::extract::{Request, State};
use axum::response::Response;
use hearth_api::openai::chat::{
    AnswerMessage, CallDelta, ChatChunk, ChatCompletion, ChatMessage, ChatRequest, ChatTool,
    Choice, ChoiceLogprobs, ChunkChoice, Delta, FinishReason, FunctionCall, FunctionChoice,
    FunctionTool, ResponseFormat, Role, TokenLogprob, ToolCall, ToolChoice, TopLogprob,
};
use hearth_api::openai::{CompletionUsage, Content, OneOrMany};
use serde_json::{Value, json};

use super::answering::{self, Asked, Asking};
use super::failure::{Failure, Form};
use super::names::Names;
use super::reader::{Call, End, Piece, Reader, Reason};
use super::sampling::{self, Figures};
use super::sse::{self, Frames};
use super::tools::{self, Places, parameters, tooling};
use super::{At, json, replied, request};
use crate::answers::{Logprob, Message, Speaker, Tool, Usage};

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
    let older = request.functions.is_some();
    let mut asked = question(request)?;
    asked.reading.streams = streams;
    let reader = asking.open(asked).await?;
    let created = asking.at.surface.now_s();
    let id = reader.id;
    let head = Head::new("chatcmpl", &reader, created);
    let response = if streams {
        let frames = Chunks {
            head,
            usage: options.include_usage.unwrap_or(false),
            older,
        };
        sse::reply(sse::frames(reader, frames))
    } else {
        whole(reader, head, logprobs, older).await?
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
    text_only(&request)?;
    let figures = Figures {
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: sampling::top_k(request.top_k)?,
        frequency_penalty: request.frequency_penalty,
        presence_penalty: request.presence_penalty,
        logit_bias: request.logit_bias,
    };
    let schema = request.response_format.and_then(schema);
    let tooling = match request.functions {
        Some(functions) if request.tools.is_none() => {
            let tools: Vec<Tool> = functions.into_iter().map(function).collect();
            let choice = older_choice(request.function_call)?;
            // The older form has room for one call.
            tooling(&FUNCTIONS, tools, choice, false, schema)?
        }
        Some(_) => {
            let message = "functions is the older name of tools: send one of them";
            return Err(Failure::invalid("functions", message));
        }
        None => {
            if let Some(FunctionChoice::Named(_)) = request.function_call {
                let message = "Invalid value: 'function_call' is only allowed when 'functions' are \
                               specified; with tools, send tool_choice.";
                return Err(Failure::invalid("function_call", message));
            }
            let tools = request.tools.unwrap_or_default();
            let tools = tools.into_iter().enumerate();
            let mut tools: Vec<Tool> = tools.map(tool).collect::<Result<_, _>>()?;
            let choice = choice(request.tool_choice, &mut tools)?;
            let parallel = request.parallel_tool_calls.unwrap_or(true);
            tooling(&TOOLS, tools, choice, parallel, schema)?
        }
    };
    let messages = messages(request.messages)?;
    let sampling = figures.sampling()?;
    let mut asked = Asked::chat(Names::CHAT, request.model, messages, tooling, sampling)?;
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

/// Refuses what is more than text.
fn text_only(request: &ChatRequest) -> Result<(), Failure> {
    let spoken = |kinds: &Vec<String>| kinds.iter().any(|kind| kind != "text");
    if request.modalities.as_ref().is_some_and(spoken) {
        let message = "Invalid value: only 'text' is supported in modalities here";
        return Err(Failure::unsupported("modalities", message));
    }
    if request.audio.as_ref().is_some_and(|audio| !audio.is_null()) {
        let message = "no sound is made here; leave audio out";
        return Err(Failure::unsupported("audio", message));
    }
    let searches = &request.web_search_options;
    if searches.as_ref().is_some_and(|search| !search.is_null()) {
        let message = "nothing is looked up in the web here; leave web_search_options out, or define a \
                       function that searches";
        return Err(Failure::unsupported("web_search_options", message));
    }
    Ok(())
}

const TOOLS: Places = Places {
    names: Names::CHAT,
    tool: |index, field| format!("tools[{index}].function.{field}"),
    tools: "tools",
    choice: "tool_choice",
};
const FUNCTIONS: Places = Places {
    names: Names::CHAT,
    tool: |index, field| format!("functions[{index}].{field}"),
    tools: "functions",
    choice: "function_call",
};

fn tool((index, tool): (usize, ChatTool)) -> Result<Tool, Failure> {
    if tool.kind != "function" {
        return Err(tools::no_such_kind(
            format!("tools[{index}].type"),
            &tool.kind,
        ));
    }
    let lacks = || Failure::missing(format!("tools[{index}].function"));
    tool.function.map(function).ok_or_else(lacks)
}

fn function(function: FunctionTool) -> Tool {
    Tool {
        name: function.name,
        description: function.description.unwrap_or_default(),
        parameters: parameters(function.parameters),
    }
}

/// The choice; where only some tools may be asked for, the others are dropped.
fn choice(asked: Option<ToolChoice>, tools: &mut Vec<Tool>) -> Result<tools::Choice, Failure> {
    let chosen = match asked {
        None => return Ok(tools::Choice::Auto),
        Some(ToolChoice::Mode(mode)) => return Ok(tools::of_mode(mode)),
        Some(ToolChoice::Of(chosen)) => chosen,
    };
    match (chosen.kind.as_str(), chosen.function, chosen.allowed_tools) {
        ("function", Some(function), _) => Ok(tools::Choice::Named(function.name)),
        ("allowed_tools", _, Some(allowed)) => {
            let names = allowed.tools.into_iter();
            let names = names.map(|tool| tool.function.map(|function| function.name));
            tools::only(tools, names)?;
            Ok(tools::of_mode(allowed.mode))
        }
        ("function" | "allowed_tools", ..) => {
            Err(Failure::missing(format!("tool_choice.{}", chosen.kind)))
        }
        _ => Err(tools::no_such_kind(
            "tool_choice.type".to_owned(),
            &chosen.kind,
        )),
    }
}

/// The same in the older form.
fn older_choice(asked: Option<FunctionChoice>) -> Result<tools::Choice, Failure> {
    match asked {
        None => Ok(tools::Choice::Auto),
        Some(FunctionChoice::Named(function)) => Ok(tools::Choice::Named(function.name)),
        Some(FunctionChoice::Mode(mode)) => match mode.as_str() {
            "none" => Ok(tools::Choice::None),
            "auto" => Ok(tools::Choice::Auto),
            _ => {
                let message =
                    format!("Invalid value: '{mode}'. Supported values are: 'none' and 'auto'.");
                Err(Failure::invalid("function_call", message))
            }
        },
    }
}

/// What an answer's text must look like.
fn schema(format: ResponseFormat) -> Option<Value> {
    match format {
        ResponseFormat::Text => None,
        ResponseFormat::JsonObject { schema: None } => Some(json!({ "type": "object" })),
        ResponseFormat::JsonObject {
            schema: Some(schema),
        } => Some(Value::Object(schema)),
        ResponseFormat::JsonSchema { json_schema } => Some(match json_schema.schema {
            Some(schema) => Value::Object(schema),
            None => json!({ "type": "object" }),
        }),
    }
}

fn messages(given: Vec<ChatMessage>) -> Result<Vec<Message>, Failure> {
    // In the older form calls have no names: a result belongs to the call before it.
    let mut older_call = None;
    let given = given.into_iter().enumerate();
    given
        .map(|(index, said)| message(index, said, &mut older_call))
        .collect()
}

fn message(
    index: usize,
    message: ChatMessage,
    older_call: &mut Option<String>,
) -> Result<Message, Failure> {
    let place = |field: &str| format!("messages[{index}].{field}");
    let speaker = match message.role {
        Role::System | Role::Developer => Speaker::System,
        Role::User => Speaker::User,
        Role::Assistant => Speaker::Assistant,
        Role::Tool | Role::Function => Speaker::Tool,
    };
    let call_id = match message.role {
        Role::Function => older_call.clone(),
        _ => message.tool_call_id,
    };
    if message.role == Role::Tool && call_id.is_none() {
        let message = "a tool's message names the call that it answers";
        return Err(Failure::invalid(place("tool_call_id"), message));
    }
    let mut calls = message.tool_calls.unwrap_or_default();
    if let Some(function) = message.function_call {
        let id = format!("call_{index}");
        *older_call = Some(id.clone());
        calls.push(ToolCall {
            id,
            kind: "function".to_owned(),
            function,
        });
    }
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
    let said = message
        .content
        .map(|content| text(content, &place("content")));
    let said = said.transpose()?.filter(|text| !text.is_empty());
    Ok(Message {
        speaker,
        text: said.or(message.refusal).unwrap_or_default(),
        calls: calls.collect::<Result<_, _>>()?,
        call_id,
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
            ("text" | "input_text" | "output_text", ..) => {
                return Err(Failure::missing(format!("{place}[{index}].text")));
            }
            ("refusal", ..) => return Err(Failure::missing(format!("{place}[{index}].refusal"))),
            // What a model thought is its own; it is not told again.
            ("thinking" | "redacted_thinking" | "reasoning" | "reasoning_text", ..) => {}
            (kind, ..) => {
                let place = format!("{place}[{index}]");
                let message = format!(
                    "Invalid content type: a part of type '{kind}' is not supported. This model reads text \
                     only; send parts of type 'text'"
                );
                return Err(Failure::unsupported(place, message));
            }
        }
    }
    Ok(texts.join("\n"))
}

/// A whole answer.
async fn whole(
    mut reader: Reader,
    head: Head,
    told: bool,
    older: bool,
) -> Result<Response, Failure> {
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
            None => return Err(Failure::unended()),
        }
    };
    let finish_reason = finish_as(&end, older)?;
    let content = (!text.is_empty() || calls.is_empty()).then_some(text);
    let function_call = if older {
        calls.drain(..).next().map(|call| call.function)
    } else {
        None
    };
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
                function_call,
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

/// The error that an answer ended with. What nothing came of may be asked again by itself.
pub(super) fn broken(failure: &Failure, end: &End) -> Failure {
    if end.usage.output_tokens == 0 && end.note.charged.is_empty() {
        return failure.clone();
    }
    failure.clone().with_note(end.note.clone())
}

/// Why an answer ended, in OpenAI's words.
pub(super) fn finish(end: &End) -> Result<FinishReason, Failure> {
    match &end.reason {
        Reason::Turn | Reason::Stop(_) => Ok(FinishReason::Stop),
        Reason::Length => Ok(FinishReason::Length),
        Reason::Calls => Ok(FinishReason::ToolCalls),
        Reason::Broken(failure) => Err(broken(failure, end)),
    }
}

/// The same, where calls may be told in the older form.
fn finish_as(end: &End, older: bool) -> Result<FinishReason, Failure> {
    Ok(match finish(end)? {
        FinishReason::ToolCalls if older => FinishReason::FunctionCall,
        reason => reason,
    })
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

pub(super) fn token_logprob(logprob: &Logprob) -> TokenLogprob {
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
    /// Whether calls are told in the older form.
    older: bool,
}

impl Chunks {
    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatChunk<'_> {
        ChatChunk {
            id: Cow::Borrowed(&self.head.id),
            object: Cow::Borrowed("chat.completion.chunk"),
            created: self.head.created,
            model: Cow::Borrowed(&self.head.model),
            choices,
            usage: self.usage.then_some(None),
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
        if self.older {
            let delta = Delta {
                function_call: Some(FunctionCall {
                    name: call.tool,
                    arguments: call.arguments,
                }),
                ..Delta::default()
            };
            return self.delta(delta, &[], out);
        }
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
        let finish_reason = match finish_as(&end, self.older) {
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
            chunk.usage = Some(Some(usage(&end.usage)));
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
            ..Delta::default()
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
