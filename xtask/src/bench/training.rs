//! The benchmark `training`: steps of training beside PyTorch on the same cores, as a share of what the matrix product
//! gives, and what exactness costs.
//!
//! Both programs are up at once and compute in turn, a few steps each, so that whatever else the machine does befalls both.
//! PyTorch is fetched from PyPI by its pinned hashes; with `--smoke` it is asked only where it is there already.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Figure, figure, median};
use crate::{python, workspace};

/// A model, how many steps are taken at a time, and the share of the peak that is wanted.
struct Case {
    name: &'static str,
    steps: u32,
    share: Option<f64>,
    /// Whether PyTorch has it too.
    beside: bool,
}

const CASES: [Case; 5] = [
    Case {
        name: "1M",
        steps: 3,
        share: Some(0.50),
        beside: true,
    },
    Case {
        name: "1M Muon",
        steps: 3,
        share: None,
        beside: false,
    },
    Case {
        name: "10M",
        steps: 1,
        share: Some(0.65),
        beside: true,
    },
    Case {
        name: "50M",
        steps: 1,
        share: Some(0.75),
        beside: true,
    },
    Case {
        name: "lora",
        steps: 1,
        share: None,
        beside: true,
    },
];

/// Rounds that count.
const ROUNDS: usize = 7;
/// What PyTorch is pinned by.
const REQUIREMENTS: &str = "xtask/tools/torch.txt";
/// Its side of the benchmark.
const SCRIPT: &str = "crates/training/reference/bench_torch.py";

/// Runs the benchmark.
pub(super) fn run(smoke: bool) -> Result<Vec<Figure>> {
    let root = workspace::root()?;
    let program = workspace::build_one(&root, "--example", "speed")?;
    let requirements = root.join(REQUIREMENTS);
    let torch = if smoke {
        python::installed(&requirements)?
    } else {
        Some(python::install(&requirements)?)
    };
    let mut figures = products(&program, smoke)?;
    for case in CASES {
        if !smoke || case.name == "1M" {
            let rounds = if smoke { 1 } else { ROUNDS };
            figures.extend(measure(&root, &program, torch.as_deref(), &case, rounds)?);
        }
    }
    Ok(figures)
}

/// Products alone: the peak, and what the order of their additions costs.
fn products(program: &Path, smoke: bool) -> Result<Vec<Figure>> {
    let mut command = Command::new(program);
    command.arg("--products").args(smoke.then_some("--smoke"));
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("`{}` failed", workspace::shown(&command));
    }
    super::figures(&String::from_utf8(output.stdout)?)
}

/// What was found of a program in each round.
#[derive(Default)]
struct Taken {
    clock_s: Vec<f64>,
    computed_s: Vec<f64>,
}

impl Taken {
    fn add(&mut self, said: &Value) -> Result<()> {
        self.clock_s.push(read(said, "clock_s")?);
        self.computed_s.push(read(said, "computed_s")?);
        Ok(())
    }
}

fn measure(
    root: &Path,
    program: &Path,
    torch: Option<&Path>,
    case: &Case,
    rounds: usize,
) -> Result<Vec<Figure>> {
    let mut ours = Asked::start(Command::new(program).args(["--serve", case.name]))?;
    let mut theirs = Vec::new();
    for mode in ["eager", "compiled"] {
        if let Some(torch) = torch.filter(|_| case.beside) {
            theirs.extend(Asked::torch(root, torch, case.name, mode));
        }
    }
    let (mut own, mut shares, mut computed_shares) = (Taken::default(), Vec::new(), Vec::new());
    let mut others: Vec<Taken> = theirs.iter().map(|_| Taken::default()).collect();
    let tokens = read(&ours.hello, "step_tokens")? * f64::from(case.steps);
    let operations = tokens * read(&ours.hello, "token_operations")?;
    for _ in 0..rounds {
        let said = ours.ask(case.steps)?;
        own.add(&said)?;
        shares.push(operations / read(&said, "clock_s")? / read(&said, "peak")?);
        computed_shares.push(operations / read(&said, "computed_s")? / read(&said, "peak_alone")?);
        for (other, taken) in theirs.iter_mut().zip(&mut others) {
            taken.add(&other.ask(case.steps)?)?;
        }
    }
    let what = ours.hello["what"].as_str().unwrap_or_default();
    let note = format!("{}: {what}; median of {rounds} rounds", case.name);
    let speed = |seconds: &[f64]| median(seconds.iter().map(|seconds| tokens / seconds));
    let mut figures = vec![
        figure("training", speed(&own.clock_s), "tokens/s", &note),
        figure(
            "training, for each processor second",
            speed(&own.computed_s),
            "tokens/s",
            &note,
        ),
    ];
    let wanted = case.share.map_or(note.clone(), |share| {
        format!("{note}; target {share:.2} or more")
    });
    let by_clock = "share of the matrix product's peak";
    figures.push(figure(by_clock, median(shares), "", &wanted));
    let by_processor = "share of the peak, by processor time";
    figures.push(figure(by_processor, median(computed_shares), "", &wanted));
    if let Some((best, other)) = fastest(&theirs, &others) {
        figures.extend(beside(case, best, &own, other, tokens));
    }
    Ok(figures)
}

/// Chooses the mode in which PyTorch takes the least processor time.
fn fastest<'a>(theirs: &'a [Asked], taken: &'a [Taken]) -> Option<(&'a Asked, &'a Taken)> {
    let middle = |taken: &Taken| median(taken.computed_s.iter().copied());
    theirs
        .iter()
        .zip(taken)
        .min_by(|(_, a), (_, b)| middle(a).total_cmp(&middle(b)))
}

/// The figures that compare.
fn beside(case: &Case, asked: &Asked, own: &Taken, other: &Taken, tokens: f64) -> Vec<Figure> {
    let version = asked.hello["version"].as_str().unwrap_or_default();
    let threads = asked.hello["threads"].as_u64().unwrap_or_default();
    let note = format!(
        "{}: PyTorch {version}, {}, {threads} threads; median of {} rounds, in turn",
        case.name,
        asked.mode,
        own.clock_s.len()
    );
    let ratio = |theirs: &[f64], ours: &[f64]| {
        median(theirs.iter().zip(ours).map(|(theirs, ours)| theirs / ours))
    };
    let speed = |seconds: &[f64]| median(seconds.iter().map(|seconds| tokens / seconds));
    let wanted = format!("{note}; target 1.0 or more, 1.5 aimed at");
    vec![
        figure("PyTorch", speed(&other.clock_s), "tokens/s", &note),
        figure(
            "PyTorch, for each processor second",
            speed(&other.computed_s),
            "tokens/s",
            &note,
        ),
        figure(
            "training against PyTorch",
            ratio(&other.clock_s, &own.clock_s),
            "ratio",
            &wanted,
        ),
        figure(
            "training against PyTorch, by processor time",
            ratio(&other.computed_s, &own.computed_s),
            "ratio",
            &wanted,
        ),
    ]
}

fn read(said: &Value, name: &str) -> Result<f64> {
    said[name]
        .as_f64()
        .with_context(|| format!("{name} is missing"))
}

/// A program that answers a line with a line.
struct Asked {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// What it said first.
    hello: Value,
    mode: String,
}

impl Asked {
    fn start(command: &mut Command) -> Result<Self> {
        let shown = workspace::shown(command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        let input = child.stdin.take().context("a child has an input")?;
        let output = child.stdout.take().context("a child has an output")?;
        let mut asked = Self {
            child,
            input,
            output: BufReader::new(output),
            hello: Value::Null,
            mode: String::new(),
        };
        asked.hello = asked.line().with_context(|| format!("`{shown}`"))?;
        Ok(asked)
    }

    /// Starts PyTorch with one thread for each core and without anybody's settings; nothing where this mode does not run
    /// on this machine, which the compiled one needs a C++ compiler for.
    fn torch(root: &Path, environment: &Path, name: &str, mode: &str) -> Option<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let python: PathBuf = environment.join("bin/python");
        let mut command = Command::new(python);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let tunes = ["OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_"];
            if tunes.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command
            .arg(root.join(SCRIPT))
            .args([name, &cores.to_string(), mode]);
        match Self::start(&mut command) {
            Ok(mut asked) => {
                mode.clone_into(&mut asked.mode);
                Some(asked)
            }
            Err(error) => {
                eprintln!("PyTorch, {mode}, is left out: {error:#}");
                None
            }
        }
    }

    fn ask(&mut self, steps: u32) -> Result<Value> {
        writeln!(self.input, "{steps}")?;
        self.line()
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("the program ended");
        }
        serde_json::from_str(&line).context("the program gave no figures")
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
