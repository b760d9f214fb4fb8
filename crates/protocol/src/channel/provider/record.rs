//! What a provider must not forget about a channel, and with which voucher it claims.

use serde::{Deserialize, Serialize};

use crate::channel::{OnchainState, Voucher};
use crate::eip712::ChannelConfig;
use crate::money::Amount;
use crate::time::Timestamp;
use crate::x402::ClaimRow;

use super::refunds::{SignedRefunds, none_at_the_end};
use super::vouchers::PublicVouchers;

/// Vouchers below the highest one that are kept to claim with.
pub const LOWER_VOUCHERS_MAX: usize = 4;

/// What a provider must not forget about a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderRecord {
    /// The channel's parameters.
    pub config: ChannelConfig,
    /// What was charged, cumulative. This, and nothing more, is claimed.
    pub charged: Amount,
    /// The highest cumulative figure that the payer was ever told; at least `charged`.
    pub told: Amount,
    /// The highest voucher that was accepted.
    pub voucher: Option<Voucher>,
    /// The channel as the chain last had it; `None` before it was first read.
    pub onchain: Option<OnchainState>,
    /// When the last request was paid.
    pub last_paid_at: Timestamp,
    /// The other vouchers. They are written apart, after everything that older versions wrote.
    #[serde(skip)]
    pub spread: Spread,
}

/// What is known of the vouchers of a channel beside the highest one, and what else was signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Below the highest, ascending; each covers what is charged.
    pub lower: Vec<Voucher>,
    /// Those that strangers may have.
    pub public: PublicVouchers,
    /// Refunds that may still land.
    #[serde(deserialize_with = "none_at_the_end")]
    pub refunds: SignedRefunds,
}

impl ProviderRecord {
    /// A channel that nothing is known of but its parameters.
    pub fn new(config: ChannelConfig) -> Self {
        Self {
            config,
            charged: Amount::ZERO,
            told: Amount::ZERO,
            voucher: None,
            onchain: None,
            last_paid_at: Timestamp::default(),
            spread: Spread::default(),
        }
    }

    /// What is charged and not yet claimed.
    pub fn unclaimed(&self) -> Amount {
        let claimed = self
            .onchain
            .map_or(Amount::ZERO, |onchain| onchain.total_claimed);
        self.charged.saturating_sub(claimed)
    }

    /// Whether something is due on the channel, or may be: the claim that goes with a refund may have been seen in a
    /// block that was undone, as long as the refund is not final.
    pub fn may_be_due(&self) -> bool {
        !self.unclaimed().is_zero() || (self.voucher.is_some() && !self.spread.refunds.is_empty())
    }

    /// What vouchers may reach, given what the chain has: nothing that is being withdrawn or that a
    /// refund may still return.
    pub(super) fn spendable(&self, onchain: &OnchainState) -> Amount {
        let leaving = self.spread.refunds.open_from(onchain.refund_nonce);
        onchain.spendable().saturating_sub(leaving)
    }

    /// The row that claims everything that is due, if anything is.
    pub fn claim_row(&self) -> Option<ClaimRow> {
        if self.unclaimed().is_zero() {
            return None;
        }
        let voucher = self.claimable()?;
        Some(voucher.claim_row(&self.config, self.charged))
    }

    /// The voucher to claim with: one that is public already gives nothing more away; otherwise the
    /// lowest that covers what is charged gives away least.
    fn claimable(&self) -> Option<Voucher> {
        let mut covering = self.vouchers().filter(|voucher| self.covers(voucher));
        let is_public = |voucher: &Voucher| self.spread.public.contains(voucher.max_claimable);
        covering.clone().find(is_public).or_else(|| covering.next())
    }

    fn vouchers(&self) -> impl Iterator<Item = Voucher> + Clone + '_ {
        self.spread.lower.iter().copied().chain(self.voucher)
    }

    fn covers(&self, voucher: &Voucher) -> bool {
        voucher.max_claimable >= self.charged
    }

    /// Keeps a voucher that was accepted.
    pub(super) fn keep(&mut self, voucher: Voucher) {
        let max = |voucher: &Voucher| voucher.max_claimable;
        let mut kept: Vec<_> = self.vouchers().collect();
        if kept.iter().any(|known| max(known) == max(&voucher)) {
            return;
        }
        kept.push(voucher);
        kept.sort_by_key(max);
        self.voucher = kept.pop();
        self.spread.lower = kept;
        self.drop_low();
        // The lowest are worth most: they are what the next claims give away.
        self.spread.lower.truncate(LOWER_VOUCHERS_MAX);
    }

    /// Forgets the vouchers that no longer cover what is charged.
    pub(super) fn drop_low(&mut self) {
        let charged = self.charged;
        self.spread
            .lower
            .retain(|voucher| voucher.max_claimable >= charged);
    }
}
