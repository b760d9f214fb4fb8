//! A conversation as templates see it: the words of others, in which nothing is markup.

use hearth_calls::Tool;
use serde_json::{Map, Value, json};

use super::{Message, TemplateError};
use crate::vocabulary::markup::{Guard, NoStandIn};

/// The roles that templates know. Others are words like any.
const ROLES: [&str; 7] = [
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
    "ipython",
];
/// What models put around their reasoning.
const REASONING: (&str, &str) = ("<think>", "</think>");

/// Messages and tools whose words cannot become markup.
pub(super) struct Hidden {
    /// The messages.
    pub(super) messages: Vec<Value>,
    /// The tools.
    pub(super) tools: Vec<Value>,
    /// Whether the last message can be left open.
    opens: bool,
}

impl Hidden {
    /// The words of a conversation, for this template.
    pub(super) fn of(
        guard: &mut Guard<'_>,
        messages: &[Message],
        tools: &[Tool],
        template: &str,
    ) -> Result<Self, NoStandIn> {
        let reasons = template.contains("reasoning_content") || template.contains(REASONING.1);
        let last = messages.last();
        let opens = last.is_some_and(|last| last.role == "assistant" && last.tool_calls.is_empty());
        let messages = messages.iter();
        let messages = messages.map(|message| hidden_message(guard, message, reasons));
        let messages = messages.collect::<Result<_, _>>()?;
        let tools = tools.iter().map(|tool| hidden_tool(guard, tool));
        Ok(Self {
            messages,
            tools: tools.collect::<Result<_, _>>()?,
            opens,
        })
    }

    /// Marks the end of the last message, and says with which character.
    pub(super) fn leave_open(&mut self, guard: &mut Guard<'_>) -> Result<char, TemplateError> {
        let last = self.messages.last_mut().filter(|_| self.opens);
        let content = last.and_then(|last| last.get_mut("content"));
        let Some(Value::String(content)) = content else {
            return Err(TemplateError::NotContinued);
        };
        let end = guard.unused()?;
        content.push(end);
        Ok(end)
    }
}

/// A message as templates expect it: what is not there is not defined.
fn hidden_message(
    guard: &mut Guard<'_>,
    message: &Message,
    reasons: bool,
) -> Result<Value, NoStandIn> {
    let role = if ROLES.contains(&&*message.role) {
        message.role.clone()
    } else {
        guard.hide(&message.role)?
    };
    let reasoned = (reasons && message.role == "assistant").then(|| reasoning(&message.content));
    let (reasoning, content) = reasoned.flatten().unwrap_or((None, &*message.content));
    let mut value = json!({"role": role, "content": guard.hide(content)?});
    if let Some(reasoning) = reasoning {
        value["reasoning_content"] = json!(guard.hide(reasoning)?);
    }
    if !message.tool_calls.is_empty() {
        let mut calls = Vec::new();
        for call in &message.tool_calls {
            let name = guard.hide(&call.name)?;
            let arguments = hidden_json(guard, &call.arguments)?;
            let function = json!({"name": name, "arguments": arguments});
            let mut hidden = json!({"type": "function", "function": function});
            if let Some(id) = &call.id {
                hidden["id"] = json!(guard.hide(id)?);
            }
            calls.push(hidden);
        }
        value["tool_calls"] = Value::Array(calls);
    }
    if let Some(name) = &message.name {
        value["name"] = json!(guard.hide(name)?);
    }
    if let Some(id) = &message.tool_call_id {
        value["tool_call_id"] = json!(guard.hide(id)?);
    }
    Ok(value)
}

/// The reasoning that an answer began with, and the rest. Templates look for its marks in the words
/// themselves, which have none any more.
fn reasoning(content: &str) -> Option<(Option<&str>, &str)> {
    let (before, after) = content.split_once(REASONING.1)?;
    let before = before.trim_start();
    let inside = before.strip_prefix(REASONING.0).unwrap_or(before);
    if inside.contains(REASONING.0) {
        return None;
    }
    Some((
        Some(inside.trim_matches('\n')),
        after.trim_start_matches('\n'),
    ))
}

/// A tool as templates expect it.
fn hidden_tool(guard: &mut Guard<'_>, tool: &Tool) -> Result<Value, NoStandIn> {
    let mut function = json!({"name": guard.hide(&tool.name)?});
    if let Some(description) = &tool.description {
        function["description"] = json!(guard.hide(description)?);
    }
    function["parameters"] = hidden_json(guard, &tool.parameters)?;
    Ok(json!({"type": "function", "function": function}))
}

fn hidden_json(guard: &mut Guard<'_>, value: &Value) -> Result<Value, NoStandIn> {
    Ok(match value {
        Value::String(text) => Value::String(guard.hide(text)?),
        Value::Array(items) => {
            let items = items.iter().map(|item| hidden_json(guard, item));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Object(pairs) => {
            let mut hidden = Map::new();
            for (key, item) in pairs {
                hidden.insert(guard.hide(key)?, hidden_json(guard, item)?);
            }
            Value::Object(hidden)
        }
        other => other.clone(),
    })
}
