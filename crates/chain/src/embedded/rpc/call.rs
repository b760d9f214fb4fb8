//! `eth_call` and `eth_estimateGas`: the EVM on a state that nothing is kept of.
//!
//! A call on the newest block runs at the chain's present time, not at the newest block's: blocks are made only
//! when there is something to mine, so the newest can be hours old, and a transaction sent now would run now.

use std::sync::Arc;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_rpc_types_eth::TransactionRequest;
use alloy_rpc_types_eth::state::{AccountOverride, StateOverride};
use revm::DatabaseRef;
use revm::bytecode::Bytecode;
use revm::context::result::{EVMError, ExecutionResult, HaltReason};
use revm::context::{BlockEnv, TxEnv};
use revm::context_interface::either::Either;
use revm::database::CacheDB;
use revm::state::EvmState;
use serde_json::Value;

use super::params::{Params, quantity, resolve_required};
use super::reply;
use crate::embedded::execute::{block_env, describe_invalid, simulate};
use crate::embedded::limits::{CALL_GAS_CAP, MAX_OVERRIDE_ACCOUNTS};
use crate::embedded::store::{StateAt, StoreError};
use crate::embedded::{Embedded, RpcError};

/// An estimate this close above the least gas that works is good enough, in thousandths; public clients use
/// the same.
const ESTIMATE_TOLERANCE_PER_MILLE: u64 = 15;
/// Gas of a transfer of native coin to an account without code.
const TRANSFER_GAS: u64 = 21_000;
/// Gas that a call with value hands to its callee on top.
const CALL_STIPEND: u64 = 2_300;

/// A call with the state and block that it runs on.
pub(super) struct Simulation {
    chain_id: u64,
    state: CacheDB<StateAt>,
    pub(super) block: BlockEnv,
    pub(super) transaction: TxEnv,
}

impl Simulation {
    pub(super) fn parse(
        chain: &Embedded,
        params: &Params,
        default_block: BlockNumberOrTag,
    ) -> Result<Self, RpcError> {
        let request: TransactionRequest = params.required(0, "transaction")?;
        let block: BlockId = params.optional(1, "block")?.unwrap_or(default_block.into());
        let overrides: StateOverride = params.optional(2, "state override")?.unwrap_or_default();
        if params.optional::<Value>(3, "block override")?.is_some() {
            return Err(RpcError::invalid_params(
                "block overrides are not supported; leave the fourth argument out",
            ));
        }
        let head = chain.shared().head()?;
        let number = resolve_required(&head, block)?;
        let header = head
            .header(number)?
            .ok_or(StoreError::Damaged { table: "headers" })?;
        let newest = number == head.head().number;
        let timestamp = if newest {
            chain.shared().now_s().max(header.timestamp)
        } else {
            header.timestamp
        };
        let pending = block == BlockId::Number(BlockNumberOrTag::Pending);
        let mut env = block_env(
            number.saturating_add(u64::from(pending)),
            timestamp,
            header.mix_hash,
        );
        env.gas_limit = CALL_GAS_CAP;
        let mut state = CacheDB::new(StateAt::new(Arc::clone(&head), number));
        apply_overrides(&mut state, overrides)?;
        check_chain(&request, chain.chain_id())?;
        check_type(&request)?;
        let transaction = call_env(&request, &state)?;
        Ok(Self {
            chain_id: chain.chain_id(),
            state,
            block: env,
            transaction,
        })
    }

    fn run(&mut self, gas_limit: u64) -> Result<ExecutionResult, RpcError> {
        self.run_whole(gas_limit).map(|(result, _)| result)
    }

    /// Runs the call, and says what of the state it touched.
    pub(super) fn run_whole(
        &mut self,
        gas_limit: u64,
    ) -> Result<(ExecutionResult, EvmState), RpcError> {
        let transaction = TxEnv {
            gas_limit,
            ..self.transaction.clone()
        };
        let outcome = simulate(
            &mut self.state,
            self.chain_id,
            self.block.clone(),
            transaction,
        );
        outcome.map_err(|error| match error {
            EVMError::Transaction(invalid) => RpcError::rejected(describe_invalid(&invalid)),
            EVMError::Database(error) => error.into(),
            other => RpcError::rejected(other.to_string()),
        })
    }

    /// Whether the call succeeds with this much gas; an error for a reason that more gas does not cure.
    fn succeeds(&mut self, gas_limit: u64) -> Result<bool, RpcError> {
        Ok(self.run(gas_limit).is_ok_and(|result| result.is_success()))
    }
}

pub(super) fn call(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let mut simulation = Simulation::parse(chain, params, BlockNumberOrTag::Latest)?;
    let gas = simulation.transaction.gas_limit;
    let output = success(simulation.run(gas)?, gas)?;
    reply(output)
}

/// The output of a call, or what public clients answer where there is none.
fn success(result: ExecutionResult, gas: u64) -> Result<Bytes, RpcError> {
    match result {
        ExecutionResult::Success { output, .. } => Ok(output.into_data()),
        ExecutionResult::Revert { output, .. } => Err(RpcError::reverted(&output)),
        ExecutionResult::Halt {
            reason: HaltReason::OutOfGas(_),
            ..
        } => Err(RpcError::rejected(format!(
            "out of gas: {gas} gas was not enough (the most is {CALL_GAS_CAP})"
        ))),
        ExecutionResult::Halt { reason, .. } => Err(RpcError::rejected(reason.to_string())),
    }
}

pub(super) fn estimate_gas(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let mut simulation = Simulation::parse(chain, params, BlockNumberOrTag::Latest)?;
    let cap = simulation.transaction.gas_limit;
    if is_plain_transfer(&simulation)?
        && cap >= TRANSFER_GAS
        && simulation.succeeds(TRANSFER_GAS)?
    {
        return reply(quantity(TRANSFER_GAS));
    }
    let result = simulation.run(cap)?;
    let spent = result.gas().total_gas_spent();
    let used = result.tx_gas_used();
    success(result, cap)?;
    let mut too_low = used.saturating_sub(1);
    let mut enough = cap;
    // Most calls need what they spent, plus the part that EIP-150 keeps back from inner calls.
    let likely = spent.saturating_add(CALL_STIPEND).saturating_mul(64) / 63;
    if likely < enough && likely > too_low {
        if simulation.succeeds(likely)? {
            enough = likely;
        } else {
            too_low = likely;
        }
    }
    while too_low.saturating_add(1) < enough {
        let gap = enough.saturating_sub(too_low);
        if gap.saturating_mul(1_000) / enough < ESTIMATE_TOLERANCE_PER_MILLE {
            break;
        }
        let middle = too_low
            .saturating_add(gap / 2)
            .min(too_low.saturating_mul(2).max(1));
        if simulation.succeeds(middle)? {
            enough = middle;
        } else {
            too_low = middle;
        }
    }
    reply(quantity(enough))
}

fn is_plain_transfer(simulation: &Simulation) -> Result<bool, RpcError> {
    let TxKind::Call(to) = simulation.transaction.kind else {
        return Ok(false);
    };
    let plain = simulation.transaction.data.is_empty()
        && simulation.transaction.access_list.is_empty()
        && simulation.transaction.authorization_list.is_empty();
    let codeless = simulation
        .state
        .basic_ref(to)?
        .is_none_or(|account| account.is_empty_code_hash());
    Ok(plain && codeless)
}

/// Refuses a call that is meant for another chain: its answer would be about this one.
fn check_chain(request: &TransactionRequest, chain_id: u64) -> Result<(), RpcError> {
    match request.chain_id {
        Some(meant) if meant != chain_id => Err(RpcError::invalid_params(format!(
            "chainId does not match node's (have={meant}, want={chain_id})"
        ))),
        _ => Ok(()),
    }
}

/// Refuses a call of a type that this chain does not have, or whose fields are those of another one.
fn check_type(request: &TransactionRequest) -> Result<(), RpcError> {
    let Some(kind) = request.transaction_type else {
        return Ok(());
    };
    let has_newer_fees =
        request.max_fee_per_gas.is_some() || request.max_priority_fee_per_gas.is_some();
    let has_list = request
        .access_list
        .as_ref()
        .is_some_and(|list| !list.0.is_empty());
    let strange = [
        (request.gas_price.is_some(), "gasPrice", &[0, 1][..]),
        (
            has_newer_fees,
            "maxFeePerGas or maxPriorityFeePerGas",
            &[2, 4],
        ),
        (has_list, "accessList", &[1, 2, 4]),
        (
            request.authorization_list.is_some(),
            "authorizationList",
            &[4],
        ),
    ];
    if !matches!(kind, 0 | 1 | 2 | 4) {
        return Err(RpcError::invalid_params(format!(
            "transaction type not supported: {kind:#x}; this chain has 0x0, 0x1, 0x2 and 0x4"
        )));
    }
    let found = strange
        .iter()
        .find(|(is_there, _, kinds)| *is_there && !kinds.contains(&kind));
    match found {
        Some((_, field, _)) => Err(RpcError::invalid_params(format!(
            "a transaction of type {kind:#x} has no {field}"
        ))),
        None if kind == 4 && request.authorization_list.is_none() => Err(RpcError::invalid_params(
            "a transaction of type 0x4 has an authorizationList",
        )),
        None => Ok(()),
    }
}

/// What the EVM needs of a call; fees are left at zero, as for transactions.
fn call_env(request: &TransactionRequest, state: &CacheDB<StateAt>) -> Result<TxEnv, RpcError> {
    if request.blob_versioned_hashes.is_some() || request.max_fee_per_blob_gas.is_some() {
        return Err(RpcError::invalid_params(
            "blob transactions are not supported: this chain has no blobs",
        ));
    }
    let has_newer_fees =
        request.max_fee_per_gas.is_some() || request.max_priority_fee_per_gas.is_some();
    if request.gas_price.is_some() && has_newer_fees {
        return Err(RpcError::invalid_params(
            "both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified",
        ));
    }
    if request.input.input.is_some()
        && request.input.data.is_some()
        && request.input.input != request.input.data
    {
        return Err(RpcError::invalid_params(
            "both \"data\" and \"input\" are set and not equal; use \"input\"",
        ));
    }
    let caller = request.from.unwrap_or(Address::ZERO);
    let nonce = match request.nonce {
        Some(nonce) => nonce,
        None => state.basic_ref(caller)?.map_or(0, |account| account.nonce),
    };
    let authorizations = request.authorization_list.clone().unwrap_or_default();
    let access_list = request.access_list.clone().unwrap_or_default();
    let tx_type = match (authorizations.is_empty(), access_list.is_empty()) {
        (false, _) => 4,
        (true, false) => 1,
        (true, true) => 0,
    };
    Ok(TxEnv {
        tx_type,
        caller,
        gas_limit: request.gas.unwrap_or(CALL_GAS_CAP).min(CALL_GAS_CAP),
        kind: request.to.unwrap_or(TxKind::Create),
        value: request.value.unwrap_or_default(),
        data: request.input.input().cloned().unwrap_or_default(),
        nonce,
        access_list,
        authorization_list: authorizations.into_iter().map(Either::Left).collect(),
        ..TxEnv::default()
    })
}

fn apply_overrides(state: &mut CacheDB<StateAt>, overrides: StateOverride) -> Result<(), RpcError> {
    if overrides.len() > MAX_OVERRIDE_ACCOUNTS {
        let text = format!(
            "invalid argument 2 (state override): at most {MAX_OVERRIDE_ACCOUNTS} accounts"
        );
        return Err(RpcError::invalid_params(text));
    }
    for (address, change) in overrides {
        override_account(state, address, change)?;
    }
    Ok(())
}

fn override_account(
    state: &mut CacheDB<StateAt>,
    address: Address,
    change: AccountOverride,
) -> Result<(), RpcError> {
    if change.move_precompile_to.is_some() {
        return Err(RpcError::invalid_params(
            "movePrecompileToAddress is not supported",
        ));
    }
    let mut info = state.basic_ref(address)?.unwrap_or_default();
    info.balance = change.balance.unwrap_or(info.balance);
    info.nonce = change.nonce.unwrap_or(info.nonce);
    if let Some(code) = change.code {
        let code = Bytecode::new_raw_checked(code)
            .map_err(|error| RpcError::invalid_params(error.to_string()))?;
        info = info.with_code(code);
    }
    // Inserting an account marks one that did not exist as existing, so that its slots are looked up below.
    state.insert_account_info(address, info);
    let word =
        |(key, value): (B256, B256)| (U256::from_be_bytes(key.0), U256::from_be_bytes(value.0));
    match (change.state, change.state_diff) {
        (Some(_), Some(_)) => Err(RpcError::invalid_params(format!(
            "account {address} has both 'state' and 'stateDiff'"
        ))),
        (Some(all), None) => {
            Ok(state.replace_account_storage(address, all.into_iter().map(word).collect())?)
        }
        (None, some) => {
            for (key, value) in some.into_iter().flatten().map(word) {
                state.insert_account_storage(address, key, value)?;
            }
            Ok(())
        }
    }
}
