//! The head of a model's file without a model: a vocabulary of bytes, and a chat template.

use std::path::{Path, PathBuf};

/// How tokens are written: a byte's token is the character that stands for it in merges of bytes.
fn letter(byte: u8) -> char {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if plain(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|byte| !plain(*byte)).count();
    char::from_u32(256 + before as u32).unwrap()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn text_value(value: &str) -> Vec<u8> {
    [8_u32.to_le_bytes().to_vec(), text(value)].concat()
}

fn number_value(value: u32) -> Vec<u8> {
    [4_u32.to_le_bytes(), value.to_le_bytes()].concat()
}

fn list_value(kind: u32, count: usize, elements: &[u8]) -> Vec<u8> {
    let mut bytes = 9_u32.to_le_bytes().to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend((count as u64).to_le_bytes());
    bytes.extend(elements);
    bytes
}

/// Writes the head into a folder: the id of a byte is its number, and one token ends a text.
pub(crate) fn write(folder: &Path) -> PathBuf {
    let mut tokens: Vec<String> = (0..=255).map(|byte| letter(byte).to_string()).collect();
    tokens.push("he".to_owned());
    tokens.push("<end>".to_owned());
    let end = tokens.len() as u32 - 1;
    let names: Vec<u8> = tokens.iter().flat_map(|token| text(token)).collect();
    // The last one is a control token.
    let kinds = (0..=end).flat_map(|id| if id == end { 3_u32 } else { 1 }.to_le_bytes());
    let kinds: Vec<u8> = kinds.collect();
    let keys = [
        ("general.architecture", text_value("llama")),
        ("llama.context_length", number_value(2_048)),
        ("llama.embedding_length", number_value(64)),
        ("llama.block_count", number_value(1)),
        ("llama.attention.head_count", number_value(1)),
        ("tokenizer.ggml.model", text_value("gpt2")),
        ("tokenizer.ggml.pre", text_value("gpt-2")),
        ("tokenizer.ggml.tokens", list_value(8, tokens.len(), &names)),
        (
            "tokenizer.ggml.token_type",
            list_value(5, tokens.len(), &kinds),
        ),
        ("tokenizer.ggml.merges", list_value(8, 1, &text("h e"))),
        ("tokenizer.ggml.bos_token_id", number_value(end)),
        ("tokenizer.ggml.eos_token_id", number_value(end)),
        (
            "tokenizer.chat_template",
            text_value("{% for message in messages %}{{ message.content }}\n{% endfor %}"),
        ),
    ];
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        bytes.extend(text(key));
        bytes.extend(value);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let path = folder.join("vocabulary.gguf");
    std::fs::write(&path, bytes).unwrap();
    path
}
