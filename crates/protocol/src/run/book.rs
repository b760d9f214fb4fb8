//! The book of a round: who contributed what, and what audits found (spec: runs, section 4).
//!
//! The chain keeps its name, and a book names the one before it. So everybody who has the books of a run knows who took
//! part, whose work was replayed, and what each has earned. After the last round come books of audits alone.

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::message::{AuditOutcome, Work};
use crate::content::ContentHash;
use crate::offer::DeviceId;

/// The most trainers of a round.
pub const MEMBERS_MAX: usize = 256;
/// The most audits that a book reports.
pub const AUDITS_MAX: usize = 256;
/// The most auditors of an audit: the seats of a run.
pub const AUDITORS_MAX: usize = 16;
/// The longest book, in bytes.
pub const BOOK_BYTES_MAX: usize = 512 << 10;

/// The form of a book, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BookForm {
    /// This one.
    #[serde(rename = "hearth-book/1")]
    V1,
}

/// What came of a round. Fields are in the order of their names, so that its JSON is canonical.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoundBook {
    /// Audits of earlier rounds that were decided, by round and trainer.
    pub audits: Vec<Audit>,
    /// What the trainers' windows were drawn by.
    pub beacon: B256,
    /// The form.
    pub format: BookForm,
    /// Rounds that were recorded before.
    pub index: u64,
    /// Those whose contributions were admitted, by trainer.
    pub members: Vec<Member>,
    /// The state that the chain recorded before: hash of the weights, or name of a book of audits.
    pub parent: B256,
    /// Name of the book before; nothing in the first.
    pub previous: Option<ContentHash>,
    /// The run.
    pub run: B256,
}

/// A trainer whose contribution was admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Member {
    /// The account that earns.
    pub account: Address,
    /// The device.
    pub trainer: DeviceId,
    /// What it did.
    pub work: Work,
}

/// An audit that was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Audit {
    /// The accounts of the validators whose replays decided it, in ascending order.
    pub auditors: Vec<Address>,
    /// The round in which the work was admitted: rounds that were recorded before it.
    pub index: u64,
    /// What they found.
    pub outcome: AuditOutcome,
    /// Who did the work.
    pub trainer: DeviceId,
}

/// Why bytes are not a book.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BookError {
    /// Longer than any book.
    #[error("a book has at most {BOOK_BYTES_MAX} bytes, and not {0}")]
    Length(usize),
    /// Not JSON of this form.
    #[error("the book cannot be read")]
    Json(#[source] serde_json::Error),
    /// The same could be written in other bytes.
    #[error("the book is not in its canonical form")]
    NotCanonical,
    /// More than there can be.
    #[error("a book has at most {most} {what}, and not {found}")]
    Count {
        /// Of what.
        what: &'static str,
        /// The most.
        most: usize,
        /// How many there are.
        found: usize,
    },
    /// Out of order, or one of them twice.
    #[error("the {0} of the book are out of order")]
    Order(&'static str),
    /// An audit is of this round or a later one.
    #[error("the book of round {index} reports an audit of round {audited}")]
    Early {
        /// The book's round.
        index: u64,
        /// The audit's round.
        audited: u64,
    },
}

impl RoundBook {
    /// The bytes that the chain names.
    ///
    /// # Panics
    /// Never: every field has a form in JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a book has only numbers, texts and lists")
    }

    /// The name of the book, which is the `contributions` of its record.
    #[must_use]
    pub fn name(&self) -> ContentHash {
        ContentHash::of(&self.to_bytes())
    }

    /// The state that a book of audits leads to: its own name, since it changes no weights and the chain takes one record
    /// of each state. Nothing where there are members: those lead to other weights.
    #[must_use]
    pub fn own_state(&self) -> Option<B256> {
        self.members.is_empty().then(|| self.name().0.into())
    }

    /// Reads a book.
    ///
    /// # Errors
    /// Where the bytes are not the one form of a book, or it has too much or the same twice.
    pub fn read(bytes: &[u8]) -> Result<Self, BookError> {
        if bytes.len() > BOOK_BYTES_MAX {
            return Err(BookError::Length(bytes.len()));
        }
        let book: Self = serde_json::from_slice(bytes).map_err(BookError::Json)?;
        if book.to_bytes() != bytes {
            return Err(BookError::NotCanonical);
        }
        book.check()?;
        Ok(book)
    }

    /// Checks counts and orders, which a book that came in a message may break.
    ///
    /// # Errors
    /// What is too much or out of order.
    pub fn check(&self) -> Result<(), BookError> {
        let count = |what, found, most| match found <= most {
            true => Ok(()),
            false => Err(BookError::Count { what, most, found }),
        };
        count("members", self.members.len(), MEMBERS_MAX)?;
        count("audits", self.audits.len(), AUDITS_MAX)?;
        ascends(self.members.iter().map(|member| member.trainer), "members")?;
        let audits = self.audits.iter();
        ascends(audits.map(|audit| (audit.index, audit.trainer)), "audits")?;
        for audit in &self.audits {
            count("auditors of an audit", audit.auditors.len(), AUDITORS_MAX)?;
            ascends(audit.auditors.iter().copied(), "auditors")?;
            if audit.index >= self.index {
                return Err(BookError::Early {
                    index: self.index,
                    audited: audit.index,
                });
            }
        }
        Ok(())
    }
}

fn ascends<T: Ord>(items: impl Iterator<Item = T>, what: &'static str) -> Result<(), BookError> {
    match items.is_sorted_by(|before, after| before < after) {
        true => Ok(()),
        false => Err(BookError::Order(what)),
    }
}
