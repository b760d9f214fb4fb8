//! The frames of a stream between payer and provider (spec: answers, section 7).
//!
//! One bidirectional stream carries one answer of one provider. Each frame is postcard after its
//! length as a little-endian `u32`. Payments inside are the JSON of x402, as HTTP carries it.
//!
//! ```text
//! payer                          provider
//! Ask(request, payment?)  ---->
//!                         <----  PaymentRequired        (no payment, or one that must be corrected)
//! Pay(payment)            ---->
//!                         <----  Accepted
//!                         <----  Working*               (the prompt is long)
//!                         <----  Tokens*
//!                         <----  Charged                (half of what is covered is used up)
//! Pay(payment)            ---->                         (covers more)
//!                         <----  Tokens*
//! Cancel?                 ---->
//!                         <----  Charged                (the last one says why it stopped)
//! ```
//!
//! A stream can carry a refund instead of an answer: what is left in a channel goes back.
//!
//! ```text
//! Refund(payment)         ---->
//!                         <----  Refunded | Refused
//! ```

use serde::{Deserialize, Serialize};

use super::receipt::SignedReceipt;
use super::request::{AnswerRequest, RequestField};

/// The longest frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// The longest payment inside a frame, in bytes.
pub const PAYMENT_BYTES_MAX: usize = 16 << 10;
/// The most tokens in one frame.
pub const FRAME_TOKENS_MAX: usize = 1_024;
/// The longest sentence in a refusal, in bytes.
pub const REFUSAL_BYTES_MAX: usize = 512;

/// What a payer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PayerFrame {
    /// The question, once, at the beginning.
    Ask {
        /// The question.
        request: Box<AnswerRequest>,
        /// An x402 `PaymentPayload` as JSON, if the payer knows what to pay.
        payment: Option<Vec<u8>>,
    },
    /// An x402 `PaymentPayload` as JSON.
    Pay(Vec<u8>),
    /// No more is wanted.
    Cancel,
    /// Asks for what is left in a channel, once, at the beginning: an x402 `PaymentPayload` with a
    /// refund, as JSON.
    Refund(Vec<u8>),
}

/// Tokens of the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    /// The position of the first of them in the whole answer.
    pub first: u32,
    /// Their ids; at most [`FRAME_TOKENS_MAX`].
    pub ids: Vec<u32>,
    /// As many as there are ids, or none at all.
    pub logprobs: Vec<TokenLogprobs>,
}

/// How likely a token was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// Of the token that was chosen, by the model's own distribution.
    pub chosen: f32,
    /// The most likely tokens with theirs, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// Why a provider does not answer. Exhaustive, so that whoever tells it further decides on each cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCode {
    /// The model is not served here.
    ModelNotServed,
    /// It is served with another spec than the one asked for.
    SpecDiffers,
    /// The prompt and the output do not fit into the model's context.
    TooLong,
    /// The request makes no sense.
    BadRequest,
    /// The grammar cannot be compiled.
    BadGrammar,
    /// Everything is busy.
    Busy,
    /// The owner uses the device now, or the hours are others.
    NotNow,
    /// The payment is refused for good.
    PaymentRefused,
    /// Something broke here.
    Failed,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// The part of the question that is at fault, where one is.
    pub field: Option<RequestField>,
    /// When it may be worth to ask again, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// A sentence for people, at most [`REFUSAL_BYTES_MAX`] bytes.
    pub message: String,
}

/// What a provider says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ProviderFrame {
    /// An x402 `PaymentRequired` as JSON: what must be paid, or how a payment must be corrected.
    PaymentRequired(Vec<u8>),
    /// The answer is not given, or does not go on. The last frame.
    Refused(Refusal),
    /// The request is admitted.
    Accepted {
        /// The requests before it.
        waiting: u32,
    },
    /// The prompt is being read.
    Working {
        /// Tokens read so far; more each time.
        prompt_tokens: u32,
    },
    /// The next tokens.
    Tokens(Tokens),
    /// Everything delivered so far is charged. Unless its receipt says that the answer goes on,
    /// it is the last frame.
    Charged {
        /// For all that was delivered on this stream.
        receipt: Box<SignedReceipt>,
        /// An x402 `SettleResponse` as JSON, for what was charged since the last one; empty if
        /// nothing is to be paid.
        settlement: Vec<u8>,
    },
    /// What became of a refund: an x402 `SettleResponse` as JSON. The last frame.
    Refunded(Vec<u8>),
}
