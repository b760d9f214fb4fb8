//! The first run of `hearth up`: a wallet, a model that fits, and what can be done next.
//!
//! It asks nothing that it can find out, and never does what costs time or room without being told:
//! a person at a terminal is asked, and who runs it without one says `--yes` or gets by without.

use std::io::IsTerminal;

use hearth_api::household::{Machine, NodeEvent};
use hearth_api::wallet::WalletCreated;
use hearth_causes::WithCauses;
use hearth_environment::SystemEnvironment;
use hearth_node::advice::Advice;
use hearth_node::home::Home;
use hearth_node::keys::{Keystore, RecoveryPhrase, Unlocked, WordCount};
use hearth_node::machine;
use hearth_node::models::{Asked, ModelError, Models, Terms};

use super::models::{size, watch};
use crate::confirm::agrees;
use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{print, print_line};
use crate::{reader, secrets, wait};

/// The test money of a network's chain, by its name in a fresh configuration.
const TEST_ASSET: &str = "TESTUSD";
/// What answers cost in it at first: for a million tokens of prompts, of answers, and at least.
const TEST_PRICES: (&str, &str, &str) = ("0.02", "0.06", "0.000001");

/// How questions are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Consent {
    /// `--yes`: everything is agreed to.
    pub(crate) yes: bool,
    /// `--no-model`: no model is fetched.
    pub(crate) no_model: bool,
}

/// Opens the wallet; makes one where there is none.
pub(crate) fn wallet(global: &Global, home: &Home, consent: Consent) -> Result<Unlocked, Failure> {
    let path = home.keystore_path();
    if path.exists() {
        return secrets::unlock(global, &Keystore::read(&path)?);
    }
    let asked = std::io::stdin().is_terminal() && !global.json;
    if !asked && !consent.yes {
        let message = "there is no wallet yet, and nobody to ask about one";
        let next =
            "Run `hearth up` in a terminal, or `hearth wallet new`; or add --yes to make one now";
        return Err(Failure::new("keystore_missing", message, next));
    }
    if !global.json {
        println!("Welcome to Hearth. This device has no wallet yet; here is one.");
        println!("It holds what the device earns and pays with, sealed by a passphrase.\n");
    }
    let passphrase = secrets::new_passphrase(global)?;
    let phrase = RecoveryPhrase::generate(WordCount::Twelve, &SystemEnvironment)?;
    let spinner = wait::spinner(global.json, "sealing the keystore");
    let keys = Keystore::create(&path, phrase, &passphrase, &SystemEnvironment)?;
    drop(spinner);
    let created = WalletCreated {
        household: keys.address().to_string(),
        keystore: path.display().to_string(),
        recovery_phrase: Some(keys.phrase().words().to_owned()),
    };
    if global.json {
        print_line(&NodeEvent::Wallet(Box::new(created)))?;
        return Ok(keys);
    }
    print(&created, false)?;
    if asked && !consent.yes && !agrees("\nHave you written the words down?", false) {
        println!("Then do it later: `hearth wallet export phrase` shows them again.");
    }
    println!();
    Ok(keys)
}

/// Fetches a model that fits where there is none, if that is agreed to. Without one the device asks
/// others, so whatever goes wrong here is said and does not keep it from coming up. Returns what is to be said.
pub(crate) async fn model(
    global: &Global,
    home: &Home,
    consent: Consent,
) -> Result<Vec<String>, Failure> {
    let models = Models::open(home, reader::launcher()?)?;
    let list = models.list()?;
    if consent.no_model || !list.here.is_empty() {
        return Ok(Vec::new());
    }
    let machine = machine::detect(home.root());
    let (name, _) = match models.pick() {
        Ok(pick) => pick,
        Err(error) => {
            return Ok(vec![format!(
                "{}. {}",
                error.with_causes(),
                error.next_step()
            )]);
        }
    };
    let bytes = list.to_get.iter().find(|one| one.name == name);
    let (bytes, licence) = bytes.map_or((0, ""), |one| (one.bytes, &*one.licence));
    if !global.json {
        println!("{}", told(&machine));
        if let Some(idle) = machine::idle_gpu(&machine) {
            println!("{idle}");
        }
        println!(
            "{name} fits it: {} to fetch, licence {licence}.",
            size(bytes)
        );
    }
    let asked = std::io::stdin().is_terminal() && !global.json;
    let agreed = consent.yes || (asked && agrees("Fetch it now?", true));
    if !agreed {
        let note = format!("No model is here: `hearth models get {name}` fetches one that fits.");
        return Ok(vec![note]);
    }
    let (got, mut notes) = fetch(global, &models).await;
    match got {
        Some(name) => serve(global, home, &models, &name, consent)?,
        None => notes.push(format!(
            "No model could be fetched, so this device asks others. `hearth models get {name}` tries again."
        )),
    }
    Ok(notes)
}

/// Fetches the best model that can be had. Returns it, and what is to be said of those that could not.
async fn fetch(global: &Global, models: &Models) -> (Option<String>, Vec<String>) {
    let mut notes = Vec::new();
    let mut given_up = |error: &ModelError| {
        let note = in_one_line(error);
        if !global.json {
            println!("{note}.");
        }
        notes.push(note);
    };
    let got = models.get_best(&watch(global.json), &mut given_up).await;
    let got = got.ok().map(|model| model.name);
    if let Some(name) = &got {
        if global.json {
            let instead = format!("{name} was fetched instead");
            notes.extend((!notes.is_empty()).then_some(instead));
        } else {
            // A person was told as it happened.
            notes.clear();
        }
    }
    (got, notes)
}

/// Says whom the model answers. On a chain whose money is worth nothing it is for sale at once, so that a network of
/// devices that were just set up pays; elsewhere prices are for the owner to name.
fn serve(
    global: &Global,
    home: &Home,
    models: &Models,
    name: &str,
    consent: Consent,
) -> Result<(), Failure> {
    let config = home.config()?;
    let is_test_money = config.network_chain.is_some() && config.asset(TEST_ASSET).is_some();
    let asked = std::io::stdin().is_terminal() && !global.json && !consent.yes;
    let question =
        "Sell its answers to other devices of your network, for test money that is worth nothing?";
    let sells = is_test_money && (!asked || agrees(question, true));
    let (prompt, output, floor) = TEST_PRICES;
    let terms = if sells {
        Terms::Sold(Asked {
            asset: TEST_ASSET.to_owned(),
            per_million_prompt: prompt.to_owned(),
            per_million_output: output.to_owned(),
            floor: Some(floor.to_owned()),
        })
    } else {
        Terms::Household
    };
    models.serve(name, &terms)?;
    if global.json {
        return Ok(());
    }
    println!("{name} is here, and answers the devices of your household for nothing.");
    if sells {
        println!(
            "Others pay {prompt} and {output} {TEST_ASSET} for a million tokens of prompts and answers; that is test money, \
             worth nothing."
        );
    }
    println!("`hearth models serve --help` says how to change that.\n");
    Ok(())
}

/// An error that lists what was tried, in one line.
fn in_one_line(error: &ModelError) -> String {
    let said = error.with_causes().to_string();
    let lines: Vec<_> = said.lines().map(str::trim).collect();
    lines.join("; ").replace(":; ", ": ")
}

/// A machine in one line.
fn told(machine: &Machine) -> String {
    let gigabytes = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    let gpu = match machine.gpus.first() {
        None => "no graphics processor that is known".to_owned(),
        Some(gpu) => match gpu.memory_bytes {
            Some(bytes) => format!("{} with {}", gpu.name, gigabytes(bytes)),
            None => gpu.name.clone(),
        },
    };
    format!(
        "This machine has {} cores, {} of memory ({} free), {} of free disk, and {gpu}.",
        machine.cores,
        gigabytes(machine.memory_bytes),
        gigabytes(machine.memory_free_bytes),
        gigabytes(machine.disk_free_bytes),
    )
}
