//! Typed questions to a chain.
//!
//! Every answer is parsed into a type of this module at once; fields that are not used are not read, so that an
//! endpoint with a dialect of its own still works.

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use alloy_rpc_types_eth::{Filter, Log};
use alloy_sol_types::{SolCall, SolEvent, sol};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::{ChainClient, ChainError, decode, to_param};
use crate::bindings::{SETTLEMENT_ADDRESS, Settlement};

sol! {
    /// The part of ERC-20 that is read here.
    function balanceOf(address account) external view returns (uint256);
}

/// How often a reading of several values is repeated because a block came in between.
const MAX_SNAPSHOT_TRIES: u32 = 4;

/// A point of the chain's history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockAt {
    /// The newest block.
    #[default]
    Latest,
    /// The block of this height.
    Number(u64),
    /// The block with this hash, whether or not it is still part of the chain.
    Hash(B256),
}

impl BlockAt {
    /// As the block parameter of `eth_call` and its kin (EIP-1898 for a hash).
    pub(super) fn param(self) -> Value {
        match self {
            Self::Latest => json!("latest"),
            Self::Number(number) => json!(U64::from(number)),
            Self::Hash(hash) => json!({ "blockHash": hash, "requireCanonical": true }),
        }
    }
}

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockHeader {
    /// Height.
    pub number: u64,
    /// Hash of this block.
    pub hash: B256,
    /// Hash of the block before.
    pub parent_hash: B256,
    /// Seconds since the Unix epoch.
    pub timestamp_s: u64,
    /// Base fee in wei per unit of gas; absent before EIP-1559.
    pub base_fee_per_gas: Option<u128>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireBlock {
    number: U64,
    hash: B256,
    parent_hash: B256,
    timestamp: U64,
    base_fee_per_gas: Option<U256>,
    #[serde(default)]
    transactions: Value,
}

impl WireBlock {
    fn header(&self) -> BlockHeader {
        BlockHeader {
            number: self.number.to(),
            hash: self.hash,
            parent_hash: self.parent_hash,
            timestamp_s: self.timestamp.to(),
            base_fee_per_gas: self.base_fee_per_gas.map(|fee| fee.saturating_to()),
        }
    }
}

/// The sender of a transaction of a block, and its nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockTransaction {
    /// Hash of the transaction.
    pub hash: B256,
    /// Its sender.
    pub from: Address,
    /// Its nonce.
    pub nonce: u64,
}

/// The outcome of a transaction that is in a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxReceipt {
    /// Hash of the transaction.
    pub transaction_hash: B256,
    /// Height of its block.
    pub block_number: u64,
    /// Hash of its block.
    pub block_hash: B256,
    /// Whether it did what it was asked; `false` means that it reverted and only its fee was taken.
    pub success: bool,
    /// Gas used.
    pub gas_used: u64,
    /// Wei paid per unit of gas.
    pub effective_gas_price: u128,
    /// The contract that it created.
    pub contract_address: Option<Address>,
    /// The events it emitted.
    pub logs: Vec<Log>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireReceipt {
    transaction_hash: B256,
    block_number: U64,
    block_hash: B256,
    status: U64,
    gas_used: U64,
    #[serde(default)]
    effective_gas_price: U256,
    contract_address: Option<Address>,
    logs: Vec<Log>,
}

impl From<WireReceipt> for TxReceipt {
    fn from(wire: WireReceipt) -> Self {
        Self {
            transaction_hash: wire.transaction_hash,
            block_number: wire.block_number.to(),
            block_hash: wire.block_hash,
            success: wire.status == U64::from(1),
            gas_used: wire.gas_used.to(),
            effective_gas_price: wire.effective_gas_price.saturating_to(),
            contract_address: wire.contract_address,
            logs: wire.logs,
        }
    }
}

/// A call or transaction as a question: what would happen?
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxRequest {
    /// The account that calls.
    pub from: Option<Address>,
    /// Whom; `None` creates a contract.
    pub to: Option<Address>,
    /// With what.
    pub data: Bytes,
    /// Wei sent along.
    pub value: U256,
}

impl TxRequest {
    pub(super) fn param(&self) -> Value {
        let mut fields = json!({ "input": self.data, "value": self.value });
        if let Some(from) = self.from {
            fields["from"] = json!(from);
        }
        if let Some(to) = self.to {
            fields["to"] = json!(to);
        }
        fields
    }
}

/// A payment channel as the settlement contract has it (x402 `batch-settlement`, "Channel Lifecycle").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnchainChannel {
    /// Deposited, less withdrawn and refunded, in atomic units of the channel's token.
    pub balance: u128,
    /// Claimed by the receiver so far, cumulative, in atomic units.
    pub total_claimed: u128,
    /// When a withdrawal was started, in seconds since the Unix epoch; 0 if none is pending.
    pub withdraw_requested_at: u64,
    /// The amount of the pending withdrawal, in atomic units.
    pub withdraw_amount: u128,
    /// The nonce that the next signed refund must carry.
    pub refund_nonce: U256,
}

/// A payment channel, and the block as of which it is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelReading {
    /// The newest block.
    pub head: BlockHeader,
    /// The channel as of that block.
    pub channel: OnchainChannel,
    /// Of its balance, what no block that may still be undone put into it, in atomic units.
    pub final_balance: u128,
}

impl ChainClient {
    /// The newest block, or one by height or hash; `None` where the endpoint has no such block.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub async fn block(&self, at: BlockAt) -> Result<Option<BlockHeader>, ChainError> {
        Ok(self
            .wire_block(at, false)
            .await?
            .map(|block| block.header()))
    }

    /// The block, which must be the one that was asked for: an endpoint that answers with another is wrong.
    async fn wire_block(&self, at: BlockAt, full: bool) -> Result<Option<WireBlock>, ChainError> {
        let (method, param) = match at {
            BlockAt::Hash(hash) => ("eth_getBlockByHash", json!(hash)),
            other => ("eth_getBlockByNumber", other.param()),
        };
        let block: Option<WireBlock> = self.request(method, json!([param, full])).await?;
        let is_asked_for = block.as_ref().is_none_or(|block| match at {
            BlockAt::Latest => true,
            BlockAt::Number(number) => block.number == U64::from(number),
            BlockAt::Hash(hash) => block.hash == hash,
        });
        if is_asked_for {
            Ok(block)
        } else {
            Err(ChainError::malformed(method, "it is another block"))
        }
    }

    /// The newest block.
    ///
    /// # Errors
    /// [`ChainError::Malformed`] if the endpoint has none at all; otherwise see [`ChainError`].
    pub async fn head(&self) -> Result<BlockHeader, ChainError> {
        let block = self.block(BlockAt::Latest).await?;
        block.ok_or_else(|| {
            ChainError::malformed("eth_getBlockByNumber", "there is no newest block")
        })
    }

    /// The blocks at these heights, in one round trip per [`super::MAX_BATCH_CALLS`]; `None` where the endpoint has
    /// none.
    ///
    /// # Errors
    /// [`ChainError::Malformed`] if a block is of another height; otherwise see [`ChainError`].
    pub async fn blocks(&self, heights: &[u64]) -> Result<Vec<Option<BlockHeader>>, ChainError> {
        const METHOD: &str = "eth_getBlockByNumber";
        let mut headers = Vec::with_capacity(heights.len());
        for part in heights.chunks(super::MAX_BATCH_CALLS) {
            let calls: Vec<_> = part
                .iter()
                .map(|height| (METHOD, json!([U64::from(*height), false])))
                .collect();
            for (answer, height) in self.batch(&calls).await?.into_iter().zip(part) {
                let block: Option<WireBlock> = decode(METHOD, &answer?)?;
                let header = block.map(|block| block.header());
                if header.is_some_and(|header| header.number != *height) {
                    return Err(ChainError::malformed(
                        METHOD,
                        "the block is of another height",
                    ));
                }
                headers.push(header);
            }
        }
        Ok(headers)
    }

    /// The events of each of these blocks, by their hashes, whatever range `filter` names.
    ///
    /// # Errors
    /// [`ChainError::Refused`] if the endpoint does not have one of the blocks; otherwise see [`ChainError`].
    pub async fn logs_of_blocks(
        &self,
        filter: &Filter,
        hashes: &[B256],
    ) -> Result<Vec<Vec<Log>>, ChainError> {
        const METHOD: &str = "eth_getLogs";
        let mut logs = Vec::with_capacity(hashes.len());
        for part in hashes.chunks(super::MAX_BATCH_CALLS) {
            let calls: Vec<_> = part
                .iter()
                .map(|hash| {
                    (
                        METHOD,
                        json!([to_param(&filter.clone().at_block_hash(*hash))]),
                    )
                })
                .collect();
            for (answer, hash) in self.batch(&calls).await?.into_iter().zip(part) {
                let of_block: Vec<Log> = decode(METHOD, &answer?)?;
                if of_block.iter().any(|log| log.block_hash != Some(*hash)) {
                    return Err(ChainError::malformed(
                        METHOD,
                        "an event is of another block",
                    ));
                }
                logs.push(of_block);
            }
        }
        Ok(logs)
    }

    /// The events of `filter` with the first and last block of its range, in one round trip, so that one machine
    /// behind the endpoint's address answers all three.
    ///
    /// # Errors
    /// [`ChainError::RangeTooWide`] if the endpoint wants fewer blocks at once; otherwise see [`ChainError`].
    pub async fn logs_with_ends(
        &self,
        filter: &Filter,
        first: u64,
        last: u64,
    ) -> Result<(Option<BlockHeader>, Vec<Log>, Option<BlockHeader>), ChainError> {
        const BLOCK: &str = "eth_getBlockByNumber";
        const LOGS: &str = "eth_getLogs";
        let block = |height: u64| (BLOCK, json!([U64::from(height), false]));
        let calls = [block(first), (LOGS, json!([to_param(filter)])), block(last)];
        let mut answers = self.batch(&calls).await?.into_iter();
        let mut next = |method| {
            let missing = || ChainError::malformed(method, "an answer of the batch is missing");
            answers.next().ok_or_else(missing)?
        };
        let header = |raw: &RawValue, height: u64| -> Result<Option<BlockHeader>, ChainError> {
            let block: Option<WireBlock> = decode(BLOCK, raw)?;
            match block.map(|block| block.header()) {
                Some(header) if header.number != height => Err(ChainError::malformed(
                    BLOCK,
                    "the block is of another height",
                )),
                header => Ok(header),
            }
        };
        let (low, high) = (first, last);
        let first = header(&next(BLOCK)?, low)?;
        let logs: Vec<Log> = decode(LOGS, &next(LOGS)?)?;
        let last = header(&next(BLOCK)?, high)?;
        let is_in_range = |log: &Log| {
            log.block_number
                .is_some_and(|number| (low..=high).contains(&number))
        };
        if !logs.iter().all(is_in_range) {
            return Err(ChainError::malformed(LOGS, "an event is of another block"));
        }
        Ok((first, logs, last))
    }

    /// The transactions of a block; `None` where the endpoint has no such block.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub async fn block_transactions(
        &self,
        at: BlockAt,
    ) -> Result<Option<Vec<BlockTransaction>>, ChainError> {
        #[derive(Deserialize)]
        struct Wire {
            hash: B256,
            from: Address,
            nonce: U64,
        }
        let Some(block) = self.wire_block(at, true).await? else {
            return Ok(None);
        };
        let transactions: Vec<Wire> = serde_json::from_value(block.transactions)
            .map_err(|error| ChainError::malformed("eth_getBlockByNumber", error.to_string()))?;
        let plain = |wire: Wire| BlockTransaction {
            hash: wire.hash,
            from: wire.from,
            nonce: wire.nonce.to(),
        };
        Ok(Some(transactions.into_iter().map(plain).collect()))
    }

    /// The receipt of a transaction; `None` while it is in no block.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub async fn receipt(&self, hash: B256) -> Result<Option<TxReceipt>, ChainError> {
        Ok(self.receipts(&[hash]).await?.pop().flatten())
    }

    /// The receipts of several transactions, in their order.
    ///
    /// # Errors
    /// [`ChainError::Malformed`] if a receipt is for another transaction; otherwise see [`ChainError`].
    pub async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<TxReceipt>>, ChainError> {
        const METHOD: &str = "eth_getTransactionReceipt";
        let mut receipts = Vec::with_capacity(hashes.len());
        for part in hashes.chunks(super::MAX_BATCH_CALLS) {
            let calls: Vec<_> = part.iter().map(|hash| (METHOD, json!([hash]))).collect();
            for (answer, hash) in self.batch(&calls).await?.into_iter().zip(part) {
                // A receipt without a block is of a transaction that still waits.
                let fields: Value = decode(METHOD, &answer?)?;
                if fields.is_null() || fields["blockHash"].is_null() {
                    receipts.push(None);
                    continue;
                }
                let wire: WireReceipt = serde_json::from_value(fields)
                    .map_err(|error| ChainError::malformed(METHOD, error.to_string()))?;
                if wire.transaction_hash != *hash {
                    return Err(ChainError::malformed(
                        METHOD,
                        "the receipt is of another transaction",
                    ));
                }
                let is_of_it = |log: &Log| {
                    log.transaction_hash.is_none_or(|of| of == *hash)
                        && log.block_hash.is_none_or(|of| of == wire.block_hash)
                };
                if !wire.logs.iter().all(is_of_it) {
                    return Err(ChainError::malformed(
                        METHOD,
                        "an event in the receipt is of another transaction",
                    ));
                }
                receipts.push(Some(wire.into()));
            }
        }
        Ok(receipts)
    }

    /// The events that match `filter`.
    ///
    /// # Errors
    /// [`ChainError::RangeTooWide`] if the endpoint wants fewer blocks at once; otherwise see [`ChainError`].
    pub async fn logs(&self, filter: &Filter) -> Result<Vec<Log>, ChainError> {
        self.request("eth_getLogs", json!([to_param(filter)])).await
    }

    /// Whether the endpoint answers `eth_getLogs`: asks for the events of the settlement contract in one block.
    ///
    /// # Errors
    /// [`ChainError::Refused`] if it does not; otherwise see [`ChainError`].
    pub async fn probe_logs(&self, block: u64) -> Result<(), ChainError> {
        let filter = Filter::new()
            .address(SETTLEMENT_ADDRESS)
            .from_block(block)
            .to_block(block);
        self.logs(&filter).await.map(|_| ())
    }

    /// The code at an address; empty where there is none.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub async fn code(&self, address: Address) -> Result<Bytes, ChainError> {
        self.request("eth_getCode", json!([address, "latest"]))
            .await
    }

    /// Calls a contract without changing anything.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] if it refuses; otherwise see [`ChainError`].
    pub async fn call(&self, to: Address, data: Bytes, at: BlockAt) -> Result<Bytes, ChainError> {
        self.simulate(
            &TxRequest {
                to: Some(to),
                data,
                ..TxRequest::default()
            },
            at,
        )
        .await
    }

    /// Runs a transaction on top of a block without sending it, and returns what it returns.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with the reason if it would revert; otherwise see [`ChainError`].
    pub async fn simulate(
        &self,
        transaction: &TxRequest,
        at: BlockAt,
    ) -> Result<Bytes, ChainError> {
        self.request("eth_call", json!([transaction.param(), at.param()]))
            .await
    }

    /// The gas that a transaction would use on top of the newest block.
    ///
    /// # Errors
    /// [`ChainError::Reverted`] with the reason if it would revert; otherwise see [`ChainError`].
    pub async fn estimate_gas(&self, transaction: &TxRequest) -> Result<u64, ChainError> {
        let gas: U64 = self
            .request("eth_estimateGas", json!([transaction.param()]))
            .await?;
        Ok(gas.to())
    }

    /// An account's number of transactions as of a block, which is the next nonce it may use.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub async fn nonce(&self, account: Address, at: BlockAt) -> Result<u64, ChainError> {
        let nonce: U64 = self
            .request("eth_getTransactionCount", json!([account, at.param()]))
            .await?;
        Ok(nonce.to())
    }

    /// The price of gas that the endpoint suggests, in wei.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub async fn gas_price(&self) -> Result<u128, ChainError> {
        let price: U256 = self.request("eth_gasPrice", json!([])).await?;
        Ok(price.saturating_to())
    }

    /// The priority fee that the endpoint suggests, in wei; 0 where it knows no such method.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub async fn priority_fee(&self) -> Result<u128, ChainError> {
        match self
            .request::<U256>("eth_maxPriorityFeePerGas", json!([]))
            .await
        {
            Ok(fee) => Ok(fee.saturating_to()),
            Err(ChainError::Refused { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// An account's balance of the chain's own coin, in wei.
    ///
    /// # Errors
    /// See [`ChainError`].
    pub async fn native_balance(&self, account: Address) -> Result<U256, ChainError> {
        self.request("eth_getBalance", json!([account, "latest"]))
            .await
    }

    /// An account's balance of an ERC-20 token, in atomic units.
    ///
    /// # Errors
    /// [`ChainError::Malformed`] if there is no such token at the address; otherwise see [`ChainError`].
    pub async fn balance_of(&self, token: Address, account: Address) -> Result<U256, ChainError> {
        let data = balanceOfCall { account }.abi_encode();
        let answer = self.call(token, data.into(), BlockAt::Latest).await?;
        decode_return::<balanceOfCall>(&answer)
    }

    /// A payment channel, all its values as of one block, in one round trip unless a block comes in between.
    ///
    /// # Errors
    /// [`ChainError::Malformed`] if no settlement contract is there; otherwise see [`ChainError`].
    pub async fn channel(&self, channel_id: B256) -> Result<OnchainChannel, ChainError> {
        Ok(self.channel_reading(channel_id, 1).await?.channel)
    }

    /// A payment channel as of the newest block, with that block, and how much of its balance is final: was put into it
    /// in blocks that have at least `confirmations` blocks, their own included. What was taken from it in newer blocks
    /// is not in it.
    ///
    /// # Errors
    /// [`ChainError::Malformed`] if no settlement contract is there; otherwise see [`ChainError`].
    pub async fn channel_reading(
        &self,
        channel_id: B256,
        confirmations: u64,
    ) -> Result<ChannelReading, ChainError> {
        for _ in 0..MAX_SNAPSHOT_TRIES {
            let (head, channel) = self.channel_at_head(channel_id).await?;
            let open_blocks = confirmations.saturating_sub(1);
            let deposited = if open_blocks == 0 {
                Some(0)
            } else {
                self.deposited_in_newest(channel_id, head, open_blocks)
                    .await?
            };
            if let Some(deposited) = deposited {
                return Ok(ChannelReading {
                    head,
                    channel,
                    final_balance: channel.balance.saturating_sub(deposited),
                });
            }
        }
        Err(too_many_blocks())
    }

    /// What was put into a channel in the newest `blocks` blocks up to `head`, in atomic units; nothing where `head` is
    /// not in the chain any more.
    async fn deposited_in_newest(
        &self,
        channel_id: B256,
        head: BlockHeader,
        blocks: u64,
    ) -> Result<Option<u128>, ChainError> {
        let first = head.number.saturating_add(1).saturating_sub(blocks);
        let filter = Filter::new()
            .address(SETTLEMENT_ADDRESS)
            .event_signature(Settlement::Deposited::SIGNATURE_HASH)
            .topic1(channel_id)
            .from_block(first)
            .to_block(head.number);
        let (_, logs, last) = self.logs_with_ends(&filter, first, head.number).await?;
        if last.is_none_or(|last| last.hash != head.hash) {
            return Ok(None);
        }
        let mut deposited = 0_u128;
        for log in &logs {
            let event = Settlement::Deposited::decode_log(&log.inner)
                .map_err(|error| ChainError::malformed("eth_getLogs", error.to_string()))?;
            // An endpoint that passes over the filter would count the deposits of others.
            if event.channelId == channel_id {
                deposited = deposited.saturating_add(event.amount);
            }
        }
        Ok(Some(deposited))
    }

    async fn channel_at_head(
        &self,
        channel_id: B256,
    ) -> Result<(BlockHeader, OnchainChannel), ChainError> {
        const BLOCK: &str = "eth_getBlockByNumber";
        let newest = (BLOCK, json!([BlockAt::Latest.param(), false]));
        let read = |data: Vec<u8>| {
            let transaction = TxRequest {
                to: Some(SETTLEMENT_ADDRESS),
                data: data.into(),
                ..TxRequest::default()
            };
            ("eth_call", json!([transaction.param(), "latest"]))
        };
        let channel = Settlement::channelsCall {
            channelId: channel_id,
        };
        let pending = Settlement::pendingWithdrawalsCall {
            channelId: channel_id,
        };
        let nonce = Settlement::refundNonceCall {
            channelId: channel_id,
        };
        let calls = [
            newest.clone(),
            read(channel.abi_encode()),
            read(pending.abi_encode()),
            read(nonce.abi_encode()),
            newest,
        ];
        for _ in 0..MAX_SNAPSHOT_TRIES {
            let answers = self
                .batch(&calls)
                .await?
                .into_iter()
                .collect::<Result<Vec<_>, _>>()?;
            let header = |index: usize| {
                let block: Option<WireBlock> = decode(BLOCK, &answers[index])?;
                let missing = || ChainError::malformed(BLOCK, "there is no newest block");
                block.map(|block| block.header()).ok_or_else(missing)
            };
            let (before, after) = (header(0)?, header(4)?);
            if before.hash != after.hash {
                continue;
            }
            let returned = |index: usize| decode::<Bytes>("eth_call", &answers[index]);
            let channel = decode_return::<Settlement::channelsCall>(&returned(1)?)?;
            let pending = decode_return::<Settlement::pendingWithdrawalsCall>(&returned(2)?)?;
            let refund_nonce = decode_return::<Settlement::refundNonceCall>(&returned(3)?)?;
            let channel = OnchainChannel {
                balance: channel.balance,
                total_claimed: channel.totalClaimed,
                withdraw_requested_at: pending.initiatedAt.to(),
                withdraw_amount: pending.amount,
                refund_nonce,
            };
            return Ok((after, channel));
        }
        Err(too_many_blocks())
    }
}

fn too_many_blocks() -> ChainError {
    ChainError::Unavailable {
        method: "eth_call".to_owned(),
        attempts: MAX_SNAPSHOT_TRIES,
        reason: "blocks come faster than the channel can be read".to_owned(),
        retry_after: None,
    }
}

/// Decodes what a contract returned; nothing at all means that there is no contract.
pub(super) fn decode_return<C: SolCall>(answer: &[u8]) -> Result<C::Return, ChainError> {
    if answer.is_empty() {
        let reason = format!("the address has no contract with {}", C::SIGNATURE);
        return Err(ChainError::malformed("eth_call", reason));
    }
    C::abi_decode_returns(answer)
        .map_err(|error| ChainError::malformed("eth_call", error.to_string()))
}
