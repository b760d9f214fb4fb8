//! Devices that do what they say.

use std::fs;
use std::ops::ControlFlow;

use hearth_protocol::content::ContentHash;
use hearth_protocol::run::manifest::{
    AdapterShape, AdapterTarget, BaseForm, RunManifest, RunStart,
};
use hearth_training::Weights;
use hearth_workshop::{Base, Checkpoint, Limits, StepProgress, Stored, TrainError, Workshop};

use crate::trial::*;

fn loss(workshop: &Workshop, checkpoint: &Checkpoint) -> f64 {
    let measured = workshop.held_out_loss(checkpoint, &mut go_on).unwrap();
    let manifest = workshop.manifest();
    assert_eq!(measured.windows, manifest.evaluation.windows);
    measured.loss
}

/// Trains rounds with two devices, of which the second is slow in every other round, and replays each work on a third one.
/// Returns the losses before and after.
fn rounds(workshop: &Workshop, checker: &Workshop, count: u32) -> (f64, f64) {
    let mut state = workshop.first_state().unwrap();
    let before = loss(workshop, &state);
    let mut kept = [None, None];
    for round in 0..count {
        let mut sent = Vec::new();
        for (number, kept) in [1, 2].into_iter().zip(&mut kept) {
            let slow = number == 2 && round % 2 == 1;
            let work = || {
                let local = kept.as_ref().and_then(|done| local(workshop, done));
                let mut order = order(number, round, &state, local);
                order.steps = if slow { 3 } else { 8 };
                order
            };
            let steps = work().steps;
            let done = train(workshop, work());
            assert_eq!(done.work.tokens, u64::from(steps) * 4 * 24);
            let length = done.work.contribution.len() as u64;
            assert_eq!(length, workshop.contribution_bytes());
            let kept_bytes = done.local.len() as u64;
            assert_eq!(kept_bytes, workshop.local_state_bytes().unwrap_or(0));
            let looks = workshop.check(&done.work.contribution).unwrap();
            assert_eq!(looks.hash, done.work.claim.contribution);
            assert!(looks.norm > 0.0);
            let verdict = replay(checker, work(), &done);
            assert!(verdict.is_same(), "{verdict:?}");
            sent.push((number, steps, done.work.contribution.clone()));
            *kept = Some(done);
        }
        let admitted = sent
            .iter()
            .map(|(number, steps, bytes)| admitted(*number, *steps, bytes));
        let admitted: Vec<_> = admitted.collect();
        let next = aggregate(workshop, &state, round, &admitted);
        assert_eq!(
            aggregate(checker, &state, round, &admitted).hash(),
            next.hash()
        );
        assert_eq!(next.next_round(), round + 1);
        state = next;
    }
    (before, loss(workshop, &state))
}

/// A device with less memory and one thread.
fn small(library: &Library, manifest: &RunManifest) -> Workshop {
    let whole = Workshop::memory_of(manifest, &LIMITS).unwrap();
    let limits = Limits {
        memory_bytes: whole.total_bytes() * 9 / 10,
        threads: 1,
    };
    let workshop = Workshop::open(manifest, &library.folders, None, limits).unwrap();
    let together = workshop.memory().windows_together;
    assert!(together < whole.windows_together, "{}", workshop.memory());
    workshop
}

#[test]
fn two_devices_learn_and_others_get_the_same_bits() {
    let library = library();
    let manifest = manifest(&library);
    let workshop = open(&library, &manifest);
    let (before, after) = rounds(&workshop, &small(&library, &manifest), 5);
    assert!(after < before - 1.5, "{before} {after}");
}

#[test]
fn a_run_that_carries_nothing_learns_too() {
    let library = library();
    let manifest = other_manifest(&library);
    let workshop = open(&library, &manifest);
    assert_eq!(workshop.local_state_bytes(), None);
    let (before, after) = rounds(&workshop, &small(&library, &manifest), 4);
    assert!(after < before - 1.5, "{before} {after}");
}

#[test]
fn an_adapter_learns_over_a_base_that_stays() {
    let library = library();
    let mut manifest = manifest(&library);
    let whole = open(&library, &manifest);
    let (_, values) = (0, whole.first_state().unwrap().trained().values().to_vec());
    let weights = Weights::new(whole.model().tensors(), values).unwrap();
    let file = ContentHash::of(b"a file of these weights");
    manifest.start = RunStart::Base {
        base: file,
        form: BaseForm::Safetensors,
    };
    manifest.adapter = Some(AdapterShape {
        rank: 4,
        alpha: fraction(8.0),
        targets: vec![
            AdapterTarget::Query,
            AdapterTarget::Value,
            AdapterTarget::Down,
        ],
    });
    let open = || {
        let base = Base {
            file,
            weights: weights.clone(),
        };
        Workshop::open(&manifest, &library.folders, Some(base), LIMITS).unwrap()
    };
    // The weights under it are counted, twice where they are trained over, and a run that does not fit is refused before
    // any of them is there.
    let memory = Workshop::check_memory(&manifest, &LIMITS).unwrap();
    let frozen_bytes = 4 * weights.values().len() as u64;
    assert_eq!(memory.base_bytes, frozen_bytes);
    assert!(memory.training.weights_bytes > frozen_bytes);
    let tight = Limits {
        memory_bytes: frozen_bytes,
        ..LIMITS
    };
    let error = Workshop::check_memory(&manifest, &tight).unwrap_err();
    let numbers = format!("{frozen_bytes} are given to it");
    assert!(error.to_string().contains(&numbers), "{error}");
    let workshop = open();
    let first = workshop.first_state().unwrap();
    let adapter = workshop.adapter().unwrap().tensors();
    assert_eq!(first.trained().tensors(), adapter);
    let (before, after) = rounds(&workshop, &open(), 3);
    assert!(after < before - 0.1, "{before} {after}");
    assert_eq!(workshop.frozen().unwrap().values(), weights.values());
}

#[test]
fn work_that_was_stopped_gives_the_same_when_it_is_done_again() {
    let library = library();
    let workshop = open(&library, &manifest(&library));
    let state = workshop.first_state().unwrap();
    let whole = train(&workshop, order(1, 0, &state, None));
    for stop in [0, 1, 5] {
        let mut kept = Vec::new();
        let mut watch = |progress: StepProgress| {
            assert_eq!(progress.total, 8);
            assert_eq!(progress.loss.is_some(), progress.done > 0);
            if progress.done == stop {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let stopped = workshop.train(order(1, 0, &state, None), &mut kept, &mut watch);
        assert!(matches!(stopped, Err(TrainError::Stopped)));
        assert!(kept.is_empty());
        let again = train(&workshop, order(1, 0, &state, None));
        assert_eq!(again.work.contribution, whole.work.contribution);
        assert_eq!(again.local, whole.local);
    }
}

#[test]
fn contributions_in_any_order_from_anywhere_give_one_state() {
    let library = library();
    let workshop = open(&library, &manifest(&library));
    let state = workshop.first_state().unwrap();
    let sent: Vec<_> = [1, 2, 3]
        .map(|number| {
            train(&workshop, order(number, 0, &state, None))
                .work
                .contribution
        })
        .into();
    let of = |number: u8| {
        admitted(
            number,
            8 - u32::from(number),
            &sent[usize::from(number) - 1],
        )
    };
    let first = aggregate(&workshop, &state, 0, &[of(1), of(2), of(3)]);
    for others in [[3, 2, 1], [2, 3, 1], [2, 1, 3], [3, 1, 2]] {
        let next = aggregate(&workshop, &state, 0, &others.map(of));
        assert_eq!(next.hash(), first.hash());
    }
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("contribution");
    fs::write(&path, &sent[1]).unwrap();
    let mut from_file = of(2);
    from_file.contribution = Stored::File(&path);
    let next = aggregate(&workshop, &state, 0, &[from_file, of(1), of(3)]);
    assert_eq!(next.hash(), first.hash());
    let fewer = aggregate(&workshop, &state, 0, &[of(1), of(2)]);
    assert_ne!(fewer.hash(), first.hash());
}

#[test]
fn rounds_that_were_passed_over_change_nothing_but_the_number() {
    let library = library();
    let workshop = open(&library, &manifest(&library));
    let state = workshop.first_state().unwrap();
    let done = train(&workshop, order(1, 5, &state, None));
    assert!(replay(&workshop, order(1, 5, &state, None), &done).is_same());
    let contribution = admitted(1, 8, &done.work.contribution);
    let next = aggregate(&workshop, &state, 5, &[contribution]);
    assert_eq!(next.next_round(), 6);
}
