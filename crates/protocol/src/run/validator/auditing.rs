//! Which work a validator replays, and what all reports on it come to.
//!
//! One report that work is the same is enough as long as nobody says otherwise. Where somebody does, more and more
//! replay it, until more than a third of the weight says the same: if less than a third lie, that is the truth.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;

use super::super::book::{AUDITORS_MAX, RoundBook};
use super::super::committee::RunCommittee;
use super::super::history::OpenAudit;
use super::super::message::{AuditOutcome, LossBits, Report, RunMessage, replay_seal};
use super::{Validator, ValidatorEffect};
use crate::offer::DeviceId;
use crate::time::Timestamp;

/// Validators that are asked for a replay at once where the first ones do not agree.
pub const CONFIRMATIONS: usize = 3;
/// One in so many audits is done by two validators, so that reports without a replay are found.
const SECOND_ONE_IN: u8 = 8;
/// Rounds, or attempts' time, for which a trainer may be away before a replay that needs something of it cannot be made.
const AWAY_MAX: u64 = 4;
/// Rounds after which one more validator replays what is not decided yet.
const ROUNDS_FOR_ANOTHER: u64 = 2;

impl Validator {
    /// Who may judge the work, the first one first.
    fn auditors(&self, committee: &RunCommittee, key: (u64, DeviceId)) -> Vec<DeviceId> {
        let Some(open) = self.history.open_audits().get(&key) else {
            return Vec::new();
        };
        let auditors = committee.auditors(open.drawn_by, key.0, key.1, open.member.account);
        let devices = auditors.iter().map(|seat| seat.device);
        devices
            .filter(|device| !self.liars.contains(device))
            .collect()
    }

    /// What the reports on a trainer's work come to, and the accounts of those who agree.
    pub(super) fn decided(
        &self,
        committee: &RunCommittee,
        key: (u64, DeviceId),
    ) -> Option<(AuditOutcome, Vec<Address>)> {
        let open = self.history.open_audits().get(&key)?;
        let auditors = self.auditors(committee, key);
        let reports = self.reports.get(&key)?;
        let found = |outcome| {
            let reports = reports.iter();
            let of = reports
                .filter(|(device, report)| report.outcome == outcome && auditors.contains(device));
            of.map(|(device, _)| *device).collect::<Vec<_>>()
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
        let same = found(AuditOutcome::Same);
        let is_disputed = outcomes
            .into_iter()
            .any(|outcome| outcome != AuditOutcome::Same && !found(outcome).is_empty());
        let need = 1 + usize::from(is_checked_twice(open, key));
        let (outcome, devices) = match backed {
            Some(backed) => backed,
            None if !is_disputed && !same.is_empty() && same.len() >= need.min(auditors.len()) => {
                (AuditOutcome::Same, same)
            }
            None => return None,
        };
        let seats = devices
            .iter()
            .filter_map(|device| committee.seat_of(*device));
        let accounts: BTreeSet<Address> = seats.map(|seat| seat.seat.household).collect();
        Some((outcome, accounts.into_iter().take(AUDITORS_MAX).collect()))
    }

    /// Replays what is this device's to replay now.
    pub(super) fn audit(&mut self, now: Timestamp, effects: &mut Vec<ValidatorEffect>) {
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
        let Some(committee) = self.committees.newest() else {
            return false;
        };
        let me = self.identity.device;
        let reports = self.reports.get(&key);
        let is_waiting = self.away.get(&key).is_some_and(|until| now < *until);
        let is_done = is_waiting
            || self.replays.contains_key(&key)
            || reports.is_some_and(|all| all.contains_key(&me));
        if is_done || self.decided(committee, key).is_some() {
            return false;
        }
        let auditors = self.auditors(committee, key);
        let Some(rank) = auditors.iter().position(|device| *device == me) else {
            return false;
        };
        let is_disputed =
            reports.is_some_and(|all| all.values().any(|r| r.outcome != AuditOutcome::Same));
        let opened_at = self.opened_at.get(&key).copied().unwrap_or(now);
        let attempts = now.ms_since(opened_at) / self.history.rules().attempt_ms.max(1);
        let rounds = self.history.index().saturating_sub(key.0) / ROUNDS_FOR_ANOTHER;
        let more = usize::try_from(attempts.max(rounds)).unwrap_or(usize::MAX);
        let mut wanted = 1 + usize::from(is_checked_twice(open, key));
        if is_disputed {
            wanted = wanted
                .max(CONFIRMATIONS)
                .max(reports.map_or(0, BTreeMap::len) + 1);
        }
        rank < wanted.saturating_add(more)
    }

    pub(super) fn report(
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
        if outcome == AuditOutcome::Unavailable && !self.has_waited(now, key) {
            // It is tried again.
            self.replays.remove(&key);
            let again = now.plus_ms(self.history.rules().attempt_ms / 2);
            self.away.insert(key, again);
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

    /// Whether a trainer had enough time to give what its replay starts from.
    fn has_waited(&self, now: Timestamp, key: (u64, DeviceId)) -> bool {
        let opened_at = self.opened_at.get(&key).copied().unwrap_or(now);
        let away_ms = AWAY_MAX.saturating_mul(self.history.rules().attempt_ms);
        let rounds = self.history.index().saturating_sub(key.0);
        now.ms_since(opened_at) >= away_ms || rounds > AWAY_MAX
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
                let reports = reports.iter();
                let of = reports.filter(move |(_, report)| report.outcome == outcome);
                of.map(|(device, _)| *device).collect::<Vec<_>>()
            };
            if committee.is_backed_by(&who(audit.outcome)) {
                self.liars.extend(who(opposite));
            }
        }
    }
}

/// Whether two validators replay the work whatever the first one finds.
fn is_checked_twice(open: &OpenAudit, key: (u64, DeviceId)) -> bool {
    let mut hasher = blake3::Hasher::new_derive_key("hearth run second audit 1");
    hasher.update(open.drawn_by.as_slice());
    hasher.update(&key.0.to_le_bytes());
    hasher.update(&key.1.0);
    hasher.finalize().as_bytes()[0].is_multiple_of(SECOND_ONE_IN)
}
