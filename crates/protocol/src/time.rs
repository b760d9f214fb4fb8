//! Time as the protocol sees it: milliseconds since the Unix epoch, handed in by the caller.
//!
//! There is no `now()` here on purpose. A machine that reads no clock can be replayed.

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch (1970-01-01T00:00:00Z), leap seconds ignored.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The timestamp of a whole second since the Unix epoch, as chains and x402 count time.
    pub fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000))
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub fn as_secs(self) -> u64 {
        self.0 / 1_000
    }

    /// This time plus `ms` milliseconds, at most the largest timestamp.
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time; zero when `earlier` is later.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
