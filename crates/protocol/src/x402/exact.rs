//! The payload of scheme `exact` on EVM by ERC-3009.

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::money::Amount;
use crate::signature::Signature;

use super::batch::{TransferMethod, decimal, into_object};

/// What `exact` adds to a way to pay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExactExtra {
    /// The EIP-712 name of the token.
    pub name: String,
    /// The EIP-712 version of the token.
    pub version: String,
    /// How tokens move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asset_transfer_method: Option<TransferMethod>,
}

impl ExactExtra {
    /// This as the `extra` object of a way to pay.
    pub fn into_map(self) -> Map<String, Value> {
        into_object(&self)
    }
}

/// A signed transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExactPayload {
    /// Over the digest of `TransferWithAuthorization`, in the token's domain.
    pub signature: Signature,
    /// What is signed.
    pub authorization: Authorization,
}

/// An ERC-3009 authorization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// The account that pays.
    #[serde(with = "crate::address")]
    pub from: Address,
    /// The account that is paid.
    #[serde(with = "crate::address")]
    pub to: Address,
    /// Atomic units.
    pub value: Amount,
    /// Seconds since the epoch after which it holds.
    #[serde(with = "decimal")]
    pub valid_after: u64,
    /// Seconds since the epoch before which it holds.
    #[serde(with = "decimal")]
    pub valid_before: u64,
    /// Random; used once.
    pub nonce: B256,
}
