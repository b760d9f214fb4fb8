//! What a ticket carries beside where a device is: an invitation to its household, and the chain of its network.
//!
//! A ticket without a chain carries the invitation alone, as tickets always did; with one, a mark and both. Implements
//! docs/spec/10-household.md, section 3, and docs/spec/05-embedded-chain.md, section 14.

use hearth_chain::embedded::is_embedded_id;
use hearth_net::{PeerAddress, Ticket};
use hearth_protocol::household::InviteTicket;
use hearth_protocol::id::ChainId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::home::JoinedChain;

/// What a payload with a chain begins with. No invitation begins so but by a chance of one in 2^32.
const MARK: [u8; 4] = *b"HTP1";

/// A chain that one device of the network runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainTicket {
    /// Its EIP-155 id.
    pub chain_id: u64,
    /// The device that runs it; nothing where that is the ticket's own.
    pub host: Option<PeerAddress>,
}

/// What a ticket carries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketPayload {
    /// An invitation to a household.
    pub invitation: Option<InviteTicket>,
    /// The chain of the network.
    pub chain: Option<ChainTicket>,
}

/// Why a ticket is of no use though it is whole.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// What it carries cannot be read.
    #[error("what the ticket carries cannot be read: it was made by another version")]
    Unreadable,
    /// It says that one device runs a chain that others run.
    #[error(
        "the ticket says that one device runs the chain {0}, whose number is not one of such chains: nothing is signed for it"
    )]
    NotEmbedded(ChainId),
    /// The device that runs the chain cannot be dialed.
    #[error("the ticket names no device that could be reached for its chain")]
    Host,
}

impl TicketPayload {
    /// Reads what a ticket carries. A payload that is neither an invitation nor marked is of a use that this version
    /// does not know, and carries nothing.
    ///
    /// # Errors
    /// See [`PayloadError`].
    pub fn of(ticket: &Ticket) -> Result<Self, PayloadError> {
        let Some(marked) = ticket.payload.strip_prefix(&MARK) else {
            let invitation = match postcard::take_from_bytes(&ticket.payload) {
                Ok((invitation, [])) => Some(invitation),
                _ => None,
            };
            return Ok(Self {
                invitation,
                chain: None,
            });
        };
        let (payload, rest): (Self, _) =
            postcard::take_from_bytes(marked).map_err(|_| PayloadError::Unreadable)?;
        if !rest.is_empty() {
            return Err(PayloadError::Unreadable);
        }
        if let Some(chain) = &payload.chain {
            if !is_embedded_id(chain.chain_id) {
                return Err(PayloadError::NotEmbedded(ChainId(chain.chain_id)));
            }
            if !chain.host.as_ref().is_none_or(PeerAddress::is_sound) {
                return Err(PayloadError::Host);
            }
        }
        Ok(payload)
    }

    /// Writes it as a ticket carries it.
    ///
    /// # Errors
    /// [`PayloadError::Unreadable`], never in practice: its parts are bounded.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PayloadError> {
        let failed = |_| PayloadError::Unreadable;
        match (&self.invitation, &self.chain) {
            (None, None) => Ok(Vec::new()),
            (Some(invitation), None) => postcard::to_stdvec(invitation).map_err(failed),
            _ => {
                let mut bytes = MARK.to_vec();
                bytes.extend(postcard::to_stdvec(self).map_err(failed)?);
                Ok(bytes)
            }
        }
    }

    /// Returns the chain that a device uses from now on which joins by `ticket`, if it carries one.
    pub fn joined_chain(&self, ticket: &Ticket) -> Option<JoinedChain> {
        let chain = self.chain.as_ref()?;
        Some(JoinedChain {
            chain_id: chain.chain_id,
            host: chain.host.clone().unwrap_or_else(|| ticket.peer.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;
    use hearth_chain::embedded::OWN_CHAIN_IDS;
    use hearth_net::device_of_key;
    use hearth_protocol::household::Secret;
    use hearth_protocol::time::Timestamp;

    use super::*;

    fn ticket(payload: Vec<u8>) -> Ticket {
        Ticket {
            peer: PeerAddress::of(device_of_key(&[7; 32])),
            network_secret: None,
            payload,
        }
    }

    fn invitation() -> InviteTicket {
        InviteTicket {
            household: Address::repeat_byte(0x11),
            secret: Secret([9; 32]),
            expires_at: Timestamp(1_800_000_000_000),
        }
    }

    fn chain(chain_id: u64) -> TicketPayload {
        TicketPayload {
            invitation: Some(invitation()),
            chain: Some(ChainTicket {
                chain_id,
                host: None,
            }),
        }
    }

    fn read(payload: &TicketPayload) -> Result<TicketPayload, PayloadError> {
        TicketPayload::of(&ticket(payload.to_bytes().unwrap()))
    }

    #[test]
    fn a_payload_is_read_as_it_was_written_also_one_of_an_earlier_version() {
        let whole = chain(OWN_CHAIN_IDS.start + 5);
        assert_eq!(read(&whole), Ok(whole.clone()));
        let here = whole.joined_chain(&ticket(Vec::new())).unwrap();
        assert_eq!(here.host.device, device_of_key(&[7; 32]));
        let old = postcard::to_stdvec(&invitation()).unwrap();
        let read_old = TicketPayload::of(&ticket(old.clone())).unwrap();
        assert_eq!(read_old.invitation, Some(invitation()));
        assert_eq!(read_old.to_bytes().unwrap(), old);
        assert_eq!(
            TicketPayload::of(&ticket(Vec::new())),
            Ok(TicketPayload::default())
        );
    }

    #[test]
    fn a_ticket_that_names_a_public_chain_or_nobody_is_refused() {
        for public in [1, 10, 8_453, 42_161, 11_155_111] {
            let refused = read(&chain(public)).unwrap_err();
            assert_eq!(refused, PayloadError::NotEmbedded(ChainId(public)));
        }
        let mut nowhere = chain(OWN_CHAIN_IDS.start);
        let mut host = PeerAddress::of(device_of_key(&[8; 32]));
        host.direct.push("0.0.0.0:1".parse().unwrap());
        nowhere.chain = nowhere.chain.map(|chain| ChainTicket {
            host: Some(host),
            ..chain
        });
        assert_eq!(read(&nowhere), Err(PayloadError::Host));
        let mut longer = chain(OWN_CHAIN_IDS.start).to_bytes().unwrap();
        longer.push(0);
        let unreadable = TicketPayload::of(&ticket(longer));
        assert_eq!(unreadable, Err(PayloadError::Unreadable));
    }
}
