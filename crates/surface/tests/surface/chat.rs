//! `/v1/chat/completions`.

use hearth_api::openai::chat::{ChatChunk, ChatCompletion};
use hearth_protocol::answer::Grammar;
use hearth_surface::answers::{Input, Speaker, Tier};
use serde_json::{Value, json};

use crate::script::{Served, said};

const PATH: &str = "/v1/chat/completions";

fn weather(names: &[&str]) -> Value {
    let tool = |name: &&str| {
        json!({ "type": "function", "function": {
            "name": name,
            "parameters": { "type": "object", "properties": { "city": { "type": "string" } } },
        } })
    };
    names.iter().map(tool).collect()
}

#[tokio::test]
async fn a_whole_answer_has_all_that_openai_tells_and_where_it_came_from() {
    let served = Served::start().await;
    let body = json!({
        "model": "parrot",
        "messages": [
            { "role": "developer", "content": "Be brief." },
            { "role": "user", "content": [{ "type": "text", "text": "hello dear" }, { "type": "text", "text": "world" }] },
        ],
        "temperature": 0.7, "top_p": 0.9, "seed": -1, "frequency_penalty": null,
        "some_field_of_the_future": { "a": 1 },
    });
    let reply = served.post(PATH, &body).await;
    let id = reply.headers()["hearth-answer-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let reply: ChatCompletion = reply.json().await.unwrap();
    assert_eq!(reply.object, "chat.completion");
    assert_eq!(reply.id, format!("chatcmpl-{id}"));
    let choice = &reply.choices[0];
    assert_eq!(choice.message.content.as_deref(), Some("hello dear\nworld"));
    assert_eq!(json!(choice.finish_reason), "stop");
    assert_eq!(
        (reply.usage.prompt_tokens, reply.usage.completion_tokens),
        (4, 2)
    );
    assert_eq!(reply.usage.total_tokens, 6);
    assert_eq!(reply.hearth.answer_id, id);
    assert_eq!(json!(reply.hearth.source), "device");
    let question = served.script.last();
    assert_eq!(question.sampling.temperature_millionths, 700_000);
    assert_eq!(question.sampling.top_p_millionths, 900_000);
    assert_eq!(question.seed, Some(u64::MAX));
    assert_eq!(question.asked_by, "tester");
    let Input::Chat { messages, .. } = question.input else {
        panic!("a conversation was asked");
    };
    assert_eq!(messages[0].speaker, Speaker::System);
}

#[tokio::test]
async fn a_stream_has_a_chunk_for_each_piece_and_its_usage_if_asked() {
    let served = Served::start().await;
    let mut body = json!({ "model": "strange", "messages": said("one two three"), "stream": true });
    let events = served.stream(PATH, &body).await;
    assert_eq!(events.last().unwrap().1, "[DONE]");
    let chunks: Vec<ChatChunk<'_>> = events[..events.len() - 1]
        .iter()
        .map(|(_, data)| serde_json::from_value(data.clone()).unwrap())
        .collect();
    assert_eq!(chunks.len(), 5, "a role, three words, an end");
    assert_eq!(json!(chunks[0].choices[0].delta.role), "assistant");
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk.choices[0].delta.content.clone())
        .collect();
    assert_eq!(text, "one two three");
    assert_eq!(json!(chunks[4].choices[0].finish_reason), "stop");
    let note = chunks[4].hearth.as_ref().unwrap();
    assert_eq!(json!(note.source), "network");
    assert_eq!(note.charged[0].units, "3");
    body["stream_options"] = json!({ "include_usage": true });
    let events = served.stream(PATH, &body).await;
    let last = &events[events.len() - 2].1;
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 3);
}

#[tokio::test]
async fn tools_are_called_whole_and_in_a_stream() {
    let served = Served::start().await;
    let mut body = json!({
        "model": "caller", "messages": said("How is the weather?"),
        "tools": weather(&["weather", "tides"]),
    });
    let reply = served.ask(PATH, &body).await;
    let choice = &reply["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], "Let me look.");
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0]["type"], "function");
    assert_eq!(calls[0]["function"]["name"], "weather");
    assert_eq!(calls[0]["function"]["arguments"], "{\"city\":\"Paris\"}");
    assert_ne!(calls[0]["id"], calls[1]["id"]);
    body["stream"] = json!(true);
    let events = served.stream(PATH, &body).await;
    let deltas: Vec<_> = events
        .iter()
        .filter_map(|(_, data)| data["choices"][0]["delta"]["tool_calls"].as_array())
        .flatten()
        .collect();
    assert_eq!(deltas.len(), 2);
    assert_eq!(deltas[1]["index"], 1);
    assert_eq!(deltas[1]["function"]["name"], "tides");
    body["stream"] = json!(false);
    body["parallel_tool_calls"] = json!(false);
    let reply = served.ask(PATH, &body).await;
    let calls = reply["choices"][0]["message"]["tool_calls"].as_array();
    assert_eq!(calls.unwrap().len(), 1);
    assert_eq!(served.script.last().stops, ["</tool_call>"]);
}

#[tokio::test]
async fn the_answer_of_a_tool_goes_back_to_the_model() {
    let served = Served::start().await;
    let body = json!({
        "model": "caller",
        "messages": [
            { "role": "user", "content": "How is the weather?" },
            { "role": "assistant", "content": null, "tool_calls": [
                { "id": "call_1", "type": "function", "function": { "name": "weather", "arguments": "{\"city\":\"Rome\"}" } },
            ] },
            { "role": "tool", "tool_call_id": "call_1", "content": "sunny" },
        ],
        "tools": weather(&["weather"]),
    });
    let reply = served.ask(PATH, &body).await;
    assert_eq!(reply["choices"][0]["message"]["content"], "It is sunny.");
    let Input::Chat { messages, tools } = served.script.last().input else {
        panic!("a conversation was asked");
    };
    assert_eq!(messages[1].calls[0].arguments, json!({ "city": "Rome" }));
    assert_eq!(messages[2].call_id.as_deref(), Some("call_1"));
    assert_eq!(tools[0].name, "weather");
}

#[tokio::test]
async fn forms_of_answers_become_grammars() {
    let served = Served::start().await;
    let schema = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    let mut body = json!({
        "model": "poet", "messages": said("Where?"),
        "response_format": { "type": "json_schema", "json_schema": { "name": "place", "schema": schema, "strict": true } },
    });
    let reply = served.ask(PATH, &body).await;
    let content = reply["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(content).unwrap()["city"],
        "Paris"
    );
    let Some(Grammar::JsonSchema(text)) = served.script.last().grammar else {
        panic!("a schema is a grammar");
    };
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), schema);
    body["response_format"] = json!({ "type": "json_object" });
    served.ask(PATH, &body).await;
    let grammar = served.script.last().grammar.unwrap();
    assert_eq!(
        grammar,
        Grammar::JsonSchema("{\"type\":\"object\"}".to_owned())
    );
    body["response_format"] = json!({ "type": "text" });
    body["tools"] = weather(&["weather", "tides"]);
    body["tool_choice"] = json!({ "type": "function", "function": { "name": "tides" } });
    served.ask(PATH, &body).await;
    let Some(Grammar::Lark(text)) = served.script.last().grammar else {
        panic!("a call that is asked for is a grammar");
    };
    assert!(
        text.contains("tides") && !text.contains("weather"),
        "{text}"
    );
    body["tool_choice"] = json!("none");
    served.ask(PATH, &body).await;
    let Input::Chat { tools, .. } = served.script.last().input else {
        panic!("a conversation was asked");
    };
    assert!(tools.is_empty());
}

#[tokio::test]
async fn logprobs_stops_and_lengths_are_told() {
    let served = Served::start().await;
    let mut body = json!({
        "model": "parrot", "messages": said("one two three"),
        "logprobs": true, "top_logprobs": 2, "max_tokens": 2,
    });
    let reply = served.ask(PATH, &body).await;
    let choice = &reply["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["logprobs"]["content"][1]["token"], "two ");
    assert_eq!(
        choice["logprobs"]["content"][1]["bytes"],
        json!(b"two ".to_vec())
    );
    let top = choice["logprobs"]["content"][0]["top_logprobs"].as_array();
    assert_eq!(top.unwrap().len(), 2);
    body["stream"] = json!(true);
    let events = served.stream(PATH, &body).await;
    let logprobs = &events[1].1["choices"][0]["logprobs"]["content"];
    assert_eq!(logprobs[0]["token"], "one ");
    let body = json!({ "model": "parrot", "messages": said("one two three"), "stop": " three" });
    let reply = served.ask(PATH, &body).await;
    assert_eq!(reply["choices"][0]["message"]["content"], "one two");
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_with_the_name_of_its_field() {
    refuses(&[
        ("temperature", json!({ "temperature": 2.5 })),
        ("top_p", json!({ "top_p": -0.1 })),
        ("presence_penalty", json!({ "presence_penalty": 3 })),
        ("logit_bias", json!({ "logit_bias": { "x": 1 } })),
        ("max_tokens", json!({ "max_tokens": 0 })),
        (
            "max_completion_tokens",
            json!({ "max_completion_tokens": -5 }),
        ),
        ("n", json!({ "n": 2 })),
        ("top_logprobs", json!({ "top_logprobs": 3 })),
        (
            "top_logprobs",
            json!({ "logprobs": true, "top_logprobs": 21 }),
        ),
        ("stop", json!({ "stop": ["a", ""] })),
        (
            "function_call",
            json!({ "function_call": { "name": "look" } }),
        ),
        (
            "function_call",
            json!({ "functions": [{ "name": "look" }], "function_call": { "name": "hear" } }),
        ),
        ("tool_choice", json!({ "tool_choice": "required" })),
        (
            "tools[0].type",
            json!({ "tools": [{ "type": "web_search" }] }),
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_message_that_cannot_be_taken_is_refused_with_its_place() {
    refuses(&[
        ("messages", json!({ "messages": [] })),
        (
            "messages[0].role",
            json!({ "messages": [{ "role": "robot", "content": "" }] }),
        ),
        (
            "messages[0].content",
            json!({ "messages": [{ "role": "user" }] }),
        ),
        (
            "messages[0].content[0]",
            json!({ "messages": [
            { "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "x" } }] },
        ] }),
        ),
        (
            "messages[0].tool_call_id",
            json!({ "messages": [{ "role": "tool", "content": "x" }] }),
        ),
        (
            "messages[0].tool_calls[0].function.arguments",
            json!({ "messages": [
            { "role": "assistant", "tool_calls": [{ "id": "a", "type": "function", "function": { "name": "f", "arguments": "{" } }] },
        ] }),
        ),
    ])
    .await;
}

/// Each change of a good request is refused, with the name of what is wrong.
async fn refuses(cases: &[(&str, Value)]) {
    let served = Served::start().await;
    for (param, change) in cases {
        let mut body = json!({ "model": "parrot", "messages": said("hello") });
        for (field, value) in change.as_object().unwrap() {
            body[field] = value.clone();
        }
        let (status, reply) = served.fail(PATH, &body).await;
        assert_eq!(status, 400, "{body}");
        assert_eq!(reply["error"]["param"], *param, "{body}");
        assert_eq!(reply["error"]["type"], "invalid_request_error");
        assert!(
            reply["error"]["message"]
                .as_str()
                .is_some_and(|m| m.len() > 10)
        );
    }
    assert!(served.script.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn refusals_have_the_status_that_the_sdks_know() {
    let served = Served::start().await;
    for (model, status, code) in [
        ("nobody", 404, "model_not_found"),
        ("busy", 429, "busy"),
        ("poor", 402, "insufficient_quota"),
        ("lonely", 503, "no_provider"),
    ] {
        let body = json!({ "model": model, "messages": said("hello"), "stream": true });
        let reply = served.post(PATH, &body).await;
        assert_eq!(reply.status().as_u16(), status, "{model}");
        let retry = reply.headers().get("retry-after").cloned();
        assert_eq!(retry.is_some_and(|retry| retry == "7"), model == "busy");
        let reply: Value = reply.json().await.unwrap();
        assert_eq!(reply["error"]["code"], code);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_says_so_after_all_that_came_before() {
    let served = Served::start().await;
    let mut body = json!({ "model": "breaks", "messages": said("hello"), "stream": true });
    let events = served.stream(PATH, &body).await;
    let text: String = events
        .iter()
        .filter_map(|(_, data)| data["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "It begins well ");
    let last = &events.last().unwrap().1;
    assert_eq!(last["error"]["code"], "no_provider");
    assert_eq!(last["hearth"]["charged"][0]["units"], "3");
    body["stream"] = json!(false);
    let reply = served.post(PATH, &body).await;
    assert_eq!(reply.status(), 503);
    assert_eq!(reply.headers()["x-should-retry"], "false");
    let reply: Value = reply.json().await.unwrap();
    assert_eq!(reply["hearth"]["charged"][0]["units"], "3");
}

#[tokio::test]
async fn a_prompt_may_be_kept_nearer_than_the_key_allows() {
    let served = Served::start().await;
    let body = json!({ "model": "parrot", "messages": said("hello") });
    served.ask(PATH, &body).await;
    assert_eq!(served.script.last().tier, Tier::Network);
    let ask = |tier: &'static str| {
        let request = served.http.post(served.url(PATH));
        let request = request
            .bearer_auth(crate::script::KEY)
            .header("hearth-tier", tier);
        request.json(&body).send()
    };
    assert_eq!(ask("device").await.unwrap().status(), 200);
    assert_eq!(served.script.last().tier, Tier::Device);
    assert_eq!(ask("moon").await.unwrap().status(), 400);
}
