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
        self.take_many(now, 1)
    }

    /// Takes `count` tokens if there are as many, and otherwise none.
    pub(crate) fn take_many(&mut self, now: Timestamp, count: u64) -> bool {
        self.fill(now);
        let wanted = count.saturating_mul(MILLI);
        let taken = self.milli_tokens >= wanted;
        if taken {
            self.milli_tokens -= wanted;
        }
        taken
    }

    /// How many milliseconds it takes until `count` tokens are there, as many as it can hold at most.
    pub(crate) fn wait_ms(&mut self, now: Timestamp, count: u64) -> u64 {
        self.fill(now);
        let wanted = count.saturating_mul(MILLI).min(self.milli_max);
        let missing = wanted.saturating_sub(self.milli_tokens);
        let per_s = self.per_s_milli.max(1);
        missing.saturating_mul(MILLI).div_ceil(per_s)
    }

    fn fill(&mut self, now: Timestamp) {
        let added = now
            .ms_since(self.filled_at)
            .saturating_mul(self.per_s_milli)
            / MILLI;
        if added > 0 {
            self.milli_tokens = self.milli_tokens.saturating_add(added).min(self.milli_max);
            self.filled_at = now;
        }
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

    #[test]
    fn a_bucket_gives_many_at_once_and_says_how_long_to_wait_for_more() {
        let mut bucket = Bucket::new(Timestamp(0), 100, 10_000);
        assert!(bucket.take_many(Timestamp(0), 90));
        assert!(!bucket.take_many(Timestamp(0), 11), "all or nothing");
        assert_eq!(bucket.wait_ms(Timestamp(0), 10), 0);
        assert_eq!(bucket.wait_ms(Timestamp(0), 30), 2_000);
        assert!(!bucket.take_many(Timestamp(1_999), 30));
        assert!(bucket.take_many(Timestamp(2_000), 30));
        // More than it holds never comes; what it holds does.
        assert_eq!(bucket.wait_ms(Timestamp(2_000), 1_000), 10_000);
    }
}
