//! What answers questions of ids: an engine, or a script in its place.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use crate::engine::{EmbedError, Engine, EngineDescription, Generation, Job, Load, SubmitError};
use crate::reader::ASKING_MAX;

/// A future that is kept where its type cannot be named.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What answers questions of ids. The engine is one; a test that is about payment, the network or limits
/// takes a script ([`Script`]), which needs no model.
pub trait Generator: fmt::Debug + Send + Sync {
    /// What computes, and how.
    fn description(&self) -> &EngineDescription;

    /// How busy it is.
    fn load_now(&self) -> Load;

    /// Takes a job on.
    ///
    /// # Errors
    /// As those of [`Generator::submit_within`].
    fn submit(&self, job: Job) -> Boxed<'_, Result<Generation, SubmitError>> {
        self.submit_within(job, ASKING_MAX)
    }

    /// Takes a job on, for one who waits so long for a process that follows the grammar.
    ///
    /// # Errors
    /// When the job makes no sense, is too long, or too much waits already.
    fn submit_within(
        &self,
        job: Job,
        grammar_within: Duration,
    ) -> Boxed<'_, Result<Generation, SubmitError>>;

    /// The meaning of a text as a vector of length one.
    ///
    /// # Errors
    /// When the ids make no sense, too much waits already, or there is too little memory.
    fn embed(&self, ids: Vec<u32>) -> Boxed<'_, Result<Vec<f32>, EmbedError>>;
}

impl Generator for Engine {
    fn description(&self) -> &EngineDescription {
        Self::description(self)
    }

    fn load_now(&self) -> Load {
        Self::load_now(self)
    }

    fn submit_within(
        &self,
        job: Job,
        grammar_within: Duration,
    ) -> Boxed<'_, Result<Generation, SubmitError>> {
        Box::pin(Self::submit_within(self, job, grammar_within))
    }

    fn embed(&self, ids: Vec<u32>) -> Boxed<'_, Result<Vec<f32>, EmbedError>> {
        Box::pin(Self::embed(self, ids))
    }
}

mod script;

pub use script::Script;
