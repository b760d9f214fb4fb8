//! Blocks, transactions and receipts, in the shapes that libraries expect.

use std::sync::Arc;

use alloy_consensus::{Header as ConsensusHeader, Sealed, Transaction as _, TxEnvelope};
use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{B256, U256};
use alloy_rpc_types_eth::{
    Block, BlockTransactions, FeeHistory, Header, Log, Transaction, TransactionReceipt,
};
use serde_json::Value;

use super::params::{Params, quantity, resolve};
use super::reply;
use crate::embedded::block::{MinedTransaction, encoded_length};
use crate::embedded::limits::{MAX_FEE_HISTORY_BLOCKS, MAX_FEE_PERCENTILES};
use crate::embedded::pool::Pending;
use crate::embedded::store::{Snapshot, StoreError};
use crate::embedded::{Embedded, RpcError};

const DAMAGED: StoreError = StoreError::Damaged {
    table: "transactions",
};

/// The block meant by parameter 0, if there is one.
fn number_param(
    chain: &Embedded,
    params: &Params,
) -> Result<(Arc<Snapshot>, Option<u64>), RpcError> {
    let tag: BlockNumberOrTag = params.required(0, "block number")?;
    found(chain, BlockId::Number(tag))
}

fn hash_param(chain: &Embedded, params: &Params) -> Result<(Arc<Snapshot>, Option<u64>), RpcError> {
    let hash: B256 = params.required(0, "block hash")?;
    found(chain, BlockId::Hash(hash.into()))
}

fn found(chain: &Embedded, block: BlockId) -> Result<(Arc<Snapshot>, Option<u64>), RpcError> {
    let head = chain.shared().head()?;
    let number = resolve(&head, block)?;
    Ok((head, number))
}

/// The reply about a block that may not exist, in which case it is `null`.
fn about(
    (head, number): (Arc<Snapshot>, Option<u64>),
    answer: impl FnOnce(&Snapshot, &Sealed<ConsensusHeader>) -> Result<Value, RpcError>,
) -> Result<Value, RpcError> {
    let header = match number {
        Some(number) => head.header(number)?,
        None => None,
    };
    header.map_or(Ok(Value::Null), |header| answer(&head, &header))
}

pub(super) fn block_by_number(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let full = params.optional(1, "full transactions")?.unwrap_or(false);
    about(number_param(chain, params)?, |head, header| {
        block(head, header, full)
    })
}

pub(super) fn block_by_hash(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let full = params.optional(1, "full transactions")?.unwrap_or(false);
    about(hash_param(chain, params)?, |head, header| {
        block(head, header, full)
    })
}

fn block(head: &Snapshot, header: &Sealed<ConsensusHeader>, full: bool) -> Result<Value, RpcError> {
    let mined = head.transactions(header.number)?;
    let size = encoded_length(header, &mined);
    let transactions = if full {
        let all = (0..)
            .zip(&mined)
            .map(|(index, mined)| transaction(header, index, mined));
        BlockTransactions::Full(all.collect::<Result<_, _>>()?)
    } else {
        let hashes = mined
            .iter()
            .map(|mined| mined.recovered().map(|it| *it.tx_hash()).ok_or(DAMAGED));
        BlockTransactions::Hashes(hashes.collect::<Result<_, _>>()?)
    };
    let mut rpc_header = Header::from_sealed(header.clone());
    rpc_header.size = Some(U256::from(size));
    rpc_header.total_difficulty = Some(U256::ZERO);
    reply(Block {
        header: rpc_header,
        uncles: Vec::new(),
        transactions,
        withdrawals: Some(Default::default()),
    })
}

fn transaction(
    header: &Sealed<ConsensusHeader>,
    index: u64,
    mined: &MinedTransaction,
) -> Result<Transaction<TxEnvelope>, StoreError> {
    Ok(Transaction {
        inner: mined.recovered().ok_or(DAMAGED)?,
        block_hash: Some(header.hash()),
        block_number: Some(header.number),
        transaction_index: Some(index),
        effective_gas_price: Some(0),
        block_timestamp: Some(header.timestamp),
    })
}

fn waiting(pending: &Pending) -> Transaction<TxEnvelope> {
    Transaction {
        inner: pending.transaction.clone(),
        block_hash: None,
        block_number: None,
        transaction_index: None,
        // As the specification has it of one that is in no block.
        effective_gas_price: Some(pending.transaction.max_fee_per_gas()),
        block_timestamp: None,
    }
}

pub(super) fn transaction_by_hash(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let hash: B256 = params.required(0, "transaction hash")?;
    // The pool first: what has left it is in a block that was published before.
    let pending = chain.shared().pool().get(&hash);
    let head = chain.shared().head()?;
    if let Some((number, index)) = head.location(hash)? {
        return transaction_at(&head, number, index);
    }
    pending.map_or(Ok(Value::Null), |pending| reply(waiting(&pending)))
}

fn transaction_at(head: &Snapshot, number: u64, index: u64) -> Result<Value, RpcError> {
    let (Some(header), Some(mined)) = (head.header(number)?, head.transaction(number, index)?)
    else {
        return Ok(Value::Null);
    };
    reply(transaction(&header, index, &mined)?)
}

pub(super) fn transaction_at_number(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let index = index_param(params)?;
    about(number_param(chain, params)?, |head, header| {
        transaction_at(head, header.number, index)
    })
}

pub(super) fn transaction_at_hash(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let index = index_param(params)?;
    about(hash_param(chain, params)?, |head, header| {
        transaction_at(head, header.number, index)
    })
}

fn index_param(params: &Params) -> Result<u64, RpcError> {
    params
        .number(1, "index")?
        .ok_or_else(|| RpcError::invalid_params("missing value for required argument 1 (index)"))
}

pub(super) fn receipt(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let hash: B256 = params.required(0, "transaction hash")?;
    let head = chain.shared().head()?;
    let Some((number, index)) = head.location(hash)? else {
        return Ok(Value::Null);
    };
    let (Some(header), Some(mined)) = (head.header(number)?, head.transaction(number, index)?)
    else {
        return Ok(Value::Null);
    };
    reply(receipt_of(&header, index, &mined)?)
}

pub(super) fn block_receipts(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let block: BlockId = params.required(0, "block")?;
    about(found(chain, block)?, |head, header| {
        let mined = head.transactions(header.number)?;
        let receipts: Result<Vec<_>, StoreError> = (0..)
            .zip(&mined)
            .map(|(index, mined)| receipt_of(header, index, mined))
            .collect();
        reply(receipts?)
    })
}

fn receipt_of(
    header: &Sealed<ConsensusHeader>,
    index: u64,
    mined: &MinedTransaction,
) -> Result<TransactionReceipt, StoreError> {
    let transaction = mined.recovered().ok_or(DAMAGED)?;
    let hash = *transaction.tx_hash();
    let mut logs = rpc_logs(header, index, hash, mined).into_iter();
    let inner = mined.receipt(transaction.tx_type()).map_logs(|log| {
        logs.next().unwrap_or_else(|| Log {
            inner: log,
            ..Log::default()
        })
    });
    Ok(TransactionReceipt {
        inner,
        transaction_hash: hash,
        transaction_index: Some(index),
        block_hash: Some(header.hash()),
        block_number: Some(header.number),
        gas_used: mined.gas_used,
        effective_gas_price: 0,
        blob_gas_used: None,
        blob_gas_price: None,
        from: mined.sender,
        to: transaction.to(),
        contract_address: transaction
            .is_create()
            .then(|| mined.sender.create(transaction.nonce())),
    })
}

/// The logs of one transaction with their place in the chain.
pub(super) fn rpc_logs(
    header: &Sealed<ConsensusHeader>,
    index: u64,
    hash: B256,
    mined: &MinedTransaction,
) -> Vec<Log> {
    let numbered = (mined.first_log_index..).zip(&mined.logs);
    numbered
        .map(|(log_index, log)| Log {
            inner: log.clone(),
            block_hash: Some(header.hash()),
            block_number: Some(header.number),
            block_timestamp: Some(header.timestamp),
            transaction_hash: Some(hash),
            transaction_index: Some(index),
            log_index: Some(log_index),
            removed: false,
        })
        .collect()
}

pub(super) fn transaction_count_by_number(
    chain: &Embedded,
    params: &Params,
) -> Result<Value, RpcError> {
    about(number_param(chain, params)?, transaction_count)
}

pub(super) fn transaction_count_by_hash(
    chain: &Embedded,
    params: &Params,
) -> Result<Value, RpcError> {
    about(hash_param(chain, params)?, transaction_count)
}

fn transaction_count(head: &Snapshot, header: &Sealed<ConsensusHeader>) -> Result<Value, RpcError> {
    reply(quantity(head.transactions(header.number)?.len() as u64))
}

pub(super) fn uncle_count_by_number(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    about(number_param(chain, params)?, |_, _| reply(quantity(0)))
}

pub(super) fn uncle_count_by_hash(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    about(hash_param(chain, params)?, |_, _| reply(quantity(0)))
}

pub(super) fn fee_history(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let count = params
        .number(0, "block count")?
        .ok_or_else(|| {
            RpcError::invalid_params("missing value for required argument 0 (block count)")
        })?
        .min(MAX_FEE_HISTORY_BLOCKS);
    let newest: BlockNumberOrTag = params.required(1, "newest block")?;
    let percentiles: Vec<f64> = params
        .optional(2, "reward percentiles")?
        .unwrap_or_default();
    let ordered =
        percentiles.is_sorted() && percentiles.iter().all(|it| (0.0..=100.0).contains(it));
    if percentiles.len() > MAX_FEE_PERCENTILES || !ordered {
        return Err(RpcError::invalid_params(format!(
            "invalid argument 2 (reward percentiles): at most {MAX_FEE_PERCENTILES}, ascending, from 0 to 100"
        )));
    }
    let (head, newest) = found(chain, BlockId::Number(newest))?;
    let newest = newest
        .ok_or_else(|| RpcError::rejected("header not found: the chain has no such block"))?;
    // An empty range has no oldest block, so the field names the genesis.
    let oldest = match count {
        0 => 0,
        _ => newest.saturating_add(1).saturating_sub(count),
    };
    let mut gas_used_ratio = Vec::new();
    if count > 0 {
        for number in oldest..=newest {
            let header = head
                .header(number)?
                .ok_or(StoreError::Damaged { table: "headers" })?;
            gas_used_ratio.push(header.gas_used as f64 / header.gas_limit as f64);
        }
    }
    let blocks = gas_used_ratio.len();
    let fees = if blocks == 0 {
        Vec::new()
    } else {
        vec![0; blocks + 1]
    };
    let mut history = reply(FeeHistory {
        base_fee_per_gas: fees.clone(),
        base_fee_per_blob_gas: fees,
        blob_gas_used_ratio: vec![0.0; blocks],
        gas_used_ratio,
        oldest_block: oldest,
        reward: (!percentiles.is_empty()).then(|| vec![vec![0; percentiles.len()]; blocks]),
    })?;
    // The specification wants it of no blocks, too, where the library leaves it out.
    if let Value::Object(fields) = &mut history {
        let none = || Value::Array(Vec::new());
        fields.entry("baseFeePerGas").or_insert_with(none);
    }
    Ok(history)
}
