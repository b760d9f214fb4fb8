//! A run is funded by command: pledged, withdrawn, released to those who trained, and given back under the soft cap.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::program::{Home, Outcome, finish};
use crate::training::{dataset, fresh, join_run, made_run, shown, until, up, up_in_network_of};

/// Rounds of the run, each of which is a checkpoint.
const ROUNDS: u64 = 2;
/// Whole test dollars that every household of a network begins with.
const DOLLARS: u128 = 100;
/// Atomic units of one.
const DOLLAR: u128 = 1_000_000;

/// The file of a small run that takes pledges for so many seconds.
fn recipe(soft_cap: u64, open_s: u64, lasts_s: u64) -> String {
    format!(
        r#"
name = "verses"
license = "CC0-1.0"
rounds = {ROUNDS}
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
steps = 4
quorum = 2
grace_s = 1
attempt_s = 10
[audit]
per_mille = 10
newcomer_rounds = 0
[funding]
asset = "TESTUSD"
soft_cap = "{soft_cap}"
open_s = {open_s}
lasts_s = {lasts_s}
"#
    )
}

fn funded_run(tower: &Home, recipe: &str, data: &Path) -> (String, String) {
    let (run, ticket) = made_run(tower, recipe, data);
    let view = funding(tower, &run);
    assert_eq!(view["checkpoints"], ROUNDS);
    assert_eq!(view["state"], "open");
    (run, ticket)
}

fn fund(home: &Home, arguments: &[&str]) -> Outcome {
    let more = ["--yes", "--json"];
    home.run(&[&["run", "fund"], arguments, &more].concat())
}

fn funding(home: &Home, run: &str) -> Value {
    home.run(&["run", "fund", run, "--json"]).json()
}

fn units(money: &Value) -> u128 {
    money["units"].as_str().unwrap().parse().unwrap()
}

/// Atomic units of test dollars that a household holds, by the chain.
fn dollars(home: &Home) -> u128 {
    let balances = home.run(&["wallet", "balances", "--json"]).json();
    let all = balances["chains"][0]["balances"].as_array().unwrap();
    let mut dollars = all.iter().filter(|money| money["symbol"] == "TESTUSD");
    units(dollars.next().unwrap())
}

/// Atomic units of test dollars in a list of amounts.
fn dollars_of(list: &Value) -> u128 {
    let amounts = list.as_array().unwrap().iter();
    let dollars = amounts.filter(|amount| amount["symbol"] == "TESTUSD");
    dollars.map(units).sum()
}

fn until_state(home: &Home, run: &str, state: &str) -> Value {
    until(state, || {
        let view = funding(home, run);
        (view["state"] == state).then_some(view)
    })
}

/// What a person who is not asked, and one who errs, is told.
fn orders_that_make_no_sense_move_nothing(home: &Home, run: &str) {
    let cases: [(&[&str], &str); 8] = [
        (&[run, "1000"], "too_little"),
        (&[run, "1.0000001"], "bad_amount"),
        (&[run, "<b>1</b>"], "bad_amount"),
        (&[run, "1", "--asset", "<script>"], "other_asset"),
        (&[run, "--withdraw"], "nothing_pledged"),
        (&[run, "--refund"], "nothing_pledged"),
        (&[run, "--release"], "pledges_open"),
        (&["hearthrun1damaged", "1"], "bad_run_ticket"),
    ];
    for (arguments, code) in cases {
        assert_eq!(fund(home, arguments).error_code(1), code, "{arguments:?}");
    }
    let unasked = home.run(&["run", "fund", run, "3", "--json"]);
    assert_eq!(unasked.error_code(2), "not_confirmed");
    assert!(unasked.stderr.contains("Pledge 3 TESTUSD"), "{unasked:?}");
    assert!(
        unasked.stderr.contains("you can withdraw it"),
        "{unasked:?}"
    );
}

#[test]
fn a_run_that_was_funded_pays_those_who_trained() {
    let (tower, laptop, phone) = (fresh(true), fresh(false), fresh(false));
    tower.edit_config("epoch_s = 16", "epoch_s = 10");
    let data = dataset(&tower);
    let host = up(&tower);
    let nodes = [&laptop, &phone].map(|home| up_in_network_of(&tower, home));
    let (run, ticket) = funded_run(&tower, &recipe(10, 25, 600), &data);
    join_run(&laptop, &ticket);
    join_run(&phone, &ticket);

    // The tower funds without training; the laptop pays for its own work.
    let pledged = fund(&tower, &[&run, "20"]).json();
    assert_eq!(units(&pledged["moved"]), 20 * DOLLAR);
    fund(&tower, &[&run, "8.5", "--withdraw"]).json();
    fund(&tower, &[&run, "0.5"]).json();
    let pledged = fund(&laptop, &[&ticket, "3"]).json();
    assert_eq!(units(&pledged["funding"]["pledged"]), 15 * DOLLAR);
    let before = DOLLARS * DOLLAR;
    assert_eq!(dollars(&tower), before - 12 * DOLLAR);
    let view = &shown(&tower, &run)["funding"];
    assert_eq!(
        (units(&view["mine"]), units(&view["pledged"])),
        (12 * DOLLAR, 15 * DOLLAR)
    );

    until("all rounds", || {
        let done = shown(&laptop, &run)["state"]["rounds_done"].as_u64()?;
        (done >= ROUNDS).then_some(())
    });
    let view = until_state(&tower, &run, "bound");
    assert_eq!(fund(&tower, &[&run, "1"]).error_code(1), "pledges_closed");
    assert_eq!(
        fund(&tower, &[&run, "--refund"]).error_code(1),
        "pledges_bound"
    );
    assert_eq!(view["checkpoints_reached"], ROUNDS);
    // Anyone may release.
    let released = fund(&phone, &[&run, "--release"]).json();
    assert_eq!(units(&released["moved"]), 15 * DOLLAR);
    assert_eq!(
        fund(&tower, &[&run, "--release"]).error_code(1),
        "nothing_to_release"
    );

    let half = 15 * DOLLAR / 2;
    for home in [&laptop, &phone] {
        // A little of it vests while the run goes on, and the rest with the epoch after it: claimed one after the other.
        let rewards = until("all that was earned", || {
            home.run(&["rewards", "claim", "--json"]);
            let rewards = home.run(&["rewards", "--json"]).json();
            (dollars_of(&rewards["claimed"]) >= half).then_some(rewards)
        });
        let kinds = rewards["credits"].as_array().unwrap().iter();
        assert_eq!(kinds.filter(|credit| credit["kind"] == "pledge").count(), 2);
    }
    // Both did the same work, and nobody else has any of it: all of it is where it belongs.
    assert_eq!(dollars(&laptop), before - 3 * DOLLAR + half);
    assert_eq!(dollars(&phone), before + half);
    assert_eq!(dollars(&tower), before - 12 * DOLLAR);

    drop((host, nodes));
    let rewards = rewards_after_a_start(&tower, &laptop);
    assert_eq!(dollars_of(&rewards["claimed"]), half);
}

/// Starts both, of which the laptop has lost its copies of the records: the tower gives them as soon as it is there.
fn rewards_after_a_start(tower: &Home, laptop: &Home) -> Value {
    let records = laptop.path().join("training/rewards");
    assert!(fs::read_dir(&records).unwrap().count() > 0);
    fs::remove_dir_all(&records).unwrap();
    let _nodes = (up(tower), up(laptop));
    let rewards = until("the ledger", || {
        let seen = laptop.run(&["rewards", "--json"]);
        if seen.code == 0 {
            return Some(seen.json());
        }
        assert_ne!(seen.error_code(1), "rewards_unknown", "{seen:?}");
        None
    });
    let problems = rewards["problems"].as_array();
    assert!(problems.is_none_or(Vec::is_empty), "{rewards}");
    rewards
}

/// Starts two orders at the same time, and says how many were carried out.
fn at_once(home: &Home, arguments: &[&str]) -> usize {
    let outcomes = thread::scope(|scope| {
        let both = [(), ()].map(|()| {
            let mut command = home.command(&["run", "fund"]);
            command.args(arguments).args(["--yes", "--json"]);
            scope.spawn(move || finish(command, ""))
        });
        both.map(|one| one.join().unwrap())
    });
    for failed in outcomes.iter().filter(|outcome| outcome.code != 0) {
        assert_eq!(failed.error_code(1), "pledge_changed");
    }
    outcomes.iter().filter(|outcome| outcome.code == 0).count()
}

#[test]
fn under_the_soft_cap_everything_goes_back_and_nothing_is_sent_twice() {
    let (tower, laptop) = (fresh(true), fresh(false));
    let data = dataset(&tower);
    let _host = up(&tower);
    let mut node = Some(up_in_network_of(&tower, &laptop));
    // Nobody trains.
    let (run, ticket) = funded_run(&tower, &recipe(90, 30, 600), &data);
    let funds = until("the ledger", || {
        let seen = laptop.run(&["run", "fund", &ticket, "--json"]);
        serde_json::from_str::<Value>(&seen.stdout).ok()
    });
    assert_eq!(units(&funds["soft_cap"]), 90 * DOLLAR);
    orders_that_make_no_sense_move_nothing(&laptop, &ticket);

    let before = DOLLARS * DOLLAR;
    let done = at_once(&laptop, &[&ticket, "7"]);
    let mut mine = 7 * DOLLAR * u128::try_from(done).unwrap();
    assert!(done > 0);
    assert_eq!(units(&funding(&laptop, &ticket)["mine"]), mine);
    // The node is killed while it pledges: what was sent is there once, whenever it was.
    for delay_ms in [40, 160] {
        let mut order = laptop.command(&["run", "fund", &ticket, "5", "--yes", "--json"]);
        let mut order = order.spawn().unwrap();
        thread::sleep(Duration::from_millis(delay_ms));
        drop(node.take());
        order.wait().unwrap();
        node = Some(up(&laptop));
        let after = until("the pledge", || {
            let seen = laptop.run(&["run", "fund", &ticket, "--json"]);
            let seen: Value = serde_json::from_str(&seen.stdout).ok()?;
            let after = units(&seen["mine"]);
            if after > mine {
                return Some(after);
            }
            fund(&laptop, &[&ticket, "5"]);
            None
        });
        assert_eq!(after, mine + 5 * DOLLAR);
        mine = after;
    }
    assert_eq!(dollars(&laptop), before - mine);

    until_state(&laptop, &ticket, "missed");
    assert_eq!(
        fund(&laptop, &[&ticket, "1"]).error_code(1),
        "pledges_closed"
    );
    assert_eq!(
        fund(&tower, &[&run, "--release"]).error_code(1),
        "soft_cap_missed"
    );
    let refunded = fund(&laptop, &[&ticket, "--refund"]).json();
    assert_eq!(units(&refunded["moved"]), mine);
    assert_eq!(dollars(&laptop), before);
    assert_eq!(
        fund(&laptop, &[&ticket, "--refund"]).error_code(1),
        "nothing_pledged"
    );
}
