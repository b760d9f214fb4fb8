//! Whether this machine can make network namespaces, in which nodes are tested over bad lines.
//!
//! It is tried, not guessed: containers often have root without the right to do this. What was made is
//! removed at once. The namespaces that are used, and the lines between them, are made by
//! `tests/outside/python/link.py`, which delays and drops frames itself: not every kernel can.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// The tests that need them, as a module of the tests of `hearth-cli`.
pub(crate) const TESTS: &str = "namespaces::";

/// Where Linux makes Ethernet devices for programs.
const TUN: &str = "/dev/net/tun";

/// Why there can be none; nothing if there can.
pub(crate) fn missing() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("only Linux has them".to_owned());
    }
    if !Path::new(TUN).exists() {
        return Some(format!("this system has no {TUN}"));
    }
    let name = format!("hearth-probe-{}", std::process::id());
    let ip = |words: &[&str]| Command::new("ip").args(words).output();
    let made = match ip(&["netns", "add", &name]) {
        Err(_) => return Some("ip of iproute2 is not installed".to_owned()),
        Ok(made) => made,
    };
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        let reason = said.lines().next().unwrap_or("it is not allowed");
        return Some(format!("this user may not make them: {reason}"));
    }
    // A device can be made in it only where the kernel lets this user.
    let tap = ["-n", &name, "tuntap", "add", "dev", "probe", "mode", "tap"];
    let can = ip(&tap).is_ok_and(|output| output.status.success());
    // What stays behind if this fails is an empty namespace, which harms nobody.
    drop(ip(&["netns", "delete", &name]));
    (!can).then(|| "this user may not make Ethernet devices in them".to_owned())
}

/// How bad a line is, for what its household sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    /// How long every frame is delayed, in milliseconds.
    pub(crate) delay_ms: u64,
    /// What it carries, in bits a second.
    pub(crate) bits_per_s: u64,
}

/// Households in network namespaces, and the lines between them; all of it is removed when this is dropped.
pub(crate) struct Lines {
    switch: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    namespaces: Value,
}

impl Lines {
    /// Makes a namespace for each household, with perfect lines between all of them.
    ///
    /// # Errors
    /// Python is missing, or this machine cannot make namespaces ([`missing`]).
    pub(crate) fn open(root: &Path, households: &[&str]) -> Result<Self> {
        // No frame is lost by chance, so the seed decides nothing.
        let config = json!({ "households": households, "seed": 0 });
        let mut switch = Command::new("python3")
            .arg(root.join("tests/outside/python/link.py"))
            .arg(config.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start python3")?;
        let output = switch.stdout.take().context("the output was asked for")?;
        let mut lines = Self {
            input: switch.stdin.take(),
            output: BufReader::new(output),
            switch,
            namespaces: Value::Null,
        };
        lines.namespaces = lines.heard("ready")?["ready"].clone();
        Ok(lines)
    }

    /// The namespace of a household.
    pub(crate) fn namespace(&self, household: &str) -> Result<&str> {
        let namespace = self.namespaces[household]["namespace"].as_str();
        namespace.with_context(|| format!("{household} has no namespace"))
    }

    /// Makes a household's line as bad as that.
    pub(crate) fn set(&mut self, household: &str, line: Line) -> Result<()> {
        let Line {
            delay_ms,
            bits_per_s,
        } = line;
        let command = json!({ "line": household, "delay_ms": delay_ms, "bits_per_s": bits_per_s });
        let input = self.input.as_mut().context("the input is open")?;
        writeln!(input, "{command}").context("the lines read no more")?;
        self.heard("set").map(drop)
    }

    /// The next line that it prints, which has `key`.
    fn heard(&mut self, key: &str) -> Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let heard: Value = serde_json::from_str(&line)
            .with_context(|| format!("the lines printed {line:?} and not {key}"))?;
        ensure!(!heard[key].is_null(), "the lines printed {line}");
        Ok(heard)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // It removes everything once its input has ended.
        drop(self.input.take());
        drop(self.switch.wait());
    }
}
