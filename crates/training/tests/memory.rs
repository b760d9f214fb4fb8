//! The memory that a training says it takes is about what it takes.

use std::alloc::{GlobalAlloc, Layout as Bytes, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hearth_training::{
    AdamW, Adapter, AdapterLayout, Architecture, Layout, Muon, Optimizer, Path, RateSchedule,
    Target, Trainer, Training, Weights,
};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[allow(
    unsafe_code,
    reason = "the only way to see what is allocated; it hands on to the system's"
)]
// SAFETY: every call goes to the system's allocator with what the caller promised.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, bytes: Bytes) -> *mut u8 {
        let held = HELD.fetch_add(bytes.size(), Ordering::SeqCst) + bytes.size();
        PEAK.fetch_max(held, Ordering::SeqCst);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(bytes) }
    }

    unsafe fn dealloc(&self, place: *mut u8, bytes: Bytes) {
        HELD.fetch_sub(bytes.size(), Ordering::SeqCst);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(place, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn adamw() -> AdamW {
    AdamW {
        rate: RateSchedule::constant(1e-3),
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        decay: 0.1,
    }
}

/// Returns what was said and the most that was held, both in bytes.
fn measure(
    layout: &Arc<Layout>,
    adapter: Option<&Arc<AdapterLayout>>,
    training: Training,
) -> (u64, u64) {
    let memory = Trainer::memory(layout, adapter.map(|adapter| &**adapter), &training)
        .expect("the settings are sound");
    let before = HELD.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let weights = Weights::fresh(layout.tensors(), 1);
    let mut trainer = match adapter {
        None => Trainer::start(layout, weights, training),
        Some(adapter) => {
            let own = Weights::fresh(adapter.tensors(), 2);
            Trainer::start_adapter(layout, weights, (adapter, own), training)
        }
    }
    .expect("the settings are sound");
    let batch = vec![1; training.windows * (training.tokens + 1)];
    trainer
        .run([batch.as_slice(), batch.as_slice()])
        .expect("the steps are taken");
    (
        memory.total_bytes(),
        (PEAK.load(Ordering::SeqCst) - before) as u64,
    )
}

/// One test, because the allocator counts the whole process.
#[test]
fn what_is_held_is_within_what_was_said() {
    let architecture = Architecture {
        vocabulary: 512,
        width: 96,
        layers: 3,
        query_heads: 6,
        key_value_heads: 2,
        head: 16,
        hidden: 256,
        context: 128,
        rope_theta: 10_000.0,
        norm_epsilon: 1e-5,
        tied_head: true,
    };
    let layout = Arc::new(Layout::new(architecture).expect("the model is sound"));
    let adapter = Adapter {
        rank: 8,
        alpha: 16.0,
        targets: Target::ALL.to_vec(),
    };
    let adapter = Arc::new(AdapterLayout::new(&layout, adapter).expect("the adapter is sound"));
    let muon = Muon {
        rate: RateSchedule::constant(0.02),
        momentum: 0.95,
        decay: 0.0,
        rest: adamw(),
    };
    for (optimizer, adapter, windows, windows_together, threads) in [
        (Optimizer::AdamW(adamw()), None, 4, 4, 1),
        (Optimizer::Muon(muon), None, 4, 2, 2),
        (Optimizer::AdamW(adamw()), Some(&adapter), 4, 2, 2),
    ] {
        let training = Training {
            tokens: 128,
            windows,
            windows_together,
            optimizer,
            clip_norm: 1.0,
            threads,
            path: Path::fastest(),
        };
        let (said, held) = measure(&layout, adapter, training);
        let ratio = held as f64 / said as f64;
        assert!(
            (0.77..1.3).contains(&ratio),
            "{held} held, {said} said: {ratio}"
        );
    }
}
