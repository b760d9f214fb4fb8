//! Held-out loss against hours on home links: what a run of Hearth does beside the published ways of training apart.
//!
//! Trainers of a small model on public text are computed one after the other, with the crates that runs use. The time
//! of a round is what its steps take on one core of this machine, measured once at the start, and what its bytes take on
//! the link; nobody computes while he sends. Every method has the same hours, the same steps of the same inner optimizers
//! and a learning rate that falls to its end. Work that is done is kept in a folder, so that a stopped run goes on.
//!
//! A file called `stop` in that folder ends it early, and what is finished is printed.
//!
//! Arguments: `--text FOLDER` of files to train on, `--keep FOLDER`; `--smoke` takes the smallest size, and `--print`
//! computes nothing and prints what is there. Prints one JSON object a line: `{"name", "value", "unit", "note"}`.

mod contender;
mod figures;
mod kept;
mod race;
mod text;

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::contender::{Contender, LINKS, Link, NO_LINK, contenders, smallest_and_dense};
use crate::kept::Keep;
use crate::race::Race;
use crate::text::Text;

/// How much is done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Size {
    /// Tokens of the tokenizer.
    pub(crate) vocabulary: u32,
    /// Width of the model.
    pub(crate) width: usize,
    /// Layers of the model.
    pub(crate) layers: usize,
    /// Width inside the feed-forward block.
    pub(crate) hidden: usize,
    /// Tokens of a window.
    pub(crate) window_tokens: u32,
    /// Windows of a step.
    pub(crate) windows: u32,
    /// Trainers.
    pub(crate) trainers: u32,
    /// Steps of AdamW that one trainer could take if nothing had to be sent: what the hours are made from.
    pub(crate) steps: u32,
    /// Seeds, each of which makes other weights and draws other windows.
    pub(crate) seeds: Vec<u64>,
    /// Windows that are measured.
    pub(crate) held_out: usize,
    /// How often.
    pub(crate) looks: u32,
}

fn full() -> Size {
    Size {
        vocabulary: 512,
        width: 64,
        layers: 2,
        hidden: 192,
        window_tokens: 128,
        windows: 4,
        trainers: 4,
        steps: 4_000,
        seeds: vec![1, 2],
        held_out: 128,
        looks: 8,
    }
}

fn smoke() -> Size {
    Size {
        vocabulary: 288,
        width: 32,
        layers: 1,
        hidden: 64,
        window_tokens: 32,
        windows: 2,
        trainers: 2,
        steps: 1_000,
        seeds: vec![1],
        held_out: 4,
        looks: 2,
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let folder = |name: &str| -> Result<PathBuf> {
        let at = arguments.iter().position(|argument| argument == name);
        let value = at.and_then(|at| arguments.get(at + 1));
        Ok(value
            .with_context(|| format!("{name} FOLDER is missing"))?
            .into())
    };
    let size = if has("--smoke") { smoke() } else { full() };
    let keep = Keep::open(&folder("--keep")?)?;
    let text = Text::open(&folder("--text")?, keep.folder(), &size)?;
    let race = Race::new(&size, &text, &keep)?;
    if !has("--print") {
        for (seed, link, contender) in order(&race)? {
            if !keep.is_stopped() {
                race.run(&contender, link, seed)?;
            }
        }
    }
    figures::print(&race)
}

/// Returns all races, those first that say most: a stopped bench then has what matters.
fn order(race: &Race<'_>) -> Result<Vec<(u64, Link, Contender)>> {
    let mut all = Vec::new();
    for seed in &race.size.seeds {
        for link in LINKS {
            let here = contenders(race, link)?.into_iter();
            all.extend(here.map(|contender| (*seed, link, contender)));
        }
        let pair = smallest_and_dense(race).into_iter();
        all.extend(pair.map(|contender| (*seed, NO_LINK, contender)));
    }
    all.sort_by_key(|(_, _, contender)| contender.turn);
    Ok(all)
}
