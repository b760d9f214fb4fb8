//! What `hearth serve-paid`, `hearth watch`, `hearth pay` and `hearth channels` print.

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
    /// Where the facilitator is, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facilitator: Option<String>,
    /// The watchtower that claims are handed to, where one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watchtower: Option<String>,
    /// What should be looked at, in sentences.
    pub warnings: Vec<String>,
}

/// One line of a watchtower's output with `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum WatchEvent {
    /// The watchtower answers.
    Ready(Box<WatchReady>),
    /// It was given a higher claim, and has it on disk.
    Watching(WatchedClaim),
    /// A payer began to withdraw, and the claim was sent; or why it could not be.
    Claimed(WatchedClaim),
    /// It has stopped as asked.
    Stopped,
}

/// A watchtower that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchReady {
    /// Where it is.
    pub url: String,
    /// The session keys that it serves.
    pub authorizers: Vec<String>,
    /// The chains that it watches, by CAIP-2 id.
    pub chains: Vec<String>,
    /// The account that pays for the gas of claims.
    pub account: String,
    /// What should be looked at, in sentences.
    pub warnings: Vec<String>,
}

/// A claim that a watchtower has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchedClaim {
    /// CAIP-2 id.
    pub chain: String,
    /// The channel's id.
    pub channel: String,
    /// What is claimed of the channel in all once it is sent, in atomic units.
    pub units: String,
    /// The same in whole tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
    /// The transaction that claimed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// Why it could not be claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
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

/// What a channel with a service would mean, before anything is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelTerms {
    /// The most that one request costs.
    pub price: Money,
    /// What would go into the channel.
    pub deposit: Money,
    /// Who would be paid.
    pub pay_to: String,
    /// How long it takes to withdraw without the service, in seconds.
    pub withdraw_delay_s: u64,
}

/// A deposit that a node is asked about, or asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAsked {
    /// The service's address.
    pub url: String,
    /// What goes into the channel, in whole tokens.
    pub deposit: String,
    /// The terms that the owner agreed to; without them nothing is deposited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<ChannelTerms>,
}

/// Channels that a node is asked to get back: by id, by the name of the other side in the list of
/// channels, or by a service's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhichChannels {
    /// Which.
    pub with: String,
}

/// A request that a node is asked to make, and to pay for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayAsked {
    /// The HTTP method.
    pub method: String,
    /// The address.
    pub url: String,
    /// Headers as `name: value`.
    pub headers: Vec<String>,
    /// The body, in base64.
    pub body: String,
    /// How long a service that cannot be reached is tried again, in seconds.
    pub patience_s: u64,
    /// What the owner agreed to.
    pub agreed: Agreement,
}

/// What an owner agrees to pay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Agreement {
    /// Nothing yet: the price is asked.
    Nothing,
    /// This price.
    To(Box<PriceQuoted>),
    /// Whatever is within the limits.
    Limits,
}

/// What a request costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceQuoted {
    /// The most that it costs.
    pub price: Money,
    /// What goes into a channel first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deposit: Option<Money>,
}

/// What a node says to a request that may cost something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayReply {
    /// It costs this, and was not agreed to.
    Price(PriceQuoted),
    /// It was answered.
    Answered {
        /// The HTTP status.
        status: u16,
        /// How it was paid.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payment: Option<Payment>,
        /// The body, in base64.
        body: String,
    },
}

/// A channel that was opened by a deposit of the payer's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Its id.
    pub channel: String,
    /// CAIP-2 id.
    pub chain: String,
    /// The account that will be paid.
    pub counterpart: String,
    /// The service's address.
    pub url: String,
    /// What went into it.
    pub deposit: Money,
    /// The transaction that deposited.
    pub transaction: String,
}

/// What came back of channels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refunds {
    /// One entry for each channel.
    pub refunds: Vec<Refund>,
}

/// What came back of one channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// Its id, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// What came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub returned: Option<Money>,
    /// The transaction, where the provider said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// Why nothing came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What a withdrawal came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returned {
    /// `withdrawal_begun`, `withdrawal_waiting` or `withdrawn`.
    pub outcome: String,
    /// The transaction, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// What came back, in atomic units, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<String>,
    /// The same in whole tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
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
    /// How many channels it covers; 0 where only what was claimed before was transferred.
    pub channels: usize,
    /// The transaction, where it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// What it brought to the household's account, in atomic units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<String>,
    /// The same in whole tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
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
    /// The same in whole tokens, by asset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub charged: Vec<Money>,
}
