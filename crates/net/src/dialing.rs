//! Which addresses are dialed, by who told them.
//!
//! To dial is to send packets of a stranger's choice to where a stranger chose, and to call a relay
//! is to send it an HTTP request. So what strangers say of where they are (in offers, in records of
//! the DHT and of DNS) is dialed only where it is an address of the internet, or of the very network
//! that this device is in, and a relay only where the owner named it: in the configuration or by a
//! ticket. What the owner typed, and what the household's devices say, is dialed as it is.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{PoisonError, RwLock};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use iroh::address_lookup::{AddressLookup, EndpointData, EndpointInfo, Error, Item};
use iroh::{EndpointId, RelayUrl};
use url::Url;

use crate::limits::{STRANGER_ADDRESSES_MAX, TICKET_RELAYS_MAX};
use crate::options::Reach;
use crate::origin::Origin;
use crate::peers::{PEER_RELAYS_MAX, PeerAddress, parse_relay};

/// Ports below this one are of services of the system.
const SYSTEM_PORTS: u16 = 1_024;
/// The one of them at which a device may well be, because firewalls let it through.
const HTTPS_PORT: u16 = 443;
/// Ports above them at which common services answer a single packet.
const SERVICE_PORTS: [u16; 10] = [
    1_194, 1_900, 3_478, 3_702, 4_789, 5_060, 5_353, 5_355, 5_683, 11_211,
];

/// The source that told where a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Teller {
    /// The owner, or a device of the household, or one that the owner named.
    Owner,
    /// The local network, by multicast DNS.
    LocalNetwork,
    /// Anybody.
    Stranger,
}

/// What is dialed.
#[derive(Debug)]
pub(crate) struct Dialing {
    reach: Reach,
    configured: BTreeSet<RelayUrl>,
    of_tickets: RwLock<BTreeSet<RelayUrl>>,
    /// This device's own addresses.
    own: RwLock<BTreeSet<IpAddr>>,
}

impl Dialing {
    pub(crate) fn new(reach: Reach, relays: &[Url]) -> Self {
        Self {
            reach,
            configured: relays.iter().cloned().map(RelayUrl::from).collect(),
            of_tickets: RwLock::default(),
            own: RwLock::default(),
        }
    }

    /// Notes which addresses this device has, so that those near them are dialed.
    pub(crate) fn note_own(&self, addresses: impl Iterator<Item = IpAddr>) {
        let own = addresses.map(|address| address.to_canonical()).collect();
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = own;
    }

    /// Uses the relays of a device that the owner named from now on; beyond a bound, no more.
    pub(crate) fn allow_relays(&self, named: &PeerAddress) {
        let relays = named.relays.iter().filter_map(|relay| parse_relay(relay));
        let mut allowed = self
            .of_tickets
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for relay in relays.map(RelayUrl::from).take(PEER_RELAYS_MAX) {
            if allowed.len() < TICKET_RELAYS_MAX {
                allowed.insert(relay);
            }
        }
    }

    fn allows_relay(&self, relay: &str) -> bool {
        let Some(url) = parse_relay(relay).map(RelayUrl::from) else {
            return false;
        };
        let of_tickets = self
            .of_tickets
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        self.configured.contains(&url) || of_tickets.contains(&url)
    }

    /// What of an address in the address book is dialed: it was dialed before, but a relay may have been
    /// taken out of the configuration.
    pub(crate) fn remembered(&self, address: PeerAddress) -> PeerAddress {
        let mut address = address.within(self.reach);
        address.relays.retain(|relay| self.allows_relay(relay));
        address
    }

    /// What of an address is dialed.
    pub(crate) fn permitted(&self, address: PeerAddress, teller: Teller) -> PeerAddress {
        let mut address = address.within(self.reach);
        if teller == Teller::Owner {
            return address;
        }
        address.relays.retain(|relay| self.allows_relay(relay));
        address.relays.truncate(PEER_RELAYS_MAX);
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner);
        address.direct.retain(|direct| {
            let ip = direct.ip().to_canonical();
            match (self.reach, teller) {
                // What is left is of this machine, and the owner wants no more than that.
                (Reach::Loopback, _) => direct.port() >= SYSTEM_PORTS,
                (_, Teller::LocalNetwork) => !ip.is_loopback() && is_dialed(direct),
                (_, _) => is_dialed(direct) && (is_public(ip) || is_near(ip, &own)),
            }
        });
        address.direct.truncate(STRANGER_ADDRESSES_MAX);
        address
    }
}

/// Whether a device may be at a port, as far as strangers are believed.
fn is_dialed(address: &SocketAddr) -> bool {
    let port = address.port();
    let ip = address.ip();
    (port >= SYSTEM_PORTS || port == HTTPS_PORT)
        && !SERVICE_PORTS.contains(&port)
        && !ip.is_unspecified()
        && !ip.is_multicast()
}

/// Whether an address is in the very network of one of this device's own.
fn is_near(address: IpAddr, own: &BTreeSet<IpAddr>) -> bool {
    let link = |ip: IpAddr| match ip {
        IpAddr::V4(_) => Origin::ip(ip).site(),
        IpAddr::V6(_) => Origin::ip(ip).machine(),
    };
    let is_broadcast = matches!(address, IpAddr::V4(v4) if matches!(v4.octets()[3], 0 | 255));
    let has_network = |ip: &&IpAddr| !ip.is_loopback();
    let mut near = own.iter().filter(has_network);
    !address.is_loopback()
        && !is_link_local(address)
        && !is_broadcast
        && near.any(|ip| link(*ip) == link(address))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Whether an address is one of the internet's: not of a machine, a home, a provider's inside, a
/// test, a document or a tunnel (the registries of IANA for special purposes).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        [0 | 10 | 127, ..] | [169, 254, ..] | [192, 168, ..] => true,
        [100, b, ..] => (64..128).contains(&b),
        [172, b, ..] => (16..32).contains(&b),
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        [198, 18 | 19, ..] => true,
        [a, ..] => a >= 224,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let special = match address.segments() {
        // Tunnels hold an IPv4 address of the stranger's choice.
        [0x2001, 0, ..] | [0x2002, ..] => true,
        [0x2001, b, ..] if b < 0x200 || b == 0xdb8 => true,
        [0x3fff, b, ..] if b < 0x1000 => true,
        [a, ..] => a & 0xe000 != 0x2000,
    };
    !special
}

/// A lookup whose answers are dialed only as far as they may be.
#[derive(Debug)]
pub(crate) struct Permitted<L> {
    pub(crate) inner: L,
    pub(crate) dialing: std::sync::Arc<Dialing>,
    pub(crate) teller: Teller,
}

impl<L: AddressLookup> AddressLookup for Permitted<L> {
    fn publish(&self, data: &EndpointData) {
        self.inner.publish(data);
    }

    fn resolve(&self, id: EndpointId) -> Option<BoxStream<'static, Result<Item, Error>>> {
        let (dialing, teller) = (self.dialing.clone(), self.teller);
        let found = self.inner.resolve(id)?;
        let permitted = found.filter_map(move |item| {
            let kept = match item {
                Ok(item) => permitted(&dialing, teller, &item).map(Ok),
                Err(error) => Some(Err(error)),
            };
            futures::future::ready(kept)
        });
        Some(permitted.boxed())
    }
}

fn permitted(dialing: &Dialing, teller: Teller, item: &Item) -> Option<Item> {
    let told = PeerAddress::from_iroh(&item.to_endpoint_addr());
    let address = dialing.permitted(told, teller).to_iroh()?;
    let (provenance, updated) = (item.provenance(), item.last_updated());
    (!address.addrs.is_empty()).then(|| Item::new(EndpointInfo::from(address), provenance, updated))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_protocol::offer::DeviceId;
    use iroh::SecretKey;

    fn told(direct: &[&str], relays: &[&str]) -> PeerAddress {
        let key = SecretKey::from_bytes(&[7; 32]).public();
        PeerAddress {
            device: DeviceId(*key.as_bytes()),
            direct: direct.iter().map(|one| one.parse().unwrap()).collect(),
            relays: relays.iter().map(|one| (*one).to_owned()).collect(),
        }
    }

    fn dialing(reach: Reach) -> Dialing {
        let dialing = Dialing::new(reach, &["https://ours.example/".parse().unwrap()]);
        let own = ["192.168.7.20", "127.0.0.1", "fd00:1:2:3::4"];
        dialing.note_own(own.iter().map(|one| one.parse().unwrap()));
        dialing
    }

    #[test]
    fn no_stranger_has_this_device_dial_inside_its_networks_or_services() {
        let dialing = dialing(Reach::World);
        let refused = [
            "127.0.0.1:4000",
            "127.9.9.9:4000",
            "10.0.0.1:4000",
            "172.16.0.1:4000",
            "172.31.255.1:4000",
            "192.168.1.1:4000",
            "192.168.7.255:4000",
            "100.64.0.1:4000",
            "169.254.169.254:4000",
            "198.18.0.1:4000",
            "203.0.113.9:4000",
            "255.255.255.255:4000",
            "240.0.0.1:4000",
            "0.0.0.1:4000",
            "[::1]:4000",
            "[::ffff:127.0.0.1]:4000",
            "[::ffff:10.0.0.1]:4000",
            "[64:ff9b::7f00:1]:4000",
            "[2002:7f00:1::1]:4000",
            "[2001:0:1::1]:4000",
            "[2001:db8::1]:4000",
            "[fe80::1]:4000",
            "[fc00::1]:4000",
            "[fd00:1:2:4::4]:4000",
            "[ff02::fb]:4000",
            "8.8.8.8:53",
            "8.8.8.8:123",
            "8.8.8.8:1900",
            "8.8.8.8:5353",
            "8.8.8.8:11211",
        ];
        for one in refused {
            let left = dialing.permitted(told(&[one], &[]), Teller::Stranger);
            assert!(left.direct.is_empty(), "{one} would be dialed");
        }
        let dialed = [
            "8.8.8.8:4000",
            "8.8.8.8:443",
            "192.168.7.9:4000",
            "[2a00:1450::1]:4000",
            "[fd00:1:2:3::9]:4000",
        ];
        for one in dialed {
            let left = dialing.permitted(told(&[one], &[]), Teller::Stranger);
            assert_eq!(left.direct.len(), 1, "{one} is where a device may be");
        }
        let many: Vec<_> = (1..=16).map(|n| format!("8.8.8.{n}:4000")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let left = dialing.permitted(told(&many, &[]), Teller::Stranger);
        assert_eq!(left.direct.len(), STRANGER_ADDRESSES_MAX);
    }

    #[test]
    fn relays_are_those_that_the_owner_named() {
        let dialing = dialing(Reach::World);
        let relays = [
            "https://ours.example/",
            "https://theirs.example/",
            "http://127.0.0.1:8545/",
            "http://169.254.169.254/latest/meta-data/",
        ];
        for teller in [Teller::Stranger, Teller::LocalNetwork] {
            let left = dialing.permitted(told(&[], &relays), teller);
            assert_eq!(left.relays, ["https://ours.example/"], "{teller:?}");
        }
        let ticket = told(&[], &["https://theirs.example/"]);
        let left = dialing.permitted(ticket.clone(), Teller::Owner);
        assert_eq!(left.relays.len(), 1, "what the owner typed");
        dialing.allow_relays(&ticket);
        let left = dialing.permitted(told(&[], &relays), Teller::Stranger);
        assert_eq!(left.relays.len(), 2);
        for n in 0..100 {
            dialing.allow_relays(&told(&[], &[&format!("https://r{n}.example/")]));
        }
        let allowed = dialing.of_tickets.read().unwrap().len();
        assert_eq!(allowed, TICKET_RELAYS_MAX);
    }

    #[test]
    fn the_owner_and_the_local_network_are_believed_more() {
        let dialing = dialing(Reach::Local);
        let inside = told(&["10.0.0.1:4000", "127.0.0.1:4000"], &[]);
        let left = |teller| dialing.permitted(inside.clone(), teller).direct.len();
        assert_eq!(left(Teller::Owner), 2);
        assert_eq!(left(Teller::LocalNetwork), 1);
        assert_eq!(left(Teller::Stranger), 0);
        let loopback = Dialing::new(Reach::Loopback, &[]);
        let left = loopback.permitted(inside, Teller::Stranger);
        assert_eq!(left.direct, ["127.0.0.1:4000".parse().unwrap()]);
        let service = loopback.permitted(told(&["127.0.0.1:53"], &[]), Teller::Stranger);
        assert!(service.direct.is_empty());
    }
}
