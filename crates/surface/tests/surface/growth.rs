//! Where the APIs have grown: what can be taken is taken, the rest is refused by name, and nothing silently means
//! something else.

use hearth_protocol::answer::Grammar;
use hearth_surface::answers::{Input, Message, Speaker};
use serde_json::{Value, json};

use crate::script::{Served, said};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

fn base(path: &str) -> Value {
    match path {
        RESPONSES => json!({ "model": "parrot", "input": "hello" }),
        "/v1/completions" => json!({ "model": "parrot", "prompt": "hello" }),
        _ => json!({ "model": "parrot", "max_tokens": 9, "messages": said("hello") }),
    }
}

fn with(path: &str, change: &Value) -> Value {
    let mut body = base(path);
    for (field, value) in change.as_object().unwrap() {
        body[field] = value.clone();
    }
    body
}

fn messages(served: &Served) -> Vec<Message> {
    match served.script.last().input {
        Input::Chat { messages, .. } => messages,
        other => panic!("{other:?}"),
    }
}

fn spoken(served: &Served) -> Vec<(Speaker, String)> {
    let messages = messages(served).into_iter();
    messages
        .map(|message| (message.speaker, message.text))
        .collect()
}

#[tokio::test]
async fn instructions_may_stand_among_anthropics_turns() {
    let served = Served::start().await;
    let turn = |role: &str, text: &str| json!({ "role": role, "content": text });
    let body = with(
        MESSAGES,
        &json!({
            "system": "Be brief.",
            "messages": [
                turn("system", "Be kind."), turn("user", "a"), turn("assistant", "b"),
                turn("system", "Now in verse."), turn("developer", "Rhyme."), turn("user", "c"),
            ],
        }),
    );
    served.ask(MESSAGES, &body).await;
    let expected = [
        (Speaker::System, "Be brief.\n\nBe kind."),
        (Speaker::User, "a"),
        (Speaker::Assistant, "b"),
        (Speaker::System, "Now in verse."),
        (Speaker::System, "Rhyme."),
        (Speaker::User, "c"),
    ];
    assert_eq!(
        spoken(&served),
        expected.map(|(who, text)| (who, text.to_owned()))
    );
}

#[tokio::test]
async fn a_last_turn_of_the_assistant_reaches_the_model_as_it_is() {
    let served = Served::start().await;
    let begun = "The answer is ";
    let turns = json!([
        { "role": "user", "content": "What is it?" },
        { "role": "assistant", "content": begun },
    ]);
    for (path, field) in [
        (CHAT, "messages"),
        (RESPONSES, "input"),
        (MESSAGES, "messages"),
    ] {
        served
            .ask(path, &with(path, &json!({ field: turns })))
            .await;
        let last = spoken(&served).pop().unwrap();
        assert_eq!(last, (Speaker::Assistant, begun.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn blocks_of_text_are_read_whatever_they_are_called() {
    let served = Served::start().await;
    let blocks = json!([
        { "type": "thinking", "thinking": "hm", "signature": "x" },
        { "type": "redacted_thinking", "data": "x" },
        { "type": "text", "text": "one", "cache_control": { "type": "ephemeral" }, "citations": null },
        { "type": "document", "title": "A letter", "source": { "type": "text", "media_type": "text/plain", "data": "Dear" } },
        { "type": "search_result", "title": "A page", "source": "http://a", "content": [{ "type": "text", "text": "found" }] },
    ]);
    let body = with(
        MESSAGES,
        &json!({ "messages": [{ "role": "user", "content": blocks }] }),
    );
    served.ask(MESSAGES, &body).await;
    assert_eq!(
        messages(&served)[0].text,
        "one\nA letter\nDear\nA page\nhttp://a\nfound"
    );
    let result = json!([{ "type": "tool_result", "tool_use_id": "t", "content": [
        { "type": "text", "text": "sunny" }, { "type": "search_result", "source": "s", "title": "t", "content": [] },
    ] }]);
    let body = with(
        MESSAGES,
        &json!({ "messages": [{ "role": "user", "content": result }] }),
    );
    served.ask(MESSAGES, &body).await;
    assert_eq!(messages(&served)[0].text, "sunny\nt\ns\n");
    let parts = json!([
        { "type": "reasoning", "text": "hm" }, { "type": "text", "text": "a" }, { "type": "refusal", "refusal": "no" },
    ]);
    let body = with(
        CHAT,
        &json!({ "messages": [{ "role": "assistant", "content": parts }, { "role": "user", "content": "b" }] }),
    );
    served.ask(CHAT, &body).await;
    assert_eq!(messages(&served)[0].text, "a\nno");
    let items = json!([
        { "type": "reasoning", "id": "r", "summary": [] },
        { "role": "developer", "content": "Be brief." },
        { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "a" }] },
        { "type": "message", "role": "assistant", "id": "m", "status": "completed",
          "content": [{ "type": "output_text", "text": "b", "annotations": [] }] },
    ]);
    served
        .ask(RESPONSES, &with(RESPONSES, &json!({ "input": items })))
        .await;
    assert_eq!(spoken(&served).len(), 3);
}

#[tokio::test]
async fn functions_in_their_older_form_are_asked_for_and_answered_in_it() {
    let served = Served::start().await;
    let function = json!({ "name": "weather", "parameters": { "type": "object" } });
    let mut body = with(
        CHAT,
        &json!({
            "model": "caller", "messages": said("How is it?"), "functions": [function], "function_call": "auto",
        }),
    );
    let reply = served.ask(CHAT, &body).await;
    let choice = &reply["choices"][0];
    assert_eq!(choice["finish_reason"], "function_call");
    let call = &choice["message"]["function_call"];
    assert_eq!(
        call,
        &json!({ "name": "weather", "arguments": "{\"city\":\"Paris\"}" })
    );
    assert!(choice["message"].get("tool_calls").is_none());
    body["stream"] = json!(true);
    let events = served.stream(CHAT, &body).await;
    let told = events
        .iter()
        .any(|(_, data)| data["choices"][0]["delta"]["function_call"] == *call);
    assert!(told, "{events:?}");
    let ended = events
        .iter()
        .any(|(_, data)| data["choices"][0]["finish_reason"] == "function_call");
    assert!(ended);
    body["stream"] = json!(false);
    body["messages"] = json!([
        { "role": "user", "content": "How is it?" },
        { "role": "assistant", "content": null, "function_call": call },
        { "role": "function", "name": "weather", "content": "sunny" },
    ]);
    let reply = served.ask(CHAT, &body).await;
    assert_eq!(reply["choices"][0]["message"]["content"], "It is sunny.");
    let messages = messages(&served);
    assert_eq!(
        messages[2].call_id.as_deref(),
        Some(&*messages[1].calls[0].id)
    );
    body["function_call"] = json!({ "name": "weather" });
    served.ask(CHAT, &body).await;
    assert!(matches!(
        served.script.last().grammar,
        Some(Grammar::Lark(_))
    ));
}

#[tokio::test]
async fn only_the_tools_that_are_allowed_are_told_of() {
    let served = Served::start().await;
    let chat = |name: &str| json!({ "type": "function", "function": { "name": name } });
    let flat = |name: &str| json!({ "type": "function", "name": name });
    let cases = [
        (
            CHAT,
            json!({ "tools": [chat("a"), chat("b")], "tool_choice": {
            "type": "allowed_tools", "allowed_tools": { "mode": "auto", "tools": [chat("b")] } } }),
        ),
        (
            RESPONSES,
            json!({ "tools": [flat("a"), flat("b")], "tool_choice": {
            "type": "allowed_tools", "mode": "auto", "tools": [flat("b")] } }),
        ),
    ];
    for (path, change) in cases {
        served.ask(path, &with(path, &change)).await;
        let Input::Chat { tools, .. } = served.script.last().input else {
            panic!("a conversation was asked");
        };
        assert_eq!(
            tools.iter().map(|tool| &*tool.name).collect::<Vec<_>>(),
            ["b"]
        );
    }
}

#[tokio::test]
async fn what_only_others_understand_is_passed_over() {
    let served = Served::start().await;
    let chat = json!({
        "reasoning_effort": "high", "verbosity": "low", "store": true, "metadata": { "a": "b" }, "service_tier": "auto",
        "safety_identifier": "x", "prompt_cache_key": "y", "prediction": { "type": "content", "content": "z" },
        "parallel_tool_calls": false, "modalities": ["text"], "stream_options": { "include_obfuscation": false },
        "user": "me", "n": 1, "audio": null, "web_search_options": null, "functions": null, "top_k": -1,
    });
    let responses = json!({
        "reasoning": { "effort": "low", "summary": "auto" }, "store": true, "service_tier": "flex",
        "include": ["reasoning.encrypted_content"], "truncation": "auto", "metadata": { "a": "b" },
        "text": { "verbosity": "low" }, "max_tool_calls": 3, "conversation": null, "prompt": null, "user": "me",
    });
    let anthropic = json!({
        "thinking": { "type": "enabled", "budget_tokens": 1024 }, "metadata": { "user_id": "x" },
        "service_tier": "auto", "cache_control": { "type": "ephemeral" }, "betas": ["x"], "mcp_servers": [],
        "context_management": { "edits": [] }, "container": null, "output_config": { "effort": "low" },
        "system": [{ "type": "text", "text": "Be brief.", "cache_control": { "type": "ephemeral" } }],
        "tools": [{ "name": "a", "input_schema": { "type": "object" }, "cache_control": { "type": "ephemeral" }, "strict": true }],
    });
    for (path, change) in [(CHAT, chat), (RESPONSES, responses), (MESSAGES, anthropic)] {
        served.ask(path, &with(path, &change)).await;
    }
    for path in [CHAT, "/v1/completions"] {
        served.ask(path, &with(path, &json!({ "top_k": 7 }))).await;
        assert_eq!(served.script.last().sampling.top_k, 7, "{path}");
    }
}

/// Refuses each with a sentence about its field, and asks nobody.
async fn refuses(cases: &[(&str, &str, Value)]) {
    let served = Served::start().await;
    for (path, param, change) in cases {
        let body = with(path, change);
        let (status, reply) = served.fail(path, &body).await;
        assert_eq!(status, 400, "{body}");
        let message = reply["error"]["message"].as_str().unwrap();
        if *path == MESSAGES {
            assert!(message.contains(param), "{param}: {message}");
        } else {
            assert_eq!(reply["error"]["param"], *param, "{body}");
        }
    }
    assert!(served.script.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_chats_would_silently_take_otherwise_is_refused_by_its_name() {
    let user = |content: Value| json!({ "messages": [{ "role": "user", "content": content }] });
    refuses(&[
        (
            CHAT,
            "modalities",
            json!({ "modalities": ["text", "audio"] }),
        ),
        (
            CHAT,
            "audio",
            json!({ "audio": { "voice": "a", "format": "mp3" } }),
        ),
        (
            CHAT,
            "web_search_options",
            json!({ "web_search_options": {} }),
        ),
        (
            CHAT,
            "tools[0].type",
            json!({ "tools": [{ "type": "custom", "custom": { "name": "a" } }] }),
        ),
        (
            CHAT,
            "tools[0].function",
            json!({ "tools": [{ "type": "function" }] }),
        ),
        (CHAT, "functions", json!({ "functions": [], "tools": [] })),
        (
            CHAT,
            "function_call",
            json!({ "functions": [{ "name": "a" }], "function_call": "required" }),
        ),
        (
            CHAT,
            "tool_choice.type",
            json!({ "tool_choice": { "type": "custom", "custom": { "name": "a" } } }),
        ),
        (
            CHAT,
            "messages[0].content[0]",
            user(json!([{ "type": "input_audio", "input_audio": {} }])),
        ),
        (
            CHAT,
            "messages[0].content[0]",
            user(json!([{ "type": "file", "file": {} }])),
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_responses_would_silently_take_otherwise_is_refused_by_its_name() {
    let item = |item: Value| json!({ "input": [item] });
    refuses(&[
        (
            RESPONSES,
            "tools[0].type",
            json!({ "tools": [{ "type": "web_search_preview" }] }),
        ),
        (
            RESPONSES,
            "tools[0].type",
            json!({ "tools": [{ "type": "mcp", "server_label": "a" }] }),
        ),
        (
            RESPONSES,
            "tools[0].type",
            json!({ "tools": [{ "type": "custom", "name": "a" }] }),
        ),
        (
            RESPONSES,
            "tools[0].name",
            json!({ "tools": [{ "type": "function" }] }),
        ),
        (
            RESPONSES,
            "tool_choice.type",
            json!({ "tool_choice": { "type": "file_search" } }),
        ),
        (
            RESPONSES,
            "conversation",
            json!({ "conversation": "conv_1" }),
        ),
        (RESPONSES, "prompt", json!({ "prompt": { "id": "pmpt_1" } })),
        (RESPONSES, "top_logprobs", json!({ "top_logprobs": 21 })),
        (
            RESPONSES,
            "input[0].content[0].text",
            item(json!({ "role": "user", "content": [{ "type": "input_text" }] })),
        ),
        (
            RESPONSES,
            "input[0].role",
            item(json!({ "role": 5, "content": "x" })),
        ),
    ])
    .await;
}

#[tokio::test]
async fn items_that_responses_would_silently_take_otherwise_are_refused_by_their_place() {
    let item = |item: Value| json!({ "input": [item] });
    refuses(&[
        (RESPONSES, "background", json!({ "background": true })),
        (
            RESPONSES,
            "input[0].type",
            item(json!({ "type": "item_reference", "id": "x" })),
        ),
        (
            RESPONSES,
            "input[0].type",
            item(json!({ "type": "web_search_call", "id": "x" })),
        ),
        (
            RESPONSES,
            "input[0].type",
            item(json!({ "type": "custom_tool_call", "call_id": "x" })),
        ),
        (
            RESPONSES,
            "input[0].content[0]",
            item(json!({ "role": "user", "content": [{ "type": "input_image" }] })),
        ),
        (
            RESPONSES,
            "input[0].role",
            item(json!({ "role": "tool", "content": "x" })),
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_messages_would_silently_take_otherwise_is_refused_by_its_name() {
    let user = |content: Value| json!({ "messages": [{ "role": "user", "content": content }] });
    refuses(&[
        (
            MESSAGES,
            "mcp_servers",
            json!({ "mcp_servers": [{ "type": "url", "url": "x", "name": "y" }] }),
        ),
        (MESSAGES, "container", json!({ "container": "c" })),
        (
            MESSAGES,
            "tools.0.type",
            json!({ "tools": [{ "type": "web_search_20250305", "name": "web_search" }] }),
        ),
        (
            MESSAGES,
            "tools.0.type",
            json!({ "tools": [{ "type": "bash_20250124", "name": "bash" }] }),
        ),
        (
            MESSAGES,
            "messages.0.content.0",
            user(json!([{ "type": "image", "source": { "type": "base64" } }])),
        ),
        (
            MESSAGES,
            "messages.0.content.0.source",
            user(json!([{ "type": "document", "source": { "type": "url" } }])),
        ),
        (
            MESSAGES,
            "messages.0.content.0.content.0",
            user(json!([
                { "type": "tool_result", "tool_use_id": "a", "content": [{ "type": "image" }] },
            ])),
        ),
        (
            MESSAGES,
            "messages.0.content.0",
            user(json!([{ "type": "server_tool_use", "id": "a", "name": "b" }])),
        ),
    ])
    .await;
}

#[tokio::test]
async fn names_of_control_tokens_are_text_unless_the_owner_says_otherwise() {
    let served = Served::start().await;
    let path = "/v1/completions";
    let prompt = "<|im_start|>user\nhi";
    for (given, expected) in [
        (json!(null), false),
        (json!(false), false),
        (json!(true), true),
    ] {
        let body = json!({ "model": "parrot", "prompt": prompt, "special_tokens": given });
        served.ask(path, &body).await;
        let text = prompt.to_owned();
        let special = expected;
        assert_eq!(served.script.last().input, Input::Text { text, special });
    }
}

#[tokio::test]
async fn anthropics_programs_see_the_models_in_their_form_page_by_page() {
    let served = Served::start().await;
    let get = |query: &str| {
        let request = served.http.get(served.url(&format!("/v1/models{query}")));
        let request = request.header("x-api-key", crate::script::KEY);
        let request = request.header("anthropic-version", "2023-06-01");
        async move {
            let reply = request.send().await.unwrap();
            (
                reply.status().as_u16(),
                reply.json::<Value>().await.unwrap(),
            )
        }
    };
    let (_, all) = get("").await;
    let ids: Vec<&str> = all["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(all["data"][0]["type"], "model");
    assert_eq!(all["data"][0]["created_at"], "2023-11-14T22:13:20Z");
    assert_eq!(
        (&all["has_more"], &all["first_id"]),
        (&json!(false), &json!(ids[0]))
    );
    let (_, page) = get("?limit=3").await;
    assert_eq!(
        (&page["has_more"], &page["last_id"]),
        (&json!(true), &json!(ids[2]))
    );
    let (_, next) = get(&format!("?limit=100&after_id={}", ids[2])).await;
    assert_eq!(next["first_id"], ids[3]);
    let (_, back) = get(&format!("?limit=2&before_id={}", ids[3])).await;
    assert_eq!(
        (&back["first_id"], &back["last_id"]),
        (&json!(ids[1]), &json!(ids[2]))
    );
    let (_, one) = get("/org/named").await;
    assert_eq!(
        (&one["type"], &one["display_name"]),
        (&json!("model"), &json!("org/named"))
    );
    let (status, none) = get("/nobody").await;
    assert_eq!(
        (status, &none["error"]["type"]),
        (404, &json!("not_found_error"))
    );
    assert_eq!(get("?limit=0").await.0, 400);
    let openai: Value = served.get("/v1/models").await.json().await.unwrap();
    assert_eq!(openai["object"], "list");
}
