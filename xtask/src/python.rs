//! Outside programs from PyPI, pinned by hash and installed once into a virtual environment in the cache folder.
//!
//! A requirements file names all that is installed: pip looks for nothing else, checks every file against its hashes and
//! takes built wheels only, so that no package runs a build step of its own here. Does not install Python itself.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::pinned;

/// The oldest Python for which the requirements were resolved.
const OLDEST: &str = "3.10";

/// Installs what `requirements` pins, if it is not there yet, and returns the folder of the virtual environment; its
/// interpreter is `bin/python`.
///
/// # Errors
/// The file cannot be read, Python is missing, too old or without its venv module, or pip fails; the text says what to
/// do.
pub(crate) fn install(requirements: &Path) -> Result<PathBuf> {
    pinned::tree("python", &[requirements.to_path_buf()], |building| {
        println!(
            "installing the Python packages of {}",
            requirements.display()
        );
        environment(building)?;
        run(
            Command::new(building.join("bin/python"))
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                ])
                .args([
                    "--no-deps",
                    "--require-hashes",
                    "--only-binary",
                    ":all:",
                    "--requirement",
                ])
                .arg(requirements),
            "pip could not install the pinned packages; its reason is above",
        )
    })
}

/// Returns the folder of the virtual environment of `requirements`, where it was installed before.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn installed(requirements: &Path) -> Result<Option<PathBuf>> {
    pinned::there("python", &[requirements.to_path_buf()])
}

/// Makes a virtual environment, with pip, in `folder`.
///
/// # Errors
/// Python is missing, too old or without its venv module; the text says what to do.
pub(crate) fn environment(folder: &Path) -> Result<()> {
    check_version()?;
    run(
        Command::new("python3").args(["-m", "venv"]).arg(folder),
        "python3 cannot make a virtual environment; on Debian: apt-get install python3-venv",
    )
}

fn check_version() -> Result<()> {
    let program = format!(
        "import sys; sys.exit(sys.version_info < ({}))",
        OLDEST.replace('.', ", ")
    );
    let advice = format!("Python {OLDEST} or newer is needed; on Debian: apt-get install python3");
    run(
        Command::new("python3").args([OsStr::new("-c"), OsStr::new(&program)]),
        &advice,
    )
}

/// Runs a command to its end, its errors on ours; `advice` is the error when it fails or is not there.
pub(crate) fn run(command: &mut Command, advice: &str) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.stdin(Stdio::null()).stdout(Stdio::null()).status() {
        Ok(status) => ensure!(status.success(), "{advice}"),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{name} is not installed. {advice}")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot start {name}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_requirements_file_is_named() {
        let error = install(Path::new("/nonexistent/requirements.txt")).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/requirements.txt"),
            "{error:#}"
        );
    }

    #[test]
    fn a_failing_command_ends_in_the_advice() {
        let error = run(
            Command::new("python3").args(["-c", "raise SystemExit(1)"]),
            "do this",
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "do this");
        let error = run(&mut Command::new("no-such-program-here"), "do this").unwrap_err();
        assert_eq!(
            error.to_string(),
            "no-such-program-here is not installed. do this"
        );
    }
}
