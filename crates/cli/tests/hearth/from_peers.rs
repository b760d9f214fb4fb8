//! `hearth models get --from-peers` between two nodes, each of which is killed on the way: what was
//! verified stays, and is not sent again.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{Home, MODEL, Running};

/// How fast the model is given, in KiB a second: slow enough to be stopped on the way.
const UPLOAD_KIB_PER_S: u32 = 8 << 10;
/// What may have arrived and not been written when a process is killed, in bytes.
const UNWRITTEN_BYTES_MAX: u64 = 4 << 20;
/// How long a transfer may show nothing new, and how long devices may take to hear of each other.
const PATIENCE: Duration = Duration::from_secs(90);

fn device(name: &str) -> Home {
    let home = Home::with_wallet();
    home.edit_config("reach = \"local\"", "reach = \"loopback\"");
    home.edit_config("\"this device\"", &format!("\"{name}\""));
    // Other tests keep the processor busy.
    home.edit_config("busy_percent = 50", "busy_percent = 100");
    home
}

fn up(home: &Home, more: &[&str]) -> Running {
    let usual = ["up", "--listen", "127.0.0.1:0", "--json", "--no-model"];
    Running::start(home, &[&usual, more].concat())
}

fn ticket(node: &Running) -> &str {
    node.ready["ticket"].as_str().unwrap()
}

/// A node that joined the other's network, and has heard of the model.
fn joined(home: &Home, to: &Running) -> Running {
    let node = up(home, &["--join", ticket(to)]);
    hears(home);
    node
}

fn hears(home: &Home) {
    let end = Instant::now() + PATIENCE;
    while home.run(&["offers", "--json"]).json()["offers"] == json!([]) {
        assert!(Instant::now() < end, "the model is offered");
        thread::sleep(Duration::from_millis(200));
    }
}

/// What a node tells of a fetch to one that asks for it.
struct Fetch {
    asker: Child,
    events: Receiver<Value>,
}

impl Fetch {
    fn ask(home: &Home) -> Self {
        let node = fs::read_to_string(home.path().join("node.json")).unwrap();
        let node: Value = serde_json::from_str(&node).unwrap();
        let text = |field: &str| node[field].as_str().unwrap().to_owned();
        let mut asker = Command::new("curl")
            .args(["--silent", "--no-buffer"])
            .args(["--header", "content-type: application/json"])
            .args([
                "--header",
                &format!("authorization: Bearer {}", text("token")),
            ])
            .args(["--data", &json!({ "name": MODEL }).to_string()])
            .arg(format!("{}/hearth/models/fetch", text("url")))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(asker.stdout.take().unwrap()).lines();
        let (told, events) = channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(data) = line.strip_prefix("data: ") {
                    let event = serde_json::from_str(data).unwrap();
                    if told.send(event).is_err() {
                        return;
                    }
                }
            }
        });
        Self { asker, events }
    }

    fn next(&self) -> Value {
        let event = self.events.recv_timeout(PATIENCE);
        event.expect("the node tells how far the fetch is")
    }

    /// The first bytes that it tells of, and those when `percent` of the file are here.
    fn until(&self, percent: u64) -> (u64, u64) {
        let mut first = None;
        loop {
            let event = self.next();
            assert_eq!(event["event"], "progress", "{event}");
            let (done, total) = (&event["done_bytes"], &event["total_bytes"]);
            let (done, total) = (done.as_u64().unwrap(), total.as_u64().unwrap());
            if done > 0 {
                let first = *first.get_or_insert(done);
                if done >= total / 100 * percent {
                    return (first, done);
                }
            }
        }
    }

    /// How it ended.
    fn end(&self) -> Value {
        loop {
            let event = self.next();
            if event["event"] != "progress" {
                return event;
            }
        }
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        drop(self.asker.kill());
        drop(self.asker.wait());
    }
}

fn sha256(path: &Path) -> String {
    let summed = Command::new("sha256sum").arg(path).output().unwrap();
    let text = String::from_utf8(summed.stdout).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

#[test]
#[ignore = "needs outside programs"]
fn a_fetch_goes_on_where_it_was_when_the_command_or_either_node_is_killed() {
    let (tower, phone) = (device("tower"), device("phone"));
    let limit = format!("upload_kib_per_s = {UPLOAD_KIB_PER_S}");
    tower.edit_config("# upload_kib_per_s = 2000", &limit);
    let original = std::env::var("HEARTH_TEST_MODEL").expect("HEARTH_TEST_MODEL names the model");
    let import = ["models", "import", &original, "--name", MODEL, "--json"];
    tower.run(&import).json();
    tower
        .run(&["models", "serve", MODEL, "--free", "--json"])
        .json();
    let host = up(&tower, &[]);
    let node = joined(&phone, &host);

    // The command: the node goes on without it, and tells who asks again how far it is.
    let get = ["models", "get", MODEL, "--from-peers", "--json"];
    let mut command = phone.command(&get).spawn().unwrap();
    let (_, seen) = Fetch::ask(&phone).until(10);
    command.kill().unwrap();
    command.wait().unwrap();
    let (first, seen) = {
        let again = Fetch::ask(&phone);
        let (first, _) = again.until(10);
        assert!(first >= seen, "{first} bytes of {seen}: it began anew");
        again.until(25)
    };
    assert!(first <= seen);

    // The node that fetches.
    drop(node);
    let node = joined(&phone, &host);
    let fetch = Fetch::ask(&phone);
    let (first, _) = fetch.until(1);
    assert!(
        first + UNWRITTEN_BYTES_MAX >= seen,
        "{first} bytes of {seen} were kept"
    );
    let (_, seen) = fetch.until(50);

    // The node that gives.
    drop(host);
    let failed = fetch.end();
    assert_eq!(failed["event"], "failed", "{failed}");
    let host = up(&tower, &[]);
    phone.run(&["join", ticket(&host), "--json"]).json();
    hears(&phone);
    let fetch = Fetch::ask(&phone);
    let (first, _) = fetch.until(1);
    assert!(
        first + UNWRITTEN_BYTES_MAX >= seen,
        "{first} bytes of {seen} were kept"
    );
    let done = fetch.end();
    assert_eq!(done["event"], "done", "{done}");

    let file = phone.path().join("models").join(format!("{MODEL}.gguf"));
    assert_eq!(sha256(&file), sha256(Path::new(&original)));
    let unfinished = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("fetching")).count()
    };
    assert_eq!(unfinished(&phone.path()), 0);
    // What is here is not fetched again.
    let again = Fetch::ask(&phone);
    let events = [again.next(), again.end()];
    assert_eq!(events[0]["done_bytes"], 0, "{events:?}");
    assert_eq!(events[1], done);
    assert_eq!(phone.run(&get).json()["weights"], done["weights"]);
    drop((host, node));
}
