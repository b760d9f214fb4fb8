//! Where a connection comes from, as far as what comes from there is bounded.
//!
//! Keys cost nothing, so a bound per key bounds nobody who makes keys. Addresses cost something:
//! the holder of one IPv4 address often has its neighbours too (/24), and the holder of IPv6 has a /64
//! and often a /48. Behind a relay the address is unknown, so the relay stands for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an IPv6 address that one link has: a /64.
const LINK_BYTES: usize = 8;
/// Bytes of an IPv6 address that one site has: a /48.
const SITE_BYTES: usize = 6;

/// Where a connection comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// An address of the internet, or the first one of a range of them.
    Ip(IpAddr),
    /// A relay, by its URL.
    Relay(String),
    /// Nothing is known.
    Unknown,
}

impl Origin {
    /// An address; one of IPv4 that is written as IPv6 is what it stands for.
    pub fn ip(address: IpAddr) -> Self {
        Self::Ip(address.to_canonical())
    }

    /// What one machine has: an IPv4 address, or a /64 of IPv6.
    pub fn machine(&self) -> Self {
        match self {
            Self::Ip(IpAddr::V6(address)) => Self::Ip(masked(*address, LINK_BYTES)),
            other => other.clone(),
        }
    }

    /// What one site has: a /24 of IPv4, or a /48 of IPv6.
    pub fn site(&self) -> Self {
        match self {
            Self::Ip(IpAddr::V4(address)) => {
                let [a, b, c, _] = address.octets();
                Self::Ip(Ipv4Addr::new(a, b, c, 0).into())
            }
            Self::Ip(IpAddr::V6(address)) => Self::Ip(masked(*address, SITE_BYTES)),
            other => other.clone(),
        }
    }
}

fn masked(address: Ipv6Addr, bytes: usize) -> IpAddr {
    let mut octets = address.octets();
    octets[bytes..].fill(0);
    Ipv6Addr::from(octets).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::ip(text.parse().unwrap())
    }

    #[test]
    fn neighbours_of_an_address_share_its_origin() {
        let same_machine = [
            ("192.0.2.7", "::ffff:192.0.2.7"),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"),
        ];
        for (one, other) in same_machine {
            assert_eq!(origin(one).machine(), origin(other).machine());
        }
        let same_site = [
            ("192.0.2.7", "192.0.2.250"),
            ("2001:db8:1:2::1", "2001:db8:1:ffff::1"),
        ];
        for (one, other) in same_site {
            assert_eq!(origin(one).site(), origin(other).site());
            assert_ne!(origin(one).machine(), origin(other).machine());
        }
        assert_ne!(origin("192.0.2.7").site(), origin("192.0.3.7").site());
        assert_ne!(
            origin("2001:db8:1::1").site(),
            origin("2001:db8:2::1").site()
        );
        let relay = Origin::Relay("https://relay.example/".to_owned());
        assert_eq!(relay.site(), relay);
    }
}
