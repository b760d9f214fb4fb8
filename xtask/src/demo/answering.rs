//! The second scene: the model that was trained is served for Ember, and paid for with what its training earned.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::training::Trained;
use super::{Houses, TrainingRun, say};
use crate::households::{Heard, Household, Up, ask_openai, charged, units};

/// What the model is called.
const MODEL: &str = "plays";
/// What C asks for a million tokens of prompts and of answers, in whole Ember.
const PRICES_C: (&str, &str) = ("20", "60");
/// The same of A, which is dearer, so that C is asked first.
const PRICES_A: (&str, &str) = ("30", "90");
/// The length of the long answer.
const LONG_TOKENS: u64 = 200;
/// After how many pieces of it C is killed.
const KILL_AFTER: u64 = 80;
/// Output tokens that are promised ahead: who is killed is never far ahead of what was heard.
const WINDOW: [&str; 2] = ["--window-tokens", "48"];

/// What came of the scene.
pub(super) struct Answers {
    /// Mean loss on text that nobody trained on, in nats a token.
    pub(super) held_out_loss: f64,
    /// One answer, by C alone.
    pub(super) short: Heard,
    /// One that C began and A ended.
    pub(super) long: Heard,
    /// Atomic units of Ember that B was charged, by its receipts.
    pub(super) spent: u128,
    /// What B promised beyond that, to C, which was killed.
    pub(super) promised: u128,
    /// What B's channels hold of it, spent or not.
    pub(super) deposited: u128,
    /// What A and C sold, by what the chain gave them.
    pub(super) sold: [u128; 2],
    /// What A, B, C and D have on the chain.
    pub(super) balances: [u128; 4],
}

/// Serves the model with A and C, asks with B, and claims what that earned.
pub(super) fn serve_and_ask(
    houses: Houses,
    run: &TrainingRun,
    trained: &Trained,
) -> Result<Answers> {
    let Houses { a, b, c, d } = houses;
    let c = c.context("C is up")?;
    let (file_a, held_out_loss) = export(&a.household, run)?;
    let (file_c, _) = export(&c.household, run)?;
    say(&format!(
        "A and C write the model as a GGUF file (loss on text that nobody trained on: {held_out_loss:.3}), and serve it for Ember"
    ));
    let (a, hash) = serve("A", a, &file_a, PRICES_A)?;
    let (c, hash_c) = serve("C", c, &file_c, PRICES_C)?;
    ensure!(hash == hash_c, "A and C wrote different files of one model");
    b.wait_for_offers(2)?;
    // By its hash: what strangers call a model is not believed.
    let question = |text, tokens| question(&hash, text, tokens);
    let short = ask_openai(&b.url, &question("ROMEO.", 40), |_| Ok(()))?;
    say(&format!("B asks, C answers: {:?}", short.text.trim()));
    let pid = c.program.id();
    let long = ask_openai(&b.url, &question("JULIET.", LONG_TOKENS), |tokens| {
        if tokens == KILL_AFTER {
            kill(pid)?;
            say(&format!(
                "C is killed (kill -9) after {tokens} tokens of a long answer"
            ));
        }
        Ok(())
    })?;
    ensure!(
        long.tokens >= LONG_TOKENS * 9 / 10,
        "the long answer broke off after {} tokens",
        long.tokens
    );
    say(&format!(
        "A went on; the stream of B never broke: {} tokens in {:.1} s, the failover included",
        long.tokens, long.seconds
    ));
    let c = Up::start("C", c.stop()?, &[], &WINDOW)?;
    say("C is up again: what it is owed is on its disk. A and C claim from the chain");
    let spent = charged(&b.household.ask(&["earnings"])?["bought"])?;
    for up in [&a, &c] {
        up.household
            .ask(&["channels", "claim", "--asset", "EMBER"])?;
    }
    let balance = |up: &Up| up.household.balance("EMBER");
    let balances = [balance(&a)?, balance(&b)?, balance(&c)?, balance(&d)?];
    let (deposited, promised) = held_in_channels(&b.household)?;
    let sold = |has: u128, earned: u128| {
        has.checked_sub(earned)
            .context("a household has less than it claimed")
    };
    Ok(Answers {
        held_out_loss,
        short,
        long,
        spent,
        promised,
        deposited,
        sold: [
            sold(balances[0], trained.earned[0].claimed)?,
            sold(balances[2], trained.earned[2].claimed)?,
        ],
        balances,
    })
}

/// What a household's channels hold, and what of it is promised and was not charged, in atomic units of Ember.
fn held_in_channels(household: &Household) -> Result<(u128, u128)> {
    // The chain is asked: what C put into its channel just before it was killed is not in B's books.
    let books = household.ask(&["channels", "look"])?;
    let channels = books["paying"].as_array().context("B lists its channels")?;
    let sum = |name: &str| -> Result<u128> {
        let amounts = channels
            .iter()
            .map(|channel| units(&channel[name]["units"]));
        amounts.sum()
    };
    Ok((sum("balance")?, sum("reserved")?))
}

/// Writes the model, and returns the file and the loss on text that nobody trained on.
fn export(household: &Household, run: &TrainingRun) -> Result<(PathBuf, f64)> {
    let out = household.path("model");
    let out = out.to_str().context("a path is not UTF-8")?;
    let written = household.ask(&["run", "export", &run.id, "--out", out])?;
    let file = written["gguf"].as_str().context("an export has a file")?;
    let loss = written["held_out_loss"]
        .as_f64()
        .context("an export has a loss")?;
    Ok((file.into(), loss))
}

/// Serves the model from the next start on, and starts the device again. Returns the hash of the model's file too.
fn serve(name: &'static str, up: Up, file: &Path, prices: (&str, &str)) -> Result<(Up, String)> {
    let household = up.stop()?;
    let hash = household.serve_model(file, MODEL, "EMBER", prices)?;
    Ok((Up::start(name, household, &[], &WINDOW)?, hash))
}

/// A text that is gone on with for so many tokens: its end is made unlikely.
fn question(model: &str, text: &str, tokens: u64) -> Value {
    json!({
        "model": model,
        "messages": [{ "role": "user", "content": text }],
        "max_tokens": tokens,
        "seed": 42,
        "stream": true,
        "stream_options": { "include_usage": true },
        "logit_bias": { "0": -20 },
    })
}

/// Ends a process as a power cut would.
fn kill(pid: u32) -> Result<()> {
    let status = Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status()?;
    ensure!(status.success(), "process {pid} could not be killed");
    Ok(())
}
