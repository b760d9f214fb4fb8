//! What the tests of this module share: accounts, a chain to send to, and transactions.

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use serde_json::{Value, json};

use super::{Embedded, EmbeddedConfig, Genesis, RpcError};
use hearth_environment::ManualEnvironment;

pub(super) const CHAIN_ID: u64 = 31_402;
/// 2026-01-01T00:00:00Z.
pub(super) const START_S: u64 = 1_767_225_600;
pub(super) const WEI: u64 = 1_000_000;

/// Account number `index`, the same in every run.
pub(super) fn account(index: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(index + 1)).unwrap()
}

/// A chain without contracts on which accounts 0 to 3 have [`WEI`] each.
pub(super) fn config() -> EmbeddedConfig {
    let genesis = (0..4).fold(Genesis::default(), |genesis, index| {
        genesis.with_balance(account(index).address(), U256::from(WEI))
    });
    let clock = std::sync::Arc::new(ManualEnvironment::new(START_S * 1_000));
    EmbeddedConfig {
        chain_id: CHAIN_ID,
        environment: clock,
        ..EmbeddedConfig::new(genesis)
    }
}

/// A transaction that costs nothing, before its fees are changed and it is signed.
pub(super) fn unsigned(nonce: u64, to: TxKind, value: u64, input: Bytes) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 1_000_000,
        to,
        value: U256::from(value),
        input,
        ..TxEip1559::default()
    }
}

pub(super) fn sign(signer: &PrivateKeySigner, transaction: TxEip1559) -> (B256, Bytes) {
    let signature = signer
        .sign_hash_sync(&transaction.signature_hash())
        .unwrap();
    let envelope = TxEnvelope::Eip1559(transaction.into_signed(signature));
    (*envelope.tx_hash(), envelope.encoded_2718().into())
}

/// A signed payment of native coin.
pub(super) fn payment(
    from: &PrivateKeySigner,
    nonce: u64,
    to: Address,
    value: u64,
) -> (B256, Bytes) {
    sign(from, unsigned(nonce, to.into(), value, Bytes::new()))
}

pub(super) fn send(chain: &Embedded, raw: &Bytes) -> Result<B256, RpcError> {
    let reply = chain.request("eth_sendRawTransaction", json!([raw]))?;
    Ok(serde_json::from_value(reply).unwrap())
}

/// A reply that is a hex quantity.
pub(super) fn quantity(chain: &Embedded, method: &str, params: Value) -> U256 {
    serde_json::from_value(chain.request(method, params).unwrap()).unwrap()
}

pub(super) fn balance(chain: &Embedded, address: Address) -> U256 {
    quantity(chain, "eth_getBalance", json!([address, "latest"]))
}
