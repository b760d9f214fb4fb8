//! A chain and an endpoint that do what a test tells them to, for the tests of this crate.
//!
//! [`ScriptedChain`] is a small model of a chain: blocks, a pool, receipts, logs, reorganisations. [`HostileServer`]
//! serves it as JSON-RPC on a loopback port, and misbehaves as told. [`TestEnvironment`] is a clock that moves only
//! when somebody waits, so that no test waits for real time.

mod chain;
mod environment;
mod server;

pub(crate) use chain::{ScriptedChain, log};
pub(crate) use environment::TestEnvironment;
pub(crate) use server::{HostileServer, Reply};
