//! A bucket of tokens: so many at once, so many a second after that.

use hearth_protocol::time::Timestamp;

/// A thousandth of a token is the unit inside, so that slow rates are exact.
const MILLI: u64 = 1_000;

/// A bucket of tokens. Reads no clock.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    milli_tokens: u64,
    milli_max: u64,
    /// Thousandths of a token that a millisecond adds, times 1,000.
    per_s_milli: u64,
    filled_at: Timestamp,
}

impl Bucket {
    /// A full bucket of `burst` tokens, refilled by `milli_per_s` thousandths a second.
    pub(crate) fn new(now: Timestamp, burst: u32, milli_per_s: u64) -> Self {
        let milli_max = u64::from(burst) * MILLI;
        Self {
            milli_tokens: milli_max,
            milli_max,
            per_s_milli: milli_per_s,
            filled_at: now,
        }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Timestamp) -> bool {
        let added = now
            .ms_since(self.filled_at)
            .saturating_mul(self.per_s_milli)
            / MILLI;
        if added > 0 {
            self.milli_tokens = self.milli_tokens.saturating_add(added).min(self.milli_max);
            self.filled_at = now;
        }
        let taken = self.milli_tokens >= MILLI;
        if taken {
            self.milli_tokens -= MILLI;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(Timestamp(0), 3, 2_000);
        let took = (0..10).filter(|_| bucket.take(Timestamp(0))).count();
        assert_eq!(took, 3);
        assert!(!bucket.take(Timestamp(499)));
        assert!(bucket.take(Timestamp(500)));
        let took = (0..10)
            .filter(|_| bucket.take(Timestamp(1_000_000)))
            .count();
        assert_eq!(took, 3, "it never holds more than its burst");
        // A clock that goes back gives nothing.
        assert!(!bucket.take(Timestamp(0)));
    }
}
