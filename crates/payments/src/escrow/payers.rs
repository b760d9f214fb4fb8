//! What is done for each payer: how much at once, and how often.
//!
//! Deposits and refunds cost this node's gas and bring it nothing. A channel has few refunds an hour, but channels cost
//! nothing: a payer could put one and the same money through one after the other. So its refunds on all of them count.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use alloy_primitives::Address;
use hearth_protocol::channel::provider::REFUND_WINDOW_MS;
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::ErrorCode;

/// Deposits and refunds of one payer that are under way at once: as many as it may have channels with one provider.
const TRANSACTIONS_MAX: usize = 8;
/// Refunds of one payer within [`REFUND_WINDOW_MS`]: twice as many as it may have channels with one provider.
const REFUNDS_MAX: usize = 16;

/// What was asked by payers of one chain.
#[derive(Debug, Default)]
pub(super) struct Payers(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    under_way: BTreeMap<Address, usize>,
    /// When refunds were begun, the oldest first.
    refunds: BTreeMap<Address, VecDeque<Timestamp>>,
}

/// A payer's place among those whose transactions are under way.
pub(super) struct Place<'a> {
    payers: &'a Payers,
    payer: Address,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut counts = self.payers.lock();
        if let Some(count) = counts.under_way.get_mut(&self.payer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.under_way.remove(&self.payer);
            }
        }
    }
}

impl Payers {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Counts are whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a transaction that `payer` wants.
    ///
    /// # Errors
    /// [`ErrorCode::ChannelBusy`] where it has too many under way.
    pub(super) fn place(&self, payer: Address) -> Result<Place<'_>, ErrorCode> {
        let mut counts = self.lock();
        let count = counts.under_way.entry(payer).or_default();
        if *count >= TRANSACTIONS_MAX {
            return Err(ErrorCode::ChannelBusy);
        }
        *count += 1;
        drop(counts);
        Ok(Place {
            payers: self,
            payer,
        })
    }

    /// A place for a refund that `payer` wants.
    ///
    /// # Errors
    /// [`ErrorCode::ChannelBusy`] where it has too many under way, or had too many lately.
    pub(super) fn refund(&self, payer: Address, now: Timestamp) -> Result<Place<'_>, ErrorCode> {
        let place = self.place(payer)?;
        let mut counts = self.lock();
        let is_recent = |begun: &Timestamp| now.ms_since(*begun) < REFUND_WINDOW_MS;
        counts.refunds.retain(|_, begun| {
            begun.retain(is_recent);
            !begun.is_empty()
        });
        let begun = counts.refunds.entry(payer).or_default();
        if begun.len() >= REFUNDS_MAX {
            drop(counts);
            return Err(ErrorCode::ChannelBusy);
        }
        begun.push_back(now);
        drop(counts);
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);
    const ONE: Address = Address::repeat_byte(1);
    const OTHER: Address = Address::repeat_byte(2);

    #[test]
    fn one_payer_has_few_transactions_at_once_and_leaves_others_theirs() {
        let payers = Payers::default();
        let mut places: Vec<_> = (0..TRANSACTIONS_MAX)
            .map(|_| payers.place(ONE).unwrap_or_else(|code| panic!("{code}")))
            .collect();
        assert_eq!(payers.place(ONE).err(), Some(ErrorCode::ChannelBusy));
        assert!(payers.place(OTHER).is_ok());
        places.pop();
        assert!(payers.place(ONE).is_ok());
    }

    #[test]
    fn one_payer_has_few_refunds_an_hour_whatever_channels_it_opens() {
        let payers = Payers::default();
        for step in 0..REFUNDS_MAX as u64 {
            assert!(payers.refund(ONE, NOW.plus_ms(step)).is_ok(), "{step}");
        }
        for ms in [1_000, REFUND_WINDOW_MS - 1] {
            let refused = payers.refund(ONE, NOW.plus_ms(ms)).err();
            assert_eq!(refused, Some(ErrorCode::ChannelBusy), "{ms}");
        }
        assert!(payers.refund(OTHER, NOW).is_ok());
        assert!(payers.refund(ONE, NOW.plus_ms(REFUND_WINDOW_MS)).is_ok());
        assert!(payers.lock().under_way.is_empty(), "no place is kept");
    }
}
