//! Households train a model together, and what they earn is theirs: from a dataset to a claim, by commands alone.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{Home, Running, RunningNode};

/// How long a whole run of a few rounds may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(400);
/// Rounds of the run.
const ROUNDS: u64 = 3;

pub(crate) const RECIPE: &str = r#"
name = "verses"
license = "CC0-1.0"
rounds = 3
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
trainers = 2
[round]
steps = 6
grace_s = 1
attempt_s = 40
[audit]
per_mille = 1000
newcomer_rounds = 0
"#;

/// A device that trains beside other tests; with epochs of its own where it is the one that puts up the ledger.
pub(crate) fn fresh(epoch: bool) -> Home {
    let home = Home::with_wallet();
    home.edit_config("reach = \"local\"", "reach = \"loopback\"");
    // Other tests keep this machine busy, which would have training pause.
    home.edit_config("busy_percent = 50", "busy_percent = 100");
    if epoch {
        home.edit_config("# [ledger]", "[ledger]\nepoch_s = 16\nwindow_s = 2");
    }
    home
}

pub(crate) fn up(home: &Home) -> Running {
    RunningNode::start(home, &["--no-model"])
}

/// Brings a device up that joins the network of another one, which is up.
pub(crate) fn up_in_network_of(host: &Home, home: &Home) -> Running {
    let ticket = host.run(&["invite", "--network", "--json"]).json();
    let ticket = ticket["ticket"].as_str().unwrap();
    home.run(&["join", ticket, "--json"]).json();
    up(home)
}

/// A dataset of verses that a small model can learn something of.
pub(crate) fn dataset(home: &Home) -> PathBuf {
    let text = home.path().join("verses.txt");
    let mut verses = String::new();
    for verse in 0..900 {
        let [who, what, place] = [verse % 7, verse % 11, verse % 5].map(|n: usize| n);
        let names = ["ann", "ben", "cat", "dan", "eve", "fay", "gus"];
        let things = [
            "a", "the", "one", "his", "her", "our", "no", "this", "that", "my", "your",
        ];
        let places = ["hill", "sea", "wood", "town", "barn"];
        let _ = writeln!(
            verses,
            "{} took {} lamp to the {} and came back before the night.\n",
            names[who], things[what], places[place]
        );
    }
    fs::write(&text, verses).unwrap();
    let folder = home.path().join("verses");
    let (text, out) = (text.display().to_string(), folder.display().to_string());
    home.run(&[
        "data",
        "import",
        &text,
        "--name",
        "verses",
        "--license",
        "CC0-1.0",
        "--vocabulary",
        "300",
        "--out",
        &out,
        "--json",
    ])
    .json();
    folder
}

/// Repeats until something is there, because devices do this in their own time.
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "{what} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

pub(crate) fn shown(home: &Home, run: &str) -> Value {
    home.run(&["run", "show", run, "--json"]).json()
}

/// Atomic units of Ember in a list of amounts.
pub(crate) fn ember(list: &Value) -> u128 {
    let amounts = list.as_array().unwrap().iter();
    let mut embers = amounts.filter(|amount| amount["symbol"] == "EMBER");
    embers.next().map_or(0, |amount| {
        amount["units"].as_str().unwrap().parse().unwrap()
    })
}

/// Makes a run on the tower, which validates it; gives the run's id and its ticket.
pub(crate) fn made_run(tower: &Home, recipe: &str, data: &Path) -> (String, String) {
    let file = tower.path().join("verses.toml");
    fs::write(&file, recipe).unwrap();
    let (recipe, data) = (file.display().to_string(), data.display().to_string());
    let made = until("a run", || {
        let made = tower.run(&[
            "run",
            "create",
            &recipe,
            "--data",
            &data,
            "--validate",
            "--no-train",
            "--json",
        ]);
        // The ledger is found a moment after the node is up.
        let made: Value = serde_json::from_str(&made.stdout).ok()?;
        made["run"].is_object().then_some(made)
    });
    let text = |name: &str| made["run"][name].as_str().unwrap().to_owned();
    (text("run"), text("ticket"))
}

/// Takes part in a run as a trainer.
pub(crate) fn join_run(home: &Home, ticket: &str) {
    until("a part in the run", || {
        let joined = home.run(&["run", "join", ticket, "--json"]);
        let joined: Value = serde_json::from_str(&joined.stdout).ok()?;
        joined["run"].is_string().then_some(())
    });
}

/// The rounds of a run, once all are recorded.
pub(crate) fn all_rounds(home: &Home, run: &str) -> Vec<Value> {
    let detail = until("all rounds", || {
        let detail = shown(home, run);
        (detail["state"]["rounds_done"].as_u64()? >= ROUNDS).then_some(detail)
    });
    detail["recorded"].as_array().unwrap().clone()
}

/// Replays a trainer's work of a round, and checks the files of the model, of which one is damaged then.
fn anyone_can_check(home: &Home, run: &str, round: &Value, out: &str) {
    let trainer = round["trainers"][1]["trainer"].as_str().unwrap();
    let index = round["index"].to_string();
    let replayed = home
        .run(&["run", "replay", run, &index, &trainer[..8], "--json"])
        .json();
    assert_eq!(replayed["same"], true, "{replayed}");
    let unknown = home.run(&["run", "replay", run, "999", trainer, "--json"]);
    assert_eq!(unknown.error_code(1), "no_round");

    let checks = home.run(&["models", "verify", out, "--json"]).json();
    let of_checks = checks["checks"].as_array().unwrap();
    assert!(
        of_checks.iter().all(|check| check["outcome"] == "good"),
        "{checks}"
    );
    let config = Path::new(out).join("config.json");
    let whole = fs::read(&config).unwrap();
    fs::write(&config, [&whole[..], b" "].concat()).unwrap();
    let damaged = home.run(&["models", "verify", out, "--json"]);
    let damaged: Value = serde_json::from_str(&damaged.stdout).unwrap();
    assert!(damaged.to_string().contains("\"bad\""), "{damaged}");
    fs::write(&config, whole).unwrap();
}

#[test]
fn households_train_a_model_and_claim_what_they_earned() {
    let (tower, laptop, phone) = (fresh(true), fresh(false), fresh(false));
    let data = dataset(&tower);
    let _host = up(&tower);
    let _nodes = [&laptop, &phone].map(|home| up_in_network_of(&tower, home));
    let (run, ticket) = made_run(&tower, RECIPE, &data);
    // One device may train and validate.
    tower
        .run(&["run", "join", &run, "--validate", "--json"])
        .json();
    join_run(&laptop, &ticket);
    join_run(&phone, &ticket);

    let rounds = all_rounds(&laptop, &run);
    let losses: Vec<f64> = rounds
        .iter()
        .map(|round| round["loss"].as_f64().unwrap())
        .collect();
    let last = usize::try_from(ROUNDS).unwrap() - 1;
    assert!(
        losses[last] < losses[0] * 0.95,
        "nothing was learned: {losses:?}"
    );
    // What was trained is the same on both, and all took part in every round.
    for (mine, theirs) in rounds.iter().zip(all_rounds(&phone, &run)).take(last + 1) {
        assert_eq!(mine["state"], theirs["state"]);
        assert_eq!(mine["trainers"].as_array().unwrap().len(), 3, "{mine}");
    }

    let earned = until("something to claim", || {
        let rewards = laptop.run(&["rewards", "--json"]).json();
        let claimable = ember(&rewards["claimable"]);
        (claimable > 0).then_some(claimable)
    });
    let claimed = laptop.run(&["rewards", "claim", "--json"]).json();
    assert!(ember(&claimed["claimed"]) >= earned);
    let rewards = laptop.run(&["rewards", "--json"]).json();
    assert_eq!(ember(&rewards["claimed"]), ember(&claimed["claimed"]));

    let out = laptop.path().join("verses-model").display().to_string();
    let written = laptop
        .run(&["run", "export", &run, "--out", &out, "--json"])
        .json();
    assert!(written["held_out_loss"].as_f64().unwrap() < losses[0]);
    let gguf = written["gguf"].as_str().unwrap();
    laptop
        .run(&["models", "import", gguf, "--name", "verses", "--json"])
        .json();
    let again = laptop.run(&["run", "export", &run, "--out", &out, "--json"]);
    assert_eq!(again.error_code(1), "exists");
    anyone_can_check(&laptop, &run, &rounds[1], &out);
    assert_eq!(
        laptop.run(&["run", "show", "zz", "--json"]).error_code(1),
        "no_run"
    );
}
