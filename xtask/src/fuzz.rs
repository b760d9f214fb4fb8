//! `cargo xtask fuzz`: coverage-guided fuzzing of every decoder, for a bounded time, on stable Rust.
//!
//! libFuzzer needs nothing of nightly Rust but a sanitizer, and safe code gains little from one. The
//! crates of this workspace are compiled with coverage counters by a wrapper around rustc
//! (`fuzz/rustc-with-coverage.sh`); the libraries below them are those of the ordinary build, so that
//! they compile once. The targets and their seeds are in `fuzz/`, see `fuzz/README.md`.
//!
//! What libFuzzer finds on the way is kept in the cache folder, so that each run begins where the last
//! one stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace;

/// The package that holds the targets, one binary each.
const PACKAGE: &str = "hearth-fuzz";

/// The longest a single input may take, in seconds; a decoder that takes longer can be used to stall us.
const INPUT_SECONDS_MAX: u32 = 5;

/// The most memory a target may take, in MiB.
const MEMORY_MIB_MAX: u32 = 2_048;

/// The longest input that is tried, in bytes: beyond the largest frame that any decoder accepts.
const INPUT_BYTES_MAX: u32 = 131_072;

/// How many lines of a failing run are shown.
const SHOWN_LINES: usize = 40;

/// Fuzzes `target`, or each target, for `seconds` each, as many at once as there are threads.
///
/// # Errors
/// An input made a target fail; the text names the file that holds it and the command that repeats it.
pub(crate) fn run(target: Option<&str>, seconds: u32) -> Result<()> {
    ensure!(seconds > 0, "--seconds must be at least 1");
    let root = workspace::root()?;
    let programs = build(&root)?;
    let chosen: Vec<_> = programs
        .iter()
        .filter(|(name, _)| target.is_none_or(|target| target == name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<_> = programs.iter().map(|(name, _)| name.as_str()).collect();
        bail!("no such target: there are {}", names.join(", "));
    }
    let at_once = thread::available_parallelism()?.get();
    for together in chosen.chunks(at_once) {
        for (name, found) in fuzz_together(&root, together, seconds) {
            let found = found?;
            println!(
                "{name}: {} inputs in {seconds} s, {} edges covered",
                found.inputs, found.edges
            );
        }
    }
    Ok(())
}

/// Fuzzes some targets at the same time.
fn fuzz_together<'a>(
    root: &Path,
    targets: &[&'a (String, PathBuf)],
    seconds: u32,
) -> Vec<(&'a str, Result<Found>)> {
    thread::scope(|scope| {
        let start = |(name, program): &'a (String, PathBuf)| {
            let running = scope.spawn(move || fuzz(root, name, program, seconds));
            (name.as_str(), running)
        };
        let started: Vec<_> = targets.iter().map(|target| start(target)).collect();
        let end = |(name, running): (&'a str, thread::ScopedJoinHandle<'_, _>)| {
            let found = running.join();
            (
                name,
                found.unwrap_or_else(|_| bail!("fuzzing {name} panicked")),
            )
        };
        started.into_iter().map(end).collect()
    })
}

/// Builds every target with coverage counters, and returns their names and programs.
fn build(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let metadata = workspace::metadata(root)?;
    let fuzz = metadata
        .packages
        .iter()
        .find(|package| package.name == PACKAGE);
    let targets = fuzz.context("the fuzz targets are gone")?.targets.iter();
    let names = targets
        .filter(|target| target.kind == ["bin"])
        .flat_map(|target| ["--bin", &target.name]);
    let wrapper = root.join("fuzz/rustc-with-coverage.sh");
    workspace::build(root, names, Some(&wrapper))
}

/// What a run of libFuzzer reported.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    inputs: u64,
    edges: u64,
}

fn fuzz(root: &Path, name: &str, program: &Path, seconds: u32) -> Result<Found> {
    let kept = workspace::cache()?.join("fuzz").join(name);
    let corpus = kept.join("corpus");
    fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    let seeds = root.join("fuzz/corpus").join(name);
    let output = Command::new(program)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-artifact_prefix={}/", kept.display()))
        .arg("-print_final_stats=1")
        .args([&corpus, &seeds])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<&str> = report.lines().collect();
        eprintln!(
            "{}",
            lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
        );
        bail!(
            "the target {name} failed on an input that the lines above name; repeat it with\n    \
             {} FILE\nand, once it is mended, keep the file in fuzz/corpus/{name}/",
            program.display()
        );
    }
    read_report(&report)
        .with_context(|| format!("libFuzzer's report on {name} makes no sense:\n{report}"))
}

/// Reads libFuzzer's report. A target without counters, or one that ran nothing, proves nothing and is
/// an error.
fn read_report(report: &str) -> Result<Found> {
    ensure!(
        report.contains("inline 8-bit counters"),
        "it was built without coverage counters"
    );
    let inputs = report
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .context("it does not say how many inputs it tried")?;
    let edges = report
        .lines()
        .rev()
        .find_map(|line| line.split_once(" cov: ")?.1.split(' ').next())
        .context("it does not say what it covered")?;
    let found = Found {
        inputs: inputs.trim().parse()?,
        edges: edges.parse()?,
    };
    ensure!(found.inputs > 0 && found.edges > 0, "it tried nothing");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "INFO: Loaded 1 modules   (812 inline 8-bit counters): 812 [0x5, 0x6),\n\
        #2\tINITED cov: 37 ft: 38 corp: 1/1b exec/s: 0 rss: 40Mb\n\
        #99\tDONE   cov: 120 ft: 300 corp: 30/900b lim: 8 exec/s: 9 rss: 45Mb\n\
        stat::number_of_executed_units: 99\n";

    #[test]
    fn the_last_coverage_counts() {
        let found = read_report(REPORT).expect("a whole report");
        assert_eq!(
            found,
            Found {
                inputs: 99,
                edges: 120
            }
        );
    }

    #[test]
    fn a_run_that_proves_nothing_is_an_error() {
        for (from, to) in [
            ("inline 8-bit counters", "nothing"),
            ("units: 99", "units: 0"),
            ("stat::number", "stat::other"),
            ("cov: ", "none: "),
        ] {
            assert!(
                read_report(&REPORT.replace(from, to)).is_err(),
                "without {from}"
            );
        }
    }
}
