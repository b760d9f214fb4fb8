//! `/v1/responses`, stateless: the conversation comes whole with each request.

use axum::extract::{Request, State};
use axum::response::Response as Reply;
use hearth_api::openai::chat::{Role, TokenLogprob, ToolMode};
use hearth_api::openai::responses::{
    IncompleteDetails, InputItem, OutputItem, OutputPart, Response, ResponseEvent,
    ResponseEventKind as Kind, ResponseUsage, ResponsesInput, ResponsesRequest, ResponsesTool,
    ResponsesToolChoice, Status, TextFormat,
};
use serde_json::{Value, json};

use super::answering::{self, Asked, Asking};
use super::chat::{past_call, text, token_logprob};
use super::failure::{Failure, Form};
use super::names::Names;
use super::reader::{Call, End, Piece, Reader, Reason};
use super::sampling::{self, Figures};
use super::sse::{self, Frames};
use super::tools::{self, Choice, Places, parameters, tooling};
use super::{At, json as reply_json, replied, request};
use crate::answers::{Message, Speaker, Tool};

/// The route.
pub(super) async fn responses(State(at): State<At>, request: Request) -> Reply {
    replied(answer(at, request).await, Form::OpenAi)
}

async fn answer(at: At, request: Request) -> Result<Reply, Failure> {
    let (parts, body) = request.into_parts();
    let asking = Asking::new(at, &parts.headers, &parts.extensions)?;
    let request: ResponsesRequest = request::read(body).await?;
    let streams = request.stream.unwrap_or(false);
    let mut response = begun(&request);
    let mut asked = question(request)?;
    asked.reading.streams = streams;
    let reader = asking.open(asked).await?;
    let id = reader.id;
    response.id = format!("resp_{id}");
    response.created_at = asking.at.surface.now_s();
    response.model.clone_from(&reader.model);
    let writer = Writer {
        answer: id.to_string(),
        response,
        sequence: 0,
        text: None,
        logprobs: Vec::new(),
    };
    let reply = if streams {
        sse::reply(sse::frames(reader, writer))
    } else {
        whole(reader, writer).await?
    };
    Ok(answering::name(reply, id))
}

/// The answer before anything was said.
fn begun(request: &ResponsesRequest) -> Response {
    Response {
        id: String::new(),
        object: "response".to_owned(),
        created_at: 0,
        status: Status::InProgress,
        error: None,
        incomplete_details: None,
        instructions: request.instructions.clone(),
        max_output_tokens: request.max_output_tokens,
        model: request.model.clone(),
        output: Vec::new(),
        parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
        previous_response_id: None,
        store: false,
        temperature: request.temperature.unwrap_or(1.0),
        top_p: request.top_p.unwrap_or(1.0),
        text: request.text.clone().unwrap_or_default(),
        tool_choice: request
            .tool_choice
            .clone()
            .unwrap_or(ResponsesToolChoice::Mode(ToolMode::Auto)),
        tools: request.tools.clone().unwrap_or_default(),
        truncation: "disabled".to_owned(),
        metadata: request.metadata.clone().unwrap_or_default(),
        usage: None,
        hearth: None,
    }
}

pub(super) fn question(request: ResponsesRequest) -> Result<Asked, Failure> {
    if request.previous_response_id.is_some() {
        let message = "no answers are kept here; send the whole conversation as input";
        return Err(Failure::unsupported("previous_response_id", message));
    }
    if request.background.unwrap_or(false) {
        let message = "answers are given while one waits; leave background out";
        return Err(Failure::unsupported("background", message));
    }
    not_kept(&request)?;
    let logprobs = logprobs(&request)?;
    let figures = Figures {
        temperature: request.temperature,
        top_p: request.top_p,
        ..Figures::default()
    };
    let tools = request.tools.unwrap_or_default().into_iter().enumerate();
    let mut tools: Vec<Tool> = tools.map(tool).collect::<Result<_, _>>()?;
    let choice = choice(request.tool_choice, &mut tools)?;
    let schema = match request.text.and_then(|text| text.format) {
        None | Some(TextFormat::Text) => None,
        Some(TextFormat::JsonObject) => Some(json!({ "type": "object" })),
        Some(TextFormat::JsonSchema { schema, .. }) => Some(Value::Object(schema)),
    };
    let parallel = request.parallel_tool_calls.unwrap_or(true);
    let tooling = tooling(&TOOLS, tools, choice, parallel, schema)?;
    let mut messages = Vec::new();
    if let Some(instructions) = request.instructions {
        messages.push(Message::said(Speaker::System, instructions));
    }
    match request.input {
        ResponsesInput::Text(text) => messages.push(Message::said(Speaker::User, text)),
        ResponsesInput::Items(items) if items.is_empty() => {
            let message = "input is empty; say something";
            return Err(Failure::invalid("input", message));
        }
        ResponsesInput::Items(items) => {
            for (index, item) in items.into_iter().enumerate() {
                append(&mut messages, index, item)?;
            }
        }
    }
    let sampling = figures.sampling()?;
    let mut asked = Asked::chat(Names::RESPONSES, request.model, messages, tooling, sampling)?;
    let output = sampling::output_tokens("max_output_tokens", request.max_output_tokens)?;
    asked.question.output_tokens_max = output;
    asked.question.logprobs = logprobs;
    Ok(asked)
}

/// Refuses what would need something that is kept between requests, or more than text.
fn not_kept(request: &ResponsesRequest) -> Result<(), Failure> {
    let is_set = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    if is_set(&request.conversation) {
        let message = "no conversations are kept here; send the whole conversation as input";
        return Err(Failure::unsupported("conversation", message));
    }
    if is_set(&request.prompt) {
        let message = "no prompts are kept here; send its text as instructions and input";
        return Err(Failure::unsupported("prompt", message));
    }
    Ok(())
}

/// How many alternatives to each token are told, if the tokens are told at all.
fn logprobs(request: &ResponsesRequest) -> Result<Option<u8>, Failure> {
    let told = |also: &String| also == "message.output_text.logprobs";
    let is_told = request.include.iter().flatten().any(told);
    match request.top_logprobs {
        None | Some(0) if !is_told => Ok(None),
        top => sampling::logprobs("top_logprobs", top.unwrap_or(0), 20).map(Some),
    }
}

const TOOLS: Places = Places {
    names: Names::RESPONSES,
    tool: |index, field| format!("tools[{index}].{field}"),
    tools: "tools",
    choice: "tool_choice",
};

/// The choice; where only some tools may be asked for, the others are dropped.
fn choice(asked: Option<ResponsesToolChoice>, tools: &mut Vec<Tool>) -> Result<Choice, Failure> {
    let chosen = match asked {
        None => return Ok(Choice::Auto),
        Some(ResponsesToolChoice::Mode(mode)) => return Ok(tools::of_mode(mode)),
        Some(ResponsesToolChoice::Of(chosen)) => chosen,
    };
    match (chosen.kind.as_str(), chosen.name, chosen.tools) {
        ("function", Some(name), _) => Ok(Choice::Named(name)),
        ("function", None, _) => Err(Failure::missing("tool_choice.name")),
        ("allowed_tools", _, Some(allowed)) => {
            tools::only(tools, allowed.into_iter().map(|tool| tool.name))?;
            Ok(tools::of_mode(chosen.mode.unwrap_or(ToolMode::Auto)))
        }
        ("allowed_tools", ..) => Err(Failure::missing("tool_choice.tools")),
        _ => Err(tools::no_such_kind(
            "tool_choice.type".to_owned(),
            &chosen.kind,
        )),
    }
}

fn tool((index, tool): (usize, ResponsesTool)) -> Result<Tool, Failure> {
    if tool.kind != "function" {
        return Err(tools::no_such_kind(
            format!("tools[{index}].type"),
            &tool.kind,
        ));
    }
    let Some(name) = tool.name else {
        return Err(Failure::missing(format!("tools[{index}].name")));
    };
    Ok(Tool {
        name,
        description: tool.description.unwrap_or_default(),
        parameters: parameters(tool.parameters),
    })
}

fn append(messages: &mut Vec<Message>, index: usize, item: InputItem) -> Result<(), Failure> {
    let place = |field: &str| format!("input[{index}].{field}");
    let lacks = |field: &str| Failure::missing(place(field));
    match item.kind.as_deref().unwrap_or("message") {
        "message" => {
            let speaker = match item.role.ok_or_else(|| lacks("role"))? {
                Role::System | Role::Developer => Speaker::System,
                Role::User => Speaker::User,
                Role::Assistant => Speaker::Assistant,
                Role::Tool | Role::Function => {
                    let message =
                        "Invalid value: what a tool said is an item of type 'function_call_output'";
                    return Err(Failure::invalid(place("role"), message));
                }
            };
            let content = item.content.ok_or_else(|| lacks("content"))?;
            messages.push(Message::said(speaker, text(content, &place("content"))?));
        }
        "function_call" => {
            let id = item.call_id.ok_or_else(|| lacks("call_id"))?;
            let name = item.name.ok_or_else(|| lacks("name"))?;
            let arguments = item.arguments.unwrap_or_default();
            let call = past_call(id, name, &arguments, || place("arguments"))?;
            // Calls of one turn belong to one message.
            match messages.last_mut() {
                Some(last) if last.speaker == Speaker::Assistant => last.calls.push(call),
                _ => messages.push(Message {
                    calls: vec![call],
                    ..Message::said(Speaker::Assistant, String::new())
                }),
            }
        }
        "function_call_output" => {
            let call_id = item.call_id.ok_or_else(|| lacks("call_id"))?;
            let output = item.output.ok_or_else(|| lacks("output"))?;
            messages.push(Message {
                call_id: Some(call_id),
                ..Message::said(Speaker::Tool, text(output, &place("output"))?)
            });
        }
        // What a model thought is its own; it is not told again.
        "reasoning" => {}
        "item_reference" => {
            let message = "no items are kept here; send the item itself";
            return Err(Failure::unsupported(place("type"), message));
        }
        kind => {
            let message = format!(
                "Invalid value: '{kind}'. Supported values are: 'message', 'function_call', \
                 'function_call_output', and 'reasoning', which is passed over."
            );
            return Err(Failure::unsupported(place("type"), message));
        }
    }
    Ok(())
}

/// A whole answer.
async fn whole(mut reader: Reader, mut writer: Writer) -> Result<Reply, Failure> {
    let mut unread = Vec::new();
    loop {
        unread.clear();
        match reader.next().await {
            Some(Piece::Ended(end)) => {
                if let Reason::Broken(error) = &end.reason {
                    return Err(super::chat::broken(error, &end));
                }
                writer.piece(Piece::Ended(end), &mut unread);
                return Ok(reply_json(&writer.response));
            }
            Some(piece) => writer.piece(piece, &mut unread),
            None => return Err(Failure::unended()),
        }
    }
}

/// Builds the answer item by item, and writes an event for each step.
struct Writer {
    answer: String,
    response: Response,
    sequence: u64,
    /// The text of the message that is open: the next item.
    text: Option<String>,
    /// Of the tokens of that message, if they are told.
    logprobs: Vec<TokenLogprob>,
}

impl Writer {
    fn event(&mut self, kind: Kind, out: &mut Vec<u8>) {
        let name = kind.name();
        let event = ResponseEvent {
            sequence_number: self.sequence,
            kind,
        };
        self.sequence += 1;
        sse::event(out, name, &event);
    }

    fn place(&self) -> (String, usize) {
        let index = self.response.output.len();
        (format!("msg_{}{index}", self.answer), index)
    }

    fn text(&mut self, delta: String, logprobs: Vec<TokenLogprob>, out: &mut Vec<u8>) {
        if delta.is_empty() && logprobs.is_empty() {
            return;
        }
        let (item_id, output_index) = self.place();
        if self.text.is_none() {
            self.text = Some(String::new());
            let item = message(&item_id, Status::InProgress, Vec::new());
            self.event(Kind::ItemAdded { output_index, item }, out);
            let added = Kind::PartAdded {
                item_id: item_id.clone(),
                output_index,
                content_index: 0,
                part: part(String::new(), Vec::new()),
            };
            self.event(added, out);
        }
        if let Some(text) = &mut self.text {
            text.push_str(&delta);
        }
        self.logprobs.extend_from_slice(&logprobs);
        let delta = Kind::TextDelta {
            item_id,
            output_index,
            content_index: 0,
            delta,
            logprobs,
        };
        self.event(delta, out);
    }

    fn close_text(&mut self, status: Status, out: &mut Vec<u8>) {
        let Some(text) = self.text.take() else { return };
        let logprobs = std::mem::take(&mut self.logprobs);
        let (item_id, output_index) = self.place();
        let done = Kind::TextDone {
            item_id: item_id.clone(),
            output_index,
            content_index: 0,
            text: text.clone(),
            logprobs: logprobs.clone(),
        };
        self.event(done, out);
        let done = Kind::PartDone {
            item_id: item_id.clone(),
            output_index,
            content_index: 0,
            part: part(text.clone(), logprobs.clone()),
        };
        self.event(done, out);
        self.finish(message(&item_id, status, vec![part(text, logprobs)]), out);
    }

    fn finish(&mut self, item: OutputItem, out: &mut Vec<u8>) {
        let output_index = self.response.output.len();
        self.response.output.push(item.clone());
        self.event(Kind::ItemDone { output_index, item }, out);
    }

    fn call(&mut self, call: Call, out: &mut Vec<u8>) {
        self.close_text(Status::Completed, out);
        let output_index = self.response.output.len();
        let item_id = format!("fc_{}{output_index}", self.answer);
        let item = |status, arguments: &str| OutputItem::FunctionCall {
            id: item_id.clone(),
            status,
            call_id: format!("call_{}{}", self.answer, call.index),
            name: call.tool.clone(),
            arguments: arguments.to_owned(),
        };
        let begun = item(Status::InProgress, "");
        let finished = item(Status::Completed, &call.arguments);
        let added = Kind::ItemAdded {
            output_index,
            item: begun,
        };
        self.event(added, out);
        let delta = Kind::ArgumentsDelta {
            item_id: item_id.clone(),
            output_index,
            delta: call.arguments.clone(),
        };
        self.event(delta, out);
        let done = Kind::ArgumentsDone {
            item_id,
            output_index,
            name: call.tool,
            arguments: call.arguments,
        };
        self.event(done, out);
        self.finish(finished, out);
    }

    fn end(&mut self, end: End, out: &mut Vec<u8>) {
        let status = match &end.reason {
            Reason::Length => Status::Incomplete,
            Reason::Broken(_) => Status::Failed,
            _ => Status::Completed,
        };
        let of_text = match status {
            Status::Completed => Status::Completed,
            _ => Status::Incomplete,
        };
        self.close_text(of_text, out);
        let usage = &end.usage;
        self.response.status = status;
        self.response.usage = Some(ResponseUsage {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: hearth_api::openai::PromptTokensDetails {
                cached_tokens: usage.cached_tokens,
            },
            output_tokens: usage.output_tokens,
            output_tokens_details: hearth_api::openai::CompletionTokensDetails::default(),
            total_tokens: usage.prompt_tokens.saturating_add(usage.output_tokens),
        });
        self.response.hearth = Some(end.note.clone());
        if status == Status::Incomplete {
            self.response.incomplete_details = Some(IncompleteDetails {
                reason: "max_output_tokens".to_owned(),
            });
        }
        let Reason::Broken(error) = &end.reason else {
            let response = Box::new(self.response.clone());
            let kind = match status {
                Status::Incomplete => Kind::Incomplete { response },
                _ => Kind::Completed { response },
            };
            return self.event(kind, out);
        };
        let error = super::chat::broken(error, &end).openai().error;
        self.response.error = Some(error.clone());
        let response = Box::new(self.response.clone());
        self.event(Kind::Failed { response }, out);
        let kind = Kind::Error {
            code: error.code.clone(),
            message: error.message.clone(),
            param: None,
            error,
        };
        self.event(kind, out);
    }
}

fn message(id: &str, status: Status, content: Vec<OutputPart>) -> OutputItem {
    OutputItem::Message {
        id: id.to_owned(),
        status,
        role: Role::Assistant,
        content,
    }
}

fn part(text: String, logprobs: Vec<TokenLogprob>) -> OutputPart {
    OutputPart::OutputText {
        text,
        annotations: Vec::new(),
        logprobs,
    }
}

impl Frames for Writer {
    fn begin(&mut self, out: &mut Vec<u8>) {
        let response = Box::new(self.response.clone());
        self.event(Kind::Created { response }, out);
        let response = Box::new(self.response.clone());
        self.event(Kind::InProgress { response }, out);
    }

    fn piece(&mut self, piece: Piece, out: &mut Vec<u8>) {
        match piece {
            Piece::Text { text, logprobs } => {
                let logprobs = logprobs.iter().map(token_logprob).collect();
                self.text(text, logprobs, out);
            }
            Piece::Call(call) => self.call(call, out),
            Piece::Ended(end) => self.end(end, out),
        }
    }
}
