//! Where devices are, and which of them are remembered between runs.
//!
//! The file of remembered peers is text, a peer a line: its id, then its socket addresses and
//! relays, separated by spaces. Lines that cannot be read are left out, because a damaged address
//! book must not keep a node from starting; each peer that matters can be joined again by ticket.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use hearth_protocol::offer::DeviceId;
use iroh::{EndpointAddr, PublicKey, RelayUrl, TransportAddr};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

use crate::limits::{PEER_ADDRESSES_MAX, PEERS_FILE_BYTES_MAX, PEERS_MAX, RELAY_URL_BYTES_MAX};
use crate::options::Reach;

/// Where a device is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAddress {
    /// The device.
    pub device: DeviceId,
    /// Where it listens.
    pub direct: Vec<SocketAddr>,
    /// Relays that forward to it, as URLs.
    pub relays: Vec<String>,
}

/// Relays of one peer that others are told.
pub(crate) const PEER_RELAYS_MAX: usize = 2;

impl PeerAddress {
    /// A device of which nothing but its id is known.
    pub fn of(device: DeviceId) -> Self {
        Self {
            device,
            direct: Vec::new(),
            relays: Vec::new(),
        }
    }

    /// Whether it is within its bounds and names what can be dialled.
    pub fn is_sound(&self) -> bool {
        let dialled = |address: &SocketAddr| {
            address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
        };
        self.direct.len() + self.relays.len() <= PEER_ADDRESSES_MAX
            && PublicKey::from_bytes(&self.device.0).is_ok()
            && self.direct.iter().all(dialled)
            && self.relays.iter().all(|relay| parse_relay(relay).is_some())
    }

    /// The same without what `reach` does not allow to dial.
    pub fn within(mut self, reach: Reach) -> Self {
        match reach {
            Reach::Loopback => self.direct.retain(|address| address.ip().is_loopback()),
            Reach::Local | Reach::World => {}
        }
        // Relays are dialled where the options name some, whatever the reach is.
        self
    }

    pub(crate) fn from_iroh(address: &EndpointAddr) -> Self {
        let relays = address.relay_urls().map(ToString::to_string);
        Self {
            device: DeviceId(*address.id.as_bytes()),
            direct: address
                .ip_addrs()
                .copied()
                .take(PEER_ADDRESSES_MAX - PEER_RELAYS_MAX)
                .collect(),
            relays: relays.take(PEER_RELAYS_MAX).collect(),
        }
    }

    /// In iroh's terms; nothing when the id is no key.
    pub(crate) fn to_iroh(&self) -> Option<EndpointAddr> {
        let id = PublicKey::from_bytes(&self.device.0).ok()?;
        let direct = self.direct.iter().copied().map(TransportAddr::Ip);
        let relays = self.relays.iter().filter_map(|relay| parse_relay(relay));
        let relays = relays.map(|url| TransportAddr::Relay(RelayUrl::from(url)));
        Some(EndpointAddr::from_parts(id, direct.chain(relays)))
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let mut address = Self::of(words.next()?.parse().ok()?);
        for word in words.take(PEER_ADDRESSES_MAX) {
            match word.parse() {
                Ok(direct) => address.direct.push(direct),
                Err(_) => address.relays.push(word.to_owned()),
            }
        }
        address.is_sound().then_some(address)
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.device)?;
        self.direct
            .iter()
            .try_for_each(|direct| write!(f, " {direct}"))?;
        self.relays
            .iter()
            .try_for_each(|relay| write!(f, " {relay}"))
    }
}

/// A relay's URL: `http` or `https`, without spaces, bounded.
pub(crate) fn parse_relay(text: &str) -> Option<Url> {
    if text.len() > RELAY_URL_BYTES_MAX || text.contains(char::is_whitespace) {
        return None;
    }
    let url: Url = text.parse().ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

/// Why the remembered peers cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PeersError {
    /// The file cannot be read.
    #[error("the remembered peers cannot be read from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("the remembered peers cannot be written to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// The remembered peers, the one last heard of at the end.
#[derive(Debug, Default)]
pub(crate) struct PeerBook {
    peers: VecDeque<PeerAddress>,
    changed: bool,
}

impl PeerBook {
    /// Reads the file; a missing one is an empty book.
    pub(crate) fn read(path: &Path) -> Result<Self, PeersError> {
        let failed = |source| PeersError::Read {
            path: path.to_owned(),
            source,
        };
        match fs::metadata(path) {
            Ok(file) if file.len() > PEERS_FILE_BYTES_MAX => {
                let error = format!("it is longer than {PEERS_FILE_BYTES_MAX} bytes: remove it");
                return Err(failed(io::Error::other(error)));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        let mut book = Self::default();
        text.lines()
            .filter_map(PeerAddress::parse)
            .for_each(|peer| book.note(peer));
        book.changed = false;
        Ok(book)
    }

    /// Writes the file aside and puts it in place whole. Blocks on the disk.
    pub(crate) fn write(text: &str, path: &Path) -> Result<(), PeersError> {
        let failed = |source| PeersError::Write {
            path: path.to_owned(),
            source,
        };
        let aside = path.with_extension("new");
        let mut file = fs::File::create(&aside).map_err(failed)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&aside, path))
            .map_err(failed)
    }

    /// What is to be written, if anything changed since the last time.
    pub(crate) fn take_changes(&mut self) -> Option<String> {
        let changed = std::mem::take(&mut self.changed);
        changed.then(|| self.peers.iter().map(|peer| format!("{peer}\n")).collect())
    }

    /// Remembers a peer as the one last heard of; the one not heard of for longest makes room.
    pub(crate) fn note(&mut self, peer: PeerAddress) {
        let known = self.peers.iter().position(|p| p.device == peer.device);
        let old = known.and_then(|at| self.peers.remove(at));
        let known_address = peer.direct.is_empty() && peer.relays.is_empty();
        let peer = match old {
            Some(old) if known_address => old,
            _ => peer,
        };
        self.peers.push_back(peer);
        if self.peers.len() > PEERS_MAX {
            self.peers.pop_front();
        }
        self.changed = true;
    }

    /// All of them, the one last heard of first.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &PeerAddress> {
        self.peers.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iroh::SecretKey;

    fn peer(seed: u8) -> PeerAddress {
        let key = SecretKey::from_bytes(&[seed; 32]).public();
        PeerAddress {
            device: DeviceId(*key.as_bytes()),
            direct: vec![
                "127.0.0.1:4000".parse().unwrap(),
                "[::1]:4000".parse().unwrap(),
            ],
            relays: vec!["http://127.0.0.1:3340/".to_owned()],
        }
    }

    #[test]
    fn peers_are_read_back_and_damaged_lines_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        assert_eq!(PeerBook::read(&path).unwrap().peers().count(), 0);
        let mut book = PeerBook::default();
        book.note(peer(1));
        book.note(peer(2));
        book.note(peer(1));
        let text = book.take_changes().unwrap();
        assert_eq!(book.take_changes(), None);
        let damaged = format!(
            "nonsense 127.0.0.1:1\n{text}\u{fffd}\n{} 0.0.0.0:1",
            peer(3).device
        );
        PeerBook::write(&damaged, &path).unwrap();
        let read = PeerBook::read(&path).unwrap();
        let peers: Vec<_> = read.peers().cloned().collect();
        assert_eq!(peers, [peer(1), peer(2)]);
        fs::write(&path, vec![b' '; PEERS_FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(PeerBook::read(&path).is_err());
    }

    #[test]
    fn the_book_is_bounded() {
        let mut book = PeerBook::default();
        let keys = (0..PEERS_MAX + 1).map(|n| {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&(n as u64).to_le_bytes());
            DeviceId(*SecretKey::from_bytes(&seed).public().as_bytes())
        });
        let keys: Vec<_> = keys.collect();
        keys.iter().for_each(|key| book.note(PeerAddress::of(*key)));
        assert_eq!(book.peers().count(), PEERS_MAX);
        assert!(book.peers().all(|peer| peer.device != keys[0]));
    }

    #[test]
    fn addresses_that_cannot_be_dialled_are_unsound() {
        assert!(peer(1).is_sound());
        let unsound = |change: fn(&mut PeerAddress)| {
            let mut peer = peer(1);
            change(&mut peer);
            assert!(!peer.is_sound(), "{peer}");
        };
        unsound(|p| p.direct = vec!["127.0.0.1:0".parse().unwrap()]);
        unsound(|p| p.direct = vec!["0.0.0.0:1".parse().unwrap()]);
        unsound(|p| p.direct = vec!["224.0.0.1:1".parse().unwrap()]);
        unsound(|p| p.direct = vec!["127.0.0.1:1".parse().unwrap(); PEER_ADDRESSES_MAX]);
        unsound(|p| p.relays = vec!["ftp://127.0.0.1".to_owned()]);
        unsound(|p| p.relays = vec![format!("http://{}", "a".repeat(300))]);
        unsound(|p| p.device = DeviceId([2; 32]));
        let far = PeerAddress {
            direct: vec![
                "192.0.2.1:1".parse().unwrap(),
                "127.0.0.1:1".parse().unwrap(),
            ],
            ..peer(1)
        };
        assert_eq!(far.clone().within(Reach::Loopback).direct.len(), 1);
        assert_eq!(far.within(Reach::Local).direct.len(), 2);
    }
}
