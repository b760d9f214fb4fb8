//! chain.

#[cfg(any(test, feature = "fault"))]
pub mod fault;
