//! Vocabularies for tests, made up of single characters and of the special tokens of a family of models.

use std::io::Write;

use super::Encoder;
use crate::gguf::sample::{Sample, array_value, text_value, texts_value, u32_value};

/// A token that only its name makes.
pub(crate) const CONTROL: u32 = 3;
/// A token that llama.cpp finds in every text.
pub(crate) const USER_DEFINED: u32 = 4;
const NORMAL: u32 = 1;
const UNKNOWN: u32 = 2;
const BYTE: u32 = 6;

/// The character that stands for a byte in merges of bytes.
pub(crate) fn letter(byte: u8) -> char {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if plain(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|byte| !plain(*byte)).count();
    char::from_u32(256 + before as u32).expect("a letter of Latin Extended-A")
}

/// A vocabulary as a file has it.
#[derive(Debug, Clone)]
pub(crate) struct MadeUp {
    tokens: Vec<(String, u32)>,
    merges: Vec<String>,
    model: &'static str,
    pre: &'static str,
    template: Option<String>,
}

impl MadeUp {
    /// Merges of bytes, behind a pre-tokenizer.
    pub(crate) fn bpe(pre: &'static str) -> Self {
        let mut tokens: Vec<(String, u32)> = (0..=255)
            .map(|byte| (letter(byte).to_string(), NORMAL))
            .collect();
        tokens.push(("he".to_owned(), NORMAL));
        Self {
            tokens,
            merges: vec!["h e".to_owned()],
            model: "gpt2",
            pre,
            template: None,
        }
    }

    /// Merges of characters by score.
    pub(crate) fn spm() -> Self {
        let mut tokens = vec![("<unk>".to_owned(), UNKNOWN)];
        tokens.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), BYTE)));
        tokens.extend((b'!'..=b'~').map(|byte| (char::from(byte).to_string(), NORMAL)));
        tokens.extend(["▁", "▁h", "▁he", "he"].map(|text| (text.to_owned(), NORMAL)));
        Self {
            tokens,
            merges: Vec::new(),
            model: "llama",
            pre: "default",
            template: None,
        }
    }

    pub(crate) fn with(mut self, kind: u32, names: &[&str]) -> Self {
        self.tokens
            .extend(names.iter().map(|name| ((*name).to_owned(), kind)));
        self
    }

    pub(crate) fn merging(mut self, merges: &[&str]) -> Self {
        self.merges
            .extend(merges.iter().map(|merge| (*merge).to_owned()));
        self
    }

    pub(crate) fn template(mut self, template: &str) -> Self {
        self.template = Some(template.to_owned());
        self
    }

    /// The file.
    pub(crate) fn sample(&self) -> Sample {
        let names: Vec<&str> = self.tokens.iter().map(|(name, _)| &**name).collect();
        let kinds: Vec<u8> = (self.tokens.iter())
            .flat_map(|(_, kind)| kind.to_le_bytes())
            .collect();
        let scores: Vec<u8> = (self.tokens.iter())
            .flat_map(|(name, _)| (name.len() as f32).to_le_bytes())
            .collect();
        let count = names.len() as u64;
        let mut sample = Sample::model()
            .without("tokenizer.chat_template")
            .with("tokenizer.ggml.model", text_value(self.model))
            .with("tokenizer.ggml.pre", text_value(self.pre))
            .with("tokenizer.ggml.tokens", texts_value(&names))
            .with("tokenizer.ggml.token_type", array_value(5, count, &kinds))
            .with("tokenizer.ggml.scores", array_value(6, count, &scores))
            .with("tokenizer.ggml.bos_token_id", u32_value(0))
            .with("tokenizer.ggml.eos_token_id", u32_value(0));
        if self.model == "gpt2" {
            let merges: Vec<&str> = self.merges.iter().map(|merge| &**merge).collect();
            sample = sample.with("tokenizer.ggml.merges", texts_value(&merges));
        }
        if let Some(template) = &self.template {
            sample = sample.with("tokenizer.chat_template", text_value(template));
        }
        sample.tensors.clear();
        sample.data.clear();
        sample
    }

    /// The vocabulary and its encoder, as llama.cpp loads them.
    pub(crate) fn load(&self) -> Encoder {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&self.sample().file()).unwrap();
        Encoder::load(file.path()).unwrap()
    }
}
