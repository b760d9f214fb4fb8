//! Serves an embedded chain on a loopback port: `cargo run --example embedded_rpc -- FILE [PORT]`.
//!
//! The smallest program around the embedded chain, to point a wallet or a library at. The chain has Hearth's standard
//! genesis and lives in FILE, so that a second start goes on where the first stopped.

use std::path::PathBuf;

use alloy_primitives::Address;
use anyhow::Context;
use hearth_chain::embedded::{Budget, Embedded, EmbeddedConfig, Genesis, Listener};

/// No one can sign for this account, so nobody mints Ember on this chain.
const NO_MINTER: Address = Address::repeat_byte(0x11);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let file = PathBuf::from(
        arguments
            .next()
            .context("usage: embedded_rpc FILE [PORT]")?,
    );
    let port: u16 = match arguments.next() {
        Some(port) => port.parse().context("PORT must be a number below 65536")?,
        None => 0,
    };

    let chain = Embedded::open(&file, EmbeddedConfig::new(Genesis::standard(NO_MINTER)))?;
    let listener = Listener::bind(("127.0.0.1", port)).await?;
    println!(
        r#"{{"ready":"http://{}","chainId":{}}}"#,
        listener.address(),
        chain.chain_id()
    );
    let budget = Budget::of_process();
    chain
        .serve(listener, budget, std::future::pending())
        .await?;
    Ok(())
}
