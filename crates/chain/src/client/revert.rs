//! Why a contract refused: revert data into words.
//!
//! `Error(string)` and `Panic(uint256)` are Solidity's own (Solidity documentation, "Error handling"). Custom errors
//! are named only where this program knows the contract; any other is shown by its selector, never guessed.

use std::fmt;

use alloy_primitives::Bytes;
use alloy_sol_types::{Panic, Revert as RevertString, SolError};

use crate::bindings::{Collector, Devices, Ember, Rewards, Runs, Settlement, Validators, Voice};

/// The longest reason that is kept, in characters: the text comes from strangers' contracts.
pub const MAX_REASON_CHARS: usize = 256;

/// A refusal by a contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revert {
    /// What the contract meant.
    pub reason: RevertReason,
    /// The raw revert data.
    pub data: Bytes,
}

/// The meaning of revert data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RevertReason {
    /// `Error(string)`: the contract's own words, cut to [`MAX_REASON_CHARS`].
    Message(String),
    /// `Panic(uint256)`: a check of the compiler failed, with its code.
    Panic(u64),
    /// A custom error of a contract of this repository, by its name.
    Named(String),
    /// A custom error that is not known here.
    Unknown([u8; 4]),
    /// Neither data nor words.
    Silent,
}

impl Revert {
    /// Decodes revert data; `message` is what the endpoint said beside it, used when there is no data.
    #[must_use]
    pub fn decode(data: Bytes, message: &str) -> Self {
        let reason = decode_reason(&data, message);
        Self { reason, data }
    }
}

fn decode_reason(data: &[u8], message: &str) -> RevertReason {
    let Some(selector) = data.first_chunk::<4>() else {
        return match message
            .split_once("reverted with reason string")
            .or(message.split_once("reverted:"))
        {
            Some((_, words)) => RevertReason::Message(shorten(words.trim().trim_matches('\''))),
            None => RevertReason::Silent,
        };
    };
    if let Ok(error) = RevertString::abi_decode(data) {
        return RevertReason::Message(shorten(&error.reason));
    }
    if let Ok(error) = Panic::abi_decode(data) {
        return RevertReason::Panic(error.code.saturating_to());
    }
    named(data).map_or(RevertReason::Unknown(*selector), RevertReason::Named)
}

/// The name of a custom error of the contracts in this repository.
fn named(data: &[u8]) -> Option<String> {
    let selector = *data.first_chunk()?;
    let name = Settlement::SettlementErrors::name_by_selector(selector)
        .or_else(|| Collector::CollectorErrors::name_by_selector(selector))
        .or_else(|| Ember::EmberErrors::name_by_selector(selector))
        .or_else(|| Devices::DevicesErrors::name_by_selector(selector))
        .or_else(|| Validators::ValidatorsErrors::name_by_selector(selector))
        .or_else(|| Rewards::RewardsErrors::name_by_selector(selector))
        .or_else(|| Runs::RunsErrors::name_by_selector(selector))
        .or_else(|| Voice::VoiceErrors::name_by_selector(selector))?;
    Some(name.to_owned())
}

/// At most [`MAX_REASON_CHARS`] printable characters: control characters could forge lines in a log.
fn shorten(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_REASON_CHARS)
        .collect()
}

impl fmt::Display for Revert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            RevertReason::Message(text) => write!(f, "{text}"),
            RevertReason::Panic(code) => write!(f, "panic with code {code:#04x}"),
            RevertReason::Named(name) => write!(f, "{name}"),
            RevertReason::Unknown(selector) => {
                write!(
                    f,
                    "custom error {}",
                    alloy_primitives::hex::encode_prefixed(selector)
                )
            }
            RevertReason::Silent => write!(f, "no reason given"),
        }
    }
}
