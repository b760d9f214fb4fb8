//! What the contracts in `contracts/` promise, tried on revm.
//!
//! The rules of the settlement contract and its collector (`settlement/`) are written against [`chain::Chain`] and the
//! canonical addresses only, so that one table states the behaviour of our code and of the canonical code alike, and
//! can be run on any chain. The other modules deploy what they need: tokens, the ledger, hostile peers, random sequences of calls.
#![cfg(feature = "evm")]

mod artifacts;
mod chain;
mod gas;
mod invariants;
mod ledger;
mod peers;
mod rpc;
mod settlement;
mod signing;
mod tokens;
mod vectors;
mod world;
