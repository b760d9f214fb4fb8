use std::io::Cursor;

use proptest::prelude::*;

use super::sample::{Sample, array_value, tensor, text, text_value, texts_value, u32_value};
use super::*;

const TOKENS: &str = "tokenizer.ggml.tokens";

fn read(file: &[u8]) -> Result<Header, GgufError> {
    Header::read(Cursor::new(file), file.len() as u64)
}

/// What a user is told about a file.
fn refusal(file: &[u8]) -> String {
    read(file).expect_err("it is refused").to_string()
}

#[test]
fn a_whole_model_says_what_it_is() {
    for version in [2, 3] {
        let sample = Sample {
            version,
            ..Sample::model()
        };
        let header = read(&sample.file()).unwrap();
        assert_eq!(header.version, version);
        assert_eq!(header.architecture, "llama");
        assert_eq!(header.name(), Some("A sample"));
        assert_eq!(header.licence(), Some("apache-2.0"));
        assert_eq!(header.context_tokens(), Some(256));
        assert_eq!(header.embedding_width(), Some(64));
        assert_eq!(header.layers(), Some(2));
        assert_eq!((header.heads(), header.kv_heads()), (Some(4), Some(2)));
        assert_eq!(header.vocabulary(), Some(3));
        assert_eq!(header.parameters, 64 * 3 + 64);
        assert_eq!(header.quantisation(), "Q4_1");
        assert_eq!(header.chat_template(), Some("{{ messages }}"));
        assert_eq!(header.tokenizer(), Some("gpt2"));
        assert_eq!(header.head_bytes, sample.head().len() as u64);
        // Two layers, two heads of 16 numbers, keys and values, two bytes each.
        assert_eq!(header.kv_bytes_per_token(), Some(2 * 2 * 32 * 2));
    }
}

#[test]
fn the_head_alone_is_enough() {
    let sample = Sample::model();
    let (head, file) = (sample.head(), sample.file());
    let alone = Header::read(Cursor::new(&head), file.len() as u64).unwrap();
    assert_eq!(alone, read(&file).unwrap());
}

#[test]
fn a_file_that_does_not_state_its_type_is_named_after_most_of_its_bytes() {
    let sample = Sample::model().without("general.file_type");
    assert_eq!(read(&sample.file()).unwrap().quantisation(), "F32");
}

#[test]
fn another_alignment_is_kept() {
    let mut sample = Sample::model().with("general.alignment", u32_value(64));
    sample.alignment = 64;
    let header = read(&sample.file()).unwrap();
    assert_eq!(header.alignment, 64);
    assert!(header.head_bytes.is_multiple_of(64));
}

#[test]
fn a_vocabulary_without_tensors_is_read_to_its_end() {
    let mut sample = Sample::model();
    sample.tensors.clear();
    sample.data.clear();
    sample.alignment = 1;
    let header = read(&sample.file()).unwrap();
    assert_eq!(header.head_bytes, header.file_bytes);
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let file = Sample::model().file();
    for length in 0..file.len() {
        let message = refusal(&file[..length]);
        let expected = if length < 4 {
            "no GGUF file"
        } else {
            "cut off"
        };
        assert!(message.contains(expected), "{length}: {message}");
    }
}

/// A bent head, and a part of what its user is told.
type Case = (Sample, &'static str);

fn refused(cases: Vec<Case>) {
    for (sample, expected) in cases {
        let message = refusal(&sample.file());
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

/// The model with one key set anew.
fn key(key: &str, value: Vec<u8>, expected: &'static str) -> Case {
    (Sample::model().with(key, value), expected)
}

/// The model with one key set to a number.
fn number(name: &str, value: u32, expected: &'static str) -> Case {
    key(name, u32_value(value), expected)
}

/// The model with one tensor only.
fn one(name: &str, dimensions: &[u64], kind: u32, offset: u64, expected: &'static str) -> Case {
    let mut sample = Sample::model();
    sample.tensors = vec![tensor(name, dimensions, kind, offset)];
    (sample, expected)
}

#[test]
fn a_bent_begin_is_refused() {
    let bent = |bend: fn(&mut Sample), expected| {
        let mut sample = Sample::model();
        bend(&mut sample);
        (sample, expected)
    };
    refused(vec![
        bent(|sample| sample.magic = *b"GGML", "no GGUF file"),
        bent(|sample| sample.version = 1, "version 1"),
        bent(|sample| sample.version = 3 << 24, "little endian"),
        bent(
            |sample| sample.stated.0 = Some(u64::MAX),
            "tensors, and at most",
        ),
        bent(
            |sample| sample.stated.1 = Some(u64::MAX),
            "keys, and at most",
        ),
        bent(|sample| sample.stated.0 = Some(3), "has 0 dimensions"),
    ]);
}

#[test]
fn bent_values_are_refused() {
    let huge = u64::MAX.to_le_bytes();
    refused(vec![
        key("", u32_value(1), "is empty"),
        key("x", 13u32.to_le_bytes().into(), "unknown kind 13"),
        key("x", array_value(13, 1, &[0]), "unknown kind 13"),
        key("x", array_value(9, 1, &[0; 12]), "array of arrays"),
        key("x", array_value(0, u64::MAX, &[]), "cut off"),
        key(
            "x",
            array_value(10, u64::MAX, &[]),
            "more than a head holds",
        ),
        key("x", array_value(8, u64::MAX, &[]), "more than a head holds"),
        key("x", array_value(8, 1, &huge), "cut off"),
        key("x", [&8u32.to_le_bytes()[..], &huge].concat(), "cut off"),
    ]);
}

#[test]
fn a_head_that_would_end_the_engine_is_refused() {
    refused(vec![
        number("general.alignment", 0, "power of two"),
        number("general.alignment", 48, "power of two"),
        number("general.alignment", 1 << 31, "power of two"),
        key("general.alignment", text_value("32"), "power of two"),
        number("general.architecture", 1, "is not a text"),
        key(
            "general.architecture",
            text_value("LL/.."),
            "no name of a kind",
        ),
        (
            Sample::model().without("general.architecture"),
            "no key `general.architecture`",
        ),
        (
            Sample::model().without("llama.block_count"),
            "no key `llama.block_count`",
        ),
        number("llama.block_count", 0, "must be 1 to 512"),
        number("llama.block_count", 513, "must be 1 to 512"),
        number(
            "llama.nextn_predict_layers",
            3,
            "more than there are layers",
        ),
        key(
            "general.architecture",
            text_value("clip"),
            "answers nothing",
        ),
        key("general.type", text_value("adapter"), "without its base"),
        key(
            "llama.rope.scaling.type",
            text_value("away"),
            "no engine knows",
        ),
    ]);
}

#[test]
fn numbers_of_experts_and_of_attention_fit_each_other() {
    refused(vec![
        number("llama.expert_count", 4_096, "at most 1024"),
        number(
            "llama.expert_count",
            8,
            "does not fit the number of experts",
        ),
        number("llama.expert_used_count", 2, "does not fit the number"),
        number("llama.expert_group_count", 2, "does not fit the number"),
        key(
            "llama.expert_used_count",
            array_value(4, 2, &[0, 0, 0, 0, 2, 0, 0, 0]),
            "does not fit the number",
        ),
        key(
            "llama.expert_used_count",
            array_value(5, 2, &[255; 8]),
            "does not fit the number",
        ),
        number(
            "llama.rope.dimension_count",
            18,
            "does not fit the attention",
        ),
        number(
            "llama.rope.dimension_count",
            15,
            "does not fit the attention",
        ),
        number(
            "llama.rope.dimension_count",
            u32::MAX,
            "does not fit the attention",
        ),
        (
            Sample::model()
                .with("llama.attention.key_length", u32_value(8))
                .with("llama.rope.dimension_count", u32_value(16)),
            "does not fit the attention",
        ),
    ]);
}

#[test]
fn a_bent_vocabulary_is_refused() {
    let no_text = [&8u32.to_le_bytes()[..], &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]].concat();
    let scores = array_value(6, 2, &[0; 8]);
    let types = array_value(0, 3, &[0; 3]);
    refused(vec![
        number(TOKENS, 1, "no list of texts"),
        key(TOKENS, texts_value(&["a", "a"]), "has token 1 twice"),
        key(TOKENS, texts_value(&["[EMPTY_1]", ""]), "has token 1 twice"),
        key(
            "tokenizer.ggml.scores",
            scores,
            "does not fit the vocabulary",
        ),
        key(
            "tokenizer.ggml.token_type",
            types,
            "does not fit the vocabulary",
        ),
        key("tokenizer.chat_template", no_text, "no text"),
    ]);
}

#[test]
fn tokenizers_that_nobody_knows_are_refused() {
    let model = |name: &str| key("tokenizer.ggml.model", text_value(name), "only gpt2");
    let mut cases: Vec<Case> = [
        "none",
        "no_vocab",
        "test",
        "rwkv",
        "t5",
        "plamo2",
        "hybriddna",
        "whitespace",
        "GPT2",
        "",
    ]
    .iter()
    .map(|name| model(name))
    .collect();
    for pre in ["whitespace", "no-such", "GPT-2", "\u{0}"] {
        cases.push(key("tokenizer.ggml.pre", text_value(pre), "does not know"));
    }
    cases.push((Sample::model().without("tokenizer.ggml.model"), "no key"));
    cases.push((Sample::model().without("tokenizer.ggml.tokens"), "no key"));
    cases.push((Sample::model().without("tokenizer.ggml.merges"), "no key"));
    cases.push(number("tokenizer.ggml.model", 1, "no short text"));
    cases.push(number("tokenizer.ggml.pre", 1, "no short text"));
    refused(cases);
}

/// What each token is.
fn types(kinds: &[i32]) -> Vec<u8> {
    let bytes: Vec<u8> = kinds.iter().flat_map(|kind| kind.to_le_bytes()).collect();
    array_value(5, kinds.len() as u64, &bytes)
}

#[test]
fn vocabularies_that_llama_cpp_would_not_survive_are_refused() {
    let long = "a".repeat(vocabulary::TOKEN_BYTES_MAX + 1);
    let strange: Vec<String> = (0..40)
        .map(|number| format!("{number}{}", " ".repeat(2_000)))
        .collect();
    let strange: Vec<&str> = strange.iter().map(|token| &**token).collect();
    let strange = Sample::model()
        .without("tokenizer.ggml.token_type")
        .with(TOKENS, texts_value(&strange));
    let no_score = [0.0f32, f32::NAN, 1.0].map(f32::to_le_bytes).concat();
    let kinds = "tokenizer.ggml.token_type";
    refused(vec![
        key(TOKENS, texts_value(&[]), "is empty"),
        key(TOKENS, texts_value(&["a", "b", &long]), "more than"),
        (strange, "more text than any"),
        key(kinds, types(&[1, 1, 99]), "kind of token"),
        key(kinds, types(&[1, -1, 1]), "kind of token"),
        key(
            "tokenizer.ggml.scores",
            array_value(6, 3, &no_score),
            "no number for token 1",
        ),
        // Words of characters without a token for each byte.
        key("tokenizer.ggml.model", text_value("llama"), "for the byte"),
        // Nothing stands for a word that is not known.
        key("tokenizer.ggml.model", text_value("bert"), "no key"),
    ]);
    let bytes = Sample::model()
        .with("tokenizer.ggml.model", text_value("bert"))
        .with("tokenizer.ggml.unknown_token_id", u32_value(0))
        .with(kinds, types(&[1, 6, 1]));
    assert!(refusal(&bytes.file()).contains("tokens for bytes"));
}

#[test]
fn merges_and_special_tokens_are_of_the_vocabulary() {
    let merges = "tokenizer.ggml.merges";
    let outside = "no token of the vocabulary";
    refused(vec![
        key(merges, texts_value(&["a b", "ab"]), "at 1"),
        key(merges, texts_value(&[""]), "at 0"),
        key(merges, texts_value(&["a "]), "at 0"),
        key(merges, texts_value(&[" a"]), "at 0"),
        key(merges, u32_value(1), "no list of texts"),
        key(merges, array_value(4, 1, &[0; 4]), "no list of texts"),
        number("tokenizer.ggml.eos_token_id", 3, outside),
        number("tokenizer.ggml.bos_token_id", u32::MAX, outside),
        key("tokenizer.ggml.unknown_token_id", text_value("a"), outside),
    ]);
}

#[test]
fn a_vocabulary_of_characters_has_all_bytes() {
    let mut tokens: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let model = |tokens: &[String]| {
        let texts: Vec<&str> = tokens.iter().map(|token| &**token).collect();
        Sample::model()
            .without("tokenizer.ggml.token_type")
            .with("tokenizer.ggml.model", text_value("llama"))
            .with(TOKENS, texts_value(&texts))
            .file()
    };
    assert!(read(&model(&tokens)).is_ok());
    tokens[0x41] = "A".to_owned();
    assert!(read(&model(&tokens)).is_ok());
    tokens[0x41] = "<0x4a>".to_owned();
    assert!(refusal(&model(&tokens)).contains("the byte 65"));
}

#[test]
fn bent_tensors_are_refused() {
    refused(vec![
        one("t", &[], 0, 0, "has 0 dimensions"),
        one("t", &[1; 5], 0, 0, "has 5 dimensions"),
        one("t", &[4, 0], 0, 0, "dimension of zero"),
        one("t", &[u64::MAX; 4], 0, 0, "more elements than"),
        one("t", &[1 << 62], 0, 0, "more bytes than"),
        one("t", &[1 << 61], 0, 0, "more bytes than"),
        one("t", &[1 << 40], 0, 0, "the tensors end at"),
        one("t", &[33], 3, 0, "no whole number of blocks"),
        one("t", &[32], 4, 0, "unknown type 4"),
        one("t", &[32], u32::MAX, 0, "unknown type"),
        one("t", &[4], 0, 32, "must follow each other"),
        one("t", &[4], 0, u64::MAX, "must follow each other"),
        one(&"t".repeat(64), &[4], 0, 0, "longer than 63 bytes"),
    ]);
}

#[test]
fn keys_and_tensors_are_there_once() {
    let mut sample = Sample::model();
    let first = sample.keys[0].clone();
    sample.keys.push(first);
    assert!(refusal(&sample.file()).contains("`general.architecture` is there twice"));
    let mut sample = Sample::model();
    sample.tensors[1] = tensor("token_embd.weight", &[64], 0, 128);
    assert!(refusal(&sample.file()).contains("`token_embd.weight` is there twice"));
}

#[test]
fn tensors_that_overlap_are_refused() {
    let mut sample = Sample::model();
    sample.tensors[1] = tensor("output_norm.weight", &[64], 0, 96);
    assert!(refusal(&sample.file()).contains("lies at 96 instead of 128"));
}

#[test]
fn a_long_text_is_passed_over_and_a_long_template_refused() {
    let long = "x".repeat(TEXT_BYTES_MAX as usize + 1);
    let sample = Sample::model().with("tokenizer.huggingface.json", text_value(&long));
    let header = read(&sample.file()).unwrap();
    assert_eq!(
        header.value("tokenizer.huggingface.json"),
        Some(&Value::Unread)
    );
    let sample = Sample::model().with("tokenizer.chat_template", text_value(&long));
    assert!(refusal(&sample.file()).contains("too long"));
}

#[test]
fn what_is_kept_of_a_file_is_bounded() {
    let mut sample = Sample::model();
    let long = text_value(&"x".repeat(TEXT_BYTES_MAX as usize));
    for index in 0..17 {
        sample = sample.with(&format!("long.{index}"), long.clone());
    }
    assert!(refusal(&sample.file()).contains("keys and texts"));
}

/// A file without end, which is the same byte over and over after a given begin.
struct Endless<'a> {
    begin: &'a [u8],
    taken: u64,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.taken += buffer.len() as u64;
        let begin = self.begin.len().min(buffer.len());
        buffer[..begin].copy_from_slice(&self.begin[..begin]);
        buffer[begin..].fill(0);
        self.begin = &self.begin[begin..];
        Ok(buffer.len())
    }
}

#[test]
fn no_more_than_a_head_is_ever_read() {
    let mut sample = Sample::model();
    sample.stated = (None, Some(KEYS_MAX));
    sample.tensors.clear();
    for kind in [0u32, 8] {
        let mut begin = sample.head();
        begin.extend(text("endless"));
        begin.extend(array_value(kind, HEAD_BYTES_MAX / 8 - 1_024, &[]));
        let mut source = Endless {
            begin: &begin,
            taken: 0,
        };
        let outcome = Header::read(&mut source, FILE_BYTES_MAX);
        assert!(outcome.is_err());
        assert!(
            source.taken <= HEAD_BYTES_MAX + (64 << 10),
            "{} bytes",
            source.taken
        );
    }
}

#[test]
#[ignore = "needs outside programs"]
fn the_model_for_tests_is_read() {
    let path = std::env::var_os("HEARTH_TEST_MODEL").expect("HEARTH_TEST_MODEL names its file");
    let header = Header::of_file(Path::new(&path)).unwrap();
    assert_eq!(header.architecture, "llama");
    assert_eq!(header.quantisation(), "Q4_1");
    assert_eq!(header.parameters, 134_515_008);
    assert_eq!(header.vocabulary(), Some(49_152));
    assert_eq!(header.context_tokens(), Some(8_192));
    assert_eq!(header.licence(), Some("apache-2.0"));
    assert_eq!(header.head_bytes, 1_785_664 / 32 * 32);
    assert!(header.chat_template().unwrap().contains("<|im_start|>"));
}

proptest! {
    #[test]
    fn random_bytes_are_refused_in_peace(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert!(read(&bytes).is_err());
        let begun = [b"GGUF\x03\0\0\0".to_vec(), bytes].concat();
        prop_assert!(read(&begun).is_err());
    }

    #[test]
    fn a_changed_model_is_read_or_refused_in_peace(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        file_bytes in prop_oneof![Just(None), any::<u64>().prop_map(Some)],
    ) {
        let mut file = Sample::model().file();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let file_bytes = file_bytes.unwrap_or(file.len() as u64);
        if let Ok(header) = Header::read(Cursor::new(&file), file_bytes) {
            prop_assert!(header.head_bytes <= header.file_bytes);
            let data: u64 = header.tensors.iter().map(Tensor::bytes).sum();
            prop_assert!(header.head_bytes + data <= header.file_bytes);
        }
    }
}
