//! What a payer asks of a provider (spec: answers, section 4).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::spec::Sampling;
use crate::content::ContentHash;

/// The most tokens of a prompt, with what was already answered.
pub const PROMPT_TOKENS_MAX: usize = 131_072;
/// The most tokens of an answer.
pub const OUTPUT_TOKENS_MAX: u32 = 65_536;
/// The longest grammar, in bytes.
pub const GRAMMAR_BYTES_MAX: usize = 64 << 10;
/// The most alternatives whose log-probabilities are told.
pub const LOGPROBS_MAX: u8 = 20;

/// An answer's name: 128 random bits, drawn by the payer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AnswerId(pub [u8; 16]);

impl fmt::Display for AnswerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&alloy_primitives::hex::encode(self.0))
    }
}

/// A text that is not an answer's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an answer's name has 32 hexadecimal digits")]
pub struct NotAnAnswerId;

impl FromStr for AnswerId {
    type Err = NotAnAnswerId;

    fn from_str(text: &str) -> Result<Self, NotAnAnswerId> {
        let mut id = [0; 16];
        alloy_primitives::hex::decode_to_slice(text, &mut id).map_err(|_| NotAnAnswerId)?;
        Ok(Self(id))
    }
}

/// What the output must look like.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Grammar {
    /// JSON that follows this JSON Schema.
    JsonSchema(String),
    /// A grammar in the Lark form of llguidance.
    Lark(String),
}

impl Grammar {
    /// The grammar's text.
    pub fn text(&self) -> &str {
        match self {
            Self::JsonSchema(text) | Self::Lark(text) => text,
        }
    }

    /// The grammar's name: BLAKE3 over its kind, a zero byte and its text.
    pub fn hash(&self) -> ContentHash {
        let kind: &[u8] = match self {
            Self::JsonSchema(_) => b"json_schema",
            Self::Lark(_) => b"lark",
        };
        ContentHash::of(&[kind, &[0], self.text().as_bytes()].concat())
    }
}

/// A question, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRequest {
    /// The answer's name.
    pub id: AnswerId,
    /// The spec that the provider is expected to answer with.
    pub spec: ContentHash,
    /// The spec of the provider that began the answer: part of what the noise is drawn from, so that
    /// another provider goes on with the same noise.
    pub noise_spec: ContentHash,
    /// The weights that answer.
    pub weights: ContentHash,
    /// The rendered prompt, then what was already answered.
    pub ids: Vec<u32>,
    /// How many of `ids` are already answered: the position of the first token that is asked for.
    pub answered_tokens: u32,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// What the output must look like.
    pub grammar: Option<Grammar>,
    /// The most tokens that are asked for, beyond those already answered.
    pub output_tokens_max: u32,
    /// 32 random bytes, drawn by the payer.
    pub seed: [u8; 32],
    /// How many alternatives to tell the log-probabilities of, with that of the token chosen;
    /// nothing means none at all.
    pub logprobs: Option<u8>,
}

/// Why a question makes no sense. Exhaustive, so that code that passes it on decides on each cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RequestError {
    /// No prompt.
    #[error("the prompt is empty")]
    Empty,
    /// Too many ids.
    #[error("the prompt has more than {PROMPT_TOKENS_MAX} tokens")]
    PromptTooLong,
    /// Nothing asked for, or too much.
    #[error("an answer has 1 to {OUTPUT_TOKENS_MAX} tokens")]
    OutputLength,
    /// More answered than there is.
    #[error("more tokens are said to be answered than there are")]
    Answered,
    /// A figure of the sampling rule is beyond its bounds.
    #[error("the sampling rule has a figure beyond its bounds")]
    Sampling,
    /// The grammar is missing, is another one, or is too long.
    #[error("the grammar is not the one that the sampling rule names, or it is too long")]
    Grammar,
    /// Too many alternatives.
    #[error("log-probabilities of at most {LOGPROBS_MAX} alternatives are told")]
    Logprobs,
}

/// The part of a question that is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RequestField {
    /// The ids that are continued.
    Prompt,
    /// What the output must look like.
    Grammar,
    /// How the next token is chosen.
    Sampling,
    /// How many tokens are asked for.
    OutputTokens,
    /// How many alternatives are told.
    Logprobs,
}

impl RequestError {
    /// The part of the question that is at fault.
    pub fn field(&self) -> RequestField {
        match self {
            Self::Empty | Self::PromptTooLong | Self::Answered => RequestField::Prompt,
            Self::OutputLength => RequestField::OutputTokens,
            Self::Sampling => RequestField::Sampling,
            Self::Grammar => RequestField::Grammar,
            Self::Logprobs => RequestField::Logprobs,
        }
    }
}

impl AnswerRequest {
    /// Checks everything that can be checked without the model.
    ///
    /// # Errors
    /// The first thing that makes no sense.
    pub fn check(&self) -> Result<(), RequestError> {
        let answered = self.answered_tokens as usize;
        if self.ids.is_empty() || answered == self.ids.len() {
            return Err(RequestError::Empty);
        }
        if self.ids.len() > PROMPT_TOKENS_MAX {
            return Err(RequestError::PromptTooLong);
        }
        if answered > self.ids.len() {
            return Err(RequestError::Answered);
        }
        if !(1..=OUTPUT_TOKENS_MAX).contains(&self.output_tokens_max) {
            return Err(RequestError::OutputLength);
        }
        if !self.sampling.is_sound() {
            return Err(RequestError::Sampling);
        }
        let named = self.grammar.as_ref().map(Grammar::hash);
        let short = self
            .grammar
            .as_ref()
            .is_none_or(|grammar| grammar.text().len() <= GRAMMAR_BYTES_MAX);
        if named != self.sampling.grammar || !short {
            return Err(RequestError::Grammar);
        }
        if self.logprobs.is_some_and(|count| count > LOGPROBS_MAX) {
            return Err(RequestError::Logprobs);
        }
        Ok(())
    }

    /// The prompt, without what was already answered.
    pub fn prompt(&self) -> &[u32] {
        let answered = (self.answered_tokens as usize).min(self.ids.len());
        &self.ids[..self.ids.len() - answered]
    }

    /// What was already answered.
    pub fn answered(&self) -> &[u32] {
        &self.ids[self.prompt().len()..]
    }

    /// The key of the noise: BLAKE3's key derivation with the context "hearth answer seed" over
    /// the seed, the hash of the prompt's ids and the hash of the noise's spec.
    ///
    /// The answer's name is not part of it, so that the same seed and question give the same answer.
    pub fn noise_key(&self) -> [u8; 32] {
        let prompt = ContentHash::of_ids(self.prompt());
        let mut hasher = blake3::Hasher::new_derive_key("hearth answer seed");
        hasher
            .update(&self.seed)
            .update(&prompt.0)
            .update(&self.noise_spec.0);
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> AnswerRequest {
        AnswerRequest {
            id: AnswerId([7; 16]),
            spec: ContentHash([1; 32]),
            noise_spec: ContentHash([1; 32]),
            weights: ContentHash([2; 32]),
            ids: vec![1, 2, 3],
            answered_tokens: 0,
            sampling: Sampling::default(),
            grammar: None,
            output_tokens_max: 10,
            seed: [3; 32],
            logprobs: None,
        }
    }

    #[test]
    fn another_provider_goes_on_with_the_same_noise() {
        let first = request();
        let mut next = first.clone();
        next.spec = ContentHash([9; 32]);
        next.ids.extend([4, 5]);
        next.answered_tokens = 2;
        assert_eq!(next.check(), Ok(()));
        assert_eq!(next.prompt(), first.ids);
        assert_eq!(next.answered(), [4, 5]);
        assert_eq!(next.noise_key(), first.noise_key());
        next.seed[0] ^= 1;
        assert_ne!(next.noise_key(), first.noise_key());
    }

    #[test]
    fn a_name_is_read_as_it_is_written() {
        let id = request().id;
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "07", "zz", &"7".repeat(33), &"g".repeat(32)] {
            assert_eq!(text.parse::<AnswerId>(), Err(NotAnAnswerId), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |change: fn(&mut AnswerRequest)| {
            let mut request = request();
            change(&mut request);
            request.check().unwrap_err()
        };
        assert_eq!(check(|r| r.ids.clear()), RequestError::Empty);
        assert_eq!(check(|r| r.answered_tokens = 3), RequestError::Empty);
        assert_eq!(check(|r| r.answered_tokens = 4), RequestError::Answered);
        let long = |r: &mut AnswerRequest| r.ids = vec![0; PROMPT_TOKENS_MAX + 1];
        assert_eq!(check(long), RequestError::PromptTooLong);
        assert_eq!(
            check(|r| r.output_tokens_max = 0),
            RequestError::OutputLength
        );
        assert_eq!(
            check(|r| r.output_tokens_max = u32::MAX),
            RequestError::OutputLength
        );
        assert_eq!(
            check(|r| r.sampling.top_p_millionths = 0),
            RequestError::Sampling
        );
        assert_eq!(check(|r| r.logprobs = Some(21)), RequestError::Logprobs);
        let unnamed =
            |r: &mut AnswerRequest| r.grammar = Some(Grammar::Lark("start: \"x\"".into()));
        assert_eq!(check(unnamed), RequestError::Grammar);
        let other = |r: &mut AnswerRequest| r.sampling.grammar = Some(ContentHash([0; 32]));
        assert_eq!(check(other), RequestError::Grammar);
        let long = |r: &mut AnswerRequest| {
            let grammar = Grammar::JsonSchema(" ".repeat(GRAMMAR_BYTES_MAX + 1));
            r.sampling.grammar = Some(grammar.hash());
            r.grammar = Some(grammar);
        };
        assert_eq!(check(long), RequestError::Grammar);
    }

    #[test]
    fn the_kind_of_a_grammar_is_part_of_its_name() {
        let text = "{}".to_owned();
        let (schema, lark) = (Grammar::JsonSchema(text.clone()), Grammar::Lark(text));
        assert_ne!(schema.hash(), lark.hash());
    }
}
