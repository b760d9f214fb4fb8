//! Tickets: one line of text that lets a device join another's network.
//!
//! A ticket is `hearth1` and the base32 (RFC 4648, lower case, no padding) of: a BLAKE3 checksum of
//! four bytes, then the postcard of the fields. Anyone who has the ticket of a private network can
//! join it, so it is a secret like a password.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use hearth_protocol::content::ContentHash;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{TICKET_CHARS_MAX, TICKET_PAYLOAD_BYTES_MAX};
use crate::peers::PeerAddress;

/// What every ticket begins with.
const PREFIX: &str = "hearth1";
/// The checksum's length, in bytes: enough to notice a slip of the hand.
const CHECKSUM_BYTES: usize = 4;

/// An invitation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// A member of the network, to begin with.
    pub peer: PeerAddress,
    /// The secret of the private network that it belongs to.
    pub network_secret: Option<[u8; 32]>,
    /// What the ticket carries for others, at most [`TICKET_PAYLOAD_BYTES_MAX`] bytes.
    pub payload: Vec<u8>,
}

/// Why a text is not a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TicketError {
    /// It begins otherwise.
    #[error("a ticket begins with {PREFIX}: copy the whole line")]
    Prefix,
    /// It is too long.
    #[error("a ticket has at most {TICKET_CHARS_MAX} characters: copy nothing but the ticket")]
    Length,
    /// A character in it is wrong, or some are missing.
    #[error("the ticket is damaged: copy it again, or ask for a new one")]
    Damaged,
    /// It carries too much.
    #[error("a ticket carries at most {TICKET_PAYLOAD_BYTES_MAX} bytes")]
    Payload,
    /// Its address cannot be dialled.
    #[error("the ticket names no device that can be reached: ask for a new one")]
    Address,
}

impl Ticket {
    /// Checks the bounds.
    ///
    /// # Errors
    /// The first that is not kept.
    pub fn check(&self) -> Result<(), TicketError> {
        if self.payload.len() > TICKET_PAYLOAD_BYTES_MAX {
            return Err(TicketError::Payload);
        }
        if self.peer.is_sound() {
            Ok(())
        } else {
            Err(TicketError::Address)
        }
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = ContentHash::of(&[b"hearth ticket\0", bytes].concat());
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&hash.0[..CHECKSUM_BYTES]);
    checksum
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = postcard::to_stdvec(self).map_err(|_| fmt::Error)?;
        let mut bytes = checksum(&fields).to_vec();
        bytes.extend(fields);
        let text = BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
        write!(f, "{PREFIX}{text}")
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not derived, so that the secret is never printed.
        f.debug_struct("Ticket")
            .field("peer", &self.peer)
            .field("is_private", &self.network_secret.is_some())
            .finish_non_exhaustive()
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        if text.len() > TICKET_CHARS_MAX {
            return Err(TicketError::Length);
        }
        let digits = text.strip_prefix(PREFIX).ok_or(TicketError::Prefix)?;
        let bytes = BASE32_NOPAD
            .decode(digits.to_ascii_uppercase().as_bytes())
            .map_err(|_| TicketError::Damaged)?;
        let (sum, fields) = bytes
            .split_at_checked(CHECKSUM_BYTES)
            .ok_or(TicketError::Damaged)?;
        if sum != checksum(fields) {
            return Err(TicketError::Damaged);
        }
        let (ticket, rest) =
            postcard::take_from_bytes::<Self>(fields).map_err(|_| TicketError::Damaged)?;
        if !rest.is_empty() {
            return Err(TicketError::Damaged);
        }
        ticket.check()?;
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_protocol::offer::DeviceId;
    use iroh::SecretKey;

    fn ticket() -> Ticket {
        let key = SecretKey::from_bytes(&[7; 32]).public();
        let mut peer = PeerAddress::of(DeviceId(*key.as_bytes()));
        peer.direct.push("127.0.0.1:4000".parse().unwrap());
        Ticket {
            peer,
            network_secret: Some([9; 32]),
            payload: vec![1, 2, 3],
        }
    }

    #[test]
    fn a_ticket_is_read_as_it_was_written() {
        let text = ticket().to_string();
        assert!(text.starts_with("hearth1"), "{text}");
        assert_eq!(text.parse(), Ok(ticket()));
        assert_eq!(format!(" {text}\n").parse(), Ok(ticket()));
        assert!(!format!("{:?}", ticket()).contains("9, 9"));
    }

    #[test]
    fn a_slip_of_the_hand_is_noticed() {
        let text = ticket().to_string();
        assert_eq!("nonsense".parse::<Ticket>(), Err(TicketError::Prefix));
        assert_eq!("hearth1".parse::<Ticket>(), Err(TicketError::Damaged));
        let short = &text[..text.len() - 3];
        assert_eq!(short.parse::<Ticket>(), Err(TicketError::Damaged));
        for at in PREFIX.len()..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(
                wrong.parse::<Ticket>(),
                Err(TicketError::Damaged),
                "at {at}"
            );
        }
        let long = format!("hearth1{}", "a".repeat(TICKET_CHARS_MAX));
        assert_eq!(long.parse::<Ticket>(), Err(TicketError::Length));
    }

    #[test]
    fn a_ticket_beyond_its_bounds_is_refused_though_its_checksum_is_right() {
        let mut wide = ticket();
        wide.payload = vec![0; TICKET_PAYLOAD_BYTES_MAX + 1];
        assert_eq!(
            wide.to_string().parse::<Ticket>(),
            Err(TicketError::Payload)
        );
        let mut nowhere = ticket();
        nowhere.peer.direct = vec!["0.0.0.0:1".parse().unwrap()];
        assert_eq!(
            nowhere.to_string().parse::<Ticket>(),
            Err(TicketError::Address)
        );
    }
}
