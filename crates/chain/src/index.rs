//! Follows the events of some contracts on one chain, exactly once, through reorganisations and crashes.
//!
//! [`EventIndex::open`] takes a database and a consumer; [`EventIndex::run`] reads the chain and tells the consumer
//! what is applied and what is undone, inside the same database transaction that remembers how far it got
//! ([`store`]). What to ask for and what to believe is decided in [`machine`].
//!
//! It deliberately keeps events only as long as they can be undone: it is a feed, not an archive. (spec: 06-chain,
//! section 4)

mod driver;
mod event;
pub mod machine;
pub mod store;

pub use driver::{EventIndex, IndexError, Level};
pub use event::{IndexEvent, IndexedLog, LogFilter, SettlementEvent};
pub use machine::{BlockRef, IndexConfig, IndexReject};
pub use store::{IndexConsumer, IndexStore, IndexStoreError};
