//! `cargo xtask gpu`: whether the program still compiles for graphics processors, and computes on one.
//!
//! It is no part of `cargo xtask test`: a backend takes many minutes to compile and fetches packages that nobody else
//! needs. Vulkan can be tried on any Linux, because Mesa brings a device that is made of software (`--software`). CUDA
//! needs NVIDIA's compiler and Metal a Mac; without them the task says so and does nothing.

use std::env;
use std::path::Path;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{model, setup, workspace};

/// What a program can be built for: the features of `hearth-cli`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// Any graphics processor with a driver for Vulkan.
    Vulkan,
    /// NVIDIA's.
    Cuda,
    /// Apple's.
    Metal,
}

impl Backend {
    /// The feature of `hearth-cli`, from where it reaches every crate below.
    fn feature(self) -> &'static str {
        match self {
            Self::Vulkan => "hearth-cli/vulkan",
            Self::Cuda => "hearth-cli/cuda",
            Self::Metal => "hearth-cli/metal",
        }
    }
}

/// What the task needs.
///
/// # Errors
/// The backend cannot be compiled on this machine; the text says where it can.
pub(crate) fn needs(root: &Path, backend: Backend, software: bool) -> Result<setup::Needs> {
    let path = env::var_os("PATH").unwrap_or_default();
    let has_nvcc =
        workspace::on_path("nvcc", &path) || Path::new("/usr/local/cuda/bin/nvcc").is_file();
    if let Some(why) = impossible(backend, software, env::consts::OS, has_nvcc) {
        bail!("{why}");
    }
    Ok(setup::Needs {
        model: true,
        vulkan: backend == Backend::Vulkan,
        vulkan_software: software,
        ..setup::Needs::of(root, false, false)?
    })
}

/// Why a backend cannot be compiled or tried on a system; nothing if it can.
fn impossible(backend: Backend, software: bool, os: &str, has_nvcc: bool) -> Option<&'static str> {
    match backend {
        _ if software && (backend != Backend::Vulkan || os != "linux") => Some(
            "--software is for Vulkan on Linux: no other backend has a device that is made of software",
        ),
        Backend::Cuda if !has_nvcc => Some(
            "CUDA can be compiled only where NVIDIA's toolkit is (there is no nvcc here); it is no part of most systems: \
             see https://developer.nvidia.com/cuda-downloads",
        ),
        Backend::Metal if os != "macos" => Some(
            "Metal can be compiled only on a Mac; on Apple's own processors every build has it",
        ),
        _ => None,
    }
}

/// Checks every crate and test with the backend, then runs the tests of a real model on what it finds.
///
/// # Errors
/// Something does not compile, or a test fails.
pub(crate) fn run(backend: Backend, software: bool) -> Result<()> {
    let root = workspace::root()?;
    if let Some(why) = setup::old_vulkan_headers().filter(|_| backend == Backend::Vulkan) {
        bail!("{why}");
    }
    let feature = ["--features", backend.feature()];
    let mut clippy = workspace::cargo();
    clippy.args(["clippy", "--workspace", "--all-targets"]);
    clippy.args(feature).args(["--", "-D", "warnings"]);
    println!("gpu: {}", workspace::shown(&clippy));
    workspace::run(clippy.current_dir(&root))?;
    let mut tests = workspace::cargo();
    tests.args(["test", "--workspace", "--test", "model"]);
    tests.args(feature).args(["--", "--include-ignored"]);
    // One after the other: a device that is made of software has all cores at work for one.
    tests.arg("--test-threads=1").current_dir(&root);
    tests.env(model::VARIABLE, model::fetch(&root)?);
    tests.env("OMP_WAIT_POLICY", "passive");
    if software {
        // Mesa's software device is of the kind that llama.cpp takes only by its number.
        tests.env("VK_LOADER_DRIVERS_SELECT", "*lvp*");
        tests.env("GGML_VK_VISIBLE_DEVICES", "0");
    }
    println!("gpu: {}", workspace::shown(&tests));
    workspace::run(&mut tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_compiled_here_is_said_with_where_it_can() {
        let why = |backend, software, os, nvcc| impossible(backend, software, os, nvcc);
        assert_eq!(why(Backend::Vulkan, true, "linux", false), None);
        assert_eq!(why(Backend::Vulkan, false, "windows", false), None);
        assert_eq!(why(Backend::Cuda, false, "linux", true), None);
        assert_eq!(why(Backend::Metal, false, "macos", false), None);
        for (backend, software, os, part) in [
            (Backend::Cuda, false, "linux", "nvcc"),
            (Backend::Metal, false, "linux", "Mac"),
            (Backend::Cuda, true, "linux", "--software"),
            (Backend::Vulkan, true, "macos", "--software"),
        ] {
            let text = why(backend, software, os, false).expect("it cannot");
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_features_are_those_of_the_program() {
        let manifest = include_str!("../../crates/cli/Cargo.toml");
        for backend in Backend::value_variants() {
            let name = backend.feature().trim_start_matches("hearth-cli/");
            let line = format!("{name} = [\"hearth-node/{name}\"]");
            assert!(manifest.contains(&line), "{line}");
        }
    }
}
