//! What a validator makes of a proposal: it signs what it would have made alike.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;

use super::super::Head;
use super::super::board::{Check, Judgment};
use super::super::book::{Member, RoundBook};
use super::super::committee::RunCommittee;
use super::super::message::{Close, Endorsement, Proposal, RunMessage};
use super::super::turn;
use super::{COPY_ATTEMPTS, LATE_ATTEMPTS, Validator, ValidatorEffect};
use crate::content::ContentHash;
use crate::ledger::statement::RoundStatement;
use crate::offer::DeviceId;
use crate::signature::Signature;
use crate::time::Timestamp;

/// The part of an attempt by which messages may reach devices in another order.
const DOUBT_PART: u64 = 16;

impl Validator {
    /// Has every contribution checked that a closing names and its trainer has shown.
    pub(super) fn look_at_reveals(&mut self, effects: &mut Vec<ValidatorEffect>) {
        let closes = self.board.attempts.values();
        let closes = closes.filter_map(|attempt| attempt.close.as_ref());
        let named = closes.flat_map(|(close, _)| &close.commitments);
        for (trainer, _) in named {
            let Some(work) = self.board.reveals.get(trainer) else {
                continue;
            };
            let contribution = work.contribution;
            if let Entry::Vacant(unknown) = self.board.checks.entry(contribution) {
                unknown.insert(Check::Asked);
                effects.push(ValidatorEffect::Check {
                    trainer: *trainer,
                    contribution,
                });
            }
        }
    }

    /// Other trainers that have shown the same contribution, and may still take part.
    fn twins(
        &self,
        trainer: DeviceId,
        contribution: ContentHash,
    ) -> impl Iterator<Item = DeviceId> {
        let shown = self.board.reveals.iter();
        let twins = shown.filter(move |(other, work)| {
            **other != trainer
                && work.contribution == contribution
                && !self.history.standing(**other).is_excluded
        });
        twins.map(|(other, _)| *other)
    }

    /// Whether a proposer takes this contribution to be the trainer's own: nobody has shown the same, or all who did
    /// committed to it when it had been shown. Who cannot know the order takes none of them, and later the one of the
    /// trainer with the better record.
    pub(super) fn is_own(
        &self,
        trainer: DeviceId,
        contribution: ContentHash,
        attempt: u64,
    ) -> bool {
        let rank = |one: DeviceId| {
            let standing = self.history.standing(one);
            let record = (Reverse(standing.passed), Reverse(standing.admitted));
            let commit = self.board.commits.get(&one);
            (record, commit.map(|commit| commit.commitment))
        };
        let is_on_time = self.board.is_on_time(trainer);
        self.twins(trainer, contribution).all(|twin| {
            match (is_on_time, self.board.is_on_time(twin)) {
                (true, false) => true,
                (false, true) => false,
                _ => attempt >= LATE_ATTEMPTS && rank(trainer) < rank(twin),
            }
        })
    }

    /// Whether a book must not have this member: another has the same contribution, and this one is not known to be the
    /// first.
    fn is_copy(&self, member: &Member, book: &RoundBook, attempt: u64) -> bool {
        let contribution = member.work.contribution;
        let mut members = book.members.iter();
        let is_twice = members
            .any(|one| one.trainer != member.trainer && one.work.contribution == contribution);
        let is_late = !self.board.is_on_time(member.trainer);
        let doubtful_attempts = if is_late {
            COPY_ATTEMPTS
        } else {
            LATE_ATTEMPTS
        };
        let mut twins = self.twins(member.trainer, contribution);
        is_twice || attempt < doubtful_attempts && twins.any(|twin| self.board.is_on_time(twin))
    }

    /// Signs the proposals that this device would have made alike.
    pub(super) fn consider(
        &mut self,
        now: Timestamp,
        head: Head,
        effects: &mut Vec<ValidatorEffect>,
    ) {
        let rules = *self.history.rules();
        let attempts = self.board.attempts.iter();
        let has_rounds_left = self.history.has_rounds_left();
        let waiting: Vec<(u64, Proposal, Option<Close>)> = attempts
            .filter(|(_, one)| one.judgment == Judgment::Wait)
            .filter_map(|(number, one)| {
                // A book of audits follows no closing: nobody commits to anything.
                let close = match has_rounds_left {
                    true => Some(one.close.as_ref()?.0.clone()),
                    false => None,
                };
                let attempt = turn::attempt_of(&head, &rules, *number, now)?;
                Some((attempt, one.proposal.clone()?, close))
            })
            .collect();
        for (attempt, proposal, close) in waiting {
            let number = proposal.number;
            let judgment = self.judge(now, head, attempt, &proposal, close.as_ref(), effects);
            self.board.attempts.entry(number).or_default().judgment = judgment;
            if judgment == Judgment::Agree {
                effects.push(ValidatorEffect::Sign(RoundStatement {
                    run: rules.run,
                    round: number,
                    parent: head.state,
                    contributions: proposal.book.name().0.into(),
                    next: proposal.next,
                }));
            }
        }
    }

    fn judge(
        &mut self,
        now: Timestamp,
        head: Head,
        attempt: u64,
        proposal: &Proposal,
        close: Option<&Close>,
        effects: &mut Vec<ValidatorEffect>,
    ) -> Judgment {
        let book = &proposal.book;
        let Some(committee) = self.committees.of(proposal.epoch) else {
            return Judgment::Wait;
        };
        if committee.seat_of(self.identity.device).is_none()
            || close.is_some_and(|close| close.epoch != proposal.epoch)
            || self.history.check(book).is_err()
            || book.beacon != head.beacon
            || book.own_state().is_some_and(|own| own != proposal.next)
        {
            return Judgment::Refuse;
        }
        let audits = self.judge_audits(now, committee, book);
        let members = match close {
            Some(close) => self.judge_members(head, attempt, book, close, effects),
            None => Judgment::Agree,
        };
        match (members, audits) {
            (Judgment::Agree, Judgment::Agree) => {}
            (Judgment::Refuse, _) => return Judgment::Refuse,
            _ => return Judgment::Wait,
        }
        match self.sum_of(book, effects) {
            Some(next) if next == proposal.next => Judgment::Agree,
            Some(_) => Judgment::Refuse,
            None => Judgment::Wait,
        }
    }

    fn judge_members(
        &mut self,
        head: Head,
        attempt: u64,
        book: &RoundBook,
        close: &Close,
        effects: &mut Vec<ValidatorEffect>,
    ) -> Judgment {
        let rules = self.history.rules();
        let counts = rules.quorum.max(1) as usize..=rules.trainers_max as usize;
        if !counts.contains(&book.members.len()) {
            return Judgment::Refuse;
        }
        let mut judgment = Judgment::Agree;
        for member in &book.members {
            match self.judge_member(head, attempt, member, book, close) {
                Judgment::Refuse => return Judgment::Refuse,
                Judgment::Wait => judgment = Judgment::Wait,
                Judgment::Agree => match self.checked(member, effects) {
                    Some(Check::Good) => {}
                    Some(Check::Bad) => return Judgment::Refuse,
                    Some(Check::Asked) | None => judgment = Judgment::Wait,
                },
            }
        }
        judgment
    }

    fn judge_member(
        &self,
        head: Head,
        attempt: u64,
        member: &Member,
        book: &RoundBook,
        close: &Close,
    ) -> Judgment {
        let trainer = member.trainer;
        let named = close
            .commitments
            .iter()
            .find(|(named, _)| *named == trainer);
        let start = self.start(head);
        let made = member.work.commitment(&start, trainer, member.account);
        if named.is_none_or(|(_, commitment)| *commitment != made)
            || self.is_copy(member, book, attempt)
        {
            return Judgment::Refuse;
        }
        let commit = self.board.commits.get(&trainer);
        let is_heard = commit.is_some_and(|commit| commit.commitment == made);
        match attempt >= LATE_ATTEMPTS || (is_heard && self.board.is_on_time(trainer)) {
            true => Judgment::Agree,
            // Another commitment, or one that was heard when something could have been shown.
            false if commit.is_some() => Judgment::Refuse,
            false => Judgment::Wait,
        }
    }

    /// What became of the check of a contribution, which is asked for where it was not yet.
    fn checked(&mut self, member: &Member, effects: &mut Vec<ValidatorEffect>) -> Option<Check> {
        let contribution = member.work.contribution;
        let known = self.board.checks.get(&contribution).copied();
        if known.is_none() {
            self.board.checks.insert(contribution, Check::Asked);
            effects.push(ValidatorEffect::Check {
                trainer: member.trainer,
                contribution,
            });
        }
        known
    }

    /// Whether the reports that this device has heard say what the book says.
    fn judge_audits(&self, now: Timestamp, committee: &RunCommittee, book: &RoundBook) -> Judgment {
        let doubt_ms = self.history.rules().attempt_ms / DOUBT_PART;
        let is_known = book.audits.iter().all(|audit| {
            let key = (audit.index, audit.trainer);
            let decided = self.decided_within(now, committee, key, doubt_ms);
            decided.is_some_and(|(outcome, auditors)| {
                outcome == audit.outcome && audit.auditors.iter().all(|a| auditors.contains(a))
            })
        });
        match is_known {
            true => Judgment::Agree,
            false => Judgment::Wait,
        }
    }

    pub(super) fn endorse(
        &mut self,
        now: Timestamp,
        statement: &RoundStatement,
        signature: Option<Signature>,
        effects: &mut Vec<ValidatorEffect>,
    ) {
        let is_current = self.head.is_some_and(|head| head.state == statement.parent);
        if let Some(signature) = signature.filter(|_| is_current) {
            let endorsement = Endorsement {
                number: statement.round,
                parent: statement.parent,
                contributions: ContentHash(statement.contributions.0),
                next: statement.next,
                signature,
            };
            self.say(now, RunMessage::Endorsement(endorsement), effects);
        }
    }
}
