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

use hearth_calls::{ForcedTool, Tool, forced_call_grammar};

use crate::vocabulary::made_up::{CONTROL, MadeUp};

/// What a model writes that wants one of these bytes wherever it may have it, the first of them
/// most, and else whatever comes first.
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
        let is = |id: &u32, byte: u8| vocabulary.shown_bytes(*id) == [byte];
        let find = |byte: &u8| (0..count).filter(allowed).find(|id| is(id, *byte));
        let Some(id) = wanted.iter().find_map(find).or_else(|| {
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
    GrammarSource::Lark(forced_call_grammar(&[tool], ForcedTool::Any, false).unwrap())
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

/// Bytes of which a model wants the next, as a bias for a few tokens has it.
fn wished(
    source: &GrammarSource,
    wished: &str,
    most: usize,
) -> Result<(String, bool), GrammarError> {
    let vocabulary = MadeUp::bpe("gpt-2")
        .with(CONTROL, &["<|endoftext|>"])
        .load();
    let mut grammar = GrammarCompiler::new(&vocabulary)?.compile(source, &[])?;
    let count = vocabulary.len() as u32;
    let (mut written, mut next) = (Vec::new(), wished.bytes().cycle());
    for _ in 0..most {
        let mask = Mask::new(grammar.allowed()?);
        let allowed = |id: &u32| mask.allowed().contains(*id);
        let shown = |id: &u32| !vocabulary.shown_bytes(*id).is_empty();
        let find = |byte: u8| {
            let is = |id: &u32| allowed(id) && vocabulary.shown_bytes(*id) == [byte];
            (0..count).find(is)
        };
        let wanted = next.by_ref().take(wished.len()).find_map(find);
        let Some(id) = wanted.or_else(|| (0..count).filter(shown).find(allowed)) else {
            return Ok((String::from_utf8_lossy(&written).into_owned(), true));
        };
        written.extend_from_slice(vocabulary.shown_bytes(id));
        if grammar.accept(id)? {
            return Ok((String::from_utf8_lossy(&written).into_owned(), true));
        }
    }
    Ok((String::from_utf8_lossy(&written).into_owned(), false))
}

/// Whatever is repeated, and wherever JSON has no bound of its own.
#[test]
fn output_that_means_nothing_has_an_end() {
    let list =
        |items: serde_json::Value| schema(serde_json::json!({"type": "array", "items": items}));
    let string = serde_json::json!({"type": "string"});
    let any = || schema(serde_json::json!({}));
    let object = || schema(serde_json::json!({"type": "object"}));
    let tree = schema(serde_json::json!({"$defs": {"n": {"type": "object",
        "properties": {"n": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"}));
    let tool = || {
        forced(serde_json::json!({"type": "object", "required": ["a"],
        "properties": {"a": {"type": "array"}}}))
    };
    let several = {
        let parameters = serde_json::json!({"type": "object", "properties": {}});
        let tool = Tool {
            name: "look".to_owned(),
            description: None,
            parameters,
        };
        GrammarSource::Lark(forced_call_grammar(&[tool], ForcedTool::Any, true).unwrap())
    };
    for (source, repeated) in [
        (any(), "["),
        (list(serde_json::json!({})), "[],"),
        (list(serde_json::json!({})), "{},"),
        (list(serde_json::json!({"type": "array"})), "[],\n"),
        (list(string.clone()), "\"\","),
        (list(string.clone()), "\"a\","),
        (list(string.clone()), "\" "),
        (list(string), "\"\\n"),
        (
            list(serde_json::json!({"type": "string", "maxLength": 2})),
            "\"\\u0000\",",
        ),
        (list(serde_json::json!({"type": "integer"})), "0,"),
        (list(serde_json::json!({"type": "integer"})), "9"),
        (list(serde_json::json!({"type": "number"})), "1.5e+7,"),
        (list(serde_json::json!({"enum": [null, false]})), "null,"),
        (
            list(serde_json::json!({"enum": [true, false]})),
            "false,true,",
        ),
        (object(), "{\"a\":"),
        (object(), "{\"\":[],"),
        (tree, "{\"n\":"),
        (tool(), "[]"),
        (tool(), "0,"),
        (several, "\n<tool_call>"),
    ] {
        let (text, ends) = wished(&source, repeated, 20_000).unwrap();
        assert!(ends, "{source:?}: {repeated:?} gave {:?}", &text[..200]);
        let json = text.trim_start_matches("<tool_call>\n");
        let mut values = serde_json::Deserializer::from_str(json).into_iter::<serde_json::Value>();
        assert!(values.next().unwrap().is_ok(), "{repeated:?}: {text}");
    }
}

/// What a schema asks for stands in the answer, however long that is.
#[test]
fn an_end_comes_no_sooner_than_the_schema_allows() {
    for (source, repeated, least) in [
        (
            schema(serde_json::json!({"type": "array", "items": {"const": 0}, "minItems": 3_000})),
            "0,",
            6_001,
        ),
        (
            schema(serde_json::json!({"type": "string", "minLength": 400})),
            " ",
            402,
        ),
        (
            schema(
                serde_json::json!({"type": "object", "required": ["a", "b"], "properties": {
                "a": {"type": "string"}, "b": {"const": "here"}}}),
            ),
            " ",
            20,
        ),
    ] {
        let (text, ends) = wished(&source, repeated, 8_000).unwrap();
        assert!(ends, "{source:?}");
        assert!(text.len() >= least, "{source:?}: {} bytes", text.len());
        assert!(
            serde_json::from_str::<serde_json::Value>(&text).is_ok(),
            "{text}"
        );
    }
}

#[test]
fn parameters_may_refer_to_themselves_and_to_their_parts() {
    for (parameters, arguments, good) in [
        (
            serde_json::json!({"type": "object", "properties": {"next": {"$ref": "#"}, "v": {"type": "integer"}},
                "required": ["v"], "additionalProperties": false}),
            "{\"next\":{\"v\":2},\"v\":1}",
            true,
        ),
        (
            serde_json::json!({"type": "object", "properties": {"next": {"$ref": "#"}, "v": {"type": "integer"}},
                "required": ["v"], "additionalProperties": false}),
            "{\"next\":{\"name\":\"look\"",
            false,
        ),
        (
            serde_json::json!({"type": "object", "properties": {"a": {"type": "integer"},
                "default": {"$ref": "#/properties/a"}}, "required": ["default"]}),
            "{\"default\":7}",
            true,
        ),
        (
            serde_json::json!({"type": "object", "properties": {"a": {"const": {"$ref": "#/x"}}},
                "required": ["a"]}),
            "{\"a\":{\"$ref\":\"#/x\"}}",
            true,
        ),
        (
            serde_json::json!({"type": "object", "definitions": {"X": {"type": "boolean"}},
                "properties": {"a": {"$ref": "#/definitions/X"}}, "required": ["a"]}),
            "{\"a\":true}",
            true,
        ),
    ] {
        let source = forced(parameters);
        let vocabulary = MadeUp::bpe("gpt-2")
            .with(CONTROL, &["<|endoftext|>"])
            .load();
        let compiler = GrammarCompiler::new(&vocabulary).unwrap();
        let begun = format!("<tool_call>\n{{\"name\":\"look\",\"arguments\":{arguments}");
        let ids = vocabulary.encode(&begun, false).unwrap();
        let followed = compiler.compile(&source, &ids);
        let expected = if good {
            None
        } else {
            Some(GrammarError::Answered)
        };
        assert_eq!(followed.err(), expected, "{source:?} {arguments}");
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
