//! `eth_sendRawTransaction`: everything about a transaction that needs no state is checked here, on the caller's
//! thread, so that the sequencer recovers no signatures.

use alloy_consensus::transaction::SignerRecoverable;
use alloy_consensus::{Transaction, TxEnvelope};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::Bytes;
use revm::context_interface::cfg::gas::calculate_initial_tx_gas;
use revm::primitives::eip3860::MAX_INITCODE_SIZE;
use revm::primitives::hardfork::SpecId;
use serde_json::Value;

use super::params::Params;
use super::reply;
use crate::embedded::limits::{BLOCK_GAS_LIMIT, MAX_TRANSACTION_BYTES};
use crate::embedded::sequencer::Command;
use crate::embedded::{Embedded, RpcError};

pub(super) fn send_raw(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let raw: Bytes = params.required(0, "transaction")?;
    let envelope = decode(&raw)?;
    check(&envelope, chain.chain_id())?;
    let transaction = envelope
        .try_into_recovered()
        .map_err(|_| RpcError::rejected("invalid sender: the signature recovers to no account"))?;
    let transaction = Box::new(transaction);
    reply(chain.ask(|reply| Command::Submit {
        transaction,
        raw,
        reply,
    })?)
}

fn decode(raw: &Bytes) -> Result<TxEnvelope, RpcError> {
    if raw.len() > MAX_TRANSACTION_BYTES {
        return Err(RpcError::rejected(format!(
            "oversized data: transaction size {}, limit {MAX_TRANSACTION_BYTES}",
            raw.len()
        )));
    }
    TxEnvelope::decode_2718_exact(raw).map_err(|error| {
        RpcError::invalid_params(format!("invalid argument 0 (transaction): {error}"))
    })
}

fn check(envelope: &TxEnvelope, chain_id: u64) -> Result<(), RpcError> {
    if envelope.is_eip4844() {
        return Err(RpcError::rejected(
            "transaction type not supported: this chain has no blobs",
        ));
    }
    match envelope.chain_id() {
        None => {
            return Err(RpcError::rejected(
                "only replay-protected (EIP-155) transactions allowed over RPC; sign with the chain id",
            ));
        }
        Some(found) if found != chain_id => {
            return Err(RpcError::rejected(format!(
                "invalid chain id for signer: have {found} want {chain_id}"
            )));
        }
        Some(_) => {}
    }
    if envelope.gas_limit() > BLOCK_GAS_LIMIT {
        return Err(RpcError::rejected(format!(
            "exceeds block gas limit: transaction gas {}, limit {BLOCK_GAS_LIMIT}",
            envelope.gas_limit()
        )));
    }
    if envelope
        .max_priority_fee_per_gas()
        .is_some_and(|tip| tip > envelope.max_fee_per_gas())
    {
        return Err(RpcError::rejected(
            "max priority fee per gas higher than max fee per gas",
        ));
    }
    if envelope.is_create() && envelope.input().len() > MAX_INITCODE_SIZE {
        return Err(RpcError::rejected(format!(
            "max initcode size exceeded: code size {}, limit {MAX_INITCODE_SIZE}",
            envelope.input().len()
        )));
    }
    check_intrinsic_gas(envelope)
}

fn check_intrinsic_gas(envelope: &TxEnvelope) -> Result<(), RpcError> {
    let access_list = envelope
        .access_list()
        .map(|list| list.0.as_slice())
        .unwrap_or_default();
    let slots = access_list
        .iter()
        .map(|item| item.storage_keys.len() as u64)
        .sum();
    let authorizations = envelope
        .authorization_list()
        .map_or(0, |list| list.len() as u64);
    let needed = calculate_initial_tx_gas(
        SpecId::PRAGUE,
        envelope.input(),
        envelope.is_create(),
        access_list.len() as u64,
        slots,
        authorizations,
        None,
    );
    let minimum = needed.initial_regular_gas.max(needed.floor_gas);
    if envelope.gas_limit() < minimum {
        return Err(RpcError::rejected(format!(
            "intrinsic gas too low: gas {}, minimum needed {minimum}",
            envelope.gas_limit()
        )));
    }
    Ok(())
}
