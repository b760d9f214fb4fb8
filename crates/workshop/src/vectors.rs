//! `vectors/run_work.json`: what every implementation computes in a round of a run.

use hearth_protocol::content::ContentHash;
use hearth_protocol::run::manifest::{RateSettings, RunManifest};
use hearth_training::Weights;
use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::local_state::{LocalState, LocalStateError};
use crate::mixture::Mixture;
use crate::settings::{Settings, round_rate};

fn vectors(name: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../../vectors/run_work.json")).unwrap();
    let list = all[name].as_array().unwrap().clone();
    assert!(!list.is_empty());
    list
}

fn settings(vector: &Value) -> Settings {
    let bytes = vector["manifest"].as_str().unwrap().as_bytes();
    Settings::new(&RunManifest::read(bytes).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap().strip_prefix("0x").unwrap();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[test]
fn datasets_take_turns_as_in_the_vectors() {
    for vector in vectors("turns") {
        let list = |name: &str| -> Vec<u32> {
            let numbers = vector[name].as_array().unwrap().iter();
            let numbers = numbers.map(|number| number.as_u64().unwrap());
            numbers
                .map(|number| u32::try_from(number).unwrap())
                .collect()
        };
        let mixture = Mixture::new(&list("weights"));
        for (number, turn) in list("turns").into_iter().cycle().take(50).enumerate() {
            assert_eq!(mixture.dataset(number as u64), turn as usize, "{vector}");
        }
    }
}

#[test]
fn rates_are_those_of_the_vectors() {
    for vector in vectors("rates") {
        let rate: RateSettings = serde_json::from_value(vector["rate"].clone()).unwrap();
        let number = |value: &Value| value.as_u64().unwrap();
        let small = |name: &str| u32::try_from(number(&vector[name])).unwrap();
        let own_steps = number(&vector["ownSteps"]);
        let found = round_rate(&rate, small("round"), small("steps"), own_steps);
        let stated = &vector["schedule"];
        let bits = |name: &str| u32::from_str_radix(stated[name].as_str().unwrap(), 16).unwrap();
        assert_eq!(found.peak.to_bits(), bits("peak"), "{vector}");
        assert_eq!(found.floor.to_bits(), bits("floor"), "{vector}");
        let steps = [
            (found.warmup_steps, "warmupSteps"),
            (found.decay_from_step, "decayFromStep"),
            (found.decay_steps, "decaySteps"),
        ];
        for (found, name) in steps {
            assert_eq!(found, number(&stated[name]), "{vector}");
        }
    }
}

#[test]
fn first_states_are_those_of_the_vectors() {
    for vector in vectors("firstStates") {
        let settings = settings(&vector);
        let trained = Weights::fresh(settings.trained(), settings.seed());
        let momentum = settings.manifest.outer.momentum;
        let velocity = momentum.map(|_| vec![0.0; trained.values().len()]);
        let state = Checkpoint::new(&settings, 0, trained, velocity);
        let mut file = Vec::new();
        state.written(&settings, &mut file).unwrap();
        let header = vector["header"].as_str().unwrap().as_bytes();
        assert_eq!(&file[8..8 + header.len()], header);
        assert_eq!(ContentHash::of(&file), state.hash());
        assert_eq!(state.hash().0.to_vec(), bytes(&vector["hash"]));
        let read = Checkpoint::read(&settings, &mut file.as_slice()).unwrap();
        assert_eq!(read.hash(), state.hash());
    }
}

#[test]
fn local_states_of_the_vectors_are_read_and_refused() {
    for vector in vectors("localStates") {
        let settings = settings(&vector);
        let file = bytes(&vector["bytes"]);
        let read = LocalState::read(&settings, &mut file.as_slice());
        let reason = match &read {
            Ok(state) => {
                let mut again = Vec::new();
                state.view().written(&settings, &mut again).unwrap();
                assert_eq!(again, file);
                assert_eq!(state.hash(), ContentHash::of(&file));
                None
            }
            Err(LocalStateError::Header) => Some("Header"),
            Err(LocalStateError::Steps { .. }) => Some("Steps"),
            Err(LocalStateError::Numbers(_)) => Some("Numbers"),
            Err(LocalStateError::Short) => Some("Short"),
            Err(LocalStateError::Long) => Some("Long"),
            Err(_) => Some("another"),
        };
        assert_eq!(reason, vector["error"].as_str(), "{read:?}");
    }
}
