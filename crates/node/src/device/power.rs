//! What this device draws, as far as it can be measured: the processor's packages by the counters of
//! Linux' powercap, and NVIDIA's graphics processors by `nvidia-smi`.
//!
//! The rest of a device (screen, disks, power supply) is not in it. Elsewhere, and where the
//! counters are not readable, power cannot be measured, and that is said.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::process::Command;

/// Where Linux shows its power counters.
const POWERCAP: &str = "/sys/class/powercap";
/// The most packages that are read.
const PACKAGES_MAX: usize = 64;
/// How long the graphics processors may take to tell.
const GPU_TIME_MAX: Duration = Duration::from_secs(3);

/// Nothing here says what the device draws.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("[sharing] watts is set, and what this device draws cannot be measured: {0}")]
pub struct Unmeasurable(String);

/// A counter of energy that begins anew at its end.
#[derive(Debug)]
struct Package {
    path: PathBuf,
    range_uj: u64,
}

/// Reads what the device draws.
#[derive(Debug)]
pub(super) struct Meter {
    packages: Vec<Package>,
    gpus: bool,
    before: Option<(Instant, Vec<u64>)>,
}

impl Meter {
    /// Finds what can be measured here.
    ///
    /// # Errors
    /// When nothing can.
    pub(super) async fn find() -> Result<Self, Unmeasurable> {
        let packages = packages(Path::new(POWERCAP));
        let gpus = gpu_watts().await.is_some();
        match packages {
            Err(reason) if !gpus => Err(Unmeasurable(reason)),
            packages => Ok(Self {
                packages: packages.unwrap_or_default(),
                gpus,
                before: None,
            }),
        }
    }

    /// What the device drew since the last time on average, in watts. Nothing the first time.
    pub(super) async fn watts(&mut self) -> Option<u32> {
        let gpus = if self.gpus { gpu_watts().await? } else { 0.0 };
        let counters: Option<Vec<u64>> = self.packages.iter().map(|p| read(&p.path)).collect();
        let now = (Instant::now(), counters?);
        let before = self.before.replace(now.clone());
        if self.packages.is_empty() {
            return Some(gpus.round() as u32);
        }
        let (at, counters) = before?;
        let seconds = now.0.duration_since(at).as_secs_f64();
        let ranges = self.packages.iter().map(|package| package.range_uj);
        let used = counters.iter().zip(&now.1).zip(ranges);
        let used_uj: u64 = used
            .map(|((before, now), range)| spent_uj(*before, *now, range))
            .sum();
        let watts = used_uj as f64 / 1e6 / seconds.max(0.001) + gpus;
        Some(watts.round() as u32)
    }
}

/// What a counter counted, also over its end.
fn spent_uj(before: u64, now: u64, range_uj: u64) -> u64 {
    if now >= before {
        now - before
    } else {
        range_uj.saturating_sub(before).saturating_add(now)
    }
}

/// The counters of whole packages: `intel-rapl:0`, not their parts such as `intel-rapl:0:0`.
fn packages(folder: &Path) -> Result<Vec<Package>, String> {
    let entries = std::fs::read_dir(folder)
        .map_err(|_| format!("this system has no {}", folder.display()))?;
    let mut packages = Vec::new();
    for entry in entries.flatten().take(1_024) {
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("intel-rapl:"));
        if number.is_none_or(|number| number.parse::<u16>().is_err()) {
            continue;
        }
        let path = entry.path().join("energy_uj");
        let range_uj = read(&entry.path().join("max_energy_range_uj")).unwrap_or(u64::MAX);
        if read(&path).is_none() {
            return Err(format!("{} is not readable for this user", path.display()));
        }
        if packages.len() < PACKAGES_MAX {
            packages.push(Package { path, range_uj });
        }
    }
    if packages.is_empty() {
        return Err(format!(
            "the processor has no counters in {}",
            folder.display()
        ));
    }
    Ok(packages)
}

fn read(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What NVIDIA's graphics processors draw together; nothing where there is none.
async fn gpu_watts() -> Option<f64> {
    let asked = Command::new("nvidia-smi")
        .args(["--query-gpu=power.draw", "--format=csv,noheader,nounits"])
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(GPU_TIME_MAX, asked).await.ok()?.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    sum_of_lines(&text).filter(|_| output.status.success())
}

fn sum_of_lines(text: &str) -> Option<f64> {
    let lines: Option<Vec<f64>> = text.lines().map(|line| line.trim().parse().ok()).collect();
    lines
        .filter(|lines| !lines.is_empty())
        .map(|lines| lines.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_package_and_wrap() {
        let folder = tempfile::tempdir().unwrap();
        for (name, energy) in [("intel-rapl:0", 5), ("intel-rapl:0:0", 3), ("dtpm", 1)] {
            let at = folder.path().join(name);
            std::fs::create_dir(&at).unwrap();
            std::fs::write(at.join("energy_uj"), format!("{energy}\n")).unwrap();
            std::fs::write(at.join("max_energy_range_uj"), "1000\n").unwrap();
        }
        let found = packages(folder.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((read(&found[0].path), found[0].range_uj), (Some(5), 1_000));
        assert_eq!(spent_uj(5, 25, 1_000), 20);
        assert_eq!(spent_uj(990, 10, 1_000), 20);
    }

    #[test]
    fn what_cannot_be_measured_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let none = packages(folder.path()).unwrap_err();
        assert!(none.contains("no counters"), "{none}");
        let gone = packages(&folder.path().join("gone")).unwrap_err();
        assert!(gone.contains("has no"), "{gone}");
        std::fs::create_dir(folder.path().join("intel-rapl:0")).unwrap();
        let closed = packages(folder.path()).unwrap_err();
        assert!(closed.contains("not readable"), "{closed}");
    }

    #[test]
    fn graphics_processors_are_summed() {
        assert_eq!(sum_of_lines("70.5\n29.5\n"), Some(100.0));
        assert_eq!(sum_of_lines("[N/A]\n"), None);
        assert_eq!(sum_of_lines(""), None);
    }
}
