//! `cargo xtask demo`: the main job as it stands, with real programs, in about a minute.
//!
//! Three households run as processes of their own, on one chain. A and C serve a real model, B has none:
//! it asks through the OpenAI surface, and pays by the token. In the middle of a long answer A is killed,
//! and C goes on with it. At the end both claim. What each has is then read back from its own books and from
//! the chain, and must agree to the atomic unit: where it does not, the demo fails.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::households::{Heard, Household, Program, Up, ask_openai, charged, question, units};
use crate::{model, workspace};

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
/// How each device is set up: small, because three of them share this machine.
const SMALL: [(&str, &str); 2] = [
    ("threads = 0", "threads = 1"),
    ("context_tokens = 8192", "context_tokens = 2048"),
];

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

impl Demo {
    fn open(hearth: &Path, model: &Path, folder: &Path) -> Result<Self> {
        let named = |name: &str| Household::new(hearth, folder.join(name));
        let (owner, a, b, c) = (named("chain"), named("a"), named("b"), named("c"));
        say("three households, A, B and C, make their wallets");
        let payer_account = b.new_wallet()?;
        a.new_wallet()?;
        c.new_wallet()?;
        let (chain, url) = owner.run_chain(&payer_account, FUNDS.0)?;
        say(&format!(
            "a chain answers at {url}; B has {} TESTUSD (worthless)",
            FUNDS.0
        ));
        for household in [&a, &b, &c] {
            household.configure(&url, &SMALL)?;
        }
        for (household, prices) in [(&a, PRICES_A), (&c, PRICES_C)] {
            household.serve_model(model, prices)?;
        }
        let up = |name, household, join: &[&str]| {
            Up::start(name, household, join, &["--window-tokens", "48"])
        };
        let a = up("A", a, &[])?;
        let c = up("C", c, &[&a.ticket])?;
        let b = up("B", b, &[&a.ticket, &c.ticket])?;
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
        self.b.wait_for_offers(2)?;
        say(&format!(
            "B sees the offers of both: A asks {} TESTUSD for a million tokens of answers, C {}",
            PRICES_A.1, PRICES_C.1
        ));
        let short = question("What is a hearth? Answer in one sentence.", 40);
        let short = ask_openai(&self.b.url, &short, |_| Ok(()))?;
        say(&format!("B asks, A answers: {:?}", short.text.trim()));
        let pid = self.a.program.id();
        let long = question("Tell me a long story about a lighthouse.", LONG_TOKENS);
        let long = ask_openai(&self.b.url, &long, |tokens| {
            if tokens == KILL_AFTER {
                kill(pid)?;
                say(&format!(
                    "A is killed (kill -9) after {tokens} tokens of a long answer"
                ));
            }
            Ok(())
        })?;
        ensure!(
            long.tokens >= LONG_TOKENS * 9 / 10 || long.finish.as_deref() == Some("stop"),
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
        let with_c = format!("hearth:{}", self.c.device);
        let back = ["channels", "refund", &with_c, "--yes"];
        let back = self.b.household.ask(&back)?;
        let back = &back["refunds"][0]["returned"];
        say(&format!(
            "B takes back what it did not spend with C: {} TESTUSD",
            back["amount"].as_str().context("C returns something")?
        ));
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
        println!("  B's channels hold, spent or not       {deposited:>24}");
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

/// Ends a process as a power cut would.
fn kill(pid: u32) -> Result<()> {
    let status = Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()?;
    ensure!(status.success(), "process {pid} could not be killed");
    Ok(())
}
