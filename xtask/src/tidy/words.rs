//! Words that may not stand in the repository: work left undone, tests nobody runs, the places one
//! machine happens to use, and powers that no contract of this project may have.
//!
//! The forbidden words are spelled in two halves here, so that this file keeps its own rules.

use super::{Source, Violation};

/// Marks of unfinished work.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!"),
    concat!("unimpl", "emented!"),
];

/// Where unfinished work is looked for: everything that people write.
const WRITTEN_EXTENSIONS: &[&str] = &[
    "rs", "sol", "js", "mjs", "ts", "py", "sh", "html", "css", "toml", "yml", "yaml", "md", "",
];

/// Hosts of package registries: which one serves a machine is that machine's own affair.
const REGISTRY_HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("registry.", "npmjs.org"),
    concat!("registry.", "yarnpkg.com"),
    concat!("py", "pi.org"),
    concat!("files.", "pythonhosted.org"),
    concat!("deb.", "debian.org"),
    concat!("proxy.", "golang.org"),
];

/// Folders that exist on somebody's machine only.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/tmp/", "ref"),
];

/// What a package manager's lock file must not pin: the place, besides the content.
const PINNED_PLACES: &[&str] = &[
    concat!("\"resolved\": ", "\"http"),
    concat!("--index", "-url"),
    concat!("--extra-index", "-url"),
];

/// Powers over users that no contract may have.
const OWNER_SWITCHES: &[&str] = &[
    concat!("Own", "able"),
    concat!("Access", "Control"),
    concat!("Paus", "able"),
    concat!("Upgrad", "eable"),
    concat!("only", "Owner"),
    concat!("self", "destruct"),
];

/// The one reason for which a test may stay out of a plain run: `cargo xtask test` runs these on
/// their own, and says so when it does not.
pub(super) const OUTSIDE_REASON: &str = "needs outside programs";

/// Every forbidden word of one file.
pub(super) fn check(source: &Source) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for message in of_line(source, line) {
            violations.push(Violation::new(&source.path, index + 1, message));
        }
    }
    violations
}

fn of_line(source: &Source, line: &str) -> Vec<String> {
    let mut messages = Vec::new();
    let written = WRITTEN_EXTENSIONS.contains(&source.extension());
    if written && let Some(word) = first(UNFINISHED, |word| has_word(line, word)) {
        messages.push(format!("`{word}`: finish it, or file an issue"));
    }
    // Cargo writes the name of its registry into its lock file, and offers no other way.
    let cargo_lock = source.file_name() == "Cargo.lock";
    if !cargo_lock && let Some(host) = first(REGISTRY_HOSTS, |host| line.contains(host)) {
        messages.push(format!(
            "`{host}`: name the package, not the registry's host"
        ));
    }
    if let Some(path) = first(MACHINE_PATHS, |path| has_path(line, path)) {
        messages.push(format!("`{path}`: a path of one machine"));
    }
    let lock = source.file_name().starts_with("package-lock")
        || source.file_name().starts_with("requirements");
    if lock && let Some(place) = first(PINNED_PLACES, |place| line.contains(place)) {
        messages.push(format!("`{place}`: pin packages by content, not by place"));
    }
    messages.extend(ignored_test(source, line));
    messages.extend(owner_switch(source, line));
    messages
}

fn ignored_test(source: &Source, line: &str) -> Option<String> {
    let line = line.trim();
    let ignored = source.extension() == "rs" && line.starts_with(concat!("#[ign", "ore"));
    (ignored && !line.contains(OUTSIDE_REASON)).then(|| {
        format!("a test nobody runs: the only reason to ignore one is \"{OUTSIDE_REASON}\"")
    })
}

fn owner_switch(source: &Source, line: &str) -> Option<String> {
    if source.extension() != "sol" || !source.path.starts_with("contracts/src") {
        return None;
    }
    let code = line.split("//").next().unwrap_or("").trim_start();
    if code.starts_with('*') || code.starts_with("/*") {
        return None;
    }
    let power = first(OWNER_SWITCHES, |power| code.contains(power))?;
    Some(format!(
        "`{power}`: no contract has an owner, an admin, a pause or an upgrade"
    ))
}

fn first<'a>(words: &[&'a str], mut found: impl FnMut(&str) -> bool) -> Option<&'a str> {
    words.iter().copied().find(|word| found(word))
}

/// Whether `word` stands in `line` on its own, not as a part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + word.len()..].chars().next();
        !before.is_some_and(inside) && (word.ends_with('!') || !after.is_some_and(inside))
    })
}

/// Whether the absolute path `path` begins somewhere in `line`.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.~/}*)>".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: impl Into<String>) -> usize {
        check(&Source::sample(path, text)).len()
    }

    #[test]
    fn unfinished_work_is_found_in_code_and_in_prose() {
        for word in UNFINISHED {
            assert_eq!(
                found("a.rs", format!("let x = 1; // {word} later\n")),
                1,
                "{word}"
            );
            assert_eq!(
                found("docs/a.md", format!("{word}: say more\n")),
                1,
                "{word}"
            );
        }
        assert_eq!(
            found("a.rs", "let hackle = mktemp(\"/x.XXXXXX\"); // todos\n"),
            0
        );
    }

    #[test]
    fn no_registry_is_named_except_by_cargo() {
        for host in REGISTRY_HOSTS {
            assert_eq!(
                found("package-lock.json", format!("\"https://{host}/a\"")),
                1,
                "{host}"
            );
            assert_eq!(
                found("Cargo.lock", format!("source = \"{host}\"")),
                0,
                "{host}"
            );
        }
        assert_eq!(found("README.md", "Install it from npm or from PyPI.\n"), 0);
    }

    #[test]
    fn no_machine_is_named() {
        for path in MACHINE_PATHS {
            assert_eq!(found("a.sh", format!("cd {path}x\n")), 1, "{path}");
            assert_eq!(
                found("a.md", format!("https://host{path}x and ~{path}x\n")),
                0,
                "{path}"
            );
        }
    }

    #[test]
    fn lock_files_pin_content_and_not_places() {
        let pinned = format!("{}s://mirror.example/x.tgz\"", PINNED_PLACES[0]);
        assert_eq!(found("tests/outside/package-lock.json", pinned), 1);
        let pinned = format!("{} https://mirror.example\n", PINNED_PLACES[1]);
        assert_eq!(found("tests/outside/requirements.txt", pinned), 1);
        assert_eq!(
            found("package-lock.json", "\"integrity\": \"sha512-abc\""),
            0
        );
    }

    #[test]
    fn a_test_is_left_out_for_one_reason_only() {
        let attribute = concat!("#[ign", "ore");
        assert_eq!(found("a.rs", format!("    {attribute}]\n")), 1);
        assert_eq!(found("a.rs", format!("    {attribute} = \"slow\"]\n")), 1);
        assert_eq!(
            found("a.rs", format!("    {attribute} = \"{OUTSIDE_REASON}\"]\n")),
            0
        );
    }

    #[test]
    fn no_contract_has_an_owner_switch() {
        for power in OWNER_SWITCHES {
            let code = format!("contract A is {power} {{}}\n");
            assert_eq!(found("contracts/src/A.sol", code.clone()), 1, "{power}");
            assert_eq!(found("contracts/test/A.sol", code), 0, "{power}");
            assert_eq!(
                found("contracts/src/A.sol", format!("    /// Not {power}.\n")),
                0
            );
        }
    }
}
