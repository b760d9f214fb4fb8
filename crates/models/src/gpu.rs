//! Graphics processors: which ones this build computes on, and what memory they have for a model.
//!
//! A build computes on them with a feature of cargo alone (`cuda`, `metal`, `vulkan`; Metal is always there on
//! Apple's own processors). Which devices there are is asked of llama.cpp, because only what its backend finds
//! can be used: a driver may be missing, or a processor be too old. Which of them it takes is a rule of its own,
//! which [`taken`] repeats, so that what is told here is what will compute.

use llama_cpp_2::{LlamaBackendDevice, LlamaBackendDeviceType, list_llama_ggml_backend_devices};

/// A graphics processor that models run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// What its driver calls it.
    pub name: String,
    /// The class of backends that computes on it: `cuda`, `metal` or `vulkan`.
    pub backend: &'static str,
    /// All of its memory, in bytes.
    pub memory_bytes: u64,
    /// Of that, what is free, in bytes.
    pub memory_free_bytes: u64,
    /// Whether it is a part of the processor, so that its memory is the machine's.
    pub integrated: bool,
}

/// The class of backends that this build has beside the processor; nothing if models run on the processor alone.
pub fn built_for() -> Option<&'static str> {
    let metal = cfg!(feature = "metal") || cfg!(all(target_os = "macos", target_arch = "aarch64"));
    if cfg!(feature = "cuda") {
        Some("cuda")
    } else if cfg!(feature = "vulkan") {
        Some("vulkan")
    } else {
        metal.then_some("metal")
    }
}

/// The graphics processors that models run on. It starts their drivers, which may take a second.
pub fn gpus() -> Vec<Gpu> {
    // The backend comes first: without it, llama.cpp writes what it finds to the terminal.
    if built_for().is_none() || crate::backend::backend().is_err() {
        return Vec::new();
    }
    taken(&list_llama_ggml_backend_devices())
}

/// Which of the devices that llama.cpp finds it computes on: those with memory of their own, and the integrated
/// ones only where there are no others.
///
/// A build for two backends finds a device by each of them. Only those of the first backend are counted, so that
/// no memory is counted twice.
fn taken(found: &[LlamaBackendDevice]) -> Vec<Gpu> {
    let of = |wanted: LlamaBackendDeviceType| -> Vec<Gpu> {
        let known = found.iter().filter(|one| one.device_type == wanted);
        let mut gpus: Vec<Gpu> = known.filter_map(known_gpu).collect();
        let first = gpus.first().map(|gpu| gpu.backend);
        gpus.retain(|gpu| Some(gpu.backend) == first);
        gpus
    };
    let own = of(LlamaBackendDeviceType::Gpu);
    if own.is_empty() {
        of(LlamaBackendDeviceType::IntegratedGpu)
    } else {
        own
    }
}

/// A device of a backend that has a class; nothing otherwise.
fn known_gpu(device: &LlamaBackendDevice) -> Option<Gpu> {
    let backend = match device.backend.as_str() {
        "CUDA" => "cuda",
        "MTL" | "Metal" => "metal",
        "Vulkan" => "vulkan",
        _ => return None,
    };
    Some(Gpu {
        name: device.description.clone(),
        backend,
        memory_bytes: device.memory_total as u64,
        memory_free_bytes: device.memory_free.min(device.memory_total) as u64,
        integrated: device.device_type == LlamaBackendDeviceType::IntegratedGpu,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: usize = 1 << 30;

    fn device(
        backend: &str,
        name: &str,
        device_type: LlamaBackendDeviceType,
    ) -> LlamaBackendDevice {
        LlamaBackendDevice {
            index: 0,
            name: format!("{backend}0"),
            description: name.to_owned(),
            backend: backend.to_owned(),
            memory_total: 8 * GIB,
            memory_free: 7 * GIB,
            device_type,
        }
    }

    fn names(found: &[LlamaBackendDevice]) -> Vec<(String, &'static str)> {
        let gpus = taken(found).into_iter();
        gpus.map(|gpu| (gpu.name, gpu.backend)).collect()
    }

    #[test]
    fn devices_with_memory_of_their_own_come_before_integrated_ones() {
        use LlamaBackendDeviceType::{Cpu, Gpu, IntegratedGpu};
        let processor = device("CPU", "a processor", Cpu);
        let inside = device("Vulkan", "UHD Graphics", IntegratedGpu);
        let (one, two) = (device("Vulkan", "one", Gpu), device("Vulkan", "two", Gpu));
        assert_eq!(names(std::slice::from_ref(&processor)), []);
        let found = [processor.clone(), inside.clone()];
        assert_eq!(names(&found), [("UHD Graphics".to_owned(), "vulkan")]);
        assert!(taken(&found)[0].integrated);
        let found = [inside, one, two, processor];
        let expected = ["one", "two"].map(|name| (name.to_owned(), "vulkan"));
        assert_eq!(names(&found), expected);
        let gpu = &taken(&found)[0];
        assert_eq!(
            (gpu.memory_bytes, gpu.memory_free_bytes),
            (8 << 30, 7 << 30)
        );
        assert!(!gpu.integrated);
    }

    #[test]
    fn a_device_that_two_backends_find_counts_once() {
        use LlamaBackendDeviceType::Gpu;
        let found = [
            device("CUDA", "RTX 3060", Gpu),
            device("Vulkan", "RTX 3060", Gpu),
        ];
        assert_eq!(names(&found), [("RTX 3060".to_owned(), "cuda")]);
    }

    #[test]
    fn a_backend_without_a_class_is_not_counted() {
        let found = [
            device("RPC", "elsewhere", LlamaBackendDeviceType::Gpu),
            device("BLAS", "a library", LlamaBackendDeviceType::Accelerator),
        ];
        assert_eq!(names(&found), []);
    }

    #[test]
    fn more_memory_free_than_there_is_cannot_be() {
        let mut strange = device("MTL", "Apple M2", LlamaBackendDeviceType::Gpu);
        strange.memory_free = usize::MAX;
        assert_eq!(taken(&[strange])[0].memory_free_bytes, 8 << 30);
    }

    #[test]
    fn a_build_for_the_processor_finds_none() {
        if built_for().is_none() {
            assert_eq!(gpus(), []);
        }
    }
}
