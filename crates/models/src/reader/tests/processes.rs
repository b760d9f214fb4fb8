//! What a reader may do, and what it is believed.

use std::ffi::OsString;
use std::path::Path;

use super::super::wire::{PREAMBLE, Reply, frame};
use super::{Launcher, Prompts, ReadError, bounded, load, said, sound, until};
use crate::OpenError;
use crate::packed::Packed;
use crate::vocabulary::{Kind, SpecialTokens, VocabularyParts};

#[test]
fn a_reader_has_nothing_of_its_parent() {
    let prompts = load(&sound("{{ messages[0].content }}"));
    let process = prompts.idle()[0];
    let read = |name: &str| std::fs::read(format!("/proc/{process}/{name}")).unwrap();
    let environment = String::from_utf8(read("environ")).unwrap();
    let allowed = [
        "HEARTH_READER",
        "GGML_NO_BACKTRACE",
        "CUDA_VISIBLE_DEVICES",
        "GGML_VK_VISIBLE_DEVICES",
        "LD_LIBRARY_PATH",
    ];
    for variable in environment.split('\0').filter(|one| !one.is_empty()) {
        let (name, _) = variable.split_once('=').unwrap();
        assert!(allowed.contains(&name), "{variable}");
    }
    let place = std::fs::read_link(format!("/proc/{process}/cwd")).unwrap();
    assert_eq!(place, Path::new("/"));
    let limits = String::from_utf8(read("limits")).unwrap();
    for name in ["Max data size", "Max address space", "Max open files"] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(!line.contains("unlimited"), "{line}");
    }
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    assert!(core.unwrap().split_whitespace().any(|word| word == "0"));
    let status = String::from_utf8(read("status")).unwrap();
    // 2 is a filter.
    assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
    assert!(
        status.lines().any(|line| line == "NoNewPrivs:\t1"),
        "{status}"
    );
}

#[test]
fn a_reader_ends_with_whoever_started_it() {
    let prompts = load(&sound("{{ messages[0].content }}"));
    let process = prompts.idle()[0];
    assert!(super::runs(process));
    drop(prompts);
    until("the reader is still there", || !super::runs(process));
}

#[test]
fn a_reader_that_was_killed_is_replaced() {
    let prompts = load(&sound("{{ messages[0].content }}"));
    for _ in 0..3 {
        let before = prompts.idle();
        let id = rustix::process::Pid::from_raw(before[0].cast_signed()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
        until("the reader is still there", || !super::runs(before[0]));
        let ids = prompts.blocking_ids(&said("ab"), 0).unwrap();
        assert_eq!(prompts.vocabulary().decode(&ids), b"ab");
        assert_ne!(prompts.idle(), before);
    }
}

/// A program that says this instead of being a reader, and then reads what it is asked.
pub(super) fn saying(folder: &Path, said: &[u8], then: &str) -> Launcher {
    let path = folder.join("said");
    std::fs::write(&path, said).unwrap();
    let script = format!("cat '{}'; {then}", path.display());
    Launcher {
        program: "/bin/sh".into(),
        arguments: vec![OsString::from("-c"), script.into()],
    }
}

fn parts() -> VocabularyParts {
    VocabularyParts {
        bytes: Packed(b"abc".to_vec()),
        ends: vec![1, 2, 3],
        kinds: vec![Kind::Text; 3],
        special: SpecialTokens::default(),
        template: None,
    }
}

fn opened(parts: VocabularyParts) -> Vec<u8> {
    let reply = Reply::Opened(Ok(Some(parts)));
    [PREAMBLE.to_vec(), frame(&reply, usize::MAX).unwrap()].concat()
}

#[test]
fn what_makes_no_sense_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let file = super::file(&sound("{{ messages[0].content }}"));
    let bent = |bend: fn(&mut VocabularyParts)| {
        let mut parts = parts();
        bend(&mut parts);
        opened(parts)
    };
    let cut = opened(parts());
    let said: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("no preamble", b"x".repeat(100_000)),
        ("a length of 4 GiB", [PREAMBLE, &[255; 4], b"x"].concat()),
        ("a cut frame", cut[..cut.len() - 1].to_vec()),
        (
            "no reply",
            [PREAMBLE, &[3, 0, 0, 0], b"\xff\xff\xff"].concat(),
        ),
        ("another reply", {
            let reply = frame(&Reply::Ids(Ok(vec![1])), usize::MAX).unwrap();
            [PREAMBLE.to_vec(), reply].concat()
        }),
        ("no vocabulary", {
            let reply = frame(&Reply::Opened(Ok(None)), usize::MAX).unwrap();
            [PREAMBLE.to_vec(), reply].concat()
        }),
        ("ends beyond the bytes", bent(|parts| parts.ends[2] = 4)),
        ("ends that go back", bent(|parts| parts.ends[0] = 3)),
        ("a kind too few", bent(|parts| parts.kinds.truncate(2))),
        (
            "an unknown special token",
            bent(|parts| {
                parts.special.end = Some(3);
            }),
        ),
        (
            "a template of 2 MiB",
            bent(|parts| {
                parts.template = Some("x".repeat(2 << 20));
            }),
        ),
        (
            "too many tokens",
            bent(|parts| {
                parts.ends = vec![3; (1 << 20) + 1];
                parts.kinds = vec![Kind::Text; (1 << 20) + 1];
            }),
        ),
    ];
    for (what, said) in said {
        let launcher = saying(folder.path(), &said, "true");
        let loaded = bounded(what, || Prompts::load(&launcher, &file.path));
        let error = loaded.expect_err(what);
        assert!(
            matches!(error, OpenError::Broken { .. } | OpenError::Refused { .. }),
            "{what}: {error}"
        );
    }
}

#[test]
fn a_reader_that_says_too_much_or_nothing_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let file = super::file(&sound("{{ messages[0].content }}"));
    let endless = saying(folder.path(), PREAMBLE, "exec cat /dev/zero");
    let loaded = bounded("no end", || Prompts::load(&endless, &file.path));
    assert!(matches!(loaded, Err(OpenError::Broken { .. })));
    let silent = saying(folder.path(), PREAMBLE, "cat > /dev/null; true");
    let loaded = bounded("silence", || Prompts::load(&silent, &file.path));
    assert!(matches!(loaded, Err(OpenError::Broken { .. })));
    let none = Launcher {
        program: folder.path().join("none"),
        arguments: Vec::new(),
    };
    let loaded = Prompts::load(&none, &file.path);
    assert!(matches!(loaded, Err(OpenError::Reader(_))));
}

#[test]
fn ids_that_are_none_of_the_models_are_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let file = super::file(&sound("{{ messages[0].content }}"));
    for ids in [vec![3], vec![0, u32::MAX]] {
        let reply = frame(&Reply::Ids(Ok(ids)), usize::MAX).unwrap();
        let said = [opened(parts()), reply].concat();
        let launcher = saying(folder.path(), &said, "cat > /dev/null; true");
        let prompts = Prompts::load(&launcher, &file.path).unwrap();
        let read = prompts.blocking_ids(&super::said("a"), 0);
        assert_eq!(read, Err(ReadError::TooMuch));
    }
}
