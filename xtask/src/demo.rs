//! `cargo xtask demo`: the main job, whole, with real programs, in a few minutes.
//!
//! Four households run as processes of their own, on a chain that one of them orders. They train a small model of
//! public text together; one cheats, one is killed and comes back. What each earned is fixed and claimed. Two serve the
//! model; another asks, pays with what it earned, and goes on with the second when the first is killed in the middle of
//! an answer. At the end every sum is read back from the books and from the chain: where they do not agree, the demo
//! fails.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::households::training::{Earned, Epochs, Reach, Round, TrainingRun};
use crate::households::{Household, Up};
use crate::{plays, workspace};

mod answering;
mod table;
mod training;

/// The epochs of the ledger: short, so that rewards become final while one looks on.
const EPOCHS: Epochs = Epochs {
    epoch_s: 20,
    window_s: 4,
};
/// Tokens of the vocabulary that is made of the text.
const VOCABULARY: u32 = 1024;
/// Ember as something to pay with, which stands in a fresh configuration as a comment.
const EMBER: &str = "\
# [assets.EMBER]
# id = \"erc20:0x5F2d459E271Fe336FF6c161EC992EE34Ba695B9e\"
# decimals = 18
# eip712 = { name = \"Ember\", version = \"1\" }
# per_payment = \"10\"
# per_deposit = \"100\"
# per_day = \"1000\"";

fn say(text: &str) {
    println!("demo: {text}");
}

/// Runs the demo, on a text of the user's or on the plays.
pub(crate) fn run(text: Option<PathBuf>) -> Result<()> {
    let root = workspace::root()?;
    say("building the programs `hearth` and `cheating_household`");
    let hearth = workspace::build_one(&root, "--bin", "hearth")?;
    let cheat = workspace::build_one(&root, "--example", "cheating_household")?;
    let text = match text {
        Some(text) => {
            fs::canonicalize(&text).with_context(|| format!("{} cannot be read", text.display()))?
        }
        None => {
            say("fetching 38 plays (2 MiB, once)");
            plays::fetch(&root)?
        }
    };
    let folder = std::env::temp_dir().join(format!("hearth-demo-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    if let Err(error) = play(&hearth, &cheat, &text, &folder) {
        say(&format!(
            "the folders of the households are kept in {}",
            folder.display()
        ));
        return Err(error);
    }
    Ok(fs::remove_dir_all(&folder)?)
}

fn play(hearth: &Path, cheat: &Path, text: &Path, folder: &Path) -> Result<()> {
    let (mut houses, run) = training::begin(hearth, cheat, text, folder)?;
    let rounds = training::train(&mut houses, &run)?;
    let trained = training::claim(&houses, &run, rounds)?;
    let answers = answering::serve_and_ask(houses, &run, &trained)?;
    table::show(&trained, &answers)
}

/// The households, whose devices are up.
struct Houses {
    /// Orders the chain, makes the run, validates and trains.
    a: Up,
    /// Trains, and spends what it earned.
    b: Up,
    /// Trains, is killed and comes back.
    c: Option<Up>,
    /// Cheats.
    d: Up,
}

impl Houses {
    fn all(&self) -> impl Iterator<Item = (&'static str, &Up)> {
        let all = [
            ("A", Some(&self.a)),
            ("B", Some(&self.b)),
            ("C", self.c.as_ref()),
            ("D", Some(&self.d)),
        ];
        all.into_iter()
            .filter_map(|(letter, up)| Some((letter, up?)))
    }

    /// The letter of a device.
    fn letter(&self, device: &str) -> &'static str {
        let found = self.all().find(|(_, up)| up.device == device);
        found.map_or("?", |(letter, _)| letter)
    }
}

/// Lets a household pay and be paid in Ember.
fn use_ember(household: &Household) -> Result<()> {
    let lines: Vec<&str> = EMBER
        .lines()
        .map(|line| line.trim_start_matches("# "))
        .collect();
    household.edit(&[(EMBER, &lines.join("\n"))])
}
