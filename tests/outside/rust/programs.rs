//! Where the outside programs are. `cargo xtask test` installs them and sets `HEARTH_OUTSIDE` and `HEARTH_PYTHON`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The folder that holds `node_modules`.
fn installed() -> PathBuf {
    named("HEARTH_OUTSIDE")
}

fn named(variable: &str) -> PathBuf {
    env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!("{variable} is not set: run `cargo xtask test`, which installs the outside programs")
    })
}

fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The contracts' checked-in artifacts.
pub(crate) fn artifacts() -> PathBuf {
    checkout().join("contracts/artifacts")
}

/// One of our scripts for node, with its configuration.
pub(crate) fn node(script: &str, config: &Value) -> Command {
    let mut command = Command::new("node");
    command
        .arg(checkout().join("tests/outside/js").join(script))
        .arg(config.to_string())
        .env("HEARTH_OUTSIDE", installed());
    command
}

/// One of our scripts for Python, with its configuration.
pub(crate) fn python(script: &str, config: &Value) -> Command {
    let mut command = Command::new(named("HEARTH_PYTHON"));
    command
        .arg(checkout().join("tests/outside/python").join(script))
        .arg(config.to_string());
    command
}

/// A program of Foundry's, itself and not the wrapper that npm puts before it, so that a kill reaches it.
pub(crate) fn foundry(name: &str) -> Command {
    let scope = installed().join("node_modules/@foundry-rs");
    let prefix = format!("{name}-");
    let platform = fs::read_dir(&scope)
        .unwrap_or_else(|error| panic!("{} cannot be read: {error}", scope.display()))
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .unwrap_or_else(|| panic!("{name} is not installed for this platform"));
    Command::new(platform.path().join("bin").join(name))
}
