//! How old a provider's knowledge of a channel may be when it begins to work.
//!
//! A payer that begins to withdraw has its money back after `withdrawDelay`. Work that is admitted on
//! what the chain had at a time `t` can be claimed until `t + withdrawDelay`: a withdrawal that is
//! not known at `t` begins later. So a provider admits nothing on knowledge that is older than half of
//! the delay, and has the other half for its claim. It keeps far from that bound: what a live
//! follower has heard counts for [`HEARD_MS_MAX`], and where none lives a channel is read for every
//! request (once for all that wait), so that even a chain whose clock runs fast is seen in time.
//!
//! A chain that stands still, or an endpoint that is stuck, shows an old newest block: on that no work
//! is admitted either. A chain that makes blocks only for transactions ([`Sight::block_at`] is none)
//! is believed, because it cannot fall behind itself.

use crate::time::Timestamp;

/// How long it counts that a follower was at the newest block, in milliseconds.
pub const HEARD_MS_MAX: u64 = 15_000;
/// How long a reading of the chain counts by itself, for a request that was there before it.
pub const READ_MS_MAX: u64 = 10_000;

/// A moment at which what the chain has was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// When the chain was asked, by this node's clock.
    pub asked_at: Timestamp,
    /// When its newest block was made; nothing where blocks are made for transactions only.
    pub block_at: Option<Timestamp>,
}

/// When an event is handled, and what the chain's follower has heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Now.
    pub now: Timestamp,
    /// Up to when everything that happened on the chain was told to its channels.
    pub heard: Option<Sight>,
}

/// Whether work may rest on what is known of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It may.
    Fresh,
    /// The chain must be read first.
    Old,
    /// The chain was read just now, and stands still.
    Stalled,
}

impl From<Timestamp> for Moment {
    /// A moment at which nothing follows the chain.
    fn from(now: Timestamp) -> Self {
        Self { now, heard: None }
    }
}

impl Moment {
    /// What knowledge from `read` is worth now to a request that came at `came_at`, on a channel with
    /// this withdraw delay.
    pub(super) fn weigh(
        self,
        read: Option<Sight>,
        came_at: Timestamp,
        withdraw_delay_s: u64,
    ) -> Freshness {
        let Some(read) = read else {
            return Freshness::Old;
        };
        let bound_ms = withdraw_delay_s.saturating_mul(1_000) / 2;
        let is_within = |sight: Sight, ms: u64| {
            self.now.ms_since(sight.asked_at) < ms.min(bound_ms) && sight.asked_at <= self.now
        };
        let moves = |sight: Sight| {
            let block_at = sight.block_at.unwrap_or(self.now);
            self.now.ms_since(block_at) < bound_ms
        };
        let heard = self.heard.filter(|heard| is_within(*heard, HEARD_MS_MAX));
        let is_new = read.asked_at >= came_at && is_within(read, READ_MS_MAX);
        if heard.is_some_and(moves) || (is_new && moves(read)) {
            Freshness::Fresh
        } else if is_new {
            Freshness::Stalled
        } else {
            Freshness::Old
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY_S: u64 = 900;
    const NOW: Timestamp = Timestamp(10_000_000);

    fn ago(ms: u64) -> Timestamp {
        Timestamp(NOW.0 - ms)
    }

    fn sight(asked_ms_ago: u64, block_ms_ago: Option<u64>) -> Option<Sight> {
        Some(Sight {
            asked_at: ago(asked_ms_ago),
            block_at: block_ms_ago.map(ago),
        })
    }

    /// What is known to a request that came a second ago.
    fn weigh(heard: Option<Sight>, read: Option<Sight>) -> Freshness {
        Moment { now: NOW, heard }.weigh(read, ago(1_000), DELAY_S)
    }

    #[test]
    fn a_live_follower_spares_reading_what_was_read_once() {
        let heard = sight(HEARD_MS_MAX - 1, Some(40_000));
        let long_ago = sight(5_000_000, Some(5_000_000));
        assert_eq!(weigh(heard, long_ago), Freshness::Fresh);
        assert_eq!(
            weigh(heard, None),
            Freshness::Old,
            "never read since the start"
        );
        let silent = sight(HEARD_MS_MAX, Some(40_000));
        assert_eq!(weigh(silent, long_ago), Freshness::Old);
    }

    #[test]
    fn without_a_follower_every_request_has_the_chain_read() {
        assert_eq!(weigh(None, sight(1_000, None)), Freshness::Fresh);
        assert_eq!(weigh(None, sight(1_001, None)), Freshness::Old);
        assert_eq!(weigh(None, None), Freshness::Old);
        let moment = Moment::from(NOW);
        let waited = |ms| moment.weigh(sight(ms, None), ago(20_000), DELAY_S);
        assert_eq!(waited(READ_MS_MAX - 1), Freshness::Fresh);
        assert_eq!(
            waited(READ_MS_MAX),
            Freshness::Old,
            "it has waited for long"
        );
    }

    #[test]
    fn a_chain_that_stands_still_is_believed_for_half_of_the_delay() {
        let bound_ms = DELAY_S * 500;
        for (block_ms_ago, expected) in [
            (bound_ms - 1, Freshness::Fresh),
            (bound_ms, Freshness::Stalled),
            (9_000_000, Freshness::Stalled),
        ] {
            let read = sight(0, Some(block_ms_ago));
            assert_eq!(weigh(None, read), expected, "{block_ms_ago}");
            assert_eq!(weigh(read, read), expected, "{block_ms_ago}, followed");
        }
        assert_eq!(
            weigh(sight(0, Some(bound_ms)), sight(0, None)),
            Freshness::Fresh
        );
    }

    #[test]
    fn a_clock_that_was_set_back_proves_nothing() {
        let later = Some(Sight {
            asked_at: NOW.plus_ms(1),
            block_at: None,
        });
        assert_eq!(weigh(later, later), Freshness::Old);
    }
}
