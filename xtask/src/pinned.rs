//! Trees of outside programs in the cache folder, each named by the files that pin it.
//!
//! A tree is named by the hash of its pins, so that a changed pin installs beside the old tree and a second run installs
//! nothing. It is built under a name of its own and renamed when it is whole: a run that is killed leaves no half tree
//! that the next run would trust. Does not know what is inside a tree (`npm` and `python` do).

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace;

/// Returns the tree of `kind` that `pins` name, built by `build` in an empty folder if it is not there yet.
///
/// # Errors
/// A pin cannot be read, `build` fails, or the cache folder cannot be written.
pub(crate) fn tree(
    kind: &str,
    pins: &[PathBuf],
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    if let Some(tree) = there(kind, pins)? {
        return Ok(tree);
    }
    let tree = named(kind, pins)?;
    let cache = workspace::cache()?;
    let building = cache.join(format!("{kind}-building-{}", std::process::id()));
    if building.exists() {
        fs::remove_dir_all(&building)
            .with_context(|| format!("cannot remove {}", building.display()))?;
    }
    fs::create_dir_all(&building)
        .with_context(|| format!("cannot create {}", building.display()))?;
    build(&building)?;
    keep(&building, &tree)?;
    Ok(tree)
}

/// Returns the tree of `kind` that `pins` name, where it was built before.
///
/// # Errors
/// A pin cannot be read.
pub(crate) fn there(kind: &str, pins: &[PathBuf]) -> Result<Option<PathBuf>> {
    Ok(Some(named(kind, pins)?).filter(|tree| tree.is_dir()))
}

fn named(kind: &str, pins: &[PathBuf]) -> Result<PathBuf> {
    Ok(workspace::cache()?.join(format!("{kind}-{}", fingerprint(pins)?)))
}

/// Names a tree by its pins. The standard hasher serves: a folder name in a cache needs no protection.
fn fingerprint(pins: &[PathBuf]) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for path in pins {
        fs::read(path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// Moves a whole tree to its name. Another run may have been faster: then its tree, from the same pins, stays.
fn keep(building: &Path, tree: &Path) -> Result<()> {
    match fs::rename(building, tree) {
        Ok(()) => Ok(()),
        Err(_) if tree.is_dir() => fs::remove_dir_all(building)
            .with_context(|| format!("cannot remove {}", building.display())),
        Err(error) => Err(error).with_context(|| format!("cannot rename {}", building.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_pin_is_another_tree() {
        let folder = tempfile::tempdir().unwrap();
        let pins = [folder.path().join("pins")];
        fs::write(&pins[0], "{}").unwrap();
        let first = fingerprint(&pins).unwrap();
        assert_eq!(first, fingerprint(&pins).unwrap());
        fs::write(&pins[0], "{ }").unwrap();
        assert_ne!(first, fingerprint(&pins).unwrap());
    }

    #[test]
    fn a_missing_pin_is_named() {
        let missing = [PathBuf::from("/nonexistent/folder/pins")];
        let error = tree("test", &missing, |_| Ok(())).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/folder/pins"),
            "{error:#}"
        );
    }

    #[test]
    fn the_slower_of_two_runs_keeps_the_tree_of_the_faster() {
        let folder = tempfile::tempdir().unwrap();
        let (slow, done) = (folder.path().join("slow"), folder.path().join("done"));
        for (tree, text) in [(&slow, "slow"), (&done, "fast")] {
            fs::create_dir(tree).unwrap();
            fs::write(tree.join("whose"), text).unwrap();
        }
        keep(&slow, &done).unwrap();
        assert_eq!(fs::read_to_string(done.join("whose")).unwrap(), "fast");
        assert!(!slow.exists());
    }
}
