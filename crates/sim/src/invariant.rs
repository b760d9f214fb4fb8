//! What must be true after everything that happens, by name.

use thiserror::Error;

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{invariant}: {message}")]
pub struct Broken {
    /// Its name.
    pub invariant: &'static str,
    /// What was seen.
    pub message: String,
}

/// Checks an invariant.
///
/// # Errors
/// That it does not hold, with what `message` says.
pub fn ensure(
    holds: bool,
    invariant: &'static str,
    message: impl FnOnce() -> String,
) -> Result<(), Broken> {
    if holds {
        return Ok(());
    }
    Err(Broken {
        invariant,
        message: message(),
    })
}
