//! What a payer can do about its channels without the provider: look, and take the rest back.

use futures::future::BoxFuture;
use hearth_causes::WithCauses;
use hearth_protocol::channel::OnchainState;
use hearth_protocol::id::{AssetId, ChainId, ChannelId};
use hearth_protocol::money::Amount;
use tracing::debug;

use super::channels::Sure;
use super::{PayError, Purse};
use crate::escrow::Escrow;

/// Gas that beginning or finishing a withdrawal uses at most, by the snapshot of the contracts and a margin.
const WITHDRAW_GAS: u64 = 120_000;

/// How many channels of a token are looked up on the chain before a payment.
const CHANNELS_LOOKED_AT_MAX: usize = 64;
/// How many one-off payments of a token are looked up on the chain at once.
const AUTHORIZATIONS_LOOKED_AT_MAX: usize = 64;

/// Where a withdrawal stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Withdrawal {
    /// It has begun; it can be finished at `ends_at_s`, in seconds since the epoch.
    Begun {
        /// The transaction that began it.
        transaction: String,
        /// When it can be finished.
        ends_at_s: u64,
    },
    /// It has begun before, and must still wait.
    Waiting {
        /// When it can be finished.
        ends_at_s: u64,
    },
    /// The tokens are back.
    Finished {
        /// The transaction.
        transaction: String,
        /// What came back.
        amount: Amount,
        /// In which token.
        asset: AssetId,
    },
}

impl Purse {
    /// Brings the books up to date with the chains, as far as they can be read. Returns the
    /// channels whose chain could not be.
    ///
    /// # Errors
    /// When the store fails.
    pub fn look(&self) -> BoxFuture<'_, Result<Vec<ChannelId>, PayError>> {
        Box::pin(self.looked())
    }

    async fn looked(&self) -> Result<Vec<ChannelId>, PayError> {
        let mut unread = Vec::new();
        for view in self.channels()? {
            match self.read(view.stored.chain, view.channel).await {
                Ok(state) => {
                    let sure = self.read_sure(view.stored.chain, view.channel).await;
                    self.channels.observe(view.channel, &state, sure).await?;
                }
                Err(_) => unread.push(view.channel),
            }
        }
        self.look_at_authorizations().await?;
        Ok(unread)
    }

    /// Asks the chains which promises, deposits and one-off payments can no longer cost anything; as far as they can be
    /// read, and not too often.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn recount(&self) -> Result<(), PayError> {
        if !self.channels.may_recount(self.now()) {
            return Ok(());
        }
        for asset in self.spending.0.keys() {
            let recountable = self.channels.recountable(*asset);
            for channel in recountable.into_iter().take(CHANNELS_LOOKED_AT_MAX) {
                if let Ok(state) = self.read(asset.chain, channel).await {
                    let sure = self.read_sure(asset.chain, channel).await;
                    self.channels.observe(channel, &state, sure).await?;
                }
            }
        }
        self.look_at_authorizations().await
    }

    /// Asks the chains which one-off payments can no longer be used: they count no more.
    async fn look_at_authorizations(&self) -> Result<(), PayError> {
        for asset in self.spending.0.keys() {
            let Some(escrow) = self.escrows.get(asset.chain) else {
                continue;
            };
            let outstanding = self.channels.outstanding(*asset);
            if outstanding.is_empty() {
                continue;
            }
            let Ok(head) = escrow.client().head().await else {
                continue;
            };
            let over = outstanding
                .into_iter()
                .filter(|(_, row)| row.valid_before_s <= head.timestamp_s);
            for (nonce, _) in over.take(AUTHORIZATIONS_LOOKED_AT_MAX) {
                let payer = self.keys.household.address();
                match escrow.unused_for_sure(asset.token, payer, nonce).await {
                    Ok(Some(at_s)) => self.channels.unused(nonce, at_s).await?,
                    Ok(None) => {}
                    Err(error) => {
                        debug!(error = %error.with_causes(), "a one-off payment could not be looked at")
                    }
                }
            }
        }
        Ok(())
    }

    /// What the chain has of a channel for sure; nothing where it cannot be read.
    pub(super) async fn read_sure(&self, chain: ChainId, channel: ChannelId) -> Option<Sure> {
        let escrow = self.escrows.get(chain)?;
        match escrow.balance_for_sure(channel).await {
            Ok((balance, at_s)) => Some(Sure { balance, at_s }),
            Err(error) => {
                debug!(error = %error.with_causes(), "a channel could not be read at a confirmed block");
                None
            }
        }
    }

    pub(super) async fn read(
        &self,
        chain: ChainId,
        channel: ChannelId,
    ) -> Result<OnchainState, PayError> {
        let escrow = self.escrows.get(chain).ok_or(PayError::Chain(chain))?;
        Ok(escrow.read(channel).await?)
    }

    async fn check_gas(&self, escrow: &Escrow) -> Result<(), PayError> {
        if escrow.can_pay_gas(WITHDRAW_GAS).await? {
            return Ok(());
        }
        Err(PayError::NoCoin {
            chain: escrow.domain().chain(),
            account: escrow.account(),
        })
    }

    /// Takes the rest of a channel back without the provider's help: begins the withdrawal, or
    /// finishes it when its delay is over.
    ///
    /// # Errors
    /// When the channel or its chain is not known, nothing is left, or the chain refuses.
    pub fn withdraw(&self, channel: ChannelId) -> BoxFuture<'_, Result<Withdrawal, PayError>> {
        Box::pin(self.withdrawn(channel))
    }

    async fn withdrawn(&self, channel: ChannelId) -> Result<Withdrawal, PayError> {
        let views = self.channels()?;
        let view = views.into_iter().find(|view| view.channel == channel);
        let stored = view.ok_or(PayError::NoChannel)?.stored;
        let escrow = self
            .escrows
            .get(stored.chain)
            .ok_or(PayError::Chain(stored.chain))?;
        let state = escrow.read(channel).await?;
        let config = stored.record.config;
        if state.withdraw_requested_at == 0 {
            let amount = state.balance.saturating_sub(state.total_claimed);
            if amount.is_zero() {
                return Err(PayError::NoChannel);
            }
            self.check_gas(&escrow).await?;
            self.channels.begin_withdrawal(channel).await?;
            let transaction = escrow.initiate_withdraw(&config, amount).await?;
            let ends_at_s = self.now().as_secs().saturating_add(config.withdraw_delay);
            return Ok(Withdrawal::Begun {
                transaction: transaction.to_string(),
                ends_at_s,
            });
        }
        let ends_at_s = state
            .withdraw_requested_at
            .saturating_add(config.withdraw_delay);
        let head = escrow.client().head().await?;
        if head.timestamp_s < ends_at_s && self.now().as_secs() < ends_at_s {
            return Ok(Withdrawal::Waiting { ends_at_s });
        }
        self.check_gas(&escrow).await?;
        let transaction = escrow.finalize_withdraw(&config).await?;
        let after = escrow.read(channel).await?;
        let sure = self.read_sure(stored.chain, channel).await;
        self.channels.observe(channel, &after, sure).await?;
        let amount = state.balance.saturating_sub(after.balance);
        Ok(Withdrawal::Finished {
            transaction: transaction.to_string(),
            amount,
            asset: AssetId {
                chain: stored.chain,
                token: config.token,
            },
        })
    }
}
