//! A small model learns text, and what cannot be trained says so.

use std::sync::Arc;

use hearth_training::{
    AdamW, Architecture, BatchError, Layout, Optimizer, Path, RateSchedule, StartError, StepError,
    Trainer, Training, Weights,
};

fn layout() -> Arc<Layout> {
    let architecture = Architecture {
        vocabulary: 256,
        width: 64,
        layers: 2,
        query_heads: 4,
        key_value_heads: 2,
        head: 16,
        hidden: 176,
        context: 64,
        rope_theta: 10_000.0,
        norm_epsilon: 1e-5,
        tied_head: true,
    };
    Arc::new(Layout::new(architecture).expect("the model is sound"))
}

fn training() -> Training {
    Training {
        tokens: 32,
        windows: 8,
        windows_together: 4,
        optimizer: Optimizer::AdamW(AdamW {
            rate: RateSchedule::constant(3e-3),
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            decay: 0.1,
        }),
        clip_norm: 1.0,
        threads: 2,
        path: Path::fastest(),
    }
}

fn start(training: Training) -> Result<Trainer, StartError> {
    let layout = layout();
    Trainer::start(&layout, Weights::fresh(layout.tensors(), 1), training)
}

fn counting() -> Vec<u32> {
    let text: String = (0..200).map(|number| format!("{number} and ")).collect();
    text.bytes().take(8 * 33).map(u32::from).collect()
}

#[test]
fn loss_falls() {
    let mut trainer = start(training()).expect("the settings are sound");
    let batch = counting();
    let first = trainer.step(&batch).expect("the step is taken");
    // Fresh weights know nothing: every byte is about as likely.
    assert!((first.loss - 256f32.ln()).abs() < 0.3, "{}", first.loss);
    let batches = std::iter::repeat_n(batch.as_slice(), 150);
    let progress = trainer.run(batches).expect("the steps are taken");
    let last = progress.log.last().expect("there are steps");
    assert_eq!(last.step, 151);
    assert!(last.loss < 0.5, "{}", last.loss);
    let held = trainer.loss_of(&batch[..3 * 33]).expect("whole windows");
    assert!(held < 0.5, "{held}");
}

#[test]
fn a_batch_of_another_training_is_refused() {
    let mut trainer = start(training()).expect("the settings are sound");
    let before = trainer.state_hash();
    let mut batch = counting();
    batch[40] = 256;
    let refused = trainer.step(&batch).expect_err("256 is no byte");
    assert!(matches!(
        refused,
        StepError::Batch(BatchError::Token {
            token: 256,
            index: 40,
            ..
        })
    ));
    let refused = trainer.step(&batch[1..]).expect_err("a token is missing");
    assert!(matches!(
        refused,
        StepError::Batch(BatchError::Length { .. })
    ));
    assert!(trainer.loss_of(&[]).is_err());
    assert_eq!(trainer.state_hash(), before);
}

#[test]
fn settings_out_of_bounds_are_named() {
    let longer = Training {
        tokens: 65,
        ..training()
    };
    let refused = start(longer).err().expect("the context is 64").to_string();
    assert_eq!(refused, "tokens is 65, which is not in 1..=64");
    let none = Training {
        threads: 0,
        ..training()
    };
    assert!(start(none).is_err());
    let unclipped = Training {
        clip_norm: f32::NAN,
        ..training()
    };
    assert!(matches!(start(unclipped), Err(StartError::ClipNorm(_))));
}

#[test]
fn divergence_is_an_error_and_not_a_result() {
    let layout = layout();
    let mut values = Weights::fresh(layout.tensors(), 1).into_values();
    values.iter_mut().for_each(|value| *value *= 1e15);
    let weights = Weights::new(layout.tensors(), values).expect("large, but finite");
    let mut trainer = Trainer::start(&layout, weights, training()).expect("the settings are sound");
    let refused = trainer
        .step(&counting())
        .expect_err("the loss is not finite");
    assert!(matches!(refused, StepError::Diverged { step: 1, .. }));
}

#[test]
fn rounds_go_on_where_moments_are_carried_and_begin_again_where_not() {
    let batch = counting();
    let mut whole = start(training()).expect("the settings are sound");
    whole.run([&batch[..]; 4]).expect("the steps are taken");

    let mut first = start(training()).expect("the settings are sound");
    first.run([&batch[..]; 2]).expect("the steps are taken");
    let moments = first.moments().clone();
    let weights = first.trained().clone();
    let mut second = start(training()).expect("the settings are sound");
    second
        .begin_round(weights.clone(), Some(moments.clone()))
        .expect("they are of this training");
    assert_eq!(second.state_hash(), first.state_hash());
    second.run([&batch[..]; 2]).expect("the steps are taken");
    assert_eq!(second.state_hash(), whole.state_hash());

    second
        .begin_round(weights.clone(), None)
        .expect("they are of this training");
    let reset = second.step(&batch).expect("the step is taken");
    assert_eq!(reset.step, 1);

    let mut short = moments;
    short.second.pop();
    let refused = second.begin_round(weights, Some(short));
    assert!(matches!(refused, Err(StartError::Moments)));
}

#[test]
fn logits_are_those_of_the_loss_and_see_only_what_came_before() {
    let mut trainer = start(training()).expect("the settings are sound");
    let batch = counting();
    trainer.step(&batch).expect("the step is taken");
    let window = &batch[..33];
    let logits = trainer
        .logits_of(&window[..32])
        .expect("a window of 32 tokens");
    let losses = logits
        .chunks_exact(256)
        .zip(&window[1..])
        .map(|(row, target)| {
            let sum: f64 = row.iter().map(|z| f64::from(*z).exp()).sum();
            sum.ln() - f64::from(row[*target as usize])
        });
    let mean = losses.sum::<f64>() / 32.0;
    let loss = trainer.loss_of(window).expect("a whole window");
    assert!((mean - f64::from(loss)).abs() < 1e-5, "{mean} {loss}");

    let mut other = window[..32].to_vec();
    other[20..].fill(7);
    let others = trainer.logits_of(&other).expect("a window of 32 tokens");
    let seen = 20 * 256;
    assert!(
        logits[..seen]
            .iter()
            .zip(&others)
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
    assert!(logits[seen..] != others[seen..]);
    assert!(trainer.logits_of(&other[1..]).is_err());
}
