//! `vectors/datasets.json` and `vectors/datasets_bad.json`: what every implementation computes and refuses.

#![allow(
    clippy::unwrap_used,
    reason = "what a test helper cannot unwrap, the test cannot go on without"
)]

use hearth_datasets::hash::{FileSeal, Hash32};
use hearth_datasets::import::is_held_out;
use hearth_datasets::manifest::{Manifest, ManifestError};
use hearth_datasets::shard::{ShardError, TokenWidth, tokens};
use hearth_datasets::windows::{WindowError, WindowSeed, Windowed, draw};
use serde_json::Value;

fn good() -> Value {
    serde_json::from_str(include_str!("../../../vectors/datasets.json")).unwrap()
}

fn bad() -> Value {
    serde_json::from_str(include_str!("../../../vectors/datasets_bad.json")).unwrap()
}

fn list(value: &Value) -> &[Value] {
    let list = value.as_array().unwrap();
    assert!(!list.is_empty());
    list
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn number<T: TryFrom<u64, Error: std::fmt::Debug>>(value: &Value) -> T {
    T::try_from(text(value).parse::<u64>().unwrap()).unwrap()
}

fn hash(value: &Value) -> Hash32 {
    text(value).strip_prefix("0x").unwrap().parse().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = text(value).strip_prefix("0x").unwrap();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn windowed(vector: &Value, dataset: Hash32) -> Windowed {
    Windowed {
        dataset,
        tokens: number(&vector["tokens"]),
        window_tokens: number(&vector["windowTokens"]),
    }
}

#[test]
fn windows_are_those_of_the_vectors() {
    for vector in list(&good()["windows"]) {
        let seed = WindowSeed {
            beacon: hash(&vector["beacon"]).0,
            run: hash(&vector["run"]).0,
            trainer: hash(&vector["trainer"]).0,
            round: number(&vector["round"]),
        };
        let windowed = windowed(vector, hash(&vector["dataset"]));
        let drawn = draw(&windowed, &seed, number(&vector["count"])).unwrap();
        let stated = vector["windows"].as_array().unwrap();
        let stated: Vec<u64> = stated.iter().map(number).collect();
        assert_eq!(drawn, stated, "{vector}");
    }
}

#[test]
fn documents_and_shards_are_those_of_the_vectors() {
    let good = good();
    for vector in list(&good["documents"]) {
        let (document, from) = (text(&vector["text"]), number::<u32>(&vector["heldOutFrom"]));
        assert!(is_held_out(document, from), "{vector}");
        assert!(!is_held_out(document, from - 1), "{vector}");
    }
    for vector in list(&good["shards"]) {
        let vocabulary = number(&vector["vocabulary"]);
        let stated = vector["tokens"].as_array().unwrap();
        let stated: Vec<u32> = stated.iter().map(number).collect();
        let encoded = TokenWidth::of(vocabulary).encode(&stated);
        assert_eq!(encoded, bytes(&vector["bytes"]), "{vector}");
        let seal = FileSeal::of(&encoded);
        assert_eq!(seal.blake3, hash(&vector["blake3"]), "{vector}");
        assert_eq!(tokens(&encoded, &seal, vocabulary), Ok(stated), "{vector}");
    }
}

#[test]
fn manifests_of_the_vectors_are_read_and_written_to_the_byte() {
    for vector in list(&good()["manifests"]) {
        let bytes = text(&vector["manifest"]).as_bytes();
        let manifest = Manifest::read(bytes).unwrap();
        assert_eq!(manifest.to_bytes().unwrap(), bytes, "{vector}");
        assert_eq!(Manifest::id(bytes), hash(&vector["id"]), "{vector}");
    }
}

#[test]
fn what_the_vectors_call_bad_is_refused_for_its_reason() {
    let bad = bad();
    for vector in list(&bad["manifests"]) {
        let error = Manifest::read(text(&vector["manifest"]).as_bytes()).unwrap_err();
        let reason = match &error {
            ManifestError::Json(_) => "Json",
            ManifestError::Field(_) => "Field",
            ManifestError::Text(_) => "Text",
            ManifestError::Source => "Source",
            ManifestError::Range { .. } => "Range",
            ManifestError::Shards(_) => "Shards",
            ManifestError::NotCanonical => "NotCanonical",
            _ => "another",
        };
        assert_eq!(reason, vector["error"], "{}: {error:?}", vector["name"]);
    }
    for vector in list(&bad["windows"]) {
        let seed = WindowSeed {
            beacon: [0; 32],
            run: [0; 32],
            trainer: [0; 32],
            round: 0,
        };
        let windowed = windowed(vector, Hash32([0; 32]));
        let reason = match draw(&windowed, &seed, number(&vector["count"])).unwrap_err() {
            WindowError::Size(_) => "Size",
            WindowError::Count(_) => "Count",
            WindowError::TooFew { .. } => "TooFew",
            _ => "another",
        };
        assert_eq!(reason, vector["error"], "{vector}");
    }
    for vector in list(&bad["shards"]) {
        let bytes = bytes(&vector["bytes"]);
        let read = tokens(&bytes, &FileSeal::of(&bytes), number(&vector["vocabulary"]));
        let reason = match read.unwrap_err() {
            ShardError::Broken { .. } => "Broken",
            ShardError::Token { .. } => "Token",
            _ => "another",
        };
        assert_eq!(reason, vector["error"], "{vector}");
    }
}
