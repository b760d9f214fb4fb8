//! Outside programs from npm, pinned by a lock file and installed once into the cache folder.
//!
//! A tree is named by the hash of its lock file, so that a changed lock installs beside the old tree and a second run
//! installs nothing. It is built under a name of its own and renamed when it is whole: a run that is killed leaves no
//! half tree that the next run would trust. Does not decide what is installed (the lock files do) and does not
//! install node itself.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace;

/// The files of a folder that say what its tree is.
const PINS: [&str; 2] = ["package.json", "package-lock.json"];

/// Installs the packages of `folder/package-lock.json`, if they are not there yet, and returns the folder that holds
/// their `node_modules`.
///
/// # Errors
/// The lock file cannot be read, npm is missing, or npm fails; the text says what to do.
pub(crate) fn install(folder: &Path) -> Result<PathBuf> {
    let cache = workspace::cache()?;
    let tree = cache.join(format!("npm-{}", fingerprint(folder)?));
    if tree.join("node_modules").is_dir() {
        return Ok(tree);
    }

    println!("installing the npm packages of {}", folder.display());
    let building = cache.join(format!("npm-building-{}", std::process::id()));
    fs::create_dir_all(&building)
        .with_context(|| format!("cannot create {}", building.display()))?;
    for name in PINS {
        fs::copy(folder.join(name), building.join(name))
            .with_context(|| format!("cannot copy {name}"))?;
    }
    run_npm(&building)?;
    keep(&building, &tree)?;
    Ok(tree)
}

/// Names the tree by its pins. The standard hasher serves: a folder name in a cache needs no protection.
fn fingerprint(folder: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for name in PINS {
        let path = folder.join(name);
        fs::read(&path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
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

/// Moves a whole tree to its name. Another run may have been faster: then its tree, from the same pins, stays.
fn keep(building: &Path, tree: &Path) -> Result<()> {
    match fs::rename(building, tree) {
        Ok(()) => Ok(()),
        Err(_) if tree.join("node_modules").is_dir() => fs::remove_dir_all(building)
            .with_context(|| format!("cannot remove {}", building.display())),
        Err(error) => Err(error).with_context(|| format!("cannot rename {}", building.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_lock_file_is_another_tree() {
        let folder = std::env::temp_dir().join(format!("hearth-npm-pins-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("package.json"), "{}").unwrap();
        fs::write(folder.join("package-lock.json"), "{}").unwrap();
        let first = fingerprint(&folder).unwrap();
        assert_eq!(first, fingerprint(&folder).unwrap());
        fs::write(folder.join("package-lock.json"), "{ }").unwrap();
        assert_ne!(first, fingerprint(&folder).unwrap());
        fs::remove_dir_all(&folder).unwrap();
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
