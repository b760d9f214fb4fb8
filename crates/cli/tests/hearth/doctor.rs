//! `hearth doctor`: each fault is found, named, and comes with what mends it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::program::{Home, RunningChain};

/// What the doctor says, whatever it thinks of it.
fn examined(home: &Home) -> (i32, Value) {
    let outcome = home.run(&["doctor", "--json"]);
    (outcome.code, serde_json::from_str(&outcome.stdout).unwrap())
}

fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let all = report["findings"].as_array().unwrap();
    all.iter()
        .find(|finding| finding["check"] == check)
        .unwrap_or_else(|| panic!("{check}: {report}"))
}

#[test]
fn a_device_with_everything_is_healthy() {
    let home = Home::with_wallet();
    let chain = RunningChain::start(&home, &[]);
    home.point_config_at(chain.url());
    let (code, report) = examined(&home);
    assert_eq!(
        (code, &report["healthy"]),
        (0, &Value::Bool(true)),
        "{report}"
    );
    for check in [
        "home",
        "disk",
        "keystore",
        "config",
        "chain eip155:402402",
        "clock eip155:402402",
        "contracts eip155:402402",
        "asset TESTUSD",
    ] {
        assert_ne!(finding(&report, check)["health"], "bad", "{report}");
    }
    let store = finding(&report, "store_chain")["message"].as_str().unwrap();
    assert!(store.contains(&chain.pid().to_string()), "{store}");
    let people = home.run(&["doctor"]);
    assert!(
        people.stdout.contains("Nothing has to be mended"),
        "{people:?}"
    );
}

#[test]
fn each_fault_comes_with_what_mends_it() {
    let home = Home::new();
    let chain = RunningChain::start(&home, &[]);
    home.point_config_at(chain.url());
    let (code, report) = examined(&home);
    assert_eq!(code, 1);
    assert!(
        finding(&report, "keystore")["mend"]
            .as_str()
            .unwrap()
            .contains("hearth wallet new")
    );
    home.run(&["wallet", "new", "--json"]).json();
    assert_eq!(examined(&home).0, 0);

    std::fs::set_permissions(home.keystore(), Permissions::from_mode(0o640)).unwrap();
    std::fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    let (code, report) = examined(&home);
    assert_eq!(code, 1);
    assert!(
        finding(&report, "keystore")["mend"]
            .as_str()
            .unwrap()
            .contains("chmod 600")
    );
    let folder = finding(&report, "home");
    assert_eq!(folder["health"], "warning");
    assert!(folder["mend"].as_str().unwrap().contains("chmod 700"));
    std::fs::set_permissions(home.keystore(), Permissions::from_mode(0o600)).unwrap();

    home.edit_config("decimals = 6", "decimals = 18");
    let (code, report) = examined(&home);
    assert_eq!(code, 1);
    let token = finding(&report, "asset TESTUSD");
    assert!(
        token["message"].as_str().unwrap().contains("6 decimals"),
        "{token}"
    );
    home.edit_config("decimals = 18", "decimals = 6");
    home.edit_config("(worthless)\", version", "(worth it)\", version");
    let (_, report) = examined(&home);
    assert!(
        finding(&report, "asset TESTUSD")["message"]
            .as_str()
            .unwrap()
            .contains("domain")
    );

    home.edit_config("[device]", "[devise]");
    let (code, report) = examined(&home);
    assert_eq!(code, 1);
    assert!(
        finding(&report, "config")["message"]
            .as_str()
            .unwrap()
            .contains("devise")
    );
}

#[test]
fn a_chain_with_another_number_or_another_time_is_found() {
    let home = Home::with_wallet();
    let chain = RunningChain::start(&home, &["--chain-id", "31337"]);
    home.point_config_at(chain.url());
    let (code, report) = examined(&home);
    assert_eq!(code, 1);
    let found = finding(&report, "chain eip155:402402");
    assert!(
        found["message"].as_str().unwrap().contains("eip155:31337"),
        "{found}"
    );
}
