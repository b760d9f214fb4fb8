//! Anthropic's `/v1/messages` and `/v1/messages/count_tokens`.

use axum::extract::{Request, State};
use axum::response::Response;
use hearth_api::anthropic::{
    self, AnthropicBlock, AnthropicContent, AnthropicRole, AnthropicToolChoice, BlockDelta,
    BlockParam, Event, MessageEnd, MessageParam, MessagesRequest, OutputFormat, StopReason,
    TokenCount, ToolParam,
};
use serde_json::{Value, json};

use super::answering::{self, Asked, Asking, MESSAGES_MAX};
use super::chat::broken;
use super::failure::{Failure, Form};
use super::names::Names;
use super::reader::{Call, End, Piece, Reader, Reason};
use super::sampling::{self, Figures};
use super::sse::{self, Frames};
use super::tools::{Choice, Places, parameters, tooling};
use super::{At, json as reply_json, replied, request};
use crate::answers::{Message, Speaker, Tool, ToolCall, Usage};

/// The route that answers.
pub(super) async fn messages(State(at): State<At>, request: Request) -> Response {
    replied(answer(at, request).await, Form::Anthropic)
}

/// The route that counts.
pub(super) async fn count_tokens(State(at): State<At>, request: Request) -> Response {
    replied(count(at, request).await, Form::Anthropic)
}

async fn answer(at: At, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let asking = Asking::new(at, &parts.headers, &parts.extensions)?;
    let request: MessagesRequest = request::read(body).await?;
    if request.max_tokens.is_none() {
        return Err(Failure::invalid("max_tokens", "max_tokens: Field required"));
    }
    let streams = request.stream.unwrap_or(false);
    let mut asked = question(request)?;
    asked.reading.streams = streams;
    let reader = asking.open(asked).await?;
    let id = reader.id;
    let response = if streams {
        let frames = Events::new(&reader);
        sse::reply(sse::frames(reader, frames))
    } else {
        whole(reader).await?
    };
    Ok(answering::name(response, id))
}

async fn count(at: At, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let asking = Asking::new(at, &parts.headers, &parts.extensions)?;
    let request: MessagesRequest = request::read(body).await?;
    asking.check_model(&request.model)?;
    let Asked { question, .. } = question(request)?;
    let answerer = &asking.at.surface.answerer;
    let counted = answerer.count_tokens(question.model, question.input).await;
    let input_tokens = counted.map_err(|error| Failure::from_ask(error, &Names::MESSAGES, None))?;
    Ok(reply_json(&TokenCount { input_tokens }))
}

pub(super) fn question(request: MessagesRequest) -> Result<Asked, Failure> {
    if request
        .temperature
        .is_some_and(|value| !(0.0..=1.0).contains(&value))
    {
        let message = "temperature must be from 0 to 1";
        return Err(Failure::invalid("temperature", message));
    }
    if request
        .mcp_servers
        .as_ref()
        .is_some_and(|servers| !servers.is_empty())
    {
        let message = "no servers of tools are asked here; define the tools in tools";
        return Err(Failure::unsupported("mcp_servers", message));
    }
    if request
        .container
        .as_ref()
        .is_some_and(|container| !container.is_null())
    {
        let message = "no code is run here; leave container out";
        return Err(Failure::unsupported("container", message));
    }
    let figures = Figures {
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        ..Figures::default()
    };
    let tools = request.tools.unwrap_or_default().into_iter().enumerate();
    let tools: Vec<Tool> = tools.map(tool).collect::<Result<_, _>>()?;
    let (choice, parallel) = choice(request.tool_choice);
    let format = request.output_config.and_then(|config| config.format);
    let places = match format {
        None if request.output_format.is_some() => &OLDER,
        _ => &TOOLS,
    };
    let format = format.or(request.output_format);
    let schema = format.map(|OutputFormat::JsonSchema { schema }| Value::Object(schema));
    let tooling = tooling(places, tools, choice, parallel, schema)?;
    if request.messages.is_empty() {
        return Err(Failure::invalid(
            "messages",
            "messages: at least one message is required",
        ));
    }
    let mut said = Vec::with_capacity(request.messages.len() + 1);
    if let Some(system) = request.system {
        said.push(Message::said(Speaker::System, text(system, "system")?));
    }
    for (index, message) in request.messages.into_iter().enumerate() {
        append(&mut said, index, message)?;
        join_instructions(&mut said);
        if said.len() > MESSAGES_MAX {
            let message = format!("a conversation may have at most {MESSAGES_MAX} messages");
            return Err(Failure::invalid("messages", message));
        }
    }
    let sampling = figures.sampling()?;
    let mut asked = Asked::chat(places.names, request.model, said, tooling, sampling)?;
    let output = sampling::output_tokens("max_tokens", request.max_tokens)?;
    asked.question.output_tokens_max = output;
    let stops = request.stop_sequences.unwrap_or_default();
    asked.question.stops = sampling::stops("stop_sequences", stops)?;
    Ok(asked)
}

const TOOLS: Places = Places {
    names: Names::MESSAGES,
    tool: tool_place,
    tools: "tools",
    choice: "tool_choice",
};
const OLDER: Places = Places {
    names: Names {
        form: "output_format",
        ..Names::MESSAGES
    },
    tool: tool_place,
    tools: "tools",
    choice: "tool_choice",
};

fn tool_place(index: usize, field: &str) -> String {
    let field = match field {
        "parameters" => "input_schema",
        other => other,
    };
    format!("tools.{index}.{field}")
}

/// Instructions that stand at the beginning, in `system` and in the first turns, are one message: many
/// templates take one only.
fn join_instructions(said: &mut Vec<Message>) {
    if let [first, second] = said.as_mut_slice()
        && first.speaker == Speaker::System
        && second.speaker == Speaker::System
    {
        let more = std::mem::take(&mut second.text);
        first.text.push_str("\n\n");
        first.text.push_str(&more);
        said.pop();
    }
}

fn tool((index, tool): (usize, ToolParam)) -> Result<Tool, Failure> {
    if tool.kind.as_deref().is_some_and(|kind| kind != "custom") {
        let message = format!(
            "tools.{index}: Input tag '{}' does not match any of the expected tags: 'custom'. The tool {:?} is \
             Anthropic's own; define a tool of your own",
            tool.kind.unwrap_or_default(),
            tool.name
        );
        return Err(Failure::unsupported(tool_place(index, "type"), message));
    }
    Ok(Tool {
        name: tool.name,
        description: tool.description.unwrap_or_default(),
        parameters: parameters(tool.input_schema),
    })
}

/// The choice, and whether several tools may be asked for at once.
fn choice(asked: Option<AnthropicToolChoice>) -> (Choice, bool) {
    match asked {
        None => (Choice::Auto, true),
        Some(AnthropicToolChoice::Auto {
            disable_parallel_tool_use: one,
        }) => (Choice::Auto, !one.unwrap_or(false)),
        Some(AnthropicToolChoice::Any {
            disable_parallel_tool_use: one,
        }) => (Choice::Required, !one.unwrap_or(false)),
        Some(AnthropicToolChoice::Tool { name, .. }) => (Choice::Named(name), false),
        Some(AnthropicToolChoice::None) => (Choice::None, true),
    }
}

/// Adds a message: each result of a tool becomes one of its own, before what the user says.
fn append(said: &mut Vec<Message>, index: usize, message: MessageParam) -> Result<(), Failure> {
    let speaker = match message.role {
        AnthropicRole::User => Speaker::User,
        AnthropicRole::Assistant => Speaker::Assistant,
        AnthropicRole::System => Speaker::System,
    };
    let blocks = match message.content {
        AnthropicContent::Text(text) => {
            said.push(Message::said(speaker, text));
            return Ok(());
        }
        AnthropicContent::Blocks(blocks) => blocks,
    };
    let (mut texts, mut calls, mut had_result) = (Vec::new(), Vec::new(), false);
    for (block, param) in blocks.into_iter().enumerate() {
        let place = format!("messages.{index}.content.{block}");
        match read_block(param, &place)? {
            Said::Text(text) => texts.push(text),
            Said::Call(call) => calls.push(call),
            Said::Result { call_id, text } => {
                had_result = true;
                said.push(Message {
                    call_id: Some(call_id),
                    ..Message::said(Speaker::Tool, text)
                });
            }
            Said::Nothing => {}
        }
    }
    if !(texts.is_empty() && calls.is_empty() && had_result) {
        said.push(Message {
            calls,
            ..Message::said(speaker, texts.join("\n"))
        });
    }
    Ok(())
}

enum Said {
    Text(String),
    Call(ToolCall),
    Result { call_id: String, text: String },
    Nothing,
}

fn read_block(block: BlockParam, place: &str) -> Result<Said, Failure> {
    let kind = block.kind.as_str();
    match (kind, block.text, block.id, block.name, block.tool_use_id) {
        ("text", Some(text), ..) => Ok(Said::Text(text)),
        ("tool_use", _, Some(id), Some(tool), _) => Ok(Said::Call(ToolCall {
            id,
            tool,
            arguments: block.input.unwrap_or_else(|| json!({})),
        })),
        ("tool_result", _, _, _, Some(call_id)) => {
            let place = format!("{place}.content");
            let content = block.content.map(|content| text(*content, &place));
            let text = content.transpose()?.unwrap_or_default();
            let text = match block.is_error {
                Some(true) => format!("Error: {text}"),
                _ => text,
            };
            Ok(Said::Result { call_id, text })
        }
        ("document", ..) => document(block.title, block.source, place),
        ("search_result", ..) => {
            let found = block.content.map(|content| text(*content, place));
            let found = found.transpose()?.unwrap_or_default();
            let source = block.source.as_ref().and_then(Value::as_str);
            let head = [block.title.as_deref(), source];
            let lines = head.into_iter().flatten().chain([found.as_str()]);
            Ok(Said::Text(lines.collect::<Vec<_>>().join("\n")))
        }
        // What a model thought is its own; it is not told again.
        ("thinking" | "redacted_thinking", ..) => Ok(Said::Nothing),
        ("text", ..) => Err(Failure::missing(format!("{place}.text"))),
        ("tool_use", _, None, ..) => Err(Failure::missing(format!("{place}.id"))),
        ("tool_use", ..) => Err(Failure::missing(format!("{place}.name"))),
        ("tool_result", ..) => Err(Failure::missing(format!("{place}.tool_use_id"))),
        _ => Err(no_such_block(kind, place)),
    }
}

fn no_such_block(kind: &str, place: &str) -> Failure {
    let message = format!(
        "{place}: Input tag '{kind}' does not match any of the expected tags: 'text', 'document', \
         'search_result', 'tool_use', 'tool_result', 'thinking', 'redacted_thinking'. This model reads text only"
    );
    Failure::unsupported(place, message)
}

/// A document whose text is in the request; no other can be read here.
fn document(title: Option<String>, source: Option<Value>, place: &str) -> Result<Said, Failure> {
    let kind = source.as_ref().and_then(|source| source["type"].as_str());
    let data = source.as_ref().and_then(|source| source["data"].as_str());
    match (kind, data) {
        (Some("text"), Some(data)) => {
            let lines = title.as_deref().into_iter().chain([data]);
            Ok(Said::Text(lines.collect::<Vec<_>>().join("\n")))
        }
        (kind, _) => {
            let message = format!(
                "{place}.source: a document from '{}' is not supported. This model reads text only: send \
                 the text itself, as a source of type 'text'",
                kind.unwrap_or("nowhere")
            );
            Err(Failure::unsupported(format!("{place}.source"), message))
        }
    }
}

fn text(content: AnthropicContent, place: &str) -> Result<String, Failure> {
    let blocks = match content {
        AnthropicContent::Text(text) => return Ok(text),
        AnthropicContent::Blocks(blocks) => blocks,
    };
    let texts = blocks.into_iter().enumerate().map(|(index, block)| {
        let place = format!("{place}.{index}");
        let kind = block.kind.clone();
        match read_block(block, &place)? {
            Said::Text(text) => Ok(text),
            Said::Nothing => Ok(String::new()),
            Said::Call(_) | Said::Result { .. } => Err(no_such_block(&kind, &place)),
        }
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

fn usage(usage: &Usage) -> anthropic::Usage {
    anthropic::Usage {
        input_tokens: usage.prompt_tokens.saturating_sub(usage.cached_tokens),
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: usage.cached_tokens,
        output_tokens: usage.output_tokens,
    }
}

/// Why an answer ended, in Anthropic's words, with the stop text that came.
fn stop(end: &End) -> Result<MessageEnd, Failure> {
    let (stop_reason, stop_sequence) = match &end.reason {
        Reason::Turn => (StopReason::EndTurn, None),
        Reason::Stop(text) => (StopReason::StopSequence, Some(text.clone())),
        Reason::Length => (StopReason::MaxTokens, None),
        Reason::Calls => (StopReason::ToolUse, None),
        Reason::Broken(failure) => return Err(broken(failure, end)),
    };
    Ok(MessageEnd {
        stop_reason,
        stop_sequence,
    })
}

fn call_id(reader_id: &str, call: &Call) -> String {
    format!("toolu_{reader_id}{}", call.index)
}

/// A whole answer.
async fn whole(mut reader: Reader) -> Result<Response, Failure> {
    let id = reader.id.to_string();
    let (mut said, mut content) = (String::new(), Vec::new());
    let end = loop {
        match reader.next().await {
            Some(Piece::Text { text, .. }) => said.push_str(&text),
            Some(Piece::Call(call)) => {
                if !said.is_empty() {
                    let text = std::mem::take(&mut said);
                    content.push(AnthropicBlock::Text { text });
                }
                content.push(AnthropicBlock::ToolUse {
                    id: call_id(&id, &call),
                    name: call.tool,
                    input: request::parse_value(&call.arguments).unwrap_or_else(|_| json!({})),
                });
            }
            Some(Piece::Ended(end)) => break end,
            None => return Err(Failure::unended()),
        }
    };
    if !said.is_empty() {
        content.push(AnthropicBlock::Text { text: said });
    }
    let stop = stop(&end)?;
    Ok(reply_json(&anthropic::Message {
        id: format!("msg_{id}"),
        kind: "message".to_owned(),
        role: AnthropicRole::Assistant,
        content,
        model: reader.model,
        stop_reason: Some(stop.stop_reason),
        stop_sequence: stop.stop_sequence,
        usage: usage(&end.usage),
        hearth: Some(end.note),
    }))
}

/// An answer as named events.
struct Events {
    id: String,
    model: String,
    prompt_tokens: u32,
    /// The place of the next block.
    next: u32,
    /// Whether a block of text is open: the one before `next`.
    in_text: bool,
}

impl Events {
    fn new(reader: &Reader) -> Self {
        Self {
            id: reader.id.to_string(),
            model: reader.model.clone(),
            prompt_tokens: reader.prompt_tokens,
            next: 0,
            in_text: false,
        }
    }

    fn close_text(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.in_text) {
            let index = self.next - 1;
            write(out, &Event::ContentBlockStop { index });
        }
    }

    fn open(&mut self, content_block: AnthropicBlock, out: &mut Vec<u8>) -> u32 {
        let index = self.next;
        self.next += 1;
        let event = Event::ContentBlockStart {
            index,
            content_block,
        };
        write(out, &event);
        index
    }

    fn text(&mut self, text: String, out: &mut Vec<u8>) {
        if text.is_empty() {
            return;
        }
        if !self.in_text {
            let text = String::new();
            self.open(AnthropicBlock::Text { text }, out);
            self.in_text = true;
        }
        let index = self.next - 1;
        let delta = BlockDelta::TextDelta { text };
        write(out, &Event::ContentBlockDelta { index, delta });
    }

    fn call(&mut self, call: Call, out: &mut Vec<u8>) {
        self.close_text(out);
        let block = AnthropicBlock::ToolUse {
            id: call_id(&self.id, &call),
            name: call.tool,
            input: json!({}),
        };
        let index = self.open(block, out);
        let delta = BlockDelta::InputJsonDelta {
            partial_json: call.arguments,
        };
        write(out, &Event::ContentBlockDelta { index, delta });
        write(out, &Event::ContentBlockStop { index });
    }

    fn end(&mut self, end: End, out: &mut Vec<u8>) {
        self.close_text(out);
        match stop(&end) {
            Ok(delta) => {
                let event = Event::MessageDelta {
                    delta,
                    usage: usage(&end.usage),
                    hearth: Box::new(end.note),
                };
                write(out, &event);
                write(out, &Event::MessageStop {});
            }
            Err(failure) => sse::event(out, "error", &failure.anthropic()),
        }
    }
}

fn write(out: &mut Vec<u8>, event: &Event) {
    sse::event(out, event.name(), event);
}

impl Frames for Events {
    fn read(&mut self, cached_tokens: u32, out: &mut Vec<u8>) {
        let message = anthropic::Message {
            id: format!("msg_{}", self.id),
            kind: "message".to_owned(),
            role: AnthropicRole::Assistant,
            content: Vec::new(),
            model: self.model.clone(),
            stop_reason: None,
            stop_sequence: None,
            usage: usage(&Usage {
                prompt_tokens: self.prompt_tokens,
                cached_tokens,
                ..Usage::default()
            }),
            hearth: None,
        };
        let message = Box::new(message);
        write(out, &Event::MessageStart { message });
    }

    fn piece(&mut self, piece: Piece, out: &mut Vec<u8>) {
        match piece {
            Piece::Text { text, .. } => self.text(text, out),
            Piece::Call(call) => self.call(call, out),
            Piece::Ended(end) => self.end(end, out),
        }
    }

    fn ping(&self, out: &mut Vec<u8>) {
        write(out, &Event::Ping {});
    }
}
