//! Losses, gradients and steps come within 1e-4 of PyTorch's (`vectors/training.json`).

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_training::{
    AdamW, Adapter, AdapterLayout, Architecture, Layout, Muon, Optimizer, Path, RateSchedule,
    Target, Tensors, Trainer, Training, Weights,
};
use serde_json::Value;

/// What single precision may differ by, relative to the norm of a tensor.
const TOLERANCE: f64 = 1e-4;

fn size(value: &Value, name: &str) -> usize {
    value[name].as_u64().expect("a size") as usize
}

fn number(value: &Value, name: &str) -> f32 {
    value[name].as_f64().expect("a number") as f32
}

fn numbers(value: &Value) -> Vec<f32> {
    let list = value.as_array().expect("a list");
    list.iter()
        .map(|number| number.as_f64().expect("a number") as f32)
        .collect()
}

fn architecture(value: &Value) -> Architecture {
    Architecture {
        vocabulary: size(value, "vocabulary"),
        width: size(value, "width"),
        layers: size(value, "layers"),
        query_heads: size(value, "queryHeads"),
        key_value_heads: size(value, "keyValueHeads"),
        head: size(value, "head"),
        hidden: size(value, "hidden"),
        context: size(value, "tokens"),
        rope_theta: number(value, "ropeTheta"),
        norm_epsilon: number(value, "normEpsilon"),
        tied_head: value["tiedHead"].as_bool().expect("a flag"),
    }
}

fn optimizer(settings: &Value) -> Optimizer {
    let adam = &settings["adamw"];
    let adam = AdamW {
        rate: RateSchedule::constant(number(adam, "rate")),
        beta1: number(adam, "beta1"),
        beta2: number(adam, "beta2"),
        epsilon: number(adam, "epsilon"),
        decay: number(adam, "decay"),
    };
    let muon = &settings["muon"];
    if muon.is_null() {
        return Optimizer::AdamW(adam);
    }
    Optimizer::Muon(Muon {
        rate: RateSchedule::constant(number(muon, "rate")),
        momentum: number(muon, "momentum"),
        decay: number(muon, "decay"),
        rest: adam,
    })
}

fn weights(tensors: &Arc<Tensors>, given: &Value) -> Weights {
    let values = tensors
        .list()
        .iter()
        .flat_map(|tensor| numbers(&given[&tensor.name]))
        .collect();
    Weights::new(tensors, values).expect("the vectors have every tensor")
}

fn adapter_layout(layout: &Layout, value: &Value) -> Option<Arc<AdapterLayout>> {
    if value.is_null() {
        return None;
    }
    let names: Vec<&str> = value["targets"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let adapter = Adapter {
        rank: size(value, "rank"),
        alpha: number(value, "alpha"),
        targets: Target::ALL
            .into_iter()
            .filter(|target| names.contains(&target.name()))
            .collect(),
    };
    let layout = AdapterLayout::new(layout, adapter).expect("the adapter is sound");
    Some(Arc::new(layout))
}

fn start(case: &Value, path: Path, windows_together: usize) -> Trainer {
    let sizes = &case["architecture"];
    let layout = Arc::new(Layout::new(architecture(sizes)).expect("the model is sound"));
    let training = Training {
        tokens: size(sizes, "tokens"),
        windows: size(sizes, "windows"),
        windows_together,
        optimizer: optimizer(&case["settings"]),
        clip_norm: number(&case["settings"], "clipNorm"),
        threads: 1,
        path,
    };
    let model = weights(layout.tensors(), &case["weights"]);
    match adapter_layout(&layout, &case["adapter"]) {
        None => Trainer::start(&layout, model, training),
        Some(adapter) => {
            let own = weights(adapter.tensors(), &case["weights"]);
            Trainer::start_adapter(&layout, model, (&adapter, own), training)
        }
    }
    .expect("the settings are sound")
}

fn batch(case: &Value) -> Vec<u32> {
    let windows = case["windows"].as_array().expect("a list");
    let windows = windows.iter().flat_map(numbers);
    windows.map(|token| token as u32).collect()
}

fn assert_near(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let square = |x: f64| x * x;
    let pairs = || {
        ours.iter()
            .zip(theirs)
            .map(|(a, b)| (f64::from(*a), f64::from(*b)))
    };
    let error: f64 = pairs().map(|(a, b)| square(a - b)).sum::<f64>().sqrt();
    let norm: f64 = pairs().map(|(_, b)| square(b)).sum::<f64>().sqrt();
    assert!(
        error <= TOLERANCE * norm,
        "{what}: off by {error:e} of {norm:e}"
    );
}

fn assert_tensors(what: &str, tensors: &Tensors, ours: &[f32], theirs: &Value) {
    let mut wanted: BTreeMap<&String, &Value> = theirs.as_object().expect("a map").iter().collect();
    for tensor in tensors.list() {
        let theirs = wanted.remove(&tensor.name).expect("PyTorch has the tensor");
        let name = format!("{what} of {}", tensor.name);
        assert_near(&name, &ours[tensor.range()], &numbers(theirs));
    }
    assert!(wanted.is_empty(), "{what}: {wanted:?}");
}

fn cases() -> Vec<Value> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/training.json");
    let text = std::fs::read_to_string(file).expect("the vectors are there");
    let file: Value = serde_json::from_str(&text).expect("the vectors are JSON");
    file["cases"].as_array().expect("a list").clone()
}

#[test]
fn losses_and_gradients_are_those_of_pytorch() {
    for case in cases() {
        for path in Path::available() {
            let mut trainer = start(&case, path, 1);
            let loss = trainer
                .gradient_of(&batch(&case))
                .expect("the batch is sound");
            let name = format!("{} with {}", case["name"], path.name());
            assert_near(&name, &[loss], &[number(&case, "loss")]);
            let tensors = Arc::clone(trainer.trained().tensors());
            assert_tensors(&name, &tensors, trainer.gradient(), &case["gradients"]);
        }
    }
}

#[test]
fn steps_are_those_of_pytorch() {
    for case in cases() {
        let mut trainer = start(
            &case,
            Path::fastest(),
            size(&case["architecture"], "windows"),
        );
        let batch = batch(&case);
        let (losses, norms) = (
            numbers(&case["steps"]["losses"]),
            numbers(&case["steps"]["norms"]),
        );
        for (loss, norm) in losses.iter().zip(&norms) {
            let log = trainer.step(&batch).expect("the step is taken");
            let name = format!("{} at step {}", case["name"], log.step);
            assert_near(&name, &[log.loss, log.gradient_norm], &[*loss, *norm]);
        }
        let tensors = Arc::clone(trainer.trained().tensors());
        let name = case["name"].to_string();
        assert_tensors(
            &name,
            &tensors,
            trainer.trained().values(),
            &case["steps"]["weights"],
        );
    }
}
