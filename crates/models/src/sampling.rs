//! How the next token is chosen: seeded Gumbel-max (spec: answers, section 3).
//!
//! Drawing from `softmax(l / T)` and taking the highest `l + T g`, with `g` from the Gumbel
//! distribution, are the same. The second needs randomness that depends on nothing but a key, the
//! position in the answer and the token's id, so the same question draws the same noise in any
//! batch, on any machine, and after a change of provider.
//!
//! ```text
//! l_v = f32(raw_v + bias_v - presence [n_v > 0] - frequency n_v)   n_v: times v stands in the output;
//!       minus infinity where the grammar forbids v, and where raw_v is not a number
//! S   = the top_k ids of the highest l (0: all), of those, in the order of l, each before which
//!       the ids kept so far hold less than top_p of softmax(l / T) over the ids that top_k left
//! x   = word v of the ChaCha8 key stream of position t (see `noise`)
//! g_v = -ln(-ln((x + 1/2) / 2^32))
//! y   = argmax over S of (l_v + T g_v);  T = 0: argmax of l
//! ```
//!
//! Wherever two ids are equal, the lower id goes first. Scores are computed in `f64`.
//!
//! A vocabulary has 10^5 ids, and two logarithms for each would cost more than a small model's
//! whole step, so ids that cannot win are ruled out without any logarithm. The tests compare with
//! the definition above, written down without such care.
//!
//! What is not here: the logits' making (`engine`) and the grammar (`grammar`).

use std::collections::BTreeMap;

use thiserror::Error;

mod exponential;
mod likelihood;
pub(crate) mod noise;
mod selection;
#[cfg(test)]
mod tests;

pub use likelihood::{TokenLogprobs, logprobs};
pub use noise::NoiseKey;

use selection::Candidates;

/// One in the unit of the fractions of a [`Rule`].
pub const MILLION: u32 = 1_000_000;
/// The highest temperature that is sampled at, in millionths.
pub const TEMPERATURE_MILLIONTHS_MAX: u32 = 2 * MILLION;
/// The largest penalty, and the largest bias, in millionths of a logit.
pub const PENALTY_MILLIONTHS_MAX: i32 = 100_000_000;
/// The most tokens that may have a bias of their own.
pub const BIASED_TOKENS_MAX: usize = 300;

/// How the next token is chosen from the logits, in whole numbers, so that two devices that were
/// told the same rule follow the same rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Taken from a token's logit for each time that it stands in the output, in millionths.
    pub frequency_penalty_millionths: i32,
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

impl Default for Rule {
    /// Draws from the model's own distribution.
    fn default() -> Self {
        Self {
            frequency_penalty_millionths: 0,
            logit_bias_millionths: Vec::new(),
            presence_penalty_millionths: 0,
            temperature_millionths: MILLION,
            top_k: 0,
            top_p_millionths: MILLION,
        }
    }
}

/// A rule has a figure that no device follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a figure of the sampling rule is beyond its bounds")]
pub struct UnsoundRule;

impl Rule {
    /// Checks every figure against its bounds.
    ///
    /// # Errors
    /// When a figure is beyond its bounds, or the biases are not in the order of their ids.
    pub fn check(&self) -> Result<(), UnsoundRule> {
        let bias = &self.logit_bias_millionths;
        let within = |value: i32| value.unsigned_abs() <= PENALTY_MILLIONTHS_MAX.unsigned_abs();
        let sound = self.temperature_millionths <= TEMPERATURE_MILLIONTHS_MAX
            && (1..=MILLION).contains(&self.top_p_millionths)
            && within(self.frequency_penalty_millionths)
            && within(self.presence_penalty_millionths)
            && bias.len() <= BIASED_TOKENS_MAX
            && bias.iter().all(|(_, bias)| within(*bias))
            && bias.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if sound { Ok(()) } else { Err(UnsoundRule) }
    }

    /// The temperature in logits.
    fn temperature(&self) -> f64 {
        fraction(i64::from(self.temperature_millionths))
    }

    fn changes_logits(&self) -> bool {
        self.frequency_penalty_millionths != 0
            || self.presence_penalty_millionths != 0
            || !self.logit_bias_millionths.is_empty()
    }
}

/// Millionths as a number.
fn fraction(millionths: i64) -> f64 {
    millionths as f64 / f64::from(MILLION)
}

/// The tokens that a grammar allows next, one bit each.
#[derive(Debug, Clone, Copy)]
pub struct Allowed<'a> {
    /// Bit `v % 32` of word `v / 32` is set if token `v` is allowed.
    pub words: &'a [u32],
}

impl Allowed<'_> {
    /// Whether a token is allowed.
    pub fn contains(&self, id: u32) -> bool {
        let word = self.words.get(id as usize / 32).copied().unwrap_or(0);
        word >> (id % 32) & 1 == 1
    }
}

/// Chooses the tokens of one answer.
#[derive(Debug)]
pub struct Sampler {
    rule: Rule,
    key: NoiseKey,
    /// How often each token stands in the output; empty unless the rule has a penalty.
    counts: BTreeMap<u32, u32>,
    candidates: Candidates,
    scratch: Vec<f32>,
}

impl Sampler {
    /// A sampler at the beginning of an answer.
    ///
    /// # Errors
    /// When the rule is unsound.
    pub fn new(rule: Rule, key: NoiseKey) -> Result<Self, UnsoundRule> {
        rule.check()?;
        Ok(Self {
            rule,
            key,
            counts: BTreeMap::new(),
            candidates: Candidates::default(),
            scratch: Vec::new(),
        })
    }

    /// Says that a token stands in the output: one that [`Self::choose`] gave, or one that was
    /// answered before by others.
    pub fn accept(&mut self, id: u32) {
        let rule = &self.rule;
        if rule.frequency_penalty_millionths != 0 || rule.presence_penalty_millionths != 0 {
            let count = self.counts.entry(id).or_insert(0);
            *count = count.saturating_add(1);
        }
    }

    /// The token at `position` of the answer, counted from zero.
    ///
    /// `logits` has one number for each token of the vocabulary. Gives nothing when no token is
    /// allowed, or none has a logit.
    pub fn choose(
        &mut self,
        position: u64,
        logits: &[f32],
        allowed: Option<Allowed<'_>>,
    ) -> Option<u32> {
        if allowed.is_none() && !self.rule.changes_logits() {
            return self.draw(position, logits);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(logits);
        self.penalise(&mut scratch);
        if let Some(allowed) = allowed {
            forbid(&mut scratch, allowed);
        }
        let chosen = self.draw(position, &scratch);
        self.scratch = scratch;
        chosen
    }

    fn penalise(&self, logits: &mut [f32]) {
        let presence = fraction(i64::from(self.rule.presence_penalty_millionths));
        let frequency = fraction(i64::from(self.rule.frequency_penalty_millionths));
        let bias: BTreeMap<u32, f64> = (self.rule.logit_bias_millionths.iter())
            .map(|(id, bias)| (*id, fraction(i64::from(*bias))))
            .collect();
        let penalty = |count: u32| presence + frequency * f64::from(count);
        let biased = bias.iter().map(|(id, bias)| {
            let count = self.counts.get(id);
            (*id, bias - count.map_or(0.0, |count| penalty(*count)))
        });
        let penalised = (self.counts.iter())
            .filter(|(id, _)| !bias.contains_key(id))
            .map(|(id, count)| (*id, -penalty(*count)));
        for (id, change) in biased.chain(penalised) {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = (f64::from(*logit) + change) as f32;
            }
        }
    }

    fn draw(&mut self, position: u64, logits: &[f32]) -> Option<u32> {
        let best = selection::argmax(logits)?;
        let temperature = self.rule.temperature();
        let top_k = self.rule.top_k as usize;
        if temperature == 0.0 || top_k == 1 {
            return Some(best);
        }
        let limited = top_k != 0 && top_k < logits.len();
        let whole = self.rule.top_p_millionths == MILLION;
        if limited {
            self.candidates.take_top(logits, top_k);
        }
        if !whole {
            let top_p = fraction(i64::from(self.rule.top_p_millionths));
            if limited {
                self.candidates.keep_nucleus(temperature, top_p);
            } else {
                self.candidates.take_nucleus(logits, temperature, top_p);
            }
        }
        if limited || !whole {
            let ids = self.candidates.ids();
            return Some(noise::highest_of(
                ids,
                logits,
                temperature,
                self.key,
                position,
            ));
        }
        Some(noise::highest(
            best,
            logits,
            temperature,
            self.key,
            position,
        ))
    }
}

fn forbid(logits: &mut [f32], allowed: Allowed<'_>) {
    for (index, chunk) in logits.chunks_mut(32).enumerate() {
        let word = allowed.words.get(index).copied().unwrap_or(0);
        if word == u32::MAX {
            continue;
        }
        for (bit, logit) in chunk.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}
