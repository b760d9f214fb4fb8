//! Which tools a model is offered: those that fit the owner's words, in at most a quarter of the model's window.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::claims::Claim;

/// The part of a window that tools may take.
const WINDOW_PART: u32 = 4;

/// A tool as a model is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedTool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// The JSON Schema of its arguments.
    pub parameters: Value,
    /// How long all this is in the model's prompt, in tokens.
    pub tokens: u32,
    /// What an answer may claim after it was called.
    pub founds: BTreeSet<Claim>,
    /// Whether it is always offered, as long as there is room.
    pub is_basic: bool,
}

/// Chooses tools for what the owner said: those that are always offered first, then those with the most words in common,
/// weighted by how rare a word is among all tools. Returns their places, in order.
#[must_use]
pub fn choose(tools: &[OfferedTool], said: &str, window_tokens: u32) -> Vec<usize> {
    let texts: Vec<BTreeSet<String>> = tools
        .iter()
        .map(|tool| words(&format!("{} {}", tool.name, tool.description)))
        .collect();
    let mut uses: BTreeMap<&str, u32> = BTreeMap::new();
    for word in texts.iter().flatten() {
        *uses.entry(word).or_default() += 1;
    }
    let said = words(said);
    let worth = |place: usize| -> u64 {
        let common = texts[place].intersection(&said);
        // Thousandths of one over the number of tools that have the word.
        let worths = common.map(|word| {
            1_000_000 / u64::from(uses.get(word.as_str()).copied().unwrap_or(1).max(1))
        });
        worths.sum()
    };
    let mut order: Vec<(bool, u64, usize)> = (0..tools.len())
        .map(|place| (!tools[place].is_basic, u64::MAX - worth(place), place))
        .collect();
    order.sort_unstable();
    let mut left = window_tokens / WINDOW_PART;
    let mut chosen = Vec::new();
    for (_, _, place) in order {
        if let Some(rest) = left.checked_sub(tools[place].tokens) {
            left = rest;
            chosen.push(place);
        }
    }
    chosen.sort_unstable();
    chosen
}

fn words(text: &str) -> BTreeSet<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|char: char| !char.is_alphanumeric());
    // Plurals are the same word.
    let stems = words.map(|word| word.strip_suffix('s').unwrap_or(word));
    stems
        .filter(|word| word.len() > 2)
        .map(str::to_owned)
        .collect()
}
