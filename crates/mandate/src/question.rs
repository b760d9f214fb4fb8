//! What the owner is asked, and says yes or no to.
//!
//! An answer names what it was given about by a hash of everything that was shown. So nobody can say yes to one call and have
//! another one made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::tool::{Deed, ToolName};

/// The most questions that are open at once.
pub const QUESTIONS_MAX: usize = 64;
/// The most calls of one question.
pub const QUESTION_CALLS_MAX: usize = 32;
/// What separates the hash of a question from all others.
const QUESTION_CONTEXT: &str = "hearth agent question 1";

/// A call that the owner is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedCall {
    /// The tool.
    pub tool: ToolName,
    /// What the call does.
    pub deed: Deed,
    /// What it is called with, to the letter.
    pub arguments: Value,
    /// Why the owner is asked, for people to read.
    pub reasons: Vec<String>,
    /// Where parts of the arguments came from: a JSON Pointer, and the sources.
    pub origins: Vec<(String, String)>,
}

/// The hash of all that a question shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QuestionHash(pub [u8; 32]);

/// Calls that happen together, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The conversation in which they were wanted.
    pub chat: String,
    /// The calls, in their order.
    pub calls: Vec<AskedCall>,
    /// When it is too late for an answer, in milliseconds since 1970.
    pub until_ms: u64,
}

impl Question {
    /// The hash of everything that it shows and means.
    #[must_use]
    pub fn hash(&self) -> QuestionHash {
        let mut hasher = blake3::Hasher::new_derive_key(QUESTION_CONTEXT);
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(self.chat.as_bytes());
        add(&self.until_ms.to_le_bytes());
        for call in &self.calls {
            let shown = serde_json::to_string(call).unwrap_or_default();
            add(shown.as_bytes());
        }
        QuestionHash(*hasher.finalize().as_bytes())
    }
}

/// Why a question is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AskError {
    /// Too many are open.
    #[error("{QUESTIONS_MAX} questions wait for an answer already")]
    Full,
    /// It has no calls, or too many.
    #[error("a question is about 1 to {QUESTION_CALLS_MAX} calls")]
    Calls,
}

/// Why an answer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Nothing of that number is asked.
    #[error("there is no such question, or it was answered")]
    NoQuestion,
    /// It was too late.
    #[error("the question has lapsed: have the agent ask again")]
    Lapsed,
    /// Another question is meant.
    #[error("the question shows something else than what was answered")]
    Other,
}

/// Questions that wait.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Questions {
    open: BTreeMap<u64, Question>,
    asked: u64,
}

impl Questions {
    /// Asks, and returns the question's number. Questions that have lapsed make room.
    ///
    /// # Errors
    /// When too many are open, or it is about nothing, or too much.
    pub fn ask(&mut self, question: Question, now_ms: u64) -> Result<u64, AskError> {
        if !(1..=QUESTION_CALLS_MAX).contains(&question.calls.len()) {
            return Err(AskError::Calls);
        }
        if self.open.len() >= QUESTIONS_MAX {
            self.open.retain(|_, one| one.until_ms > now_ms);
        }
        if self.open.len() >= QUESTIONS_MAX {
            return Err(AskError::Full);
        }
        self.asked += 1;
        self.open.insert(self.asked, question);
        Ok(self.asked)
    }

    /// The questions that wait, by their numbers.
    pub fn open(&self, now_ms: u64) -> impl Iterator<Item = (u64, &Question)> {
        let open = self.open.iter().map(|(number, one)| (*number, one));
        open.filter(move |(_, one)| one.until_ms > now_ms)
    }

    /// Takes the owner's answer; each question is answered once. Returns the calls that happen now, which are none after a no.
    ///
    /// # Errors
    /// When nothing is asked, it is too late, or `hash` is of another question.
    pub fn answer(
        &mut self,
        number: u64,
        hash: QuestionHash,
        is_yes: bool,
        now_ms: u64,
    ) -> Result<Vec<AskedCall>, AnswerError> {
        let question = self.open.get(&number).ok_or(AnswerError::NoQuestion)?;
        if question.until_ms <= now_ms {
            self.open.remove(&number);
            return Err(AnswerError::Lapsed);
        }
        if question.hash() != hash {
            return Err(AnswerError::Other);
        }
        let calls = self.open.remove(&number).map(|question| question.calls);
        Ok(calls.filter(|_| is_yes).unwrap_or_default())
    }
}
