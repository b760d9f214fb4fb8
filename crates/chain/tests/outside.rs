//! Unmodified libraries and tools against the embedded chain: viem, ethers and cast.
//!
//! Ignored where they are not installed; `cargo xtask test` installs them, sets `HEARTH_OUTSIDE` and runs this. The list
//! of what is checked is tests/outside/js/rpc.mjs, which passes on anvil too.

#![cfg(feature = "evm")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected should fail there"
)]

use std::path::Path;
use std::time::Duration;

use alloy_primitives::Address;
use hearth_chain::embedded::{Budget, Embedded, EmbeddedConfig, Genesis, Listener};
use serde_json::{Value, json};
use tokio::process::Command;

/// The whole list takes seconds; on a loaded machine the interpreters alone take a minute to start.
const DEADLINE: Duration = Duration::from_secs(300);

/// A key of no account that matters: it holds no coin, because gas is free.
const KEY: &str = "0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs outside programs"]
async fn viem_ethers_and_cast_work_with_an_account_that_holds_no_coin() {
    let folder = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig::new(Genesis::standard(Address::repeat_byte(0x11)));
    let chain = Embedded::open(&folder.path().join("chain.redb"), config).unwrap();
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let rpc = format!("http://{}", listener.address());
    let served = chain.clone();
    let server = tokio::spawn(async move {
        let budget = Budget::of_process();
        served.serve(listener, budget, std::future::pending()).await
    });

    let checks = check(&rpc).await;
    server.abort();

    let failed: Vec<&Value> = checks.iter().filter(|check| check["ok"] == false).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let end = checks.last().expect("a last line");
    assert_eq!(end["done"], true, "the list ended early: {end}");
    assert!(end["passed"].as_u64() > Some(0));
}

/// Runs the list of checks against `rpc` and returns the lines that it printed.
async fn check(rpc: &str) -> Vec<Value> {
    let programs = std::env::var_os("HEARTH_OUTSIDE").expect(
        "HEARTH_OUTSIDE is not set: run `cargo xtask test`, which installs the outside programs",
    );
    let checkout = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let config = json!({
        "rpc": rpc,
        "artifacts": checkout.join("contracts/artifacts"),
        "key": KEY,
        "poor": true,
    });
    let mut command = Command::new("node");
    command
        .arg(checkout.join("tests/outside/js/rpc.mjs"))
        .arg(config.to_string())
        .env("HEARTH_OUTSIDE", programs)
        .kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output())
        .await
        .expect("the list of checks ends in time")
        .expect("node runs");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert!(
        !lines.is_empty(),
        "it printed nothing: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    lines
}
