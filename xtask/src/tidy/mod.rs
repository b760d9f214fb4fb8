//! `cargo xtask tidy`: the rules of the house that neither the compiler nor clippy knows.
//!
//! Each rule is a pure function from a file's text (or from what cargo says of the manifests) to
//! violations, so that its tests can hold a good sample and a bad one against it. What clippy already
//! proves (`unwrap` outside tests, unsafe code, locks across awaits) is not repeated here.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;
use evidence::Evidence;

mod circles;
mod claims;
mod confined;
mod edges;
mod evidence;
mod functions;
mod layout;
mod logs;
mod sources;
mod suite;
mod types;
mod words;

/// One place that breaks one rule, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    path: PathBuf,
    line: usize,
    message: String,
}

impl Violation {
    /// `line` counts from 1; 0 means the file as a whole.
    fn new(path: &Path, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_path_buf(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.message),
            line => write!(f, "{}:{line}: {}", self.path.display(), self.message),
        }
    }
}

/// A tracked text file: its path relative to the root, and what it says.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn extension(&self) -> &str {
        self.path
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or("")
    }

    fn file_name(&self) -> &str {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("")
    }

    /// Whether a program wrote this file: the rules about length and names are for people's work.
    fn is_generated(&self) -> bool {
        let marker = concat!("@", "generated");
        self.path
            .components()
            .any(|part| part.as_os_str() == "artifacts")
            || self.text.lines().take(5).any(|line| line.contains(marker))
    }

    /// The folder of the crate whose product a file belongs to; nothing for files of tests.
    fn crate_folder(&self) -> Option<PathBuf> {
        let is_test =
            self.file_name().ends_with("tests.rs") || self.path.iter().any(|part| part == "tests");
        let mut parts = self.path.iter();
        let folder = parts.by_ref().take_while(|part| *part != "src").collect();
        (self.extension() == "rs" && !is_test && parts.next().is_some()).then_some(folder)
    }

    #[cfg(test)]
    fn sample(path: &str, text: impl Into<String>) -> Self {
        Self {
            path: PathBuf::from(path),
            text: text.into(),
        }
    }
}

/// Applies every rule to the whole checkout; fails when any is broken.
pub(crate) fn run() -> Result<()> {
    let root = workspace::root()?;
    let files = workspace::tracked_files(&root)?;
    let sources = text_files(&root, &files)?;
    let texts: BTreeMap<PathBuf, &str> = sources
        .iter()
        .map(|source| (source.path.clone(), source.text.as_str()))
        .collect();
    let text = |path: &str| {
        let text = texts.get(Path::new(path)).copied();
        text.with_context(|| format!("there is no {path}"))
    };
    let metadata = workspace::metadata(&root)?;
    let mut violations = layout::names(&files);
    violations.extend(sources.iter().flat_map(of_file));
    violations.extend(types::check(&sources));
    violations.extend(circles::check(&sources));
    violations.extend(edges::check(&metadata, &root));
    violations.extend(edges::unargued(text("Cargo.toml")?, text(edges::DECISION)?));
    let evidence = Evidence::of(&metadata, &root, &texts);
    violations.extend(claims::check(&texts, &evidence));
    violations.sort();
    for violation in &violations {
        eprintln!("{violation}");
    }
    match violations.len() {
        0 => {
            println!("tidy: {} files keep the rules of the house", files.len());
            Ok(())
        }
        count => bail!("{count} places break the rules of the house (listed above)"),
    }
}

/// The files that are text. What is not UTF-8 is none, and no rule speaks about it.
fn text_files(root: &Path, files: &[PathBuf]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in files {
        let bytes =
            fs::read(root.join(path)).with_context(|| format!("cannot read {}", path.display()))?;
        if let Ok(text) = String::from_utf8(bytes) {
            let path = path.clone();
            sources.push(Source { path, text });
        }
    }
    Ok(sources)
}

fn of_file(source: &Source) -> Vec<Violation> {
    let mut violations = words::check(source);
    if !source.is_generated() {
        violations.extend(layout::length(source));
    }
    match source.extension() {
        "rs" if !source.is_generated() => {
            violations.extend(functions::rust(source));
            violations.extend(confined::check(source));
            violations.extend(logs::check(source));
            violations.extend(sources::check(source));
        }
        "sol" => violations.extend(functions::solidity(source)),
        "toml" => violations.extend(layout::lints(source)),
        _ => {}
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_are_known_by_folder_or_by_mark() {
        assert!(Source::sample("contracts/artifacts/Ember.json", "{}").is_generated());
        let marked = concat!("// @", "generated by cargo xtask contracts\n");
        assert!(Source::sample("a.rs", marked).is_generated());
        assert!(!Source::sample("a.rs", "fn main() {}").is_generated());
    }

    #[test]
    fn a_violation_points_at_its_line() {
        let violation = Violation::new(Path::new("a/b.rs"), 7, "too long");
        assert_eq!(violation.to_string(), "a/b.rs:7: too long");
        assert_eq!(Violation::new(Path::new("a"), 0, "no").to_string(), "a: no");
    }

    #[test]
    fn every_kind_of_file_reaches_its_rules() {
        let long = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(70));
        assert_eq!(of_file(&Source::sample("a.rs", long)).len(), 1);
        let telling = "#[derive(Error)]\n#[error(\"{0}\")]\nstruct Broken(#[source] io::Error);\n";
        assert_eq!(of_file(&Source::sample("a.rs", telling)).len(), 1);
        let long = format!("function f() public {{\n{}}}\n", "    g();\n".repeat(70));
        assert_eq!(of_file(&Source::sample("a.sol", long)).len(), 1);
        let manifest = "[package]\nname = \"x\"\n";
        assert_eq!(
            of_file(&Source::sample("crates/x/Cargo.toml", manifest)).len(),
            1
        );
        assert_eq!(
            of_file(&Source::sample("a.py", "pass\n".repeat(1001))).len(),
            1
        );
    }
}
