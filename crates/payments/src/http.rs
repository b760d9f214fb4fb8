//! The HTTP client that pays.

use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
