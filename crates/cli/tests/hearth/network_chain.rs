//! A network that pays though nobody named a chain: one device runs it, and those who join use it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{Home, MODEL, Running, RunningChain, RunningNode};

/// How long what devices do by themselves may take.
const SOON: Duration = Duration::from_secs(90);

/// A fresh folder with a wallet, which reaches nobody beyond this machine.
fn fresh() -> Home {
    let home = Home::with_wallet();
    home.edit_config("reach = \"local\"", "reach = \"loopback\"");
    home
}

fn up(home: &Home) -> Running {
    RunningNode::start(home, &["--no-model"])
}

/// Repeats until `holds`, because devices do this in their own time.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "{what} within {SOON:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What a household has of the test money, in atomic units; nothing where its chain does not say.
fn test_money(home: &Home) -> Option<u128> {
    let balances = home.run(&["wallet", "balances", "--json"]).json();
    let chains = balances["chains"].as_array().unwrap().clone();
    assert_eq!(chains.len(), 1, "{balances}");
    let held = chains[0]["balances"].as_array().unwrap().clone();
    let dollars = held.iter().find(|money| money["symbol"] == "TESTUSD")?;
    dollars["units"].as_str().unwrap().parse().ok()
}

fn ticket(home: &Home) -> String {
    let ticket = home.run(&["invite", "--network", "--json"]).json();
    ticket["ticket"].as_str().unwrap().to_owned()
}

fn healthy(home: &Home) {
    let report = home.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap().iter();
    let bad: Vec<_> = findings
        .filter(|finding| finding["health"] != "good" && finding["check"] != "disk")
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn a_first_run_has_a_chain_and_test_money_and_nothing_to_complain_about() {
    let home = fresh();
    let node = up(&home);
    assert_eq!(node.ready["warnings"], serde_json::json!([]));
    let chain = &node.ready["chain"];
    assert_eq!(chain["is_own"], true);
    assert_eq!(chain["host"], node.ready["device"]);
    // It is there before the device says that it is ready.
    assert_eq!(test_money(&home), Some(100_000_000));
    healthy(&home);
    let shown = home.run(&["chain", "blocks", "--json"]).json();
    assert!(shown.to_string().contains("number"), "{shown}");
    assert_eq!(node.stop("TERM")["event"], "stopped");
    // The books and the chain are asked without the node too, and are the same.
    assert_eq!(test_money(&home), Some(100_000_000));
    healthy(&home);
    let again = up(&home);
    assert_eq!(again.ready["chain"]["chain"], chain_id(&home));
    assert_eq!(test_money(&home), Some(100_000_000));
}

/// The chain that a folder uses, by what it holds there.
fn chain_id(home: &Home) -> String {
    let balances = home.run(&["wallet", "balances", "--json"]).json();
    balances["chains"][0]["chain"].as_str().unwrap().to_owned()
}

#[test]
fn who_joins_before_it_is_up_uses_the_hosts_chain_through_kills_of_both() {
    let (tower, laptop) = (fresh(), fresh());
    let host = up(&tower);
    let given = ticket(&tower);
    let joined = laptop.run(&["join", &given, "--json"]).json();
    assert_eq!(joined["is_later"], true, "{joined}");
    assert_eq!(joined["chain"], host.ready["chain"]["chain"]);
    let guest = up(&laptop);
    assert_eq!(guest.ready["warnings"], serde_json::json!([]));
    assert_eq!(guest.ready["chain"]["chain"], host.ready["chain"]["chain"]);
    assert_eq!(guest.ready["chain"]["host"], host.ready["device"]);
    assert_eq!(guest.ready["chain"]["is_own"], false);
    assert_eq!(test_money(&laptop), Some(100_000_000));
    healthy(&laptop);

    // Killed without a warning, the guest still knows where it belongs.
    drop(guest);
    let asked = laptop.run(&["chain", "blocks", "--json"]);
    assert_eq!(asked.error_code(1), "not_up");
    let guest = up(&laptop);
    assert_eq!(guest.ready["chain"]["host"], host.ready["device"]);
    assert_eq!(test_money(&laptop), Some(100_000_000));

    // Without its host it comes up, says what is missing, and goes on when the host is back.
    drop((guest, host));
    let guest = up(&laptop);
    let warnings = guest.ready["warnings"].to_string();
    assert!(warnings.contains("does not answer yet"), "{warnings}");
    let away = laptop.run(&["chain", "blocks", "--json"]).error(1);
    assert_eq!(away["code"], "chain_unavailable");
    let next = away["next"].as_str().unwrap();
    assert!(next.contains("on that device"), "{next}");
    let _host = up(&tower);
    until("the chain of the host that is back", || {
        test_money(&laptop) == Some(100_000_000)
    });
    // A third that is invited by the guest reaches the same chain.
    let phone = fresh();
    phone.run(&["join", &ticket(&laptop), "--json"]).json();
    let third = up(&phone);
    assert_eq!(third.ready["chain"], guest.ready["chain"]);
    assert_eq!(test_money(&phone), Some(100_000_000));
}

#[test]
fn a_device_that_is_up_joins_and_uses_the_chain_from_its_next_start_on() {
    let (tower, laptop) = (fresh(), fresh());
    let host = up(&tower);
    let guest = up(&laptop);
    assert_ne!(guest.ready["chain"]["chain"], host.ready["chain"]["chain"]);
    let invited = tower.run(&["invite", "--json"]).json();
    let given = invited["ticket"].as_str().unwrap();
    let joined = laptop.run(&["join", given, "--json"]).json();
    assert_eq!(joined["household"], tower.household());
    assert_eq!(joined["chain"], host.ready["chain"]["chain"]);
    // Until it is started again, it says so instead of showing what is on the chain of before.
    let behind = laptop.run(&["chain", "blocks", "--json"]).error(1);
    assert_eq!(behind["code"], "start_again");
    guest.stop("TERM");
    let guest = up(&laptop);
    assert_eq!(guest.ready["chain"]["chain"], host.ready["chain"]["chain"]);
    assert_eq!(guest.ready["warnings"], serde_json::json!([]));
}

#[test]
fn one_chain_has_one_process_and_the_other_is_told_which() {
    let home = fresh();
    let node = up(&home);
    let again = home.run(&["up", "--listen", "127.0.0.1:0", "--no-model", "--json"]);
    assert_eq!(again.error_code(1), "home_busy");
    let run = home
        .run(&["chain", "run", "--port", "0", "--json"])
        .error(1);
    assert_eq!(run["code"], "home_busy");
    let said = run["message"].as_str().unwrap();
    assert!(said.contains(&node.pid().to_string()), "{said}");
    let own = chain_id(&home);
    node.stop("TERM");
    // The chain is the same, whoever runs it.
    let chain = RunningChain::start(&home, &[]);
    assert_eq!(chain.ready["chain"], own);
    assert_eq!(test_money(&home), Some(100_000_000));
    let refused = home.run(&["up", "--listen", "127.0.0.1:0", "--no-model", "--json"]);
    let refused = refused.error(1);
    assert_eq!(refused["code"], "home_busy");
    let next = refused["next"].as_str().unwrap();
    assert!(next.contains("hearth chain run"), "{next}");
}

#[test]
fn a_ticket_that_is_none_is_refused_and_nothing_is_kept_of_it() {
    let home = fresh();
    let before = chain_id(&home);
    for wrong in ["hearth1", "nonsense", "hearth1aaaaaaaaaaaaaaaa"] {
        let refused = home.run(&["join", wrong, "--json"]);
        assert_eq!(refused.error_code(1), "bad_ticket", "{wrong}");
    }
    assert_eq!(chain_id(&home), before);
    let node = up(&home);
    assert_eq!(node.ready["chain"]["is_own"], true);
}

#[test]
#[ignore = "needs outside programs"]
fn two_commands_on_each_of_two_devices_make_a_network_that_pays() {
    let (tower, laptop) = (fresh(), fresh());
    RunningNode::prepare_catalogue(&tower);
    let host = RunningNode::start(&tower, &["--yes"]);
    let models = host.ready["models"].as_array().unwrap();
    assert_eq!(models.len(), 1, "{}", host.ready);
    assert_eq!(models[0]["name"], MODEL, "the next smaller one");
    assert_eq!(models[0]["prices"].as_array().unwrap().len(), 1);
    let said = host.ready["warnings"].to_string();
    assert!(said.contains("larger could not be fetched"), "{said}");
    assert!(
        said.contains(&format!("{MODEL} was fetched instead")),
        "{said}"
    );
    laptop.run(&["join", &ticket(&tower), "--json"]).json();
    let guest = up(&laptop);
    assert_eq!(guest.ready["models"], serde_json::json!([]));
    until("the offer", || {
        let offers = laptop.run(&["offers", "--json"]);
        offers.code == 0 && !offers.json()["offers"].as_array().unwrap().is_empty()
    });
    let asked = [
        "chat",
        "--model",
        MODEL,
        "--max-tokens",
        "8",
        "Name a colour.",
        "--json",
    ];
    let answer = laptop.run(&asked);
    assert_eq!(answer.code, 0, "{answer:?}");
    let sold = tower.run(&["earnings", "--json"]).json();
    assert_eq!(sold["sold"][0]["answers"], 1, "{sold}");
    let bought = laptop.run(&["earnings", "--json"]).json();
    assert_eq!(bought["bought"][0]["charged"], sold["sold"][0]["charged"]);
    let claimed = tower.run(&["channels", "claim", "--json"]).json();
    assert_eq!(claimed["claims"].as_array().unwrap().len(), 1, "{claimed}");
    drop((host, guest));
}
