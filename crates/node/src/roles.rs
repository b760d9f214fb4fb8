//! What a node does in the network: it serves models (`provider`), and asks others (`payer`).
//!
//! Each role is a driver: it performs what the machines of `hearth_protocol::answer` decide, over
//! the streams of `net`, the engines of `models` and the books of `payments`.

pub(crate) mod causes;
pub mod payer;
pub mod provider;
pub mod retention;
pub mod served;
