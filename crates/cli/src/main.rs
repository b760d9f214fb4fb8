//! `hearth`: the one program of a device.
//!
//! It parses, asks the node, and prints: a human reads tables on a terminal, a program reads one JSON document with
//! `--json`. Errors go to the standard error as a sentence and the next step. Deliberately absent: any knowledge of
//! chains, keys or payments, which are behind `hearth-node`.
//!
//! Exit codes: 0 done, 1 not done (the message says why), 2 asked wrongly (the message says how to ask).

mod anew;
mod args;
mod commands;
mod confirm;
mod failure;
mod global;
mod plot;
mod purse;
mod reader;
mod screen;
mod secrets;
mod wait;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Arguments, Command};
use failure::Failure;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return failure::usage(&error),
    };
    match &arguments.command {
        Command::Reader => return reader::serve(),
        Command::Up(_) => anew::settle(),
        _ => {}
    }
    log_to_stderr(&arguments.command);
    let json = arguments.global.json;
    match run(arguments) {
        Ok(code) => code,
        Err(failure) => failure.report(json),
    }
}

/// Logs are for whoever looks for a fault: only errors unless `RUST_LOG` asks for more, and warnings of what goes on
/// running, which has no other way to say that a claim failed.
fn log_to_stderr(command: &Command) {
    let usual = match command {
        // That a device which takes part in a run cannot be reached for a moment is normal.
        Command::Up(_) | Command::ServePaid(_) | Command::Watch(_) => "warn,iroh_gossip=error",
        _ => "error",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let asked_for = std::env::var_os("TOKIO_WORKER_THREADS").is_some();
    if matches!(arguments.command, Command::Up(_)) && !asked_for {
        runtime.worker_threads(threads_beside_models());
    }
    let runtime = runtime.enable_all().build().map_err(|error| {
        Failure::new(
            "runtime",
            format!("the program cannot start: {error}"),
            "Try again",
        )
    })?;
    runtime.block_on(arguments.run())
}

/// Threads for everything but models, on a device that answers.
///
/// A model uses all cores, and its threads wait for each other many times for each token: one that gives its core to
/// a task for a moment holds up all. Each further thread for tasks wakes more often to find none (ADR 0014).
fn threads_beside_models() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / 4).max(1)
}
