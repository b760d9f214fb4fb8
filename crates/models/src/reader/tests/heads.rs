//! Heads of model files that break what reads them, or ask for too much.

use super::{Prompts, bounded, file, launcher, load, said, sound};
use crate::OpenError;
use crate::gguf::sample::{Sample, array_value, text_value, texts_value, u32_value};

fn list_i32(values: &[i32]) -> Vec<u8> {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    array_value(5, values.len() as u64, &bytes)
}

fn list_f32(values: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    array_value(6, values.len() as u64, &bytes)
}

fn hostile_tokenizers() -> Vec<(&'static str, Sample)> {
    let sound = || sound("{{ messages[0].content }}");
    let spm = |words: &[&str]| {
        sound()
            .without("tokenizer.ggml.merges")
            .with("tokenizer.ggml.model", text_value("llama"))
            .with("tokenizer.ggml.tokens", texts_value(words))
            .with("tokenizer.ggml.scores", list_f32(&vec![0.0; words.len()]))
            .with("tokenizer.ggml.token_type", list_i32(&vec![1; words.len()]))
            .with("tokenizer.ggml.bos_token_id", u32_value(0))
            .with("tokenizer.ggml.eos_token_id", u32_value(1))
    };
    let kind = |name: &str| sound().with("tokenizer.ggml.model", text_value(name));
    vec![
        ("no token list", sound().without("tokenizer.ggml.tokens")),
        ("no tokenizer", kind("none")),
        (
            "no tokenizer and no tokens",
            kind("none").without("tokenizer.ggml.tokens"),
        ),
        (
            "SPM without byte tokens",
            spm(&["<s>", "</s>", "<unk>", "a"]),
        ),
        (
            "SPM without scores",
            spm(&["<s>", "</s>", "<unk>", "a"]).without("tokenizer.ggml.scores"),
        ),
        ("an unknown tokenizer", kind("stranger")),
        ("a tokenizer without its data", kind("bert")),
        ("a tokenizer of another kind", kind("t5")),
        ("a charsmap that lies", {
            kind("t5")
                .with("tokenizer.ggml.scores", list_f32(&[0.0; 259]))
                .with(
                    "tokenizer.ggml.precompiled_charsmap",
                    array_value(0, 8, &[255; 8]),
                )
        }),
        ("rwkv", kind("rwkv")),
        ("plamo2", kind("plamo2")),
    ]
}

fn hostile_lists() -> Vec<(&'static str, Sample)> {
    let sound = || sound("{{ messages[0].content }}");
    vec![
        ("no merges", sound().without("tokenizer.ggml.merges")),
        ("merges of nothing", {
            sound().with(
                "tokenizer.ggml.merges",
                texts_value(&["", " ", "a", "a b c", "  "]),
            )
        }),
        (
            "merges that are numbers",
            sound().with("tokenizer.ggml.merges", list_i32(&[1, 2])),
        ),
        (
            "tokens that are numbers",
            sound().with("tokenizer.ggml.tokens", list_i32(&[1, 2])),
        ),
        ("token types out of range", {
            sound().with("tokenizer.ggml.token_type", list_i32(&[i32::MAX; 259]))
        }),
        (
            "too few token types",
            sound().with("tokenizer.ggml.token_type", list_i32(&[1])),
        ),
        (
            "a beginning out of range",
            sound().with("tokenizer.ggml.bos_token_id", u32_value(9_999)),
        ),
        (
            "an end out of range",
            sound().with("tokenizer.ggml.eos_token_id", u32_value(u32::MAX)),
        ),
        ("the same token again and again", {
            let words = vec!["a"; 259];
            sound().with("tokenizer.ggml.tokens", texts_value(&words))
        }),
        (
            "a pre-tokenizer that is unknown",
            sound().with("tokenizer.ggml.pre", text_value("stranger")),
        ),
    ]
}

fn hostile_texts_and_counts() -> Vec<(&'static str, Sample)> {
    let sound = || sound("{{ messages[0].content }}");
    vec![
        ("a template that is not one", {
            sound().with("tokenizer.chat_template", text_value("{% for %}"))
        }),
        ("a template that nests", {
            let deep = format!(
                "{}1{}",
                "{% if 1 %}".repeat(20_000),
                "{% endif %}".repeat(20_000)
            );
            sound().with("tokenizer.chat_template", text_value(&deep))
        }),
        ("an expression that nests", {
            let deep = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
            sound().with("tokenizer.chat_template", text_value(&deep))
        }),
        (
            "more tensors than there are",
            Sample {
                stated: (Some(60_000), None),
                ..sound()
            },
        ),
        (
            "more keys than there are",
            Sample {
                stated: (None, Some(16_000)),
                ..sound()
            },
        ),
    ]
}

/// Numbers and kinds that lie, where llama.cpp reads what our own look at a head passes over.
fn hostile_values() -> Vec<(String, Sample)> {
    let sound = || sound("{{ messages[0].content }}");
    let with =
        |key: &str, value: Vec<u8>| (format!("{key} of {value:?}"), sound().with(key, value));
    let float = |value: f32| [6u32.to_le_bytes(), value.to_le_bytes()].concat();
    let mut heads = Vec::new();
    for key in [
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.layer_norm_rms_epsilon",
        "attention.key_length",
        "attention.sliding_window",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.factor",
        "vocab_size",
    ] {
        for value in [
            u32_value(0),
            u32_value(u32::MAX),
            float(f32::NAN),
            text_value("x"),
            list_i32(&[-1]),
            list_i32(&[7; 3]),
        ] {
            heads.push(with(&format!("llama.{key}"), value));
        }
    }
    for key in [
        "add_bos_token",
        "add_eos_token",
        "add_space_prefix",
        "remove_extra_whitespaces",
        "token_type_count",
        "padding_token_id",
        "seperator_token_id",
        "mask_token_id",
        "fim_pre_token_id",
        "eot_token_id",
        "precompiled_charsmap",
    ] {
        for value in [
            u32_value(u32::MAX),
            float(-1.0),
            text_value("x"),
            list_i32(&[i32::MIN]),
        ] {
            heads.push(with(&format!("tokenizer.ggml.{key}"), value));
        }
    }
    heads
}

/// The same for keys of other kinds.
fn hostile_kinds() -> Vec<(String, Sample)> {
    let sound = || sound("{{ messages[0].content }}");
    let with =
        |key: &str, value: Vec<u8>| (format!("{key} of {value:?}"), sound().with(key, value));
    let mut heads = Vec::new();
    for (key, value) in [
        ("tokenizer.chat_template", list_i32(&[1])),
        (
            "tokenizer.chat_templates",
            texts_value(&["tool_use", "rag"]),
        ),
        ("tokenizer.chat_template.tool_use", u32_value(1)),
        ("general.type", text_value("adapter")),
        ("general.quantization_version", text_value("x")),
        ("general.file_type", text_value("x")),
        ("split.count", u32_value(9)),
        ("split.no", u32_value(u32::MAX)),
        ("split.tensors.count", u32_value(0)),
        (
            "tokenizer.ggml.merges",
            texts_value(&["zz qq", "a b", "a b", "\u{1} \u{2}"]),
        ),
        ("tokenizer.ggml.scores", list_f32(&[f32::INFINITY; 259])),
        ("tokenizer.ggml.token_type", list_i32(&[3; 259])),
        ("tokenizer.ggml.token_type", list_i32(&[4; 259])),
        ("tokenizer.ggml.token_type", list_i32(&[5; 259])),
        ("tokenizer.ggml.token_type", list_i32(&[6; 259])),
    ] {
        heads.push(with(key, value));
    }
    for name in [
        "bert",
        "mamba",
        "rwkv6",
        "t5",
        "gpt2",
        "falcon",
        "deepseek2",
        "gemma3n",
        "qwen3moe",
        "llama4",
        "wavtokenizer-dec",
        "mistral",
        "unknown-to-all",
    ] {
        heads.push(with("general.architecture", text_value(name)));
    }
    heads
}

/// Vocabularies of no token, of one, and of those that every other one is made of.
fn hostile_vocabularies() -> Vec<(String, Sample)> {
    let of = |words: &[&str], model: &str| {
        let count = words.len();
        let sample = sound("{{ messages[0].content }}")
            .with("tokenizer.ggml.model", text_value(model))
            .with("tokenizer.ggml.tokens", texts_value(words))
            .with("tokenizer.ggml.token_type", list_i32(&vec![1; count]))
            .with("tokenizer.ggml.scores", list_f32(&vec![0.0; count]))
            .with("tokenizer.ggml.bos_token_id", u32_value(0))
            .with("tokenizer.ggml.eos_token_id", u32_value(0));
        (format!("{words:?} with {model}"), sample)
    };
    let mut heads = Vec::new();
    for model in ["gpt2", "gemma4", "llama", "bert"] {
        for words in [
            &[][..],
            &[""],
            &["a"],
            &["\0"],
            &["", "\n"],
            &["▁", "##", "[UNK]"],
        ] {
            heads.push(of(words, model));
        }
        let (what, sample) = of(&["a", "b"], model);
        heads.push((
            format!("{what} without ends"),
            sample
                .without("tokenizer.ggml.bos_token_id")
                .without("tokenizer.ggml.eos_token_id"),
        ));
    }
    heads
}

/// Whatever a head says: it is refused with the reason and the next step, or it can be used.
#[test]
fn a_head_that_breaks_its_reader_breaks_nothing_else() {
    let other = load(&sound("{{ messages[0].content }}"));
    let mut heads = hostile_tokenizers();
    heads.extend(hostile_lists());
    heads.extend(hostile_texts_and_counts());
    let heads = heads.into_iter();
    let heads = heads.map(|(what, sample)| (what.to_owned(), sample));
    let heads = heads
        .chain(hostile_values())
        .chain(hostile_kinds())
        .chain(hostile_vocabularies());
    for (what, sample) in heads {
        let file = file(&sample);
        let loaded = bounded(&what, || {
            let loaded = Prompts::load(&launcher(), &file.path);
            assert!(other.blocking_ids(&said("ab"), 0).is_ok());
            loaded
        });
        match loaded {
            Ok(prompts) => {
                let ids = bounded(&what, || prompts.blocking_ids(&said("ab <s> 漢\0"), 0));
                assert!(
                    ids.is_ok() || super::is_to_blame(&ids.unwrap_err()),
                    "{what}"
                );
            }
            Err(error) => {
                let text = error.to_string();
                assert!(
                    matches!(
                        error,
                        OpenError::Refused { .. }
                            | OpenError::Broken { .. }
                            | OpenError::Unreadable { .. }
                    ),
                    "{what}: {text}"
                );
                assert!(text.contains("model.gguf"), "{what}: {text}");
            }
        }
    }
}

/// Bytes of a sound head that were changed, wherever that is.
#[test]
fn a_head_with_changed_bytes_breaks_nothing_else() {
    let head = sound("{{ messages[0].content }}").file();
    let other = load(&sound("{{ messages[0].content }}"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for step in 0..40_usize {
        let mut bytes = head.clone();
        let place = step * bytes.len() / 40;
        bytes[place] ^= 1 << (step % 8);
        bytes[place / 2] = 255;
        std::fs::write(&path, bytes).unwrap();
        let what = format!("bytes {place} and {} changed", place / 2);
        if let Ok(prompts) = bounded(&what, || Prompts::load(&launcher(), &path)) {
            drop(bounded(&what, || prompts.blocking_ids(&said("ab"), 0)));
        }
    }
    assert!(other.blocking_ids(&said("ab"), 0).is_ok());
}
