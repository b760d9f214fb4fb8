//! A model that this device runs, and what it tells others of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hearth_models::asker::Asker;
use hearth_models::engine::EngineDescription;
use hearth_models::generator::Generator;
use hearth_models::grammar::GrammarSource;
use hearth_models::reader::Prompts;
use hearth_models::sampling::{NoiseKey, Rule};
use hearth_protocol::answer::frame::TokenLogprobs;
use hearth_protocol::answer::{
    AnswerRequest, BackendClass, Grammar, KvType, Price, Sampling, Serving, StopReason,
};
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::{Audience, OfferedModel};

/// A model in memory, ready to answer.
#[derive(Debug, Clone)]
pub struct Served {
    /// What people call it.
    pub name: String,
    /// What computes.
    pub generator: Arc<dyn Generator>,
    /// What turns prompts into ids; nothing where that is done from the model's file.
    pub prompts: Option<Prompts>,
    /// The same, as specs name it.
    pub serving: Serving,
    /// The weights' file.
    pub path: PathBuf,
    /// Its size, in bytes.
    pub weights_bytes: u64,
    /// How many of them hold vocabulary and template.
    pub head_bytes: u64,
    /// Whom it answers.
    pub audience: Audience,
    /// What answers cost other households; nothing at all means that they are free.
    pub prices: Vec<Price>,
    /// How fast it is, as measured from the answers it gave.
    pub pace: Pace,
}

/// How fast a model is on this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speed {
    /// Output tokens per second of one answer alone.
    pub output_tokens_per_s: u32,
    /// Prompt tokens per second.
    pub prompt_tokens_per_s: u32,
}

/// The least that is measured: a few tokens say nothing.
const MEASURED_TOKENS_MIN: u32 = 16;

/// How fast a model is, measured as it answers. Clones share it.
#[derive(Debug, Clone)]
pub struct Pace(Arc<Mutex<Speed>>);

impl Pace {
    /// A pace that is taken to be `speed` until it is measured.
    pub fn new(speed: Speed) -> Self {
        Self(Arc::new(Mutex::new(speed)))
    }

    /// How fast it is, as far as is known.
    pub fn speed(&self) -> Speed {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A prompt was read and its first token chosen in `took_ms`.
    pub fn note_prompt(&self, prompt_tokens: u32, took_ms: u64) {
        let mut speed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        blend(&mut speed.prompt_tokens_per_s, prompt_tokens, took_ms);
    }

    /// So many tokens came one after the other in `took_ms`.
    pub fn note_output(&self, output_tokens: u32, took_ms: u64) {
        let mut speed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        blend(&mut speed.output_tokens_per_s, output_tokens, took_ms);
    }
}

/// Takes a measurement in: as much as what was known before, so that a device's load shows soon.
fn blend(known: &mut u32, tokens: u32, took_ms: u64) {
    if tokens < MEASURED_TOKENS_MIN || took_ms == 0 {
        return;
    }
    let seen = u64::from(tokens).saturating_mul(1_000) / took_ms;
    let mean = (u64::from(*known).saturating_add(seen) / 2).max(1);
    *known = u32::try_from(mean).unwrap_or(u32::MAX);
}

impl Served {
    /// The line of this model in an offer.
    pub fn offered(&self) -> OfferedModel {
        let speed = self.pace.speed();
        let load = self.generator.load_now();
        let busy = load.busy.saturating_add(load.waiting);
        let slots = u16::try_from(load.slots).unwrap_or(u16::MAX).max(1);
        let busy = u16::try_from(busy).unwrap_or(u16::MAX);
        OfferedModel {
            name: self.name.clone(),
            serving: self.serving.clone(),
            weights_bytes: self.weights_bytes,
            head_bytes: self.head_bytes,
            context_tokens: self.generator.description().context_tokens,
            audience: self.audience,
            prices: self.prices.clone(),
            slots,
            free_slots: slots.saturating_sub(busy),
            output_tokens_per_s: speed.output_tokens_per_s,
            prompt_tokens_per_s: speed.prompt_tokens_per_s,
        }
    }

    /// The engine's job for a request, which may go on until `allowance` tokens.
    pub fn job(
        &self,
        request: &AnswerRequest,
        asker: Asker,
        allowance: u32,
    ) -> hearth_models::engine::Job {
        hearth_models::engine::Job {
            ids: request.ids.clone(),
            output_position_first: request.answered_tokens,
            output_tokens_max: request.output_tokens_max,
            rule: rule(&request.sampling),
            noise_key: NoiseKey(request.noise_key()),
            grammar: request.grammar.as_ref().map(grammar),
            logprobs: request.logprobs,
            asker,
            allowance,
        }
    }
}

/// The number by which an engine knows a name of whoever asks.
pub(super) fn asker_number(name: &[u8]) -> u64 {
    let hash = ContentHash::of(name).0;
    let (first, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first)
}

/// What an engine serves a model with, as specs name it.
pub fn serving(engine: &EngineDescription, weights: ContentHash, template: ContentHash) -> Serving {
    Serving {
        adapter: None,
        backend: backend(engine.backend),
        engine: engine.engine.clone(),
        flash_attention: engine.flash_attention,
        kv_type: if engine.kv_type == "f16" {
            KvType::F16
        } else {
            KvType::Q8
        },
        micro_batch_tokens: engine.micro_batch_tokens,
        template,
        weights,
    }
}

fn backend(name: &str) -> BackendClass {
    match name {
        "cpu-avx512" => BackendClass::CpuAvx512,
        "cpu-neon" => BackendClass::CpuNeon,
        "cuda" => BackendClass::Cuda,
        "metal" => BackendClass::Metal,
        "vulkan" => BackendClass::Vulkan,
        _ => BackendClass::CpuAvx2,
    }
}

fn rule(sampling: &Sampling) -> Rule {
    Rule {
        frequency_penalty_millionths: sampling.frequency_penalty_millionths,
        logit_bias_millionths: sampling.logit_bias_millionths.clone(),
        presence_penalty_millionths: sampling.presence_penalty_millionths,
        temperature_millionths: sampling.temperature_millionths,
        top_k: sampling.top_k,
        top_p_millionths: sampling.top_p_millionths,
    }
}

fn grammar(grammar: &Grammar) -> GrammarSource {
    match grammar {
        Grammar::JsonSchema(text) => GrammarSource::JsonSchema(text.clone()),
        Grammar::Lark(text) => GrammarSource::Lark(text.clone()),
    }
}

/// A token's log-probabilities as they travel.
pub(super) fn logprobs(made: hearth_models::sampling::TokenLogprobs) -> TokenLogprobs {
    TokenLogprobs {
        chosen: made.chosen,
        top: made.top,
    }
}

/// Why an engine ended, as it is signed.
pub(super) fn stop_reason(reason: &hearth_models::engine::EndReason) -> StopReason {
    use hearth_models::engine::EndReason;
    match reason {
        EndReason::EndOfText => StopReason::EndOfText,
        EndReason::Length => StopReason::Length,
        EndReason::Grammar => StopReason::Grammar,
        EndReason::Cancelled => StopReason::Cancelled,
        _ => StopReason::Failed,
    }
}

/// Gathers what an engine has made until now into one frame's tokens.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    ids: Vec<u32>,
    logprobs: Vec<TokenLogprobs>,
}

impl Gathered {
    pub(super) fn push(&mut self, id: u32, made: Option<hearth_models::sampling::TokenLogprobs>) {
        self.ids.push(id);
        self.logprobs.extend(made.map(logprobs));
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The tokens and what goes with them; nothing if there are none.
    pub(super) fn take(&mut self) -> Option<(Vec<u32>, Vec<TokenLogprobs>)> {
        let ids = std::mem::take(&mut self.ids);
        let logprobs = std::mem::take(&mut self.logprobs);
        (!ids.is_empty()).then_some((ids, logprobs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_follows_what_is_measured_and_a_few_tokens_say_nothing() {
        let pace = Pace::new(Speed {
            output_tokens_per_s: 10,
            prompt_tokens_per_s: 50,
        });
        pace.note_output(MEASURED_TOKENS_MIN - 1, 1);
        pace.note_output(100, 0);
        assert_eq!(pace.speed().output_tokens_per_s, 10);
        for _ in 0..10 {
            pace.note_output(100, 1_000);
            pace.clone().note_prompt(1_000, 2_000);
        }
        let speed = pace.speed();
        assert!((95..=100).contains(&speed.output_tokens_per_s), "{speed:?}");
        assert!(
            (490..=500).contains(&speed.prompt_tokens_per_s),
            "{speed:?}"
        );
        for _ in 0..40 {
            pace.note_output(16, u64::MAX);
        }
        assert_eq!(pace.speed().output_tokens_per_s, 1, "never nothing");
    }
}
