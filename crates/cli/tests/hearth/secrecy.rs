//! Nothing secret in any log: every flow runs with logging wide open, and all output is searched.

use std::path::Path;

use crate::program::{Home, PASSPHRASE, Running, finish};
use crate::trade::goods;

/// All that a command prints with logging wide open.
fn traced(home: &Home, arguments: &[&str], input: &str) -> (String, String) {
    let mut command = home.command(arguments);
    command.env("RUST_LOG", "trace");
    let outcome = finish(command, input);
    (outcome.stdout, outcome.stderr)
}

fn assert_absent(text: &str, phrase: &str, key: &str) {
    let words: Vec<&str> = phrase.split(' ').collect();
    for part in words.windows(3) {
        assert!(
            !text.contains(&part.join(" ")),
            "three words of the phrase in sequence"
        );
    }
    let key = key.trim_start_matches("0x");
    assert!(!text.to_lowercase().contains(key), "the private key");
    assert!(!text.contains(PASSPHRASE), "the passphrase");
}

/// All that selling and buying print with logging wide open. One household is on both sides.
fn trading(home: &Home, log: &Path) -> String {
    let (upstream, _) = goods();
    let price = ["--price", "0.01", "--listen", "127.0.0.1:0", "--json"];
    let serve = [&["serve-paid", "--to", &upstream][..], &price].concat();
    let service = Running::start_logged(home, &serve, log);
    let url = service.url().to_owned();
    let mut all = service.ready.to_string();
    let mut run = |arguments: &[&str]| {
        let (stdout, stderr) = traced(home, arguments, "");
        all.push_str(&stderr);
        all.push_str(&stdout);
        stdout
    };
    let paid = run(&["pay", &url, "--yes", "--json"]);
    assert!(paid.contains("hello"), "{paid}");
    run(&["pay", &url, "--yes", "--times", "2"]);
    run(&["pay", &url]);
    run(&["channels", "open", &url, "--deposit", "1", "--yes"]);
    run(&["channels", "look"]);
    run(&["channels", "close", "0x12", "--yes"]);
    run(&["channels", "claim"]);
    let refunded = run(&["channels", "refund", &url, "--yes"]);
    assert!(refunded.contains("came back from channel"), "{refunded}");
    let listed = run(&["channels"]);
    assert!(listed.contains("closed"), "{listed}");
    all.push_str(&service.stop("TERM").to_string());
    all.push_str(&std::fs::read_to_string(log).unwrap());
    all
}

#[test]
fn secrets_leave_only_where_they_were_asked_for() {
    let home = Home::new();
    let (made, mut all) = traced(&home, &["wallet", "new", "--json"], "");
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let phrase = made["recovery_phrase"].as_str().unwrap();
    let export = ["wallet", "export", "private-key", "--yes", "--json"];
    let (exported, log) = traced(&home, &export, "");
    all.push_str(&log);
    let exported: serde_json::Value = serde_json::from_str(&exported).unwrap();
    let key = exported["private_key"].as_str().unwrap();
    let (again, log) = traced(&home, &["wallet", "export", "phrase", "--yes"], "");
    assert_eq!(again.trim_end(), phrase);
    all.push_str(&log);

    let fund = format!("{}=9", made["household"].as_str().unwrap());
    let logs = tempfile::tempdir().unwrap();
    let (chain_log, service_log) = (logs.path().join("chain"), logs.path().join("service"));
    let run = ["chain", "run", "--port", "0", "--json", "--fund", &fund];
    let chain = Running::start_logged(&home, &run, &chain_log);
    home.point_config_at(chain.url());
    let stranger = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
    let (first, rest) = phrase.split_once(' ').unwrap();
    let wrong = format!("{rest} {first}x");
    let other = Home::new();
    let flows: [(&Home, &[&str], &str); 9] = [
        (&home, &["wallet", "show"], ""),
        (&home, &["wallet", "balances"], ""),
        (
            &home,
            &["wallet", "sessions", "--devices", "3", "--authorize"],
            "",
        ),
        (
            &home,
            &["wallet", "send", "1", "TESTUSD", stranger, "--yes"],
            "",
        ),
        (
            &home,
            &["wallet", "send", "1000", "TESTUSD", stranger, "--yes"],
            "",
        ),
        (&home, &["wallet", "new"], ""),
        (&home, &["doctor"], ""),
        (&other, &["wallet", "recover"], &wrong),
        (&other, &["wallet", "recover"], phrase),
    ];
    for (home, arguments, input) in flows {
        let (stdout, stderr) = traced(home, arguments, input);
        all.push_str(&stdout);
        all.push_str(&stderr);
    }
    all.push_str(&trading(&home, &service_log));
    all.push_str(&chain.stop("TERM").to_string());
    all.push_str(&std::fs::read_to_string(&chain_log).unwrap());
    assert!(
        all.contains("TRACE") || all.contains("DEBUG"),
        "the log was on"
    );
    assert!(
        all.contains(" Sent 1 TESTUSD.") || all.contains("Sent 1 TESTUSD."),
        "the flows ran: {all}"
    );
    assert_absent(&all, phrase, key);
    // The search itself finds what it looks for.
    for leak in [phrase, key, PASSPHRASE] {
        let found = std::panic::catch_unwind(|| assert_absent(leak, phrase, key));
        assert!(found.is_err());
    }
}

/// Whoever may look at a process, and every program that it starts, sees its environment.
#[cfg(target_os = "linux")]
#[test]
fn a_node_has_no_passphrase_in_its_environment() {
    let home = Home::with_wallet();
    home.edit_config("reach = \"local\"", "reach = \"loopback\"");
    let up = ["up", "--listen", "127.0.0.1:0", "--json", "--no-model"];
    let node = Running::start(&home, &up);
    let environment = std::fs::read(format!("/proc/{}/environ", node.pid())).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(!environment.contains(PASSPHRASE), "the passphrase");
    // Or llama.cpp starts a debugger when it breaks, which inherits all there is.
    assert!(environment.contains("GGML_NO_BACKTRACE=1"));
    node.stop("TERM");
}
