//! Completions, responses, embeddings and Anthropic's messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hearth_api::anthropic::{AnthropicBlock, Event, Message};
use hearth_api::openai::responses::{OutputItem, Response};
use hearth_protocol::answer::Grammar;
use hearth_surface::answers::{Input, Speaker};
use serde_json::{Value, json};

use crate::script::{Served, said};

fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

fn weather() -> Value {
    json!([{ "name": "weather", "description": "tells it", "input_schema": {
        "type": "object", "properties": { "city": { "type": "string" } },
    } }])
}

#[tokio::test]
async fn texts_and_ids_go_on() {
    let served = Served::start().await;
    let path = "/v1/completions";
    let body = json!({ "model": "parrot", "prompt": ["a b", "c"], "echo": true });
    let reply = served.ask(path, &body).await;
    assert_eq!(reply["object"], "text_completion");
    assert_eq!(reply["choices"][0]["text"], "a ba b");
    assert_eq!(reply["choices"][1]["index"], 1);
    assert_eq!(reply["choices"][1]["text"], "cc");
    assert_eq!(reply["usage"]["total_tokens"], 6);
    assert_eq!(served.script.last().output_tokens_max, Some(16));
    let body = json!({ "model": "parrot", "prompt": [1, 2, 3], "max_tokens": 2, "logprobs": 1 });
    let reply = served.ask(path, &body).await;
    assert_eq!(served.script.last().input, Input::Ids(vec![1, 2, 3]));
    let choice = &reply["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["logprobs"]["tokens"], json!(["[1, ", "2, "]));
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 4]));
    let body = json!({
        "model": "parrot", "prompt": ["a b", "c"], "stream": true, "echo": true,
        "stream_options": { "include_usage": true },
    });
    let events = served.stream(path, &body).await;
    assert_eq!(events.last().unwrap().1, "[DONE]");
    let done = events.iter().filter(|(_, data)| *data == "[DONE]");
    assert_eq!(done.count(), 1);
    let text = |index: u64| -> String {
        let choices = events.iter().map(|(_, data)| &data["choices"][0]);
        let mine = choices.filter(|choice| choice["index"] == index);
        mine.filter_map(|choice| choice["text"].as_str()).collect()
    };
    assert_eq!((text(0).as_str(), text(1).as_str()), ("a ba b", "cc"));
    for (param, change) in [
        ("prompt", json!({ "prompt": "" })),
        ("best_of", json!({ "best_of": 3 })),
        ("suffix", json!({ "suffix": "end" })),
        ("logprobs", json!({ "logprobs": 6 })),
        ("echo", json!({ "echo": true, "logprobs": 1 })),
    ] {
        let mut body = json!({ "model": "parrot", "prompt": "a" });
        for (field, value) in change.as_object().unwrap() {
            body[field] = value.clone();
        }
        let (status, reply) = served.fail(path, &body).await;
        assert_eq!((status, &reply["error"]["param"]), (400, &json!(param)));
    }
}

/// What several texts cost together, in whole and in pieces, and where one of them fails.
#[tokio::test]
async fn all_charges_of_one_request_are_stated() {
    let served = Served::start().await;
    let path = "/v1/completions";
    let mut body = json!({ "model": "strange", "prompt": ["a b c", "d", "e f"] });
    let reply = served.ask(path, &body).await;
    let charged = json!([{ "asset": crate::script::ASSET, "symbol": "TUSD", "units": "6", "decimals": 6,
        "amount": "0.000006" }]);
    assert_eq!(reply["hearth"]["charged"], charged);
    assert_eq!(reply["hearth"]["source"], "network");
    assert_eq!(reply["usage"]["completion_tokens"], 6);
    body["stream"] = json!(true);
    let events = served.stream(path, &body).await;
    let units = events
        .iter()
        .filter_map(|(_, data)| data["hearth"]["charged"][0]["units"].as_str());
    assert_eq!(units.collect::<Vec<_>>(), ["3", "1", "2"]);
    // Each fails in its middle, and is charged until then.
    let body = json!({ "model": "breaks", "prompt": ["a", "b"] });
    let reply = served.post(path, &body).await;
    assert_eq!(reply.status(), 503);
    assert_eq!(reply.headers()["x-should-retry"], "false");
    let reply: Value = reply.json().await.unwrap();
    assert_eq!(reply["hearth"]["charged"][0]["units"], "6");
    // The last of them is not taken.
    for (model, units) in [("strange", json!("5")), ("parrot", json!(null))] {
        *served.script.room.lock().unwrap() = Some(2);
        let body = json!({ "model": model, "prompt": ["a b c", "d e", "f"] });
        let reply = served.post(path, &body).await;
        assert_eq!(reply.status(), 429);
        let retries = reply.headers().get("x-should-retry").is_none();
        assert_eq!(
            retries,
            units.is_null(),
            "what was paid for is not asked again unseen"
        );
        let reply: Value = reply.json().await.unwrap();
        assert_eq!(reply["error"]["code"], "busy");
        assert_eq!(reply["hearth"]["charged"][0]["units"], units, "{model}");
    }
}

#[tokio::test]
async fn embeddings_are_numbers_or_base64() {
    let served = Served::start().await;
    let path = "/v1/embeddings";
    let reply = served
        .ask(path, &json!({ "model": "parrot", "input": ["a b", "c"] }))
        .await;
    assert_eq!(reply["data"][0]["embedding"], json!([2.0, 0.5, -0.25]));
    assert_eq!(reply["data"][1]["index"], 1);
    assert_eq!(reply["usage"]["prompt_tokens"], 3);
    let body = json!({ "model": "parrot", "input": [[1, 2], [3]], "encoding_format": "base64" });
    let reply = served.ask(path, &body).await;
    let text = reply["data"][0]["embedding"].as_str().unwrap();
    let bytes: Vec<u8> = [2.0_f32, 0.5, -0.25]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    assert_eq!(STANDARD.decode(text).unwrap(), bytes);
    let (status, _) = served
        .fail(path, &json!({ "model": "nobody", "input": "a" }))
        .await;
    assert_eq!(status, 404);
    let body = json!({ "model": "parrot", "input": "a", "dimensions": 2 });
    let (status, reply) = served.fail(path, &body).await;
    assert_eq!(
        (status, &reply["error"]["param"]),
        (400, &json!("dimensions"))
    );
    let (status, _) = served
        .fail(path, &json!({ "model": "parrot", "input": [] }))
        .await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_response_has_items_and_its_stream_tells_each_step() {
    let served = Served::start().await;
    let path = "/v1/responses";
    let mut body = json!({
        "model": "parrot", "instructions": "Be brief.", "max_output_tokens": 5,
        "input": [{ "role": "user", "content": [{ "type": "input_text", "text": "one two" }] }],
    });
    let reply: Response = serde_json::from_value(served.ask(path, &body).await).unwrap();
    assert_eq!(json!(reply.status), "completed");
    assert!(matches!(&reply.output[..], [OutputItem::Message { .. }]));
    assert_eq!(reply.usage.unwrap().output_tokens, 2);
    body["stream"] = json!(true);
    let events = served.stream(path, &body).await;
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(names(&events), expected);
    for (index, (name, data)) in events.iter().enumerate() {
        assert_eq!(data["type"], **name);
        assert_eq!(data["sequence_number"], index);
    }
    let whole = &events.last().unwrap().1["response"];
    assert_eq!(whole["output"][0]["content"][0]["text"], "one two");
    body["max_output_tokens"] = json!(1);
    let events = served.stream(path, &body).await;
    let (name, data) = events.last().unwrap();
    assert_eq!(name, "response.incomplete");
    assert_eq!(
        data["response"]["incomplete_details"]["reason"],
        "max_output_tokens"
    );
    let body = json!({ "model": "breaks", "input": "hello", "stream": true });
    let events = served.stream(path, &body).await;
    let names = names(&events);
    assert_eq!(names[names.len() - 2..], ["response.failed", "error"]);
    assert_eq!(events.last().unwrap().1["error"]["code"], "no_provider");
}

#[tokio::test]
async fn a_response_tells_log_probabilities_where_they_are_asked_for() {
    let served = Served::start().await;
    let path = "/v1/responses";
    let told = |logprobs: &Value| -> Vec<(String, usize)> {
        let logprobs = logprobs.as_array().unwrap().iter();
        let of = |one: &Value| {
            let token = one["token"].as_str().unwrap();
            assert_eq!(one["bytes"], json!(token.as_bytes()));
            assert!(one["logprob"].as_f64().unwrap() <= 0.0);
            let top = one["top_logprobs"].as_array().unwrap();
            (token.to_owned(), top.len())
        };
        logprobs.map(of).collect()
    };
    let include = json!(["message.output_text.logprobs"]);
    for (change, top) in [
        (json!({ "top_logprobs": 3 }), 3),
        (json!({ "include": include }), 0),
        (json!({ "top_logprobs": 0, "include": include }), 0),
        (json!({ "top_logprobs": 20, "include": include }), 20),
    ] {
        let mut body = json!({ "model": "parrot", "input": "one two" });
        for (field, value) in change.as_object().unwrap() {
            body[field] = value.clone();
        }
        let expected = [("one ".to_owned(), top), ("two".to_owned(), top)];
        let reply = served.ask(path, &body).await;
        let part = &reply["output"][0]["content"][0];
        assert_eq!(part["text"], "one two");
        assert_eq!(told(&part["logprobs"]), expected, "{change}");
        assert_eq!(
            served.script.last().logprobs,
            Some(u8::try_from(top).unwrap())
        );
        body["stream"] = json!(true);
        let events = served.stream(path, &body).await;
        let of = |name: &str| -> Vec<Value> {
            let found = events.iter().filter(|(found, _)| found == name);
            found.map(|(_, data)| data.clone()).collect()
        };
        let deltas = of("response.output_text.delta").into_iter();
        let deltas: Vec<_> = deltas.flat_map(|data| told(&data["logprobs"])).collect();
        assert_eq!(deltas, expected, "{change}");
        assert_eq!(
            told(&of("response.output_text.done")[0]["logprobs"]),
            expected
        );
        let whole = &of("response.completed")[0]["response"]["output"][0]["content"][0];
        assert_eq!(told(&whole["logprobs"]), expected, "{change}");
    }
    let plain = served
        .ask(path, &json!({ "model": "parrot", "input": "one" }))
        .await;
    assert_eq!(plain["output"][0]["content"][0]["logprobs"], json!([]));
    assert_eq!(served.script.last().logprobs, None);
}

#[tokio::test]
async fn a_response_asks_for_tools_and_reads_what_came_of_them() {
    let served = Served::start().await;
    let path = "/v1/responses";
    let tools =
        json!([{ "type": "function", "name": "weather", "parameters": { "type": "object" } }]);
    let mut body = json!({ "model": "caller", "input": "How is it?", "tools": tools });
    let reply = served.ask(path, &body).await;
    let call = &reply["output"][1];
    assert_eq!(call["type"], "function_call");
    assert_eq!(call["arguments"], "{\"city\":\"Paris\"}");
    body["stream"] = json!(true);
    let events = served.stream(path, &body).await;
    let names = names(&events);
    assert!(
        names.contains(&"response.function_call_arguments.done"),
        "{names:?}"
    );
    body["stream"] = json!(false);
    body["input"] = json!([
        { "role": "user", "content": "How is it?" },
        reply["output"][0], call,
        { "type": "function_call_output", "call_id": call["call_id"], "output": "sunny" },
    ]);
    let reply = served.ask(path, &body).await;
    assert_eq!(reply["output"][0]["content"][0]["text"], "It is sunny.");
    let Input::Chat { messages, .. } = served.script.last().input else {
        panic!("a conversation was asked");
    };
    assert_eq!(
        messages.len(),
        3,
        "the call belongs to what was said with it"
    );
    assert_eq!(messages[1].calls[0].tool, "weather");
    let schema = json!({ "type": "object", "properties": {} });
    let form = json!({ "format": { "type": "json_schema", "name": "x", "schema": schema } });
    let body = json!({ "model": "poet", "input": "Where?", "text": form });
    served.ask(path, &body).await;
    let grammar = served.script.last().grammar.unwrap();
    assert!(matches!(grammar, Grammar::JsonSchema(_)));
    let body = json!({ "model": "poet", "input": "x", "previous_response_id": "resp_1" });
    let (status, reply) = served.fail(path, &body).await;
    assert_eq!(
        (status, &reply["error"]["param"]),
        (400, &json!("previous_response_id"))
    );
}

#[tokio::test]
async fn anthropics_programs_are_answered_in_their_form() {
    let served = Served::start().await;
    let path = "/v1/messages";
    let mut body = json!({
        "model": "parrot", "max_tokens": 9, "system": [{ "type": "text", "text": "Be brief." }],
        "messages": said("one two three"), "stop_sequences": [" three"], "top_k": 5,
    });
    let reply: Message = serde_json::from_value(served.ask(path, &body).await).unwrap();
    assert!(matches!(&reply.content[..], [AnthropicBlock::Text { text }] if text == "one two"));
    assert_eq!(json!(reply.stop_reason), "stop_sequence");
    assert_eq!(reply.stop_sequence.as_deref(), Some(" three"));
    assert_eq!(
        (reply.usage.input_tokens, reply.usage.output_tokens),
        (5, 1)
    );
    let question = served.script.last();
    assert_eq!(question.sampling.top_k, 5);
    body["stream"] = json!(true);
    body["stop_sequences"] = json!([]);
    let events = served.stream(path, &body).await;
    let expected = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names(&events), expected);
    assert_eq!(events[0].1["message"]["usage"]["input_tokens"], 5);
    for (name, data) in &events {
        let event: Event = serde_json::from_value(data.clone()).unwrap();
        assert_eq!(event.name(), name);
    }
    let count = json!({ "model": "parrot", "messages": said("one two three") });
    let count = served.ask("/v1/messages/count_tokens", &count).await;
    assert_eq!(count["input_tokens"], 3);
}

#[tokio::test]
async fn anthropics_tools_are_blocks_both_ways() {
    let served = Served::start().await;
    let path = "/v1/messages";
    let mut body = json!({
        "model": "caller", "max_tokens": 99, "messages": said("How is it?"), "tools": weather(),
    });
    let reply = served.ask(path, &body).await;
    assert_eq!(reply["stop_reason"], "tool_use");
    let call = &reply["content"][1];
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("tool_use"), &json!("weather"))
    );
    assert_eq!(call["input"], json!({ "city": "Paris" }));
    body["stream"] = json!(true);
    let events = served.stream(path, &body).await;
    let json_delta = events
        .iter()
        .find(|(_, data)| data["delta"]["type"] == "input_json_delta");
    assert_eq!(
        json_delta.unwrap().1["delta"]["partial_json"],
        "{\"city\":\"Paris\"}"
    );
    body["stream"] = json!(false);
    body["messages"] = json!([
        { "role": "user", "content": "How is it?" },
        { "role": "assistant", "content": reply["content"] },
        { "role": "user", "content": [
            { "type": "tool_result", "tool_use_id": call["id"], "content": "sunny" },
        ] },
    ]);
    let reply = served.ask(path, &body).await;
    assert_eq!(reply["content"][0]["text"], "It is sunny.");
    let Input::Chat { messages, .. } = served.script.last().input else {
        panic!("a conversation was asked");
    };
    let speakers: Vec<_> = messages.iter().map(|message| message.speaker).collect();
    assert_eq!(speakers, [Speaker::User, Speaker::Assistant, Speaker::Tool]);
    body["messages"] = said("again");
    body["tool_choice"] = json!({ "type": "any" });
    served.ask(path, &body).await;
    let grammar = served.script.last().grammar.unwrap();
    assert!(matches!(grammar, Grammar::Lark(_)));
}

#[tokio::test]
async fn anthropics_errors_have_their_own_form() {
    let served = Served::start().await;
    let path = "/v1/messages";
    for (model, status, kind) in [
        ("nobody", 404, "not_found_error"),
        ("busy", 429, "rate_limit_error"),
        ("poor", 402, "billing_error"),
        ("lonely", 503, "overloaded_error"),
    ] {
        let body = json!({ "model": model, "max_tokens": 9, "messages": said("hello") });
        let (code, reply) = served.fail(path, &body).await;
        assert_eq!((code, &reply["error"]["type"]), (status, &json!(kind)));
        assert_eq!(reply["type"], "error");
    }
    let body = json!({ "model": "parrot", "messages": said("hello") });
    let (status, reply) = served.fail(path, &body).await;
    assert_eq!(status, 400);
    let message = reply["error"]["message"].as_str().unwrap();
    assert!(message.contains("max_tokens"), "{message}");
    let reply = served
        .http
        .post(served.url(path))
        .json(&body)
        .send()
        .await
        .unwrap();
    let reply: Value = reply.json().await.unwrap();
    assert_eq!(reply["error"]["type"], "authentication_error");
    let body = json!({
        "model": "breaks", "max_tokens": 9, "messages": said("hello"), "stream": true,
    });
    let events = served.stream(path, &body).await;
    let (name, data) = events.last().unwrap();
    assert_eq!((name.as_str(), &data["type"]), ("error", &json!("error")));
    assert_eq!(data["error"]["type"], "overloaded_error");
}

#[tokio::test]
async fn receipts_are_found_by_the_name_of_their_answer() {
    let served = Served::start().await;
    let receipt = hearth_protocol::answer::Receipt {
        answer: hearth_protocol::answer::AnswerId([9; 16]),
        spec: Default::default(),
        noise_spec: Default::default(),
        seed: [1; 32],
        prompt: Default::default(),
        output: Default::default(),
        prompt_tokens: 5,
        answered_tokens: 0,
        output_tokens: 7,
        stop: hearth_protocol::answer::StopReason::EndOfText,
        channel: hearth_protocol::id::ChannelId(Default::default()),
        charge: hearth_protocol::money::Amount::new(12),
        started_at: hearth_protocol::time::Timestamp(1),
        ended_at: hearth_protocol::time::Timestamp(2),
    };
    let key = alloy_signer_local::PrivateKeySigner::from_slice(&[3; 32]).unwrap();
    let signature = alloy_signer::SignerSync::sign_hash_sync(&key, &receipt.digest()).unwrap();
    let signed = hearth_protocol::answer::SignedReceipt {
        signature: signature.to_string().parse().unwrap(),
        receipt,
    };
    let id = signed.receipt.answer;
    served
        .script
        .receipts
        .lock()
        .unwrap()
        .insert(id, vec![signed]);
    let reply: Value = served
        .get(&format!("/v1/hearth/receipts/{id}"))
        .await
        .json()
        .await
        .unwrap();
    let receipt = &reply["receipts"][0];
    assert_eq!(receipt["charge_units"], "12");
    assert_eq!(receipt["signer"], key.address().to_string());
    let none = served
        .get(&format!("/v1/hearth/receipts/{}", "0".repeat(32)))
        .await;
    assert_eq!(none.status(), 404);
    assert_eq!(served.get("/v1/hearth/receipts/xyz").await.status(), 400);
}
