//! node.

pub mod advice;
pub mod keys;
