//! Whether a JSON Schema can be followed, for a device that does not run the model.
//!
//! A program's schema is checked where the program asks: it hears of a fault, with the reason, before
//! another device is asked, and a provider that calls a good schema bad is not believed. The tokens of a
//! model do not matter for that, so tokens are single bytes here.

use std::time::Duration;

use super::Launcher;
use super::grammars::{CompileError, Grammars};
use crate::asker::Asker;
use crate::grammar::{GrammarError, GrammarSource};
use crate::vocabulary::Vocabulary;

/// Checks schemas, in processes that may break. Clones share their processes.
#[derive(Debug, Clone)]
pub struct SchemaChecker(Grammars);

impl SchemaChecker {
    /// A checker whose processes `launcher` starts, once there is a schema to check.
    pub fn new(launcher: &Launcher) -> Self {
        Self(Grammars::new(launcher, &Vocabulary::of_bytes()))
    }

    /// Checks a JSON Schema, in this time. Dropping the future ends the work.
    ///
    /// # Errors
    /// When no engine could follow it; [`GrammarError::Unavailable`] when nobody had time to check it.
    pub async fn check(&self, schema: String, within: Duration) -> Result<(), GrammarError> {
        let source = GrammarSource::JsonSchema(schema);
        // What strangers send is checked by the engine that answers them.
        let asker = Asker::Household { name: 0 };
        match (self.0)
            .compile_within(within, asker, source, Vec::new(), || {})
            .await
        {
            Ok(_) => Ok(()),
            Err(CompileError::Grammar(error)) => Err(error),
            Err(CompileError::Busy) => Err(GrammarError::Unavailable),
        }
    }
}
