//! What servers of tools (MCP) say of labels: it may make a label stricter, and never less strict.
//!
//! A result, or a part of its content, may have `_meta.ifc`, as GitHub's server sends it. Of a tool's annotations only
//! `openWorldHint` says something about what it returns. Everything else that a server says of its tools is what it says.

use serde_json::Value;

use crate::label::{Label, Tier, Trust};

/// The label of a result whose own label is `label`, with its `_meta`. What is incomplete or unknown in there changes nothing.
#[must_use]
pub fn with_meta(label: Label, meta: &Value) -> Label {
    let ifc = &meta["ifc"];
    let said = |key: &str| ifc[key].as_str();
    let trust = match said("integrity") {
        Some("trusted") => Trust::Trusted,
        Some("untrusted") => Trust::Untrusted,
        _ => return label,
    };
    let tier = match said("confidentiality") {
        Some("public") => Tier::Network,
        Some("private") => Tier::Household,
        _ => return label,
    };
    label.join(Label { tier, trust })
}

/// The label of what a tool returns whose own label is `label`, with the tool's annotations.
#[must_use]
pub fn with_annotations(label: Label, annotations: &Value) -> Label {
    match annotations["openWorldHint"].as_bool() {
        Some(true) => label.join(Label::PUBLISHED),
        _ => label,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_makes_labels_stricter_and_never_less_strict() {
        let meta = |integrity: &str, confidentiality: &str| json!({"ifc": {"integrity": integrity, "confidentiality": confidentiality}});
        let private = with_meta(Label::FREE, &meta("untrusted", "private"));
        assert_eq!(private, Label::RECEIVED);
        for strict in [Label::RECEIVED, Label::OWN, Label::PUBLISHED] {
            let said = with_meta(strict, &meta("trusted", "public"));
            assert_eq!(said, strict);
            let hinted = with_annotations(strict, &json!({"readOnlyHint": true}));
            assert_eq!(hinted, strict);
        }
        let open = with_annotations(Label::OWN, &json!({"openWorldHint": true}));
        assert_eq!(open, Label::RECEIVED);
    }

    #[test]
    fn what_is_incomplete_or_unknown_changes_nothing() {
        for meta in [
            json!(null),
            json!({"ifc": "untrusted"}),
            json!({"ifc": {"integrity": "untrusted"}}),
            json!({"ifc": {"integrity": "untrusted", "confidentiality": "secret"}}),
            json!({"ifc": {"integrity": ["untrusted"], "confidentiality": "private"}}),
        ] {
            assert_eq!(with_meta(Label::FREE, &meta), Label::FREE, "{meta}");
        }
    }
}
