//! Calls in text, whole and in pieces.

use super::*;
use proptest::prelude::*;

fn parts(text: &str, cuts: &[usize]) -> Vec<OutputPart> {
    let mut stream = ToolCallStream::default();
    let mut found = Vec::new();
    let mut start = 0;
    let mut cuts: Vec<usize> = cuts
        .iter()
        .map(|cut| text.floor_char_boundary(*cut))
        .collect();
    cuts.sort_unstable();
    for cut in cuts.into_iter().chain([text.len()]) {
        found.extend(stream.push(&text[start..cut]));
        start = cut;
    }
    found.extend(stream.finish());
    let mut joined: Vec<OutputPart> = Vec::new();
    for part in found {
        match (joined.last_mut(), part) {
            (Some(OutputPart::Text(said)), OutputPart::Text(more)) => said.push_str(&more),
            (_, part) => joined.push(part),
        }
    }
    joined
}

fn said(text: &str) -> OutputPart {
    OutputPart::Text(text.to_owned())
}

fn called(name: &str, arguments: Value) -> OutputPart {
    OutputPart::Call(ToolCall {
        id: None,
        name: name.to_owned(),
        arguments,
    })
}

#[test]
fn words_and_calls_are_told_apart() {
    let text = "Let me look.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>\n\
                <tool_call>{\"name\": \"b\"}</tool_call>";
    let expected = [
        said("Let me look."),
        called("a", json!({"x": 1})),
        called("b", json!({})),
    ];
    assert_eq!(parts(text, &[]), expected);
}

#[test]
fn words_leave_at_once() {
    let mut stream = ToolCallStream::default();
    assert_eq!(stream.push("1 < 2 and <b"), [said("1 < 2 and <b")]);
    assert_eq!(stream.push("> <tool"), [said(">")]);
    assert_eq!(stream.push("box>"), [said(" <toolbox>")]);
    assert!(stream.finish().is_empty());
}

#[test]
fn what_is_no_call_is_text() {
    for text in [
        "<tool_call>nonsense</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"a\", \"arguments\": 3}</tool_call>",
        "<tool_call>{\"name\": \"a\"",
    ] {
        assert_eq!(parts(text, &[]), [said(text)], "{text}");
    }
    let long = format!("<tool_call>\"{}", "x".repeat(CALL_BYTES_MAX));
    assert_eq!(parts(&long, &[]), [said(&long)]);
}

#[test]
fn a_mark_inside_of_a_string_ends_nothing() {
    let text = "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": \"</tool_call>\"}}</tool_call>";
    assert_eq!(
        parts(text, &[]),
        [called("a", json!({"x": "</tool_call>"}))]
    );
}

#[test]
fn a_call_reads_back_as_it_was_written() {
    let call = ToolCall {
        id: None,
        name: "look \"up\"".to_owned(),
        arguments: json!({"a": [1, {"b": null}], "c": "ü\n"}),
    };
    assert_eq!(parts(&call.to_text(), &[]), [OutputPart::Call(call)]);
}

#[test]
fn a_tool_that_is_not_there_cannot_be_forced() {
    let tools = [Tool {
        name: "a".to_owned(),
        description: None,
        parameters: json!({"type": "object", "properties": {"x": {"$ref": "#/$defs/X"}},
                           "$defs": {"X": {"type": "string"}}}),
    }];
    assert_eq!(
        forced_call_grammar(&tools, ForcedTool::Named("b"), false),
        None
    );
    assert_eq!(forced_call_grammar(&[], ForcedTool::Any, false), None);
    let text = forced_call_grammar(&tools, ForcedTool::Any, false).unwrap();
    assert!(
        text.contains("\"$ref\":\"#/$defs/tool0/$defs/X\"") && text.contains("\"tool0\":"),
        "{text}"
    );
}

proptest! {
    #[test]
    fn pieces_give_what_the_whole_gives(
        pieces in prop::collection::vec(prop_oneof![
            Just("<tool_call>"), Just("</tool_call>"), Just("{\"name\": \"a\"}"), Just(" "),
            Just("\n"), Just("<tool"), Just("_call>"), Just("ü"), Just("{\"name\":"), Just("\"x"),
        ], 0..12),
        cuts in prop::collection::vec(0usize..120, 0..8),
    ) {
        let text = pieces.concat();
        let cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        prop_assert_eq!(parts(&text, &cuts), parts(&text, &[]));
    }
}
