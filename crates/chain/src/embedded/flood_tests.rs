//! Accounts that cost nothing against the pool: whatever they send, a payer gets in, and it ends.

use std::path::Path;
use std::sync::Arc;

use alloy_primitives::{Address, Bytes};
use alloy_signer_local::PrivateKeySigner;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::limits::{
    GAP_EXPIRY_MS, MAX_GAPPED_BYTES, MAX_GAPPED_TRANSACTIONS, MAX_SENDER_GAPPED,
    MAX_UNKNOWN_TRANSACTIONS,
};
use super::testing::{START_S, WEI, account, balance, config, payment, send, sign, unsigned};
use super::{Embedded, EmbeddedConfig, Mining, RpcError};
use hearth_environment::ManualEnvironment;

/// Accounts from here on have nothing, and the chain does not know them.
const UNFUNDED: u8 = 10;

fn chain_at(path: &Path, clock: &ManualEnvironment) -> Embedded {
    let config = EmbeddedConfig {
        environment: Arc::new(clock.clone()),
        ..config()
    };
    Embedded::open(path, config).unwrap()
}

fn clock() -> ManualEnvironment {
    ManualEnvironment::new(START_S * 1_000)
}

/// A transaction without value, with this much calldata.
fn idle(from: &PrivateKeySigner, nonce: u64, bytes: usize) -> Bytes {
    let mut transaction = unsigned(nonce, Address::ZERO.into(), 0, vec![0; bytes].into());
    transaction.gas_limit = 30_000_000;
    sign(from, transaction).1
}

fn is_known(chain: &Embedded, raw: &Bytes) -> bool {
    let hash = alloy_primitives::keccak256(raw);
    chain
        .request("eth_getTransactionByHash", json!([hash]))
        .unwrap()
        != Value::Null
}

/// A funded payer pays, and it arrives.
fn pays(chain: &Embedded, nonce: u64) {
    let to = Address::repeat_byte(0x77);
    let before = balance(chain, to);
    let (_, raw) = payment(&account(0), nonce, to, 1);
    send(chain, &raw).unwrap_or_else(|error| panic!("a payer is kept out: {error}"));
    assert_eq!(balance(chain, to) - before, alloy_primitives::U256::ONE);
}

/// So many of the last transactions of one account wait for a nonce that never comes.
fn gaps(
    chain: &Embedded,
    from: u8,
    count: u64,
    bytes: usize,
) -> Vec<(Bytes, Result<(), RpcError>)> {
    let sent = (1..=count).map(|nonce| {
        let raw = idle(&account(from), nonce, bytes);
        let outcome = send(chain, &raw).map(drop);
        (raw, outcome)
    });
    sent.collect()
}

#[test]
fn unfunded_accounts_with_missing_nonces_keep_no_payer_out_not_even_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (path, clock) = (folder.path().join("chain"), clock());
    let chain = chain_at(&path, &clock);
    for from in UNFUNDED..UNFUNDED + 100 {
        let sent = gaps(&chain, from, MAX_SENDER_GAPPED as u64 + 4, 10);
        let taken = sent.iter().filter(|(_, outcome)| outcome.is_ok()).count();
        let others = usize::from(from - UNFUNDED) * MAX_SENDER_GAPPED;
        if others + MAX_SENDER_GAPPED > MAX_GAPPED_TRANSACTIONS {
            // The pool is full: a newcomer displaces what waits, its own included.
            assert!(taken >= MAX_SENDER_GAPPED, "account {from}");
            continue;
        }
        assert_eq!(taken, MAX_SENDER_GAPPED, "account {from}");
        let (_, Err(error)) = &sent[MAX_SENDER_GAPPED] else {
            panic!("one more was taken");
        };
        assert!(error.message.starts_with("nonce too high"), "{error}");
    }
    assert_eq!(waiting(&chain), MAX_GAPPED_TRANSACTIONS);
    pays(&chain, 0);
    // The payer may also send what comes later first.
    let to = Address::repeat_byte(0x78);
    let later = payment(&account(0), 2, to, 5).1;
    send(&chain, &later).unwrap();
    pays(&chain, 1);
    assert_eq!(balance(&chain, to), alloy_primitives::U256::from(5));
    chain.shutdown();
    drop(chain);
    let chain = chain_at(&path, &clock);
    pays(&chain, 3);
    assert!(waiting(&chain) <= MAX_GAPPED_TRANSACTIONS);
    // What never comes is waited for so long, and then no more.
    clock.advance_ms(GAP_EXPIRY_MS);
    pays(&chain, 4);
    assert_eq!(waiting(&chain), 0);
    chain.shutdown();
    drop(chain);
    let chain = chain_at(&path, &clock);
    assert_eq!(waiting(&chain), 0, "nor is it in the file");
}

/// Transactions in the pool.
fn waiting(chain: &Embedded) -> usize {
    let pool = chain.shared().pool();
    pool.len()
}

#[test]
fn huge_calldata_has_a_bound_of_its_own_and_displaces_its_own() {
    let chain = Embedded::in_memory(config()).unwrap();
    let honest = payment(&account(1), 1, Address::ZERO, 1).1;
    send(&chain, &honest).unwrap();
    for from in UNFUNDED..UNFUNDED + 20 {
        gaps(&chain, from, MAX_SENDER_GAPPED as u64, 120_000);
        assert!(chain.shared().pool().bytes() <= MAX_GAPPED_BYTES);
    }
    assert!(is_known(&chain, &honest), "one of an honest account stays");
    pays(&chain, 0);
}

#[test]
fn accounts_without_a_history_leave_room_in_a_chain_on_a_timer() {
    let config = EmbeddedConfig {
        mining: Mining::Every {
            interval_ms: 3_600_000,
        },
        dev_rpc: true,
        ..config()
    };
    let chain = Embedded::in_memory(config).unwrap();
    let mut refused = 0;
    for from in UNFUNDED..UNFUNDED + 5 {
        for nonce in 0..1_000 {
            if let Err(error) = send(&chain, &idle(&account(from), nonce, 0)) {
                assert_eq!(error.code, RpcError::LIMIT_EXCEEDED, "{error}");
                refused += 1;
                break;
            }
        }
    }
    assert_eq!((waiting(&chain), refused), (MAX_UNKNOWN_TRANSACTIONS, 1));
    let to = Address::repeat_byte(0x77);
    send(&chain, &payment(&account(0), 0, to, 1).1).unwrap();
    chain.request("evm_mine", json!([])).unwrap();
    chain.request("evm_mine", json!([])).unwrap();
    assert_eq!(balance(&chain, to), alloy_primitives::U256::ONE);
}

#[test]
fn what_its_sender_can_no_longer_pay_is_dropped() {
    let chain = Embedded::in_memory(config()).unwrap();
    let all = (2..10).map(|nonce| payment(&account(0), nonce, Address::ZERO, WEI).1);
    let all: Vec<_> = all.collect();
    for raw in &all {
        send(&chain, raw).unwrap();
    }
    assert_eq!(waiting(&chain), all.len());
    pays(&chain, 0);
    assert_eq!(waiting(&chain), 0, "none of them can be paid now");
}

#[test]
fn a_transaction_that_is_replaced_again_and_again_does_not_wait_longer() {
    let clock = clock();
    let config = EmbeddedConfig {
        environment: Arc::new(clock.clone()),
        ..config()
    };
    let chain = Embedded::in_memory(config).unwrap();
    let mut fee = 1_u128;
    for round in 0..20 {
        let mut transaction = unsigned(5, Address::ZERO.into(), 0, Bytes::new());
        (
            transaction.max_fee_per_gas,
            transaction.max_priority_fee_per_gas,
        ) = (fee, fee);
        let (_, raw) = sign(&account(UNFUNDED), transaction);
        send(&chain, &raw).unwrap_or_else(|error| panic!("round {round}: {error}"));
        fee *= 2;
        clock.advance_ms(GAP_EXPIRY_MS / 20);
        assert_eq!(waiting(&chain), 1);
    }
    pays(&chain, 0);
    assert_eq!(waiting(&chain), 0);
}

#[test]
fn floods_side_by_side_keep_no_payer_out() {
    let chain = Embedded::in_memory(config()).unwrap();
    for round in 0..8_u8 {
        let from = UNFUNDED + round * 4;
        gaps(&chain, from, 8, 0);
        gaps(&chain, from + 1, 8, 100_000);
        // Contiguous ones of an account without a history are mined at once.
        for nonce in 0..4 {
            send(&chain, &idle(&account(from + 2), nonce, 0)).unwrap();
        }
        // A replacement that pays too little, and one that was seen.
        let known = idle(&account(from), 1, 0);
        assert!(send(&chain, &known).is_err());
        let other = idle(&account(from), 1, 1);
        assert!(send(&chain, &other).is_err());
        pays(&chain, u64::from(round));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_is_sent_the_pool_counts_right_and_a_payer_gets_in(
        sent in prop::collection::vec((0..30_u8, 0..24_u64, 0..3_u8, 0..1_000_000_u64), 1..120)
    ) {
        let clock = clock();
        let config = EmbeddedConfig { environment: Arc::new(clock.clone()), ..config() };
        let chain = Embedded::in_memory(config).unwrap();
        for (from, nonce, size, wait_ms) in sent {
            let raw = idle(&account(UNFUNDED + from), nonce, usize::from(size) * 60_000);
            // Refused or not, nothing is to break.
            drop(send(&chain, &raw));
            clock.advance_ms(wait_ms);
            chain.shared().pool().check_counts();
        }
        pays(&chain, 0);
        chain.shared().pool().check_counts();
    }
}
