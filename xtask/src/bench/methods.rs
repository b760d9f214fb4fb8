//! The benchmark `methods`: held-out loss against hours on home links, of a run of Hearth and of the published ways of
//! training apart. The example `methods` of `workshop` computes; here it gets its text and its place.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Figure;
use crate::{plays, workspace};

/// Runs the benchmark. What it has computed is kept in the cache folder, so that one that was stopped goes on.
pub(super) fn run(smoke: bool) -> Result<Vec<Figure>> {
    let root = workspace::root()?;
    let program = workspace::build_one(&root, "--example", "methods")?;
    let text = plays::fetch(&root)?;
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
