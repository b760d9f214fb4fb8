//! Tools and forms of answers, as the APIs name them, and the grammars that they make.

use hearth_api::openai::chat::ToolMode;
use hearth_calls::{ForcedTool, forced_call_grammar, with_bounds};
use hearth_protocol::answer::Grammar;
use hearth_protocol::answer::request::GRAMMAR_BYTES_MAX;
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::names::{Names, Schema};
use crate::answers::Tool;

/// The most tools of a question.
pub(super) const TOOLS_MAX: usize = 128;
/// The longest name of a tool, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Whether the model asks for tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    None,
    Auto,
    Required,
    Named(String),
}

/// Where an API has its tools and schemas.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) names: Names,
    /// The field of a tool, by the tool's number: its `name`, or the schema of its `parameters`.
    pub(super) tool: fn(usize, &str) -> String,
    /// The field of all tools.
    pub(super) tools: &'static str,
    /// The field that says whether one is asked for.
    pub(super) choice: &'static str,
}

/// What the tools of a question come to.
#[derive(Debug)]
pub(super) struct Tooling {
    /// Those that the model is told of.
    pub(super) tools: Vec<Tool>,
    pub(super) grammar: Option<Grammar>,
    /// Whether calls are looked for in the answer.
    pub(super) calls: bool,
    /// Whether the first call is the last thing that is said.
    pub(super) one_call: bool,
    /// The schemas that the answer must follow.
    pub(super) schemas: Vec<Schema>,
}

/// Checks the tools and makes the grammar of the answer; `schema` is what text must look like.
pub(super) fn tooling(
    places: &Places,
    tools: Vec<Tool>,
    choice: Choice,
    parallel: bool,
    schema: Option<Value>,
) -> Result<Tooling, Failure> {
    check(places, &tools)?;
    let named = match &choice {
        Choice::Named(name) => Some(name.as_str()),
        _ => None,
    };
    let must_call = matches!(choice, Choice::Required | Choice::Named(_));
    let may_call = choice != Choice::None && !tools.is_empty();
    let schemas = schemas(places, &tools, &choice, schema.as_ref());
    let grammar = if must_call {
        // A named tool is called once.
        let several = parallel && choice == Choice::Required;
        let Some(text) = calls(&tools, named, several) else {
            let Places { tools, choice, .. } = places;
            let message = format!("{choice} asks for a tool that is not in {tools}");
            return Err(Failure::invalid(*choice, message));
        };
        Some(Grammar::Lark(text))
    } else {
        let calls = may_call.then(|| calls(&tools, None, parallel)).flatten();
        schema.map(|schema| match calls {
            Some(calls) => Grammar::Lark(calls_or_json(&calls, &schema)),
            None => Grammar::JsonSchema(schema.to_string()),
        })
    };
    let too_long = |grammar: &Grammar| grammar.text().len() > GRAMMAR_BYTES_MAX;
    if grammar.as_ref().is_some_and(too_long) {
        let param = if must_call {
            places.tools
        } else {
            places.names.form
        };
        let message = format!(
            "the schemas that the answer must follow are longer than {GRAMMAR_BYTES_MAX} bytes; \
             shorten them"
        );
        return Err(Failure::invalid(param, message));
    }
    Ok(Tooling {
        // Who must not call tools need not be told of them.
        tools: if choice == Choice::None {
            Vec::new()
        } else {
            tools
        },
        grammar,
        calls: may_call,
        one_call: !parallel && may_call && !must_call,
        schemas,
    })
}

/// The schemas that the answer must follow, each with its field.
fn schemas(places: &Places, tools: &[Tool], choice: &Choice, form: Option<&Value>) -> Vec<Schema> {
    let of_tool = |(index, tool): (usize, &Tool)| Schema {
        param: (places.tool)(index, "parameters"),
        schema: tool.parameters.clone(),
    };
    let must_follow = |(_, tool): &(usize, &Tool)| match choice {
        Choice::None => false,
        Choice::Auto => form.is_some(),
        Choice::Required => true,
        Choice::Named(name) => tool.name == *name,
    };
    let of_form = form
        .filter(|_| matches!(choice, Choice::None | Choice::Auto))
        .map(|schema| Schema {
            param: places.names.form.to_owned(),
            schema: schema.clone(),
        });
    let of_tools = tools.iter().enumerate().filter(must_follow).map(of_tool);
    of_form.into_iter().chain(of_tools).collect()
}

/// A kind of tool that is not there.
pub(super) fn no_such_kind(param: String, kind: &str) -> Failure {
    let message = format!(
        "Invalid value: '{kind}'. Supported values are: 'function'. What runs on OpenAI's servers is not there; \
         define a function of your own"
    );
    Failure::unsupported(param, message)
}

pub(super) fn of_mode(mode: ToolMode) -> Choice {
    match mode {
        ToolMode::None => Choice::None,
        ToolMode::Auto => Choice::Auto,
        ToolMode::Required => Choice::Required,
    }
}

/// Drops all tools but those that may be asked for.
pub(super) fn only(
    tools: &mut Vec<Tool>,
    allowed: impl Iterator<Item = Option<String>>,
) -> Result<(), Failure> {
    let allowed: Vec<String> = allowed.flatten().collect();
    let unknown = |name: &&String| tools.iter().all(|tool| tool.name != **name);
    if let Some(name) = allowed.iter().find(unknown) {
        let message = format!("tool_choice allows {name:?}, which is not in tools");
        return Err(Failure::invalid("tool_choice", message));
    }
    tools.retain(|tool| allowed.contains(&tool.name));
    Ok(())
}

fn check(places: &Places, tools: &[Tool]) -> Result<(), Failure> {
    if tools.len() > TOOLS_MAX {
        let message = format!("there may be at most {TOOLS_MAX} tools");
        return Err(Failure::invalid(places.tools, message));
    }
    for (index, tool) in tools.iter().enumerate() {
        let sound = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
        let name = &tool.name;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(sound) {
            let message = format!(
                "{name:?} is no name for a tool: use up to {NAME_BYTES_MAX} letters, digits, \
                 underscores and dashes"
            );
            return Err(Failure::invalid((places.tool)(index, "name"), message));
        }
        if tools[..index].iter().any(|other| other.name == *name) {
            let message = format!("two tools are named {name:?}");
            return Err(Failure::invalid((places.tool)(index, "name"), message));
        }
    }
    Ok(())
}

/// The schema of arguments, with what some programs leave out.
pub(super) fn parameters(given: Option<Map<String, Value>>) -> Value {
    match given {
        Some(schema) if !schema.is_empty() => Value::Object(schema),
        _ => json!({ "type": "object", "properties": {} }),
    }
}

/// The grammar of calls, which the model that is asked for them must follow.
fn calls(tools: &[Tool], named: Option<&str>, several: bool) -> Option<String> {
    let tools: Vec<hearth_calls::Tool> = tools
        .iter()
        .map(|tool| hearth_calls::Tool {
            name: tool.name.clone(),
            description: Some(tool.description.clone()),
            parameters: tool.parameters.clone(),
        })
        .collect();
    let forced = named.map_or(ForcedTool::Any, ForcedTool::Named);
    forced_call_grammar(&tools, forced, several)
}

/// The grammar of calls, or of JSON that follows a schema.
fn calls_or_json(calls: &str, schema: &Value) -> String {
    let calls = calls.strip_prefix("start:").unwrap_or(calls);
    let schema = with_bounds(schema);
    format!("start: calls | said\nsaid: %json {schema}\ncalls:{calls}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str) -> Tool {
        Tool {
            name: name.to_owned(),
            description: String::new(),
            parameters: parameters(None),
        }
    }

    const PLACES: Places = Places {
        names: Names::CHAT,
        tool: |index, field| format!("tools[{index}].function.{field}"),
        tools: "tools",
        choice: "tool_choice",
    };

    fn grammar(choice: Choice, parallel: bool, schema: Option<Value>) -> Option<Grammar> {
        let tools = vec![tool("a"), tool("b")];
        tooling(&PLACES, tools, choice, parallel, schema)
            .unwrap()
            .grammar
    }

    #[test]
    fn a_call_that_is_asked_for_follows_its_schema() {
        assert_eq!(grammar(Choice::Auto, true, None), None);
        let required = grammar(Choice::Required, true, None).unwrap();
        assert!(
            required
                .text()
                .starts_with("start: call (\"\\n\" call){0,31}\n")
        );
        assert!(required.text().contains("\"const\":\"a\""));
        assert!(required.text().contains("\"const\":\"b\""));
        let named = grammar(Choice::Named("b".to_owned()), true, None).unwrap();
        assert!(named.text().starts_with("start: call\n"));
        assert!(!named.text().contains("\"const\":\"a\""));
    }

    #[test]
    fn a_schema_leaves_room_for_calls_unless_there_are_none() {
        let schema = json!({ "type": "object" });
        let none = grammar(Choice::None, true, Some(schema.clone())).unwrap();
        assert_eq!(none, Grammar::JsonSchema(schema.to_string()));
        let auto = grammar(Choice::Auto, false, Some(schema)).unwrap();
        assert!(auto.text().starts_with("start: calls | said\n"));
        assert!(auto.text().contains("\ncalls: call\n"), "{}", auto.text());
    }

    #[test]
    fn tools_that_cannot_be_meant_are_named() {
        let param = |tools: Vec<Tool>, choice| {
            let failure = tooling(&PLACES, tools, choice, true, None).unwrap_err();
            failure.openai().error.param.unwrap_or_default()
        };
        let twice = vec![tool("a"), tool("a")];
        assert_eq!(param(twice, Choice::Auto), "tools[1].function.name");
        assert_eq!(
            param(vec![tool("a b")], Choice::Auto),
            "tools[0].function.name"
        );
        let unknown = Choice::Named("x".to_owned());
        assert_eq!(param(vec![tool("a")], unknown), "tool_choice");
        assert_eq!(param(Vec::new(), Choice::Required), "tool_choice");
        let many = (0..=TOOLS_MAX).map(|i| tool(&format!("t{i}"))).collect();
        assert_eq!(param(many, Choice::Auto), "tools");
    }

    #[test]
    fn who_must_not_call_is_not_told_of_tools() {
        let tooling = tooling(&PLACES, vec![tool("a")], Choice::None, true, None).unwrap();
        assert!(tooling.tools.is_empty() && !tooling.calls);
    }
}
