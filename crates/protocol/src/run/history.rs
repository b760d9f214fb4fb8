//! What the books of a run say about its trainers, and which work must be replayed (spec: runs, sections 4 and 7).

use std::collections::BTreeMap;

use alloy_primitives::B256;
use thiserror::Error;

use super::book::{Audit, Member, RoundBook};
use super::message::AuditOutcome;
use crate::content::ContentHash;
use crate::offer::DeviceId;

/// Rounds after which an audit that nobody decided is dropped: the work counts as not drawn.
pub const AUDIT_ROUNDS_MAX: u64 = 16;
/// Rounds for which others wait for a trainer that took part.
const RECENT_ROUNDS: u64 = 8;
/// What separates the draw of audits from all other hashes.
const AUDIT_CONTEXT: &str = "hearth run audit 1";

/// How a run is played: what the machines need to know of its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunRules {
    /// The run, by the hash of its terms.
    pub run: B256,
    /// Trainers without whom there is no round.
    pub quorum: u32,
    /// The most trainers of a round.
    pub trainers_max: u32,
    /// Local steps of a round.
    pub steps: u32,
    /// Steps below which a contribution is not taken.
    pub steps_min: u32,
    /// How long a round waits for others after its quorum, in milliseconds.
    pub grace_ms: u64,
    /// How long one proposer has, in milliseconds.
    pub attempt_ms: u64,
    /// Trainers carry moments and residuals from round to round.
    pub carry: bool,
    /// Work that is replayed, in parts of a thousand.
    pub audit_per_mille: u32,
    /// Rounds of a trainer that are all replayed.
    pub newcomer_rounds: u32,
    /// Rounds of the run in all.
    pub rounds: u64,
}

impl RunRules {
    /// Rounds over which pay vests. With `v` contributions of which one is replayed, a trainer that goes on working has the
    /// pay of `2 (v - 1)` rounds at stake: twice what it gains on average by false work until that is replayed.
    #[must_use]
    pub fn vesting_rounds(&self) -> u64 {
        4 * 1_000_u64.div_ceil(self.least_rate()) - 3
    }

    fn least_rate(&self) -> u64 {
        u64::from(self.audit_per_mille.clamp(1, 1_000))
    }

    /// What a trainer has at stake when its work of round `index` is found to be false: for each of its `earlier`
    /// contributions, by round and steps, the steps times the rounds over which they still vest.
    #[must_use]
    pub fn at_stake(&self, index: u64, earlier: &[(u64, u32)]) -> u64 {
        let unvested = |(round, steps): &(u64, u32)| {
            let followed = index.saturating_sub(*round);
            u64::from(*steps) * self.vesting_rounds().saturating_sub(followed)
        };
        earlier.iter().map(unvested).sum()
    }

    /// How many parts of a thousand of a trainer's work of so many steps are replayed: all where it has nothing at stake,
    /// and fewer the more it would lose.
    #[must_use]
    pub fn audit_rate(&self, steps: u32, at_stake: u64) -> u64 {
        let gain = 2 * u64::from(steps.max(1)) * self.vesting_rounds();
        let rate = (1_000 * gain).div_ceil(gain.saturating_add(at_stake));
        rate.max(self.least_rate())
    }

    /// Whether the block that recorded a round draws the work of a trainer, so many parts of a thousand of which are.
    #[must_use]
    pub fn is_drawn(&self, beacon: B256, index: u64, trainer: DeviceId, rate: u64) -> bool {
        let mut hasher = blake3::Hasher::new_derive_key(AUDIT_CONTEXT);
        hasher.update(beacon.as_slice());
        hasher.update(self.run.as_slice());
        hasher.update(&index.to_le_bytes());
        hasher.update(&trainer.0);
        let hash = hasher.finalize();
        let mut word = [0; 8];
        word.copy_from_slice(&hash.as_bytes()[..8]);
        // The bias of the remainder is below 2^-54.
        u64::from_le_bytes(word) % 1_000 < rate
    }

    /// How many of so many recorded books are rounds. Those after them are books of audits, and change no weights.
    #[must_use]
    pub fn rounds_of(&self, books: u64) -> u64 {
        books.min(self.rounds)
    }
}

/// What is known of a trainer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrainerStanding {
    /// Rounds in which its work was admitted.
    pub admitted: u64,
    /// Steps of them.
    pub steps: u64,
    /// Audits that found the same.
    pub passed: u64,
    /// What it kept at the end of its last round.
    pub local: Option<ContentHash>,
    /// The last round in which its work was admitted: rounds that were recorded before it. Zero also where there was none.
    pub last: u64,
    /// An audit found other bytes: nothing of it is taken any more.
    pub is_excluded: bool,
}

/// A trainer's work in a recorded round, with what it takes to do it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedWork {
    /// The round in which it was admitted.
    pub index: u64,
    /// The work.
    pub member: Member,
    /// Hash of the weights that it started from.
    pub parent: B256,
    /// What its windows were drawn by.
    pub beacon: B256,
}

impl RecordedWork {
    /// The work of a member of a book.
    #[must_use]
    pub fn of(book: &RoundBook, member: &Member) -> Self {
        Self {
            index: book.index,
            member: member.clone(),
            parent: book.parent,
            beacon: book.beacon,
        }
    }

    /// The earlier works of the same trainer by which what this one starts from came about: each, from the last one on,
    /// ends with what the one after it starts from. The last one of all began anew, or is the first in `books`.
    pub fn led_by<'a>(
        &self,
        books: impl DoubleEndedIterator<Item = &'a RoundBook>,
    ) -> Vec<RecordedWork> {
        let mut wanted = self.member.work.local_start;
        let mut led_by = Vec::new();
        for book in books.rev().filter(|book| book.index < self.index) {
            if wanted.is_none() {
                break;
            }
            let mut members = book.members.iter();
            let ends_so =
                |one: &&Member| one.trainer == self.member.trainer && one.work.local_end == wanted;
            if let Some(member) = members.find(ends_so) {
                wanted = member.work.local_start;
                led_by.push(Self::of(book, member));
            }
        }
        led_by
    }
}

/// Work that is to be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAudit {
    /// The work.
    pub work: RecordedWork,
    /// What drew it for an audit.
    pub drawn_by: B256,
}

/// The run so far.
#[derive(Debug, Clone)]
pub struct History {
    rules: RunRules,
    index: u64,
    last: Option<ContentHash>,
    trainers: BTreeMap<DeviceId, TrainerStanding>,
    /// Contributions that may still vest, by round and steps.
    unvested: BTreeMap<DeviceId, Vec<(u64, u32)>>,
    open: BTreeMap<(u64, DeviceId), OpenAudit>,
}

/// Why a book does not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// It is of another run.
    #[error("the book is of another run")]
    Run,
    /// It is of another round.
    #[error("the book is of round {found}, and round {wanted} is next")]
    Index {
        /// The round it is of.
        found: u64,
        /// The next one.
        wanted: u64,
    },
    /// It follows another book.
    #[error("the book follows another one")]
    Previous,
    /// Someone contributes who may not.
    #[error("the work of {0} may not be taken")]
    Member(DeviceId),
    /// After the last round it has members, or no audit.
    #[error("after the last round a book has audits alone")]
    Over,
    /// It reports what nobody was to replay.
    #[error("nobody was to replay the work of {trainer} in round {index}")]
    Audit {
        /// The round.
        index: u64,
        /// The trainer.
        trainer: DeviceId,
    },
}

impl History {
    /// A run without rounds.
    #[must_use]
    pub fn new(rules: RunRules) -> Self {
        Self {
            rules,
            index: 0,
            last: None,
            trainers: BTreeMap::new(),
            unvested: BTreeMap::new(),
            open: BTreeMap::new(),
        }
    }

    /// How the run is played.
    #[must_use]
    pub fn rules(&self) -> &RunRules {
        &self.rules
    }

    /// Books that were recorded: rounds, and after the last one books of audits.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Whether the next book is of a round; otherwise it is of audits alone.
    #[must_use]
    pub fn has_rounds_left(&self) -> bool {
        self.index < self.rules.rounds
    }

    /// Name of the last book.
    #[must_use]
    pub fn last_book(&self) -> Option<ContentHash> {
        self.last
    }

    /// Who contributed lately, and may again.
    pub fn recent_members(&self) -> impl Iterator<Item = DeviceId> {
        let trainers = self.trainers.iter().filter(|(_, standing)| {
            let is_recent = standing.last.saturating_add(RECENT_ROUNDS) >= self.index;
            standing.admitted > 0 && is_recent && !standing.is_excluded
        });
        trainers.map(|(trainer, _)| *trainer)
    }

    /// What is known of a trainer.
    #[must_use]
    pub fn standing(&self, trainer: DeviceId) -> TrainerStanding {
        self.trainers.get(&trainer).copied().unwrap_or_default()
    }

    /// All trainers that ever contributed.
    pub fn trainers(&self) -> impl Iterator<Item = (&DeviceId, &TrainerStanding)> {
        self.trainers.iter()
    }

    /// Work that is to be replayed, by round and trainer.
    #[must_use]
    pub fn open_audits(&self) -> &BTreeMap<(u64, DeviceId), OpenAudit> {
        &self.open
    }

    /// Whether work of this kind may be admitted in the next round.
    #[must_use]
    pub fn admits(&self, member: &Member) -> bool {
        let standing = self.standing(member.trainer);
        let work = &member.work;
        let starts = match work.local_start {
            None => true,
            Some(local) => self.rules.carry && standing.local == Some(local),
        };
        let ends = work.local_end.is_some() == self.rules.carry;
        let steps = (self.rules.steps_min.max(1)..=self.rules.steps).contains(&work.steps);
        !standing.is_excluded && starts && ends && steps
    }

    /// Checks that a book may follow the last one.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, book: &RoundBook) -> Result<(), HistoryError> {
        if book.run != self.rules.run {
            return Err(HistoryError::Run);
        }
        if book.index != self.index {
            return Err(HistoryError::Index {
                found: book.index,
                wanted: self.index,
            });
        }
        if book.previous != self.last {
            return Err(HistoryError::Previous);
        }
        // Each of these decides an audit, so there are at most as many as there are open audits.
        if !self.has_rounds_left() && (!book.members.is_empty() || book.audits.is_empty()) {
            return Err(HistoryError::Over);
        }
        for audit in &book.audits {
            let key = (audit.index, audit.trainer);
            if !self.open.contains_key(&key) || audit.auditors.is_empty() {
                return Err(HistoryError::Audit {
                    index: audit.index,
                    trainer: audit.trainer,
                });
            }
        }
        let is_convicted = |trainer: DeviceId| {
            let mut audits = book.audits.iter();
            audits.any(|audit| audit.trainer == trainer && audit.outcome == AuditOutcome::Different)
        };
        let mut members = book.members.iter();
        let refused = members.find(|m| !self.admits(m) || is_convicted(m.trainer));
        match refused {
            Some(member) => Err(HistoryError::Member(member.trainer)),
            None => Ok(()),
        }
    }

    /// Takes the book of a round that the chain recorded; `beacon` is what the record's block gave, which draws what of
    /// the round is replayed.
    ///
    /// # Errors
    /// Where the book does not follow the last one; then nothing changes.
    pub fn apply(&mut self, book: &RoundBook, beacon: B256) -> Result<(), HistoryError> {
        self.check(book)?;
        for audit in &book.audits {
            self.decide(audit);
        }
        let rules = self.rules;
        for member in &book.members {
            let (trainer, steps) = (member.trainer, member.work.steps);
            let unvested = self.unvested.entry(trainer).or_default();
            unvested.retain(|(round, _)| book.index - round < rules.vesting_rounds());
            let rate = rules.audit_rate(steps, rules.at_stake(book.index, unvested));
            unvested.push((book.index, steps));
            let standing = self.trainers.entry(trainer).or_default();
            let is_newcomer = standing.admitted < u64::from(rules.newcomer_rounds);
            standing.admitted += 1;
            standing.last = book.index;
            standing.steps += u64::from(steps);
            standing.local = member.work.local_end;
            if is_newcomer || rules.is_drawn(beacon, book.index, trainer, rate) {
                let open = OpenAudit {
                    work: RecordedWork::of(book, member),
                    drawn_by: beacon,
                };
                self.open.insert((book.index, member.trainer), open);
            }
        }
        self.last = Some(book.name());
        self.index += 1;
        // Books of audits drop none: what was open after the last round is decided.
        let rounds = self.rules.rounds_of(self.index);
        let oldest = rounds.saturating_sub(AUDIT_ROUNDS_MAX);
        self.open.retain(|(index, _), _| *index >= oldest);
        Ok(())
    }

    fn decide(&mut self, audit: &Audit) {
        self.open.remove(&(audit.index, audit.trainer));
        let standing = self.trainers.entry(audit.trainer).or_default();
        match audit.outcome {
            AuditOutcome::Same => standing.passed += 1,
            AuditOutcome::Different => {
                standing.is_excluded = true;
                self.open
                    .retain(|(_, trainer), _| *trainer != audit.trainer);
            }
            // What it started from is gone: it begins anew, with nothing at stake.
            AuditOutcome::Unavailable => {
                standing.local = None;
                self.unvested.remove(&audit.trainer);
            }
        }
    }
}

#[cfg(test)]
mod tests;
