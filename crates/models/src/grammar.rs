//! What an answer must look like: a grammar that says which tokens may come next.
//!
//! Grammars come from strangers, so compiling one is bounded in text, nesting, steps and memory,
//! and happens on a thread of its own, so that no running answer waits for it.

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use thiserror::Error;
use tokio::sync::{Semaphore, oneshot};
use toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};

use crate::sampling::Allowed;
use crate::vocabulary::Vocabulary;

mod schema;
#[cfg(test)]
mod tests;

pub use schema::check_schema;

/// The longest grammar, in bytes.
pub const GRAMMAR_BYTES_MAX: usize = 64 << 10;
/// How deep brackets of a grammar may stand in one another.
const NESTING_MAX: usize = 64;
/// Grammars that are compiled at the same time.
const COMPILING_MAX: usize = 2;
/// The stack of a compiling thread, in bytes.
const STACK_BYTES: usize = 64 << 20;

/// A grammar as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
}

/// Why a grammar cannot be followed. Exhaustive, so that whoever tells it further decides on each cause.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
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
    /// No thread could be started for it, or the thread broke.
    #[error("the grammar could not be compiled here: try again")]
    Unavailable,
}

/// The tokens that may come next.
pub(crate) struct Mask(SimpleVob);

impl Mask {
    pub(crate) fn allowed(&self) -> Allowed<'_> {
        Allowed {
            words: self.0.as_slice(),
        }
    }
}

/// A grammar beside an answer, and how far the answer has come in it.
pub(crate) struct Grammar {
    matcher: Matcher,
}

impl Grammar {
    /// The tokens that may come next, an end token among them where the answer may end.
    pub(crate) fn allowed(&mut self) -> Result<Mask, GrammarError> {
        let mask = self.matcher.compute_mask_or_eos();
        mask.map(Mask).map_err(|error| refused(&error))
    }

    /// Goes on by one token, and says whether nothing may follow.
    pub(crate) fn accept(&mut self, id: u32) -> Result<bool, GrammarError> {
        let consumed = self.matcher.consume_token(id);
        consumed.map_err(|error| refused(&error))?;
        Ok(self.matcher.is_stopped())
    }
}

/// The longest reason that is told, in characters.
const REASON_CHARS_MAX: usize = 300;

fn refused(error: &impl std::fmt::Display) -> GrammarError {
    let reason = error.to_string().chars().take(REASON_CHARS_MAX).collect();
    GrammarError::Refused(reason)
}

/// Compiles grammars for one vocabulary.
#[derive(Clone)]
pub(crate) struct GrammarCompiler {
    vocabulary: Vocabulary,
    /// Made with the first grammar: it takes a moment, and most engines never need it.
    factory: Arc<std::sync::OnceLock<Result<ParserFactory, GrammarError>>>,
    compiling: Arc<Semaphore>,
}

impl std::fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarCompiler").finish_non_exhaustive()
    }
}

impl GrammarCompiler {
    pub(crate) fn new(vocabulary: &Vocabulary) -> Self {
        Self {
            vocabulary: vocabulary.clone(),
            factory: Arc::default(),
            compiling: Arc::new(Semaphore::new(COMPILING_MAX)),
        }
    }

    /// Compiles a grammar, and goes on by what was already answered.
    pub(crate) async fn compile(
        &self,
        source: GrammarSource,
        answered: Vec<u32>,
    ) -> Result<Grammar, GrammarError> {
        check(&source)?;
        let permit = self.compiling.clone().acquire_owned().await;
        let permit = permit.map_err(|_| GrammarError::Unavailable)?;
        let (done, compiled) = oneshot::channel();
        let compiler = self.clone();
        let thread = std::thread::Builder::new()
            .name("hearth-grammar".to_owned())
            .stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            let _permit = permit;
            let _ = done.send(compiler.compile_here(&source, &answered));
        });
        spawned.map_err(|_| GrammarError::Unavailable)?;
        compiled.await.map_err(|_| GrammarError::Unavailable)?
    }

    fn compile_here(
        &self,
        source: &GrammarSource,
        answered: &[u32],
    ) -> Result<Grammar, GrammarError> {
        let factory = self.factory.get_or_init(|| factory(&self.vocabulary));
        let factory = factory.as_ref().map_err(Clone::clone)?;
        let grammar = match source {
            GrammarSource::JsonSchema(text) => {
                let schema = serde_json::from_str(text).map_err(|error| refused(&error))?;
                TopLevelGrammar::from_json_schema(schema)
            }
            GrammarSource::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        };
        let parser = llguidance::panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| {
            factory.create_parser(grammar)
        }));
        let mut matcher = Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            return Err(refused(&error));
        }
        let consumed = matcher.try_consume_tokens(answered);
        if consumed.ok() != Some(answered.len()) {
            return Err(GrammarError::Answered);
        }
        Ok(Grammar { matcher })
    }
}

/// Bounds on the text alone, before anything recursive reads it.
fn check(source: &GrammarSource) -> Result<(), GrammarError> {
    let text = source.text();
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

fn factory(vocabulary: &Vocabulary) -> Result<ParserFactory, GrammarError> {
    let environment = token_environment(vocabulary);
    let slices = llguidance::earley::SlicedBiasComputer::general_slices();
    let caps = InferenceCapabilities::default();
    let factory = ParserFactory::new(&environment, caps, &slices);
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
