//! A conversation as the text that a model was trained on.
//!
//! The model file carries a Jinja template, written for Python. It is run here with `minijinja`
//! and the few methods of Python's strings and mappings that such templates use. A template may
//! come from a stranger, so its work is paid with fuel, which bounds time and memory; it reaches
//! no file, no clock and no network.
//!
//! What a template writes is markup, what it is given are words. They are told apart by characters:
//! in words, each one that markup is made of is replaced by a stand-in before the template runs, and
//! put back when the markup was found (docs/adr/0016-words-and-markup.md).
//!
//! Where a template does not speak of tools, they are told in a system message, in the form that
//! `tools` reads back, and calls and results of earlier turns are written into plain messages.
//!
//! What is not here: ids, which the `vocabulary` makes of the text.

use std::sync::Arc;

use minijinja::machinery::{eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value, context};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::tools::Tool;
use crate::vocabulary::markup::{Guard, Markup, NoStandIn, Stretch};
use crate::vocabulary::split::on_deep_stack;
use crate::vocabulary::{Encoder, PromptPart};

mod bounds;
mod calendar;
mod methods;
#[cfg(test)]
mod tests;
mod words;

pub use crate::tools::Message;

/// The longest template, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 256 << 10;
/// The longest rendered prompt, in bytes.
pub const PROMPT_BYTES_MAX: usize = crate::vocabulary::TEXT_BYTES_MAX;
/// Steps that a template may take, besides those that its input needs.
const FUEL: u64 = 500_000;
/// Steps that a template may take for each four bytes of its input.
const BYTES_PER_FUEL: usize = 4;
/// Bytes that are copied for one unit of fuel.
const BYTES_PER_WRITTEN_FUEL: usize = 64;
/// How deep macros and blocks may call one another.
const RECURSION_MAX: usize = 64;

/// Where the tools of a conversation are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolsPlace {
    /// The template tells them, in the form that the model was trained on.
    Template,
    /// A system message tells them, because the template does not speak of tools.
    SystemMessage,
}

/// Why there is no prompt. Exhaustive, so that whoever tells it further decides on each cause.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
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
    /// The last message cannot be left open.
    #[error("the model cannot go on with the last message: end with a user's one")]
    NotContinued,
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
    /// Whether the last message, the assistant's own, is continued instead of closed.
    pub continue_last: bool,
    /// The time that templates may tell, in seconds since 1970, UTC.
    pub now_s: u64,
}

/// The chat template of a model.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    text: String,
    beginning: String,
    end: String,
    markup: Arc<Markup>,
}

impl ChatTemplate {
    /// The template inside a model file.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn of(encoder: &Encoder) -> Result<Self, TemplateError> {
        let text = encoder.template_text().ok_or(TemplateError::Missing)?;
        let special = encoder.special();
        let name = |id: Option<u32>| {
            let bytes = id.map_or(&[][..], |id| encoder.bytes(id));
            String::from_utf8_lossy(bytes).into_owned()
        };
        let markup = Arc::clone(encoder.markup());
        Self::with_markup(text, &name(special.beginning), &name(special.end), markup)
    }

    /// A template with the names of the tokens that begin and end a text, for a vocabulary without
    /// any special token.
    ///
    /// # Errors
    /// When it is too long, or cannot be read.
    pub fn new(text: &str, beginning: &str, end: &str) -> Result<Self, TemplateError> {
        Self::with_markup(text, beginning, end, Arc::default())
    }

    pub(crate) fn with_markup(
        text: &str,
        beginning: &str,
        end: &str,
        markup: Arc<Markup>,
    ) -> Result<Self, TemplateError> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::TooLong);
        }
        let compiled = on_deep_stack(|| bounds::compile(text, syntax()).map(|_| ()));
        compiled
            .map_err(|_| TemplateError::Failed(BROKE.to_owned()))?
            .map_err(|error| TemplateError::Unreadable(told(&error)))?;
        Ok(Self {
            text: text.to_owned(),
            beginning: beginning.to_owned(),
            end: end.to_owned(),
            markup,
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
        let (text, guard) = self.hidden_prompt(conversation)?;
        Ok(guard.reveal(&text))
    }

    /// The prompt of a conversation, its markup apart from its words.
    ///
    /// # Errors
    /// When the template does not take the conversation, or takes too much for it.
    pub(crate) fn parts(
        &self,
        conversation: &Conversation<'_>,
    ) -> Result<Vec<PromptPart>, TemplateError> {
        let (text, guard) = self.hidden_prompt(conversation)?;
        let stretches = self.markup.stretches(&text).into_iter();
        let parts = stretches.map(|stretch| match stretch {
            Stretch::Token(id) => PromptPart::Token(id),
            Stretch::Words(words) => PromptPart::Words(guard.reveal(words)),
        });
        Ok(parts.collect())
    }

    /// The prompt with stand-ins in its words, and what they stand for.
    fn hidden_prompt(
        &self,
        conversation: &Conversation<'_>,
    ) -> Result<(String, Guard<'_>), TemplateError> {
        let rendered = on_deep_stack(|| self.hidden_prompt_here(conversation));
        rendered.map_err(|_| TemplateError::Failed(BROKE.to_owned()))?
    }

    fn hidden_prompt_here(
        &self,
        conversation: &Conversation<'_>,
    ) -> Result<(String, Guard<'_>), TemplateError> {
        let folded;
        let in_template = self.tools_place() == ToolsPlace::Template;
        let (messages, tools) = if in_template {
            (conversation.messages, conversation.tools)
        } else {
            folded = crate::tools::folded(conversation.messages, conversation.tools);
            (&folded[..], &[][..])
        };
        let input = serde_json::to_string(&(messages, tools));
        let input = input.map_err(|_| TemplateError::PromptTooLong)?;
        if input.len() > PROMPT_BYTES_MAX {
            return Err(TemplateError::PromptTooLong);
        }
        let own = [&*self.text, &*self.beginning, &*self.end, &*input];
        let mut guard = Guard::new(&self.markup, own);
        let mut hidden = words::Hidden::of(&mut guard, messages, tools, &self.text)?;
        let cut = if conversation.continue_last {
            Some(hidden.leave_open(&mut guard)?)
        } else {
            None
        };
        let fuel = FUEL + (input.len() / BYTES_PER_FUEL) as u64;
        let mut prompt = self
            .run(hidden, conversation, fuel)
            .map_err(|error| failure(&error, &guard))?;
        if let Some(cut) = cut {
            let end = prompt.rfind(cut).ok_or(TemplateError::NotContinued)?;
            prompt.truncate(end);
        }
        if prompt.len() > PROMPT_BYTES_MAX {
            return Err(TemplateError::PromptTooLong);
        }
        Ok((prompt, guard))
    }

    fn run(
        &self,
        hidden: words::Hidden,
        conversation: &Conversation<'_>,
        fuel: u64,
    ) -> Result<String, Error> {
        let mut environment = environment(fuel);
        let now_s = conversation.now_s;
        environment.add_function("strftime_now", move |format: &str| {
            calendar::format(now_s, format)
        });
        let tools = if hidden.tools.is_empty() {
            Value::from(())
        } else {
            Value::from(Serde(hidden.tools))
        };
        let context = context! {
            messages => Value::from(Serde(hidden.messages)),
            tools => tools,
            add_generation_prompt => conversation.add_generation_prompt,
            bos_token => &self.beginning,
            eos_token => &self.end,
        };
        let instructions = bounds::compile(&self.text, syntax())?;
        let blocks = std::collections::BTreeMap::new();
        let mut prompt = String::new();
        let mut out = make_string_output(&mut prompt);
        let plain = AutoEscape::None;
        eval(
            &environment,
            &instructions,
            context,
            &blocks,
            &mut out,
            plain,
        )?;
        drop(out);
        Ok(prompt)
    }
}

/// What is said where a thread broke.
const BROKE: &str = "it broke off";

/// As the Python library does that templates are written for.
fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("the usual delimiters are sound")
}

fn environment<'a>(fuel: u64) -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(fuel));
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(|state, value, method, arguments| {
        methods::call(state, value, method, arguments)
    });
    bounds::bind(&mut environment);
    environment.add_filter("tojson", |state: &State, value: &Value, options: Kwargs| {
        methods::to_json(state, value, options)
    });
    environment.add_filter("items", methods::items);
    environment.add_filter(
        "join",
        |state: &State, parts: Value, between: Option<&str>| {
            methods::joined(state, &parts, between.unwrap_or_default())
        },
    );
    environment.add_filter("title", |text: &str| methods::titled(text, true));
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

/// The longest reason that is told, in characters.
const REASON_CHARS_MAX: usize = 300;

fn told(error: &Error) -> String {
    error.to_string().chars().take(REASON_CHARS_MAX).collect()
}

fn failure(error: &Error, guard: &Guard<'_>) -> TemplateError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TemplateError::OutOfFuel;
    }
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(Raised(reason)) = error.downcast_ref() {
            let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
            return TemplateError::Refused(guard.reveal(&reason));
        }
        source = error.source();
    }
    TemplateError::Failed(guard.reveal(&told(error)))
}

impl From<NoStandIn> for TemplateError {
    fn from(_: NoStandIn) -> Self {
        Self::PromptTooLong
    }
}
