//! `cargo xtask demo`: the main job as it stands, with real programs, in about a minute.
//!
//! Three households run as processes of their own, on one chain. A and C serve a real model, B has none:
//! it asks through the OpenAI surface, and pays by the token. In the middle of a long answer A is killed,
//! and C goes on with it. At the end both claim. What each has is then read back from its own books and from
//! the chain, and must agree to the atomic unit: where it does not, the demo fails.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{model, workspace};

/// The model that answers.
const MODEL: &str = "smollm2-135m-instruct";
/// What A and C ask for a million tokens of prompts and of answers, in whole tokens.
const PRICES_A: (&str, &str) = ("20", "60");
/// The same of C, which is dearer, so that A is asked first.
const PRICES_C: (&str, &str) = ("30", "90");
/// The length of the long answer.
const LONG_TOKENS: u64 = 240;
/// After how many pieces of it A is killed.
const KILL_AFTER: u64 = 100;
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

    /// Says in the configuration where the chain is, and that this machine is all there is.
    fn configure(&self, url: &str) -> Result<()> {
        let path = self.folder.join("config.toml");
        let text = fs::read_to_string(&path)?;
        let text = text
            .replace("http://127.0.0.1:8545", url)
            .replace("reach = \"local\"", "reach = \"loopback\"")
            .replace("threads = 0", "threads = 1")
            .replace("context_tokens = 8192", "context_tokens = 2048")
            .replace("busy_percent = 50", "busy_percent = 100");
        fs::write(&path, text)?;
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
    let root = workspace::root()?;
    say("building the program `hearth`");
    let hearth = workspace::build_one(&root, "--bin", "hearth")?;
    say("fetching the model (94 MiB, once)");
    let model = model::fetch(&root)?;
    let folder = std::env::temp_dir().join(format!("hearth-demo-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let outcome = Demo::open(&hearth, &model, &folder).and_then(Demo::play);
    fs::remove_dir_all(&folder)?;
    outcome
}

/// A household whose device is up.
struct Up {
    household: Household,
    program: Program,
    url: String,
    ticket: String,
}

struct Demo {
    /// Serves, and is killed.
    a: Up,
    /// Asks and pays; has no model.
    b: Up,
    /// Serves, dearer, and goes on where A ended.
    c: Up,
    /// Kept running.
    _chain: Program,
}

/// What came of a question.
#[derive(Default)]
struct Heard {
    text: String,
    tokens: u64,
    seconds: f64,
    /// The last word on where it came from and what it cost.
    told: Value,
}

impl Demo {
    fn open(hearth: &Path, model: &Path, folder: &Path) -> Result<Self> {
        let named = |name: &str| Household::new(hearth, folder.join(name));
        let (owner, a, b, c) = (named("chain"), named("a"), named("b"), named("c"));
        say("three households, A, B and C, make their wallets");
        let payer_account = b.new_wallet()?;
        a.new_wallet()?;
        c.new_wallet()?;
        let fund = format!("{payer_account}={}", FUNDS.0);
        let mut run = owner.hearth(&["chain", "run", "--port", "0", "--fund", &fund]);
        let (chain, ready) = Program::start("the chain", &mut run)?;
        let url = ready["url"]
            .as_str()
            .context("the chain says where it is")?;
        say(&format!(
            "a chain answers at {url}; B has {} TESTUSD (worthless)",
            FUNDS.0
        ));
        for household in [&a, &b, &c] {
            household.configure(url)?;
        }
        for (household, prices) in [(&a, PRICES_A), (&c, PRICES_C)] {
            let file = model.to_str().context("the model's path is UTF-8")?;
            household.ask(&["models", "import", file, "--name", MODEL])?;
            let (prompt, output) = prices;
            household.ask(&[
                "models", "serve", MODEL, "--asset", "TESTUSD", "--prompt", prompt, "--output",
                output,
            ])?;
        }
        let a = Up::start("A", a, &[])?;
        let c = Up::start("C", c, &[&a.ticket])?;
        let b = Up::start("B", b, &[&a.ticket, &c.ticket])?;
        say(&format!(
            "A, B and C are up; programs of B ask at {}/v1",
            b.url
        ));
        Ok(Self {
            a,
            b,
            c,
            _chain: chain,
        })
    }

    fn play(self) -> Result<()> {
        wait_until("the offers of A and C", || {
            let offers = self.b.household.ask(&["offers"])?;
            Ok(offers["offers"]
                .as_array()
                .is_some_and(|offers| offers.len() == 2))
        })?;
        say(&format!(
            "B sees the offers of both: A asks {} TESTUSD for a million tokens of answers, C {}",
            PRICES_A.1, PRICES_C.1
        ));
        let short = self
            .b
            .ask_openai("What is a hearth? Answer in one sentence.", 40, |_| Ok(()))?;
        say(&format!("B asks, A answers: {:?}", short.text.trim()));
        let pid = self.a.program.child.id();
        let long = self.b.ask_openai(
            "Tell me a long story about a lighthouse.",
            LONG_TOKENS,
            |tokens| {
                if tokens == KILL_AFTER {
                    kill(pid)?;
                    say(&format!(
                        "A is killed (kill -9) after {tokens} tokens of a long answer"
                    ));
                }
                Ok(())
            },
        )?;
        ensure!(
            long.tokens >= LONG_TOKENS * 9 / 10 || long.told["finish"] == "stop",
            "the long answer broke off after {} tokens",
            long.tokens
        );
        say(&format!(
            "C went on; the stream of B never broke: {} tokens in {:.1} s, the failover included",
            long.tokens, long.seconds
        ));
        self.settle(&short, &long)
    }

    /// Claims what each earned, and compares every book with the chain.
    fn settle(self, short: &Heard, long: &Heard) -> Result<()> {
        let bought = self.b.household.ask(&["earnings"])?;
        let spent = charged(&bought["bought"])?;
        let sold_c = charged(&self.c.household.ask(&["earnings"])?["sold"])?;
        let Self { a, b, c, .. } = self;
        let (a, b, c) = (a.stop()?, b.stop()?, c.stop()?);
        say("all three are stopped; what A and C are owed is on their disks");
        a.ask(&["channels", "claim"])?;
        c.ask(&["channels", "claim"])?;
        say("A and C claim from the chain");
        let (has_a, has_b, has_c) = (a.balance()?, b.balance()?, c.balance()?);
        let books = b.ask(&["channels", "list"])?;
        let channels = books["paying"].as_array().context("B lists its channels")?;
        let sum = |name: &str| -> Result<u128> {
            let amounts = channels
                .iter()
                .map(|channel| units(&channel[name]["units"]));
            amounts.sum()
        };
        let (deposited, reserved) = (sum("balance")?, sum("reserved")?);
        let speed = |heard: &Heard| heard.tokens as f64 / heard.seconds;
        println!();
        println!("  answer                     tokens   seconds   tokens/s");
        for (name, heard) in [("A alone", short), ("A, killed, then C", long)] {
            let (tokens, seconds) = (heard.tokens, heard.seconds);
            println!(
                "  {name:<24} {tokens:>8} {seconds:>9.1} {:>10.1}",
                speed(heard)
            );
        }
        println!();
        println!("  what                                    TESTUSD, atomic units");
        println!("  B had                                 {:>24}", FUNDS.1);
        println!("  B has                                 {has_b:>24}");
        println!("  B put into channels                   {deposited:>24}");
        println!("  B was charged, by its receipts        {spent:>24}");
        println!("  B promised beyond that, to A          {reserved:>24}");
        println!("  A has claimed                         {has_a:>24}");
        println!("  C has claimed                         {has_c:>24}");
        println!("  C sold, by its own books              {sold_c:>24}");
        println!();
        ensure!(
            has_b + deposited == FUNDS.1,
            "tokens of B were lost or made"
        );
        ensure!(has_a > 0 && has_c > 0, "A and C both earned something");
        ensure!(has_c == sold_c, "C claimed {has_c}, and sold for {sold_c}");
        let earned = has_a + has_c;
        ensure!(
            (spent..=spent + reserved).contains(&earned),
            "A and C have {earned}, B was charged {spent} and had promised {reserved} more"
        );
        say("the books of all three and the chain agree to the atomic unit");
        if earned > spent {
            say(&format!(
                "(A charged {} more than B had heard of when A was killed: B had promised it)",
                earned - spent
            ));
        }
        Ok(())
    }
}

impl Up {
    fn start(name: &'static str, household: Household, join: &[&str]) -> Result<Self> {
        let mut arguments = vec!["up", "--listen", "127.0.0.1:0", "--window-tokens", "48"];
        for ticket in join {
            arguments.extend(["--join", ticket]);
        }
        let (program, ready) = Program::start(name, &mut household.hearth(&arguments))?;
        let text = |key: &str| ready[key].as_str().map(str::to_owned);
        Ok(Self {
            url: text("url").context("a node says where it is")?,
            ticket: text("ticket").context("a node prints its ticket")?,
            household,
            program,
        })
    }

    /// Ends the program, and keeps the folder.
    fn stop(self) -> Result<Household> {
        self.program.kill()?;
        Ok(self.household)
    }

    /// Asks through the OpenAI surface, streaming; `after` is told how many tokens came so far.
    fn ask_openai(
        &self,
        question: &str,
        tokens: u64,
        mut after: impl FnMut(u64) -> Result<()>,
    ) -> Result<Heard> {
        let body = serde_json::json!({
            "model": MODEL,
            "messages": [{ "role": "user", "content": question }],
            "max_tokens": tokens,
            "seed": 42,
            "stream": true,
            "stream_options": { "include_usage": true },
            // The end of the text is made unlikely, so that the answer is as long as it may be.
            "logit_bias": { "2": -20 },
        })
        .to_string();
        let host = self.url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(STEP_TIMEOUT))?;
        let length = body.len();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(format!("{head}{body}").as_bytes())?;
        let started = Instant::now();
        let mut heard = Heard::default();
        for line in BufReader::new(stream).lines() {
            let line = line?;
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            if data == "[DONE]" {
                heard.seconds = started.elapsed().as_secs_f64();
                return Ok(heard);
            }
            let event: Value = serde_json::from_str(data)?;
            ensure!(event["error"].is_null(), "B was told: {}", event["error"]);
            let choice = &event["choices"][0];
            if let Some(text) = choice["delta"]["content"]
                .as_str()
                .filter(|text| !text.is_empty())
            {
                heard.text.push_str(text);
                heard.tokens += 1;
                after(heard.tokens)?;
            }
            if let Some(tokens) = event["usage"]["completion_tokens"].as_u64() {
                heard.tokens = tokens;
            }
            if let Some(why) = choice["finish_reason"].as_str() {
                heard.told["finish"] = why.into();
            }
        }
        bail!(
            "the stream of B broke after {} tokens: {:?}",
            heard.tokens,
            heard.text
        )
    }
}

/// Ends a process as a power cut would.
fn kill(pid: u32) -> Result<()> {
    let status = Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()?;
    ensure!(status.success(), "process {pid} could not be killed");
    Ok(())
}

/// The sum of what some trades charged, in atomic units.
fn charged(trades: &Value) -> Result<u128> {
    let trades = trades.as_array().context("earnings list trades")?;
    let sums = trades
        .iter()
        .filter_map(|trade| trade["charged"].as_array());
    sums.flatten().map(|money| units(&money["units"])).sum()
}
