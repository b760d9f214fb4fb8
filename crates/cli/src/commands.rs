//! One module for each command.

pub(crate) mod chain;
pub(crate) mod channels;
pub(crate) mod chat;
pub(crate) mod devices;
pub(crate) mod doctor;
mod first_run;
pub(crate) mod keys;
pub(crate) mod models;
pub(crate) mod network;
pub(crate) mod pay;
pub(crate) mod relay;
pub(crate) mod serve;
pub(crate) mod service;
pub(crate) mod up;
pub(crate) mod wallet;
pub(crate) mod watch;

use std::process::ExitCode;

use hearth_node::http::Shutdown;

use crate::args::{Arguments, Command};
use crate::failure::Failure;
use crate::reader;

/// Does what was asked.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let Arguments { global, command } = arguments;
    match command {
        Command::Chain(command) => chain::run(&global, command).await,
        Command::Wallet(command) => wallet::run(&global, command).await,
        Command::ServePaid(arguments) => serve::run(&global, arguments).await,
        Command::Watch(arguments) => watch::run(&global, arguments).await,
        Command::Pay(arguments) => pay::run(&global, arguments).await,
        Command::Channels(arguments) => channels::run(&global, arguments).await,
        Command::Up(arguments) => up::run(&global, arguments).await,
        Command::Chat(arguments) => chat::run(&global, arguments).await,
        Command::Models { command } => models::run(&global, command).await,
        Command::Keys { command } => keys::run(&global, command).await,
        Command::Offers(arguments) => network::offers(&global, arguments).await,
        Command::Earnings => network::earnings(&global).await,
        Command::Invite(arguments) => devices::invite(&global, arguments).await,
        Command::Join(arguments) => devices::join(&global, arguments).await,
        Command::Devices { command } => devices::devices(&global, command).await,
        Command::Service(command) => service::run(&global, command),
        Command::Relay(arguments) => relay::run(&global, arguments).await,
        Command::Doctor => doctor::run(&global).await,
        Command::Reader => Ok(reader::serve()),
    }
}

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
