//! Files that come from strangers: only what this program would have written is taken.

use hearth_training::read;
use hearth_workshop::{CheckpointError, LocalStateError};

use crate::trial::*;

#[test]
fn a_checkpoint_reads_back_and_is_safetensors() {
    let library = library();
    for manifest in [manifest(&library), other_manifest(&library)] {
        let workshop = open(&library, &manifest);
        let first = workshop.first_state().unwrap();
        let done = train(&workshop, order(1, 0, &first, None));
        let sent = [admitted(1, 8, &done.work.contribution)];
        let state = aggregate(&workshop, &first, 0, &sent);
        let bytes = file(&workshop, &state);
        assert!(bytes.len() as u64 <= workshop.checkpoint_bytes_max());
        let again = workshop.read_checkpoint(&mut bytes.as_slice()).unwrap();
        assert_eq!(again.hash(), state.hash());
        assert_eq!(again.next_round(), 1);
        assert_eq!(file(&workshop, &again), bytes);
        if manifest.outer.momentum.is_none() {
            let others = read(workshop.model().tensors(), &bytes).unwrap();
            assert_eq!(others.values(), state.trained().values());
        }
    }
}

#[test]
fn checkpoints_that_are_none_are_refused() {
    let library = library();
    let workshop = open(&library, &manifest(&library));
    let other = open(&library, &other_manifest(&library));
    let state = workshop.first_state().unwrap();
    let bytes = file(&workshop, &state);
    let refused = |bytes: &[u8]| workshop.read_checkpoint(&mut &bytes[..]).unwrap_err();

    for cut in [0, 7, 8, 9, 300, bytes.len() / 2, bytes.len() - 1] {
        let error = refused(&bytes[..cut]);
        assert!(matches!(error, CheckpointError::Short), "{cut}: {error:?}");
    }
    let mut long = bytes.clone();
    long.push(0);
    assert!(matches!(refused(&long), CheckpointError::Long));
    let foreign = file(&other, &other.first_state().unwrap());
    assert!(matches!(refused(&foreign), CheckpointError::Header));
    let mut huge = bytes.clone();
    huge[..8].fill(0xff);
    assert!(matches!(refused(&huge), CheckpointError::Header));

    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // Each byte of the header has one value.
    for at in (8..8 + header).step_by(13) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let error = refused(&changed);
        let is_round = matches!(error, CheckpointError::Round { .. });
        assert!(is_round || matches!(error, CheckpointError::Header), "{at}");
    }
    let mut endless = bytes.clone();
    let last = endless.len() - 4;
    endless[last..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    assert!(matches!(refused(&endless), CheckpointError::Velocity));
    endless = bytes;
    endless[8 + header..12 + header].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(matches!(refused(&endless), CheckpointError::Numbers(_)));
}

#[test]
fn local_states_that_are_none_are_refused() {
    let library = library();
    let workshop = open(&library, &manifest(&library));
    let state = workshop.first_state().unwrap();
    let done = train(&workshop, order(1, 0, &state, None));
    let bytes = &done.local;
    let read = local(&workshop, &done).unwrap();
    assert_eq!((read.round(), read.steps()), (0, 8));
    assert_eq!(read.trainer(), trainer(1));
    assert_eq!(Some(read.hash()), done.work.claim.local);

    let refused = |bytes: &[u8]| workshop.read_local_state(&mut &bytes[..]).unwrap_err();
    for cut in [0, 15, 16, 80, 96, 97, bytes.len() - 1] {
        assert!(matches!(refused(&bytes[..cut]), LocalStateError::Short));
    }
    let changed = |at: usize, value: &[u8]| {
        let mut changed = bytes.clone();
        changed[at..at + value.len()].copy_from_slice(value);
        refused(&changed)
    };
    assert!(matches!(changed(0, b"H"), LocalStateError::Header));
    assert!(matches!(changed(14, b"2"), LocalStateError::Header));
    assert!(matches!(changed(16, &[0; 32]), LocalStateError::Header));
    let steps = |error| matches!(error, LocalStateError::Steps { .. });
    assert!(steps(changed(80, &[0xff; 8])));
    assert!(steps(changed(88, &0_u64.to_le_bytes())));
    assert!(steps(changed(88, &9_u64.to_le_bytes())));
    let numbers = |error| match error {
        LocalStateError::Numbers(which) => which,
        other => panic!("{other:?}"),
    };
    let values = workshop.model().tensors().len() * 4;
    assert_eq!(
        numbers(changed(96, &f32::NAN.to_le_bytes())),
        "first moments"
    );
    let below = (-1.0_f32).to_le_bytes();
    assert_eq!(numbers(changed(96 + values, &below)), "second moments");
    let beyond = 2e12_f32.to_le_bytes();
    assert_eq!(numbers(changed(96 + 2 * values, &beyond)), "residuals");
    let mut long = bytes.clone();
    long.push(0);
    assert!(matches!(refused(&long), LocalStateError::Long));

    let other = open(&library, &other_manifest(&library));
    let error = other.read_local_state(&mut bytes.as_slice()).unwrap_err();
    assert!(matches!(error, LocalStateError::NotCarried));
}
