//! The envelopes that every scheme shares.

use alloy_primitives::Address;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::id::ChainId;
use crate::money::Amount;

use super::ErrorCode;

/// The most ways to pay that are read from one 402.
pub const ACCEPTS_MAX: usize = 32;

/// The extension that makes a request idempotent.
pub const PAYMENT_IDENTIFIER: &str = "payment-identifier";

/// Extension data by extension name.
pub type Extensions = Map<String, Value>;

/// The number 2: the only version of x402 that is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(2)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            2 => Ok(Self),
            other => Err(serde::de::Error::custom(format!(
                "this is x402 version {other}; version 2 is spoken here"
            ))),
        }
    }
}

/// How a payment is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// One transfer of exactly the stated amount.
    Exact,
    /// A voucher on a payment channel; the amount is a ceiling.
    BatchSettlement,
    /// A scheme that Hearth does not speak.
    #[serde(untagged)]
    Other(String),
}

/// What is paid for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceInfo {
    /// The resource's URL.
    pub url: String,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The media type of the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
}

/// One way to pay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentRequirements {
    /// The scheme.
    pub scheme: Scheme,
    /// The chain (CAIP-2).
    pub network: ChainId,
    /// Atomic units: the price for `exact`, the ceiling for `batch-settlement`.
    pub amount: Amount,
    /// The token.
    #[serde(with = "crate::address")]
    pub asset: Address,
    /// The account that is paid.
    #[serde(with = "crate::address")]
    pub pay_to: Address,
    /// Seconds that the payment may take.
    pub max_timeout_seconds: u64,
    /// What the scheme adds.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
}

impl PaymentRequirements {
    /// Whether a payer that echoes `echo` means this entry of the 402.
    ///
    /// `extra` is left out: a client keeps the first 402's `extra` over a correction, and every
    /// part of it that matters is bound by the channel's id or the token's domain.
    pub fn is_meant_by(&self, echo: &Self) -> bool {
        self.scheme == echo.scheme
            && self.network == echo.network
            && self.amount == echo.amount
            && self.asset == echo.asset
            && self.pay_to == echo.pay_to
    }
}

/// The body of `PAYMENT-REQUIRED`, on a 402.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentRequired {
    /// Always 2.
    pub x402_version: Version,
    /// Why payment is required, or why the one that came was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What is paid for.
    pub resource: ResourceInfo,
    /// The ways to pay, in the order of the provider's preference.
    #[serde(deserialize_with = "understood_entries")]
    pub accepts: Vec<PaymentRequirements>,
    /// Extensions on offer.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extensions: Extensions,
}

/// Reads the entries that are understood and passes over those of other kinds of network.
///
/// A 402 may list Solana or fiat beside EVM; one strange entry must not hide the others.
fn understood_entries<'de, D>(deserializer: D) -> Result<Vec<PaymentRequirements>, D::Error>
where
    D: Deserializer<'de>,
{
    let entries = Vec::<Value>::deserialize(deserializer)?;
    if entries.len() > ACCEPTS_MAX {
        return Err(serde::de::Error::custom(format!(
            "more than {ACCEPTS_MAX} ways to pay"
        )));
    }
    Ok(entries
        .into_iter()
        .filter_map(|entry| serde_json::from_value(entry).ok())
        .collect())
}

/// The ways to pay of a 402, as their writer wrote them.
///
/// A payer returns the entry that it chose untouched: servers look for it among those that they quoted, some of them
/// letter by letter, so that neither the case of an address nor a field that is not understood may change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct QuotedEntries {
    accepts: Vec<Value>,
}

impl QuotedEntries {
    /// The entry that was understood as `requirements`.
    pub fn of(self, requirements: &PaymentRequirements) -> Option<Value> {
        self.accepts.into_iter().find(|entry| {
            PaymentRequirements::deserialize(entry).is_ok_and(|entry| entry == *requirements)
        })
    }
}

/// The body of `PAYMENT-SIGNATURE`. `P` is the scheme's payload, or [`Value`] before it is known; `A` is the way to pay
/// that was chosen, or [`Value`] where it goes back untouched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentPayload<P = Value, A = PaymentRequirements> {
    /// Always 2.
    pub x402_version: Version,
    /// What is paid for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceInfo>,
    /// The way to pay that was chosen.
    pub accepted: A,
    /// What the scheme signs.
    pub payload: P,
    /// Extension data.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extensions: Extensions,
}

/// The body of `PAYMENT-RESPONSE`, and of a facilitator's `/settle`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettleResponse {
    /// Whether the payment stands.
    pub success: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_reason: Option<String>,
    /// The account that paid.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::address::option"
    )]
    pub payer: Option<Address>,
    /// The transaction's hash, or an empty string where none was needed.
    #[serde(default)]
    pub transaction: String,
    /// The chain.
    pub network: ChainId,
    /// What moved on chain: atomic units, or an empty string where nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// What the scheme adds.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
    /// Extension data.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extensions: Extensions,
}

impl SettleResponse {
    /// A payment that stands, and moved nothing on chain.
    pub fn success(network: ChainId, payer: Address) -> Self {
        Self {
            success: true,
            error_reason: None,
            payer: Some(payer),
            transaction: String::new(),
            network,
            amount: Some(String::new()),
            extra: Map::new(),
            extensions: Map::new(),
        }
    }

    /// A payment that does not stand.
    pub fn failure(network: ChainId, payer: Option<Address>, code: ErrorCode) -> Self {
        Self {
            success: false,
            error_reason: Some(code.to_string()),
            payer,
            transaction: String::new(),
            network,
            amount: None,
            extra: Map::new(),
            extensions: Map::new(),
        }
    }
}

/// What a facilitator's `/verify` and `/settle` are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyRequest {
    /// Always 2.
    pub x402_version: Version,
    /// The payment.
    pub payment_payload: PaymentPayload,
    /// What was asked for.
    pub payment_requirements: PaymentRequirements,
}

/// What a facilitator's `/verify` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyResponse {
    /// Whether the payment would stand.
    pub is_valid: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid_reason: Option<String>,
    /// The account that pays.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::address::option"
    )]
    pub payer: Option<Address>,
    /// What the scheme adds.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub extra: Map<String, Value>,
}

/// Why a payment identifier is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a payment identifier has 16 to 128 letters, digits, hyphens or underscores")]
pub struct PaymentIdentifierError;

/// The payment identifier that a payer put into its extensions, if any.
///
/// # Errors
/// When one is there and has not the form that the extension prescribes.
pub fn payment_identifier(extensions: &Extensions) -> Result<Option<&str>, PaymentIdentifierError> {
    let id = extensions
        .get(PAYMENT_IDENTIFIER)
        .and_then(|entry| entry.pointer("/info/id"));
    let Some(id) = id else { return Ok(None) };
    let id = id.as_str().ok_or(PaymentIdentifierError)?;
    let well_formed = (16..=128).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if well_formed {
        Ok(Some(id))
    } else {
        Err(PaymentIdentifierError)
    }
}

/// The entry by which a 402 says that payment identifiers are honoured.
pub fn payment_identifier_offer() -> Value {
    json!({
        "info": { "required": false },
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "required": { "type": "boolean" },
                "id": { "type": "string", "minLength": 16, "maxLength": 128 }
            },
            "required": ["required"]
        }
    })
}

/// A payer's extensions: those on offer, with `id` as the payment identifier where it is honoured.
pub fn with_payment_identifier(offered: &Extensions, id: &str) -> Extensions {
    let mut extensions = offered.clone();
    let entry = extensions
        .get_mut(PAYMENT_IDENTIFIER)
        .and_then(|entry| entry.get_mut("info"));
    if let Some(Value::Object(info)) = entry {
        info.insert("id".to_owned(), Value::String(id.to_owned()));
    }
    extensions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_goes_back_as_it_was_written() {
        let entry = |asset: &str| {
            json!({
                "scheme": "exact",
                "network": "eip155:8453",
                "amount": "10",
                "asset": asset,
                "payTo": "0x15d34aaf54267db7d7c367839aaf71a00a2c6a65",
                "maxTimeoutSeconds": 60,
                "extra": { "name": "USDC", "version": "2" },
                "fieldOfTheFuture": [1, null],
            })
        };
        let wanted = entry("0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266");
        let solana = json!({ "scheme": "exact", "network": "solana:mainnet" });
        let other = entry("0x70997970C51812dc3A010C7d01b50e0d17dc79C8");
        let quoted = json!({ "accepts": [solana, other, wanted] });
        let quoted = QuotedEntries::deserialize(&quoted).unwrap();
        let understood: PaymentRequirements = serde_json::from_value(wanted.clone()).unwrap();
        assert_ne!(serde_json::to_value(&understood).unwrap(), wanted);
        assert_eq!(quoted.of(&understood), Some(wanted));
    }
}
