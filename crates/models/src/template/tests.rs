//! Templates as models have them, and as an enemy would write them.

use super::*;
use crate::tools::ToolCall;

const PLAIN: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
                     message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
                     {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn message(role: &str, content: &str) -> Message {
    Message {
        role: role.to_owned(),
        content: content.to_owned(),
        ..Message::default()
    }
}

fn render(template: &str, messages: &[Message], tools: &[Tool]) -> Result<String, TemplateError> {
    ChatTemplate::new(template, "<s>", "</s>")?.render(&Conversation {
        messages,
        tools,
        add_generation_prompt: true,
        now_s: 1_790_000_000,
    })
}

fn tool() -> Tool {
    Tool {
        name: "look".to_owned(),
        description: Some("Looks <up> & 'down'.".to_owned()),
        parameters: serde_json::json!({"type": "object", "properties": {"z": {}, "a": {}}}),
    }
}

#[test]
fn messages_are_put_in_order() {
    let prompt = render(PLAIN, &[message("user", "Hi <b> & 'x'")], &[]).unwrap();
    let expected = "<|im_start|>user\nHi <b> & 'x'<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(prompt, expected);
}

#[test]
fn a_template_without_tools_tells_them_in_a_system_message() {
    let template = ChatTemplate::new(PLAIN, "", "").unwrap();
    assert_eq!(template.tools_place(), ToolsPlace::SystemMessage);
    let mut calls = message("assistant", "");
    calls.tool_calls = vec![ToolCall {
        id: Some("1".to_owned()),
        name: "look".to_owned(),
        arguments: serde_json::json!({"a": 1}),
    }];
    let messages = [
        message("system", "Be kind."),
        message("user", "Look!"),
        calls,
        message("tool", "found"),
    ];
    let prompt = render(PLAIN, &messages, &[tool()]).unwrap();
    for part in [
        "<|im_start|>system\nBe kind.\n\nYou may call functions",
        "\"name\":\"look\"",
        "<|im_start|>assistant\n<tool_call>\n{\"name\":\"look\",\"arguments\":{\"a\":1}}\n</tool_call>",
        "<|im_start|>user\n<tool_response>\nfound\n</tool_response>",
    ] {
        assert!(prompt.contains(part), "{part}: {prompt}");
    }
}

#[test]
fn a_template_with_tools_gets_them() {
    let text = "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}\
                {{ bos_token }}{{ strftime_now('%d %b %Y') }}";
    let template = ChatTemplate::new(text, "", "").unwrap();
    assert_eq!(template.tools_place(), ToolsPlace::Template);
    let prompt = render(text, &[], &[tool()]).unwrap();
    assert!(
        prompt.contains("\"description\": \"Looks <up> & 'down'.\""),
        "{prompt}"
    );
    assert!(prompt.ends_with("<s>21 Sep 2026"), "{prompt}");
    assert_eq!(render(text, &[], &[]).unwrap(), "<s>21 Sep 2026");
}

#[test]
fn the_methods_of_python_are_there() {
    for (expression, expected) in [
        ("' ab '.strip() + '|'", "ab|"),
        ("'xabx'.strip('x')", "ab"),
        ("'a</think>b'.split('</think>')[-1]", "b"),
        ("'a b  c'.split() | length", "3"),
        ("'a,b,c'.split(',', 1)[1]", "b,c"),
        ("'a,b,c'.rsplit(',', 1)[0]", "a,b"),
        ("'abc'.startswith('ab') and not 'abc'.endswith('x')", "True"),
        ("'user name'.title()", "User Name"),
        ("'uSER'.capitalize() + 'x'.upper() + 'Y'.lower()", "UserXy"),
        ("'aXbX'.replace('X', '-')", "a-b-"),
        ("'üab'.find('b')", "2"),
        ("', '.join(['a', 'b'])", "a, b"),
        ("{'a': 1}.get('b', 'none')", "none"),
        ("{'a': 1}.items() | list | length", "1"),
        ("{'b': 1}.keys() | join", "b"),
    ] {
        let found = render(&format!("{{{{ {expression} }}}}"), &[], &[]);
        assert_eq!(found.as_deref(), Ok(expected), "{expression}");
    }
}

#[test]
fn a_template_says_why_it_refuses() {
    let text = "{{ raise_exception('roles must alternate') }}";
    let refused = TemplateError::Refused("roles must alternate".to_owned());
    assert_eq!(render(text, &[], &[]), Err(refused));
}

#[test]
fn an_enemy_of_a_template_ends() {
    for text in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{% set ns = namespace(x='x') %}{% for a in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set ns = namespace(x='xx') %}{% for a in range(64) %}{% set ns.x = ns.x.replace('x', ns.x) %}{% endfor %}",
        "{{ [[1] * 100000] * 100000 | tojson }}",
        "{{ ('a' * 1000000).split('a') | map('upper') | join('b' * 1000000) }}",
    ] {
        assert!(render(text, &[], &[]).is_err(), "{text}");
    }
    assert!(render(&"{% if 1 %}".repeat(20_000), &[], &[]).is_err());
    assert!(render(&format!("{{{{ {} }}}}", "(".repeat(200_000)), &[], &[]).is_err());
    let long = " ".repeat(TEMPLATE_BYTES_MAX + 1);
    assert_eq!(render(&long, &[], &[]), Err(TemplateError::TooLong));
}
