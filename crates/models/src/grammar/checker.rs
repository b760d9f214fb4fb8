//! Whether a grammar compiles, for a vocabulary of single bytes, in this very process: for the fuzzer and for tests. A node
//! asks a process of its own (`crate::reader::SchemaChecker`).

use llguidance::{Matcher, ParserFactory};
use toktrie::ApproximateTokEnv;

use super::{GrammarError, GrammarSource, factory_of, refused, top_level};

/// Compiles grammars over single bytes.
pub struct GrammarChecker(Result<ParserFactory, GrammarError>);

impl std::fmt::Debug for GrammarChecker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarChecker").finish_non_exhaustive()
    }
}

impl GrammarChecker {
    /// A checker.
    pub fn of_bytes() -> Self {
        Self(factory_of(&ApproximateTokEnv::single_byte_env()))
    }

    /// Compiles a grammar, on the stack at hand.
    ///
    /// # Errors
    /// When it cannot be followed.
    pub fn check(&self, source: &GrammarSource) -> Result<(), GrammarError> {
        source.check()?;
        let factory = self.0.as_ref().map_err(Clone::clone)?;
        let (grammar, _) = top_level(source)?;
        let parser = llguidance::panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| {
            factory.create_parser(grammar)
        }));
        match Matcher::new(parser).get_error() {
            Some(error) => Err(refused(&error)),
            None => Ok(()),
        }
    }
}
