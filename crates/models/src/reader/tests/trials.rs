//! Whole models, run for the first time by a process that may break.

use super::{file, launcher, sound};
use crate::OpenError;
use crate::gguf::sample::{Sample, tensor, u32_value};
use crate::reader::try_out;

/// The numbers of one position.
const WIDTH: u64 = 64;
/// Those of a head of the attention, of which there are four, two with keys and values of their own.
const HEAD_WIDTH: u64 = 16;
const TOKENS: u64 = 259;

fn f32_value(value: f32) -> Vec<u8> {
    [6_u32.to_le_bytes(), value.to_le_bytes()].concat()
}

/// The smallest Llama that runs: one layer of small numbers.
fn whole() -> Sample {
    with_values_of(HEAD_WIDTH)
}

/// The same where a head has values of another width, which fits the tensors and is not what runs it takes for granted.
fn with_values_of(value_width: u64) -> Sample {
    let tensors: [(&str, &[u64]); 11] = [
        ("token_embd.weight", &[WIDTH, TOKENS]),
        ("output_norm.weight", &[WIDTH]),
        ("blk.0.attn_norm.weight", &[WIDTH]),
        ("blk.0.attn_q.weight", &[WIDTH, WIDTH]),
        ("blk.0.attn_k.weight", &[WIDTH, 2 * HEAD_WIDTH]),
        ("blk.0.attn_v.weight", &[WIDTH, 2 * value_width]),
        ("blk.0.attn_output.weight", &[WIDTH, WIDTH]),
        ("blk.0.ffn_norm.weight", &[WIDTH]),
        ("blk.0.ffn_gate.weight", &[WIDTH, WIDTH]),
        ("blk.0.ffn_up.weight", &[WIDTH, WIDTH]),
        ("blk.0.ffn_down.weight", &[WIDTH, WIDTH]),
    ];
    let mut sample = sound("{{ messages[0].content }}")
        .with("llama.block_count", u32_value(1))
        .with("llama.feed_forward_length", u32_value(WIDTH as u32))
        .with("llama.rope.dimension_count", u32_value(HEAD_WIDTH as u32))
        .with("llama.attention.key_length", u32_value(HEAD_WIDTH as u32))
        .with(
            "llama.attention.value_length",
            u32_value(value_width as u32),
        )
        .with("llama.attention.layer_norm_rms_epsilon", f32_value(1e-5));
    sample.tensors.clear();
    sample.data.clear();
    for (name, sizes) in tensors {
        let count: u64 = sizes.iter().product();
        let offset = sample.data.len() as u64;
        sample.tensors.push(tensor(name, sizes, 0, offset));
        let numbers = (0..count).flat_map(|index| ((index % 7) as f32 * 0.01).to_le_bytes());
        sample.data.extend(numbers);
        let padded = sample.data.len().next_multiple_of(sample.alignment);
        sample.data.resize(padded, 0);
    }
    sample
}

#[test]
fn a_model_that_runs_is_said_to_run() {
    let model = file(&whole());
    try_out(&launcher(), &model.path).unwrap();
}

#[test]
fn a_whole_model_that_breaks_the_engine_breaks_a_process_of_its_own() {
    let model = file(&with_values_of(HEAD_WIDTH / 2));
    let outcome = try_out(&launcher(), &model.path);
    assert!(
        matches!(&outcome, Err(OpenError::Broken { how, .. }) if how == "it ended"),
        "{outcome:?}"
    );
}

#[test]
fn a_whole_model_that_does_not_fit_together_is_refused_with_a_reason() {
    let without = |name: &str| {
        let mut sample = whole();
        let kept = |tensor: &Vec<u8>| !String::from_utf8_lossy(tensor).contains(name);
        sample.tensors.retain(kept);
        sample
    };
    for (what, sample) in [
        (
            "less of a head is turned",
            whole().with("llama.rope.dimension_count", u32_value(8)),
        ),
        (
            "values of another length",
            whole().with("llama.attention.value_length", u32_value(8)),
        ),
        (
            "heads that share no keys evenly",
            whole().with("llama.attention.head_count_kv", u32_value(3)),
        ),
        ("no attention", without("attn_q")),
        ("no norm", without("output_norm")),
    ] {
        let model = file(&sample);
        let outcome = try_out(&launcher(), &model.path);
        let Err(OpenError::Refused { reason, .. }) = outcome else {
            panic!("{what}: {outcome:?}");
        };
        assert!(
            reason.contains("the engine cannot load it"),
            "{what}: {reason}"
        );
    }
}

#[test]
fn a_file_that_is_missing_is_said_to_be_missing() {
    let outcome = try_out(&launcher(), std::path::Path::new("/nowhere/model.gguf"));
    assert!(matches!(outcome, Err(OpenError::Missing(_))), "{outcome:?}");
}
