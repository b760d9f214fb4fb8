//! JSON types of the HTTP surface and of the command line.
//!
//! Data only: whoever speaks to a node, in whatever language, needs nothing but these shapes.

pub mod error;
