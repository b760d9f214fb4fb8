//! The household's own address over real HTTP, in front of an answerer that follows a script.

// Clippy knows the tests themselves, not what they share.
#![allow(clippy::unwrap_used)]

mod apis;
mod bodies;
mod causes;
mod chat;
mod doors;
mod growth;
mod liveness;
mod outside;
#[allow(
    dead_code,
    reason = "shared with the tests of payments, which use the rest"
)]
#[path = "../../../../tests/outside/rust/programs.rs"]
mod programs;
mod script;
