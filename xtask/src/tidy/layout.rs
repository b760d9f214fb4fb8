//! What files are called, how long they may be, and what every manifest must say.

use std::path::{Path, PathBuf};

use super::{Source, Violation};

/// The most lines a source file may have before its tests.
const MAX_FILE_LINES: usize = 1_000;

/// What counts as source that a person reads from top to bottom.
const SOURCE_EXTENSIONS: &[&str] = &["rs", "sol", "js", "mjs", "ts", "py", "sh", "html", "css"];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];

/// Whether a module, file or folder of this name could hold anything at all. Version numbers are
/// among them: versions live in domain separators and protocol names.
pub(super) fn names_nothing(name: &str) -> bool {
    let version = name.strip_prefix('v').is_some_and(|digits| {
        !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_digit())
    });
    version || EMPTY_NAMES.contains(&name.to_ascii_lowercase().as_str())
}

/// The files and folders whose names say nothing.
pub(super) fn names(files: &[PathBuf]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in files {
        if let Some(part) = file
            .iter()
            .find(|part| names_nothing(&stem(Path::new(part))))
        {
            let message = format!(
                "the name `{}` says nothing: name the subject",
                part.display()
            );
            violations.push(Violation::new(file, 0, message));
        }
    }
    violations
}

fn stem(part: &Path) -> String {
    part.file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Whether a source file is too long to be read in one go.
pub(super) fn length(source: &Source) -> Option<Violation> {
    if !SOURCE_EXTENSIONS.contains(&source.extension()) {
        return None;
    }
    let lines = lines_before_tests(&source.text);
    (lines > MAX_FILE_LINES).then(|| {
        let message = format!(
            "{lines} lines before its tests, more than {MAX_FILE_LINES}: give each subject a file"
        );
        Violation::new(&source.path, 0, message)
    })
}

fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
    tests.unwrap_or(lines.len())
}

/// The one manifest with lints of its own: kernels need `unsafe` for vector instructions, and cargo cannot change one lint of
/// the workspace's.
const KERNELS: &str = "crates/training/Cargo.toml";

/// Whether a crate's manifest takes the lints of the workspace.
pub(super) fn lints(source: &Source) -> Option<Violation> {
    let is_manifest = source.file_name() == "Cargo.toml";
    if !is_manifest || !source.text.lines().any(|line| line.trim() == "[package]") {
        return None;
    }
    let mut section = "";
    let mut lines = source.text.lines().map(str::trim);
    let taken = lines.any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let setting: String = line.split_whitespace().collect();
        let workspace = section == "[lints]" && setting == "workspace=true";
        let kernels = section == "[lints.rust]" && setting == "unsafe_code=\"deny\"";
        workspace
            || setting == "lints.workspace=true"
            || (kernels && source.path == Path::new(KERNELS))
    });
    (!taken).then(|| {
        let message = "a crate without the lints of the workspace: add `[lints]` with \
                       `workspace = true`";
        Violation::new(&source.path, 0, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_must_say_what_is_inside() {
        for name in EMPTY_NAMES {
            let files = [PathBuf::from(format!("crates/node/src/{name}.rs"))];
            assert_eq!(names(&files).len(), 1, "{name}");
            let files = [PathBuf::from(format!("crates/{name}/src/lib.rs"))];
            assert_eq!(names(&files).len(), 1, "{name}");
        }
        assert_eq!(
            names(&[PathBuf::from("src/v2/lib.rs"), PathBuf::from("src/V1.sol")]).len(),
            1
        );
        let good = [
            "src/voucher.rs",
            "src/v.rs",
            "docs/commons.md",
            "src/via/io.rs",
        ];
        assert!(names(&good.map(PathBuf::from)).is_empty());
    }

    #[test]
    fn a_file_may_be_long_only_in_its_tests() {
        let long = "// a line\n".repeat(MAX_FILE_LINES);
        assert!(length(&Source::sample("a.rs", long.clone())).is_none());
        let tested = format!("{long}#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert!(length(&Source::sample("a.rs", tested)).is_none());
        assert!(length(&Source::sample("a.rs", format!("{long}// more\n"))).is_some());
        assert!(length(&Source::sample("a.json", format!("{long}more\n"))).is_none());
    }

    #[test]
    fn a_single_test_item_does_not_end_the_count() {
        let text = format!(
            "#[cfg(test)]\nfn sample() {{}}\n{}",
            "// a line\n".repeat(1_000)
        );
        assert!(length(&Source::sample("a.rs", text)).is_some());
    }

    #[test]
    fn a_crate_takes_the_lints_of_the_workspace() {
        let good = "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n";
        assert!(lints(&Source::sample("crates/a/Cargo.toml", good)).is_none());
        let elsewhere = "[package]\nname = \"a\"\n[lints]\n[dependencies]\nworkspace = true\n";
        assert!(lints(&Source::sample("crates/a/Cargo.toml", elsewhere)).is_some());
        assert!(lints(&Source::sample("Cargo.toml", "[workspace]\n")).is_none());
        let own = "[package]\nname = \"a\"\n[lints.rust]\nunsafe_code = \"deny\"\n";
        assert!(lints(&Source::sample(KERNELS, own)).is_none());
        assert!(lints(&Source::sample("crates/a/Cargo.toml", own)).is_some());
        let lax = own.replace("deny", "allow");
        assert!(lints(&Source::sample(KERNELS, lax)).is_some());
    }
}
