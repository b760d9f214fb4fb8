//! The one body that every error has, over HTTP and on the command line.

use serde::{Deserialize, Serialize};

/// An error as it travels: `{"error":{"code":…,"message":…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: AdvisedError,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvisedError {
    /// A stable word that programs match on.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// What to do now, where the sentence does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl ErrorBody {
    /// An error with a code for programs and a message for people.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            error: AdvisedError {
                code: code.into(),
                message: message.into(),
                next: None,
            },
        }
    }

    /// The same error with what to do now.
    #[must_use]
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.error.next = Some(next.into());
        self
    }
}
