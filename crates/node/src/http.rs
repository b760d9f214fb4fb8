//! HTTP doors of the node.

pub mod proxy;

use std::time::Duration;

use axum::serve::{ListenerExt, TapIo};
use tokio::net::{TcpListener, TcpStream};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A listener whose connections send what they have at once: the pieces of a stream must not wait
/// for acknowledgements of the pieces before.
pub fn without_delay(listener: TcpListener) -> TapIo<TcpListener, fn(&mut TcpStream)> {
    listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection delays small pieces");
        }
    })
}

/// An HTTP client for services: rustls with ring, no redirects, so that a payment goes to the
/// address that was approved and to no other.
///
/// # Errors
/// When the system's certificates cannot be set up.
pub fn client() -> Result<reqwest::Client, reqwest::Error> {
    // A second installation is refused and changes nothing.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
        .build()
}
