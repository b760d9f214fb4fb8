//! Templates and texts of strangers.

use super::{Prompts, bounded, chat, file, is_to_blame, launcher, load, said, sound};
use crate::gguf::sample::text_value;
use crate::prompt::PromptInput;

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
        prompts.ids(chat("hello"), 0),
    );
    // Fuel may have ended it before; then the process lives on, for whoever asks next.
    if asking.await.is_err() {
        super::until("the process goes on with it", || {
            !super::runs(process) || prompts.idle().contains(&process)
        });
    }
}
