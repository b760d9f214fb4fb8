//! An environment for tests: the clock stands until it is moved, and random bytes follow from a seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::{Environment, NoRandomness, Wait};

/// A clock that stands still until it is moved, and random bytes that repeat with its seed; clones share both.
#[derive(Debug, Clone, Default)]
pub struct ManualEnvironment {
    now_ms: Arc<AtomicU64>,
    random: Arc<AtomicU64>,
}

impl ManualEnvironment {
    /// An environment whose clock shows `now_ms`, with the random bytes of seed 0.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self::seeded(now_ms, 0)
    }

    /// An environment whose clock shows `now_ms`, with the random bytes of `seed`.
    #[must_use]
    pub fn seeded(now_ms: u64, seed: u64) -> Self {
        Self {
            now_ms: Arc::new(AtomicU64::new(now_ms)),
            random: Arc::new(AtomicU64::new(seed)),
        }
    }

    /// Shows `now_ms` from now on, which may lie in the past.
    pub fn set_ms(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }

    /// Moves the clock forward.
    pub fn advance_ms(&self, by_ms: u64) {
        self.now_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Environment for ManualEnvironment {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    /// Moves the clock to the end of the wait at once.
    fn sleep(&self, duration: Duration) -> Wait {
        self.advance_ms(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        Box::pin(tokio::task::yield_now())
    }

    /// The bytes of SplitMix64 (Steele, Lea, Flood, 2014).
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        for chunk in bytes.chunks_mut(8) {
            let state = self.random.fetch_add(STEP, Ordering::SeqCst);
            let mut mixed = state.wrapping_add(STEP);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            chunk.copy_from_slice(&mixed.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64) -> [u8; 20] {
        let environment: &dyn Environment = &ManualEnvironment::seeded(0, seed);
        environment
            .draw()
            .expect("a manual environment has randomness")
    }

    #[test]
    fn random_bytes_repeat_with_their_seed_and_differ_between_seeds() {
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        // The first number of SplitMix64 from state zero, as its authors publish it.
        assert_eq!(
            drawn(0)[..8],
            0xe220_a839_7b1d_cdaf_u64.to_le_bytes(),
            "the bytes are SplitMix64's"
        );
    }

    #[test]
    fn clones_share_one_clock_and_one_source() {
        let one = ManualEnvironment::new(5);
        let other = one.clone();
        other.advance_ms(3);
        assert_eq!(one.now_ms(), 8);
        assert_ne!(one.jitter(), other.jitter());
    }
}
