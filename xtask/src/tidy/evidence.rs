//! What there is in the repository that can prove a claim: tests, figures, fuzz targets, checks and the demo.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};

use super::suite::{self, Fate, Suite};
use crate::bench;
use crate::workspace::Metadata;

/// The package whose programs are the fuzz targets.
const FUZZ_PACKAGE: &str = "hearth-fuzz";
/// Where the phases of `cargo xtask test` are named.
const PHASES: &str = "xtask/src/test.rs";
/// Where the scenes of the demo say what they saw.
const DEMO: &str = "xtask/src/demo";

/// What a claim rests on, as `docs/claims.toml` writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof<'a> {
    /// The name of a test as nextest prints it.
    Test(&'a str),
    /// A figure: its benchmark and its row in `docs/benchmarks.md`.
    Benchmark(&'a str, &'a str),
    /// The name of a fuzz target.
    Fuzz(&'a str),
    /// The name of a phase of `cargo xtask test`.
    Check(&'a str),
    /// What `cargo xtask demo` says once it has seen it, or the beginning of that.
    Demo(&'a str),
}

impl<'a> Proof<'a> {
    /// Reads `benchmark: group/row`, `fuzz: target`, `check: phase`, `demo: words`, or else a test's name.
    pub(super) fn read(text: &'a str) -> Self {
        match text.split_once(": ") {
            Some(("benchmark", row)) => {
                let (group, figure) = row.split_once('/').unwrap_or((row, ""));
                Self::Benchmark(group, figure)
            }
            Some(("fuzz", target)) => Self::Fuzz(target),
            Some(("check", phase)) => Self::Check(phase),
            Some(("demo", words)) => Self::Demo(words),
            _ => Self::Test(text),
        }
    }
}

/// Why something proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    Missing,
    Ignored,
    LeftOut,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "does not exist",
            Self::Ignored => "is ignored, and no run of all tests runs it",
            Self::LeftOut => "is not compiled where all tests run",
        })
    }
}

/// Everything that can be named as a proof.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    suite: Suite,
    /// The rows of the published figures, by benchmark.
    figures: BTreeMap<String, BTreeSet<String>>,
    fuzz_targets: BTreeSet<String>,
    phases: BTreeSet<String>,
    demo: BTreeSet<String>,
}

impl Evidence {
    /// Looks for all of it in the sources, which are given by their paths below `root`.
    pub(super) fn of(metadata: &Metadata, root: &Path, texts: &BTreeMap<PathBuf, &str>) -> Self {
        let text = |path: &str| texts.get(Path::new(path)).copied().unwrap_or_default();
        let mut figures = figures(text(bench::DOCUMENT));
        let benchmarks = bench::names(metadata);
        figures.retain(|benchmark, _| benchmarks.contains(benchmark));
        let fuzz = metadata
            .packages
            .iter()
            .find(|package| package.name == FUZZ_PACKAGE);
        let fuzz_targets = fuzz.iter().flat_map(|package| &package.targets);
        let fuzz_targets = fuzz_targets.filter(|target| target.kind == ["bin"]);
        Self {
            suite: suite::of(metadata, root, texts),
            figures,
            fuzz_targets: fuzz_targets.map(|target| target.name.clone()).collect(),
            phases: phases(text(PHASES)),
            demo: texts
                .iter()
                .filter(|(path, _)| path.with_extension("").starts_with(DEMO))
                .flat_map(|(_, text)| texts_in(text))
                .collect(),
        }
    }

    /// What is wrong with a proof; nothing if it is there and runs.
    pub(super) fn flaw(&self, proof: Proof<'_>) -> Option<Flaw> {
        let is_there = match proof {
            Proof::Test(name) => {
                return match self.suite.get(name) {
                    Some(Fate::Runs) => None,
                    Some(Fate::Ignored) => Some(Flaw::Ignored),
                    Some(Fate::LeftOut) => Some(Flaw::LeftOut),
                    None => Some(Flaw::Missing),
                };
            }
            Proof::Benchmark(group, figure) => self
                .figures
                .get(group)
                .is_some_and(|figures| figures.contains(figure)),
            Proof::Fuzz(target) => self.fuzz_targets.contains(target),
            Proof::Check(phase) => self.phases.contains(phase),
            Proof::Demo(words) => self.demo.iter().any(|said| said.starts_with(words)),
        };
        (!is_there).then_some(Flaw::Missing)
    }

    #[cfg(test)]
    pub(super) fn sample(tests: &[(&str, Fate)]) -> Self {
        let named = |(name, fate): &(&str, Fate)| ((*name).to_owned(), *fate);
        Self {
            suite: tests.iter().map(named).collect(),
            ..Self::default()
        }
    }
}

/// The rows of each section of the published figures.
fn figures(document: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut figures: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in document.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            name.clone_into(&mut section);
        } else if let Some(row) = line.strip_prefix("| ")
            && let Some((name, _)) = row.split_once(" |")
        {
            let rows = figures.entry(section.clone()).or_default();
            rows.insert(name.to_owned());
        }
    }
    figures
}

/// The names of the phases: the first argument of each `step` and `command`.
fn phases(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    visit(source, &mut |before, token| {
        let is_phase = |token: &TokenTree| matches!(token, TokenTree::Ident(name) if name == "step" || name == "command");
        if let TokenTree::Group(arguments) = token
            && before.is_some_and(is_phase)
            && let Some(first) = arguments.stream().into_iter().next()
        {
            found.extend(text_of(&first));
        }
    });
    found
}

/// Every text that stands in a source.
fn texts_in(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    visit(source, &mut |_, token| found.extend(text_of(token)));
    found
}

fn text_of(token: &TokenTree) -> Option<String> {
    let TokenTree::Literal(literal) = token else {
        return None;
    };
    match syn::Lit::new(literal.clone()) {
        syn::Lit::Str(text) => Some(text.value()),
        _ => None,
    }
}

/// Shows every token of a source, with the one before it.
fn visit(source: &str, see: &mut dyn FnMut(Option<&TokenTree>, &TokenTree)) {
    if let Ok(tokens) = source.parse() {
        visit_tokens(tokens, see);
    }
}

fn visit_tokens(tokens: TokenStream, see: &mut dyn FnMut(Option<&TokenTree>, &TokenTree)) {
    let mut before = None;
    for token in tokens {
        see(before.as_ref(), &token);
        if let TokenTree::Group(group) = &token {
            visit_tokens(group.stream(), see);
        }
        before = Some(token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Evidence {
        let metadata = serde_json::json!({"packages": [
            {"name": "hearth-fuzz", "manifest_path": "/checkout/Cargo.toml", "dependencies": [], "targets": [
                {"name": "paths", "kind": ["bin"], "test": false, "src_path": "/checkout/paths.rs"},
                {"name": "hearth_fuzz", "kind": ["lib"], "test": true, "src_path": "/checkout/lib.rs"},
            ]},
            {"name": "house", "manifest_path": "/checkout/Cargo.toml", "dependencies": [], "targets": [
                {"name": "bench_engine", "kind": ["example"], "test": false, "src_path": "/checkout/b.rs"},
            ]},
        ]});
        let metadata = serde_json::from_value(metadata).expect("metadata");
        let rows =
            |name: &str| format!("## {name}\n\n| figure | value |\n|---|---:|\n| output | 1 |\n");
        let figures = format!("{}\n{}", rows("engine"), rows("gone"));
        let texts = BTreeMap::from([
            (PathBuf::from(bench::DOCUMENT), figures.as_str()),
            (
                PathBuf::from(PHASES),
                "fn f() { phases.step(\"fuzz\", \"again\", || ()); if a { phases.command(\"lints\", &mut c); } }",
            ),
            (
                PathBuf::from(DEMO),
                "fn f() { say(\"no unit is lost\"); say(&format!(\"C went on: {} tokens\", 3)); }",
            ),
            (PathBuf::from("lib.rs"), "#[test] fn holds() {}"),
        ]);
        Evidence::of(&metadata, Path::new("/checkout"), &texts)
    }

    #[test]
    fn what_is_there_proves() {
        for proof in [
            "hearth-fuzz holds",
            "benchmark: engine/output",
            "fuzz: paths",
            "check: fuzz",
            "check: lints",
            "demo: no unit is lost",
            "demo: C went on",
        ] {
            assert_eq!(sample().flaw(Proof::read(proof)), None, "{proof}");
        }
    }

    #[test]
    fn what_is_not_there_is_missing() {
        for proof in [
            "hearth-fuzz falls",
            "holds",
            "benchmark: engine",
            "benchmark: engine/input",
            // A figure that nothing measures any more.
            "benchmark: gone/output",
            "fuzz: hearth_fuzz",
            "fuzz: path",
            "check: again",
            "demo: went on",
            "rumour: paths",
        ] {
            let flaw = sample().flaw(Proof::read(proof));
            assert_eq!(flaw, Some(Flaw::Missing), "{proof}");
        }
    }

    #[test]
    fn a_test_that_does_not_run_proves_nothing() {
        let tests = [("a x", Fate::Ignored), ("a y", Fate::LeftOut)];
        let evidence = Evidence::sample(&tests);
        assert_eq!(evidence.flaw(Proof::read("a x")), Some(Flaw::Ignored));
        assert_eq!(evidence.flaw(Proof::read("a y")), Some(Flaw::LeftOut));
    }
}
