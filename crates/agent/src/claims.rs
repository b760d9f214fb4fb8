//! Whether an answer claims a deed: small models say "stored" and have called nothing.
//!
//! What is looked for is a claim in the first person and in the past, in English: "I have sent", "I've paid", "I saved", or
//! the passive "has been saved" and a bare "Saved." at the beginning of a sentence. A claim too many costs one more question to
//! the model, one too few costs the owner a false belief; so in doubt it is a claim.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What can be claimed, and done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// Something was paid or bought.
    Paid,
    /// Something was said to somebody.
    Sent,
    /// A file was written, changed or removed.
    Wrote,
    /// Something was remembered, or forgotten.
    Remembered,
    /// Something will be done by itself, or no more.
    Scheduled,
}

impl Claim {
    /// The claim as the end of a sentence with "nothing was".
    #[must_use]
    pub fn undone(self) -> &'static str {
        match self {
            Self::Paid => "nothing was paid or bought",
            Self::Sent => "nothing was sent",
            Self::Wrote => "no file was written",
            Self::Remembered => "nothing was stored in the memory",
            Self::Scheduled => "nothing was scheduled",
        }
    }
}

/// Words of a deed in the past, and what they claim. "Saved" and "stored" may mean a file or the memory: either will do.
const DEEDS: [(&str, &[Claim]); 34] = [
    ("paid", &[Claim::Paid]),
    ("bought", &[Claim::Paid]),
    ("purchased", &[Claim::Paid]),
    ("transferred", &[Claim::Paid]),
    ("ordered", &[Claim::Paid, Claim::Sent]),
    ("booked", &[Claim::Paid, Claim::Sent, Claim::Scheduled]),
    ("reserved", &[Claim::Paid, Claim::Sent]),
    ("sent", &[Claim::Sent, Claim::Paid]),
    ("emailed", &[Claim::Sent]),
    ("mailed", &[Claim::Sent]),
    ("messaged", &[Claim::Sent]),
    ("posted", &[Claim::Sent]),
    ("published", &[Claim::Sent]),
    ("replied", &[Claim::Sent]),
    ("forwarded", &[Claim::Sent]),
    ("invited", &[Claim::Sent]),
    ("uploaded", &[Claim::Sent]),
    ("written", &[Claim::Wrote, Claim::Sent]),
    ("wrote", &[Claim::Wrote, Claim::Sent]),
    ("saved", &[Claim::Wrote, Claim::Remembered]),
    ("stored", &[Claim::Remembered, Claim::Wrote]),
    ("created", &[Claim::Wrote, Claim::Sent, Claim::Scheduled]),
    (
        "updated",
        &[Claim::Wrote, Claim::Remembered, Claim::Scheduled],
    ),
    (
        "deleted",
        &[Claim::Wrote, Claim::Remembered, Claim::Scheduled],
    ),
    (
        "removed",
        &[Claim::Wrote, Claim::Remembered, Claim::Scheduled],
    ),
    ("renamed", &[Claim::Wrote]),
    ("moved", &[Claim::Wrote]),
    ("remembered", &[Claim::Remembered]),
    ("noted", &[Claim::Remembered, Claim::Wrote]),
    ("recorded", &[Claim::Remembered, Claim::Wrote]),
    ("memorized", &[Claim::Remembered]),
    ("forgotten", &[Claim::Remembered]),
    ("scheduled", &[Claim::Scheduled, Claim::Sent]),
    ("reminded", &[Claim::Scheduled, Claim::Sent]),
];

/// Words in whose sentence a deed is denied, or only thought of.
const OPEN: [&str; 13] = [
    "not", "no", "nothing", "nobody", "never", "if", "when", "once", "unless", "would", "could",
    "should", "nor",
];

/// Words that may follow a deed at the beginning of a sentence: "Saved to notes.txt".
const AFTER: [&str; 12] = [
    "to", "it", "your", "the", "in", "as", "for", "and", "that", "this", "on", "with",
];

/// Words that may stand between "I have" and the deed.
const BETWEEN: [&str; 8] = [
    "just",
    "now",
    "already",
    "also",
    "successfully",
    "then",
    "been",
    "all",
];

/// What an answer claims that was not done: for each claimed deed one of what it can mean. Empty where it is honest.
#[must_use]
pub fn unfounded(answer: &str, done: &BTreeSet<Claim>) -> BTreeSet<Claim> {
    let claimed = claimed(answer);
    let unfounded = claimed
        .into_iter()
        .filter(|meanings| !meanings.iter().any(|one| done.contains(one)));
    unfounded
        .filter_map(|meanings| meanings.first().copied())
        .collect()
}

fn claimed(answer: &str) -> Vec<&'static [Claim]> {
    let mut all = Vec::new();
    for sentence in answer.split(['.', '!', '?', '\n', ';']) {
        let lower = sentence.to_lowercase().replace('\u{2019}', "'");
        let words: Vec<&str> = lower
            .split(|char: char| !char.is_alphanumeric() && char != '\'')
            .filter(|word| !word.is_empty())
            .collect();
        // What is not certain, not yet or not so is no claim.
        let is_open = words
            .iter()
            .any(|word| OPEN.contains(word) || word.ends_with("n't"));
        if is_open {
            continue;
        }
        for (place, word) in words.iter().enumerate() {
            let deed = DEEDS.iter().find(|(past, _)| past == word);
            if let Some((_, meanings)) = deed
                && is_claim(&words[..place], words.get(place + 1).copied())
            {
                all.push(*meanings);
            }
        }
    }
    all
}

/// Whether words before a deed make it one of the agent.
fn is_claim(before: &[&str], after: Option<&str>) -> bool {
    let mut before = before.iter().rev();
    let mut word = before.next();
    while word.is_some_and(|word| BETWEEN.contains(word)) {
        word = before.next();
    }
    match word.copied() {
        None => after.is_none_or(|after| AFTER.contains(&after)),
        // "Done: saved".
        Some("done" | "i" | "i've" | "we've" | "successfully" | "okay" | "ok" | "and") => true,
        Some("have" | "had") => matches!(before.next().copied(), Some("i" | "we")),
        // "has been saved", "is stored", "was sent".
        Some("has" | "is" | "was" | "are" | "were") => true,
        Some(_) => false,
    }
}
