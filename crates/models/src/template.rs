//! A conversation as the text that a model was trained on.
//!
//! The model file carries a Jinja template, written for Python. It is run here with `minijinja`
//! and the few methods of Python's strings and mappings that such templates use. A template may
//! come from a stranger, so its work is paid with fuel, which bounds time and memory; it reaches
//! no file, no clock and no network.
//!
//! Where a template does not speak of tools, they are told in a system message, in the form that
//! `tools` reads back, and calls and results of earlier turns are written into plain messages.
//!
//! What is not here: ids, which the `vocabulary` makes of the text.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde_json::json;
use thiserror::Error;

use crate::tools::{Tool, ToolCall};
use crate::vocabulary::Vocabulary;

mod calendar;
mod methods;
#[cfg(test)]
mod tests;

/// The longest template, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 256 << 10;
/// The longest rendered prompt, in bytes.
pub const PROMPT_BYTES_MAX: usize = crate::vocabulary::TEXT_BYTES_MAX;
/// Steps that a template may take, besides those that its input needs.
const FUEL: u64 = 500_000;
/// Steps that a template may take for each four bytes of its input.
const BYTES_PER_FUEL: usize = 4;
/// How deep macros and blocks may call one another.
const RECURSION_MAX: usize = 64;

/// Who speaks, and what.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
    /// What the assistant calls.
    pub tool_calls: Vec<ToolCall>,
    /// Who speaks, or which tool answers.
    pub name: Option<String>,
    /// Which call a tool answers.
    pub tool_call_id: Option<String>,
}

/// Where the tools of a conversation are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolsPlace {
    /// The template tells them, in the form that the model was trained on.
    Template,
    /// A system message tells them, because the template does not speak of tools.
    SystemMessage,
}

/// Why there is no prompt. Exhaustive, so that whoever tells it further decides on each cause.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// The model file has no template.
    #[error("the model has no chat template: ask for a plain completion")]
    Missing,
    /// The template is too long.
    #[error("the model's chat template has more than {TEMPLATE_BYTES_MAX} bytes")]
    TooLong,
    /// The template is not one.
    #[error("the model's chat template cannot be read: {0}")]
    Unreadable(String),
    /// The template does not take this conversation, and says why.
    #[error("the model does not take this conversation: {0}")]
    Refused(String),
    /// The template takes too much time or memory.
    #[error("the model's chat template takes too much for this conversation")]
    OutOfFuel,
    /// The prompt is too long.
    #[error("the prompt has more than {PROMPT_BYTES_MAX} bytes: send less")]
    PromptTooLong,
    /// The template failed.
    #[error("the model's chat template failed: {0}")]
    Failed(String),
}

/// What is rendered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conversation<'a> {
    /// The messages, in their order.
    pub messages: &'a [Message],
    /// What the assistant may call.
    pub tools: &'a [Tool],
    /// Whether the assistant speaks next.
    pub add_generation_prompt: bool,
    /// The time that templates may tell, in seconds since 1970, UTC.
    pub now_s: u64,
}

/// The chat template of a model.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    text: String,
    beginning: String,
    end: String,
}

impl ChatTemplate {
    /// The template inside a model file.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn of(vocabulary: &Vocabulary) -> Result<Self, TemplateError> {
        let text = vocabulary.template_text().ok_or(TemplateError::Missing)?;
        let special = vocabulary.special();
        let name = |id: Option<u32>| {
            let bytes = id.map_or(&[][..], |id| vocabulary.bytes(id));
            String::from_utf8_lossy(bytes).into_owned()
        };
        Self::new(text, &name(special.beginning), &name(special.end))
    }

    /// A template with the names of the tokens that begin and end a text.
    ///
    /// # Errors
    /// When it is too long, or cannot be read.
    pub fn new(text: &str, beginning: &str, end: &str) -> Result<Self, TemplateError> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::TooLong);
        }
        environment(0)
            .template_from_str(text)
            .map_err(|error| TemplateError::Unreadable(error.to_string()))?;
        Ok(Self {
            text: text.to_owned(),
            beginning: beginning.to_owned(),
            end: end.to_owned(),
        })
    }

    /// The template itself, of which a hash can be taken.
    pub fn template_text(&self) -> &str {
        &self.text
    }

    /// Where tools are told.
    pub fn tools_place(&self) -> ToolsPlace {
        let names = self
            .text
            .split(|c: char| !(c.is_alphanumeric() || c == '_'));
        if names.into_iter().any(|name| name == "tools") {
            ToolsPlace::Template
        } else {
            ToolsPlace::SystemMessage
        }
    }

    /// The prompt of a conversation.
    ///
    /// # Errors
    /// When the template does not take the conversation, or takes too much for it.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, TemplateError> {
        let folded;
        let in_template = self.tools_place() == ToolsPlace::Template;
        let (messages, tools) = if in_template {
            (conversation.messages, conversation.tools)
        } else {
            folded = crate::tools::folded(conversation.messages, conversation.tools);
            (&folded[..], &[][..])
        };
        let messages: Vec<_> = messages.iter().map(message_value).collect();
        let tools: Vec<_> = tools.iter().map(Tool::to_json).collect();
        let input = serde_json::to_string(&(&messages, &tools));
        let size = input.map_or(PROMPT_BYTES_MAX, |input| input.len());
        if size > PROMPT_BYTES_MAX {
            return Err(TemplateError::PromptTooLong);
        }
        let mut environment = environment(FUEL + (size / BYTES_PER_FUEL) as u64);
        let now_s = conversation.now_s;
        environment.add_function("strftime_now", move |format: &str| {
            calendar::format(now_s, format)
        });
        let tools = if tools.is_empty() {
            Value::from(())
        } else {
            Value::from(Serde(tools))
        };
        let context = context! {
            messages => Value::from(Serde(messages)),
            tools => tools,
            add_generation_prompt => conversation.add_generation_prompt,
            bos_token => &self.beginning,
            eos_token => &self.end,
        };
        let template = environment.template_from_str(&self.text);
        let template = template.map_err(|error| TemplateError::Unreadable(error.to_string()))?;
        let prompt = template.render(context).map_err(|error| failure(&error))?;
        if prompt.len() > PROMPT_BYTES_MAX {
            return Err(TemplateError::PromptTooLong);
        }
        Ok(prompt)
    }
}

/// A message as templates expect it: what is not there is not defined.
fn message_value(message: &Message) -> serde_json::Value {
    let mut value = json!({"role": message.role, "content": message.content});
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(ToolCall::to_json);
        value["tool_calls"] = calls.collect();
    }
    if let Some(name) = &message.name {
        value["name"] = json!(name);
    }
    if let Some(id) = &message.tool_call_id {
        value["tool_call_id"] = json!(id);
    }
    value
}

fn environment<'a>(fuel: u64) -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(fuel));
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    // As the Python library does that templates are written for.
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the usual delimiters are sound"),
    );
    environment.set_unknown_method_callback(|_, value, method, arguments| {
        methods::call(value, method, arguments)
    });
    environment.add_filter("tojson", methods::to_json);
    environment.add_function(
        "raise_exception",
        |reason: String| -> Result<Value, Error> {
            Err(Error::from(ErrorKind::InvalidOperation).with_source(Raised(reason)))
        },
    );
    environment
}

/// What a template refuses a conversation with.
#[derive(Debug, Error)]
#[error("{0}")]
struct Raised(String);

fn failure(error: &Error) -> TemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::OutOfFuel;
    }
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(Raised(reason)) = error.downcast_ref() {
            return TemplateError::Refused(reason.chars().take(300).collect());
        }
        source = error.source();
    }
    TemplateError::Failed(error.to_string().chars().take(300).collect())
}
