//! chain.

pub mod bindings;
pub mod client;
#[cfg(any(test, feature = "fault"))]
pub mod fault;
#[cfg(test)]
mod scripted;
pub mod sender;
