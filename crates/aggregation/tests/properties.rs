//! What must hold for every update and every cohort.

#![allow(clippy::unwrap_used)]

use std::thread;

use hearth_aggregation::{
    Cohort, Compression, Contribution, ErrorFeedback, Layout, Member, OuterStep, TensorShape,
    TensorSum, TrainerId, encode,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Updates as they are, and as nobody expects them: ties, zeros of either sign, the tiniest, the largest.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -1.0_f32..1.0,
        2 => prop::sample::select(vec![0.0, -0.0, 0.5, -0.5, 1.0, -1.0]),
        1 => (0_u32..0x0100_0000).prop_map(f32::from_bits),
        // What three rounds add up to stays below 2^40.
        1 => -1.0e11_f32..1.0e11,
    ]
}

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![
        prop::sample::select(vec![1_u16, 64, 100, 1_024, 4_096])
            .prop_map(|k| Compression::TopK { k }),
        Just(Compression::Dense8),
        Just(Compression::Dense4),
    ]
}

fn shape() -> impl Strategy<Value = TensorShape> {
    prop_oneof![
        (1_u32..200).prop_map(|values| TensorShape::Vector { values }),
        (1_u32..70, 1_u32..70).prop_map(|(rows, columns)| TensorShape::Matrix { rows, columns }),
    ]
}

/// A layout, and updates of as many trainers.
fn updates(
    trainers: std::ops::Range<usize>,
) -> impl Strategy<Value = (Layout, Vec<Vec<Vec<f32>>>)> {
    (vec(shape(), 1..4), compression(), trainers).prop_flat_map(
        |(shapes, compression, trainers)| {
            let update: Vec<_> = shapes
                .iter()
                .map(|shape| vec(value(), shape.values() as usize))
                .collect();
            let layout = Layout::new(shapes, compression).unwrap();
            (Just(layout), vec(update, trainers))
        },
    )
}

fn slices(tensors: &[Vec<f32>]) -> Vec<&[f32]> {
    tensors.iter().map(Vec::as_slice).collect()
}

fn bits(tensors: &[Vec<f32>]) -> Vec<Vec<u32>> {
    let bits = |values: &Vec<f32>| values.iter().map(|value| value.to_bits()).collect();
    tensors.iter().map(bits).collect()
}

fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    let squares = values.into_iter().map(|value| value * value);
    squares.sum::<f64>().sqrt()
}

type Sent = (TrainerId, u32, Vec<u8>);

fn cohort(layout: &Layout, sent: &[Sent]) -> Cohort {
    let members = sent.iter().map(|(trainer, steps, bytes)| Member {
        trainer: *trainer,
        steps: *steps,
        norms: Contribution::read(layout, bytes).unwrap().norms(),
    });
    Cohort::new(layout.clone(), 4, members.collect()).unwrap()
}

fn mean(layout: &Layout, cohort: &Cohort, sent: &[Sent], tensor: usize) -> Vec<f32> {
    let mut sum = TensorSum::new(cohort, tensor, Vec::new());
    for member in cohort.members() {
        let (.., bytes) = sent.iter().find(|sent| sent.0 == member.trainer).unwrap();
        let contribution = Contribution::read(layout, bytes).unwrap();
        sum.add(member.trainer, &contribution.section(tensor))
            .unwrap();
    }
    sum.mean().unwrap()
}

/// Contributions of these updates, by trainers in the order of their numbers, with 1 to 4 of 4 steps.
fn sent(layout: &Layout, updates: &[Vec<Vec<f32>>]) -> Vec<Sent> {
    (0..)
        .zip(updates)
        .map(|(number, update)| {
            let trainer = TrainerId([number; 32]);
            let steps = 1 + u32::from(number) * 3 % 4;
            (trainer, steps, encode(layout, &slices(update)).unwrap())
        })
        .collect()
}

proptest! {
    #[test]
    fn what_is_sent_is_read_and_would_be_sent_again((layout, updates) in updates(1..2)) {
        let bytes = encode(&layout, &slices(&updates[0])).unwrap();
        prop_assert_eq!(bytes.len(), layout.bytes());
        let read = Contribution::read(&layout, &bytes).unwrap();
        let values: Vec<Vec<f32>> = read.sections().map(|section| section.values()).collect();
        prop_assert_eq!(encode(&layout, &slices(&values)).unwrap(), bytes);
    }

    #[test]
    fn what_is_sent_and_what_is_kept_is_what_was_there(
        (layout, updates) in updates(1..4),
        decay in prop::sample::select(vec![0.0_f32, 0.5, 0.95, 1.0]),
    ) {
        let mut feedback = ErrorFeedback::new(layout.clone(), decay).unwrap();
        for update in &updates {
            let before = feedback.residuals().to_vec();
            let bytes = feedback.compress(&slices(update)).unwrap();
            let sent = Contribution::read(&layout, &bytes).unwrap();
            for (tensor, section) in sent.sections().enumerate() {
                let left = &feedback.residuals()[tensor];
                for (place, sent) in section.values().into_iter().enumerate() {
                    let there = decay * before[tensor][place] + update[tensor][place];
                    let (sent, left) = (f64::from(sent), f64::from(left[place]));
                    let lost = (f64::from(there) - sent - left).abs();
                    // A difference of numbers within a factor of two is exact (Sterbenz).
                    let is_near = sent == 0.0 || (0.5..=2.0).contains(&(f64::from(there) / sent));
                    let ulp = f64::from(f32::EPSILON) * left.abs();
                    prop_assert!(lost <= if is_near { 0.0 } else { ulp }, "{} {} {}", there, sent, left);
                }
            }
        }
    }

    #[test]
    fn one_contribution_moves_the_mean_by_at_most_the_median_over_their_number(
        (layout, updates) in updates(2..6),
        loud in 1.0_f32..1.0e6,
    ) {
        let mut updates = updates;
        for value in updates[0].iter_mut().flatten() {
            *value = (*value * loud).clamp(-1.0e12, 1.0e12);
        }
        let sent = sent(&layout, &updates);
        let cohort = cohort(&layout, &sent);
        let members = sent.len() as f64;
        for (tensor, shape) in layout.tensors().iter().enumerate() {
            let bound = cohort.median(tensor) / members;
            let mut weights = vec![0.0; shape.values() as usize];
            for (number, (.., bytes)) in sent.iter().enumerate() {
                let own = Contribution::read(&layout, bytes).unwrap().section(tensor);
                let factor = f64::from(cohort.factor(number, tensor));
                let moved = norm(own.values().into_iter().map(|value| factor * f64::from(value) / members));
                prop_assert!(moved <= bound * (1.0 + 1e-6), "{} of {}", moved, bound);
            }
            let rate = sent.len() as f32 / 2.0;
            let mean = mean(&layout, &cohort, &sent, tensor);
            OuterStep::new(rate, None).unwrap().apply(&mean, &mut weights, None);
            let moved = norm(weights.into_iter().map(f64::from));
            let all = f64::from(rate) * bound * members;
            prop_assert!(moved <= all * (1.0 + 1e-6) + 1e-37, "{} of {}", moved, all);
        }
    }

    #[test]
    fn the_order_of_arrival_does_not_matter(
        (layout, updates) in updates(2..6),
        order in Just([0, 1, 2, 3, 4]).prop_shuffle(),
    ) {
        let sent = sent(&layout, &updates);
        let arrived: Vec<Sent> = order
            .into_iter()
            .filter_map(|number: usize| sent.get(number).cloned())
            .collect();
        let (one, other) = (cohort(&layout, &sent), cohort(&layout, &arrived));
        prop_assert_eq!(&one, &other);
        for tensor in 0..layout.tensors().len() {
            let means = [mean(&layout, &one, &sent, tensor), mean(&layout, &other, &arrived, tensor)];
            prop_assert_eq!(bits(&means[..1]), bits(&means[1..]));
        }
    }

    #[test]
    fn bytes_that_are_taken_have_values_of_their_own(
        (layout, updates) in updates(1..2),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let good = encode(&layout, &slices(&updates[0])).unwrap();
        let mut changed = good.clone();
        for (at, byte) in changes {
            let at = at.index(changed.len());
            changed[at] = byte;
        }
        if let Ok(read) = Contribution::read(&layout, &changed) {
            let values: Vec<Vec<f32>> = read.sections().map(|section| section.values()).collect();
            prop_assert_eq!(encode(&layout, &slices(&values)).unwrap(), changed);
        }
    }

    #[test]
    fn an_overlap_is_the_same_from_both_sides((layout, updates) in updates(2..3)) {
        let sent = sent(&layout, &updates);
        let read = |number: usize| Contribution::read(&layout, &sent[number].2).unwrap();
        let (one, other) = (read(0).overlap(&read(1)).unwrap(), read(1).overlap(&read(0)).unwrap());
        prop_assert_eq!((one.shared, one.equal), (other.shared, other.equal));
        prop_assert_eq!(one.expected.to_bits(), other.expected.to_bits());
        prop_assert!(one.equal <= one.shared && one.shared <= one.sent);
        let itself = read(0).overlap(&read(0)).unwrap();
        prop_assert_eq!((itself.shared, itself.equal), (itself.sent, itself.sent));
    }
}

/// Numbers as a hash makes them, the same on every machine.
fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / f64::from(u32::MAX) - 0.5
    };
    (0..count)
        .map(|_| (next() * next() * next()) as f32)
        .collect()
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let shapes = vec![
        TensorShape::Matrix {
            rows: 130,
            columns: 200,
        },
        TensorShape::Vector { values: 9_000 },
        TensorShape::Matrix {
            rows: 64,
            columns: 64,
        },
        TensorShape::Vector { values: 3 },
    ];
    for compression in [
        Compression::TopK { k: 64 },
        Compression::Dense8,
        Compression::Dense4,
    ] {
        let layout = Layout::new(shapes.clone(), compression).unwrap();
        let updates: Vec<Vec<Vec<f32>>> = (0..5)
            .map(|seed| {
                shapes
                    .iter()
                    .map(|shape| noise(seed, shape.values() as usize))
                    .collect()
            })
            .collect();
        let sent = sent(&layout, &updates);
        let cohort = cohort(&layout, &sent);
        let alone: Vec<Vec<f32>> = (0..shapes.len())
            .map(|tensor| mean(&layout, &cohort, &sent, tensor))
            .collect();
        for threads in [2, 4] {
            let (layout, cohort, sent) = (&layout, &cohort, &sent);
            let together = thread::scope(|scope| {
                let parts: Vec<_> = (0..threads)
                    .map(|part| {
                        scope.spawn(move || {
                            let own = (part..layout.tensors().len()).step_by(threads);
                            own.map(|tensor| (tensor, mean(layout, cohort, sent, tensor)))
                                .collect::<Vec<_>>()
                        })
                    })
                    .collect();
                let mut means: Vec<_> = parts
                    .into_iter()
                    .flat_map(|part| part.join().unwrap())
                    .collect();
                means.sort_by_key(|(tensor, _)| *tensor);
                means.into_iter().map(|(_, mean)| mean).collect::<Vec<_>>()
            });
            assert_eq!(
                bits(&together),
                bits(&alone),
                "{compression:?}, {threads} threads"
            );
        }
    }
}

#[test]
fn a_copy_is_seen_and_independent_updates_are_not() {
    let shape = TensorShape::Matrix {
        rows: 256,
        columns: 256,
    };
    let layout = Layout::new(vec![shape], Compression::TopK { k: 64 }).unwrap();
    let values = shape.values() as usize;
    let (own, others) = (noise(1, values), noise(2, values));
    let copy: Vec<f32> = own
        .iter()
        .zip(&others)
        .map(|(own, noise)| own + 0.05 * noise)
        .collect();
    let send = |values: &[f32]| encode(&layout, &[values]).unwrap();
    let (own, others, copy) = (send(&own), send(&others), send(&copy));
    let read = |bytes| Contribution::read(&layout, bytes).unwrap();
    let independent = read(&own).overlap(&read(&others)).unwrap();
    assert_eq!((independent.sent, independent.expected), (1_024, 16.0));
    assert!(independent.share() < 0.05, "{independent:?}");
    let copied = read(&own).overlap(&read(&copy)).unwrap();
    assert!(copied.equal_share() > 0.8, "{copied:?}");
    let other = Layout::new(vec![shape], Compression::Dense8).unwrap();
    let dense = encode(&other, &[&noise(1, values)]).unwrap();
    let dense = Contribution::read(&other, &dense).unwrap();
    assert_eq!(read(&own).overlap(&dense), None);
}
