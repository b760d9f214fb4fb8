//! Devices of a training run are killed at the points where they write: the run goes on, and everybody is paid what the
//! books say.

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{Home, Running};
use crate::training::{
    dataset, ember, fresh, join_run, made_run, shown, until, up, up_in_network_of,
};

/// Rounds of the run.
const ROUNDS: u64 = 4;
/// How long a device may take to come to the point where it is killed.
const LONG: Duration = Duration::from_secs(120);
/// What a trainer does once it has said what it commits to.
const COMMITTED: &str = "waiting for the round to be recorded";

/// No round is made by one trainer alone.
const RECIPE: &str = r#"
name = "verses"
license = "CC0-1.0"
rounds = 4
[model]
width = 32
layers = 1
query_heads = 2
key_value_heads = 1
context = 32
[training]
window_tokens = 32
windows = 8
rate = 0.01
optimizer = "adamw"
[devices]
trainers = 2
[round]
steps = 12
quorum = 2
grace_s = 1
attempt_s = 16
[audit]
per_mille = 10
newcomer_rounds = 0
"#;

/// The folder of a run on a device.
fn folder(home: &Home, run: &str) -> PathBuf {
    home.path().join("training/runs").join(run)
}

/// The names of the files that a device keeps of a run.
fn files(home: &Home, run: &str) -> Vec<String> {
    let entries = fs::read_dir(folder(home, run).join("files")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// The round of which a trainer keeps what it committed to.
fn kept_round(home: &Home, run: &str) -> Option<u64> {
    let kept = fs::read(folder(home, run).join("committed.json")).ok()?;
    let kept: Value = serde_json::from_slice(&kept).ok()?;
    kept["index"].as_u64()
}

/// Kills a device as a power cut would, as soon as its folder shows something.
fn kill_when(node: Running, what: &str, mut shows: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !shows() {
        assert!(Instant::now() < end, "no {what} within {LONG:?}");
        thread::sleep(Duration::from_millis(2));
    }
    drop(node);
}

fn rounds_done(home: &Home, run: &str) -> u64 {
    shown(home, run)["state"]["rounds_done"].as_u64().unwrap()
}

/// Waits until so many rounds are recorded, as a device sees it.
fn after(home: &Home, run: &str, rounds: u64) {
    until(&format!("{rounds} rounds"), || {
        let shown = home.run(&["run", "show", run, "--json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).ok()?;
        (shown["state"]["rounds_done"].as_u64()? >= rounds).then_some(())
    });
}

/// What of a household's work is paid by now, by the books that it knows, and for how many contributions.
fn books(rewards: &Value) -> (u128, usize) {
    let credits = rewards["credits"].as_array().unwrap();
    let units = |credit: &Value| -> u128 {
        let units = credit["vested"]["units"].as_str().unwrap();
        units.parse().unwrap()
    };
    let contributions = credits
        .iter()
        .filter(|credit| credit["kind"] == "contribution");
    (credits.iter().map(units).sum(), contributions.count())
}

/// What a household was paid, once all that the books of a run that is over say is claimed.
fn paid(home: &Home, over_in: u64) -> u128 {
    until("all that was earned", || {
        let rewards = home.run(&["rewards", "--json"]).json();
        if ember(&rewards["claimable"]) > 0 {
            claim_twice_at_once(home);
            return None;
        }
        let (vested, contributions) = books(&rewards);
        let claimed = ember(&rewards["claimed"]);
        let is_final = rewards["epoch"].as_u64()? > over_in + 1 && claimed == vested;
        is_final.then(|| {
            assert_eq!(contributions as u64, ROUNDS, "{rewards}");
            claimed
        })
    })
}

/// Claims by two commands at the same time: what they say they claimed is what was claimed, once.
fn claim_twice_at_once(home: &Home) {
    let before = home.run(&["rewards", "--json"]).json();
    let claims = [0; 2].map(|_| {
        let mut command = home.command(&["rewards", "claim", "--json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    let mut said = 0;
    for claim in claims {
        let output = claim.wait_with_output().unwrap();
        if output.status.success() {
            let claimed: Value = serde_json::from_slice(&output.stdout).unwrap();
            said += ember(&claimed["claimed"]);
            continue;
        }
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let refused: Value = serde_json::from_str(error.lines().last().unwrap()).unwrap();
        assert_eq!(refused["error"]["code"], "nothing_to_claim", "{error}");
    }
    let after = home.run(&["rewards", "--json"]).json();
    let claimed = ember(&after["claimed"]) - ember(&before["claimed"]);
    assert_eq!(said, claimed, "{before} and then {after}");
    assert!(claimed >= ember(&before["claimable"]), "{after}");
}

/// Lets a device be found again at the same place.
fn stay_at_one_port(home: &Home) {
    let port = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let port = port.local_addr().unwrap().port();
    home.edit_config("listen = []", &format!("listen = [\"127.0.0.1:{port}\"]"));
}

#[test]
fn a_run_survives_the_kill_of_each_of_its_devices_and_pays_what_its_books_say() {
    let (tower, laptop, phone) = (fresh(true), fresh(false), fresh(false));
    let data = dataset(&tower);
    stay_at_one_port(&tower);
    let host = up(&tower);
    let [laptop_node, phone_node] = [&laptop, &phone].map(|home| up_in_network_of(&tower, home));
    let (run, ticket) = made_run(&tower, RECIPE, &data);
    join_run(&laptop, &ticket);
    join_run(&phone, &ticket);

    // While it trains: nothing of its round is kept yet. Alone the other is less than the quorum, and waits for it.
    kill_when(laptop_node, "training", || {
        let files = folder(&laptop, &run).join("files");
        files.is_dir() && files_begin_with(&laptop, &run, "making-")
    });
    until("what the other committed to", || {
        (shown(&phone, &run)["state"]["doing"] == COMMITTED).then_some(())
    });
    assert_eq!(rounds_done(&phone, &run), 0);
    let _laptop_node = up(&laptop);

    // As soon as it has kept what it commits to: it commits to nothing else afterwards.
    after(&tower, &run, 1);
    let first = kept_round(&phone, &run);
    kill_when(phone_node, "commitment", || {
        kept_round(&phone, &run) != first
    });
    let _phone_node = up(&phone);

    // The one that validates and runs the chain, once a contribution of the round is there.
    after(&tower, &run, 2);
    let before = files(&tower, &run).len();
    kill_when(host, "contribution", || files(&tower, &run).len() > before);
    let _host = up(&tower);

    for home in [&tower, &laptop, &phone] {
        after(home, &run, ROUNDS);
    }
    let [of_tower, of_phone] = [&tower, &phone].map(|home| shown(home, &run)["recorded"].clone());
    for index in 0..usize::try_from(ROUNDS).unwrap() {
        let round = &of_tower[index];
        assert_eq!(round["state"], of_phone[index]["state"]);
        assert_eq!(round["trainers"].as_array().unwrap().len(), 2, "{round}");
    }
    let over_in = tower.run(&["rewards", "--json"]).json()["epoch"]
        .as_u64()
        .unwrap();
    for home in [&laptop, &phone] {
        assert!(paid(home, over_in) > 0);
    }
}

/// What a replay of a device's work gives, as another one does it.
fn replayed(home: &Home, run: &str, round: u64, trainer: &str) -> Value {
    let round = round.to_string();
    let replayed = home.run(&["run", "replay", run, &round, trainer, "--json"]);
    replayed.json()
}

/// The name of the file that a replay found a trainer to have kept.
fn kept(replayed: &Value) -> String {
    let parts = replayed["parts"].as_array().unwrap();
    let kept = parts.iter().find(|part| part["what"] == "local state");
    kept.unwrap()["recorded"].as_str().unwrap().to_owned()
}

#[test]
fn what_a_trainer_kept_that_never_comes_back_is_computed_anew() {
    let (tower, laptop, phone) = (fresh(true), fresh(false), fresh(false));
    let data = dataset(&tower);
    stay_at_one_port(&tower);
    let host = up(&tower);
    let laptop_node = up_in_network_of(&tower, &laptop);
    let _phone_node = up_in_network_of(&tower, &phone);
    let (run, ticket) = made_run(&tower, RECIPE, &data);
    join_run(&laptop, &ticket);
    join_run(&phone, &ticket);
    after(&tower, &run, ROUNDS);
    let account = laptop.run(&["rewards", "--json"]).json()["account"].clone();
    let round = shown(&tower, &run)["recorded"][0].clone();
    let trainers = round["trainers"].as_array().unwrap();
    let lost = trainers.iter().find(|one| one["account"] == account);
    let lost = lost.unwrap()["trainer"].as_str().unwrap();
    // Each work starts from what its trainer kept of the one before.
    let [first, second, _] = [0, 1, 2].map(|round| kept(&replayed(&tower, &run, round, lost)));
    let names = [first, second];

    // The laptop is gone for good, and so is what validators have of it.
    drop((laptop_node, host));
    for name in &names {
        let file = folder(&tower, &run).join("files").join(name);
        assert!(
            file.is_file(),
            "{name} is not among {:?}",
            files(&tower, &run)
        );
        fs::remove_file(file).unwrap();
    }
    let _host = up(&tower);
    after(&tower, &run, ROUNDS);
    let again = replayed(&tower, &run, 2, lost);
    assert_eq!(again["same"], true, "{again}");
    let there = files(&tower, &run);
    assert!(names.iter().all(|name| there.contains(name)), "{there:?}");
}

fn files_begin_with(home: &Home, run: &str, beginning: &str) -> bool {
    files(home, run)
        .iter()
        .any(|name| name.starts_with(beginning))
}
