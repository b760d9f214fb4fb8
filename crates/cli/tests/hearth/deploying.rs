//! `hearth chain deploy`: a ledger is put up once, and who cannot have one is told why.

use crate::chain::TestChain;
use crate::program::{Home, RunningChain};

/// Arguments of a deployment that asks nothing.
fn deploy(more: &[&str]) -> Vec<String> {
    let all = [&["chain", "deploy", "--json"], more].concat();
    all.into_iter().map(str::to_owned).collect()
}

fn refused(home: &Home, more: &[&str], exit: i32) -> (String, String) {
    let arguments = deploy(more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let error = home.run(&arguments).error(exit);
    let text = |field: &str| error[field].as_str().unwrap().to_owned();
    (text("code"), text("next"))
}

#[test]
fn where_no_ledger_can_be_put_up_the_next_step_is_said() {
    let home = Home::with_wallet();
    // Port 1 is reserved, so nothing answers there.
    let nowhere = [
        "--chain",
        "eip155:31337",
        "--rpc",
        "http://127.0.0.1:1",
        "--yes",
    ];
    let (code, next) = refused(&home, &nowhere, 1);
    assert_eq!(code, "chain_unavailable");
    assert!(next.contains("--rpc"), "{next}");

    let chain = RunningChain::start(&home, &[]);
    let rpc = chain.url();
    let other = ["--chain", "eip155:8453", "--rpc", rpc, "--yes"];
    let (code, next) = refused(&home, &other, 1);
    assert_eq!(code, "wrong_chain");
    assert!(next.contains("--chain eip155:402402"), "{next}");

    let here = ["--chain", "eip155:402402", "--rpc", rpc];
    let (code, _) = refused(&home, &here, 2);
    assert_eq!(code, "not_confirmed");
    // An embedded chain has its ledger from the beginning, and not what puts one up.
    let (code, next) = refused(&home, &[&here[..], &["--yes"]].concat(), 1);
    assert_eq!(code, "no_deployment_proxy");
    assert!(next.contains("begins with a ledger"), "{next}");

    let terms = [
        (["--epoch", "7000000"], "bad_ledger"),
        (["--epoch", "7"], "bad_ledger"),
        (["--window", "0"], "bad_ledger"),
        (["--founder", "0x12"], "bad_founder"),
    ];
    for (term, code) in terms {
        let order = [&here[..], &term, &["--yes"]].concat();
        assert_eq!(refused(&home, &order, 1).0, code, "{term:?}");
    }
}

#[test]
fn without_a_wallet_nothing_is_put_up() {
    let home = Home::new();
    let order = ["--chain", "eip155:1", "--rpc", "http://127.0.0.1:1"];
    let (code, next) = refused(&home, &order, 1);
    assert_eq!(code, "keystore_missing");
    assert!(next.contains("hearth"), "{next}");
}

#[test]
#[ignore = "needs outside programs"]
fn a_ledger_is_put_up_once_on_a_chain_of_other_people() {
    let chain = TestChain::anvil();
    let home = Home::with_wallet();
    let network = chain.network();
    let here = ["--chain", network.as_str(), "--rpc", chain.rpc(), "--yes"];
    let terms = ["--epoch", "600", "--window", "120"];
    let order = deploy(&[&here[..], &terms].concat());
    let order: Vec<&str> = order.iter().map(String::as_str).collect();

    // Gas costs something there, and the wallet has nothing yet.
    let (code, next) = refused(&home, &[&here[..], &terms].concat(), 1);
    assert_eq!(code, "no_coin");
    assert!(next.contains(&home.household()), "{next}");
    chain.give_coin(&home.household());

    let first = home.run(&order).json();
    assert_eq!(first["transactions"].as_array().unwrap().len(), 3);
    assert_eq!(first["chain"], network.as_str());
    assert_eq!(
        (&first["epoch_s"], &first["window_s"]),
        (&600.into(), &120.into())
    );
    assert_eq!(first["founders"][0], home.household());
    let again = home.run(&order).json();
    assert_eq!(again["transactions"].as_array().unwrap().len(), 0);
    assert_eq!(again["runs"], first["runs"]);
    let without_json: Vec<&str> = order
        .iter()
        .copied()
        .filter(|one| *one != "--json")
        .collect();
    let people = home.run(&without_json);
    let runs = first["runs"].as_str().unwrap();
    assert!(people.stdout.contains("stands on"), "{people:?}");
    assert!(people.stdout.contains("already"), "{people:?}");
    assert!(
        people.stdout.contains(&format!("ledger = \"{runs}\"")),
        "{people:?}"
    );

    // Other terms are another ledger.
    let other = [&here[..], &["--epoch", "1200", "--window", "120"]].concat();
    let other = deploy(&other);
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let other = home.run(&other).json();
    assert_ne!(other["runs"], first["runs"]);
    assert_eq!(
        other["devices"], first["devices"],
        "one for all ledgers of a chain"
    );
}
