//! What must hold after everything that happens in a training run, by name.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};
use hearth_protocol::content::ContentHash;
use hearth_protocol::ledger::statement::{Equivocation, RoundStatement};
use hearth_protocol::offer::DeviceId;
use hearth_protocol::run::book::RoundBook;
use hearth_protocol::run::history::{AUDIT_ROUNDS_MAX, HistoryError, RecordedWork};
use hearth_protocol::run::message::{AuditOutcome, LossKey, RunMessage};
use hearth_protocol::run::trainer::CLOSES_MAX;
use hearth_protocol::run::validator::LATE_ATTEMPTS;

use super::model::add_up;
use super::scene::{Life, Place};
use super::trainer::Diligence;
use super::validator::Candor;
use super::world::{Cheats, TrainingWorld};
use crate::invariant::{Broken, ensure};

/// What was seen, to compare with what is seen later.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Who made a contribution first.
    pub(super) authors: BTreeMap<ContentHash, DeviceId>,
    /// What an honest validator signed under a number.
    pub(super) signed: BTreeMap<(Place, u64), RoundStatement>,
    /// What an honest trainer committed to from a state.
    committed: BTreeMap<(Place, B256), ContentHash>,
    /// How many rounds a device knew when it first asked for a contribution.
    pub(super) fetches: BTreeMap<(Place, Life, ContentHash), usize>,
    /// The books of final records.
    pub(super) chain: Vec<ContentHash>,
    /// States of which something is recorded.
    followed: BTreeSet<B256>,
    /// Rounds whose contributions are false, by trainer.
    pub(super) false_work: BTreeSet<(u64, DeviceId)>,
    pub(super) excluded: BTreeSet<DeviceId>,
    /// When a trainer was last admitted: rounds that were recorded before.
    admitted: BTreeMap<DeviceId, u64>,
    /// Trainers that did not give what a replay starts from.
    pub(super) withheld: BTreeSet<DeviceId>,
    /// Steps that a device has computed.
    pub(super) worked: BTreeMap<DeviceId, u64>,
    /// What trainers that cheat tell their friends: the keys of losses, by what names them.
    pub(super) leaked: BTreeMap<ContentHash, LossKey>,
    /// Audits that books have decided.
    decided: BTreeSet<(u64, DeviceId)>,
}

impl TrainingWorld {
    /// A machine said that the chain recorded what cannot be.
    pub(super) fn broken_history(&self, place: Place, error: HistoryError) -> Result<(), Broken> {
        ensure(false, "no-recorded-book-is-refused", || {
            format!("{place}: {error}")
        })
    }

    /// Whom a device shows to the chain for two records that it signed under one number.
    pub(super) fn check_accused(&self, place: Place, proof: &Equivocation) -> Result<(), Broken> {
        let mut sides = self.validators.iter();
        let accused = sides.find(|side| side.seat.seat.device == proof.device);
        let is_liar = accused.is_some_and(|side| side.candor != Candor::Honest);
        ensure(is_liar, "no-honest-validator-is-accused", || {
            format!("{place} accuses {}", proof.device)
        })
    }

    /// What an honest trainer says.
    pub(super) fn check_said(&mut self, place: Place, message: &RunMessage) -> Result<(), Broken> {
        let RunMessage::Commit(commit) = message else {
            return Ok(());
        };
        let known = self.ledger.committed.entry((place, commit.parent));
        let first = *known.or_insert(commit.commitment);
        ensure(
            first == commit.commitment,
            "one-commitment-for-one-state",
            || format!("{place} committed twice in round {}", commit.index),
        )
    }

    /// Everything that can be seen at any time.
    pub(super) fn check(&self) -> Result<(), Broken> {
        let rounds = self.ledger.chain.len();
        for (number, side) in self.validators.iter().enumerate() {
            let place = number + self.trainers.len();
            if !self.devices[place].is_up || side.candor != Candor::Honest {
                continue;
            }
            let history = side.machine.history();
            self.check_history(place, history.index(), history.last_book(), rounds)?;
            let (held, most) = (side.machine.held(), side.machine.held_max());
            ensure(held <= most, "memory-is-bounded", || {
                format!("{place} keeps {held} things, and {most} at most")
            })?;
        }
        for (place, side) in self.trainers.iter().enumerate() {
            if self.devices[place].is_up && side.diligence == Diligence::Honest {
                let history = side.machine.history();
                self.check_history(place, history.index(), history.last_book(), rounds)?;
                let held = side.machine.held();
                ensure(held <= CLOSES_MAX, "memory-is-bounded", || {
                    format!("{place} keeps {held} closings")
                })?;
            }
        }
        Ok(())
    }

    fn check_history(
        &self,
        place: Place,
        index: u64,
        last: Option<ContentHash>,
        rounds: usize,
    ) -> Result<(), Broken> {
        let known = usize::try_from(index).unwrap_or(usize::MAX);
        let wanted = known
            .checked_sub(1)
            .and_then(|round| self.ledger.chain.get(round).copied());
        ensure(
            known <= rounds && last == wanted,
            "all-have-the-same-rounds",
            || format!("{place} has {last:?} after {index} rounds, and not {wanted:?}"),
        )
    }

    /// A round is final.
    pub(super) fn check_record(&mut self) -> Result<(), Broken> {
        let round = self.ledger.chain.len();
        let (Some(before), Some(after)) = (
            self.chain.finals.get(round).copied(),
            self.chain.finals.get(round + 1).copied(),
        ) else {
            return Ok(());
        };
        let Some(record) = after.record else {
            return Ok(());
        };
        let name = ContentHash(record.contributions.0);
        let book = self.books.get(&name).cloned();
        let Some(book) = book else {
            return ensure(false, "recorded-books-are-there", || format!("{name}"));
        };
        let index = u64::try_from(round).unwrap_or(u64::MAX);
        let is_round = index < self.rules.rounds;
        self.tally.rounds += u64::from(is_round);
        self.tally.ends += u64::from(!is_round);
        self.tally.leaps += record.round - before.head.next_number;
        self.scene.note(format_args!(
            "round {round} is final: number {}, {} members, {} audits",
            record.round,
            book.members.len(),
            book.audits.len()
        ));
        let follows = book.index == index
            && book.previous == self.ledger.chain.last().copied()
            && book.parent == before.head.state
            && book.beacon == before.head.beacon
            && RoundBook::read(&book.to_bytes()).is_ok();
        ensure(follows, "books-form-a-chain", || format!("{book:?}"))?;
        ensure(
            record.parent == book.parent && record.next == add_up(&book),
            "what-is-recorded-was-computed",
            || format!("round {round} ends with {}", record.next),
        )?;
        ensure(
            self.ledger.followed.insert(record.parent),
            "one-record-of-one-state",
            || format!("round {round} follows {} again", record.parent),
        )?;
        let counts = self.rules.quorum.max(1) as usize..=self.rules.trainers_max as usize;
        let (members, audits) = (book.members.len(), book.audits.len());
        let has_quorum = counts.contains(&members);
        ensure(has_quorum || !is_round, "the-quorum-is-kept", || {
            format!("{members} members in round {round}")
        })?;
        ensure(
            is_round || members == 0 && audits > 0,
            "after-the-last-round-come-audits-alone",
            || format!("{members} members and {audits} audits after the last round"),
        )?;
        self.ledger.chain.push(name);
        self.check_audits(&book)?;
        self.check_members(&book, record.round - before.head.next_number)
    }

    fn check_members(&mut self, book: &RoundBook, attempt: u64) -> Result<(), Broken> {
        for member in &book.members {
            let trainer = member.trainer;
            // Who came late cannot know who was first; an audit then finds the copy.
            let author = self.ledger.authors.get(&member.work.contribution);
            let is_own = author.is_none_or(|author| *author == trainer);
            ensure(
                is_own || attempt >= LATE_ATTEMPTS || self.cheats == Cheats::Many,
                "no-copy-is-admitted",
                || format!("{trainer} has the contribution of {author:?}"),
            )?;
            ensure(
                !self.ledger.excluded.contains(&trainer),
                "who-is-excluded-stays-out",
                || format!("{trainer} is in round {}", book.index),
            )?;
            let is_false = self.honest(&RecordedWork::of(book, member)).0 != member.work;
            self.tally.admitted += 1;
            self.tally.false_admitted += u64::from(is_false);
            if is_false {
                self.ledger.false_work.insert((book.index, trainer));
            }
            self.ledger.admitted.insert(trainer, book.index);
        }
        Ok(())
    }

    fn check_audits(&mut self, book: &RoundBook) -> Result<(), Broken> {
        let honest = self.accounts_of(Candor::Honest);
        let lazy = self.accounts_of(Candor::Lazy);
        for audit in &book.audits {
            let key = (audit.index, audit.trainer);
            let is_false = self.ledger.false_work.contains(&key);
            let by_honest = audit.auditors.iter().any(|one| honest.contains(one));
            self.ledger.decided.insert(key);
            match audit.outcome {
                AuditOutcome::Same => {
                    self.tally.passed += 1;
                    let by_lazy = audit.auditors.iter().any(|one| lazy.contains(one));
                    ensure(
                        !by_lazy || self.cheats == Cheats::Many,
                        "who-replayed-nothing-earns-nothing",
                        || format!("{} in round {}", audit.trainer, audit.index),
                    )?;
                    ensure(
                        !is_false || !by_honest || self.cheats == Cheats::Many,
                        "false-work-passes-no-honest-audit",
                        || format!("{} in round {}", audit.trainer, audit.index),
                    )?;
                }
                AuditOutcome::Different => {
                    ensure(
                        is_false || self.cheats == Cheats::Many,
                        "no-honest-trainer-is-excluded",
                        || format!("{} in round {}", audit.trainer, audit.index),
                    )?;
                    self.tally.excluded += 1;
                    self.tally.excluded_at_end += u64::from(book.own_state().is_some());
                    self.ledger.excluded.insert(audit.trainer);
                }
                AuditOutcome::Unavailable => {
                    self.tally.unavailable += 1;
                    self.ledger.withheld.insert(audit.trainer);
                }
            }
        }
        // What was drawn and is not decided by now never is.
        let rounds = self.rules.rounds_of(book.index);
        let Some(dropped) = rounds.checked_sub(AUDIT_ROUNDS_MAX) else {
            return Ok(());
        };
        let newcomers = self.rules.newcomer_rounds > 0 || self.rules.audit_per_mille == 1_000;
        let undecided = self.ledger.false_work.iter().find(|(index, trainer)| {
            *index == dropped
                && self.rules.audit_per_mille == 1_000
                && !self.ledger.excluded.contains(trainer)
                && !self.ledger.decided.contains(&(*index, *trainer))
        });
        ensure(
            !newcomers || undecided.is_none() || self.cheats == Cheats::Many,
            "drawn-work-is-decided-in-time",
            || format!("{undecided:?}"),
        )
    }

    /// Accounts for which only honest validators report.
    /// Households all of whose validators are of this kind.
    fn accounts_of(&self, candor: Candor) -> BTreeSet<Address> {
        let of = |is_alike: bool| {
            let sides = self.validators.iter();
            sides
                .filter(move |side| (side.candor == candor) == is_alike)
                .map(|side| side.seat.seat.household)
        };
        let others: BTreeSet<Address> = of(false).collect();
        of(true)
            .filter(|account| !others.contains(account))
            .collect()
    }

    /// Once nothing goes wrong any more, the run goes on.
    pub(super) fn end(&mut self) -> Result<(), Broken> {
        if self.cheats == Cheats::Many {
            return Ok(());
        }
        self.calm()?;
        let first = u64::try_from(self.ledger.chain.len()).unwrap_or(u64::MAX);
        let lying = self.validators.iter();
        let lying = lying.filter(|side| side.candor != Candor::Honest).count();
        // Each that lies may have its turn, and those who came late wait for two.
        let attempts = 6 + u64::try_from(lying).unwrap_or(0);
        let until = self.scene.now.plus_ms(attempts * self.rules.attempt_ms);
        self.live_until(until)?;
        let rounds = u64::try_from(self.ledger.chain.len()).unwrap_or(u64::MAX);
        let is_over = rounds >= self.rules.rounds;
        ensure(rounds > first || is_over, "the-run-goes-on", || {
            format!("no round after {first} in {attempts} attempts")
        })?;
        self.live_until(until.plus_ms(attempts * self.rules.attempt_ms))?;
        for (place, side) in self.trainers.iter().enumerate() {
            let id = self.devices[place].id;
            let is_late = self
                .ledger
                .admitted
                .get(&id)
                .is_none_or(|last| *last < first);
            let has_room = self.rules.trainers_max as usize >= self.trainers.len();
            ensure(
                side.diligence != Diligence::Honest || !is_late || is_over || !has_room,
                "honest-trainers-are-admitted",
                || format!("{place} was not, from round {first} on"),
            )?;
        }
        match is_over {
            true => self.settle(),
            false => Ok(()),
        }
    }
}
