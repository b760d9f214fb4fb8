//! Templates as models have them, and as an enemy would write them.

use super::*;
use hearth_calls::ToolCall;

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
        continue_last: false,
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

/// Doubles `x` forty times, by what stands in `{}`.
fn doubling(step: &str) -> String {
    format!(
        "{{% set ns = namespace(x=['ab']) %}}{{% for i in range(40) %}}{{% set ns.x = {step} %}}\
         {{% endfor %}}{{{{ ns.x | string | length }}}}"
    )
}

#[test]
fn a_value_that_holds_itself_twice_and_twice_again_ends() {
    for step in [
        "[ns.x, ns.x]",
        "{'a': ns.x, 'b': ns.x}",
        "(ns.x, ns.x)",
        "ns.x + ns.x",
        "ns.x * 2",
        "[ns.x] * 2",
        "[ns.x] + [ns.x]",
        "(ns.x | list) + (ns.x | list)",
        "{'a': [ns.x, ns.x]}.items() | list",
        "[ns.x, ns.x] | map('string') | list",
        "[[ns.x, ns.x][::-1], ns.x]",
    ] {
        let found = render(&doubling(step), &[], &[]);
        assert!(found.is_err(), "{step}: {found:?}");
    }
    let straight = format!("{{% set a = [1] %}}{}", "{% set a = [a, a] %}".repeat(60));
    for end in [
        "{{ a }}",
        "{{ a ~ '' }}",
        "{{ '' ~ a }}",
        "{{ a | tojson }}",
        "{{ a | string }}",
        "{{ [a, a] | join }}",
        "{{ a == [a, a] }}",
        "{{ a in [a, a] }}",
        "{{ a != a[0] }}",
        "{{ a < a[0] }}",
        "{{ {a: 1} }}",
        "{{ {'x': 1}[a] }}",
        "{{ a is eq a }}",
        "{{ [a, a] | sort }}",
        "{{ [a, a] | unique }}",
        "{{ [a, a] | max }}",
        "{{ '%s' ~ a }}",
        "{{ a.items }}{{ {'a': a}.items() }}",
        "{{ raise_exception(a ~ '') }}",
    ] {
        assert!(
            render(&format!("{straight}{end}"), &[], &[]).is_err(),
            "{end}"
        );
    }
}

#[test]
fn what_holds_itself_is_refused() {
    for text in [
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}",
        "{% set ns = namespace() %}{% set ns.x = {'a': ns} %}{{ ns | tojson }}",
        "{% set a = namespace() %}{% set b = namespace() %}{% set a.b = b %}{% set b.a = a %}{{ a == b }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x={}) %}{% for i in range(90000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}",
        "{% macro m(x) %}{{ m([x]) }}{% endmacro %}{{ m(1) }}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    ] {
        assert!(render(text, &[], &[]).is_err(), "{text}");
    }
}

#[test]
fn no_filter_or_method_makes_more_than_its_fuel_pays_for() {
    let long = "('ab' * 1000000)";
    for text in [
        format!("{{% for i in range(9999) %}}{{% set a = {long}.upper() %}}{{% endfor %}}"),
        format!("{{% for i in range(9999) %}}{{% set a = {long}.split('a') %}}{{% endfor %}}"),
        format!("{{% for i in range(9999) %}}{{% set a = {long}.replace('a', 'b') %}}{{% endfor %}}"),
        format!("{{% for i in range(9999) %}}{{% set a = {long} | title %}}{{% endfor %}}"),
        format!("{{% for i in range(9999) %}}{{% set a = {long}.strip('b') %}}{{% endfor %}}"),
        format!("{{% for i in range(9999) %}}{{% set a = {long} | tojson %}}{{% endfor %}}"),
        format!("{{% for i in range(9999) %}}{{% set a = 'x' in {long} %}}{{% endfor %}}"),
        format!("{{% for i in range(9999) %}}{{% set a = {long}.find('x') %}}{{% endfor %}}"),
        format!("{{% for i in range(9999) %}}{{% set a = {long}.count('b') %}}{{% endfor %}}"),
        format!("{{% for i in range(9999) %}}{{% set a = {long}[::-1] %}}{{% endfor %}}"),
        format!("{{% for i in range(9999) %}}{{% set a = {long} | indent(8) %}}{{% endfor %}}"),
        format!("{{{{ [{long}] * 1000 }}}}"),
        format!("{{{{ ([{long}] * 1000) | tojson }}}}"),
        format!("{{{{ ([{long}] * 1000) | join(',') }}}}"),
        format!("{{{{ ','.join([{long}] * 1000) }}}}"),
        format!("{{{{ {long}.join(['a'] * 1000) }}}}"),
        format!("{{{{ 'a'.replace('', {long}).replace('', {long}) }}}}"),
        "{{ range(0, 9223372036854775807, 1) | list }}".to_owned(),
        "{{ range(9223372036854775807, -9223372036854775807, -1) | length }}".to_owned(),
        "{{ range(-9223372036854775807, 9223372036854775807, 9223372036854775807) | length }}{{ 1 / 0 }}".to_owned(),
        "{{ range(1, 2, 0) }}".to_owned(),
        "{% set a %}{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}{% endset %}{{ a }}".to_owned(),
        "{{ (['a'] * 100000) * 100000 | length }}".to_owned(),
        "{{ 9 ** 9 ** 9 ** 9 }}".to_owned(),
        "{{ 'a'.title().split(none, 9999999999999999999) }}".to_owned(),
    ] {
        assert!(render(&text, &[], &[]).is_err(), "{text}");
    }
}

#[test]
fn what_templates_do_not_need_is_not_there() {
    for expression in [
        "debug()",
        "'a' | pprint",
        "'%s' | format(1)",
        "[1, 2, 3] | batch(2)",
        "[1, 2, 3] | slice(2)",
        "[1] | zip([2])",
        "[1] | chain([2])",
        "[[1]] | sum",
        "'a' | urlencode",
    ] {
        let found = render(&format!("{{{{ {expression} }}}}"), &[], &[]);
        assert!(found.is_err(), "{expression}");
    }
    for statement in [
        "{% include 'a' %}",
        "{% import 'a' as b %}",
        "{% extends 'a' %}",
    ] {
        assert!(render(statement, &[], &[]).is_err(), "{statement}");
    }
}

#[test]
fn operators_mean_what_they_meant() {
    for (expression, expected) in [
        ("1 + 2 * 3", "7"),
        ("'a' ~ 1 ~ none ~ true", "a1NoneTrue"),
        ("'a' + 'b'", "ab"),
        ("'b' in 'abc' and 'x' not in 'abc'", "True"),
        ("'a' in ['a', 'b'] and 'c' not in {'a': 1}", "True"),
        ("1 < 2 <= 2 != 3", "True"),
        ("[1, 2] == [1, 2] and {'a': 1} != {'a': 2}", "True"),
        ("[1, 2, 3][-1] ~ 'abc'[1:] ~ {'a': 5}['a']", "3bc5"),
        (
            "[{'r': 'a'}, {'r': 'b'}] | selectattr('r', 'equalto', 'b') | list | length",
            "1",
        ),
        ("['a', 'b'] | map('upper') | join('-')", "A-B"),
        ("[1, 2, 3] | select('in', [2, 3]) | list", "[2, 3]"),
        ("'x' if 'a' is eq 'a' else 'y'", "x"),
        (
            "{'b': 1, 'a': {'c': [1, 'é']}} | tojson",
            "{\"a\": {\"c\": [1, \"é\"]}, \"b\": 1}",
        ),
        ("range(3) | list", "[0, 1, 2]"),
        ("range(5, 0, -2) | join(',')", "5,3,1"),
        ("range(0, 5, 2) | join(',')", "0,2,4"),
        ("({'a': 1} | items | list)[0][0]", "a"),
        ("(1, 2)[0]", "1"),
        ("[1] + [2, 3]", "[1, 2, 3]"),
        ("'ab' * 2", "abab"),
        ("('a' or 'b') ~ (none or 'c') ~ ('' and 'd')", "ac"),
        ("['b', 'a'] | sort | first", "a"),
        ("'hello world' | title", "Hello World"),
    ] {
        let found = render(&format!("{{{{ {expression} }}}}"), &[], &[]);
        assert_eq!(found.as_deref(), Ok(expected), "{expression}");
    }
    let text = "{% set ns = namespace(n=0) %}{% for m in [1, 2, 3] if m != 2 %}{% if loop.first %}a\
                {% elif m > 2 and not loop.first %}b{% else %}c{% endif %}{% set ns.n = ns.n + m %}\
                {% if m == 3 %}{% break %}{% endif %}{% else %}d{% endfor %}{{ ns.n }}\
                {% macro f(x, y='z') %}[{{ x }}{{ y }}]{% endmacro %}{{ f(1) }}{{ f(2, y='w') }}\
                {% for i in [] %}e{% else %}g{% endfor %}{% for i in [1, [2]] recursive %}\
                {{ loop(i) if i is iterable else i }}{% endfor %}{% set b %}x{{ 1 }}{% endset %}{{ b }}\
                {% filter upper %}q{% endfilter %}{% macro g() %}<{{ caller() }}>{% endmacro %}\
                {% call g() %}h{% endcall %}";
    assert_eq!(
        render(text, &[], &[]).as_deref(),
        Ok("ab4[1z][2w]g12x1Q<h>")
    );
}

#[test]
fn input_as_deep_and_wide_as_it_may_be_is_written() {
    let mut deep = serde_json::json!(1);
    for _ in 0..60 {
        deep = serde_json::json!({"properties": {"a": deep}});
    }
    let wide: serde_json::Map<_, _> = (0..2_000)
        .map(|i| (format!("k{i}"), serde_json::json!({"type": "string"})))
        .collect();
    for parameters in [deep, serde_json::Value::Object(wide)] {
        let tools = [Tool {
            parameters,
            ..tool()
        }];
        let text = "{% for tool in tools %}{{ tool | tojson(indent=2) }}{{ tool.function.parameters | tojson }}{% endfor %}";
        assert!(render(text, &[], &tools).is_ok());
    }
    let long = message("user", &"some words ".repeat(300_000));
    assert!(render(PLAIN, &[long], &[]).is_ok());
    let many: Vec<Message> = (0..5_000).map(|_| message("user", "hi")).collect();
    assert!(render(PLAIN, &many, &[]).is_ok());
}
