//! What is decided about a call.

use crate::label::{Provenance, Tier};

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It happens.
    Allowed,
    /// Its owner is asked first, for these reasons.
    Asked(Vec<Reason>),
    /// It does not happen: its owner does not let the tool be called.
    Refused,
}

/// Why the owner is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The owner wants to see each call of the tool.
    Permission,
    /// Somebody has to stand behind the call, and what led to it was not only the household's own words.
    Untrusted(Provenance),
    /// The call shows more people what it is called with than may see it.
    Private {
        /// How far it may travel.
        tier: Tier,
        /// Who would see it.
        reaches: Tier,
    },
}
