//! What this machine has for a model: cores, memory, disk, graphics processors.
//!
//! It is read from what Linux shows; elsewhere only the cores are known, and the rest is assumed to
//! be little. A graphics processor is told about, and used only by a program that was built for it.

use std::path::Path;

use hearth_api::household::{Gpu, Machine};
use hearth_models::catalogue::Room;

/// The memory that is assumed where the system does not say, in bytes: enough for the smallest model.
const MEMORY_ASSUMED_BYTES: u64 = 2 << 30;
/// The most graphics processors that are told about.
const GPUS_MAX: usize = 16;

/// Looks at this machine; `folder` is on the disk that models are kept on.
pub fn detect(folder: &Path) -> Machine {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    Machine {
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory_bytes: meminfo(&text, "MemTotal:").unwrap_or(MEMORY_ASSUMED_BYTES),
        memory_free_bytes: meminfo(&text, "MemAvailable:").unwrap_or(MEMORY_ASSUMED_BYTES),
        disk_free_bytes: free_bytes(folder),
        gpus: gpus(
            Path::new("/proc/driver/nvidia/gpus"),
            Path::new("/sys/class/drm"),
        ),
    }
}

/// What of it a model can use.
pub fn room(machine: &Machine) -> Room {
    Room {
        memory_bytes: machine.memory_free_bytes,
        disk_bytes: machine.disk_free_bytes,
        // The program is built for the processor.
        gpu_bytes: 0,
    }
}

/// A figure of `/proc/meminfo` (proc(5)), in bytes.
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1_024)
}

/// Room on the disk of a folder, in bytes.
fn free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize))
}

/// NVIDIA's by their driver, AMD's by the kernel's.
fn gpus(nvidia: &Path, drm: &Path) -> Vec<Gpu> {
    let folders = |path: &Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let mut folders: Vec<_> = entries.map(|entry| entry.path()).take(256).collect();
        folders.sort();
        folders
    };
    let mut gpus = Vec::new();
    for folder in folders(nvidia) {
        let text = std::fs::read_to_string(folder.join("information")).unwrap_or_default();
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"));
        if let Some(model) = model {
            let name = model.trim().to_owned();
            gpus.push(Gpu {
                name,
                memory_bytes: None,
            });
        }
    }
    for folder in folders(drm) {
        let memory = std::fs::read_to_string(folder.join("device/mem_info_vram_total"));
        // Connectors such as card0-DP-1 are of a card that is seen already.
        let is_card = folder
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("card"))
            .is_some_and(|number| number.parse::<u8>().is_ok());
        if let (true, Ok(memory)) = (is_card, memory) {
            gpus.push(Gpu {
                name: "an AMD graphics processor".to_owned(),
                memory_bytes: memory.trim().parse().ok(),
            });
        }
    }
    gpus.truncate(GPUS_MAX);
    gpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_system_writes_it() {
        let text = "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    8000000 kB\n";
        assert_eq!(meminfo(text, "MemTotal:"), Some(16_384_000_000));
        assert_eq!(meminfo(text, "MemAvailable:"), Some(8_192_000_000));
        assert_eq!(meminfo(text, "Swap:"), None);
        assert_eq!(meminfo("MemTotal: x kB", "MemTotal:"), None);
    }

    #[test]
    fn graphics_processors_are_found_by_their_drivers() {
        let folder = tempfile::tempdir().unwrap();
        let (nvidia, drm) = (folder.path().join("nvidia"), folder.path().join("drm"));
        assert_eq!(gpus(&nvidia, &drm), []);
        let one = nvidia.join("0000:01:00.0");
        std::fs::create_dir_all(&one).unwrap();
        let text = "Model: \t\t NVIDIA GeForce RTX 3060\nIRQ: 1\n";
        std::fs::write(one.join("information"), text).unwrap();
        for name in ["card0", "card0-DP-1"] {
            let card = drm.join(name).join("device");
            std::fs::create_dir_all(&card).unwrap();
            std::fs::write(card.join("mem_info_vram_total"), "8589934592\n").unwrap();
        }
        let found = gpus(&nvidia, &drm);
        assert_eq!(found[0].name, "NVIDIA GeForce RTX 3060");
        assert_eq!(found[1].memory_bytes, Some(8 << 30));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn this_machine_has_something() {
        let machine = detect(Path::new("/"));
        assert!(machine.cores > 0 && machine.memory_bytes > 0);
        assert!(machine.memory_free_bytes <= machine.memory_bytes);
    }
}
