//! What compressing, reading and adding up contributions costs, on one core, and how many bits a value takes.
//!
//! Prints one JSON object a line, `{"name", "value", "unit", "note"}`. Speeds are in megabytes of binary32 values (10^6
//! bytes) a second, so that the forms can be compared; what is timed is the median of several runs. The shapes are those of
//! a model of 135 million parameters for the bits a value, and some of its layers for the speeds. `--smoke` does the same
//! in its smallest size.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a benchmark measures time"
)]

use std::hint::black_box;
use std::time::Instant;

use hearth_aggregation::{
    Cohort, Compression, Contribution, ErrorFeedback, Layout, Member, OuterStep, TensorShape,
    TensorSum, TrainerId,
};
use serde_json::json;

const FORMS: [(&str, Compression); 5] = [
    ("k = 64", Compression::TopK { k: 64 }),
    ("k = 128", Compression::TopK { k: 128 }),
    ("k = 256", Compression::TopK { k: 256 }),
    ("8 bits", Compression::Dense8),
    ("4 bits", Compression::Dense4),
];
/// The contributions that are added up.
const TRAINERS: u8 = 8;
/// What a round keeps of what is left over.
const DECAY: f32 = 0.95;

/// How much is measured.
struct Size {
    /// Layers of the model.
    layers: usize,
    /// Runs, of which the median counts.
    runs: usize,
}

fn main() {
    let smoke = std::env::args().any(|argument| argument == "--smoke");
    let size = if smoke {
        Size { layers: 1, runs: 1 }
    } else {
        Size { layers: 6, runs: 5 }
    };
    for (name, compression) in FORMS {
        bits(name, compression);
        speeds(name, compression, &size);
    }
}

/// The tensors of a Llama of 576 dimensions and as many layers.
fn tensors(layers: usize) -> Vec<TensorShape> {
    let matrix = |rows, columns| TensorShape::Matrix { rows, columns };
    let layer = [
        matrix(576, 576),
        matrix(192, 576),
        matrix(192, 576),
        matrix(576, 576),
        matrix(1_536, 576),
        matrix(1_536, 576),
        matrix(576, 1_536),
        TensorShape::Vector { values: 576 },
        TensorShape::Vector { values: 576 },
    ];
    layer
        .into_iter()
        .cycle()
        .take(layer.len() * layers)
        .collect()
}

fn bits(name: &str, compression: Compression) {
    let mut shapes = tensors(30);
    shapes.push(TensorShape::Matrix {
        rows: 49_152,
        columns: 576,
    });
    shapes.push(TensorShape::Vector { values: 576 });
    let layout = Layout::new(shapes, compression).expect("the shapes of a model");
    let bits = layout.bytes() as f64 * 8.0 / layout.values() as f64;
    let note = format!(
        "{} bytes for {} values in {} tensors, header and levels included: {:.1} times less than f32",
        layout.bytes(),
        layout.values(),
        layout.tensors().len(),
        32.0 / bits
    );
    print(&format!("bits a value, {name}"), bits, "bit", &note);
}

fn speeds(name: &str, compression: Compression, size: &Size) {
    let layout = Layout::new(tensors(size.layers), compression).expect("the shapes of layers");
    let megabytes = layout.values() as f64 * 4.0 / 1e6;
    let speed = |what: &str, times: &[f64]| {
        let runs = times.len();
        let note = format!("{megabytes:.0} MB of f32, one core, median of {runs}");
        let speed = megabytes / median(times);
        print(&format!("{what}, {name}"), speed, "MB/s", &note);
    };
    let mut sent = Vec::new();
    let mut times = Vec::new();
    for trainer in 0..TRAINERS {
        let update = update(&layout, trainer.into());
        let update: Vec<&[f32]> = update.iter().map(Vec::as_slice).collect();
        let mut feedback = ErrorFeedback::new(layout.clone(), DECAY).expect("a decay below 1");
        let started = Instant::now();
        sent.push(feedback.compress(&update).expect("values that can be sent"));
        times.push(started.elapsed().as_secs_f64());
    }
    speed("compress with error feedback", &times);
    let mut norms = Vec::new();
    let mut times = Vec::new();
    for bytes in sent.iter().cycle().take(size.runs.max(sent.len())) {
        let started = Instant::now();
        let read = Contribution::read(&layout, bytes).expect("what was written");
        norms.push(read.norms());
        times.push(started.elapsed().as_secs_f64());
    }
    speed("check and norms", &times);
    let members = (0..TRAINERS).zip(norms).map(|(trainer, norms)| Member {
        trainer: TrainerId([trainer; 32]),
        steps: 30,
        norms,
    });
    let cohort = Cohort::new(layout.clone(), 30, members.collect()).expect("a round");
    let times: Vec<f64> = (0..size.runs)
        .map(|_| aggregate(&layout, &cohort, &sent))
        .collect();
    speed(&format!("add up {TRAINERS} and move the weights"), &times);
}

/// Returns the seconds that a round takes.
fn aggregate(layout: &Layout, cohort: &Cohort, sent: &[Vec<u8>]) -> f64 {
    let step = OuterStep::new(4.0, None).expect("a rate");
    let mut weights = update(layout, u32::MAX);
    let read = |bytes| Contribution::read(layout, bytes).expect("what was written");
    let contributions: Vec<Contribution> = sent.iter().map(|bytes| read(bytes)).collect();
    let started = Instant::now();
    let mut room = Vec::new();
    for (tensor, weights) in weights.iter_mut().enumerate() {
        let mut sum = TensorSum::new(cohort, tensor, room);
        for (member, contribution) in cohort.members().iter().zip(&contributions) {
            let added = sum.add(member.trainer, &contribution.section(tensor));
            added.expect("members are in the order of their ids");
        }
        room = sum.mean().expect("all were added");
        step.apply(&room, weights, None);
    }
    let seconds = started.elapsed().as_secs_f64();
    black_box(weights);
    seconds
}

/// Values of which most are small, the same in every run.
fn update(layout: &Layout, seed: u32) -> Vec<Vec<f32>> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    let tensors = layout.tensors().iter();
    tensors
        .map(|shape| {
            (0..shape.values())
                .map(|_| next() * next() * next())
                .collect()
        })
        .collect()
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn print(name: &str, value: f64, unit: &str, note: &str) {
    println!(
        "{}",
        json!({ "name": name, "value": value, "unit": unit, "note": note })
    );
}
