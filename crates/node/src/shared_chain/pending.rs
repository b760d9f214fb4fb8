//! Tickets that the owner gave before the node was up: kept in a file until they were used.
//!
//! A ticket may hold a secret, so the file is its owner's alone. What a ticket says of a chain counts at once: the next
//! command of the data folder uses it.

use std::io::{self, Write};
use std::path::PathBuf;

use hearth_causes::WithCauses;
use hearth_net::{Ticket, TicketError, limits::TICKET_CHARS_MAX};
use hearth_protocol::id::ChainId;
use thiserror::Error;

use super::ticket::{PayloadError, TicketPayload};
use crate::advice::Advice;
use crate::home::{ConfigError, Home};

/// The name of the file in the data folder.
const FILE: &str = "tickets";
/// Tickets that are kept; the oldest gives way.
const TICKETS_MAX: usize = 16;
/// The longest such file, in bytes.
const FILE_BYTES_MAX: u64 = (TICKETS_MAX * (TICKET_CHARS_MAX + 1)) as u64;

/// Why a ticket is not kept for later.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinLaterError {
    /// It is no ticket.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// What it carries is of no use.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file.
    #[error("{} cannot be used", path.display())]
    Io {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Advice for JoinLaterError {
    fn code(&self) -> &str {
        match self {
            Self::Ticket(_) | Self::Payload(_) => "bad_ticket",
            Self::Config(error) => error.code(),
            Self::Io { .. } => "home_io",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Ticket(_) | Self::Payload(_) => {
                "Ask for a new ticket: `hearth invite` on the other device prints one".to_owned()
            }
            Self::Config(error) => error.next_step(),
            Self::Io { .. } => "Check that the folder belongs to you and has room".to_owned(),
        }
    }
}

/// Keeps a ticket until `hearth up` has joined by it, and uses its chain from now on. Returns the chain where it was
/// not in use before.
///
/// # Errors
/// See [`JoinLaterError`].
pub fn join_later(home: &Home, ticket: &str) -> Result<Option<ChainId>, JoinLaterError> {
    let parsed: Ticket = ticket.parse()?;
    let chain = use_chain(home, &parsed)?;
    let mut kept = pending(home);
    kept.retain(|one| one != ticket.trim());
    kept.push(ticket.trim().to_owned());
    let over = kept.len().saturating_sub(TICKETS_MAX);
    kept.drain(..over);
    write(home, &kept)?;
    Ok(chain)
}

/// Uses the chain of a ticket from now on, where it carries one and the configuration names none. Returns it where it
/// was not in use before.
///
/// # Errors
/// See [`JoinLaterError`].
pub fn join_now(home: &Home, ticket: &str) -> Result<Option<ChainId>, JoinLaterError> {
    use_chain(home, &ticket.parse()?)
}

/// The same for a ticket that was read.
pub(crate) fn use_chain(home: &Home, ticket: &Ticket) -> Result<Option<ChainId>, JoinLaterError> {
    let payload = TicketPayload::of(ticket)?;
    let Some(joined) = payload.joined_chain(ticket) else {
        return Ok(None);
    };
    let Some(mut network) = home.config()?.network_chain else {
        return Ok(None);
    };
    let before = network.id();
    // A ticket that came back to the device whose chain it is makes it no guest of itself.
    let is_own = joined.chain_id == network.own().0;
    network
        .join((!is_own).then_some(joined))
        .map_err(|source| JoinLaterError::Io {
            path: home.root().to_owned(),
            source,
        })?;
    Ok((network.id() != before).then(|| network.id()))
}

/// Uses this device's own chain again, from its next start on. Returns that one, and the one that was used.
///
/// # Errors
/// See [`JoinLaterError`].
pub fn leave(home: &Home) -> Result<Option<(ChainId, ChainId)>, JoinLaterError> {
    let Some(mut network) = home.config()?.network_chain else {
        return Ok(None);
    };
    let before = network.id();
    network.join(None).map_err(|source| JoinLaterError::Io {
        path: home.root().to_owned(),
        source,
    })?;
    Ok(Some((network.id(), before)))
}

/// The tickets that wait, the oldest first. A file that cannot be read holds none: each ticket can be given again.
pub fn pending(home: &Home) -> Vec<String> {
    let path = home.root().join(FILE);
    let length = std::fs::metadata(&path).map_or(0, |found| found.len());
    if length > FILE_BYTES_MAX {
        return Vec::new();
    }
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.take(TICKETS_MAX).map(str::to_owned).collect()
}

/// Lets a ticket go that was used, or that will never be of use.
pub(crate) fn forget(home: &Home, ticket: &str) {
    let mut kept = pending(home);
    let before = kept.len();
    kept.retain(|one| one != ticket);
    if kept.len() != before
        && let Err(error) = write(home, &kept)
    {
        tracing::warn!(error = %error.with_causes(), "a used ticket stays, and is tried again at the next start");
    }
}

fn write(home: &Home, tickets: &[String]) -> Result<(), JoinLaterError> {
    let path = home.root().join(FILE);
    let written = replaced(home, tickets);
    written.map_err(|source| JoinLaterError::Io { path, source })
}

fn replaced(home: &Home, tickets: &[String]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(home.root())?;
    for ticket in tickets {
        writeln!(file, "{ticket}")?;
    }
    file.as_file().sync_all()?;
    file.persist(home.root().join(FILE))
        .map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use hearth_chain::embedded::OWN_CHAIN_IDS;
    use hearth_net::{PeerAddress, device_of_key};

    use super::super::ticket::ChainTicket;
    use super::*;

    fn ticket(seed: u8, chain_id: u64) -> String {
        let chain = ChainTicket {
            chain_id,
            host: None,
        };
        let payload = TicketPayload {
            invitation: None,
            chain: Some(chain),
        };
        let ticket = Ticket {
            peer: PeerAddress::of(device_of_key(&[seed; 32])),
            network_secret: None,
            payload: payload.to_bytes().unwrap(),
        };
        ticket.to_string()
    }

    #[test]
    fn a_ticket_waits_until_it_is_used_and_its_chain_counts_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let own = home.config().unwrap().network_chain.unwrap().own();
        let there = OWN_CHAIN_IDS.end - 1;
        let first = ticket(1, there);
        assert_eq!(join_later(&home, &first).unwrap(), Some(ChainId(there)));
        // Given twice, it waits once.
        assert_eq!(join_later(&home, &first).unwrap(), None);
        assert_eq!(pending(&home), std::slice::from_ref(&first));
        let config = home.config().unwrap();
        assert_eq!(config.network_chain.clone().unwrap().own(), own);
        let (_, dollar) = config.asset("TESTUSD").unwrap();
        assert_eq!(dollar.id.chain, ChainId(there));
        forget(&home, &first);
        assert_eq!(pending(&home), Vec::<String>::new());
        assert_eq!(leave(&home).unwrap(), Some((own, ChainId(there))));
        assert_eq!(leave(&home).unwrap(), Some((own, own)));
        join_now(&home, &first).unwrap();
        assert_eq!(home.config().unwrap().assets["TESTUSD"].id.chain.0, there);
    }

    #[test]
    fn tickets_that_are_wrong_or_of_public_chains_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let own = home.config().unwrap().network_chain.unwrap().own();
        for (wrong, code) in [
            ("nonsense".to_owned(), "bad_ticket"),
            (ticket(1, 8_453), "bad_ticket"),
        ] {
            assert_eq!(join_later(&home, &wrong).unwrap_err().code(), code);
        }
        assert_eq!(pending(&home), Vec::<String>::new());
        // A device's own ticket does not make it a guest of itself.
        assert_eq!(join_later(&home, &ticket(1, own.0)).unwrap(), None);
        let network = home.config().unwrap().network_chain.unwrap();
        assert_eq!((network.id(), network.joined()), (own, None));
    }

    #[test]
    fn a_configured_chain_stays_whatever_a_ticket_says() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let text = std::fs::read_to_string(home.config_path()).unwrap();
        let text = crate::home::naming_the_embedded_chain(&text);
        std::fs::write(home.config_path(), text).unwrap();
        let before = home.config().unwrap();
        let given = ticket(1, OWN_CHAIN_IDS.start);
        assert_eq!(join_later(&home, &given).unwrap(), None);
        assert_eq!(home.config().unwrap(), before);
        assert_eq!(pending(&home), [given]);
    }

    #[test]
    fn as_many_wait_as_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        let all: Vec<_> = (0..40).map(|n| ticket(n, OWN_CHAIN_IDS.start)).collect();
        for one in &all {
            join_later(&home, one).unwrap();
        }
        assert_eq!(pending(&home), all[all.len() - TICKETS_MAX..]);
    }
}
