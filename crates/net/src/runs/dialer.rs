//! When which device is dialed, as a machine without clock or randomness.
//!
//! A participant that cannot be reached is left alone for twice as long each time. A device that takes part in nothing
//! together with this one is asked again now and then, because it may by then.

use std::collections::BTreeMap;

use hearth_protocol::offer::DeviceId;
use hearth_protocol::time::Timestamp;

use crate::limits::{RUN_BACKOFF_MS, RUN_BACKOFF_MS_MAX, RUN_DIALED_MAX, RUN_PROBE_AGAIN_MS};

/// How a dial, or the connection that came of it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The device could not be reached, or takes no more.
    Unreached,
    /// Both take part in nothing together.
    NothingShared,
    /// Both took part in something together, until the connection broke.
    Broken,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    failures: u32,
    shares_nothing: bool,
    next: Timestamp,
}

/// When which device is dialed.
#[derive(Debug, Default)]
pub(super) struct Dialer {
    attempts: BTreeMap<DeviceId, Attempt>,
}

impl Dialer {
    /// Whether a device may be dialed now.
    pub(super) fn is_due(&self, now: Timestamp, device: &DeviceId) -> bool {
        let attempt = self.attempts.get(device);
        attempt.is_none_or(|attempt| attempt.next <= now)
    }

    /// Notes how a dial ended. The wait is between half and all of what it should be, by `jitter`.
    pub(super) fn ended(&mut self, now: Timestamp, device: DeviceId, ended: Ended, jitter: u64) {
        if self.attempts.len() >= RUN_DIALED_MAX && !self.attempts.contains_key(&device) {
            self.forget_one();
        }
        let before = self.attempts.get(&device);
        let failures = match ended {
            Ended::Unreached => before.map_or(0, |before| before.failures).saturating_add(1),
            Ended::NothingShared | Ended::Broken => 0,
        };
        let wait_ms = match ended {
            Ended::NothingShared => 2 * RUN_PROBE_AGAIN_MS,
            Ended::Unreached | Ended::Broken => {
                let doubled = 1_u64.checked_shl(failures.min(16)).unwrap_or(u64::MAX);
                let wait_ms = RUN_BACKOFF_MS.saturating_mul(doubled);
                wait_ms.min(RUN_BACKOFF_MS_MAX)
            }
        };
        let half = (wait_ms / 2).max(1);
        let attempt = Attempt {
            failures,
            shares_nothing: ended == Ended::NothingShared,
            next: now.plus_ms(half + jitter % half),
        };
        self.attempts.insert(device, attempt);
    }

    /// Takes part in something new: those who shared nothing may share that.
    pub(super) fn topics_changed(&mut self) {
        self.attempts.retain(|_, attempt| !attempt.shares_nothing);
    }

    /// Makes room: the one that is dialed first again is forgotten, which costs one early dial at most.
    fn forget_one(&mut self) {
        let first = self.attempts.iter().min_by_key(|(_, one)| one.next);
        let first = first.map(|(device, _)| *device);
        first.map(|device| self.attempts.remove(&device));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DeviceId = DeviceId([1; 32]);

    #[test]
    fn a_device_that_cannot_be_reached_is_left_alone_for_longer_each_time() {
        let mut dialer = Dialer::default();
        let mut now = Timestamp(0);
        let mut waits = Vec::new();
        for jitter in [0, u64::MAX, 7, 0, 0, 0, 0, 0, u64::MAX] {
            assert!(dialer.is_due(now, &DEVICE));
            dialer.ended(now, DEVICE, Ended::Unreached, jitter);
            let wait = (1..).find(|ms| dialer.is_due(now.plus_ms(*ms), &DEVICE));
            waits.extend(wait);
            now = now.plus_ms(waits[waits.len() - 1]);
        }
        assert_eq!(waits[0], RUN_BACKOFF_MS);
        assert!(waits[2] > waits[0] && waits[4] > waits[2], "{waits:?}");
        assert!(
            waits.iter().all(|wait| *wait <= RUN_BACKOFF_MS_MAX),
            "{waits:?}"
        );
        dialer.ended(now, DEVICE, Ended::Broken, 0);
        assert!(dialer.is_due(now.plus_ms(RUN_BACKOFF_MS), &DEVICE));
    }

    #[test]
    fn who_shared_nothing_is_asked_at_once_about_something_new() {
        let mut dialer = Dialer::default();
        dialer.ended(Timestamp(0), DEVICE, Ended::NothingShared, 0);
        let unreached = DeviceId([2; 32]);
        dialer.ended(Timestamp(0), unreached, Ended::Unreached, 0);
        assert!(!dialer.is_due(Timestamp(RUN_PROBE_AGAIN_MS - 1), &DEVICE));
        dialer.topics_changed();
        assert!(dialer.is_due(Timestamp(0), &DEVICE));
        assert!(!dialer.is_due(Timestamp(0), &unreached));
    }

    #[test]
    fn so_many_devices_are_remembered() {
        let mut dialer = Dialer::default();
        for n in 0..2 * RUN_DIALED_MAX as u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_le_bytes());
            dialer.ended(Timestamp(n), DeviceId(id), Ended::Unreached, n);
        }
        assert_eq!(dialer.attempts.len(), RUN_DIALED_MAX);
    }
}
