//! Accounts and storage, at any block: state rows are versioned, so old blocks answer like the newest.

use std::sync::Arc;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, B256, U256};
use serde_json::Value;

use super::params::{Params, quantity, resolve_required};
use super::reply;
use crate::embedded::store::StateAt;
use crate::embedded::{Embedded, RpcError};

fn state_at(chain: &Embedded, block: BlockId) -> Result<StateAt, RpcError> {
    let head = chain.shared().head()?;
    let number = resolve_required(&head, block)?;
    Ok(StateAt::new(Arc::clone(&head), number))
}

pub(super) fn balance(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let address: Address = params.required(0, "address")?;
    reply(state_at(chain, params.block(1)?)?.account(address)?.balance)
}

pub(super) fn transaction_count(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let address: Address = params.required(0, "address")?;
    let block = params.block(1)?;
    if block != BlockId::Number(BlockNumberOrTag::Pending) {
        return reply(quantity(state_at(chain, block)?.account(address)?.nonce));
    }
    // The pool is held while the head is read: what leaves the pool is in a block that was published before.
    let pool = chain.shared().pool();
    let nonce = state_at(chain, block)?.account(address)?.nonce;
    reply(quantity(pool.next_nonce(address, nonce)))
}

pub(super) fn code(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let address: Address = params.required(0, "address")?;
    reply(state_at(chain, params.block(1)?)?.code_of(address)?)
}

pub(super) fn storage_at(chain: &Embedded, params: &Params) -> Result<Value, RpcError> {
    let address: Address = params.required(0, "address")?;
    let key: U256 = params.required(1, "storage key")?;
    let value = state_at(chain, params.block(2)?)?.slot(address, key)?;
    reply(B256::from(value))
}
