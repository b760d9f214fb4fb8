//! `cargo xtask`: everything a developer or a CI machine does with this repository.
//!
//! One small program, so that each step is Rust that can be read and tested, and needs no other tool
//! to be there first. It keeps few dependencies because it is compiled before anything else. It holds
//! no part of the product.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod bench;
mod contracts;
mod demo;
mod fuzz;
mod gpu;
mod households;
mod model;
mod namespaces;
mod npm;
mod phases;
mod pinned;
mod plays;
mod python;
mod room;
mod setup;
mod slither;
mod test;
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
        /// Write nothing; fail where an artifact differs from what its sources give, or Slither finds what is not accepted.
        #[arg(long)]
        check: bool,
    },
    /// Fuzz every decoder for a bounded time, guided by coverage.
    Fuzz {
        /// The one target to fuzz; without it, all of them.
        target: Option<String>,
        /// How long each target is fuzzed.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Check that the program compiles for graphics processors, and test a model on the one that is here.
    Gpu {
        /// What to build for.
        backend: gpu::Backend,
        /// Test on Mesa's software device, where there is no graphics processor (Vulkan on Linux).
        #[arg(long)]
        software: bool,
    },
    /// Show the main job: households train a model together, one cheats, and what it earned pays for its answers.
    Demo {
        /// What to train on, instead of 38 plays: a text file, or a folder of them.
        #[arg(long)]
        text: Option<PathBuf>,
    },
    /// Measure, and write what was found to docs/benchmarks.md.
    Bench {
        /// The benchmark; a wrong name lists them.
        name: String,
        /// Run the smallest size and write nothing.
        #[arg(long)]
        smoke: bool,
    },
    /// Install or name what this machine lacks, and fetch the model that tests run.
    Setup,
    /// Run every check and every test.
    Test {
        /// Leave out what needs programs from npm and PyPI.
        #[arg(long)]
        inside: bool,
    },
    /// Check the rules of the house that the compiler does not know.
    Tidy,
}

impl Task {
    /// What the task needs to be installed before it starts.
    fn needs(&self) -> Result<setup::Needs> {
        let root = workspace::root()?;
        match self {
            Self::Contracts { .. } | Self::Setup => setup::Needs::of(&root, true, false),
            Self::Fuzz { .. } => setup::Needs::of(&root, false, false),
            Self::Bench { .. } => Ok(setup::Needs {
                model: true,
                ..setup::Needs::of(&root, false, false)?
            }),
            Self::Demo { .. } => setup::Needs::of(&root, false, false),
            Self::Gpu { backend, software } => gpu::needs(&root, *backend, *software),
            Self::Test { inside } => setup::Needs::of(&root, !inside, true),
            Self::Tidy => Ok(setup::Needs::default()),
        }
    }

    fn run(self) -> Result<()> {
        match self {
            Self::Contracts { check } => contracts::run(check),
            Self::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
            Self::Demo { text } => demo::run(text),
            Self::Gpu { backend, software } => gpu::run(backend, software),
            Self::Bench { name, smoke } => bench::run(&name, smoke),
            Self::Setup => {
                let model = model::fetch(&workspace::root()?)?;
                println!("setup: the model for tests is {}", model.display());
                println!("setup: nothing is missing");
                Ok(())
            }
            Self::Test { inside } => test::run(inside),
            Self::Tidy => tidy::run(),
        }
    }
}

/// Set for the second start of a task whose programs are found under another `PATH`.
const RESTARTED: &str = "HEARTH_XTASK_RESTARTED";

fn main() -> ExitCode {
    match start(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Sets the machine up and runs the task. A process may not safely change its own environment, so where
/// setup has put programs into the cache folder the task is started once more under the new `PATH`.
fn start(task: Task) -> Result<ExitCode> {
    let path = setup::ensure(&workspace::root()?, task.needs()?)?;
    if let Some(path) = path.filter(|_| env::var_os(RESTARTED).is_none()) {
        let program = env::current_exe().context("this program has no path")?;
        let status = Command::new(program)
            .args(env::args_os().skip(1))
            .env("PATH", path)
            .env(RESTARTED, "1")
            .status()
            .context("cannot start again under a new PATH")?;
        return Ok(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    task.run()?;
    Ok(ExitCode::SUCCESS)
}
