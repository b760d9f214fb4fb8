//! What `hearth serve-paid`, `hearth pay` and `hearth channels` print.

use serde::{Deserialize, Serialize};

use crate::money::Money;

/// One line of a paid service's output with `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ServiceEvent {
    /// The service answers.
    Ready(Box<ServiceReady>),
    /// It has stopped as asked, and every promise is on disk.
    Stopped,
}

/// A paid service that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReady {
    /// Where it is.
    pub url: String,
    /// What stands behind the price.
    pub upstream: String,
    /// The price of a request.
    pub price: Money,
    /// The ceiling that is quoted to those who pay by channel: the price, or several where one
    /// voucher shall do for several requests at once.
    pub ceiling: Money,
    /// The account that is paid.
    pub pay_to: String,
    /// The session key that signs claims.
    pub receiver_authorizer: String,
    /// How long a payer's withdrawal takes, in seconds.
    pub withdraw_delay_s: u64,
}

/// A request that was made, and what it cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paid {
    /// What was asked.
    pub url: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// How it was paid; absent where it was free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment: Option<Payment>,
    /// The answer's body as text, where it is text; otherwise use `--output`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// How many bytes the body has.
    pub body_bytes: usize,
    /// The file that has the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// A payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// The x402 scheme.
    pub scheme: String,
    /// CAIP-2 id.
    pub chain: String,
    /// The most that it could cost.
    pub ceiling: Money,
    /// What it did cost, as the service states it.
    pub charged: Money,
    /// Who was paid.
    pub pay_to: String,
    /// The transaction, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// The service's statement as it came (x402 `SettleResponse`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<serde_json::Value>,
}

/// The channels of this device, on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channels {
    /// From which it pays.
    pub paying: Vec<Channel>,
    /// On which it is paid.
    pub earning: Vec<Channel>,
    /// Stores that could not be looked into, and why.
    pub problems: Vec<String>,
}

/// One channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// Its id.
    pub channel: String,
    /// CAIP-2 id.
    pub chain: String,
    /// The other side's account.
    pub counterpart: String,
    /// The service's address, where this device pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `open`, `refunding`, `closed` or `distrusted`.
    pub status: String,
    /// In the channel on the chain, as last known.
    pub balance: Money,
    /// Promised beyond what was charged: the most that a request in progress can still take.
    pub reserved: Money,
    /// Charged, cumulative.
    pub charged: Money,
    /// Claimed on the chain, cumulative, as last known.
    pub claimed: Money,
    /// What a refund would return (paying), or what a claim would bring (earning).
    pub due: Money,
}

/// What a refund or a withdrawal came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returned {
    /// `refunded`, `withdrawal_begun`, `withdrawal_waiting` or `withdrawn`.
    pub outcome: String,
    /// The transaction, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// What came back, in atomic units, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<String>,
    /// When a withdrawal can be finished, in seconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at_s: Option<u64>,
}

/// What claims were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// One entry for each transaction.
    pub claims: Vec<Claim>,
}

/// One claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// CAIP-2 id.
    pub chain: String,
    /// How many channels it covers.
    pub channels: usize,
    /// The transaction, where it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// What it brought to the household's account, in atomic units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<String>,
    /// Why it did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Channels whose row the chain refused, with the reason.
    pub dropped: Vec<String>,
}

/// What many paid requests came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaidSums {
    /// What was asked for.
    pub url: String,
    /// Requests that were answered.
    pub requests: u64,
    /// The HTTP status of the last answer.
    pub status: u16,
    /// What they were charged in all, in atomic units.
    pub charged_units: String,
}
