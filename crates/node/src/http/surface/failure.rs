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

use crate::answers::AskError;

/// By which the SDKs are told that asking again by themselves would be wrong.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

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
    param: Option<String>,
    code: &'static str,
    retry_after_s: Option<u32>,
    note: Option<Box<AnswerNote>>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
            code,
            retry_after_s: None,
            note: None,
        }
    }

    /// A field of the request is wrong.
    pub(super) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut failure = Self::new(StatusCode::BAD_REQUEST, "invalid_value", message);
        failure.param = Some(param.into());
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

    /// As many answers as may be in progress are.
    pub(super) fn too_many_at_once(answers: u32) -> Self {
        let message = format!(
            "{answers} answers are in progress for this API key, or for all who pay, as many as may be; \
             ask again when one has ended"
        );
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_at_once", message).retry_after(1)
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

    /// Why a question was not answered. `budget` says what the one who asks may spend.
    pub(super) fn from_ask(error: AskError, budget: Option<String>) -> Self {
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
            AskError::Senseless(message) => {
                Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
            }
            AskError::TooLong { .. } => {
                let message = format!("{error}; send less of the conversation");
                let mut failure =
                    Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message);
                failure.param = Some("messages".to_owned());
                failure
            }
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
    pub(super) fn anthropic(&self) -> anthropic::ErrorReply {
        let message = match &self.param {
            Some(param) if !self.message.contains(param.as_str()) => {
                format!("{param}: {}", self.message)
            }
            _ => self.message.clone(),
        };
        anthropic::ErrorReply {
            kind: "error".to_owned(),
            error: anthropic::ErrorDetail {
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

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.into_response_as(Form::OpenAi)
    }
}
