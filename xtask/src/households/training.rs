//! Households that train a model together: what shows and what measures that asks of them, by commands alone.
//!
//! The first one runs the network's chain, makes the run and validates it; the others join its network, then its run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Household, STEP_TIMEOUT, Up, units, wait_for};

/// How often a run is looked at: each look is a program that starts, on a machine that is busy with training.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The codes of a device that did not find its ledger yet, or the data of a record of it, which it does a moment after it
/// is up.
const NOT_YET: [&str; 2] = ["no_ledger", "rewards_unknown"];

/// The epochs of the ledger that a network's first household puts up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epochs {
    /// How long one is, in seconds; divides four years of 365 days.
    pub(crate) epoch_s: u32,
    /// How long its record can be challenged, in seconds.
    pub(crate) window_s: u32,
}

/// Whom a device reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Devices on this machine.
    Loopback,
    /// Devices on the same local network, which a network namespace has for itself.
    Local,
}

/// A run that was made.
#[derive(Debug, Clone)]
pub(crate) struct TrainingRun {
    /// Its id.
    pub(crate) id: String,
    /// What others join by.
    pub(crate) ticket: String,
}

/// A round as a device shows it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Round {
    /// Rounds that were recorded before.
    pub(crate) index: u64,
    /// Its number on the chain: as many more than `index` as attempts came to nothing.
    pub(crate) number: u64,
    /// Loss of the state before it on data that the trainers had not seen, in nats a token.
    pub(crate) loss: f64,
    /// The hash of the weights after it.
    pub(crate) state: String,
    /// The devices whose work was admitted.
    pub(crate) trainers: Vec<String>,
    /// What replays of earlier work found: the round of the work, whose it is, and the outcome.
    pub(crate) audits: Vec<(u64, String, String)>,
}

/// What a household earned, in atomic units of Ember.
#[derive(Debug, Clone, Default)]
pub(crate) struct Earned {
    /// The epoch that is going on.
    pub(crate) epoch: u64,
    /// What can be claimed now.
    pub(crate) claimable: u128,
    /// What was claimed.
    pub(crate) claimed: u128,
    /// Pay for each contribution, by round: all of it, and what of it is paid by now.
    pub(crate) contributions: BTreeMap<u64, Pay>,
    /// What was earned by replays in all, and what of it is paid by now.
    pub(crate) replays: Pay,
}

/// Pay for work, in atomic units of Ember.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pay {
    /// All that it can come to.
    pub(crate) whole: u128,
    /// What of it is paid by now.
    pub(crate) vested: u128,
    /// What will never be paid.
    pub(crate) forfeited: u128,
    /// Why not all of it, in words.
    pub(crate) why: String,
}

impl Household {
    /// Makes a wallet, and lets the device train on a machine that others keep busy. `epochs` are those of the ledger,
    /// for the household that runs the chain. Returns the account.
    pub(crate) fn prepare_to_train(&self, reach: Reach, epochs: Option<Epochs>) -> Result<String> {
        let account = self.new_wallet()?;
        // Everything runs here: one household's work is not another's reason to stop.
        self.edit(&[("busy_percent = 50", "busy_percent = 100")])?;
        if reach == Reach::Loopback {
            self.edit(&[("reach = \"local\"", "reach = \"loopback\"")])?;
        }
        if let Some(Epochs { epoch_s, window_s }) = epochs {
            let ledger = format!("[ledger]\nepoch_s = {epoch_s}\nwindow_s = {window_s}");
            self.edit(&[("# [ledger]", &ledger)])?;
        }
        Ok(account)
    }

    /// Makes a dataset of a file or a folder of text, in the household's folder, and returns where it is.
    pub(crate) fn import_text(&self, text: &Path, name: &str, vocabulary: u32) -> Result<PathBuf> {
        let out = self.path(&format!("{name}-data"));
        let (text, folder) = (utf8(text)?, utf8(&out)?);
        let vocabulary = vocabulary.to_string();
        let arguments = [
            "data",
            "import",
            text,
            "--name",
            name,
            "--license",
            "CC0-1.0",
            "--vocabulary",
            &vocabulary,
            "--out",
            folder,
        ];
        self.ask(&arguments)?;
        Ok(out)
    }

    /// What others join this device's network by. The device is up.
    pub(crate) fn network_ticket(&self) -> Result<String> {
        let invited = self.ask(&["invite", "--network"])?;
        let ticket = invited["ticket"].as_str();
        Ok(ticket.context("an invitation has a ticket")?.to_owned())
    }

    /// Joins a network. The device may be down.
    pub(crate) fn join_network(&self, ticket: &str) -> Result<()> {
        self.ask(&["join", ticket]).map(drop)
    }

    /// Makes a run of the text of a run's file, validates it, and trains only where that is said.
    pub(crate) fn create_run(
        &self,
        recipe: &str,
        data: &Path,
        is_trainer: bool,
    ) -> Result<TrainingRun> {
        let file = self.path("run.toml");
        fs::write(&file, recipe)?;
        let mut arguments = vec!["run", "create", utf8(&file)?, "--data", utf8(data)?];
        arguments.push("--validate");
        if !is_trainer {
            arguments.push("--no-train");
        }
        let made = self.once_it_follows_a_ledger(&arguments)?;
        let text = |name: &str| {
            let text = made["run"][name].as_str().map(str::to_owned);
            text.with_context(|| format!("a run that was made has no {name}"))
        };
        Ok(TrainingRun {
            id: text("run")?,
            ticket: text("ticket")?,
        })
    }

    /// Trains in a run: by its ticket, or by its id where it was joined before.
    pub(crate) fn join_run(&self, run: &str) -> Result<()> {
        self.once_it_follows_a_ledger(&["run", "join", run])
            .map(drop)
    }

    /// Takes part in a run no longer.
    pub(crate) fn leave_run(&self, run: &TrainingRun) -> Result<()> {
        self.ask(&["run", "leave", &run.id]).map(drop)
    }

    /// The rounds of a run that were recorded, as this device knows them.
    pub(crate) fn rounds(&self, run: &TrainingRun) -> Result<Vec<Round>> {
        let shown = self.once_it_follows_a_ledger(&["run", "show", &run.id])?;
        let recorded = shown["recorded"].as_array();
        let recorded = recorded.context("a run that is shown has rounds")?;
        recorded.iter().map(Round::read).collect()
    }

    /// Waits until so many rounds are recorded; at each look `watch` is told which are.
    pub(crate) fn wait_for_rounds(
        &self,
        run: &TrainingRun,
        count: u64,
        longest: Duration,
        mut watch: impl FnMut(&[Round]) -> Result<()>,
    ) -> Result<Vec<Round>> {
        wait_for("the rounds of a run", longest, LOOK_EVERY, || {
            let rounds = self.rounds(run)?;
            watch(&rounds)?;
            Ok((rounds.len() as u64 >= count).then_some(rounds))
        })
    }

    /// What was earned so far.
    pub(crate) fn earned(&self) -> Result<Earned> {
        let shown = self.once_it_follows_a_ledger(&["rewards"])?;
        let mut earned = Earned {
            epoch: shown["epoch"].as_u64().context("rewards have an epoch")?,
            claimable: ember(&shown["claimable"])?,
            claimed: ember(&shown["claimed"])?,
            ..Earned::default()
        };
        let credits = shown["credits"].as_array();
        for credit in credits.context("rewards have credits")? {
            let whole = units(&credit["whole"]["units"])?;
            let vested = units(&credit["vested"]["units"])?;
            if credit["kind"] == "replay" {
                earned.replays.whole += whole;
                earned.replays.vested += vested;
                continue;
            }
            let index = credit["index"].as_u64().context("a credit has a round")?;
            let why = credit["why"].as_str().unwrap_or_default().to_owned();
            let is_lost = credit["state"] == "refused" || credit["state"] == "forfeited";
            let pay = Pay {
                whole,
                vested,
                forfeited: if is_lost { whole - vested } else { 0 },
                why,
            };
            earned.contributions.insert(index, pay);
        }
        Ok(earned)
    }

    /// Claims what is final; returns the atomic units of Ember, and none where there was nothing to claim.
    pub(crate) fn claim_rewards(&self) -> Result<u128> {
        match self.try_to(&["rewards", "claim"])? {
            Ok(claimed) => ember(&claimed["claimed"]),
            Err(refusal) if refusal.code == "nothing_to_claim" => Ok(0),
            Err(refusal) => bail!("rewards were not claimed: {}", refusal.text),
        }
    }

    /// Claims until all that this device knows to be paid was claimed: at the earliest in `epoch`, and once it knows of
    /// so many contributions of its own. Returns what was earned then, or when the time ran out.
    pub(crate) fn claim_all(
        &self,
        contributions: usize,
        epoch: u64,
        longest: Duration,
    ) -> Result<Earned> {
        let started = Instant::now();
        loop {
            let earned = self.earned()?;
            if earned.claimable > 0 {
                self.claim_rewards()?;
                continue;
            }
            let knows_all = earned.contributions.len() >= contributions && earned.epoch >= epoch;
            let is_paid = knows_all && earned.claimed >= earned.vested();
            if is_paid || started.elapsed() > longest {
                return Ok(earned);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Runs a command of runs or rewards: refused until the device has found its ledger, a moment after it is up.
    fn once_it_follows_a_ledger(&self, arguments: &[&str]) -> Result<Value> {
        let what = "the ledger";
        wait_for(what, STEP_TIMEOUT, LOOK_EVERY, || {
            match self.try_to(arguments)? {
                Ok(printed) => Ok(Some(printed)),
                Err(refusal) if NOT_YET.contains(&&*refusal.code) => Ok(None),
                Err(refusal) => bail!("hearth {} failed: {}", arguments.join(" "), refusal.text),
            }
        })
    }
}

impl Up {
    /// Brings a device up that answers no questions.
    pub(crate) fn start_without_model(name: &'static str, household: Household) -> Result<Self> {
        Self::start(name, household, &[], &["--no-model"])
    }
}

impl Earned {
    /// All that is paid by now, as the books of the runs that this device takes part in say.
    pub(crate) fn vested(&self) -> u128 {
        let contributions = self.contributions.values().map(|pay| pay.vested);
        contributions.sum::<u128>() + self.replays.vested
    }

    /// What will never be paid.
    pub(crate) fn forfeited(&self) -> u128 {
        self.contributions.values().map(|pay| pay.forfeited).sum()
    }

    /// What may still be paid.
    pub(crate) fn to_come(&self) -> u128 {
        self.whole() - self.vested() - self.forfeited()
    }

    /// All that it can come to.
    pub(crate) fn whole(&self) -> u128 {
        let contributions = self.contributions.values().map(|pay| pay.whole);
        contributions.sum::<u128>() + self.replays.whole
    }
}

impl Round {
    /// Whether work of a device was admitted.
    pub(crate) fn has(&self, device: &str) -> bool {
        self.trainers.iter().any(|trainer| trainer == device)
    }

    fn read(shown: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let number = |name: &str| {
            let number = shown[name].as_u64();
            number.with_context(|| format!("a round has no {name}"))
        };
        let list = |name: &str| shown[name].as_array().into_iter().flatten();
        let audits = list("audits").map(|audit| {
            let index = audit["index"].as_u64().unwrap_or_default();
            (index, text(&audit["trainer"]), text(&audit["outcome"]))
        });
        Ok(Self {
            index: number("index")?,
            number: number("number")?,
            loss: shown["loss"].as_f64().context("a round has a loss")?,
            state: text(&shown["state"]),
            trainers: list("trainers").map(|one| text(&one["trainer"])).collect(),
            audits: audits.collect(),
        })
    }
}

/// Atomic units of Ember in a list of amounts.
fn ember(amounts: &Value) -> Result<u128> {
    let amounts = amounts.as_array().into_iter().flatten();
    let mut embers = amounts.filter(|amount| amount["symbol"] == "EMBER");
    embers
        .next()
        .map_or(Ok(0), |amount| units(&amount["units"]))
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a path is not UTF-8")
}
