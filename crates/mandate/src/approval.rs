//! What the owner is asked to approve, and says yes or no to.
//!
//! An answer names what it was given about by a hash of everything that was shown. So nobody can say yes to one call and have
//! another one made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::tool::{Deed, ToolName};

/// The most approvals that are open at once.
pub const APPROVALS_MAX: usize = 64;
/// The most calls of one approval.
pub const APPROVAL_CALLS_MAX: usize = 32;
/// What separates the hash of an approval from all others.
const APPROVAL_CONTEXT: &str = "hearth agent approval 1";

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

/// The hash of all that an approval shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ApprovalHash(pub [u8; 32]);

/// Calls that happen together, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The conversation in which they were wanted.
    pub chat: String,
    /// The calls, in their order.
    pub calls: Vec<AskedCall>,
    /// When it is too late for an answer, in milliseconds since 1970.
    pub until_ms: u64,
}

impl Approval {
    /// The hash of everything that it shows and means.
    #[must_use]
    pub fn hash(&self) -> ApprovalHash {
        let mut hasher = blake3::Hasher::new_derive_key(APPROVAL_CONTEXT);
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
        ApprovalHash(*hasher.finalize().as_bytes())
    }
}

/// Why no approval is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AskError {
    /// Too many are open.
    #[error("{APPROVALS_MAX} approvals wait for an answer already")]
    Full,
    /// It has no calls, or too many.
    #[error("an approval is about 1 to {APPROVAL_CALLS_MAX} calls")]
    Calls,
}

/// Why an answer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Nothing of that number is asked.
    #[error("there is no such approval, or it was answered")]
    NoApproval,
    /// It was too late.
    #[error("the request has lapsed: have the agent ask again")]
    Lapsed,
    /// Another approval is meant.
    #[error("the answer is to something else than what was shown")]
    Other,
}

/// Approvals that wait.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approvals {
    open: BTreeMap<u64, Approval>,
    asked: u64,
}

impl Approvals {
    /// Asks for an approval, and returns its number. Approvals that have lapsed make room.
    ///
    /// # Errors
    /// When too many are open, or it is about nothing, or too much.
    pub fn ask(&mut self, approval: Approval, now_ms: u64) -> Result<u64, AskError> {
        if !(1..=APPROVAL_CALLS_MAX).contains(&approval.calls.len()) {
            return Err(AskError::Calls);
        }
        if self.open.len() >= APPROVALS_MAX {
            self.open.retain(|_, one| one.until_ms > now_ms);
        }
        if self.open.len() >= APPROVALS_MAX {
            return Err(AskError::Full);
        }
        self.asked += 1;
        self.open.insert(self.asked, approval);
        Ok(self.asked)
    }

    /// The approvals that wait, by their numbers.
    pub fn open(&self, now_ms: u64) -> impl Iterator<Item = (u64, &Approval)> {
        let open = self.open.iter().map(|(number, one)| (*number, one));
        open.filter(move |(_, one)| one.until_ms > now_ms)
    }

    /// Takes the owner's answer; each approval is answered once. Returns the calls that happen now, which are none after a no.
    ///
    /// # Errors
    /// When nothing is asked, it is too late, or `hash` is of another approval.
    pub fn answer(
        &mut self,
        number: u64,
        hash: ApprovalHash,
        is_yes: bool,
        now_ms: u64,
    ) -> Result<Vec<AskedCall>, AnswerError> {
        let approval = self.open.get(&number).ok_or(AnswerError::NoApproval)?;
        if approval.until_ms <= now_ms {
            self.open.remove(&number);
            return Err(AnswerError::Lapsed);
        }
        if approval.hash() != hash {
            return Err(AnswerError::Other);
        }
        let calls = self.open.remove(&number).map(|approval| approval.calls);
        Ok(calls.filter(|_| is_yes).unwrap_or_default())
    }
}
