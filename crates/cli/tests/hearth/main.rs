//! The real program, run as people and programs run it: what goes in, what comes out, what stays on disk.

#![allow(
    clippy::unwrap_used,
    reason = "what a test helper cannot unwrap, the test cannot go on without"
)]

mod adapters;
mod answers;
mod asking;
mod budgets;
mod buying;
mod chain_command;
mod channels;
mod damaged_runs;
mod data;
mod deploying;
mod doctor;
mod exact;
mod first_run;
mod from_peers;
mod funding;
mod help;
mod household;
mod importing;
mod kill;
mod killed_runs;
mod namespaces;
mod network_chain;
mod program;
mod relay;
mod returning;
mod run_memory;
mod secrecy;
mod seller;
mod selling;
mod service;
mod side_by_side;
mod trade;
mod training;
mod wallet;

// Unmodified programs by other people: the tests that use them are ignored where they are not installed.
#[allow(
    dead_code,
    reason = "shared with the tests of hearth-node, which use the rest"
)]
#[path = "../../../../tests/outside/rust/chain.rs"]
mod chain;

#[allow(
    dead_code,
    reason = "shared with the tests of hearth-node, which use the rest"
)]
#[path = "../../../../tests/outside/rust/express.rs"]
mod express;

#[allow(
    dead_code,
    reason = "shared with the tests of hearth-node, which use the rest"
)]
#[path = "../../../../tests/outside/rust/payer.rs"]
mod payer;

#[allow(
    dead_code,
    reason = "shared with the tests of hearth-node, which use the rest"
)]
#[path = "../../../../tests/outside/rust/process.rs"]
mod process;

#[allow(
    dead_code,
    reason = "shared with the tests of hearth-node, which use the rest"
)]
#[path = "../../../../tests/outside/rust/programs.rs"]
mod programs;

#[allow(
    dead_code,
    reason = "shared with the tests of hearth-node, which use the rest"
)]
#[path = "../../../../tests/outside/rust/upstream.rs"]
mod upstream;
