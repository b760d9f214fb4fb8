//! Unmodified programs by other people against ours, on real chains: see tests/outside/README.md.
//!
//! Each test is ignored where those programs are not installed; `cargo xtask test` installs them and runs it. A test
//! starts its own processes on free ports and ends them; money is compared to the atomic unit.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected should fail there"
)]

#[allow(
    dead_code,
    reason = "shared with the tests of hearth-cli, which use the rest"
)]
#[path = "../../../../tests/outside/rust/chain.rs"]
mod chain;
mod contracts;
mod embedded;
#[allow(
    dead_code,
    reason = "shared with the tests of hearth-cli, which use the rest"
)]
#[path = "../../../../tests/outside/rust/express.rs"]
mod express;
#[path = "../../../../tests/outside/rust/payer.rs"]
mod payer;
#[path = "../../../../tests/outside/rust/process.rs"]
mod process;
#[path = "../../../../tests/outside/rust/programs.rs"]
mod programs;
mod scenarios;
mod seller;
#[path = "../../../../tests/outside/rust/upstream.rs"]
mod upstream;
