//! `hearth chain`, and the wallet on it.

use std::net::TcpListener;

use serde_json::Value;

use crate::program::{Home, RunningChain};

const STRANGER: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

/// The amount of TESTUSD among balances.
fn dollars(balances: &Value) -> &str {
    let all = balances.as_array().unwrap();
    let found = all
        .iter()
        .find(|money| money["symbol"] == "TESTUSD")
        .unwrap();
    assert_eq!(found["decimals"], 6);
    found["amount"].as_str().unwrap()
}

#[test]
fn tokens_are_sent_once_and_seen_on_both_sides() {
    let home = Home::with_wallet();
    let fund = format!("{}=100", home.household());
    let chain = RunningChain::start(&home, &["--fund", &fund]);
    home.point_config_at(chain.url());
    assert_eq!(chain.ready["chain"], "eip155:402402");
    assert_eq!(chain.ready["funded"][0]["money"]["units"], "100000000");

    let before = home.run(&["wallet", "balances", "--json"]).json();
    assert_eq!(dollars(&before["chains"][0]["balances"]), "100");
    let sent = home
        .run(&[
            "wallet", "send", "1.25", "TESTUSD", STRANGER, "--yes", "--json",
        ])
        .json();
    assert_eq!(sent["sent"]["units"], "1250000");
    assert_eq!(sent["fee"]["units"], "0", "gas is free here");
    let after = home.run(&["wallet", "balances", "--json"]).json();
    assert_eq!(dollars(&after["chains"][0]["balances"]), "98.75");
    let stranger = home.run(&["chain", "balances", STRANGER, "--json"]).json();
    assert_eq!(dollars(&stranger["balances"]), "1.25");

    let hash = sent["transaction"].as_str().unwrap();
    let shown = home.run(&["chain", "tx", hash, "--json"]).json();
    assert_eq!(shown["status"], "succeeded");
    assert_eq!(shown["block"], sent["block"]);
    assert_eq!(shown["transfers"][0]["to"], STRANGER);
    assert_eq!(shown["transfers"][0]["money"]["amount"], "1.25");
    let number = sent["block"].to_string();
    let block = home.run(&["chain", "block", &number, "--json"]).json();
    assert_eq!(block["transactions"][0], hash);
    let blocks = home
        .run(&["chain", "blocks", "--count", "2", "--json"])
        .json();
    assert_eq!(blocks["blocks"][0]["hash"], block["hash"]);
    let people = home.run(&["chain", "tx", hash]);
    assert!(people.stdout.contains("1.25 TESTUSD"), "{people:?}");

    let refusals = [
        (vec!["1000", "TESTUSD", STRANGER, "--yes"], 1, "too_little"),
        (vec!["1", "EUR", STRANGER, "--yes"], 1, "unknown_asset"),
        (
            vec!["1.0000001", "TESTUSD", STRANGER, "--yes"],
            1,
            "bad_amount",
        ),
        (vec!["-1", "TESTUSD", STRANGER, "--yes"], 1, "bad_amount"),
        (vec!["1", "TESTUSD", "0x12", "--yes"], 1, "bad_account"),
        (vec!["1", "TESTUSD", STRANGER], 2, "not_confirmed"),
    ];
    for (order, exit, code) in refusals {
        let arguments = [&["wallet", "send"], &order[..], &["--json"]].concat();
        assert_eq!(home.run(&arguments).error_code(exit), code, "{order:?}");
    }
    let end = home.run(&["wallet", "balances", "--json"]).json();
    assert_eq!(end, after, "what was refused changed nothing");
}

#[test]
fn a_chain_stops_when_asked_and_goes_on_where_it_was() {
    let home = Home::new();
    let fund = format!("{STRANGER}=5");
    let chain = RunningChain::start(&home, &["--fund", &fund]);
    let rpc = chain.url().to_owned();
    let head = home
        .run(&["chain", "block", "latest", "--rpc", &rpc, "--json"])
        .json();
    let stopped = chain.stop("TERM");
    assert_eq!(stopped["event"], "stopped");
    assert_eq!(stopped["block"], head["number"]);

    let again = RunningChain::start(&home, &[]);
    let rpc = again.url().to_owned();
    assert_eq!(again.ready["block"], head["number"]);
    let same = home
        .run(&["chain", "block", "latest", "--rpc", &rpc, "--json"])
        .json();
    assert_eq!(same, head);
    let balances = home
        .run(&["chain", "balances", STRANGER, "--rpc", &rpc, "--json"])
        .json();
    assert_eq!(dollars(&balances["balances"]), "5");
    assert_eq!(again.stop("INT")["event"], "stopped");
}

#[test]
fn two_processes_do_not_use_one_chain() {
    let home = Home::new();
    let chain = RunningChain::start(&home, &[]);
    let error = home
        .run(&["chain", "run", "--port", "0", "--json"])
        .error(1);
    assert_eq!(error["code"], "home_busy");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&chain.pid().to_string()), "{message}");
    drop(chain);
    RunningChain::start(&home, &[]).stop("TERM");
}

#[test]
fn a_chain_that_cannot_run_says_why() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let cases = [
        (vec!["--port", &port], "port_in_use"),
        (vec!["--block-time", "0"], "bad_block_time"),
        (vec!["--fund", "nobody=1"], "bad_fund"),
        (vec!["--fund", STRANGER], "bad_fund"),
    ];
    for (more, code) in cases {
        let arguments = [&["chain", "run", "--json"], &more[..]].concat();
        assert_eq!(home.run(&arguments).error_code(1), code, "{more:?}");
    }
    RunningChain::start(&home, &["--chain-id", "31337"]).stop("TERM");
    let other = [
        "chain",
        "run",
        "--port",
        "0",
        "--chain-id",
        "31338",
        "--json",
    ];
    let error = home.run(&other).error(1);
    assert_eq!(error["code"], "other_chain");
    assert!(error["next"].as_str().unwrap().contains("31337"));
    // Unless another is asked for, a data folder's chain is the one that it has.
    let same = RunningChain::start(&home, &[]);
    assert_eq!(same.ready["chain"], "eip155:31337");
}

#[test]
fn a_chain_that_is_missing_or_another_one_is_told_apart() {
    let home = Home::new();
    // Port 1 is reserved, so nothing answers there.
    let nowhere = ["chain", "blocks", "--rpc", "http://127.0.0.1:1", "--json"];
    let error = home.run(&nowhere).error(1);
    assert_eq!(error["code"], "chain_unavailable");
    assert!(error["next"].as_str().unwrap().contains("hearth chain run"));

    let chain = RunningChain::start(&home, &["--block-time", "50"]);
    let rpc = chain.url();
    let other = [
        "chain", "blocks", "--chain", "eip155:1", "--rpc", rpc, "--json",
    ];
    let error = home.run(&other).error(1);
    assert_eq!(error["code"], "wrong_chain");
    assert!(error["next"].as_str().unwrap().contains("eip155:402402"));
    let cases = [
        (vec!["block", "soon"], "bad_block"),
        (vec!["block", "999999"], "not_found"),
        (vec!["block", "0x12"], "bad_block"),
        (vec!["tx", "0x12"], "bad_hash"),
        (vec!["balances", "me"], "bad_account"),
    ];
    for (command, code) in cases {
        let arguments = [&["chain"], &command[..], &["--rpc", rpc, "--json"]].concat();
        assert_eq!(home.run(&arguments).error_code(1), code, "{command:?}");
    }
    let unknown = format!("0x{}", "ab".repeat(32));
    for what in ["tx", "block"] {
        let outcome = home.run(&["chain", what, &unknown, "--rpc", rpc, "--json"]);
        assert_eq!(outcome.error_code(1), "not_found");
    }
    let unnamed = ["chain", "blocks", "--chain", "mars", "--json"];
    assert_eq!(home.run(&unnamed).error_code(1), "which_chain");
}
