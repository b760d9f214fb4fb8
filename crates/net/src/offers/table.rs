//! The offers that stand, as a machine: announcements in, effects out (spec: answers, section 8).
//!
//! It reads no clock and does no I/O, so a flood of a million offers is a loop in a test. What it
//! bounds, and against whom:
//!
//! - at most [`OFFERS_MAX`] devices; when the table is full, a newcomer takes the place of an offer
//!   from the neighbour that brought the most, so that one neighbour with many made-up devices
//!   displaces only its own;
//! - offers of one device by their rate, counted only when the signature is the device's, so that
//!   nobody can use up another's;
//! - signature checks by their rate in total;
//! - each neighbour by the messages it delivers and by those among them that no honest neighbour
//!   delivers. Every device forwards only what it found valid, so a forgery is the fault of
//!   whoever delivered it.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_protocol::offer::{DeviceId, OfferError, SignedOffer};
use hearth_protocol::time::Timestamp;
use iroh::{PublicKey, Signature};

use super::bucket::Bucket;
use crate::codec::{Announcement, decode_announcement};
use crate::limits::{
    NEIGHBOUR_BURST, NEIGHBOUR_FAULTS_MAX, NEIGHBOUR_MESSAGES_PER_S, NEIGHBOUR_OVERFLOW_MAX,
    NEIGHBOURS_MAX, OFFER_BURST, OFFER_INTERVAL_MS_MIN, OFFERS_MAX, SIGNATURES_BURST,
    SIGNATURES_PER_S,
};
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
        /// What it delivered.
        bytes: &'a [u8],
    },
    /// Time passed.
    Tick,
    /// A device's offers are no longer wanted.
    Drop(DeviceId),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send these bytes to every neighbour.
    Forward(Vec<u8>),
    /// Tell whoever listens.
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
struct Entry {
    offer: Arc<SignedOffer>,
    bytes: Vec<u8>,
    by: DeviceId,
    rate: Bucket,
}

impl Entry {
    fn stands(&self) -> bool {
        !self.offer.offer.models.is_empty()
    }
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
    entries: BTreeMap<DeviceId, Entry>,
    neighbours: BTreeMap<DeviceId, Neighbour>,
    signatures: Bucket,
}

impl Table {
    /// An empty table of the device `own`, whose own offers it does not hold.
    pub fn new(now: Timestamp, own: DeviceId) -> Self {
        let per_s_milli = u64::from(SIGNATURES_PER_S) * 1_000;
        Self {
            own,
            entries: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            signatures: Bucket::new(now, SIGNATURES_BURST, per_s_milli),
        }
    }

    /// Takes an event and says what is to be done about it.
    pub fn handle(&mut self, now: Timestamp, event: Event<'_>, out: &mut Vec<Effect>) {
        match event {
            Event::Delivered { by, bytes } => self.delivered(now, by, bytes, out),
            Event::Tick => self.expire(now, out),
            Event::Drop(device) => self.drop_device(device, out),
        }
    }

    /// The offers that stand.
    pub fn offers(&self) -> impl Iterator<Item = &Arc<SignedOffer>> {
        let standing = self.entries.values().filter(|entry| entry.stands());
        standing.map(|entry| &entry.offer)
    }

    /// Every announcement, also of offers that were taken back, for a newcomer.
    pub fn announcements(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.values().map(|entry| entry.bytes.as_slice())
    }

    fn delivered(&mut self, now: Timestamp, by: DeviceId, bytes: &[u8], out: &mut Vec<Effect>) {
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
        self.insert(now, by, announcement, bytes, out);
    }

    fn insert(
        &mut self,
        now: Timestamp,
        by: DeviceId,
        announcement: Announcement,
        bytes: &[u8],
        out: &mut Vec<Effect>,
    ) {
        let device = announcement.offer.offer.device;
        let old = self.entries.remove(&device);
        let stood = old.as_ref().is_some_and(Entry::stands);
        let mut rate = match &old {
            Some(entry) => entry.rate.clone(),
            None => Bucket::new(now, OFFER_BURST, 1_000_000 / OFFER_INTERVAL_MS_MIN),
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
            by,
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

    /// Removes what ended, or else one offer of the neighbour that brought the most.
    fn make_room(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        self.expire(now, out);
        if self.entries.len() < OFFERS_MAX {
            return;
        }
        let mut brought: BTreeMap<DeviceId, usize> = BTreeMap::new();
        for entry in self.entries.values() {
            *brought.entry(entry.by).or_default() += 1;
        }
        let most = brought.into_iter().max_by_key(|(_, count)| *count);
        let victim = most.and_then(|(by, _)| {
            let of_it = self.entries.iter().filter(|(_, entry)| entry.by == by);
            let first = of_it.min_by_key(|(_, entry)| entry.offer.offer.expires_at);
            first.map(|(device, _)| *device)
        });
        if let Some(device) = victim {
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
        let ended = |entry: &Entry| entry.offer.offer.expires_at <= now;
        let ended = self.entries.iter().filter(|(_, entry)| ended(entry));
        let ended: Vec<DeviceId> = ended.map(|(device, _)| *device).collect();
        for device in ended {
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

/// Whether both the offer and the address are signed by the device.
fn is_signed(announcement: &Announcement) -> bool {
    let offer = &announcement.offer.offer;
    let Ok(key) = PublicKey::from_bytes(&offer.device.0) else {
        return false;
    };
    let address = Announcement::address_bytes(offer.issued_at, &announcement.address);
    let signed = |bytes: &[u8], halves: &([u8; 32], [u8; 32])| {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&halves.0);
        signature[32..].copy_from_slice(&halves.1);
        key.verify(bytes, &Signature::from_bytes(&signature))
            .is_ok()
    };
    signed(&offer.signing_bytes(), &announcement.offer.signature)
        && signed(&address, &announcement.address_signature)
}
