//! The payloads of scheme `batch-settlement` on EVM.

use alloy_primitives::{Address, U256};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::eip712::ChannelConfig;
use crate::id::ChannelId;
use crate::money::Amount;
use crate::signature::Signature;

/// Numbers of seconds that travel as decimal strings.
pub(super) mod decimal {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::x402) fn serialize<S: Serializer>(
        value: &u64,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Values beyond 64 bits (some clients send `type(uint256).max` for "never") mean the largest.
    pub(in crate::x402) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let digits =
            !text.is_empty() && text.len() <= 78 && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits {
            return Err(serde::de::Error::custom(
                "a time is a string of decimal digits",
            ));
        }
        Ok(text.parse().unwrap_or(u64::MAX))
    }
}

/// A 256-bit number that travels as a decimal or `0x` string.
mod wide {
    use alloy_primitives::U256;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &U256, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{value:#066x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<U256, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        let parsed = match text.strip_prefix("0x") {
            Some(hex) if !hex.is_empty() && hex.len() <= 64 => U256::from_str_radix(hex, 16).ok(),
            Some(_) => None,
            None if !text.is_empty() && text.len() <= 78 => U256::from_str_radix(&text, 10).ok(),
            None => None,
        };
        parsed.ok_or_else(|| serde::de::Error::custom("not a 256-bit number"))
    }
}

/// A 256-bit number that travels as a decimal string.
mod wide_decimal {
    use alloy_primitives::U256;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &U256, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<U256, D::Error> {
        super::wide::deserialize(d)
    }
}

/// How tokens move into escrow or to the payee.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferMethod {
    /// ERC-3009, the default.
    Eip3009,
    /// Uniswap's Permit2.
    Permit2,
    /// Another one.
    #[serde(untagged)]
    Other(String),
}

/// What `batch-settlement` adds to a way to pay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchExtra {
    /// Signs claims and refunds.
    #[serde(with = "crate::address")]
    pub receiver_authorizer: Address,
    /// Seconds.
    pub withdraw_delay: u64,
    /// The EIP-712 name of the token.
    pub name: String,
    /// The EIP-712 version of the token.
    pub version: String,
    /// How deposits are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asset_transfer_method: Option<TransferMethod>,
    /// The smallest deposit that is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_deposit: Option<Amount>,
    /// Only on a correction: what the provider knows of the channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_state: Option<ChannelState>,
    /// Only on a correction: the proof of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voucher_state: Option<VoucherState>,
}

impl BatchExtra {
    /// This as the `extra` object of a way to pay.
    pub fn into_map(self) -> Map<String, Value> {
        into_object(&self)
    }
}

pub(super) fn into_object(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => unreachable!("a struct with string keys is a JSON object"),
    }
}

/// A channel as its provider sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelState {
    /// The channel.
    pub channel_id: ChannelId,
    /// Deposited, less withdrawals and refunds.
    pub balance: Amount,
    /// Claimed on chain, cumulative.
    pub total_claimed: Amount,
    /// When the payer began to withdraw, in seconds since the epoch; 0 if it did not.
    pub withdraw_requested_at: u64,
    /// The nonce of the next refund.
    #[serde(with = "wide_decimal")]
    pub refund_nonce: U256,
    /// Charged, cumulative. Absent in what a facilitator reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charged_cumulative_amount: Option<Amount>,
}

/// The newest voucher that a provider holds, as proof of what it says it charged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VoucherState {
    /// What the voucher allows, cumulative.
    pub signed_max_claimable: Amount,
    /// The payer's signature over it.
    pub signature: Signature,
}

/// The `extra` of a settlement response.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChargeStatement {
    /// What this request was charged; absent on a refund.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charged_amount: Option<Amount>,
    /// What was charged on the channel in all when this statement left. Not of x402: clients that
    /// add up do not read it, and a payer with one request at a time need not add up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charged_total: Option<Amount>,
    /// The channel after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_state: Option<ChannelState>,
}

impl ChargeStatement {
    /// This as the `extra` object of a settlement response.
    pub fn into_map(self) -> Map<String, Value> {
        into_object(&self)
    }
}

/// A cumulative promise on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedVoucher {
    /// The channel.
    pub channel_id: ChannelId,
    /// What may be claimed in all.
    pub max_claimable_amount: Amount,
    /// By the channel's payer authorizer.
    pub signature: Signature,
}

/// An ERC-3009 authorization for a deposit; payer, payee and nonce follow from the channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Erc3009Authorization {
    /// Seconds since the epoch after which it holds.
    #[serde(with = "decimal")]
    pub valid_after: u64,
    /// Seconds since the epoch before which it holds.
    #[serde(with = "decimal")]
    pub valid_before: u64,
    /// Enters the nonce.
    #[serde(with = "wide")]
    pub salt: U256,
    /// By the payer, in the token's domain. Its form is the token's affair (ERC-1271 wallets).
    pub signature: alloy_primitives::Bytes,
}

/// By what right a deposit is collected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DepositAuthorization {
    /// By ERC-3009.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erc3009_authorization: Option<Erc3009Authorization>,
    /// By Permit2, which is not spoken here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit2_authorization: Option<Value>,
}

/// A deposit that the provider sends for the payer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deposit {
    /// Atomic units.
    pub amount: Amount,
    /// The right to collect them.
    pub authorization: DepositAuthorization,
}

/// What a payer sends with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum BatchPayload {
    /// Put tokens into the channel, and pay by the voucher.
    Deposit {
        /// The channel's parameters.
        channel_config: ChannelConfig,
        /// The promise.
        voucher: SignedVoucher,
        /// The deposit.
        deposit: Deposit,
    },
    /// Pay by the voucher.
    Voucher {
        /// The channel's parameters.
        channel_config: ChannelConfig,
        /// The promise.
        voucher: SignedVoucher,
    },
    /// Return what is not spent.
    Refund {
        /// The channel's parameters.
        channel_config: ChannelConfig,
        /// A promise that adds nothing: its amount is what was charged.
        voucher: SignedVoucher,
        /// How much; everything if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        amount: Option<Amount>,
    },
}

impl BatchPayload {
    /// The channel's parameters.
    pub fn config(&self) -> &ChannelConfig {
        match self {
            Self::Deposit { channel_config, .. }
            | Self::Voucher { channel_config, .. }
            | Self::Refund { channel_config, .. } => channel_config,
        }
    }

    /// The promise.
    pub fn voucher(&self) -> &SignedVoucher {
        match self {
            Self::Deposit { voucher, .. }
            | Self::Voucher { voucher, .. }
            | Self::Refund { voucher, .. } => voucher,
        }
    }
}

/// The voucher of a claim row: here the channel travels as its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimVoucher {
    /// The channel's parameters.
    pub channel: ChannelConfig,
    /// What may be claimed in all.
    pub max_claimable_amount: Amount,
}

/// One row of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRow {
    /// The voucher.
    pub voucher: ClaimVoucher,
    /// The payer authorizer's signature over it.
    pub signature: Signature,
    /// What is claimed, cumulative.
    pub total_claimed: Amount,
}

/// A claim for a facilitator or a watchtower to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimPayload {
    /// The rows.
    pub claims: Vec<ClaimRow>,
    /// The receiver authorizer's signature over the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_authorizer_signature: Option<Signature>,
}

/// A transfer of everything claimed to the receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettlePayload {
    /// The account that is paid.
    #[serde(with = "crate::address")]
    pub receiver: Address,
    /// In which token.
    #[serde(with = "crate::address")]
    pub token: Address,
}

/// A refund, completed by the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefundPayload {
    /// The channel's parameters.
    pub channel_config: ChannelConfig,
    /// The payer's promise that adds nothing.
    pub voucher: SignedVoucher,
    /// How much is returned.
    pub amount: Amount,
    /// The nonce of this refund.
    #[serde(with = "wide_decimal")]
    pub refund_nonce: U256,
    /// What is claimed before.
    #[serde(default)]
    pub claims: Vec<ClaimRow>,
    /// The receiver authorizer's signature over the refund.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_authorizer_signature: Option<Signature>,
    /// The receiver authorizer's signature over the claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_authorizer_signature: Option<Signature>,
}

/// What a facilitator's `/settle` takes for this scheme.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum FacilitatorPayload {
    /// A payer's deposit.
    #[serde(rename_all = "camelCase")]
    Deposit {
        /// The channel's parameters.
        channel_config: ChannelConfig,
        /// The promise that came with it.
        voucher: SignedVoucher,
        /// The deposit.
        deposit: Deposit,
    },
    /// A claim.
    Claim(ClaimPayload),
    /// A settlement.
    Settle(SettlePayload),
    /// A refund.
    Refund(RefundPayload),
}
