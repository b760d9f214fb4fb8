//! `/v1/embeddings`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TextInput;

/// Texts to be embedded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EmbeddingsRequest {
    /// The model.
    pub model: String,
    /// The texts, or their token ids.
    pub input: TextInput,
    /// How the numbers are written: `float` unless said otherwise.
    #[serde(default)]
    pub encoding_format: Option<EncodingFormat>,
    /// Not supported: a model's embeddings have the length that they have.
    #[serde(default)]
    pub dimensions: Option<u32>,
    /// Passed over.
    #[serde(default)]
    pub user: Option<String>,
}

/// How numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    /// JSON numbers.
    #[default]
    Float,
    /// Base64 of 32-bit floats, the lowest byte first.
    Base64,
}

/// The embeddings of some texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EmbeddingList {
    /// Always `list`.
    pub object: String,
    /// One for each text, in order.
    pub data: Vec<Embedding>,
    /// The model.
    pub model: String,
    /// How many tokens there were.
    pub usage: EmbeddingUsage,
}

/// The embedding of one text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Embedding {
    /// Always `embedding`.
    pub object: String,
    /// The text's place among those asked for.
    pub index: usize,
    /// The numbers.
    pub embedding: Vector,
}

/// Numbers, as the request asked for them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Vector {
    /// JSON numbers.
    Floats(Vec<f32>),
    /// Base64 of 32-bit floats, the lowest byte first.
    Base64(String),
}

/// How many tokens the texts had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EmbeddingUsage {
    /// Of all texts.
    pub prompt_tokens: u32,
    /// The same.
    pub total_tokens: u32,
}
