//! How much strangers may hold: connections and bytes of requests, per address and in all.
//!
//! One [`Budget`] is shared by all doors of a process. It has two purses: one for the household's
//! own programs, which reach its doors by loopback, and one for everybody else, so that strangers
//! never use up what the household needs. Where a purse is empty a newcomer displaces somebody
//! whose request is not complete: of the address that holds the most, the one that waits longest.
//! Whoever sends a whole request is never displaced for one who sends half of one. IPv6 addresses
//! count by /64, which is what one link has. Its owner often has a whole /48: such a site
//! has half of a purse at most, and is displaced first.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;

/// Connections of everybody but the household's own programs.
const PUBLIC_CONNECTIONS_MAX: usize = 1_024;
/// Connections of the household's own programs.
const OWN_CONNECTIONS_MAX: usize = 512;
/// Bytes of requests that are read and not answered, of each of the two.
const BYTES_MAX: usize = 64 << 20;
/// How many addresses must join to use a purse up.
const ADDRESSES_MIN: usize = 4;
/// How many sites must join to use a purse up.
const SITES_MIN: usize = 2;
/// Files that this process may have open, if the system lets it: connections are some of them.
const FILES_WANTED: u64 = 8_192;

/// What one purse holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once of one address; loopback has all, since a reverse proxy asks from there.
    pub connections_per_address: usize,
    /// Bytes of requests that are read and not answered.
    pub bytes: usize,
    /// The same of one address.
    pub bytes_per_address: usize,
}

impl Limits {
    fn usual(connections: usize) -> Self {
        Self {
            connections,
            connections_per_address: (connections / ADDRESSES_MIN).max(1),
            bytes: BYTES_MAX,
            bytes_per_address: BYTES_MAX / ADDRESSES_MIN,
        }
    }
}

/// What all doors of a process may hold together. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    own: Arc<Mutex<Purse>>,
    public: Arc<Mutex<Purse>>,
}

impl Budget {
    /// A budget of these two purses: for the household's own programs, and for everybody else.
    pub fn new(own: Limits, public: Limits) -> Self {
        Self {
            own: Arc::new(Mutex::new(Purse::new(own))),
            public: Arc::new(Mutex::new(Purse::new(public))),
        }
    }

    /// The budget of a process. Lets it open as many files as the system permits, up to a bound, and
    /// gives connections at most three quarters of them.
    pub fn of_process() -> Self {
        let files = usize::try_from(raise_file_limit()).unwrap_or(usize::MAX);
        Self::new(
            Limits::usual(OWN_CONNECTIONS_MAX.min(files / 4)),
            Limits::usual(PUBLIC_CONNECTIONS_MAX.min(files / 2)),
        )
    }

    /// Takes a place for a connection; `None` where all are taken by requests that are worked on.
    pub(crate) fn seat(&self, is_own_door: bool, peer: IpAddr) -> Option<Seat> {
        let address = Address::of(peer);
        let purse = if is_own_door && address == Address::Loopback {
            &self.own
        } else {
            &self.public
        };
        let displaced = Arc::new(Notify::new());
        let id = lock(purse).admit(address, Arc::clone(&displaced))?;
        Some(Seat(Arc::new(Held {
            purse: Arc::clone(purse),
            id,
            displaced,
        })))
    }

    /// Displaces somebody, because the system has no room for another connection.
    pub(crate) fn relieve(&self) {
        for purse in [&self.public, &self.own] {
            let mut purse = lock(purse);
            if let Some(id) = purse.least_worthy(Whose::Anybody, u64::MAX, false) {
                purse.displace(id);
                return;
            }
        }
    }
}

/// Raises how many files may be open to what is wanted or permitted, and returns what it is now.
fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let now = limit.current.unwrap_or(u64::MAX);
    let wanted = FILES_WANTED.min(limit.maximum.unwrap_or(u64::MAX));
    if now >= wanted {
        return now;
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => wanted,
        Err(_) => now,
    }
}

fn lock(purse: &Mutex<Purse>) -> MutexGuard<'_, Purse> {
    // Counts are whole after any panic: each change is made without one in between.
    purse.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whose a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Address {
    Loopback,
    V4([u8; 4]),
    /// A /64.
    V6([u8; 8]),
}

impl Address {
    fn of(peer: IpAddr) -> Self {
        match peer.to_canonical() {
            peer if peer.is_loopback() => Self::Loopback,
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }

    /// The first address of the site that it is in: a /48, or an IPv4 address alone.
    fn site(self) -> Self {
        match self {
            Self::V6([a, b, c, d, e, f, ..]) => Self::V6([a, b, c, d, e, f, 0, 0]),
            other => other,
        }
    }
}

/// Of whom somebody must make room.
#[derive(Debug, Clone, Copy)]
enum Whose {
    Anybody,
    Address(Address),
    Site(Address),
}

impl Whose {
    fn includes(self, address: Address) -> bool {
        match self {
            Self::Anybody => true,
            Self::Address(one) => one == address,
            Self::Site(site) => site == address.site(),
        }
    }
}

#[derive(Debug)]
struct Purse {
    limits: Limits,
    /// Grows with everything that happens: by it the oldest is found.
    clock: u64,
    held: BTreeMap<u64, Entry>,
    shares: HashMap<Address, Share>,
    /// The same by site.
    sites: HashMap<Address, Share>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    address: Address,
    /// Since when there is no complete request; `None` while one is worked on.
    waits_since: Option<u64>,
    bytes: usize,
    displaced: Arc<Notify>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Share {
    connections: usize,
    bytes: usize,
}

impl Purse {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            clock: 0,
            held: BTreeMap::new(),
            shares: HashMap::new(),
            sites: HashMap::new(),
            bytes: 0,
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn share(&self, address: Address) -> Share {
        self.shares.get(&address).copied().unwrap_or_default()
    }

    fn site_share(&self, address: Address) -> Share {
        let share = self.sites.get(&address.site());
        share.copied().unwrap_or_default()
    }

    /// Changes what an address and its site have. Those that have no connection are forgotten.
    fn count(&mut self, address: Address, change: impl Fn(&mut Share)) {
        let counted = [
            (&mut self.shares, address),
            (&mut self.sites, address.site()),
        ];
        for (shares, key) in counted {
            let share = shares.entry(key).or_default();
            change(share);
            if share.connections == 0 {
                shares.remove(&key);
            }
        }
    }

    /// What an address, and its site, may have of `all`.
    fn caps(address: Address, all: usize, per_address: usize) -> (usize, usize) {
        match address {
            Address::Loopback => (all, all),
            _ => (per_address, (all / SITES_MIN).max(per_address)),
        }
    }

    fn admit(&mut self, address: Address, displaced: Arc<Notify>) -> Option<u64> {
        let Limits {
            connections: all,
            connections_per_address: per_address,
            ..
        } = self.limits;
        let (cap, site_cap) = Self::caps(address, all, per_address);
        if self.share(address).connections >= cap {
            self.make_room(Whose::Address(address), u64::MAX, false)?;
        }
        if self.site_share(address).connections >= site_cap {
            self.make_room(Whose::Site(address.site()), u64::MAX, false)?;
        }
        if self.held.len() >= all {
            self.make_room(Whose::Anybody, u64::MAX, false)?;
        }
        let id = self.tick();
        self.count(address, |share| share.connections += 1);
        let entry = Entry {
            address,
            waits_since: Some(id),
            bytes: 0,
            displaced,
        };
        self.held.insert(id, entry);
        Some(id)
    }

    fn make_room(&mut self, of: Whose, not: u64, has_bytes: bool) -> Option<()> {
        let id = self.least_worthy(of, not, has_bytes)?;
        self.displace(id);
        Some(())
    }

    /// Whom to displace: of those without a complete request, of the site and then the address that
    /// holds the most, the one that waits longest.
    fn least_worthy(&self, of: Whose, not: u64, has_bytes: bool) -> Option<u64> {
        let waits = |(id, entry): (&u64, &Entry)| {
            let since = entry.waits_since?;
            let fits = of.includes(entry.address) && *id != not;
            let shares = [self.site_share(entry.address), self.share(entry.address)];
            let weight = shares.map(|share| {
                if has_bytes {
                    share.bytes
                } else {
                    share.connections
                }
            });
            (fits && (!has_bytes || entry.bytes > 0)).then_some((weight, u64::MAX - since, *id))
        };
        self.held
            .iter()
            .filter_map(waits)
            .max()
            .map(|(_, _, id)| id)
    }

    fn displace(&mut self, id: u64) {
        if let Some(entry) = self.remove(id) {
            entry.displaced.notify_one();
        }
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        self.give_back(id);
        let entry = self.held.remove(&id)?;
        self.count(entry.address, |share| share.connections -= 1);
        Some(entry)
    }

    /// Takes bytes for a request that arrives.
    fn take(&mut self, id: u64, bytes: usize) -> Result<(), Exhausted> {
        let address = self.held.get(&id).ok_or(Exhausted)?.address;
        let Limits {
            bytes: all,
            bytes_per_address: per_address,
            ..
        } = self.limits;
        let (cap, site_cap) = Self::caps(address, all, per_address);
        while self.share(address).bytes + bytes > cap {
            let whose = Whose::Address(address);
            self.make_room(whose, id, true).ok_or(Exhausted)?;
        }
        while self.site_share(address).bytes + bytes > site_cap {
            let whose = Whose::Site(address.site());
            self.make_room(whose, id, true).ok_or(Exhausted)?;
        }
        while self.bytes + bytes > all {
            self.make_room(Whose::Anybody, id, true).ok_or(Exhausted)?;
        }
        self.held.get_mut(&id).ok_or(Exhausted)?.bytes += bytes;
        self.count(address, |share| share.bytes += bytes);
        self.bytes += bytes;
        Ok(())
    }

    fn give_back(&mut self, id: u64) {
        let Some(entry) = self.held.get_mut(&id) else {
            return;
        };
        let (bytes, address) = (std::mem::take(&mut entry.bytes), entry.address);
        self.bytes -= bytes;
        self.count(address, |share| share.bytes -= bytes);
    }

    fn wait(&mut self, id: u64, waits: bool) {
        let now = self.tick();
        if let Some(entry) = self.held.get_mut(&id) {
            entry.waits_since = waits.then_some(now);
        }
    }
}

/// There is no room for more bytes, or the connection was displaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exhausted;

#[derive(Debug)]
struct Held {
    purse: Arc<Mutex<Purse>>,
    id: u64,
    displaced: Arc<Notify>,
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.purse).remove(self.id);
    }
}

/// The place of one connection in a budget. Clones share it; the last one gives it back.
#[derive(Debug, Clone)]
pub(crate) struct Seat(Arc<Held>);

impl Seat {
    /// Resolves when the connection must make room.
    pub(crate) async fn displaced(&self) {
        self.0.displaced.notified().await;
    }

    /// A request is complete and worked on: it is not displaced any more.
    pub(crate) fn works(&self) {
        lock(&self.0.purse).wait(self.0.id, false);
    }

    /// The connection waits for its client.
    pub(crate) fn waits(&self) {
        lock(&self.0.purse).wait(self.0.id, true);
    }

    /// Takes bytes for a request.
    pub(crate) fn take(&self, bytes: usize) -> Result<(), Exhausted> {
        lock(&self.0.purse).take(self.0.id, bytes)
    }

    /// Gives all bytes of the request back.
    pub(crate) fn give_back(&self) {
        lock(&self.0.purse).give_back(self.0.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        let limits = Limits {
            connections: 8,
            connections_per_address: 4,
            bytes: 100,
            bytes_per_address: 60,
        };
        Budget::new(limits, limits)
    }

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_displaced(seat: &Seat) -> bool {
        !lock(&seat.0.purse).held.contains_key(&seat.0.id)
    }

    #[test]
    fn an_address_at_its_limit_displaces_its_own_oldest() {
        let budget = budget();
        let other = budget.seat(false, peer("198.51.100.1")).unwrap();
        let seats: Vec<_> = (0..5)
            .map(|_| budget.seat(false, peer("203.0.113.7")).unwrap())
            .collect();
        assert!(is_displaced(&seats[0]) && !is_displaced(&other));
        assert_eq!(seats.iter().filter(|seat| is_displaced(seat)).count(), 1);
    }

    #[test]
    fn work_is_never_displaced() {
        let budget = budget();
        let seats: Vec<_> = (0..4)
            .map(|_| budget.seat(false, peer("203.0.113.7")).unwrap())
            .collect();
        seats.iter().for_each(Seat::works);
        assert!(budget.seat(false, peer("203.0.113.7")).is_none());
        seats[2].waits();
        assert!(budget.seat(false, peer("203.0.113.7")).is_some());
        assert!(is_displaced(&seats[2]));
    }

    #[test]
    fn addresses_of_one_customer_count_as_one() {
        for (one, other, same) in [
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::9", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
            ("::ffff:203.0.113.7", "203.0.113.7", true),
            ("127.0.0.1", "127.0.0.2", true),
            ("::1", "127.0.0.1", true),
        ] {
            assert_eq!(
                Address::of(peer(one)) == Address::of(peer(other)),
                same,
                "{one} {other}"
            );
        }
    }

    #[test]
    fn many_addresses_displace_the_heaviest_and_oldest_first() {
        let budget = budget();
        let heavy: Vec<_> = (0..4)
            .map(|_| budget.seat(false, peer("203.0.113.7")).unwrap())
            .collect();
        let light: Vec<_> = (1..=4)
            .map(|last| {
                budget
                    .seat(false, peer(&format!("198.51.100.{last}")))
                    .unwrap()
            })
            .collect();
        let _new = budget.seat(false, peer("192.0.2.1")).unwrap();
        assert!(is_displaced(&heavy[0]));
        assert!(!light.iter().any(is_displaced));
    }

    #[test]
    fn links_of_one_site_share_half_and_make_room_first() {
        let budget = budget();
        let other = budget.seat(false, peer("2001:db8:2::1")).unwrap();
        let link = |link: u8| {
            budget
                .seat(false, peer(&format!("2001:db8:1:{link}::1")))
                .unwrap()
        };
        let site: Vec<_> = (0..6).map(link).collect();
        let left = site.iter().filter(|seat| !is_displaced(seat)).count();
        assert_eq!(left, 4, "half of the places");
        assert!(
            is_displaced(&site[0]) && is_displaced(&site[1]),
            "the oldest"
        );
        // A client from elsewhere finds a place, however many links the site has.
        let mut new = Vec::new();
        for last in 1..=6 {
            new.push(
                budget
                    .seat(false, peer(&format!("198.51.100.{last}")))
                    .unwrap(),
            );
        }
        assert!(!is_displaced(&other) && !new.iter().any(is_displaced));
        // Bytes count in the same way.
        let budget = self::budget();
        let link = |link: u8| {
            budget
                .seat(false, peer(&format!("2001:db8:1:{link}::1")))
                .unwrap()
        };
        let (one, two) = (link(1), link(2));
        one.works();
        one.take(40).unwrap();
        assert_eq!(two.take(40), Err(Exhausted), "more than a site may have");
        let other = budget.seat(false, peer("192.0.2.1")).unwrap();
        other.take(60).unwrap();
        assert!(!is_displaced(&one));
    }

    #[test]
    fn strangers_never_use_up_what_the_household_needs() {
        let budget = budget();
        let strangers: Vec<_> = (0..8)
            .map(|last| {
                budget
                    .seat(true, peer(&format!("203.0.113.{last}")))
                    .unwrap()
            })
            .collect();
        strangers.iter().for_each(Seat::works);
        assert!(
            budget.seat(false, peer("127.0.0.1")).is_none(),
            "a public door"
        );
        let own = budget.seat(true, peer("127.0.0.1")).unwrap();
        own.take(100).unwrap();
        assert!(!is_displaced(&own));
    }

    #[test]
    fn bytes_are_bounded_and_whole_requests_keep_theirs() {
        let budget = budget();
        let seat = |last: u8| {
            budget
                .seat(false, peer(&format!("203.0.113.{last}")))
                .unwrap()
        };
        let (whole, half, new) = (seat(1), seat(2), seat(3));
        whole.take(60).unwrap();
        whole.works();
        assert_eq!(
            whole.take(1),
            Err(Exhausted),
            "more than one address may have"
        );
        half.take(40).unwrap();
        new.take(40).unwrap();
        assert!(is_displaced(&half) && !is_displaced(&whole));
        assert_eq!(half.take(1), Err(Exhausted));
        assert_eq!(seat(4).take(40), Ok(()), "the half body of `new` made room");
        whole.give_back();
        assert_eq!(
            lock(&budget.public).bytes,
            0,
            "and went when its seat was left"
        );
    }

    #[test]
    fn what_is_left_is_free_again() {
        let budget = budget();
        for _ in 0..100 {
            let seat = budget.seat(false, peer("203.0.113.7")).unwrap();
            seat.take(60).unwrap();
            seat.works();
        }
        let purse = lock(&budget.public);
        assert!(purse.held.is_empty() && purse.shares.is_empty() && purse.bytes == 0);
    }
}
