//! A relay of one's own: forwards packets between devices that cannot reach each other.
//!
//! A relay sees who talks to whom and how much, and cannot read or change any of it: connections
//! are encrypted and authenticated end to end. Without a certificate it serves plain HTTP, which is
//! enough on a local network; browsers and some firewalls of the wider internet want HTTPS.
//!
//! How many devices are connected at once and how much each may send are bounded; a relay may also be for
//! certain devices alone. A device proves its key before it is counted.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use hearth_causes::WithCauses;
use hearth_protocol::offer::DeviceId;
use iroh::EndpointId;
use iroh_relay::server::{
    Access, AccessControl, CertConfig, ClientRateLimit, ClientRequest, ConnectionId,
    DEFAULT_CERT_RELOAD_INTERVAL, RelayConfig, Server, ServerConfig, TlsConfig, reloading_resolver,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use url::Url;

use crate::limits::RELAY_CONNECTIONS_MAX;

/// What a relay is started with.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// Where it listens with plain HTTP; with a certificate, only for the test whether a network
    /// has a login page.
    pub http: SocketAddr,
    /// Where it listens with HTTPS, and with what certificate.
    pub https: Option<RelayCertificate>,
    /// The most bytes a second that one connection may send.
    pub device_bytes_per_s: Option<NonZeroU32>,
    /// Connections at once; one more is refused.
    pub connections_max: usize,
    /// The devices that it is for; none at all means that it is for everybody.
    pub only: BTreeSet<DeviceId>,
}

impl RelayOptions {
    /// For everybody, with plain HTTP, and without a limit of bytes.
    pub fn new(http: SocketAddr) -> Self {
        Self {
            http,
            https: None,
            device_bytes_per_s: None,
            connections_max: RELAY_CONNECTIONS_MAX,
            only: BTreeSet::new(),
        }
    }
}

/// Decides which devices are let in.
#[derive(Debug)]
struct Gate {
    connections_max: usize,
    only: BTreeSet<DeviceId>,
    open: AtomicUsize,
}

fn denied(reason: &str) -> Access {
    let reason = Some(reason.to_owned());
    Access::Deny { reason }
}

impl AccessControl for Gate {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let device = DeviceId(*request.endpoint_id().as_bytes());
        if !self.only.is_empty() && !self.only.contains(&device) {
            return denied("this relay is for other devices");
        }
        let room = |open: usize| (open < self.connections_max).then(|| open + 1);
        let taken = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        match taken {
            Ok(_) => Access::Allow,
            Err(_) => denied("this relay is full"),
        }
    }

    fn on_disconnect(&self, _: EndpointId, _: ConnectionId) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A certificate in files, read again once a day.
#[derive(Debug, Clone)]
pub struct RelayCertificate {
    /// Where HTTPS is served.
    pub address: SocketAddr,
    /// The chain, as PEM.
    pub chain: PathBuf,
    /// The private key, as PEM.
    pub key: PathBuf,
}

/// Why a relay was not started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The certificate cannot be used.
    #[error("the certificate {} with its key {} cannot be used: {reason}", chain.display(), key.display())]
    Certificate {
        /// The chain's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It cannot listen.
    #[error("the relay cannot listen ({0}): choose another address or port")]
    Listen(String),
    /// It ended by itself.
    #[error("the relay ended: {0}")]
    Ended(String),
}

/// A running relay. It ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    server: Server,
}

impl Relay {
    /// Starts a relay.
    ///
    /// # Errors
    /// When an address is taken or a certificate cannot be used.
    pub fn start(options: RelayOptions) -> BoxFuture<'static, Result<Self, RelayError>> {
        Box::pin(Self::started(options))
    }

    async fn started(options: RelayOptions) -> Result<Self, RelayError> {
        let mut relay = RelayConfig::new(options.http);
        relay.limits.client_rx = options.device_bytes_per_s.map(ClientRateLimit::new);
        relay.access = Arc::new(Gate {
            connections_max: options.connections_max,
            only: options.only,
            open: AtomicUsize::new(0),
        });
        if let Some(certificate) = &options.https {
            relay.tls = Some(tls(certificate).await?);
        }
        let mut config = ServerConfig::default();
        config.relay = Some(relay);
        let server = Server::spawn(config).await;
        let server = server.map_err(|error| RelayError::Listen(error.with_causes().to_string()))?;
        Ok(Self { server })
    }

    /// Where devices reach it, by address: with a certificate use the name that it is for.
    ///
    /// # Errors
    /// When the relay listens nowhere any more.
    pub fn url(&self) -> Result<Url, RelayError> {
        let https = self.server.https_addr().map(|address| ("https", address));
        let http = self.server.http_addr().map(|address| ("http", address));
        let (scheme, address) = https
            .or(http)
            .ok_or_else(|| RelayError::Ended("it listens nowhere".to_owned()))?;
        format!("{scheme}://{address}")
            .parse()
            .map_err(|error: url::ParseError| RelayError::Ended(error.to_string()))
    }

    /// Stops it and closes every connection.
    ///
    /// # Errors
    /// When it had ended by itself before.
    pub fn shutdown(self) -> BoxFuture<'static, Result<(), RelayError>> {
        Box::pin(async move {
            let ended = self.server.shutdown().await;
            ended.map_err(|error| RelayError::Ended(error.with_causes().to_string()))
        })
    }
}

/// Whether the key is that of the certificate: a relay with another one would run, and nobody could
/// connect to it.
async fn fits(certificate: &RelayCertificate, provider: &CryptoProvider) -> Result<(), String> {
    let read = async |path: &Path| {
        tokio::fs::read(path)
            .await
            .map_err(|error| error.to_string())
    };
    let (chain, key) = (
        read(&certificate.chain).await?,
        read(&certificate.key).await?,
    );
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let chain = chain.map_err(|error| error.to_string())?;
    if chain.is_empty() {
        return Err("the first file holds no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(&key);
    let key = key.map_err(|_| "the second file holds no private key".to_owned())?;
    match CertifiedKey::from_der(chain, key, provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("the key belongs to another certificate".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn tls(certificate: &RelayCertificate) -> Result<TlsConfig, RelayError> {
    let failed = |reason: String| RelayError::Certificate {
        chain: certificate.chain.clone(),
        key: certificate.key.clone(),
        reason,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    fits(certificate, &provider).await.map_err(failed)?;
    let resolver = reloading_resolver(
        &provider,
        certificate.chain.clone(),
        certificate.key.clone(),
        DEFAULT_CERT_RELOAD_INTERVAL,
    );
    let resolver = resolver
        .await
        .map_err(|error| failed(error.with_causes().to_string()))?;
    let server_config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    let cert = CertConfig::Manual { server_config };
    Ok(TlsConfig::new(certificate.address, cert))
}
