//! The notices of one topic that are kept, as a machine without clock or I/O.
//!
//! What it bounds, and against whom:
//!
//! - notices of one device by number, bytes, age and rate; the latest ones are kept;
//! - all together by bytes: the device that has the most loses its earliest, so that a device that floods displaces
//!   its own notices, and none of a device that has no more than its even share;
//! - devices by number: a newcomer takes the place of one that has nothing here, or else of the last one from the site
//!   that brought the most, so that made-up devices displace each other and not who came before them.
//!
//! A device's notices leave in the order of their time, and one that is earlier than one that left is not taken
//! again, so that nobody has a topic hear the same twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::time::Timestamp;

use super::notice::{Notice, Place};
use crate::limits::{
    AUTHOR_BURST_BYTES, AUTHOR_BYTES_PER_MINUTE, DEVICE_NOTICES_BYTES_MAX, DEVICE_NOTICES_MAX,
    NOTICE_AGE_MS_MAX, NOTICE_COST_BYTES, PARTICIPANTS_MAX, PLACE_BURST, PLACE_TTL_MS,
    PLACES_MILLI_PER_S, RUN_CLOCK_SKEW_MS_MAX, RUN_REFUSED_MAX, TOPIC_BYTES_MAX,
};
use crate::offers::bucket::Bucket;
use crate::origin::Origin;

/// Thousandths of a byte that a second adds.
pub(super) fn milli_per_s(bytes_per_minute: u64) -> u64 {
    bytes_per_minute.saturating_mul(1_000) / 60
}

/// What became of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is kept, and new.
    Kept,
    /// It is kept already.
    Known,
    /// It is not kept, and will not be.
    Refused,
    /// Its author says too much for now.
    TooFast,
}

/// The order of a device's notices.
type Order = (Timestamp, ContentHash);

#[derive(Debug)]
struct Kept {
    frame: Bytes,
    arrival: u64,
}

impl Kept {
    fn cost(&self) -> usize {
        self.frame.len() + NOTICE_COST_BYTES
    }
}

/// What is known of one participant.
#[derive(Debug)]
struct Participant {
    /// Where the device is that brought it first.
    from: Origin,
    /// The how manieth participant of the topic it is.
    arrival: u64,
    kept: BTreeMap<Order, Kept>,
    bytes: usize,
    /// The last of its notices that left.
    floor: Option<Order>,
    rate: Bucket,
    place: Option<Place>,
    places: Bucket,
}

impl Participant {
    fn new(now: Timestamp, from: Origin, arrival: u64) -> Self {
        let per_s = milli_per_s(AUTHOR_BYTES_PER_MINUTE);
        Self {
            from,
            arrival,
            kept: BTreeMap::new(),
            bytes: 0,
            floor: None,
            rate: Bucket::new(now, AUTHOR_BURST_BYTES, per_s),
            place: None,
            places: Bucket::new(now, PLACE_BURST, PLACES_MILLI_PER_S),
        }
    }

    fn is_over(&self) -> bool {
        self.kept.len() > DEVICE_NOTICES_MAX || self.bytes > DEVICE_NOTICES_BYTES_MAX
    }
}

/// Ids of notices that were not taken; the one that was noted first makes room.
#[derive(Debug, Default)]
struct Refusals {
    ids: BTreeSet<ContentHash>,
    order: VecDeque<ContentHash>,
}

impl Refusals {
    fn note(&mut self, id: ContentHash) {
        if !self.ids.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > RUN_REFUSED_MAX
            && let Some(first) = self.order.pop_front()
        {
            self.ids.remove(&first);
        }
    }
}

/// The notices of a topic, and its participants.
#[derive(Debug)]
pub(super) struct Shelf {
    own: DeviceId,
    participants: BTreeMap<DeviceId, Participant>,
    index: BTreeMap<ContentHash, (DeviceId, Timestamp)>,
    arrivals: BTreeMap<u64, ContentHash>,
    next_arrival: u64,
    next_participant: u64,
    bytes: usize,
    refusals: Refusals,
    /// The devices that are listened to; nothing means all.
    listened: Option<BTreeSet<DeviceId>>,
}

impl Shelf {
    pub(super) fn new(own: DeviceId) -> Self {
        Self {
            own,
            participants: BTreeMap::new(),
            index: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            next_arrival: 1,
            next_participant: 0,
            bytes: 0,
            refusals: Refusals::default(),
            listened: None,
        }
    }

    /// Listens to these devices alone from now on, or to all. What is kept of others leaves.
    pub(super) fn listen_to(&mut self, devices: Option<BTreeSet<DeviceId>>) {
        self.listened = devices;
        self.refusals = Refusals::default();
        let known = self.participants.keys().copied();
        let unheard: Vec<_> = known.filter(|device| !self.listens_to(device)).collect();
        unheard
            .into_iter()
            .for_each(|device| self.remove_participant(device));
    }

    fn listens_to(&self, device: &DeviceId) -> bool {
        let listened = self.listened.as_ref();
        *device == self.own || listened.is_none_or(|listened| listened.contains(device))
    }

    pub(super) fn knows(&self, id: &ContentHash) -> bool {
        self.index.contains_key(id)
    }

    /// Whether a notice is neither kept nor refused.
    pub(super) fn lacks(&self, id: &ContentHash) -> bool {
        !self.knows(id) && !self.refusals.ids.contains(id)
    }

    /// The ids of all that is kept.
    pub(super) fn ids(&self) -> impl Iterator<Item = ContentHash> + '_ {
        self.index.keys().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// A kept notice, as it is sent.
    pub(super) fn frame(&self, id: &ContentHash) -> Option<Bytes> {
        let (device, at) = self.index.get(id)?;
        let kept = &self.participants.get(device)?.kept;
        kept.get(&(*at, *id)).map(|kept| kept.frame.clone())
    }

    /// The first notice of another device that arrived after `after`: its arrival and what was sent.
    pub(super) fn next_after(&self, after: u64) -> Option<(u64, Bytes)> {
        let later = self.arrivals.range(after.saturating_add(1)..);
        let of_others = later.filter(|(_, id)| {
            let author = self.index.get(id).map(|(device, _)| *device);
            author != Some(self.own)
        });
        let mut frames = of_others.filter_map(|(arrival, id)| Some((*arrival, self.frame(id)?)));
        frames.next()
    }

    /// The last of this device's own notices.
    pub(super) fn last_own(&self) -> Option<Timestamp> {
        let own = self.participants.get(&self.own)?;
        let last = own.kept.keys().next_back().copied();
        last.max(own.floor).map(|(at, _)| at)
    }

    /// Whether a notice would be looked at; its signature is worth to be checked only then.
    pub(super) fn considers(
        &mut self,
        now: Timestamp,
        notice: &Notice,
        id: ContentHash,
    ) -> Result<(), Verdict> {
        if self.knows(&id) {
            return Err(Verdict::Known);
        }
        if !self.lacks(&id) {
            return Err(Verdict::Refused);
        }
        if notice.at > now.plus_ms(RUN_CLOCK_SKEW_MS_MAX) {
            // Later it may be taken.
            return Err(Verdict::TooFast);
        }
        let order = (notice.at, id);
        let participant = self.participants.get(&notice.device);
        let has_left = participant.is_some_and(|one| one.floor.is_some_and(|floor| order <= floor));
        let is_old = now.ms_since(notice.at) > NOTICE_AGE_MS_MAX;
        if has_left || is_old || !self.listens_to(&notice.device) {
            self.refusals.note(id);
            return Err(Verdict::Refused);
        }
        Ok(())
    }

    /// Takes a notice whose signature is its device's. `from` is where the device is that brought it, and `frame` what
    /// it brought.
    pub(super) fn take(
        &mut self,
        now: Timestamp,
        from: &Origin,
        notice: &Notice,
        frame: Bytes,
    ) -> Verdict {
        let id = notice.id();
        if let Err(verdict) = self.considers(now, notice, id) {
            return verdict;
        }
        let order = (notice.at, id);
        let arrival = self.next_arrival;
        let kept = Kept { frame, arrival };
        let cost = kept.cost();
        let participant = self.participant(now, notice.device, from);
        if !participant.rate.take_many(now, cost as u64) {
            return Verdict::TooFast;
        }
        participant.kept.insert(order, kept);
        participant.bytes += cost;
        self.bytes += cost;
        self.next_arrival += 1;
        self.index.insert(id, (notice.device, notice.at));
        self.arrivals.insert(arrival, id);
        self.make_room(notice.device);
        if self.knows(&id) {
            Verdict::Kept
        } else {
            self.refusals.note(id);
            Verdict::Refused
        }
    }

    fn make_room(&mut self, device: DeviceId) {
        while self
            .participants
            .get(&device)
            .is_some_and(Participant::is_over)
        {
            self.drop_first(device);
        }
        while self.bytes > TOPIC_BYTES_MAX {
            let most = self.participants.iter().max_by_key(|(_, one)| one.bytes);
            let Some(device) = most.map(|(device, _)| *device) else {
                return;
            };
            self.drop_first(device);
        }
    }

    /// Lets go of the earliest notice of a device.
    fn drop_first(&mut self, device: DeviceId) {
        let Some(participant) = self.participants.get_mut(&device) else {
            return;
        };
        let Some((order, kept)) = participant.kept.pop_first() else {
            return;
        };
        participant.bytes -= kept.cost();
        participant.floor = participant.floor.max(Some(order));
        self.bytes -= kept.cost();
        self.index.remove(&order.1);
        self.arrivals.remove(&kept.arrival);
    }

    fn remove_participant(&mut self, device: DeviceId) {
        let Some(participant) = self.participants.remove(&device) else {
            return;
        };
        self.bytes -= participant.bytes;
        for ((_, id), kept) in &participant.kept {
            self.index.remove(id);
            self.arrivals.remove(&kept.arrival);
        }
    }

    fn participant(&mut self, now: Timestamp, device: DeviceId, from: &Origin) -> &mut Participant {
        if !self.participants.contains_key(&device) && self.participants.len() >= PARTICIPANTS_MAX {
            self.make_way();
        }
        let next = &mut self.next_participant;
        self.participants.entry(device).or_insert_with(|| {
            *next += 1;
            Participant::new(now, from.site(), *next)
        })
    }

    /// Removes a participant that has nothing here, or else the last one of the site that brought the most.
    fn make_way(&mut self) {
        let others = self.participants.iter();
        let others = others.filter(|(device, _)| **device != self.own);
        let mut sites: BTreeMap<&Origin, usize> = BTreeMap::new();
        for (_, one) in others.clone() {
            *sites.entry(&one.from).or_default() += 1;
        }
        let count = |one: &Participant| sites.get(&one.from).copied().unwrap_or(0);
        let leaves = others.max_by_key(|(_, one)| {
            let has_nothing = one.kept.is_empty() && one.place.is_none();
            (has_nothing, count(one), &one.from, one.arrival)
        });
        if let Some(device) = leaves.map(|(device, _)| *device) {
            self.remove_participant(device);
        }
    }

    /// Whether a place would be looked at; its signature is worth to be checked only then.
    pub(super) fn considers_place(&self, now: Timestamp, place: &Place) -> bool {
        let known = self.participants.get(&place.device);
        let known = known.and_then(|one| one.place.as_ref());
        self.listens_to(&place.device)
            && place.at <= now.plus_ms(RUN_CLOCK_SKEW_MS_MAX)
            && now.ms_since(place.at) < PLACE_TTL_MS
            && known.is_none_or(|known| known.at < place.at)
    }

    /// Takes where a participant is, signed by it; false when it says so too often.
    pub(super) fn take_place(&mut self, now: Timestamp, from: &Origin, place: Place) -> bool {
        if !self.considers_place(now, &place) {
            return false;
        }
        let is_own = place.device == self.own;
        let participant = self.participant(now, place.device, from);
        let taken = is_own || participant.places.take(now);
        if taken {
            participant.place = Some(place);
        }
        taken
    }

    /// Where a participant said that it is.
    pub(super) fn place(&self, device: &DeviceId) -> Option<&Place> {
        self.participants.get(device)?.place.as_ref()
    }

    /// Where participants said that they are.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        let places = self.participants.values();
        places.filter_map(|one| one.place.as_ref())
    }

    /// Lets go of what is too old.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let devices: Vec<_> = self.participants.keys().copied().collect();
        for device in devices {
            while self.first_is_old(now, &device) {
                self.drop_first(device);
            }
            if let Some(one) = self.participants.get_mut(&device)
                && let Some(place) = &one.place
                && now.ms_since(place.at) >= PLACE_TTL_MS
            {
                one.place = None;
            }
        }
    }

    fn first_is_old(&self, now: Timestamp, device: &DeviceId) -> bool {
        let kept = self.participants.get(device).map(|one| &one.kept);
        let first = kept.and_then(|kept| kept.keys().next());
        first.is_some_and(|(at, _)| now.ms_since(*at) > NOTICE_AGE_MS_MAX)
    }
}
