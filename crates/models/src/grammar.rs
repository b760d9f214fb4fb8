//! What an answer must look like: a grammar that says which tokens may come next.
//!
//! Grammars come from strangers, so compiling one is bounded in text, nesting, steps and memory.
//! Bounds on steps are not bounds on all work, so it happens in a process of its own (`reader`).

use std::sync::Arc;

use hearth_calls::with_bounds;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use crate::sampling::Allowed;
use crate::vocabulary::Vocabulary;

mod checker;
mod endless;
mod finite;
mod front;
#[cfg(test)]
mod tests;

pub use checker::GrammarChecker;
use endless::{EndTokens, EndlessGuard};

/// The longest grammar, in bytes.
pub const GRAMMAR_BYTES_MAX: usize = 64 << 10;
/// How deep brackets of a grammar may stand in one another.
const NESTING_MAX: usize = 64;

/// A grammar as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GrammarSource {
    /// JSON that follows this JSON Schema.
    JsonSchema(String),
    /// A grammar in the Lark form of llguidance.
    Lark(String),
}

impl GrammarSource {
    fn text(&self) -> &str {
        match self {
            Self::JsonSchema(text) | Self::Lark(text) => text,
        }
    }

    /// Bounds on the text alone, before anything recursive reads it.
    pub(crate) fn check(&self) -> Result<(), GrammarError> {
        let text = self.text();
        if text.len() > GRAMMAR_BYTES_MAX {
            return Err(GrammarError::TooLong);
        }
        // Brackets in strings count too: what is refused for them alone is strange enough.
        let mut depth = 0usize;
        for byte in text.bytes() {
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > NESTING_MAX {
                return Err(GrammarError::TooDeep);
            }
        }
        Ok(())
    }
}

/// Why a grammar cannot be followed. Exhaustive, so that whoever tells it further decides on each cause.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum GrammarError {
    /// Its text is too long.
    #[error("the grammar has more than {GRAMMAR_BYTES_MAX} bytes")]
    TooLong,
    /// Its brackets stand too deep in one another.
    #[error("the grammar is nested more than {NESTING_MAX} deep")]
    TooDeep,
    /// It makes no sense, or takes too much to compile.
    #[error("the grammar cannot be compiled: {0}")]
    Refused(String),
    /// What was already answered does not follow it.
    #[error("what was already answered does not follow the grammar")]
    Answered,
    /// It takes too long.
    #[error("the grammar takes too long to follow: ask for a simpler one")]
    TooSlow,
    /// It takes too much memory, or broke what follows it.
    #[error("the grammar takes too much memory to follow: ask for a simpler one")]
    TooMuch,
    /// No grammar can be followed with this model.
    #[error(
        "no grammar can be followed with this model here: ask without one, or ask another model"
    )]
    Unavailable,
}

/// The tokens that may come next.
pub(crate) struct Mask(Vec<u32>);

impl Mask {
    /// Bit `v % 32` of word `v / 32` is set if token `v` is allowed.
    pub(crate) fn new(words: Vec<u32>) -> Self {
        Self(words)
    }

    pub(crate) fn allowed(&self) -> Allowed<'_> {
        Allowed { words: &self.0 }
    }
}

/// A grammar beside an answer, and how far the answer has come in it.
pub(crate) struct Grammar {
    matcher: Matcher,
    /// What keeps JSON from going on without end.
    endless: Option<(Box<EndlessGuard>, Arc<EndTokens>)>,
    vocabulary: Vocabulary,
}

impl Grammar {
    /// The tokens that may come next, an end token among them where the answer may end: bit
    /// `v % 32` of word `v / 32` is set if token `v` is allowed.
    pub(crate) fn allowed(&mut self) -> Result<Vec<u32>, GrammarError> {
        let mask = self.matcher.compute_mask_or_eos();
        let mut mask = mask.map_err(|error| refused(&error))?;
        if let Some((guard, tokens)) = &self.endless {
            guard.limit(&mut mask, tokens);
        }
        Ok(mask.as_slice().to_vec())
    }

    /// Goes on by one token, and says whether nothing may follow.
    pub(crate) fn accept(&mut self, id: u32) -> Result<bool, GrammarError> {
        let consumed = self.matcher.consume_token(id);
        consumed.map_err(|error| refused(&error))?;
        if let Some((guard, _)) = &mut self.endless {
            guard.accept(self.vocabulary.shown_bytes(id));
        }
        Ok(self.matcher.is_stopped())
    }
}

/// The longest reason that is told, in characters.
const REASON_CHARS_MAX: usize = 300;

fn refused(error: &impl std::fmt::Display) -> GrammarError {
    let reason = error.to_string().chars().take(REASON_CHARS_MAX).collect();
    GrammarError::Refused(reason)
}

/// Compiles grammars for one vocabulary, in a reader process.
pub(crate) struct GrammarCompiler {
    vocabulary: Vocabulary,
    factory: ParserFactory,
    end_tokens: Arc<EndTokens>,
}

impl GrammarCompiler {
    /// A compiler, which takes a moment to make.
    pub(crate) fn new(vocabulary: &Vocabulary) -> Result<Self, GrammarError> {
        Ok(Self {
            vocabulary: vocabulary.clone(),
            factory: factory(vocabulary)?,
            end_tokens: Arc::new(EndTokens::of(vocabulary)),
        })
    }

    /// Compiles a grammar, and goes on by what was already answered.
    pub(crate) fn compile(
        &self,
        source: &GrammarSource,
        answered: &[u32],
    ) -> Result<Grammar, GrammarError> {
        let (grammar, is_json) = top_level(source)?;
        let parser = llguidance::panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.factory.create_parser(grammar)
        }));
        let mut matcher = Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            return Err(refused(&error));
        }
        let consumed = matcher.try_consume_tokens(answered);
        if consumed.ok() != Some(answered.len()) {
            return Err(GrammarError::Answered);
        }
        let endless = is_json.then(|| {
            let mut guard = Box::<EndlessGuard>::default();
            for id in answered {
                guard.accept(self.vocabulary.shown_bytes(*id));
            }
            (guard, Arc::clone(&self.end_tokens))
        });
        Ok(Grammar {
            matcher,
            endless,
            vocabulary: self.vocabulary.clone(),
        })
    }
}

/// A grammar as llguidance takes it, and whether it is of JSON.
fn top_level(source: &GrammarSource) -> Result<(TopLevelGrammar, bool), GrammarError> {
    match source {
        GrammarSource::JsonSchema(text) => {
            let schema = serde_json::from_str(text).map_err(|error| refused(&error))?;
            front::check_schema(&schema)?;
            let grammar = TopLevelGrammar::from_json_schema(with_bounds(&schema));
            Ok((grammar, true))
        }
        GrammarSource::Lark(text) => {
            front::check_lark(text)?;
            let grammar = TopLevelGrammar::from_lark(text.clone());
            Ok((grammar, text.contains("%json")))
        }
    }
}

fn factory(vocabulary: &Vocabulary) -> Result<ParserFactory, GrammarError> {
    factory_of(&token_environment(vocabulary))
}

fn factory_of(environment: &TokEnv) -> Result<ParserFactory, GrammarError> {
    let slices = llguidance::earley::SlicedBiasComputer::general_slices();
    let caps = InferenceCapabilities::default();
    let factory = ParserFactory::new(environment, caps, &slices);
    let mut factory = factory.map_err(|error| refused(&error))?;
    factory.quiet();
    *factory.limits_mut() = limits();
    Ok(factory)
}

fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 1_000,
        initial_lexer_fuel: 500_000,
        step_lexer_fuel: 100_000,
        step_max_items: 30_000,
        // Each takes about 2 kB.
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// The vocabulary as llguidance wants it: control tokens are marked, so that no text matches them.
fn token_environment(vocabulary: &Vocabulary) -> TokEnv {
    let count = u32::try_from(vocabulary.len()).unwrap_or(u32::MAX);
    let ends: Vec<u32> = (0..count)
        .filter(|id| vocabulary.is_end_of_text(*id))
        .collect();
    let words: Vec<Vec<u8>> = (0..count)
        .map(|id| {
            let bytes = vocabulary.bytes(id);
            if vocabulary.is_control(id) && !bytes.is_empty() {
                [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
            } else {
                bytes.to_vec()
            }
        })
        .collect();
    let special = vocabulary.special();
    let end = special.end_of_turn.or(special.end);
    let end = end.or(ends.first().copied()).unwrap_or(0);
    let info = TokRxInfo::new(count, end);
    let mut trie = TokTrie::from(&info, &words);
    if !ends.is_empty() {
        let others = ends.iter().copied().filter(|id| *id != end);
        let all: Vec<u32> = [end].into_iter().chain(others).collect();
        trie = trie.with_eos_tokens(&all);
    }
    Arc::new(ApproximateTokEnv::new(trie))
}
