//! A channel that the payer opens by a transaction of its own, before anything is bought (spec: payments, section 6).
//!
//! The channel is durable before its deposit is sent, with its deposit in doubt: whatever happens then, it is on
//! record, and the next payment on it asks the chain first whether the deposit arrived.

use alloy_primitives::B256;
use futures::future::BoxFuture;
use hearth_protocol::channel::CheckedDeposit;
use hearth_protocol::channel::payer::Promise;
use hearth_protocol::eip712::SettlementDomain;
use hearth_protocol::id::ChannelId;
use hearth_protocol::money::Amount;
use hearth_protocol::spending::{AssetLimit, Declined};
use hearth_protocol::x402::{BatchExtra, PaymentRequirements, Scheme};
use url::Url;

use super::{PayError, Purchase, Purse, channel_terms, payment_required};

/// Gas that a deposit into a new channel uses at most: the snapshot of the contracts has 132,330.
const DEPOSIT_GAS: u64 = 150_000;

/// What a service asks of those who would open a channel with it.
#[derive(Debug, Clone)]
pub struct ChannelQuote {
    /// The way to pay that is within the household's limits.
    pub requirements: PaymentRequirements,
    terms: BatchExtra,
    limit: AssetLimit,
    url: Url,
}

/// A channel with a deposit in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedChannel {
    /// Its id.
    pub channel: ChannelId,
    /// The transaction that deposited.
    pub transaction: String,
}

impl ChannelQuote {
    /// How long it takes to withdraw without the service, in seconds.
    pub fn withdraw_delay_s(&self) -> u64 {
        self.terms.withdraw_delay
    }

    /// Whether `deposit` may go into a channel at once.
    ///
    /// # Errors
    /// When it is above the limit for one deposit.
    pub fn allows(&self, deposit: Amount) -> Result<(), PayError> {
        let limit = self.limit.per_deposit;
        if deposit > limit {
            let asked = deposit;
            return Err(PayError::Declined(vec![Declined::PerDeposit {
                asked,
                limit,
            }]));
        }
        Ok(())
    }
}

impl Purse {
    /// Asks the service at `url` what a channel with it would be paid by.
    ///
    /// # Errors
    /// When it cannot be reached, is free, or takes no channel within the limits.
    pub fn channel_quote<'a>(
        &'a self,
        url: &'a Url,
    ) -> BoxFuture<'a, Result<ChannelQuote, PayError>> {
        Box::pin(self.quoted(url))
    }

    async fn quoted(&self, url: &Url) -> Result<ChannelQuote, PayError> {
        let probe = Purchase::probe(url);
        let response = self.send(&probe, None, true).await?;
        let required = payment_required(&response)?.ok_or(PayError::Free)?;
        let by_channel: Vec<_> = required
            .accepts
            .into_iter()
            .filter(|entry| entry.scheme == Scheme::BatchSettlement)
            .collect();
        if by_channel.is_empty() {
            return Err(PayError::NoChannelTaken);
        }
        let (requirements, limit) = self.choose(&by_channel).await?;
        Ok(ChannelQuote {
            terms: channel_terms(requirements)?,
            requirements: requirements.clone(),
            limit,
            url: url.clone(),
        })
    }

    /// Puts `deposit` into a new channel with the service that gave `quote`, by a transaction of the household's account.
    ///
    /// # Errors
    /// See [`PayError`]. Once the transaction may have been sent, the channel stays on record.
    pub fn open_channel<'a>(
        &'a self,
        quote: &'a ChannelQuote,
        deposit: Amount,
    ) -> BoxFuture<'a, Result<OpenedChannel, PayError>> {
        Box::pin(self.opened(quote, deposit))
    }

    async fn opened(
        &self,
        quote: &ChannelQuote,
        deposit: Amount,
    ) -> Result<OpenedChannel, PayError> {
        quote.allows(deposit)?;
        let requirements = &quote.requirements;
        let chain = requirements.network;
        let escrow = self.escrows.get(chain).ok_or(PayError::Chain(chain))?;
        let config = self.config(
            requirements,
            &quote.terms,
            B256::from(self.environment.draw()?),
        );
        escrow
            .check_funds(&config, deposit)
            .await
            .map_err(PayError::Deposit)?;
        if !escrow.can_pay_gas(DEPOSIT_GAS).await? {
            let account = escrow.account();
            return Err(PayError::NoCoin { chain, account });
        }
        let domain = SettlementDomain::new(chain);
        let mut held = self
            .channels
            .add(&domain, config, quote.url.as_str())
            .ok_or(PayError::TooManyChannels)?;
        let channel = held.channel().id();
        let nothing_promised = Promise {
            max_claimable: Amount::ZERO,
            deposit: Some(deposit),
        };
        let limit = &quote.limit;
        let reserved = self.reserve(requirements, &mut held, &nothing_promised, limit);
        if let Err(declined) = reserved.await {
            held.discard();
            return Err(declined);
        }
        let checked = CheckedDeposit {
            amount: deposit,
            authorization: self.sign_deposit(requirements, &quote.terms, channel, deposit)?,
        };
        held.save_signed(self.now()).await?;
        let transacted = escrow
            .deposit(&config, channel, &checked, None)
            .await
            .map_err(PayError::Deposit)?;
        held.channel().observe(&transacted.onchain);
        held.save().await?;
        Ok(OpenedChannel {
            channel,
            transaction: transacted.transaction,
        })
    }
}
