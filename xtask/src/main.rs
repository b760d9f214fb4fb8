//! `cargo xtask`: everything a developer or a CI machine does with this repository.
//!
//! One small program, so that each step is Rust that can be read and tested, and needs no other tool
//! to be there first. It keeps few dependencies because it is compiled before anything else. It holds
//! no part of the product.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod contracts;
mod npm;
mod pinned;
mod python;
mod tidy;
mod workspace;

/// Works on the Hearth repository: set up, test, check, measure.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the contracts and write contracts/artifacts.
    Contracts {
        /// Write nothing; fail where an artifact differs from what its sources give.
        #[arg(long)]
        check: bool,
    },
    /// Check the rules of the house that the compiler does not know.
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Contracts { check } => contracts::run(check),
        Task::Tidy => tidy::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
