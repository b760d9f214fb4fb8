//! What a reader may do, and what it is believed.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

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
fn a_reader_that_nobody_asks_gives_its_memory_back() {
    let prompts = load(&sound("{{ messages[0].content }}"));
    let process = prompts.idle()[0];
    let now = Instant::now();
    prompts.end_unasked(now + Duration::from_secs(60));
    assert_eq!(
        prompts.idle(),
        [process],
        "a short pause costs nobody a start"
    );
    prompts.end_unasked(now + Duration::from_secs(3_600));
    assert!(prompts.idle().is_empty());
    until("the reader is still there", || !super::runs(process));
    let ids = prompts.blocking_ids(&said("ab"), 0).unwrap();
    assert_eq!(prompts.vocabulary().decode(&ids), b"ab");
    assert_eq!(prompts.idle().len(), 1);
}

/// What makes a process the node of the test below: the file that it reads a prompt for.
const NODE_VARIABLE: &str = "HEARTH_TEST_NODE_OF";

/// Not a test: what the process does that is killed below.
#[test]
fn serves_as_a_node_that_is_killed() {
    if let Some(path) = std::env::var_os(NODE_VARIABLE) {
        let prompts = Prompts::load(&super::launcher(), Path::new(&path)).unwrap();
        loop {
            drop(prompts.blocking_ids(&super::chat(&"a".repeat(900_000)), 0));
        }
    }
}

/// The readers that a process started.
fn readers_of(node: u32) -> Vec<u32> {
    let children = format!("/proc/{node}/task");
    let threads = std::fs::read_dir(children).into_iter().flatten().flatten();
    let children = threads.map(|thread| thread.path().join("children"));
    let read = children.filter_map(|path| std::fs::read_to_string(path).ok());
    let all: String = read.collect::<Vec<_>>().join(" ");
    all.split_whitespace()
        .filter_map(|id| id.parse().ok())
        .collect()
}

/// How long a process has computed, in ticks of the system's clock.
fn computed_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
    let fields = fields.unwrap_or_default();
    let user = fields
        .split(' ')
        .nth(11)
        .and_then(|ticks| ticks.parse().ok());
    user.unwrap_or(0)
}

#[test]
fn a_reader_dies_with_its_node_while_it_computes() {
    // Takes as long as fuel lasts, again and again.
    let slow = "{% for a in range(99999) %}{% for b in range(99999) %}{{ messages[0].content | length }}\
                {% endfor %}{% endfor %}";
    let file = super::file(&sound(slow));
    let name = "reader::tests::processes::serves_as_a_node_that_is_killed";
    let mut node = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(NODE_VARIABLE, &file.path)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let id = node.id();
    until("no reader computes", || {
        readers_of(id)
            .iter()
            .any(|reader| computed_ticks(*reader) > 20)
    });
    let readers = readers_of(id);
    node.kill().unwrap();
    node.wait().unwrap();
    until("a reader outlives its node", || {
        !readers.iter().any(|reader| super::runs(*reader))
    });
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

pub(super) fn parts() -> VocabularyParts {
    VocabularyParts {
        bytes: Packed(b"abc".to_vec()),
        ends: vec![1, 2, 3],
        kinds: vec![Kind::Text; 3],
        special: SpecialTokens::default(),
        template: None,
    }
}

pub(super) fn opened(parts: VocabularyParts) -> Vec<u8> {
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
