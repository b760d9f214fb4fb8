//! The embedded chain's figures: transfers and calls per second, and the time to open a long chain.
//!
//! Prints one JSON object a line, `{"name", "value", "unit", "note"}`. Transfers are of an ERC-20, signed before the
//! clock starts, sent from several threads, and counted when they are durable. `--smoke` does the same in its smallest
//! size, so that the program cannot rot.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use anyhow::{Context, Result, ensure};
use hearth_chain::bindings::TestDollar;
use hearth_chain::embedded::{
    DEFAULT_CHAIN_ID, Embedded, EmbeddedConfig, Genesis, TEST_DOLLAR_ADDRESS,
};
use redb::StorageBackend;
use redb::backends::FileBackend;
use serde_json::json;

/// Threads that send, each for an account of its own: enough that a block holds many transfers.
const SENDERS: u64 = 64;
/// Gas that a transfer of a token needs at most.
const TRANSFER_GAS: u64 = 100_000;

/// How much is measured.
struct Size {
    transfers_per_sender: u64,
    transfers_one_by_one: u64,
    calls: u64,
    blocks: u64,
}

fn main() -> Result<()> {
    let smoke = std::env::args().any(|argument| argument == "--smoke");
    let size = if smoke {
        Size {
            transfers_per_sender: 4,
            transfers_one_by_one: 16,
            calls: 64,
            blocks: 100,
        }
    } else {
        Size {
            transfers_per_sender: 200,
            transfers_one_by_one: 500,
            calls: 50_000,
            blocks: 100_000,
        }
    };
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let path = folder.path().join("chain.redb");
    let chain = Embedded::open(&path, config())?;
    together(&chain, &size)?;
    one_by_one(&chain, &size)?;
    calls(&chain, &size)?;
    drop(chain);
    restart(folder.path(), &size)
}

fn config() -> EmbeddedConfig {
    let holders = (0..=SENDERS).map(|index| key(index).address());
    let genesis = holders.fold(
        Genesis::standard(Address::repeat_byte(1)),
        |genesis, holder| genesis.with_test_dollars(holder, U256::from(1_000_000_000)),
    );
    EmbeddedConfig::new(genesis)
}

/// The key of sender number `index`, the same in every run.
fn key(index: u64) -> PrivateKeySigner {
    let secret = B256::from(U256::from(index + 1));
    PrivateKeySigner::from_bytes(&secret).expect("small numbers other than zero are valid keys")
}

fn transfer(signer: &PrivateKeySigner, nonce: u64) -> Result<Bytes> {
    let call = TestDollar::transferCall {
        to: Address::repeat_byte(2),
        value: U256::from(1),
    };
    let transaction = TxEip1559 {
        chain_id: DEFAULT_CHAIN_ID,
        nonce,
        gas_limit: TRANSFER_GAS,
        to: TEST_DOLLAR_ADDRESS.into(),
        input: call.abi_encode().into(),
        ..TxEip1559::default()
    };
    let signature = signer.sign_hash_sync(&transaction.signature_hash())?;
    Ok(TxEnvelope::Eip1559(transaction.into_signed(signature))
        .encoded_2718()
        .into())
}

fn print(name: &str, value: f64, unit: &str, note: &str) {
    println!(
        "{}",
        json!({ "name": name, "value": value, "unit": unit, "note": note })
    );
}

fn send_all(chain: &Embedded, transfers: &[Bytes]) -> Result<()> {
    for raw in transfers {
        chain.request("eth_sendRawTransaction", json!([raw]))?;
    }
    Ok(())
}

/// Transfers of many senders at once, which share blocks and durable writes.
fn together(chain: &Embedded, size: &Size) -> Result<()> {
    let mut work = Vec::new();
    for sender in 1..=SENDERS {
        let signed: Result<Vec<_>> = (0..size.transfers_per_sender)
            .map(|nonce| transfer(&key(sender), nonce))
            .collect();
        work.push(signed?);
    }
    let blocks = chain.block_number()?;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = work
            .iter()
            .map(|transfers| scope.spawn(|| send_all(chain, transfers)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a sender does not panic"))
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let blocks = chain.block_number()? - blocks;
    let transfers = SENDERS * size.transfers_per_sender;
    let note = format!(
        "{SENDERS} senders, {transfers} ERC-20 transfers in {blocks} durable blocks, signatures checked"
    );
    print(
        "transfers together",
        transfers as f64 / seconds,
        "transfers/s",
        &note,
    );
    Ok(())
}

/// Transfers of one sender, each in a durable block of its own.
fn one_by_one(chain: &Embedded, size: &Size) -> Result<()> {
    let signed: Result<Vec<_>> = (0..size.transfers_one_by_one)
        .map(|nonce| transfer(&key(0), nonce))
        .collect();
    let signed = signed?;
    let started = Instant::now();
    send_all(chain, &signed)?;
    let seconds = started.elapsed().as_secs_f64();
    let note = "each waits for its own durable block";
    print(
        "transfers one by one",
        size.transfers_one_by_one as f64 / seconds,
        "transfers/s",
        note,
    );
    Ok(())
}

fn calls(chain: &Embedded, size: &Size) -> Result<()> {
    let call = TestDollar::balanceOfCall {
        account: key(0).address(),
    };
    let params = Arc::new(
        json!([{ "to": TEST_DOLLAR_ADDRESS, "input": Bytes::from(call.abi_encode()) }, "latest"]),
    );
    let started = Instant::now();
    for _ in 0..size.calls {
        chain.request("eth_call", (*params).clone())?;
    }
    let seconds = started.elapsed().as_secs_f64();
    print(
        "calls",
        size.calls as f64 / seconds,
        "eth_call/s",
        "one thread, balanceOf, in process",
    );
    Ok(())
}

/// Opens a chain that has many blocks, after an orderly end and after none.
fn restart(folder: &Path, size: &Size) -> Result<()> {
    let path = folder.join("long.redb");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    let chain = Embedded::with_backend(Unsynced(FileBackend::new(file)?), config())?;
    let sender = key(0);
    for nonce in 0..size.blocks {
        chain.request("eth_sendRawTransaction", json!([transfer(&sender, nonce)?]))?;
    }
    // A copy of the file of a running chain is what a killed process leaves.
    let killed = folder.join("killed.redb");
    std::fs::copy(&path, &killed)?;
    drop(chain);
    let bytes = std::fs::metadata(&path)?.len();
    for (name, path) in [("restart", path), ("restart after a kill", killed)] {
        // Else the first sync of the opening would pay for the making.
        File::open(&path)?.sync_all()?;
        let started = Instant::now();
        let chain = Embedded::open(&path, config())?;
        let head = chain.block_number()?;
        let ms = started.elapsed().as_secs_f64() * 1_000.0;
        ensure!(
            head == size.blocks,
            "the chain has {head} blocks instead of {}",
            size.blocks
        );
        let note = format!("{head} blocks of one ERC-20 transfer each, {bytes} bytes");
        print(name, ms, "ms", &note);
    }
    Ok(())
}

/// A file that is never synced: it only saves time while a long chain is made, which nobody relies on.
#[derive(Debug)]
struct Unsynced(FileBackend);

impl StorageBackend for Unsynced {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
}
