//! chain.

pub mod bindings;
pub mod client;
#[cfg(feature = "evm")]
pub mod embedded;
#[cfg(any(test, feature = "fault"))]
pub mod fault;
pub mod index;
#[cfg(test)]
mod scripted;
pub mod sender;
