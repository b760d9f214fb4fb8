//! Static analysis of the contracts by Slither, and the findings that are accepted.
//!
//! `contracts/findings.toml` names each accepted finding, with its place and why it stays; the table of
//! `contracts/README.md` is made from it. A finding that is not in it fails, and so does one of it that Slither no longer
//! reports: who mends a contract takes its excuse away as well. Does not say what a finding means.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::{python, workspace};

/// The accepted findings, in the folder of the contracts.
const ACCEPTED: &str = "findings.toml";
/// The head of the table that shows them in the README of that folder.
const TABLE: &str = "| finding | where | why it stays |\n|---|---|---|\n";
/// What would hide a finding from this check where it stands in a source.
const HIDDEN: &str = "slither-disable";

/// How often each place has a finding: a contract, and what it is in there.
type Places = BTreeMap<String, u32>;

/// What [`ACCEPTED`] holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AcceptedList {
    accepted: Vec<Accepted>,
}

/// Findings of one kind that stay for one reason.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    /// What Slither calls the kind.
    check: String,
    places: Places,
    why: String,
}

/// Analyzes `contracts` and fails on every difference from what is accepted. `packages` holds the compiler's `node_modules`.
///
/// # Errors
/// Slither cannot be installed or run, the list of what is accepted makes no sense or is not the README's table, a finding
/// is new, or an accepted one is gone.
pub(crate) fn check(contracts: &Path, packages: &Path) -> Result<()> {
    let accepted = accepted(contracts)?;
    let readme = read(&contracts.join("README.md"))?;
    ensure!(
        with_table(&readme, &accepted)? == readme,
        "the table of contracts/README.md is not that of contracts/{ACCEPTED}; run `cargo xtask contracts` and commit"
    );
    nothing_is_hidden(contracts)?;
    let found = analyze(contracts, packages)?;
    let (found, known) = (places(&found)?, known(&accepted)?);
    let complaints = compare(&found, &known);
    for complaint in &complaints {
        println!("{complaint}");
    }
    ensure!(
        complaints.is_empty(),
        "Slither's findings are not those of contracts/{ACCEPTED}, as said above: mend the contract, or accept the finding \
         there with its reason"
    );
    println!(
        "contracts: Slither finds {} things, all accepted",
        known.values().sum::<u32>()
    );
    Ok(())
}

/// Writes the table of what is accepted into the README of `contracts`.
///
/// # Errors
/// The list or the README cannot be read, or the README has no such table.
pub(crate) fn write_table(contracts: &Path) -> Result<()> {
    let path = contracts.join("README.md");
    let text = with_table(&read(&path)?, &accepted(contracts)?)?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn accepted(contracts: &Path) -> Result<Vec<Accepted>> {
    let path = contracts.join(ACCEPTED);
    let list: AcceptedList = toml::from_str(&read(&path)?)
        .with_context(|| format!("{} is not a list of findings", path.display()))?;
    Ok(list.accepted)
}

/// The accepted findings by kind and place, each of which one entry names, with a reason.
fn known(accepted: &[Accepted]) -> Result<BTreeMap<(String, String), u32>> {
    let mut known = BTreeMap::new();
    for entry in accepted {
        let check = &entry.check;
        ensure!(
            !entry.why.trim().is_empty(),
            "{ACCEPTED} says not why {check} stays"
        );
        for (place, times) in &entry.places {
            ensure!(*times > 0, "{ACCEPTED} accepts {check} in {place} no times");
            let before = known.insert((check.clone(), place.clone()), *times);
            ensure!(
                before.is_none(),
                "{ACCEPTED} accepts {check} in {place} twice"
            );
        }
    }
    Ok(known)
}

/// The README with the table of these findings instead of the one it has.
fn with_table(readme: &str, accepted: &[Accepted]) -> Result<String> {
    let Some((before, after)) = readme.split_once(TABLE) else {
        bail!("contracts/README.md has no table that begins with {TABLE:?}");
    };
    let rows: usize = after
        .split_inclusive('\n')
        .take_while(|line| line.starts_with('|'))
        .map(str::len)
        .sum();
    let table: String = accepted.iter().map(row).collect();
    Ok([before, TABLE, &table, &after[rows..]].concat())
}

fn row(entry: &Accepted) -> String {
    let places = entry.places.iter().map(|(place, times)| match times {
        1 => format!("`{place}`"),
        _ => format!("`{place}` ({times})"),
    });
    let places: Vec<String> = places.collect();
    format!(
        "| `{}` | {} | {} |\n",
        entry.check,
        places.join(", "),
        entry.why
    )
}

/// Fails where a source tells Slither to say nothing.
fn nothing_is_hidden(contracts: &Path) -> Result<()> {
    let mut folders = vec![contracts.join("src")];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry.context("cannot list the contracts")?.path();
            if path.is_dir() {
                folders.push(path);
            } else if read(&path)?.contains(HIDDEN) {
                bail!(
                    "{} hides a finding by {HIDDEN}: accept it in contracts/{ACCEPTED}",
                    path.display()
                );
            }
        }
    }
    Ok(())
}

/// What Slither writes with `--json`, as far as it is read here.
#[derive(Debug, Deserialize)]
struct Report {
    success: bool,
    error: Option<String>,
    #[serde(default)]
    results: Results,
}

#[derive(Debug, Default, Deserialize)]
struct Results {
    #[serde(default)]
    detectors: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    check: String,
    description: String,
    /// What it is about comes first.
    elements: Vec<Element>,
}

#[derive(Debug, Deserialize)]
struct Element {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    type_specific_fields: Fields,
}

#[derive(Debug, Default, Deserialize)]
struct Fields {
    parent: Option<Box<Element>>,
}

impl Element {
    /// The contract, the function and the variable, as far as there are any, with a point between.
    fn place(&self) -> String {
        let parent = self.type_specific_fields.parent.as_ref();
        match (self.kind.as_str(), parent) {
            // A line is named by the function that it is in, so that it may move.
            ("node", Some(parent)) => parent.place(),
            (_, Some(parent)) => format!("{}.{}", parent.place(), self.name),
            (_, None) => self.name.clone(),
        }
    }
}

/// Runs Slither in an empty folder, so that no configuration of somebody's own takes part.
fn analyze(contracts: &Path, packages: &Path) -> Result<Vec<Finding>> {
    let environment = python::install(&contracts.join("requirements.txt"))?;
    let scratch = tempfile::tempdir().context("cannot make a folder for Slither")?;
    let compiler = contracts.join("solc.mjs");
    let input = Command::new(&compiler)
        .arg("--input")
        .env("HEARTH_SOLC", packages)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", compiler.display()))?;
    ensure!(input.status.success(), "the contracts cannot be read");
    fs::write(scratch.path().join("input.json"), input.stdout)
        .context("cannot write what Slither reads")?;
    for (name, target) in [
        ("src", contracts.join("src")),
        (
            "@openzeppelin",
            packages.join("node_modules").join("@openzeppelin"),
        ),
    ] {
        std::os::unix::fs::symlink(target, scratch.path().join(name))
            .context("cannot link the sources for Slither")?;
    }
    // Its own first line names the folder in which the environment was built.
    let mut slither = Command::new(environment.join("bin/python"));
    slither
        .arg(environment.join("bin/slither"))
        .current_dir(scratch.path())
        .env("HEARTH_SOLC", packages)
        // Where its chooser of compilers keeps what it downloads; nothing is, for the compiler is named here.
        .env("VIRTUAL_ENV", &environment)
        .args(["input.json", "--compile-force-framework", "solc-json"])
        .args(["--filter-paths", "@openzeppelin", "--exclude-optimization"])
        .args(["--json", "report.json", "--fail-none", "--solc"])
        .arg(&compiler)
        .stdin(Stdio::null());
    report(&mut slither, &scratch.path().join("report.json"))
}

fn report(slither: &mut Command, report: &Path) -> Result<Vec<Finding>> {
    let output = slither
        .output()
        .with_context(|| format!("cannot start {}", workspace::shown(slither)))?;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success(),
        "Slither failed ({}):\n{}",
        output.status,
        said()
    );
    let bytes = fs::read(report).with_context(|| format!("Slither wrote nothing:\n{}", said()))?;
    let report: Report =
        serde_json::from_slice(&bytes).context("what Slither wrote is no report")?;
    ensure!(
        report.success,
        "Slither failed: {}",
        report.error.unwrap_or_default()
    );
    Ok(report.results.detectors)
}

/// What was found of each kind in each place, in Slither's words.
fn places(found: &[Finding]) -> Result<BTreeMap<(String, String), Vec<String>>> {
    let mut places: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for finding in found {
        let element = finding.elements.first();
        let place = element.with_context(|| format!("{} has no place", finding.check))?;
        let key = (finding.check.clone(), place.place());
        let said = finding.description.trim_end().to_owned();
        places.entry(key).or_default().push(said);
    }
    Ok(places)
}

/// Says of each place where what was found is not what is accepted which of the two is more.
fn compare(
    found: &BTreeMap<(String, String), Vec<String>>,
    known: &BTreeMap<(String, String), u32>,
) -> Vec<String> {
    let keys: BTreeSet<_> = found.keys().chain(known.keys()).collect();
    let mut complaints = Vec::new();
    for key in keys {
        let (check, place) = key;
        let said = found.get(key).map_or(&[][..], Vec::as_slice);
        let known = known.get(key).copied().unwrap_or_default() as usize;
        if said.len() > known {
            complaints.push(format!(
                "new: {check} in {place} ({} found, {known} accepted)\n{}",
                said.len(),
                said.join("\n")
            ));
        } else if said.len() < known {
            complaints.push(format!(
                "stale: {check} in {place} ({} found, {known} accepted)",
                said.len()
            ));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"
[[accepted]]
check = "timestamp"
places = { "Runs.pledge" = 1, "Runs.refund" = 2 }
why = "delays are long"
"#;

    fn list(text: &str) -> Vec<Accepted> {
        toml::from_str::<AcceptedList>(text).unwrap().accepted
    }

    /// A report of Slither with one finding for each of these functions of `Runs`, and one in a line of `Runs.refund`.
    fn found(functions: &[&str]) -> BTreeMap<(String, String), Vec<String>> {
        let runs = r#"{"type":"contract","name":"Runs","source_mapping":{}}"#;
        let function = |name: &str| {
            format!(
                r#"{{"type":"function","name":"{name}","type_specific_fields":{{"parent":{runs},"signature":"{name}()"}}}}"#
            )
        };
        let finding = |element: &str| {
            format!(
                r#"{{"check":"timestamp","impact":"Low","description":"said\n","elements":[{element}]}}"#
            )
        };
        let line = format!(
            r#"{{"type":"node","name":"now >= end","type_specific_fields":{{"parent":{}}}}}"#,
            function("refund")
        );
        let findings = functions.iter().map(|name| finding(&function(name)));
        let findings: Vec<String> = findings.chain([finding(&line)]).collect();
        let text = format!(
            r#"{{"success":true,"error":null,"results":{{"detectors":[{}]}}}}"#,
            findings.join(",")
        );
        let report: Report = serde_json::from_str(&text).unwrap();
        places(&report.results.detectors).unwrap()
    }

    #[test]
    fn what_is_accepted_and_found_is_no_complaint() {
        let known = known(&list(LIST)).unwrap();
        let found = found(&["pledge", "refund"]);
        assert_eq!(compare(&found, &known), Vec::<String>::new());
    }

    #[test]
    fn a_new_finding_fails_in_a_new_place_and_in_a_known_one() {
        let known = known(&list(LIST)).unwrap();
        let elsewhere = compare(&found(&["pledge", "refund", "release"]), &known);
        assert_eq!(
            elsewhere,
            ["new: timestamp in Runs.release (1 found, 0 accepted)\nsaid"]
        );
        let once_more = compare(&found(&["pledge", "pledge", "refund"]), &known);
        assert_eq!(
            once_more,
            ["new: timestamp in Runs.pledge (2 found, 1 accepted)\nsaid\nsaid"]
        );
    }

    #[test]
    fn an_accepted_finding_that_is_gone_fails() {
        let known = known(&list(LIST)).unwrap();
        let gone = compare(&found(&[]), &known);
        assert_eq!(
            gone,
            [
                "stale: timestamp in Runs.pledge (0 found, 1 accepted)",
                "stale: timestamp in Runs.refund (1 found, 2 accepted)"
            ]
        );
    }

    #[test]
    fn a_list_without_a_reason_or_with_a_place_twice_is_refused() {
        assert!(known(&list(&LIST.replace("delays are long", " "))).is_err());
        assert!(known(&list(&LIST.repeat(2))).is_err());
        assert!(known(&list(&LIST.replace("= 2", "= 0"))).is_err());
    }

    #[test]
    fn the_table_shows_what_is_accepted() {
        let readme = format!("before\n\n{TABLE}| old | row | here |\n\nafter\n");
        let shown = with_table(&readme, &list(LIST)).unwrap();
        assert_eq!(
            shown,
            format!(
                "before\n\n{TABLE}| `timestamp` | `Runs.pledge`, `Runs.refund` (2) | delays are long |\n\nafter\n"
            )
        );
        assert_eq!(with_table(&shown, &list(LIST)).unwrap(), shown);
        assert!(with_table("no table", &list(LIST)).is_err());
    }

    #[test]
    fn a_source_that_hides_a_finding_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let libraries = folder.path().join("src/libraries");
        fs::create_dir_all(&libraries).unwrap();
        fs::write(libraries.join("Good.sol"), "library Good {}").unwrap();
        nothing_is_hidden(folder.path()).unwrap();
        fs::write(
            libraries.join("Bad.sol"),
            "// slither-disable-next-line all",
        )
        .unwrap();
        let error = nothing_is_hidden(folder.path()).unwrap_err().to_string();
        assert!(error.contains("Bad.sol"), "{error}");
    }

    #[test]
    fn the_repositorys_own_list_is_the_table_of_its_readme() {
        let contracts = workspace::root().unwrap().join("contracts");
        let accepted = accepted(&contracts).unwrap();
        known(&accepted).unwrap();
        let readme = read(&contracts.join("README.md")).unwrap();
        assert_eq!(with_table(&readme, &accepted).unwrap(), readme);
    }
}
