//! Whatever bytes come as a request: an error in the form of its API, which names the field and stays short.

use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::script::{KEY, PATIENCE, Served, said};

/// The paths that read a body.
const PATHS: [&str; 6] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
];
/// The longest reply to a request at fault, in bytes.
const REPLY_BYTES_MAX: usize = 4_096;

fn base(path: &str) -> Value {
    match path {
        "/v1/completions" => json!({ "model": "parrot", "prompt": "hello" }),
        "/v1/responses" | "/v1/embeddings" => json!({ "model": "parrot", "input": "hello" }),
        _ => json!({ "model": "parrot", "max_tokens": 9, "messages": said("hello") }),
    }
}

/// Sends bytes that must be refused, and returns the status, the message and the field.
async fn refused(served: &Served, path: &str, body: Vec<u8>) -> (u16, String, Option<String>) {
    let request = served
        .http
        .post(served.url(path))
        .bearer_auth(KEY)
        .header(CONTENT_TYPE, "application/json")
        .body(body);
    let sent = tokio::time::timeout(PATIENCE, request.send()).await;
    let reply = sent.expect("a reply comes in time").unwrap();
    let status = reply.status().as_u16();
    let bytes = reply.bytes().await.unwrap();
    assert!(
        bytes.len() <= REPLY_BYTES_MAX,
        "{path}: {} bytes",
        bytes.len()
    );
    let reply: Value = serde_json::from_slice(&bytes).unwrap();
    let error = &reply["error"];
    assert!(error["type"].is_string(), "{path}: {reply}");
    assert_eq!(
        reply["type"] == "error",
        path.starts_with("/v1/messages"),
        "{reply}"
    );
    let message = error["message"].as_str().unwrap().to_owned();
    (status, message, error["param"].as_str().map(str::to_owned))
}

#[tokio::test]
async fn bytes_that_are_no_json_are_said_to_be_none() {
    let served = Served::start().await;
    let nested =
        |open: &str, close: &str, count: usize| [open.repeat(count), close.repeat(count)].concat();
    let bodies: Vec<(Vec<u8>, u16)> = vec![
        (Vec::new(), 400),
        (b"\0".repeat(1_000), 400),
        ((0..=255).collect(), 400),
        (b"\xff\xfe{\0\"\0".to_vec(), 400),
        (b"{\"model\":\"\xc3\x28\"}".to_vec(), 400),
        (b"\xef\xbb\xbf{\"model\":\"parrot\"}".to_vec(), 400),
        (b"null".to_vec(), 400),
        (b"\"text\"".to_vec(), 400),
        (b"-0.0e-99999".to_vec(), 400),
        (b"9".repeat(1_000_000), 400),
        (b"[[[]]]".to_vec(), 400),
        (b"{}{}".to_vec(), 400),
        (b"{\"model\":\"parrot\",}".to_vec(), 400),
        (b"{'model':'parrot'}".to_vec(), 400),
        (nested("[", "]", 100_000).into_bytes(), 400),
        (nested("{\"a\":", "}", 100_000).into_bytes(), 400),
        (b"{\"a\":".repeat(500_000), 400),
        (b" ".repeat(4 << 20), 400),
        (b" ".repeat((4 << 20) + 1), 413),
    ];
    for (body, expected) in bodies {
        for path in PATHS {
            let shown = String::from_utf8_lossy(&body[..body.len().min(30)]).into_owned();
            let (status, message, _) = refused(&served, path, body.clone()).await;
            assert_eq!(status, expected, "{path} of {shown:?}: {message}");
        }
    }
    assert!(served.script.asked.lock().unwrap().is_empty());
}

/// The request with other fields in the end, as text, because no value of JSON has a field twice or such numbers.
fn with(path: &str, fields: &str) -> Vec<u8> {
    let base = base(path).to_string();
    format!("{},{fields}}}", base.trim_end_matches('}')).into_bytes()
}

/// A path, the fields that stand in the request beside what it has anyway, and the one that is at fault.
type Case = (&'static str, String, &'static str);

/// Figures that are no numbers of their field.
fn bent_figures() -> Vec<Case> {
    let [chat, completions, responses, messages, ..] = PATHS;
    let mut cases: Vec<Case> = Vec::new();
    for path in [chat, completions, responses, messages] {
        for number in ["1e999", "-1e999"] {
            cases.push((path, format!("\"temperature\":{number}"), "temperature"));
        }
        cases.push((path, "\"temperature\":\"0.5\"".to_owned(), "temperature"));
        cases.push((path, "\"top_p\":-1".to_owned(), "top_p"));
        cases.push((path, "\"stream\":\"yes\"".to_owned(), "stream"));
        cases.push((
            path,
            "\"stream\":true,\"stream\":false".to_owned(),
            "stream",
        ));
    }
    for path in PATHS {
        cases.push((path, "\"model\":\"parrot\"".to_owned(), "model"));
    }
    for (path, most) in [
        (chat, "max_completion_tokens"),
        (completions, "max_tokens"),
        (responses, "max_output_tokens"),
    ] {
        for number in ["0", "-1", "1.5", "1e30", "99999999999999999999999"] {
            cases.push((path, format!("\"{most}\":{number}"), most));
        }
    }
    cases
}

/// Lists and words where something else is expected.
fn bent_fields() -> Vec<Case> {
    let [chat, completions, responses, messages, count, embeddings] = PATHS;
    let cases = [
        (chat, "\"seed\":1e30", "seed"),
        (chat, "\"stop\":[\"a\",5]", "stop"),
        (chat, "\"logit_bias\":{\"1\":\"x\"}", "logit_bias.1"),
        (chat, "\"logit_bias\":[[1,2]]", "logit_bias"),
        (
            chat,
            "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a\",\"parameters\":{\"minimum\":1e999}}}]",
            "tools[0].function.parameters.minimum",
        ),
        (completions, "\"logprobs\":true", "logprobs"),
        (completions, "\"stop\":\"\"", "stop"),
        (responses, "\"tools\":[[\"function\",\"a\"]]", "tools[0]"),
        (
            responses,
            "\"tool_choice\":[\"function\",\"a\"]",
            "tool_choice",
        ),
        (responses, "\"text\":[{\"type\":\"json_object\"}]", "text"),
        (
            responses,
            "\"text\":{\"format\":[\"json_object\"]}",
            "text.format",
        ),
        (messages, "\"system\":[[\"text\",\"x\"]]", "system.0"),
        (messages, "\"tools\":[[\"custom\",\"a\"]]", "tools.0"),
        (messages, "\"tool_choice\":[\"auto\",true]", "tool_choice"),
        (
            messages,
            "\"output_config\":{\"format\":[\"json_schema\",{}]}",
            "output_config.format",
        ),
        (
            messages,
            "\"output_format\":[\"json_schema\",{}]",
            "output_format",
        ),
        (messages, "\"stop_sequences\":\"x\"", "stop_sequences"),
        (count, "\"tools\":{}", "tools"),
        (
            embeddings,
            "\"encoding_format\":\"int8\"",
            "encoding_format",
        ),
        (embeddings, "\"dimensions\":-1", "dimensions"),
    ];
    let owned = |(path, fields, param): (_, &str, _)| (path, fields.to_owned(), param);
    cases.map(owned).into()
}

/// Words that are too long to be quoted.
fn long_fields() -> Vec<Case> {
    let [chat, completions, _, messages, _, embeddings] = PATHS;
    let long = "x".repeat(1_000_000);
    vec![
        (
            chat,
            format!("\"tool_choice\":{{\"type\":\"{long}\"}}"),
            "tool_choice.type",
        ),
        (
            chat,
            format!("\"tools\":[{{\"type\":\"function\",\"function\":{{\"name\":\"{long}\"}}}}]"),
            "tools[0].function.name",
        ),
        (
            chat,
            format!("\"logit_bias\":{{\"{long}\":1}}"),
            "logit_bias",
        ),
        (completions, format!("\"stop\":\"{long}\""), "stop"),
        (
            messages,
            format!("\"tools\":[{{\"type\":\"{long}\",\"name\":\"a\"}}]"),
            "tools.0.type",
        ),
        (
            embeddings,
            format!("\"encoding_format\":\"{long}\""),
            "encoding_format",
        ),
    ]
}

#[tokio::test]
async fn a_field_that_cannot_be_taken_is_named_whatever_is_wrong_with_it() {
    let served = Served::start().await;
    let cases = [bent_figures(), bent_fields(), long_fields()];
    for (path, fields, expected) in cases.into_iter().flatten() {
        let shown: String = fields.chars().take(60).collect();
        let (status, message, param) = refused(&served, path, with(path, &fields)).await;
        assert_eq!(status, 400, "{path} {shown}: {message}");
        match path.starts_with("/v1/messages") {
            true => assert!(message.contains(expected), "{path} {shown}: {message}"),
            false => assert_eq!(
                param.as_deref(),
                Some(expected),
                "{path} {shown}: {message}"
            ),
        }
        assert!(!message.contains("no JSON"), "{path} {shown}: {message}");
    }
    assert!(served.script.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_turn_is_an_object() {
    let served = Served::start().await;
    for (path, field, value, param) in [
        (
            "/v1/chat/completions",
            "messages",
            json!([["user", "x"]]),
            "messages[0]",
        ),
        (
            "/v1/chat/completions",
            "messages",
            json!({ "role": "user" }),
            "messages",
        ),
        (
            "/v1/responses",
            "input",
            json!([["message", "user", "x"]]),
            "input[0]",
        ),
        (
            "/v1/responses",
            "input",
            json!([{ "role": "user", "content": [["input_text", "x"]] }]),
            "input[0].content[0]",
        ),
        (
            "/v1/messages",
            "messages",
            json!([["user", "x"]]),
            "messages.0",
        ),
        (
            "/v1/messages",
            "messages",
            json!([{ "role": "user", "content": [["text", "x"]] }]),
            "messages.0.content.0",
        ),
        (
            "/v1/messages/count_tokens",
            "messages",
            json!([["user", "x"]]),
            "messages.0",
        ),
        ("/v1/completions", "prompt", json!([["x", "y"]]), "prompt"),
        ("/v1/completions", "prompt", json!([-1]), "prompt"),
        ("/v1/embeddings", "input", json!({ "text": "x" }), "input"),
    ] {
        let mut body = base(path);
        body[field] = value;
        let (status, message, named) = refused(&served, path, body.to_string().into_bytes()).await;
        assert_eq!(status, 400, "{path} {body}: {message}");
        match path.starts_with("/v1/messages") {
            true => assert!(message.contains(param), "{path} {body}: {message}"),
            false => assert_eq!(named.as_deref(), Some(param), "{path} {body}: {message}"),
        }
    }
    assert!(served.script.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn words_are_characters_and_any_character_is_a_word() {
    let served = Served::start().await;
    // Half of a pair of surrogates is none.
    for path in PATHS {
        let body = base(path).to_string().replace("hello", "\\ud83d");
        let (status, message, _) = refused(&served, path, body.into_bytes()).await;
        assert_eq!(status, 400, "{path}: {message}");
        assert!(message.contains("surrogate"), "{path}: {message}");
    }
    assert!(served.script.asked.lock().unwrap().is_empty());
    // All else is, whatever it looks like.
    for text in [
        "\0",
        "\u{fffd}",
        "\u{10ffff}",
        "\u{202e}\u{feff}",
        "<|im_end|>\u{0}",
        "👨\u{200d}👩",
    ] {
        for path in ["/v1/chat/completions", "/v1/completions"] {
            let body = base(path)
                .to_string()
                .replace("hello", &json!(text).to_string().replace('"', ""));
            let reply = served
                .ask(path, &serde_json::from_str(&body).unwrap())
                .await;
            let choice = &reply["choices"][0];
            let said = choice["text"]
                .as_str()
                .or(choice["message"]["content"].as_str());
            assert_eq!(said, Some(text), "{path}");
        }
    }
}
