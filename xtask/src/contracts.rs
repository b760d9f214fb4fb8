//! `cargo xtask contracts`: builds `contracts/` and writes `contracts/artifacts/`, or compares with what is there and
//! analyzes the sources.
//!
//! The artifacts are checked in, so that a build of Hearth needs Rust alone; this command is how they are made and how
//! CI proves that they still come from these sources with the pinned compiler, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{npm, slither, workspace};

/// solc-js recurses deeply where the optimiser works through its own intermediate language.
const NODE_STACK_KIB: u32 = 8_000;

/// Text of each artifact by its path relative to the artifacts folder.
type Artifacts = BTreeMap<PathBuf, String>;

/// Rebuilds the artifacts and the table of accepted findings; with `check`, changes nothing and fails where a rebuilt file
/// differs from the one there, or where [`slither`] finds what is not accepted.
///
/// # Errors
/// A program is missing, the contracts do not compile, or (with `check`) the artifacts or the findings are out of date.
pub(crate) fn run(check: bool) -> Result<()> {
    let folder = workspace::root()?.join("contracts");
    let packages = npm::install(&folder)?;
    let built = compile(&folder, &packages)?;
    let artifacts = folder.join("artifacts");
    if check {
        let stale = differences(&artifacts, &built)?;
        ensure!(
            stale.is_empty(),
            "contracts/artifacts is out of date ({}); run `cargo xtask contracts` and commit",
            stale.join(", ")
        );
        println!(
            "contracts: {} artifacts rebuilt, all bytes equal",
            built.len()
        );
        return slither::check(&folder, &packages);
    }
    write(&artifacts, &built)?;
    slither::write_table(&folder)?;
    println!("contracts: {} artifacts written", built.len());
    Ok(())
}

fn compile(folder: &Path, packages: &Path) -> Result<Artifacts> {
    let output = Command::new("node")
        .arg(format!("--stack-size={NODE_STACK_KIB}"))
        .arg(folder.join("compile.mjs"))
        .arg(packages)
        .stderr(Stdio::inherit())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("node is not installed; on Debian: apt-get install nodejs npm")
        }
        Err(error) => return Err(error).context("cannot start node"),
    };
    ensure!(
        output.status.success(),
        "the contracts do not compile; the compiler's reasons are above"
    );
    parse(&output.stdout)
}

/// Reads what the compiling script printed.
fn parse(output: &[u8]) -> Result<Artifacts> {
    let built: Artifacts = serde_json::from_slice(output)
        .context("contracts/compile.mjs printed something else than artifacts")?;
    ensure!(!built.is_empty(), "contracts/compile.mjs found no contract");
    Ok(built)
}

fn write(artifacts: &Path, built: &Artifacts) -> Result<()> {
    for (path, text) in built {
        let path = artifacts.join(path);
        let parent = path.parent().context("an artifact has a folder")?;
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for path in present(artifacts)? {
        if !built.contains_key(&path) {
            fs::remove_file(artifacts.join(&path))
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Says for each artifact that is not as it was built whether it is missing, different or left over.
fn differences(artifacts: &Path, built: &Artifacts) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (path, text) in built {
        match fs::read_to_string(artifacts.join(path)) {
            Ok(there) if there == *text => {}
            Ok(_) => found.push(format!("{} differs", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                found.push(format!("{} is missing", path.display()));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        }
    }
    let left_over = present(artifacts)?
        .into_iter()
        .filter(|path| !built.contains_key(path));
    found.extend(left_over.map(|path| format!("{} has no source", path.display())));
    Ok(found)
}

/// The artifacts that are there, two folders deep: those of the product, and those of `test/`.
fn present(artifacts: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for folder in ["", "test"] {
        let Ok(entries) = fs::read_dir(artifacts.join(folder)) else {
            continue;
        };
        for entry in entries {
            let entry = entry.context("cannot list the artifacts")?;
            if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                found.insert(Path::new(folder).join(entry.file_name()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("hearth-artifacts-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn what_was_written_has_no_differences() {
        let folder = folder("same");
        let built = parse(br#"{"A.json":"{\"abi\":[]}\n","test/B.json":"{}\n"}"#).unwrap();
        write(&folder, &built).unwrap();
        assert_eq!(differences(&folder, &built).unwrap(), Vec::<String>::new());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_changed_missing_or_left_over_artifact_is_named() {
        let folder = folder("stale");
        let built = parse(br#"{"A.json":"{\"abi\":[]}\n","test/B.json":"{}\n"}"#).unwrap();
        write(&folder, &built).unwrap();
        fs::write(folder.join("A.json"), "{}").unwrap();
        fs::remove_file(folder.join("test/B.json")).unwrap();
        fs::write(folder.join("test/C.json"), "{}").unwrap();
        let found = differences(&folder, &built).unwrap();
        assert_eq!(
            found,
            [
                "A.json differs",
                "test/B.json is missing",
                "test/C.json has no source"
            ]
        );
        write(&folder, &built).unwrap();
        assert_eq!(differences(&folder, &built).unwrap(), Vec::<String>::new());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn output_that_is_no_set_of_artifacts_is_refused() {
        assert!(parse(b"Warning: something").is_err());
        assert!(parse(b"{}").is_err());
    }
}
