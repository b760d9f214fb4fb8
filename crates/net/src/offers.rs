//! Offers: published, heard, and passed on (spec: answers, section 8).
//!
//! Offers go from neighbour to neighbour over the membership that iroh-gossip keeps, but each device
//! passes on only what it found valid and new ([`table`]); gossip's own broadcast tree would pass
//! on anything. What gossip loses, and what a newcomer missed, is fetched from a known peer now
//! and then ([`exchange`]); that also heals a network that was split.

pub(crate) mod bucket;
pub(crate) mod driver;
mod entries;
pub(crate) mod exchange;
pub(crate) mod signing;
pub(crate) mod table;

pub use table::{Effect, Event, OfferChange, Table};
