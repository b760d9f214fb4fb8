//! Foundry's anvil, where it is installed.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use alloy_signer_local::PrivateKeySigner;
use hearth_chain::client::{ChainClient, HttpOptions};
use hearth_protocol::id::ChainId;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(120);
/// The chain that it makes.
const CHAIN: ChainId = ChainId(31_337);

/// A key that anvil gives coin to; it holds nothing anywhere else.
pub(crate) fn payer() -> PrivateKeySigner {
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
        .parse()
        .unwrap()
}

/// Starts it, and waits until it listens.
pub(crate) async fn start() -> (Child, ChainClient) {
    let outside: PathBuf = std::env::var_os("HEARTH_OUTSIDE")
        .expect("HEARTH_OUTSIDE is not set: run `cargo xtask test`, which installs the outside programs")
        .into();
    // The program itself and not the wrapper that npm puts before it, so that a kill reaches it.
    let platform = std::fs::read_dir(outside.join("node_modules/@foundry-rs"))
        .unwrap()
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with("anvil-"))
        .expect("anvil is installed for this platform");
    let mut node = Command::new(platform.path().join("bin/anvil"))
        .args(["--port", "0"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    let listening = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("anvil runs on");
            if let Some(address) = line.strip_prefix("Listening on ") {
                return address.trim().to_owned();
            }
        }
    };
    let address = tokio::time::timeout(PATIENCE, listening).await;
    let address = address.expect("anvil listens in time");
    // What it prints later is read and dropped, so that it never waits for us.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let url = format!("http://{address}").parse().unwrap();
    let client = ChainClient::http(url, CHAIN, HttpOptions::default()).unwrap();
    (node, client)
}
