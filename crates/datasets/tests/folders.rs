//! Datasets on a disk: made from files, read back, and damaged in every way.

#![allow(
    clippy::unwrap_used,
    reason = "what a test helper cannot unwrap, the test cannot go on without"
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hearth_datasets::documents::{DocumentError, LINE_BYTES_MAX};
use hearth_datasets::folder::{Folder, FolderError, MANIFEST_FILE, WhichPart};
use hearth_datasets::hash::{Hash32, SealError};
use hearth_datasets::import::{
    Import, ImportError, Imported, TokenizerChoice, import, is_held_out,
};
use hearth_datasets::manifest::{Label, Manifest, ManifestError, TOKENIZER_FILE, shard_path};
use hearth_datasets::shard::ShardError;
use hearth_datasets::tokenizer::{ByteTokenizer, TokenizerError};
use hearth_datasets::windows::{WindowSeed, draw};
use tempfile::TempDir;

fn label() -> Label {
    Label {
        name: "small".to_owned(),
        description: "A few made-up lines".to_owned(),
        license: "CC0-1.0".to_owned(),
        source: Some("https://example.org/lines".to_owned()),
        citation: None,
    }
}

/// Lines that differ, in several scripts.
fn lines(count: u32) -> String {
    (0..count)
        .map(|n| format!("{{\"id\": {n}, \"text\": \"The hearth of house {n} burns. Straße, 火, 🔥 <|endoftext|>\\n\"}}\n"))
        .collect()
}

struct Made {
    place: TempDir,
    imported: Imported,
}

impl Made {
    fn root(&self) -> PathBuf {
        self.place.path().join("out")
    }

    fn shard(&self, index: usize) -> PathBuf {
        let seal = &self.imported.manifest.training.shards[index];
        self.root().join(shard_path(&seal.blake3))
    }

    fn verify(&self) -> Result<(), FolderError> {
        Folder::open(&self.root())?.verify(&mut |_| {})
    }

    /// Changes the manifest's text, and says what its reader says.
    fn with_manifest(&self, change: impl FnOnce(String) -> String) -> ManifestError {
        let path = self.root().join(MANIFEST_FILE);
        let whole = fs::read_to_string(&path).unwrap();
        let changed = change(whole.clone());
        assert_ne!(changed, whole, "the change changes something");
        Manifest::read(changed.as_bytes()).unwrap_err()
    }
}

fn run(files: &[PathBuf], out: &Path, tokenizer: TokenizerChoice) -> Result<Imported, ImportError> {
    let mut asked = Import::of(files.to_vec(), label(), tokenizer);
    asked.shard_tokens = 1_000;
    asked.held_out_per_mille = 100;
    import(&asked, out, &mut |_| {})
}

fn made() -> Made {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("lines.jsonl");
    fs::write(&file, lines(300)).unwrap();
    let out = place.path().join("out");
    let imported = run(&[file], &out, TokenizerChoice::Train(400)).unwrap();
    Made { place, imported }
}

/// What an import of one file of these bytes says; nothing is left behind.
fn refused(name: &str, bytes: &[u8]) -> ImportError {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join(name);
    fs::write(&file, bytes).unwrap();
    let out = place.path().join("out");
    let error = run(&[file], &out, TokenizerChoice::Train(300)).unwrap_err();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "{error}");
    error
}

#[test]
fn every_document_comes_back_from_the_tokens_in_its_order() {
    let made = made();
    let mut folder = Folder::open_as(&made.root(), made.imported.id).unwrap();
    folder.verify(&mut |_| {}).unwrap();
    let tokenizer = folder.tokenizer().unwrap();
    let end = tokenizer.end_of_text();
    for part in [WhichPart::Training, WhichPart::HeldOut] {
        let tokens = folder.windowed(part, 1).tokens;
        let all: Vec<u32> = (0..tokens - 1)
            .flat_map(|at| folder.window(part, 1, at).unwrap()[..1].to_vec())
            .chain([end])
            .collect();
        let documents: Vec<String> = all
            .split_inclusive(|token| *token == end)
            .map(|document| tokenizer.decode(document).unwrap())
            .collect();
        let expected: Vec<String> = (0..300)
            .map(|n| format!("The hearth of house {n} burns. Straße, 火, 🔥 <|endoftext|>"))
            .filter(|text| is_held_out(text, 100) == (part == WhichPart::HeldOut))
            .collect();
        assert!(expected.len() > 10, "both parts have documents");
        assert_eq!(documents, expected);
    }
}

#[test]
fn the_same_files_give_the_same_dataset() {
    let (one, other) = (made(), made());
    assert_eq!(one.imported, other.imported);
    let loaded = fs::read(one.root().join(TOKENIZER_FILE)).unwrap();
    let again = one.place.path().join("again");
    let file = one.place.path().join("lines.jsonl");
    let imported = run(&[file], &again, TokenizerChoice::Load(loaded)).unwrap();
    assert_eq!(imported, one.imported);
}

#[test]
fn a_window_over_several_shards_is_what_the_tokens_say() {
    let made = made();
    assert!(made.imported.manifest.training.shards.len() > 3);
    let mut folder = Folder::open(&made.root()).unwrap();
    let whole: Vec<u32> = (0..2_600)
        .map(|at| folder.window(WhichPart::Training, 1, at).unwrap()[0])
        .collect();
    let window = folder.window(WhichPart::Training, 1_250, 1).unwrap();
    assert_eq!(window, whole[1_250..=2_500]);
    let windowed = folder.windowed(WhichPart::Training, 64);
    let seed = WindowSeed {
        beacon: [1; 32],
        run: [2; 32],
        trainer: [3; 32],
        round: 4,
    };
    for window in draw(&windowed, &seed, 10).unwrap() {
        let tokens = folder.window(WhichPart::Training, 64, window).unwrap();
        assert_eq!(tokens.len(), 65);
    }
    let there = windowed.count().unwrap();
    let error = folder.window(WhichPart::Training, 64, there).unwrap_err();
    assert!(matches!(error, FolderError::NoWindow { .. }), "{error}");
}

#[test]
fn a_shard_that_is_cut_changed_swapped_or_gone_is_noticed() {
    let made = made();
    let (first, second) = (made.shard(0), made.shard(1));
    let (one, two) = (fs::read(&first).unwrap(), fs::read(&second).unwrap());
    let mut changed = one.clone();
    changed[7] ^= 1;
    let longer = [&one[..], &[0, 0]].concat();
    for damaged in [&one[..one.len() - 1], &[], &changed, &longer, &two] {
        fs::write(&first, damaged).unwrap();
        let error = made.verify().unwrap_err();
        let FolderError::Shard { source, .. } = &error else {
            panic!("{error:?}");
        };
        assert!(matches!(source, ShardError::Seal(_)), "{error:?}");
        let mut folder = Folder::open(&made.root()).unwrap();
        let read = folder.window(WhichPart::Training, 8, 0);
        assert!(matches!(read, Err(FolderError::Shard { .. })), "{read:?}");
        // What does not touch the damaged shard can still be read.
        folder.window(WhichPart::Training, 8, 200).unwrap();
    }
    fs::remove_file(&first).unwrap();
    assert!(matches!(made.verify(), Err(FolderError::Io { .. })));
    symlink(&second, &first).unwrap();
    assert!(matches!(made.verify(), Err(FolderError::NotAFile(_))));
}

#[test]
fn a_tokenizer_of_another_dataset_is_noticed() {
    let made = made();
    let path = made.root().join(TOKENIZER_FILE);
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        whole.replacen("\"version\":\"1.0\"", "\"version\":\"1.1\"", 1),
    )
    .unwrap();
    let error = made.verify().unwrap_err();
    let FolderError::Seal { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(matches!(source, SealError::Blake3 { .. }), "{error:?}");
    let wanted = Hash32([0; 32]);
    let error = Folder::open_as(&made.root(), wanted).unwrap_err();
    assert!(matches!(error, FolderError::OtherDataset { .. }), "{error}");
}

#[test]
fn a_manifest_is_read_in_one_form_only() {
    let made = made();
    let spaced = made.with_manifest(|text| text.replacen(':', ": ", 1));
    assert!(matches!(spaced, ManifestError::NotCanonical), "{spaced:?}");
    for (from, to) in [
        ("urn:hearth:dataset:1#", "urn:other#"),
        ("croissant/1.1", "croissant/1.0"),
        ("\"contentUrl\":\"shards/", "\"contentUrl\":\"../"),
        (
            "\"name\":\"small\"",
            "\"name\":\"small\",\"name\":\"small\"",
        ),
        ("training-00000", "training-00001"),
        ("\"hearth:tokenBytes\":2", "\"hearth:tokenBytes\":4"),
        ("{\"@context\"", "{\"\":0,\"@context\""),
    ] {
        let error = made.with_manifest(|text| text.replacen(from, to, 1));
        assert!(
            matches!(error, ManifestError::NotCanonical),
            "{from}: {error:?}"
        );
    }
    let cut = made.with_manifest(|mut text| {
        text.pop();
        text
    });
    assert!(matches!(cut, ManifestError::Json(_)), "{cut:?}");
}

#[test]
fn a_manifest_with_absurd_numbers_is_refused_before_anything_is_read() {
    let made = made();
    let tokens = made.imported.manifest.training.tokens;
    let number = |name: &str, value: &str| {
        made.with_manifest(|text| {
            let (before, after) = text.split_once(&format!("\"hearth:{name}\":")).unwrap();
            let end = after.find([',', '}']).unwrap();
            format!("{before}\"hearth:{name}\":{value}{}", &after[end..])
        })
    };
    for (name, value) in [
        ("vocabulary", "4294967295"),
        ("vocabulary", "0"),
        ("endOfText", "400000"),
        ("shardTokens", "0"),
        ("shardTokens", "4294967295"),
        ("heldOutPerMille", "1000"),
        ("trainingTokens", "0"),
    ] {
        let error = number(name, value);
        assert!(
            matches!(error, ManifestError::Range { .. }),
            "{name}: {error:?}"
        );
    }
    for (name, value) in [
        ("trainingTokens", "18446744073709551615"),
        ("vocabulary", "1e3"),
        ("vocabulary", "-1"),
        ("vocabulary", "99999999999999999999999"),
    ] {
        let error = number(name, value);
        assert!(
            matches!(error, ManifestError::Field(_)),
            "{name}: {error:?}"
        );
    }
    for value in ["9007199254740992", &(tokens + 1_000).to_string()] {
        let error = number("trainingTokens", value);
        assert!(matches!(error, ManifestError::Shards(_)), "{error:?}");
    }
    let long = Manifest::read(&vec![b' '; 9 << 20]).unwrap_err();
    assert!(matches!(long, ManifestError::Long(_)), "{long:?}");
    let deep = Manifest::read("[".repeat(100_000).as_bytes()).unwrap_err();
    assert!(matches!(deep, ManifestError::Json(_)), "{deep:?}");
}

#[test]
fn a_manifest_and_folders_that_are_links_or_not_there_are_refused() {
    let made = made();
    let path = made.root().join(MANIFEST_FILE);
    let aside = made.place.path().join("aside");
    fs::rename(&path, &aside).unwrap();
    assert!(matches!(made.verify(), Err(FolderError::Io { .. })));
    symlink(&aside, &path).unwrap();
    assert!(matches!(made.verify(), Err(FolderError::NotAFile(_))));
}

#[test]
fn what_is_not_text_is_refused_with_its_line() {
    let at = |error: &ImportError| match error {
        ImportError::Document(DocumentError::NotUtf8 { line, at, .. }) => (*line, *at),
        other => panic!("{other:?}"),
    };
    assert_eq!(at(&refused("a.txt", b"good\nbad \xff\n")), (2, 5));
    // Half of a surrogate pair, written as if it were a letter.
    assert_eq!(at(&refused("a.txt", b"\xed\xa0\x80")), (1, 1));
    assert_eq!(
        at(&refused(
            "a.jsonl",
            b"{\"text\":\"a\"}\n{\"text\":\"\xc3\"}"
        )),
        (2, 10)
    );
    for (name, bytes) in [
        ("a.txt", &b"one\ntwo\0"[..]),
        ("a.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"\\u0000\"}\n"),
    ] {
        let error = refused(name, bytes);
        let nul = matches!(
            &error,
            ImportError::Document(DocumentError::Nul { line: 2, .. })
        );
        assert!(nul, "{error:?}");
    }
    for bytes in ["{\"text\":\"\\ud800\"}", "[]", "{\"text\":", "nothing"] {
        let error = refused("a.jsonl", bytes.as_bytes());
        let json = matches!(
            &error,
            ImportError::Document(DocumentError::Json { line: 1, .. })
        );
        assert!(json, "{error:?}");
    }
    for bytes in ["{}", "{\"text\":1}", "{\"body\":\"a\"}"] {
        let error = refused("a.jsonl", bytes.as_bytes());
        let field = matches!(&error, ImportError::Document(DocumentError::NoField { .. }));
        assert!(field, "{error:?}");
    }
    let error = refused("a.txt", &vec![b'a'; LINE_BYTES_MAX + 1]);
    assert!(matches!(
        error,
        ImportError::Document(DocumentError::LongLine { line: 1, .. })
    ));
    let error = refused("a.parquet", b"PAR1");
    assert!(matches!(
        error,
        ImportError::Document(DocumentError::Parquet(_))
    ));
}

#[test]
fn files_without_text_are_refused() {
    for bytes in ["", "\n \r\n\t\n", "\u{feff}"] {
        let error = refused("a.txt", bytes.as_bytes());
        assert!(matches!(error, ImportError::Empty), "{error:?}");
    }
    assert!(matches!(refused("a.jsonl", b"\n\n"), ImportError::Empty));
}

#[test]
fn a_folder_is_read_in_order_and_its_links_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let inside = place.path().join("in");
    fs::create_dir(&inside).unwrap();
    for (name, text) in [
        ("b.txt", "second"),
        ("a.txt", "\u{feff}first\r\nline\rend\n"),
        ("c.bin", "\0"),
    ] {
        fs::write(inside.join(name), text).unwrap();
    }
    let mut asked = Import::of(vec![inside.clone()], label(), TokenizerChoice::Train(257));
    asked.held_out_per_mille = 0;
    let out = place.path().join("out");
    import(&asked, &out, &mut |_| {}).unwrap();
    let mut folder = Folder::open(&out).unwrap();
    let tokens = folder.windowed(WhichPart::Training, 1).tokens as u32;
    let all = folder.window(WhichPart::Training, tokens - 1, 0).unwrap();
    let text = folder.tokenizer().unwrap().decode(&all).unwrap();
    assert_eq!(text, "first\nline\nendsecond");
    symlink("/etc/passwd", inside.join("d.txt")).unwrap();
    let error = import(&asked, &place.path().join("more"), &mut |_| {}).unwrap_err();
    assert!(
        matches!(error, ImportError::Document(DocumentError::Link(_))),
        "{error:?}"
    );
    let error = import(&asked, &out, &mut |_| {}).unwrap_err();
    assert!(matches!(error, ImportError::Exists(_)), "{error:?}");
    let empty = place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    asked.files = vec![empty];
    let error = import(&asked, &place.path().join("more"), &mut |_| {}).unwrap_err();
    assert!(
        matches!(
            error,
            ImportError::Document(DocumentError::NothingInside(_))
        ),
        "{error:?}"
    );
}

#[test]
fn a_long_text_is_cut_at_blank_lines_so_that_some_of_it_can_be_held_out() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("long.txt");
    let speech = |n: u32| format!("SPEAKER {n}\nWords that speaker {n} says.\n\n");
    let text: String = (0..20_000).map(speech).collect();
    fs::write(&file, &text).unwrap();
    let out = place.path().join("out");
    let asked = Import::of(vec![file], label(), TokenizerChoice::Train(500));
    let manifest = import(&asked, &out, &mut |_| {}).unwrap().manifest;
    let documents = manifest.training.documents + manifest.held_out.documents;
    assert_eq!(
        documents as usize,
        text.len().div_ceil(16 << 10),
        "{manifest:?}"
    );
    Folder::open(&out).unwrap().verify(&mut |_| {}).unwrap();
}

#[test]
fn a_tokenizer_may_lack_bytes_that_hardly_any_text_has_and_refuses_those_that_do() {
    let made = made();
    let mut json = fs::read_to_string(made.root().join(TOKENIZER_FILE)).unwrap();
    // 0x04, 0x1D, 0x7F and 0xF1, which begins characters of planes without any.
    for byte in ['\u{104}', '\u{11d}', '\u{121}', '\u{f1}'] {
        let (is, instead) = (format!("\"{byte}\":"), format!("\"{byte}{byte}{byte}\":"));
        assert!(json.contains(&is), "{byte}");
        json = json.replacen(&is, &instead, 1);
    }
    let file = made.place.path().join("lines.jsonl");
    let out = made.place.path().join("other");
    let choice = || TokenizerChoice::Load(json.clone().into_bytes());
    run(&[file], &out, choice()).unwrap();
    for text in ["a sign\u{4}", "\u{1d}", "one\u{7f} more", "\u{40000}"] {
        let file = made.place.path().join("rare.txt");
        fs::write(&file, text).unwrap();
        let error = run(&[file], &made.place.path().join("none"), choice()).unwrap_err();
        let lossy = matches!(error, ImportError::Tokenizer(TokenizerError::Lossy));
        assert!(lossy, "{text:?}: {error:?}");
    }
}

#[test]
fn a_tokenizer_that_loses_text_or_is_none_is_refused() {
    let made = made();
    let whole = fs::read_to_string(made.root().join(TOKENIZER_FILE)).unwrap();
    let load = |json: String| {
        let file = made.place.path().join("lines.jsonl");
        let out = made.place.path().join("other");
        match run(&[file], &out, TokenizerChoice::Load(json.into_bytes())) {
            Err(ImportError::Tokenizer(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    for (from, to) in [
        (
            "\"normalizer\":null",
            "\"normalizer\":{\"type\":\"Lowercase\"}",
        ),
        ("\"dropout\":null", "\"dropout\":0.5"),
        ("\"type\":\"BPE\"", "\"type\":\"WordPiece\""),
        ("\"add_prefix_space\":false", "\"add_prefix_space\":true"),
        ("\"type\":\"ByteLevel\"", "\"type\":\"Whitespace\""),
        ("\"Ā\":", "\"ĀĀĀĀ\":"),
    ] {
        assert!(whole.contains(from), "{from} is in {whole}");
        let error = load(whole.replacen(from, to, 1));
        assert!(
            matches!(error, TokenizerError::NotByteLevel(_)),
            "{from}: {error:?}"
        );
    }
    let error = load(whole.replace("<|endoftext|>", "<|ende|>"));
    assert!(matches!(error, TokenizerError::NoEnd), "{error:?}");
    for none in ["", "{}", "[1]", "not JSON"] {
        let error = load(none.to_owned());
        let wrong = matches!(
            error,
            TokenizerError::NotATokenizer(_) | TokenizerError::NotByteLevel(_)
        );
        assert!(wrong, "{none}: {error:?}");
    }
    for vocabulary in [0, 256, 65_537, u32::MAX] {
        let file = made.place.path().join("lines.jsonl");
        let out = made.place.path().join("other");
        let error = run(&[file], &out, TokenizerChoice::Train(vocabulary)).unwrap_err();
        let range = matches!(
            error,
            ImportError::Tokenizer(TokenizerError::Vocabulary { .. })
        );
        assert!(range, "{error:?}");
    }
}

#[test]
fn a_tokenizer_without_the_bytes_that_no_text_has_is_taken() {
    let made = made();
    let mut json = fs::read_to_string(made.root().join(TOKENIZER_FILE)).unwrap();
    for missing in ["À", "Á", "õ", "÷", "ÿ"] {
        let (from, to) = (
            format!("\"{missing}\":"),
            format!("\"{missing}{missing}{missing}\":"),
        );
        assert!(json.contains(&from), "{from} is in {json}");
        json = json.replacen(&from, &to, 1);
    }
    let tokenizer = ByteTokenizer::load(json.into_bytes()).unwrap();
    // Every first byte that UTF-8 has, and the characters that stand for the missing ones.
    let text = "À Á õ ÷ ÿ \u{80}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}";
    let mut tokens = Vec::new();
    tokenizer.encode(text, &mut tokens).unwrap();
    assert_eq!(tokens.pop(), Some(tokenizer.end_of_text()));
    assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
}

#[test]
fn a_tokenizer_that_takes_digits_apart_keeps_every_text_too() {
    let made = made();
    let whole = fs::read_to_string(made.root().join(TOKENIZER_FILE)).unwrap();
    let (before, rest) = whole.split_once("\"pre_tokenizer\":{").unwrap();
    let (bytes, after) = rest.split_once('}').unwrap();
    let digits = "{\"type\":\"Digits\",\"individual_digits\":true}";
    let steps = format!("{{\"type\":\"Sequence\",\"pretokenizers\":[{digits},{{{bytes}}}]}}");
    let json = format!("{before}\"pre_tokenizer\":{steps}{after}");
    let tokenizer = ByteTokenizer::load(json.into_bytes()).unwrap();
    let text = "House 1789, Straße 7\n\n  </s> <|endoftext|> 🔥\u{301}";
    let mut tokens = Vec::new();
    tokenizer.encode(text, &mut tokens).unwrap();
    assert_eq!(tokens.pop(), Some(tokenizer.end_of_text()));
    assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
    let plain = ByteTokenizer::load(whole.into_bytes()).unwrap();
    let mut fewer = Vec::new();
    plain.encode(text, &mut fewer).unwrap();
    assert!(fewer.len() <= tokens.len() + 1);
}

#[test]
fn a_tokenizer_that_drops_blanks_beside_a_token_is_noticed_at_the_document() {
    let made = made();
    let whole = fs::read_to_string(made.root().join(TOKENIZER_FILE)).unwrap();
    let vocabulary = made.imported.manifest.tokens.vocabulary;
    let greedy = format!(
        "\"added_tokens\":[{{\"id\":{vocabulary},\"content\":\"hearth\",\"single_word\":false,\"lstrip\":true,\
         \"rstrip\":true,\"normalized\":false,\"special\":false}},"
    );
    let json = whole.replacen("\"added_tokens\":[", &greedy, 1);
    let tokenizer = ByteTokenizer::load(json.into_bytes()).unwrap();
    let mut tokens = Vec::new();
    tokenizer.encode("at home", &mut tokens).unwrap();
    let error = tokenizer
        .encode("the  hearth  burns", &mut tokens)
        .unwrap_err();
    assert!(matches!(error, TokenizerError::Lossy), "{error:?}");
}
