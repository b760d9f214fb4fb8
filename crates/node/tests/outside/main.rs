//! Unmodified programs by other people against ours, on real chains: see tests/outside/README.md.
//!
//! Each test is ignored where those programs are not installed; `cargo xtask test` installs them and runs it. A test
//! starts its own processes on free ports and ends them; money is compared to the atomic unit.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected should fail there"
)]

mod chain;
mod contracts;
mod express;
mod payer;
mod process;
mod programs;
mod scenarios;
mod seller;
mod upstream;
