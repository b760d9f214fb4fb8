//! Payment channels: the rules by which a payer promises and a provider charges.
//!
//! A channel is an escrow on chain from one payer to one provider. Off chain the payer signs
//! cumulative vouchers; the provider keeps the newest and the sum that it really charged. The two
//! sides are separate machines, [`provider::ProviderChannel`] and [`payer::PayerChannel`], each driven by events
//! and answering with effects, so that every order of events can be tried (spec: payments,
//! sections 5 and 6).

mod check;
pub mod payer;
pub mod provider;

use alloy_primitives::U256;
use serde::{Deserialize, Serialize};

use crate::eip712::ChannelConfig;
use crate::id::ChannelId;
use crate::money::Amount;
use crate::signature::Signature;
use crate::x402::{ChannelState, ClaimRow, ClaimVoucher, SignedVoucher};

pub use check::{CheckedDeposit, CheckedPayment, PaymentKind, Terms, check, deposit_message};

/// A channel as the chain has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnchainState {
    /// Deposited, less withdrawals and refunds.
    pub balance: Amount,
    /// Claimed, cumulative.
    pub total_claimed: Amount,
    /// What the payer has begun to withdraw; zero if nothing.
    pub withdraw_amount: Amount,
    /// When it began, in seconds since the epoch; 0 if it did not.
    pub withdraw_requested_at: u64,
    /// The nonce of the next refund.
    pub refund_nonce: U256,
}

impl OnchainState {
    /// What vouchers may reach: the balance less what is being withdrawn.
    ///
    /// A provider that claims in time may still claim up to the balance; it just does not let new
    /// work rest on money that is leaving.
    pub fn spendable(&self) -> Amount {
        self.balance.saturating_sub(self.withdraw_amount)
    }
}

/// A promise that was checked: what may be claimed in all, and the signature that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voucher {
    /// What may be claimed in all.
    pub max_claimable: Amount,
    /// By the channel's payer authorizer.
    pub signature: Signature,
}

impl Voucher {
    /// This voucher as it travels.
    pub fn on_channel(&self, channel_id: ChannelId) -> SignedVoucher {
        SignedVoucher {
            channel_id,
            max_claimable_amount: self.max_claimable,
            signature: self.signature,
        }
    }

    /// The row that claims `total_claimed` with this voucher.
    pub fn claim_row(&self, config: &ChannelConfig, total_claimed: Amount) -> ClaimRow {
        ClaimRow {
            voucher: ClaimVoucher {
                channel: *config,
                max_claimable_amount: self.max_claimable,
            },
            signature: self.signature,
            total_claimed,
        }
    }
}

/// A channel's state as it travels, with what the provider says it charged.
pub fn channel_state(
    channel_id: ChannelId,
    onchain: &OnchainState,
    charged: Option<Amount>,
) -> ChannelState {
    ChannelState {
        channel_id,
        balance: onchain.balance,
        total_claimed: onchain.total_claimed,
        withdraw_requested_at: onchain.withdraw_requested_at,
        refund_nonce: onchain.refund_nonce,
        charged_cumulative_amount: charged,
    }
}
