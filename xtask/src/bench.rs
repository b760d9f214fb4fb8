//! `cargo xtask bench NAME`: runs a benchmark program and writes what it found to docs/benchmarks.md.
//!
//! A benchmark of a library is an example called `bench_NAME` in any crate. It prints one JSON object a line:
//! `{"name": .., "value": .., "unit": .., "note": ..}` (the note may be left out); whatever else it has
//! to say goes to standard error. A benchmark of whole programs is a module here ([`WHOLE`]). With `--smoke`
//! each does the same in its smallest size: the test suite runs that, so that no benchmark rots, and nothing
//! is written, because small sizes prove nothing.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::model;
use crate::workspace::{self, Metadata};

mod answers;
mod bare;
mod churn;
mod footprint;
mod methods;
mod training;
mod waiting;

/// How the example of a benchmark is called, before its name.
const PREFIX: &str = "bench_";

/// Runs a benchmark of whole programs, in its smallest size or not.
type Whole = fn(bool) -> Result<Vec<Figure>>;

/// The benchmarks of whole programs.
const WHOLE: [(&str, Whole); 6] = [
    ("answers", answers::run),
    ("churn", churn::run),
    ("footprint", footprint::run),
    ("methods", methods::run),
    ("training", training::run),
    ("waiting", waiting::run),
];

/// Where the figures are published, relative to the root.
pub(crate) const DOCUMENT: &str = "docs/benchmarks.md";

const INTRODUCTION: &str = "# Benchmarks\n\n\
    Figures of one machine at one time: compare them with each other, not with another machine's.\n\
    `cargo xtask bench NAME` writes the section called NAME.\n";

/// One measured figure.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Figure {
    name: String,
    value: f64,
    unit: String,
    #[serde(default)]
    note: String,
}

fn figure(name: &str, value: f64, unit: &str, note: &str) -> Figure {
    Figure {
        name: name.to_owned(),
        value,
        unit: unit.to_owned(),
        note: note.to_owned(),
    }
}

/// The middle one; the upper of two.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let [_, middle, _] = quartiles(values);
    middle
}

/// The values below which a quarter, a half and three quarters lie; of two neighbours, the upper one.
fn quartiles(values: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarters| values[values.len() * quarters / 4])
}

/// The names of all benchmarks of the workspace, sorted.
pub(crate) fn names(metadata: &Metadata) -> Vec<String> {
    let whole = WHOLE.iter().map(|(name, _)| *name);
    let mut names: Vec<String> = programs(metadata).chain(whole).map(str::to_owned).collect();
    names.sort();
    names
}

/// The name of every benchmark.
fn programs(metadata: &Metadata) -> impl Iterator<Item = &str> {
    metadata.packages.iter().flat_map(|package| {
        let examples = package
            .targets
            .iter()
            .filter(|target| target.kind == ["example"]);
        examples.filter_map(|target| target.name.strip_prefix(PREFIX))
    })
}

/// Runs the benchmark `name`; unless `smoke`, replaces its section of the document.
///
/// # Errors
/// There is no such benchmark, it fails, or it prints something that is not a figure.
pub(crate) fn run(name: &str, smoke: bool) -> Result<()> {
    let root = workspace::root()?;
    let metadata = workspace::metadata(&root)?;
    let whole = WHOLE.iter().find(|(whole, _)| *whole == name);
    let figures = if let Some((_, measure)) = whole {
        let figures = measure(smoke)?;
        for figure in &figures {
            println!("{}", serde_json::to_string(figure)?);
        }
        figures
    } else if programs(&metadata).any(|program| program == name) {
        run_example(&root, name, smoke)?
    } else {
        bail!(
            "no benchmark is called {name}: there are {}",
            names(&metadata).join(", ")
        );
    };
    if !smoke {
        let document = root.join(DOCUMENT);
        let before = fs::read_to_string(&document).unwrap_or_else(|_| INTRODUCTION.to_owned());
        let section = section(name, &circumstances(&root)?, &figures);
        fs::write(&document, with_section(&before, name, &section))
            .with_context(|| format!("cannot write {}", document.display()))?;
        println!("written to {DOCUMENT}");
    }
    Ok(())
}

/// Runs the example of a benchmark, and shows what it prints.
fn run_example(root: &Path, name: &str, smoke: bool) -> Result<Vec<Figure>> {
    let program = workspace::build_one(root, "--example", &format!("{PREFIX}{name}"))?;
    let mut command = Command::new(program);
    command
        .current_dir(root)
        .env(model::VARIABLE, model::fetch(root)?)
        .env(model::SPINS.0, model::SPINS.1);
    if smoke {
        command.arg("--smoke");
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", workspace::shown(&command)))?;
    let printed = String::from_utf8(output.stdout).context("the benchmark printed no text")?;
    print!("{printed}");
    ensure!(
        output.status.success(),
        "`{}` failed ({})",
        workspace::shown(&command),
        output.status
    );
    figures(&printed)
}

fn figures(printed: &str) -> Result<Vec<Figure>> {
    let figures = printed
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a figure: {line}")))
        .collect::<Result<Vec<Figure>>>()?;
    ensure!(!figures.is_empty(), "the benchmark printed no figure");
    Ok(figures)
}

/// The machine, the compiler, the date and the commit: what a figure means nothing without.
fn circumstances(root: &Path) -> Result<String> {
    let say = |program: &str, arguments: &[&str]| -> Result<String> {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(root)
            .output();
        let output = output.with_context(|| format!("cannot run {program}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let changed = !say("git", &["status", "--porcelain"])?.is_empty();
    Ok(format!(
        "{}, {}; {}; {}, commit {}{}.",
        machine(&cpus, &memory),
        say("uname", &["-sm"])?,
        say("rustc", &["--version"])?,
        say("date", &["-u", "+%Y-%m-%d"])?,
        say("git", &["rev-parse", "--short=12", "HEAD"])?,
        if changed {
            " with uncommitted changes"
        } else {
            ""
        },
    ))
}

/// The machine in words, from the two files in which Linux describes it.
fn machine(cpus: &str, memory: &str) -> String {
    let field = |text: &str, key: &str| -> Option<String> {
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field(cpus, "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kib =
        field(memory, "MemTotal").and_then(|size| size.split(' ').next()?.parse::<u64>().ok());
    let memory = kib.map_or(String::new(), |kib| {
        format!(", {} GiB", kib.div_ceil(1 << 20))
    });
    format!("{model}, {cores} threads{memory}")
}

fn section(name: &str, circumstances: &str, figures: &[Figure]) -> String {
    let mut text = format!("## {name}\n\n{circumstances}\n\n");
    text.push_str("| figure | value | unit | note |\n|---|---:|---|---|\n");
    for Figure {
        name,
        value,
        unit,
        note,
    } in figures
    {
        let cells = [name, &readable(*value), unit, note].map(|cell| cell.replace('|', "\\|"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

/// Whole numbers with their thousands apart, others with three decimals.
fn readable(value: f64) -> String {
    let text = if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    };
    let (whole, rest) = match text.split_once('.') {
        Some((whole, decimals)) => (whole, format!(".{decimals}")),
        None => (&*text, String::new()),
    };
    let (sign, digits) = match whole.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", whole),
    };
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

/// The document with the section `name` replaced, or added in alphabetical order.
fn with_section(document: &str, name: &str, section: &str) -> String {
    let (head, rest) = document.split_once("\n## ").unwrap_or((document, ""));
    let mut sections: Vec<(String, String)> = Vec::new();
    for text in rest.split("\n## ").filter(|text| !text.trim().is_empty()) {
        let title = text.lines().next().unwrap_or_default().trim().to_owned();
        sections.push((title, format!("## {}\n", text.trim_end())));
    }
    sections.retain(|(title, _)| title != name);
    sections.push((name.to_owned(), section.to_owned()));
    sections.sort();
    let mut text = format!("{}\n", head.trim_end());
    for (_, section) in sections {
        let _ = write!(text, "\n{section}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{Package, Target};

    fn transfers(name: &str, value: f64) -> Figure {
        figure(name, value, "tx/s", "")
    }

    #[test]
    fn benchmarks_are_the_examples_of_that_name() {
        let target = |name: &str, kind: &str| Target {
            name: name.to_owned(),
            kind: vec![kind.to_owned()],
            src_path: format!("/house/{name}.rs").into(),
            test: false,
        };
        let package = Package {
            name: "hearth-chain".to_owned(),
            manifest_path: "Cargo.toml".into(),
            dependencies: Vec::new(),
            targets: vec![
                target("bench_payments", "example"),
                target("bench_chain", "example"),
                target("bench_other", "bin"),
                target("tour", "example"),
            ],
        };
        assert_eq!(
            names(&Metadata {
                packages: vec![package]
            }),
            [
                "answers",
                "chain",
                "churn",
                "footprint",
                "methods",
                "payments",
                "training",
                "waiting"
            ]
        );
    }

    #[test]
    fn each_line_is_one_figure() {
        let text = "{\"name\":\"a\",\"value\":1.5,\"unit\":\"ms\",\"note\":\"median\"}\n\n\
                    {\"name\":\"b\",\"value\":2,\"unit\":\"gas\"}\n";
        let figures = figures(text).expect("two figures");
        assert_eq!(figures.len(), 2);
        assert_eq!(figures[0].note, "median");
        assert_eq!(figures[1].value, 2.0);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "hello\n",
            "{\"name\":\"a\",\"value\":\"fast\",\"unit\":\"\"}",
            "{}",
        ] {
            assert!(figures(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn numbers_are_easy_to_read() {
        for (value, text) in [
            (0.0, "0"),
            (137.0, "137"),
            (1_850.0, "1,850"),
            (-1_234_567.0, "-1,234,567"),
            (0.25, "0.250"),
            (10_000.126, "10,000.126"),
        ] {
            assert_eq!(readable(value), text);
        }
    }

    #[test]
    fn a_section_replaces_its_older_self_and_leaves_the_others() {
        let first = section("payments", "A machine.", &[transfers("vouchers", 12_000.0)]);
        let document = with_section(INTRODUCTION, "payments", &first);
        let chain = section("chain", "A machine.", &[transfers("a|b", 1.5)]);
        let document = with_section(&document, "chain", &chain);
        let newer = section("payments", "Another.", &[transfers("vouchers", 13_000.0)]);
        let document = with_section(&document, "payments", &newer);
        assert_eq!(
            document,
            format!(
                "{INTRODUCTION}\n## chain\n\nA machine.\n\n| figure | value | unit | note |\n\
                 |---|---:|---|---|\n| a\\|b | 1.500 | tx/s |  |\n\n## payments\n\nAnother.\n\n\
                 | figure | value | unit | note |\n|---|---:|---|---|\n\
                 | vouchers | 13,000 | tx/s |  |\n"
            )
        );
    }

    #[test]
    fn the_machine_is_described_in_words() {
        let cpus = "processor : 0\nmodel name\t: Some CPU @ 2.0GHz\nmodel name : Some CPU\n";
        let text = machine(cpus, "MemTotal:       25165824 kB\nMemFree: 1 kB\n");
        assert!(text.starts_with("Some CPU @ 2.0GHz, "), "{text}");
        assert!(text.ends_with(" threads, 24 GiB"), "{text}");
        assert!(machine("", "").starts_with("unknown processor, "));
    }
}
