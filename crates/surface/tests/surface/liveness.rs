//! Signs of life while an answer is worked on.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::script::{PATIENCE, Served, events, said};

fn bodies(model: &str) -> [(&'static str, Value); 4] {
    let messages = said("a long story");
    [
        (
            "/v1/chat/completions",
            json!({ "model": model, "messages": messages, "stream": true }),
        ),
        (
            "/v1/responses",
            json!({ "model": model, "input": "a long story", "stream": true }),
        ),
        (
            "/v1/completions",
            json!({ "model": model, "prompt": "a long story", "stream": true }),
        ),
        (
            "/v1/messages",
            json!({ "model": model, "messages": messages, "max_tokens": 9, "stream": true }),
        ),
    ]
}

/// Reads a stream until `enough` of what came.
async fn read_until(reply: reqwest::Response, enough: impl Fn(&str) -> bool) -> String {
    let mut chunks = reply.bytes_stream();
    let mut text = String::new();
    while !enough(&text) {
        let chunk = timeout(PATIENCE, chunks.next()).await;
        let chunk = chunk.unwrap_or_else(|_| panic!("nothing more came after {text:?}"));
        text.push_str(std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn a_question_that_was_taken_is_answered_with_headers_a_byte_and_signs_of_life() {
    let served = Served::start().await;
    let asked = bodies("reader").map(|(path, body)| {
        let served = &served;
        async move {
            let reply = served.post(path, &body).await;
            assert_eq!(reply.status(), 200, "{path}");
            assert!(reply.headers().contains_key("hearth-answer-id"));
            let sign = if path == "/v1/messages" {
                "event: ping\n"
            } else {
                ": ping\n"
            };
            let signs = move |text: &str| text.matches(sign).count();
            // The second comes although nothing else happens.
            let least = if path == "/v1/messages" || path == "/v1/completions" {
                2
            } else {
                1
            };
            let text = read_until(reply, |text| signs(text) >= least).await;
            assert!(
                !text.contains("event: error") && !text.contains("\"error\":{"),
                "{text}"
            );
        }
    });
    timeout(Duration::from_secs(60), futures::future::join_all(asked))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_there_at_once_needs_no_sign_of_life() {
    let served = Served::start().await;
    for (path, body) in bodies("parrot") {
        let reply = served.post(path, &body).await;
        let text = timeout(PATIENCE, reply.text()).await.unwrap().unwrap();
        assert!(!text.contains("ping"), "{path}: {text}");
    }
}

#[tokio::test]
async fn the_beginning_and_the_end_of_a_message_agree_on_what_was_known_before() {
    let served = Served::start().await;
    let [.., (path, mut body)] = bodies("cached");
    let reply = served.post(path, &body).await;
    let events = events(&reply.text().await.unwrap());
    let named = |name: &str| &events.iter().find(|(event, _)| event == name).unwrap().1;
    let start = &named("message_start")["message"]["usage"];
    let delta = &named("message_delta")["usage"];
    for field in [
        "input_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
    ] {
        assert_eq!(start[field], delta[field], "{field}");
    }
    assert_eq!(start["cache_read_input_tokens"], 2);
    assert_eq!(start["input_tokens"], 1);
    body["stream"] = json!(false);
    let whole = served.ask(path, &body).await;
    assert_eq!(whole["usage"]["cache_read_input_tokens"], 2);
}

#[tokio::test]
async fn chunks_have_a_usage_of_null_where_the_last_one_tells_it() {
    let served = Served::start().await;
    for (path, mut body) in [&bodies("parrot")[0], &bodies("parrot")[2]].map(Clone::clone) {
        let events = served.stream(path, &body).await;
        let has = |data: &Value| data.get("usage").is_some();
        assert!(
            !events.iter().any(|(_, data)| has(data)),
            "{path}: nobody asked"
        );
        body["stream_options"] = json!({ "include_usage": true });
        let events = served.stream(path, &body).await;
        let (done, chunks) = events.split_last().unwrap();
        assert_eq!(done.1, "[DONE]");
        let (last, others) = chunks.split_last().unwrap();
        assert!(last.1["usage"]["total_tokens"].is_u64());
        assert!(
            others
                .iter()
                .all(|(_, data)| has(data) && data["usage"].is_null()),
            "{path}"
        );
    }
}
