//! That the desk has stopped: what is told to those who work for it too.

use thiserror::Error;

/// Why the desk does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the payment desk has stopped, because the store failed or the node is shutting down")]
pub struct DeskStopped;
