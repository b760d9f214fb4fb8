//! The chain of a network that one device orders: run by it, and used by those who joined it, without an address.
//!
//! Where the configuration names no chain, a node opens the embedded chain of its data folder ([`host`]) and answers
//! others over the peer-to-peer link, or uses the chain of the device by whose ticket it joined ([`guest`]). What a
//! ticket says of a chain is in [`ticket`]; how the owner's commands reach the chain, in [`door`]; where a device's
//! first test money comes from, in [`money`]. Deliberately absent: trust. Whoever orders such a chain can rewrite it, so
//! it is never taken for a public one: only ids that no public chain has are taken from a ticket. Implements
//! docs/spec/05-embedded-chain.md, sections 13 and 14.

pub(crate) mod door;
pub(crate) mod guest;
pub(crate) mod host;
pub(crate) mod money;
mod pending;
pub mod ticket;

pub use pending::{JoinLaterError, join_later, join_now, pending};
pub(crate) use pending::{forget, use_chain};
