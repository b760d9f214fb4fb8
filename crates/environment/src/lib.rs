//! Time and randomness: the two inputs that nobody sends to a device.
//!
//! The protocol's machines take both as values. The drivers around them take an [`Environment`], so that a test replaces
//! the clock and the random numbers of everything at once, and prints the seed of what it drew. [`SystemEnvironment`] is
//! the one place where the operating system is asked.
//!
//! Deliberately absent: a clock for measuring. A timeout in async code uses tokio's, which tests can stop, and the threads
//! that compute use the standard library's.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;

mod manual;

pub use manual::ManualEnvironment;

/// A wait in progress.
pub type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the system gave no random bytes")]
pub struct NoRandomness;

/// A clock and a source of random bytes.
pub trait Environment: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. It may step back.
    fn now_ms(&self) -> u64;

    /// Waits for `duration`.
    fn sleep(&self, duration: Duration) -> Wait;

    /// Fills `bytes` with random bytes that nobody can foresee: keys, salts and nonces are drawn here.
    ///
    /// # Errors
    /// [`NoRandomness`], after which `bytes` must not be used.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness>;

    /// A random number that spreads retries; zero without randomness, since only the spreading is lost then.
    fn jitter(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)
            .map_or(0, |()| u64::from_le_bytes(bytes))
    }
}

impl dyn Environment {
    /// Draws `N` random bytes.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn draw<const N: usize>(&self) -> Result<[u8; N], NoRandomness> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Draws a random number, each equally likely.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn draw_u64(&self) -> Result<u64, NoRandomness> {
        self.draw().map(u64::from_le_bytes)
    }
}

/// The clock and the random bytes of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn now_ms(&self) -> u64 {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, duration: Duration) -> Wait {
        Box::pin(tokio::time::sleep(duration))
    }

    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        getrandom::fill(bytes).map_err(|_| NoRandomness)
    }
}
