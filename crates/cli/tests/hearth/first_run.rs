//! The first run of `hearth up`, without a person at a terminal.

use std::process::Stdio;

use crate::program::{Home, Running, finish};

/// An address on which nothing listens: port 1 is reserved.
const NOWHERE: &str = "http://127.0.0.1:1";

/// `hearth up` where every way out of the machine leads nowhere.
fn offline(home: &Home, more: &[&str]) -> std::process::Command {
    let arguments = [&["up", "--listen", "127.0.0.1:0", "--json"], more].concat();
    let mut command = home.command(&arguments);
    command
        .env("HTTP_PROXY", NOWHERE)
        .env("HTTPS_PROXY", NOWHERE)
        .env("NO_PROXY", "127.0.0.1")
        .env("PIP_INDEX_URL", NOWHERE)
        .env("PIP_RETRIES", "0")
        .env("PIP_CONFIG_FILE", "/dev/null");
    command
}

#[test]
fn without_a_terminal_nothing_is_made_that_was_not_agreed_to() {
    let home = Home::new();
    let outcome = finish(offline(&home, &[]), "");
    let error = outcome.error(1);
    assert_eq!(error["code"], "keystore_missing");
    let next = error["next"].as_str().unwrap();
    assert!(
        next.contains("--yes") && next.contains("wallet new"),
        "{next}"
    );
    assert!(!home.keystore().exists());
}

#[test]
fn a_bare_and_offline_device_comes_up_and_says_what_it_lacks() {
    let home = Home::new();
    home.run(&["doctor", "--json"]);
    home.edit_config("reach = \"local\"", "reach = \"loopback\"");
    let mut command = offline(&home, &["--yes"]);
    command.stderr(Stdio::inherit());
    let node = Running::spawn_first(command, "wallet");
    let words = node.ready["recovery_phrase"].as_str().unwrap();
    assert_eq!(words.split(' ').count(), 12);
    let household = node.ready["household"].clone();
    let ready = node.event("ready", |_| true);
    assert_eq!(ready["household"], household);
    assert_eq!(ready["models"].as_array().unwrap().len(), 0);
    let warnings = ready["warnings"].to_string();
    assert!(warnings.contains("No model could be fetched"), "{warnings}");
    assert!(warnings.contains("hearth models get"), "{warnings}");
    assert_eq!(node.stop("TERM")["event"], "stopped");
    // The second time there is a wallet, and its words are not shown again.
    let again = Running::start(
        &home,
        &["up", "--listen", "127.0.0.1:0", "--json", "--no-model"],
    );
    assert_eq!(again.ready["household"], household);
    assert!(!again.ready["warnings"].to_string().contains("No model"));
    again.stop("TERM");
}

#[test]
fn a_model_that_cannot_be_run_keeps_no_device_from_coming_up() {
    let home = Home::with_wallet();
    home.edit_config("reach = \"local\"", "reach = \"loopback\"");
    home.edit_config("# [models.\"smollm2-135m-instruct\"]", "[models.\"gone\"]");
    let up = ["up", "--listen", "127.0.0.1:0", "--json", "--no-model"];
    let node = Running::start(&home, &up);
    let warnings = node.ready["warnings"].to_string();
    assert!(
        warnings.contains("Left out: the model gone cannot be used"),
        "{warnings}"
    );
    assert_eq!(node.stop("TERM")["event"], "stopped");
    // One that is asked for by its name is served, or said not to be.
    let asked = home.run(&["up", "--listen", "127.0.0.1:0", "--json", "--model", "gone"]);
    assert_eq!(asked.error_code(1), "model");
}

#[test]
fn a_limit_in_watts_is_kept_or_refused_never_ignored() {
    let home = Home::with_wallet();
    home.edit_config("reach = \"local\"", "reach = \"loopback\"");
    home.edit_config("# watts = 65", "watts = 65");
    let mut command = home.command(&["up", "--listen", "127.0.0.1:0", "--json", "--no-model"]);
    // Without NVIDIA's program, only the processor's counters can tell.
    command.env("PATH", "/nonexistent");
    let counters = std::path::Path::new("/sys/class/powercap/intel-rapl:0/energy_uj");
    if std::fs::read_to_string(counters).is_ok() {
        let node = Running::spawn_first(command, "ready");
        node.stop("TERM");
    } else {
        let error = finish(command, "").error(1);
        assert_eq!(error["code"], "watts_unmeasurable");
        assert!(error["next"].as_str().unwrap().contains("[sharing]"));
    }
}
