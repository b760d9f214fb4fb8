//! `eth_createAccessList`: the accounts and slots that a call would touch beyond those that are warm anyway.

use std::collections::{BTreeMap, BTreeSet};

use alloy_eips::BlockNumberOrTag;
use alloy_primitives::{Address, B256};
use alloy_rpc_types_eth::{AccessList, AccessListItem, AccessListResult};
use revm::context::result::{ExecutionResult, HaltReason};
use revm::precompile::Precompiles;
use revm::primitives::TxKind;
use revm::state::EvmState;
use serde_json::Value;

use super::call::Simulation;
use super::params::Params;
use super::reply;
use crate::embedded::{Embedded, RpcError};

/// How often a call is run again with the list that the run before it led to: gas that the list saves can lead elsewhere.
const RUNS_MAX: u32 = 8;

pub(super) fn create_access_list(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let mut simulation = Simulation::parse(chain, params, BlockNumberOrTag::Latest)?;
    let asked_for = simulation.transaction.access_list.clone();
    let mut list = AccessList::default();
    let mut runs = 1;
    loop {
        let (result, state) = simulation.run_whole(simulation.transaction.gas_limit)?;
        let touched = touched(&simulation, &asked_for, &state);
        if touched == list || runs == RUNS_MAX {
            return reply(AccessListResult {
                access_list: list,
                gas_used: alloy_primitives::U256::from(result.tx_gas_used()),
                error: failure(&result),
            });
        }
        simulation.transaction.access_list = touched.clone();
        if simulation.transaction.tx_type == 0 {
            simulation.transaction.tx_type = 1;
        }
        list = touched;
        runs += 1;
    }
}

/// What a run touched. The sender, the callee, precompiled contracts, the block's beneficiary and what the call itself
/// created are warm without a list; slots never are.
fn touched(simulation: &Simulation, asked_for: &AccessList, state: &EvmState) -> AccessList {
    let mut all: BTreeMap<Address, BTreeSet<B256>> = BTreeMap::new();
    for item in &asked_for.0 {
        let slots = all.entry(item.address).or_default();
        slots.extend(&item.storage_keys);
    }
    for (address, account) in state.iter().filter(|(_, account)| !account.is_created()) {
        let slots: BTreeSet<B256> = account.storage.keys().map(|key| B256::from(*key)).collect();
        if !slots.is_empty() || !is_warm(simulation, *address) {
            all.entry(*address).or_default().extend(slots);
        }
    }
    let items = all.into_iter().map(|(address, slots)| AccessListItem {
        address,
        storage_keys: slots.into_iter().collect(),
    });
    AccessList(items.collect())
}

fn is_warm(simulation: &Simulation, address: Address) -> bool {
    address == simulation.transaction.caller
        || simulation.transaction.kind == TxKind::Call(address)
        || address == simulation.block.beneficiary
        || Precompiles::prague().contains(&address)
}

/// Why the call fails, where it does: its list is worth something all the same.
fn failure(result: &ExecutionResult) -> Option<String> {
    match result {
        ExecutionResult::Success { .. } => None,
        ExecutionResult::Revert { .. } => Some("execution reverted".to_owned()),
        ExecutionResult::Halt {
            reason: HaltReason::OutOfGas(_),
            ..
        } => Some("out of gas".to_owned()),
        ExecutionResult::Halt { reason, .. } => Some(reason.to_string()),
    }
}
