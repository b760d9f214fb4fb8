//! Who comes in, what is listed, and what happens to those who go away.

use std::collections::BTreeSet;
use std::io::Write;

use hearth_protocol::money::Amount;
use hearth_surface::answers::Tier;
use hearth_surface::{ANSWERS_AT_ONCE, ApiKey, Cap, secret};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::script::{ASSET, KEY, PATIENCE, Served, said};

const CHAT: &str = "/v1/chat/completions";

fn hello(model: &str) -> Value {
    json!({ "model": model, "messages": said("hello") })
}

#[tokio::test]
async fn models_are_listed_and_found_by_name() {
    let served = Served::start().await;
    let list: Value = served.get("/v1/models").await.json().await.unwrap();
    let names: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["id"])
        .collect();
    assert!(names.contains(&&json!("parrot")), "{names:?}");
    let one: Value = served
        .get("/v1/models/org/named")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(one["id"], "org/named");
    assert_eq!(one["hearth"]["context_tokens"], 4_096);
    let none = served.get("/v1/models/nobody").await;
    assert_eq!(none.status(), 404);
    let none: Value = none.json().await.unwrap();
    assert_eq!(none["error"]["code"], "model_not_found");
}

#[tokio::test]
async fn health_needs_no_key_and_everything_else_does() {
    let served = Served::start().await;
    let get = |path: &str| served.http.get(served.url(path)).send();
    let health = get("/health").await.unwrap();
    assert_eq!(health.json::<Value>().await.unwrap()["status"], "ok");
    for path in [
        "/v1/models",
        "/v1/models/parrot",
        "/metrics",
        "/v1/hearth/receipts/00",
    ] {
        let reply = get(path).await.unwrap();
        assert_eq!(reply.status(), 401, "{path}");
        let reply: Value = reply.json().await.unwrap();
        assert_eq!(reply["error"]["code"], "missing_api_key");
    }
    let wrong = served.http.post(served.url(CHAT)).bearer_auth("sk-wrong");
    let wrong = wrong.json(&hello("parrot")).send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    let other = served.http.post(served.url(CHAT)).header("x-api-key", KEY);
    let other = other.json(&hello("parrot")).send().await.unwrap();
    assert_eq!(other.status(), 200);
}

#[tokio::test]
async fn where_no_key_is_needed_any_will_do_but_one_that_was_taken_away() {
    let keyless = Some(ApiKey::new("keyless", "nobody has this"));
    let served = Served::with(ApiKey::new("tester", KEY), keyless).await;
    let ask = |key: String| {
        let request = served.http.post(served.url(CHAT)).bearer_auth(key);
        request.json(&hello("parrot")).send()
    };
    assert_eq!(ask("sk-anything".to_owned()).await.unwrap().status(), 200);
    assert_eq!(served.script.last().asked_by, "keyless");
    assert_eq!(ask(KEY.to_owned()).await.unwrap().status(), 200);
    assert_eq!(served.script.last().asked_by, "tester");
    assert_eq!(ask(secret([9; 32])).await.unwrap().status(), 401);
    let bare = served
        .http
        .get(served.url("/v1/models"))
        .send()
        .await
        .unwrap();
    assert_eq!(bare.status(), 200);
}

#[tokio::test]
async fn pages_of_other_origins_and_rebound_names_get_nothing() {
    let keyless = Some(ApiKey::new("keyless", "nobody has this"));
    let served = Served::with(ApiKey::new("tester", KEY), keyless).await;
    for (name, value, status) in [
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("host", "evil.example", 421),
        ("sec-fetch-site", "cross-site", 403),
    ] {
        for path in ["/v1/models", "/health", "/nothing"] {
            let request = served.http.get(served.url(path)).header(name, value);
            let reply = request.send().await.unwrap();
            assert_eq!(reply.status(), status, "{name}: {value} at {path}");
            let cors = "access-control-allow-origin";
            assert!(!reply.headers().contains_key(cors));
        }
    }
    let preflight = served
        .http
        .request(reqwest::Method::OPTIONS, served.url(CHAT));
    let preflight = preflight.header("origin", "https://evil.example");
    assert_eq!(preflight.send().await.unwrap().status(), 403);
    assert!(served.script.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn long_deep_and_broken_requests_are_refused() {
    let served = Served::start().await;
    let post = |body: Vec<u8>| {
        let request = served.http.post(served.url(CHAT)).bearer_auth(KEY);
        request.body(body).send()
    };
    let long = post(vec![b' '; (4 << 20) + 1]).await.unwrap();
    assert_eq!(long.status(), 413);
    let deep = post("[".repeat(100_000).into_bytes()).await.unwrap();
    assert_eq!(deep.status(), 400);
    assert_eq!(
        deep.json::<Value>().await.unwrap()["error"]["code"],
        "too_deep"
    );
    let none = post(b"hello".to_vec()).await.unwrap();
    assert_eq!(
        none.json::<Value>().await.unwrap()["error"]["code"],
        "invalid_json"
    );
    let many: Vec<_> = (0..4_097)
        .map(|_| json!({ "role": "user", "content": "x" }))
        .collect();
    let (status, reply) = served
        .fail(CHAT, &json!({ "model": "parrot", "messages": many }))
        .await;
    assert_eq!(
        (status, &reply["error"]["param"]),
        (400, &json!("messages"))
    );
    let elsewhere = served.get("/v1/nothing").await;
    assert_eq!(elsewhere.status(), 404);
    assert_eq!(served.get(CHAT).await.status(), 405);
}

#[tokio::test]
async fn half_requests_of_one_address_do_not_keep_an_honest_one_waiting() {
    let served = Served::start().await;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {KEY}\r\ncontent-length: 4000000\r\n\r\n",
        served.address
    );
    let begun = [head.as_bytes(), &[b' '; 60_000]].concat();
    let mut halves = Vec::new();
    for _ in 0..700 {
        let mut half = TcpStream::connect(served.address).await.unwrap();
        // One that makes room is closed early.
        let _ = half.write_all(&begun).await;
        halves.push(half);
    }
    assert_eq!(served.get("/v1/models").await.status(), 200);
    served.ask(CHAT, &hello("parrot")).await;
}

#[tokio::test]
async fn compressed_requests_are_read_within_their_bound_and_others_refused_by_name() {
    let served = Served::start().await;
    let compressed = |text: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(text).unwrap();
        gzip.finish().unwrap()
    };
    let post = |coding: &'static str, body: Vec<u8>| {
        let request = served.http.post(served.url(CHAT)).bearer_auth(KEY);
        let request = request.header("content-encoding", coding);
        // SDKs accept JSON only, with streams too.
        request
            .header("accept", "application/json")
            .body(body)
            .send()
    };
    let mut hello = hello("parrot");
    hello["stream"] = json!(true);
    let hello = hello.to_string().into_bytes();
    for coding in ["gzip", "x-gzip", "identity, gzip"] {
        let reply = post(coding, compressed(&hello)).await.unwrap();
        assert_eq!(reply.status(), 200, "{coding}");
        let kind = reply.headers()["content-type"].to_str().unwrap();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
    }
    for (coding, body, status, code) in [
        ("br", hello.clone(), 415, "unsupported_encoding"),
        ("gzip, gzip", hello.clone(), 415, "unsupported_encoding"),
        ("gzip", hello.clone(), 400, "bad_encoding"),
        (
            "gzip",
            compressed(&hello)[..20].to_vec(),
            400,
            "bad_encoding",
        ),
        (
            "gzip",
            compressed(&[b' '; 50_000_000]),
            413,
            "request_too_large",
        ),
    ] {
        let reply = post(coding, body).await.unwrap();
        assert_eq!(reply.status(), status, "{coding}");
        let accepted = reply.headers().get("accept-encoding").cloned();
        assert_eq!(accepted.is_some(), status == 415, "{accepted:?}");
        let reply: Value = reply.json().await.unwrap();
        assert_eq!(reply["error"]["code"], code);
    }
}

#[tokio::test]
async fn whoever_goes_away_cancels_the_answer() {
    let served = Served::start().await;
    for stream in [true, false] {
        let mut body = hello("endless");
        body["stream"] = json!(stream);
        let body = body.to_string();
        let request = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{body}",
            served.address,
            body.len()
        );
        let mut connection = TcpStream::connect(served.address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        if stream {
            let mut first = [0; 64];
            assert!(connection.read(&mut first).await.unwrap() > 0);
        } else {
            let asked = async {
                while served.script.asked.lock().unwrap().len() < 2 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, asked)
                .await
                .expect("it is asked");
        }
        drop(connection);
        let dropped = tokio::time::timeout(PATIENCE, served.script.dropped.notified()).await;
        dropped.expect("the answer's stream is dropped");
    }
}

fn capped(per_request: u128, per_day: u128, answers_at_once: u32) -> ApiKey {
    let cap = Cap {
        asset: ASSET.parse().unwrap(),
        symbol: "TUSD".to_owned(),
        decimals: 6,
        per_request: Amount::new(per_request),
        per_day: Amount::new(per_day),
    };
    ApiKey {
        caps: vec![cap],
        answers_at_once,
        models: Some(BTreeSet::from(
            ["strange", "poor", "endless"].map(str::to_owned),
        )),
        ..ApiKey::new("child", KEY)
    }
}

#[tokio::test]
async fn a_key_spends_up_to_its_budget_which_a_refusal_names() {
    let served = Served::with(capped(6, 10, 16), None).await;
    let body = json!({ "model": "strange", "messages": said("one two three four") });
    served.ask(CHAT, &body).await;
    assert_eq!(served.script.last().ceilings[0].1, Amount::new(6));
    served.ask(CHAT, &body).await;
    served.ask(CHAT, &body).await;
    assert_eq!(
        served.script.last().ceilings[0].1,
        Amount::new(2),
        "10 less twice 4"
    );
    assert_eq!(served.surface.spent()[0].amount, Amount::new(12));
    let (status, reply) = served.fail(CHAT, &hello("poor")).await;
    assert_eq!(status, 402);
    let message = reply["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("\"child\" may spend 0.000006 TUSD for one answer"),
        "{message}"
    );
    assert!(message.contains("0.000012 are spent"), "{message}");
    let (status, _) = served.fail(CHAT, &hello("parrot")).await;
    assert_eq!(status, 404, "the key does not name that model");
}

#[tokio::test]
async fn a_key_has_so_many_answers_at_once() {
    let served = Served::with(capped(6, 10, 1), None).await;
    let mut body = hello("endless");
    body["stream"] = json!(true);
    let mut first = served.post(CHAT, &body).await;
    assert!(first.chunk().await.unwrap().is_some());
    let second = served.post(CHAT, &body).await;
    assert_eq!(second.status(), 429);
    assert_eq!(
        second.headers()["retry-after"],
        "2",
        "half of what an answer takes"
    );
    let said: Value = second.json().await.unwrap();
    let said = said["error"]["message"].as_str().unwrap();
    assert!(said.contains("the API key \"child\""), "{said}");
    drop(first);
    let dropped = tokio::time::timeout(PATIENCE, served.script.dropped.notified()).await;
    dropped.expect("the answer's stream is dropped");
    let third = async {
        while served.post(CHAT, &body).await.status() != 200 {
            tokio::task::yield_now().await;
        }
    };
    let third = tokio::time::timeout(PATIENCE, third).await;
    third.expect("there is room again");
}

#[tokio::test]
async fn metrics_tell_what_was_asked_and_what_it_cost() {
    let served = Served::start().await;
    let body = json!({ "model": "strange", "messages": said("one two three") });
    served.ask(CHAT, &body).await;
    served.fail(CHAT, &hello("nobody")).await;
    served.get("/some/path").await;
    let text = served.get("/metrics").await.text().await.unwrap();
    for line in [
        "hearth_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 1",
        "hearth_requests_total{route=\"/v1/chat/completions\",status=\"404\"} 1",
        "hearth_requests_total{route=\"other\",status=\"404\"} 1",
        "hearth_output_tokens_total 3",
        "hearth_time_to_first_token_seconds_count 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    assert!(text.contains(&format!("hearth_spent_units_total{{asset=\"{ASSET}\"}} 3")));
}

#[tokio::test]
async fn the_owners_commands_reach_further_than_programs_without_a_key() {
    let keyless = ApiKey {
        tier: Tier::Household,
        ..ApiKey::new("this machine", "nobody has this")
    };
    let served = Served::with(ApiKey::new("tester", KEY), Some(keyless)).await;
    served.surface.set_owner("0123abcd");
    let ask = |key: Option<&'static str>| {
        let request = served.http.post(served.url(CHAT)).json(&hello("parrot"));
        let request = match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        request.send()
    };
    for (key, tier) in [
        (None, Tier::Household),
        (Some("any"), Tier::Household),
        (Some("0123abce"), Tier::Household),
        (Some("0123abcd"), Tier::Network),
        (Some(KEY), Tier::Network),
    ] {
        assert_eq!(ask(key).await.unwrap().status(), 200);
        assert_eq!(served.script.last().tier, tier, "{key:?}");
    }
}

#[tokio::test]
async fn a_households_programs_ask_more_at_once_than_a_model_answers() {
    let keyless = Some(ApiKey::new("this machine", "nobody has this"));
    let served = Served::with(ApiKey::new("tester", KEY), keyless).await;
    let mut body = hello("reader");
    body["stream"] = json!(true);
    let mut held = Vec::new();
    for number in 0..ANSWERS_AT_ONCE {
        let reply = served.http.post(served.url(CHAT)).json(&body).send();
        let reply = tokio::time::timeout(PATIENCE, reply)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reply.status(), 200, "program {number}");
        held.push(reply);
    }
    let reply = served.http.post(served.url(CHAT)).json(&body).send();
    let reply = reply.await.unwrap();
    assert_eq!(reply.status(), 429);
    let retry: u32 = reply.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((2..=60).contains(&retry), "{retry}");
    let said: Value = reply.json().await.unwrap();
    let said = said["error"]["message"].as_str().unwrap();
    assert!(
        said.contains("programs of this machine") && !said.contains("API key"),
        "{said}"
    );
    // One that shows a key has places of its own.
    assert_eq!(served.post(CHAT, &hello("parrot")).await.status(), 200);
}
