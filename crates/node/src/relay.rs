//! A relay as a household runs it: a way between devices that cannot reach each other.
//!
//! It needs no wallet and no chain, and knows nothing of answers: it forwards packets that only their
//! receivers can read. Everything about packets is in `hearth_net::Relay`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use futures::future::BoxFuture;
use hearth_api::household::RelayReady;
use hearth_net::{Relay, RelayCertificate, RelayError, RelayOptions};
use hearth_protocol::offer::DeviceId;
use thiserror::Error;

use crate::advice::Advice;
use crate::http::Shutdown;

/// What a relay is run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayChoice {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Files of a certificate's chain and its key, both PEM: with them it listens with HTTPS.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The most that one connection may send, in KiB per second.
    pub kib_per_s: u32,
    /// Connections at once.
    pub connections_max: usize,
    /// The ids of the devices that it is for; none at all means everybody.
    pub only: Vec<String>,
}

/// Why a relay does not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunRelayError {
    /// It was not started, or ended by itself.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// A device's id is none.
    #[error("{0:?} is no device: its id has 64 hexadecimal digits")]
    Device(String),
}

impl Advice for RunRelayError {
    fn code(&self) -> &str {
        match self {
            Self::Relay(RelayError::Certificate { .. }) => "certificate",
            Self::Relay(_) => "relay",
            Self::Device(_) => "bad_request",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Relay(RelayError::Certificate { .. }) => {
                "Name the PEM files of a certificate and of its key, which this user may read"
            }
            Self::Relay(_) => "Choose a free address with --listen, and start again",
            Self::Device(_) => "Copy the id that `hearth up` prints on the device",
        }
        .to_owned()
    }
}

/// A relay that runs.
#[derive(Debug)]
pub struct RelayService {
    ready: RelayReady,
    relay: Relay,
}

impl RelayService {
    /// Begins to forward.
    ///
    /// # Errors
    /// See [`RunRelayError`].
    pub fn open(choice: RelayChoice) -> BoxFuture<'static, Result<Self, RunRelayError>> {
        Box::pin(async move {
            let device = |id: &String| id.parse().map_err(|_| RunRelayError::Device(id.clone()));
            let mut options = RelayOptions::new(choice.listen);
            options.only = choice
                .only
                .iter()
                .map(device)
                .collect::<Result<_, RunRelayError>>()?;
            options.connections_max = choice.connections_max;
            options.device_bytes_per_s = NonZeroU32::new(choice.kib_per_s.saturating_mul(1_024));
            if let Some((chain, key)) = choice.certificate {
                let address = choice.listen;
                // Plain HTTP answers nothing but whether there is a login page; no port is promised for it.
                options.http = SocketAddr::new(address.ip(), 0);
                options.https = Some(RelayCertificate {
                    address,
                    chain,
                    key,
                });
            }
            let ready = RelayReady {
                url: String::new(),
                connections: options.connections_max,
                only: options.only.iter().map(DeviceId::to_string).collect(),
            };
            let relay = Relay::start(options).await?;
            let url = relay.url()?.to_string();
            let url = url.trim_end_matches('/').to_owned();
            let ready = RelayReady { url, ..ready };
            Ok(Self { ready, relay })
        })
    }

    /// Where it is.
    pub fn ready(&self) -> &RelayReady {
        &self.ready
    }

    /// Forwards until `shutdown` resolves.
    ///
    /// # Errors
    /// When the relay had ended by itself.
    pub fn serve(self, shutdown: Shutdown) -> BoxFuture<'static, Result<(), RunRelayError>> {
        Box::pin(self.serve_until(shutdown))
    }

    async fn serve_until(self, shutdown: Shutdown) -> Result<(), RunRelayError> {
        shutdown.await;
        Ok(self.relay.shutdown().await?)
    }
}
