//! Two devices become one household: tickets, tier `household`, kill -9, removal.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{Home, Running};

const MODEL: &str = "smollm2-135m-instruct";
/// How long what devices tell each other may take.
const SOON: Duration = Duration::from_secs(90);

fn up(home: &Home, more: &[&str]) -> Running {
    Running::start(
        home,
        &[&["up", "--listen", "127.0.0.1:0", "--json"], more].concat(),
    )
}

/// A device that reaches others on this machine only.
fn device(name: &str) -> Home {
    let home = Home::with_wallet();
    home.edit_config("reach = \"local\"", "reach = \"loopback\"");
    home.edit_config("\"this device\"", &format!("\"{name}\""));
    home
}

fn test_model() -> PathBuf {
    let path = std::env::var_os("HEARTH_TEST_MODEL");
    path.expect("HEARTH_TEST_MODEL names the test model's file")
        .into()
}

fn names(home: &Home) -> Vec<String> {
    let shown = home.run(&["devices", "--json"]).json();
    let devices = shown["devices"].as_array().unwrap().iter();
    let mut names: Vec<_> = devices
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn invite(home: &Home) -> String {
    let ticket = home.run(&["invite", "--json"]).json();
    ticket["ticket"].as_str().unwrap().to_owned()
}

/// Asks at a tier: the status, and the answer.
fn ask(node: &Running, tier: &str) -> (String, Value) {
    let body = json!({
        "model": MODEL,
        "messages": [{ "role": "user", "content": "Name a colour." }],
        "max_tokens": 4,
        "temperature": 0,
    });
    let asked = Command::new("curl")
        .args([
            "--silent",
            "--max-time",
            "100",
            "--write-out",
            "\n%{http_code}",
        ])
        .args(["--header", "content-type: application/json"])
        .args(["--header", &format!("hearth-tier: {tier}")])
        .args(["--data", &body.to_string()])
        .arg(format!("{}/v1/chat/completions", node.url()))
        .output()
        .unwrap();
    let text = String::from_utf8(asked.stdout).unwrap();
    let (answer, status) = text.rsplit_once('\n').unwrap();
    let answer = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {text}"));
    (status.to_owned(), answer)
}

/// Repeats until `holds`, because devices tell each other in their own time.
fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "{what} within {SOON:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_second_device_belongs_after_kill_9_and_until_it_is_removed() {
    let (tower, phone, thief) = (device("tower"), device("phone"), device("thief"));
    let host = up(&tower, &[]);
    let member = up(&phone, &[]);
    assert_eq!(names(&tower), ["tower"]);
    let ticket = invite(&tower);
    let joined = phone.run(&["join", &ticket, "--json"]).json();
    assert_eq!(joined["household"], tower.household());
    for home in [&tower, &phone] {
        assert_eq!(names(home), ["phone", "tower"]);
    }
    // A ticket is for one device, and neither it nor a member lets anybody else in.
    let stranger = up(&thief, &[]);
    let refused = thief.run(&["join", &ticket, "--json"]).error(1);
    assert_eq!(refused["code"], "not_let_in");
    let said = refused["message"].as_str().unwrap();
    assert!(said.contains("used by another device"), "{said}");
    let refused = phone.run(&["invite", "--json"]).error(1);
    assert_eq!(refused["code"], "not_host");
    let said = refused["next"].as_str().unwrap();
    assert!(said.contains("marked as host"), "{said}");
    stranger.stop("TERM");

    // Killed without a warning, both still know.
    drop((host, member));
    let _host = up(&tower, &[]);
    let member = up(&phone, &["--join", &invite(&tower)]);
    for home in [&tower, &phone] {
        assert_eq!(names(home), ["phone", "tower"]);
    }
    let left = tower.run(&["devices", "remove", "phone", "--json"]).json();
    assert_eq!(left["devices"].as_array().unwrap().len(), 1);
    until("the phone hears that it was removed", || {
        names(&phone) == ["phone"]
    });
    member.stop("TERM");
}

#[test]
#[ignore = "needs outside programs"]
fn a_prompt_of_tier_household_is_answered_by_the_other_device_without_pay() {
    let (tower, phone) = (device("tower"), device("phone"));
    // Other tests keep the processor busy.
    tower.edit_config("busy_percent = 50", "busy_percent = 100");
    let file = test_model();
    let file = file.to_str().unwrap();
    tower
        .run(&["models", "import", file, "--name", MODEL, "--json"])
        .json();
    // Others would have to pay, in a token whose chain nobody runs here: no money can move.
    let priced = [
        "models", "serve", MODEL, "--asset", "TESTUSD", "--prompt", "1", "--output", "3", "--json",
    ];
    tower.run(&priced).json();
    let host = up(&tower, &[]);
    let member = up(&phone, &["--join", host.ready["ticket"].as_str().unwrap()]);
    until("the phone hears of the model", || {
        let offers = phone.run(&["offers", "--json"]).json();
        offers["offers"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    });
    // The whole model by its name; whoever offers it gives it, verified.
    let got = phone.run(&["models", "get", MODEL, "--from-peers", "--json"]);
    let here = tower.run(&["models", "--json"]).json();
    assert_eq!(got.json()["weights"], here["here"][0]["weights"]);
    phone.run(&["models", "remove", MODEL, "--json"]).json();
    let absent = phone
        .run(&["models", "get", "no-such-model", "--json"])
        .error(1);
    assert_eq!(absent["code"], "not_fetched", "{absent}");
    // The network alone makes nobody a member.
    let (status, refused) = ask(&member, "household");
    assert_ne!(status, "200", "{refused}");
    phone.run(&["join", &invite(&tower), "--json"]).json();
    let (status, answer) = ask(&member, "household");
    assert_eq!(status, "200", "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], 4, "{answer}");
    assert_eq!(answer["hearth"]["source"], "household", "{answer}");
    assert_eq!(answer["hearth"]["charged"], json!([]), "{answer}");
    tower.run(&["devices", "remove", "phone", "--json"]).json();
    until("the phone hears that it was removed", || {
        ask(&member, "household").0 != "200"
    });
}

/// A minute of the day that is far from now, by this machine's clock.
fn another_time() -> String {
    let now = Command::new("date").arg("+%H").output().unwrap();
    let hour: u8 = String::from_utf8(now.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let hour = (hour + 12) % 24;
    format!("hours = [\"{hour:02}:00-{hour:02}:01\"]")
}

#[test]
#[ignore = "needs outside programs"]
fn a_device_that_is_closed_to_others_answers_its_household() {
    let (tower, phone, other) = (device("tower"), device("phone"), device("other"));
    tower.edit_config(
        "# hours = [\"22:00-07:00\", \"12:30-13:30\"]",
        &another_time(),
    );
    let file = test_model();
    let import = ["models", "import", file.to_str().unwrap(), "--name", MODEL];
    tower.run(&[&import[..], &["--json"]].concat()).json();
    let free = ["models", "serve", MODEL, "--free", "--json"];
    tower.run(&free).json();
    let host = up(&tower, &[]);
    let member = up(&phone, &["--join", &invite(&tower)]);
    let stranger = up(&other, &["--join", host.ready["ticket"].as_str().unwrap()]);
    for home in [&phone, &other] {
        until("the offer stands for the household alone", || {
            let offers = home.run(&["offers", "--json"]).json();
            offers["offers"][0]["audience"] == "household"
        });
    }
    let (status, answer) = ask(&member, "household");
    assert_eq!(status, "200", "{answer}");
    let (status, refused) = ask(&stranger, "network");
    assert_ne!(status, "200", "{refused}");

    // Who leaves is told whether the host knows.
    let left = phone.run(&["devices", "leave", "--json"]).json();
    assert_eq!(left["is_host_told"], true, "{left}");
    assert_eq!(left["household"], tower.household());
    assert_eq!(names(&tower), ["tower"]);
    let (status, refused) = ask(&member, "network");
    assert_ne!(status, "200", "{refused}");
    phone.run(&["join", &invite(&tower), "--json"]).json();
    drop(host);
    let left = phone.run(&["devices", "leave"]);
    assert_eq!(left.code, 0, "{left:?}");
    assert!(left.stdout.contains("could not be reached"), "{left:?}");
    assert!(left.stdout.contains("hearth devices remove"), "{left:?}");
}
