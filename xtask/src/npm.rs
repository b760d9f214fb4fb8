//! Outside programs from npm, pinned by a lock file and installed once into the cache folder.
//!
//! Does not decide what is installed (the lock files do) and does not install node itself.
//!
//! `npm ci` would be the command for it, but it refuses a lock file that lacks an optional package of another platform,
//! which is what npm writes where the registry does not have that package. So `npm install` runs on a copy of the lock
//! file, and what it says it installed is compared with what was pinned.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

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
        let pinned = lock_file(building)?;
        run_npm(building)?;
        match unpinned(&pinned, &lock_file(building)?) {
            None => Ok(()),
            Some(name) => bail!(
                "{} does not pin {name}: run `npm install` there and commit the lock file",
                folder.display()
            ),
        }
    })
}

fn lock_file(folder: &Path) -> Result<Value> {
    let path = folder.join("package-lock.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// The first package that was installed and is not pinned to the same bytes. Optional packages of other platforms are
/// named in a lock file too; a pin that lacks one of those is no error.
fn unpinned(pinned: &Value, installed: &Value) -> Option<String> {
    let packages = installed["packages"].as_object().into_iter().flatten();
    packages
        .filter(|(path, _)| !path.is_empty())
        .find(|(path, package)| match pinned["packages"].get(path) {
            Some(pin) => pin["integrity"] != package["integrity"],
            None => package["optional"] != true,
        })
        .map(|(path, _)| path.clone())
}

fn run_npm(folder: &Path) -> Result<()> {
    let outcome = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .status();
    match outcome {
        Ok(status) => ensure!(
            status.success(),
            "`npm install` failed ({status}); its reason is above"
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
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_installed_must_be_pinned_to_the_same_bytes() {
        let lock = |packages: Value| json!({ "packages": packages });
        let pinned = lock(json!({ "": {}, "node_modules/a": { "integrity": "sha512-a" } }));
        assert_eq!(unpinned(&pinned, &pinned), None);
        let changed = lock(json!({ "": {}, "node_modules/a": { "integrity": "sha512-b" } }));
        assert_eq!(
            unpinned(&pinned, &changed).as_deref(),
            Some("node_modules/a")
        );
        let more = lock(json!({ "node_modules/b": { "integrity": "sha512-b" } }));
        assert_eq!(unpinned(&pinned, &more).as_deref(), Some("node_modules/b"));
        let elsewhere =
            lock(json!({ "node_modules/b": { "integrity": "sha512-b", "optional": true } }));
        assert_eq!(unpinned(&pinned, &elsewhere), None);
    }

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
