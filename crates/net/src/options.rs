//! What a network is opened with.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_environment::{Environment, SystemEnvironment};
use hearth_protocol::content::ContentHash;
use url::Url;

use crate::limits::{FRAME_TIME_MAX, SEND_STALL_MAX, STREAM_SILENCE_MAX};

/// How far a device reaches. Whatever the reach, nothing outside is contacted that the options
/// do not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Other nodes on this machine.
    Loopback,
    /// The local network: devices find each other by multicast DNS.
    Local,
    /// Everywhere, by the relays and the address lookups that the options name.
    World,
}

/// Which network a device belongs to: whose offers it hears.
#[derive(Clone, PartialEq, Eq)]
pub enum Membership {
    /// All devices that use the same name.
    Public {
        /// The name, by default `hearth`.
        name: String,
    },
    /// All devices that have the same 32 random bytes.
    Private {
        /// The bytes. They are never sent; any device that has them can join.
        secret: [u8; 32],
    },
}

impl Default for Membership {
    fn default() -> Self {
        Self::Public {
            name: "hearth".to_owned(),
        }
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public { name } => f.debug_tuple("Public").field(name).finish(),
            Self::Private { .. } => f.write_str("Private"),
        }
    }
}

impl Membership {
    /// The topic of the network's gossip: BLAKE3 over "hearth public topic" or "hearth private
    /// topic", a zero byte, and the name or the secret.
    pub fn topic(&self) -> ContentHash {
        match self {
            Self::Public { name } => hash(b"hearth public topic", &[name.as_bytes()]),
            Self::Private { secret } => hash(b"hearth private topic", &[secret]),
        }
    }

    /// The name under which members find each other by multicast DNS. It tells nothing about a
    /// private network but that two devices belong to the same one.
    pub(crate) fn service(&self) -> String {
        let tag = hash(b"hearth multicast service", &[&self.topic().0]);
        let digits = tag.to_string();
        format!("hearth-{}", &digits[..8])
    }
}

/// BLAKE3 over a domain, a zero byte, and parts of fixed length (or one part).
pub(crate) fn hash(domain: &[u8], parts: &[&[u8]]) -> ContentHash {
    let mut bytes = domain.to_vec();
    bytes.push(0);
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    ContentHash::of(&bytes)
}

/// How long others are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long a frame may take to arrive once its first byte has.
    pub frame: Duration,
    /// How long an answer's stream may be silent in both directions.
    pub silence: Duration,
    /// How long the other side may refuse to take what is sent to it.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            frame: FRAME_TIME_MAX,
            silence: STREAM_SILENCE_MAX,
            stall: SEND_STALL_MAX,
        }
    }
}

/// What a network is opened with. Begin with [`NetworkOptions::loopback`] or
/// [`NetworkOptions::new`] and set what differs.
#[derive(Clone)]
#[non_exhaustive]
pub struct NetworkOptions {
    /// The device's Ed25519 key.
    pub secret_key: [u8; 32],
    /// How far it reaches.
    pub reach: Reach,
    /// Which network it belongs to.
    pub membership: Membership,
    /// The addresses to listen on; port zero lets the system choose. None at all means the
    /// loopback address, or every address, by the reach.
    pub bind: Vec<SocketAddr>,
    /// Relays to be reached through, in addition to direct connections.
    pub relays: Vec<Url>,
    /// Speak through relays alone: for a device whose firewall lets no UDP through.
    pub relay_only: bool,
    /// Publish to the BitTorrent DHT where this device is, and look others up there.
    pub dht: bool,
    /// The domain under which devices are looked up by DNS.
    pub dns_origin: Option<String>,
    /// The pkarr relay at which this device says where it is, for others to find it by DNS.
    pub pkarr_relay: Option<Url>,
    /// Ask the router to forward a port (UPnP, PCP, NAT-PMP).
    pub map_ports: bool,
    /// The folder of the store of files: hashes of what is shared, and what is being fetched.
    pub blobs_folder: PathBuf,
    /// The file in which peers are remembered.
    pub peers_file: Option<PathBuf>,
    /// The file in which the ports are remembered that the system chose, so that this device is
    /// where it said it is also after it was killed.
    pub ports_file: Option<PathBuf>,
    /// How long others are waited for.
    pub patience: Patience,
    /// The most bytes a second that are sent to all who fetch files together.
    pub upload_bytes_per_s: Option<u64>,
    /// The clock by which offers are judged.
    pub environment: Arc<dyn Environment>,
}

impl NetworkOptions {
    /// A device of the default network that reaches its local network.
    pub fn new(secret_key: [u8; 32], blobs_folder: impl Into<PathBuf>) -> Self {
        Self {
            secret_key,
            reach: Reach::Local,
            membership: Membership::default(),
            bind: Vec::new(),
            relays: Vec::new(),
            relay_only: false,
            dht: false,
            dns_origin: None,
            pkarr_relay: None,
            map_ports: false,
            blobs_folder: blobs_folder.into(),
            peers_file: None,
            ports_file: None,
            patience: Patience::default(),
            upload_bytes_per_s: None,
            environment: Arc::new(SystemEnvironment),
        }
    }

    /// A device that reaches nothing but this machine.
    pub fn loopback(secret_key: [u8; 32], blobs_folder: impl Into<PathBuf>) -> Self {
        Self {
            reach: Reach::Loopback,
            ..Self::new(secret_key, blobs_folder)
        }
    }

    /// The addresses to listen on.
    pub(crate) fn binds(&self) -> Vec<SocketAddr> {
        if !self.bind.is_empty() {
            return self.bind.clone();
        }
        match self.reach {
            Reach::Loopback => vec![(Ipv4Addr::LOCALHOST, 0).into()],
            Reach::Local | Reach::World => vec![
                (Ipv4Addr::UNSPECIFIED, 0).into(),
                (Ipv6Addr::UNSPECIFIED, 0).into(),
            ],
        }
    }
}

impl fmt::Debug for NetworkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not derived, so that the key is never printed.
        f.debug_struct("NetworkOptions")
            .field("reach", &self.reach)
            .field("membership", &self.membership)
            .field("bind", &self.bind)
            .field("relays", &self.relays)
            .finish_non_exhaustive()
    }
}
