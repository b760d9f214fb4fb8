//! A run of several checks: each has a name, a time, and a command that repeats it alone; the last line
//! says what became of the run and what was left out of it.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::workspace;

/// The account of one run, kept while it goes on.
#[derive(Debug)]
pub(crate) struct Phases {
    task: &'static str,
    started: Instant,
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Phases {
    /// Begins a run; `task` is the command the user gave.
    pub(crate) fn new(task: &'static str) -> Self {
        Self {
            task,
            started: Instant::now(),
            passed: 0,
            failed: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Runs one check. `again` is the command that repeats it alone. A failure is printed and counted,
    /// and the run goes on until [`Phases::stop_if_failed`].
    pub(crate) fn step(&mut self, name: &str, again: &str, check: impl FnOnce() -> Result<()>) {
        println!("\n=== {name}");
        let started = Instant::now();
        let outcome = check();
        let seconds = started.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("--- {name}: {seconds:.1} s");
            }
            Err(error) => {
                self.failed.push(name.to_owned());
                println!("--- {name} FAILED after {seconds:.1} s: {error:#}\n    again: {again}");
            }
        }
    }

    /// Runs one check that is a single command, which is also how to repeat it.
    pub(crate) fn command(&mut self, name: &str, command: &mut Command) {
        let again = workspace::shown(command);
        self.step(name, &again, || workspace::run(command));
    }

    /// Leaves a check out; the last line will say so.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        println!("\n=== {name}: skipped ({why})");
        self.skipped.push(format!("{name} ({why})"));
    }

    /// Ends the run here when something failed: what follows would take long and fail as well.
    pub(crate) fn stop_if_failed(&mut self) -> Result<()> {
        if self.failed.is_empty() {
            return Ok(());
        }
        self.skipped.push("everything after it".to_owned());
        self.end()
    }

    /// Prints the last line, and fails when a check did.
    pub(crate) fn end(&self) -> Result<()> {
        let (passed, line) = self.last_line(self.started.elapsed());
        if passed {
            println!("\n{line}");
            return Ok(());
        }
        bail!("{line}")
    }

    fn last_line(&self, elapsed: Duration) -> (bool, String) {
        let outcome = match self.failed.as_slice() {
            [] => format!("{} checks passed", self.passed),
            failed => format!("FAILED: {}", failed.join(", ")),
        };
        let skipped = match self.skipped.as_slice() {
            [] => "nothing was skipped".to_owned(),
            skipped => format!("skipped: {}", skipped.join("; ")),
        };
        let line = format!(
            "{}: {outcome} in {} s; {skipped}",
            self.task,
            elapsed.as_secs()
        );
        (self.failed.is_empty(), line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELAPSED: Duration = Duration::from_secs(5);

    #[test]
    fn the_last_line_says_what_was_skipped_and_why() {
        let mut phases = Phases::new("cargo xtask test");
        phases.command("one", &mut Command::new("true"));
        let (passed, line) = phases.last_line(ELAPSED);
        assert!(passed);
        assert_eq!(
            line,
            "cargo xtask test: 1 checks passed in 5 s; nothing was skipped"
        );
        phases.skip("two", "no network");
        let (_, line) = phases.last_line(ELAPSED);
        assert_eq!(
            line,
            "cargo xtask test: 1 checks passed in 5 s; skipped: two (no network)"
        );
    }

    #[test]
    fn a_failed_check_fails_the_run_by_name() {
        let mut phases = Phases::new("cargo xtask test");
        phases.command("one", &mut Command::new("false"));
        phases.command("two", &mut Command::new("true"));
        let error = phases.stop_if_failed().expect_err("one failed");
        assert!(error.to_string().contains("FAILED: one in 0 s"), "{error}");
        assert!(
            error.to_string().ends_with("skipped: everything after it"),
            "{error}"
        );
    }
}
