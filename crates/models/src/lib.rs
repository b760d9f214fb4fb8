//! What runs a model.

pub mod sampling;
