//! A validator whose turn it is: it takes no more commitments, makes the book of what is shown, and has it signed.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};

use super::super::board::{Ballot, Check, Draft, Judgment, Sum};
use super::super::book::{AUDITS_MAX, Audit, BookForm, Member, RoundBook};
use super::super::committee::RunCommittee;
use super::super::history::RunRules;
use super::super::message::{AuditOutcome, Close, Commit, Proposal, RunMessage};
use super::super::{Head, turn};
use super::{AUDIT_ATTEMPTS, LATE_ATTEMPTS, Validator, ValidatorEffect};
use crate::content::ContentHash;
use crate::ledger::statement::RoundStatement;
use crate::offer::DeviceId;
use crate::signature::Signature;
use crate::time::Timestamp;

/// One in so many rounds waits for everybody until training has to end.
const OPEN_ROUND_EVERY: u64 = 4;
/// One in so many places of such a round is for trainers without a record.
const NEWCOMERS_PART: usize = 8;

impl Validator {
    pub(super) fn propose(
        &mut self,
        now: Timestamp,
        head: Head,
        effects: &mut Vec<ValidatorEffect>,
    ) {
        let rules = *self.history.rules();
        let attempt = turn::attempt(&head, &rules, now);
        let number = turn::number(&head, attempt);
        self.note_silent(now, &rules);
        let Some(committee) = self.committees.newest() else {
            return;
        };
        let epoch = committee.epoch;
        let proposer = committee.proposer(head.state, attempt);
        if proposer.is_none_or(|seat| seat.device != self.identity.device) {
            return;
        }
        let known = self.board.attempts.get(&number);
        if known.is_some_and(|one| one.judgment == Judgment::Agree) {
            // This number is signed: another book of another epoch could not be.
            return;
        }
        let close = match self.history.has_rounds_left() {
            true => match self.closed(now, head, attempt, epoch, effects) {
                Some(close) => Some(close),
                None => return,
            },
            false => None,
        };
        let known = self.board.attempts.get(&number);
        let is_said =
            known.is_some_and(|one| one.proposal.as_ref().is_some_and(|p| p.epoch == epoch));
        if is_said {
            return;
        }
        if known.is_none_or(|one| one.draft == Draft::Open) {
            let draft = match close {
                Some((close, closed_at)) => self.draft(now, head, attempt, &close, closed_at),
                None => self.draft_of_audits(now, head),
            };
            self.board.attempts.entry(number).or_default().draft = draft;
        }
        let draft = self
            .board
            .attempts
            .get(&number)
            .map(|one| one.draft.clone());
        let Some(Draft::Fixed(book)) = draft else {
            return;
        };
        if let Some(next) = self.sum_of(&book, effects) {
            let proposal = Proposal {
                number,
                epoch,
                book: *book,
                next,
            };
            self.say(now, RunMessage::Proposal(Box::new(proposal)), effects);
        }
    }

    /// The closing of this device's turn, which it says when it is time.
    fn closed(
        &mut self,
        now: Timestamp,
        head: Head,
        attempt: u64,
        epoch: u64,
        effects: &mut Vec<ValidatorEffect>,
    ) -> Option<(Close, Timestamp)> {
        let number = turn::number(&head, attempt);
        let known = self.board.attempts.get(&number);
        let said = known.and_then(|one| one.close.clone());
        if let Some(said) = said.filter(|(close, _)| close.epoch == epoch) {
            return Some(said);
        }
        let commitments = self.commitments_to_close(now, head, attempt)?;
        let close = Close {
            number,
            parent: head.state,
            epoch,
            commitments,
        };
        self.say(now, RunMessage::Close(close), effects);
        None
    }

    /// The state that a book leads to, once it is known.
    pub(super) fn sum_of(
        &mut self,
        book: &RoundBook,
        effects: &mut Vec<ValidatorEffect>,
    ) -> Option<B256> {
        let name = book.name();
        match self.board.sums.get(&name) {
            Some(Sum::Known(next)) => Some(*next),
            Some(Sum::Asked | Sum::Failed) => None,
            None => {
                self.board.sums.insert(name, Sum::Asked);
                effects.push(ValidatorEffect::Aggregate(Box::new(book.clone())));
                None
            }
        }
    }

    /// Notes who was named by a closing and has not shown its work in time, or gives it to nobody.
    fn note_silent(&mut self, now: Timestamp, rules: &RunRules) {
        let board = &self.board;
        let mut found: Vec<DeviceId> = Vec::new();
        for attempt in board.attempts.values() {
            let Some((close, closed_at)) = &attempt.close else {
                continue;
            };
            if now < closed_at.plus_ms(rules.attempt_ms / 4) {
                continue;
            }
            let named = close.commitments.iter();
            let silent = named.filter(|(trainer, commitment)| {
                let commit = board.commits.get(trainer);
                !board.is_sound(*trainer)
                    && commit.is_some_and(|commit| commit.commitment == *commitment)
            });
            found.extend(silent.map(|(trainer, _)| *trainer));
        }
        self.board.silent.extend(found);
    }

    /// Trainers whose commitments may be named in this attempt.
    fn eligible(&self, now: Timestamp, attempt: u64) -> Vec<(DeviceId, &Commit)> {
        let board = &self.board;
        // No round has to be recorded first for a conviction to count.
        let convicted = convicted(&self.decided_audits(now));
        let is_eligible = |(trainer, commit): &(&DeviceId, &Commit)| {
            let is_out =
                self.history.standing(**trainer).is_excluded || convicted.contains(trainer);
            let is_late = attempt < LATE_ATTEMPTS && !board.is_on_time(**trainer);
            let is_useful = board.reveals.get(trainer).is_none_or(|work| {
                let member = Member {
                    account: commit.account,
                    trainer: **trainer,
                    work: work.clone(),
                };
                board.checks.get(&work.contribution) != Some(&Check::Bad)
                    && self.history.admits(&member)
                    && self.is_own(**trainer, work.contribution, attempt)
            });
            !is_out && !is_late && is_useful
        };
        let commits = board.commits.iter().filter(is_eligible);
        let taken: Vec<_> = commits
            .map(|(trainer, commit)| (*trainer, commit))
            .collect();
        let is_heard = |(trainer, _): &(DeviceId, &Commit)| {
            board.is_sound(*trainer) || !board.silent.contains(trainer)
        };
        let heard: Vec<_> = taken.iter().copied().filter(is_heard).collect();
        // It may be this device that did not hear what was shown.
        match heard.len() < self.history.rules().quorum.max(1) as usize {
            true => taken,
            false => heard,
        }
    }

    /// The commitments of the round, when it is time to take no more.
    fn commitments_to_close(
        &mut self,
        now: Timestamp,
        head: Head,
        attempt: u64,
    ) -> Option<Vec<(DeviceId, ContentHash)>> {
        let rules = *self.history.rules();
        let quorum = rules.quorum.max(1) as usize;
        let history = &self.history;
        let admitted = |trainer: &DeviceId| history.standing(*trainer).admitted;
        let mut taken = self.eligible(now, attempt);
        let with_record = taken.iter().filter(|(trainer, _)| admitted(trainer) > 0);
        let has_record_quorum = with_record.count() >= quorum;
        let quorum_at = match (self.board.quorum_at, has_record_quorum) {
            (None, true) => Some(now),
            (known, _) => known,
        };
        let mut recent = history.recent_members().peekable();
        let has_recent = recent.peek().is_some();
        let all_here = has_recent && recent.all(|one| self.board.commits.contains_key(&one));
        let waited = quorum_at.is_some_and(|since| now >= since.plus_ms(rules.grace_ms));
        // Strangers may commit at once to nothing: with them alone the round waits for everybody. So it does now and then
        // in any case, lest those who are quick go on among themselves.
        let is_open = head.index.is_multiple_of(OPEN_ROUND_EVERY);
        let grace_ms = rules.grace_ms.min(rules.attempt_ms / 8);
        let gone_ms = turn::gone_ms(&head, &rules, now);
        let trained = attempt > 0 || gone_ms >= turn::train_ms(&rules).saturating_add(grace_ms);
        let has_time = turn::left_ms(&head, &rules, now) >= rules.attempt_ms / 2;
        if taken.len() < quorum || !has_time || !(trained || !is_open && (all_here || waited)) {
            self.board.quorum_at = quorum_at;
            return None;
        }
        // Those with a record first; among equals the commitment decides. Some places of rounds that wait for all are for
        // those without one, who could never begin otherwise.
        taken.sort_by_key(|(trainer, commit)| {
            (std::cmp::Reverse(admitted(trainer)), commit.commitment)
        });
        let most = rules.trainers_max as usize;
        let first_new = taken.partition_point(|(trainer, _)| admitted(trainer) > 0);
        let kept_for_new = match is_open {
            true => (most / NEWCOMERS_PART).min(taken.len() - first_new),
            false => 0,
        };
        let surplus = first_new.saturating_sub(most - kept_for_new);
        taken.drain(first_new - surplus..first_new);
        taken.truncate(most);
        taken.sort_by_key(|(trainer, _)| *trainer);
        let named = taken.iter();
        let named = named.map(|(trainer, commit)| (*trainer, commit.commitment));
        Some(named.collect())
    }

    /// The book to propose.
    fn draft(
        &self,
        now: Timestamp,
        head: Head,
        attempt: u64,
        close: &Close,
        closed_at: Timestamp,
    ) -> Draft {
        let rules = self.history.rules();
        let (mut members, is_waiting) = self.shown(close);
        let is_late = now >= closed_at.plus_ms(rules.attempt_ms / 4);
        if is_waiting && !is_late {
            return Draft::Open;
        }
        let decided = self.decided_audits(now);
        let convicted = convicted(&decided);
        members.retain(|member| {
            self.is_own(member.trainer, member.work.contribution, attempt)
                && !convicted.contains(&member.trainer)
        });
        if members.len() < rules.quorum.max(1) as usize {
            return Draft::None;
        }
        Draft::Fixed(Box::new(RoundBook {
            audits: match attempt < AUDIT_ATTEMPTS {
                true => decided,
                false => Vec::new(),
            },
            beacon: head.beacon,
            format: BookForm::V1,
            index: head.index,
            members,
            parent: head.state,
            previous: self.history.last_book(),
            run: rules.run,
        }))
    }

    /// Those named by a closing whose work can be taken, and whether there may be more of them soon.
    fn shown(&self, close: &Close) -> (Vec<Member>, bool) {
        let mut is_waiting = false;
        let mut members = Vec::new();
        for (trainer, commitment) in &close.commitments {
            let commit = self.board.commits.get(trainer);
            let Some(commit) = commit.filter(|commit| commit.commitment == *commitment) else {
                continue;
            };
            let Some(work) = self.board.reveals.get(trainer) else {
                is_waiting = true;
                continue;
            };
            let member = Member {
                account: commit.account,
                trainer: *trainer,
                work: work.clone(),
            };
            match self.board.checks.get(&work.contribution) {
                Some(Check::Good) if self.history.admits(&member) => members.push(member),
                Some(Check::Good | Check::Bad) => {}
                Some(Check::Asked) | None => is_waiting = true,
            }
        }
        (members, is_waiting)
    }

    pub(super) fn decided_audits(&self, now: Timestamp) -> Vec<Audit> {
        let open = self.history.open_audits().keys();
        let Some(committee) = self.committees.newest() else {
            return Vec::new();
        };
        let decided = open.filter_map(|key| {
            let (outcome, auditors) = self.decided(now, committee, *key)?;
            Some(Audit {
                auditors,
                index: key.0,
                outcome,
                trainer: key.1,
            })
        });
        decided.take(AUDITS_MAX).collect()
    }

    /// Sends a round to the chain that enough have signed: the proposer at once, everybody else when its time is over.
    pub(super) fn record(
        &mut self,
        now: Timestamp,
        head: Head,
        effects: &mut Vec<ValidatorEffect>,
    ) {
        let rules = *self.history.rules();
        let current = turn::attempt(&head, &rules, now);
        let me = self.identity.device;
        for (number, said) in &mut self.board.attempts {
            let attempt = turn::attempt_of(&head, &rules, *number, now);
            let Some(attempt) = attempt.filter(|_| !said.is_sent) else {
                continue;
            };
            let decided = self.committees.iter().find_map(|committee| {
                let proposer = committee.proposer(head.state, attempt);
                let is_mine = proposer.is_some_and(|seat| seat.device == me);
                let found = elected(committee, &said.ballots);
                found.filter(|_| is_mine || attempt < current)
            });
            let Some((epoch, mask, ballot, signatures)) = decided else {
                continue;
            };
            said.is_sent = true;
            effects.push(ValidatorEffect::Record {
                statement: RoundStatement {
                    run: rules.run,
                    round: *number,
                    parent: head.state,
                    contributions: ballot.contributions.0.into(),
                    next: ballot.next,
                },
                epoch,
                mask,
                signatures,
            });
        }
    }
}

/// Trainers whose work was found to be different.
fn convicted(audits: &[Audit]) -> BTreeSet<DeviceId> {
    let different = audits
        .iter()
        .filter(|audit| audit.outcome == AuditOutcome::Different);
    different.map(|audit| audit.trainer).collect()
}

/// An epoch, the seats that signed, what they signed, and their signatures.
type Elected = (u64, u32, Ballot, Vec<Signature>);

/// What two thirds of a committee signed.
fn elected(committee: &RunCommittee, ballots: &BTreeMap<Address, Ballot>) -> Option<Elected> {
    let mut tried: Vec<(ContentHash, B256)> = Vec::new();
    for ballot in ballots.values().copied() {
        let content = (ballot.contributions, ballot.next);
        if tried.contains(&content) {
            continue;
        }
        tried.push(content);
        let alike = |other: &Ballot| (other.contributions, other.next) == content;
        let signers = ballots.iter().filter(|(_, other)| alike(other));
        let (mask, is_decided) = committee.count(signers.map(|(signer, _)| signer));
        if is_decided {
            let signature = |key| {
                let ballot = ballots.get(&key).filter(|other| alike(other));
                ballot.map(|ballot| &ballot.signature)
            };
            let signatures = committee.in_order(mask, signature);
            return Some((committee.epoch, mask, ballot, signatures));
        }
    }
    None
}
