//! Nodes in network namespaces: they reach each other only over lines that are slow, lose packets, or are cut.
//!
//! The lines are made by `tests/outside/python/link.py`, which also undoes everything, however a test ends. It needs
//! root on Linux and `ip` of iproute2; where one is missing, `cargo xtask test` leaves these tests out and says so.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::Process;
use crate::program::{Home, Running, RunningNode, finish};
use crate::programs::python;

const MODEL: &str = "smollm2-135m-instruct";
/// What the payer has at first, in whole tokens and in atomic units.
const FUNDS: (&str, u128) = ("100", 100_000_000);
/// The longest that a client may wait for the next piece of an answer whose provider is lost.
const FAILOVER_MAX: Duration = Duration::from_secs(4);
/// How much longer, where the next provider was never paid before: a deposit has to be in the chain first.
const FIRST_DEPOSIT_MAX: Duration = Duration::from_secs(2);
/// How long any one thing may take.
const LONG: Duration = Duration::from_secs(120);
/// How often a state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Where the chain is, on the loopback address of each namespace.
const CHAIN_PORT: u16 = 8_545;
/// Where programs ask a node, as its configuration says.
const API_PORT: u16 = 4_040;
/// Frames that are lost.
const LOSS: f64 = 0.01;
/// What each line carries.
const BITS_PER_S: u64 = 10_000_000;
/// What the providers ask for a million tokens of prompts and of answers, in whole tokens; A is asked first.
const PRICES_A: (&str, &str) = ("20", "60");
const PRICES_C: (&str, &str) = ("30", "90");
/// The length of an answer whose provider is lost, and of another.
const ANSWER_TOKENS: u64 = 90;
const SHORT_TOKENS: u64 = 20;
/// Pieces of an answer after which something happens to its provider.
const BREAK_AFTER: u64 = 30;

/// The namespaces and the lines between them.
struct Lines {
    switch: Process,
    namespaces: Value,
}

impl Lines {
    /// Perfect lines, and the chain in the namespace of `chain`.
    fn new(households: &[&str], chain: &str) -> Self {
        Self::with(households, Some(chain))
    }

    /// Perfect lines; what is at the port of a chain in the namespace of `chain` is in reach of all.
    fn with(households: &[&str], chain: Option<&str>) -> Self {
        let seed: u64 = env::var("HEARTH_SEED").map_or(4_711, |seed| seed.parse().unwrap());
        println!("the seed of the lines is {seed}: set HEARTH_SEED to draw others");
        let mut config = json!({ "households": households, "seed": seed });
        if let Some(chain) = chain {
            config["chain"] = json!({ "household": chain, "port": CHAIN_PORT });
        }
        let mut switch = Process::start("the lines", &mut python("link.py", &config));
        let namespaces = switch.json("ready")["ready"].clone();
        Self { switch, namespaces }
    }

    fn home(&self, household: &str) -> Home {
        Home::within(self.namespaces[household]["namespace"].as_str().unwrap())
    }

    /// Makes every line as bad as that.
    fn set_all(&mut self, delay_ms: u64, loss: f64, bits_per_s: u64) {
        let households: Vec<String> = self
            .namespaces
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        for household in households {
            self.switch.send(&json!({
                "line": household, "delay_ms": delay_ms, "loss": loss, "bits_per_s": bits_per_s,
            }));
            self.switch.json("set");
        }
    }

    fn address(&self, household: &str) -> &str {
        self.namespaces[household]["address"].as_str().unwrap()
    }

    /// Lets nothing pass between two households, though both reach the others.
    fn wall(&mut self, one: &str, other: &str) {
        self.switch.send(&json!({ "walls": [[one, other]] }));
        self.switch.json("walls");
    }

    /// Lets nothing pass from one side to another; no side at all heals.
    fn part(&mut self, sides: &[&[&str]]) {
        self.switch.send(&json!({ "sides": sides }));
        self.switch.json("sides");
    }

    /// Where this machine reaches a household's port.
    fn expose(&mut self, household: &str, port: u16) -> String {
        self.switch
            .send(&json!({ "expose": household, "port": port }));
        let exposed = self.switch.json("exposed");
        format!("127.0.0.1:{}", exposed["exposed"])
    }

    fn print_counts(&mut self) {
        self.switch.send(&json!({ "counts": true }));
        println!(
            "frames on the lines: {}",
            self.switch.json("counts")["counts"]
        );
    }
}

/// Prepares a household: a wallet, and a configuration for two cores that others use too.
fn prepare(home: &Home) {
    home.run(&["wallet", "new", "--json"]).json();
    home.point_config_at(&format!("http://127.0.0.1:{CHAIN_PORT}"));
    home.edit_config("threads = 0", "threads = 1");
    home.edit_config("keyless_tier = \"household\"", "keyless_tier = \"network\"");
    home.edit_config("context_tokens = 8192", "context_tokens = 1024");
    home.edit_config("busy_percent = 50", "busy_percent = 100");
}

/// Lets a household serve the model for a price, in whole tokens for a million.
fn serve(home: &Home, (prompt, output): (&str, &str)) {
    let file =
        env::var("HEARTH_TEST_MODEL").expect("HEARTH_TEST_MODEL names the test model's file");
    home.run(&["models", "import", &file, "--name", MODEL, "--json"])
        .json();
    home.run(&[
        "models", "serve", MODEL, "--asset", "TESTUSD", "--prompt", prompt, "--output", output,
        "--json",
    ])
    .json();
}

/// Runs the chain, on which `payer` has money.
fn start_chain(owner: &Home, payer: &Home) -> Running {
    let (port, fund) = (
        CHAIN_PORT.to_string(),
        format!("{}={}", payer.household(), FUNDS.0),
    );
    let run = ["chain", "run", "--port", &port, "--fund", &fund, "--json"];
    Running::start(owner, &run)
}

/// A device that is up, ended by a signal that it cannot answer when it is dropped.
struct Up {
    home: Home,
    running: Running,
    ticket: String,
}

impl Up {
    fn start(home: Home, join: &[&str]) -> Self {
        let mut arguments = vec!["up", "--no-model", "--window-tokens", "24", "--json"];
        for ticket in join {
            arguments.extend(["--join", ticket]);
        }
        let running = Running::start(&home, &arguments);
        assert_eq!(running.ready["warnings"], json!([]), "{}", running.ready);
        let ticket = running.ready["ticket"].as_str().unwrap().to_owned();
        Self {
            home,
            running,
            ticket,
        }
    }

    fn device(&self) -> String {
        self.running.ready["device"].as_str().unwrap().to_owned()
    }

    /// Waits until it sees the offers of `count` devices that may be asked.
    fn sees_offers(&self, count: usize) {
        wait_until("the offers", || {
            let offers = self.home.run(&["offers", MODEL, "--json"]);
            offers.code == 0 && offers.json()["offers"].as_array().unwrap().len() == count
        });
    }

    /// What answers cost by its receipts, in atomic units, and how many tokens they had.
    fn trades(&self, side: &str) -> (u128, u64) {
        let earnings = self.home.run(&["earnings", "--json"]).json();
        let trades = earnings[side].as_array().unwrap();
        let charged = trades
            .iter()
            .flat_map(|trade| trade["charged"].as_array().unwrap());
        let tokens = trades
            .iter()
            .map(|trade| trade["output_tokens"].as_u64().unwrap());
        (charged.map(units).sum(), tokens.sum())
    }
}

fn units(money: &Value) -> u128 {
    money["units"].as_str().unwrap().parse().unwrap()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LONG, "waited too long for {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// What a client of the OpenAI surface got.
#[derive(Debug, Default)]
struct Heard {
    text: String,
    tokens: u64,
    /// The longest wait from one piece to the next.
    longest_wait: Duration,
    /// The device that answered last.
    provider: String,
    /// What an answer that broke off said.
    error: Option<Value>,
    took: Duration,
}

/// Asks for an answer of exactly `tokens` tokens; `after` is told how many pieces came so far.
fn ask(address: &str, tokens: u64, mut after: impl FnMut(u64)) -> Heard {
    let body = json!({
        "model": MODEL,
        "messages": [{ "role": "user", "content": "Tell me a story." }],
        "max_tokens": tokens,
        "seed": 42,
        "stream": true,
        "stream_options": { "include_usage": true },
        // The ends of the text are made impossible, so that the answer is as long as it may be.
        "logit_bias": { "0": -100, "2": -100 },
    })
    .to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let length = body.len();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:4040\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let (began, mut last, mut pieces) = (Instant::now(), None, 0);
    let mut heard = Heard::default();
    let mut reader = BufReader::new(stream);
    let mut status = String::new();
    reader.read_line(&mut status).unwrap();
    if !status.contains(" 200 ") {
        reader.read_to_string(&mut status).unwrap();
        panic!("{status}");
    }
    for line in reader.lines() {
        let line = line.unwrap();
        let Some(event) = line.strip_prefix("data: ").filter(|data| *data != "[DONE]") else {
            continue;
        };
        let event: Value = serde_json::from_str(event).unwrap();
        if !event["error"].is_null() {
            heard.error = Some(event["error"].clone());
        }
        let text = event["choices"][0]["delta"]["content"]
            .as_str()
            .unwrap_or_default();
        if !text.is_empty() {
            let now = Instant::now();
            let wait = last.replace(now).map_or(Duration::ZERO, |last| now - last);
            heard.longest_wait = heard.longest_wait.max(wait);
            heard.text.push_str(text);
            pieces += 1;
            after(pieces);
        }
        if let Some(tokens) = event["usage"]["completion_tokens"].as_u64() {
            heard.tokens = tokens;
        }
        if let Some(provider) = event["hearth"]["provider"].as_str() {
            heard.provider = provider.to_owned();
        }
    }
    heard.took = began.elapsed();
    heard
}

/// A chain, two providers and a payer, each in a namespace.
struct World {
    lines: Lines,
    _chain: Running,
    up: BTreeMap<&'static str, Up>,
    /// Where programs ask the payer.
    payer: String,
    /// What the payer's client was delivered, in tokens.
    delivered_tokens: u64,
}

impl World {
    /// All of it, over lines of 20 ms in each direction.
    fn start() -> Self {
        let mut lines = Lines::new(&["a", "b", "c", "chain"], "chain");
        lines.set_all(20, LOSS, BITS_PER_S);
        let [a, b, c, owner] = ["a", "b", "c", "chain"].map(|name| lines.home(name));
        [&a, &b, &c].into_iter().for_each(prepare);
        let chain = start_chain(&owner, &b);
        for (home, prices) in [(&a, PRICES_A), (&c, PRICES_C)] {
            serve(home, prices);
            // Where others find it again when it was restarted.
            home.edit_config("listen = []", "listen = [\"0.0.0.0:4041\"]");
        }
        let a = Up::start(a, &[]);
        let c = Up::start(c, &[&a.ticket]);
        let b = Up::start(b, &[&a.ticket, &c.ticket]);
        b.sees_offers(2);
        let payer = lines.expose("b", API_PORT);
        Self {
            lines,
            _chain: chain,
            up: BTreeMap::from([("a", a), ("b", b), ("c", c)]),
            payer,
            delivered_tokens: 0,
        }
    }

    fn up(&self, name: &str) -> &Up {
        &self.up[name]
    }

    /// Ends a device as a power cut would, and brings it up again.
    fn restart(&mut self, name: &'static str) {
        let Up { home, running, .. } = self.up.remove(name).unwrap();
        drop(running);
        self.up.insert(name, Up::start(home, &[]));
    }

    fn ask(&mut self, what: &str, tokens: u64, mut after: impl FnMut(u64, &mut Lines)) -> Heard {
        let heard = ask(&self.payer, tokens, |pieces| after(pieces, &mut self.lines));
        println!(
            "{what}: {} tokens in {:.1} s, the longest wait {} ms",
            heard.tokens,
            heard.took.as_secs_f64(),
            heard.longest_wait.as_millis()
        );
        // An answer that broke off does not say how long it was.
        self.delivered_tokens += match heard.error {
            None => heard.tokens,
            Some(_) => tokens,
        };
        heard
    }

    /// Asks for an answer whose provider is lost in the middle, and that `heir` ends.
    fn ask_and_lose(
        &mut self,
        what: &str,
        (heir, longest): (&str, Duration),
        mut lose: impl FnMut(&mut Lines),
    ) {
        let heard = self.ask(what, ANSWER_TOKENS, |pieces, lines| {
            if pieces == BREAK_AFTER {
                lose(lines);
            }
        });
        assert_eq!(
            (heard.tokens, &heard.error),
            (ANSWER_TOKENS, &None),
            "{heard:?}"
        );
        assert_eq!(heard.provider, self.up(heir).device(), "{heard:?}");
        assert!(heard.longest_wait < longest, "{what}: {heard:?}");
    }

    /// Asks, and must be answered.
    fn is_answered(&mut self, what: &str) {
        let heard = self.ask(what, SHORT_TOKENS, |_, _| {});
        assert_eq!(
            (heard.tokens, &heard.error),
            (SHORT_TOKENS, &None),
            "{heard:?}"
        );
    }

    /// Ends everything, claims, and compares the books of all with the chain.
    fn settle(mut self) {
        let (spent, bought_tokens) = self.up("b").trades("bought");
        assert!(
            bought_tokens <= self.delivered_tokens,
            "{bought_tokens} tokens were charged, {} delivered",
            self.delivered_tokens
        );
        let ended = |up: Up| up.home;
        let homes = ["a", "b", "c"].map(|name| ended(self.up.remove(name).unwrap()));
        let [a, b, c] = &homes;
        let books = b.run(&["channels", "list", "--json"]).json();
        let paying = books["paying"].as_array().unwrap();
        let (mut earned, mut deposited, mut reserved) = (0, 0, 0);
        for provider in [a, c] {
            provider.run(&["channels", "claim", "--json"]).json();
            let account = provider.household();
            let of_it = paying
                .iter()
                .filter(|channel| channel["counterpart"] == account.as_str());
            let sums = of_it.map(|channel| {
                ["charged", "reserved", "balance"].map(|name| units(&channel[name]))
            });
            let [charged, open, balance] =
                sums.fold([0; 3], |sum, next| [0, 1, 2].map(|at| sum[at] + next[at]));
            let has = balance_of(provider);
            println!(
                "one provider has {has}: the payer's books say {charged} and up to {open} more"
            );
            assert!(
                has > 0 && (charged..=charged + open).contains(&has),
                "{books:#}"
            );
            earned += has;
            deposited += balance;
            reserved += open;
        }
        assert_eq!(
            balance_of(b) + deposited,
            FUNDS.1,
            "tokens were lost or made"
        );
        assert!(
            (spent..=spent + reserved).contains(&earned),
            "{earned} earned, {spent} spent, {reserved} open"
        );
        self.lines.print_counts();
    }
}

fn balance_of(home: &Home) -> u128 {
    let balances = home.run(&["wallet", "balances", "--json"]).json();
    let text = balances.to_string();
    let chains = balances["chains"]
        .as_array()
        .unwrap_or_else(|| panic!("{text}"));
    let assets = chains
        .iter()
        .flat_map(|chain| chain["balances"].as_array().unwrap());
    let dollars = assets.filter(|asset| asset["symbol"] == "TESTUSD");
    dollars.map(units).sum()
}

fn kill(pid: u32) {
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(killed.unwrap().success());
}

#[test]
#[ignore = "needs outside programs"]
fn answers_go_on_over_bad_lines_and_nothing_is_paid_twice() {
    let mut world = World::start();
    world.is_answered("20 ms, undisturbed");
    let pid = world.up("a").running.pid();
    // C was never paid before.
    let c = ("c", FAILOVER_MAX + FIRST_DEPOSIT_MAX);
    world.ask_and_lose("20 ms, its provider killed", c, |_| kill(pid));
    world.restart("a");
    world.up("a").sees_offers(1);

    world.lines.set_all(100, LOSS, BITS_PER_S);
    let a = ("a", FAILOVER_MAX);
    world.ask_and_lose("100 ms, its provider cut off", a, |lines| {
        lines.part(&[&["c"], &["a", "b", "chain"]]);
    });
    world.lines.part(&[]);

    let alone = world.ask("cut off from everybody", ANSWER_TOKENS, |pieces, lines| {
        if pieces == BREAK_AFTER {
            lines.part(&[&["b"], &["a", "c", "chain"]]);
        }
    });
    let error = alone.error.as_ref().unwrap_or_else(|| panic!("{alone:?}"));
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{error}"
    );
    world.lines.part(&[]);
    world.is_answered("healed");
    world.settle();
}

/// Asks at `address`, and must be answered.
fn is_answered(address: &str, what: &str) {
    let heard = ask(address, SHORT_TOKENS, |_| {});
    println!(
        "{what}: {} tokens in {:.1} s",
        heard.tokens,
        heard.took.as_secs_f64()
    );
    assert_eq!(
        (heard.tokens, &heard.error),
        (SHORT_TOKENS, &None),
        "{heard:?}"
    );
}

#[test]
#[ignore = "needs outside programs"]
fn nodes_on_one_local_network_find_each_other_without_a_ticket() {
    let mut lines = Lines::new(&["a", "b"], "a");
    let [a, b, owner] = ["a", "b", "a"].map(|name| lines.home(name));
    [&a, &b].into_iter().for_each(prepare);
    let _chain = start_chain(&owner, &b);
    serve(&a, PRICES_A);
    let _a = Up::start(a, &[]);
    let b = Up::start(b, &[]);
    b.sees_offers(1);
    is_answered(&lines.expose("b", API_PORT), "found by multicast DNS");
}

#[test]
#[ignore = "needs outside programs"]
fn nodes_behind_a_wall_reach_each_other_through_a_relay() {
    let mut lines = Lines::new(&["a", "b", "relay"], "relay");
    lines.wall("a", "b");
    let [a, b, owner] = ["a", "b", "relay"].map(|name| lines.home(name));
    let listen = format!("{}:3340", lines.address("relay"));
    let relay = Running::start(&owner, &["relay", "--listen", &listen, "--json"]);
    for home in [&a, &b] {
        prepare(home);
        home.edit_config("relays = []", &format!("relays = [\"{}\"]", relay.url()));
    }
    let _chain = start_chain(&owner, &b);
    serve(&a, PRICES_A);
    let a = Up::start(a, &[]);
    let b = Up::start(b, &[&a.ticket]);
    b.sees_offers(1);
    is_answered(&lines.expose("b", API_PORT), "through the relay alone");
    assert_eq!(relay.stop("TERM")["event"], "stopped");
}

#[test]
#[ignore = "needs outside programs"]
fn two_machines_that_were_just_set_up_pay_each_other_without_an_address() {
    let lines = Lines::with(&["a", "b"], None);
    let [a, b] = ["a", "b"].map(|name| lines.home(name));
    // What `hearth up --yes` would fetch from the internet lies on this machine; nothing else is prepared.
    a.run(&["doctor", "--json"]);
    RunningNode::prepare_catalogue(&a);
    let mut first = a.command(&["up", "--yes", "--json"]);
    first.stderr(std::process::Stdio::inherit());
    let host = Running::spawn_first(first, "wallet");
    let ready = host.event("ready", |_| true);
    let said = ready["warnings"].to_string();
    assert!(said.contains("was fetched instead"), "{said}");
    assert_eq!(ready["chain"]["is_own"], true, "{ready}");
    let ticket = a.run(&["invite", "--network", "--json"]).json();
    let ticket = ticket["ticket"].as_str().unwrap();

    let joined = finish(b.command(&["join", ticket, "--json"]), "").json();
    assert_eq!(joined["chain"], ready["chain"]["chain"], "{joined}");
    let mut second = b.command(&["up", "--yes", "--no-model", "--json"]);
    second.stderr(std::process::Stdio::inherit());
    let guest = Running::spawn_first(second, "wallet");
    let up = guest.event("ready", |_| true);
    assert_eq!(up["warnings"], json!([]), "{up}");
    assert_eq!(up["chain"]["host"], ready["device"], "{up}");
    wait_until("the offer", || {
        let offers = b.run(&["offers", MODEL, "--json"]);
        offers.code == 0 && offers.json()["offers"].as_array().unwrap().len() == 1
    });
    let asked = [
        "chat",
        "--model",
        MODEL,
        "--max-tokens",
        "8",
        "Hello.",
        "--json",
    ];
    let answer = b.run(&asked);
    assert_eq!(answer.code, 0, "{answer:?}");
    let earned = a.run(&["earnings", "--json"]).json();
    assert_eq!(earned["sold"][0]["answers"], 1, "{earned}");
    for home in [&a, &b] {
        let report: Value = serde_json::from_str(&home.run(&["doctor", "--json"]).stdout).unwrap();
        assert_eq!(report["healthy"], true, "{report}");
    }
}
