//! The chain of a network that one device orders: run by it, and used by those who joined it, without an address.
//!
//! Where the configuration names no chain, a node opens the embedded chain of its data folder (`host`) and answers
//! others over the peer-to-peer link, or uses the chain of the device by whose ticket it joined (`guest`); `line` holds
//! either. What a ticket says of a chain is in `ticket`, tickets that wait for the node are in `pending`, and where a
//! device's first test money comes from is in `money`. Deliberately absent: trust. Whoever orders such a chain can rewrite
//! it, so it is never taken for a public one: only ids that no public chain has are taken from a ticket. Implements
//! docs/spec/05-embedded-chain.md, sections 13 and 14.

pub(crate) mod guest;
pub(crate) mod host;
pub(crate) mod line;
pub(crate) mod money;
mod pending;
pub mod ticket;

use std::sync::Arc;

use hearth_chain::client::{Carrier, ChainClient, HttpOptions};
use hearth_environment::SystemEnvironment;

use crate::home::NetworkChain;

pub use pending::{JoinLaterError, join_later, join_now, leave, pending};
pub(crate) use pending::{forget, use_chain};

/// Where a node answers its owner's commands about the network's chain.
pub(crate) const CHAIN_ROUTE: &str = "/hearth/chain";

/// A client of the network's chain whose requests `carrier` brings there.
pub(crate) fn carried(
    carrier: Arc<dyn Carrier>,
    network: &NetworkChain,
    options: HttpOptions,
) -> ChainClient {
    ChainClient::carried(carrier, network.id(), options, Arc::new(SystemEnvironment))
}

#[cfg(test)]
mod tests;
