//! Calls of tools inside a model's text: `<tool_call>{"name":…,"arguments":{…}}</tool_call>`.
//!
//! Open models ask for tools in this form, and their chat templates teach them so. Text that may
//! become a tag is held back until it is clear; a call is told once it is complete, because only
//! then is it known to be JSON. What looks like a call and is none stays text.

use serde_json::Value;

const OPEN: &str = "<tool_call>";
/// What ends a call.
pub(super) const CLOSE: &str = "</tool_call>";
/// The longest call, in bytes; what is longer is text.
const CALL_BYTES_MAX: usize = 1 << 20;

/// A piece of a text in which calls may stand.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    Text(String),
    Call { tool: String, arguments: String },
}

/// Finds calls in a text that comes piece by piece.
#[derive(Debug, Default)]
pub(super) struct Finder {
    /// What is not told yet: the beginning of a tag, or a call that is not complete.
    held: String,
    in_call: bool,
    found_any: bool,
}

impl Finder {
    /// What becomes clear by the next piece.
    pub(super) fn push(&mut self, text: &str) -> Vec<Found> {
        self.held.push_str(text);
        let mut found = Vec::new();
        loop {
            if self.in_call {
                let Some(end) = self.held.find(CLOSE) else {
                    if self.held.len() > CALL_BYTES_MAX {
                        self.in_call = false;
                        let text = format!("{OPEN}{}", std::mem::take(&mut self.held));
                        found.push(Found::Text(text));
                    }
                    return found;
                };
                let rest = self.held.split_off(end + CLOSE.len());
                let mut inside = std::mem::replace(&mut self.held, rest);
                inside.truncate(end);
                self.in_call = false;
                found.push(self.call(&inside));
            } else if let Some(start) = self.held.find(OPEN) {
                let rest = self.held.split_off(start + OPEN.len());
                let mut before = std::mem::replace(&mut self.held, rest);
                before.truncate(start);
                self.in_call = true;
                self.text(before, &mut found);
            } else {
                let keep = self.held.len() - begun_tag(&self.held);
                let rest = self.held.split_off(keep);
                let clear = std::mem::replace(&mut self.held, rest);
                self.text(clear, &mut found);
                return found;
            }
        }
    }

    /// The text has ended; what was held back is what it is.
    pub(super) fn finish(&mut self) -> Option<Found> {
        let held = std::mem::take(&mut self.held);
        if std::mem::take(&mut self.in_call) {
            // Some models end their turn instead of closing the tag.
            return Some(self.call(&held));
        }
        (!held.is_empty()).then_some(Found::Text(held))
    }

    /// White space around calls is no text.
    fn text(&self, text: String, found: &mut Vec<Found>) {
        let around_calls = (self.in_call || self.found_any) && text.trim().is_empty();
        if !text.is_empty() && !around_calls {
            found.push(Found::Text(text));
        }
    }

    fn call(&mut self, inside: &str) -> Found {
        match read(inside) {
            Some((tool, arguments)) => {
                self.found_any = true;
                Found::Call { tool, arguments }
            }
            None => Found::Text(format!("{OPEN}{inside}{CLOSE}")),
        }
    }
}

fn read(inside: &str) -> Option<(String, String)> {
    let Value::Object(mut call) = serde_json::from_str(inside.trim()).ok()? else {
        return None;
    };
    let Some(Value::String(tool)) = call.remove("name") else {
        return None;
    };
    let arguments = match call
        .remove("arguments")
        .or_else(|| call.remove("parameters"))
    {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(arguments @ Value::Object(_)) => arguments.to_string(),
        Some(Value::String(text)) => text,
        Some(_) => return None,
    };
    Some((tool, arguments))
}

/// How many bytes at the end of a text may be the beginning of a tag.
fn begun_tag(text: &str) -> usize {
    (1..OPEN.len())
        .rev()
        .find(|length| text.ends_with(&OPEN[..*length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, piece: usize) -> (String, Vec<(String, String)>) {
        let mut finder = Finder::default();
        let mut found = Vec::new();
        let chars: Vec<char> = text.chars().collect();
        for piece in chars.chunks(piece) {
            found.extend(finder.push(&piece.iter().collect::<String>()));
        }
        found.extend(finder.finish());
        let (mut text, mut calls) = (String::new(), Vec::new());
        for found in found {
            match found {
                Found::Text(more) => text.push_str(&more),
                Found::Call { tool, arguments } => calls.push((tool, arguments)),
            }
        }
        (text, calls)
    }

    #[test]
    fn calls_are_found_however_the_text_is_cut() {
        let text = "Let me see. <tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": \"</b>\"}}\n\
                    </tool_call>\n<tool_call>{\"name\":\"b\"}</tool_call>";
        for piece in 1..text.len() {
            let (text, calls) = find(text, piece);
            assert_eq!(text, "Let me see. ");
            let expected = [("a", "{\"x\":\"</b>\"}"), ("b", "{}")];
            let expected = expected.map(|(tool, args)| (tool.to_owned(), args.to_owned()));
            assert_eq!(calls, expected);
        }
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for text in [
            "a < b <tool",
            "<tool_call>not json</tool_call>",
            "<tool_call>{\"arguments\":{}}</tool_call> and on",
            "<tool_call>{\"name\":\"a\",\"arguments\":3}</tool_call>",
            "</tool_call>",
        ] {
            for piece in 1..text.len() {
                assert_eq!(find(text, piece), (text.to_owned(), Vec::new()), "{text}");
            }
        }
    }

    #[test]
    fn a_call_that_the_end_of_the_turn_closes_counts() {
        let (_, calls) = find("<tool_call>{\"name\":\"a\",\"arguments\":{}}", 3);
        assert_eq!(calls.len(), 1);
    }

    #[test]
    fn plain_text_is_told_at_once() {
        let mut finder = Finder::default();
        let found = finder.push("hello");
        assert_eq!(found, [Found::Text("hello".to_owned())]);
    }

    #[test]
    fn an_endless_call_becomes_text() {
        let mut finder = Finder::default();
        let begun = finder.push(OPEN);
        assert!(begun.is_empty());
        let found = finder.push(&"x".repeat(CALL_BYTES_MAX + 1));
        assert!(matches!(&found[..], [Found::Text(text)] if text.starts_with(OPEN)));
    }
}
