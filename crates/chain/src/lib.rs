//! chain.

pub mod bindings;
pub mod client;
#[cfg(feature = "evm")]
pub mod embedded;
#[cfg(any(test, feature = "fault"))]
pub mod fault;
#[cfg(test)]
mod scripted;
pub mod sender;
