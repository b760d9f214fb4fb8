//! HTTP doors of the node.

pub mod proxy;
pub mod surface;

use std::time::Duration;

pub(crate) use hearth_doors::{BodyError, read_body};
pub use hearth_doors::{Bounds, Budget, Limits, Listener, Policy, Shutdown, serve};

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
