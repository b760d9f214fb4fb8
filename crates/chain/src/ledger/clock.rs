//! Epochs of a ledger as times: when one begins, when it takes enrollments, whose set is in office (spec: 14 ledger,
//! sections 3 and 4).

use std::num::NonZeroU64;
use std::ops::Range;

/// Enrollment is open for one part in this many of an epoch.
const ENROLLMENT_PARTS: u64 = 4;

/// The clock of one ledger: fixed when it was put up. All times are Unix seconds, by the chain's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochClock {
    origin_s: u64,
    epoch_s: NonZeroU64,
    window_s: u64,
}

impl EpochClock {
    /// The clock of a ledger that was put up at `origin_s`, with epochs of `epoch_s` seconds and a challenge window of
    /// `window_s` seconds.
    #[must_use]
    pub fn new(origin_s: u64, epoch_s: NonZeroU64, window_s: u64) -> Self {
        Self {
            origin_s,
            epoch_s,
            window_s,
        }
    }

    /// When epoch 0 began.
    #[must_use]
    pub fn origin_s(&self) -> u64 {
        self.origin_s
    }

    /// How long an epoch is, in seconds.
    #[must_use]
    pub fn epoch_s(&self) -> u64 {
        self.epoch_s.get()
    }

    /// For how many seconds a record can be challenged.
    #[must_use]
    pub fn window_s(&self) -> u64 {
        self.window_s
    }

    /// The epoch that a time is in; nothing before the first began.
    #[must_use]
    pub fn epoch_at(&self, time_s: u64) -> Option<u64> {
        Some(time_s.checked_sub(self.origin_s)? / self.epoch_s)
    }

    /// When an epoch begins; it ends when the next one begins.
    #[must_use]
    pub fn start_s(&self, epoch: u64) -> u64 {
        let since = epoch.saturating_mul(self.epoch_s.get());
        self.origin_s.saturating_add(since)
    }

    /// When an epoch takes enrollments: from the first time of the range to before its end. An epoch of less than eight
    /// seconds has no such time.
    #[must_use]
    pub fn enrollment_s(&self, epoch: u64) -> Range<u64> {
        let start = self.start_s(epoch);
        start.saturating_add(1)..start.saturating_add(self.epoch_s.get() / ENROLLMENT_PARTS)
    }

    /// The epoch whose set is in office at a time; nothing before the first has one.
    #[must_use]
    pub fn in_office_at(&self, time_s: u64) -> Option<u64> {
        let epoch = self.epoch_at(time_s)?;
        if time_s >= self.enrollment_s(epoch).end {
            Some(epoch)
        } else {
            epoch.checked_sub(1)
        }
    }

    /// From when on a record is final that was made at `recorded_at_s` and is not revoked.
    #[must_use]
    pub fn final_from_s(&self, recorded_at_s: u64) -> u64 {
        recorded_at_s.saturating_add(self.window_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(epoch_s: u64) -> EpochClock {
        EpochClock::new(1_000, NonZeroU64::new(epoch_s).unwrap(), 4)
    }

    #[test]
    fn epochs_follow_each_other_from_the_origin() {
        let clock = clock(8);
        assert_eq!(clock.epoch_at(999), None);
        assert_eq!(clock.epoch_at(1_000), Some(0));
        assert_eq!(clock.epoch_at(1_007), Some(0));
        assert_eq!(clock.epoch_at(1_008), Some(1));
        assert_eq!(clock.start_s(3), 1_024);
        assert_eq!(clock.start_s(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_set_is_in_office_from_the_end_of_its_enrollment_to_that_of_the_next() {
        let clock = clock(8);
        assert_eq!(clock.enrollment_s(0), 1_001..1_002);
        assert_eq!(clock.in_office_at(1_001), None);
        assert_eq!(clock.in_office_at(1_002), Some(0));
        assert_eq!(clock.in_office_at(1_009), Some(0));
        assert_eq!(clock.in_office_at(1_010), Some(1));
    }

    #[test]
    fn the_shortest_epochs_have_no_time_to_enroll() {
        for epoch_s in 4..8 {
            assert!(clock(epoch_s).enrollment_s(5).is_empty(), "{epoch_s}");
        }
        assert!(!clock(8).enrollment_s(5).is_empty());
    }
}
