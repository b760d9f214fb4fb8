//! A run's ticket: what others join by. It has the terms, whose hash is the run's id, and the chain; the manifest and the
//! data are fetched from those who take part.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::{Address, B256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hearth_protocol::content::ContentHash;
use hearth_protocol::id::ChainId;
use hearth_protocol::ledger::statement::RunTerms;
use hearth_protocol::money::Amount;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a ticket begins with.
const PREFIX: &str = "hearthrun1";
/// The longest ticket, in characters.
const CHARS_MAX: usize = 1_024;

/// What others join a run by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunTicket {
    /// The chain whose ledger records it.
    pub(crate) chain: ChainId,
    /// What the run promises.
    pub(crate) terms: RunTerms,
}

/// Why a text is not a run's ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum RunTicketError {
    /// It begins otherwise.
    #[error("a run's ticket begins with {PREFIX}")]
    Prefix,
    /// It is cut, or has characters that do not belong there.
    #[error("the run's ticket is cut, or has characters that do not belong there")]
    Damaged,
}

/// The fields of a ticket, in the order in which they are written.
#[derive(Serialize, Deserialize)]
struct Fields {
    chain: u64,
    manifest: ContentHash,
    state: B256,
    token: Address,
    soft_cap: u128,
    deadline_s: u64,
    end_s: u64,
    checkpoints: u32,
    rounds_per_checkpoint: u32,
}

impl fmt::Display for RunTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = &self.terms;
        let fields = Fields {
            chain: self.chain.0,
            manifest: terms.manifest,
            state: terms.state,
            token: terms.token,
            soft_cap: terms.soft_cap.units(),
            deadline_s: terms.deadline_s,
            end_s: terms.end_s,
            checkpoints: terms.checkpoints,
            rounds_per_checkpoint: terms.rounds_per_checkpoint,
        };
        let bytes = postcard::to_allocvec(&fields).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for RunTicket {
    type Err = RunTicketError;

    fn from_str(text: &str) -> Result<Self, RunTicketError> {
        let coded = text.strip_prefix(PREFIX).ok_or(RunTicketError::Prefix)?;
        if text.len() > CHARS_MAX {
            return Err(RunTicketError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(coded);
        let bytes = bytes.map_err(|_| RunTicketError::Damaged)?;
        let read = postcard::take_from_bytes::<Fields>(&bytes);
        let (fields, rest) = read.map_err(|_| RunTicketError::Damaged)?;
        if !rest.is_empty() {
            return Err(RunTicketError::Damaged);
        }
        Ok(Self {
            chain: ChainId(fields.chain),
            terms: RunTerms {
                manifest: fields.manifest,
                state: fields.state,
                token: fields.token,
                soft_cap: Amount::new(fields.soft_cap),
                deadline_s: fields.deadline_s,
                end_s: fields.end_s,
                checkpoints: fields.checkpoints,
                rounds_per_checkpoint: fields.rounds_per_checkpoint,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_survives_and_a_cut_one_is_refused() {
        let ticket = RunTicket {
            chain: ChainId(402_402),
            terms: RunTerms {
                manifest: ContentHash([1; 32]),
                state: B256::repeat_byte(2),
                token: Address::ZERO,
                soft_cap: Amount::ZERO,
                deadline_s: 1_800_000_000,
                end_s: 1_900_000_000,
                checkpoints: 1,
                rounds_per_checkpoint: 20,
            },
        };
        let text = ticket.to_string();
        assert_eq!(text.parse(), Ok(ticket));
        for end in 0..text.len() {
            assert!(text[..end].parse::<RunTicket>().is_err(), "{end}");
        }
        assert_eq!(
            "hearth1abc".parse::<RunTicket>(),
            Err(RunTicketError::Prefix)
        );
        assert_eq!(
            format!("{text}A").parse::<RunTicket>(),
            Err(RunTicketError::Damaged)
        );
    }
}
