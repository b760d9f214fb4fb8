//! Tools that a model may call: how calls are written, forced and found again in its words.
//!
//! A call stands in the text as `<tool_call>{"name": .., "arguments": {..}}</tool_call>`, the form
//! that most open models were trained on, and the one that models without any are told.
//!
//! What is not here: what a tool does, and the API's own forms of calls.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::grammar::{GrammarSource, with_bounds};

mod stream;
#[cfg(test)]
mod tests;

pub use stream::{CALL_BYTES_MAX, OutputPart, ToolCallStream};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
/// How deep a schema is searched for references.
const SCHEMA_DEPTH_MAX: usize = 64;
/// The most calls that an output of calls may have: without a bound a model can go on with calls to the end.
const CALLS_MAX: usize = 32;

/// Something that the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The JSON Schema of its arguments; an object.
    pub parameters: Value,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The call's own name, which its answer refers to.
    pub id: Option<String>,
    /// The tool's name.
    pub name: String,
    /// What it is called with; an object.
    pub arguments: Value,
}

/// Who speaks, and what.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
    /// What the assistant calls.
    pub tool_calls: Vec<ToolCall>,
    /// Who speaks, or which tool answers.
    pub name: Option<String>,
    /// Which call a tool answers.
    pub tool_call_id: Option<String>,
}

/// Which tool must be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForcedTool<'a> {
    /// Any of them.
    Any,
    /// The one with this name.
    Named(&'a str),
}

impl Tool {
    /// The tool as templates expect it.
    pub(crate) fn to_json(&self) -> Value {
        let mut function = json!({"name": self.name});
        if let Some(description) = &self.description {
            function["description"] = json!(description);
        }
        function["parameters"] = self.parameters.clone();
        json!({"type": "function", "function": function})
    }
}

impl ToolCall {
    /// The call as it stands in text.
    pub fn to_text(&self) -> String {
        let json = serde_json::to_string(&Written::from(self));
        let json = json.expect("strings and JSON values are JSON");
        format!("{OPEN}\n{json}\n{CLOSE}")
    }
}

/// What stands between the marks.
#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    arguments: &'a Value,
}

impl<'a> From<&'a ToolCall> for Written<'a> {
    fn from(call: &'a ToolCall) -> Self {
        Self {
            name: &call.name,
            arguments: &call.arguments,
        }
    }
}

/// The grammar of an output that is nothing but calls: one, or one after another if `parallel`.
///
/// Nothing if no tool has the name.
pub fn forced_call_grammar(
    tools: &[Tool],
    forced: ForcedTool<'_>,
    parallel: bool,
) -> Option<GrammarSource> {
    let callable = |tool: &&Tool| match forced {
        ForcedTool::Any => true,
        ForcedTool::Named(name) => tool.name == name,
    };
    let mut definitions = Map::new();
    let choices: Vec<Value> = (tools.iter().filter(callable).enumerate())
        .map(|(index, tool)| call_schema(tool, index, &mut definitions))
        .collect();
    if choices.is_empty() {
        return None;
    }
    let mut schema = json!({"anyOf": choices});
    if !definitions.is_empty() {
        schema["$defs"] = Value::Object(definitions);
    }
    let schema = with_bounds(&schema);
    let more = match parallel {
        true => format!(" (\"\\n\" call){{0,{}}}", CALLS_MAX - 1),
        false => String::new(),
    };
    Some(GrammarSource::Lark(format!(
        "start: call{more}\ncall: \"{OPEN}\\n\" body \"\\n{CLOSE}\"\nbody: %json {schema}\n"
    )))
}

/// The schema of one call. Where the parameters refer to parts of themselves, they are moved to `definitions`, because
/// references begin at the whole schema.
fn call_schema(tool: &Tool, index: usize, definitions: &mut Map<String, Value>) -> Value {
    let mut parameters = arguments_schema(&tool.parameters);
    let name = format!("tool{index}");
    let place = format!("#/$defs/{name}");
    if move_references(&mut parameters, &place, SCHEMA_DEPTH_MAX) {
        definitions.insert(name, parameters);
        parameters = json!({"$ref": place});
    }
    json!({
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": false,
    })
}

/// The schema of a call's arguments: a tool that names none takes none.
fn arguments_schema(parameters: &Value) -> Value {
    let names_none = parameters.as_object().is_none_or(|schema| {
        schema
            .keys()
            .all(|key| matches!(&**key, "type" | "properties"))
            && (schema.get("properties"))
                .is_none_or(|properties| properties.as_object().is_some_and(Map::is_empty))
            && schema.get("type").is_none_or(|kind| kind == "object")
    });
    if names_none {
        return json!({"type": "object", "properties": {}, "additionalProperties": false});
    }
    parameters.clone()
}

/// Has references to a schema itself, or to parts of it, begin at `place`, and says whether there are any.
fn move_references(schema: &mut Value, place: &str, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    let mut found = false;
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                let target = value.as_str().and_then(|text| text.strip_prefix('#'));
                match (&**key, target) {
                    ("$ref", Some(part)) => {
                        *value = json!(format!("{place}{part}"));
                        found = true;
                    }
                    // Values, in which nothing is a schema.
                    ("const" | "enum" | "default" | "examples", _) => {}
                    // Schemas by names, which may be the names of keywords.
                    ("properties" | "patternProperties" | "$defs" | "definitions", _) => {
                        let named = value.as_object_mut().into_iter().flat_map(Map::values_mut);
                        for inner in named {
                            found |= move_references(inner, place, depth);
                        }
                    }
                    _ => found |= move_references(value, place, depth),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                found |= move_references(item, place, depth);
            }
        }
        _ => {}
    }
    found
}

/// A conversation for a template that knows no tools.
pub(crate) fn folded(messages: &[Message], tools: &[Tool]) -> Vec<Message> {
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
