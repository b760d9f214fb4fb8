//! `hearth models import` of files that are no models: a sentence, a next step, and nothing left behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::{Home, finish};

/// More memory than the program needs to refuse a file, and less than any of the files asks for, in KiB.
const MEMORY_KIB: u64 = 2 << 20;
/// A length that no file has.
const ABSURD: u64 = 1 << 60;
/// The types of values in a head.
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// The program under a bound on its memory.
fn bounded(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("ulimit -v {MEMORY_KIB}; exec \"$@\""), "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// The begin of a model file that states these counts.
fn head(tensors: u64, keys: u64) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A head whose only key has a text that is said to have so many bytes.
fn long_text(length: u64) -> Vec<u8> {
    let mut bytes = head(0, 1);
    text(&mut bytes, "general.name");
    bytes.extend(TEXT.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes
}

/// A head whose only key is a list of so many texts.
fn long_list(count: u64) -> Vec<u8> {
    let mut bytes = head(0, 1);
    text(&mut bytes, "tokenizer.ggml.tokens");
    bytes.extend(ARRAY.to_le_bytes());
    bytes.extend(TEXT.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes
}

/// A whole model, without weights worth anything.
fn model() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/gguf/model");
    fs::read(path).unwrap()
}

fn left_behind(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.path().join("models")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".lock")
        .collect()
}

/// Every bad file, and what is said of it.
fn bad_files(folder: &Path) -> Vec<(PathBuf, &'static str)> {
    let mut long_key = head(0, 1);
    long_key.extend(ABSURD.to_le_bytes());
    let whole = model();
    let written = [
        ("empty.gguf", Vec::new(), "no GGUF file"),
        ("words.gguf", b"not a model at all".to_vec(), "no GGUF file"),
        ("magic.gguf", b"GGUF".to_vec(), "cut off"),
        ("tensors.gguf", head(u64::MAX, 0), "tensors, and at most"),
        ("keys.gguf", head(0, u64::MAX), "keys, and at most"),
        ("key.gguf", long_key, "key"),
        ("text.gguf", long_text(ABSURD), "cut off"),
        ("list.gguf", long_list(ABSURD), "cut off"),
        ("half.gguf", whole[..whole.len() / 2].to_vec(), "cut off"),
        ("less.gguf", whole[..whole.len() - 1].to_vec(), "cut off"),
        ("sparse.gguf", long_text(1 << 39), "head of the file"),
    ];
    let mut all = Vec::new();
    for (name, bytes, said) in written {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        all.push((path, said));
    }
    // As long as the text says, without a block on the disk.
    let sparse = File::options().write(true).open(folder.join("sparse.gguf"));
    sparse.unwrap().set_len(1 << 40).unwrap();
    let pipe = folder.join("pipe.gguf");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    all.push((pipe, "is no file"));
    all.push((PathBuf::from("/dev/zero"), "is no file"));
    all.push((folder.to_owned(), "is no file"));
    all.push((folder.join("absent.gguf"), "No such file"));
    all
}

#[test]
fn what_is_no_model_is_refused_with_a_next_step_and_leaves_nothing() {
    let (home, folder) = (Home::new(), tempfile::tempdir().unwrap());
    for (path, said) in bad_files(folder.path()) {
        let file = path.to_str().unwrap();
        let import = ["models", "import", file, "--name", "bad", "--json"];
        let outcome = finish(bounded(&home.command(&import)), "");
        let error = outcome.error(1);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(said), "{file}: {outcome:?}");
        assert_eq!(left_behind(&home), [""; 0], "{file}");
    }
    let empty = folder.path().join("empty.gguf");
    let shown = home.run(&["models", "import", empty.to_str().unwrap()]);
    assert_eq!((shown.code, &*shown.stdout), (1, ""), "{shown:?}");
    let lines: Vec<_> = shown.stderr.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("error: "),
        "{shown:?}"
    );
    assert!(lines[1].contains("GGUF file"), "{shown:?}");
}

#[test]
fn a_model_is_named_after_its_file_unless_it_is_named() {
    let (home, folder) = (Home::new(), tempfile::tempdir().unwrap());
    let file = folder.path().join("Some_Model.Q4_K_M.gguf");
    fs::write(&file, model()).unwrap();
    let file = file.to_str().unwrap();
    let import = |more: &[&str]| home.run(&[&["models", "import", file, "--json"], more].concat());
    assert_eq!(import(&[]).json()["name"], "some-model.q4-k-m");
    assert_eq!(import(&["--name", "other"]).json()["name"], "other");
    let bad = import(&["--name", "../evil"]).error(1);
    let message = bad["message"].as_str().unwrap();
    assert!(message.contains("is no name for a model"), "{bad}");
    let mut left = left_behind(&home);
    left.sort();
    let named = ["other.gguf", "other.json"];
    let after = ["some-model.q4-k-m.gguf", "some-model.q4-k-m.json"];
    assert_eq!(left, [named, after].concat());
}
