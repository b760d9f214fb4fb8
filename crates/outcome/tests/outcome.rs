//! Model files as other programs see them, and as strangers write them.

// Clippy knows the tests themselves, not what they share.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use hearth_datasets::tokenizer::ByteTokenizer;
use hearth_outcome::{Label, TrainedModel, Vocabulary};
use hearth_training::{Architecture, Layout, Tensors, Weights};

#[path = "outcome/adapters.rs"]
mod adapters;
#[path = "outcome/engine.rs"]
mod engine;
#[path = "outcome/files.rs"]
mod files;
#[path = "outcome/folders.rs"]
mod folders;
#[path = "outcome/hostile.rs"]
mod hostile;
#[path = "outcome/vectors.rs"]
mod vectors;

/// A tokenizer of a few merges.
fn tokenizer() -> ByteTokenizer {
    let text =
        "the hedgehog walks through the garden, and then 12 more times through the other garden. ";
    ByteTokenizer::train(300, std::iter::repeat_n(text.to_owned(), 4)).unwrap()
}

fn label() -> Label {
    Label {
        name: "A small model".to_owned(),
        description: Some("Numbers that nobody trained".to_owned()),
        license: "CC0-1.0".to_owned(),
    }
}

/// A small shape with room for all tokens of [`tokenizer`] and two more.
fn architecture() -> Architecture {
    Architecture {
        vocabulary: 302,
        width: 64,
        layers: 2,
        query_heads: 4,
        key_value_heads: 2,
        head: 16,
        hidden: 96,
        context: 256,
        rope_theta: 10_000.0,
        norm_epsilon: 1e-5,
        tied_head: false,
    }
}

/// Even numbers between -1 and 1, the same for the same seed (SplitMix64).
fn noise(seed: u64) -> impl Iterator<Item = f32> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// Weights so large that attention looks at some places more than at others, with norms around one.
fn lively(tensors: &Arc<Tensors>, seed: u64) -> Weights {
    println!("seed {seed}");
    let mut noise = noise(seed);
    let mut values = vec![0.0; tensors.len()];
    for tensor in tensors.list() {
        let (center, bound) = if tensor.rows == 1 {
            (1.0, 0.3)
        } else {
            (0.0, 1.7 / (tensor.columns as f32).sqrt())
        };
        for value in &mut values[tensor.range()] {
            *value = center + bound * noise.next().unwrap();
        }
    }
    Weights::new(tensors, values).unwrap()
}

/// A model, whole.
struct Whole {
    layout: Arc<Layout>,
    weights: Weights,
    vocabulary: Vocabulary,
    label: Label,
}

impl Whole {
    fn new(architecture: Architecture, seed: u64) -> Self {
        let layout = Arc::new(Layout::new(architecture).unwrap());
        Self {
            weights: lively(layout.tensors(), seed),
            layout,
            vocabulary: Vocabulary::of(&tokenizer()).unwrap(),
            label: label(),
        }
    }

    fn model(&self) -> TrainedModel<'_> {
        TrainedModel {
            layout: &self.layout,
            weights: &self.weights,
            vocabulary: &self.vocabulary,
            label: &self.label,
        }
    }
}
