//! What is written: a model or an adapter, with its shape and what people say of it.

use hearth_training::{AdapterLayout, Layout, Weights};

use crate::label::Label;
use crate::vocabulary::Vocabulary;

/// A model that is written.
#[derive(Debug, Clone, Copy)]
pub struct TrainedModel<'a> {
    /// Its shape.
    pub layout: &'a Layout,
    /// Its numbers.
    pub weights: &'a Weights,
    /// Its tokens; at most as many as the shape has.
    pub vocabulary: &'a Vocabulary,
    /// What people say of it.
    pub label: &'a Label,
}

/// An adapter that is written.
#[derive(Debug, Clone, Copy)]
pub struct TrainedAdapter<'a> {
    /// The shape of the model under it.
    pub base: &'a Layout,
    /// Its shape.
    pub layout: &'a AdapterLayout,
    /// Its numbers.
    pub weights: &'a Weights,
    /// What people say of it.
    pub label: &'a Label,
}
