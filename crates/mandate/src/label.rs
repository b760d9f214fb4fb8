//! Who may see something, whether it may steer, and where it came from.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The most sources that are named of one thing; of more it is said that there are others.
pub const ORIGINS_MAX: usize = 16;
/// The longest name of a source, in characters.
pub const ORIGIN_CHARS_MAX: usize = 200;

/// How far something may travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// It stays on this device.
    Device,
    /// It stays on the household's devices.
    Household,
    /// Anyone may see it.
    Network,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "device",
            Self::Household => "household",
            Self::Network => "network",
        })
    }
}

/// Whether the household stands behind a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Anybody may have written it: it informs, and steers nothing.
    Untrusted,
    /// The household wrote it, or the program did.
    Trusted,
}

/// What holds for something, whatever is made of it.
///
/// Labels are a lattice: [`Label::join`] of two is what holds for whatever both went into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Label {
    /// How far it may travel.
    pub tier: Tier,
    /// Whether it may steer.
    pub trust: Trust,
}

impl Label {
    /// What holds nobody back: text of the program itself.
    pub const FREE: Self = Self {
        tier: Tier::Network,
        trust: Trust::Trusted,
    };
    /// What a stranger published.
    pub const PUBLISHED: Self = Self {
        tier: Tier::Network,
        trust: Trust::Untrusted,
    };
    /// The household's own, and nobody else's business.
    pub const OWN: Self = Self {
        tier: Tier::Household,
        trust: Trust::Trusted,
    };
    /// What others wrote to the household: private, and still not its own words.
    pub const RECEIVED: Self = Self {
        tier: Tier::Household,
        trust: Trust::Untrusted,
    };

    /// What holds for what two things went into: it travels no farther than either, and steers only where both do.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            tier: self.tier.min(other.tier),
            trust: self.trust.min(other.trust),
        }
    }

    /// Whether everything that holds for `self` holds for `other` too: `other` is as strict, or stricter.
    #[must_use]
    pub fn flows_to(self, other: Self) -> bool {
        self.join(other) == other
    }

    /// Whether it may steer.
    #[must_use]
    pub fn is_trusted(self) -> bool {
        self.trust == Trust::Trusted
    }
}

/// A label, and the sources of what it is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// What holds for it.
    pub label: Label,
    origins: BTreeSet<String>,
    has_others: bool,
}

impl Provenance {
    /// Something of the program itself, which no source is named for.
    #[must_use]
    pub fn free() -> Self {
        Self::from_nowhere(Label::FREE)
    }

    /// Something with a label whose source is not worth a name.
    #[must_use]
    pub fn from_nowhere(label: Label) -> Self {
        Self {
            label,
            origins: BTreeSet::new(),
            has_others: false,
        }
    }

    /// Something from one source, such as `the web page https://example.org`. The name is shown to people: what is no
    /// plain text in it, or too long, is left out.
    #[must_use]
    pub fn from_source(label: Label, origin: &str) -> Self {
        let plain = origin.chars().filter(|char| !char.is_control());
        let mut all = Self::from_nowhere(label);
        all.origins.insert(plain.take(ORIGIN_CHARS_MAX).collect());
        all
    }

    /// What holds for what both went into.
    #[must_use]
    pub fn join(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    /// Adds what went in as well.
    pub fn add(&mut self, other: &Self) {
        self.label = self.label.join(other.label);
        self.has_others |= other.has_others;
        for origin in &other.origins {
            if self.origins.len() >= ORIGINS_MAX && !self.origins.contains(origin) {
                self.has_others = true;
                break;
            }
            self.origins.insert(origin.clone());
        }
    }

    /// The sources that are named, in order.
    pub fn origins(&self) -> impl Iterator<Item = &str> {
        self.origins.iter().map(String::as_str)
    }

    /// Whether there are sources beside those that are named.
    #[must_use]
    pub fn has_others(&self) -> bool {
        self.has_others
    }
}
