//! Errors of the embedded chain: of opening it, and of one JSON-RPC request.
//!
//! Codes and texts of requests follow what public clients send, because libraries tell cases apart by them
//! (spec: 05 embedded chain, section 11).

use alloy_primitives::Bytes;
use alloy_sol_types::{Panic, Revert, SolError};
use serde_json::Value;

use super::genesis::GenesisError;
use super::store::StoreError;

/// Why the chain cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open, or this one twice.
    #[error("the chain is open in another process; stop that one, or use its RPC address instead")]
    Busy,
    /// The store was made for another chain.
    #[error(
        "the store holds chain {found}, not {wanted}; use another data folder, or chain id {found}"
    )]
    OtherChain {
        /// The id in the store.
        found: u64,
        /// The id asked for.
        wanted: u64,
    },
    /// The genesis given cannot be executed.
    #[error("the genesis block cannot be made")]
    Genesis(#[from] GenesisError),
    /// The store cannot be read or written.
    #[error("the chain's store cannot be opened")]
    Store(#[from] StoreError),
    /// The file cannot be created or opened.
    #[error("the chain's file cannot be opened; check the path and its permissions")]
    File(#[source] Box<redb::DatabaseError>),
    /// The file system refused.
    #[error("the chain's file cannot be made; check that its folder exists and can be written")]
    Path(#[source] std::io::Error),
    /// The operating system gave no thread.
    #[error("the sequencer's thread cannot be started")]
    Thread(#[source] std::io::Error),
}

impl From<redb::DatabaseError> for OpenError {
    fn from(error: redb::DatabaseError) -> Self {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Self::Busy,
            other => Self::File(Box::new(other)),
        }
    }
}

/// The error object of a JSON-RPC reply.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct RpcError {
    /// What kind of error, as public clients number them.
    pub code: i64,
    /// What went wrong and what to do.
    pub message: String,
    /// Output of a revert as hex, where there is one.
    pub data: Option<Value>,
}

impl RpcError {
    /// The body is not JSON.
    pub const PARSE: i64 = -32_700;
    /// The body is JSON but not a request.
    pub const INVALID_REQUEST: i64 = -32_600;
    /// No such method.
    pub const METHOD_NOT_FOUND: i64 = -32_601;
    /// The parameters do not fit the method.
    pub const INVALID_PARAMS: i64 = -32_602;
    /// The chain failed, not the request.
    pub const INTERNAL: i64 = -32_603;
    /// The request was understood and refused.
    pub const REJECTED: i64 = -32_000;
    /// A bound of the chain was met; a smaller or later request can succeed.
    pub const LIMIT_EXCEEDED: i64 = -32_005;
    /// A call reverted; `data` holds its output.
    pub const REVERTED: i64 = 3;

    pub(crate) fn new(code: i64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
        }
    }

    pub(crate) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(Self::INVALID_PARAMS, message)
    }

    pub(crate) fn rejected(message: impl Into<String>) -> Self {
        Self::new(Self::REJECTED, message)
    }

    pub(crate) fn limit_exceeded(message: impl Into<String>) -> Self {
        Self::new(Self::LIMIT_EXCEEDED, message)
    }

    pub(crate) fn closed() -> Self {
        Self::new(Self::INTERNAL, "the chain is closed; start it again")
    }

    pub(crate) fn reverted(output: &Bytes) -> Self {
        let message = match (Revert::abi_decode(output), Panic::abi_decode(output)) {
            (Ok(revert), _) => format!("execution reverted: {}", revert.reason),
            (_, Ok(panic)) => format!("execution reverted: {panic}"),
            _ => "execution reverted".to_owned(),
        };
        Self {
            code: Self::REVERTED,
            message,
            data: Some(Value::String(output.to_string())),
        }
    }

    pub(crate) fn from_store(error: &StoreError) -> Self {
        Self::new(Self::INTERNAL, error.to_string())
    }
}

impl From<StoreError> for RpcError {
    fn from(error: StoreError) -> Self {
        Self::from_store(&error)
    }
}
