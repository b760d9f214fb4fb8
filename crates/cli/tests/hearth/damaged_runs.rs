//! What is wrong with a run's file, its ticket, its data or its files is said with what to do, and nothing is lost by it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::Home;
use crate::training::{dataset, fresh, join_run, made_run, shown, until, up, up_in_network_of};

/// Rounds of the run.
const ROUNDS: u64 = 4;

/// A run that can be made.
const RECIPE: &str = r#"name = "verses"
license = "CC0-1.0"
rounds = 4
seed = 1
[model]
width = 32
layers = 1
query_heads = 2
key_value_heads = 1
context = 32
[training]
window_tokens = 32
windows = 4
rate = 0.01
optimizer = "adamw"
[devices]
trainers = 1
up_mbit = 10
[round]
steps = 6
grace_s = 1
attempt_s = 12
[audit]
per_mille = 10
newcomer_rounds = 0
"#;

/// A line of the run's file, what stands there instead, the error's code, and words of what it says.
type Wrong = (&'static str, &'static str, &'static str, &'static str);

/// Files that cannot be read.
const UNREADABLE: [Wrong; 11] = [
    (
        "rounds = 4",
        "rounds = ",
        "bad_run_file",
        "line 3, column 10",
    ),
    (
        "rounds = 4",
        "rounds = \"four\"",
        "bad_run_file",
        "invalid type: string",
    ),
    (
        "rounds = 4",
        "rounds = -4",
        "bad_run_file",
        "invalid value: integer `-4`",
    ),
    (
        "rounds = 4",
        "rouds = 4",
        "bad_run_file",
        "unknown field `rouds`",
    ),
    (
        "rounds = 4",
        "rounds = 4\nrounds = 5",
        "bad_run_file",
        "duplicate key",
    ),
    (
        "name = \"verses\"\n",
        "",
        "bad_run_file",
        "missing field `name`",
    ),
    (
        "license = \"CC0-1.0\"\n",
        "",
        "bad_run_file",
        "missing field `license`",
    ),
    (
        "[model]",
        "[modell]",
        "bad_run_file",
        "unknown field `modell`",
    ),
    (
        "width = 32",
        "widht = 32",
        "bad_run_file",
        "unknown field `widht`",
    ),
    (
        "\"adamw\"",
        "\"sgd\"",
        "bad_run_file",
        "unknown variant `sgd`",
    ),
    (
        "up_mbit = 10",
        "up_mbit = \"fast\"",
        "bad_run_file",
        "expected f64",
    ),
];

/// Values that no run can have.
const OUT_OF_RANGE: [Wrong; 28] = [
    (
        "\"verses\"",
        "\"\"",
        "bad_run",
        "the name has to be one line",
    ),
    (
        "seed = 1",
        "description = \"two\\nlines\"",
        "bad_run",
        "the description has to be one line",
    ),
    (
        "\"CC0-1.0\"",
        "\" CC0-1.0\"",
        "bad_run",
        "the license has to be one line",
    ),
    (
        "rounds = 4",
        "rounds = 0",
        "bad_run",
        "the number of rounds is out of bounds",
    ),
    (
        "rounds = 4",
        "rounds = 1000001",
        "bad_run",
        "rounds is 1000001",
    ),
    ("width = 32", "width = 0", "bad_run", "width is 0"),
    ("width = 32", "width = 20000", "bad_run", "width is 20000"),
    ("layers = 1", "layers = 300", "bad_run", "layers is 300"),
    (
        "query_heads = 2",
        "query_heads = 0",
        "bad_run",
        "query_heads is 0",
    ),
    (
        "key_value_heads = 1",
        "key_value_heads = 3",
        "bad_run",
        "3 key-value heads",
    ),
    (
        "context = 32\n",
        "context = 16\n",
        "bad_run",
        "inner.windowTokens is 32",
    ),
    (
        "windows = 4",
        "windows = 0",
        "bad_run",
        "the tokens of a step is out of bounds",
    ),
    ("windows = 4", "windows = 70000", "bad_run", "windows"),
    ("rate = 0.01", "rate = -1", "bad_run", "training.rate is -1"),
    (
        "rate = 0.01",
        "rate = nan",
        "bad_run",
        "training.rate is NaN",
    ),
    ("rate = 0.01", "rate = 11", "bad_run", "training.rate is 11"),
    (
        "rate = 0.01",
        "rate = 1.5",
        "bad_run",
        "training.rate is 1.5",
    ),
    ("rate = 0.01", "rate = 0", "bad_run", "training.rate is 0"),
    (
        "rate = 0.01",
        "rate = inf",
        "bad_run",
        "training.rate is inf",
    ),
    (
        "rate = 0.01\noptimizer = \"adamw\"",
        "muon_rate = 0.0\noptimizer = \"muon\"",
        "bad_run",
        "training.muon_rate is 0",
    ),
    (
        "\"CC0-1.0\"",
        "\"all rights reserved\"",
        "bad_license",
        "names no license",
    ),
    ("steps = 6", "steps = 0", "bad_run", "round.steps is 0"),
    (
        "grace_s = 1",
        "grace_s = 86401",
        "bad_run",
        "round.graceS is 86401",
    ),
    (
        "attempt_s = 12",
        "attempt_s = 0",
        "bad_run",
        "round.attemptS is 0",
    ),
    (
        "attempt_s = 12",
        "quorum = 65",
        "bad_run",
        "round.quorum is 65",
    ),
    (
        "attempt_s = 12",
        "trainers_max = 257",
        "bad_run",
        "round.trainersMax is 257",
    ),
    (
        "per_mille = 10",
        "per_mille = 9",
        "bad_run",
        "audit.perMille is 9",
    ),
    (
        "newcomer_rounds = 0",
        "newcomer_rounds = 1001",
        "bad_run",
        "audit.newcomerRounds is 1001",
    ),
];

#[test]
fn each_wrong_value_of_a_runs_file_is_named_with_what_to_do() {
    let home = fresh(false);
    let data = dataset(&home).display().to_string();
    let file = home.path().join("run.toml");
    let path = file.display().to_string();
    let plan = [
        "run",
        "create",
        &path,
        "--data",
        &data,
        "--dry-run",
        "--json",
    ];
    fs::write(&file, RECIPE).unwrap();
    let planned = home.run(&plan).json();
    assert_eq!(planned["rounds"], ROUNDS, "{planned}");

    let mut messages = BTreeSet::new();
    let wrong = UNREADABLE.iter().chain(&OUT_OF_RANGE);
    for (line, instead, code, words) in wrong.copied() {
        assert!(RECIPE.contains(line), "{line}");
        fs::write(&file, RECIPE.replacen(line, instead, 1)).unwrap();
        let error = home.run(&plan).error(1);
        let message = error["message"].as_str().unwrap();
        assert_eq!(error["code"], code, "{instead}: {error}");
        assert!(message.contains(words), "{instead}: {error}");
        messages.insert(message.to_owned());
    }
    let count = UNREADABLE.len() + OUT_OF_RANGE.len();
    assert_eq!(messages.len(), count, "two alike: {messages:#?}");
    fs::write(&file, RECIPE).unwrap();
    let nowhere = [
        "run",
        "create",
        &path,
        "--data",
        "nowhere",
        "--dry-run",
        "--json",
    ];
    assert_eq!(home.run(&nowhere).error_code(1), "bad_dataset");
    let nothing = ["run", "create", "nothing.toml", "--data", &data, "--json"];
    assert_eq!(home.run(&nothing).error_code(1), "not_readable");
}

/// Takes the last byte of a file away, and returns what it was.
fn cut(path: &Path) -> Vec<u8> {
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..whole.len() - 1]).unwrap();
    whole
}

/// Changes one bit in the middle of the last numbers of a file, and leaves its length.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let place = bytes.len() - 5;
    bytes[place] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// A shard of a dataset.
fn shard(data: &Path) -> PathBuf {
    let shards = fs::read_dir(data.join("shards")).unwrap();
    shards.map(|entry| entry.unwrap().path()).max().unwrap()
}

/// The file of a state, or another file of a run, on a device.
fn file_of(home: &Home, run: &str, name: &str) -> PathBuf {
    let name = name.trim_start_matches("0x");
    home.path()
        .join("training/runs")
        .join(run)
        .join("files")
        .join(name)
}

/// The last of so many rounds, once they are recorded.
fn round(home: &Home, run: &str, count: u64) -> Value {
    until(&format!("{count} rounds"), || {
        let shown = home.run(&["run", "show", run, "--json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).ok()?;
        let last = usize::try_from(count).unwrap() - 1;
        shown["recorded"].get(last).cloned()
    })
}

/// Tickets that are not this one.
fn bad_tickets(ticket: &str) -> Vec<String> {
    let end = ticket.len();
    vec![
        ticket[..end - 1].to_owned(),
        ticket[..end / 2].to_owned(),
        ticket[..11].to_owned(),
        format!("{}{}", &ticket[..end / 2], &ticket[end / 2 + 1..]),
        format!("{ticket}A"),
        format!("<b>{ticket}</b>"),
        format!("{}<script>{}", &ticket[..20], &ticket[20..]),
        format!("{ticket}\u{202e}"),
        ticket.to_uppercase(),
        "A".repeat(5_000),
    ]
}

/// No run is made of a dataset whose shard lost a byte; it is whole again afterwards.
fn damaged_data_makes_no_run(tower: &Home, data: &Path) {
    let file = shard(data);
    let whole = cut(&file);
    let recipe = tower.path().join("run.toml");
    fs::write(&recipe, RECIPE).unwrap();
    let (recipe, folder) = (recipe.display().to_string(), data.display().to_string());
    let create = [
        "run",
        "create",
        &recipe,
        "--data",
        &folder,
        "--validate",
        "--json",
    ];
    let refused = until("a ledger", || {
        let error = tower.run(&create).error(1);
        (error["code"] != "no_ledger").then_some(error)
    });
    assert_eq!(refused["code"], "bad_dataset", "{refused}");
    assert!(
        refused["next"]
            .as_str()
            .unwrap()
            .contains("hearth data verify")
    );
    let verified = tower.run(&["data", "verify", &folder, "--json"]).error(1);
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(verified.to_string().contains(name), "{verified}");
    let none = tower.run(&["run", "list", "--json"]).json();
    assert_eq!(none["runs"].as_array().unwrap().len(), 0, "{none}");
    fs::write(&file, whole).unwrap();
}

/// A ticket that was changed is refused alike, whatever was done to it.
fn bad_tickets_are_refused(laptop: &Home, ticket: &str) {
    let mut said = BTreeSet::new();
    for bad in bad_tickets(ticket) {
        let refused = laptop.run(&["run", "join", &bad, "--json"]).error(1);
        assert_eq!(refused["code"], "bad_run_ticket", "{bad}: {refused}");
        assert!(!refused.to_string().contains("<script>"), "{refused}");
        said.insert(refused["next"].to_string());
    }
    assert_eq!(said.len(), 1);
}

#[test]
fn damaged_tickets_data_and_files_are_named_and_a_run_goes_on_to_its_end() {
    let (tower, laptop) = (fresh(true), fresh(false));
    let data = dataset(&tower);
    let host = up(&tower);
    let node = up_in_network_of(&tower, &laptop);

    damaged_data_makes_no_run(&tower, &data);
    let (run, ticket) = made_run(&tower, RECIPE, &data);
    bad_tickets_are_refused(&laptop, &ticket);
    join_run(&laptop, &ticket);

    // A trainer's state and what it kept for the next round are damaged while it is down: it gets the one again and does
    // without the other.
    let first = round(&laptop, &run, 1);
    node.stop("TERM");
    for state in states(&laptop, &run) {
        flip(&state);
    }
    let _node = up(&laptop);
    let last = round(&laptop, &run, ROUNDS);
    // Each device follows the chain in its own time.
    round(&tower, &run, ROUNDS);
    let recorded = shown(&tower, &run)["recorded"].clone();
    for index in 0..usize::try_from(ROUNDS).unwrap() {
        let round = &recorded[index];
        assert_eq!(round["trainers"].as_array().unwrap().len(), 1, "{round}");
    }
    assert_ne!(first["state"], last["state"]);

    // The model of a damaged state is not written; what the error says helps.
    let state = file_of(&tower, &run, last["state"].as_str().unwrap());
    until("the last state", || state.is_file().then_some(()));
    flip(&state);
    let out = tower.path().join("model").display().to_string();
    let export = ["run", "export", &run, "--out", &out, "--json"];
    let refused = tower.run(&export).error(1);
    assert_eq!(refused["code"], "run_damaged", "{refused}");
    assert!(
        refused["next"]
            .as_str()
            .unwrap()
            .contains("Remove the file")
    );
    fs::remove_file(&state).unwrap();
    host.stop("TERM");
    let _host = up(&tower);
    let written = until("the model", || {
        let written = tower.run(&export);
        serde_json::from_str::<Value>(&written.stdout).ok()
    });
    assert_eq!(written["rounds"], ROUNDS, "{written}");
}

/// All states and local states that a device keeps of a run: the files that begin as such.
fn states(home: &Home, run: &str) -> Vec<PathBuf> {
    let folder = file_of(home, run, "");
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_state = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        let is_checkpoint = bytes
            .get(8..)
            .is_some_and(|rest| rest.starts_with(b"{\"__metadata__\""));
        is_checkpoint || bytes.starts_with(b"hearth-local/1")
    };
    files.filter(is_state).collect()
}
