//! Being paid and paying over HTTP: the drivers of the payment machines (spec: payments).
//!
//! `desk` owns the channels on which this node is paid; `gate` puts any HTTP service behind a
//! price; `proxy` sells a service that is somewhere else; `cashier` takes one-off payments; `escrow`
//! is the way to the contracts; `settlement` claims what is due; `purse` pays for requests of this
//! node's own; `till` puts what sells together. `store` keeps what must not be forgotten, and takes
//! tables of its consumer's own. The rules themselves are in `hearth_protocol::channel`; nothing here
//! decides what is owed, and nothing here knows what is sold.

pub mod cashier;
pub mod desk;
pub mod escrow;
pub mod facilitator;
pub mod follower;

pub mod gate;
pub mod http;
pub mod offer;
pub mod proxy;
pub mod purse;
pub mod replies;
pub mod settlement;
pub mod signing;
mod stopped;
pub mod store;
pub mod till;
pub mod watchtower;
