//! Which vouchers may start work: a voucher is a bearer token, and claims publish it.
//!
//! Anyone who has a signed voucher can present it, and everything in a transaction is read by everyone.
//! So a provider remembers, durably and before they leave, the vouchers that it gives to a chain or
//! to a watchtower ([`PublicVouchers`]): those start nothing any more. What is not public was signed
//! by the payer for this provider and seen by nobody else.
//!
//! Beside that, a voucher on which something was charged starts more work only while the payer's own
//! requests on it are in flight ([`UsedVouchers`]). That is not needed against those who read the
//! chain; it bounds what a voucher that was seen elsewhere is worth.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::money::Amount;
use crate::time::Timestamp;

use super::TRANSIT_MS_MAX;

/// Public vouchers of a channel that are remembered one by one; all below the oldest count as public.
pub const PUBLIC_VOUCHERS_MAX: usize = 32;
/// Vouchers of a channel whose use is remembered.
pub const USED_VOUCHERS_MAX: usize = 256;

/// The maxima of vouchers that strangers may have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicVouchers {
    /// Every maximum up to this one counts as public.
    floor: Option<Amount>,
    maxima: BTreeSet<Amount>,
}

impl PublicVouchers {
    /// Whether strangers may have the voucher with this maximum.
    pub fn contains(&self, max: Amount) -> bool {
        self.floor.is_some_and(|floor| max <= floor) || self.maxima.contains(&max)
    }

    /// Notes that a voucher leaves this node. Returns whether that is new.
    pub fn insert(&mut self, max: Amount) -> bool {
        if self.contains(max) {
            return false;
        }
        self.maxima.insert(max);
        if self.maxima.len() > PUBLIC_VOUCHERS_MAX {
            self.floor = self.maxima.pop_first();
        }
        true
    }

    /// The first maximum from `from` to `to` that is not public.
    pub fn first_private(&self, from: Amount, to: Amount) -> Option<Amount> {
        (from.units()..=to.units())
            .take(PUBLIC_VOUCHERS_MAX + 1)
            .map(Amount::new)
            .find(|max| !self.contains(*max))
    }

    /// The last maximum below `below` that is not public.
    pub fn last_private(&self, below: Amount) -> Option<Amount> {
        (0..below.units())
            .rev()
            .take(PUBLIC_VOUCHERS_MAX + 1)
            .map(Amount::new)
            .find(|max| !self.contains(*max))
    }
}

/// When something happened on a voucher last.
#[derive(Debug, Clone, Copy)]
struct Use {
    at: Timestamp,
    /// Something was charged on it: it has started its work.
    charged: bool,
}

/// What vouchers were used for since this process began.
#[derive(Debug, Clone, Default)]
pub(super) struct UsedVouchers(BTreeMap<Amount, Use>);

impl UsedVouchers {
    /// A request was admitted on a voucher.
    pub(super) fn admit(&mut self, max: Amount, now: Timestamp) {
        let first = Use {
            at: now,
            charged: false,
        };
        self.0.entry(max).or_insert(first).at = now;
        if self.0.len() > USED_VOUCHERS_MAX {
            self.0.pop_first();
        }
    }

    /// A request on a voucher was charged, and its reply is on its way.
    pub(super) fn charge(&mut self, max: Amount, now: Timestamp) {
        if let Some(used) = self.0.get_mut(&max) {
            *used = Use {
                at: now,
                charged: true,
            };
        }
    }

    /// Whether a voucher has done its work, and no reply on it can be on its way any more.
    pub(super) fn is_spent(&self, max: Amount, now: Timestamp) -> bool {
        self.0
            .get(&max)
            .is_some_and(|used| used.charged && now >= used.at.plus_ms(TRANSIT_MS_MAX))
    }

    /// Forgets the vouchers that no longer reach what is charged.
    pub(super) fn forget_to(&mut self, charged: Amount) {
        while let Some(lowest) = self.0.first_entry().filter(|entry| *entry.key() <= charged) {
            lowest.remove();
        }
    }

    /// The payer begins anew: it signed a deposit just now.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_public_once_stays_public_however_much_becomes_so() {
        let mut public = PublicVouchers::default();
        assert!(
            !public.contains(Amount::ZERO),
            "a first refund signs for nothing"
        );
        for max in (10..200).map(|step| Amount::new(step * 7)) {
            assert!(public.insert(max));
            assert!(!public.insert(max));
            let sooner = (10..=max.units() / 7).map(|step| Amount::new(step * 7));
            assert!(sooner.into_iter().all(|max| public.contains(max)));
        }
        assert!(public.maxima.len() <= PUBLIC_VOUCHERS_MAX);
        assert!(!public.contains(Amount::new(199 * 7 + 1)));
    }

    #[test]
    fn a_figure_that_nobody_else_has_is_found_beside_those_that_are_public() {
        let mut public = PublicVouchers::default();
        for max in [100, 101, 99] {
            public.insert(Amount::new(max));
        }
        let first = |from, to| public.first_private(Amount::new(from), Amount::new(to));
        assert_eq!(first(100, 200), Some(Amount::new(102)));
        assert_eq!(first(100, 101), None);
        assert_eq!(public.last_private(Amount::new(101)), Some(Amount::new(98)));
        assert_eq!(public.last_private(Amount::ZERO), None);
    }
}
