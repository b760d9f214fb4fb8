//! Tools in a conversation for a template that knows none: told in a system message, called and answered in plain words.

use hearth_calls::{CLOSE, OPEN, Tool};

use super::Message;

/// A conversation for a template that knows no tools.
pub(super) fn folded(messages: &[Message], tools: &[Tool]) -> Vec<Message> {
    let mut folded: Vec<Message> = messages.iter().map(plain).collect();
    if tools.is_empty() {
        return folded;
    }
    let preamble = preamble(tools);
    match folded.first_mut() {
        Some(first) if first.role == "system" => {
            first.content = format!("{}\n\n{preamble}", first.content);
        }
        _ => folded.insert(
            0,
            Message {
                role: "system".to_owned(),
                content: preamble,
                ..Message::default()
            },
        ),
    }
    folded
}

/// A message without calls or results, which are written into its words.
fn plain(message: &Message) -> Message {
    let mut content = message.content.clone();
    for call in &message.tool_calls {
        if !content.is_empty() {
            content.push('\n');
        }
        content += &call.to_text();
    }
    let is_result = message.role == "tool";
    if is_result {
        content = format!("<tool_response>\n{content}\n</tool_response>");
    }
    Message {
        role: if is_result { "user" } else { &message.role }.to_owned(),
        content,
        name: message.name.clone(),
        ..Message::default()
    }
}

fn preamble(tools: &[Tool]) -> String {
    let list: Vec<String> = tools
        .iter()
        .map(|tool| tool.to_json().to_string())
        .collect();
    format!(
        "You may call functions to help with the user's request. These are the functions, each \
         with the JSON Schema of its arguments:\n<tools>\n{}\n</tools>\n\nTo call a function, \
         answer with its name and its arguments as JSON within {OPEN}{CLOSE} tags:\n{OPEN}\n\
         {{\"name\": \"the function's name\", \"arguments\": {{}}}}\n{CLOSE}",
        list.join("\n")
    )
}
