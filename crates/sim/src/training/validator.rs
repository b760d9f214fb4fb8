//! The driver of a validator's machine, and the ways in which validators lie.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};
use hearth_protocol::content::ContentHash;
use hearth_protocol::ledger::draw::Seat;
use hearth_protocol::ledger::statement::RoundStatement;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::run::book::{Audit, Member};
use hearth_protocol::run::committee::RunSeat;
use hearth_protocol::run::history::{AUDIT_ROUNDS_MAX, RecordedWork, RunRules};
use hearth_protocol::run::message::{
    AuditOutcome, Endorsement, LossBits, LossKey, Proposal, Report, RunMessage,
};
use hearth_protocol::run::validator::{
    Validator, ValidatorEffect, ValidatorEvent, ValidatorIdentity,
};
use hearth_protocol::signature::Signature;
use hearth_protocol::time::Timestamp;

use super::chain::{RunsChain, Transaction};
use super::model::{Order, add_up, train};
use super::scene::{Moment, Place};
use super::world::{START, TrainingWorld, id_of};
use crate::invariant::{Broken, ensure};
use crate::key::Key;

/// For how long a replay waits for what it starts from, in milliseconds.
const LOCAL_WAIT_MS: u64 = 12_000;

/// How a validator decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Candor {
    Honest,
    /// Says that work is the same without a replay.
    Lazy,
    /// Says what another auditor said.
    CopiesReports,
    /// Says that all work is different.
    Slanders,
    /// Says that the contributions add up to something else.
    WrongSum,
    /// Proposes a book that does not follow.
    WrongBook,
    /// Closes twice, with other commitments.
    ClosesTwice,
    /// Signs everything that is proposed, and more.
    EndorsesAll,
    /// Says nothing.
    Silent,
    /// Signs in the names of others.
    Forges,
    /// Says more than anybody can keep.
    Floods,
    /// Says that the work of trainers that cheat is the same, and replays that of others.
    Colludes,
}

impl Candor {
    pub(super) const BAD: [Self; 11] = [
        Self::Lazy,
        Self::CopiesReports,
        Self::Slanders,
        Self::WrongSum,
        Self::WrongBook,
        Self::ClosesTwice,
        Self::EndorsesAll,
        Self::Silent,
        Self::Forges,
        Self::Floods,
        Self::Colludes,
    ];
}

/// A validator's device.
#[derive(Debug)]
pub(super) struct ValidatorSide {
    pub(super) candor: Candor,
    pub(super) machine: Validator,
    pub(super) seat: RunSeat,
    identity: ValidatorIdentity,
    rules: RunRules,
    key: Key,
    /// On disk: what it signed, by number.
    signed: BTreeMap<u64, (RoundStatement, Signature)>,
    /// Replays that it began to try, and when.
    replays_busy_until: Timestamp,
}

impl ValidatorSide {
    pub(super) fn new(
        place: Place,
        candor: Candor,
        household: Address,
        weight: u128,
        chain: &RunsChain,
        rules: RunRules,
    ) -> Self {
        let key = Key::numbered(u8::try_from(place).unwrap_or(0) + 100);
        let device = id_of(place);
        let seat = RunSeat {
            device,
            seat: Seat {
                device: key.address(),
                household,
                weight,
            },
        };
        let identity = ValidatorIdentity {
            device,
            domain: chain.domain(),
            runs: chain.runs(),
        };
        Self {
            candor,
            machine: Validator::new(identity, rules),
            seat,
            identity,
            rules,
            key,
            signed: BTreeMap::new(),
            replays_busy_until: START,
        }
    }

    /// The device starts with what is on its disk.
    pub(super) fn restart(&mut self) {
        self.machine = Validator::new(self.identity, self.rules);
        self.replays_busy_until = START;
    }

    fn signature(&self, statement: &RoundStatement) -> Signature {
        let ledger = statement.for_runs(self.identity.runs);
        self.key
            .sign(self.identity.domain.statement_digest(&ledger))
    }

    fn endorsement(&self, statement: &RoundStatement) -> Endorsement {
        Endorsement {
            number: statement.round,
            parent: statement.parent,
            contributions: ContentHash(statement.contributions.0),
            next: statement.next,
            signature: self.signature(statement),
        }
    }
}

impl TrainingWorld {
    pub(super) fn validator_event(
        &mut self,
        place: Place,
        event: ValidatorEvent,
    ) -> Result<(), Broken> {
        let number = place - self.trainers.len();
        if let ValidatorEvent::Head { head, .. } = &event {
            self.scene
                .note(format_args!("{place} learns of round {}", head.index));
        }
        let effects = self.validators[number]
            .machine
            .handle(self.scene.now, event);
        let life = self.devices[place].life;
        for effect in effects {
            self.may_crash(place);
            if !self.lives(place, life) {
                return Ok(());
            }
            self.validator_effect(place, number, effect)?;
        }
        Ok(())
    }

    fn validator_effect(
        &mut self,
        place: Place,
        number: usize,
        effect: ValidatorEffect,
    ) -> Result<(), Broken> {
        let life = self.devices[place].life;
        match effect {
            ValidatorEffect::Say(message) => self.validator_says(place, number, message),
            ValidatorEffect::Check { contribution, .. } => {
                self.scene
                    .within(20, 1_500, Moment::Fetch(place, life, contribution));
            }
            ValidatorEffect::Aggregate(book) => {
                let sum = match self.validators[number].candor {
                    Candor::WrongSum => B256::repeat_byte(0x13),
                    _ => add_up(&book),
                };
                let done = ValidatorEvent::Aggregated {
                    book: book.name(),
                    next: Some(sum),
                };
                self.tell_validator(place, 100, 2_500, done);
            }
            ValidatorEffect::Sign(statement) => self.sign(place, number, statement)?,
            ValidatorEffect::Record {
                statement,
                epoch,
                mask,
                signatures,
            } => {
                self.scene.note(format_args!(
                    "{place} sends round {} to the chain",
                    statement.round
                ));
                let transaction = Box::new(Transaction {
                    statement,
                    epoch,
                    mask,
                    signatures,
                });
                self.scene
                    .within(50, 1_500, Moment::Send(place, life, transaction));
            }
            ValidatorEffect::Replay { work, is_overdue } => {
                self.replay(place, number, &work, is_overdue);
            }
            ValidatorEffect::Accuse(proof) => self.check_accused(place, &proof)?,
            ValidatorEffect::Broken(error) => self.broken_history(place, error)?,
        }
        Ok(())
    }

    fn tell_validator(&mut self, place: Place, least_ms: u64, most_ms: u64, what: ValidatorEvent) {
        let life = self.devices[place].life;
        let moment = Moment::Validator(place, life, Box::new(what));
        self.scene.within(least_ms, most_ms, moment);
    }

    /// Signs once under a number; the signature is durable before anything else happens.
    fn sign(
        &mut self,
        place: Place,
        number: usize,
        statement: RoundStatement,
    ) -> Result<(), Broken> {
        let side = &mut self.validators[number];
        let signature = match side.signed.get(&statement.round) {
            Some((old, signature)) => (*old == statement).then_some(*signature),
            None => {
                let signature = side.signature(&statement);
                side.signed.insert(statement.round, (statement, signature));
                Some(signature)
            }
        };
        self.tally.unsigned += u64::from(signature.is_none());
        if side.candor == Candor::Honest {
            self.check_signed(place, &statement)?;
        }
        let done = ValidatorEvent::Signed {
            statement,
            signature,
        };
        self.tell_validator(place, 1, 60, done);
        Ok(())
    }

    /// Tries to get a contribution, until the device learns of the next round.
    pub(super) fn fetch(&mut self, place: Place, contribution: ContentHash) {
        let life = self.devices[place].life;
        if !self.can_fetch(place, contribution) {
            let told = self.devices[place].told;
            let asked = self.ledger.fetches.entry((place, life, contribution));
            if *asked.or_insert(told) == told {
                let again = Moment::Fetch(place, life, contribution);
                self.scene.within(1_500, 8_000, again);
            }
            return;
        }
        self.files.entry(contribution).or_default().insert(place);
        let is_good = !self.garbage.contains(&contribution);
        let done = ValidatorEvent::Checked {
            contribution,
            is_good,
        };
        self.tell_validator(place, 5, 200, done);
    }

    fn replay(&mut self, place: Place, number: usize, recorded: &RecordedWork, is_overdue: bool) {
        let trainer = recorded.member.trainer;
        let work = &recorded.member.work;
        let honest = self.honest(recorded);
        let candor = self.validators[number].candor;
        let busy_until = self.validators[number]
            .replays_busy_until
            .max(self.scene.now);
        let takes_ms = u64::from(work.steps) * self.scene.random.between(200, 1_500);
        let mut done_at = busy_until.plus_ms(takes_ms);
        let mut devices = self.devices.iter();
        let is_friend = devices.any(|one| one.id == trainer && !one.is_honest);
        let is_lie = match candor {
            Candor::Lazy | Candor::Slanders => true,
            Candor::Colludes => is_friend,
            _ => false,
        };
        if !is_lie {
            *self.ledger.worked.entry(id_of(place)).or_default() += u64::from(work.steps);
        }
        let made_up = LossKey::of(&[LossBits(7)]);
        // A trainer that cheats may tell its friends what opens a seal.
        let told = self.ledger.leaked.get(&work.log).copied();
        let (outcome, losses) = match candor {
            Candor::Lazy | Candor::Colludes if is_lie => {
                self.tally.lies += 1;
                done_at = self.scene.now.plus_ms(50);
                let told = told.filter(|_| candor == Candor::Colludes);
                (AuditOutcome::Same, told.or(Some(made_up)))
            }
            Candor::Slanders => {
                self.tally.lies += 1;
                done_at = self.scene.now.plus_ms(50);
                (AuditOutcome::Different, Some(made_up))
            }
            _ if !self.has_local_start(place, recorded, is_overdue) => {
                done_at = done_at.plus_ms(LOCAL_WAIT_MS);
                (AuditOutcome::Unavailable, None)
            }
            _ if honest.0 == *work => (AuditOutcome::Same, Some(honest.1)),
            _ => (AuditOutcome::Different, Some(honest.1)),
        };
        self.validators[number].replays_busy_until = done_at;
        let in_ms = done_at.ms_since(self.scene.now);
        let done = ValidatorEvent::Replayed {
            index: recorded.index,
            trainer,
            outcome,
            losses,
        };
        self.tell_validator(place, in_ms, in_ms, done);
    }

    /// Whether a validator has what a work starts from: given by somebody, or computed where the trainer had its time.
    fn has_local_start(&mut self, place: Place, work: &RecordedWork, is_overdue: bool) -> bool {
        let Some(file) = work.member.work.local_start else {
            return true;
        };
        let is_given = self.can_fetch(place, file);
        let is_here = is_given || is_overdue && self.can_compute(place, work);
        if is_here {
            self.tally.computed += u64::from(!is_given);
            self.files.entry(file).or_default().insert(place);
        }
        is_here
    }

    /// Whether the works that led to what a work starts from begin with what can be had, and are what they say.
    fn can_compute(&self, place: Place, work: &RecordedWork) -> bool {
        let paid = self.paid();
        let books = paid.rounds.iter().map(|round| &round.book);
        let oldest = work.index.saturating_sub(AUDIT_ROUNDS_MAX);
        for earlier in work.led_by(books.filter(|book| book.index >= oldest)) {
            if self.honest(&earlier).0.local_end != earlier.member.work.local_end {
                return false;
            }
            let start = earlier.member.work.local_start;
            if start.is_none_or(|file| self.can_fetch(place, file)) {
                return true;
            }
        }
        false
    }

    /// What honest work would have been.
    pub(super) fn honest(
        &self,
        work: &RecordedWork,
    ) -> (hearth_protocol::run::message::Work, LossKey) {
        train(&Order {
            run: self.rules.run,
            index: work.index,
            parent: work.parent,
            beacon: work.beacon,
            trainer: work.member.trainer,
            local_start: work.member.work.local_start,
            steps: work.member.work.steps,
            carry: self.rules.carry,
        })
    }

    fn validator_says(&mut self, place: Place, number: usize, message: RunMessage) {
        let candor = self.validators[number].candor;
        match (candor, message) {
            (Candor::Silent, _) => {}
            (Candor::WrongBook, RunMessage::Proposal(proposal)) => {
                self.tally.lies += 1;
                let twisted = self.twist(number, *proposal);
                self.scene
                    .note(format_args!("{place} proposes a twisted book"));
                self.endorse_blindly(place, number, &twisted);
                self.say(place, RunMessage::Proposal(Box::new(twisted)));
            }
            (Candor::ClosesTwice, RunMessage::Close(close)) => {
                self.tally.lies += 1;
                let mut other = close.clone();
                if other.commitments.len() > 1 {
                    other.commitments.pop();
                } else {
                    other.commitments.clear();
                }
                let both = match self.scene.random.one_in(2) {
                    true => [close, other],
                    false => [other, close],
                };
                for close in both {
                    self.say(place, RunMessage::Close(close));
                }
            }
            (Candor::WrongSum, RunMessage::Proposal(proposal)) => {
                self.tally.lies += 1;
                self.endorse_blindly(place, number, &proposal);
                self.say(place, RunMessage::Proposal(proposal));
            }
            (_, message) => self.say(place, message),
        }
    }

    /// A book that honest validators would not have made.
    fn twist(&mut self, number: usize, mut proposal: Proposal) -> Proposal {
        let way = self.scene.random.below(7);
        let account = self.validators[number].seat.seat.household;
        let book = &mut proposal.book;
        match way {
            0 => {
                book.members.pop();
            }
            1 => {
                if let Some(first) = book.members.first().cloned() {
                    let trainer = DeviceId([0xee; 32]);
                    book.members.push(Member { trainer, ..first });
                    book.members.sort_by_key(|member| member.trainer);
                }
            }
            2 => {
                for member in &mut book.members {
                    member.account = account;
                }
            }
            3 => {
                let history = self.validators[number].machine.history();
                let open = history.open_audits().keys().next().copied();
                if let Some((index, trainer)) = open {
                    let known = |audit: &Audit| (audit.index, audit.trainer) == (index, trainer);
                    book.audits.retain(|audit| !known(audit));
                    book.audits.push(Audit {
                        auditors: vec![account],
                        index,
                        outcome: AuditOutcome::Different,
                        trainer,
                    });
                    book.audits
                        .sort_by_key(|audit| (audit.index, audit.trainer));
                    book.members.retain(|member| member.trainer != trainer);
                }
            }
            4 => book.previous = Some(ContentHash::of(b"another")),
            5 => book.beacon = B256::repeat_byte(0x44),
            _ => {
                if let Some(member) = book.members.first_mut() {
                    member.work.steps = member.work.steps.saturating_sub(1);
                }
            }
        }
        proposal.next = add_up(&proposal.book);
        proposal
    }

    fn endorse_blindly(&mut self, place: Place, number: usize, proposal: &Proposal) {
        let statement = RoundStatement {
            run: self.rules.run,
            round: proposal.number,
            parent: proposal.book.parent,
            contributions: proposal.book.name().0.into(),
            next: proposal.next,
        };
        let endorsement = self.validators[number].endorsement(&statement);
        self.say(place, RunMessage::Endorsement(endorsement));
    }

    /// What a validator that lies makes of what others say.
    pub(super) fn overhear(&mut self, place: Place, from: DeviceId, message: &RunMessage) {
        let number = place - self.trainers.len();
        let candor = self.validators[number].candor;
        // Those that lie do not answer each other's lies without end.
        let is_answer = matches!(
            message,
            RunMessage::Report(_) | RunMessage::Opening(_) | RunMessage::Endorsement(_)
        );
        let by_liar = self
            .devices
            .iter()
            .any(|one| one.id == from && !one.is_honest);
        if from == id_of(place) || (is_answer && by_liar) {
            return;
        }
        match (candor, message) {
            (Candor::Honest | Candor::Silent, _) => {}
            (Candor::CopiesReports, RunMessage::Report(report)) => {
                self.tally.lies += 1;
                self.say(place, RunMessage::Report(*report));
            }
            (Candor::CopiesReports, RunMessage::Opening(opening)) => {
                self.tally.lies += 1;
                self.say(
                    place,
                    RunMessage::Report(Report {
                        index: opening.index,
                        trainer: opening.trainer,
                        outcome: AuditOutcome::Same,
                        seal: Some(opening.key.seal(id_of(place))),
                    }),
                );
                self.say(place, RunMessage::Opening(*opening));
            }
            (Candor::Slanders, RunMessage::Report(report)) => {
                self.tally.lies += 1;
                let report = Report {
                    outcome: AuditOutcome::Different,
                    ..*report
                };
                self.say(place, RunMessage::Report(report));
            }
            (Candor::Floods, RunMessage::Proposal(_) | RunMessage::Commit(_)) => {
                self.flood(place, number);
            }
            (Candor::Forges, RunMessage::Endorsement(endorsement)) => {
                self.tally.lies += 1;
                let forged = Endorsement {
                    next: B256::repeat_byte(0x66),
                    ..*endorsement
                };
                self.say(place, RunMessage::Endorsement(forged));
            }
            (_, RunMessage::Proposal(proposal)) => {
                self.tally.lies += 1;
                self.endorse_blindly(place, number, proposal);
                if candor == Candor::EndorsesAll {
                    let mut other = (**proposal).clone();
                    other.next = B256::repeat_byte(0x99);
                    self.endorse_blindly(place, number, &other);
                }
            }
            _ => {}
        }
    }

    fn flood(&mut self, place: Place, number: usize) {
        self.tally.lies += 1;
        for _ in 0..12 {
            let noise = self.scene.random.number();
            let head = self.chain.head();
            let mut parent = head.state;
            if noise & 1 == 1 {
                parent = (*blake3::hash(&noise.to_le_bytes()).as_bytes()).into();
            }
            let statement = RoundStatement {
                run: self.rules.run,
                round: head.next_number + noise % 900,
                parent,
                contributions: B256::repeat_byte(noise.to_le_bytes()[3]),
                next: B256::repeat_byte(noise.to_le_bytes()[4]),
            };
            let endorsement = self.validators[number].endorsement(&statement);
            let message = match noise % 3 {
                0 => RunMessage::Endorsement(endorsement),
                1 => RunMessage::Report(Report {
                    index: noise % 40,
                    trainer: id_of(0),
                    outcome: AuditOutcome::Unavailable,
                    seal: None,
                }),
                _ => RunMessage::Close(hearth_protocol::run::message::Close {
                    number: statement.round,
                    parent,
                    epoch: noise % 4,
                    commitments: Vec::new(),
                }),
            };
            self.say(place, message);
        }
    }

    /// What a validator signed once, it never says otherwise.
    fn check_signed(&mut self, place: Place, statement: &RoundStatement) -> Result<(), Broken> {
        let number = place - self.trainers.len();
        let signed = self.validators[number].signed.get(&statement.round);
        let Some((first, _)) = signed.copied() else {
            return Ok(());
        };
        let known = self
            .ledger
            .signed
            .entry((place, statement.round))
            .or_insert(first);
        ensure(*known == first, "a-number-is-signed-once", || {
            format!("{place} signed two records of {}", statement.round)
        })
    }
}
