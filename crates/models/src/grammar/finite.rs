//! Whether any answer that follows a schema has an end.
//!
//! A schema that refers to itself where nothing may be left out, such as an object that needs one of its own kind in a
//! property, is followed without end. Only such schemas are found here that have no finite answer whatever is chosen;
//! where that is not certain, there is one.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// How often all references are looked at. A schema that needs more has references in chains as long.
const ROUNDS_MAX: usize = 128;

/// Whether a schema has a finite answer, as far as can be told.
pub(super) fn has_finite_answer(schema: &Value) -> bool {
    let mut references = BTreeSet::new();
    collect(schema, &mut references);
    // Of nothing is known that it ends before its parts are: what refers to itself alone never is.
    let mut ending = Ending {
        references: BTreeSet::new(),
    };
    for _ in 0..ROUNDS_MAX {
        let found = references.iter().filter(|place| {
            let part = place
                .strip_prefix('#')
                .and_then(|place| schema.pointer(place));
            !ending.references.contains(*place) && part.is_none_or(|part| ending.has(part))
        });
        let found: Vec<&str> = found.copied().collect();
        if found.is_empty() {
            return ending.has(schema);
        }
        ending.references.extend(found);
    }
    true
}

/// The places that a schema refers to in itself.
fn collect<'a>(value: &'a Value, references: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(place)) = map.get("$ref") {
                references.insert(place);
            }
            map.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        _ => {}
    }
}

/// What is known to have an end.
struct Ending<'a> {
    references: BTreeSet<&'a str>,
}

impl Ending<'_> {
    fn has(&self, schema: &Value) -> bool {
        let Value::Object(schema) = schema else {
            return schema != &Value::Bool(false);
        };
        if schema.contains_key("const") || schema.contains_key("enum") {
            return true;
        }
        let list = |key: &str| schema.get(key).and_then(Value::as_array);
        let refers = schema.get("$ref").and_then(Value::as_str);
        let of_others = refers.is_none_or(|place| self.references.contains(place))
            && list("allOf").is_none_or(|all| all.iter().all(|one| self.has(one)))
            && ["anyOf", "oneOf"]
                .into_iter()
                .all(|key| list(key).is_none_or(|any| any.iter().any(|one| self.has(one))));
        let kinds: Vec<&str> = match schema.get("type") {
            Some(Value::String(kind)) => vec![kind],
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => return of_others,
        };
        let of_kind = |kind: &&str| match *kind {
            "object" => self.has_object(schema),
            "array" => self.has_array(schema),
            _ => true,
        };
        of_others && kinds.iter().any(of_kind)
    }

    fn has_object(&self, schema: &Map<String, Value>) -> bool {
        let others = (schema.get("additionalProperties")).is_none_or(|others| self.has(others));
        let named = schema.get("properties").and_then(Value::as_object);
        let of_name = |name: &str| {
            let of_name = named.and_then(|named| named.get(name));
            of_name.map_or(others, |schema| self.has(schema))
        };
        let required = schema.get("required").and_then(Value::as_array);
        let mut required = required.into_iter().flatten().filter_map(Value::as_str);
        let least = count(schema, "minProperties");
        let ending = named.map_or(0, |named| {
            named.values().filter(|schema| self.has(schema)).count()
        });
        required.all(of_name) && (others || least <= ending)
    }

    fn has_array(&self, schema: &Map<String, Value>) -> bool {
        let first = schema.get("prefixItems").and_then(Value::as_array);
        let first = first.map_or(&[][..], Vec::as_slice);
        let least = count(schema, "minItems");
        let others = (schema.get("items")).is_none_or(|items| self.has(items));
        first.iter().take(least).all(|item| self.has(item)) && (others || least <= first.len())
    }
}

fn count(schema: &Map<String, Value>, key: &str) -> usize {
    let count = schema.get(key).and_then(Value::as_u64).unwrap_or(0);
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_whose_every_answer_goes_on_without_end_is_found() {
        let tree = |node: Value| json!({"$defs": {"n": node}, "$ref": "#/$defs/n"});
        let of = |next: Value, required: Value| json!({"type": "object", "properties": {"v": {"type": "integer"}, "next": next}, "required": required});
        for endless in [
            json!({"$ref": "#"}),
            tree(json!({"$ref": "#/$defs/n"})),
            tree(of(json!({"$ref": "#/$defs/n"}), json!(["v", "next"]))),
            tree(json!({"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1})),
            tree(json!({"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1})),
            tree(
                json!({"anyOf": [of(json!({"$ref": "#"}), json!(["next"])), {"$ref": "#/$defs/n"}]}),
            ),
            tree(json!({"allOf": [{"type": "string"}, {"$ref": "#/$defs/n"}]})),
            tree(
                json!({"type": "object", "additionalProperties": {"$ref": "#"}, "minProperties": 1}),
            ),
            tree(
                json!({"type": ["object", "array"], "required": ["next"], "properties": {"next": {"$ref": "#"}},
                "items": {"$ref": "#"}, "minItems": 2}),
            ),
            json!({"$defs": {"a": of(json!({"$ref": "#/$defs/b"}), json!(["next"])),
                "b": of(json!({"$ref": "#/$defs/a"}), json!(["next"]))}, "$ref": "#/$defs/a"}),
        ] {
            assert!(!has_finite_answer(&endless), "{endless}");
        }
    }

    #[test]
    fn a_schema_with_a_way_out_is_left_alone() {
        let own = json!({"$ref": "#"});
        let chain: Map<String, Value> = (0..400)
            .map(|i| {
                (
                    format!("d{i:03}"),
                    json!({"$ref": format!("#/$defs/d{:03}", i + 1)}),
                )
            })
            .chain([("d400".to_owned(), json!({"type": "null"}))])
            .collect();
        for finite in [
            json!(true),
            json!({}),
            json!({"type": "object", "properties": {"next": own}}),
            json!({"type": "object", "properties": {"next": {"anyOf": [own, {"type": "null"}]}}, "required": ["next"]}),
            json!({"type": ["object", "null"], "properties": {"next": own}, "required": ["next"]}),
            json!({"type": "array", "items": own}),
            json!({"type": "array", "prefixItems": [{"const": 1}], "items": own, "minItems": 1}),
            json!({"type": "object", "properties": {"a": {}, "b": own}, "additionalProperties": own, "minProperties": 1}),
            json!({"enum": [1], "allOf": [own]}),
            json!({"properties": {"$ref": {"type": "string"}}, "type": "object", "required": ["$ref"]}),
            json!({"$defs": chain, "$ref": "#/$defs/d000"}),
            json!({"$ref": "https://example.org/other"}),
        ] {
            assert!(has_finite_answer(&finite), "{finite}");
        }
    }
}
