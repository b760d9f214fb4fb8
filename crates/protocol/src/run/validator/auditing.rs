//! Which work a validator replays, and what all reports on it come to.
//!
//! One report that work is the same is enough as long as nobody says otherwise. Where somebody does, more and more
//! replay it, until more than a third of the weight says the same: if less than a third lie, that is the truth. A report
//! counts when its seal is open, which those cannot do who replayed nothing.

use std::collections::BTreeSet;

use alloy_primitives::Address;

use super::super::book::{AUDITORS_MAX, RoundBook};
use super::super::committee::RunCommittee;
use super::super::history::OpenAudit;
use super::super::message::{AuditOutcome, LossKey, Opening, Report, RunMessage};
use super::{Validator, ValidatorEffect};
use crate::offer::DeviceId;
use crate::time::Timestamp;

/// Validators that are asked for a replay at once where the first ones do not agree.
pub const CONFIRMATIONS: usize = 3;
/// One in so many audits is done by two validators, so that reports without a replay are found.
const SECOND_ONE_IN: u8 = 8;
/// Rounds, or attempts' time, for which a trainer may be away before what it kept is computed where that can be done.
const COMPUTED_AFTER: u64 = 2;
/// Rounds, or attempts' time, for which a trainer may be away before a replay that needs something of it cannot be made.
const AWAY_MAX: u64 = 8;
/// Rounds after which one more validator replays what is not decided yet.
const ROUNDS_FOR_ANOTHER: u64 = 2;

/// Which reports count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weighing {
    /// All, so that it shows whether seals may be opened.
    Sealed,
    /// Those whose seals are open.
    Open,
}

impl Validator {
    /// Who may judge the work, the first one first.
    pub(super) fn auditors(&self, committee: &RunCommittee, key: (u64, DeviceId)) -> Vec<DeviceId> {
        let Some(open) = self.history.open_audits().get(&key) else {
            return Vec::new();
        };
        let auditors = committee.auditors(open.drawn_by, key.0, key.1, open.work.member.account);
        let devices = auditors.iter().map(|seat| seat.device);
        devices
            .filter(|device| !self.liars.contains(device))
            .collect()
    }

    /// How many of the auditors are asked by now.
    pub(super) fn asked(&self, now: Timestamp, key: (u64, DeviceId), open: &OpenAudit) -> usize {
        let reports = self.reports.get(&key);
        let is_disputed = reports.is_some_and(|reports| {
            let mut outcomes = reports.outcomes();
            outcomes.any(|(_, outcome)| outcome != AuditOutcome::Same)
        });
        let mut asked = agreeing(open, key);
        if is_disputed {
            let reported = reports.map_or(0, |reports| reports.outcomes().count());
            asked = asked.max(CONFIRMATIONS).max(reported + 1);
        }
        let opened_at = self.opened_at.get(&key).copied().unwrap_or(now);
        let attempts = now.ms_since(opened_at) / self.history.rules().attempt_ms.max(1);
        let rounds = self.history.index().saturating_sub(key.0) / ROUNDS_FOR_ANOTHER;
        let more = usize::try_from(attempts.max(rounds)).unwrap_or(usize::MAX);
        asked.saturating_add(more)
    }

    /// What the reports on a trainer's work come to, and the devices that found it, the first auditor first.
    fn weigh(
        &self,
        now: Timestamp,
        committee: &RunCommittee,
        key: (u64, DeviceId),
        weighing: Weighing,
    ) -> Option<(AuditOutcome, Vec<DeviceId>)> {
        let open = self.history.open_audits().get(&key)?;
        let reports = self.reports.get(&key)?;
        let auditors = self.auditors(committee, key);
        let is_counted =
            |device: DeviceId| weighing == Weighing::Sealed || reports.proven(device).is_some();
        let said: Vec<_> = reports
            .outcomes()
            .filter(|(device, _)| auditors.contains(device))
            .collect();
        let found = |outcome| {
            let devices = auditors.iter().copied();
            let of = devices.filter(|one| said.contains(&(*one, outcome)) && is_counted(*one));
            of.collect::<Vec<_>>()
        };
        let outcomes = [
            AuditOutcome::Different,
            AuditOutcome::Same,
            AuditOutcome::Unavailable,
        ];
        let backed = outcomes
            .into_iter()
            .map(|outcome| (outcome, found(outcome)))
            .find(|(_, devices)| committee.is_backed_by(devices));
        if backed.is_some() {
            return backed;
        }
        let is_disputed = said
            .iter()
            .any(|(_, outcome)| *outcome != AuditOutcome::Same);
        let mut same = found(AuditOutcome::Same);
        same.retain(|device| self.is_asked(now, &auditors, key, *device));
        let need = agreeing(open, key).min(auditors.len());
        (!is_disputed && !same.is_empty() && same.len() >= need)
            .then_some((AuditOutcome::Same, same))
    }

    /// What the reports on a trainer's work come to, and the accounts that earn by it.
    pub(super) fn decided(
        &self,
        now: Timestamp,
        committee: &RunCommittee,
        key: (u64, DeviceId),
    ) -> Option<(AuditOutcome, Vec<Address>)> {
        self.decided_within(now, committee, key, 0)
    }

    /// The same, where those earn as well who showed what they found up to `doubt_ms` after another had.
    pub(super) fn decided_within(
        &self,
        now: Timestamp,
        committee: &RunCommittee,
        key: (u64, DeviceId),
        doubt_ms: u64,
    ) -> Option<(AuditOutcome, Vec<Address>)> {
        let (outcome, devices) = self.weigh(now, committee, key, Weighing::Open)?;
        // Nobody earns by being quicker than those who were asked.
        let auditors = self.auditors(committee, key);
        let asked = devices.iter().copied();
        let asked: Vec<_> = asked
            .filter(|device| self.is_asked(now, &auditors, key, *device))
            .collect();
        let counted = if asked.is_empty() { &devices } else { &asked };
        let own = self.reports.get(&key)?.own(counted, doubt_ms);
        let seats = own.iter().filter_map(|device| committee.seat_of(*device));
        let accounts: BTreeSet<Address> = seats.map(|seat| seat.seat.household).collect();
        Some((outcome, accounts.into_iter().take(AUDITORS_MAX).collect()))
    }

    /// Replays what is this device's to replay now.
    pub(super) fn audit(&mut self, now: Timestamp, effects: &mut Vec<ValidatorEffect>) {
        let due: Vec<_> = self
            .history
            .open_audits()
            .iter()
            .filter(|(key, _)| self.is_due(now, **key))
            .map(|(key, open)| (*key, open.work.clone()))
            .collect();
        for (key, work) in due {
            self.replays.insert(key, None);
            effects.push(ValidatorEffect::Replay {
                work: Box::new(work),
                is_overdue: self.waited(now, key) >= COMPUTED_AFTER,
            });
        }
    }

    fn is_due(&self, now: Timestamp, key: (u64, DeviceId)) -> bool {
        let Some(committee) = self.committees.newest() else {
            return false;
        };
        let me = self.identity.device;
        let is_waiting = self.away.get(&key).is_some_and(|until| now < *until);
        let reports = self.reports.get(&key);
        let is_reported = reports.is_some_and(|reports| reports.proven(me).is_some());
        let is_done = is_waiting || is_reported || self.replays.contains_key(&key);
        if is_done || self.decided(now, committee, key).is_some() {
            return false;
        }
        self.is_asked(now, &self.auditors(committee, key), key, me)
    }

    /// Whether a device is one of the auditors that are asked by now.
    fn is_asked(
        &self,
        now: Timestamp,
        auditors: &[DeviceId],
        key: (u64, DeviceId),
        device: DeviceId,
    ) -> bool {
        let rank = auditors.iter().position(|one| *one == device);
        let open = self.history.open_audits().get(&key);
        let asked = open.map_or(0, |open| self.asked(now, key, open));
        rank.is_some_and(|rank| rank < asked)
    }

    pub(super) fn report(
        &mut self,
        now: Timestamp,
        key: (u64, DeviceId),
        outcome: AuditOutcome,
        losses: Option<LossKey>,
        effects: &mut Vec<ValidatorEffect>,
    ) {
        if !self.history.open_audits().contains_key(&key) {
            return;
        }
        if outcome == AuditOutcome::Unavailable && self.waited(now, key) < AWAY_MAX {
            // It is tried again.
            self.replays.remove(&key);
            let again = now.plus_ms(self.history.rules().attempt_ms / 2);
            self.away.insert(key, again);
            return;
        }
        let losses = losses.filter(|_| outcome != AuditOutcome::Unavailable);
        self.replays.insert(key, losses);
        self.drop_lies(key);
        let report = Report {
            index: key.0,
            trainer: key.1,
            outcome,
            seal: losses.map(|losses| losses.seal(self.identity.device)),
        };
        self.say(now, RunMessage::Report(report), effects);
    }

    /// Opens the seals of this device's reports where enough have reported: nobody can copy them any more.
    pub(super) fn open_seals(&mut self, now: Timestamp, effects: &mut Vec<ValidatorEffect>) {
        let Some(committee) = self.committees.newest() else {
            return;
        };
        let me = self.identity.device;
        let replays = self.replays.iter();
        let openings = replays.filter_map(|(key, losses)| {
            let reports = self.reports.get(key)?;
            let may_open = reports.proven(me).is_none()
                && self.weigh(now, committee, *key, Weighing::Sealed).is_some();
            may_open.then_some(Opening {
                index: key.0,
                trainer: key.1,
                key: (*losses)?,
            })
        });
        for opening in openings.collect::<Vec<_>>() {
            self.say(now, RunMessage::Opening(opening), effects);
        }
    }

    /// How many rounds, or attempts' time, a trainer had to give what its replay starts from.
    fn waited(&self, now: Timestamp, key: (u64, DeviceId)) -> u64 {
        let rules = self.history.rules();
        let opened_at = self.opened_at.get(&key).copied().unwrap_or(now);
        let attempts = now.ms_since(opened_at) / rules.attempt_ms.max(1);
        let recorded = rules.rounds_of(self.history.index());
        attempts.max(recorded.saturating_sub(key.0 + 1))
    }

    /// Drops reports that cannot come of a replay, and hears nothing more of who made them.
    pub(super) fn drop_lies(&mut self, key: (u64, DeviceId)) {
        let Some(open) = self.history.open_audits().get(&key) else {
            return;
        };
        let replayed = self.replays.get(&key).copied().flatten();
        let known = replayed.filter(|losses| losses.log() == open.work.member.work.log);
        if let Some(reports) = self.reports.get_mut(&key) {
            self.liars.extend(reports.take_lies(known));
        }
    }

    /// Notes who reported the opposite of what more than a third found and a book records.
    pub(super) fn convict_outvoted(&mut self, book: &RoundBook) {
        let Some(committee) = self.committees.newest() else {
            return;
        };
        for audit in &book.audits {
            let opposite = match audit.outcome {
                AuditOutcome::Same => AuditOutcome::Different,
                AuditOutcome::Different => AuditOutcome::Same,
                AuditOutcome::Unavailable => continue,
            };
            let Some(reports) = self.reports.get(&(audit.index, audit.trainer)) else {
                continue;
            };
            let who = |outcome| {
                let of = reports.outcomes().filter(move |(_, said)| *said == outcome);
                of.map(|(device, _)| device).collect::<Vec<_>>()
            };
            if committee.is_backed_by(&who(audit.outcome)) {
                self.liars.extend(who(opposite));
            }
        }
    }
}

/// How many validators replay the work, whatever the first one finds.
fn agreeing(open: &OpenAudit, key: (u64, DeviceId)) -> usize {
    let mut hasher = blake3::Hasher::new_derive_key("hearth run second audit 1");
    hasher.update(open.drawn_by.as_slice());
    hasher.update(&key.0.to_le_bytes());
    hasher.update(&key.1.0);
    let is_checked_twice = hasher.finalize().as_bytes()[0].is_multiple_of(SECOND_ONE_IN);
    1 + usize::from(is_checked_twice)
}
