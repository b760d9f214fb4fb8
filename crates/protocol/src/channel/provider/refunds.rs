//! Refunds that were signed: each can land until the channel's refund nonce has passed it.
//!
//! Anyone may put a signed refund into a block, at any time: after the provider was killed, and after
//! its own transaction failed. So what it returns backs no work, as if the payer had begun to withdraw
//! it, until the chain has used its nonce. Of several for one nonce one can land. A nonce that was used
//! in a block which is then undone is open again, so a refund is forgotten only when one is final.

use std::collections::BTreeMap;

use alloy_primitives::U256;
use serde::{Deserialize, Deserializer, Serialize};

use crate::money::Amount;

/// Nonces whose refunds are remembered. The lowest are dropped beyond that: they were used hours ago.
const NONCES_MAX: usize = 16;

/// The most that was signed for each nonce, as far as it may still land.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRefunds(BTreeMap<U256, Amount>);

impl SignedRefunds {
    /// Notes a refund before it leaves. Returns what was noted for its nonce before.
    pub(super) fn sign(&mut self, nonce: U256, amount: Amount) -> Option<Amount> {
        let before = self.0.get(&nonce).copied();
        let most = before.map_or(amount, |before| before.max(amount));
        self.0.insert(nonce, most);
        if self.0.len() > NONCES_MAX {
            self.0.pop_first();
        }
        before
    }

    /// Takes back a refund that never left.
    pub(super) fn take_back(&mut self, nonce: U256, before: Option<Amount>) {
        match before {
            Some(before) => self.0.insert(nonce, before),
            None => self.0.remove(&nonce),
        };
    }

    /// The refund with this nonce is final, and with it the end of all up to it.
    pub(super) fn forget_to(&mut self, nonce: U256) {
        self.0.retain(|open, _| *open > nonce);
    }

    /// Whether each that was signed is final.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What may still be returned on a channel whose next refund has this nonce.
    pub fn open_from(&self, nonce: U256) -> Amount {
        let open = self.0.range(nonce..);
        open.fold(Amount::ZERO, |sum, (_, amount)| sum.saturating_add(*amount))
    }

    /// What may still be returned beside a refund with this nonce, which is the next.
    pub(super) fn open_after(&self, nonce: U256) -> Amount {
        self.open_from(nonce.saturating_add(U256::from(1)))
    }
}

/// Reads what an older version did not write as nothing.
pub(super) fn none_at_the_end<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<SignedRefunds, D::Error> {
    Ok(SignedRefunds::deserialize(deserializer).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(units: u128) -> Amount {
        Amount::new(units)
    }

    #[test]
    fn of_refunds_for_one_nonce_the_highest_counts_until_the_nonce_is_used() {
        let mut signed = SignedRefunds::default();
        let nonce = U256::from(7);
        assert_eq!(signed.sign(nonce, amount(90)), None);
        assert_eq!(signed.sign(nonce, amount(40)), Some(amount(90)));
        signed.sign(U256::from(8), amount(5));
        assert_eq!(signed.open_from(nonce), amount(95));
        assert_eq!(signed.open_after(nonce), amount(5));
        // Undone blocks open a nonce again; a final refund does not.
        assert_eq!(signed.open_from(U256::from(8)), amount(5));
        assert_eq!(signed.open_from(nonce), amount(95));
        signed.forget_to(nonce);
        assert_eq!(signed.open_from(nonce), amount(5));
    }

    #[test]
    fn a_refund_that_never_left_leaves_what_was_signed_before_it() {
        let mut signed = SignedRefunds::default();
        let nonce = U256::ZERO;
        signed.sign(nonce, amount(10));
        let before = signed.sign(nonce, amount(90));
        signed.take_back(nonce, before);
        assert_eq!(signed.open_from(nonce), amount(10));
    }
}
