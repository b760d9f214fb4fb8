//! llama.cpp as a bare loop: `bench_engine --bare`, which answers a line with a line.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::model;

/// How fast tokens came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Of all answers together.
    pub(super) tokens_per_s: f64,
    /// To the first token of any answer.
    pub(super) first_ms: f64,
}

/// The loop, in a process of its own.
pub(super) struct Bare {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    prompt_tokens: u64,
}

impl Bare {
    /// Starts it with prompts of some length; `waiting` is a variable that says how its threads wait.
    pub(super) fn start(
        program: &Path,
        model_file: &Path,
        prompt_tokens: u64,
        waiting: Option<(&str, &str)>,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        for name in model::WAITING {
            command.env_remove(name);
        }
        let mut child = command
            .arg("--bare")
            .env(model::VARIABLE, model_file)
            .envs(waiting)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the bare loop")?;
        let input = child.stdin.take().context("a child has an input")?;
        let output = child.stdout.take().context("a child has an output")?;
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
            prompt_tokens,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn run(&mut self, streams: usize, tokens: u64, round: u64) -> Result<Pace> {
        let task = json!({"streams": streams, "tokens": tokens, "sampler": "temperature", "round": round,
                          "prompt_tokens": self.prompt_tokens});
        writeln!(self.input, "{task}")?;
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("the bare loop ended");
        }
        let said: Value = serde_json::from_str(&line).context("the bare loop gave no figures")?;
        let read = |name: &str| said[name].as_f64().context("a figure is missing");
        Ok(Pace {
            tokens_per_s: read("tokens_per_s")?,
            first_ms: read("first_ms")?,
        })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
