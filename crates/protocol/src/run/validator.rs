//! A validator in a run, as a machine (spec: runs, sections 5 to 7).
//!
//! It hears what trainers commit to and show, has contributions checked and added up, signs a round that it would have
//! made alike, and replays work that was drawn for an audit. When its turn comes it proposes the round. After the last
//! round it goes on until no audit is open.
//!
//! Four rules carry the rest:
//!
//! * **Nothing is taken that was committed to after something was shown**, so that no work can be copied. Who was away
//!   cannot know what came first; so this yields after [`LATE_ATTEMPTS`], and a replay finds what was copied.
//! * **A number is signed once.** A round that finds no agreement is made again under the next number, by the next proposer.
//! * **What a validator signs it has computed itself**: the checks, the sum, and the audits that the book reports.
//! * **Pay and exclusion follow from books alone**, so that they are the same for all who have them.
//!
//! Deliberately absent: files, kernels, the network, the chain and keys. The driver performs effects in their order and
//! reports what came of them.

mod auditing;
mod ending;
mod hearing;
mod judging;
mod proposing;
mod reports;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use alloy_primitives::{Address, B256};

pub use self::auditing::CONFIRMATIONS;
use self::reports::Reports;
use super::board::{Board, COMMITMENTS_MAX, Check, Sum};
use super::book::{MEMBERS_MAX, RoundBook};
use super::committee::{InOffice, RunCommittee};
use super::early::{EARLY_MAX, Early};
use super::history::{AUDIT_ROUNDS_MAX, History, HistoryError, RecordedWork, RunRules};
use super::message::{AuditOutcome, LossKey, RoundStart, RunMessage};
use super::{Head, turn};
use crate::content::ContentHash;
use crate::ledger::draw::RUN_SEATS;
use crate::ledger::statement::{Equivocation, LedgerDomain, RoundStatement};
use crate::offer::DeviceId;
use crate::signature::Signature;
use crate::time::Timestamp;

/// Attempts in which only work is taken that was committed to before anyone could have shown it.
pub const LATE_ATTEMPTS: u64 = 2;
/// Attempts in which nothing is taken that equals what another has shown.
const COPY_ATTEMPTS: u64 = 6;
/// Attempts in which books report audits. Later ones do without, so that reports which did not reach everybody hold up no
/// round.
const AUDIT_ATTEMPTS: u64 = 4;
/// States of earlier rounds about which nothing is heard any more.
const PAST_STATES: usize = 32;
/// Attempts for which a message waits for the round that it is about.
const EARLY_ATTEMPTS: u64 = 4;

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
        book: Option<Box<RoundBook>>,
    },
    /// The chain has recorded a round, whose book this is, and others after it: for a device that starts, or was away.
    Past {
        /// The book of the recorded round.
        book: Box<RoundBook>,
        /// The hash of the record's block.
        beacon: B256,
    },
    /// These validators are in office, or were until a moment ago.
    Committee(RunCommittee),
    /// A device said something. A device that starts learns of the chain before it hears others: of what is about rounds
    /// that it does not know little is kept.
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
        /// The state after; nothing where it failed.
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
        /// Of the losses of all steps, as replayed; nothing where there was no replay.
        losses: Option<LossKey>,
    },
    /// Time passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum ValidatorEffect {
    /// Tell everybody who takes part.
    Say(RunMessage),
    /// Fetch a contribution, keep it, look at it, and answer with [`ValidatorEvent::Checked`]. Where nobody gives it, try
    /// again until the next round: only bytes that are there can be bad.
    Check {
        /// Who has it.
        trainer: DeviceId,
        /// Its name.
        contribution: ContentHash,
    },
    /// Keep the book, add up its contributions, and answer with [`ValidatorEvent::Aggregated`]. A book of audits has none:
    /// it leads to [`RoundBook::own_state`].
    Aggregate(Box<RoundBook>),
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
        /// What to replay.
        work: Box<RecordedWork>,
        /// The trainer had time to give what it kept: where nobody gives that, compute it from older work of the trainer.
        is_overdue: bool,
    },
    /// Show the chain that a validator signed two rounds under one number; another device may have done so.
    Accuse(Equivocation),
    /// The chain recorded what cannot be: two thirds of the validators lied.
    Broken(HistoryError),
}

/// The machine of one validator in one run.
#[derive(Debug)]
pub struct Validator {
    identity: ValidatorIdentity,
    history: History,
    head: Option<Head>,
    /// When this device came: what was said before reaches it in any order.
    since: Option<Timestamp>,
    committees: InOffice,
    board: Board,
    early: Early,
    past: VecDeque<B256>,
    reports: BTreeMap<(u64, DeviceId), Reports>,
    /// Audits that this device was asked to replay, and the losses that it found.
    replays: BTreeMap<(u64, DeviceId), Option<LossKey>>,
    opened_at: BTreeMap<(u64, DeviceId), Timestamp>,
    /// Audits whose trainer did not give what a replay starts from, and when that is tried again.
    away: BTreeMap<(u64, DeviceId), Timestamp>,
    /// Validators that reported a replay which they cannot have made.
    liars: BTreeSet<DeviceId>,
    /// Session keys that signed two rounds under one number, and what proves it until it is sent.
    equivocations: BTreeMap<Address, Option<Equivocation>>,
}

impl Validator {
    /// A validator that knows nothing of the run yet.
    #[must_use]
    pub fn new(identity: ValidatorIdentity, rules: RunRules) -> Self {
        Self {
            identity,
            history: History::new(rules),
            head: None,
            since: None,
            committees: InOffice::default(),
            board: Board::default(),
            early: Early::default(),
            past: VecDeque::new(),
            reports: BTreeMap::new(),
            replays: BTreeMap::new(),
            opened_at: BTreeMap::new(),
            away: BTreeMap::new(),
            liars: BTreeSet::new(),
            equivocations: BTreeMap::new(),
        }
    }

    /// The run so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Validators that reported replays which they cannot have made, or what more than a third found otherwise.
    #[must_use]
    pub fn liars(&self) -> &BTreeSet<DeviceId> {
        &self.liars
    }

    /// Messages and results that are kept beside the history.
    #[must_use]
    pub fn held(&self) -> usize {
        let reports: usize = self.reports.values().map(Reports::len).sum();
        let audits = reports + self.replays.len() + self.opened_at.len() + self.away.len();
        let accused = self.liars.len() + self.equivocations.len();
        self.board.len() + self.early.len() + audits + accused
    }

    /// The most that [`Validator::held`] can be, whatever others send.
    #[must_use]
    pub fn held_max(&self) -> usize {
        let trainers = COMMITMENTS_MAX + self.history.trainers().count();
        // Numbers that are near, with two proposals each of so many members, and a ballot of each seat of two sets.
        let attempts = 4 * (2 * MEMBERS_MAX + 2 * RUN_SEATS + 4);
        let rounds = usize::try_from(AUDIT_ROUNDS_MAX).unwrap_or(usize::MAX);
        let audits = self.history.open_audits().len().min(rounds * MEMBERS_MAX);
        let of_audits = audits * (2 * RUN_SEATS + 3);
        4 * trainers + attempts + EARLY_MAX + 64 + of_audits + 4 * RUN_SEATS
    }

    /// Takes an event, and says what is to be done.
    pub fn handle(&mut self, now: Timestamp, event: ValidatorEvent) -> Vec<ValidatorEffect> {
        self.since.get_or_insert(now);
        let mut effects = Vec::new();
        match event {
            ValidatorEvent::Head { head, book } => self.begin(now, head, book, &mut effects),
            ValidatorEvent::Past { book, beacon } => {
                self.follow(&book, beacon, &mut effects);
                return effects;
            }
            ValidatorEvent::Committee(committee) => self.install(committee),
            ValidatorEvent::Heard { from, message } => self.hear(now, from, message),
            ValidatorEvent::Checked {
                contribution,
                is_good,
            } => {
                let check = if is_good { Check::Good } else { Check::Bad };
                if let Some(known) = self.board.checks.get_mut(&contribution) {
                    *known = check;
                }
            }
            ValidatorEvent::Aggregated { book, next } => {
                let sum = next.map_or(Sum::Failed, Sum::Known);
                if let Some(known) = self.board.sums.get_mut(&book) {
                    *known = sum;
                }
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

    /// Takes a recorded book into the history. Returns whether it could.
    fn follow(
        &mut self,
        book: &RoundBook,
        beacon: B256,
        effects: &mut Vec<ValidatorEffect>,
    ) -> bool {
        if book.index != self.history.index() {
            return true;
        }
        self.convict_outvoted(book);
        if let Err(error) = self.history.apply(book, beacon) {
            effects.push(ValidatorEffect::Broken(error));
            return false;
        }
        self.past.push_back(book.parent);
        if self.past.len() > PAST_STATES {
            self.past.pop_front();
        }
        true
    }

    fn begin(
        &mut self,
        now: Timestamp,
        head: Head,
        book: Option<Box<RoundBook>>,
        effects: &mut Vec<ValidatorEffect>,
    ) {
        if let Some(book) = book
            && !self.follow(&book, head.beacon, effects)
        {
            return;
        }
        if head.index != self.history.index() || self.head == Some(head) {
            return;
        }
        self.head = Some(head);
        self.board = Board {
            // What was said before this device came reaches it in any order: it cannot know what came first.
            is_closed: !self.was_there(head),
            ..Board::default()
        };
        let open = self.history.open_audits();
        self.reports.retain(|key, _| open.contains_key(key));
        self.replays.retain(|key, _| open.contains_key(key));
        self.opened_at.retain(|key, _| open.contains_key(key));
        // Who was away may be back: all are asked again in each round.
        self.away.clear();
        for key in open.keys() {
            self.opened_at.entry(*key).or_insert(head.opened_at);
        }
        let waited_ms = EARLY_ATTEMPTS * self.history.rules().attempt_ms;
        let oldest = Timestamp(now.0.saturating_sub(waited_ms));
        for (at, from, message) in self.early.take(oldest) {
            match self.is_about(head, &message) {
                true => self.hear(now, from, message),
                false => self.keep_early(at, from, message),
            }
        }
    }

    fn install(&mut self, committee: RunCommittee) {
        self.committees.install(committee);
        let committees = &self.committees;
        self.liars.retain(|device| committees.has_seat(*device));
        self.equivocations.retain(|key, _| committees.has_key(*key));
    }

    fn say(&mut self, now: Timestamp, message: RunMessage, effects: &mut Vec<ValidatorEffect>) {
        effects.push(ValidatorEffect::Say(message.clone()));
        self.hear(now, self.identity.device, message);
    }

    fn start(&self, head: Head) -> RoundStart {
        RoundStart {
            run: self.history.rules().run,
            index: head.index,
            parent: head.state,
        }
    }

    /// Whether this device was up when the round began, or soon after.
    fn was_there(&self, head: Head) -> bool {
        let rules = self.history.rules();
        self.since
            .is_none_or(|since| since.ms_since(head.opened_at) <= rules.attempt_ms / 16)
    }

    /// Whether this device has heard what was said about the round: who comes later waits for the next attempt, and
    /// listens.
    fn is_informed(&self, now: Timestamp, head: Head, rules: &RunRules) -> bool {
        let came_in = turn::attempt(&head, rules, self.since.unwrap_or(now));
        self.was_there(head) || turn::attempt(&head, rules, now) > came_in
    }

    /// Whether the run has all its rounds, and no audit is open.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !self.history.has_rounds_left() && self.history.open_audits().is_empty()
    }

    /// Does what can be done now.
    fn advance(&mut self, now: Timestamp, effects: &mut Vec<ValidatorEffect>) {
        let Some(head) = self.head else { return };
        let rules = *self.history.rules();
        self.board
            .prune(|number| turn::attempt_of(&head, &rules, number, now).is_some());
        self.open_seals(now, effects);
        if !self.is_over() {
            self.look_at_reveals(effects);
            if self.is_informed(now, head, &rules) {
                self.propose(now, head, effects);
                self.consider(now, head, effects);
            }
            self.record(now, head, effects);
        }
        self.audit(now, effects);
        let proofs = self.equivocations.values_mut().filter_map(Option::take);
        effects.extend(proofs.map(ValidatorEffect::Accuse));
    }
}

#[cfg(test)]
mod tests;
