//! `/v1/models`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The models that can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: String,
    /// The models, by name.
    pub data: Vec<Model>,
}

/// A model that can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// When it was first seen, in seconds since 1970.
    pub created: u64,
    /// `device` where this device serves it, otherwise `network`.
    pub owned_by: String,
    /// What Hearth knows of it.
    pub hearth: ModelNote,
}

/// What Hearth knows of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelNote {
    /// The hash of its weights.
    pub weights: String,
    /// Tokens of prompt and answer together.
    pub context_tokens: u32,
    /// Whether this device serves it.
    pub here: bool,
    /// How many others serve it.
    pub providers: u32,
}
