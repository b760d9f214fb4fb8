//! A validator in a run, as a machine (spec: runs, sections 5 to 7).
//!
//! It hears what trainers commit to and show, has contributions checked and added up, signs a round that it would have
//! made alike, and replays work that was drawn for an audit. When its turn comes it proposes the round.
//!
//! Four rules carry the rest:
//!
//! * **Nothing is taken that was committed to after something was shown**, so that no work can be copied.
//! * **A number is signed once.** A round that finds no agreement is made again under the next number, by the next proposer.
//! * **What a validator signs it has computed itself**: the checks, the sum, and the audits that the book reports.
//! * **Pay and exclusion follow from books alone**, so that they are the same for all who have them.
//!
//! Deliberately absent: files, kernels, the network, the chain and keys. The driver performs effects in their order and
//! reports what came of them.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};

use super::board::{Board, COMMITMENTS_MAX, Check, Sum};
use super::book::{AUDITORS_MAX, AUDITS_MAX, Audit, Book, BookForm, Member};
use super::committee::RunCommittee;
use super::history::{History, HistoryError, OpenAudit, RunRules};
use super::message::{
    AuditOutcome, Close, Commit, Endorsement, LossBits, Proposal, Report, RoundStart, RunMessage,
    Work, replay_seal,
};
use super::{Head, turn};
use crate::content::ContentHash;
use crate::ledger::statement::{LedgerDomain, RoundStatement};
use crate::offer::DeviceId;
use crate::signature::Signature;
use crate::time::Timestamp;

/// Messages about a round that is not known yet, of all devices and of one.
const EARLY_MAX: usize = 1_024;
const EARLY_OF_ONE_MAX: usize = 8;
/// Replays that have to agree before work counts as different.
pub const CONFIRMATIONS: usize = 3;
/// One in so many audits is done by two validators, so that reports without a replay are found.
const SECOND_ONE_IN: u8 = 8;

/// Who a validator is, and for whom it decides.
#[derive(Debug, Clone, Copy)]
pub struct ValidatorIdentity {
    /// The device.
    pub device: DeviceId,
    /// The domain of its statements.
    pub domain: LedgerDomain,
    /// The contract that records rounds.
    pub runs: Address,
}

/// What happens.
#[derive(Debug, Clone)]
pub enum ValidatorEvent {
    /// The chain has recorded a round, whose book this is; or it says where the run begins.
    Head {
        /// Where the next round begins.
        head: Head,
        /// The book of the recorded round; nothing at the beginning of the run.
        book: Option<Box<Book>>,
    },
    /// These validators are in office from now on.
    Committee(RunCommittee),
    /// A device said something.
    Heard {
        /// The device, whose signature was checked.
        from: DeviceId,
        /// What it said.
        message: RunMessage,
    },
    /// A contribution was fetched and looked at ([`ValidatorEffect::Check`]).
    Checked {
        /// The contribution.
        contribution: ContentHash,
        /// Whether it can be added up.
        is_good: bool,
    },
    /// The contributions of a book were added up ([`ValidatorEffect::Aggregate`]).
    Aggregated {
        /// Name of the book.
        book: ContentHash,
        /// Hash of the weights after; nothing where it failed.
        next: Option<B256>,
    },
    /// A round was signed ([`ValidatorEffect::Sign`]), or must not be.
    Signed {
        /// What was to be signed.
        statement: RoundStatement,
        /// The signature, durable.
        signature: Option<Signature>,
    },
    /// Work was replayed ([`ValidatorEffect::Replay`]).
    Replayed {
        /// The round in which it was admitted.
        index: u64,
        /// Who did it.
        trainer: DeviceId,
        /// What came of it.
        outcome: AuditOutcome,
        /// The losses of all steps, as replayed.
        losses: Vec<LossBits>,
    },
    /// Time passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum ValidatorEffect {
    /// Tell everybody who takes part.
    Say(RunMessage),
    /// Fetch a contribution, keep it, look at it, and answer with [`ValidatorEvent::Checked`].
    Check {
        /// Who has it.
        trainer: DeviceId,
        /// Its name.
        contribution: ContentHash,
    },
    /// Add up the contributions of a book, and answer with [`ValidatorEvent::Aggregated`].
    Aggregate(Box<Book>),
    /// Sign a round, unless another one was signed under its number, and answer with [`ValidatorEvent::Signed`].
    Sign(RoundStatement),
    /// Send a round to the chain.
    Record {
        /// The round.
        statement: RoundStatement,
        /// The epoch whose validators signed it.
        epoch: u64,
        /// Their seats.
        mask: u32,
        /// Their signatures, in the order of seats.
        signatures: Vec<Signature>,
    },
    /// Replay work, and answer with [`ValidatorEvent::Replayed`].
    Replay {
        /// The round in which it was admitted.
        index: u64,
        /// What to replay.
        audit: Box<OpenAudit>,
    },
    /// The chain recorded what cannot be: two thirds of the validators lied.
    Broken(HistoryError),
}

/// The machine of one validator in one run.
#[derive(Debug)]
pub struct Validator {
    identity: ValidatorIdentity,
    history: History,
    head: Option<Head>,
    /// Those in office, and those before.
    committees: Vec<RunCommittee>,
    board: Board,
    early: Vec<(DeviceId, RunMessage)>,
    reports: BTreeMap<(u64, DeviceId), BTreeMap<DeviceId, Report>>,
    /// Audits that this device was asked to replay, and the losses that it found.
    replays: BTreeMap<(u64, DeviceId), Option<Vec<LossBits>>>,
    opened_at: BTreeMap<(u64, DeviceId), Timestamp>,
    /// Validators that reported a replay which they cannot have made.
    liars: BTreeSet<DeviceId>,
}

impl Validator {
    /// A validator that knows nothing of the run yet.
    #[must_use]
    pub fn new(identity: ValidatorIdentity, rules: RunRules) -> Self {
        Self {
            identity,
            history: History::new(rules),
            head: None,
            committees: Vec::new(),
            board: Board::default(),
            early: Vec::new(),
            reports: BTreeMap::new(),
            replays: BTreeMap::new(),
            opened_at: BTreeMap::new(),
            liars: BTreeSet::new(),
        }
    }

    /// The run so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Validators that reported replays which they cannot have made.
    #[must_use]
    pub fn liars(&self) -> &BTreeSet<DeviceId> {
        &self.liars
    }

    /// Takes an event, and says what is to be done.
    pub fn handle(&mut self, now: Timestamp, event: ValidatorEvent) -> Vec<ValidatorEffect> {
        let mut effects = Vec::new();
        match event {
            ValidatorEvent::Head { head, book } => self.begin(now, head, book, &mut effects),
            ValidatorEvent::Committee(committee) => self.install(committee),
            ValidatorEvent::Heard { from, message } => self.hear(now, from, message),
            ValidatorEvent::Checked {
                contribution,
                is_good,
            } => {
                let check = if is_good { Check::Good } else { Check::Bad };
                self.board.checks.insert(contribution, check);
            }
            ValidatorEvent::Aggregated { book, next } => {
                let sum = next.map_or(Sum::Failed, Sum::Known);
                self.board.sums.insert(book, sum);
            }
            ValidatorEvent::Signed {
                statement,
                signature,
            } => self.endorse(now, &statement, signature, &mut effects),
            ValidatorEvent::Replayed {
                index,
                trainer,
                outcome,
                losses,
            } => self.report(now, (index, trainer), outcome, losses, &mut effects),
            ValidatorEvent::Tick => {}
        }
        self.advance(now, &mut effects);
        effects
    }

    fn begin(
        &mut self,
        now: Timestamp,
        head: Head,
        book: Option<Box<Book>>,
        effects: &mut Vec<ValidatorEffect>,
    ) {
        if let Some(book) = book
            && book.index == self.history.index()
            && let Err(error) = self.history.apply(&book, head.beacon)
        {
            effects.push(ValidatorEffect::Broken(error));
            return;
        }
        if head.index != self.history.index() || self.head == Some(head) {
            return;
        }
        let came_late = self.head.is_none() && now > head.opened_at;
        self.head = Some(head);
        self.board = Board {
            came_late,
            ..Board::default()
        };
        let open = self.history.open_audits();
        self.reports.retain(|key, _| open.contains_key(key));
        self.replays.retain(|key, _| open.contains_key(key));
        self.opened_at.retain(|key, _| open.contains_key(key));
        for key in open.keys() {
            self.opened_at.entry(*key).or_insert(head.opened_at);
        }
        for (from, message) in std::mem::take(&mut self.early) {
            self.hear(now, from, message);
        }
    }

    fn install(&mut self, committee: RunCommittee) {
        self.committees
            .retain(|known| known.epoch < committee.epoch);
        self.committees.insert(0, committee);
        self.committees.truncate(2);
    }

    fn say(&mut self, now: Timestamp, message: RunMessage, effects: &mut Vec<ValidatorEffect>) {
        effects.push(ValidatorEffect::Say(message.clone()));
        self.hear(now, self.identity.device, message);
    }

    fn hear(&mut self, now: Timestamp, from: DeviceId, message: RunMessage) {
        let Some(head) = self.head else {
            self.keep_early(from, message);
            return;
        };
        let is_known = match &message {
            RunMessage::Commit(commit) => commit.parent == head.state,
            RunMessage::Close(close) => close.parent == head.state,
            RunMessage::Reveal(reveal) => reveal.parent == head.state,
            RunMessage::Proposal(proposal) => proposal.book.parent == head.state,
            RunMessage::Endorsement(endorsement) => endorsement.parent == head.state,
            RunMessage::Report(report) => report.index < self.history.index(),
        };
        if !is_known {
            self.keep_early(from, message);
            return;
        }
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
            RunMessage::Endorsement(endorsement) => self.hear_endorsement(head, &endorsement),
            RunMessage::Report(report) => self.hear_report(from, report),
        }
    }

    /// Keeps what may become clear with the next record; of each device only the latest.
    fn keep_early(&mut self, from: DeviceId, message: RunMessage) {
        let of_one = self.early.iter().filter(|(device, _)| *device == from);
        if of_one.count() >= EARLY_OF_ONE_MAX
            && let Some(oldest) = self.early.iter().position(|(device, _)| *device == from)
        {
            self.early.remove(oldest);
        }
        if self.early.len() < EARLY_MAX {
            self.early.push((from, message));
        }
    }

    /// Whether it is, or was a moment ago, the turn of `from` to propose round `number`.
    fn is_turn(&self, now: Timestamp, head: Head, number: u64, epoch: u64, from: DeviceId) -> bool {
        let committee = self.committees.iter().find(|c| c.epoch == epoch);
        let attempt = turn::attempt_of(&head, self.history.rules(), number, now);
        let proposer = committee
            .zip(attempt)
            .and_then(|(committee, attempt)| committee.proposer(head.state, attempt));
        proposer.is_some_and(|seat| seat.device == from)
    }

    fn hear_close(&mut self, now: Timestamp, head: Head, from: DeviceId, close: Close) {
        let is_ordered = close.commitments.is_sorted_by(|a, b| a.0 < b.0);
        let trainers_max = self.history.rules().trainers_max as usize;
        if is_ordered
            && close.commitments.len() <= trainers_max
            && self.is_turn(now, head, close.number, close.epoch, from)
        {
            let closes = &mut self.board.closes;
            closes.entry(close.number).or_insert((close, now));
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
            self.board.is_shown = true;
            self.board.reveals.entry(from).or_insert(work);
        }
    }

    fn hear_proposal(&mut self, now: Timestamp, head: Head, from: DeviceId, proposal: Proposal) {
        let (number, epoch) = (proposal.number, proposal.epoch);
        if self.is_turn(now, head, number, epoch, from) && proposal.book.check().is_ok() {
            let proposals = &mut self.board.proposals;
            proposals.entry(number).or_insert(proposal);
        }
    }

    fn hear_endorsement(&mut self, head: Head, endorsement: &Endorsement) {
        let statement = RoundStatement {
            run: self.history.rules().run,
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
        let mut committees = self.committees.iter();
        if !committees.any(|committee| committee.seat_of_key(signer).is_some()) {
            return;
        }
        let ballot = (
            endorsement.number,
            endorsement.contributions,
            endorsement.next,
        );
        // A seat that signs two ballots of one number proves its own lie; that it fills this map is bounded by seats.
        let mine = self.board.endorsements.entry(ballot).or_default();
        mine.entry(signer).or_insert(endorsement.signature);
    }

    fn hear_report(&mut self, from: DeviceId, report: Report) {
        let key = (report.index, report.trainer);
        if self.liars.contains(&from) || !self.auditors(key).contains(&from) {
            return;
        }
        if let Some(Some(losses)) = self.replays.get(&key)
            && report.outcome == AuditOutcome::Same
            && report.seal != Some(replay_seal(from, losses))
        {
            self.liars.insert(from);
            return;
        }
        let reports = self.reports.entry(key).or_default();
        reports.entry(from).or_insert(report);
    }

    /// Who may judge the work, the first one first.
    fn auditors(&self, key: (u64, DeviceId)) -> Vec<DeviceId> {
        let Some(open) = self.history.open_audits().get(&key) else {
            return Vec::new();
        };
        let Some(committee) = self.committees.first() else {
            return Vec::new();
        };
        let auditors = committee.auditors(open.drawn_by, key.0, key.1, open.member.account);
        auditors.iter().map(|seat| seat.device).collect()
    }

    fn start(&self, head: Head) -> RoundStart {
        RoundStart {
            run: self.history.rules().run,
            index: head.index,
            parent: head.state,
        }
    }

    /// Does what can be done now.
    fn advance(&mut self, now: Timestamp, effects: &mut Vec<ValidatorEffect>) {
        let Some(head) = self.head else { return };
        if self.history.index() < self.history.rules().rounds {
            self.look_at_reveals(effects);
            self.propose(now, head, effects);
            self.consider(head, effects);
            self.record(now, head, effects);
        }
        self.audit(now, effects);
    }

    /// Has every shown contribution checked that some closing names.
    fn look_at_reveals(&mut self, effects: &mut Vec<ValidatorEffect>) {
        for (trainer, work) in &self.board.reveals {
            let contribution = work.contribution;
            if !self.board.checks.contains_key(&contribution) {
                self.board.checks.insert(contribution, Check::Asked);
                effects.push(ValidatorEffect::Check {
                    trainer: *trainer,
                    contribution,
                });
            }
        }
    }

    fn propose(&mut self, now: Timestamp, head: Head, effects: &mut Vec<ValidatorEffect>) {
        let rules = *self.history.rules();
        let attempt = turn::attempt(&head, &rules, now);
        let number = turn::number(&head, attempt);
        let Some(committee) = self.committees.first() else {
            return;
        };
        let epoch = committee.epoch;
        let proposer = committee.proposer(head.state, attempt);
        if proposer.is_none_or(|seat| seat.device != self.identity.device) {
            return;
        }
        let Some((close, closed_at)) = self.board.closes.get(&number).cloned() else {
            if let Some(commitments) = self.commitments_to_close(now, head, &rules) {
                let close = Close {
                    number,
                    parent: head.state,
                    epoch,
                    commitments,
                };
                self.say(now, RunMessage::Close(close), effects);
            }
            return;
        };
        if self.board.proposals.contains_key(&number) {
            return;
        }
        if !self.board.drafts.contains_key(&number) {
            let Some(draft) = self.draft(now, head, &close, closed_at) else {
                return;
            };
            self.board.drafts.insert(number, draft);
        }
        let Some(Some(book)) = self.board.drafts.get(&number).cloned() else {
            return;
        };
        if let Some(next) = self.sum_of(&book, effects) {
            let proposal = Proposal {
                number,
                epoch: close.epoch,
                book,
                next,
            };
            self.say(now, RunMessage::Proposal(Box::new(proposal)), effects);
        }
    }

    /// What a book's contributions add up to, once it is known.
    fn sum_of(&mut self, book: &Book, effects: &mut Vec<ValidatorEffect>) -> Option<B256> {
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

    /// The commitments of the round, when it is time to take no more.
    fn commitments_to_close(
        &mut self,
        now: Timestamp,
        head: Head,
        rules: &RunRules,
    ) -> Option<Vec<(DeviceId, ContentHash)>> {
        let history = &self.history;
        let commits = self.board.commits.iter();
        let mut taken: Vec<(DeviceId, &Commit)> = commits
            .filter(|(trainer, _)| !history.standing(**trainer).is_excluded)
            .map(|(trainer, commit)| (*trainer, commit))
            .collect();
        if taken.len() < rules.quorum.max(1) as usize {
            return None;
        }
        let quorum_at = *self.board.quorum_at.get_or_insert(now);
        let is_here = |trainer: &DeviceId| {
            self.board.commits.contains_key(trainer) || history.standing(*trainer).is_excluded
        };
        let last = history.last_members();
        let all_here = !last.is_empty() && last.iter().all(is_here);
        let waited = all_here || now >= quorum_at.plus_ms(rules.grace_ms);
        let has_time = turn::left_ms(&head, rules, now) >= rules.attempt_ms / 2;
        if !waited || !has_time {
            return None;
        }
        // Those with a record first; among equals the commitment decides, which nobody chooses.
        taken.sort_by_key(|(trainer, commit)| {
            let admitted = history.standing(*trainer).admitted;
            (std::cmp::Reverse(admitted), commit.commitment)
        });
        taken.truncate(rules.trainers_max as usize);
        taken.sort_by_key(|(trainer, _)| *trainer);
        let named = taken.iter();
        Some(
            named
                .map(|(trainer, commit)| (*trainer, commit.commitment))
                .collect(),
        )
    }

    /// The book to propose: nothing yet, or none at all where too few have shown their work in time.
    fn draft(
        &self,
        now: Timestamp,
        head: Head,
        close: &Close,
        closed_at: Timestamp,
    ) -> Option<Option<Book>> {
        let rules = self.history.rules();
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
        let is_late = now >= closed_at.plus_ms(rules.attempt_ms / 4);
        if is_waiting && !is_late {
            return None;
        }
        let audits = self.decided_audits();
        members.retain(|member| {
            let mut audits = audits.iter();
            !audits.any(|a| a.trainer == member.trainer && a.outcome == AuditOutcome::Different)
        });
        if members.len() < rules.quorum.max(1) as usize {
            return Some(None);
        }
        Some(Some(Book {
            audits,
            beacon: head.beacon,
            format: BookForm::V1,
            index: head.index,
            members,
            parent: head.state,
            previous: self.history.last_book(),
            run: rules.run,
        }))
    }

    fn decided_audits(&self) -> Vec<Audit> {
        let open = self.history.open_audits().keys();
        let decided = open.filter_map(|key| {
            let (outcome, auditors) = self.decided(*key)?;
            Some(Audit {
                auditors,
                index: key.0,
                outcome,
                trainer: key.1,
            })
        });
        decided.take(AUDITS_MAX).collect()
    }

    /// What the reports on a trainer's work come to, and the accounts of those who agree.
    fn decided(&self, key: (u64, DeviceId)) -> Option<(AuditOutcome, Vec<Address>)> {
        let open = self.history.open_audits().get(&key)?;
        let reports = self.reports.get(&key)?;
        let auditors = self.auditors(key).len();
        let count = |outcome| reports.values().filter(|r| r.outcome == outcome).count();
        let need = CONFIRMATIONS.min(auditors).max(1);
        let same = count(AuditOutcome::Same);
        let second = usize::from(is_checked_twice(open, key)) + 1;
        let outcome = if count(AuditOutcome::Different) >= need {
            AuditOutcome::Different
        } else if same >= need || (same == reports.len() && same >= second.min(auditors)) {
            AuditOutcome::Same
        } else if count(AuditOutcome::Unavailable) >= need {
            AuditOutcome::Unavailable
        } else {
            return None;
        };
        let committee = self.committees.first()?;
        let agreeing = reports
            .iter()
            .filter(|(_, report)| report.outcome == outcome);
        let seats = agreeing.filter_map(|(device, _)| committee.seat_of(*device));
        let accounts: BTreeSet<Address> = seats.map(|seat| seat.seat.household).collect();
        Some((outcome, accounts.into_iter().take(AUDITORS_MAX).collect()))
    }

    /// Signs the proposals that this device would have made alike.
    fn consider(&mut self, head: Head, effects: &mut Vec<ValidatorEffect>) {
        let proposals: Vec<Proposal> = self
            .board
            .proposals
            .values()
            .filter(|proposal| {
                let number = proposal.number;
                !self.board.refused.contains(&number) && !self.board.endorsed.contains(&number)
            })
            .cloned()
            .collect();
        for proposal in proposals {
            let number = proposal.number;
            match self.judge(head, &proposal, effects) {
                Judgment::Wait => {}
                Judgment::Refuse => {
                    self.board.refused.insert(number);
                }
                Judgment::Agree => {
                    self.board.endorsed.insert(number);
                    effects.push(ValidatorEffect::Sign(RoundStatement {
                        run: self.history.rules().run,
                        round: number,
                        parent: head.state,
                        contributions: proposal.book.name().0.into(),
                        next: proposal.next,
                    }));
                }
            }
        }
    }

    fn judge(
        &mut self,
        head: Head,
        proposal: &Proposal,
        effects: &mut Vec<ValidatorEffect>,
    ) -> Judgment {
        let book = &proposal.book;
        let rules = *self.history.rules();
        let members = rules.quorum.max(1) as usize..=rules.trainers_max as usize;
        let is_seated = self.committees.iter().any(|committee| {
            committee.epoch == proposal.epoch && committee.seat_of(self.identity.device).is_some()
        });
        if !is_seated
            || self.history.check(book).is_err()
            || book.beacon != head.beacon
            || !members.contains(&book.members.len())
        {
            return Judgment::Refuse;
        }
        let Some((close, _)) = self.board.closes.get(&proposal.number) else {
            return Judgment::Wait;
        };
        let start = self.start(head);
        for member in &book.members {
            let named = close
                .commitments
                .binary_search_by_key(&member.trainer, |(trainer, _)| *trainer)
                .map(|place| close.commitments[place].1);
            let made = member
                .work
                .commitment(&start, member.trainer, member.account);
            if named != Ok(made) {
                return Judgment::Refuse;
            }
            match self.board.commits.get(&member.trainer) {
                Some(commit) if commit.commitment == made => {}
                // Not heard before something was shown: it may be a copy.
                Some(_) => return Judgment::Refuse,
                None => return Judgment::Wait,
            }
            match self.board.checks.get(&member.work.contribution) {
                Some(Check::Good) => {}
                Some(Check::Bad) => return Judgment::Refuse,
                Some(Check::Asked) | None => return Judgment::Wait,
            }
        }
        for audit in &book.audits {
            match self.decided((audit.index, audit.trainer)) {
                Some((outcome, _)) if outcome != audit.outcome => return Judgment::Refuse,
                Some((_, auditors)) if audit.auditors.iter().all(|a| auditors.contains(a)) => {}
                Some(_) | None => return Judgment::Wait,
            }
        }
        match self.sum_of(book, effects) {
            Some(next) if next == proposal.next => Judgment::Agree,
            Some(_) => Judgment::Refuse,
            None => Judgment::Wait,
        }
    }

    fn endorse(
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

    /// Sends a round to the chain that enough have signed: the proposer at once, everybody else when its time is over.
    fn record(&mut self, now: Timestamp, head: Head, effects: &mut Vec<ValidatorEffect>) {
        let rules = *self.history.rules();
        let current = turn::attempt(&head, &rules, now);
        for ((number, contributions, next), endorsements) in &self.board.endorsements {
            if self.board.sent.contains(number) {
                continue;
            }
            let Some(attempt) = turn::attempt_of(&head, &rules, *number, now) else {
                continue;
            };
            for committee in &self.committees {
                let (mask, is_decided) = committee.count(endorsements.keys());
                let proposer = committee.proposer(head.state, attempt);
                let is_mine = proposer.is_some_and(|seat| seat.device == self.identity.device);
                if !is_decided || (!is_mine && attempt >= current) {
                    continue;
                }
                self.board.sent.insert(*number);
                effects.push(ValidatorEffect::Record {
                    statement: RoundStatement {
                        run: rules.run,
                        round: *number,
                        parent: head.state,
                        contributions: contributions.0.into(),
                        next: *next,
                    },
                    epoch: committee.epoch,
                    mask,
                    signatures: committee.in_order(mask, |key| endorsements.get(&key)),
                });
                break;
            }
        }
    }

    /// Replays what is this device's to replay now.
    fn audit(&mut self, now: Timestamp, effects: &mut Vec<ValidatorEffect>) {
        let due: Vec<_> = self
            .history
            .open_audits()
            .iter()
            .filter(|(key, open)| self.is_due(now, **key, open))
            .map(|(key, open)| (*key, open.clone()))
            .collect();
        for (key, open) in due {
            self.replays.insert(key, None);
            effects.push(ValidatorEffect::Replay {
                index: key.0,
                audit: Box::new(open),
            });
        }
    }

    fn is_due(&self, now: Timestamp, key: (u64, DeviceId), open: &OpenAudit) -> bool {
        if self.replays.contains_key(&key) || self.decided(key).is_some() {
            return false;
        }
        let auditors = self.auditors(key);
        let me = self.identity.device;
        let Some(rank) = auditors.iter().position(|device| *device == me) else {
            return false;
        };
        let reports = self.reports.get(&key);
        let is_disputed =
            reports.is_some_and(|all| all.values().any(|r| r.outcome != AuditOutcome::Same));
        let opened_at = self.opened_at.get(&key).copied().unwrap_or(now);
        let attempts = now.ms_since(opened_at) / self.history.rules().attempt_ms.max(1);
        let mut wanted = 1 + usize::from(is_checked_twice(open, key));
        wanted = wanted.saturating_add(usize::try_from(attempts).unwrap_or(usize::MAX));
        if is_disputed {
            wanted = wanted
                .max(CONFIRMATIONS)
                .max(reports.map_or(0, BTreeMap::len) + 1);
        }
        rank < wanted
    }

    fn report(
        &mut self,
        now: Timestamp,
        key: (u64, DeviceId),
        outcome: AuditOutcome,
        losses: Vec<LossBits>,
        effects: &mut Vec<ValidatorEffect>,
    ) {
        if !self.history.open_audits().contains_key(&key) {
            return;
        }
        let replayed = outcome != AuditOutcome::Unavailable;
        let seal = replayed.then(|| replay_seal(self.identity.device, &losses));
        if outcome == AuditOutcome::Same {
            self.convict_lazy(key, &losses);
        }
        let known = (outcome == AuditOutcome::Same).then_some(losses);
        self.replays.insert(key, known);
        let report = Report {
            index: key.0,
            trainer: key.1,
            outcome,
            seal,
        };
        self.say(now, RunMessage::Report(report), effects);
    }

    /// Drops reports of validators that cannot know the losses which a replay gives.
    fn convict_lazy(&mut self, key: (u64, DeviceId), losses: &[LossBits]) {
        let Some(reports) = self.reports.get_mut(&key) else {
            return;
        };
        let is_lie = |device: &DeviceId, report: &Report| {
            report.outcome == AuditOutcome::Same
                && report.seal != Some(replay_seal(*device, losses))
        };
        let lies = reports
            .iter()
            .filter(|(device, report)| is_lie(device, report));
        let liars: Vec<DeviceId> = lies.map(|(device, _)| *device).collect();
        reports.retain(|device, _| !liars.contains(device));
        self.liars.extend(liars);
    }
}

/// What a validator makes of a proposal.
enum Judgment {
    Agree,
    Refuse,
    /// Something is still to be heard or computed.
    Wait,
}

/// Whether two validators replay the work whatever the first one finds.
fn is_checked_twice(open: &OpenAudit, key: (u64, DeviceId)) -> bool {
    let mut hasher = blake3::Hasher::new_derive_key("hearth run second audit 1");
    hasher.update(open.drawn_by.as_slice());
    hasher.update(&key.0.to_le_bytes());
    hasher.update(&key.1.0);
    hasher.finalize().as_bytes()[0] % SECOND_ONE_IN == 0
}
