//! Households as processes: what the demo and the benchmarks run and ask.
//!
//! Each has a folder of its own and is used by the program `hearth` alone, as anybody would.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::model;

pub(crate) mod training;

/// The model that answers.
pub(crate) const MODEL: &str = "smollm2-135m-instruct";
/// What seals the wallets of these households.
pub(crate) const PASSPHRASE: &str = "a passphrase for the demo only";
/// How long any one step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(300);

/// A program that runs until it is dropped.
pub(crate) struct Program {
    name: &'static str,
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Program {
    /// Starts it and waits for its first line, which is a JSON object.
    pub(crate) fn start(name: &'static str, command: &mut Command) -> Result<(Self, Value)> {
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

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn end(mut self) -> Result<()> {
        let id = self.id().to_string();
        let asked = Command::new("kill").args(["-s", "TERM", &id]).status()?;
        ensure!(asked.success(), "{} cannot be asked to end", self.name);
        let status = self.child.wait()?;
        ensure!(status.success(), "{} ended badly ({status})", self.name);
        Ok(())
    }

    /// Kills it as a power cut would: no signal that it could answer.
    pub(crate) fn kill(mut self) -> Result<()> {
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
#[derive(Debug, Clone)]
pub(crate) struct Household {
    hearth: PathBuf,
    folder: PathBuf,
    /// The network namespace that the program runs in; none means this machine's own.
    namespace: Option<String>,
}

impl Household {
    pub(crate) fn new(hearth: &Path, folder: PathBuf) -> Self {
        let hearth = hearth.to_path_buf();
        Self {
            hearth,
            folder,
            namespace: None,
        }
    }

    /// A household whose program runs in a network namespace.
    pub(crate) fn within(self, namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..self
        }
    }

    pub(crate) fn hearth(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.namespace {
            None => Command::new(&self.hearth),
            Some(namespace) => {
                // It becomes the program, so that a kill of the process reaches it.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&self.hearth);
                command
            }
        };
        // It decides itself how the threads of its models wait.
        for name in model::WAITING {
            command.env_remove(name);
        }
        command
            .arg("--home")
            .arg(&self.folder)
            .arg("--json")
            .args(arguments)
            .env("HEARTH_PASSPHRASE", PASSPHRASE)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end and reads what it printed.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Value> {
        match self.try_to(arguments)? {
            Ok(printed) => Ok(printed),
            Err(refusal) => bail!("hearth {} failed: {}", arguments.join(" "), refusal.text),
        }
    }

    /// Runs a command to its end, which may refuse.
    pub(crate) fn try_to(&self, arguments: &[&str]) -> Result<Result<Value, Refusal>> {
        let output = self.hearth(arguments).stderr(Stdio::piped()).output()?;
        if !output.status.success() {
            return Ok(Err(Refusal::read(&output.stderr)));
        }
        let printed = serde_json::from_slice(&output.stdout);
        let printed =
            printed.with_context(|| format!("hearth {} printed no JSON", arguments.join(" ")))?;
        Ok(Ok(printed))
    }

    /// The file or folder of that name in the household's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes a wallet and returns its account.
    pub(crate) fn new_wallet(&self) -> Result<String> {
        let wallet = self.ask(&["wallet", "new"])?;
        let account =
            find_text(&wallet, "household").context("a new wallet names its household")?;
        Ok(account.to_owned())
    }

    /// Runs a chain of its own, with so many whole tokens for an account; returns where it answers.
    pub(crate) fn run_chain(&self, account: &str, whole_tokens: &str) -> Result<(Program, String)> {
        let fund = format!("{account}={whole_tokens}");
        let mut run = self.hearth(&["chain", "run", "--port", "0", "--fund", &fund]);
        let (chain, ready) = Program::start("the chain", &mut run)?;
        let url = ready["url"]
            .as_str()
            .context("the chain says where it is")?;
        Ok((chain, url.to_owned()))
    }

    /// Says in the configuration where the chain is and that this machine is all there is, and makes the other
    /// replacements asked for.
    pub(crate) fn configure(&self, chain: &str, replacements: &[(&str, &str)]) -> Result<()> {
        let rpc = format!("rpc = [\"{chain}\"]");
        let always = [
            ("# [chains.\"eip155:402402\"]", "[chains.\"eip155:402402\"]"),
            ("# name = \"embedded\"", "name = \"embedded\""),
            ("# rpc = [\"http://127.0.0.1:8545\"]", &*rpc),
            ("# confirmations = 1", "confirmations = 1"),
            ("\"erc20:", "\"eip155:402402/erc20:"),
            ("reach = \"local\"", "reach = \"loopback\""),
            // What is shown and measured are programs without a key that ask the network.
            ("keyless_tier = \"household\"", "keyless_tier = \"network\""),
            // Everything runs here: one household's work is not another's reason to stop.
            ("busy_percent = 50", "busy_percent = 100"),
        ];
        self.edit(&always)?;
        self.edit(replacements)
    }

    /// Replaces lines of the configuration, or parts of them.
    pub(crate) fn edit(&self, replacements: &[(&str, &str)]) -> Result<()> {
        let path = self.folder.join("config.toml");
        let mut text = fs::read_to_string(&path)?;
        for (before, after) in replacements {
            ensure!(text.contains(before), "no configuration says {before}");
            text = text.replace(before, after);
        }
        fs::write(&path, text)?;
        Ok(())
    }

    /// Serves a model to others by that name, for so many whole tokens of an asset for a million tokens of prompts and of
    /// answers. Returns the hash of its file.
    pub(crate) fn serve_model(
        &self,
        file: &Path,
        name: &str,
        asset: &str,
        prices: (&str, &str),
    ) -> Result<String> {
        let file = file.to_str().context("the model's path is UTF-8")?;
        let imported = self.ask(&["models", "import", file, "--name", name])?;
        let (prompt, output) = prices;
        self.ask(&[
            "models", "serve", name, "--asset", asset, "--prompt", prompt, "--output", output,
        ])?;
        let hash = imported["weights"].as_str();
        Ok(hash.context("a model has a hash")?.to_owned())
    }

    /// What the household's account has of an asset, in atomic units. A device that has just started reaches its chain a
    /// moment later.
    pub(crate) fn balance(&self, asset: &str) -> Result<u128> {
        let what = format!("the balance of {asset}");
        wait_for(&what, STEP_TIMEOUT, Duration::from_millis(200), || {
            let balances = self.ask(&["wallet", "balances"])?;
            let money = find(&balances, &|value| value["symbol"] == asset);
            money.map(|money| units(&money["units"])).transpose()
        })
    }
}

/// A command that did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The error's code; empty where the program ended otherwise.
    pub(crate) code: String,
    /// All that it wrote.
    pub(crate) text: String,
}

impl Refusal {
    fn read(errors: &[u8]) -> Self {
        let text = String::from_utf8_lossy(errors).trim().to_owned();
        let last = text.lines().last().unwrap_or_default();
        let body: Value = serde_json::from_str(last).unwrap_or_default();
        let code = body["error"]["code"].as_str().unwrap_or_default();
        Self {
            code: code.to_owned(),
            text,
        }
    }
}

/// A household whose device is up.
pub(crate) struct Up {
    pub(crate) household: Household,
    pub(crate) program: Program,
    pub(crate) url: String,
    pub(crate) ticket: String,
    /// Its id in the network.
    pub(crate) device: String,
}

impl Up {
    /// Brings a device up that knows some tickets.
    pub(crate) fn start(
        name: &'static str,
        household: Household,
        join: &[&str],
        options: &[&str],
    ) -> Result<Self> {
        let mut arguments = vec!["up", "--listen", "127.0.0.1:0"];
        arguments.extend(options);
        for ticket in join {
            arguments.extend(["--join", ticket]);
        }
        let mut command = household.hearth(&arguments);
        Self::start_program(name, household, &mut command)
    }

    /// Brings a device up by a program of its own, which prints what `hearth up` prints.
    pub(crate) fn start_program(
        name: &'static str,
        household: Household,
        command: &mut Command,
    ) -> Result<Self> {
        let (program, ready) = Program::start(name, command)?;
        let text = |key: &str| ready[key].as_str().map(str::to_owned);
        Ok(Self {
            url: text("url").context("a node says where it is")?,
            ticket: text("ticket").context("a node prints its ticket")?,
            device: text("device").context("a node prints its id")?,
            household,
            program,
        })
    }

    /// Waits until it knows so many offers.
    pub(crate) fn wait_for_offers(&self, count: usize) -> Result<()> {
        wait_until("the offers of the others", || {
            let offers = self.household.ask(&["offers"])?;
            let offers = offers["offers"].as_array();
            Ok(offers.is_some_and(|offers| offers.len() == count))
        })
    }

    /// Ends the program, and keeps the folder.
    pub(crate) fn stop(self) -> Result<Household> {
        self.program.kill()?;
        Ok(self.household)
    }
}

/// What came of a question.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) text: String,
    pub(crate) tokens: u64,
    /// What was read, by the server's count.
    pub(crate) prompt_tokens: u64,
    /// From the question to the end of the answer.
    pub(crate) seconds: f64,
    /// From the question to the first piece of text.
    pub(crate) first_s: Option<f64>,
    pub(crate) finish: Option<String>,
}

/// A question that is answered with so many tokens: the end of the text is made unlikely.
pub(crate) fn question(text: &str, tokens: u64) -> Value {
    json!({
        "model": MODEL,
        "messages": [{ "role": "user", "content": text }],
        "max_tokens": tokens,
        "seed": 42,
        "stream": true,
        "stream_options": { "include_usage": true },
        "logit_bias": { "2": -20 },
    })
}

/// Asks a server that speaks OpenAI's API, streaming; `after` is told how many pieces came so far.
pub(crate) fn ask_openai(
    url: &str,
    question: &Value,
    mut after: impl FnMut(u64) -> Result<()>,
) -> Result<Heard> {
    let body = question.to_string();
    let host = url.trim_start_matches("http://");
    let started = Instant::now();
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(STEP_TIMEOUT))?;
    let length = body.len();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut heard = Heard::default();
    let mut other = String::new();
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ") else {
            other.push_str(&line);
            continue;
        };
        if data == "[DONE]" {
            heard.seconds = started.elapsed().as_secs_f64();
            return Ok(heard);
        }
        let event: Value = serde_json::from_str(data)?;
        ensure!(event["error"].is_null(), "{url} said: {}", event["error"]);
        let choice = &event["choices"][0];
        if let Some(text) = choice["delta"]["content"]
            .as_str()
            .filter(|text| !text.is_empty())
        {
            let now = || started.elapsed().as_secs_f64();
            heard.first_s.get_or_insert_with(now);
            heard.text.push_str(text);
            heard.tokens += 1;
            after(heard.tokens)?;
        }
        if let Some(tokens) = event["usage"]["completion_tokens"].as_u64() {
            heard.tokens = tokens;
            heard.prompt_tokens = event["usage"]["prompt_tokens"].as_u64().unwrap_or_default();
        }
        if let Some(why) = choice["finish_reason"].as_str() {
            heard.finish = Some(why.to_owned());
        }
    }
    bail!(
        "the stream of {url} broke after {} tokens: {:?}; it said {other}",
        heard.tokens,
        heard.text
    )
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

/// An amount in atomic units.
pub(crate) fn units(value: &Value) -> Result<u128> {
    let text = value.as_str().context("an amount is a string")?;
    text.parse()
        .with_context(|| format!("{text:?} is no amount"))
}

/// The sum of what some trades charged, in atomic units.
pub(crate) fn charged(trades: &Value) -> Result<u128> {
    let trades = trades.as_array().context("earnings list trades")?;
    let sums = trades
        .iter()
        .filter_map(|trade| trade["charged"].as_array());
    sums.flatten().map(|money| units(&money["units"])).sum()
}

fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let look_every = Duration::from_millis(20);
    wait_for(what, STEP_TIMEOUT, look_every, || Ok(done()?.then_some(())))
}

/// Repeats until something is found, because devices do this in their own time.
fn wait_for<T>(
    what: &str,
    longest: Duration,
    look_every: Duration,
    mut find: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = find()? {
            return Ok(found);
        }
        ensure!(started.elapsed() <= longest, "waited too long for {what}");
        thread::sleep(look_every);
    }
}
