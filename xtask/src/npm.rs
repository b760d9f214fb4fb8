//! Outside programs from npm, pinned by a lock file and installed once into the cache folder.
//!
//! Does not decide what is installed (the lock files do) and does not install node itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::pinned;

/// The files of a folder that say what its tree is.
const PINS: [&str; 2] = ["package.json", "package-lock.json"];

/// Installs the packages of `folder/package-lock.json`, if they are not there yet, and returns the folder that holds
/// their `node_modules`.
///
/// # Errors
/// The lock file cannot be read, npm is missing, or npm fails; the text says what to do.
pub(crate) fn install(folder: &Path) -> Result<PathBuf> {
    let pins = PINS.map(|name| folder.join(name));
    pinned::tree("npm", &pins, |building| {
        println!("installing the npm packages of {}", folder.display());
        for name in PINS {
            fs::copy(folder.join(name), building.join(name))
                .with_context(|| format!("cannot copy {name}"))?;
        }
        run_npm(building)
    })
}

fn run_npm(folder: &Path) -> Result<()> {
    let outcome = Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .status();
    match outcome {
        Ok(status) => ensure!(
            status.success(),
            "`npm ci` failed ({status}); its reason is above"
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("npm is not installed; on Debian: apt-get install nodejs npm")
        }
        Err(error) => return Err(error).context("cannot start npm"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_lock_file_is_named() {
        let error = install(Path::new("/nonexistent/folder")).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("/nonexistent/folder/package.json"),
            "{error:#}"
        );
    }
}
