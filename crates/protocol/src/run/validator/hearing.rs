//! What a validator makes of what others say: it keeps what is about this round and bounded, and believes nothing.

use super::super::board::{Attempt, Ballot, COMMITMENTS_MAX, Judgment};
use super::super::early::Weight;
use super::super::message::{Close, Endorsement, Opening, Proposal, Report, RunMessage, Work};
use super::super::{Head, turn};
use super::Validator;
use super::reports::Reports;
use crate::ledger::statement::{Equivocation, RoundStatement};
use crate::offer::DeviceId;
use crate::time::Timestamp;

impl Validator {
    pub(super) fn hear(&mut self, now: Timestamp, from: DeviceId, message: RunMessage) {
        let about = self.head.filter(|head| self.is_about(*head, &message));
        let Some(head) = about else {
            self.keep_early(now, from, message);
            return;
        };
        match message {
            RunMessage::Commit(commit) => {
                let is_known = self.history.standing(from).admitted > 0;
                self.board.commit(from, commit, is_known);
                if let Some(work) = self.board.unmatched.remove(&from) {
                    self.hear_reveal(head, from, work);
                }
            }
            RunMessage::Close(close) => self.hear_close(now, head, from, close),
            RunMessage::Reveal(reveal) => self.hear_reveal(head, from, reveal.work),
            RunMessage::Proposal(proposal) => self.hear_proposal(now, head, from, *proposal),
            RunMessage::Endorsement(endorsement) => self.hear_endorsement(now, head, &endorsement),
            RunMessage::Report(report) => self.hear_report(now, from, report),
            RunMessage::Opening(opening) => self.hear_opening(now, from, opening),
        }
    }

    /// Whether a message is about the round that is being made, or about one before.
    pub(super) fn is_about(&self, head: Head, message: &RunMessage) -> bool {
        match message {
            RunMessage::Commit(commit) => commit.parent == head.state && commit.index == head.index,
            RunMessage::Close(close) => close.parent == head.state,
            RunMessage::Reveal(reveal) => reveal.parent == head.state,
            RunMessage::Proposal(proposal) => proposal.book.parent == head.state,
            RunMessage::Endorsement(endorsement) => endorsement.parent == head.state,
            RunMessage::Report(report) => report.index < self.history.index(),
            RunMessage::Opening(opening) => opening.index < self.history.index(),
        }
    }

    /// Keeps what may become clear with the next record.
    pub(super) fn keep_early(&mut self, at: Timestamp, from: DeviceId, message: RunMessage) {
        let parent = match &message {
            RunMessage::Commit(commit) => Some(commit.parent),
            RunMessage::Close(close) => Some(close.parent),
            RunMessage::Reveal(reveal) => Some(reveal.parent),
            RunMessage::Proposal(proposal) => Some(proposal.book.parent),
            RunMessage::Endorsement(endorsement) => Some(endorsement.parent),
            RunMessage::Report(_) | RunMessage::Opening(_) => None,
        };
        let is_past = parent.is_some_and(|parent| self.past.contains(&parent));
        let is_seated = self.committees.has_seat(from);
        // Only validators say these; who validates may not be known yet.
        let needs_seat = matches!(
            message,
            RunMessage::Close(_)
                | RunMessage::Proposal(_)
                | RunMessage::Report(_)
                | RunMessage::Opening(_)
        );
        if is_past || (needs_seat && !is_seated && !self.committees.is_empty()) {
            return;
        }
        let weight = match is_seated || self.history.standing(from).admitted > 0 {
            true => Weight::Known,
            false => Weight::None,
        };
        self.early.keep(at, from, weight, message);
    }

    fn attempt_at(&mut self, number: u64) -> &mut Attempt {
        self.board.attempts.entry(number).or_default()
    }

    fn hear_close(&mut self, now: Timestamp, head: Head, from: DeviceId, close: Close) {
        let rules = *self.history.rules();
        let is_ordered = close.commitments.is_sorted_by(|a, b| a.0 < b.0);
        let counts = rules.quorum.max(1) as usize..=rules.trainers_max as usize;
        let key = (close.number, close.epoch);
        let turn = self.committees.turn_of(from, key, (&head, &rules), now);
        if !is_ordered || !counts.contains(&close.commitments.len()) || turn.is_none() {
            return;
        }
        // From now on work may be shown.
        self.board.is_closed = true;
        let attempt = self.attempt_at(close.number);
        let is_newer = |(known, _): &(Close, Timestamp)| known.epoch < close.epoch;
        if attempt.close.as_ref().is_none_or(is_newer) {
            attempt.close = Some((close, now));
        }
    }

    fn hear_reveal(&mut self, head: Head, from: DeviceId, work: Work) {
        let Some(commit) = self.board.commits.get(&from) else {
            if self.board.unmatched.len() < COMMITMENTS_MAX {
                self.board.unmatched.insert(from, work);
            }
            return;
        };
        let start = self.start(head);
        if work.commitment(&start, from, commit.account) == commit.commitment {
            self.board.is_closed = true;
            self.board.silent.remove(&from);
            self.board.reveals.entry(from).or_insert(work);
        }
    }

    fn hear_proposal(&mut self, now: Timestamp, head: Head, from: DeviceId, proposal: Proposal) {
        let rules = *self.history.rules();
        let key = (proposal.number, proposal.epoch);
        let turn = self.committees.turn_of(from, key, (&head, &rules), now);
        if turn.is_none() || proposal.book.check().is_err() {
            return;
        }
        let attempt = self.attempt_at(proposal.number);
        let is_newer = |known: &Proposal| known.epoch < proposal.epoch;
        if attempt.proposal.as_ref().is_none_or(is_newer) {
            attempt.proposal = Some(proposal);
            if attempt.judgment == Judgment::Refuse {
                attempt.judgment = Judgment::Wait;
            }
        }
    }

    fn hear_endorsement(&mut self, now: Timestamp, head: Head, endorsement: &Endorsement) {
        let rules = self.history.rules();
        if turn::attempt_of(&head, rules, endorsement.number, now).is_none() {
            return;
        }
        let statement = RoundStatement {
            run: rules.run,
            round: endorsement.number,
            parent: head.state,
            contributions: endorsement.contributions.0.into(),
            next: endorsement.next,
        };
        let ledger = statement.for_runs(self.identity.runs);
        let digest = self.identity.domain.statement_digest(&ledger);
        let Ok(signer) = endorsement.signature.signer(digest) else {
            return;
        };
        if !self.committees.has_key(signer) {
            return;
        }
        let ballot = Ballot {
            contributions: endorsement.contributions,
            next: endorsement.next,
            signature: endorsement.signature,
        };
        let ballots = &mut self.attempt_at(endorsement.number).ballots;
        let first = *ballots.entry(signer).or_insert(ballot);
        if (first.contributions, first.next) != (ballot.contributions, ballot.next) {
            let first_statement = RoundStatement {
                contributions: first.contributions.0.into(),
                next: first.next,
                ..statement
            };
            let proof = Equivocation {
                device: signer,
                first: first_statement.for_runs(self.identity.runs),
                other: ledger.content,
                signatures: [first.signature, ballot.signature],
            };
            self.equivocations.entry(signer).or_insert(Some(proof));
        }
    }

    fn hear_report(&mut self, now: Timestamp, from: DeviceId, report: Report) {
        let key = (report.index, report.trainer);
        if let Some(reports) = self.reports_by(from, key) {
            reports.report(now, from, report);
            self.drop_lies(key);
        }
    }

    fn hear_opening(&mut self, now: Timestamp, from: DeviceId, opening: Opening) {
        let key = (opening.index, opening.trainer);
        if let Some(reports) = self.reports_by(from, key) {
            reports.open(now, from, opening.key);
            self.drop_lies(key);
        }
    }

    /// The reports on work, if this device may add to them.
    fn reports_by(&mut self, from: DeviceId, key: (u64, DeviceId)) -> Option<&mut Reports> {
        let open = self.history.open_audits().get(&key)?;
        if self.liars.contains(&from) || !self.committees.has_seat(from) {
            return None;
        }
        let log = open.work.member.work.log;
        Some(self.reports.entry(key).or_insert_with(|| Reports::new(log)))
    }
}
