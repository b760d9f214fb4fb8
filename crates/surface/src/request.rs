//! Reading what is asked: bounded in bytes, depth and time, with errors that name the field.

use std::time::Duration;

use axum::body::{Body, Bytes};
use http::StatusCode;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::failure::Failure;
use hearth_doors::{BodyError, read_body};

mod objects;

use objects::Objects;

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
    if let Err(error) = std::str::from_utf8(json) {
        let message = format!("the request is no JSON, because it is not in UTF-8: {error}");
        let status = StatusCode::BAD_REQUEST;
        return Err(Failure::new(status, "invalid_json", message));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let objects = Objects(&mut deserializer);
    let value = serde_path_to_error::deserialize(objects).map_err(|error| {
        let path = error.path().to_string();
        wrong(&path, &error.into_inner(), json)
    })?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

/// What is wrong with a request: a field of it, or that it is no JSON at all.
fn wrong(path: &str, error: &serde_json::Error, json: &[u8]) -> Failure {
    let reason = reason(error);
    if error.is_data() {
        return wrong_field(path, &reason);
    }
    // What is well-formed and cannot be taken is a fault of its field, and serde calls it one of the JSON.
    let is_json = serde_json::from_slice::<IgnoredAny>(json).is_ok();
    match (error.is_syntax() && is_json, &*reason) {
        (false, _) => not_json(error),
        // Where a word is expected, and something else comes.
        (true, "expected value") => wrong_field(path, "a text"),
        (true, reason) => {
            // Of four digits each, as JSON writes characters beyond them.
            let reason = match reason.contains("hex escape") {
                true => "half of a surrogate pair is no character",
                false => reason,
            };
            let message = format!("Invalid value for '{path}': {reason}.");
            Failure::invalid(path, message)
        }
    }
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

/// What is wrong with a field, in the words of the APIs instead of serde's.
fn wrong_field(path: &str, reason: &str) -> Failure {
    // Where one is missing or stands twice, serde names the object around it.
    let within = |name: &str| match path {
        "." => name.to_owned(),
        _ => format!("{path}.{name}"),
    };
    let named = |prefix: &str| {
        let rest = reason.strip_prefix(prefix)?;
        rest.split_once('`')
    };
    if let Some((name, _)) = named("missing field `") {
        return Failure::missing(within(name));
    }
    if let Some((name, _)) = named("duplicate field `") {
        let message = format!("the field '{name}' stands there twice");
        return Failure::invalid(within(name), message);
    }
    if let Some((value, expected)) = named("unknown variant `") {
        let expected = expected.trim_start_matches(", expected ");
        let expected = expected.trim_start_matches("one of ").replace('`', "'");
        let message = format!("Invalid value: '{value}'. Supported values are: {expected}.");
        return Failure::invalid(path, message);
    }
    let of_field = match path {
        "." => "the request".to_owned(),
        _ => format!("'{path}'"),
    };
    let (found, expected) = match reason.split_once(", expected ") {
        Some((found, expected)) => (found, plain_type(expected)),
        None => ("", reason),
    };
    let expected = expected.replace('`', "'");
    let mut failure = match found.strip_prefix("invalid type: ") {
        Some(found) => {
            let found = found.replace('`', "");
            let message = format!(
                "Invalid type for {of_field}: expected {expected}, but got {found} instead."
            );
            Failure::wrong_type(path, message)
        }
        None if found.is_empty() => {
            let message = format!("Invalid type for {of_field}: expected {expected}.");
            Failure::wrong_type(path, message)
        }
        None => {
            let found = found.replace('`', "");
            let message = format!("Invalid value for {of_field}: {found}, expected {expected}.");
            Failure::invalid(path, message)
        }
    };
    if path == "." {
        failure.param = None;
    }
    failure
}

/// A type as people call it.
fn plain_type(serde: &str) -> &str {
    match serde {
        "u8" | "u16" | "u32" | "u64" | "usize" => "an integer of at least 0",
        "i32" | "i64" => "an integer",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "an object",
        _ if serde.starts_with("struct ") => "an object",
        _ if serde.starts_with("internally tagged enum ") => "an object with a type",
        _ => serde,
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
        assert!(message.contains("Invalid value: 'robot'."), "{message}");
        assert!(message.contains("'assistant'"), "{message}");
        assert!(!message.contains("line"), "{message}");
        let (field, _) = param(r#"{"messages":[]}"#);
        assert_eq!(field, "model");
        let (field, _) = param(r#"{"model":"m","messages":[{"content":"x"}]}"#);
        assert_eq!(field, "messages[0].role");
        let (field, _) = param(r#"{"model":"m","messages":[],"max_tokens":-1}"#);
        assert_eq!(field, "max_tokens");
    }

    fn chat(rest: &str) -> String {
        format!(r#"{{"model":"m","messages":[],{rest}}}"#)
    }

    fn said(message: &str) -> String {
        format!(r#"{{"model":"m","messages":[{message}]}}"#)
    }

    fn name_their_fields(cases: impl IntoIterator<Item = (String, &'static str)>) {
        for (json, expected) in cases {
            let (field, message) = param(&json);
            assert_eq!(field, expected, "{json}: {message}");
            for jargon in ["u64", "struct", "enum", "no JSON", "`"] {
                assert!(!message.contains(jargon), "{json}: {message}");
            }
        }
    }

    #[test]
    fn a_list_is_no_object_and_half_a_pair_no_character() {
        name_their_fields([
            (said(r#"["user","x"]"#), "messages[0]"),
            (said("[]"), "messages[0]"),
            (
                said(r#"{"role":"user","content":[["text","x"]]}"#),
                "messages[0].content[0]",
            ),
            (
                said(r#"{"role":"assistant","tool_calls":[["c","function",["f","{}"]]]}"#),
                "messages[0].tool_calls[0]",
            ),
            (
                said(r#"{"role":"assistant","function_call":["f","{}"]}"#),
                "messages[0].function_call",
            ),
            (chat(r#""tools":[["function",["f"]]]"#), "tools[0]"),
            (
                chat(r#""tools":[{"type":"function","function":["f"]}]"#),
                "tools[0].function",
            ),
            (chat(r#""tool_choice":["function",["f"]]"#), "tool_choice"),
            (
                chat(r#""tool_choice":{"type":"function","function":["f"]}"#),
                "tool_choice.function",
            ),
            (chat(r#""function_call":["f"]"#), "function_call"),
            (chat(r#""stream_options":[true]"#), "stream_options"),
            (
                chat(r#""response_format":["json_object"]"#),
                "response_format",
            ),
            (chat(r#""temperature":1e999"#), "temperature"),
            (
                said(r#"{"role":"user","content":"\ud83d"}"#),
                "messages[0].content",
            ),
            (
                said(r#"{"role":"user","name":"\udc00\ud83d","content":""}"#),
                "messages[0].name",
            ),
        ]);
    }

    #[test]
    fn a_wrong_type_is_named_down_to_its_field() {
        name_their_fields([
            (said(r#"{"role":5}"#), "messages[0].role"),
            (said(r#"{"role":null}"#), "messages[0].role"),
            (
                said(r#"{"role":"user","content":5}"#),
                "messages[0].content",
            ),
            (
                said(r#"{"role":"user","content":["x"]}"#),
                "messages[0].content[0]",
            ),
            (
                said(r#"{"role":"user","content":[{"text":"x"}]}"#),
                "messages[0].content[0].type",
            ),
            (
                said(r#"{"role":"user","content":[{"type":"text","text":5}]}"#),
                "messages[0].content[0].text",
            ),
            (
                chat(r#""response_format":{"type":"json_schema"}"#),
                "response_format.json_schema",
            ),
            (
                chat(r#""response_format":{"type":"json_schema","json_schema":{}}"#),
                "response_format.json_schema.name",
            ),
            (
                chat(
                    r#""response_format":{"type":"json_schema","json_schema":{"name":"a","schema":true}}"#,
                ),
                "response_format.json_schema.schema",
            ),
            (
                chat(r#""response_format":{"type":5}"#),
                "response_format.type",
            ),
            (chat(r#""stop":5"#), "stop"),
            (chat(r#""n":1.5"#), "n"),
            (chat(r#""model":"x""#), "model"),
            ("null".to_owned(), ""),
        ]);
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        let failure = parse::<ChatRequest>(b"{\"model\":\"\xff\xfe\"}").unwrap_err();
        assert!(failure.message.contains("UTF-8"), "{}", failure.message);
        for json in [
            "",
            "{",
            "{}{}",
            "\u{0}",
            "\u{feff}{}",
            "NaN",
            "{\"model\":nul}",
        ] {
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
