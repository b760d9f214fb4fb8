//! Unmodified SDKs against the surface: see tests/outside/README.md.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::programs;
use crate::script::{KEY, Served};

/// How long all checks of one program may take; the SDKs alone take seconds to load.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// What a program's checks saw, by name.
async fn checks(command: std::process::Command) -> Value {
    let mut command = Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.expect("the program ends in time").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    // Some of the programs print advice of their own between the checks.
    let told = text.lines().filter(|line| line.starts_with("{\"check\""));
    let lines = told.map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        (
            line["check"].as_str().unwrap().to_owned(),
            line["value"].clone(),
        )
    });
    lines.collect::<serde_json::Map<_, _>>().into()
}

fn configuration(served: &Served) -> Value {
    json!({
        "url": served.url(""),
        "key": KEY,
        "models": {
            "talk": "parrot", "call": "caller", "json": "poet", "breaks": "breaks",
            "none": "nobody", "embed": "parrot",
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs outside programs"]
async fn python_sdks_are_answered() {
    let served = Served::start().await;
    let seen = checks(programs::python("ask.py", &configuration(&served))).await;
    let said = "one two three";
    for (check, value) in [
        ("openai whole", json!([said, "stop", 3])),
        ("openai note", json!("device")),
        ("openai stream", json!([said, 3])),
        ("openai logprobs", json!([true, true, true])),
        ("openai tools", json!(["weather", ["city"]])),
        ("openai tools in a stream", json!("weather")),
        ("openai schema", json!(true)),
        ("openai response", json!([said, "completed"])),
        ("openai response stream", json!(said)),
        ("openai completion", json!("one two")),
        ("openai embeddings", json!([2, [2.0]])),
        ("openai no model", json!("model_not_found")),
        ("openai bad request", json!("temperature")),
        ("openai wrong key", json!("invalid_api_key")),
        (
            "openai broken stream",
            json!(["It begins well ", "no_provider"]),
        ),
        ("openai broken response", json!("no_provider")),
        ("anthropic whole", json!([said, "end_turn", 3])),
        ("anthropic stream", json!([said, "end_turn"])),
        ("anthropic tools", json!(["weather", ["city"], "tool_use"])),
        ("anthropic tools in a stream", json!(["city"])),
        ("anthropic count", json!(3)),
        ("anthropic no model", json!("not_found_error")),
        (
            "anthropic broken stream",
            json!(["It begins well ", "overloaded_error"]),
        ),
        ("litellm whole", json!(said)),
        ("litellm stream", json!(said)),
        ("litellm tools", json!("weather")),
        ("litellm no model", json!(true)),
        ("langchain whole", json!(said)),
        ("langchain stream", json!(said)),
        ("langchain tools", json!("weather")),
        ("langchain schema", json!(true)),
        ("langchain embeddings", json!(2)),
    ] {
        assert_eq!(seen[check], value, "{check}");
    }
    let models = seen["openai models"].as_array().unwrap();
    assert!(models.contains(&json!("parrot")));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs outside programs"]
async fn javascript_sdks_are_answered() {
    let served = Served::start().await;
    let seen = checks(programs::node("ask.mjs", &configuration(&served))).await;
    let said = "one two three";
    for (check, value) in [
        ("openai whole", json!([said, "stop"])),
        ("openai stream", json!(said)),
        ("openai tools in a stream", json!("weather")),
        ("openai response", json!(said)),
        ("openai response stream", json!(said)),
        ("openai embeddings", json!([2, [2]])),
        ("openai no model", json!("model_not_found")),
        (
            "openai broken stream",
            json!(["It begins well ", "no_provider"]),
        ),
        ("ai whole", json!([said, "stop"])),
        ("ai stream", json!(said)),
        ("ai tools", json!("weather")),
        ("ai object", json!(true)),
        ("ai embeddings", json!(2)),
        ("ai no model", json!(404)),
    ] {
        assert_eq!(seen[check], value, "{check}");
    }
}
