//! What only Hearth's own surface has: health and receipts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// That a node is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthReply {
    /// Always `ok`.
    pub status: String,
    /// The program's version.
    pub version: String,
    /// How many models can be asked.
    pub models: usize,
}

/// The receipts of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReceiptList {
    /// The answer's name.
    pub answer_id: String,
    /// One for each provider that took part, in order.
    pub receipts: Vec<SignedReceiptNote>,
}

/// What a provider signed (EIP-712, domain `Hearth Answer`, version `1`). Bytes are hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignedReceiptNote {
    /// The hash of what it was answered with.
    pub spec: String,
    /// The hash of what the noise was drawn from.
    pub noise_spec: String,
    /// The payer's random bytes.
    pub seed: String,
    /// The hash of the token ids that were asked.
    pub prompt: String,
    /// The hash of the token ids that were delivered.
    pub output: String,
    /// How many token ids were asked, with those already answered.
    pub prompt_tokens: u32,
    /// How many of them other providers had answered.
    pub answered_tokens: u32,
    /// How many token ids were delivered.
    pub output_tokens: u32,
    /// Why it ended: 0 it goes on, 1 end of the text, 2 length, 3 grammar, 4 cancelled, 5 unpaid,
    /// 6 failed.
    pub stop: u8,
    /// The channel that paid; zeros if nothing was to be paid.
    pub channel: String,
    /// What was charged, in atomic units.
    pub charge_units: String,
    /// When the request was admitted, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// When the last token was made, in milliseconds since 1970.
    pub ended_at_ms: u64,
    /// The EIP-712 digest that is signed.
    pub digest: String,
    /// The signature by the provider's session key.
    pub signature: String,
    /// The session key's address, recovered from the signature.
    pub signer: Option<String>,
}
