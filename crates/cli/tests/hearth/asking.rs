//! Unmodified SDKs ask the real program with a real model: see tests/outside/README.md.
//!
//! What a small model says is its own affair. What is held here is the form: that every SDK is answered, that a
//! grammar is kept, that the same seed gives the same answer, that errors are the ones that SDKs know.

use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::program::{Home, MODEL, Outcome, Running, RunningNode, finish_within};
use crate::programs;

/// The most tokens of an answer.
const MOST: u64 = 16;
/// How long all checks of one program may take: some forty answers, on a machine that runs other tests too.
const PATIENCE: Duration = Duration::from_secs(240);

/// A node with the model of the tests, which asks for API keys.
struct Asked {
    node: Running,
    key: String,
    _home: Home,
}

impl Asked {
    fn start() -> Self {
        let home = Home::with_wallet();
        home.edit_config("keyless = true", "keyless = false");
        RunningNode::prepare(&home);
        home.run(&["models", "serve", MODEL, "--json"]).json();
        let node = RunningNode::start(&home, &[]);
        let made = home.run(&["keys", "new", "sdk", "--json"]).json();
        Self {
            node,
            key: made["key"].as_str().unwrap().to_owned(),
            _home: home,
        }
    }

    fn configuration(&self) -> Value {
        json!({
            "url": self.node.url(),
            "key": self.key,
            "models": { "talk": MODEL, "call": MODEL, "json": MODEL, "none": "nobody", "embed": MODEL },
            "most": MOST,
        })
    }
}

/// What a program's checks saw, by name.
pub(crate) fn checks(command: Command) -> Map<String, Value> {
    let Outcome {
        code,
        stdout,
        stderr,
    } = finish_within(command, "", PATIENCE);
    assert_eq!(code, 0, "{stdout}\n{stderr}");
    // Some of the programs print advice of their own between the checks.
    let told = stdout.lines().filter(|line| line.starts_with("{\"check\""));
    let told = told.map(|line| serde_json::from_str::<Value>(line).unwrap());
    told.map(|line| {
        (
            line["check"].as_str().unwrap().to_owned(),
            line["value"].clone(),
        )
    })
    .collect()
}

/// What must be the same whatever the model says.
fn assert_seen(seen: &Map<String, Value>, wanted: &[(&str, Value)]) {
    for (check, value) in wanted {
        assert_eq!(&seen[*check], value, "{check}");
    }
}

/// Every one of `names` is a text in which something stands.
fn assert_said(seen: &Map<String, Value>, names: &[&str]) {
    for name in names {
        let said = seen[*name]
            .as_str()
            .or_else(|| seen[*name][0].as_str())
            .unwrap_or_default();
        assert!(!said.trim().is_empty(), "{name}: {seen:#?}");
    }
}

#[test]
#[ignore = "needs outside programs"]
fn python_sdks_are_answered_by_a_real_model() {
    let asked = Asked::start();
    let seen = checks(programs::python("ask.py", &asked.configuration()));
    assert_said(
        &seen,
        &[
            "openai whole",
            "openai stream",
            "openai response",
            "openai response stream",
            "openai completion",
            "anthropic whole",
            "anthropic stream",
            "litellm whole",
            "litellm stream",
            "langchain whole",
            "langchain stream",
        ],
    );
    let (whole, stream) = (&seen["openai whole"], &seen["openai stream"]);
    assert_eq!(whole[0], stream[0], "one seed, one answer");
    assert_eq!(whole[2], stream[1], "and one count of its tokens");
    assert!(whole[2].as_u64().unwrap() <= MOST, "{whole}");
    assert!(seen["anthropic count"].as_u64().unwrap() > 3);
    let embedded = &seen["openai embeddings"];
    assert_eq!(embedded[0], 2, "{embedded}");
    assert!(embedded[1][0].as_f64().unwrap().abs() <= 1.0, "{embedded}");
    assert_seen(
        &seen,
        &[
            ("openai models", json!([MODEL])),
            ("openai note", json!("device")),
            ("openai logprobs", json!([true, true, true])),
            ("openai tools", json!(["weather", ["city"]])),
            ("openai tools in a stream", json!("weather")),
            ("openai schema", json!(true)),
            ("openai no model", json!("model_not_found")),
            ("openai bad request", json!("temperature")),
            ("openai wrong key", json!("invalid_api_key")),
            ("anthropic tools", json!(["weather", ["city"], "tool_use"])),
            ("anthropic tools in a stream", json!(["city"])),
            ("anthropic no model", json!("not_found_error")),
            ("litellm tools", json!("weather")),
            ("litellm no model", json!(true)),
            ("langchain tools", json!("weather")),
            ("langchain schema", json!(true)),
            ("langchain embeddings", json!(2)),
        ],
    );
    assert_eq!(asked.node.stop("TERM")["event"], "stopped");
}

#[test]
#[ignore = "needs outside programs"]
fn javascript_sdks_are_answered_by_a_real_model() {
    let asked = Asked::start();
    let seen = checks(programs::node("ask.mjs", &asked.configuration()));
    assert_said(
        &seen,
        &[
            "openai whole",
            "openai stream",
            "openai response",
            "openai response stream",
            "ai whole",
            "ai stream",
        ],
    );
    assert_seen(
        &seen,
        &[
            ("openai tools in a stream", json!("weather")),
            ("openai no model", json!("model_not_found")),
            ("ai tools", json!("weather")),
            ("ai object", json!(true)),
            ("ai embeddings", json!(2)),
            ("ai no model", json!(404)),
        ],
    );
    assert_eq!(seen["openai embeddings"][0], 2);
    assert_eq!(asked.node.stop("TERM")["event"], "stopped");
}
