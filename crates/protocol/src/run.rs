//! Training together: what those who take part in a run say, record, replay and earn (spec: 16 runs).
//!
//! A **round** begins with a state that the chain recorded. Trainers work from it on windows that the record's beacon
//! draws, commit to their work, and show it once no more commitments are taken. Validators check it, add it up, and
//! sign a record, whose **book** says who contributed; the chain takes the first one. What the record's own beacon draws
//! is replayed, and later books say what came of it. [`trainer::Trainer`] and [`validator::Validator`] are the two sides as
//! machines; [`history::History`] is what both know from books.
//!
//! Deliberately absent: kernels, contributions' bytes, files, the network, keys and the chain.

mod board;
pub mod book;
pub mod committee;
mod early;
pub mod epochs;
pub mod history;
pub mod manifest;
pub mod message;
pub mod pay;
pub mod trainer;
pub mod turn;
pub mod validator;

use alloy_primitives::B256;

use crate::time::Timestamp;

/// Where a round begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Books that were recorded before: rounds, and after the last one books of audits.
    pub index: u64,
    /// The lowest number that the chain takes for the round.
    pub next_number: u64,
    /// Hash of the weights; after a book of audits its name, and the weights stay those after the last round.
    pub state: B256,
    /// What the windows of the round are drawn by, and the audits of the round before: the hash of the record's block.
    pub beacon: B256,
    /// When the record's block was made; in the first round, when the run begins.
    pub opened_at: Timestamp,
}
