//! Whether the device at the other end of a connection is still there.
//!
//! A device that was killed, or cut off, says nothing. A slow one says nothing new, but its system
//! acknowledges the signs of life that a payer's connection sends. So a provider that is gone is told
//! from one that thinks, long before the rule for stalls has to decide.
//!
//! Deliberately absent: what follows from it. That is the business of the machines in
//! `protocol::answer`.

use std::fmt;
use std::future::pending;

use iroh::endpoint::Connection;
use tokio::time::{Duration, Instant, sleep_until};

use crate::limits::PROVIDER_SILENCE_MAX;

/// How often it is looked whether anything came.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Watches what comes from one device.
pub struct Liveness {
    connection: Connection,
    /// Datagrams that had come when it was last looked, and when they were fewer.
    datagrams: u64,
    heard_at: Instant,
    look_at: Instant,
    told: bool,
}

impl Liveness {
    pub(crate) fn new(connection: Connection) -> Self {
        let now = Instant::now();
        Self {
            datagrams: connection.stats().udp_rx.datagrams,
            connection,
            heard_at: now,
            look_at: now + LOOK_EVERY,
            told: false,
        }
    }

    /// Resolves when nothing at all came for [`PROVIDER_SILENCE_MAX`]: once, and again only after
    /// something came. Cancel-safe.
    pub async fn lost(&mut self) {
        loop {
            sleep_until(self.look_at).await;
            let now = Instant::now();
            self.look_at = now + LOOK_EVERY;
            if self.connection.close_reason().is_some() {
                // The reader of the connection is told why.
                return pending().await;
            }
            let datagrams = self.connection.stats().udp_rx.datagrams;
            if datagrams != self.datagrams {
                self.datagrams = datagrams;
                self.heard_at = now;
                self.told = false;
            } else if !self.told && now.duration_since(self.heard_at) >= PROVIDER_SILENCE_MAX {
                self.told = true;
                return;
            }
        }
    }
}

impl fmt::Debug for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Liveness").finish_non_exhaustive()
    }
}
