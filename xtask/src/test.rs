//! `cargo xtask test`: the one command that says whether the repository is sound.
//!
//! Cheap checks come first and all of them report; then what is compiled, then what is run. Each phase
//! prints the command that repeats it alone. What could not be run on this machine is named in the last
//! line, never passed over.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::phases::Phases;
use crate::{bench, contracts, fuzz, model, namespaces, npm, python, room, tidy, workspace};

/// How long each decoder is fuzzed within a run of all tests, in seconds.
const FUZZ_SECONDS: u32 = 10;

/// Runs every check; `inside` leaves out what needs programs from npm and PyPI.
pub(crate) fn run(inside: bool) -> Result<()> {
    let root = workspace::root()?;
    let mut phases = Phases::new("cargo xtask test");
    phases.step("room on the disk", "df", || room::make(&root));
    phases.stop_if_failed()?;
    static_checks(&mut phases, &root);
    phases.stop_if_failed()?;
    if inside {
        phases.skip(
            "contracts",
            "--inside: the compiler comes from npm, Slither from PyPI",
        );
    } else {
        phases.step("contracts", "cargo xtask contracts --check", || {
            contracts::run(true)
        });
    }
    inside_tests(&mut phases, &root);
    outside_tests(&mut phases, &root, inside);
    smoke_benchmarks(&mut phases, &root)?;
    fuzz_targets(&mut phases);
    phases.end()
}

/// What can be said about the sources without running them.
fn static_checks(phases: &mut Phases, root: &Path) {
    phases.command("format", cargo(root).args(["fmt", "--all", "--check"]));
    phases.step("tidy", "cargo xtask tidy", tidy::run);
    if is_installed("cargo-deny") {
        let mut deny = cargo(root);
        // Advisories are left to the user: their list is in no package registry.
        deny.args([
            "deny",
            "--log-level",
            "error",
            "check",
            "licenses",
            "bans",
            "sources",
        ]);
        phases.command("dependencies", &mut deny);
    } else {
        phases.skip(
            "dependencies",
            "cargo-deny is not installed: cargo xtask setup",
        );
    }
    phases.skip(
        "advisories",
        "their list is in no package registry: cargo deny check advisories",
    );
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    phases.command("lints", cargo(root).args(clippy));
}

/// Every test that needs nothing but this repository.
fn inside_tests(phases: &mut Phases, root: &Path) {
    phases.command(
        "examples in the documentation",
        cargo(root).args(["test", "--workspace", "--doc", "--quiet"]),
    );
    if is_installed("cargo-nextest") {
        phases.command("tests", cargo(root).args(["nextest", "run", "--workspace"]));
    } else {
        phases.command(
            "tests",
            cargo(root).args(["test", "--workspace", "--all-targets"]),
        );
    }
}

/// The tests that put unmodified programs by other people against ours.
fn outside_tests(phases: &mut Phases, root: &Path, inside: bool) {
    let name = "outside programs";
    if inside {
        phases.skip(name, "--inside");
        return;
    }
    let namespaces = namespaces::missing();
    if let Some(why) = &namespaces {
        phases.skip("nodes in network namespaces", why);
    }
    phases.step(name, "cargo xtask test", || {
        let pins = root.join("tests/outside");
        let packages = npm::install(&pins)?;
        let python = python::install(&pins.join("requirements.txt"))?;
        let attacks = python::install(&pins.join("agentdojo.txt"))?;
        let mut tests = cargo(root);
        if is_installed("cargo-nextest") {
            tests.args(["nextest", "run", "--workspace", "--run-ignored", "only"]);
            if namespaces.is_some() {
                tests.arg("-E");
                tests.arg(format!("not test(/^{}/)", namespaces::TESTS));
            }
        } else {
            tests.args(["test", "--workspace", "--", "--ignored"]);
            if namespaces.is_some() {
                tests.args(["--skip", namespaces::TESTS]);
            }
        }
        tests
            .env("HEARTH_OUTSIDE", &packages)
            .env("HEARTH_PYTHON", python.join("bin/python"))
            .env("HEARTH_AGENTDOJO", attacks.join("bin/python"))
            .env(model::VARIABLE, model::fetch(root)?)
            .env(model::SPINS.0, model::SPINS.1);
        println!("    again: {}", workspace::shown(&tests));
        workspace::run(&mut tests)
    });
}

/// Every benchmark in its smallest size, so that none can rot.
fn smoke_benchmarks(phases: &mut Phases, root: &Path) -> Result<()> {
    let metadata = workspace::metadata(root).context("the list of benchmarks")?;
    for name in bench::names(&metadata) {
        let again = format!("cargo xtask bench {name} --smoke");
        phases.step(&format!("benchmark {name}, smoke"), &again, || {
            bench::run(&name, true)
        });
    }
    Ok(())
}

fn fuzz_targets(phases: &mut Phases) {
    let again = format!("cargo xtask fuzz --seconds {FUZZ_SECONDS}");
    phases.step("fuzz", &again, || fuzz::run(None, FUZZ_SECONDS));
}

fn cargo(root: &Path) -> Command {
    let mut cargo = workspace::cargo();
    cargo.current_dir(root);
    cargo
}

fn is_installed(program: &str) -> bool {
    workspace::on_path(program, &env::var_os("PATH").unwrap_or_default())
}
