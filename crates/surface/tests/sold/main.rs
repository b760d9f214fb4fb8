//! The surface behind a price, end to end: over real HTTP, a real EVM and the purse of a payer.

// Clippy knows the tests themselves, not what they share.
#![allow(clippy::unwrap_used)]

mod answers;
#[allow(
    dead_code,
    reason = "shared with the tests of the surface, which use the rest"
)]
#[path = "../surface/script.rs"]
mod script;
#[allow(
    dead_code,
    reason = "shared with the tests of payments, which use the rest"
)]
#[path = "../../../payments/tests/paid/world.rs"]
mod world;
