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
use super::request::{AnswerRequest, RequestError, RequestField};
use crate::x402::{PaymentJson, RequirementsJson, SettlementJson, optional_settlement};

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
        /// The payment, if the payer knows what to pay.
        payment: Option<PaymentJson>,
    },
    /// A payment, or a further one.
    Pay(PaymentJson),
    /// No more is wanted.
    Cancel,
    /// Asks for what is left in a channel, instead of a question: a payment of the kind `refund`.
    Refund(PaymentJson),
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

/// Why a provider does not answer. Exhaustive, so that code that passes it on decides on each cause.
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

impl Refusal {
    /// A refusal with a sentence, made printable and cut to what a frame holds: a reason may quote
    /// what a stranger sent.
    pub fn new(
        code: RefusalCode,
        field: Option<RequestField>,
        retry_after_ms: Option<u64>,
        message: &str,
    ) -> Self {
        let mut message = message.replace(char::is_control, " ");
        let mut end = message.len().min(REFUSAL_BYTES_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        Self {
            code,
            field,
            retry_after_ms,
            message,
        }
    }
}

impl From<RequestError> for Refusal {
    /// Why a question is refused before any model sees it.
    fn from(error: RequestError) -> Self {
        let code = match error {
            RequestError::PromptTooLong => RefusalCode::TooLong,
            RequestError::Grammar => RefusalCode::BadGrammar,
            RequestError::Empty
            | RequestError::OutputLength
            | RequestError::Answered
            | RequestError::Sampling
            | RequestError::Logprobs => RefusalCode::BadRequest,
        };
        Self::new(code, Some(error.field()), None, &error.to_string())
    }
}

/// What a provider says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ProviderFrame {
    /// What must be paid, or how a payment must be corrected.
    PaymentRequired(RequirementsJson),
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
        /// For what was charged since the last one; nothing where nothing is to be paid.
        #[serde(with = "optional_settlement")]
        settlement: Option<SettlementJson>,
    },
    /// What became of a refund. The last frame.
    Refunded(SettlementJson),
}
