//! What a validator has heard about the round that is being made.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};

use super::book::RoundBook;
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

/// What a seat signed under a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ballot {
    pub(super) contributions: ContentHash,
    pub(super) next: B256,
    pub(super) signature: Signature,
}

/// The book that a proposer makes of what was shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Draft {
    /// Something is still to be shown or checked.
    #[default]
    Open,
    /// Too few have shown their work in time.
    None,
    /// This one.
    Fixed(Box<RoundBook>),
}

/// What a validator makes of a proposal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Judgment {
    /// Something is still to be heard or computed.
    #[default]
    Wait,
    Agree,
    Refuse,
}

/// What was said under one number.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    /// The closing, and when it was heard.
    pub(super) close: Option<(Close, Timestamp)>,
    pub(super) draft: Draft,
    pub(super) proposal: Option<Proposal>,
    pub(super) judgment: Judgment,
    /// The first ballot of each seat: another one proves that it signed two, and counts for nothing.
    pub(super) ballots: BTreeMap<Address, Ballot>,
    pub(super) is_sent: bool,
}

#[derive(Debug, Default)]
pub(super) struct Board {
    pub(super) commits: BTreeMap<DeviceId, Commit>,
    /// Those whose commitments were heard after something could be shown: they may be copies.
    pub(super) late: BTreeSet<DeviceId>,
    /// A closing was heard, or may have been said before this device came.
    pub(super) is_closed: bool,
    /// Shown by trainers whose commitments were not heard yet.
    pub(super) unmatched: BTreeMap<DeviceId, Work>,
    /// Named by a closing, and not shown, or not to be had, in time.
    pub(super) silent: BTreeSet<DeviceId>,
    /// Since when enough trainers with a record have committed.
    pub(super) quorum_at: Option<Timestamp>,
    pub(super) reveals: BTreeMap<DeviceId, Work>,
    pub(super) checks: BTreeMap<ContentHash, Check>,
    pub(super) sums: BTreeMap<ContentHash, Sum>,
    /// By number.
    pub(super) attempts: BTreeMap<u64, Attempt>,
}

impl Board {
    /// Keeps a trainer's first commitment.
    pub(super) fn commit(&mut self, trainer: DeviceId, commit: Commit, is_known: bool) {
        let has_room = is_known || self.commits.len() < COMMITMENTS_MAX;
        if has_room && !self.commits.contains_key(&trainer) {
            self.commits.insert(trainer, commit);
            if self.is_closed {
                self.late.insert(trainer);
            }
        }
    }

    /// Whether the contribution of a trainer is here, and sound.
    pub(super) fn is_sound(&self, trainer: DeviceId) -> bool {
        let shown = self.reveals.get(&trainer);
        shown.is_some_and(|work| self.checks.get(&work.contribution) == Some(&Check::Good))
    }

    /// Whether the work of a trainer was committed to before anyone could have shown it.
    pub(super) fn is_on_time(&self, trainer: DeviceId) -> bool {
        self.commits.contains_key(&trainer) && !self.late.contains(&trainer)
    }

    /// Forgets what was said under numbers that are over, and what belongs to nothing else.
    pub(super) fn prune(&mut self, is_near: impl Fn(u64) -> bool) {
        let known = self.attempts.len();
        self.attempts.retain(|number, _| is_near(*number));
        if self.attempts.len() == known {
            return;
        }
        let mut contributions: BTreeSet<ContentHash> = BTreeSet::new();
        let mut names = BTreeSet::new();
        for attempt in self.attempts.values() {
            let proposed = attempt.proposal.as_ref().map(|proposal| &proposal.book);
            let drafted = match &attempt.draft {
                Draft::Fixed(book) => Some(&**book),
                Draft::Open | Draft::None => None,
            };
            for book in [proposed, drafted].into_iter().flatten() {
                names.insert(book.name());
                contributions.extend(book.members.iter().map(|one| one.work.contribution));
            }
        }
        contributions.extend(self.reveals.values().map(|work| work.contribution));
        self.checks.retain(|name, _| contributions.contains(name));
        // What failed may do so no more.
        self.sums
            .retain(|name, sum| names.contains(name) && *sum != Sum::Failed);
    }

    /// Things that are kept.
    pub(super) fn len(&self) -> usize {
        let ballots: usize = self.attempts.values().map(|one| one.ballots.len()).sum();
        let of_trainers = self.commits.len() + self.unmatched.len() + self.reveals.len();
        of_trainers + self.checks.len() + self.sums.len() + self.attempts.len() + ballots
    }
}
