//! `vectors/outcome.json` and `vectors/outcome_bad.json`: what every implementation computes and refuses.

use hearth_outcome::manifest::{ManifestError, ModelManifest, apportion};
use serde_json::Value;

fn good() -> Value {
    serde_json::from_str(include_str!("../../../../vectors/outcome.json")).unwrap()
}

fn bad() -> Value {
    serde_json::from_str(include_str!("../../../../vectors/outcome_bad.json")).unwrap()
}

fn list(value: &Value) -> &[Value] {
    let list = value.as_array().unwrap();
    assert!(!list.is_empty());
    list
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn manifests_of_the_vectors_are_read_and_written_to_the_byte() {
    for vector in list(&good()["manifests"]) {
        let bytes = text(&vector["manifest"]).as_bytes();
        let manifest = ModelManifest::read(bytes).unwrap();
        assert_eq!(manifest.to_bytes().unwrap(), bytes, "{vector}");
        let id = format!("0x{}", ModelManifest::id(bytes));
        assert_eq!(id, text(&vector["id"]), "{vector}");
    }
}

#[test]
fn shares_are_those_of_the_vectors() {
    for vector in list(&good()["shares"]) {
        let numbers = |name: &str| -> Vec<u64> {
            let numbers = vector[name].as_array().unwrap().iter();
            numbers
                .map(|number| text(number).parse().unwrap())
                .collect()
        };
        let whole = text(&vector["whole"]).parse().unwrap();
        let shares = apportion(whole, &numbers("parts")).into_iter();
        assert_eq!(shares.map(u64::from).collect::<Vec<_>>(), numbers("shares"));
    }
}

#[test]
fn what_the_vectors_call_bad_is_refused_for_its_reason() {
    for vector in list(&bad()["manifests"]) {
        let error = ModelManifest::read(text(&vector["manifest"]).as_bytes()).unwrap_err();
        let reason = match &error {
            ManifestError::Json(_) => "Json",
            ManifestError::Field(_) => "Field",
            ManifestError::Text(_) => "Text",
            ManifestError::Architecture(_) => "Architecture",
            ManifestError::Adapter(_) => "Adapter",
            ManifestError::List(_) => "List",
            ManifestError::Range(_) => "Range",
            ManifestError::Shares(_) => "Shares",
            ManifestError::NotCanonical => "NotCanonical",
            _ => "another",
        };
        assert_eq!(reason, vector["error"], "{}: {error:?}", vector["name"]);
    }
}
