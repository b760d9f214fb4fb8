//! What strangers wrote, read by this test program as a reader.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Launcher, Prompts, ReadError, is_reader};
use crate::asker::Asker;
use crate::gguf::sample::{Sample, array_value, text_value, texts_value, u32_value};
use crate::prompt::PromptInput;
use crate::reading::serve;
use crate::template::Message;

mod grammars;
mod heads;
mod processes;
mod prompts;
mod schemas;
mod trials;

/// A program of the household.
pub(super) const HOUSEHOLD: Asker = Asker::Household { name: 1 };
/// Somebody else.
pub(super) const STRANGER: Asker = Asker::Stranger { site: 2, device: 2 };
/// How long whoever asks may wait for an answer or an error.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// By how much the memory of this process may grow in a test, in bytes; readers have their own.
const GROWTH_MAX: u64 = 256 << 20;

/// Not a test: what a process does that was started by [`launcher`].
#[test]
fn serves_as_a_reader() {
    if is_reader() {
        serve();
        std::process::exit(0);
    }
}

/// This test program, as a reader. With one thread, or it says after a minute that a test is slow.
pub(super) fn launcher() -> Launcher {
    let name = "reader::tests::serves_as_a_reader";
    let arguments = ["--exact", name, "--nocapture", "--test-threads=1"];
    Launcher::this_program(arguments).unwrap()
}

/// A sound model of 256 bytes, a merge, and the control tokens `<|end|>` and `<|turn|>`.
pub(super) fn sound(template: &str) -> Sample {
    let mut words: Vec<String> = (0..=255_u8).map(word_of_byte).collect();
    words.extend(["ab", "<|end|>", "<|turn|>"].map(str::to_owned));
    let kinds = (0..words.len()).map(|id| if id < 257 { 1_i32 } else { 3 });
    let kinds: Vec<u8> = kinds.flat_map(i32::to_le_bytes).collect();
    let count = words.len() as u64;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Sample::model()
        .with("tokenizer.ggml.model", text_value("gpt2"))
        .with("tokenizer.ggml.pre", text_value("gpt-2"))
        .with("tokenizer.ggml.tokens", texts_value(&words))
        .with("tokenizer.ggml.token_type", array_value(5, count, &kinds))
        .with("tokenizer.ggml.merges", texts_value(&["a b"]))
        .with("tokenizer.ggml.bos_token_id", u32_value(257))
        .with("tokenizer.ggml.eos_token_id", u32_value(257))
        .with("tokenizer.chat_template", text_value(template))
}

/// How tokenizers of this kind write a byte: a letter of its own for each.
fn word_of_byte(byte: u8) -> String {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let letter = if plain(byte) {
        u32::from(byte)
    } else {
        256 + (0..byte).filter(|before| !plain(*before)).count() as u32
    };
    char::from_u32(letter).unwrap().to_string()
}

/// A file with these bytes, which is there as long as the folder.
pub(super) struct ModelFile {
    pub(super) path: PathBuf,
    _folder: tempfile::TempDir,
}

pub(super) fn file(sample: &Sample) -> ModelFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, sample.file()).unwrap();
    ModelFile {
        path,
        _folder: folder,
    }
}

/// A model that is read, and its file, which further readers open.
pub(super) struct Loaded {
    prompts: Prompts,
    _file: ModelFile,
}

impl std::ops::Deref for Loaded {
    type Target = Prompts;

    fn deref(&self) -> &Prompts {
        &self.prompts
    }
}

pub(super) fn load(sample: &Sample) -> Loaded {
    let file = file(sample);
    let prompts = Prompts::load(&launcher(), &file.path).unwrap();
    Loaded {
        prompts,
        _file: file,
    }
}

pub(super) fn said(text: impl Into<String>) -> PromptInput {
    PromptInput::Text {
        text: text.into(),
        special: false,
    }
}

pub(super) fn chat(content: &str) -> PromptInput {
    PromptInput::Chat {
        messages: vec![Message {
            role: "user".to_owned(),
            content: content.to_owned(),
            ..Message::default()
        }],
        tools: Vec::new(),
        continue_last: false,
    }
}

/// The bytes of this process that are in memory.
pub(super) fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0_u64) * 1_024
}

/// What came of something, which neither took too long nor took memory of this process.
pub(super) fn bounded<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let (before, started) = (memory_bytes(), Instant::now());
    let done = work();
    let took = started.elapsed();
    assert!(took < ANSWER_MAX, "{what} took {took:?}");
    let growth = memory_bytes().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "{what} took {growth} bytes");
    done
}

/// Whether a process is there and is not a dead one that nobody has asked about yet.
pub(super) fn runs(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
    state.is_some_and(|state| !state.starts_with('Z'))
}

/// Waits until something holds, and fails where it does not within the time of an answer.
pub(super) fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < ANSWER_MAX, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether an error says that the asker's prompt took too much, and not that others are to blame.
pub(super) fn is_to_blame(error: &ReadError) -> bool {
    matches!(
        error,
        ReadError::Prompt(_) | ReadError::TooMuch | ReadError::TooSlow
    )
}
