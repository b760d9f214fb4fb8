//! The part of the configuration about ledgers: what a chain of this device's own begins with, and where the ledger of
//! another chain stands.

use alloy_primitives::{Address, U256};
use hearth_chain::deployment::LedgerTerms;
use hearth_protocol::address::{self, TypedAddressError};
use hearth_protocol::ledger::emission::ERA_S;
use serde::Deserialize;
use toml::Spanned;

use super::{Fault, fault};
use crate::advice::Advice;

/// Seconds of an epoch of a home chain unless another length is said.
const EPOCH_S: u64 = 600;
/// Seconds in which a record of a home chain can be challenged unless other are said.
const WINDOW_S: u64 = 120;
/// The shortest epoch with a time to enroll in.
const EPOCH_S_MIN: u64 = 8;
/// A week: the longest epoch and the longest window.
const WEEK_S: u64 = 604_800;
/// Atomic units of Voice that a founder starts with: a million Voice, what all validators of a home chain together can earn
/// in about three days.
const FOUNDING_VOTES: u64 = 1_000_000_000_000_000;
/// The most households that found a ledger here.
const FOUNDERS_MAX: usize = 64;
/// Characters that are shown of what was given for an account.
const SHOWN_CHARS_MAX: usize = 100;

/// What the ledger of a chain begins with that this device makes; it never changes on that chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerConfig {
    /// Seconds of an epoch.
    pub epoch_s: u64,
    /// Seconds in which a record can be challenged.
    pub window_s: u64,
}

/// Why a ledger cannot begin so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerConfigError {
    /// Epochs must be of a length that divides the time between two halvings of the emission.
    #[error(
        "an epoch has {EPOCH_S_MIN} to {WEEK_S} seconds, a number that divides four years of 365 days, not {0}"
    )]
    Epoch(u64),
    /// A record must stand for a while.
    #[error("the challenge window has 1 to {WEEK_S} seconds, not {0}")]
    Window(u64),
    /// A household that founds it.
    #[error("{given:?} is not the account of a household")]
    Founder {
        /// What was given.
        given: String,
        /// Why not.
        #[source]
        source: TypedAddressError,
    },
    /// More founders than a ledger has here.
    #[error("a ledger has at most {FOUNDERS_MAX} founders here")]
    Founders,
}

impl Advice for LedgerConfigError {
    fn code(&self) -> &str {
        match self {
            Self::Epoch(_) | Self::Window(_) => "bad_ledger",
            Self::Founder { .. } | Self::Founders => "bad_founder",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Epoch(_) | Self::Window(_) => {
                "Say --epoch 600 --window 120, for example".to_owned()
            }
            Self::Founder { .. } | Self::Founders => {
                "Say --founder 0x… for each household, or nothing for that of this data folder's wallet"
                    .to_owned()
            }
        }
    }
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            epoch_s: EPOCH_S,
            window_s: WINDOW_S,
        }
    }
}

impl LedgerConfig {
    /// Checks both lengths, in seconds.
    ///
    /// # Errors
    /// See [`LedgerConfigError`].
    pub fn new(epoch_s: u64, window_s: u64) -> Result<Self, LedgerConfigError> {
        if !(EPOCH_S_MIN..=WEEK_S).contains(&epoch_s) || !ERA_S.is_multiple_of(epoch_s) {
            return Err(LedgerConfigError::Epoch(epoch_s));
        }
        if !(1..=WEEK_S).contains(&window_s) {
            return Err(LedgerConfigError::Window(window_s));
        }
        Ok(Self { epoch_s, window_s })
    }

    /// Reads the accounts of households that found a ledger.
    ///
    /// # Errors
    /// [`LedgerConfigError::Founder`] and [`LedgerConfigError::Founders`].
    pub fn founders(given: &[String]) -> Result<Vec<Address>, LedgerConfigError> {
        if given.len() > FOUNDERS_MAX {
            return Err(LedgerConfigError::Founders);
        }
        let read = |given: &String| {
            address::typed(given).map_err(|source| LedgerConfigError::Founder {
                given: given.chars().take(SHOWN_CHARS_MAX).collect(),
                source,
            })
        };
        given.iter().map(read).collect()
    }

    /// The terms of a ledger that these households found, with equal votes.
    pub fn terms(&self, founders: Vec<Address>) -> LedgerTerms {
        LedgerTerms {
            founders,
            votes_each: U256::from(FOUNDING_VOTES),
            epoch_s: self.epoch_s,
            window_s: self.window_s,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLedger {
    epoch_s: Option<Spanned<u64>>,
    window_s: Option<Spanned<u64>>,
}

pub(super) fn ledger(raw: Option<RawLedger>) -> Result<LedgerConfig, Fault> {
    let Some(raw) = raw else {
        return Ok(LedgerConfig::default());
    };
    let said = |value: &Option<Spanned<u64>>, usual| {
        let value = value.as_ref();
        value.map_or(usual, |value| *value.get_ref())
    };
    let checked = LedgerConfig::new(said(&raw.epoch_s, EPOCH_S), said(&raw.window_s, WINDOW_S));
    checked.map_err(|error| {
        let place = match error {
            LedgerConfigError::Epoch(_) => &raw.epoch_s,
            _ => &raw.window_s,
        };
        Fault {
            offset: place.as_ref().map_or(0, |place| place.span().start),
            reason: error.to_string(),
        }
    })
}

/// Where the ledger of a chain stands.
pub(super) fn address_of(raw: Option<&Spanned<String>>) -> Result<Option<Address>, Fault> {
    let read = |text: &Spanned<String>| {
        address::typed(text.get_ref()).map_err(|error| fault(text, error.to_string()))
    };
    raw.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_begins_only_with_lengths_that_its_contracts_take() {
        let usual = LedgerConfig::default();
        assert_eq!(LedgerConfig::new(600, 120), Ok(usual));
        assert!(LedgerConfig::new(8, 4).is_ok());
        for epoch_s in [0, 4, 7, 3_601, WEEK_S * 2] {
            let refused = LedgerConfig::new(epoch_s, 4).unwrap_err();
            assert_eq!(refused, LedgerConfigError::Epoch(epoch_s));
        }
        for window_s in [0, WEEK_S + 1] {
            let refused = LedgerConfig::new(8, window_s).unwrap_err();
            assert_eq!(refused, LedgerConfigError::Window(window_s));
        }
    }

    #[test]
    fn founders_are_accounts_and_not_too_many() {
        let account = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266".to_owned();
        let read = LedgerConfig::founders(std::slice::from_ref(&account)).unwrap();
        assert_eq!(read[0].to_string(), account);
        let refused = LedgerConfig::founders(&["bob".to_owned()]).unwrap_err();
        assert_eq!(refused.code(), "bad_founder");
        assert!(LedgerConfig::founders(&vec![account; FOUNDERS_MAX + 1]).is_err());
    }
}
