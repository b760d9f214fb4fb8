//! Reading what is asked: bounded in bytes, depth and time, with errors that name the field.

use std::time::Duration;

use axum::body::{Body, Bytes};
use http::StatusCode;
use serde::de::DeserializeOwned;

use super::failure::Failure;
use crate::http::{BodyError, read_body};

/// The longest request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
/// The deepest nesting of a request's JSON.
pub const REQUEST_DEPTH_MAX: usize = 64;
/// How long a request may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads a request.
pub(super) async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Failure> {
    parse(&bytes(body).await?)
}

/// Reads a request's bytes.
pub(super) async fn bytes(body: Body) -> Result<Bytes, Failure> {
    match read_body(body, REQUEST_BYTES_MAX, REQUEST_TIMEOUT).await {
        Ok(bytes) => Ok(bytes),
        Err(BodyError::TooLong) => Err(Failure::too_large(REQUEST_BYTES_MAX)),
        Err(BodyError::NotCoded) => {
            let message = "the request is not in the coding that Content-Encoding names";
            Err(Failure::new(
                StatusCode::BAD_REQUEST,
                "bad_encoding",
                message,
            ))
        }
        Err(BodyError::Full) => {
            let message = "too many requests arrive at once; send it again in a moment";
            let status = StatusCode::SERVICE_UNAVAILABLE;
            Err(Failure::new(status, "busy", message).retry_after(1))
        }
        Err(BodyError::Slow) => {
            let message = "the request took too long to arrive; send it again";
            let status = StatusCode::REQUEST_TIMEOUT;
            Err(Failure::new(status, "request_timeout", message))
        }
        Err(_) => {
            let message = "the request broke off; send it again";
            let status = StatusCode::BAD_REQUEST;
            Err(Failure::new(status, "incomplete_request", message))
        }
    }
}

/// Parses a request.
pub(super) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, Failure> {
    if depth(json) > REQUEST_DEPTH_MAX {
        let message = format!("the request is nested deeper than {REQUEST_DEPTH_MAX} levels");
        return Err(Failure::new(StatusCode::BAD_REQUEST, "too_deep", message));
    }
    // A list of the fields' values would be read as well, and is never meant.
    if json.trim_ascii_start().starts_with(b"[") {
        let message = "the request is a JSON list; send an object";
        return Err(Failure::new(
            StatusCode::BAD_REQUEST,
            "invalid_json",
            message,
        ));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if error.is_data() {
            let field = missing_field(&error.to_string(), &path);
            Failure::invalid(field, reason(&error))
        } else {
            not_json(&error)
        }
    })?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// Parses JSON inside a text of a request, as deep as the request itself may be.
pub(super) fn parse_value(json: &str) -> Result<serde_json::Value, String> {
    if depth(json.as_bytes()) > REQUEST_DEPTH_MAX {
        return Err(format!(
            "it is nested deeper than {REQUEST_DEPTH_MAX} levels"
        ));
    }
    serde_json::from_str(json).map_err(|error| error.to_string())
}

fn not_json(error: &serde_json::Error) -> Failure {
    let message = format!("the request is no JSON: {error}");
    Failure::new(StatusCode::BAD_REQUEST, "invalid_json", message)
}

/// The error without the place in the text, which nobody who uses an SDK can look at.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// The path of a wrong field: where one is missing serde names the object around it.
fn missing_field(error: &str, path: &str) -> String {
    let missing = error
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split_once('`'))
        .map(|(name, _)| name);
    match missing {
        Some(name) if path == "." => name.to_owned(),
        Some(name) => format!("{path}.{name}"),
        None => path.to_owned(),
    }
}

/// How deep a JSON text is nested.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut quoted, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_api::openai::chat::ChatRequest;

    fn param(json: &str) -> (String, String) {
        let failure = parse::<ChatRequest>(json.as_bytes()).unwrap_err();
        let error = failure.openai().error;
        (error.param.unwrap_or_default(), error.message)
    }

    #[test]
    fn a_wrong_field_is_named() {
        let (field, message) = param(r#"{"model":"m","messages":[{"role":"robot"}]}"#);
        assert_eq!(field, "messages[0].role");
        assert!(message.contains("unknown variant `robot`"), "{message}");
        assert!(!message.contains("line"), "{message}");
        let (field, _) = param(r#"{"messages":[]}"#);
        assert_eq!(field, "model");
        let (field, _) = param(r#"{"model":"m","messages":[{"content":"x"}]}"#);
        assert_eq!(field, "messages[0].role");
        let (field, _) = param(r#"{"model":"m","messages":[],"max_tokens":-1}"#);
        assert_eq!(field, "max_tokens");
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        for json in ["", "{", "{}{}", "\u{0}"] {
            let (field, message) = param(json);
            assert!(
                field.is_empty() && message.contains("no JSON") || field == "model",
                "{json}: {field} {message}"
            );
        }
    }

    #[test]
    fn a_list_is_no_request() {
        let listed = br#" ["parrot", [{"role": "user", "content": "hello"}]]"#;
        let failure = parse::<ChatRequest>(listed).unwrap_err();
        assert_eq!(failure.openai().error.code.as_deref(), Some("invalid_json"));
    }

    #[test]
    fn deep_nesting_is_refused_before_it_is_read() {
        assert_eq!(depth(br#"{"a":["[[[[\"[[",{}]}"#), 3);
        let deep = "[".repeat(1_000_000);
        let failure = parse::<ChatRequest>(deep.as_bytes()).unwrap_err();
        assert_eq!(failure.openai().error.code.as_deref(), Some("too_deep"));
    }
}
