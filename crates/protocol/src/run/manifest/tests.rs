//! `vectors/run_manifests.json` and `vectors/run_manifests_bad.json`: what every implementation reads and refuses.

use serde_json::Value;

use super::*;

fn vectors(bad: bool) -> Value {
    let text = if bad {
        include_str!("../../../../../vectors/run_manifests_bad.json")
    } else {
        include_str!("../../../../../vectors/run_manifests.json")
    };
    serde_json::from_str(text).unwrap()
}

fn list<'a>(vectors: &'a Value, name: &str) -> &'a [Value] {
    let list = vectors[name].as_array().unwrap();
    assert!(!list.is_empty());
    list
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn first() -> RunManifest {
    let vectors = vectors(false);
    RunManifest::read(text(&vectors["manifests"][0]["manifest"]).as_bytes()).unwrap()
}

#[test]
fn manifests_of_the_vectors_are_read_and_written_to_the_byte() {
    for vector in list(&vectors(false), "manifests") {
        let bytes = text(&vector["manifest"]).as_bytes();
        let manifest = RunManifest::read(bytes).unwrap();
        assert_eq!(manifest.to_bytes().unwrap(), bytes, "{vector}");
        let name = format!("0x{}", manifest.hash().unwrap());
        assert_eq!(name, text(&vector["hash"]));
    }
}

#[test]
fn fractions_are_those_of_the_vectors() {
    for vector in list(&vectors(false), "fractions") {
        let bits = u32::from_str_radix(text(&vector["bits"]), 16).unwrap();
        let fraction = Fraction::new(f32::from_bits(bits)).unwrap();
        assert_eq!(fraction.to_string(), text(&vector["text"]), "{vector}");
    }
}

#[test]
fn what_the_vectors_call_bad_is_refused_for_its_reason() {
    for vector in list(&vectors(true), "manifests") {
        let error = RunManifest::read(text(&vector["manifest"]).as_bytes());
        let error = error.expect_err(text(&vector["name"]));
        let reason = match &error {
            RunManifestError::Json(_) => "Json",
            RunManifestError::NotAManifest => "NotAManifest",
            RunManifestError::Unknown { .. } => "Unknown",
            RunManifestError::Field { .. } => "Field",
            RunManifestError::Text { .. } => "Text",
            RunManifestError::Range { .. } => "Range",
            RunManifestError::FractionRange { .. } => "FractionRange",
            RunManifestError::Rule { .. } => "Rule",
            RunManifestError::NotCanonical => "NotCanonical",
            RunManifestError::Long(_) => "Long",
        };
        assert_eq!(reason, vector["error"], "{}: {error:?}", vector["name"]);
    }
}

#[test]
fn a_refusal_names_the_field() {
    let mut manifest = first();
    manifest.round.steps_min = 31;
    let error = manifest.to_bytes().unwrap_err();
    let told = "round.stepsMin is 31, and has to be from 1 to 30";
    assert_eq!(error.to_string(), told);
    let odd = String::from_utf8(first().to_bytes().unwrap()).unwrap();
    let odd = odd.replace("\"quorum\":2", "\"quorum\":\"two\"");
    let error = RunManifest::read(odd.as_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the manifest's round.quorum cannot be read"
    );
}

#[test]
fn more_bytes_than_any_manifest_has_are_not_looked_at() {
    let long = vec![b'['; RUN_MANIFEST_BYTES_MAX + 1];
    let error = RunManifest::read(&long).unwrap_err();
    assert!(matches!(error, RunManifestError::Long(_)));
    // As deep as bytes allow: the reader of JSON stops by itself.
    let error = RunManifest::read(&long[1..]).unwrap_err();
    assert!(matches!(error, RunManifestError::Json(_)));
}

#[test]
fn every_value_is_in_the_name() {
    let name = first().hash().unwrap();
    let changes: [fn(&mut RunManifest); 5] = [
        |manifest| manifest.name.push('s'),
        |manifest| manifest.round.carry = false,
        |manifest| manifest.outer.momentum = None,
        |manifest| manifest.datasets.reverse(),
        |manifest| manifest.start = RunStart::Fresh { seed: 1 },
    ];
    for change in changes {
        let mut manifest = first();
        change(&mut manifest);
        assert_ne!(manifest.hash().unwrap(), name);
    }
}
