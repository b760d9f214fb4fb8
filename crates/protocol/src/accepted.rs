//! The assets that a provider takes, on what terms, and how it says so to payers.

use alloy_primitives::Address;
use serde_json::{Map, Value};

use crate::channel::Terms;
use crate::channel::provider::Correction;
use crate::eip712::{SettlementDomain, TokenDomain};
use crate::id::{AssetId, ChainId};
use crate::money::Amount;
use crate::x402::{BatchExtra, ExactExtra, PaymentRequirements, Scheme};

/// How long a payment may take, as it is offered, in seconds.
const MAX_TIMEOUT_S: u64 = 120;
/// How long a payer's withdrawal usually takes, in seconds: a seller that was away for a night still claims in time.
const WITHDRAW_DELAY_S: u64 = 24 * 60 * 60;
/// The deposit that is usually asked for, in ceilings: as many requests as one deposit pays for at
/// least.
pub const DEPOSIT_CEILINGS: u32 = 10;

/// An asset that is taken, and on what terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedAsset {
    /// The asset.
    pub asset: AssetId,
    /// The EIP-712 name of its token.
    pub name: String,
    /// The EIP-712 version of its token.
    pub version: String,
    /// The account that is paid.
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

/// What one request costs in one asset, in atomic units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestPrice {
    /// The most that it can cost.
    pub need: Amount,
    /// The ceiling that is quoted for a channel; at least `need`. What is above leaves room for
    /// requests in parallel on one voucher.
    pub ceiling: Amount,
}

impl RequestPrice {
    /// A price that does not depend on the request. A voucher covers one request at a time.
    pub fn fixed(amount: Amount) -> Self {
        Self {
            need: amount,
            ceiling: amount,
        }
    }
}

impl AcceptedAsset {
    /// An asset that is taken in both ways, by channels and one-off, on the usual terms: a payer's withdrawal takes a
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

    /// The terms on which channels in this asset are taken.
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

    /// The ways to pay `price` in this asset, channels first: clients take the first they know.
    pub fn requirements(&self, price: RequestPrice) -> Vec<PaymentRequirements> {
        let batch = self.batch.then(|| self.batch_requirements(price));
        let exact = self.exact.then(|| self.exact_requirements(price));
        batch.into_iter().chain(exact).collect()
    }

    /// The way to pay `price` by a channel.
    pub fn batch_requirements(&self, price: RequestPrice) -> PaymentRequirements {
        let extra = self.batch_extra(price.ceiling).into_map();
        self.way(Scheme::BatchSettlement, price.ceiling, extra)
    }

    /// The same for a payer that has to be told how its channel stands.
    pub fn corrected(&self, price: RequestPrice, correction: Correction) -> PaymentRequirements {
        let extra = BatchExtra {
            channel_state: Some(correction.channel),
            voucher_state: correction.voucher,
            ..self.batch_extra(price.ceiling)
        };
        self.way(Scheme::BatchSettlement, price.ceiling, extra.into_map())
    }

    fn batch_extra(&self, ceiling: Amount) -> BatchExtra {
        BatchExtra {
            receiver_authorizer: self.receiver_authorizer,
            withdraw_delay: self.withdraw_delay,
            name: self.name.clone(),
            version: self.version.clone(),
            asset_transfer_method: None,
            min_deposit: Some(self.least_deposit(ceiling)),
            channel_state: None,
            voucher_state: None,
        }
    }

    fn exact_requirements(&self, price: RequestPrice) -> PaymentRequirements {
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
        extra: Map<String, Value>,
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

    /// Whether a payment that names `accepted` is for this asset and payee.
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
