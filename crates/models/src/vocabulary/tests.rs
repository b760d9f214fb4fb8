//! Vocabularies that strangers made, and texts that they send.

use super::made_up::{CONTROL, MadeUp, USER_DEFINED};
use super::*;
use crate::gguf::Header;

/// Pre-tokenizers that recurse in one way or another, and those that do not.
const PRE_TOKENIZERS: [&str; 22] = [
    "afmoe",
    "bailingmoe",
    "bloom",
    "chameleon",
    "deepseek-coder",
    "deepseek-llm",
    "deepseek-v3",
    "default",
    "exaone-moe",
    "falcon",
    "gpt-2",
    "gpt-4o",
    "granite-embed-multi-97m",
    "jais-2",
    "kimi-k2",
    "llama-bpe",
    "qwen2",
    "superbpe",
    "tekken",
    "tiny_aya",
    "viking",
    "youtu",
];

#[test]
fn no_run_of_any_kind_overflows_the_stack_of_a_pre_tokenizer() {
    let units = [
        "a", "ACGT", "é", "7", "!", " ", "\n", "漢", "e\u{301}", "а", "a b ", "\t", "'s",
    ];
    for pre in PRE_TOKENIZERS {
        let vocabulary = MadeUp::bpe(pre).load();
        for unit in units {
            let text = unit.repeat(20_000 / unit.len());
            // As deep as the runtime's own threads are.
            let thread = std::thread::Builder::new().stack_size(2 << 20);
            let (vocabulary, sent) = (vocabulary.clone(), text.clone());
            let encoded = thread.spawn(move || {
                let ids = vocabulary.encode(&sent, false).unwrap();
                vocabulary.decode(&ids)
            });
            let found = encoded.unwrap().join().unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), text, "{pre} {unit:?}");
        }
    }
}

#[test]
fn an_honest_file_of_dna_has_ids_and_comes_back() {
    let letters = ["A", "C", "G", "T"];
    let dna: String = (0..100_000u32)
        .map(|place| letters[(place.wrapping_mul(2_654_435_761) >> 30) as usize])
        .collect();
    for pre in ["gpt-4o", "deepseek-v3", "tekken", "qwen2"] {
        let vocabulary = MadeUp::bpe(pre).load();
        let ids = vocabulary.encode(&dna, false).unwrap();
        assert_eq!(vocabulary.decode(&ids), dna.as_bytes(), "{pre}");
    }
    let vocabulary = MadeUp::spm().load();
    let ids = vocabulary.encode(&dna, false).unwrap();
    assert_eq!(vocabulary.decode(&ids), format!(" {dna}").as_bytes());
}

#[test]
fn a_cut_between_words_changes_no_id() {
    let text = "hello there, 123 things; the rest\n".repeat(600);
    for pre in ["gpt-2", "llama-bpe", "qwen2", "gpt-4o", "deepseek-v3"] {
        let vocabulary = MadeUp::bpe(pre).load();
        let whole = plain_ids(&vocabulary.inner.model.vocab(), &text);
        assert_eq!(vocabulary.encode(&text, false).unwrap(), whole, "{pre}");
    }
}

const MARKS: [&str; 4] = ["<|im_start|>", "<|im_end|>", "[INST]", "</s>"];
const FOUND_ANYWAY: [&str; 3] = ["<tool_call>", "</think>", "<｜User｜>"];

#[test]
fn plain_words_never_become_special_tokens() {
    let bpe = MadeUp::bpe("gpt-2");
    for made_up in [bpe, MadeUp::spm()] {
        let made_up = made_up
            .with(CONTROL, &MARKS)
            .with(USER_DEFINED, &FOUND_ANYWAY);
        let vocabulary = made_up.load();
        for name in MARKS.iter().chain(&FOUND_ANYWAY) {
            let parsed = vocabulary.encode(name, true).unwrap();
            assert_eq!(parsed.len(), 1, "{name}");
            for text in [
                (*name).to_owned(),
                format!("a{name}b"),
                name.repeat(3),
                format!(" {name} {name}\n"),
                format!("<{name}>"),
            ] {
                let ids = vocabulary.encode(&text, false).unwrap();
                assert!(!ids.contains(&parsed[0]), "{text}: {ids:?}");
                let shown = String::from_utf8(vocabulary.decode(&ids)).unwrap();
                assert_eq!(shown.trim_start(), text.trim_start());
            }
        }
    }
}

#[test]
fn merges_cannot_make_a_special_token_of_its_parts() {
    let merges = ["< s", "<s >", "i m", "im _"];
    let bpe = MadeUp::bpe("gpt-2").with(1, &["<s", "im", "im_"]);
    let made_up = [bpe.merging(&merges), MadeUp::spm().with(1, &["<s"])];
    for made_up in made_up {
        let vocabulary = made_up.with(CONTROL, &["<s>"]).load();
        let special = vocabulary.encode("<s>", true).unwrap();
        assert_eq!(special.len(), 1);
        for text in ["<s>", "x<s>y<s>", "<s><s>"] {
            let ids = vocabulary.encode(text, false).unwrap();
            assert!(!ids.contains(&special[0]), "{text}: {ids:?}");
            let shown = String::from_utf8(vocabulary.decode(&ids)).unwrap();
            assert_eq!(shown.trim_start(), text);
        }
    }
}

#[test]
fn a_blank_is_put_before_a_text_once() {
    let vocabulary = MadeUp::spm().with(USER_DEFINED, &FOUND_ANYWAY).load();
    let ids = vocabulary.encode("a<tool_call> b</think>c", false).unwrap();
    let shown = String::from_utf8(vocabulary.decode(&ids)).unwrap();
    assert_eq!(shown, " a<tool_call> b</think>c");
}

#[test]
fn harmless_tokens_of_the_user_are_found_in_words() {
    let vocabulary = MadeUp::bpe("gpt-2")
        .with(USER_DEFINED, &["    ", "--"])
        .load();
    let run = vocabulary.encode("    ", true).unwrap();
    assert_eq!(run.len(), 1);
    assert!(
        vocabulary
            .encode("a    b", false)
            .unwrap()
            .contains(&run[0])
    );
}

#[test]
fn a_text_of_nothing_but_marks_ends_in_time() {
    let vocabulary = MadeUp::bpe("gpt-2")
        .with(USER_DEFINED, &FOUND_ANYWAY)
        .load();
    let many = "<tool_call>".repeat(PIECES_MAX + 1);
    assert_eq!(vocabulary.encode(&many, false), Err(EncodeError::TooLong));
    assert_eq!(vocabulary.encode(&many, true), Err(EncodeError::TooLong));
}

#[test]
fn a_made_up_vocabulary_is_one_that_is_accepted() {
    for made_up in [MadeUp::bpe("qwen2"), MadeUp::spm()] {
        let file = made_up.sample().file();
        Header::read(&file[..], file.len() as u64).unwrap();
    }
}
