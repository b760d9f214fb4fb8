//! The same bits from every path, any number of threads, and however many windows are computed together.

use std::sync::Arc;

use hearth_training::{
    AdamW, Adapter, AdapterLayout, Architecture, Layout, Muon, Optimizer, Path, Progress,
    RateSchedule, Target, Trainer, Training, Weights,
};

const TEXT_WORDS: &str =
    "What's in a name? that which we call a rose by any other name would smell as sweet; ";
const TEXT: &[u8] = TEXT_WORDS.as_bytes();

/// What another implementation needs to arrive at the same states.
const ABOUT: &str = "State hashes of f32-fma/1 after three steps. Vocabulary 256, width 40, 2 layers, 4 query and 2 \
    key-value heads of 10, hidden 86, rope_theta 10000, norm_epsilon 1e-5, tied head. Fresh weights of seed 7. Each step \
    has 5 windows of 62 tokens, the bytes of `text` over and over, going on where the last window ended. clip_norm 1. \
    adamw: peak 3e-3, warmup 2 steps, betas 0.9 and 0.95, epsilon 1e-8, decay 0.1. muon: rate 0.02, momentum 0.95, decay \
    0.1, the rest by that AdamW. adapter: rank 5, alpha 10, on q_proj, v_proj, gate_proj and down_proj, fresh by seed 8, \
    by that AdamW.";

fn layout(width: usize, tied_head: bool) -> Arc<Layout> {
    let architecture = Architecture {
        vocabulary: 256,
        width,
        layers: 2,
        query_heads: 4,
        key_value_heads: 2,
        head: 10,
        hidden: 2 * width + 6,
        context: 61,
        rope_theta: 10_000.0,
        norm_epsilon: 1e-5,
        tied_head,
    };
    Arc::new(Layout::new(architecture).expect("the model is sound"))
}

fn adamw() -> AdamW {
    AdamW {
        rate: RateSchedule {
            warmup_steps: 2,
            ..RateSchedule::constant(3e-3)
        },
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        decay: 0.1,
    }
}

fn training(optimizer: Optimizer) -> Training {
    Training {
        tokens: 61,
        windows: 5,
        windows_together: 5,
        optimizer,
        clip_norm: 1.0,
        threads: 1,
        path: Path::fastest(),
    }
}

fn muon() -> Optimizer {
    Optimizer::Muon(Muon {
        rate: RateSchedule::constant(0.02),
        momentum: 0.95,
        decay: 0.1,
        rest: adamw(),
    })
}

fn batches(training: &Training, steps: usize) -> Vec<Vec<u32>> {
    let each = training.windows * (training.tokens + 1);
    let mut text = TEXT.iter().cycle().map(|byte| u32::from(*byte));
    (0..steps)
        .map(|_| text.by_ref().take(each).collect())
        .collect()
}

fn full(layout: &Arc<Layout>, training: Training) -> Progress {
    let weights = Weights::fresh(layout.tensors(), 7);
    let mut trainer = Trainer::start(layout, weights, training).expect("the settings are sound");
    let batches = batches(&training, 3);
    trainer
        .run(batches.iter().map(Vec::as_slice))
        .expect("the steps are taken")
}

fn adapted(layout: &Arc<Layout>, training: Training) -> Progress {
    let adapter = Adapter {
        rank: 5,
        alpha: 10.0,
        targets: vec![Target::Query, Target::Value, Target::Gate, Target::Down],
    };
    let adapter = Arc::new(AdapterLayout::new(layout, adapter).expect("the adapter is sound"));
    let weights = Weights::fresh(layout.tensors(), 7);
    let own = Weights::fresh(adapter.tensors(), 8);
    let mut trainer = Trainer::start_adapter(layout, weights, (&adapter, own), training)
        .expect("the settings are sound");
    let batches = batches(&training, 3);
    trainer
        .run(batches.iter().map(Vec::as_slice))
        .expect("the steps are taken")
}

/// Runs every path, several threads and other splits, and asserts that all give what the first gave.
fn assert_one_result(optimizer: Optimizer, run: impl Fn(Training) -> Progress) {
    let first = run(training(optimizer));
    assert!(first.log.iter().all(|log| log.loss.is_finite()));
    for path in Path::available() {
        for (threads, windows_together) in [(1, 5), (2, 5), (4, 2), (3, 1)] {
            let training = Training {
                threads,
                windows_together,
                path,
                ..training(optimizer)
            };
            let here = run(training);
            let how = format!(
                "{}, {threads} threads, {windows_together} together",
                path.name()
            );
            assert_eq!(here.log, first.log, "{how}");
            assert_eq!(here.state, first.state, "{how}");
        }
    }
}

#[test]
fn adamw_of_all_weights() {
    for tied in [true, false] {
        let layout = layout(40, tied);
        assert_one_result(Optimizer::AdamW(adamw()), |training| {
            full(&layout, training)
        });
    }
}

#[test]
fn muon_of_all_weights() {
    let layout = layout(33, true);
    assert_one_result(muon(), |training| full(&layout, training));
}

#[test]
fn an_adapter_over_frozen_weights() {
    let layout = layout(40, true);
    assert_one_result(Optimizer::AdamW(adamw()), |training| {
        adapted(&layout, training)
    });
}

/// A change of these bits changes what others can replay, so it needs another name than `f32-fma/1`.
#[test]
fn the_bits_of_this_numerics() {
    let hex = |progress: Progress| progress.state.to_string();
    let layout = layout(40, true);
    let states = [
        hex(full(&layout, training(Optimizer::AdamW(adamw())))),
        hex(full(&layout, training(muon()))),
        hex(adapted(&layout, training(Optimizer::AdamW(adamw())))),
    ];
    let names = ["adamw", "muon", "adapter"];
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../vectors/training_states.json"
    );
    if std::env::var_os("HEARTH_REGENERATE").is_some() {
        let map: serde_json::Map<_, _> = names
            .iter()
            .zip(&states)
            .map(|(name, state)| ((*name).to_owned(), state.as_str().into()))
            .collect();
        let text = serde_json::json!({ "about": ABOUT, "text": TEXT_WORDS, "states": map });
        std::fs::write(file, format!("{text:#}\n")).expect("the vectors can be written");
    }
    let text = std::fs::read_to_string(file).expect("the vectors are there");
    let file: serde_json::Value = serde_json::from_str(&text).expect("the vectors are JSON");
    for (state, name) in states.iter().zip(names) {
        assert_eq!(file["states"][name], state.as_str(), "{name}");
    }
}

/// More logits than are held at a time: the head goes over the rows in parts.
#[test]
fn a_large_vocabulary_is_computed_in_parts() {
    let architecture = Architecture {
        vocabulary: 1 << 17,
        width: 4,
        layers: 1,
        query_heads: 1,
        key_value_heads: 1,
        head: 4,
        hidden: 4,
        context: 100,
        rope_theta: 10_000.0,
        norm_epsilon: 1e-5,
        tied_head: true,
    };
    let layout = Arc::new(Layout::new(architecture).expect("the model is sound"));
    let states = [1, 2].map(|windows_together| {
        let training = Training {
            tokens: 100,
            windows: 2,
            windows_together,
            ..training(Optimizer::AdamW(adamw()))
        };
        full(&layout, training)
    });
    assert_eq!(states[0], states[1]);
}
