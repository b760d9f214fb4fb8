//! Whom a device answers: what a model is for, and what its owner allows now.

use serde::{Deserialize, Serialize};

/// Whom a model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// The devices of the household that offers, for nothing.
    #[default]
    Household,
    /// Everybody who pays one of its prices; without prices, everybody for nothing.
    Everyone,
}

/// Which devices may use this one now, besides the programs that ask it directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Openness {
    /// Everybody whom its models answer.
    Everyone,
    /// The household's own devices; others are sent elsewhere.
    Household,
    /// Nobody.
    Nobody,
}

impl Openness {
    /// Whether a device may use this one; `is_household` says whether it is one of the household.
    pub fn admits(self, is_household: bool) -> bool {
        match self {
            Self::Everyone => true,
            Self::Household => is_household,
            Self::Nobody => false,
        }
    }
}
