//! What this machine has for a model: cores, memory, disk, graphics processors.
//!
//! It is read from what Linux shows; elsewhere only the cores are known, and the rest is assumed to
//! be little. Graphics processors are those that models run on; where there are none, those that the system shows are
//! told about, so that nobody wonders why theirs stays idle.

use std::path::Path;

use hearth_api::household::{Gpu, Machine};
use hearth_models::catalogue::Room;
use hearth_models::gpu;

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
        gpus: known(
            gpu::gpus(),
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
        gpu_bytes: machine.gpus.iter().map(|gpu| gpu.room_bytes).sum(),
    }
}

/// Why a graphics processor stays idle, and what would change that; nothing where none does.
pub fn idle_gpu(machine: &Machine) -> Option<String> {
    idle(machine, gpu::built_for())
}

fn idle(machine: &Machine, built_for: Option<&str>) -> Option<String> {
    let gpu = machine.gpus.iter().find(|gpu| !gpu.used)?;
    let why = match built_for {
        None => {
            "this program was built for the processor alone: docs/guide/gpu.md says how to build it for more".to_owned()
        }
        Some(backend) => format!(
            "this program was built for {backend}, which finds no device: see whether its driver is installed (docs/guide/gpu.md)"
        ),
    };
    Some(format!("{} stays idle, because {why}.", gpu.name))
}

/// The ones that models run on, or else those that the system shows.
fn known(used: Vec<gpu::Gpu>, nvidia: &Path, drm: &Path) -> Vec<Gpu> {
    if used.is_empty() {
        return shown_by_system(nvidia, drm);
    }
    let shown = used.into_iter().take(GPUS_MAX).map(|gpu| Gpu {
        name: gpu.name,
        memory_bytes: Some(gpu.memory_bytes),
        used: true,
        // An integrated one is no faster than its memory, so it runs well what the processor runs well.
        room_bytes: if gpu.integrated {
            0
        } else {
            gpu.memory_free_bytes
        },
    });
    shown.collect()
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
fn shown_by_system(nvidia: &Path, drm: &Path) -> Vec<Gpu> {
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
                used: false,
                room_bytes: 0,
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
                used: false,
                room_bytes: 0,
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
        assert_eq!(known(Vec::new(), &nvidia, &drm), []);
        let one = nvidia.join("0000:01:00.0");
        std::fs::create_dir_all(&one).unwrap();
        let text = "Model: \t\t NVIDIA GeForce RTX 3060\nIRQ: 1\n";
        std::fs::write(one.join("information"), text).unwrap();
        for name in ["card0", "card0-DP-1"] {
            let card = drm.join(name).join("device");
            std::fs::create_dir_all(&card).unwrap();
            std::fs::write(card.join("mem_info_vram_total"), "8589934592\n").unwrap();
        }
        let found = known(Vec::new(), &nvidia, &drm);
        assert_eq!(found[0].name, "NVIDIA GeForce RTX 3060");
        assert_eq!(found[1].memory_bytes, Some(8 << 30));
        assert_eq!(found.len(), 2);
        // What models run on is told instead.
        let found = known(vec![used("RTX 3060 by its driver", false)], &nvidia, &drm);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "RTX 3060 by its driver");
    }

    fn used(name: &str, integrated: bool) -> gpu::Gpu {
        gpu::Gpu {
            name: name.to_owned(),
            backend: "vulkan",
            memory_bytes: 8 << 30,
            memory_free_bytes: 6 << 30,
            integrated,
        }
    }

    fn machine(gpus: Vec<gpu::Gpu>) -> Machine {
        let nothing = Path::new("/nonexistent");
        Machine {
            cores: 4,
            memory_bytes: 16 << 30,
            memory_free_bytes: 12 << 30,
            disk_free_bytes: 1 << 40,
            gpus: known(gpus, nothing, nothing),
        }
    }

    #[test]
    fn a_model_has_room_in_the_memory_that_graphics_processors_have_themselves() {
        assert_eq!(room(&machine(Vec::new())).gpu_bytes, 0);
        assert_eq!(room(&machine(vec![used("inside", true)])).gpu_bytes, 0);
        let two = vec![used("one", false), used("two", false)];
        assert_eq!(room(&machine(two)).gpu_bytes, 12 << 30);
    }

    #[test]
    fn one_that_stays_idle_is_told_with_what_would_change_that() {
        let seen = |used| Gpu {
            name: "RTX 3060".to_owned(),
            memory_bytes: None,
            used,
            room_bytes: 0,
        };
        let mut machine = machine(Vec::new());
        assert_eq!(idle(&machine, None), None);
        machine.gpus = vec![seen(false)];
        let told = idle(&machine, None).unwrap();
        assert!(
            told.starts_with("RTX 3060 stays idle") && told.contains("docs/guide/gpu.md"),
            "{told}"
        );
        let told = idle(&machine, Some("vulkan")).unwrap();
        assert!(
            told.contains("built for vulkan") && told.contains("driver"),
            "{told}"
        );
        machine.gpus = vec![seen(true)];
        assert_eq!(idle(&machine, Some("vulkan")), None);
    }

    #[test]
    fn this_machine_has_something() {
        let machine = detect(Path::new("/"));
        assert!(machine.cores > 0 && machine.memory_bytes > 0);
        assert!(machine.memory_free_bytes <= machine.memory_bytes);
    }
}
