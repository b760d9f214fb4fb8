//! When what an API key may spend is on disk.
//!
//! Nothing is promised for an answer before a crash would count it: whoever promises waits until the
//! reservation is written, with the day on which it counts. Where nobody keeps budgets, nobody waits.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, watch};

/// The longest that a promise waits until its reservation is on disk.
const KEPT_WITHIN: Duration = Duration::from_secs(10);

/// Up to where reservations are on disk. Clones share it.
#[derive(Debug, Clone)]
pub struct Keeping(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Told when somebody waits.
    asked: Notify,
    kept: watch::Sender<Kept>,
}

/// What is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The number of the newest reservation in it.
    pub number: u64,
    /// The day on which it counts, from 1970 in UTC.
    pub day: u64,
}

impl Kept {
    const EVERYTHING: Self = Self {
        number: u64::MAX,
        day: u64::MAX,
    };
}

/// The disk did not take a reservation in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("what the API key may spend could not be written down")]
pub struct NotKept;

impl Default for Keeping {
    fn default() -> Self {
        let (kept, _) = watch::channel(Kept::EVERYTHING);
        Self(Arc::new(Shared {
            asked: Notify::new(),
            kept,
        }))
    }
}

impl Keeping {
    /// From now on reservations are written, and promises wait for that.
    pub fn begin(&self) {
        self.0.kept.send_replace(Kept { number: 0, day: 0 });
    }

    /// Resolves when a promise waits. For one who writes.
    pub async fn asked(&self) {
        self.0.asked.notified().await;
    }

    /// Says what is on disk now.
    pub fn reached(&self, kept: Kept) {
        self.0.kept.send_replace(kept);
    }

    /// Waits until the reservation of this number is on disk, counted on `day` or later.
    ///
    /// # Errors
    /// When that takes too long.
    pub(super) async fn wait(&self, number: u64, day: u64) -> Result<(), NotKept> {
        let mut kept = self.0.kept.subscribe();
        let is_kept = |kept: &Kept| kept.number >= number && kept.day >= day;
        if is_kept(&kept.borrow()) {
            return Ok(());
        }
        self.0.asked.notify_one();
        let waited = tokio::time::timeout(KEPT_WITHIN, kept.wait_for(is_kept)).await;
        matches!(waited, Ok(Ok(_))).then_some(()).ok_or(NotKept)
    }
}
