//! Schemas of strangers, by what makes them grow.

use serde_json::{Map, Value, json};

use super::grammars::harm_nobody_else;
use crate::grammar::GrammarSource;

fn schemas(values: impl IntoIterator<Item = Value>) -> Vec<GrammarSource> {
    let values = values.into_iter();
    let texts = values.map(|value| value.to_string());
    texts.map(GrammarSource::JsonSchema).collect()
}

fn larks(texts: impl IntoIterator<Item = String>) -> Vec<GrammarSource> {
    texts.into_iter().map(GrammarSource::Lark).collect()
}

/// A schema whose definitions each refer twice to the next one, so that it doubles with each.
fn doubling(keyword: &str, levels: usize) -> Value {
    let mut definitions = Map::new();
    for level in 0..levels {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        definitions.insert(format!("d{level}"), json!({keyword: [next, next]}));
    }
    definitions.insert(
        format!("d{levels}"),
        json!({"type": "object", "properties": {"a": {"type": "string"}}}),
    );
    json!({"$defs": definitions, "$ref": "#/$defs/d0"})
}

#[tokio::test]
async fn schemas_of_many_choices_harm_nobody_else() {
    let words = |count: usize, prefix: &str| -> Vec<String> {
        (0..count).map(|i| format!("{prefix}{i}")).collect()
    };
    let objects = |count: usize| -> Vec<Value> {
        let object = |i| json!({"type": "object", "properties": {"k": {"const": i}, "v": {"type": "string"}}});
        (0..count).map(object).collect()
    };
    let properties: Map<String, Value> = (0..1_500)
        .map(|i| (format!("p{i}"), json!({"type": "integer"})))
        .collect();
    let nested = (0..20).fold(json!({"type": "null"}), |inner, level| {
        json!({"anyOf": [{"type": "array", "items": inner}, {"enum": [level, "x"]}]})
    });
    harm_nobody_else(schemas([
        json!({"enum": words(5_000, "")}),
        json!({"enum": words(800, &"a".repeat(60))}),
        json!({"const": "x".repeat(60_000)}),
        json!({"const": vec![vec![0; 100]; 250]}),
        json!({"oneOf": objects(600)}),
        json!({"anyOf": objects(600), "properties": {"k": {"type": "integer"}}}),
        doubling("anyOf", 24),
        doubling("oneOf", 24),
        doubling("allOf", 16),
        json!({"type": "object", "properties": properties}),
        json!({"type": "object", "properties": properties, "additionalProperties": {"$ref": "#"}}),
        nested,
        json!({"type": ["string", "integer", "null", "array", "object", "boolean"], "items": {"$ref": "#"}}),
    ]))
    .await;
}

#[tokio::test]
async fn schemas_that_refer_in_circles_harm_nobody_else() {
    let deep = (0..28).fold(
        json!({"type": "string"}),
        |inner, _| json!({"$defs": {"a": inner}, "$ref": "#/$defs/a"}),
    );
    let circle = |count: usize, keyword: &str| {
        let definition = |i: usize| {
            let next = json!({"$ref": format!("#/$defs/d{}", (i + 1) % count)});
            (format!("d{i}"), json!({keyword: [next]}))
        };
        let all: Map<String, Value> = (0..count).map(definition).collect();
        json!({"$defs": all, "$ref": "#/$defs/d0"})
    };
    harm_nobody_else(schemas([
        circle(500, "anyOf"),
        circle(30, "allOf"),
        json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}, {"type": "null"}]}),
        json!({"allOf": [{"$ref": "#"}, {"type": "object"}]}),
        json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        json!({"type": "array", "items": {"$ref": "#"}, "minItems": 1}),
        json!({"type": "array", "items": {"$ref": "#"}, "minItems": 200}),
        json!({"$ref": "#/$defs/missing"}),
        json!({"$ref": "https://example.org/schema.json"}),
        json!({"$ref": "#/properties/a/../a"}),
        deep,
    ]))
    .await;
}

#[tokio::test]
async fn schemas_of_large_counts_harm_nobody_else() {
    let list =
        |least: u64, items: Value| json!({"type": "array", "minItems": least, "items": items});
    let number =
        |of: Value| json!({"type": "integer", "multipleOf": of, "minimum": -999_999_999_999_i64});
    harm_nobody_else(schemas([
        json!({"type": "string", "maxLength": 50_000}),
        json!({"type": "string", "minLength": 50_000, "maxLength": 50_000}),
        json!({"type": "string", "maxLength": 3_000_000}),
        json!({"type": "array", "maxItems": 9_000_000}),
        list(50_000, json!({"type": "string", "maxLength": 50_000})),
        list(50_000, list(50_000, list(50_000, json!({})))),
        json!({"type": "array", "maxItems": 50_000, "prefixItems": vec![json!({"type": "null"}); 2_000]}),
        json!({"type": "object", "minProperties": 40_000, "additionalProperties": {"type": "integer"}}),
        number(json!(999_983)),
        number(json!(0)),
        json!({"type": "number", "multipleOf": 1e-9, "maximum": 1e15}),
        json!({"type": "number", "multipleOf": 1e-300}),
        json!({"type": "integer", "minimum": -1e300, "maximum": 1e300}),
        json!({"type": "number", "exclusiveMinimum": 0.123_456_789_012_345_6, "maximum": 0.123_456_789_012_345_7}),
        json!({"type": "integer", "minimum": 5, "maximum": 1}),
    ]))
    .await;
}

#[tokio::test]
async fn schemas_of_heavy_patterns_harm_nobody_else() {
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    let keys = |count: usize| -> Map<String, Value> {
        (1..=count)
            .map(|i| (format!(".*[a-m]{{{i}}}.*"), json!({"type": "string"})))
            .collect()
    };
    let formats = [
        "date-time",
        "email",
        "uri",
        "iri-reference",
        "ipv6",
        "uuid",
        "hostname",
        "regex",
        "no-such",
    ];
    let with_format = |format: &&str| json!({"type": "string", "format": format, "pattern": ".*[a-m]{12}.*", "maxLength": 20_000});
    let mut all = vec![
        text("^(a?){5000}a{5000}$"),
        text("^(.{0,500}x){0,90}$"),
        text(r"\p{L}{40000}"),
        text(r"^(\p{L}|\p{N}|\p{So}){1,3000}$"),
        text(r"^(\w+\s?)*[^\w]{900}$"),
        text("^(?=.*a)(?=.*b)(?=.*c).{8,400}$"),
        text(r"(a)(b)\1\2"),
        text("(?<!x)y(?!z)"),
        text("(?i)(straße){300}"),
        text("^(([a-z]{1,90}\\.){1,90})+$"),
        text(&format!("^({})$", vec!["[0-9a-f]{8}"; 900].join("|"))),
        text(&"(".repeat(5_000)),
        text(&"a?".repeat(25_000)),
        text("[\u{0}-\u{10ffff}]{20000}[^\u{1f600}-\u{1f64f}]"),
        json!({"type": "object", "patternProperties": keys(60)}),
        json!({"type": "object", "patternProperties": keys(17), "additionalProperties": false,
               "properties": {"abc": {}, "mmmm": {}}}),
        json!({"type": "object", "propertyNames": {"pattern": "^(a|b)*a(a|b){18}$"}}),
        json!({"type": "array", "items": text("^(a|b)*a(a|b){20}$"), "minItems": 1_000}),
    ];
    all.extend(formats.iter().map(with_format));
    harm_nobody_else(schemas(all)).await;
}

#[tokio::test]
async fn grammars_of_heavy_rules_harm_nobody_else() {
    let words = "abcdefghij klmnop".repeat(3_500);
    let chain: String = (0..12)
        .map(|i| format!("r{i}: r{}{{150}}\n", i + 1))
        .collect();
    let doubled: String = (0..40)
        .map(|i| format!("r{i}: r{next} r{next}\n", next = i + 1))
        .collect();
    let optional: String = (0..40)
        .map(|i| format!("r{i}: r{next}? r{next}* r{next}+\n", next = i + 1))
        .collect();
    let tools: String = (0..30)
        .map(|i| {
            format!("t{i}: %json {{\"type\":\"string\",\"pattern\":\"^(a|b)*a(a|b){{{i}}}$\"}}\n")
        })
        .collect();
    let choices: Vec<String> = (0..30).map(|i| format!("t{i}")).collect();
    harm_nobody_else(larks([
        "start: \"a\"{1,1000000}".to_owned(),
        format!("start: r0\n{chain}r12: \"x\"\n"),
        format!("start: r0\n{doubled}r40: \"x\"\n"),
        format!("start: r0\n{optional}r40: \"x\"?\n"),
        format!("start: %regex {{\"substring_chars\": \"{words}\"}}"),
        format!("start: %regex {{\"substring_words\": \"{words}\"}}"),
        "start: a | b\na: b\nb: a".to_owned(),
        "start: (start | \"\")*".to_owned(),
        "start: /(?=a)b/".to_owned(),
        "%import common.WORD\nstart: WORD{60000}".to_owned(),
        "%ignore /[ \\t]*/\nstart: (\"a\" | /a+/)*".to_owned(),
        "%llguidance {\"no_forking\": true}\nstart: /a*/ /a*/ /a*/ \"b\"".to_owned(),
        "start[capture, temperature=9]: @other".to_owned(),
        "start: <[0-4000000000]>* <|no|>".to_owned(),
        "start: T\nT: ~(~(/(a|b)*a(a|b){16}/))".to_owned(),
        format!("start: ({}){{0,60}}\n{tools}", choices.join(" | ")),
    ]))
    .await;
}
