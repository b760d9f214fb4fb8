//! What a caller wants done on the chain, and what came of it.

use alloy_primitives::{Address, B256, Bytes, U256};
use serde::{Deserialize, Serialize};

use super::fees::Fees;
use crate::client::TxReceipt;

/// The longest name of an intent, in bytes.
pub const MAX_INTENT_ID_BYTES: usize = 128;

/// The caller's name for something to be done once, such as the id of a claim. The same name is never done twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IntentId(String);

impl IntentId {
    /// A name of 1 to [`MAX_INTENT_ID_BYTES`] bytes.
    ///
    /// # Errors
    /// [`BadIntentId`] for any other length.
    pub fn new(name: impl Into<String>) -> Result<Self, BadIntentId> {
        let name = name.into();
        if name.is_empty() || name.len() > MAX_INTENT_ID_BYTES {
            return Err(BadIntentId { bytes: name.len() });
        }
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for IntentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that is empty or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an intent's name has 1 to {MAX_INTENT_ID_BYTES} bytes, not {bytes}")]
pub struct BadIntentId {
    /// Its length.
    pub bytes: usize,
}

/// One transaction to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxIntent {
    /// The contract or account it goes to.
    pub to: Address,
    /// The call.
    pub data: Bytes,
    /// Wei sent along.
    pub value: U256,
    /// The most gas it may use; it is not sent if it needs more.
    pub gas_cap: u64,
    /// Not signed for the first time after this, in milliseconds since the Unix epoch. Once signed it can no longer be
    /// called back, and is brought to an end however long that takes.
    pub deadline_ms: u64,
}

/// One signed transaction for an intent. All of an intent's attempts share a nonce, so at most one can ever be final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Hash of the transaction.
    pub hash: B256,
    /// The signed bytes.
    pub raw: Bytes,
    /// What it offers.
    pub fees: Fees,
}

/// An intent's transaction is in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Hash of the transaction.
    pub transaction_hash: B256,
    /// Height of its block.
    pub block_number: u64,
    /// Hash of its block.
    pub block_hash: B256,
    /// Whether it did what was asked; `false` means that it reverted.
    pub success: bool,
    /// Gas used.
    pub gas_used: u64,
    /// Wei paid per unit of gas.
    pub effective_gas_price: u128,
}

impl From<&TxReceipt> for Receipt {
    fn from(receipt: &TxReceipt) -> Self {
        Self {
            transaction_hash: receipt.transaction_hash,
            block_number: receipt.block_number,
            block_hash: receipt.block_hash,
            success: receipt.success,
            gas_used: receipt.gas_used,
            effective_gas_price: receipt.effective_gas_price,
        }
    }
}
