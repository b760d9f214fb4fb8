//! The chain, the seller and the payer as real processes, each killed (`kill -9`) again and again while requests are
//! paid. At the end nobody has lost or gained an atomic unit.
//!
//! A process is killed after it has written so many bytes of its most verbose log, a number drawn from a seed: that puts
//! the kills anywhere in what it does, its start included, without waiting for a time. The seed is printed;
//! `HEARTH_KILL_SEED=17` repeats it, as far as processes side by side can be repeated.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::chain::SETTLEMENT;
use crate::program::{Home, RunningService};
use crate::trade::{goods, holds, units};

/// How often each process is killed.
const KILLS_EACH: usize = 4;
/// The most bytes of log after which a process is killed, by [`Role`]: about what a few paid requests write.
const LOG_BYTES_MAX: [i64; 3] = [6_000, 40_000, 12_000];
/// A fuse that does not burn.
const UNARMED: i64 = i64::MAX;
/// Requests that one `hearth pay` makes.
const REQUESTS_PER_RUN: &str = "3";
/// The most payers that are started while one process waits for its end.
const RUNS_PER_KILL_MAX: usize = 40;
/// The most ports that are tried.
const PORT_TRIES: usize = 100;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The price of a request, as a person writes it and in atomic units.
const PRICE: (&str, u128) = ("0.01", 10_000);
/// What the payer has at first, in whole tokens and in atomic units.
const FUNDS: (u32, u128) = (50, 50_000_000);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Chain,
    Service,
    Payer,
}

#[derive(Debug)]
enum Event {
    /// A process was killed by its fuse.
    Killed(Role),
    /// A payer ended, by itself or not, and had printed this.
    PayerEnded(String),
}

/// Numbers that look random and follow from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// A port that nobody listens on, below those that the system gives to connections: none takes it while the program
    /// behind it is started again.
    fn free_port(&mut self) -> u16 {
        let mut ports = (0..PORT_TRIES).map(|_| 20_000 + u16::try_from(self.roll(12_000)).unwrap());
        let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        ports.find(is_free).expect("a free port")
    }

    /// Each process as often as the others, in any order.
    fn victims(&mut self) -> Vec<Role> {
        let mut victims = [Role::Chain, Role::Service, Role::Payer].repeat(KILLS_EACH);
        for last in (1..victims.len()).rev() {
            let other = usize::try_from(self.roll(last as u64 + 1)).unwrap();
            victims.swap(last, other);
        }
        victims
    }
}

/// A process of a role; it dies when this is dropped.
struct Process {
    child: Arc<Mutex<Child>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&self.child);
    }
}

fn end(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap();
    // It may have ended by itself.
    drop(child.kill());
    drop(child.wait());
}

struct World {
    homes: [Home; 3],
    ports: [u16; 2],
    upstream: String,
    answered: Arc<AtomicU64>,
    fuses: [Arc<AtomicI64>; 3],
    running: [Option<Process>; 3],
    sender: Sender<Event>,
    events: Receiver<Event>,
    /// Processes that ended because the chain was away when they started.
    gave_up: Vec<Role>,
    /// Requests that payers said were answered.
    paid: u64,
}

impl World {
    fn open(dice: &mut Dice) -> Self {
        let homes = [Home::new(), Home::with_wallet(), Home::with_wallet()];
        let ports = [dice.free_port(), dice.free_port()];
        let rpc = format!("http://127.0.0.1:{}", ports[0]);
        for home in &homes[1..] {
            home.point_config_at(&rpc);
            // Small deposits make many of them: the chain has something to do all the time.
            home.edit_config("per_deposit = \"5\"", "per_deposit = \"0.1\"");
        }
        let (upstream, answered) = goods();
        let (sender, events) = channel();
        let mut world = Self {
            homes,
            ports,
            upstream,
            answered,
            fuses: [(); 3].map(|()| Arc::new(AtomicI64::new(UNARMED))),
            running: [None, None, None],
            sender,
            events,
            gave_up: Vec::new(),
            paid: 0,
        };
        let account = world.home(Role::Payer).household();
        let fund = format!("{account}={}", FUNDS.0);
        world.start(Role::Chain, &["--fund", &fund]);
        world.start(Role::Service, &[]);
        world.start(Role::Payer, &[]);
        world
    }

    fn home(&self, role: Role) -> &Home {
        &self.homes[role as usize]
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/greeting", self.ports[1])
    }

    fn command(&self, role: Role) -> Vec<String> {
        let words: Vec<String> = match role {
            Role::Chain => vec!["chain run --port".into(), self.ports[0].to_string()],
            Role::Service => vec![
                format!(
                    "serve-paid --price {} --claim-at-least 0.02 --listen",
                    PRICE.0
                ),
                format!("127.0.0.1:{} --to {}", self.ports[1], self.upstream),
            ],
            Role::Payer => vec![format!(
                "pay {} --yes --times {REQUESTS_PER_RUN} --patience 60",
                self.url()
            )],
        };
        let line = words.join(" ");
        line.split(' ')
            .chain(["--json"])
            .map(str::to_owned)
            .collect()
    }

    /// Starts a process, and waits until one that serves is ready or has ended.
    fn start(&mut self, role: Role, more: &[&str]) {
        let line = self.command(role);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let mut command = self.home(role).command(&[&line, more].concat());
        command.env("RUST_LOG", "trace");
        let mut child = command.spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let child = Arc::new(Mutex::new(child));
        let fuse = Arc::clone(&self.fuses[role as usize]);
        let sender = self.sender.clone();
        burn(role, stderr, fuse, Arc::clone(&child), sender);
        let process = Process {
            child: Arc::clone(&child),
        };
        self.running[role as usize] = Some(process);
        if role == Role::Payer {
            let sender = self.sender.clone();
            thread::spawn(move || {
                let mut text = String::new();
                BufReader::new(stdout).read_to_string(&mut text).unwrap();
                // Its output is closed a moment before its store is.
                drop(child.lock().unwrap().wait());
                // The test may be over.
                drop(sender.send(Event::PayerEnded(text)));
            });
            return;
        }
        let (ready, first) = channel();
        thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).unwrap();
            ready.send(line)
        });
        let line = first
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("{role:?} is not ready"));
        if line.is_empty() && !is_killed(&child) {
            println!("{role:?} does not start without the chain");
            self.gave_up.push(role);
        }
    }

    /// Starts a process again that was killed, and those that did not start without it.
    fn restart(&mut self, role: Role) {
        // A payer is started again when its end is heard of.
        if role != Role::Payer {
            self.start(role, &[]);
        }
        if role == Role::Chain {
            for role in std::mem::take(&mut self.gave_up) {
                self.start(role, &[]);
            }
        }
    }

    /// Lets a process die after so many more bytes of log.
    fn arm(&mut self, role: Role, dice: &mut Dice) {
        let most = LOG_BYTES_MAX[role as usize].unsigned_abs();
        let bytes = i64::try_from(dice.roll(most)).unwrap() + 1;
        println!("{role:?} is killed after {bytes} more bytes of log");
        self.fuses[role as usize].store(bytes, Ordering::SeqCst);
    }

    /// Takes what a payer printed into account: sums, or nothing if it was killed or gave up.
    fn note(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let sums: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let requests = sums["requests"].as_u64().unwrap();
        let charged: u128 = sums["charged_units"].as_str().unwrap().parse().unwrap();
        assert_eq!(charged, u128::from(requests) * PRICE.1, "{sums}");
        self.paid += requests;
    }

    fn event(&self, what: &str) -> Event {
        self.events
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("{what} did not come"))
    }

    /// Starts payers, one after the other, until a process is killed.
    fn until_killed(&mut self) -> Role {
        for _ in 0..RUNS_PER_KILL_MAX {
            match self.event("a kill, or the end of a payer") {
                Event::Killed(role) => return role,
                Event::PayerEnded(text) => {
                    self.note(&text);
                    self.start(Role::Payer, &[]);
                }
            }
        }
        panic!("nothing was killed while {RUNS_PER_KILL_MAX} payers ran");
    }
}

/// Whether a process that has closed its output was killed.
fn is_killed(child: &Mutex<Child>) -> bool {
    child.lock().unwrap().wait().unwrap().signal().is_some()
}

/// Reads a process's log to its end, and kills it when its fuse is burnt. Says how it failed where it did.
fn burn(
    role: Role,
    log: impl Read + Send + 'static,
    fuse: Arc<AtomicI64>,
    child: Arc<Mutex<Child>>,
    sender: Sender<Event>,
) {
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            if line.starts_with("{\"error\"") || line.contains(" WARN") {
                println!("{role:?}: {line}");
            }
            if fuse.load(Ordering::SeqCst) == UNARMED {
                continue;
            }
            let length = i64::try_from(line.len()).unwrap();
            if fuse.fetch_sub(length, Ordering::SeqCst) <= length {
                fuse.store(UNARMED, Ordering::SeqCst);
                end(&child);
                // The test may be over.
                drop(sender.send(Event::Killed(role)));
                return;
            }
        }
    });
}

fn seed() -> u64 {
    match std::env::var("HEARTH_KILL_SEED") {
        Ok(text) => text.parse().expect("HEARTH_KILL_SEED is a number"),
        Err(_) => RandomState::new().hash_one(0) % 1_000_000,
    }
}

#[test]
fn no_unit_is_lost_when_chain_seller_and_payer_are_killed() {
    let seed = seed();
    println!("HEARTH_KILL_SEED={seed}");
    let mut dice = Dice(seed);
    let mut world = World::open(&mut dice);
    let mut victims = dice.victims().into_iter();
    let mut victim = victims.next();
    if let Some(role) = victim {
        world.arm(role, &mut dice);
    }
    while let Some(role) = victim {
        assert_eq!(world.until_killed(), role);
        if role == Role::Service && dice.roll(2) == 0 {
            // What it is owed is on its disk.
            let claims = world
                .home(role)
                .run(&["channels", "claim", "--json"])
                .json();
            println!("between two lives it claims: {claims}");
        }
        victim = victims.next();
        if let Some(next) = victim {
            world.arm(next, &mut dice);
        }
        world.restart(role);
    }
    let Event::PayerEnded(text) = world.event("the end of a payer") else {
        panic!("nothing is armed any more");
    };
    world.note(&text);
    let before = world.paid;
    world.start(Role::Payer, &[]);
    let Event::PayerEnded(text) = world.event("the end of the last payer") else {
        panic!("nothing is armed any more");
    };
    world.note(&text);
    assert_eq!(
        (world.paid - before).to_string(),
        REQUESTS_PER_RUN,
        "all works again"
    );
    compare(&mut world);
}

/// Compares what each side has, to the atomic unit, and takes back what is left.
fn compare(world: &mut World) {
    world.running[Role::Service as usize] = None;
    let (buyer, seller) = (world.home(Role::Payer), world.home(Role::Service));
    let claims = seller.run(&["channels", "claim", "--json"]).json();
    let buying = buyer.run(&["channels", "look", "--json"]).json();
    let selling = seller.run(&["channels", "list", "--json"]).json();
    let paying = buying["paying"].as_array().unwrap();
    let earning = selling["earning"].as_array().unwrap();
    let mut charged = 0;
    let mut left = 0;
    for theirs in earning {
        let ours = paying
            .iter()
            .find(|ours| ours["channel"] == theirs["channel"]);
        let ours = ours.unwrap_or_else(|| panic!("the payer lost sight of {theirs:#}"));
        for field in ["balance", "charged", "claimed"] {
            assert_eq!(
                ours[field]["units"], theirs[field]["units"],
                "{field}: {ours:#} {theirs:#}"
            );
        }
        assert_eq!(units(&theirs["due"]), 0, "all is claimed: {claims:#}");
        charged += units(&theirs["charged"]);
        left += units(&ours["due"]);
    }
    let accounts = (buyer.household(), seller.household());
    assert_eq!(
        holds(seller, &accounts.1),
        charged,
        "the seller has what it charged"
    );
    assert_eq!(
        holds(buyer, SETTLEMENT),
        left,
        "the contract has what can be taken back"
    );
    assert_eq!(
        holds(buyer, &accounts.0),
        FUNDS.1 - charged - left,
        "the payer has the rest"
    );

    let requests = charged / PRICE.1;
    assert_eq!(charged % PRICE.1, 0);
    let answered = u128::from(world.answered.load(Ordering::SeqCst));
    let paid = u128::from(world.paid);
    println!(
        "{paid} answers seen by payers, {requests} charged, {answered} given, {left} units left"
    );
    assert!(paid <= requests, "an answer that a payer had was charged");
    assert!(requests <= answered, "what was charged was answered");
    let wasted_max = u128::try_from(2 * KILLS_EACH).unwrap();
    assert!(
        answered - requests <= wasted_max,
        "a kill of the seller or the payer wastes one answer at most"
    );

    let price = ["--price", PRICE.0, "--to", &world.upstream];
    let address = format!("127.0.0.1:{}", world.ports[1]);
    let service = RunningService::start_at(seller, &address, &price);
    let due = paying.iter().filter(|ours| units(&ours["due"]) > 0).count();
    if due > 0 {
        let refund = ["channels", "refund", service.url(), "--yes", "--json"];
        let back = buyer.run(&refund).json();
        assert_eq!(back["refunds"].as_array().unwrap().len(), due, "{back:#}");
    }
    assert_eq!(holds(buyer, SETTLEMENT), 0, "all is back");
    assert_eq!(holds(buyer, &accounts.0), FUNDS.1 - charged);
}
