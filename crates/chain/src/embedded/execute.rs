//! The rules of the chain: transactions and a state in, a block and changes out.
//!
//! Everything here is a function of its arguments: no store, no clock, no threads. revm executes by the
//! rules of Prague with one difference, which is that gas costs nothing: whatever fee a transaction
//! offers, it runs at price zero, so an account without native coin can use every contract
//! (spec: 05 embedded chain, section 3). Blob transactions are refused before they come here.

use alloy_consensus::transaction::Recovered;
use alloy_consensus::{Header, Sealed, Transaction, TxEnvelope, Typed2718};
use alloy_primitives::{B256, Bytes, U256};
use revm::context::result::{EVMError, ExecutionResult, InvalidTransaction};
use revm::context::{BlockEnv, CfgEnv, TxEnv};
use revm::context_interface::either::Either;
use revm::database::CacheDB;
use revm::handler::{MainnetContext, MainnetEvm};
use revm::primitives::hardfork::SpecId;
use revm::state::{AccountInfo, EvmState};
use revm::{Context, Database, DatabaseCommit, DatabaseRef, ExecuteEvm, MainBuilder, MainContext};

use super::block::{
    AccountState, BlockBody, ExecutedBlock, MinedTransaction, StateChanges, prevrandao, seal,
};
use super::limits::{BLOCK_GAS_LIMIT, MAX_BLOCK_TRANSACTIONS};

/// Rules of execution. Prague has transient storage (EIP-1153), which the settlement contract needs.
const SPEC: SpecId = SpecId::PRAGUE;

/// What became of a transaction offered to a [`BlockBuilder`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// It is in the block, whether it succeeded or reverted.
    Included,
    /// The block has no room for it; it may go into the next.
    Full,
    /// It can be in no block that follows this state; nothing changed.
    Invalid(String),
}

/// A block in the making.
pub(crate) struct BlockBuilder<D: DatabaseRef> {
    evm: MainnetEvm<MainnetContext<CacheDB<D>>>,
    parent: Sealed<Header>,
    timestamp: u64,
    gas_used: u64,
    log_count: u64,
    body: BlockBody,
}

impl<D: DatabaseRef> BlockBuilder<D> {
    /// An empty child of `parent` at `timestamp` (Unix seconds) over `state`, the state after `parent`.
    pub(crate) fn new(state: D, chain_id: u64, parent: Sealed<Header>, timestamp: u64) -> Self {
        let block = block_env(
            parent.number.saturating_add(1),
            timestamp,
            prevrandao(parent.hash()),
        );
        let evm = Context::mainnet()
            .with_db(CacheDB::new(state))
            .with_cfg(rules(chain_id))
            .with_block(block)
            .build_mainnet();
        Self {
            evm,
            parent,
            timestamp,
            gas_used: 0,
            log_count: 0,
            body: BlockBody::default(),
        }
    }

    /// Executes `transaction` on top of those already in the block.
    pub(crate) fn apply(
        &mut self,
        hash: B256,
        transaction: &Recovered<TxEnvelope>,
        raw: &Bytes,
    ) -> Result<Applied, D::Error> {
        let gas_left = BLOCK_GAS_LIMIT.saturating_sub(self.gas_used);
        if transaction.gas_limit() > gas_left
            || self.body.transactions.len() >= MAX_BLOCK_TRANSACTIONS
        {
            return Ok(Applied::Full);
        }
        let outcome = match self.evm.transact(transaction_env(transaction)) {
            Ok(outcome) => outcome,
            Err(EVMError::Database(error)) => return Err(error),
            Err(EVMError::Transaction(invalid)) => {
                return Ok(Applied::Invalid(describe_invalid(&invalid)));
            }
            Err(error) => return Ok(Applied::Invalid(error.to_string())),
        };
        let state = &mut self.evm.ctx.journaled_state.database;
        absorb(&mut self.body.changes, state, &outcome.state)?;
        state.commit(outcome.state);
        self.record(hash, transaction, raw, outcome.result);
        Ok(Applied::Included)
    }

    fn record(
        &mut self,
        hash: B256,
        transaction: &Recovered<TxEnvelope>,
        raw: &Bytes,
        result: ExecutionResult,
    ) {
        let gas_used = result.tx_gas_used();
        self.gas_used = self.gas_used.saturating_add(gas_used);
        let success = result.is_success();
        let logs = if success {
            result.into_logs()
        } else {
            Vec::new()
        };
        let first_log_index = self.log_count;
        self.log_count = self.log_count.saturating_add(logs.len() as u64);
        let mined = MinedTransaction {
            sender: transaction.signer(),
            raw: raw.clone(),
            success,
            gas_used,
            cumulative_gas_used: self.gas_used,
            first_log_index,
            logs,
        };
        self.body.transactions.push((hash, mined));
        self.body.envelopes.push(transaction.inner().clone());
    }

    /// The finished block.
    pub(crate) fn seal(self) -> ExecutedBlock {
        seal(&self.parent, self.timestamp, self.body)
    }
}

/// Adds to `changes` what a transaction's outcome changes of `before`.
pub(crate) fn absorb<S: Database>(
    changes: &mut StateChanges,
    before: &mut S,
    outcome: &EvmState,
) -> Result<(), S::Error> {
    for (address, account) in outcome {
        if !account.is_touched() {
            continue;
        }
        let previous = before
            .basic(*address)?
            .as_ref()
            .map_or(AccountState::EMPTY, account_state);
        let gone = account.is_selfdestructed();
        let now = if gone {
            AccountState::EMPTY
        } else {
            account_state(&account.info)
        };
        if now != previous {
            changes.accounts.insert(*address, now);
        }
        if gone {
            continue;
        }
        for (key, slot) in account.changed_storage_slots() {
            changes
                .storage
                .insert((*address, *key), slot.present_value());
        }
        if now.code_hash != previous.code_hash
            && let Some(code) = &account.info.code
        {
            changes.code.insert(now.code_hash, code.original_bytes());
        }
    }
    Ok(())
}

fn account_state(info: &AccountInfo) -> AccountState {
    AccountState {
        nonce: info.nonce,
        balance: info.balance,
        code_hash: info.code_hash,
    }
}

/// Executes a transaction that nobody signed, on `state`, and returns its result and what it would change.
///
/// Nonce, sender's code and chain id are not checked, as for `eth_call` of public clients.
pub(crate) fn simulate<D: DatabaseRef>(
    state: &mut CacheDB<D>,
    chain_id: u64,
    block: BlockEnv,
    transaction: TxEnv,
) -> Result<(ExecutionResult, EvmState), EVMError<D::Error>> {
    let mut rules = rules(chain_id);
    rules.disable_nonce_check = true;
    rules.disable_eip3607 = true;
    rules.tx_chain_id_check = false;
    let mut evm = Context::mainnet()
        .with_db(state)
        .with_cfg(rules)
        .with_block(block)
        .build_mainnet();
    let outcome = evm.transact(transaction)?;
    Ok((outcome.result, outcome.state))
}

/// The environment of a block.
pub(crate) fn block_env(number: u64, timestamp: u64, prevrandao: B256) -> BlockEnv {
    let mut block = BlockEnv {
        number: U256::from(number),
        timestamp: U256::from(timestamp),
        gas_limit: BLOCK_GAS_LIMIT,
        basefee: 0,
        prevrandao: Some(prevrandao),
        ..BlockEnv::default()
    };
    block.set_blob_excess_gas_and_price(
        0,
        revm::primitives::eip4844::BLOB_BASE_FEE_UPDATE_FRACTION_PRAGUE,
    );
    block
}

fn rules(chain_id: u64) -> CfgEnv {
    CfgEnv::new_with_spec(SPEC).with_chain_id(chain_id)
}

/// What the EVM needs of a signed transaction; every fee is left at zero.
fn transaction_env(transaction: &Recovered<TxEnvelope>) -> TxEnv {
    let authorizations = transaction.authorization_list().unwrap_or_default();
    TxEnv {
        tx_type: transaction.ty(),
        caller: transaction.signer(),
        gas_limit: transaction.gas_limit(),
        kind: transaction.kind(),
        value: transaction.value(),
        data: transaction.input().clone(),
        nonce: transaction.nonce(),
        chain_id: transaction.chain_id(),
        access_list: transaction.access_list().cloned().unwrap_or_default(),
        authorization_list: authorizations.iter().cloned().map(Either::Left).collect(),
        ..TxEnv::default()
    }
}

/// An invalid transaction in the words that libraries look for in the error of a public client.
pub(crate) fn describe_invalid(invalid: &InvalidTransaction) -> String {
    match invalid {
        InvalidTransaction::LackOfFundForMaxFee { fee, balance } => format!(
            "insufficient funds for gas * price + value: balance {balance}, tx cost {fee}; gas is free on this chain, \
             so only the value counts: lower it or fund the account"
        ),
        InvalidTransaction::NonceTooLow { tx, state } => {
            format!("nonce too low: next nonce {state}, tx nonce {tx}")
        }
        InvalidTransaction::NonceTooHigh { tx, state } => {
            format!("nonce too high: next nonce {state}, tx nonce {tx}")
        }
        InvalidTransaction::CallGasCostMoreThanGasLimit {
            initial_gas,
            gas_limit,
        } => {
            format!("intrinsic gas too low: gas {gas_limit}, minimum needed {initial_gas}")
        }
        InvalidTransaction::GasFloorMoreThanGasLimit {
            gas_floor,
            gas_limit,
        } => {
            format!(
                "intrinsic gas too low: gas {gas_limit}, minimum needed {gas_floor} (floor of the call data)"
            )
        }
        InvalidTransaction::CallerGasLimitMoreThanBlock => {
            format!("exceeds block gas limit: the limit is {BLOCK_GAS_LIMIT}")
        }
        InvalidTransaction::CreateInitCodeSizeLimit => "max initcode size exceeded".to_owned(),
        InvalidTransaction::RejectCallerWithCode => {
            "sender not an eoa: it has contract code".to_owned()
        }
        other => other.to_string(),
    }
}
