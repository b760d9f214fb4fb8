//! EVM chains: the contracts' bindings, a client that sends each transaction once, an event index, and a chain that
//! runs inside this program.
//!
//! Everything that speaks JSON-RPC or runs EVM code is here and nowhere else; what is owed is decided in `protocol`.

pub mod bindings;
pub mod client;
pub mod deployment;
#[cfg(feature = "evm")]
pub mod embedded;
#[cfg(any(test, feature = "fault"))]
pub mod fault;
pub mod index;
pub mod ledger;
#[cfg(test)]
mod scripted;
pub mod sender;
