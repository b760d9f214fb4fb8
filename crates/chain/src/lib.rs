//! chain.

pub mod bindings;
#[cfg(any(test, feature = "fault"))]
pub mod fault;
