//! The benchmark `footprint`: what a device takes that does nothing, and how soon it answers.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::{Figure, figure, median};
use crate::households::{Household, MODEL, Program, Up, ask_openai, question};
use crate::{model, workspace};

/// Starts that count.
const STARTS: u64 = 7;
/// Writing here makes Linux forget what it has read of files.
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Runs the benchmark.
pub(super) fn run(smoke: bool) -> Result<Vec<Figure>> {
    let root = workspace::root()?;
    let folder = std::env::temp_dir().join(format!("hearth-footprint-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let figures = measure(&root, &folder, if smoke { 1 } else { STARTS });
    fs::remove_dir_all(&folder)?;
    figures
}

fn measure(root: &Path, folder: &Path, starts: u64) -> Result<Vec<Figure>> {
    let hearth = workspace::build_one(root, "--bin", "hearth")?;
    let file = model::fetch(root)?;
    let named = |name: &str| Household::new(&hearth, folder.join(name));
    let mut figures = vec![program_size(&hearth, folder)?];

    let bare = named("bare");
    let account = bare.new_wallet()?;
    let (chain, url) = named("chain").run_chain(&account, "1")?;
    bare.configure(&url, &[])?;
    let up = Up::start("a device without a model", bare, &[], &[])?;
    // Once around all that answers, so that nothing is yet to be set up.
    up.household.ask(&["offers"])?;
    up.household.ask(&["models"])?;
    let note = "target under 100; a chain configured, no model";
    figures.push(resident(&up.program, "memory at rest", note)?);
    drop(up);

    let with_model = named("model");
    with_model.new_wallet()?;
    with_model.configure(&url, &[])?;
    with_model.serve_model(&file, MODEL, "TESTUSD", ("20", "60"))?;
    let mut household = with_model;
    let mut warm = Vec::new();
    for _ in 0..starts {
        let (seconds, up) = first_answer(household)?;
        warm.push(seconds);
        household = up.stop()?;
    }
    let note = format!("target under 3; files in memory; median of {starts} starts");
    figures.push(figure("start to first token", median(warm), "s", &note));
    if fs::write(DROP_CACHES, "3").is_ok() {
        let (seconds, up) = first_answer(household)?;
        let note = "target under 3; nothing of any file in memory; one start";
        figures.push(figure("start to first token, cold", seconds, "s", note));
        let note = "the 94 MiB test model, four answers of 8,192 tokens at a time";
        figures.push(resident(&up.program, "memory with a model", note)?);
    }
    drop(chain);
    Ok(figures)
}

/// Seconds from the start of the program to the first token that a client hears.
fn first_answer(household: Household) -> Result<(f64, Up)> {
    let started = Instant::now();
    let up = Up::start("a device with a model", household, &[], &[])?;
    let ready_s = started.elapsed().as_secs_f64();
    let heard = ask_openai(&up.url, &question("What is a hearth?", 1), |_| Ok(()))?;
    let first_s = heard.first_s.context("an answer has a first token")?;
    Ok((ready_s + first_s, up))
}

/// What of a program is in memory, shared with others or not.
fn resident(program: &Program, name: &str, note: &str) -> Result<Figure> {
    let path = format!("/proc/{}/status", program.id());
    let status = fs::read_to_string(path).context("memory is measured on Linux only")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    let kib = kib.context("Linux says what is resident")?;
    Ok(figure(name, kib * 1_024.0 / 1e6, "MB", note))
}

/// The size of the program without what only a debugger reads.
fn program_size(hearth: &Path, folder: &Path) -> Result<Figure> {
    let stripped = folder.join("stripped");
    let status = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(hearth)
        .status()
        .context("cannot run strip")?;
    ensure!(status.success(), "strip failed");
    let bytes = fs::metadata(&stripped)?.len();
    let note = "the profile of tests, stripped";
    Ok(figure("program", bytes as f64 / 1e6, "MB", note))
}
