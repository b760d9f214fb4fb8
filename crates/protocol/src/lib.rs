//! The protocol of Hearth: identifiers, money, wire types, digests, and the payment machines.
//!
//! Everything here is a pure function of its arguments. There is no input or output, no clock, no
//! randomness and no thread: time enters as [`time::Timestamp`], randomness as bytes that the
//! caller drew, and everything that touches the world leaves as data (an effect). That is what
//! lets a simulator drive thousands of these machines from one seed, and what lets a stranger
//! write a compatible client from `docs/spec` and `vectors/` alone.
//!
//! Deliberately absent: JSON-RPC, HTTP, files, tokio. Those live in `chain` and `node`.

pub mod accepted;
pub mod address;
pub mod answer;
pub mod audience;
pub mod channel;
pub mod claim;
pub mod content;
pub mod eip712;
pub mod exact;
pub mod household;
pub mod id;
pub mod ledger;
pub mod market;
pub mod money;
pub mod offer;
pub mod run;
pub mod signature;
pub mod spending;
pub mod text;
pub mod time;
pub mod x402;
