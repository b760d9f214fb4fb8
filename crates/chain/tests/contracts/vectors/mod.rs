//! `vectors/eip712.json` and `vectors/eip712_bad.json`: what is signed, as the contracts themselves hash and judge it.
//!
//! Both files are made here from a list of cases, run through the contracts on revm, and compared with what is checked
//! in; `HEARTH_REGENERATE=1` writes them anew. Any other implementation reads the same files (docs/spec/03-vectors.md).

mod bad;
mod good;

use std::path::{Path, PathBuf};

use alloy_primitives::aliases::U40;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, address, keccak256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{Eip712Domain, SolCall};
use hearth_chain::bindings::{Settlement, ember_init, test_dollar_init};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::chain::{Chain, Receipt, RevmChain};
use crate::signing;

/// Set to write the files instead of comparing with them.
const REGENERATE: &str = "HEARTH_REGENERATE";

/// Where the dollar of the vectors stands.
const DOLLAR: Address = address!("0xd0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0");

/// Where the Ember of the vectors stands.
const EMBER: Address = address!("0xe0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0");

/// 2100-01-01, in Unix seconds: an end that no run of these tests reaches.
const FAR: u64 = 4_102_444_800;

/// EIP-712 domain in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Domain {
    name: String,
    version: String,
    chain_id: u64,
    verifying_contract: Address,
}

/// Terms of a channel in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Terms {
    payer: Address,
    payer_authorizer: Address,
    receiver: Address,
    receiver_authorizer: Address,
    token: Address,
    withdraw_delay: u64,
    salt: B256,
}

impl Domain {
    fn settlement(chain_id: u64, verifying_contract: Address) -> Self {
        Self {
            name: "x402 Batch Settlement".into(),
            version: "1".into(),
            chain_id,
            verifying_contract,
        }
    }

    fn token(name: &str, chain_id: u64, verifying_contract: Address) -> Self {
        Self {
            name: name.into(),
            version: "1".into(),
            chain_id,
            verifying_contract,
        }
    }

    fn eip712(&self) -> Eip712Domain {
        Eip712Domain::new(
            Some(self.name.clone().into()),
            Some(self.version.clone().into()),
            Some(U256::from(self.chain_id)),
            Some(self.verifying_contract),
            None,
        )
    }
}

impl Terms {
    /// Terms between the keys of the vectors, in their dollar.
    fn usual() -> Self {
        Self {
            payer: key("payer").address(),
            payer_authorizer: key("payer session").address(),
            receiver: key("receiver").address(),
            receiver_authorizer: key("receiver session").address(),
            token: DOLLAR,
            withdraw_delay: 86_400,
            salt: B256::ZERO,
        }
    }

    fn config(&self) -> Settlement::ChannelConfig {
        Settlement::ChannelConfig {
            payer: self.payer,
            payerAuthorizer: self.payer_authorizer,
            receiver: self.receiver,
            receiverAuthorizer: self.receiver_authorizer,
            token: self.token,
            withdrawDelay: U40::from(self.withdraw_delay),
            salt: self.salt,
        }
    }

    fn channel_id(&self, domain: &Domain) -> B256 {
        signing::channel_id(&domain.eip712(), &self.config())
    }
}

/// The key of that name. Published with the vectors: worth nothing.
fn key(name: &str) -> PrivateKeySigner {
    let seed = keccak256(format!("hearth vectors: {name}"));
    PrivateKeySigner::from_bytes(&seed).expect("a hash is a key but for one in 2^128")
}

fn sign(signer: &str, digest: B256) -> Bytes {
    let signature = key(signer)
        .sign_hash_sync(&digest)
        .expect("a local key signs");
    signature.as_bytes().to_vec().into()
}

/// A chain with the tokens of the vectors at their addresses.
fn chain_with_tokens(chain_id: u64) -> RevmChain {
    let mut chain = RevmChain::with_chain_id(chain_id);
    for (address, init_code) in [
        (DOLLAR, test_dollar_init()),
        (EMBER, ember_init(key("minter").address())),
    ] {
        let deployed = chain
            .send(&key("minter"), TxKind::Create, init_code)
            .created
            .expect("a token deploys");
        let code = chain.code(deployed);
        chain.place(address, code);
    }
    chain
}

fn send<C: SolCall>(chain: &mut RevmChain, from: &str, to: Address, call: &C) -> Receipt {
    chain.send(&key(from), TxKind::Call(to), call.abi_encode().into())
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../vectors")
        .join(name)
}

/// Fails where the file of that name says something else than `made`; writes it first when asked to.
fn compare<T>(name: &str, made: &T)
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let path = path(name);
    if std::env::var_os(REGENERATE).is_some() {
        let text = serde_json::to_string_pretty(made).expect("vectors are JSON");
        std::fs::write(&path, text + "\n").expect("the vectors folder can be written");
    }
    let text = std::fs::read_to_string(&path).expect("the vectors are checked in");
    let there: T = serde_json::from_str(&text).expect("the vectors have the documented form");
    assert_eq!(
        &there, made,
        "{name} is out of date: run this test with {REGENERATE}=1, look, and commit"
    );
}
