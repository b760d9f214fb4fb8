//! Room on the disk for a run of every check.
//!
//! A disk that fills up in the middle of a run fails whatever happens to write then, and the message names the wrong thing.
//! So a run looks first. Where the room is short, what earlier runs compiled is given up, but only in the cache folder, which
//! belongs to this repository alone.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

const GIB: u64 = 1 << 30;
/// What compiled files, fetched programs and the tests' own files take at the end of a run that began with nothing.
const RUN_BYTES: u64 = 14 * GIB;
/// What a run writes over again where everything was compiled before.
const RERUN_BYTES: u64 = 4 * GIB;

/// What is to be done about the room.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// There is enough.
    GoOn,
    /// There is enough once the compiled files are gone.
    Clear,
    /// Only the user can make room.
    Ask,
}

/// Decides from the bytes that are free, those of the compiled files, and whether these may be removed.
fn next_step(free: u64, compiled: u64, may_remove: bool) -> Step {
    let wanted = RUN_BYTES.saturating_sub(compiled).max(RERUN_BYTES);
    if free >= wanted {
        Step::GoOn
    } else if may_remove && free.saturating_add(compiled) >= RUN_BYTES {
        Step::Clear
    } else {
        Step::Ask
    }
}

/// Sees to it that the disk of the compiled files has room for a run.
///
/// # Errors
/// It has not, and removing what earlier runs compiled would not help; the text says what would.
pub(crate) fn make(root: &Path) -> Result<()> {
    let target = target_folder(root);
    let cache = workspace::cache()?;
    fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
    let (free, compiled) = (free_bytes(&target)?, size_bytes(&target));
    println!(
        "{} free, {} compiled before in {}",
        gib(free),
        gib(compiled),
        target.display()
    );
    match next_step(free, compiled, target.starts_with(&cache)) {
        Step::GoOn => Ok(()),
        Step::Clear => {
            println!(
                "removing what was compiled before: a run needs {}",
                gib(RUN_BYTES)
            );
            // The folder itself stays: it may be a link, or a place that the user made.
            for entry in fs::read_dir(&target)?.flatten() {
                let path = entry.path();
                let removed = match entry.file_type() {
                    Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
                    _ => fs::remove_file(&path),
                };
                removed.with_context(|| format!("cannot remove {}", path.display()))?;
            }
            Ok(())
        }
        Step::Ask => bail!(
            "a run of every check takes up to {} and {} are free: free some, or set CARGO_TARGET_DIR to a folder of a larger disk",
            gib(RUN_BYTES),
            gib(free)
        ),
    }
}

fn target_folder(root: &Path) -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => root.join(folder),
        None => root.join("target"),
    }
}

fn free_bytes(folder: &Path) -> Result<u64> {
    let disk = rustix::fs::statvfs(folder)
        .with_context(|| format!("cannot ask how much room {} has", folder.display()))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The bytes of all files below a folder; what cannot be read counts nothing.
fn size_bytes(folder: &Path) -> u64 {
    let mut bytes = 0_u64;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            // Links are not followed, so that none leads in a circle.
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => bytes = bytes.saturating_add(found.len()),
                Err(_) => {}
            }
        }
    }
    bytes
}

fn gib(bytes: u64) -> String {
    format!("{}.{} GiB", bytes / GIB, bytes % GIB * 10 / GIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_on_where_it_fits_and_clears_only_what_makes_it_fit() {
        for (free_gib, compiled_gib, may_remove, expected) in [
            (40, 0, true, Step::GoOn),
            (4, 13, true, Step::GoOn),
            // Folders that grew over many runs are given up when little is left.
            (1, 60, true, Step::Clear),
            (1, 60, false, Step::Ask),
            // A build that was broken off is not enough to go on with.
            (9, 4, true, Step::Ask),
            (10, 4, true, Step::GoOn),
            (9, 5, true, Step::GoOn),
            (0, 13, true, Step::Ask),
            (3, 11, true, Step::Clear),
        ] {
            let step = next_step(free_gib * GIB, compiled_gib * GIB, may_remove);
            assert_eq!(step, expected, "{free_gib} free, {compiled_gib} compiled");
        }
    }

    #[test]
    fn the_size_of_a_folder_is_that_of_its_files_and_not_of_what_links_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let deep = folder.path().join("a/b");
        fs::create_dir_all(&deep).expect("created");
        fs::write(deep.join("one"), [0; 700]).expect("written");
        fs::write(folder.path().join("two"), [0; 300]).expect("written");
        #[cfg(unix)]
        std::os::unix::fs::symlink(folder.path(), deep.join("circle")).expect("linked");
        let bytes = size_bytes(folder.path());
        assert!((1_000..1_300).contains(&bytes), "{bytes}");
        assert!(free_bytes(folder.path()).expect("asked") > 0);
    }
}
