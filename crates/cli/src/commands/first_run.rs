//! The first run of `hearth up`: a wallet, a model that fits, and what can be done next.
//!
//! It asks nothing that it can find out, and never does what costs time or room without being told:
//! a person at a terminal is asked, and who runs it without one says `--yes` or gets by without.

use std::io::IsTerminal;

use hearth_api::household::{Machine, NodeEvent};
use hearth_api::wallet::WalletCreated;
use hearth_causes::WithCauses;
use hearth_node::advice::Advice;
use hearth_node::home::Home;
use hearth_node::keys::{Keystore, RecoveryPhrase, Unlocked, WordCount};
use hearth_node::machine;
use hearth_node::models::{Models, Terms};

use super::models::{size, watch};
use crate::confirm::agrees;
use crate::failure::Failure;
use crate::global::Global;
use crate::screen::{print, print_line};
use crate::{reader, secrets, wait};

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
    let phrase = RecoveryPhrase::generate(WordCount::Twelve)?;
    let spinner = wait::spinner(global.json, "sealing the keystore");
    let keys = Keystore::create(&path, phrase, &passphrase)?;
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
/// others, so whatever goes wrong here is said and does not keep it from coming up.
pub(crate) async fn model(
    global: &Global,
    home: &Home,
    consent: Consent,
) -> Result<Option<String>, Failure> {
    let models = Models::open(home, reader::launcher()?)?;
    let list = models.list()?;
    if consent.no_model || !list.here.is_empty() {
        return Ok(None);
    }
    let machine = machine::detect(home.root());
    let (name, _) = match models.pick() {
        Ok(pick) => pick,
        Err(error) => {
            return Ok(Some(format!(
                "{}. {}",
                error.with_causes(),
                error.next_step()
            )));
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
        return Ok(Some(note));
    }
    match models.get(&name, &watch(global.json)).await {
        Ok(_) => {
            models.serve(&name, &Terms::Household)?;
            if !global.json {
                println!("It is here, and answers the devices of your household.");
                println!("`hearth models serve --help` says how to sell its answers to others.\n");
            }
            Ok(None)
        }
        Err(error) => Ok(Some(format!(
            "No model could be fetched, so this device asks others: {}. `hearth models get {name}` tries again.",
            error.with_causes()
        ))),
    }
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
