//! The benchmark `training`: steps of training beside PyTorch on the same cores, as a share of what the matrix product
//! gives, and what exactness costs.
//!
//! Both programs are up at once and compute in turn, a few steps each, so that whatever else the machine does befalls both.
//! Threads of PyTorch that wait for each other take processor time, more of it on a busy machine; so the two are
//! compared on one thread each as well, by processor time, where nobody waits.
//! PyTorch is fetched from PyPI by its pinned hashes; with `--smoke` it is asked only where it is there already.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Figure, figure, median};
use crate::{python, workspace};

/// A model, how many steps are taken at a time, and the share of the peak that is wanted.
struct Case {
    name: &'static str,
    steps: u32,
    /// Rounds that count: fewer where they take long.
    rounds: usize,
    share: Option<f64>,
    /// Whether PyTorch has it too.
    beside: bool,
}

const CASES: [Case; 5] = [
    Case {
        name: "1M",
        steps: 3,
        rounds: 7,
        share: Some(0.50),
        beside: true,
    },
    Case {
        name: "1M Muon",
        steps: 3,
        rounds: 7,
        share: None,
        beside: false,
    },
    Case {
        name: "10M",
        steps: 1,
        rounds: 7,
        share: Some(0.65),
        beside: true,
    },
    Case {
        name: "50M",
        steps: 1,
        rounds: 3,
        share: Some(0.75),
        beside: true,
    },
    Case {
        name: "lora",
        steps: 1,
        rounds: 3,
        share: None,
        beside: true,
    },
];

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
            let rounds = if smoke { 1 } else { case.rounds };
            let pair = Pair {
                root: &root,
                program: &program,
                torch: torch.as_deref(),
            };
            figures.extend(pair.measure(&case, rounds)?);
        }
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    if let Some(Ok(load)) = load.split(' ').nth(2).map(str::parse) {
        let note = "threads that computed or wanted to in the last 15 minutes, those of the bench among them";
        figures.push(figure("load of the machine", load, "threads", note));
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

/// The two programs.
struct Pair<'a> {
    root: &'a Path,
    program: &'a Path,
    torch: Option<&'a Path>,
}

impl Pair<'_> {
    /// Measures a model with all threads, then on one.
    fn measure(&self, case: &Case, rounds: usize) -> Result<Vec<Figure>> {
        let cores = thread::available_parallelism()?.get();
        let mut figures = Vec::new();
        let race = self.race(case, rounds, cores)?;
        figures.extend(race.own_figures(case));
        if let Some(torch) = &race.torch {
            figures.extend(race.beside(case, torch, true));
            let alone = self.race(case, rounds, 1)?;
            let torch = alone
                .torch
                .as_ref()
                .context("PyTorch has no thread to run on")?;
            figures.extend(alone.beside(case, torch, false));
        }
        Ok(figures)
    }

    /// Lets both take steps in turn.
    fn race(&self, case: &Case, rounds: usize, threads: usize) -> Result<Race> {
        let count = threads.to_string();
        let mut command = Command::new(self.program);
        command.args(["--serve", case.name, "--threads", &count]);
        let mut ours = Asked::start(&mut command)?;
        let environment = self.torch.filter(|_| case.beside);
        let mut torch = environment.and_then(|environment| {
            // What it compiles is faster than what it does step by step, where there is a compiler.
            let modes = ["compiled", "eager"].into_iter();
            let mut started = modes
                .filter_map(|mode| Asked::torch(self.root, environment, [case.name, &count, mode]));
            Some((started.next()?, Taken::default()))
        });
        let tokens = read(&ours.hello, "step_tokens")? * f64::from(case.steps);
        let operations = tokens * read(&ours.hello, "token_operations")?;
        let mut race = Race {
            what: format!(
                "{}: {}",
                case.name,
                ours.hello["what"].as_str().unwrap_or_default()
            ),
            tokens,
            threads,
            own: Taken::default(),
            shares: [Vec::new(), Vec::new()],
            torch: None,
        };
        for _ in 0..rounds {
            let said = ours.ask(case.steps)?;
            race.own.add(&said)?;
            let [by_clock, by_processor] = &mut race.shares;
            by_clock.push(operations / read(&said, "clock_s")? / read(&said, "peak")?);
            by_processor.push(operations / read(&said, "computed_s")? / read(&said, "peak_alone")?);
            if let Some((asked, taken)) = &mut torch {
                taken.add(&asked.ask(case.steps)?)?;
            }
        }
        race.torch = torch;
        Ok(race)
    }
}

/// What both took.
struct Race {
    what: String,
    tokens: f64,
    threads: usize,
    own: Taken,
    /// Shares of the peak, by the clock and by processor time.
    shares: [Vec<f64>; 2],
    torch: Option<(Asked, Taken)>,
}

impl Race {
    fn speed(&self, seconds: &[f64]) -> f64 {
        median(seconds.iter().map(|seconds| self.tokens / seconds))
    }

    fn own_figures(&self, case: &Case) -> Vec<Figure> {
        let rounds = self.own.clock_s.len();
        let note = format!("{}; median of {rounds} rounds", self.what);
        let wanted = case.share.map_or(note.clone(), |share| {
            format!("{note}; target {share:.2} or more")
        });
        let share = |of: usize| median(self.shares[of].iter().copied());
        let by_processor = "share of the peak, by processor time";
        vec![
            figure("training", self.speed(&self.own.clock_s), "tokens/s", &note),
            figure("share of the matrix product's peak", share(0), "", &wanted),
            figure(by_processor, share(1), "", &wanted),
        ]
    }

    /// The figures that compare, by the clock or by processor time.
    fn beside(&self, case: &Case, (asked, other): &(Asked, Taken), by_clock: bool) -> Vec<Figure> {
        let note = format!(
            "{}: PyTorch {}, {}, threads of each: {}; median of {} rounds, in turn",
            case.name,
            asked.hello["version"].as_str().unwrap_or_default(),
            asked.mode,
            self.threads,
            self.own.clock_s.len()
        );
        let (how, ours, theirs) = match by_clock {
            true => ("by the clock", &self.own.clock_s, &other.clock_s),
            false => ("by processor time", &self.own.computed_s, &other.computed_s),
        };
        let ratio = median(theirs.iter().zip(ours).map(|(theirs, ours)| theirs / ours));
        let wanted = format!("{note}; target 1.0 or more, 1.5 aimed at");
        let name = format!("training against PyTorch, {how}");
        vec![
            figure(
                &format!("PyTorch, {how}"),
                self.speed(theirs),
                "tokens/s",
                &note,
            ),
            figure(&name, ratio, "ratio", &wanted),
        ]
    }
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

    /// Starts PyTorch without anybody's settings of threads; nothing where this mode does not run
    /// on this machine, which the compiled one needs a C++ compiler for.
    fn torch(root: &Path, environment: &Path, arguments: [&str; 3]) -> Option<Self> {
        let python: PathBuf = environment.join("bin/python");
        let mut command = Command::new(python);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let tunes = ["OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_"];
            if tunes.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.arg(root.join(SCRIPT)).args(arguments);
        let [_, _, mode] = arguments;
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
