//! What went wrong, as the programs of each API read it.

use std::sync::atomic::Ordering;

use hearth_surface::answers::{AskError, Field};
use serde_json::{Value, json};

use crate::script::{Served, said};

/// What a cause must become.
struct Told {
    status: u16,
    code: &'static str,
    /// The part that is at fault, by its name at each of [`APIS`]; nothing where none is.
    params: Option<[&'static str; 4]>,
    /// By what Anthropic's programs know it.
    kind: &'static str,
    /// Of the message, in OpenAI's and in Anthropic's form.
    says: [&'static str; 2],
}

/// The paths that answer, in the order of [`Told::params`].
const APIS: [&str; 4] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
];

fn told(
    status: u16,
    code: &'static str,
    params: Option<[&'static str; 4]>,
    kind: &'static str,
    says: [&'static str; 2],
) -> Told {
    Told {
        status,
        code,
        params,
        kind,
        says,
    }
}

/// The same for a question that is at fault.
fn senseless(field: &Field) -> Told {
    let params = match field {
        Field::Model => ["model"; 4],
        Field::Prompt => ["messages", "prompt", "input", "messages"],
        Field::Grammar => [
            "response_format",
            "prompt",
            "text.format",
            "output_config.format",
        ],
        Field::Sampling => ["logit_bias"; 4],
        Field::OutputTokens => [
            "max_completion_tokens",
            "max_tokens",
            "max_output_tokens",
            "max_tokens",
        ],
        Field::Logprobs => ["top_logprobs", "logprobs", "top_logprobs", "messages"],
    };
    let code = match field {
        Field::Grammar => "invalid_json_schema",
        _ => "invalid_value",
    };
    told(
        400,
        code,
        Some(params),
        "invalid_request_error",
        ["it is wrong so"; 2],
    )
}

/// What each cause must become. A new cause does not compile before it is decided here.
fn expected(error: &AskError) -> Told {
    let model = Some(["model"; 4]);
    let prompt = Some(["messages", "prompt", "input", "messages"]);
    let wrong = "invalid_request_error";
    match error {
        AskError::NoModel(_) => told(
            404,
            "model_not_found",
            model,
            "not_found_error",
            ["no model"; 2],
        ),
        AskError::BeyondTier { .. } => told(
            404,
            "model_beyond_tier",
            model,
            "not_found_error",
            ["tier"; 2],
        ),
        AskError::NotHere(_) => told(
            404,
            "model_not_here",
            model,
            "not_found_error",
            ["this device"; 2],
        ),
        AskError::Senseless { field, .. } => senseless(field),
        AskError::TextTooLong { .. } => {
            let says = [
                "maximum context length is",
                "prompt is too long: more than 5 bytes",
            ];
            told(400, "context_length_exceeded", prompt, wrong, says)
        }
        AskError::TooLong { .. } => {
            let says = [
                "maximum context length is 2048 tokens",
                "prompt is too long: 3000 tokens > 2047 maximum",
            ];
            told(400, "context_length_exceeded", prompt, wrong, says)
        }
        AskError::Budget(_) => told(
            402,
            "insufficient_quota",
            None,
            "billing_error",
            ["too dear"; 2],
        ),
        AskError::Busy { .. } => told(429, "busy", None, "rate_limit_error", ["again in 9 s"; 2]),
        AskError::NoProvider(_) => {
            told(503, "no_provider", None, "overloaded_error", ["asleep"; 2])
        }
        AskError::Failed(_) => told(500, "internal_error", None, "api_error", ["the log"; 2]),
    }
}

fn causes() -> Vec<AskError> {
    let fields = [
        Field::Model,
        Field::Prompt,
        Field::Grammar,
        Field::Sampling,
        Field::OutputTokens,
        Field::Logprobs,
    ];
    let mut causes: Vec<AskError> = fields
        .into_iter()
        .map(|field| AskError::Senseless {
            field,
            reason: "it is wrong so".to_owned(),
        })
        .collect();
    causes.extend([
        AskError::NoModel("m".to_owned()),
        AskError::BeyondTier {
            model: "m".to_owned(),
            tier: "device".to_owned(),
        },
        AskError::NotHere("m".to_owned()),
        AskError::TextTooLong { bytes_max: 5 },
        AskError::TooLong {
            prompt_tokens: 3_000,
            context_tokens: 2_048,
        },
        AskError::Budget("too dear".to_owned()),
        AskError::Busy { retry_after_s: 9 },
        AskError::NoProvider("asleep".to_owned()),
        AskError::Failed("a bolt".to_owned()),
    ]);
    causes
}

fn body(path: &str) -> Value {
    match path {
        "/v1/completions" => json!({ "model": "parrot", "prompt": "hello" }),
        "/v1/responses" => json!({ "model": "parrot", "input": "hello" }),
        "/v1/embeddings" => json!({ "model": "parrot", "input": "hello" }),
        _ => json!({ "model": "parrot", "max_tokens": 9, "messages": said("hello") }),
    }
}

/// Checks an error's body at one of [`APIS`].
fn check(api: usize, reply: &Value, told: &Told, cause: &AskError) {
    let error = &reply["error"];
    let message = error["message"].as_str().unwrap_or_default();
    if APIS[api] == "/v1/messages" {
        assert_eq!(reply["type"], "error", "{cause:?}");
        assert_eq!(error["type"], told.kind, "{cause:?}");
        assert!(message.contains(told.says[1]), "{cause:?}: {message}");
        let named = told.params.map(|params| params[api]);
        let overflow = told.code == "context_length_exceeded";
        assert!(
            overflow || named.is_none_or(|named| message.contains(named)),
            "{message}"
        );
        return;
    }
    assert_eq!(error["code"], told.code, "{cause:?} at {}", APIS[api]);
    let param = told.params.map(|params| params[api]);
    assert_eq!(error["param"], json!(param), "{cause:?} at {}", APIS[api]);
    assert!(message.contains(told.says[0]), "{cause:?}: {message}");
}

#[tokio::test]
async fn each_cause_has_its_status_field_and_words_at_each_api() {
    let served = Served::start().await;
    for cause in causes() {
        *served.script.fault.lock().unwrap() = Some(cause.clone());
        let told = expected(&cause);
        for (api, path) in APIS.into_iter().enumerate() {
            let mut body = body(path);
            for streams in [false, true] {
                body["stream"] = json!(streams);
                let reply = served.post(path, &body).await;
                assert_eq!(reply.status().as_u16(), told.status, "{cause:?} at {path}");
                let retry = reply.headers().get("retry-after").cloned();
                assert_eq!(retry.is_some_and(|retry| retry == "9"), told.status == 429);
                let reply: Value = reply.json().await.unwrap();
                check(api, &reply, &told, &cause);
            }
        }
    }
}

#[tokio::test]
async fn a_cause_that_is_found_late_is_told_in_the_stream_and_as_a_status_otherwise() {
    let served = Served::start().await;
    served.script.late.store(true, Ordering::Relaxed);
    for cause in causes() {
        *served.script.fault.lock().unwrap() = Some(cause.clone());
        let told = expected(&cause);
        for (api, path) in APIS.into_iter().enumerate() {
            let mut body = body(path);
            body["stream"] = json!(true);
            let events = served.stream(path, &body).await;
            let (_, last) = events.last().unwrap();
            let flat = json!({ "type": "error", "error": last["error"] });
            check(api, &flat, &told, &cause);
            body["stream"] = json!(false);
            let reply = served.post(path, &body).await;
            assert_eq!(reply.status().as_u16(), told.status, "{cause:?} at {path}");
            assert!(
                reply.headers().get("x-should-retry").is_none(),
                "nothing came of it: an SDK may ask again"
            );
            check(api, &reply.json().await.unwrap(), &told, &cause);
        }
    }
}

#[tokio::test]
async fn embeddings_and_counts_name_what_their_programs_wrote() {
    let served = Served::start().await;
    for cause in causes() {
        *served.script.fault.lock().unwrap() = Some(cause.clone());
        let told = expected(&cause);
        let (status, reply) = served.fail("/v1/embeddings", &body("/v1/embeddings")).await;
        assert_eq!(
            (status, &reply["error"]["code"]),
            (told.status, &json!(told.code))
        );
        if let AskError::TooLong { .. } | AskError::TextTooLong { .. } = cause {
            assert_eq!(reply["error"]["param"], "input");
        }
        let path = "/v1/messages/count_tokens";
        let (status, reply) = served.fail(path, &body("/v1/messages")).await;
        assert_eq!(status, told.status, "{cause:?}");
        check(3, &reply, &told, &cause);
    }
}

#[tokio::test]
async fn nothing_to_answer_is_blamed_on_the_field_that_is_empty() {
    let served = Served::start().await;
    for (path, body, param) in [
        ("/v1/responses", json!({ "input": [] }), "input"),
        (
            "/v1/responses",
            json!({ "input": [], "instructions": "Be brief." }),
            "input",
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [] }),
            "messages",
        ),
        ("/v1/completions", json!({ "prompt": [] }), "prompt"),
        ("/v1/completions", json!({ "prompt": ["a", ""] }), "prompt"),
        ("/v1/embeddings", json!({ "input": [] }), "input"),
        ("/v1/embeddings", json!({ "input": [[1], []] }), "input"),
    ] {
        let mut body = body;
        body["model"] = json!("parrot");
        let (status, reply) = served.fail(path, &body).await;
        assert_eq!(
            (status, &reply["error"]["param"]),
            (400, &json!(param)),
            "{path} {body}"
        );
        let message = reply["error"]["message"].as_str().unwrap();
        assert!(message.contains(param), "{message}");
    }
}

/// A schema that no grammar can follow.
fn impossible() -> Value {
    json!({
        "type": "object",
        "properties": { "a": { "type": "string", "not": { "enum": ["no"] } } },
        "required": ["a"],
    })
}

/// Requests with that schema, and the field in which it stands.
fn impossible_requests() -> Vec<(&'static str, &'static str, Value)> {
    let good = json!({ "type": "object", "properties": {} });
    let function = |name: &str, schema: &Value| json!({ "type": "function", "function": { "name": name, "parameters": schema } });
    let flat = |name: &str, schema: &Value| json!({ "type": "function", "name": name, "parameters": schema });
    let tool = |name: &str, schema: &Value| json!({ "name": name, "input_schema": schema });
    let bad = impossible();
    let form = json!({ "type": "json_schema", "schema": bad });
    vec![
        (
            APIS[0],
            "response_format",
            json!({ "response_format": {
            "type": "json_schema", "json_schema": { "name": "x", "schema": bad, "strict": true } } }),
        ),
        (
            APIS[0],
            "response_format",
            json!({ "response_format": { "type": "json_object", "schema": bad } }),
        ),
        (
            APIS[0],
            "tools[1].function.parameters",
            json!({
            "tools": [function("a", &good), function("b", &bad)], "tool_choice": "required" }),
        ),
        (
            APIS[0],
            "tools[1].function.parameters",
            json!({
            "tools": [function("a", &good), function("b", &bad)],
            "tool_choice": { "type": "function", "function": { "name": "b" } } }),
        ),
        (
            APIS[0],
            "functions[0].parameters",
            json!({
            "functions": [{ "name": "b", "parameters": bad }], "function_call": { "name": "b" } }),
        ),
        (
            APIS[2],
            "text.format",
            json!({ "text": { "format": {
            "type": "json_schema", "name": "x", "schema": bad } } }),
        ),
        (
            APIS[2],
            "tools[0].parameters",
            json!({
            "tools": [flat("b", &bad), flat("a", &good)], "tool_choice": "required" }),
        ),
        (
            APIS[3],
            "output_config.format",
            json!({ "output_config": { "format": form } }),
        ),
        (APIS[3], "output_format", json!({ "output_format": form })),
        (
            APIS[3],
            "tools.1.input_schema",
            json!({
            "tools": [tool("a", &good), tool("b", &bad)], "tool_choice": { "type": "any" } }),
        ),
    ]
}

/// Each schema is good by itself, and together they are not: the field is one that was sent.
#[tokio::test]
async fn schemas_that_cannot_be_followed_together_are_told_where_they_stand() {
    let served = Served::start().await;
    let reason = "it is wrong so".to_owned();
    let field = Field::Grammar;
    *served.script.fault.lock().unwrap() = Some(AskError::Senseless { field, reason });
    let good = json!({ "type": "object", "properties": { "a": { "type": "integer" } } });
    let of = |name: &str| json!({ "name": name, "parameters": good });
    let chat = |name: &str| json!({ "type": "function", "function": of(name) });
    let flat = |name: &str| json!({ "type": "function", "name": name, "parameters": good });
    let tool = |name: &str| json!({ "name": name, "input_schema": good });
    let form = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": good } });
    for (path, change, param) in [
        (
            APIS[0],
            json!({ "tools": [chat("a"), chat("b")], "tool_choice": "required" }),
            "tools",
        ),
        (
            APIS[0],
            json!({ "tools": [chat("a")], "tool_choice": "required" }),
            "tools[0].function.parameters",
        ),
        (
            APIS[0],
            json!({ "tools": [chat("a"), chat("b")], "response_format": form }),
            "response_format",
        ),
        (
            APIS[0],
            json!({ "functions": [of("a")], "function_call": { "name": "a" } }),
            "functions[0].parameters",
        ),
        (
            APIS[2],
            json!({ "tools": [flat("a"), flat("b")], "tool_choice": "required" }),
            "tools",
        ),
        (
            APIS[3],
            json!({ "tools": [tool("a"), tool("b")], "tool_choice": { "type": "any" } }),
            "tools",
        ),
    ] {
        let mut body = body(path);
        for (field, value) in change.as_object().unwrap() {
            body[field] = value.clone();
        }
        let (status, reply) = served.fail(path, &body).await;
        assert_eq!(status, 400, "{body}");
        let message = reply["error"]["message"].as_str().unwrap();
        assert!(
            message.contains(param) && message.contains("wrong so"),
            "{message}"
        );
        if path != APIS[3] {
            assert_eq!(reply["error"]["param"], param, "{body}");
        }
    }
}

#[tokio::test]
async fn a_schema_that_cannot_be_followed_is_told_where_it_stands_and_nobody_is_asked() {
    let served = Served::start().await;
    for (path, param, change) in impossible_requests() {
        let mut body = body(path);
        for (field, value) in change.as_object().unwrap() {
            body[field] = value.clone();
        }
        let (status, reply) = served.fail(path, &body).await;
        assert_eq!(status, 400, "{body}");
        let message = reply["error"]["message"].as_str().unwrap();
        assert!(
            message.contains(param) && message.contains("not"),
            "{message}"
        );
        if path != APIS[3] {
            assert_eq!(reply["error"]["param"], param, "{body}");
        }
    }
    assert!(
        served.script.asked.lock().unwrap().is_empty(),
        "nobody was asked"
    );
    let mut sound = body(APIS[0]);
    sound["tools"] =
        json!([{ "type": "function", "function": { "name": "b", "parameters": impossible() } }]);
    sound["tool_choice"] = json!("none");
    served.ask(APIS[0], &sound).await;
}
