//! What llama.cpp takes for granted of a vocabulary, and ends the process over where it does not hold.
//!
//! Some of it shows only when a text is encoded: a tokenizer without tokens for single bytes throws through C, and one
//! without any token stops at an assertion. So only kinds of tokenizers are accepted whose needs are known, and their
//! lists are looked at while they are passed over.

use super::{GgufError, Header, Kind, Value};

/// The tokens.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
/// What each token is.
pub(super) const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";
/// How likely each token is.
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
/// Which tokens become one.
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";

/// The longest token, in bytes. The longest of a known model is a run of 512 blanks.
pub(super) const TOKEN_BYTES_MAX: usize = 2_048;
/// The longest token of a tokenizer that tries each length at each place, in bytes.
const TRIED_TOKEN_BYTES_MAX: usize = 256;
/// The most bytes of all tokens.
const TOKENS_BYTES_MAX: u64 = 32 << 20;
/// The longest merge, in bytes: two tokens and a blank.
pub(super) const MERGE_BYTES_MAX: usize = 2 * TOKEN_BYTES_MAX + 1;
/// The most merges.
pub(super) const MERGES_MAX: u64 = 4 << 20;
/// The most tokens that are not plain text.
const SPECIAL_MAX: u64 = 1 << 16;
/// The most bytes that llama.cpp may write about tokens with characters that are none of its alphabet: of each such
/// token it writes the whole text once a character.
const STRANGE_BYTES_MAX: u64 = 64 << 20;
/// The kinds of tokens, as numbers from 0.
const TOKEN_TYPES_KNOWN: usize = 7;
const TYPE_UNKNOWN: usize = 2;
const TYPE_CONTROL: usize = 3;
const TYPE_USER_DEFINED: usize = 4;
const TYPE_BYTE: usize = 6;

/// The tokenizers that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tokenizer {
    /// Merges of bytes.
    Bpe,
    /// Merges of characters, by score, with tokens for single bytes.
    Spm,
    /// The longest known beginning of a word.
    WordPiece,
}

/// The pre-tokenizers that llama.cpp knows and that take every text. `whitespace` is not among them: it stops at an
/// assertion at the first blank.
pub(crate) const PRE_TOKENIZERS: [&str; 92] = [
    "",
    "a.x-4.0",
    "afmoe",
    "bailingmoe",
    "bailingmoe2",
    "bloom",
    "chameleon",
    "chatglm-bpe",
    "codeshell",
    "cohere2moe",
    "command-r",
    "dbrx",
    "deepseek-coder",
    "deepseek-llm",
    "deepseek-r1-qwen",
    "deepseek-v3",
    "default",
    "exaone",
    "exaone-moe",
    "exaone4",
    "f2llmv2",
    "falcon",
    "falcon-h1",
    "falcon3",
    "gemma4",
    "gigachat",
    "glm4",
    "glm5",
    "gpt-2",
    "gpt-4o",
    "gpt3-finnish",
    "granite-docling",
    "granite-embed-multi-311m",
    "granite-embed-multi-97m",
    "grok-2",
    "hunyuan",
    "hunyuan-dense",
    "hy_v4",
    "jais",
    "jais-2",
    "jina-de",
    "jina-es",
    "jina-v1-en",
    "jina-v2-code",
    "jina-v2-de",
    "jina-v2-es",
    "jina-v5-nano",
    "joyai-llm",
    "kanana2",
    "kimi-k2",
    "kormo",
    "laguna",
    "lfm2",
    "llada-moe",
    "llama-bpe",
    "llama-v3",
    "llama3",
    "llama4",
    "megrez",
    "mellum",
    "mellum2",
    "midm-2.0",
    "minerva-7b",
    "minicpm5",
    "minimax-m2",
    "mmbert",
    "modern-bert",
    "mpt",
    "olmo",
    "phi-2",
    "pixtral",
    "poro-chat",
    "qwen2",
    "qwen35",
    "refact",
    "roberta-bpe",
    "sarvam-moe",
    "seed-coder",
    "smaug-bpe",
    "smollm",
    "solar-open",
    "spark2_5",
    "stablelm2",
    "starcoder",
    "superbpe",
    "talkie",
    "tekken",
    "tiny_aya",
    "trillion",
    "ufakzeka",
    "viking",
    "youtu",
];

/// What was seen of the lists while they were passed over.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    longest_token: usize,
    token_bytes: u64,
    /// Which bytes have a token of their own.
    bytes: [bool; 256],
    strange_bytes: u64,
    /// How many tokens there are of each kind; the last counts those of no kind.
    types: [u64; TOKEN_TYPES_KNOWN + 1],
    no_merge: Option<u64>,
    no_score: Option<u64>,
    /// The most experts that a layer uses, where each layer says so itself.
    experts_used: Option<u32>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            longest_token: 0,
            token_bytes: 0,
            bytes: [false; 256],
            strange_bytes: 0,
            types: [0; TOKEN_TYPES_KNOWN + 1],
            no_merge: None,
            no_score: None,
            experts_used: None,
        }
    }
}

impl Facts {
    /// A token, or as much of it as a token may have.
    pub(super) fn saw_token(&mut self, token: &[u8], length: u64) {
        self.longest_token = self
            .longest_token
            .max(usize::try_from(length).unwrap_or(usize::MAX));
        self.token_bytes = self.token_bytes.saturating_add(length);
        if let Some(byte) = own_byte(token) {
            self.bytes[usize::from(byte)] = true;
        }
        if !is_of_alphabet(token) {
            let square = length.saturating_mul(length);
            self.strange_bytes = self.strange_bytes.saturating_add(square);
        }
    }

    /// The kind of a token.
    pub(super) fn saw_type(&mut self, number: i32) {
        let place = usize::try_from(number).unwrap_or(TOKEN_TYPES_KNOWN);
        self.types[place.min(TOKEN_TYPES_KNOWN)] += 1;
    }

    /// The score of a token.
    pub(super) fn saw_score(&mut self, index: u64, score: f32) {
        if score.is_nan() {
            self.no_score.get_or_insert(index);
        }
    }

    /// How many experts a layer uses.
    pub(super) fn saw_experts_used(&mut self, count: u32) {
        self.experts_used = self.experts_used.max(Some(count));
    }

    /// The most experts that a layer uses; nothing where the file has no list of them.
    pub(super) fn experts_used(&self) -> Option<u32> {
        self.experts_used
    }

    /// A merge, or as much of it as a merge may have.
    pub(super) fn saw_merge(&mut self, index: u64, merge: &[u8], length: u64) {
        let blank = merge.iter().skip(1).position(|byte| *byte == b' ');
        // Two tokens, neither of them empty.
        let fine = blank.is_some_and(|blank| blank + 2 < merge.len())
            && usize::try_from(length).is_ok_and(|length| length == merge.len());
        if !fine {
            self.no_merge.get_or_insert(index);
        }
    }
}

/// The byte that a token stands for: `<0x0A>`, or the byte itself.
fn own_byte(token: &[u8]) -> Option<u8> {
    if let [byte] = token {
        return Some(*byte);
    }
    let digits = token.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let upper = |digit: &u8| digit.is_ascii_digit() || (b'A'..=b'F').contains(digit);
    if digits.len() != 2 || !digits.iter().all(upper) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Whether each character of a token stands for a byte, as those of merges of bytes do.
fn is_of_alphabet(token: &[u8]) -> bool {
    let of_alphabet = |c: char| matches!(c, '!'..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{143}');
    std::str::from_utf8(token).is_ok_and(|token| token.chars().all(of_alphabet))
}

/// Refuses a vocabulary that llama.cpp would not survive.
pub(super) fn check(header: &Header, facts: &Facts) -> Result<(), GgufError> {
    let count = match header.value(TOKENS) {
        Some(Value::Array {
            kind: Kind::Text,
            count: 0,
        }) => return Err(GgufError::key(TOKENS, "is empty")),
        Some(Value::Array {
            kind: Kind::Text,
            count,
        }) => *count,
        Some(_) => return Err(GgufError::key(TOKENS, "is no list of texts")),
        None => return Err(GgufError::Missing(TOKENS.to_owned())),
    };
    let tokenizer = tokenizer(header)?;
    check_lists(header, count)?;
    check_tokens(tokenizer, facts)?;
    check_merges(header, tokenizer, facts)?;
    check_special(header, tokenizer, count)
}

fn tokenizer(header: &Header) -> Result<Tokenizer, GgufError> {
    let text = |key: &str| match header.value(key) {
        Some(Value::Text(text)) => Ok(Some(text.clone())),
        None => Ok(None),
        Some(_) => Err(GgufError::key(key, "is no short text")),
    };
    let model = text(MODEL)?.ok_or_else(|| GgufError::Missing(MODEL.to_owned()))?;
    let pre = text(PRE)?.unwrap_or_default();
    let tokenizer = match &*model {
        "gpt2" | "gemma4" => Tokenizer::Bpe,
        "llama" => Tokenizer::Spm,
        "bert" => Tokenizer::WordPiece,
        _ => {
            return Err(GgufError::key(
                MODEL,
                format!(
                    "names the tokenizer {:?}, and only gpt2, gemma4, llama and bert are accepted: choose another model",
                    model.chars().take(40).collect::<String>()
                ),
            ));
        }
    };
    if tokenizer == Tokenizer::Bpe && !PRE_TOKENIZERS.contains(&&*pre) {
        return Err(GgufError::key(
            PRE,
            "names a way to split texts that this engine does not know: choose another file of this model",
        ));
    }
    Ok(tokenizer)
}

/// The lists beside the tokens are read by the index of a token.
fn check_lists(header: &Header, tokens: u64) -> Result<(), GgufError> {
    for (key, kinds) in [
        (SCORES, &[Kind::F32, Kind::I32][..]),
        (TOKEN_TYPES, &[Kind::I32]),
    ] {
        match header.value(key) {
            None => {}
            Some(Value::Array { kind, count }) if kinds.contains(kind) && count >= &tokens => {}
            Some(_) => return Err(GgufError::key(key, "does not fit the vocabulary")),
        }
    }
    Ok(())
}

fn check_tokens(tokenizer: Tokenizer, facts: &Facts) -> Result<(), GgufError> {
    let most = match tokenizer {
        Tokenizer::WordPiece => TRIED_TOKEN_BYTES_MAX,
        Tokenizer::Bpe | Tokenizer::Spm => TOKEN_BYTES_MAX,
    };
    let refuse = |key: &str, problem: String| Err(GgufError::key(key, problem));
    if facts.longest_token > most {
        return refuse(TOKENS, format!("has a token of more than {most} bytes"));
    }
    if facts.token_bytes > TOKENS_BYTES_MAX || facts.strange_bytes > STRANGE_BYTES_MAX {
        return refuse(TOKENS, "has more text than any known vocabulary".to_owned());
    }
    if tokenizer == Tokenizer::Spm
        && let Some(byte) = facts.bytes.iter().position(|there| !there)
    {
        return refuse(TOKENS, format!("has no token for the byte {byte}"));
    }
    let special: u64 = [TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED]
        .iter()
        .map(|place| facts.types[*place])
        .sum();
    if facts.types[TOKEN_TYPES_KNOWN] > 0 {
        return refuse(
            TOKEN_TYPES,
            "has a kind of token that there is not".to_owned(),
        );
    }
    if special > SPECIAL_MAX {
        return refuse(
            TOKEN_TYPES,
            format!("has more than {SPECIAL_MAX} special tokens"),
        );
    }
    if tokenizer == Tokenizer::WordPiece && facts.types[TYPE_BYTE] > 0 {
        return refuse(
            TOKEN_TYPES,
            "has tokens for bytes, which this tokenizer has not".to_owned(),
        );
    }
    match facts.no_score {
        Some(index) => refuse(SCORES, format!("has no number for token {index}")),
        None => Ok(()),
    }
}

fn check_merges(header: &Header, tokenizer: Tokenizer, facts: &Facts) -> Result<(), GgufError> {
    match header.value(MERGES) {
        // One tokenizer does without.
        None if tokenizer != Tokenizer::Bpe || header.value(PRE) == Some(&kimi()) => Ok(()),
        None => Err(GgufError::Missing(MERGES.to_owned())),
        Some(Value::Array {
            kind: Kind::Text, ..
        }) => match facts.no_merge {
            Some(index) => Err(GgufError::key(
                MERGES,
                format!("has a merge that is none, at {index}"),
            )),
            None => Ok(()),
        },
        Some(_) => Err(GgufError::key(MERGES, "is no list of texts")),
    }
}

fn kimi() -> Value {
    Value::Text("kimi-k2".to_owned())
}

/// Tokens with a meaning of their own are among the tokens.
fn check_special(header: &Header, tokenizer: Tokenizer, count: u64) -> Result<(), GgufError> {
    for name in ["bos", "eos", "eot", "eom", "unknown"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match header.value(&key) {
            None => {}
            Some(Value::Unsigned(id)) if *id < count => {}
            Some(_) => return Err(GgufError::key(key, "is no token of the vocabulary")),
        }
    }
    // What this tokenizer makes of a word that it does not know, where the file does not say.
    const WORD_PIECE_UNKNOWN: u64 = 100;
    let unknown = "tokenizer.ggml.unknown_token_id";
    if tokenizer == Tokenizer::WordPiece
        && header.value(unknown).is_none()
        && count <= WORD_PIECE_UNKNOWN
    {
        return Err(GgufError::Missing(unknown.to_owned()));
    }
    Ok(())
}
