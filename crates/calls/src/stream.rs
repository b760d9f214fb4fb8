//! Calls found in text while it is still being written.

use serde_json::Value;

use super::{CLOSE, OPEN, ToolCall};

/// The longest call, in bytes; what is longer is text.
pub const CALL_BYTES_MAX: usize = 256 << 10;

/// A part of what the model said.
#[derive(Debug, Clone, PartialEq)]
pub enum OutputPart {
    /// Words.
    Text(String),
    /// A call, whole.
    Call(ToolCall),
}

/// Parts words and calls of an output as it arrives.
///
/// Words that cannot be part of a call leave at once. White space between calls is left out, and
/// what looks like a call but is none is text.
#[derive(Debug, Clone, Default)]
pub struct ToolCallStream {
    /// Not given out yet: white space and the beginning of a mark, or the inside of a call.
    held: String,
    /// Whether `held` begins with a call's mark.
    in_call: bool,
    /// Whether anything but white space was given out as text.
    spoke: bool,
}

impl ToolCallStream {
    /// What is certain with this text.
    pub fn push(&mut self, text: &str) -> Vec<OutputPart> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.advance(&mut parts) {}
        parts
    }

    /// What is left when no more comes. A call without its last mark counts if its JSON is whole.
    pub fn finish(mut self) -> Vec<OutputPart> {
        let mut parts = Vec::new();
        if self.in_call {
            match parse(&self.held[OPEN.len()..]) {
                Parsed::Call(call) => parts.push(OutputPart::Call(call)),
                Parsed::CutShort | Parsed::Nothing => {
                    let held = std::mem::take(&mut self.held);
                    self.say(&held, &mut parts);
                }
            }
        } else if self.spoke || !self.held.trim().is_empty() {
            let held = std::mem::take(&mut self.held);
            self.say(&held, &mut parts);
        }
        parts
    }

    /// Takes one step, and says whether another may follow.
    fn advance(&mut self, parts: &mut Vec<OutputPart>) -> bool {
        if self.in_call {
            return self.close(parts);
        }
        if let Some(at) = self.held.find(OPEN) {
            let rest = self.held.split_off(at);
            let before = std::mem::replace(&mut self.held, rest);
            self.say(before.trim_end(), parts);
            self.in_call = true;
            return true;
        }
        let certain = self.held.len() - held_back(&self.held);
        let rest = self.held.split_off(certain);
        let certain = std::mem::replace(&mut self.held, rest);
        self.say(&certain, parts);
        false
    }

    fn close(&mut self, parts: &mut Vec<OutputPart>) -> bool {
        let mut from = OPEN.len();
        while let Some(at) = self.held[from..].find(CLOSE) {
            let (inside, end) = (from + at, from + at + CLOSE.len());
            match parse(&self.held[OPEN.len()..inside]) {
                Parsed::Call(call) => {
                    parts.push(OutputPart::Call(call));
                    self.leave_call(end);
                    return true;
                }
                // The mark stands inside of a string.
                Parsed::CutShort => from = end,
                Parsed::Nothing => {
                    let said = self.held[..end].to_owned();
                    self.say(&said, parts);
                    self.leave_call(end);
                    return true;
                }
            }
        }
        if self.held.len() > CALL_BYTES_MAX {
            let held = std::mem::take(&mut self.held);
            self.say(&held, parts);
            self.in_call = false;
        }
        false
    }

    fn leave_call(&mut self, end: usize) {
        self.held.drain(..end);
        self.in_call = false;
    }

    fn say(&mut self, text: &str, parts: &mut Vec<OutputPart>) {
        if text.is_empty() {
            return;
        }
        self.spoke = true;
        if let Some(OutputPart::Text(said)) = parts.last_mut() {
            said.push_str(text);
        } else {
            parts.push(OutputPart::Text(text.to_owned()));
        }
    }
}

/// How many bytes at the end may belong to a call that comes: the beginning of its mark, and the
/// white space before.
fn held_back(text: &str) -> usize {
    let marks = (1..OPEN.len()).rev();
    let mark = marks.into_iter().find(|len| text.ends_with(&OPEN[..*len]));
    let words = &text[..text.len() - mark.unwrap_or(0)];
    text.len() - words.trim_end().len()
}

enum Parsed {
    Call(ToolCall),
    CutShort,
    Nothing,
}

fn parse(text: &str) -> Parsed {
    let mut value: Value = match serde_json::from_str(text.trim()) {
        Ok(value) => value,
        Err(error) if error.is_eof() => return Parsed::CutShort,
        Err(_) => return Parsed::Nothing,
    };
    let arguments = ["arguments", "parameters"].map(|key| value.get_mut(key).map(Value::take));
    let arguments = arguments.into_iter().flatten().next();
    let mut arguments = arguments.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    // Some models write the arguments as a string of JSON.
    if let Some(inner) = arguments.as_str().map(serde_json::from_str) {
        arguments = inner.unwrap_or(Value::Null);
    }
    match value.get("name").and_then(Value::as_str) {
        Some(name) if arguments.is_object() => Parsed::Call(ToolCall {
            id: None,
            name: name.to_owned(),
            arguments,
        }),
        _ => Parsed::Nothing,
    }
}
