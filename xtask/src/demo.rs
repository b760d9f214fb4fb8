//! `cargo xtask demo`: the main job as it stands, with real programs, in about a minute.
//!
//! A chain, a paid service and a payer run as processes of their own. The payer asks a thousand times on
//! one channel; in the middle the service is killed and started again; at the end it claims once. What
//! each side has is then read back from its own books and from the chain, and must agree to the atomic
//! unit: where it does not, the demo fails.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::workspace;

/// How many requests are paid.
const REQUESTS: u64 = 1_000;
/// After how many the service is killed.
const KILL_AFTER: u64 = 500;
/// The price of a request, in atomic units of the test token: a hundredth.
const PRICE_UNITS: u128 = 10_000;
/// The same as a person writes it.
const PRICE: &str = "0.01";
/// What the payer has at first, in whole tokens and in atomic units.
const FUNDS: (&str, u128) = ("100", 100_000_000);
/// How long any one step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(300);

/// A program that runs until it is dropped.
struct Program {
    name: &'static str,
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Program {
    /// Starts it and waits for the line that says that it is ready.
    fn start(name: &'static str, command: &mut Command) -> Result<(Self, Value)> {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("the output was asked for")?;
        let mut program = Self {
            name,
            child,
            lines: BufReader::new(stdout),
        };
        let mut line = String::new();
        program.lines.read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line)
            .with_context(|| format!("{name} did not become ready; it printed {line:?}"))?;
        ensure!(ready["event"] == "ready", "{name} printed {line}");
        Ok((program, ready))
    }

    /// Kills it as a power cut would: no signal that it could answer.
    fn kill(mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already; nothing else can be done about it here.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A household: a folder of its own and the program to use it with.
struct Household {
    hearth: PathBuf,
    folder: PathBuf,
}

impl Household {
    fn new(hearth: &Path, folder: PathBuf) -> Self {
        let hearth = hearth.to_path_buf();
        Self { hearth, folder }
    }

    fn hearth(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.hearth);
        command
            .arg("--home")
            .arg(&self.folder)
            .arg("--json")
            .args(arguments)
            .env("HEARTH_PASSPHRASE", "a passphrase for the demo only")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end and reads what it printed.
    fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.hearth(arguments).stderr(Stdio::piped()).output()?;
        ensure!(
            output.status.success(),
            "hearth {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("hearth {} printed no JSON", arguments.join(" ")))
    }

    /// Makes a wallet and returns its account.
    fn new_wallet(&self) -> Result<String> {
        let wallet = self.ask(&["wallet", "new"])?;
        let account =
            find_text(&wallet, "household").context("a new wallet names its household")?;
        Ok(account.to_owned())
    }

    /// Says in the configuration where the chain is.
    fn use_chain(&self, url: &str) -> Result<()> {
        let path = self.folder.join("config.toml");
        let text = fs::read_to_string(&path)?;
        fs::write(&path, text.replace("http://127.0.0.1:8545", url))?;
        Ok(())
    }

    /// What the household's account has of the test token.
    fn balance(&self) -> Result<u128> {
        let balances = self.ask(&["wallet", "balances"])?;
        let money = find(&balances, &|value| value["symbol"] == "TESTUSD")
            .context("the balances name TESTUSD")?;
        units(&money["units"])
    }
}

fn find<'a>(value: &'a Value, wanted: &dyn Fn(&Value) -> bool) -> Option<&'a Value> {
    if wanted(value) {
        return Some(value);
    }
    match value {
        Value::Array(items) => items.iter().find_map(|item| find(item, wanted)),
        Value::Object(fields) => fields.values().find_map(|item| find(item, wanted)),
        _ => None,
    }
}

fn find_text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    find(value, &|value| value[key].is_string()).and_then(|value| value[key].as_str())
}

fn units(value: &Value) -> Result<u128> {
    let text = value.as_str().context("an amount is a string")?;
    text.parse()
        .with_context(|| format!("{text:?} is no amount"))
}

/// The service behind the price: it says hello and counts.
fn greet(listener: TcpListener, greeted: Arc<AtomicU64>) {
    for stream in listener.incoming().flatten() {
        let greeted = Arc::clone(&greeted);
        // One connection at a time is enough for one proxy; each keeps its own thread.
        thread::spawn(move || answer_all(stream, &greeted));
    }
}

fn answer_all(stream: TcpStream, greeted: &AtomicU64) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if (&mut reader).take(8_192).read_line(&mut line).ok()? == 0 {
                return None;
            }
        }
        let number = greeted.fetch_add(1, Ordering::SeqCst) + 1;
        let body = format!("hello number {number}\n");
        let length = body.len();
        let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
        // In one piece: a reply in several waits for the other side's acknowledgements.
        writer.write_all(reply.as_bytes()).ok()?;
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !done()? {
        if started.elapsed() > STEP_TIMEOUT {
            bail!("waited too long for {what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn say(text: &str) {
    println!("demo: {text}");
}

/// Runs the demo.
pub(crate) fn run() -> Result<()> {
    say("building the program `hearth`");
    let hearth = workspace::build_one(&workspace::root()?, "--bin", "hearth")?;
    let folder = std::env::temp_dir().join(format!("hearth-demo-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let outcome = Demo::open(&hearth, &folder).and_then(Demo::play);
    fs::remove_dir_all(&folder)?;
    outcome
}

struct Demo {
    seller: Household,
    payer: Household,
    /// Kept running.
    _chain: Program,
    upstream: String,
    greeted: Arc<AtomicU64>,
}

impl Demo {
    fn open(hearth: &Path, folder: &Path) -> Result<Self> {
        let owner = Household::new(hearth, folder.join("chain"));
        let seller = Household::new(hearth, folder.join("seller"));
        let payer = Household::new(hearth, folder.join("payer"));
        say("two households make their wallets");
        let payer_account = payer.new_wallet()?;
        seller.new_wallet()?;
        let fund = format!("{payer_account}={}", FUNDS.0);
        let mut run = owner.hearth(&["chain", "run", "--port", "0", "--fund", &fund]);
        let (chain, ready) = Program::start("the chain", &mut run)?;
        let url = ready["url"]
            .as_str()
            .context("the chain says where it is")?;
        say(&format!(
            "a chain answers at {url}; the payer has {} TESTUSD (worthless)",
            FUNDS.0
        ));
        payer.use_chain(url)?;
        seller.use_chain(url)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let upstream = format!("http://{}", listener.local_addr()?);
        let greeted = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&greeted);
        thread::spawn(move || greet(listener, counter));
        Ok(Self {
            seller,
            payer,
            _chain: chain,
            upstream,
            greeted,
        })
    }

    fn serve(&self, listen: &str) -> Result<(Program, String)> {
        let mut serve = self.seller.hearth(&[
            "serve-paid",
            "--price",
            PRICE,
            "--claim-at-least",
            "1000",
            "--to",
            &self.upstream,
            "--listen",
            listen,
        ]);
        let (service, ready) = Program::start("the service", &mut serve)?;
        let url = ready["url"]
            .as_str()
            .context("the service says where it is")?;
        Ok((service, url.trim_end_matches('/').to_owned()))
    }

    fn play(self) -> Result<()> {
        let (service, url) = self.serve("127.0.0.1:0")?;
        say(&format!(
            "a service sells greetings at {url} for {PRICE} TESTUSD each"
        ));
        say(&format!("the payer asks {REQUESTS} times on one channel"));
        let started = Instant::now();
        let times = REQUESTS.to_string();
        let mut payer = self
            .payer
            .hearth(&["pay", &url, "--yes", "--times", &times, "--patience", "60"])
            .stdout(Stdio::piped())
            .spawn()?;
        wait_until("half of the requests", || {
            if let Some(status) = payer.try_wait()? {
                bail!("the payer stopped early, with {status}");
            }
            Ok(self.greeted.load(Ordering::SeqCst) >= KILL_AFTER)
        })?;
        service.kill()?;
        say(&format!(
            "the service was killed (kill -9) after {} greetings; it starts again",
            self.greeted.load(Ordering::SeqCst)
        ));
        let address = url.trim_start_matches("http://").to_owned();
        let (service, _) = self.serve(&address)?;
        let output = payer.wait_with_output()?;
        ensure!(
            output.status.success(),
            "the payer failed: {}",
            output.status
        );
        let paid: Value = serde_json::from_slice(&output.stdout)?;
        say(&format!(
            "{} requests were paid in {:.1} s, the restart included",
            paid["requests"],
            started.elapsed().as_secs_f64()
        ));
        service.kill()?;
        say("the service is killed once more; what it is owed is on its disk");
        let claim = self.seller.ask(&["channels", "claim"])?;
        say(&format!("it claims: {}", serde_json::to_string(&claim)?));
        self.compare(units(&paid["charged_units"])?)
    }

    /// Reads what each side has and compares it, to the atomic unit.
    fn compare(&self, charged: u128) -> Result<()> {
        let books = self.payer.ask(&["channels", "list"])?;
        let channels = books["paying"]
            .as_array()
            .context("the payer lists its channels")?;
        ensure!(
            channels.len() == 1,
            "the payer used {} channels",
            channels.len()
        );
        let of = |name: &str| units(&channels[0][name]["units"]);
        let refundable = of("due")?;
        let (payer, seller) = (self.payer.balance()?, self.seller.balance()?);
        let greeted = self.greeted.load(Ordering::SeqCst);
        println!();
        println!("  what                                    TESTUSD, atomic units");
        println!("  the payer had                         {:>24}", FUNDS.1);
        println!("  the payer has                         {payer:>24}");
        println!("  and can take back from the channel    {refundable:>24}");
        println!("  the payer was charged, it says        {charged:>24}");
        println!("  the seller has                        {seller:>24}");
        println!("  requests paid / greetings given       {REQUESTS:>15} / {greeted}");
        println!();
        let due = u128::from(REQUESTS) * PRICE_UNITS;
        ensure!(charged == due, "the payer was charged {charged}, not {due}");
        ensure!(seller == due, "the seller has {seller}, not {due}");
        let sum = payer + refundable + seller;
        ensure!(sum == FUNDS.1, "the sum is {sum}: tokens were lost or made");
        say("both sides and the chain agree to the atomic unit");
        Ok(())
    }
}
