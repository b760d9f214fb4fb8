//! The loop of a household's agent: what it asks a model, which tools it calls, and what it tells its owner.
//!
//! A [`chat::Chat`] is a machine over the kept conversation: events go in, effects come out, and nothing else is known. So its
//! log leads to the same state in every process, and a chat goes on after a crash where it was.
//!
//! The loop decides nothing that matters for safety. What may happen without a question is decided by the node, with
//! `hearth-mandate`, from what it has handed to the model; limits of money are the node's as well. This crate may be taken
//! over whole, and they hold.
//!
//! What is here is honesty: an answer that claims a deed which no tool did is not let through as it stands ([`claims`]), a
//! conversation that is longer than the model's window is never cut without a word, and tools take at most a quarter of it
//! ([`offering`]).

pub mod chat;
pub mod claims;
pub mod offering;
