//! What a route costs, in which tokens, by which schemes.

use std::fmt;

use alloy_primitives::Address;
use axum::body::Bytes;
use hearth_protocol::channel::Terms;
use hearth_protocol::channel::provider::Correction;
use hearth_protocol::eip712::{SettlementDomain, TokenDomain};
use hearth_protocol::id::{AssetId, ChainId};
use hearth_protocol::money::Amount;
use hearth_protocol::x402::{BatchExtra, ExactExtra, PaymentRequirements, ResourceInfo, Scheme};
use http::request::Parts;

/// How long a payment may take, as it is offered, in seconds.
const MAX_TIMEOUT_S: u64 = 120;
/// How long a payer's withdrawal usually takes, in seconds: a seller that was away for a night still claims in time.
const WITHDRAW_DELAY_S: u64 = 24 * 60 * 60;
/// The deposit that is usually asked for, in ceilings: as many requests as one deposit pays for at
/// least.
pub const DEPOSIT_CEILINGS: u32 = 10;

/// A token that is taken, and on what terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedAsset {
    /// The token.
    pub asset: AssetId,
    /// Its EIP-712 name.
    pub name: String,
    /// Its EIP-712 version.
    pub version: String,
    /// Who is paid.
    pub receiver: Address,
    /// The key that signs claims and refunds.
    pub receiver_authorizer: Address,
    /// Seconds that a payer's withdrawal takes.
    pub withdraw_delay: u64,
    /// The least deposit, in ceilings of the request that brings it: for how many such requests it must
    /// do at least.
    pub deposit_ceilings: u32,
    /// Whether channels are taken.
    pub batch: bool,
    /// Whether one-off payments are taken.
    pub exact: bool,
}

/// What one request costs in one token, in atomic units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// The most that it can cost.
    pub need: Amount,
    /// The ceiling that is quoted for a channel; at least `need`. What is above leaves room for
    /// requests in parallel on one voucher.
    pub ceiling: Amount,
}

impl Price {
    /// A price that does not depend on the request. A voucher covers one request at a time.
    pub fn fixed(amount: Amount) -> Self {
        Self {
            need: amount,
            ceiling: amount,
        }
    }
}

/// How a route is priced.
pub trait Pricing: fmt::Debug + Send + Sync + 'static {
    /// Whether the price depends on the request's body, so that it must be read first.
    fn needs_body(&self) -> bool {
        false
    }

    /// What a request costs in `asset`; `None` where it is not sold for that.
    ///
    /// The same request must have the same price when it comes again with the payment. `body` is
    /// empty unless [`Pricing::needs_body`].
    fn price(&self, asset: &AssetId, request: &Parts, body: &Bytes) -> Option<Price>;
}

/// One price for every request, in one token.
#[derive(Debug, Clone)]
pub struct FixedPrice(pub Vec<(AssetId, Price)>);

impl Pricing for FixedPrice {
    fn price(&self, asset: &AssetId, _request: &Parts, _body: &Bytes) -> Option<Price> {
        self.0
            .iter()
            .find(|(priced, _)| priced == asset)
            .map(|(_, price)| *price)
    }
}

impl AcceptedAsset {
    /// A token that is taken in both ways, by channels and one-off, on the usual terms: a payer's withdrawal takes a
    /// day, and a deposit does for [`DEPOSIT_CEILINGS`] requests.
    ///
    /// `name` and `version` are of the token's EIP-712 domain, as its contract has them. `receiver` is paid;
    /// `receiver_authorizer` is the account of the key that signs claims and refunds.
    pub fn new(
        asset: AssetId,
        name: impl Into<String>,
        version: impl Into<String>,
        receiver: Address,
        receiver_authorizer: Address,
    ) -> Self {
        Self {
            asset,
            name: name.into(),
            version: version.into(),
            receiver,
            receiver_authorizer,
            withdraw_delay: WITHDRAW_DELAY_S,
            deposit_ceilings: DEPOSIT_CEILINGS,
            batch: true,
            exact: true,
        }
    }

    /// The terms on which channels in this token are taken.
    pub fn terms(&self) -> Terms {
        let AssetId { chain, token } = self.asset;
        Terms {
            domain: SettlementDomain::new(chain),
            receiver: self.receiver,
            receiver_authorizer: self.receiver_authorizer,
            token,
            token_domain: self.token_domain(),
            withdraw_delay: self.withdraw_delay,
        }
    }

    /// The token's EIP-712 domain.
    pub fn token_domain(&self) -> TokenDomain {
        TokenDomain::new(
            self.asset.chain,
            self.asset.token,
            &self.name,
            &self.version,
        )
    }

    /// The chain.
    pub fn chain(&self) -> ChainId {
        self.asset.chain
    }

    /// The least that is taken as a deposit with a request for which `ceiling` is quoted.
    pub fn least_deposit(&self, ceiling: Amount) -> Amount {
        ceiling.saturating_mul(u128::from(self.deposit_ceilings))
    }

    /// The ways to pay `price` in this token, channels first: clients take the first they know.
    pub fn requirements(&self, price: Price) -> Vec<PaymentRequirements> {
        let batch = self.batch.then(|| self.batch_requirements(price));
        let exact = self.exact.then(|| self.exact_requirements(price));
        batch.into_iter().chain(exact).collect()
    }

    /// The way to pay `price` by a channel.
    pub fn batch_requirements(&self, price: Price) -> PaymentRequirements {
        let extra = self.batch_extra(price).into_map();
        self.way(Scheme::BatchSettlement, price.ceiling, extra)
    }

    /// The same for a payer that has to be told how its channel stands.
    pub fn corrected(&self, price: Price, correction: Correction) -> PaymentRequirements {
        let extra = BatchExtra {
            channel_state: Some(correction.channel),
            voucher_state: correction.voucher,
            ..self.batch_extra(price)
        };
        self.way(Scheme::BatchSettlement, price.ceiling, extra.into_map())
    }

    fn batch_extra(&self, price: Price) -> BatchExtra {
        BatchExtra {
            receiver_authorizer: self.receiver_authorizer,
            withdraw_delay: self.withdraw_delay,
            name: self.name.clone(),
            version: self.version.clone(),
            asset_transfer_method: None,
            min_deposit: Some(self.least_deposit(price.ceiling)),
            channel_state: None,
            voucher_state: None,
        }
    }

    fn exact_requirements(&self, price: Price) -> PaymentRequirements {
        let extra = ExactExtra {
            name: self.name.clone(),
            version: self.version.clone(),
            asset_transfer_method: None,
        };
        self.way(Scheme::Exact, price.need, extra.into_map())
    }

    fn way(
        &self,
        scheme: Scheme,
        amount: Amount,
        extra: serde_json::Map<String, serde_json::Value>,
    ) -> PaymentRequirements {
        PaymentRequirements {
            scheme,
            network: self.asset.chain,
            amount,
            asset: self.asset.token,
            pay_to: self.receiver,
            max_timeout_seconds: MAX_TIMEOUT_S,
            extra,
        }
    }

    /// Whether a payment that names `accepted` is for this token and payee.
    pub fn is_meant_by(&self, accepted: &PaymentRequirements) -> bool {
        accepted.network == self.asset.chain
            && accepted.asset == self.asset.token
            && accepted.pay_to == self.receiver
            && match accepted.scheme {
                Scheme::Exact => self.exact,
                Scheme::BatchSettlement => self.batch,
                Scheme::Other(_) => false,
            }
    }
}

/// What a 402 says of the resource.
pub fn resource(base: Option<&str>, request: &Parts, description: Option<&str>) -> ResourceInfo {
    let path = request
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let host = request
        .headers
        .get(http::header::HOST)
        .and_then(|host| host.to_str().ok());
    let url = match (base, host) {
        (Some(base), _) => format!("{}{path}", base.trim_end_matches('/')),
        (None, Some(host)) => format!("http://{host}{path}"),
        (None, None) => path.to_owned(),
    };
    ResourceInfo {
        url,
        description: description.map(str::to_owned),
        mime_type: None,
    }
}
