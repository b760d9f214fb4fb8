//! Being paid and paying: the drivers of the payment machines (spec: payments).
//!
//! `desk` owns the channels on which this node is paid; `gate` puts any HTTP service behind a
//! price; `cashier` takes one-off payments; `escrow` is the way to the contracts; `settlement`
//! claims what is due; `purse` pays for requests of this node's own. The rules themselves are in
//! `hearth_protocol::channel`; nothing here decides what is owed.

pub mod cashier;
pub mod desk;
pub mod escrow;
pub mod facilitator;
pub mod follower;

pub mod gate;
pub mod offer;
pub mod purse;
pub mod replies;
pub mod settlement;
pub mod signing;
pub mod till;
pub mod watchtower;
