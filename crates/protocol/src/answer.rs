//! Answers: what a payer asks of a provider, and what the provider signs (spec: answers).
//!
//! `spec` fixes everything that may change an answer; `request` is what travels to a provider;
//! `receipt` is what it signs; `frame` is the order of both on a stream; `price` says what it
//! costs; `payer` and `provider` are the two sides as machines. Models are run elsewhere: to these
//! machines an answer is a sequence of token ids.

pub mod answering;
pub mod frame;
pub mod payer;
pub mod price;
pub mod provider;
pub mod receipt;
pub mod request;
pub mod spec;
mod tab;

pub use frame::{PayerFrame, ProviderFrame, Refusal, Tokens};
pub use price::Price;
pub use receipt::{Receipt, SignedReceipt, StopReason};
pub use request::{AnswerId, AnswerRequest, Grammar, RequestError};
pub use spec::{BackendClass, KvType, Sampling, Serving, Spec};
