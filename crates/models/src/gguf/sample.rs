//! Small model files for tests: as long as it takes to be a whole one, or wrong in exactly one place.

/// Writes a head piece by piece, so that a test can leave out or bend any piece.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    /// Stated counts, where they are not the real ones.
    pub(crate) stated: (Option<u64>, Option<u64>),
    pub(crate) keys: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<Vec<u8>>,
    pub(crate) alignment: usize,
    /// The bytes of tensor data.
    pub(crate) data: Vec<u8>,
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

pub(crate) fn text_value(value: &str) -> Vec<u8> {
    [8u32.to_le_bytes().to_vec(), text(value)].concat()
}

pub(crate) fn u32_value(value: u32) -> Vec<u8> {
    [4u32.to_le_bytes(), value.to_le_bytes()].concat()
}

pub(crate) fn array_value(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    let mut bytes = 9u32.to_le_bytes().to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(elements);
    bytes
}

pub(crate) fn texts_value(values: &[&str]) -> Vec<u8> {
    let elements: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
    array_value(8, values.len() as u64, &elements)
}

pub(crate) fn tensor(name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((dimensions.len() as u32).to_le_bytes());
    bytes.extend(dimensions.iter().flat_map(|size| size.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

impl Sample {
    /// A model of two tensors with a vocabulary of three tokens.
    pub(crate) fn model() -> Self {
        let keys = [
            ("general.architecture", text_value("llama")),
            ("general.name", text_value("A sample")),
            ("general.license", text_value("apache-2.0")),
            ("general.file_type", u32_value(3)),
            ("llama.context_length", u32_value(256)),
            ("llama.embedding_length", u32_value(64)),
            ("llama.block_count", u32_value(2)),
            ("llama.attention.head_count", u32_value(4)),
            ("llama.attention.head_count_kv", u32_value(2)),
            ("tokenizer.ggml.model", text_value("gpt2")),
            ("tokenizer.ggml.pre", text_value("gpt-2")),
            ("tokenizer.ggml.merges", texts_value(&["a b"])),
            ("tokenizer.ggml.tokens", texts_value(&["a", "b", ""])),
            (
                "tokenizer.ggml.token_type",
                array_value(5, 3, &[1, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0]),
            ),
            ("tokenizer.chat_template", text_value("{{ messages }}")),
        ];
        Self {
            magic: *b"GGUF",
            version: 3,
            stated: (None, None),
            keys: keys.map(|(key, value)| (key.to_owned(), value)).into(),
            tensors: vec![
                tensor("token_embd.weight", &[64, 3], 3, 0),
                tensor("output_norm.weight", &[64], 0, 128),
            ],
            alignment: 32,
            // Six blocks of 20 bytes, rounded up, and 64 numbers of 4 bytes.
            data: vec![7; 128 + 256],
        }
    }

    pub(crate) fn with(mut self, key: &str, value: Vec<u8>) -> Self {
        self.keys.retain(|(present, _)| present != key);
        self.keys.push((key.to_owned(), value));
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(present, _)| present != key);
        self
    }

    pub(crate) fn head(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        let tensors = self.stated.0.unwrap_or(self.tensors.len() as u64);
        let keys = self.stated.1.unwrap_or(self.keys.len() as u64);
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(keys.to_le_bytes());
        for (key, value) in &self.keys {
            bytes.extend(text(key));
            bytes.extend(value);
        }
        bytes.extend(self.tensors.iter().flatten());
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes
    }

    pub(crate) fn file(&self) -> Vec<u8> {
        [self.head(), self.data.clone()].concat()
    }
}
