//! Parameters: parsed once, at the door, into types that cannot be wrong.

use std::sync::Arc;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{U64, U256};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::embedded::RpcError;
use crate::embedded::store::Snapshot;

/// More than any method takes.
const MAX_PARAMS: usize = 8;

/// The positional parameters of a request.
#[derive(Debug)]
pub(super) struct Params(Vec<Value>);

impl Params {
    /// Absent and `null` parameters are an empty list; anything but a list is refused.
    pub(super) fn new(params: Value) -> Result<Self, RpcError> {
        match params {
            Value::Null => Ok(Self(Vec::new())),
            Value::Array(values) if values.len() <= MAX_PARAMS => Ok(Self(values)),
            Value::Array(_) => Err(RpcError::invalid_params(format!(
                "too many arguments, want at most {MAX_PARAMS}"
            ))),
            _ => Err(RpcError::invalid_params("parameters must be a list")),
        }
    }

    /// All of them, as they came.
    pub(super) fn all(&self) -> &[Value] {
        &self.0
    }

    /// Parameter number `index`, called `name` in errors.
    pub(super) fn required<T: DeserializeOwned>(
        &self,
        index: usize,
        name: &str,
    ) -> Result<T, RpcError> {
        self.optional(index, name)?.ok_or_else(|| {
            RpcError::invalid_params(format!(
                "missing value for required argument {index} ({name})"
            ))
        })
    }

    /// Parameter number `index`; `None` if it is absent or `null`.
    pub(super) fn optional<T: DeserializeOwned>(
        &self,
        index: usize,
        name: &str,
    ) -> Result<Option<T>, RpcError> {
        match self.0.get(index) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|error| {
                RpcError::invalid_params(format!("invalid argument {index} ({name}): {error}"))
            }),
        }
    }

    /// A block, the newest if none is given.
    pub(super) fn block(&self, index: usize) -> Result<BlockId, RpcError> {
        Ok(self.optional(index, "block")?.unwrap_or(BlockId::latest()))
    }

    /// A number written as a hex quantity, as a decimal string or as a JSON number.
    pub(super) fn number(&self, index: usize, name: &str) -> Result<Option<u64>, RpcError> {
        let number: Option<U256> = match self.0.get(index) {
            Some(Value::Number(number)) => number.as_u64().map(U256::from),
            _ => self.optional(index, name)?,
        };
        number
            .map(|number| {
                u64::try_from(number).map_err(|_| {
                    RpcError::invalid_params(format!(
                        "invalid argument {index} ({name}): too large"
                    ))
                })
            })
            .transpose()
    }
}

/// A number as JSON-RPC writes it.
pub(super) fn quantity(number: u64) -> U64 {
    U64::from(number)
}

/// The number of the block meant; `None` if there is none such. Nothing is ever reorganised, so `safe` and `finalized`
/// are the newest block, and so is `pending`: what waits has no block.
pub(super) fn resolve(head: &Arc<Snapshot>, block: BlockId) -> Result<Option<u64>, RpcError> {
    let newest = head.head().number;
    let number = match block {
        BlockId::Hash(hash) => return Ok(head.block_number(hash.block_hash)?),
        BlockId::Number(tag) => resolve_tag(newest, tag),
    };
    Ok((number <= newest).then_some(number))
}

/// The number that a tag means when `newest` is the newest block.
pub(super) fn resolve_tag(newest: u64, tag: BlockNumberOrTag) -> u64 {
    match tag {
        BlockNumberOrTag::Number(number) => number,
        BlockNumberOrTag::Earliest => 0,
        _ => newest,
    }
}

/// As [`resolve`], for methods that cannot go on without the block.
pub(super) fn resolve_required(head: &Arc<Snapshot>, block: BlockId) -> Result<u64, RpcError> {
    resolve(head, block)?
        .ok_or_else(|| RpcError::rejected("header not found: the chain has no such block"))
}
