//! The household's own address over real HTTP, in front of an answerer that follows a script.

// Clippy knows the tests themselves, not what they share.
#![allow(clippy::unwrap_used)]

mod chat;
mod doors;
mod script;
