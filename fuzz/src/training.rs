//! What trainers send, what they read, and what comes of it (spec: aggregation, datasets, runs,
//! outcome).

use std::io::Cursor;

use hearth_aggregation::{
    Compression, Contribution, ErrorFeedback, Layout, Section, TensorShape, VALUE_MAX, encode,
};
use hearth_datasets::manifest::Manifest;
use hearth_outcome::gguf::{Precision, read_model, write_model};
use hearth_outcome::manifest::ModelManifest;
use hearth_outcome::{Base, Label, TrainedModel};
use hearth_protocol::run::book::RoundBook;
use hearth_protocol::run::manifest::RunManifest;

/// Every form, over shapes with ragged edges: full and partial tiles and groups.
fn layouts() -> Vec<Layout> {
    let matrix = |rows, columns| TensorShape::Matrix { rows, columns };
    let vector = |values| TensorShape::Vector { values };
    let forms = [
        Compression::TopK { k: 64 },
        Compression::TopK { k: 1_024 },
        Compression::TopK { k: 4_096 },
        Compression::Dense8,
        Compression::Dense4,
    ];
    let shapes = [
        vec![vector(2)],
        vec![vector(70)],
        vec![matrix(65, 66), vector(5)],
    ];
    let all = forms
        .iter()
        .flat_map(|form| shapes.iter().map(|shapes| (shapes.clone(), *form)));
    all.map(|(shapes, form)| Layout::new(shapes, form).expect("small shapes make a layout"))
        .collect()
}

/// A contribution to a run: the first byte names the layout, the rest is what a trainer sent. What is taken is the only
/// encoding of its values; and, because a device reads files section by section, the rest as the first tensor's section.
pub fn contributions(input: &[u8]) -> bool {
    let Some((which, bytes)) = input.split_first() else {
        return false;
    };
    let layouts = layouts();
    let layout = &layouts[usize::from(*which) % layouts.len()];
    let section = Section::read(layout, 0, bytes);
    if let Ok(section) = &section {
        let alone =
            Layout::new(vec![section.shape()], layout.compression()).expect("one of the shapes");
        let written = encode(&alone, &[&section.values()]).expect("what was sent can be sent");
        assert_eq!(&written[alone.section(0)], bytes, "another encoding");
    }
    let Ok(read) = Contribution::read(layout, bytes) else {
        return section.is_ok();
    };
    let values: Vec<Vec<f32>> = read.sections().map(|section| section.values()).collect();
    let slices: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
    let written = encode(layout, &slices).expect("what was sent can be sent");
    assert_eq!(written, bytes, "another encoding");
    for (norm, values) in read.norms().into_iter().zip(&values) {
        let is_zero = values.iter().all(|value| *value == 0.0);
        assert!(norm.is_finite() && (norm == 0.0) == is_zero, "{norm}");
    }
    let itself = read.overlap(&read).expect("one layout");
    assert_eq!((itself.shared, itself.equal), (itself.sent, itself.sent));
    true
}

/// Updates of two rounds, as binary32 numbers that are repeated up to the layout's values: what can be sent can be read,
/// and nothing is lost between what is sent and what is kept.
pub fn updates(input: &[u8]) -> bool {
    let Some((which, bytes)) = input.split_first() else {
        return false;
    };
    let layouts = layouts();
    let layout = &layouts[usize::from(*which) % layouts.len()];
    let (numbers, _) = bytes.as_chunks::<4>();
    if numbers.is_empty() {
        return false;
    }
    let mut numbers = numbers
        .iter()
        .cycle()
        .map(|bytes| f32::from_le_bytes(*bytes));
    let mut feedback = ErrorFeedback::new(layout.clone(), 0.95).expect("a decay below 1");
    for _ in 0..2 {
        let update: Vec<Vec<f32>> = layout
            .tensors()
            .iter()
            .map(|shape| (0..shape.values()).filter_map(|_| numbers.next()).collect())
            .collect();
        if !round(layout, &mut feedback, &update) {
            return false;
        }
    }
    true
}

fn round(layout: &Layout, feedback: &mut ErrorFeedback, update: &[Vec<f32>]) -> bool {
    let before = feedback.residuals().to_vec();
    let slices: Vec<&[f32]> = update.iter().map(Vec::as_slice).collect();
    let Ok(bytes) = feedback.compress(&slices) else {
        assert_eq!(
            feedback.residuals(),
            before,
            "a round that failed left its mark"
        );
        return false;
    };
    let sent = Contribution::read(layout, &bytes).expect("what was written can be read");
    for (tensor, section) in sent.sections().enumerate() {
        for (place, sent) in section.values().into_iter().enumerate() {
            let there = 0.95 * before[tensor][place] + update[tensor][place];
            let left = feedback.residuals()[tensor][place];
            assert!(there.abs() <= VALUE_MAX, "{there} was sent");
            assert_eq!(
                left.to_bits(),
                (there - sent).to_bits(),
                "{there} less {sent}"
            );
        }
    }
    true
}

/// The manifest of a dataset: what is taken is the only form of what it says.
pub fn datasets(input: &[u8]) -> bool {
    let Ok(manifest) = Manifest::read(input) else {
        return false;
    };
    let written = manifest
        .to_bytes()
        .expect("what was read is within its bounds");
    assert_eq!(written, input, "another form");
    true
}

/// The manifest of a model: what is taken is the only form of what it says.
pub fn models(input: &[u8]) -> bool {
    let Ok(manifest) = ModelManifest::read(input) else {
        return false;
    };
    let written = manifest
        .to_bytes()
        .expect("what was read is within its bounds");
    assert_eq!(written, input, "another form");
    true
}

/// The manifest of a run: what is taken is the only form of what it says, and its numbers are within their bounds.
pub fn runs(input: &[u8]) -> bool {
    let Ok(manifest) = RunManifest::read(input) else {
        return false;
    };
    let written = manifest
        .to_bytes()
        .expect("what was read is within its bounds");
    assert_eq!(written, input, "another form");
    assert!(manifest.model.parameters() <= 1 << 34, "too large a model");
    true
}

/// The book of a round: what is taken is the only form of what it says.
pub fn books(input: &[u8]) -> bool {
    let Ok(book) = RoundBook::read(input) else {
        return false;
    };
    assert_eq!(book.to_bytes(), input, "another form");
    true
}

/// A model file that training would start from: what is taken can be written again, and is read as the same model then.
pub fn bases(input: &[u8]) -> bool {
    let read = |bytes: &[u8]| read_model(Cursor::new(bytes), bytes.len() as u64);
    let Ok(base) = read(input) else {
        return false;
    };
    let Some(written) = written(&base) else {
        return true;
    };
    let again = read(&written).expect("what was written can be read");
    assert_eq!(again.weights.values(), base.weights.values());
    assert_eq!(again.vocabulary, base.vocabulary);
    true
}

/// The file of a model, where its tokens can be written: they may be more than it has rows, or named as what fills it up.
fn written(base: &Base) -> Option<Vec<u8>> {
    let label = Label {
        name: "again".to_owned(),
        description: None,
        license: "CC0-1.0".to_owned(),
    };
    let model = TrainedModel {
        layout: &base.layout,
        weights: &base.weights,
        vocabulary: base.vocabulary.as_ref()?,
        label: &label,
    };
    let mut bytes = Vec::new();
    write_model(&model, Precision::F32, &mut bytes).ok()?;
    Some(bytes)
}
