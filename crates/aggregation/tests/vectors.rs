//! `vectors/aggregation.json` and `vectors/aggregation_bad.json`, as another implementation computes them (spec:
//! aggregation, section 10).

#![allow(clippy::unwrap_used)]

use hearth_aggregation::{
    Cohort, Compression, Contribution, ErrorFeedback, Layout, Member, OuterStep, ReadError,
    SectionFault, TensorShape, TensorSum, TrainerId, encode,
};
use serde_json::Value;

fn good() -> Value {
    serde_json::from_str(include_str!("../../../vectors/aggregation.json")).unwrap()
}

fn cases<'a>(vectors: &'a Value, field: &str) -> &'a [Value] {
    let cases = vectors[field].as_array().unwrap();
    assert!(!cases.is_empty(), "{field}");
    cases
}

fn layout(vector: &Value) -> Layout {
    let shapes = vector["tensors"].as_array().unwrap().iter().map(|shape| {
        let dimension = |at: usize| u32::try_from(shape[at].as_u64().unwrap()).unwrap();
        match shape.as_array().unwrap().len() {
            1 => TensorShape::Vector {
                values: dimension(0),
            },
            _ => TensorShape::Matrix {
                rows: dimension(0),
                columns: dimension(1),
            },
        }
    });
    let compression = match vector["scheme"].as_str().unwrap() {
        "top-k" => Compression::TopK {
            k: vector["k"].as_u64().unwrap().try_into().unwrap(),
        },
        "dense8" => Compression::Dense8,
        "dense4" => Compression::Dense4,
        other => panic!("the scheme {other}"),
    };
    Layout::new(shapes.collect(), compression).unwrap()
}

fn bytes(vector: &Value) -> Vec<u8> {
    let digits = vector.as_str().unwrap().strip_prefix("0x").unwrap();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn floats(vector: &Value) -> Vec<f32> {
    let digits = vector.as_str().unwrap();
    let float = |at: usize| f32::from_bits(u32::from_str_radix(&digits[at..at + 8], 16).unwrap());
    (0..digits.len()).step_by(8).map(float).collect()
}

fn float(vector: &Value) -> f32 {
    floats(vector)[0]
}

fn tensors(vector: &Value) -> Vec<Vec<f32>> {
    vector.as_array().unwrap().iter().map(floats).collect()
}

fn slices(tensors: &[Vec<f32>]) -> Vec<&[f32]> {
    tensors.iter().map(Vec::as_slice).collect()
}

/// Numbers as their bits, so that -0 is not 0.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn hex(number: f64) -> String {
    format!("{:016x}", number.to_bits())
}

#[test]
fn contributions_are_written_and_read_as_another_implementation_does() {
    for vector in cases(&good(), "contributions") {
        let name = vector["name"].as_str().unwrap();
        let layout = layout(vector);
        let values = tensors(&vector["values"]);
        let written = encode(&layout, &slices(&values)).unwrap();
        assert_eq!(written, bytes(&vector["bytes"]), "{name}");
        let read = Contribution::read(&layout, &written).unwrap();
        let sent: Vec<Vec<f32>> = read.sections().map(|section| section.values()).collect();
        for (sent, expected) in sent.iter().zip(tensors(&vector["sent"])) {
            assert_eq!(bits(sent), bits(&expected), "{name}");
        }
        let norms: Vec<String> = read.norms().into_iter().map(hex).collect();
        assert_eq!(Value::from(norms), vector["norms"], "{name}");
        assert_eq!(
            encode(&layout, &slices(&sent)).unwrap(),
            written,
            "{name}: once more"
        );
    }
}

#[test]
fn what_is_left_over_is_kept_to_the_bit() {
    for vector in cases(&good(), "feedback") {
        let layout = layout(vector);
        let mut feedback = ErrorFeedback::new(layout, float(&vector["decay"])).unwrap();
        for round in cases(vector, "rounds") {
            let sent = feedback.compress(&[&floats(&round["update"])]).unwrap();
            assert_eq!(sent, bytes(&round["bytes"]), "{}", vector["name"]);
            let left = bits(&feedback.residuals()[0]);
            assert_eq!(
                left,
                bits(&floats(&round["residual"])),
                "{}",
                vector["name"]
            );
        }
    }
}

#[test]
fn rounds_move_the_weights_to_the_bit() {
    for vector in cases(&good(), "rounds") {
        let name = &vector["name"];
        let layout = layout(vector);
        let sent: Vec<(TrainerId, u32, Vec<u8>)> = cases(vector, "contributions")
            .iter()
            .map(|member| {
                let trainer = TrainerId(bytes(&member["trainer"]).try_into().unwrap());
                let steps = member["steps"].as_u64().unwrap().try_into().unwrap();
                (trainer, steps, bytes(&member["bytes"]))
            })
            .collect();
        let read = |bytes| Contribution::read(&layout, bytes).unwrap();
        let members = sent.iter().map(|(trainer, steps, bytes)| Member {
            trainer: *trainer,
            steps: *steps,
            norms: read(bytes).norms(),
        });
        let steps = vector["steps"].as_u64().unwrap().try_into().unwrap();
        let cohort = Cohort::new(layout.clone(), steps, members.collect()).unwrap();
        let momentum = vector.get("momentum").map(float);
        let step = OuterStep::new(float(&vector["rate"]), momentum).unwrap();
        let mut weights = tensors(&vector["weights"]);
        let mut velocity = momentum.map(|_| tensors(&vector["velocity"]));
        for (tensor, weights) in weights.iter_mut().enumerate() {
            assert_eq!(
                Value::from(hex(cohort.median(tensor))),
                vector["medians"][tensor],
                "{name}"
            );
            let mut sum = TensorSum::new(&cohort, tensor, Vec::new());
            for member in cohort.members() {
                let (.., bytes) = sent.iter().find(|sent| sent.0 == member.trainer).unwrap();
                sum.add(member.trainer, &read(bytes).section(tensor))
                    .unwrap();
            }
            let velocity = velocity
                .as_mut()
                .map(|velocity| velocity[tensor].as_mut_slice());
            step.apply(&sum.mean().unwrap(), weights, velocity);
        }
        for (weights, after) in weights.iter().zip(tensors(&vector["weightsAfter"])) {
            assert_eq!(bits(weights), bits(&after), "{name}");
        }
        for (tensor, velocity) in velocity.iter().flatten().enumerate() {
            let after = floats(&vector["velocityAfter"][tensor]);
            assert_eq!(bits(velocity), bits(&after), "{name}");
        }
    }
}

#[test]
fn overlaps_are_counted_as_another_implementation_does() {
    for vector in cases(&good(), "overlaps") {
        let layout = layout(vector);
        let (a, b) = (bytes(&vector["a"]), bytes(&vector["b"]));
        let read = |bytes| Contribution::read(&layout, bytes).unwrap();
        let overlap = read(&a).overlap(&read(&b)).unwrap();
        let name = &vector["name"];
        assert_eq!(Value::from(overlap.sent), vector["sent"], "{name}");
        assert_eq!(Value::from(overlap.shared), vector["shared"], "{name}");
        assert_eq!(Value::from(overlap.equal), vector["equal"], "{name}");
        assert_eq!(
            Value::from(hex(overlap.expected)),
            vector["expected"],
            "{name}"
        );
    }
}

#[test]
fn bad_contributions_are_refused_for_their_reason() {
    let bad: Value =
        serde_json::from_str(include_str!("../../../vectors/aggregation_bad.json")).unwrap();
    for vector in cases(&bad, "contributions") {
        let refused = Contribution::read(&layout(vector), &bytes(&vector["bytes"])).map(|_| ());
        let error = match refused.expect_err(vector["name"].as_str().unwrap()) {
            ReadError::Length { .. } => "length",
            ReadError::Domain => "domain",
            ReadError::Header => "header",
            ReadError::Section { fault, .. } => named(fault),
            other => panic!("{other:?}"),
        };
        assert_eq!(Value::from(error), vector["error"], "{}", vector["name"]);
    }
}

fn named(fault: SectionFault) -> &'static str {
    match fault {
        SectionFault::Level => "level",
        SectionFault::LevelOrder => "level order",
        SectionFault::LevelUnused => "level unused",
        SectionFault::LevelMissing => "level missing",
        SectionFault::IndexOrder => "index order",
        SectionFault::IndexRange => "index range",
        SectionFault::Padding => "padding",
        SectionFault::ZeroSign => "zero sign",
        SectionFault::ZeroPlace => "zero place",
        SectionFault::CodeRange => "code range",
        SectionFault::ScaleLoose => "scale loose",
        SectionFault::ZeroScale => "zero scale",
        other => panic!("{other:?}"),
    }
}
