//! What a validator has heard about the round that is being made.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};

use super::book::Book;
use super::message::{Close, Commit, Proposal, Work};
use crate::content::ContentHash;
use crate::offer::DeviceId;
use crate::signature::Signature;
use crate::time::Timestamp;

/// Commitments that are kept from trainers without a record in the run.
pub(super) const COMMITMENTS_MAX: usize = 1_024;

/// Whether a contribution can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Asked,
    Good,
    Bad,
}

/// What a book's contributions add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sum {
    Asked,
    Known(B256),
    Failed,
}

/// A round's number, the name of its book, and the weights after it.
pub(super) type Ballot = (u64, ContentHash, B256);

#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) commits: BTreeMap<DeviceId, Commit>,
    /// Something was shown: later commitments may be copies.
    pub(super) is_shown: bool,
    /// This device came in the middle of the round, and cannot know what was said before what.
    pub(super) came_late: bool,
    /// Shown by trainers whose commitments were not heard yet.
    pub(super) unmatched: BTreeMap<DeviceId, Work>,
    pub(super) quorum_at: Option<Timestamp>,
    pub(super) closes: BTreeMap<u64, (Close, Timestamp)>,
    pub(super) reveals: BTreeMap<DeviceId, Work>,
    pub(super) checks: BTreeMap<ContentHash, Check>,
    /// The book that this device proposes, once it is fixed; nothing where there is to be none.
    pub(super) drafts: BTreeMap<u64, Option<Book>>,
    pub(super) proposals: BTreeMap<u64, Proposal>,
    pub(super) refused: BTreeSet<u64>,
    pub(super) sums: BTreeMap<ContentHash, Sum>,
    pub(super) endorsed: BTreeSet<u64>,
    pub(super) endorsements: BTreeMap<Ballot, BTreeMap<Address, Signature>>,
    pub(super) sent: BTreeSet<u64>,
}

impl Board {
    /// Keeps a trainer's first commitment, if it came before anything was shown.
    pub(super) fn commit(&mut self, trainer: DeviceId, commit: Commit, is_known: bool) {
        let has_room = is_known || self.commits.len() < COMMITMENTS_MAX;
        if (!self.is_shown || self.came_late) && has_room {
            self.commits.entry(trainer).or_insert(commit);
        }
    }
}
