//! Any chain that speaks JSON-RPC, as the rules need it; first of all the embedded one.
//!
//! Transactions are signed and sent as a wallet sends them. A revert is learned by `eth_call` before the transaction
//! is sent, because receipts carry no reasons; a transaction that would revert is not sent at all.

use alloy_consensus::{SignableTransaction, TxEnvelope, TxLegacy};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, Bytes, Log, TxKind, U256, hex};
use alloy_rpc_types_eth::TransactionReceipt;
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use serde_json::{Value, json};

use crate::chain::{Chain, Receipt};

/// Gas that every transaction of the rules may use.
const GAS_LIMIT: u64 = 8_000_000;

/// How a chain answers a method: with a result, or with the data of its error.
pub(crate) type Door = Box<dyn Fn(&str, Value) -> Result<Value, Option<Value>>>;

/// A chain behind JSON-RPC whose gas is free, whose blocks are made on demand, and whose time can be moved on by the
/// methods that embedded chain, anvil and hardhat share.
pub(crate) struct RpcChain {
    door: Door,
    chain_id: u64,
}

impl RpcChain {
    pub(crate) fn new(door: Door) -> Self {
        let mut chain = Self { door, chain_id: 0 };
        chain.chain_id = quantity(&chain.ask("eth_chainId", json!([])));
        chain
    }

    fn ask(&self, method: &str, params: Value) -> Value {
        (self.door)(method, params).unwrap_or_else(|data| panic!("{method} failed: {data:?}"))
    }

    /// Output of a call from `from`, or why it reverts.
    fn attempt(&self, from: Address, to: TxKind, data: &Bytes) -> Result<Bytes, Bytes> {
        let call =
            json!({ "from": from, "to": to.to(), "data": data, "gas": format!("{GAS_LIMIT:#x}") });
        match (self.door)("eth_call", json!([call, "latest"])) {
            Ok(output) => Ok(serde_json::from_value(output).expect("eth_call answers with bytes")),
            Err(Some(reason)) => {
                Err(serde_json::from_value(reason).expect("a revert carries its reason"))
            }
            Err(None) => panic!("eth_call failed otherwise than by a revert"),
        }
    }
}

impl Chain for RpcChain {
    fn chain_id(&self) -> u64 {
        self.chain_id
    }

    fn now(&self) -> u64 {
        quantity(&self.ask("eth_getBlockByNumber", json!(["latest", false]))["timestamp"])
    }

    fn advance(&mut self, seconds: u64) {
        self.ask("evm_increaseTime", json!([seconds]));
        self.ask("evm_mine", json!([]));
    }

    fn send(&mut self, from: &PrivateKeySigner, to: TxKind, data: Bytes) -> Receipt {
        if let Err(reason) = self.attempt(from.address(), to, &data) {
            return Receipt {
                outcome: Err(reason),
                gas_used: 0,
                logs: Vec::new(),
                created: None,
            };
        }
        let nonce = quantity(&self.ask(
            "eth_getTransactionCount",
            json!([from.address(), "pending"]),
        ));
        let transaction = TxLegacy {
            chain_id: Some(self.chain_id),
            nonce,
            gas_price: 0,
            gas_limit: GAS_LIMIT,
            to,
            value: U256::ZERO,
            input: data,
        };
        let signature = from
            .sign_hash_sync(&transaction.signature_hash())
            .expect("a local key signs");
        let raw = TxEnvelope::from(transaction.into_signed(signature)).encoded_2718();
        let hash = self.ask("eth_sendRawTransaction", json!([hex::encode_prefixed(raw)]));
        let receipt = self.ask("eth_getTransactionReceipt", json!([hash]));
        let receipt: TransactionReceipt =
            serde_json::from_value(receipt).expect("the transaction is in a block");
        assert!(
            receipt.status(),
            "the call succeeded and the transaction did not"
        );
        let logs: Vec<Log> = receipt.logs().iter().map(|log| log.inner.clone()).collect();
        Receipt {
            outcome: Ok(()),
            gas_used: receipt.gas_used,
            logs,
            created: receipt.contract_address,
        }
    }

    fn read(&mut self, to: Address, data: Bytes) -> Result<Bytes, Bytes> {
        self.attempt(Address::ZERO, TxKind::Call(to), &data)
    }
}

fn quantity(value: &Value) -> u64 {
    let text = value.as_str().expect("a quantity is a string");
    u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a quantity is hexadecimal")
}
