//! `hearth data`: datasets of text, and what is said of files that are none.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::program::{Home, Outcome};

/// Verses that differ.
fn verses(count: u32) -> String {
    let verse =
        |n: u32| format!("{{\"verse\":\"The fire of house {n} burns low, and {n} sit by it.\"}}\n");
    (0..count).map(verse).collect()
}

fn import(home: &Home, file: &Path, out: &Path, more: &[&str]) -> Outcome {
    let (file, out) = (file.to_str().unwrap(), out.to_str().unwrap());
    let usual = [
        "data",
        "import",
        file,
        "--name",
        "verses",
        "--license",
        "CC0-1.0",
        "--out",
        out,
    ];
    home.run(&[&usual[..], more].concat())
}

#[test]
fn text_becomes_a_dataset_that_is_shown_verified_and_missed_when_damaged() {
    let (home, folder) = (Home::new(), tempfile::tempdir().unwrap());
    let (file, out) = (
        folder.path().join("verses.jsonl"),
        folder.path().join("out"),
    );
    fs::write(&file, verses(400)).unwrap();
    let source = "https://example.org/verses";
    let more = [
        "--jsonl-field",
        "verse",
        "--source",
        source,
        "--vocabulary",
        "300",
        "--json",
    ];
    let made = import(&home, &file, &out, &more).json();
    assert_eq!(
        (&made["license"], &made["source"]),
        (&"CC0-1.0".into(), &source.into())
    );
    let documents = |part: &str| made[part]["documents"].as_u64().unwrap();
    assert_eq!(documents("training") + documents("held_out"), 400);
    assert!(documents("held_out") > 0, "{made}");

    let out = out.to_str().unwrap();
    let shown = home.run(&["data", "show", out, "--json"]).json();
    let verified = home.run(&["data", "verify", out, "--json"]).json();
    assert_eq!((&shown["id"], &verified["id"]), (&made["id"], &made["id"]));
    assert_eq!(
        (&shown["verified"], &verified["verified"]),
        (&Value::Bool(false), &Value::Bool(true))
    );
    let page = home.run(&["data", "show", out]);
    assert!(
        page.stdout.contains("CC0-1.0") && page.stdout.contains("held out"),
        "{page:?}"
    );
    assert!(!home.path().exists(), "a dataset needs no data folder");

    let again = import(&home, &file, Path::new(out), &["--json"]);
    assert_eq!(again.error_code(1), "exists");
    let shard = fs::read_dir(Path::new(out).join("shards")).unwrap().next();
    let shard = shard.unwrap().unwrap().path();
    let mut bytes = fs::read(&shard).unwrap();
    bytes[3] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let error = home.run(&["data", "verify", out, "--json"]).error(1);
    assert_eq!(error["code"], "damaged");
    let named = error["message"]
        .as_str()
        .unwrap()
        .contains(shard.to_str().unwrap());
    assert!(named, "{error}");
}

#[test]
fn what_cannot_be_imported_is_named_with_a_next_step_and_leaves_nothing() {
    let (home, folder) = (Home::new(), tempfile::tempdir().unwrap());
    let out = folder.path().join("out");
    let cases: [(&str, &[u8], &str, &str); 7] = [
        ("latin.txt", b"good\ncaf\xe9\n", "not_text", "line 2"),
        ("nul.txt", b"\0", "not_text", "line 1"),
        (
            "half.jsonl",
            b"{\"text\":\"\\ud800\"}",
            "bad_json_line",
            "line 1",
        ),
        (
            "field.jsonl",
            b"{\"body\":\"a\"}",
            "bad_json_line",
            "\"text\"",
        ),
        ("rows.parquet", b"PAR1", "bad_file", "Parquet"),
        ("empty.txt", b"", "no_text", "no text"),
        ("good.txt", b"good", "", ""),
    ];
    for (name, bytes, code, said) in cases {
        let file = folder.path().join(name);
        fs::write(&file, bytes).unwrap();
        if code.is_empty() {
            continue;
        }
        let error = import(&home, &file, &out, &["--json"]).error(1);
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].as_str().unwrap().contains(said), "{error}");
        assert!(!out.exists(), "{name}");
    }
    let good = folder.path().join("good.txt");
    let absent = folder.path().join("absent");
    let absent = absent.to_str().unwrap();
    for (more, code) in [
        (["--source", "file:///etc/passwd"], "bad_label"),
        (["--vocabulary", "256"], "bad_tokenizer"),
        (["--tokenizer", absent], "bad_tokenizer"),
        (["--tokenizer", good.to_str().unwrap()], "bad_tokenizer"),
    ] {
        let outcome = import(&home, &good, &out, &[&more[..], &["--json"]].concat());
        assert_eq!(outcome.error_code(1), code, "{outcome:?}");
    }
    assert_eq!(
        home.run(&["data", "show", absent, "--json"]).error_code(1),
        "not_readable"
    );
    let out_name = out.to_str().unwrap();
    let unlicensed = [
        "data",
        "import",
        good.to_str().unwrap(),
        "--name",
        "verses",
        "--license",
        "all rights reserved",
        "--out",
        out_name,
        "--json",
    ];
    let error = home.run(&unlicensed).error(1);
    assert_eq!(error["code"], "bad_license");
    assert!(error["next"].as_str().unwrap().contains("CC0-1.0"));
    assert!(!out.exists());
    let unlabelled = home.run(&["data", "import", absent, "--out", absent, "--json"]);
    assert_eq!(unlabelled.error_code(2), "usage");
}
