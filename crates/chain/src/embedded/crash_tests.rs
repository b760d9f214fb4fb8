//! The chain's process is stopped at every write of its store in turn, and started again.
//!
//! What was promised must be there: every transaction whose hash was returned, in a block or waiting. What was never
//! answered may be there or not, but whole: money is conserved, the head is consistent, nothing is half mined.

use alloy_primitives::{B256, U256};
use serde_json::{Value, json};

use super::testing::{WEI, account, balance, config, payment, quantity, send};
use super::{Embedded, Mining, OpenError};
use crate::fault::{FaultyBackend, Unsynced};

/// Enough stops to cross several blocks in each mode.
const LEAST_STOPS: u64 = 100;
/// Payments in one run; each is sent when the one before was answered.
const PAYMENTS: u64 = 12;
/// A timer that never comes due in a test: what is sent stays in the pool.
const NEVER_MS: u64 = 24 * 60 * 60 * 1_000;

/// A payment whose hash was returned.
struct Promise {
    nonce: u64,
    hash: B256,
}

/// Sends payments in turn until one is not answered; returns those that were. Of each pair the later nonce is sent first,
/// so that it waits in the pool and leaves it for a block.
fn run(backend: &FaultyBackend, mining: Mining) -> Vec<Promise> {
    let config = super::EmbeddedConfig { mining, ..config() };
    let mut promised = Vec::new();
    let Ok(chain) = Embedded::with_backend(backend.clone(), config) else {
        return promised;
    };
    for nonce in (0..PAYMENTS).map(|index| index ^ 1) {
        let (hash, raw) = payment(&account(0), nonce, account(1).address(), nonce + 1);
        match send(&chain, &raw) {
            Ok(returned) => {
                assert_eq!(returned, hash);
                promised.push(Promise { nonce, hash });
            }
            Err(_) => break,
        }
    }
    promised
}

/// Whether a promise must be in a block: on demand, as soon as no nonce before it is missing.
fn must_be_mined(mining: Mining, promised: &[Promise], promise: &Promise) -> bool {
    let before = promised
        .iter()
        .filter(|other| other.nonce < promise.nonce)
        .count();
    mining == Mining::OnDemand && before as u64 == promise.nonce
}

/// Starts again over what survived and checks every promise.
fn check(backend: FaultyBackend, mining: Mining, promised: &[Promise], context: &str) {
    let config = super::EmbeddedConfig { mining, ..config() };
    let chain = match Embedded::with_backend(backend, config) {
        Ok(chain) => chain,
        Err(error) => panic!("{context}: the chain does not open again: {error:?}"),
    };
    for promise in promised {
        let hash = promise.hash;
        let found = chain
            .request("eth_getTransactionByHash", json!([hash]))
            .unwrap();
        assert!(!found.is_null(), "{context}: promised {hash} is gone");
        let mined = !found["blockNumber"].is_null();
        if must_be_mined(mining, promised, promise) {
            assert!(mined, "{context}: promised {hash} is in no block");
        }
        let receipt = chain
            .request("eth_getTransactionReceipt", json!([hash]))
            .unwrap();
        assert_eq!(
            receipt.is_null(),
            !mined,
            "{context}: a mined transaction has a receipt, no other has"
        );
    }
    let sum: U256 = (0..4)
        .map(|index| balance(&chain, account(index).address()))
        .sum();
    assert_eq!(
        sum,
        U256::from(4 * WEI),
        "{context}: money was made or lost"
    );
    check_blocks(&chain, context);
    // The chain goes on where it was: the next nonce is accepted like any other.
    let payer = account(0).address();
    let next = quantity(&chain, "eth_getTransactionCount", json!([payer, "pending"]));
    let (_, raw) = payment(&account(0), next.to(), account(2).address(), 1);
    send(&chain, &raw)
        .unwrap_or_else(|error| panic!("{context}: the chain does not go on: {error}"));
}

/// Every block names its parent, and the nonce of the payer counts the transactions in them.
fn check_blocks(chain: &Embedded, context: &str) {
    let head = chain.block_number().unwrap();
    let mut parent = Value::String(B256::ZERO.to_string());
    let mut mined = 0;
    for number in 0..=head {
        let block = chain
            .request(
                "eth_getBlockByNumber",
                json!([format!("{number:#x}"), false]),
            )
            .unwrap();
        assert_eq!(
            block["parentHash"], parent,
            "{context}: block {number} does not follow block before it"
        );
        parent = block["hash"].clone();
        mined += block["transactions"].as_array().unwrap().len();
    }
    let nonce = quantity(
        chain,
        "eth_getTransactionCount",
        json!([account(0).address(), "latest"]),
    );
    assert_eq!(
        nonce,
        U256::from(mined),
        "{context}: state and blocks disagree"
    );
}

/// Store operations before the first that belongs to the chain: redb makes its file. On disk that happens under another
/// name, see [`Embedded::open`].
fn operations_of_creation() -> u64 {
    let backend = FaultyBackend::new();
    let database = redb::Database::builder()
        .create_with_backend(backend.clone())
        .unwrap();
    let operations = backend.operations();
    drop(database);
    operations
}

/// How many store operations an undisturbed run takes.
fn operations(mining: Mining) -> u64 {
    let backend = FaultyBackend::new();
    assert_eq!(
        run(&backend, mining).len() as u64,
        PAYMENTS,
        "an undisturbed run keeps every promise"
    );
    backend.operations()
}

fn stop_everywhere(mining: Mining) {
    let (first, operations) = (operations_of_creation() + 1, operations(mining));
    assert!(
        operations - first >= LEAST_STOPS,
        "only {operations} writes: send more payments"
    );
    for stop in first..=operations {
        let backend = FaultyBackend::stopping_at(stop);
        let promised = run(&backend, mining);
        for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn(stop)] {
            let context = format!(
                "{mining:?}, stopped at write {stop} of {operations}, unsynced {unsynced:?}"
            );
            check(backend.survivor(unsynced), mining, &promised, &context);
        }
    }
}

#[test]
fn a_stop_at_any_write_keeps_every_promise_when_mining_on_demand() {
    stop_everywhere(Mining::OnDemand);
}

#[test]
fn a_stop_at_any_write_keeps_every_promise_when_mining_on_a_timer() {
    stop_everywhere(Mining::Every {
        interval_ms: NEVER_MS,
    });
}

#[test]
fn a_failed_store_is_said_and_nothing_more_is_accepted() {
    let backend = FaultyBackend::new();
    let chain = Embedded::with_backend(backend.clone(), config()).unwrap();
    backend.stop_at(backend.operations() + 1);
    let (_, raw) = payment(&account(0), 0, account(1).address(), 1);
    let first = send(&chain, &raw).unwrap_err();
    let (_, raw) = payment(&account(2), 0, account(1).address(), 1);
    let second = send(&chain, &raw).unwrap_err();
    for error in [first, second] {
        assert_eq!(error.code, super::RpcError::INTERNAL);
        assert!(
            error.message.contains("check the disk"),
            "{}",
            error.message
        );
    }
    assert_eq!(
        balance(&chain, account(1).address()),
        U256::from(WEI),
        "readers still see the last durable block"
    );
}

#[test]
fn an_empty_survivor_is_a_new_chain_and_another_chain_id_is_refused() {
    let backend = FaultyBackend::new();
    drop(Embedded::with_backend(backend.clone(), config()).unwrap());
    let other = super::EmbeddedConfig {
        chain_id: 7,
        ..config()
    };
    let error = Embedded::with_backend(backend.survivor(Unsynced::Kept), other).unwrap_err();
    assert!(
        matches!(error, OpenError::OtherChain { wanted: 7, .. }),
        "{error:?}"
    );
}

#[test]
fn what_a_stopped_creation_left_behind_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chain.redb");
    std::fs::write(folder.path().join("chain.redb.new"), [0; 4_096]).unwrap();
    let chain = Embedded::open(&path, config()).unwrap();
    let error = Embedded::open(&path, config()).unwrap_err();
    assert!(matches!(error, OpenError::Busy), "{error:?}");
    let (hash, raw) = payment(&account(0), 0, account(1).address(), 1);
    send(&chain, &raw).unwrap();
    drop(chain);
    let chain = Embedded::open(&path, config()).unwrap();
    assert!(
        !chain
            .request("eth_getTransactionReceipt", json!([hash]))
            .unwrap()
            .is_null()
    );
    assert!(!folder.path().join("chain.redb.new").exists());
}
