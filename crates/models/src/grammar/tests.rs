//! The bounds that hold without a model.

use super::*;

#[test]
fn what_is_too_long_or_too_deep_is_refused_unread() {
    let long = GrammarSource::Lark("x".repeat(GRAMMAR_BYTES_MAX + 1));
    assert_eq!(long.check(), Err(GrammarError::TooLong));
    let deep = GrammarSource::JsonSchema("[".repeat(NESTING_MAX + 1));
    assert_eq!(deep.check(), Err(GrammarError::TooDeep));
    let flat = GrammarSource::Lark("start: (\"a\" | \"b\")*".repeat(100));
    assert_eq!(flat.check(), Ok(()));
}

use crate::tools::{ForcedTool, Tool, forced_call_grammar};
use crate::vocabulary::made_up::{CONTROL, MadeUp};

/// What a model writes that wants one of these bytes wherever it may have it, and else whatever
/// comes first.
fn written(source: &GrammarSource, wanted: &[u8], most: usize) -> Result<String, GrammarError> {
    let made_up = MadeUp::bpe("gpt-2").with(CONTROL, &["<|endoftext|>"]);
    let vocabulary = made_up.load();
    let compiler = GrammarCompiler::new(&vocabulary).unwrap();
    source.check()?;
    let mut grammar = compiler.compile(source, &[])?;
    let mut written = Vec::new();
    for _ in 0..most {
        let mask = Mask::new(grammar.allowed()?);
        let allowed = |id: &u32| mask.allowed().contains(*id);
        let count = vocabulary.len() as u32;
        let is_wanted =
            |id: &u32| matches!(vocabulary.shown_bytes(*id), [byte] if wanted.contains(byte));
        let Some(id) = (0..count).filter(allowed).find(is_wanted).or_else(|| {
            (0..count)
                .filter(allowed)
                .find(|id| !vocabulary.shown_bytes(*id).is_empty())
        }) else {
            break;
        };
        written.extend_from_slice(vocabulary.shown_bytes(id));
        if grammar.accept(id)? {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&written).into_owned())
}

/// The longest run outside of strings.
fn longest_run(text: &str, of: &[char]) -> usize {
    let (mut in_string, mut escaped) = (false, false);
    let outside: String = (text.chars())
        .map(|c| {
            let inside = in_string;
            if in_string {
                in_string = escaped || c != '"';
                escaped = !escaped && c == '\\';
            } else {
                in_string = c == '"';
            }
            if inside || in_string { '"' } else { c }
        })
        .collect();
    let runs = outside.split(|c| !of.contains(&c));
    runs.map(str::len).max().unwrap_or(0)
}

fn schema(schema: serde_json::Value) -> GrammarSource {
    GrammarSource::JsonSchema(schema.to_string())
}

fn forced(parameters: serde_json::Value) -> GrammarSource {
    let tool = Tool {
        name: "look".to_owned(),
        description: None,
        parameters,
    };
    forced_call_grammar(&[tool], ForcedTool::Any, false).unwrap()
}

#[test]
fn white_space_between_json_is_bounded() {
    let object = serde_json::json!({"type": "object", "properties": {"a": {"type": "integer"},
        "b": {"type": "array", "items": {"type": "boolean"}}}, "required": ["a", "b"]});
    for source in [
        schema(object.clone()),
        schema(serde_json::json!({"type": "object"})),
        schema(serde_json::json!({"type": "array", "items": {"enum": [1, 2]}})),
        schema(serde_json::json!(true)),
        schema(
            serde_json::json!({"x-guidance": {"whitespace_pattern": "[ \\n]*"}, "type": "array"}),
        ),
        forced(object),
        forced(serde_json::json!({"type": "object", "properties": {"a": {}}})),
    ] {
        for wanted in [&b"\n"[..], b" ", b"\t", b"\r", b"\n \t\r"] {
            let text = written(&source, wanted, 400).unwrap();
            let run = longest_run(&text, &['\n', ' ', '\t', '\r']);
            assert!(run <= 36, "{source:?}: {run} in {text:?}");
        }
    }
}

#[test]
fn numbers_have_an_end() {
    let number = |kind: &str| serde_json::json!({"type": kind});
    for source in [
        schema(number("integer")),
        schema(number("number")),
        schema(serde_json::json!({"type": "array", "items": {"type": "integer"}})),
        schema(serde_json::json!({"type": "number", "minimum": 0})),
        schema(
            serde_json::json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "number"}}}),
        ),
        schema(serde_json::json!({})),
        forced(
            serde_json::json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}),
        ),
    ] {
        for wanted in [&b"9"[..], b"0", b"1234567890.eE+-", b"7.", b"5e"] {
            let text = written(&source, wanted, 400).unwrap();
            let run = longest_run(
                &text,
                &[
                    '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '.', 'e', 'E', '+', '-',
                ],
            );
            assert!(run <= 40, "{source:?}: {run} in {text:?}");
        }
    }
}

#[test]
fn a_tool_without_parameters_is_called_with_none() {
    for parameters in [
        serde_json::json!({"type": "object", "properties": {}}),
        serde_json::json!({}),
        serde_json::json!({"type": "object"}),
    ] {
        let text = written(&forced(parameters), b"}", 2_000).unwrap();
        let call: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        assert!(call.contains("\"arguments\":{}}"), "{text}");
        let open = written(
            &forced(serde_json::json!({"type": "object", "properties": {}})),
            b"\"",
            2_000,
        );
        let open: String = open.unwrap().split_whitespace().collect();
        assert!(open.contains("{}"), "{open}");
    }
    let some =
        serde_json::json!({"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]});
    assert!(
        written(&forced(some), b"}", 2_000)
            .unwrap()
            .contains("\"a\"")
    );
}

#[test]
fn what_is_honest_still_compiles_and_is_followed() {
    let pretty = "{\n    \"a\": 12,\n    \"b\": [\n        true\n    ]\n}";
    let object = serde_json::json!({"type": "object", "properties": {"a": {"type": "integer"},
        "b": {"type": "array", "items": {"type": "boolean"}}}, "required": ["a", "b"]});
    let vocabulary = MadeUp::bpe("gpt-2")
        .with(CONTROL, &["<|endoftext|>"])
        .load();
    let compiler = GrammarCompiler::new(&vocabulary).unwrap();
    let ids = |text: &str| vocabulary.encode(text, false).unwrap();
    for text in [
        pretty,
        "{\"a\":12,\"b\":[true]}",
        "{ \"a\": 12, \"b\": [ true ] }",
    ] {
        let followed = compiler.compile(&schema(object.clone()), &ids(text));
        assert!(followed.is_ok(), "{text}");
    }
}
