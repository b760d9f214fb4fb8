//! What the chain says as of a block that no longer goes away.

use alloy_primitives::{Address, B256};
use alloy_sol_types::SolCall;
use hearth_chain::bindings::{Ember as Erc3009, Settlement};
use hearth_chain::client::{BlockAt, ChainError};
use hearth_protocol::eip712::SETTLEMENT_ADDRESS;
use hearth_protocol::id::ChannelId;
use hearth_protocol::money::Amount;

use super::Escrow;

impl Escrow {
    /// The newest block that no longer goes away: its height and time.
    async fn sure_block(&self) -> Result<(u64, u64), ChainError> {
        let head = self.client.head().await?;
        if self.confirmations == 1 {
            return Ok((head.number, head.timestamp_s));
        }
        let number = head.number.saturating_sub(self.confirmations - 1);
        let block = self.client.block(BlockAt::Number(number)).await?;
        let block = block.ok_or_else(|| ChainError::Malformed {
            method: "eth_getBlockByNumber".to_owned(),
            reason: "a block below the head is missing".to_owned(),
        })?;
        Ok((block.number, block.timestamp_s))
    }

    /// What a channel holds as of a block that no longer goes away, and that block's time in seconds.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn balance_for_sure(&self, channel: ChannelId) -> Result<(Amount, u64), ChainError> {
        let (state, at_s) = self.channel_for_sure(channel).await?;
        Ok((Amount::new(state.balance), at_s))
    }

    /// What is claimed of a channel as of a block that no longer goes away.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn claimed_for_sure(&self, channel: ChannelId) -> Result<Amount, ChainError> {
        let (state, _) = self.channel_for_sure(channel).await?;
        Ok(Amount::new(state.totalClaimed))
    }

    async fn channel_for_sure(
        &self,
        channel: ChannelId,
    ) -> Result<(Settlement::channelsReturn, u64), ChainError> {
        let (number, at_s) = self.sure_block().await?;
        let call = Settlement::channelsCall {
            channelId: channel.0,
        };
        let data = call.abi_encode().into();
        let at = BlockAt::Number(number);
        let output = self.client.call(SETTLEMENT_ADDRESS, data, at).await?;
        let state = Settlement::channelsCall::abi_decode_returns(&output);
        let state = state.map_err(|_| ChainError::Malformed {
            method: "channels".to_owned(),
            reason: "not two numbers".to_owned(),
        })?;
        Ok((state, at_s))
    }

    /// The time, in seconds, of a block that no longer goes away and as of which a payer's one-off payment was not
    /// used; nothing where it was.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn unused_for_sure(
        &self,
        token: Address,
        payer: Address,
        nonce: B256,
    ) -> Result<Option<u64>, ChainError> {
        let (number, at_s) = self.sure_block().await?;
        let call = Erc3009::authorizationStateCall {
            authorizer: payer,
            nonce,
        };
        let at = BlockAt::Number(number);
        let used = self
            .client
            .call(token, call.abi_encode().into(), at)
            .await?;
        // Only a clear answer counts: a word that is zero.
        let unused = used.len() == 32 && used.iter().all(|byte| *byte == 0);
        Ok(unused.then_some(at_s))
    }
}
