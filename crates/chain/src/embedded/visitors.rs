//! What devices of other households may ask of this chain.
//!
//! A visitor reads the chain and sends signed transactions. It gets no method that changes what the chain is
//! (development methods), none that leaves something behind for the household to keep (filters), and none that runs a
//! call many times (access lists). Each reply has a bound, and a batch ends when it took too long. Gas is free here and
//! every block is kept, so what visitors write is bounded by the gas that their transactions ask for. How many ask at
//! once is for the caller to bound. Spec: 05 embedded chain, section 13.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy_consensus::{Transaction, TxEnvelope};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::Bytes;
use serde_json::Value;

use super::http::{Terms, answer};
use super::limits::{
    MAX_VISITOR_REPLY_BYTES, MAX_VISITOR_TRANSACTION_GAS, VISITOR_GAS_BURST, VISITOR_GAS_PER_S,
    VISITOR_TIME_MS,
};
use super::{Embedded, RpcError, rpc};

/// The methods that a visitor may call.
const VISITOR_METHODS: [&str; 28] = [
    "web3_clientVersion",
    "net_version",
    "eth_chainId",
    "eth_syncing",
    "eth_blockNumber",
    "eth_gasPrice",
    "eth_maxPriorityFeePerGas",
    "eth_blobBaseFee",
    "eth_feeHistory",
    "eth_getBalance",
    "eth_getTransactionCount",
    "eth_getCode",
    "eth_getStorageAt",
    "eth_call",
    "eth_estimateGas",
    "eth_sendRawTransaction",
    "eth_getTransactionByHash",
    "eth_getTransactionByBlockNumberAndIndex",
    "eth_getTransactionByBlockHashAndIndex",
    "eth_getTransactionReceipt",
    "eth_getBlockReceipts",
    "eth_getBlockByNumber",
    "eth_getBlockByHash",
    "eth_getBlockTransactionCountByNumber",
    "eth_getBlockTransactionCountByHash",
    "eth_getUncleCountByBlockNumber",
    "eth_getUncleCountByBlockHash",
    "eth_getLogs",
];

/// The gas that a group of visitors may still ask for. Reads no clock.
#[derive(Debug)]
struct GasBudget {
    left: u64,
    filled_at_ms: u64,
}

impl GasBudget {
    /// Takes `gas` if it is there.
    fn take(&mut self, now_ms: u64, gas: u64) -> bool {
        let passed_ms = now_ms.saturating_sub(self.filled_at_ms);
        let added = passed_ms.saturating_mul(VISITOR_GAS_PER_S) / 1_000;
        if added > 0 {
            self.left = self.left.saturating_add(added).min(VISITOR_GAS_BURST);
            self.filled_at_ms = now_ms;
        }
        let is_there = self.left >= gas;
        if is_there {
            self.left -= gas;
        }
        is_there
    }
}

/// The chain as a group of visitors may use it, with one budget for all of them.
#[derive(Debug)]
pub struct VisitorDoor {
    chain: Embedded,
    budget: Mutex<GasBudget>,
}

impl Embedded {
    /// Opens a door for a group of visitors.
    #[must_use]
    pub fn for_visitors(&self) -> VisitorDoor {
        let budget = GasBudget {
            left: VISITOR_GAS_BURST,
            filled_at_ms: self.shared().environment().now_ms(),
        };
        VisitorDoor {
            chain: self.clone(),
            budget: Mutex::new(budget),
        }
    }
}

/// The gas that a transaction asks for; nothing where the parameters hold none, which the method itself refuses.
fn gas_of(params: &Value) -> Option<u64> {
    let raw: Bytes = serde_json::from_value(params.get(0)?.clone()).ok()?;
    let transaction = TxEnvelope::decode_2718_exact(&raw).ok()?;
    Some(transaction.gas_limit())
}

impl VisitorDoor {
    /// Returns the reply to a visitor's JSON-RPC body, one call or a batch; nothing for notifications alone. The caller
    /// bounds the body. It blocks, as [`Embedded::request`] does.
    #[must_use]
    pub fn answer(&self, body: &[u8]) -> Vec<u8> {
        let began = Instant::now();
        let call = |method: &str, params: Value| {
            if !VISITOR_METHODS.contains(&method) {
                return Err(rpc::unknown(method));
            }
            if began.elapsed() > Duration::from_millis(VISITOR_TIME_MS) {
                return Err(RpcError::limit_exceeded(
                    "the batch took too long; send smaller batches",
                ));
            }
            if method == "eth_sendRawTransaction" {
                self.check_gas(&params)?;
            }
            self.chain.request(method, params)
        };
        let terms = Terms {
            call: &call,
            reply_bytes_max: MAX_VISITOR_REPLY_BYTES,
            batch_bytes_max: MAX_VISITOR_REPLY_BYTES,
        };
        answer(body, &terms).unwrap_or_default()
    }

    /// Refuses a transaction that asks for more gas than there is for visitors.
    fn check_gas(&self, params: &Value) -> Result<(), RpcError> {
        let Some(gas) = gas_of(params) else {
            return Ok(());
        };
        if gas > MAX_VISITOR_TRANSACTION_GAS {
            return Err(RpcError::rejected(format!(
                "exceeds the gas limit of others' transactions here: at most {MAX_VISITOR_TRANSACTION_GAS}"
            )));
        }
        let now_ms = self.chain.shared().environment().now_ms();
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.take(now_ms, gas) {
            return Ok(());
        }
        Err(RpcError::limit_exceeded(
            "too many transactions of others; send it again later",
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use alloy_consensus::TxEip1559;
    use alloy_primitives::TxKind;
    use serde_json::{Value, json};

    use super::super::testing::{START_S, account, config, sign, unsigned};
    use super::super::{DEFAULT_CHAIN_ID, EmbeddedConfig, OWN_CHAIN_IDS, is_embedded_id};
    use super::*;
    use hearth_environment::ManualEnvironment;

    fn asked(door: &VisitorDoor, method: &str, params: &Value) -> Value {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        serde_json::from_slice(&door.answer(body.to_string().as_bytes())).unwrap()
    }

    #[test]
    fn what_visitors_write_is_bounded_by_the_gas_that_they_ask_for() {
        let clock = Arc::new(ManualEnvironment::new(START_S * 1_000));
        let chain = Embedded::in_memory(EmbeddedConfig {
            environment: Arc::<ManualEnvironment>::clone(&clock),
            ..config()
        })
        .unwrap();
        let door = chain.for_visitors();
        let to = TxKind::Call(account(9).address());
        let sent = |nonce: u64, gas_limit: u64| {
            let transaction = TxEip1559 {
                gas_limit,
                ..unsigned(nonce, to, 0, Bytes::new())
            };
            let (_, raw) = sign(&account(0), transaction);
            asked(&door, "eth_sendRawTransaction", &json!([raw]))
        };
        let greedy = sent(0, MAX_VISITOR_TRANSACTION_GAS + 1);
        assert_eq!(greedy["error"]["code"], RpcError::REJECTED, "{greedy}");
        let many = VISITOR_GAS_BURST / MAX_VISITOR_TRANSACTION_GAS;
        for nonce in 0..many {
            let taken = sent(nonce, MAX_VISITOR_TRANSACTION_GAS);
            assert!(taken["result"].is_string(), "{nonce}: {taken}");
        }
        let over = sent(many, MAX_VISITOR_TRANSACTION_GAS);
        assert_eq!(over["error"]["code"], RpcError::LIMIT_EXCEEDED, "{over}");
        // Another group has a budget of its own, and time fills this one again.
        let own = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": [] });
        assert!(
            chain
                .for_visitors()
                .answer(own.to_string().as_bytes())
                .starts_with(b"{")
        );
        clock.advance_ms(MAX_VISITOR_TRANSACTION_GAS * 1_000 / VISITOR_GAS_PER_S + 1);
        let later = sent(many, MAX_VISITOR_TRANSACTION_GAS);
        assert!(later["result"].is_string(), "{later}");
    }

    #[test]
    fn a_visitor_reads_the_chain_and_gets_no_method_that_changes_it() {
        // The household itself may move time here; a visitor may not even so.
        let chain = Embedded::in_memory(EmbeddedConfig {
            dev_rpc: true,
            ..config()
        })
        .unwrap();
        let door = chain.for_visitors();
        let id = asked(&door, "eth_chainId", &json!([]));
        assert_eq!(id["result"], format!("{:#x}", chain.chain_id()));
        for forbidden in [
            "evm_increaseTime",
            "evm_setNextBlockTimestamp",
            "evm_mine",
            "anvil_mine",
            "hardhat_mine",
            "eth_newFilter",
            "eth_newBlockFilter",
            "eth_newPendingTransactionFilter",
            "eth_getFilterChanges",
            "eth_uninstallFilter",
            "eth_createAccessList",
            "eth_accounts",
            "admin_stop",
        ] {
            let refused = asked(&door, forbidden, &json!([1]));
            let code = &refused["error"]["code"];
            assert_eq!(*code, RpcError::METHOD_NOT_FOUND, "{forbidden}: {refused}");
        }
        assert_eq!(chain.block_number().unwrap(), 0);
    }

    #[test]
    fn a_visitor_that_asks_for_a_forbidden_method_among_others_gets_the_others() {
        let door = Embedded::in_memory(config()).unwrap().for_visitors();
        let call = |id: u64, method: &str| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": [] });
        let body = json!([call(1, "evm_mine"), call(2, "eth_blockNumber")]);
        let reply = door.answer(body.to_string().as_bytes());
        let reply: Value = serde_json::from_slice(&reply).unwrap();
        assert_eq!(reply[0]["error"]["code"], RpcError::METHOD_NOT_FOUND);
        assert_eq!(reply[1]["result"], "0x0");
        assert!(door.answer(b"nonsense").starts_with(b"{"));
    }

    #[test]
    fn only_ids_of_embedded_chains_count_as_such() {
        assert!(is_embedded_id(DEFAULT_CHAIN_ID));
        assert!(is_embedded_id(OWN_CHAIN_IDS.start) && is_embedded_id(OWN_CHAIN_IDS.end - 1));
        for public in [
            0,
            1,
            10,
            137,
            8_453,
            42_161,
            84_532,
            11_155_111,
            OWN_CHAIN_IDS.end,
        ] {
            assert!(!is_embedded_id(public), "{public}");
        }
        // Clients in JavaScript read ids as numbers of 53 bits.
        const { assert!(OWN_CHAIN_IDS.end < 1 << 53) };
    }
}
