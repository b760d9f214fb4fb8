//! What fixes an answer: weights, template, engine and sampling rule (spec: answers, section 2).
//!
//! Two devices with the same spec, the same ids and the same noise give the same answer up to the
//! rounding of their backends. The hash of a spec is BLAKE3 over its canonical JSON (RFC 8785),
//! which is what `serde_json` writes here: fields are declared in the order of their names, and
//! there are no fractions.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::content::ContentHash;

/// One in the unit of the fractions below.
pub const MILLION: u32 = 1_000_000;
/// The highest temperature that is sampled at, in millionths.
pub const TEMPERATURE_MILLIONTHS_MAX: u32 = 2 * MILLION;
/// The largest penalty, and the largest bias, in millionths of a logit.
pub const PENALTY_MILLIONTHS_MAX: i32 = 100_000_000;
/// The most tokens that may have a bias of their own.
pub const BIASED_TOKENS_MAX: usize = 300;

/// A class of backends whose roundings agree well enough to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendClass {
    /// x86-64 with AVX2 and FMA.
    CpuAvx2,
    /// x86-64 with AVX-512.
    CpuAvx512,
    /// 64-bit ARM.
    CpuNeon,
    /// NVIDIA.
    Cuda,
    /// Apple.
    Metal,
    /// Any GPU with Vulkan.
    Vulkan,
}

impl fmt::Display for BackendClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CpuAvx2 => "cpu-avx2",
            Self::CpuAvx512 => "cpu-avx512",
            Self::CpuNeon => "cpu-neon",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
        })
    }
}

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// 16-bit floats.
    F16,
    /// 8-bit blocks.
    Q8,
}

/// What a provider serves a model with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serving {
    /// A LoRA adapter on top of the weights.
    pub adapter: Option<ContentHash>,
    /// What computes.
    pub backend: BackendClass,
    /// The engine and its version, such as `llama.cpp b6789`; at most 64 bytes.
    pub engine: String,
    /// Whether attention is computed in the fused way, which makes bits depend on threads.
    pub flash_attention: bool,
    /// How keys and values are kept.
    pub kv_type: KvType,
    /// Tokens that are computed together at most.
    pub micro_batch_tokens: u32,
    /// The chat template's text.
    pub template: ContentHash,
    /// The weights' file.
    pub weights: ContentHash,
}

/// How the next token is chosen from the logits (spec: answers, section 3).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Taken from a token's logit for each time that it stands in the output, in millionths.
    pub frequency_penalty_millionths: i32,
    /// The grammar that the output follows.
    pub grammar: Option<ContentHash>,
    /// Added to the logits of some tokens, in millionths; in the order of the ids, no id twice.
    pub logit_bias_millionths: Vec<(u32, i32)>,
    /// Taken from the logit of every token that stands in the output, in millionths.
    pub presence_penalty_millionths: i32,
    /// Zero means that the most likely token is taken.
    pub temperature_millionths: u32,
    /// Only this many most likely tokens are looked at; zero means all.
    pub top_k: u32,
    /// Of those, only as many as have this share of the probability; a million means all.
    pub top_p_millionths: u32,
}

impl Default for Sampling {
    /// Draws from the model's own distribution.
    fn default() -> Self {
        Self {
            frequency_penalty_millionths: 0,
            grammar: None,
            logit_bias_millionths: Vec::new(),
            presence_penalty_millionths: 0,
            temperature_millionths: MILLION,
            top_k: 0,
            top_p_millionths: MILLION,
        }
    }
}

impl Sampling {
    /// Whether every figure is within its bounds.
    pub fn is_sound(&self) -> bool {
        let bias = &self.logit_bias_millionths;
        let penalties = [
            self.frequency_penalty_millionths,
            self.presence_penalty_millionths,
        ];
        let within = |value: i32| value.unsigned_abs() <= PENALTY_MILLIONTHS_MAX.unsigned_abs();
        self.temperature_millionths <= TEMPERATURE_MILLIONTHS_MAX
            && (1..=MILLION).contains(&self.top_p_millionths)
            && penalties.into_iter().all(within)
            && bias.len() <= BIASED_TOKENS_MAX
            && bias.iter().all(|(_, bias)| within(*bias))
            && bias.windows(2).all(|pair| pair[0].0 < pair[1].0)
    }
}

/// Everything that may change an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// What computes the logits.
    pub serving: Serving,
}

impl Serving {
    /// The name of what a provider serves a model with.
    pub fn hash(&self) -> ContentHash {
        canonical_hash(self)
    }
}

impl Spec {
    /// The spec's name.
    pub fn hash(&self) -> ContentHash {
        canonical_hash(self)
    }
}

fn canonical_hash(value: &impl Serialize) -> ContentHash {
    let json = serde_json::to_vec(value).expect("a struct with string keys is a JSON object");
    ContentHash::of(&json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            sampling: Sampling {
                logit_bias_millionths: vec![(3, -1), (5, 7)],
                grammar: Some(ContentHash([9; 32])),
                ..Sampling::default()
            },
            serving: Serving {
                adapter: None,
                backend: BackendClass::CpuAvx2,
                engine: "llama.cpp".to_owned(),
                flash_attention: false,
                kv_type: KvType::F16,
                micro_batch_tokens: 512,
                template: ContentHash([1; 32]),
                weights: ContentHash([2; 32]),
            },
        }
    }

    /// The same value with every object's keys sorted, as RFC 8785 asks.
    fn canonical(value: &serde_json::Value) -> String {
        match value {
            serde_json::Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(key, _)| *key);
                let entries: Vec<_> = entries
                    .into_iter()
                    .map(|(key, value)| format!("{key:?}:{}", canonical(value)))
                    .collect();
                format!("{{{}}}", entries.join(","))
            }
            serde_json::Value::Array(items) => {
                let items: Vec<_> = items.iter().map(canonical).collect();
                format!("[{}]", items.join(","))
            }
            other => other.to_string(),
        }
    }

    #[test]
    fn what_is_hashed_is_canonical() {
        let written = serde_json::to_string(&spec()).unwrap();
        let value = serde_json::from_str(&written).unwrap();
        assert_eq!(written, canonical(&value));
        assert_eq!(serde_json::from_str::<Spec>(&written).unwrap(), spec());
    }

    #[test]
    fn every_part_changes_the_name() {
        let hash = spec().hash();
        let mut other = spec();
        other.sampling.top_k = 1;
        assert_ne!(other.hash(), hash);
        let mut other = spec();
        other.serving.micro_batch_tokens = 64;
        assert_ne!(other.hash(), hash);
    }

    #[test]
    fn figures_beyond_their_bounds_are_unsound() {
        assert!(spec().sampling.is_sound());
        let unsound = |change: fn(&mut Sampling)| {
            let mut sampling = spec().sampling;
            change(&mut sampling);
            assert!(!sampling.is_sound(), "{sampling:?}");
        };
        unsound(|s| s.temperature_millionths = TEMPERATURE_MILLIONTHS_MAX + 1);
        unsound(|s| s.top_p_millionths = 0);
        unsound(|s| s.top_p_millionths = MILLION + 1);
        unsound(|s| s.presence_penalty_millionths = i32::MIN);
        unsound(|s| s.logit_bias_millionths = vec![(5, 0), (5, 1)]);
        unsound(|s| s.logit_bias_millionths = vec![(1, i32::MAX)]);
        unsound(|s| s.logit_bias_millionths = (0..301).map(|id| (id, 0)).collect());
    }
}
