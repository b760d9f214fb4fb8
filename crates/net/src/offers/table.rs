//! The offers that stand, as a machine: announcements in, effects out (spec: answers, section 8).
//!
//! It reads no clock and does no I/O, so a flood of a million offers is a loop in a test. What it
//! bounds, and against whom:
//!
//! - at most [`OFFERS_MAX`] devices; when the table is full, a newcomer takes the place of the last
//!   one from the site that brought the most, so that neighbours with many made-up devices displace
//!   only their own, however many keys they themselves have;
//! - what devices offer that this one dealt with is displaced by nobody;
//! - offers of one device by their rate, counted only when the signature is the device's, so that
//!   nobody can use up another's;
//! - signature checks by their rate in total;
//! - each neighbour by the messages it delivers and by those among them that no honest neighbour
//!   delivers. Every device forwards only what it found valid, so a forgery is the fault of
//!   the device that delivered it.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_protocol::offer::{DeviceId, OfferError, SignedOffer};
use hearth_protocol::time::Timestamp;

use super::bucket::Bucket;
use super::entries::{Entries, Entry};
use super::signing::is_signed;
use crate::codec::{Announcement, decode_announcement};
use crate::limits::{
    NEIGHBOUR_BURST, NEIGHBOUR_FAULTS_MAX, NEIGHBOUR_MESSAGES_PER_S, NEIGHBOUR_OVERFLOW_MAX,
    NEIGHBOURS_MAX, OFFER_BURST, OFFER_INTERVAL_MS_MIN, OFFERS_MAX, SIGNATURES_BURST,
    SIGNATURES_PER_S,
};
use crate::origin::Origin;
use crate::peers::PeerAddress;

/// A thousandth of a token a second forgives a neighbour one fault in about a minute.
const FAULTS_FORGIVEN_MILLI_PER_S: u64 = 16;

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A neighbour delivered what should be an announcement.
    Delivered {
        /// The neighbour: not necessarily the device that offers.
        by: DeviceId,
        /// Where the neighbour is.
        from: &'a Origin,
        /// What it delivered.
        bytes: &'a [u8],
    },
    /// Time passed.
    Tick,
    /// A device's offers are no longer wanted.
    Drop(DeviceId),
    /// This device dealt with another: what that one offers is kept.
    Keep(DeviceId),
}

/// A neighbour, and where it is.
type Bringer<'a> = (DeviceId, &'a Origin);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send these bytes to every neighbour.
    Forward(Vec<u8>),
    /// Tell those who listen.
    Tell(OfferChange),
    /// The device is here now.
    Locate(PeerAddress),
    /// Nothing keeps the device's address any longer.
    Forget(DeviceId),
    /// Shut the neighbour out.
    Ban(DeviceId),
}

/// A change of what is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OfferChange {
    /// A device offers that did not before.
    Added(Arc<SignedOffer>),
    /// A device offers something else now, or the same for longer.
    Replaced(Arc<SignedOffer>),
    /// A device's offer ended.
    Expired(DeviceId),
    /// A device took its offer back.
    Withdrawn(DeviceId),
    /// The listener fell behind and missed so many changes: look at all offers again.
    Missed(u64),
}

#[derive(Debug)]
struct Neighbour {
    messages: Bucket,
    overflow: Bucket,
    faults: Bucket,
    seen_at: Timestamp,
}

/// The offers that stand.
#[derive(Debug)]
pub struct Table {
    own: DeviceId,
    entries: Entries,
    neighbours: BTreeMap<DeviceId, Neighbour>,
    signatures: Bucket,
    /// Devices that came so far.
    arrivals: u64,
}

impl Table {
    /// An empty table of the device `own`, whose own offers it does not hold.
    pub fn new(now: Timestamp, own: DeviceId) -> Self {
        let per_s_milli = u64::from(SIGNATURES_PER_S) * 1_000;
        Self {
            own,
            entries: Entries::default(),
            neighbours: BTreeMap::new(),
            signatures: Bucket::new(now, SIGNATURES_BURST, per_s_milli),
            arrivals: 0,
        }
    }

    /// Takes an event and says what is to be done about it.
    pub fn handle(&mut self, now: Timestamp, event: Event<'_>, out: &mut Vec<Effect>) {
        match event {
            Event::Delivered { by, from, bytes } => self.delivered(now, (by, from), bytes, out),
            Event::Tick => self.expire(now, out),
            Event::Drop(device) => self.drop_device(device, out),
            Event::Keep(device) => self.entries.keep(device),
        }
    }

    /// The offers that stand.
    pub fn offers(&self) -> impl Iterator<Item = &Arc<SignedOffer>> {
        let standing = self.entries.iter().filter(|entry| entry.stands());
        standing.map(|entry| &entry.offer)
    }

    /// The devices that were heard of, also those that offer nothing now.
    pub(crate) fn devices(&self) -> impl Iterator<Item = DeviceId> {
        self.entries.iter().map(|entry| entry.offer.offer.device)
    }

    /// Every announcement, also of offers that were taken back, for a newcomer.
    pub fn announcements(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(|entry| entry.bytes.as_slice())
    }

    fn delivered(
        &mut self,
        now: Timestamp,
        (by, from): Bringer<'_>,
        bytes: &[u8],
        out: &mut Vec<Effect>,
    ) {
        let neighbour = self.neighbour(now, by);
        if !neighbour.messages.take(now) {
            if !neighbour.overflow.take(now) {
                out.push(Effect::Ban(by));
            }
            return;
        }
        let announcement = match decode_announcement(bytes) {
            Ok(announcement) => announcement,
            Err(_) => return self.fault(now, by, out),
        };
        let offer = &announcement.offer.offer;
        let device = offer.device;
        let known = self.entries.get(&device);
        // What is known already comes once from each neighbour: no fault, and no work.
        let is_news = known.is_none_or(|entry| entry.offer.offer.issued_at < offer.issued_at);
        if device == self.own || !is_news {
            return;
        }
        match offer.check(now) {
            Ok(()) => {}
            // Clocks differ, and what stood at the neighbour may have ended here.
            Err(OfferError::Expired | OfferError::Early) => return,
            Err(_) => return self.fault(now, by, out),
        }
        if !self.signatures.take(now) {
            return;
        }
        if !is_signed(&announcement) {
            return self.fault(now, by, out);
        }
        self.insert(now, from, announcement, bytes, out);
    }

    fn insert(
        &mut self,
        now: Timestamp,
        from: &Origin,
        announcement: Announcement,
        bytes: &[u8],
        out: &mut Vec<Effect>,
    ) {
        let device = announcement.offer.offer.device;
        let old = self.entries.remove(&device);
        let stood = old.as_ref().is_some_and(Entry::stands);
        // A device stays where its first offer came from, so that nobody moves it by being quick.
        let (mut rate, from, arrival) = match &old {
            Some(entry) => (entry.rate.clone(), entry.from.clone(), entry.arrival),
            None => {
                self.arrivals = self.arrivals.saturating_add(1);
                let rate = Bucket::new(now, OFFER_BURST, 1_000_000 / OFFER_INTERVAL_MS_MIN);
                (rate, from.site(), self.arrivals)
            }
        };
        if !rate.take(now) {
            if let Some(old) = old {
                self.entries.insert(device, Entry { rate, ..old });
            }
            return;
        }
        if old.is_none() && self.entries.len() >= OFFERS_MAX {
            self.make_room(now, out);
        }
        let offer = Arc::new(announcement.offer);
        let entry = Entry {
            offer: offer.clone(),
            bytes: bytes.to_vec(),
            from,
            arrival,
            rate,
        };
        let stands = entry.stands();
        self.entries.insert(device, entry);
        out.push(Effect::Locate(announcement.address));
        out.push(Effect::Forward(bytes.to_vec()));
        match (stood, stands) {
            (false, true) => out.push(Effect::Tell(OfferChange::Added(offer))),
            (true, true) => out.push(Effect::Tell(OfferChange::Replaced(offer))),
            (true, false) => out.push(Effect::Tell(OfferChange::Withdrawn(device))),
            (false, false) => {}
        }
    }

    /// Removes what ended, or else the last offer of the site that brought the most.
    fn make_room(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        self.expire(now, out);
        if self.entries.len() < OFFERS_MAX {
            return;
        }
        if let Some(device) = self.entries.last_of_the_largest_share() {
            self.drop_device(device, out);
        }
    }

    fn drop_device(&mut self, device: DeviceId, out: &mut Vec<Effect>) {
        if let Some(entry) = self.entries.remove(&device) {
            out.push(Effect::Forget(device));
            if entry.stands() {
                out.push(Effect::Tell(OfferChange::Expired(device)));
            }
        }
    }

    fn expire(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        while let Some((ends_at, device)) = self.entries.first_to_end()
            && ends_at <= now
        {
            self.drop_device(device, out);
        }
    }

    fn neighbour(&mut self, now: Timestamp, device: DeviceId) -> &mut Neighbour {
        let is_new = !self.neighbours.contains_key(&device);
        if is_new && self.neighbours.len() >= NEIGHBOURS_MAX {
            let oldest = self.neighbours.iter().min_by_key(|(_, n)| n.seen_at);
            let oldest = oldest.map(|(device, _)| *device);
            oldest.map(|device| self.neighbours.remove(&device));
        }
        let per_s_milli = u64::from(NEIGHBOUR_MESSAGES_PER_S) * 1_000;
        let neighbour = self.neighbours.entry(device).or_insert_with(|| Neighbour {
            messages: Bucket::new(now, NEIGHBOUR_BURST, per_s_milli),
            overflow: Bucket::new(now, NEIGHBOUR_OVERFLOW_MAX, FAULTS_FORGIVEN_MILLI_PER_S),
            faults: Bucket::new(now, NEIGHBOUR_FAULTS_MAX, FAULTS_FORGIVEN_MILLI_PER_S),
            seen_at: now,
        });
        neighbour.seen_at = now;
        neighbour
    }

    fn fault(&mut self, now: Timestamp, by: DeviceId, out: &mut Vec<Effect>) {
        if !self.neighbour(now, by).faults.take(now) {
            out.push(Effect::Ban(by));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{ANNOUNCEMENT_BYTES_MAX, encode_announcement};
    use crate::limits::{DEALT_WITH_MAX, OFFER_TTL_MS, SIGNATURES_BURST};
    use crate::offers::signing::announce;
    use hearth_protocol::answer::{BackendClass, KvType, Serving};
    use hearth_protocol::content::ContentHash;
    use hearth_protocol::offer::{Audience, Offer, OfferedModel};
    use iroh::SecretKey;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn key(n: u64) -> SecretKey {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&n.to_le_bytes());
        SecretKey::from_bytes(&seed)
    }

    fn id(n: u64) -> DeviceId {
        DeviceId(*key(n).public().as_bytes())
    }

    fn offer(issued_at: Timestamp, name: &str) -> Offer {
        let serving = Serving {
            adapter: None,
            backend: BackendClass::CpuAvx2,
            engine: "llama.cpp".to_owned(),
            flash_attention: false,
            kv_type: KvType::F16,
            micro_batch_tokens: 512,
            template: ContentHash([4; 32]),
            weights: ContentHash([5; 32]),
        };
        let model = OfferedModel {
            name: name.to_owned(),
            serving,
            weights_bytes: 1,
            head_bytes: 1,
            context_tokens: 1,
            audience: Audience::Everyone,
            prices: Vec::new(),
            slots: 1,
            free_slots: 1,
            output_tokens_per_s: 1,
            prompt_tokens_per_s: 1,
        };
        Offer {
            device: DeviceId([0; 32]),
            household: Default::default(),
            session_key: Default::default(),
            withdraw_delay_s: 86_400,
            issued_at,
            expires_at: issued_at.plus_ms(OFFER_TTL_MS),
            models: vec![model],
        }
    }

    fn announced(n: u64, offer: Offer) -> Announcement {
        announce(&key(n), offer, PeerAddress::of(id(n)))
    }

    fn bytes(n: u64, offer: Offer) -> Vec<u8> {
        encode_announcement(&announced(n, offer)).unwrap()
    }

    /// What the table does with `bytes` from neighbour `by`.
    fn deliver(table: &mut Table, now: Timestamp, by: u64, bytes: &[u8]) -> Vec<Effect> {
        deliver_from(table, now, (by, by), bytes)
    }

    /// The same where the neighbour is at `site`.
    fn deliver_from(
        table: &mut Table,
        now: Timestamp,
        (by, site): (u64, u64),
        bytes: &[u8],
    ) -> Vec<Effect> {
        let mut out = Vec::new();
        let (by, from) = (id(by), &origin(site));
        table.handle(now, Event::Delivered { by, from, bytes }, &mut out);
        out
    }

    fn origin(site: u64) -> Origin {
        let [.., a, b, c] = site.to_be_bytes();
        Origin::ip([a, b, c, 1].into())
    }

    fn told(effects: &[Effect]) -> Vec<&OfferChange> {
        let told = effects.iter().filter_map(|effect| match effect {
            Effect::Tell(change) => Some(change),
            _ => None,
        });
        told.collect()
    }

    #[test]
    fn an_offer_is_told_located_and_passed_on_once() {
        let mut table = Table::new(NOW, id(0));
        let first = bytes(1, offer(NOW, "a"));
        let effects = deliver(&mut table, NOW, 2, &first);
        assert!(matches!(told(&effects)[..], [OfferChange::Added(_)]));
        assert!(effects.contains(&Effect::Forward(first.clone())));
        assert!(effects.contains(&Effect::Locate(PeerAddress::of(id(1)))));
        assert_eq!(deliver(&mut table, NOW, 3, &first), []);
        let later = NOW.plus_ms(1_000);
        let second = bytes(1, offer(later, "b"));
        let effects = deliver(&mut table, later, 2, &second);
        assert!(matches!(told(&effects)[..], [OfferChange::Replaced(_)]));
        assert_eq!(
            deliver(&mut table, later, 2, &first),
            [],
            "the later one stands"
        );
        assert_eq!(table.offers().count(), 1);
    }

    #[test]
    fn an_offer_ends_or_is_taken_back() {
        let mut table = Table::new(NOW, id(0));
        deliver(&mut table, NOW, 9, &bytes(1, offer(NOW, "a")));
        deliver(&mut table, NOW, 9, &bytes(2, offer(NOW, "a")));
        let later = NOW.plus_ms(1_000);
        let nothing = Offer {
            models: Vec::new(),
            ..offer(later, "a")
        };
        let effects = deliver(&mut table, later, 9, &bytes(1, nothing));
        assert_eq!(told(&effects), [&OfferChange::Withdrawn(id(1))]);
        assert_eq!(table.offers().count(), 1);
        let again = deliver(&mut table, later, 9, &bytes(1, offer(NOW, "a")));
        assert_eq!(again, [], "what was taken back does not come back");
        let mut out = Vec::new();
        table.handle(NOW.plus_ms(OFFER_TTL_MS + 1_000), Event::Tick, &mut out);
        assert_eq!(told(&out), [&OfferChange::Expired(id(2))]);
        assert!(out.contains(&Effect::Forget(id(1))));
        assert_eq!(table.announcements().count(), 0);
    }

    #[test]
    fn what_is_forged_is_not_taken_and_costs_the_neighbour_its_place() {
        let mut table = Table::new(NOW, id(0));
        let honest = announced(1, offer(NOW, "a"));
        let mut forged = honest.clone();
        forged.offer.offer.models[0].slots = 9;
        let mut moved = honest.clone();
        moved.address.direct.push("127.0.0.1:9".parse().unwrap());
        let mut foreign = honest.clone();
        foreign.address.device = id(3);
        let foreign = postcard::to_stdvec(&foreign).unwrap();
        let kinds = [
            encode_announcement(&forged).unwrap(),
            encode_announcement(&moved).unwrap(),
            foreign,
            b"garbage".to_vec(),
            vec![0; 100_000],
        ];
        let mut delivered = 0;
        let banned = kinds.iter().cycle().take(100).any(|bytes| {
            delivered += 1;
            let effects = deliver(&mut table, NOW, 7, bytes);
            assert!(told(&effects).is_empty());
            effects.contains(&Effect::Ban(id(7)))
        });
        assert!(banned);
        assert_eq!(delivered, NEIGHBOUR_FAULTS_MAX + 1);
        assert_eq!(table.offers().count(), 0);
        // The same offer from an honest neighbour is taken.
        let honest = encode_announcement(&honest).unwrap();
        assert!(!told(&deliver(&mut table, NOW, 8, &honest)).is_empty());
    }

    #[test]
    fn one_device_cannot_offer_faster_than_its_rate() {
        let mut table = Table::new(NOW, id(0));
        let taken = (0..100).filter(|ms| {
            let issued_at = Timestamp(NOW.0 + ms);
            !told(&deliver(
                &mut table,
                NOW,
                5,
                &bytes(1, offer(issued_at, "a")),
            ))
            .is_empty()
        });
        assert_eq!(taken.count(), OFFER_BURST as usize);
    }

    #[test]
    fn a_flood_is_bounded_and_displaces_only_its_own() {
        let mut table = Table::new(NOW, id(0));
        for n in 1..=10 {
            deliver(&mut table, NOW, 1_000_001, &bytes(n, offer(NOW, "honest")));
        }
        // More made-up devices than there is room for, from one neighbour, as fast as signatures
        // are checked.
        let mut ended = None;
        let mut later = NOW;
        for n in 0..OFFERS_MAX as u64 + 500 {
            if n % 64 == 0 {
                later = later.plus_ms(250);
            }
            let effects = deliver(
                &mut table,
                later,
                1_000_002,
                &bytes(10_000 + n, offer(NOW, "flood")),
            );
            if effects.contains(&Effect::Ban(id(1_000_002))) {
                ended = Some(n);
                break;
            }
        }
        assert_eq!(ended, None, "a flood of valid offers is no forgery");
        assert_eq!(table.announcements().count(), OFFERS_MAX);
        let honest = table
            .offers()
            .filter(|o| o.offer.models[0].name == "honest");
        assert_eq!(honest.count(), 10);
    }

    #[test]
    fn a_million_messages_cost_a_bounded_number_of_signatures_and_a_place() {
        let mut table = Table::new(NOW, id(0));
        let one = bytes(1, offer(NOW, "a"));
        let mut banned_at = None;
        for n in 0..1_000_000u32 {
            let effects = deliver(&mut table, NOW, 7, &one);
            if effects.contains(&Effect::Ban(id(7))) {
                banned_at = Some(n);
                break;
            }
        }
        assert_eq!(banned_at, Some(NEIGHBOUR_BURST + NEIGHBOUR_OVERFLOW_MAX));
        assert_eq!(table.offers().count(), 1);
        const { assert!(SIGNATURES_BURST < NEIGHBOUR_BURST) };
    }

    #[test]
    fn a_million_offers_of_many_neighbours_stay_within_the_table() {
        const NEIGHBOURS: u64 = 300;
        const DEVICES: u64 = 20_000;
        let mut table = Table::new(NOW, id(0));
        for n in 1..=10 {
            deliver(&mut table, NOW, 900_000, &bytes(n, offer(NOW, "honest")));
        }
        let flood: Vec<_> = (0..DEVICES)
            .map(|n| bytes(10_000 + n, offer(NOW, "flood")))
            .collect();
        let neighbours: Vec<_> = (0..NEIGHBOURS)
            .map(|n| (id(1_000_000 + n), origin(1_000_000 + n)))
            .collect();
        let (mut out, mut taken) = (Vec::new(), 0);
        for n in 0..1_000_000 {
            // Each neighbour as often as its rate allows and more.
            let now = NOW.plus_ms(n / 20);
            let (by, from) = &neighbours[(n * 7 % NEIGHBOURS) as usize];
            let (by, bytes) = (*by, flood[(n % DEVICES) as usize].as_slice());
            table.handle(now, Event::Delivered { by, from, bytes }, &mut out);
            taken += out
                .drain(..)
                .filter(|it| matches!(it, Effect::Forward(_)))
                .count();
            assert!(table.entries.len() <= OFFERS_MAX && table.neighbours.len() <= NEIGHBOURS_MAX);
        }
        assert!(taken > 2 * OFFERS_MAX, "the flood was not one: {taken}");
        let held: usize = table.announcements().map(<[u8]>::len).sum();
        assert!(held <= OFFERS_MAX * ANNOUNCEMENT_BYTES_MAX);
        let honest = table
            .offers()
            .filter(|o| o.offer.models[0].name == "honest");
        assert_eq!(honest.count(), 10, "a flood displaces only its own");
    }

    #[test]
    fn what_this_device_offers_is_not_in_its_table() {
        let mut table = Table::new(NOW, id(1));
        assert_eq!(deliver(&mut table, NOW, 2, &bytes(1, offer(NOW, "a"))), []);
    }

    #[test]
    fn a_clock_that_is_a_little_off_is_no_fault() {
        let mut table = Table::new(NOW, id(0));
        let early = bytes(1, offer(NOW.plus_ms(10 * 60_000), "a"));
        let late = bytes(2, offer(Timestamp(NOW.0 - OFFER_TTL_MS - 1), "a"));
        for _ in 0..100 {
            assert_eq!(deliver(&mut table, NOW, 7, &early), []);
            assert_eq!(deliver(&mut table, NOW, 7, &late), []);
        }
    }

    #[test]
    fn free_keys_at_one_site_displace_no_honest_offer() {
        const KEYS: u64 = 64;
        const HONEST: u64 = 500;
        let mut table = Table::new(NOW, id(0));
        // An honest neighbour that knows many devices, and each key of the flood brings fewer.
        for n in 1..=HONEST {
            let now = NOW.plus_ms(n * 10);
            let bytes = bytes(n, offer(now, "honest"));
            deliver_from(&mut table, now, (900_000, 1), &bytes);
        }
        let honest = |table: &Table| {
            let named = table.offers();
            named
                .filter(|one| one.offer.models[0].name == "honest")
                .count() as u64
        };
        assert_eq!(honest(&table), HONEST);
        let flood = |table: &mut Table, from: u64, count: u64| {
            for n in from..from + count {
                let now = NOW.plus_ms(10_000 + n * 4);
                let bytes = bytes(10_000 + n, offer(now, "flood"));
                deliver_from(table, now, (1_000_000 + n % KEYS, 2), &bytes);
            }
        };
        flood(&mut table, 0, OFFERS_MAX as u64 + 1_000);
        assert_eq!(table.entries.len(), OFFERS_MAX);
        assert_eq!(honest(&table), HONEST);
        // One of the same site that came before the flood stays too, and one that was dealt with
        // stays wherever it came from.
        let now = NOW.plus_ms(40_000);
        let dealt_with = id(5_000);
        let late = bytes(5_000, offer(now, "honest"));
        deliver_from(&mut table, now, (1_000_001, 2), &late);
        table.handle(now, Event::Keep(dealt_with), &mut Vec::new());
        flood(&mut table, 10_000, 2_000);
        assert!(table.entries.get(&dealt_with).is_some());
        assert_eq!(honest(&table), HONEST + 1);
    }

    #[test]
    fn so_many_devices_that_were_dealt_with_are_kept_and_the_table_stays_bounded() {
        let mut table = Table::new(NOW, id(0));
        for n in 0..2 * DEALT_WITH_MAX as u64 {
            table.handle(NOW, Event::Keep(id(n + 1)), &mut Vec::new());
        }
        for n in 0..OFFERS_MAX as u64 + 200 {
            let now = NOW.plus_ms(n * 4);
            deliver(&mut table, now, 7, &bytes(n + 1, offer(now, "a")));
        }
        assert_eq!(table.entries.len(), OFFERS_MAX);
        let last = DEALT_WITH_MAX as u64 + 1..=2 * DEALT_WITH_MAX as u64;
        assert!(
            last.into_iter()
                .all(|n| table.entries.get(&id(n)).is_some())
        );
    }
}
