//! One module for each command.

pub(crate) mod chain;
pub(crate) mod channels;
pub(crate) mod chat;
pub(crate) mod data;
pub(crate) mod devices;
pub(crate) mod doctor;
mod first_run;
pub(crate) mod keys;
pub(crate) mod models;
pub(crate) mod network;
pub(crate) mod pay;
pub(crate) mod relay;
pub(crate) mod rewards;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod service;
pub(crate) mod up;
pub(crate) mod wallet;
pub(crate) mod watch;

use hearth_node::http::Shutdown;

use crate::failure::Failure;

/// Resolves when the process is asked to stop, by Ctrl-C or by SIGTERM. Listening begins at once.
pub(crate) fn interrupted() -> Result<Shutdown, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind).map_err(|error| {
            Failure::new(
                "signals",
                format!("the system gives no signals: {error}"),
                "Try again",
            )
        })
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(Box::pin(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }))
}
