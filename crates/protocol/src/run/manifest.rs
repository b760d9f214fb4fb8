//! The manifest of a run: everything about it that does not change, in canonical bytes whose BLAKE3 hash is its name
//! (spec: 16 runs, section 1).
//!
//! Every byte follows from a [`RunManifest`], so a reader takes the values out, checks them, writes the manifest again and
//! compares: what is odd in any other way is not canonical. Here it is pure data; what its numbers do to weights is the
//! affair of those who compute.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::content::ContentHash;

mod bounds;
mod canonical;
mod fraction;
#[cfg(test)]
mod tests;

pub use bounds::{
    NAME_BYTES_MAX, ROUND_TOKENS_MAX, ROUND_WINDOWS_MAX, RUN_DATASETS_MAX, RUN_ROUNDS_MAX,
    RUN_TEXT_BYTES_MAX, RUN_TRAINERS_MAX, RoundBounds,
};
pub use fraction::{Fraction, FractionError};

/// The longest manifest, in bytes.
pub const RUN_MANIFEST_BYTES_MAX: usize = 1 << 20;
/// The form of the manifests that this program reads and writes.
pub const RUN_MANIFEST_FORMAT: &str = "hearth-run/1";
/// The arithmetic of their steps (spec: 12 training numerics).
pub const RUN_NUMERICS: &str = "f32-fma/1";

/// What a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunManifest {
    /// What people call it.
    pub name: String,
    /// What it is for; may be empty.
    pub description: String,
    /// The license of what comes out: an SPDX identifier, or the address of its text.
    pub license: String,
    /// The model's shape.
    pub model: ModelShape,
    /// The weights before the first round.
    pub start: RunStart,
    /// What is trained over frozen weights; without one, all weights are.
    pub adapter: Option<AdapterShape>,
    /// What is read.
    pub datasets: Vec<DatasetShare>,
    /// The steps that a trainer takes in a round.
    pub inner: InnerSettings,
    /// How a round goes.
    pub round: RoundSettings,
    /// How a contribution is written.
    pub compression: CompressionSettings,
    /// How contributions move the shared weights.
    pub outer: OuterSettings,
    /// How much of the work is done again.
    pub audit: AuditSettings,
    /// How the weights are measured.
    pub evaluation: EvaluationSettings,
    /// Who gets how much of what the model earns.
    pub shares: RunShares,
    /// The rounds of the run in all; their numbers are below it.
    pub rounds: u32,
}

/// The shape of a model of the Llama family.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelShape {
    /// Tokens that exist.
    pub vocabulary: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Layers.
    pub layers: u32,
    /// Query heads of a layer.
    pub query_heads: u32,
    /// Key-value heads of a layer; a divisor of the query heads.
    pub key_value_heads: u32,
    /// Width of a head, even.
    pub head: u32,
    /// Width inside the feed-forward block.
    pub hidden: u32,
    /// The longest window, in tokens.
    pub context: u32,
    /// Base of the rotary positions.
    pub rope_theta: Fraction,
    /// What is added to a mean square before its root.
    pub norm_epsilon: Fraction,
    /// The output head is the embedding.
    pub tied_head: bool,
}

/// Where the first weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum RunStart {
    /// They are fresh (spec: 12, section 8).
    Fresh {
        /// What they are drawn from.
        #[serde(with = "decimal")]
        seed: u64,
    },
    /// They are those of a model that exists.
    Base {
        /// BLAKE3 of its file.
        base: ContentHash,
        /// What file that is.
        form: BaseForm,
    },
}

/// The form of a base model's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseForm {
    /// Safetensors with the names of `transformers`.
    Safetensors,
    /// GGUF of llama.cpp.
    Gguf,
}

/// A low-rank adapter (spec: 12, section 5.7).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdapterShape {
    /// Its rank.
    pub rank: u32,
    /// Numerator of its factor.
    pub alpha: Fraction,
    /// The matrices that have one, each once, in the order of [`AdapterTarget`].
    pub targets: Vec<AdapterTarget>,
}

/// A matrix of a layer that an adapter changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AdapterTarget {
    /// Queries.
    #[serde(rename = "q_proj")]
    Query,
    /// Keys.
    #[serde(rename = "k_proj")]
    Key,
    /// Values.
    #[serde(rename = "v_proj")]
    Value,
    /// The output of attention.
    #[serde(rename = "o_proj")]
    Output,
    /// The gate of the feed-forward block.
    #[serde(rename = "gate_proj")]
    Gate,
    /// What the gate is multiplied with.
    #[serde(rename = "up_proj")]
    Up,
    /// The output of the feed-forward block.
    #[serde(rename = "down_proj")]
    Down,
}

/// A dataset, and how much of what is read is of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DatasetShare {
    /// The dataset's id (spec: 15 datasets).
    pub id: ContentHash,
    /// Of as many windows as all weights together, so many are of this dataset.
    pub weight: u32,
}

/// The steps that a trainer takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InnerSettings {
    /// Tokens that a window foretells.
    pub window_tokens: u32,
    /// Windows of a step.
    pub windows: u32,
    /// What turns gradients into weights.
    pub optimizer: OptimizerSettings,
    /// Gradients are scaled down to this norm.
    pub clip_norm: Fraction,
}

/// An optimizer (spec: 12, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase")]
pub enum OptimizerSettings {
    /// AdamW for all tensors.
    AdamW(AdamWSettings),
    /// Muon for matrices, AdamW for the rest.
    Muon(MuonSettings),
}

/// Settings of AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdamWSettings {
    /// Its learning rate.
    pub rate: RateSettings,
    /// How much of the mean stays.
    pub beta1: Fraction,
    /// How much of the mean square stays.
    pub beta2: Fraction,
    /// What is added to the root of the mean square.
    pub epsilon: Fraction,
    /// Decay of weights, times the rate.
    pub decay: Fraction,
}

/// Settings of Muon.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MuonSettings {
    /// Its learning rate.
    pub rate: RateSettings,
    /// How much of the momentum stays.
    pub momentum: Fraction,
    /// Decay of weights, times the rate.
    pub decay: Fraction,
    /// For embeddings, head and norms.
    pub rest: AdamWSettings,
}

/// How a learning rate goes over the steps of the run: step `s` of round `r` is number `r * steps + s` (spec: 16, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateSettings {
    /// The highest rate.
    pub peak: Fraction,
    /// Steps in which it rises to that, evenly.
    pub warmup_steps: u64,
    /// The step after which it falls, evenly.
    pub decay_from_step: u64,
    /// Steps in which it falls; 0 for never.
    pub decay_steps: u64,
    /// The share of the peak at which it stays in the end.
    pub floor: Fraction,
}

/// How a round goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoundSettings {
    /// The local steps of a trainer.
    pub steps: u32,
    /// The fewest that a slow device may take.
    pub steps_min: u32,
    /// The trainers without whose contributions a round is not over.
    pub quorum: u32,
    /// The most trainers of a round.
    pub trainers_max: u32,
    /// Seconds in which others may still contribute once the quorum has.
    pub grace_s: u32,
    /// Seconds that one proposer of the round's record has.
    pub attempt_s: u32,
    /// A trainer takes its optimizer's moments and what it has not sent into its next round.
    pub carry: bool,
}

/// How a contribution is written (spec: 13 aggregation, sections 3 to 6).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "scheme", deny_unknown_fields)]
pub enum CompressionSettings {
    /// The largest values.
    #[serde(rename = "top-k")]
    TopK {
        /// How many of 4,096.
        k: u16,
        /// How much of what was not sent goes into the next round.
        decay: Fraction,
    },
    /// All values in 8 bits.
    #[serde(rename = "dense8")]
    Dense8 {
        /// How much of what was not sent goes into the next round.
        decay: Fraction,
    },
    /// All values in 4 bits.
    #[serde(rename = "dense4")]
    Dense4 {
        /// How much of what was not sent goes into the next round.
        decay: Fraction,
    },
}

impl CompressionSettings {
    /// Returns how much of what was not sent goes into the next round.
    #[must_use]
    pub fn decay(&self) -> Fraction {
        match *self {
            Self::TopK { decay, .. } | Self::Dense8 { decay } | Self::Dense4 { decay } => decay,
        }
    }
}

/// How contributions move the shared weights (spec: 13, section 8).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OuterSettings {
    /// The outer rate.
    pub rate: Fraction,
    /// Nesterov's momentum, where the run has one.
    pub momentum: Option<Fraction>,
}

/// How much of the work is done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditSettings {
    /// Contributions of a thousand that are drawn to be replayed.
    pub per_mille: u32,
    /// The first rounds of a trainer, all of which are.
    pub newcomer_rounds: u32,
}

/// How the weights are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EvaluationSettings {
    /// Held-out windows that are measured.
    pub windows: u32,
}

/// Who gets how much of what the model earns, in parts of a thousand that make a thousand together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunShares {
    /// Those who trained it.
    pub trainers: u32,
    /// Those who checked the work.
    pub validators: u32,
    /// Those who funded it.
    pub funders: u32,
}

/// Why bytes are not the manifest of a run, or values make none.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunManifestError {
    /// Too long to be read.
    #[error("the manifest has {0} bytes, and at most {RUN_MANIFEST_BYTES_MAX} are read")]
    Long(usize),
    /// Not JSON.
    #[error("the manifest is not JSON")]
    Json(#[source] serde_json::Error),
    /// Not an object, or one without a format.
    #[error("this is not the manifest of a run")]
    NotAManifest,
    /// A form or an arithmetic that this program does not know.
    #[error("the manifest's {field} is not {known:?}")]
    Unknown {
        /// Which of the two.
        field: &'static str,
        /// What this program knows.
        known: &'static str,
    },
    /// A field that is not there, is not known, or is of another type.
    #[error("the manifest's {field} cannot be read")]
    Field {
        /// Where it stands.
        field: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A text that is not one line that can be shown.
    #[error("the {field} has to be one line of at most {most} bytes, without blanks at its ends")]
    Text {
        /// Which.
        field: &'static str,
        /// The most bytes of it.
        most: usize,
    },
    /// A whole number out of range.
    #[error("{field} is {value}, and has to be from {least} to {most}")]
    Range {
        /// Which.
        field: &'static str,
        /// What it is.
        value: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// A fraction out of range.
    #[error("{field} is {value}, and has to be {wanted}")]
    FractionRange {
        /// Which.
        field: &'static str,
        /// What it is.
        value: Fraction,
        /// What it may be.
        wanted: &'static str,
    },
    /// Fields that do not go together.
    #[error("{field}: {rule}")]
    Rule {
        /// Which field is at fault.
        field: &'static str,
        /// What it has to keep.
        rule: &'static str,
    },
    /// Values that are all right, in another form than they must have.
    #[error("the manifest is not in canonical form")]
    NotCanonical,
}

impl RunManifest {
    /// Returns the canonical bytes.
    ///
    /// # Errors
    /// Names the field that is out of range.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RunManifestError> {
        self.check()?;
        let bytes = self.written();
        if bytes.len() > RUN_MANIFEST_BYTES_MAX {
            return Err(RunManifestError::Long(bytes.len()));
        }
        Ok(bytes)
    }

    /// Returns the manifest's name: BLAKE3 of its canonical bytes.
    ///
    /// # Errors
    /// Names the field that is out of range.
    pub fn hash(&self) -> Result<ContentHash, RunManifestError> {
        Ok(ContentHash::of(&self.to_bytes()?))
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// When they are not those of a manifest, to the byte.
    pub fn read(bytes: &[u8]) -> Result<Self, RunManifestError> {
        if bytes.len() > RUN_MANIFEST_BYTES_MAX {
            return Err(RunManifestError::Long(bytes.len()));
        }
        let mut stated: Value = serde_json::from_slice(bytes).map_err(RunManifestError::Json)?;
        let fields = stated
            .as_object_mut()
            .ok_or(RunManifestError::NotAManifest)?;
        for (field, known) in CONSTANTS {
            let found = fields.remove(field);
            let found = found.ok_or(RunManifestError::NotAManifest)?;
            if found != known {
                return Err(RunManifestError::Unknown { field, known });
            }
        }
        let manifest: Self = serde_path_to_error::deserialize(stated).map_err(|error| {
            let field = error.path().to_string();
            let source = error.into_inner();
            RunManifestError::Field { field, source }
        })?;
        manifest.check()?;
        if manifest.written() != bytes {
            return Err(RunManifestError::NotCanonical);
        }
        Ok(manifest)
    }

    fn written(&self) -> Vec<u8> {
        let mut value = serde_json::to_value(self).expect("a manifest's fields are JSON");
        for (field, known) in CONSTANTS {
            value[field] = known.into();
        }
        canonical::bytes(&value)
    }
}

/// Fields that all manifests of this form have alike.
const CONSTANTS: [(&str, &str); 2] = [("format", RUN_MANIFEST_FORMAT), ("numerics", RUN_NUMERICS)];

mod decimal {
    //! A 64-bit number as decimal digits in a string, because JSON's numbers end at 2^53.

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}
