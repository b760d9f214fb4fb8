//! What can go wrong when a chain is asked something, and what the caller may do about it.

use std::time::Duration;

use hearth_protocol::id::ChainId;

use super::revert::Revert;

/// The fate of a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The endpoint was not reachable, too slow or too busy, also after all retries. Asking again later may work.
    Retryable,
    /// The chain or its endpoint understood and said no. The same call gets the same answer.
    Refused,
    /// The endpoint serves another chain than the one expected. Nothing it says may be used.
    WrongChain,
    /// The endpoint's answer cannot be understood, is too large, or contradicts itself.
    Malformed,
}

/// A call to a chain failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// No usable answer after `attempts` tries.
    #[error(
        "{method}: no answer from the chain's endpoint after {attempts} tries ({reason}); check that it is running \
         and reachable, or name another endpoint"
    )]
    Unavailable {
        /// The JSON-RPC method.
        method: String,
        /// How many times it was tried.
        attempts: u32,
        /// What the last try met.
        reason: String,
        /// How long the endpoint asked to be left alone, if it said.
        retry_after: Option<Duration>,
    },
    /// A call or transaction reverted.
    #[error("{method}: the contract refused: {revert}")]
    Reverted {
        /// The JSON-RPC method.
        method: String,
        /// The decoded reason.
        revert: Revert,
    },
    /// `eth_getLogs` covers more than the endpoint wants to answer at once.
    #[error("{method}: the endpoint wants a narrower range of blocks: {message}")]
    RangeTooWide {
        /// The JSON-RPC method.
        method: String,
        /// The endpoint's words.
        message: String,
    },
    /// The endpoint answered with an error that repeating will not change.
    #[error("{method}: refused with code {code}: {message}")]
    Refused {
        /// The JSON-RPC method.
        method: String,
        /// The JSON-RPC error code, or the HTTP status.
        code: i64,
        /// The endpoint's words.
        message: String,
    },
    /// The endpoint serves another chain.
    #[error(
        "the endpoint serves chain {actual}, but {expected} was expected: nothing was sent; correct the \
         endpoint's address or the chain id in the configuration"
    )]
    WrongChain {
        /// The configured chain.
        expected: ChainId,
        /// What `eth_chainId` said.
        actual: ChainId,
    },
    /// The answer cannot be used.
    #[error("{method}: unusable answer from the chain's endpoint: {reason}; try another endpoint")]
    Malformed {
        /// The JSON-RPC method.
        method: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The HTTP client could not be set up.
    #[error("the HTTP client for the chain's endpoint could not be set up: {reason}")]
    Setup {
        /// What failed.
        reason: String,
    },
}

impl ChainError {
    /// What the caller may do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } => ErrorKind::Retryable,
            Self::Reverted { .. }
            | Self::RangeTooWide { .. }
            | Self::Refused { .. }
            | Self::Setup { .. } => ErrorKind::Refused,
            Self::WrongChain { .. } => ErrorKind::WrongChain,
            Self::Malformed { .. } => ErrorKind::Malformed,
        }
    }

    /// Whether asking again later may work.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind() == ErrorKind::Retryable
    }

    /// An answer to `method` that cannot be used.
    pub(crate) fn malformed(method: &str, reason: impl Into<String>) -> Self {
        Self::Malformed {
            method: method.to_owned(),
            reason: reason.into(),
        }
    }
}
