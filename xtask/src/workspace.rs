//! Where things are: the checkout, the files git tracks in it, and the cache folder outside it.
//!
//! Everything is found when the program runs, never when it was compiled, because one target folder
//! may serve several checkouts.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// The root of the checkout: the folder above `xtask/`, or the nearest folder upwards from here that
/// holds both `Cargo.toml` and `xtask/`.
pub(crate) fn root() -> Result<PathBuf> {
    if let Some(manifest) = env::var_os("CARGO_MANIFEST_DIR")
        && let Some(parent) = Path::new(&manifest).parent()
        && parent.join("xtask/Cargo.toml").is_file()
    {
        return Ok(parent.to_path_buf());
    }
    let here = env::current_dir().context("the current folder cannot be read")?;
    here.ancestors()
        .find(|folder| folder.join("Cargo.toml").is_file() && folder.join("xtask").is_dir())
        .map(Path::to_path_buf)
        .context("run this inside the checkout: no folder above holds Cargo.toml and xtask/")
}

/// The folder for everything that is fetched once and kept between checkouts: `$HEARTH_CACHE`, or
/// `~/.cache/hearth`. It is created when missing.
pub(crate) fn cache() -> Result<PathBuf> {
    let folder = match env::var_os("HEARTH_CACHE").filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let home = env::var_os("HOME").filter(|value| !value.is_empty());
            let home = home.context("neither HEARTH_CACHE nor HOME is set: set one of them")?;
            Path::new(&home).join(".cache/hearth")
        }
    };
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// Every file git tracks, with the new files that it would track, relative to `root`, sorted.
/// Files deleted from the work tree but not yet from the index are left out.
pub(crate) fn tracked_files(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .context("cannot run git: install it")?;
    ensure!(
        output.status.success(),
        "git ls-files failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let listing = String::from_utf8(output.stdout).context("a tracked path is not UTF-8")?;
    let mut files: Vec<PathBuf> = listing
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .filter(|path| root.join(path).is_file())
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// The cargo that runs this program, so that one toolchain serves all its children.
///
/// What cargo told this program about itself is taken out: build scripts watch these variables, and
/// would run again, with everything above them, whenever they differ from those of a plain `cargo`.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let own = name.to_string_lossy();
        if own.starts_with("CARGO_PKG_") || own.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Whether `program` is an executable file in one of the folders of `path`.
pub(crate) fn on_path(program: &str, path: &OsStr) -> bool {
    env::split_paths(path).any(|folder| is_executable(&folder.join(program)))
}

#[cfg(unix)]
fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(file: &Path) -> bool {
    file.is_file()
}

/// Runs a command whose output the user sees, without standard input.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// A command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", name.display(), quoted(value)));
        }
    }
    words.push(quoted(command.get_program()));
    words.extend(command.get_args().map(quoted));
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// What `cargo metadata` says of the workspace's own packages.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    /// The packages of this workspace, in cargo's order.
    pub(crate) packages: Vec<Package>,
}

/// One package of the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    /// The package's name, for example `hearth-chain`.
    pub(crate) name: String,
    /// The absolute path of its `Cargo.toml`.
    pub(crate) manifest_path: PathBuf,
    /// What its manifest depends on, of every kind.
    pub(crate) dependencies: Vec<Dependency>,
    /// Its libraries, binaries, examples, tests and benches.
    pub(crate) targets: Vec<Target>,
}

/// One line of a manifest's dependency tables.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    /// The depended-on package's name.
    pub(crate) name: String,
    /// `None` for a normal dependency, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

/// One thing cargo can build from a package.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    /// The target's name.
    pub(crate) name: String,
    /// What it is: `lib`, `bin`, `example`, `test`, `bench` or `custom-build`.
    pub(crate) kind: Vec<String>,
    /// The absolute path of its root module.
    pub(crate) src_path: PathBuf,
    /// Whether `cargo test` builds its tests.
    pub(crate) test: bool,
}

/// A line of what cargo reports while it builds.
#[derive(Debug, Deserialize)]
struct Built {
    executable: Option<PathBuf>,
    target: Option<BuiltTarget>,
}

#[derive(Debug, Deserialize)]
struct BuiltTarget {
    name: String,
}

/// Builds programs of this workspace, and returns their names and files, sorted. `what` are the
/// `--bin` and `--example` arguments.
///
/// The whole workspace is selected, as for the tests: to select one package gives its libraries other
/// features, and compiles the heavy ones once more.
///
/// # Errors
/// Something does not compile, or cargo prints what it never printed before.
pub(crate) fn build<S: AsRef<OsStr>>(
    root: &Path,
    what: impl IntoIterator<Item = S>,
    wrapper: Option<&Path>,
) -> Result<Vec<(String, PathBuf)>> {
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--workspace"])
        .args(what)
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(root)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if let Some(wrapper) = wrapper {
        command.env("RUSTC_WORKSPACE_WRAPPER", wrapper);
    }
    let output = command.output().context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "`{}` failed ({})",
        shown(&command),
        output.status
    );
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let built: Built =
            serde_json::from_str(line).context("cargo printed something unexpected")?;
        if let (Some(program), Some(target)) = (built.executable, built.target) {
            programs.push((target.name, program));
        }
    }
    programs.sort();
    Ok(programs)
}

/// Builds the one program that `kind` (`--bin` or `--example`) and `name` mean.
///
/// A small example is always built too: tests and examples have dependencies of their own, which give
/// libraries features, and a program without them would compile the heavy ones once more.
///
/// # Errors
/// See [`build`].
pub(crate) fn build_one(root: &Path, kind: &str, name: &str) -> Result<PathBuf> {
    let programs = build(root, [kind, name, "--example", SMALL_EXAMPLE], None)?;
    let found = programs.into_iter().find(|(built, _)| built == name);
    let (_, program) = found.with_context(|| format!("cargo did not say where {name} is"))?;
    Ok(program)
}

/// The example that compiles fastest.
const SMALL_EXAMPLE: &str = "embedded_rpc";

/// Asks cargo for the workspace's own packages; contacts nothing.
pub(crate) fn metadata(root: &Path) -> Result<Metadata> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    serde_json::from_slice(&output.stdout).context("cargo metadata printed something unexpected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_this_crate() {
        let root = root().expect("tests run inside the checkout");
        assert!(root.join("xtask/src/workspace.rs").is_file());
    }

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("cargo");
        command
            .env("RUSTFLAGS", "-D warnings")
            .args(["test", "it's"]);
        assert_eq!(
            shown(&command),
            r"RUSTFLAGS='-D warnings' cargo test 'it'\''s'"
        );
    }

    #[test]
    fn a_failing_command_names_itself() {
        let error = run(Command::new("false").arg("x")).expect_err("false fails");
        assert!(error.to_string().starts_with("`false x` failed"), "{error}");
    }

    #[test]
    fn a_plain_file_is_no_program() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("tool"), "").expect("written");
        assert!(!on_path("tool", folder.path().as_os_str()));
        assert!(on_path("sh", OsStr::new("/bin")));
    }
}
