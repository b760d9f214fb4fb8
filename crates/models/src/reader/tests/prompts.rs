//! Templates and texts of strangers.

use super::{
    HOUSEHOLD, Prompts, STRANGER, bounded, chat, file, is_to_blame, launcher, load, said, sound,
};
use crate::gguf::sample::text_value;
use crate::prompt::PromptInput;
use crate::vocabulary::made_up::MadeUp;

#[test]
fn a_prompt_is_read_by_another_process() {
    let prompts = load(&sound("<|turn|>{{ messages[0].content }}<|end|>"));
    let vocabulary = prompts.vocabulary();
    let text = "Grüße, 🦔 ab\n";
    let ids = prompts.blocking_ids(&said(text), 0).unwrap();
    assert_eq!(vocabulary.decode(&ids), text.as_bytes());
    assert!(ids.contains(&256), "the merge was not used: {ids:?}");
    let ids = prompts.blocking_ids(&chat("ab"), 0).unwrap();
    assert_eq!(ids, [258, 256, 257]);
    assert!(vocabulary.is_end_of_text(257));
    let unknown = prompts.blocking_ids(&PromptInput::Ids(vec![1, 259]), 0);
    assert!(is_to_blame(&unknown.unwrap_err()));
    let known = prompts.blocking_ids(&PromptInput::Ids(vec![1, 258]), 0);
    assert_eq!(known.unwrap(), [1, 258]);
}

#[test]
fn one_process_reads_many_prompts() {
    let prompts = load(&sound("<|turn|>{{ messages[0].content }}<|end|>"));
    let process = prompts.idle();
    let started = std::time::Instant::now();
    for count in 0..2_000 {
        let ids = prompts.blocking_ids(&chat("ab"), 0);
        assert_eq!(ids.as_deref(), Ok(&[258, 256, 257][..]), "after {count}");
    }
    println!("{:?} for each", started.elapsed() / 2_000);
    assert_eq!(prompts.idle(), process);
}

/// Templates that double, repeat, nest and build, through what templates can call.
fn hostile_templates() -> Vec<String> {
    let doubling = |step: &str| {
        format!(
            "{{% set ns = namespace(x='abcdefgh') %}}{{% for i in range(60) %}}{{% set ns.x = {step} %}}\
             {{% endfor %}}{{{{ ns.x }}}}"
        )
    };
    let mut templates: Vec<String> = [
        "ns.x ~ ns.x",
        "ns.x + ns.x",
        "ns.x * 2",
        "(ns.x ~ ns.x) | tojson",
        "[ns.x, ns.x] | join",
        "[ns.x, ns.x] | tojson",
        "ns.x | replace('a', ns.x)",
        "ns.x.replace('a', ns.x)",
        "(ns.x ~ ns.x) | upper",
        "(ns.x ~ ns.x) | indent(9)",
        "(ns.x ~ ns.x).strip()",
        "ns.x.join([ns.x, ns.x])",
        "[ns.x, ns.x]",
        "{'a': ns.x, 'b': ns.x}",
        "{'a': ns.x, 'b': ns.x}.items() | list",
        "((ns.x ~ ns.x) | list) | join",
        "(ns.x ~ ns.x).split('a') | join('aa')",
        "ns.x | format(ns.x) ~ ns.x",
    ]
    .map(doubling)
    .into();
    templates.extend(
        [
            "{% for a in range(100000) %}{% for b in range(100000) %}{{ a }}{% endfor %}{% endfor %}",
            "{{ range(100000) | list | tojson }}{{ range(100000) | list | tojson }}",
            "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
            "{{ 'x' * 100000000000 }}",
            "{{ '%1000000000d' | format(1) }}",
            "{{ (range(99999) | list) | batch(1) | list | tojson }}",
            "{{ 'x' | indent(1000000000) }}",
        ]
        .map(str::to_owned),
    );
    templates
}

#[test]
fn a_template_that_takes_too_much_harms_nobody_else() {
    let other = load(&sound("{{ messages[0].content }}"));
    for template in hostile_templates() {
        let file = file(&sound(&template));
        let Ok(prompts) = Prompts::load(&launcher(), &file.path) else {
            continue;
        };
        let read = bounded(&template, || {
            std::thread::scope(|scope| {
                let read = scope.spawn(|| prompts.blocking_ids(&chat("hello"), 0));
                let ids = other.blocking_ids(&chat("ab"), 0).unwrap();
                assert_eq!(ids, [256]);
                read.join().unwrap()
            })
        });
        if let Err(error) = read {
            assert!(is_to_blame(&error), "{template}: {error}");
        }
    }
}

#[test]
fn a_text_that_takes_too_much_harms_nobody_else() {
    let other = load(&sound("{{ messages[0].content }}"));
    for pre in [
        "gpt-2",
        "gpt-4o",
        "deepseek-v3",
        "tekken",
        "llama-bpe",
        "qwen2",
        "deepseek-llm",
    ] {
        let sample = sound("{{ messages[0].content }}").with("tokenizer.ggml.pre", text_value(pre));
        let prompts = load(&sample);
        for unit in [
            "a", "A", "é", "1", " ", "\n", "!", "'", "漢", "\u{301}", "aA", "ab ", "\0",
        ] {
            for count in [8_000, 100_000] {
                let what = format!("{count} times {unit:?} with {pre}");
                let text = unit.repeat(count);
                let read = bounded(&what, || {
                    let read = prompts.blocking_ids(&said(&*text), 0);
                    let ids = other.blocking_ids(&chat("ab"), 0).unwrap();
                    assert_eq!(ids, [256]);
                    read
                });
                match read {
                    Ok(ids) => {
                        assert_eq!(prompts.vocabulary().decode(&ids), text.as_bytes(), "{what}")
                    }
                    Err(error) => assert!(is_to_blame(&error), "{what}: {error}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn who_leaves_takes_the_work_along() {
    let template = "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}\
                    {% endfor %}{% endfor %}{% endfor %}";
    let prompts = load(&sound(template));
    let process = prompts.idle()[0];
    let asking = tokio::time::timeout(
        std::time::Duration::from_millis(1),
        prompts.ids(HOUSEHOLD, chat("hello"), 0),
    );
    // Fuel may have ended it before; then the process lives on, for whoever asks next.
    if asking.await.is_err() {
        super::until("the process goes on with it", || {
            !super::runs(process) || prompts.idle().contains(&process)
        });
    }
}

#[tokio::test]
async fn the_household_does_not_wait_for_readings_of_strangers() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(&sound("{{ messages[0].content }}"));
    // This reader opens the file, and then never answers a prompt.
    let said = super::processes::opened(super::processes::parts());
    let launcher = super::processes::saying(folder.path(), &said, "cat > /dev/null; true");
    let prompts = Prompts::load(&launcher, &file.path).unwrap();
    let ask = |asker| {
        let prompts = prompts.clone();
        tokio::spawn(async move { prompts.ids(asker, super::said("a"), 0).await })
    };
    let strangers: Vec<_> = (0..8).map(|_| ask(STRANGER)).collect();
    let at_work = |count| {
        let prompts = prompts.clone();
        tokio::task::spawn_blocking(move || {
            super::until("readers at work", || prompts.at_work() == count);
        })
    };
    at_work(2).await.unwrap();
    let household = ask(HOUSEHOLD);
    at_work(3).await.unwrap();
    household.abort();
    strangers.iter().for_each(tokio::task::JoinHandle::abort);
    at_work(0).await.unwrap();
}

/// Markup, sizes and searches through what templates can call, beyond doubling.
#[test]
fn a_template_that_counts_without_end_harms_nobody_else() {
    let hostile = [
        "{% set ns = namespace(l=[1]) %}{% for i in range(64) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l | length }}",
        "{% set ns = namespace(l=[[]]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l={}) %}{% for i in range(99999) %}{% set ns.l = {'a': ns.l, 'b': ns.l} %}{% endfor %}{{ ns.l | tojson }}",
        "{{ ('a' * 9999999) * 9999999 }}",
        "{{ [0] * 10000000000 }}",
        "{{ ([[0] * 9999] * 9999) | tojson }}",
        "{{ '%*d' | format(2000000000, 1) }}",
        "{{ '%s' * 99999 | format('x') }}",
        "{{ range(0, 1000000000000000000) | length }}",
        "{{ range(0, -1000000000000, -1) | list }}",
        "{% for i in range(1000000) %}{% for k in messages %}{{ k.content[::-1] }}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(40) %}{% set ns.s = ns.s[:] ~ ns.s[::-1] %}{% endfor %}{{ ns.s }}",
        "{% macro a() %}{{ caller() }}{% endmacro %}{% macro b() %}{% call a() %}{{ b() }}{% endcall %}{% endmacro %}{{ b() }}",
        "{% for x in range(99) recursive %}{{ loop(range(99)) }}{% endfor %}",
        "{{ ('x' ~ 'y' * 99999) | replace('y', 'z' * 99999) }}",
        "{{ ('a' * 99999) | list | sort | unique | join('b' * 99999) }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ (2 ** 126) * (2 ** 126) * (2 ** 126) }}",
        "{{ 1 // 0 }}{{ 1 % 0 }}",
        "{{ 'a'.ljust(100000000000) }}{{ 'a'.center(100000000000) }}{{ 'a'.zfill(100000000000) }}",
        "{{ ('a' * 99999).split('') | length }}{{ ('a' * 99999).replace('', 'b' * 9999) }}",
        "{{ 'x' | indent(99999999999, true) }}{{ 'x' | center(99999999999) }}",
        "{{ messages | groupby('role') | map('last') | list | tojson(indent=4000000000) }}",
        "{{ strftime_now('%d' * 999999) }}",
        "{{ raise_exception('x' * 100000000) }}",
    ];
    let other = load(&sound("{{ messages[0].content }}"));
    for template in hostile {
        let file = file(&sound(template));
        let Ok(prompts) = Prompts::load(&launcher(), &file.path) else {
            continue;
        };
        let read = bounded(template, || prompts.blocking_ids(&chat("hello"), 0));
        if let Err(error) = read {
            assert!(is_to_blame(&error), "{template}: {error}");
            assert!(error.to_string().len() < 2_000, "{template}");
        }
        assert_eq!(other.blocking_ids(&chat("ab"), 0).unwrap(), [256]);
    }
}

/// Values that hold themselves again and again, what walks through them, and what the engine of templates offers.
fn hostile_calls() -> Vec<String> {
    let shared = "{% set ns = namespace(l=[1]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}";
    let walks = [
        "ns.l == ns.l",
        "ns.l < ns.l",
        "ns.l | sort",
        "ns.l | unique | list",
        "ns.l | min",
        "ns.l in ns.l",
        "ns.l | list | reverse",
        "ns.l | map('length') | list",
        "ns.l | select('eq', ns.l) | list",
        "{'a': ns.l} == {'a': ns.l}",
        "ns.l | tojson | tojson",
        "ns.l | default(1)",
        "ns.l | first | last",
        "(ns.l ~ ns.l) | urlencode",
    ];
    let mut hostile: Vec<String> = walks
        .iter()
        .map(|walk| format!("{shared}{{{{ {walk} }}}}"))
        .collect();
    hostile.extend(
        [
            "{{ range(10**9) | list }}",
            "{% for i in range(99999) %}{{ range(99999) | list | length }}{% endfor %}",
            "{% macro m(l) %}{{ m(l + [l]) }}{% endmacro %}{{ m([1]) }}",
            "{% macro a(n) %}{% for i in range(n) %}{{ a(n) }}{% endfor %}{% endmacro %}{{ a(9) }}",
            "{% set ns = namespace(s='x') %}{% for m in messages %}{% for c in m.content %}{% set ns.s = ns.s ~ m.content %}{% endfor %}{% endfor %}{{ ns.s }}",
            "{% for c in messages[0].content %}{% for d in messages[0].content %}{{ c ~ d }}{% endfor %}{% endfor %}",
            "{{ messages[0].content | replace('', messages[0].content) }}",
            "{{ messages[0].content.replace(' ', messages[0].content) }}",
            "{{ messages[0].content.join(messages[0].content | list) }}",
            "{{ messages[0].content.strip(messages[0].content) }}",
            "{% for i in range(99999) %}{% set x = messages[0].content | upper | lower | trim | title %}{% endfor %}",
            "{% for i in range(99999) %}{% set x = messages[0].content[i:] %}{% endfor %}",
            "{{ messages[0].content[::-1][::-2][-1000000000000000000:1000000000000000000:1] }}",
            "{{ 'x'[::0] }}{{ messages[::0] }}{{ range(5)[::-9223372036854775808] }}",
            "{{ '{:>1000000000}'.format(1) }}{{ '%1000000000d' % 1 }}",
            "{{ -9223372036854775808 // -1 }}{{ -9223372036854775808 % -1 }}{{ 9223372036854775807 + 1 }}",
            "{{ (-9223372036854775807 - 1) | abs }}{{ 2 ** -1 }}{{ 1e308 * 10 }}{{ 1 % 0.0 }}",
            "{{ 170141183460469231731687303715884105727 * 2 }}{{ 1 if 170141183460469231731687303715884105727 + 1 }}",
            "{% filter upper %}{% for i in range(99999) %}{{ messages[0].content }}{% endfor %}{% endfilter %}",
            "{% include 'x' %}{% extends 'x' %}{% import 'x' as x %}",
            "{% block a %}{{ self.a() }}{% endblock %}",
            "{% set x %}{% for i in range(99999) %}{{ messages[0].content }}{% endfor %}{% endset %}{{ x }}",
            "{{ debug() }}{{ lipsum(n=1000000) }}{{ cycler(1, 2) }}{{ joiner(1) }}{{ dict(a=1) }}",
            "{% for k, v in messages[0] | items %}{% for i in range(99999) %}{{ k ~ v }}{% endfor %}{% endfor %}",
            "{{ messages | map(attribute='content') | join(messages[0].content) | tojson | tojson | tojson | tojson }}",
            "{{ messages[0].content | indent(8, first=true) | indent(8) | wordcount }}",
            "{{ strftime_now(messages[0].content) }}{{ raise_exception(messages[0].content) }}",
            "{{ messages | tojson(indent=-1) }}{{ messages | tojson(separators=messages) }}",
            "{% for a, b in messages %}{{ loop.previtem }}{{ loop.changed(messages) }}{% endfor %}",
        ]
        .map(str::to_owned),
    );
    hostile
}

#[test]
fn a_template_harms_nobody_else_whatever_it_calls() {
    let other = load(&sound("{{ messages[0].content }}"));
    let long = chat(&"hello wörld ".repeat(20_000));
    for template in hostile_calls() {
        let file = file(&sound(&template));
        let Ok(prompts) = Prompts::load(&launcher(), &file.path) else {
            continue;
        };
        let read = bounded(&template, || prompts.blocking_ids(&long, 0));
        if let Err(error) = read {
            assert!(is_to_blame(&error), "{template}: {error}");
            assert!(error.to_string().len() < 2_000, "{template}");
        }
        assert_eq!(other.blocking_ids(&chat("ab"), 0).unwrap(), [256]);
    }
}

/// Runs of each class of characters that tokenizers tell apart, longer than what is matched at once.
fn runs() -> String {
    let most = ["a", "7", " ", "\n", "漢", "\u{301}"].map(|unit| unit.repeat(8_300 / unit.len()));
    let others = [
        "٣",
        "\r\n",
        "\t",
        "\u{a0}",
        "\u{3000}",
        "\u{2028}",
        "한",
        "ᄀ",
        "क्\u{200d}",
        "e\u{301}\u{323}",
        "👨\u{200d}👩\u{200d}👧\u{200d}👦",
        "🇩🇪",
        "\u{fe0f}",
        "\u{202e}",
        "\u{feff}",
        "\0",
        "\u{7f}",
        "\u{fffd}",
        "\u{e000}",
        "\u{10fffd}",
        "İ",
        "ß",
        "'s",
        "_",
        "<|",
        "aA1 ",
        "ﷺ",
        "\\u0000",
        "\"",
    ];
    let others = others.map(|unit| unit.repeat(600 / unit.len()));
    [most.join("x"), others.join("x")].join("x")
}

#[test]
fn runs_of_any_class_harm_nobody_else_with_any_pre_tokenizer() {
    let other = load(&sound("{{ messages[0].content }}"));
    let text = runs();
    for pre in crate::gguf::PRE_TOKENIZERS {
        let sample = sound("{{ messages[0].content }}").with("tokenizer.ggml.pre", text_value(pre));
        let prompts = load(&sample);
        let read = |text: &str| bounded(pre, || prompts.blocking_ids(&chat(text), 0));
        let shown = |ids: &[u32]| prompts.vocabulary().decode(ids);
        // Some are made for characters instead of bytes, and this vocabulary has bytes.
        let is_of_bytes = shown(&read("a 漢").unwrap()) == "a 漢".as_bytes();
        match read(&text) {
            Ok(ids) => assert!(!is_of_bytes || shown(&ids) == text.as_bytes(), "{pre}"),
            Err(error) => assert!(is_to_blame(&error), "{pre}: {error}"),
        }
        assert_eq!(other.blocking_ids(&chat("ab"), 0).unwrap(), [256]);
    }
}

#[test]
fn runs_of_any_class_harm_nobody_else_with_merges_of_characters() {
    let sample = MadeUp::spm().template("{{ messages[0].content }}").sample();
    let prompts = load(&sample);
    let runs = runs();
    let long = |unit: &str| unit.repeat(1_000_000 / unit.len());
    for text in [
        &*runs,
        &long("a"),
        &long("漢"),
        &long("\u{301}"),
        &long("he"),
    ] {
        let what: String = text.chars().take(9).collect();
        for input in [chat(text), said(text)] {
            match bounded(&what, || prompts.blocking_ids(&input, 0)) {
                Ok(ids) => {
                    let shown = String::from_utf8(prompts.vocabulary().decode(&ids)).unwrap();
                    assert!(shown.trim_start() == text.trim_start(), "{what}");
                }
                Err(error) => assert!(is_to_blame(&error), "{what}: {error}"),
            }
        }
    }
}
