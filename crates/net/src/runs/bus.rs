//! What participants tell each other, as a machine without clock or I/O (spec: runs, sections 10 and 11).
//!
//! Messages of others go in, and what is to be sent is taken out link by link, when the link has room: so a slow link
//! slows down nobody else, and what it lacks is bounded by what is kept. A notice is checked, kept and passed on to
//! all others of its topic once; who already has it is not sent it. What is not passed on, because a link broke or
//! somebody was too fast, is found when two participants compare what they keep.
//!
//! Every device passes on only what it found valid, so a forgery is the fault of the device that delivered it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::time::Timestamp;

use super::link::{Link, LinkId, MESSAGE_COST_BYTES, Outgoing};
use super::message::{RUN_MESSAGE_BYTES_MAX, RunMessage, decode_run_message, encode_run_message};
use super::notice::{Notice, Place, TopicId};
use super::shelf::{Shelf, Verdict, milli_per_s};
use super::wanted::Wanted;
use crate::codec::LENGTH_BYTES;
use crate::limits::{
    AUTHOR_BYTES_PER_MINUTE, DEVICE_NOTICES_BYTES_MAX, DEVICE_NOTICES_MAX, NOTICE_COST_BYTES,
    NOTICE_EAGER_BYTES_MAX, PARTICIPANTS_MAX, RUN_COMPARE_INTERVAL_MS, RUN_TOPICS_INTERVAL_MS,
    RUN_TOPICS_MAX, RUN_UNSHARED_MS_MAX, RUN_WANTED_MAX,
};
use crate::offers::bucket::Bucket;
use crate::origin::Origin;

/// What this device may say in a topic at once, in bytes: what others keep of it.
const PACE_BURST: u32 = DEVICE_NOTICES_BYTES_MAX as u32;
/// What a notice has besides its body, in bytes and at most.
const NOTICE_HEAD_BYTES: usize = 160;

/// Why a connection to another participant ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkEnd {
    /// The other side sent something that is not a message.
    Garbage,
    /// It passed on what nobody signed.
    Forged,
    /// It sent far more than it may.
    TooFast,
    /// There is another connection to the same device.
    Duplicate,
    /// Both take part in nothing together.
    NothingShared,
}

impl LinkEnd {
    /// Whether no honest device does this.
    pub(crate) fn is_misbehavior(self) -> bool {
        matches!(self, Self::Garbage | Self::Forged | Self::TooFast)
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BusEffect {
    /// Something waits to be sent on a link.
    Wake(LinkId),
    /// A link is to be closed.
    Close(LinkId, LinkEnd),
    /// A notice came that a listener may want.
    News,
}

/// What a link may send now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// These bytes, which have their length in front.
    Frame(Bytes),
    /// Something, once so many milliseconds have passed.
    Wait(u64),
    /// Nothing.
    Nothing,
}

#[derive(Debug)]
struct Subject {
    shelf: Shelf,
    /// What this device says itself.
    pace: Bucket,
}

/// The topics that this device takes part in, and its connections to others.
#[derive(Debug)]
pub(crate) struct Bus {
    own: DeviceId,
    topics: BTreeMap<TopicId, Subject>,
    links: BTreeMap<LinkId, Link>,
    wanted: Wanted,
}

impl Bus {
    pub(crate) fn new(own: DeviceId) -> Self {
        Self {
            own,
            topics: BTreeMap::new(),
            links: BTreeMap::new(),
            wanted: Wanted::default(),
        }
    }

    /// Takes part in a topic from now on; false when that would be one too many.
    pub(crate) fn take_part(
        &mut self,
        now: Timestamp,
        topic: TopicId,
        out: &mut Vec<BusEffect>,
    ) -> bool {
        if self.topics.contains_key(&topic) {
            return true;
        }
        if self.topics.len() >= RUN_TOPICS_MAX {
            return false;
        }
        let subject = Subject {
            shelf: Shelf::new(self.own),
            pace: Bucket::new(now, PACE_BURST, milli_per_s(AUTHOR_BYTES_PER_MINUTE)),
        };
        self.topics.insert(topic, subject);
        self.topics_changed(now, out);
        true
    }

    /// Takes part in a topic no longer, and tells the others by `farewell`.
    pub(crate) fn leave(
        &mut self,
        now: Timestamp,
        topic: TopicId,
        farewell: &Place,
        out: &mut Vec<BusEffect>,
    ) {
        if self.topics.remove(&topic).is_none() {
            return;
        }
        self.wanted.leave(topic);
        for link in self.links.values_mut() {
            if link.shared.contains(&topic) {
                link.outbox.farewell(farewell.clone());
            }
        }
        self.topics_changed(now, out);
    }

    fn topics_changed(&mut self, now: Timestamp, out: &mut Vec<BusEffect>) {
        let links: Vec<_> = self.links.keys().copied().collect();
        for link in links {
            if let Some(state) = self.links.get_mut(&link) {
                state.outbox.topics();
                out.push(BusEffect::Wake(link));
            }
            self.share(now, link);
        }
    }

    /// A connection is up. Of two to the same device, one is closed: the older one of two that the same side began, and
    /// else the one that the device with the larger id began, by that device.
    pub(crate) fn up(
        &mut self,
        now: Timestamp,
        link: LinkId,
        (device, from, dialed): (DeviceId, Origin, bool),
        out: &mut Vec<BusEffect>,
    ) {
        let others = self.links.iter().filter(|(_, one)| one.device == device);
        for (other, state) in others {
            if state.dialed == dialed {
                out.push(BusEffect::Close(*other, LinkEnd::Duplicate));
            } else if self.own > device {
                let ours = if dialed { link } else { *other };
                out.push(BusEffect::Close(ours, LinkEnd::Duplicate));
            }
        }
        let state = Link::new(now, device, from, dialed);
        self.links.insert(link, state);
        out.push(BusEffect::Wake(link));
    }

    /// A connection is gone.
    pub(crate) fn down(&mut self, link: LinkId) {
        self.links.remove(&link);
    }

    /// How many milliseconds to wait before `body_bytes` more are said in a topic: no other participant finds then that
    /// this device says too much, and none of its notices leaves before those who are connected have it.
    pub(crate) fn pace(&mut self, now: Timestamp, topic: TopicId, body_bytes: usize) -> u64 {
        let Some(subject) = self.topics.get_mut(&topic) else {
            return 0;
        };
        let cost = body_bytes + NOTICE_COST_BYTES + NOTICE_HEAD_BYTES;
        let cost = cost.max(DEVICE_NOTICES_BYTES_MAX / DEVICE_NOTICES_MAX) as u64;
        if subject.pace.take_many(now, cost) {
            return 0;
        }
        subject.pace.wait_ms(now, cost).max(1)
    }

    /// Says something in a topic. The notice is this device's own.
    pub(crate) fn say(&mut self, now: Timestamp, notice: Notice, out: &mut Vec<BusEffect>) -> bool {
        let topic = notice.topic;
        let message = RunMessage::Notice(notice);
        let Ok(frame) = encode_run_message(&message) else {
            return false;
        };
        let RunMessage::Notice(notice) = message else {
            return false;
        };
        let Some(subject) = self.topics.get_mut(&topic) else {
            return false;
        };
        let frame = Bytes::from(frame);
        let verdict = subject.shelf.take(now, &Origin::Unknown, &notice, frame);
        if verdict == Verdict::Kept {
            self.pass_on(&notice, None, out);
        }
        verdict == Verdict::Kept
    }

    /// Says where this device is, signed by it.
    pub(crate) fn say_place(&mut self, now: Timestamp, place: Place, out: &mut Vec<BusEffect>) {
        let topic = place.topic;
        let taken = self
            .topics
            .get_mut(&topic)
            .is_some_and(|subject| subject.shelf.take_place(now, &Origin::Unknown, place));
        if taken {
            self.pass_place_on(topic, self.own, None, out);
        }
    }

    /// Takes what came on a link: one message without its length.
    pub(crate) fn received(
        &mut self,
        now: Timestamp,
        link: LinkId,
        bytes: &[u8],
        out: &mut Vec<BusEffect>,
    ) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let cost = bytes.len() as u64 + MESSAGE_COST_BYTES;
        if !state.received.take_many(now, cost) {
            if !state.overflow.take(now) {
                out.push(BusEffect::Close(link, LinkEnd::TooFast));
            }
            return;
        }
        let Ok(message) = decode_run_message(bytes) else {
            out.push(BusEffect::Close(link, LinkEnd::Garbage));
            return;
        };
        match message {
            RunMessage::Topics(tags) => {
                state.told = Some(tags.into_iter().collect());
                self.share(now, link);
                out.push(BusEffect::Wake(link));
            }
            RunMessage::Have { topic, ids } => self.offered(now, link, topic, &ids, out),
            RunMessage::Want { topic, ids } => self.asked(link, topic, &ids, out),
            RunMessage::Notice(notice) => self.noticed(now, link, &notice, bytes, out),
            RunMessage::Place(place) => self.placed(now, link, place, out),
        }
    }

    /// Finds what is shared on a link, and has what is new there compared.
    fn share(&mut self, now: Timestamp, link: LinkId) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let told = state.told.as_ref();
        let is_told = |topic: &TopicId| {
            let tag = topic.tag(state.device, self.own);
            told.is_some_and(|told| told.contains(&tag))
        };
        let topics = self.topics.keys().copied();
        let shared: BTreeSet<_> = topics.filter(is_told).collect();
        let before = std::mem::replace(&mut state.shared, shared);
        if state.shared.is_empty() {
            state.unshared_since = state.unshared_since.or(Some(now));
        } else {
            state.unshared_since = None;
        }
        for topic in state.shared.difference(&before) {
            let Some(subject) = self.topics.get(topic) else {
                continue;
            };
            for place in subject.shelf.places() {
                state.outbox.place(*topic, place.device);
            }
            subject
                .shelf
                .ids()
                .for_each(|id| state.outbox.have(*topic, id));
        }
    }

    /// The topic of a message, if both sides take part in it: one may have left while the message was under way.
    fn shared(
        &mut self,
        link: LinkId,
        topic: TopicId,
    ) -> Option<(&mut Link, &mut Subject, &mut Wanted)> {
        let state = self.links.get_mut(&link)?;
        let subject = self.topics.get_mut(&topic)?;
        let is_shared = state.shared.contains(&topic);
        is_shared.then_some((state, subject, &mut self.wanted))
    }

    fn offered(
        &mut self,
        now: Timestamp,
        link: LinkId,
        topic: TopicId,
        ids: &[ContentHash],
        out: &mut Vec<BusEffect>,
    ) {
        let Some((state, subject, wanted)) = self.shared(link, topic) else {
            return;
        };
        for id in ids {
            if subject.shelf.lacks(id) && wanted.offered(now, link, (topic, *id)) {
                state.outbox.want(topic, *id);
            }
        }
        out.push(BusEffect::Wake(link));
    }

    fn asked(
        &mut self,
        link: LinkId,
        topic: TopicId,
        ids: &[ContentHash],
        out: &mut Vec<BusEffect>,
    ) {
        let Some((state, subject, _)) = self.shared(link, topic) else {
            return;
        };
        let kept = ids.iter().filter(|id| subject.shelf.knows(id));
        kept.for_each(|id| state.outbox.notice(topic, *id));
        out.push(BusEffect::Wake(link));
    }

    fn noticed(
        &mut self,
        now: Timestamp,
        link: LinkId,
        notice: &Notice,
        bytes: &[u8],
        out: &mut Vec<BusEffect>,
    ) {
        let Some((state, subject, wanted)) = self.shared(link, notice.topic) else {
            return;
        };
        let id = notice.id();
        if subject.shelf.considers(now, notice, id).is_err() {
            wanted.came(&(notice.topic, id));
            return;
        }
        if !state.signatures.take(now) {
            return;
        }
        if !notice.is_signed() {
            out.push(BusEffect::Close(link, LinkEnd::Forged));
            return;
        }
        let frame = framed(bytes);
        let verdict = subject.shelf.take(now, &state.from, notice, frame);
        match verdict {
            Verdict::Kept => self.pass_on(notice, Some(link), out),
            Verdict::Known | Verdict::Refused | Verdict::TooFast => {
                wanted.came(&(notice.topic, id));
            }
        }
    }

    /// Has a notice that is new sent, or offered, to all others of its topic.
    fn pass_on(&mut self, notice: &Notice, from: Option<LinkId>, out: &mut Vec<BusEffect>) {
        let (topic, id) = (notice.topic, notice.id());
        let have_it = self.wanted.came(&(topic, id));
        let is_eager = from.is_none() || notice.body.len() <= NOTICE_EAGER_BYTES_MAX;
        for (link, state) in &mut self.links {
            let has_it =
                Some(*link) == from || have_it.contains(link) || state.device == notice.device;
            if has_it || !state.shared.contains(&topic) {
                continue;
            }
            if is_eager {
                state.outbox.notice(topic, id);
            } else {
                state.outbox.have(topic, id);
            }
            prune(&self.topics, state);
            out.push(BusEffect::Wake(*link));
        }
        out.push(BusEffect::News);
    }

    fn placed(&mut self, now: Timestamp, link: LinkId, place: Place, out: &mut Vec<BusEffect>) {
        let own = self.own;
        let Some((state, subject, _)) = self.shared(link, place.topic) else {
            return;
        };
        if place.device == own || !subject.shelf.considers_place(now, &place) {
            return;
        }
        if !state.signatures.take(now) {
            return;
        }
        if !place.is_signed() {
            out.push(BusEffect::Close(link, LinkEnd::Forged));
            return;
        }
        let (topic, device) = (place.topic, place.device);
        if subject.shelf.take_place(now, &state.from, place) {
            self.pass_place_on(topic, device, Some(link), out);
        }
    }

    fn pass_place_on(
        &mut self,
        topic: TopicId,
        device: DeviceId,
        from: Option<LinkId>,
        out: &mut Vec<BusEffect>,
    ) {
        for (link, state) in &mut self.links {
            let knows = Some(*link) == from || state.device == device;
            if !knows && state.shared.contains(&topic) {
                state.outbox.place(topic, device);
                prune(&self.topics, state);
                out.push(BusEffect::Wake(*link));
            }
        }
    }

    /// Time passed.
    pub(crate) fn tick(&mut self, now: Timestamp, out: &mut Vec<BusEffect>) {
        for subject in self.topics.values_mut() {
            subject.shelf.expire(now);
        }
        let links = &self.links;
        let overdue = self.wanted.overdue(now, |link| links.contains_key(&link));
        for (link, (topic, id)) in overdue {
            if let Some(state) = self.links.get_mut(&link) {
                state.outbox.want(topic, id);
                out.push(BusEffect::Wake(link));
            }
        }
        for (link, state) in &mut self.links {
            let unshared = state.unshared_since.map(|since| now.ms_since(since));
            if unshared.is_some_and(|ms| ms >= RUN_UNSHARED_MS_MAX) {
                out.push(BusEffect::Close(*link, LinkEnd::NothingShared));
                continue;
            }
            if now.ms_since(state.topics_at) >= RUN_TOPICS_INTERVAL_MS {
                state.topics_at = now;
                state.outbox.topics();
                out.push(BusEffect::Wake(*link));
            }
            if now.ms_since(state.compared_at) >= RUN_COMPARE_INTERVAL_MS {
                state.compared_at = now;
                compare(&self.topics, state);
                out.push(BusEffect::Wake(*link));
            }
        }
    }

    /// What a link may send now.
    pub(crate) fn next_frame(&mut self, now: Timestamp, link: LinkId) -> Next {
        let Some(state) = self.links.get_mut(&link) else {
            return Next::Nothing;
        };
        loop {
            if state.outbox.len() == 0 {
                return Next::Nothing;
            }
            let room = (RUN_MESSAGE_BYTES_MAX + LENGTH_BYTES) as u64 + MESSAGE_COST_BYTES;
            let wait_ms = state.sent.wait_ms(now, room);
            if wait_ms > 0 {
                return Next::Wait(wait_ms);
            }
            let Some(outgoing) = state.outbox.next() else {
                return Next::Nothing;
            };
            if let Some(frame) = frame_of(&self.topics, self.own, state, outgoing) {
                let cost = frame.len() as u64 + MESSAGE_COST_BYTES;
                state.sent.take_many(now, cost);
                return Next::Frame(frame);
            }
        }
    }

    /// The first notice of another device in a topic that arrived after `after`.
    pub(crate) fn heard(&self, topic: TopicId, after: u64) -> Option<(u64, Notice)> {
        let shelf = &self.topics.get(&topic)?.shelf;
        let (arrival, frame) = shelf.next_after(after)?;
        match decode_run_message(frame.get(LENGTH_BYTES..)?) {
            Ok(RunMessage::Notice(notice)) => Some((arrival, notice)),
            _ => None,
        }
    }

    /// The time of the last notice of this device in a topic.
    pub(crate) fn last_own(&self, topic: TopicId) -> Option<Timestamp> {
        self.topics.get(&topic)?.shelf.last_own()
    }

    /// Listens in a topic to these devices alone from now on, or to all.
    pub(crate) fn listen_to(&mut self, topic: TopicId, devices: Option<BTreeSet<DeviceId>>) {
        if let Some(subject) = self.topics.get_mut(&topic) {
            subject.shelf.listen_to(devices);
        }
    }

    /// The topics that this device takes part in.
    pub(crate) fn topics(&self) -> impl Iterator<Item = TopicId> + '_ {
        self.topics.keys().copied()
    }

    /// Where the others of a topic said that they are.
    pub(crate) fn places(&self, topic: TopicId) -> impl Iterator<Item = &Place> {
        let subject = self.topics.get(&topic).into_iter();
        let places = subject.flat_map(|subject| subject.shelf.places());
        places.filter(|place| place.device != self.own)
    }

    /// When this device last said where it is.
    pub(crate) fn own_place(&self, topic: TopicId) -> Option<&Place> {
        self.topics.get(&topic)?.shelf.place(&self.own)
    }

    /// The devices at the other end of links, with the topics that are shared there.
    pub(crate) fn linked(&self) -> impl Iterator<Item = (DeviceId, &BTreeSet<TopicId>)> {
        self.links.values().map(|link| (link.device, &link.shared))
    }

    /// Whether the other side of a link has named topics of which none is shared.
    pub(crate) fn shares_nothing(&self, link: LinkId) -> bool {
        self.links
            .get(&link)
            .is_some_and(|state| state.told.is_some() && state.shared.is_empty())
    }

    /// How many notices a topic keeps.
    #[cfg(test)]
    pub(super) fn kept(&self, topic: TopicId) -> usize {
        self.topics
            .get(&topic)
            .map_or(0, |subject| subject.shelf.len())
    }
}

/// Lets go of what waits on a link and is gone, once that may be half of it: what waits is bounded by what is kept.
fn prune(topics: &BTreeMap<TopicId, Subject>, state: &mut Link) {
    let kept = topics.values().map(|subject| subject.shelf.len());
    let most = 2 * (kept.sum::<usize>() + PARTICIPANTS_MAX * topics.len() + RUN_WANTED_MAX);
    if state.outbox.len() <= most {
        return;
    }
    let keeps = |topic: &TopicId, id: &ContentHash| {
        let subject = topics.get(topic);
        subject.is_some_and(|subject| subject.shelf.knows(id))
    };
    let is_placed = |topic: &TopicId, device: &DeviceId| {
        let subject = topics.get(topic);
        subject.is_some_and(|subject| subject.shelf.place(device).is_some())
    };
    state.outbox.retain(&state.shared, keeps, is_placed);
}

/// Has all that is kept of what is shared on a link offered there again.
fn compare(topics: &BTreeMap<TopicId, Subject>, state: &mut Link) {
    for topic in &state.shared {
        if let Some(subject) = topics.get(topic) {
            subject
                .shelf
                .ids()
                .for_each(|id| state.outbox.have(*topic, id));
        }
    }
}

/// A message with its length in front again.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend_from_slice(message);
    Bytes::from(frame)
}

/// The bytes of what is to be sent next; nothing where it is gone.
fn frame_of(
    topics: &BTreeMap<TopicId, Subject>,
    own: DeviceId,
    state: &Link,
    outgoing: Outgoing,
) -> Option<Bytes> {
    let shelf = |topic: &TopicId| {
        let subject = topics.get(topic).filter(|_| state.shared.contains(topic));
        subject.map(|subject| &subject.shelf)
    };
    let message = match outgoing {
        Outgoing::Topics => {
            let tags = topics.keys().map(|topic| topic.tag(own, state.device));
            RunMessage::Topics(tags.collect())
        }
        Outgoing::Farewell(place) => RunMessage::Place(place),
        Outgoing::Place(topic, device) => RunMessage::Place(shelf(&topic)?.place(&device)?.clone()),
        Outgoing::Want(topic, mut ids) => {
            let shelf = shelf(&topic)?;
            ids.retain(|id| shelf.lacks(id));
            RunMessage::Want { topic, ids }
        }
        Outgoing::Have(topic, mut ids) => {
            let shelf = shelf(&topic)?;
            ids.retain(|id| shelf.knows(id));
            RunMessage::Have { topic, ids }
        }
        Outgoing::Notice(topic, id) => return shelf(&topic)?.frame(&id),
    };
    encode_run_message(&message).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests;
