//! The clock and the randomness that the drivers of this crate use.
//!
//! Everything else is a pure function of its input. Tests give an environment of their own, so that
//! no test waits for real time and every jitter is drawn from a printed seed.

use std::{fmt, future::Future, pin::Pin, time::Duration};

/// A wait in progress.
pub type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Time and randomness, the two inputs that a chain driver does not get from the chain.
pub trait Environment: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;

    /// Waits for `duration`.
    fn sleep(&self, duration: Duration) -> Wait;

    /// A random number, used for jitter only: nothing secret is drawn from it.
    fn random(&self) -> u64;
}

/// The system's clock and its random number generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnvironment;

impl Environment for SystemEnvironment {
    fn now_ms(&self) -> u64 {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, duration: Duration) -> Wait {
        Box::pin(tokio::time::sleep(duration))
    }

    fn random(&self) -> u64 {
        // Without randomness the jitter is zero, which is safe: only the spreading of retries is lost.
        getrandom::u64().unwrap_or(0)
    }
}
