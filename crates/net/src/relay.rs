//! A relay of one's own: forwards packets between devices that cannot reach each other.
//!
//! A relay sees who talks to whom and how much, and cannot read or change any of it: connections
//! are encrypted and authenticated end to end. Without a certificate it serves plain HTTP, which is
//! enough on a local network; browsers and some firewalls of the wider internet want HTTPS.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use iroh_relay::server::{
    CertConfig, ClientRateLimit, DEFAULT_CERT_RELOAD_INTERVAL, RelayConfig, Server, ServerConfig,
    TlsConfig, reloading_resolver,
};
use thiserror::Error;
use url::Url;

/// What a relay is started with.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// Where it listens with plain HTTP; with a certificate, only for the test whether a network
    /// has a login page.
    pub http: SocketAddr,
    /// Where it listens with HTTPS, and with what certificate.
    pub https: Option<RelayCertificate>,
    /// The most bytes a second that one device may send.
    pub device_bytes_per_s: Option<NonZeroU32>,
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
    pub async fn start(options: RelayOptions) -> Result<Self, RelayError> {
        let mut relay = RelayConfig::new(options.http);
        relay.limits.client_rx = options.device_bytes_per_s.map(ClientRateLimit::new);
        if let Some(certificate) = &options.https {
            relay.tls = Some(tls(certificate).await?);
        }
        let mut config = ServerConfig::default();
        config.relay = Some(relay);
        let server = Server::spawn(config).await;
        let server = server.map_err(|error| RelayError::Listen(format!("{error:#}")))?;
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
    pub async fn shutdown(self) -> Result<(), RelayError> {
        let ended = self.server.shutdown().await;
        ended.map_err(|error| RelayError::Ended(format!("{error:#}")))
    }
}

async fn tls(certificate: &RelayCertificate) -> Result<TlsConfig, RelayError> {
    let failed = |reason: String| RelayError::Certificate {
        chain: certificate.chain.clone(),
        key: certificate.key.clone(),
        reason,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let resolver = reloading_resolver(
        &provider,
        certificate.chain.clone(),
        certificate.key.clone(),
        DEFAULT_CERT_RELOAD_INTERVAL,
    );
    let resolver = resolver
        .await
        .map_err(|error| failed(format!("{error:#}")))?;
    let server_config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    let cert = CertConfig::Manual { server_config };
    Ok(TlsConfig::new(certificate.address, cert))
}
