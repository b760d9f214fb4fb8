//! What goes wrong, in the form that each API's programs read.
//!
//! One error is said in two forms: OpenAI's (`error` with `message`, `type`, `param`, `code`) and
//! Anthropic's (`type: error`). Each message says what to do next, because it is what the SDKs show.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hearth_api::openai::{AnswerNote, ErrorDetail, ErrorReply};
use hearth_api::{anthropic, openai};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};

use super::keys::{ApiKey, BUYER, KEYLESS};
use super::names::Names;
use crate::answers::{AskError, Field};

/// By which the SDKs are told that asking again by themselves would be wrong.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The longest message, and the longest name of a field, in characters: both may quote what was sent.
const MESSAGE_CHARS_MAX: usize = 1_000;
const PARAM_CHARS_MAX: usize = 200;

/// A text with no more characters than these.
fn bounded(text: impl Into<String>, chars_max: usize) -> String {
    let mut text = text.into();
    if let Some((end, _)) = text.char_indices().nth(chars_max) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Whose programs are spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    OpenAi,
    Anthropic,
}

impl Form {
    /// By the path of a request.
    pub(super) fn of(path: &str) -> Self {
        if path.starts_with("/v1/messages") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }
}

/// A request that is not answered, or not to its end.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) message: String,
    pub(super) param: Option<String>,
    code: &'static str,
    /// What Anthropic's programs match on, where that is something else.
    to_anthropic: Option<String>,
    retry_after_s: Option<u32>,
    note: Option<Box<AnswerNote>>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            message: bounded(message, MESSAGE_CHARS_MAX),
            param: None,
            code,
            to_anthropic: None,
            retry_after_s: None,
            note: None,
        }
    }

    /// A field of the request is wrong.
    pub(super) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut failure = Self::new(StatusCode::BAD_REQUEST, "invalid_value", message);
        failure.param = Some(bounded(param, PARAM_CHARS_MAX));
        failure
    }

    /// A field of the request is missing.
    pub(super) fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("Missing required parameter: '{param}'.");
        let to_anthropic = format!("{}: Field required", dotted(&param));
        let mut failure = Self::invalid(param, message);
        failure.code = "missing_required_parameter";
        failure.to_anthropic = Some(to_anthropic);
        failure
    }

    /// A field of the request is of another type.
    pub(super) fn wrong_type(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut failure = Self::invalid(param, message);
        failure.code = "invalid_type";
        failure
    }

    /// A field of the request asks for what the node cannot do.
    pub(super) fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut failure = Self::invalid(param, message);
        failure.code = "unsupported_value";
        failure
    }

    pub(super) fn too_large(bytes: usize) -> Self {
        let message =
            format!("the request is longer than {bytes} bytes; send less of the conversation");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    /// As many answers of one who asks are in progress as may be.
    pub(super) fn too_many_at_once(key: &ApiKey, retry_after_s: u32) -> Self {
        let answers = key.answers_at_once;
        let who = match key.name.as_str() {
            BUYER => "all who pay here".to_owned(),
            KEYLESS => "the programs of this machine that show no key".to_owned(),
            name => format!("the API key {name:?}"),
        };
        let message = format!(
            "{answers} answers for {who} are in progress or wait for their turn, as many as may be at once; \
             ask again in {retry_after_s} s"
        );
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::new(status, "too_many_at_once", message).retry_after(retry_after_s)
    }

    /// The prompt is longer than the model reads.
    fn too_long(names: &Names, context_tokens: Option<(u32, u32)>, limit: &str) -> Self {
        let prompt = names.prompt;
        let message = match context_tokens {
            Some((tokens, context)) => format!(
                "This model's maximum context length is {context} tokens. However, your {prompt} resulted in \
                 {tokens} tokens. Please reduce the length of the {prompt}."
            ),
            None => format!(
                "This model's maximum context length is exceeded: your {prompt} has {limit}. Please reduce \
                 the length of the {prompt}."
            ),
        };
        let mut failure = Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message);
        failure.param = Some(prompt.to_owned());
        failure.to_anthropic = Some(match context_tokens {
            // One token of the context is left for the answer.
            Some((tokens, context)) => format!(
                "prompt is too long: {tokens} tokens > {} maximum",
                context.saturating_sub(1)
            ),
            None => format!("prompt is too long: {limit}"),
        });
        failure
    }

    /// A schema that the answer must follow cannot be followed.
    pub(super) fn bad_schema(param: String, reason: &str) -> Self {
        let message = format!("Invalid schema in {param}: {reason}");
        let mut failure = Self::invalid(param, message);
        failure.code = if failure
            .param
            .as_ref()
            .is_some_and(|param| param.contains('['))
        {
            "invalid_function_parameters"
        } else {
            "invalid_json_schema"
        };
        failure
    }

    /// An answer's reader ends with an end; this is for one that does not.
    pub(super) fn unended() -> Self {
        let error = AskError::Failed("the answer stopped without an end".to_owned());
        Self::from_ask(error, &Names::CHAT, None)
    }

    /// When to ask again.
    pub(super) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    pub(super) fn no_model(model: &str) -> Self {
        let message = format!(
            "no model {model:?} can be asked here; GET /v1/models lists those that can, `hearth \
             models get` fetches another"
        );
        let mut failure = Self::new(StatusCode::NOT_FOUND, "model_not_found", message);
        failure.param = Some("model".to_owned());
        failure
    }

    /// Why a question was not answered. `names` are those of the API, `budget` says what the one who asks
    /// may spend.
    pub(super) fn from_ask(error: AskError, names: &Names, budget: Option<String>) -> Self {
        match error {
            AskError::NoModel(model) => Self::no_model(&model),
            AskError::BeyondTier { .. } => {
                let message = format!(
                    "{error}; serve the model on this device (`hearth models serve`), or let the \
                     API key's prompts travel further"
                );
                let mut failure = Self::new(StatusCode::NOT_FOUND, "model_beyond_tier", message);
                failure.param = Some("model".to_owned());
                failure
            }
            AskError::NotHere(_) => {
                let message = format!(
                    "{error}; fetch the model with `hearth models get`, let this device run it with \
                     `hearth models serve`, and start the node again"
                );
                let mut failure = Self::new(StatusCode::NOT_FOUND, "model_not_here", message);
                failure.param = Some("model".to_owned());
                failure
            }
            AskError::Senseless {
                field: Field::Grammar,
                reason,
            } => Self::bad_schema(names.form.to_owned(), &reason),
            AskError::Senseless { field, reason } => Self::invalid(names.of(field), reason),
            AskError::TextTooLong { bytes_max } => {
                let limit = format!("more than {bytes_max} bytes");
                Self::too_long(names, None, &limit)
            }
            AskError::TooLong {
                prompt_tokens,
                context_tokens,
            } => Self::too_long(names, Some((prompt_tokens, context_tokens)), ""),
            AskError::Budget(reason) => {
                let message = match budget {
                    Some(budget) => format!("{reason} ({budget})"),
                    None => reason,
                };
                let code = "insufficient_quota";
                Self::new(StatusCode::PAYMENT_REQUIRED, code, message)
            }
            AskError::Busy { retry_after_s } => {
                let message = format!("{error}; ask again in {retry_after_s} s");
                let failure = Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message);
                failure.retry_after(retry_after_s)
            }
            AskError::NoProvider(_) => {
                let message =
                    format!("{error}; ask again, or serve the model here (`hearth models serve`)");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_provider", message)
            }
            AskError::Failed(_) => {
                let message = format!("{error}; the log of the node says more");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
            }
        }
    }

    /// Of an answer that had begun: what it did cost, and that it is not to be asked again unseen.
    pub(super) fn with_note(mut self, note: AnswerNote) -> Self {
        self.note = Some(Box::new(note));
        self
    }

    /// OpenAI's body.
    pub(super) fn openai(&self) -> openai::ErrorReply {
        ErrorReply {
            error: ErrorDetail {
                message: self.message.clone(),
                kind: self.openai_kind().to_owned(),
                param: self.param.clone(),
                code: Some(self.code.to_owned()),
            },
            hearth: self.note.as_deref().cloned(),
        }
    }

    /// Anthropic's body, which has no room for the field: the message names it.
    pub(super) fn anthropic(&self) -> anthropic::AnthropicErrorReply {
        let message = match &self.param {
            _ if self.to_anthropic.is_some() => self.to_anthropic.clone().unwrap_or_default(),
            Some(param) => {
                let dotted = dotted(param);
                let message = self.message.replace(param.as_str(), &dotted);
                if message.contains(&dotted) {
                    message
                } else {
                    format!("{dotted}: {message}")
                }
            }
            None => self.message.clone(),
        };
        anthropic::AnthropicErrorReply {
            kind: "error".to_owned(),
            error: anthropic::AnthropicErrorDetail {
                kind: self.anthropic_kind().to_owned(),
                message,
            },
            hearth: self.note.as_deref().cloned(),
        }
    }

    fn openai_kind(&self) -> &'static str {
        match self.status.as_u16() {
            402 => "insufficient_quota",
            401 => "authentication_error",
            403 | 421 => "permission_error",
            408 => "timeout_error",
            429 => "rate_limit_error",
            503 => "service_unavailable_error",
            500..=599 => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn anthropic_kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            402 => "billing_error",
            403 | 421 => "permission_error",
            404 => "not_found_error",
            408 => "timeout_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500..=599 => "api_error",
            _ => "invalid_request_error",
        }
    }

    pub(super) fn into_response_as(self, form: Form) -> Response {
        let body = match form {
            Form::OpenAi => serde_json::to_vec(&self.openai()),
            Form::Anthropic => serde_json::to_vec(&self.anthropic()),
        };
        let mut response = Response::new(Body::from(body.unwrap_or_default()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        // What was begun may have been paid: only its user may decide to ask again.
        if self.note.is_some() {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }
}

/// A field as Anthropic writes it, which counts with points: `messages.0.role`.
fn dotted(param: &str) -> String {
    param.replace('[', ".").replace(']', "")
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.into_response_as(Form::OpenAi)
    }
}
