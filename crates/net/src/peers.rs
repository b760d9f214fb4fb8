//! Where devices are, and which of them are remembered between runs.
//!
//! The file of remembered peers is text, a peer a line: its id, the word `named` for one that the
//! owner named by a ticket, then its socket addresses and relays, separated by spaces. Lines that cannot be read are left out, because a damaged address
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

use crate::limits::{
    NAMED_PEERS_MAX, PEER_ADDRESSES_MAX, PEERS_FILE_BYTES_MAX, PEERS_MAX, RELAY_URL_BYTES_MAX,
};
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

    /// In iroh's terms; nothing when the id is not a key.
    pub(crate) fn to_iroh(&self) -> Option<EndpointAddr> {
        let id = PublicKey::from_bytes(&self.device.0).ok()?;
        let direct = self.direct.iter().copied().map(TransportAddr::Ip);
        let relays = self.relays.iter().filter_map(|relay| parse_relay(relay));
        let relays = relays.map(|url| TransportAddr::Relay(RelayUrl::from(url)));
        Some(EndpointAddr::from_parts(id, direct.chain(relays)))
    }

    fn parse<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Self> {
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

/// The word that marks a peer that the owner named.
const NAMED: &str = "named";

/// A remembered peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) address: PeerAddress,
    /// Whether the owner named it, by a ticket.
    pub(crate) is_named: bool,
}

impl Peer {
    fn parse(line: &str) -> Option<Self> {
        let is_named = line.split_ascii_whitespace().nth(1) == Some(NAMED);
        let words = line.split_ascii_whitespace().enumerate();
        let words = words.filter(|(at, word)| *at != 1 || *word != NAMED);
        let address = PeerAddress::parse(words.map(|(_, word)| word))?;
        Some(Self { address, is_named })
    }

    fn line(&self) -> String {
        let text = self.address.to_string();
        match text.split_once(' ') {
            _ if !self.is_named => format!("{text}\n"),
            Some((device, rest)) => format!("{device} {NAMED} {rest}\n"),
            None => format!("{text} {NAMED}\n"),
        }
    }
}

/// The remembered peers, the one last heard of at the end.
#[derive(Debug, Default)]
pub(crate) struct PeerBook {
    peers: VecDeque<Peer>,
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
            .filter_map(Peer::parse)
            .for_each(|peer| book.note(peer.address, peer.is_named));
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
        changed.then(|| self.peers.iter().map(Peer::line).collect())
    }

    /// Remembers a peer as the one last heard of. The one not heard of for longest makes room, and
    /// one that the owner named only for another such one.
    pub(crate) fn note(&mut self, address: PeerAddress, is_named: bool) {
        let known = self
            .peers
            .iter()
            .position(|peer| peer.address.device == address.device);
        let old = known.and_then(|at| self.peers.remove(at));
        let says_nothing = address.direct.is_empty() && address.relays.is_empty();
        let is_named = is_named || old.as_ref().is_some_and(|old| old.is_named);
        let address = match old {
            Some(old) if says_nothing => old.address,
            _ => address,
        };
        self.peers.push_back(Peer { address, is_named });
        let named = self.peers.iter().filter(|peer| peer.is_named).count();
        if named > NAMED_PEERS_MAX {
            self.drop_first(true);
        } else if self.peers.len() > PEERS_MAX {
            self.drop_first(false);
        }
        self.changed = true;
    }

    fn drop_first(&mut self, is_named: bool) {
        let first = self.peers.iter().position(|peer| peer.is_named == is_named);
        first.map(|at| self.peers.remove(at));
    }

    /// Notes where a remembered peer is now.
    pub(crate) fn moved(&mut self, address: &PeerAddress) {
        let mut peers = self.peers.iter_mut();
        let known = peers.find(|peer| peer.address.device == address.device);
        if let Some(peer) = known
            && peer.address != *address
        {
            peer.address.clone_from(address);
            self.changed = true;
        }
    }

    /// Whether the owner named a device.
    pub(crate) fn is_named(&self, device: &DeviceId) -> bool {
        let mut peers = self.peers.iter();
        peers.any(|peer| peer.is_named && peer.address.device == *device)
    }

    /// All of them, the one last heard of first.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &Peer> {
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
        book.note(peer(1), true);
        book.note(peer(2), false);
        book.note(peer(1), false);
        let text = book.take_changes().unwrap();
        assert_eq!(book.take_changes(), None);
        let damaged = format!(
            "nonsense 127.0.0.1:1\n{text}\u{fffd}\n{} 0.0.0.0:1",
            peer(3).device
        );
        PeerBook::write(&damaged, &path).unwrap();
        let read = PeerBook::read(&path).unwrap();
        let peers: Vec<_> = read.peers().map(|one| one.address.clone()).collect();
        assert_eq!(peers, [peer(1), peer(2)]);
        assert!(read.is_named(&peer(1).device) && !read.is_named(&peer(2).device));
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
        let note = |book: &mut PeerBook, is_named: bool, of: &[DeviceId]| {
            of.iter()
                .for_each(|key| book.note(PeerAddress::of(*key), is_named));
        };
        note(&mut book, false, &keys);
        assert_eq!(book.peers().count(), PEERS_MAX);
        assert!(book.peers().all(|peer| peer.address.device != keys[0]));
        // Those that the owner named stay, however many others come.
        let (named, others) = keys.split_at(NAMED_PEERS_MAX);
        note(&mut book, true, named);
        note(&mut book, false, others);
        assert!(named.iter().all(|device| book.is_named(device)));
        assert_eq!(book.peers().count(), PEERS_MAX);
        note(&mut book, true, others);
        let still = book.peers().filter(|peer| peer.is_named).count();
        assert_eq!(
            (still, book.peers().count() <= PEERS_MAX),
            (NAMED_PEERS_MAX, true)
        );
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
