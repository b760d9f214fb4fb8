//! Why a ledger could not be found, read or changed.

use alloy_primitives::Address;
use hearth_protocol::id::ChainId;
use thiserror::Error;

use super::refusal::LedgerRefusal;
use crate::client::ChainError;
use crate::sender::SendError;

/// Something about a ledger failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The chain could not be asked.
    #[error(transparent)]
    Chain(ChainError),
    /// A contract said no: nothing was done.
    #[error(transparent)]
    Refused(Box<LedgerRefusal>),
    /// The transaction was not sent, or did nothing.
    #[error(transparent)]
    Send(Box<SendError>),
    /// Nothing is at the address.
    #[error("chain {chain} has no ledger: no contract stands at {address}")]
    Missing {
        /// The chain.
        chain: ChainId,
        /// Where the contract should be.
        address: Address,
    },
    /// Something else is at the address, or the contracts do not belong together.
    #[error("chain {chain} has another contract at {address}: {difference}")]
    Another {
        /// The chain.
        chain: ChainId,
        /// Where the contract should be.
        address: Address,
        /// What differs.
        difference: String,
    },
    /// The contract says what cannot be, so that nothing is built upon it.
    #[error("the ledger on chain {chain} contradicts itself: {difference}")]
    Contradiction {
        /// The chain.
        chain: ChainId,
        /// What does not fit.
        difference: String,
    },
}

impl LedgerError {
    /// What the contract said, where it refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&LedgerRefusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the same may work later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Chain(error) => error.is_retryable(),
            Self::Send(error) => matches!(
                **error,
                SendError::QueueFull | SendError::DeadlinePassed | SendError::Stopped
            ),
            _ => false,
        }
    }
}

impl From<ChainError> for LedgerError {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::Reverted { revert, .. } => {
                Self::Refused(Box::new(LedgerRefusal::of(&revert)))
            }
            error => Self::Chain(error),
        }
    }
}

impl From<SendError> for LedgerError {
    fn from(error: SendError) -> Self {
        Self::Send(Box::new(error))
    }
}
