//! Refunds: the provider returns at once what is left in a channel (spec: payments, section 6).
//!
//! A refund is begun, carried, and ended. While it is on its way its channel is marked, durably, and
//! pays nothing: if no answer comes, the chain shows what became of it. What carries it is an HTTP
//! request here, or a stream to a device of the network.

use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use futures::future::BoxFuture;
use hearth_protocol::channel::payer::{PrepareError, Returned, Status};
use hearth_protocol::channel::{OnchainState, Voucher};
use hearth_protocol::eip712::SettlementDomain;
use hearth_protocol::id::{AssetId, ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::spending::asset_of;
use hearth_protocol::x402::{
    BatchExtra, BatchPayload, ErrorCode, PaymentJson, PaymentPayload, PaymentRequired,
    PaymentRequirements, Scheme, SettleResponse, Version,
};
use serde_json::Map;
use url::Url;

use super::channels::Held;
use super::{
    Order, PayError, Purchase, Purse, extra, is_recoverable, payment_required, quoted_entry,
    settle_response, sign, statement,
};

/// How long a refund may take, as it is asked for, in seconds.
const MAX_TIMEOUT_S: u64 = 120;
/// How often the chain is looked at for a refund that was made, by the provider's word.
const LOOKS_MAX: usize = 20;
/// The time between two looks: an endpoint may be some blocks behind the provider's.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What beginning a refund came to.
#[derive(Debug)]
pub enum Beginning {
    /// It had been done before, and its answer was lost.
    Done(Box<Refunded>),
    /// It has to be carried to the provider.
    ToCarry(Box<Refund>),
}

/// What came of a refund.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refunded {
    /// The channel.
    pub channel: ChannelId,
    /// Its token.
    pub asset: AssetId,
    /// The provider's answer, or one like it where the chain shows what it would have said.
    pub settled: SettleResponse,
}

/// A refund that has begun. One that is dropped leaves its channel marked.
#[derive(Debug)]
pub struct Refund {
    purse: Purse,
    held: Held,
    requirements: PaymentRequirements,
    payload: BatchPayload,
    amount: Option<Amount>,
    /// It was asked for before, and no answer came.
    repeated: bool,
    /// The provider corrected the figure that it is signed for.
    corrected: bool,
    /// Refunds that the chain had of this channel before, where it could be read.
    refunds_before: Option<U256>,
}

impl Purse {
    /// Asks a service to return what is left in the channel with it.
    ///
    /// # Errors
    /// When no channel is known, or the service refuses. The channel stays as it is.
    pub fn refund<'a>(
        &'a self,
        url: &'a Url,
        channel: Option<ChannelId>,
        amount: Option<Amount>,
    ) -> BoxFuture<'a, Result<Refunded, PayError>> {
        Box::pin(self.refunded(url, channel, amount))
    }

    async fn refunded(
        &self,
        url: &Url,
        channel: Option<ChannelId>,
        amount: Option<Amount>,
    ) -> Result<Refunded, PayError> {
        let purchase = Purchase::probe(url);
        let probe = self.send(&purchase, None, true).await?;
        let required = payment_required(&probe)?.ok_or(PayError::NoChannel)?;
        for requirements in &required.accepts {
            if requirements.scheme != Scheme::BatchSettlement {
                continue;
            }
            let extra: BatchExtra = extra(&requirements.extra)?;
            let config = self.config(requirements, &extra, B256::ZERO);
            let domain = SettlementDomain::new(requirements.network);
            let Some(held) = self.channels.find(&domain, &config, channel) else {
                continue;
            };
            let refund = match self.begin(requirements.clone(), held, amount).await? {
                Beginning::Done(done) => return Ok(*done),
                Beginning::ToCarry(refund) => refund,
            };
            let order = Order {
                purchase: &purchase,
                required: &required,
                requirements,
                accepted: quoted_entry(&probe, requirements)?,
            };
            return self.carry(&order, *refund).await;
        }
        Err(PayError::NoChannel)
    }

    /// Begins to take back what is left in a channel. Nothing is sent.
    ///
    /// # Errors
    /// When the channel is not known, is in use, or has nothing left.
    pub fn begin_refund(&self, channel: ChannelId) -> BoxFuture<'_, Result<Beginning, PayError>> {
        Box::pin(self.begun(channel))
    }

    async fn begun(&self, channel: ChannelId) -> Result<Beginning, PayError> {
        let views = self.channels()?;
        let view = views.into_iter().find(|view| view.channel == channel);
        let stored = view.ok_or(PayError::NoChannel)?.stored;
        let config = stored.record.config;
        let domain = SettlementDomain::new(stored.chain);
        if stored.record.refundable().is_zero() {
            return Err(PrepareError::Empty.into());
        }
        let held = self.channels.find(&domain, &config, Some(channel));
        let held = held.ok_or(PrepareError::InFlight)?;
        // Only who is paid in what is looked at: nothing is deposited.
        let extra = BatchExtra {
            receiver_authorizer: config.receiver_authorizer,
            withdraw_delay: config.withdraw_delay,
            name: String::new(),
            version: String::new(),
            asset_transfer_method: None,
            min_deposit: None,
            channel_state: None,
            voucher_state: None,
        };
        let requirements = PaymentRequirements {
            scheme: Scheme::BatchSettlement,
            network: stored.chain,
            amount: Amount::ZERO,
            asset: config.token,
            pay_to: config.receiver,
            max_timeout_seconds: MAX_TIMEOUT_S,
            extra: extra.into_map(),
        };
        self.begin(requirements, held, None).await
    }

    async fn begin(
        &self,
        requirements: PaymentRequirements,
        mut held: Held,
        amount: Option<Amount>,
    ) -> Result<Beginning, PayError> {
        let repeated = held.channel().record().status == Status::Refunding;
        let channel = held.channel().id();
        if repeated && let Some(settled) = self.find_refund(&requirements, &mut held).await? {
            return Ok(Beginning::Done(Box::new(Refunded {
                channel,
                asset: asset_of(&requirements),
                settled,
            })));
        }
        let onchain = self.read(requirements.network, channel).await.ok();
        let max_claimable = held.channel().prepare_refund()?;
        held.save().await?;
        let payload = self.sign_refund(&requirements, &mut held, max_claimable, amount);
        Ok(Beginning::ToCarry(Box::new(Refund {
            purse: self.clone(),
            held,
            requirements,
            payload,
            amount,
            repeated,
            corrected: false,
            refunds_before: onchain.map(|state| state.refund_nonce),
        })))
    }

    fn sign_refund(
        &self,
        requirements: &PaymentRequirements,
        held: &mut Held,
        max_claimable: Amount,
        amount: Option<Amount>,
    ) -> BatchPayload {
        let channel = held.channel().id();
        let domain = SettlementDomain::new(requirements.network);
        let digest = domain.voucher_digest(channel, max_claimable);
        let voucher = Voucher {
            max_claimable,
            signature: sign(&self.keys.session, digest),
        };
        BatchPayload::Refund {
            channel_config: held.channel().record().config,
            voucher: voucher.on_channel(channel),
            amount,
        }
    }

    /// Looks on chain for a refund whose answer was lost, so that it is not asked for twice.
    async fn find_refund(
        &self,
        requirements: &PaymentRequirements,
        held: &mut Held,
    ) -> Result<Option<SettleResponse>, PayError> {
        let chain = requirements.network;
        let Ok(state) = self.read(chain, held.channel().id()).await else {
            // Asking again is safe: it is this payer's own money, at most returned in two parts.
            return Ok(None);
        };
        let before = held.channel().record().refunded;
        let record = held.channel().observe(&state);
        let returned = record.refunded.saturating_sub(before);
        if record.status == Status::Refunding {
            return Ok(None);
        }
        let payer = record.config.payer;
        held.save().await?;
        Ok(Some(done_before(chain, payer, returned)))
    }

    /// Carries a refund over HTTP.
    async fn carry(&self, order: &Order<'_>, mut refund: Refund) -> Result<Refunded, PayError> {
        loop {
            let header = order.header(&refund.payload, self.environment.draw()?)?;
            let sent = self.send(order.purchase, Some(&header), false).await;
            let response = match sent {
                Ok(response) if !response.status().is_server_error() => response,
                // It may have been done all the same: the channel stays marked until that is known.
                Ok(response) => {
                    let code = format!("status {}", response.status().as_u16());
                    return Err(PayError::Refused { code });
                }
                Err(error) => return Err(error),
            };
            if let Some(settled) = settle_response(&response) {
                return refund.settle(settled).await;
            }
            refund = match payment_required(&response)? {
                Some(required) => refund.correct(&required).await?,
                None => return refund.refused("no answer".to_owned()).await,
            };
        }
    }
}

impl Refund {
    /// Signs for the figure that the provider names, once, as far as it is proved. A claim may have made public what was
    /// signed for before; a provider takes nothing that anyone could send.
    ///
    /// # Errors
    /// When the refusal is final, or the correction is not proved. The channel is open again then.
    pub async fn correct(mut self, required: &PaymentRequired) -> Result<Self, PayError> {
        let code = required
            .error
            .clone()
            .unwrap_or_else(|| "no answer".to_owned());
        if self.corrected || !is_recoverable(&code) {
            return self.refused(code).await;
        }
        let purse = self.purse.clone();
        let domain = SettlementDomain::new(self.requirements.network);
        let corrected = purse.correct(required, &domain, &mut self.held).await;
        if let Err(error) = corrected {
            self.held.channel().finish_refund(None);
            self.save().await?;
            return Err(error);
        }
        self.corrected = true;
        let max_claimable = self.held.channel().prepare_refund()?;
        self.save().await?;
        let (requirements, amount) = (&self.requirements, self.amount);
        self.payload = purse.sign_refund(requirements, &mut self.held, max_claimable, amount);
        Ok(self)
    }

    /// What goes to the provider: the JSON of an x402 `PaymentPayload`.
    pub fn payment(&self) -> PaymentJson {
        PaymentJson::from(&PaymentPayload {
            x402_version: Version,
            resource: None,
            accepted: &self.requirements,
            payload: &self.payload,
            extensions: Map::new(),
        })
    }

    /// Ends it by the provider's answer.
    ///
    /// # Errors
    /// When the provider refused; the channel is open again then. When the chain does not show what
    /// the provider says; the channel stays marked then.
    pub async fn settle(mut self, settled: SettleResponse) -> Result<Refunded, PayError> {
        let onchain = if settled.success {
            self.seen().await?
        } else {
            None
        };
        let record = self.held.channel().record();
        let (left, payer) = (record.refundable(), record.config.payer);
        let found_done = self.repeated && nothing_left(&settled);
        let returned = if settled.success {
            let stated = settled.amount.as_deref();
            let stated = stated.and_then(|amount| amount.parse().ok());
            let statement = statement(&settled).unwrap_or_default();
            Some(Returned {
                amount: stated.or(self.amount).unwrap_or(left),
                balance: statement.channel_state.map(|state| state.balance),
                charged_total: statement.charged_total,
            })
        } else if found_done {
            Some(Returned {
                amount: left,
                balance: None,
                charged_total: None,
            })
        } else {
            None
        };
        self.held.channel().finish_refund(returned);
        if let Some(onchain) = onchain {
            self.held.channel().observe(&onchain);
        }
        self.save().await?;
        let (chain, channel) = (self.requirements.network, self.held.channel().id());
        if let Some(sure) = self.purse.read_sure(chain, channel).await {
            // Vouchers that are above what the chain holds now are worth that much less.
            self.held.lower(sure).await?;
        }
        let settled = match (settled.success, found_done) {
            (true, _) => settled,
            (false, true) => done_before(self.requirements.network, payer, left),
            (false, false) => {
                let code = settled.error_reason.unwrap_or_default();
                return Err(PayError::Refused { code });
            }
        };
        Ok(Refunded {
            channel: self.held.channel().id(),
            asset: asset_of(&self.requirements),
            settled,
        })
    }

    /// Ends it where the provider did not even try. The channel is open again.
    ///
    /// # Errors
    /// Always: with `code`, unless the books fail.
    pub async fn refused<T>(mut self, code: String) -> Result<T, PayError> {
        self.held.channel().finish_refund(None);
        self.save().await?;
        Err(PayError::Refused { code })
    }

    /// Waits until the chain shows the refund. Nothing where the chain could not be read before.
    async fn seen(&mut self) -> Result<Option<OnchainState>, PayError> {
        let Some(before) = self.refunds_before else {
            return Ok(None);
        };
        let channel = self.held.channel().id();
        for _ in 0..LOOKS_MAX {
            let state = self.purse.read(self.requirements.network, channel).await;
            if let Ok(state) = state
                && state.refund_nonce > before
            {
                return Ok(Some(state));
            }
            self.purse.environment.sleep(LOOK_EVERY).await;
        }
        Err(PayError::Unseen)
    }

    async fn save(&mut self) -> Result<(), PayError> {
        Ok(self.held.save().await?)
    }
}

/// What a provider would have said of a refund whose answer was lost.
fn done_before(network: ChainId, payer: Address, amount: Amount) -> SettleResponse {
    SettleResponse {
        success: true,
        error_reason: None,
        payer: Some(payer),
        transaction: String::new(),
        network,
        amount: Some(amount.to_string()),
        extra: Map::new(),
        extensions: Map::new(),
    }
}

/// Whether a refund was refused because nothing is left: if one was asked for before and its
/// answer was lost, it was done.
fn nothing_left(settled: &SettleResponse) -> bool {
    settled.error_reason.as_deref() == Some(ErrorCode::RefundNoBalance.as_str())
}
