//! A small model of a chain: blocks, a pool of transactions, receipts, logs, reorganisations.
//!
//! Transactions succeed and cost nothing unless told otherwise; balances are not modelled.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use alloy_consensus::{Transaction, TxEnvelope, transaction::SignerRecoverable};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use serde_json::{Value, json};

/// A transaction as the model sees it.
#[derive(Clone, Debug)]
pub(crate) struct ModelTx {
    pub(crate) hash: B256,
    pub(crate) from: Address,
    pub(crate) nonce: u64,
    pub(crate) max_fee: u128,
    pub(crate) to: Option<Address>,
}

#[derive(Clone, Debug)]
struct ModelBlock {
    number: u64,
    hash: B256,
    parent: B256,
    transactions: Vec<ModelTx>,
    logs: Vec<Value>,
}

#[derive(Debug)]
struct State {
    chain_id: u64,
    base_fee: u128,
    blocks: Vec<ModelBlock>,
    pool: Vec<ModelTx>,
    /// Makes the hashes of a new branch differ from those of the old one.
    branch: u64,
    /// Recipients whose transactions revert.
    reverting: Vec<Address>,
    /// The most blocks that `eth_getLogs` answers for.
    max_log_blocks: u64,
    /// How many blocks behind its head the endpoint pretends to be.
    stale_by: usize,
    /// Transactions whose receipt is withheld.
    withheld: Vec<B256>,
}

/// A handle on the model; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ScriptedChain {
    state: Arc<Mutex<State>>,
}

/// A log as JSON-RPC shows it, without the place that the block gives it.
pub(crate) fn log(address: Address, topics: &[B256], data: &[u8]) -> Value {
    json!({ "address": address, "topics": topics, "data": Bytes::copy_from_slice(data) })
}

impl ScriptedChain {
    pub(crate) fn new(chain_id: u64) -> Self {
        let genesis = ModelBlock {
            number: 0,
            hash: keccak256(b"genesis"),
            parent: B256::ZERO,
            transactions: Vec::new(),
            logs: Vec::new(),
        };
        let state = State {
            chain_id,
            base_fee: 7,
            blocks: vec![genesis],
            pool: Vec::new(),
            branch: 0,
            reverting: Vec::new(),
            max_log_blocks: u64::MAX,
            stale_by: 0,
            withheld: Vec::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn set_chain_id(&self, chain_id: u64) {
        self.lock().chain_id = chain_id;
    }

    pub(crate) fn set_base_fee(&self, base_fee: u128) {
        self.lock().base_fee = base_fee;
    }

    pub(crate) fn set_stale_by(&self, blocks: usize) {
        self.lock().stale_by = blocks;
    }

    pub(crate) fn set_max_log_blocks(&self, blocks: u64) {
        self.lock().max_log_blocks = blocks;
    }

    pub(crate) fn revert_calls_to(&self, address: Address) {
        self.lock().reverting.push(address);
    }

    /// Hides the receipts of all transactions that are in blocks now, or shows all again.
    pub(crate) fn withhold_receipts(&self, withhold: bool) {
        let mut state = self.lock();
        let hashes: Vec<B256> = state
            .blocks
            .iter()
            .flat_map(|block| block.transactions.iter().map(|tx| tx.hash))
            .collect();
        state.withheld = if withhold { hashes } else { Vec::new() };
    }

    pub(crate) fn head(&self) -> (u64, B256) {
        let state = self.lock();
        let head = state.blocks.last().unwrap();
        (head.number, head.hash)
    }

    /// The hashes of the chain's blocks that have logs.
    pub(crate) fn blocks_with_logs(&self) -> Vec<B256> {
        let state = self.lock();
        state
            .blocks
            .iter()
            .filter(|block| !block.logs.is_empty())
            .map(|block| block.hash)
            .collect()
    }

    pub(crate) fn pool(&self) -> Vec<ModelTx> {
        self.lock().pool.clone()
    }

    pub(crate) fn drop_pool(&self) {
        self.lock().pool.clear();
    }

    /// Every transaction of the chain, by height.
    pub(crate) fn mined(&self) -> Vec<ModelTx> {
        self.lock()
            .blocks
            .iter()
            .flat_map(|block| block.transactions.clone())
            .collect()
    }

    /// Adds a block with these logs and, of the pool, what can be included.
    pub(crate) fn mine(&self, logs: Vec<Value>) {
        self.lock().mine(logs, true);
    }

    /// Adds a block that ignores the pool.
    pub(crate) fn mine_empty(&self) {
        self.lock().mine(Vec::new(), false);
    }

    /// Takes the last `depth` blocks away and puts `depth + 1` empty ones there. Their transactions return to the
    /// pool if `keep_transactions`.
    pub(crate) fn reorganise(&self, depth: usize, keep_transactions: bool) {
        let mut state = self.lock();
        state.branch += 1;
        for _ in 0..depth {
            let block = state.blocks.pop().unwrap();
            if keep_transactions {
                state.pool.extend(block.transactions);
            }
        }
        for _ in 0..=depth {
            state.mine(Vec::new(), false);
        }
    }

    /// A transaction of somebody else who holds the same key goes straight into the next block.
    pub(crate) fn mine_foreign(&self, from: Address, nonce: u64) {
        let mut state = self.lock();
        let hash = keccak256(format!("foreign {from} {nonce} {}", state.branch));
        state.pool.retain(|tx| tx.from != from || tx.nonce != nonce);
        state.pool.push(ModelTx {
            hash,
            from,
            nonce,
            max_fee: u128::MAX,
            to: None,
        });
        state.mine(Vec::new(), true);
    }

    /// Answers one JSON-RPC call.
    pub(crate) fn answer(&self, call: &Value) -> Value {
        let outcome = self
            .lock()
            .handle(call["method"].as_str().unwrap(), &call["params"]);
        match outcome {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": call["id"], "result": result }),
            Err((code, message)) => {
                json!({ "jsonrpc": "2.0", "id": call["id"], "error": { "code": code, "message": message } })
            }
        }
    }
}

type Outcome = Result<Value, (i64, String)>;

impl State {
    fn mine(&mut self, logs: Vec<Value>, with_pool: bool) {
        let parent = self.blocks.last().unwrap().clone();
        let number = parent.number + 1;
        let mut transactions = Vec::new();
        if with_pool {
            self.pool.sort_by_key(|tx| tx.nonce);
            for tx in std::mem::take(&mut self.pool) {
                let taken = transactions
                    .iter()
                    .filter(|other: &&ModelTx| other.from == tx.from)
                    .count() as u64;
                let next = self.nonce_at(&tx.from, self.blocks.len()) + taken;
                if tx.nonce == next && tx.max_fee >= self.base_fee {
                    transactions.push(tx);
                } else if tx.nonce >= next {
                    self.pool.push(tx);
                }
            }
        }
        let hash = keccak256(format!("{} {} {}", parent.hash, number, self.branch));
        self.blocks.push(ModelBlock {
            number,
            hash,
            parent: parent.hash,
            transactions,
            logs,
        });
    }

    fn nonce_at(&self, account: &Address, blocks: usize) -> u64 {
        let blocks = &self.blocks[..blocks];
        blocks
            .iter()
            .flat_map(|block| &block.transactions)
            .filter(|tx| tx.from == *account)
            .count() as u64
    }

    /// The blocks that the endpoint admits to.
    fn shown(&self) -> &[ModelBlock] {
        &self.blocks[..self.blocks.len() - self.stale_by.min(self.blocks.len() - 1)]
    }

    fn find(&self, at: &Value) -> Option<&ModelBlock> {
        let shown = self.shown();
        match at {
            Value::Object(fields) => self.find(&fields["blockHash"]),
            Value::String(text) if text == "latest" || text == "pending" => shown.last(),
            Value::String(text) if text.len() == 66 => {
                let hash: B256 = text.parse().unwrap();
                shown.iter().find(|block| block.hash == hash)
            }
            other => {
                let number: U64 = serde_json::from_value(other.clone()).unwrap();
                shown.get(number.to::<usize>())
            }
        }
    }

    fn handle(&mut self, method: &str, params: &Value) -> Outcome {
        let missing = || (-32000, "header not here".to_owned());
        Ok(match method {
            "eth_chainId" => json!(U64::from(self.chain_id)),
            "eth_blockNumber" => json!(U64::from(self.shown().len() as u64 - 1)),
            "eth_gasPrice" => json!(U256::from(self.base_fee)),
            "eth_maxPriorityFeePerGas" => json!(U256::from(self.base_fee.min(1))),
            "eth_getBlockByNumber" | "eth_getBlockByHash" => self
                .find(&params[0])
                .map_or(Value::Null, |block| self.show_block(block)),
            "eth_getTransactionCount" => {
                let account: Address = serde_json::from_value(params[0].clone()).unwrap();
                let block = self.find(&params[1]).ok_or_else(missing)?;
                json!(U64::from(
                    self.nonce_at(&account, block.number as usize + 1)
                ))
            }
            "eth_getTransactionReceipt" => self.receipt(&params[0]),
            "eth_estimateGas" | "eth_call" => self.simulate(method, &params[0])?,
            "eth_sendRawTransaction" => self.accept(&params[0])?,
            "eth_getLogs" => self.logs(&params[0])?,
            other => return Err((-32601, format!("no method {other}"))),
        })
    }

    fn show_block(&self, block: &ModelBlock) -> Value {
        let transactions: Vec<Value> = block
            .transactions
            .iter()
            .map(|tx| json!({ "hash": tx.hash, "from": tx.from, "nonce": U64::from(tx.nonce) }))
            .collect();
        json!({
            "number": U64::from(block.number), "hash": block.hash, "parentHash": block.parent,
            "timestamp": U64::from(block.number), "baseFeePerGas": U256::from(self.base_fee),
            "transactions": transactions,
        })
    }

    fn receipt(&self, hash: &Value) -> Value {
        let hash: B256 = serde_json::from_value(hash.clone()).unwrap();
        if self.withheld.contains(&hash) {
            return Value::Null;
        }
        let found = self.shown().iter().find_map(|block| {
            block
                .transactions
                .iter()
                .find(|tx| tx.hash == hash)
                .map(|tx| (block, tx))
        });
        let Some((block, tx)) = found else {
            return Value::Null;
        };
        let success = !tx.to.is_some_and(|to| self.reverting.contains(&to));
        json!({
            "transactionHash": hash, "blockNumber": U64::from(block.number), "blockHash": block.hash,
            "status": U64::from(u64::from(success)), "gasUsed": "0x5208", "effectiveGasPrice": "0x7",
            "contractAddress": null, "logs": [],
        })
    }

    fn simulate(&self, method: &str, request: &Value) -> Outcome {
        let to: Option<Address> = serde_json::from_value(request["to"].clone()).unwrap();
        if to.is_some_and(|to| self.reverting.contains(&to)) {
            return Err((3, "execution reverted: not today".to_owned()));
        }
        Ok(if method == "eth_call" {
            json!("0x")
        } else {
            json!("0xc350")
        })
    }

    fn accept(&mut self, raw: &Value) -> Outcome {
        let refuse = |message: &str| Err((-32000, message.to_owned()));
        let raw: Bytes = serde_json::from_value(raw.clone()).unwrap();
        let envelope = TxEnvelope::decode_2718(&mut raw.as_ref()).unwrap();
        let from = envelope.recover_signer().unwrap();
        let tx = ModelTx {
            hash: *envelope.tx_hash(),
            from,
            nonce: envelope.nonce(),
            max_fee: envelope.max_fee_per_gas(),
            to: envelope.to(),
        };
        if envelope.chain_id() != Some(self.chain_id) {
            return refuse("invalid sender");
        }
        if self.pool.iter().any(|other| other.hash == tx.hash) {
            return refuse("already known");
        }
        if tx.nonce < self.nonce_at(&from, self.blocks.len()) {
            return refuse("nonce too low");
        }
        if let Some(place) = self
            .pool
            .iter()
            .position(|other| other.from == from && other.nonce == tx.nonce)
        {
            if tx.max_fee * 8 < self.pool[place].max_fee * 9 {
                return refuse("replacement transaction underpriced");
            }
            self.pool.remove(place);
        }
        let hash = tx.hash;
        self.pool.push(tx);
        Ok(json!(hash))
    }

    fn logs(&self, filter: &Value) -> Outcome {
        let number = |at: &Value| {
            serde_json::from_value::<U64>(at.clone())
                .unwrap()
                .to::<u64>()
        };
        let blocks: Vec<&ModelBlock> = if filter["blockHash"].is_null() {
            let (first, last) = (number(&filter["fromBlock"]), number(&filter["toBlock"]));
            if last - first >= self.max_log_blocks {
                return Err((-32005, "query returned more than 10000 results".to_owned()));
            }
            self.shown()
                .iter()
                .filter(|block| (first..=last).contains(&block.number))
                .collect()
        } else {
            vec![
                self.find(&filter["blockHash"])
                    .ok_or((-32000, "unknown block".to_owned()))?,
            ]
        };
        let mut found = Vec::new();
        let mut by_block = BTreeMap::<u64, u64>::new();
        for block in blocks {
            for log in &block.logs {
                let index = by_block.entry(block.number).or_default();
                let mut log = log.clone();
                log["blockNumber"] = json!(U64::from(block.number));
                log["blockHash"] = json!(block.hash);
                log["logIndex"] = json!(U64::from(*index));
                log["transactionHash"] = json!(keccak256(format!("{} {index}", block.hash)));
                log["transactionIndex"] = json!(U64::from(*index));
                log["removed"] = json!(false);
                *index += 1;
                found.push(log);
            }
        }
        Ok(json!(found))
    }
}
