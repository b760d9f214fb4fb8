//! What the owner's own commands ask of a node that is up, and how they reach it.

mod admin;
pub mod client;
mod from_peers;
mod paying;
mod training;

pub(crate) use admin::{Admin, router};
pub(crate) use from_peers::Fetches;
