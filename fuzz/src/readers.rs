//! What reads the files, grammars and outputs of strangers' models: vocabularies, templates, grammars and calls.

use std::fs;
use std::sync::LazyLock;

use hearth_calls::{OutputPart, Tool, ToolCall, ToolCallStream};
use hearth_models::catalogue::Catalogue;
use hearth_models::gguf::Header;
use hearth_models::grammar::{GrammarChecker, GrammarSource};
use hearth_models::prompt::{PromptInput, PromptReader};
use hearth_models::reader::is_sound_reply;
use hearth_models::template::{ChatTemplate, Conversation, Message};
use hearth_models::vocabulary::Encoder;

/// A moment for templates that tell it.
const NOW_S: u64 = 1_790_000_000;

/// The head of a model file that states no tensors, and after it a text: whatever is accepted is loaded, turns the
/// text into ids, and those back into the same bytes, special tokens aside.
pub fn vocabulary(input: &[u8]) -> bool {
    static FOLDER: LazyLock<tempfile::TempDir> =
        LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));
    let Ok(header) = Header::read(input, input.len() as u64) else {
        return false;
    };
    if !header.tensors.is_empty() {
        return false;
    }
    let path = FOLDER.path().join(std::process::id().to_string());
    fs::write(&path, input).expect("a file can be written");
    let Ok(vocabulary) = Encoder::load(&path) else {
        return false;
    };
    let head = usize::try_from(header.head_bytes).unwrap_or(usize::MAX);
    let after = String::from_utf8_lossy(input.get(head..).unwrap_or_default()).into_owned();
    for text in [&*after, "hello <|im_end|> 漢字 123\n\n", &"a".repeat(9_000)] {
        for special in [false, true] {
            if let Ok(ids) = vocabulary.encode(text, special) {
                assert!(ids.iter().all(|id| vocabulary.contains(*id)));
                let _ = vocabulary.decode(&ids);
            }
        }
    }
    let Ok(reader) = PromptReader::new(vocabulary) else {
        return true;
    };
    let chat = PromptInput::Chat {
        messages: vec![said("user", &after)],
        tools: Vec::new(),
        continue_last: false,
    };
    let _ = reader.ids(&chat, NOW_S);
    true
}

fn said(role: &str, content: &str) -> Message {
    Message {
        role: role.to_owned(),
        content: content.to_owned(),
        ..Message::default()
    }
}

/// A chat template, run with a conversation that has everything: it says a bounded text, or why it does not.
pub fn template(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    let Ok(template) = ChatTemplate::new(text, "<s>", "</s>") else {
        return false;
    };
    let mut call = said("assistant", "<think>\nhm\n</think>\nI look.");
    call.tool_calls = vec![ToolCall {
        id: Some("1".to_owned()),
        name: "look".to_owned(),
        arguments: serde_json::json!({"a": [1, "two", null]}),
    }];
    let mut result = said("tool", "found");
    result.name = Some("look".to_owned());
    let messages = [
        said("system", "Be kind."),
        said("user", "Look!"),
        call,
        result,
    ];
    let tools = [Tool {
        name: "look".to_owned(),
        description: Some("Looks.".to_owned()),
        parameters: serde_json::json!({"type": "object", "properties": {"a": {}}}),
    }];
    for continue_last in [false, true] {
        let rendered = template.render(&Conversation {
            messages: &messages[..if continue_last { 2 } else { 4 }],
            tools: &tools,
            add_generation_prompt: !continue_last,
            continue_last,
            now_s: NOW_S,
        });
        if let Ok(prompt) = rendered {
            assert!(prompt.len() <= hearth_models::template::PROMPT_BYTES_MAX);
        }
    }
    true
}

/// A JSON Schema, or after a line feed a grammar in the form of Lark: it compiles, or is refused.
pub fn grammar(input: &[u8]) -> bool {
    static CHECKER: LazyLock<GrammarChecker> = LazyLock::new(GrammarChecker::of_bytes);
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    let source = match text.strip_prefix('\n') {
        Some(lark) => GrammarSource::Lark(lark.to_owned()),
        None => GrammarSource::JsonSchema(text.to_owned()),
    };
    CHECKER.check(&source).is_ok()
}

/// The output of a model, in pieces as long as the first byte says: calls and words come out as they went in, however
/// it is cut.
pub fn calls(input: &[u8]) -> bool {
    let Some((&length, rest)) = input.split_first() else {
        return false;
    };
    let text = String::from_utf8_lossy(rest);
    let whole = parts(&[&text]);
    let mut pieces = Vec::new();
    let mut left = &*text;
    while !left.is_empty() {
        let most = usize::from(length).max(4).min(left.len());
        let (piece, after) = left.split_at(left.floor_char_boundary(most));
        pieces.push(piece);
        left = after;
    }
    assert_eq!(parts(&pieces), whole);
    for part in &whole {
        if let OutputPart::Call(call) = part {
            assert!(call.arguments.is_object());
            let again = parts(&[&call.to_text()]);
            assert_eq!(again.len(), 1, "{again:?}");
        }
    }
    whole.iter().any(|part| matches!(part, OutputPart::Call(_)))
}

fn parts(pieces: &[&str]) -> Vec<OutputPart> {
    let mut stream = ToolCallStream::default();
    let mut found: Vec<OutputPart> = Vec::new();
    for piece in pieces {
        found.extend(stream.push(piece));
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

/// A household's own catalogue: every model of it has a name, a size, and a place to be had from.
pub fn catalogue(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    let Ok(catalogue) = Catalogue::with(text) else {
        return false;
    };
    for model in catalogue.models() {
        assert!(!model.sources.is_empty() && model.file_bytes > 0);
        let found = catalogue.find(&model.name).expect("what is there is found");
        assert_eq!(found, model, "a name stands for one model");
    }
    true
}

/// What a reader process says, which may have been taken over: it is decoded and checked within bounds.
pub fn replies(input: &[u8]) -> bool {
    is_sound_reply(input)
}
