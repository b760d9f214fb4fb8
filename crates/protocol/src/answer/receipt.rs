//! What a provider signs: what was asked, answered and charged (spec: answers, section 6).

use std::borrow::Cow;

use alloy_primitives::{Address, B256};
use alloy_sol_types::{Eip712Domain, sol};
use serde::{Deserialize, Serialize};

use super::request::AnswerId;
use crate::content::ContentHash;
use crate::eip712::signing_digest;
use crate::id::ChannelId;
use crate::money::Amount;
use crate::signature::{Signature, SignatureError};
use crate::time::Timestamp;

sol! {
    /// The typed data of a receipt.
    #[allow(missing_docs)]
    #[derive(Debug, PartialEq, Eq)]
    struct AnswerReceipt {
        bytes16 answerId;
        bytes32 spec;
        bytes32 noiseSpec;
        bytes32 seed;
        bytes32 prompt;
        bytes32 output;
        uint32 promptTokens;
        uint32 answeredTokens;
        uint32 outputTokens;
        uint8 stop;
        bytes32 channelId;
        uint128 charge;
        uint64 startedAt;
        uint64 endedAt;
    }
}

/// Why an answer ended, or that it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum StopReason {
    /// It goes on: this receipt is for what was delivered so far.
    Unfinished = 0,
    /// The model ended it.
    EndOfText = 1,
    /// As many tokens as were asked for.
    Length = 2,
    /// The grammar allows nothing more.
    Grammar = 3,
    /// The payer wants no more.
    Cancelled = 4,
    /// The promise of the payer did not cover more.
    Unpaid = 5,
    /// The provider could not go on.
    Failed = 6,
}

/// What was asked, answered and charged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The answer.
    pub answer: AnswerId,
    /// What it was answered with.
    pub spec: ContentHash,
    /// What the noise was drawn from.
    pub noise_spec: ContentHash,
    /// The payer's random bytes.
    pub seed: [u8; 32],
    /// The hash of the ids that were asked, with those already answered by others.
    pub prompt: ContentHash,
    /// The hash of the ids that this provider delivered.
    pub output: ContentHash,
    /// How many ids were asked, with those already answered.
    pub prompt_tokens: u32,
    /// How many of them others had answered.
    pub answered_tokens: u32,
    /// How many ids this provider delivered.
    pub output_tokens: u32,
    /// Why it ended.
    pub stop: StopReason,
    /// The channel that paid; zero if nothing was to be paid.
    pub channel: ChannelId,
    /// What all of it was charged.
    pub charge: Amount,
    /// When the request was admitted.
    pub started_at: Timestamp,
    /// When the last of these ids was made.
    pub ended_at: Timestamp,
}

/// A receipt with its signature by the provider's session key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedReceipt {
    /// What is signed.
    pub receipt: Receipt,
    /// Over [`Receipt::digest`].
    pub signature: Signature,
}

impl Receipt {
    /// The EIP-712 digest, in the domain `{name: "Hearth Answer", version: "1"}`.
    pub fn digest(&self) -> B256 {
        let domain = Eip712Domain {
            name: Some(Cow::Borrowed("Hearth Answer")),
            version: Some(Cow::Borrowed("1")),
            ..Eip712Domain::default()
        };
        let message = AnswerReceipt {
            answerId: self.answer.0.into(),
            spec: self.spec.0.into(),
            noiseSpec: self.noise_spec.0.into(),
            seed: self.seed.into(),
            prompt: self.prompt.0.into(),
            output: self.output.0.into(),
            promptTokens: self.prompt_tokens,
            answeredTokens: self.answered_tokens,
            outputTokens: self.output_tokens,
            stop: self.stop as u8,
            channelId: self.channel.0,
            charge: self.charge.units(),
            startedAt: self.started_at.0,
            endedAt: self.ended_at.0,
        };
        signing_digest(domain.separator(), &message)
    }
}

impl SignedReceipt {
    /// The session key that signed.
    ///
    /// # Errors
    /// When the signature fits no key.
    pub fn signer(&self) -> Result<Address, SignatureError> {
        self.signature.signer(self.receipt.digest())
    }
}
