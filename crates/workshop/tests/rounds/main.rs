//! Rounds of small runs on a small text: what honest devices compute, and what becomes of lies.

#![allow(
    clippy::unwrap_used,
    reason = "what a test helper cannot unwrap, the test cannot go on without"
)]

mod files;
mod honest;
mod lies;
mod opening;
mod trial;
