//! HTTP doors of the node.

use std::net::SocketAddr;

use thiserror::Error;

use crate::advice::Advice;

pub use hearth_doors::{Bounds, Budget, Limits, Listener, Policy, Shutdown, serve};

/// Nobody can listen at an address.
#[derive(Debug, Error)]
#[error("{address} cannot be listened on")]
pub struct ListenError {
    /// Where.
    address: SocketAddr,
    /// Why.
    source: std::io::Error,
}

impl Advice for ListenError {
    fn code(&self) -> &str {
        "port_in_use"
    }

    fn next_step(&self) -> String {
        "Stop what uses the port, or name another with --listen or in config.toml".to_owned()
    }
}

/// Listens, and says where.
///
/// # Errors
/// When the address is taken, or not this machine's.
pub(crate) async fn bind(address: SocketAddr) -> Result<(Listener, SocketAddr), ListenError> {
    let bound = Listener::bind(address).await;
    let listener = bound.map_err(|source| ListenError { address, source })?;
    let address = listener.address();
    Ok((listener, address))
}
