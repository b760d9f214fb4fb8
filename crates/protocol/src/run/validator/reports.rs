//! What validators say about one trainer's work: sealed reports, and what opens the seals.
//!
//! A report says nothing about how it came about. The losses of all steps do, since only those know them who computed
//! them; so a report counts once its seal is open. Losses are shown when enough have reported, and who reports the same
//! losses after that may have copied them.

use std::collections::BTreeMap;

use super::super::message::{AuditOutcome, LossKey, Report};
use crate::content::ContentHash;
use crate::offer::DeviceId;
use crate::time::Timestamp;

/// What one validator said.
#[derive(Debug, Clone, Copy, Default)]
struct Statement {
    report: Option<(Report, Timestamp)>,
    key: Option<(LossKey, Timestamp)>,
}

/// What all validators said about one trainer's work in one round.
#[derive(Debug)]
pub(super) struct Reports {
    /// Names the losses, as the trainer committed to them.
    log: ContentHash,
    of: BTreeMap<DeviceId, Statement>,
}

impl Reports {
    pub(super) fn new(log: ContentHash) -> Self {
        Self {
            log,
            of: BTreeMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    /// Keeps the first report of a device; what could not be had may be had later.
    pub(super) fn report(&mut self, now: Timestamp, from: DeviceId, report: Report) {
        let said = &mut self.of.entry(from).or_default().report;
        if said.is_none_or(|(known, _)| known.outcome == AuditOutcome::Unavailable) {
            *said = Some((report, now));
        }
    }

    /// Keeps what opens the seal of a device, until something does.
    pub(super) fn open(&mut self, now: Timestamp, from: DeviceId, key: LossKey) {
        if self.proven(from).is_none() {
            self.of.entry(from).or_default().key = Some((key, now));
        }
    }

    /// What was reported, with and without proof.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (DeviceId, AuditOutcome)> {
        let reports = self.of.iter();
        reports.filter_map(|(device, said)| Some((*device, said.report?.0.outcome)))
    }

    /// What a device reported, where its seal is open or it has none. One that found the same has to know the losses which
    /// the trainer committed to.
    pub(super) fn proven(&self, device: DeviceId) -> Option<AuditOutcome> {
        let said = self.of.get(&device)?;
        let (report, _) = said.report?;
        let opens = |(key, _): (LossKey, Timestamp)| report.seal == Some(key.seal(device));
        let is_proven = match report.outcome {
            AuditOutcome::Unavailable => true,
            AuditOutcome::Different => said.key.is_some_and(opens),
            AuditOutcome::Same => said
                .key
                .is_some_and(|key| opens(key) && key.0.log() == self.log),
        };
        is_proven.then_some(report.outcome)
    }

    /// Of devices whose reports are proven, those that found what most of them found, who cannot have copied it: none of
    /// the others had shown it for longer than `doubt_ms` when they reported. Where that leaves nobody, all of them.
    pub(super) fn own(&self, devices: &[DeviceId], doubt_ms: u64) -> Vec<DeviceId> {
        let key = |device: &DeviceId| self.of.get(device)?.key;
        let mut groups: BTreeMap<Option<LossKey>, Vec<DeviceId>> = BTreeMap::new();
        for device in devices {
            let losses = key(device).map(|(key, _)| key);
            groups.entry(losses).or_default().push(*device);
        }
        let largest = groups.into_values().max_by_key(Vec::len);
        let largest = largest.unwrap_or_default();
        let is_own = |device: &DeviceId| {
            let others = largest.iter().filter(|other| *other != device);
            let shown_at = others.filter_map(key).map(|(_, at)| at).min();
            let reported_at = self.of.get(device).and_then(|said| said.report);
            match (shown_at, reported_at) {
                (Some(shown), Some((_, reported))) => reported.ms_since(shown) <= doubt_ms,
                _ => true,
            }
        };
        let own: Vec<_> = largest.iter().copied().filter(is_own).collect();
        if own.is_empty() { largest } else { own }
    }

    /// Drops and returns those whose reports that work is the same cannot come of a replay: the losses are known, to this
    /// device or because somebody has shown them, and their seals are of others.
    pub(super) fn take_lies(&mut self, known: Option<LossKey>) -> Vec<DeviceId> {
        let shown = self.of.values().filter_map(|said| said.key);
        let shown = shown.map(|(key, _)| key).find(|key| key.log() == self.log);
        let Some(key) = known.or(shown) else {
            return Vec::new();
        };
        let is_lie = |(device, said): &(&DeviceId, &Statement)| {
            said.report.is_some_and(|(report, _)| {
                report.outcome == AuditOutcome::Same && report.seal != Some(key.seal(**device))
            })
        };
        let lies = self.of.iter().filter(is_lie);
        let liars: Vec<DeviceId> = lies.map(|(device, _)| *device).collect();
        self.of.retain(|device, _| !liars.contains(device));
        liars
    }
}
