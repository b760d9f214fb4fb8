//! What a validator makes of a proposal: it signs what it would have made alike.

use std::collections::btree_map::Entry;

use super::super::Head;
use super::super::board::{Check, Judgment};
use super::super::book::{Book, Member};
use super::super::committee::RunCommittee;
use super::super::message::{Close, Endorsement, Proposal, RunMessage};
use super::super::turn;
use super::{COPY_ATTEMPTS, LATE_ATTEMPTS, Validator, ValidatorEffect};
use crate::content::ContentHash;
use crate::ledger::statement::RoundStatement;
use crate::signature::Signature;
use crate::time::Timestamp;

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
            if let Entry::Vacant(check) = self.board.checks.entry(contribution) {
                check.insert(Check::Asked);
                effects.push(ValidatorEffect::Check {
                    trainer: *trainer,
                    contribution,
                });
            }
        }
    }

    /// Whether the contribution of a member is its own, as far as this device knows: nobody has shown the same, or all
    /// who did committed to it when it had been shown.
    pub(super) fn is_own(&self, member: &Member, members: &[Member], attempt: u64) -> bool {
        let is_twin = |trainer, contribution: ContentHash| {
            trainer != member.trainer && contribution == member.work.contribution
        };
        let shown = self.board.reveals.iter();
        let shown = shown.filter(|(trainer, work)| is_twin(**trainer, work.contribution));
        let shown = shown.map(|(trainer, _)| *trainer);
        let others = members.iter();
        let others = others.filter(|other| is_twin(other.trainer, other.work.contribution));
        let others: Vec<_> = others.map(|other| other.trainer).collect();
        let is_first = self.board.is_on_time(member.trainer);
        let is_alone = others.is_empty();
        let mut twins = others.into_iter().chain(shown);
        match is_first {
            true => !twins.any(|twin| self.board.is_on_time(twin)),
            // Who came late cannot know who was first, and goes by the closing.
            false => {
                is_alone
                    && (attempt >= COPY_ATTEMPTS || !twins.any(|twin| self.board.is_on_time(twin)))
            }
        }
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
        let waiting: Vec<(u64, Proposal, Close)> = attempts
            .filter(|(_, one)| one.judgment == Judgment::Wait)
            .filter_map(|(number, one)| {
                let (close, _) = one.close.clone()?;
                let attempt = turn::attempt_of(&head, &rules, *number, now)?;
                Some((attempt, one.proposal.clone()?, close))
            })
            .collect();
        for (attempt, proposal, close) in waiting {
            let number = proposal.number;
            let judgment = self.judge(head, attempt, &proposal, &close, effects);
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
        head: Head,
        attempt: u64,
        proposal: &Proposal,
        close: &Close,
        effects: &mut Vec<ValidatorEffect>,
    ) -> Judgment {
        let book = &proposal.book;
        let rules = self.history.rules();
        let counts = rules.quorum.max(1) as usize..=rules.trainers_max as usize;
        let Some(committee) = self.committees.of(proposal.epoch) else {
            return Judgment::Wait;
        };
        if committee.seat_of(self.identity.device).is_none()
            || close.epoch != proposal.epoch
            || self.history.check(book).is_err()
            || book.beacon != head.beacon
            || !counts.contains(&book.members.len())
        {
            return Judgment::Refuse;
        }
        let audits = self.judge_audits(committee, book);
        let mut is_waiting = audits == Judgment::Wait;
        for member in &book.members {
            match self.judge_member(head, attempt, member, book, close) {
                Judgment::Refuse => return Judgment::Refuse,
                Judgment::Wait => is_waiting = true,
                Judgment::Agree => match self.checked(member, effects) {
                    Some(Check::Good) => {}
                    Some(Check::Bad) => return Judgment::Refuse,
                    Some(Check::Asked) | None => is_waiting = true,
                },
            }
        }
        if is_waiting {
            return Judgment::Wait;
        }
        match self.sum_of(book, effects) {
            Some(next) if next == proposal.next => Judgment::Agree,
            Some(_) => Judgment::Refuse,
            None => Judgment::Wait,
        }
    }

    fn judge_member(
        &self,
        head: Head,
        attempt: u64,
        member: &Member,
        book: &Book,
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
            || !self.is_own(member, &book.members, attempt)
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
    fn judge_audits(&self, committee: &RunCommittee, book: &Book) -> Judgment {
        let is_known = book.audits.iter().all(|audit| {
            let decided = self.decided(committee, (audit.index, audit.trainer));
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
