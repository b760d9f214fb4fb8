//! The real program, run as people and programs run it: what goes in, what comes out, what stays on disk.

#![allow(
    clippy::unwrap_used,
    reason = "what a test helper cannot unwrap, the test cannot go on without"
)]

mod chain;
mod doctor;
mod help;
mod program;
mod secrecy;
mod trade;
mod wallet;
