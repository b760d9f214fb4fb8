//! The way to the settlement contract on one chain: read a channel, deposit, refund, claim, settle.
//!
//! Every transaction is simulated before it is sent, so that a refusal costs no gas and has a
//! reason; it is sent under a name that follows from what it does, so that a crash or a second
//! asking never does it twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolCall, SolEvent, SolValue};
use hearth_causes::WithCauses;
use hearth_chain::bindings::{Ember as Erc3009, Settlement};
use hearth_chain::client::{BlockAt, ChainClient, ChainError, OnchainChannel, TxRequest};
use hearth_chain::sender::{IntentId, Receipt, SendError, Sender, TxIntent};
use hearth_protocol::channel::provider::{Sight, Transacted};
use hearth_protocol::channel::{CheckedDeposit, OnchainState};
use hearth_protocol::claim::{
    ClaimBatch, DEPOSIT_GAS, REFUND_GAS, gas_price_nano, is_worth, row_channel,
};
use hearth_protocol::eip712::{
    COLLECTOR_ADDRESS, ChannelConfig, ClaimEntry, SETTLEMENT_ADDRESS, SettlementDomain,
};
use hearth_protocol::exact::CheckedTransfer;
use hearth_protocol::id::{AssetId, ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::signature::Signature;
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::{ClaimRow, ErrorCode, RefundPayload};
use thiserror::Error;
use tracing::warn;

use super::offer::AcceptedAsset;
use super::signing::sign;
use super::stopped::DeskStopped;

mod finality;
mod payers;

use payers::Payers;

/// Gas that a deposit, a refund or a transfer may use at most: several times what it needs.
const GAS_CAP: u64 = 1_000_000;
/// Gas that a claim may use for each row, beside [`GAS_CAP`].
const GAS_CAP_ROW: u64 = 100_000;
/// The share of what a deposit or a refund moves that its gas may cost, in millionths: 1%.
const GAS_SHARE_PPM: u32 = 10_000;
/// How long a transaction may wait before it is signed for the first time, in milliseconds.
const SIGN_WITHIN_MS: u64 = 60_000;

/// Why the contract did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EscrowError {
    /// The chain could not be asked, or it refused.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The transaction could not be sent, or it reverted.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The vouchers could not be noted as public.
    #[error(transparent)]
    Desk(#[from] DeskStopped),
    /// There is nothing to do.
    #[error("no row of the claim can be claimed")]
    NothingToClaim,
}

impl EscrowError {
    /// What a payer or service is told: `refused` where the contract said no.
    pub fn code(&self, refused: ErrorCode) -> ErrorCode {
        match self {
            Self::Chain(ChainError::Reverted { .. }) | Self::NothingToClaim => refused,
            Self::Chain(_) => ErrorCode::ChannelStateRead,
            Self::Send(_) | Self::Desk(_) => ErrorCode::UnexpectedSettle,
        }
    }
}

/// The settlement contract on one chain, with the account that pays for its gas.
#[derive(Debug)]
pub struct Escrow {
    client: ChainClient,
    sender: Sender,
    domain: SettlementDomain,
    /// The receiver's authorizer: signs claims and refunds.
    authorizer: PrivateKeySigner,
    /// Blocks until what is in the chain is final, its own included.
    confirmations: u64,
    payers: Payers,
}

/// In which order transactions are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// What this node earns: nothing that strangers ask for delays it.
    Own,
    /// What others ask for.
    Asked,
}

/// The chains on which this node takes payments.
#[derive(Debug, Clone, Default)]
pub struct Escrows {
    chains: BTreeMap<ChainId, Arc<Escrow>>,
    coin_worths: BTreeMap<AssetId, Amount>,
}

impl Escrows {
    /// Adds a chain.
    pub fn insert(&mut self, escrow: Escrow) {
        self.chains.insert(escrow.domain.chain(), Arc::new(escrow));
    }

    /// The contract on a chain.
    pub fn get(&self, chain: ChainId) -> Option<Arc<Escrow>> {
        self.chains.get(&chain).cloned()
    }

    /// Every chain.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Escrow>> {
        self.chains.values()
    }

    /// Those of `assets` that this node can be paid in: their chains are used. Nobody is offered another,
    /// because a payment in it would wait for a chain that nobody asks.
    pub fn accepted(&self, assets: impl IntoIterator<Item = AcceptedAsset>) -> Vec<AcceptedAsset> {
        let is_used = |asset: &AcceptedAsset| self.chains.contains_key(&asset.chain());
        assets.into_iter().filter(is_used).collect()
    }

    /// Says what one whole coin of a token's chain is worth in that token, in atomic units.
    pub fn set_coin_worth(&mut self, asset: AssetId, worth: Amount) {
        self.coin_worths.insert(asset, worth);
    }

    /// What one whole coin of a token's chain is worth in that token, if anyone said so.
    pub fn coin_worth(&self, asset: AssetId) -> Option<Amount> {
        self.coin_worths.get(&asset).copied()
    }
}

/// A claim that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The transaction's hash.
    pub transaction: B256,
    /// What moved to the receiver with it.
    pub settled: Amount,
    /// The rows that the chain refused, and that were left out.
    pub dropped: Vec<(ChannelId, String)>,
}

fn contract_config(config: &ChannelConfig) -> Settlement::ChannelConfig {
    Settlement::ChannelConfig {
        payer: config.payer,
        payerAuthorizer: config.payer_authorizer,
        receiver: config.receiver,
        receiverAuthorizer: config.receiver_authorizer,
        token: config.token,
        withdrawDelay: alloy_primitives::aliases::U40::saturating_from(config.withdraw_delay),
        salt: config.salt,
    }
}

fn contract_row(row: &ClaimRow) -> Settlement::VoucherClaim {
    Settlement::VoucherClaim {
        voucher: Settlement::Voucher {
            channel: contract_config(&row.voucher.channel),
            maxClaimableAmount: row.voucher.max_claimable_amount.units(),
        },
        signature: row.signature.as_bytes().to_vec().into(),
        totalClaimed: row.total_claimed.units(),
    }
}

/// The call that claims `rows` by the authorizer's signature.
pub fn claim_call(rows: &[ClaimRow], signature: &Signature) -> Bytes {
    Settlement::claimWithSignatureCall {
        voucherClaims: rows.iter().map(contract_row).collect(),
        authorizerSignature: signature.as_bytes().to_vec().into(),
    }
    .abi_encode()
    .into()
}

/// The call that transfers what is claimed to the receiver.
pub fn settle_call(receiver: Address, token: Address) -> Bytes {
    Settlement::settleCall { receiver, token }
        .abi_encode()
        .into()
}

fn refund_call(
    config: &ChannelConfig,
    amount: Amount,
    nonce: U256,
    signature: &Signature,
) -> Bytes {
    Settlement::refundWithSignatureCall {
        config: contract_config(config),
        amount: amount.units(),
        nonce,
        receiverAuthorizerSignature: signature.as_bytes().to_vec().into(),
    }
    .abi_encode()
    .into()
}

fn multicall(calls: Vec<Bytes>) -> Bytes {
    Settlement::multicallCall { data: calls }
        .abi_encode()
        .into()
}

impl Escrow {
    /// The contract on the chain of `client`; `sender` pays for gas, `authorizer` signs claims. What
    /// has `confirmations` blocks, its own included, is final.
    pub fn new(
        client: ChainClient,
        sender: Sender,
        authorizer: PrivateKeySigner,
        confirmations: u64,
    ) -> Self {
        let domain = SettlementDomain::new(client.chain());
        Self {
            client,
            sender,
            domain,
            authorizer,
            confirmations: confirmations.max(1),
            payers: Payers::default(),
        }
    }

    /// Whether blocks of this chain are made for transactions only, and stay.
    pub fn is_instant(&self) -> bool {
        self.confirmations == 1
    }

    /// What has been seen of the chain, where its newest block was made at `block_s`, in seconds.
    pub fn sight(&self, asked_at: Timestamp, block_s: u64) -> Sight {
        let block_at = (!self.is_instant()).then(|| Timestamp::from_secs(block_s));
        Sight { asked_at, block_at }
    }

    /// The contract's domain.
    pub fn domain(&self) -> &SettlementDomain {
        &self.domain
    }

    /// The chain's client.
    pub fn client(&self) -> &ChainClient {
        &self.client
    }

    /// The account that sends transactions.
    pub fn account(&self) -> Address {
        self.sender.key().account
    }

    /// What sends transactions of that account.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// A secret of this device for one purpose, which nobody without its session key can make.
    pub(super) fn secret(&self, purpose: &str) -> B256 {
        keccak256([keccak256(purpose), keccak256(self.authorizer.to_bytes())].concat())
    }

    /// The key that signs claims and refunds.
    pub fn authorizer(&self) -> Address {
        self.authorizer.address()
    }

    /// The channel as the chain has it.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn read(&self, channel: ChannelId) -> Result<OnchainState, ChainError> {
        let state = self.client.channel(channel.0).await?;
        Ok(onchain_state(&state))
    }

    /// The channel as its provider may rely on it, and when it was so: of what is in it only as much
    /// as is final, and everything that takes from it as soon as it is in a block.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn look(&self, channel: ChannelId) -> Result<(OnchainState, Sight), ChainError> {
        self.look_from(channel, 0).await
    }

    /// The same as of the block `number` or a later one.
    ///
    /// # Errors
    /// When the chain cannot be read, or has no such block where it is asked.
    pub async fn look_from(
        &self,
        channel: ChannelId,
        number: u64,
    ) -> Result<(OnchainState, Sight), ChainError> {
        let asked_at = Timestamp(self.client.environment().now_ms());
        let reading = self
            .client
            .channel_reading(channel.0, self.confirmations)
            .await?;
        if reading.head.number < number {
            return Err(ChainError::Malformed {
                method: "eth_getBlockByNumber".to_owned(),
                reason: format!(
                    "the endpoint is at block {}, behind {number}, which it showed before",
                    reading.head.number
                ),
            });
        }
        let mut state = onchain_state(&reading.channel);
        state.balance = Amount::new(reading.final_balance);
        Ok((state, self.sight(asked_at, reading.head.timestamp_s)))
    }

    /// Whether moving `amount` is worth `gas`, where a coin of the chain is worth `coin_worth` in the
    /// token.
    pub(super) async fn check_worth(
        &self,
        amount: Amount,
        gas: u64,
        coin_worth: Option<Amount>,
        code: ErrorCode,
    ) -> Result<(), ErrorCode> {
        let Some(worth) = coin_worth else {
            return Ok(());
        };
        let price = self
            .client
            .gas_price()
            .await
            .map_err(|error| refusal(&error, "gas price", code))?;
        let price = gas_price_nano(price, worth);
        if is_worth(amount, gas, price, GAS_SHARE_PPM) {
            Ok(())
        } else {
            Err(code)
        }
    }

    /// Whether the chain would do `data` on `to` now.
    async fn simulate(&self, to: Address, data: Bytes) -> Result<Bytes, ChainError> {
        let from = Some(self.account());
        let call = TxRequest {
            from,
            to: Some(to),
            data,
            ..TxRequest::default()
        };
        self.client.simulate(&call, BlockAt::Latest).await
    }

    /// Whether the account that sends transactions has the native coin for one that uses `gas`.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn can_pay_gas(&self, gas: u64) -> Result<bool, ChainError> {
        let price = self.client.gas_price().await?;
        let cost = U256::from(price).saturating_mul(U256::from(gas));
        Ok(cost.is_zero() || self.client.native_balance(self.account()).await? >= cost)
    }

    async fn send(
        &self,
        lane: Lane,
        name: String,
        to: Address,
        data: Bytes,
        gas_cap: u64,
    ) -> Result<Receipt, SendError> {
        let id = intent(name);
        let now_ms = self.client.environment().now_ms();
        let deadline_ms = now_ms.saturating_add(SIGN_WITHIN_MS);
        let intent = TxIntent {
            to,
            data,
            value: U256::ZERO,
            gas_cap,
            deadline_ms,
        };
        let outcome = match lane {
            Lane::Own => self.sender.submit_first(id.clone(), intent).await,
            Lane::Asked => self.sender.submit(id.clone(), intent).await,
        };
        if matches!(outcome, Err(SendError::Reverted { .. })) {
            // Something else came first; the same may be right at another time.
            self.sender.forget(id).await?;
        }
        outcome
    }

    /// Puts a payer's deposit into its channel.
    ///
    /// # Errors
    /// The code that the payer is told.
    pub async fn deposit(
        &self,
        config: &ChannelConfig,
        channel: ChannelId,
        deposit: &CheckedDeposit,
        coin_worth: Option<Amount>,
    ) -> Result<Transacted, ErrorCode> {
        let least = ErrorCode::DepositPayload;
        self.check_worth(deposit.amount, DEPOSIT_GAS, coin_worth, least)
            .await?;
        let authorization = &deposit.authorization;
        let collector_data = (
            U256::from(authorization.valid_after),
            U256::from(authorization.valid_before),
            authorization.salt,
            authorization.signature.clone(),
        )
            .abi_encode_params();
        let data: Bytes = Settlement::depositCall {
            config: contract_config(config),
            amount: deposit.amount.units(),
            collector: COLLECTOR_ADDRESS,
            collectorData: collector_data.into(),
        }
        .abi_encode()
        .into();
        let checked = self.check_deposit(config, deposit.amount, &data).await;
        if let Err(code @ ErrorCode::ChannelStateRead) = checked {
            return Err(code);
        }
        // What the chain would refuse may be what it has done already: a deposit that was under way when its answer was
        // lost. The sender knows it by its name; of one that it does not know it sends nothing that would fail.
        let nonce = hearth_protocol::eip712::deposit_nonce(channel, authorization.salt);
        let _place = self.payers.place(config.payer)?;
        let receipt = self
            .send(
                Lane::Asked,
                deposit_name(nonce),
                SETTLEMENT_ADDRESS,
                data,
                GAS_CAP,
            )
            .await
            .map_err(|error| match checked {
                Ok(()) => failure(&error, "deposit", ErrorCode::DepositTransaction),
                Err(code) => code,
            })?;
        self.transacted(channel, &receipt, deposit.amount).await
    }

    /// Forgets a deposit that is on record elsewhere, by its authorization's nonce: the same one is refused from then on.
    ///
    /// # Errors
    /// When the sender of transactions has stopped.
    pub async fn forget_deposit(&self, nonce: B256) -> Result<(), SendError> {
        self.sender.forget(intent(deposit_name(nonce))).await
    }

    /// Whether the chain would take a deposit now, as far as it is not done already.
    async fn check_deposit(
        &self,
        config: &ChannelConfig,
        amount: Amount,
        data: &Bytes,
    ) -> Result<(), ErrorCode> {
        let funds = self.check_funds(config, amount);
        let (funds, simulated) =
            tokio::join!(funds, self.simulate(SETTLEMENT_ADDRESS, data.clone()));
        funds?;
        simulated
            .map(|_| ())
            .map_err(|error| refusal(&error, "deposit", ErrorCode::DepositSimulation))
    }

    /// Whether the payer has what it would deposit.
    ///
    /// # Errors
    /// The code that the payer is told.
    pub async fn check_funds(
        &self,
        config: &ChannelConfig,
        amount: Amount,
    ) -> Result<(), ErrorCode> {
        let held = self
            .client
            .balance_of(config.token, config.payer)
            .await
            .map_err(|error| refusal(&error, "balance", ErrorCode::DepositSimulation))?;
        if held < U256::from(amount.units()) {
            return Err(ErrorCode::DepositBalance);
        }
        Ok(())
    }

    /// Claims what is due and returns `amount` to the payer, in one transaction.
    ///
    /// # Errors
    /// The code that the payer is told.
    pub async fn refund(
        &self,
        config: &ChannelConfig,
        channel: ChannelId,
        claim: Option<ClaimRow>,
        amount: Amount,
        nonce: U256,
        coin_worth: Option<Amount>,
    ) -> Result<Transacted, ErrorCode> {
        let least = ErrorCode::RefundAmount;
        self.check_worth(amount, REFUND_GAS, coin_worth, least)
            .await?;
        let mut calls = Vec::new();
        if let Some(row) = claim {
            let digest = self
                .domain
                .claim_batch_digest(&[row_channel(&self.domain, &row)]);
            calls.push(claim_call(&[row], &sign(&self.authorizer, digest)));
        }
        let digest = self.domain.refund_digest(channel, nonce, amount);
        let signature = sign(&self.authorizer, digest);
        calls.push(refund_call(config, amount, nonce, &signature));
        let _place = self.payers.refund(config.payer, self.now())?;
        self.send_refund(channel, calls, amount, nonce).await
    }

    /// Sends a refund that another service prepared; what it did not sign is signed here, if the
    /// authorizer is ours.
    ///
    /// # Errors
    /// The code that the payer is told.
    pub async fn refund_for(
        &self,
        channel: ChannelId,
        refund: &RefundPayload,
        coin_worth: Option<Amount>,
    ) -> Result<Transacted, ErrorCode> {
        let config = &refund.channel_config;
        let least = ErrorCode::RefundAmount;
        self.check_worth(refund.amount, REFUND_GAS, coin_worth, least)
            .await?;
        let ours = config.receiver_authorizer == self.authorizer();
        let mut calls = Vec::new();
        if !refund.claims.is_empty() {
            let entries: Vec<_> = refund
                .claims
                .iter()
                .map(|row| row_channel(&self.domain, row))
                .collect();
            let signature = match refund.claim_authorizer_signature {
                Some(signature) => signature,
                None if ours => self.sign_claim(&entries),
                None => return Err(ErrorCode::ClaimAuthorizer),
            };
            calls.push(claim_call(&refund.claims, &signature));
        }
        let (amount, nonce) = (refund.amount, refund.refund_nonce);
        let signature = match refund.refund_authorizer_signature {
            Some(signature) => signature,
            None if ours => sign(
                &self.authorizer,
                self.domain.refund_digest(channel, nonce, amount),
            ),
            None => return Err(ErrorCode::ClaimAuthorizer),
        };
        calls.push(refund_call(config, amount, nonce, &signature));
        let _place = self.payers.refund(config.payer, self.now())?;
        self.send_refund(channel, calls, amount, nonce).await
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.client.environment().now_ms())
    }

    async fn send_refund(
        &self,
        channel: ChannelId,
        calls: Vec<Bytes>,
        amount: Amount,
        nonce: U256,
    ) -> Result<Transacted, ErrorCode> {
        let data = multicall(calls);
        self.simulate(SETTLEMENT_ADDRESS, data.clone())
            .await
            .map_err(|error| refusal(&error, "refund", ErrorCode::RefundSimulation))?;
        let name = format!("refund:{}", keccak256((channel.0, nonce).abi_encode()));
        let receipt = self
            .send(Lane::Asked, name, SETTLEMENT_ADDRESS, data, GAS_CAP)
            .await
            .map_err(|error| failure(&error, "refund", ErrorCode::RefundTransaction))?;
        self.transacted(channel, &receipt, amount).await
    }

    async fn transacted(
        &self,
        channel: ChannelId,
        receipt: &Receipt,
        amount: Amount,
    ) -> Result<Transacted, ErrorCode> {
        let (onchain, sight) = self
            .look_from(channel, receipt.block_number)
            .await
            .map_err(|error| refusal(&error, "read", ErrorCode::ChannelStateRead))?;
        Ok(Transacted {
            transaction: receipt.transaction_hash.to_string(),
            amount,
            onchain,
            sight,
        })
    }

    /// The authorizer's signature over a claim, so that anyone may send it.
    pub fn sign_claim(&self, entries: &[ClaimEntry]) -> Signature {
        sign(&self.authorizer, self.domain.claim_batch_digest(entries))
    }

    /// Claims a batch and settles it to the receiver, in one transaction. Rows that the chain
    /// refuses are left out, because one bad row would revert all of them.
    ///
    /// # Errors
    /// When the chain cannot be reached, or no row is left.
    pub async fn claim(&self, batch: &ClaimBatch) -> Result<Claimed, EscrowError> {
        let (rows, dropped) = self.claimable(batch).await?;
        if rows.is_empty() {
            return Err(EscrowError::NothingToClaim);
        }
        let entries: Vec<_> = rows
            .iter()
            .map(|row| row_channel(&self.domain, row))
            .collect();
        let claim = claim_call(&rows, &self.sign_claim(&entries));
        let data = multicall(vec![claim, settle_call(batch.receiver, batch.token)]);
        let name = format!("claim:{}", self.domain.claim_batch_digest(&entries));
        let receipt = self
            .send(
                Lane::Own,
                name,
                SETTLEMENT_ADDRESS,
                data,
                claim_gas_cap(&rows),
            )
            .await?;
        let transaction = receipt.transaction_hash;
        Ok(Claimed {
            transaction,
            settled: self.settled_in(transaction).await?,
            dropped,
        })
    }

    /// Sends a claim that its authorizer signed, and settles it to its receiver.
    ///
    /// # Errors
    /// When the chain cannot be reached or refuses.
    pub async fn claim_for(
        &self,
        rows: &[ClaimRow],
        signature: &Signature,
    ) -> Result<B256, EscrowError> {
        let first = rows.first().ok_or(EscrowError::NothingToClaim)?;
        let config = &first.voucher.channel;
        let settle = settle_call(config.receiver, config.token);
        let data = multicall(vec![claim_call(rows, signature), settle]);
        self.simulate(SETTLEMENT_ADDRESS, data.clone()).await?;
        let name = format!("claim-for:{}", keccak256(&data));
        let receipt = self
            .send(
                Lane::Own,
                name,
                SETTLEMENT_ADDRESS,
                data,
                claim_gas_cap(rows),
            )
            .await?;
        Ok(receipt.transaction_hash)
    }

    /// Sends a claim that its authorizer signed, and leaves the transfer for later.
    ///
    /// # Errors
    /// When the chain cannot be reached or refuses.
    pub async fn claim_only(
        &self,
        rows: &[ClaimRow],
        signature: &Signature,
    ) -> Result<B256, EscrowError> {
        let data = claim_call(rows, signature);
        self.simulate(SETTLEMENT_ADDRESS, data.clone()).await?;
        let name = format!("claim-only:{}", keccak256(&data));
        let receipt = self
            .send(
                Lane::Own,
                name,
                SETTLEMENT_ADDRESS,
                data,
                claim_gas_cap(rows),
            )
            .await?;
        Ok(receipt.transaction_hash)
    }

    /// Transfers what is claimed for a receiver to it. Returns nothing if there is nothing.
    ///
    /// # Errors
    /// When the chain cannot be reached or refuses.
    pub async fn settle(
        &self,
        receiver: Address,
        token: Address,
    ) -> Result<Option<(B256, Amount)>, EscrowError> {
        if self.unsettled(receiver, token).await?.is_zero() {
            return Ok(None);
        }
        let transaction = self
            .send_own("settle", settle_call(receiver, token))
            .await?;
        Ok(Some((transaction, self.settled_in(transaction).await?)))
    }

    /// Begins a payer's withdrawal of `amount`, sent by the payer's own account.
    ///
    /// # Errors
    /// When the chain cannot be reached or refuses.
    pub async fn initiate_withdraw(
        &self,
        config: &ChannelConfig,
        amount: Amount,
    ) -> Result<B256, EscrowError> {
        let config = contract_config(config);
        let call = Settlement::initiateWithdrawCall {
            config,
            amount: amount.units(),
        };
        self.send_own("withdraw", call.abi_encode().into()).await
    }

    /// Finishes a payer's withdrawal, sent by the payer's own account.
    ///
    /// # Errors
    /// When the chain cannot be reached or refuses.
    pub async fn finalize_withdraw(&self, config: &ChannelConfig) -> Result<B256, EscrowError> {
        let call = Settlement::finalizeWithdrawCall {
            config: contract_config(config),
        };
        self.send_own("finalize", call.abi_encode().into()).await
    }

    /// Sends a call that may be repeated with the same content, so its name carries the time.
    async fn send_own(&self, what: &str, data: Bytes) -> Result<B256, EscrowError> {
        self.simulate(SETTLEMENT_ADDRESS, data.clone()).await?;
        let now_ms = self.client.environment().now_ms();
        let name = format!("{what}:{}", keccak256((data.clone(), now_ms).abi_encode()));
        let receipt = self
            .send(Lane::Own, name, SETTLEMENT_ADDRESS, data, GAS_CAP)
            .await?;
        Ok(receipt.transaction_hash)
    }

    /// What a transaction transferred from the contract to receivers.
    async fn settled_in(&self, transaction: B256) -> Result<Amount, ChainError> {
        let receipt = self.client.receipt(transaction).await?;
        let logs = receipt.map(|receipt| receipt.logs).unwrap_or_default();
        Ok(logs
            .iter()
            .filter(|log| log.address() == SETTLEMENT_ADDRESS)
            .filter_map(|log| Settlement::Settled::decode_log(&log.inner).ok())
            .fold(Amount::ZERO, |sum, settled| {
                sum.saturating_add(Amount::new(settled.amount))
            }))
    }

    /// The rows of a batch that the chain would take, and those that it would not.
    async fn claimable(
        &self,
        batch: &ClaimBatch,
    ) -> Result<(Vec<ClaimRow>, Vec<(ChannelId, String)>), ChainError> {
        let all: Vec<_> = batch.rows.iter().map(|(_, row)| *row).collect();
        let signature = self.sign_claim(&batch.entries());
        match self
            .simulate(SETTLEMENT_ADDRESS, claim_call(&all, &signature))
            .await
        {
            Ok(_) => return Ok((all, Vec::new())),
            Err(ChainError::Reverted { .. }) => {}
            Err(error) => return Err(error),
        }
        let (mut good, mut dropped) = (Vec::new(), Vec::new());
        for (channel, row) in &batch.rows {
            let signature = self.sign_claim(&[row_channel(&self.domain, row)]);
            match self
                .simulate(SETTLEMENT_ADDRESS, claim_call(&[*row], &signature))
                .await
            {
                Ok(_) => good.push(*row),
                Err(ChainError::Reverted { revert, .. }) => {
                    warn!(%channel, %revert, "a claim is refused by the chain and left out");
                    dropped.push((*channel, revert.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((good, dropped))
    }

    /// What is claimed for a receiver and not yet transferred.
    ///
    /// # Errors
    /// When the chain cannot be read.
    pub async fn unsettled(&self, receiver: Address, token: Address) -> Result<Amount, ChainError> {
        let call = Settlement::receiversCall { receiver, token };
        let output = self
            .simulate(SETTLEMENT_ADDRESS, call.abi_encode().into())
            .await?;
        let state = Settlement::receiversCall::abi_decode_returns(&output).map_err(|_| {
            ChainError::Malformed {
                method: "receivers".to_owned(),
                reason: "not two numbers".to_owned(),
            }
        })?;
        Ok(Amount::new(
            state.totalClaimed.saturating_sub(state.totalSettled),
        ))
    }

    /// Would the token do this transfer now?
    ///
    /// # Errors
    /// The code that the payer is told.
    pub async fn check_transfer(
        &self,
        token: Address,
        transfer: &CheckedTransfer,
        signature: &Signature,
    ) -> Result<(), ErrorCode> {
        let used = Erc3009::authorizationStateCall {
            authorizer: transfer.payer,
            nonce: transfer.authorization.nonce,
        };
        let used = self
            .simulate(token, used.abi_encode().into())
            .await
            .map_err(|error| refusal(&error, "authorizationState", ErrorCode::ExactSimulation))?;
        if used.iter().any(|byte| *byte != 0) {
            return Err(ErrorCode::ExactNonceUsed);
        }
        let held = self
            .client
            .balance_of(token, transfer.payer)
            .await
            .map_err(|error| refusal(&error, "balance", ErrorCode::UnexpectedVerify))?;
        if held < U256::from(transfer.value.units()) {
            return Err(ErrorCode::InsufficientFunds);
        }
        self.simulate(token, transfer_call(transfer, signature))
            .await
            .map(|_| ())
            .map_err(|error| refusal(&error, "transfer", ErrorCode::ExactSimulation))
    }

    /// Makes a one-off payment's transfer.
    ///
    /// # Errors
    /// The code that the payer is told.
    pub async fn transfer(
        &self,
        token: Address,
        transfer: &CheckedTransfer,
        signature: &Signature,
    ) -> Result<String, ErrorCode> {
        self.send_transfer(token, transfer, signature)
            .await
            .map_err(|error| failure(&error, "transfer", ErrorCode::ExactTransaction))
    }

    /// Makes a one-off payment's transfer, or finds what became of the one that was sent before under its name. Returns
    /// the transaction.
    ///
    /// # Errors
    /// See [`SendError`]: for all but a revert and a stopped sender nothing was or will be sent.
    pub async fn send_transfer(
        &self,
        token: Address,
        transfer: &CheckedTransfer,
        signature: &Signature,
    ) -> Result<String, SendError> {
        let name = transfer_name(token, transfer);
        let call = transfer_call(transfer, signature);
        self.send(Lane::Asked, name, token, call, GAS_CAP)
            .await
            .map(|receipt| receipt.transaction_hash.to_string())
    }
}

impl Escrow {
    /// The transaction in which somebody else made a one-off payment's transfer, and whether it is final; nothing where
    /// nobody did.
    ///
    /// # Errors
    /// When the chain cannot be read, or shows no events.
    pub async fn made_by_others(
        &self,
        token: Address,
        transfer: &CheckedTransfer,
    ) -> Result<Option<(String, bool)>, ChainError> {
        let made = self.client.authorized_transfer(token, transfer).await?;
        Ok(made.map(|made| {
            let is_final = made.confirmations >= self.confirmations;
            (made.transaction_hash.to_string(), is_final)
        }))
    }
}

fn onchain_state(channel: &OnchainChannel) -> OnchainState {
    OnchainState {
        balance: Amount::new(channel.balance),
        total_claimed: Amount::new(channel.total_claimed),
        withdraw_amount: Amount::new(channel.withdraw_amount),
        withdraw_requested_at: channel.withdraw_requested_at,
        refund_nonce: channel.refund_nonce,
    }
}

fn intent(name: String) -> IntentId {
    IntentId::new(name).expect("names are short: a word and a hash")
}

fn deposit_name(nonce: B256) -> String {
    format!("deposit:{nonce}")
}

fn claim_gas_cap(rows: &[ClaimRow]) -> u64 {
    let rows = u64::try_from(rows.len()).unwrap_or(u64::MAX);
    GAS_CAP.saturating_add(GAS_CAP_ROW.saturating_mul(rows))
}

fn transfer_name(token: Address, transfer: &CheckedTransfer) -> String {
    let nonce = transfer.authorization.nonce;
    format!(
        "transfer:{}",
        keccak256((token, transfer.payer, nonce).abi_encode())
    )
}

/// Every token with ERC-3009 has the form with `v`, `r`, `s`; the form with bytes is newer.
fn transfer_call(transfer: &CheckedTransfer, signature: &Signature) -> Bytes {
    let bytes = signature.as_bytes();
    let authorization = &transfer.authorization;
    Erc3009::transferWithAuthorization_1Call {
        from: authorization.from,
        to: authorization.to,
        value: U256::from(authorization.value.units()),
        validAfter: U256::from(authorization.valid_after),
        validBefore: U256::from(authorization.valid_before),
        nonce: authorization.nonce,
        v: bytes[64],
        r: B256::from_slice(&bytes[..32]),
        s: B256::from_slice(&bytes[32..64]),
    }
    .abi_encode()
    .into()
}

/// What a payer is told when a simulation fails: its own fault, or the chain's.
fn refusal(error: &ChainError, what: &str, code: ErrorCode) -> ErrorCode {
    warn!(error = %error.with_causes(), what, "the chain would not do it");
    match error {
        ChainError::Reverted { .. } => code,
        _ => ErrorCode::ChannelStateRead,
    }
}

fn failure(error: &SendError, what: &str, code: ErrorCode) -> ErrorCode {
    warn!(error = %error.with_causes(), what, "a transaction failed");
    code
}
