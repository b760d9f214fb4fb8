//! One connection to another participant: what is to be sent on it, and how much it may bring.
//!
//! What waits to be sent is held by name, so that it costs little however slow the other side is, and each thing waits
//! once. What the other side has no room for is compared again later.

use std::collections::{BTreeSet, VecDeque};

use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::time::Timestamp;

use super::notice::{Place, TopicId};
use super::shelf::milli_per_s;
use crate::limits::{
    LINK_BURST_BYTES, LINK_BYTES_PER_MINUTE, LINK_OVERFLOW_MAX, LINK_SIGNATURES_BURST,
    LINK_SIGNATURES_PER_S, RUN_IDS_MAX, RUN_TOPICS_MAX,
};
use crate::offers::bucket::Bucket;
use crate::origin::Origin;

/// A connection to another participant; never used twice.
pub(crate) type LinkId = u64;

/// What every message costs besides its bytes.
pub(super) const MESSAGE_COST_BYTES: u64 = 64;
/// A thousandth of a token a second forgives one message too many in about a minute.
const OVERFLOW_FORGIVEN_MILLI_PER_S: u64 = 16;

/// What is to be sent next.
#[derive(Debug)]
pub(super) enum Outgoing {
    Topics,
    Farewell(Place),
    Place(TopicId, DeviceId),
    Want(TopicId, Vec<ContentHash>),
    Have(TopicId, Vec<ContentHash>),
    Notice(TopicId, ContentHash),
}

/// What waits to be sent, by name.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    farewells: VecDeque<Place>,
    topics: bool,
    places: BTreeSet<(TopicId, DeviceId)>,
    wants: BTreeSet<(TopicId, ContentHash)>,
    haves: BTreeSet<(TopicId, ContentHash)>,
    notices: VecDeque<(TopicId, ContentHash)>,
    queued: BTreeSet<(TopicId, ContentHash)>,
}

impl Outbox {
    pub(super) fn topics(&mut self) {
        self.topics = true;
    }

    /// Says goodbye; beyond a bound, the other side finds out by itself.
    pub(super) fn farewell(&mut self, place: Place) {
        if self.farewells.len() < RUN_TOPICS_MAX {
            self.farewells.push_back(place);
        }
    }

    pub(super) fn place(&mut self, topic: TopicId, device: DeviceId) {
        self.places.insert((topic, device));
    }

    pub(super) fn want(&mut self, topic: TopicId, id: ContentHash) {
        self.wants.insert((topic, id));
    }

    pub(super) fn have(&mut self, topic: TopicId, id: ContentHash) {
        self.haves.insert((topic, id));
    }

    pub(super) fn notice(&mut self, topic: TopicId, id: ContentHash) {
        if self.queued.insert((topic, id)) {
            self.notices.push_back((topic, id));
        }
    }

    /// Lets go of all that is of topics that are not shared any longer, and of notices and places that are gone.
    pub(super) fn retain(
        &mut self,
        shared: &BTreeSet<TopicId>,
        is_kept: impl Fn(&TopicId, &ContentHash) -> bool,
        is_placed: impl Fn(&TopicId, &DeviceId) -> bool,
    ) {
        self.places
            .retain(|(topic, device)| shared.contains(topic) && is_placed(topic, device));
        self.wants.retain(|(topic, _)| shared.contains(topic));
        let stays =
            |one: &(TopicId, ContentHash)| shared.contains(&one.0) && is_kept(&one.0, &one.1);
        self.haves.retain(stays);
        self.notices.retain(stays);
        self.queued.retain(stays);
    }

    /// How many things wait.
    pub(super) fn len(&self) -> usize {
        self.farewells.len()
            + usize::from(self.topics)
            + self.places.len()
            + self.wants.len()
            + self.haves.len()
            + self.notices.len()
    }

    pub(super) fn next(&mut self) -> Option<Outgoing> {
        if let Some(place) = self.farewells.pop_front() {
            return Some(Outgoing::Farewell(place));
        }
        if std::mem::take(&mut self.topics) {
            return Some(Outgoing::Topics);
        }
        if let Some((topic, device)) = self.places.pop_first() {
            return Some(Outgoing::Place(topic, device));
        }
        if let Some((topic, ids)) = pop_ids(&mut self.wants) {
            return Some(Outgoing::Want(topic, ids));
        }
        if let Some((topic, ids)) = pop_ids(&mut self.haves) {
            return Some(Outgoing::Have(topic, ids));
        }
        let (topic, id) = self.notices.pop_front()?;
        self.queued.remove(&(topic, id));
        Some(Outgoing::Notice(topic, id))
    }
}

/// As many ids of one topic as fit into a message.
fn pop_ids(from: &mut BTreeSet<(TopicId, ContentHash)>) -> Option<(TopicId, Vec<ContentHash>)> {
    let (topic, first) = from.pop_first()?;
    let mut ids = vec![first];
    while ids.len() < RUN_IDS_MAX
        && from.first().is_some_and(|(next, _)| *next == topic)
        && let Some((_, id)) = from.pop_first()
    {
        ids.push(id);
    }
    Some((topic, ids))
}

/// A connection to another participant.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) device: DeviceId,
    /// Where it is.
    pub(super) from: Origin,
    /// Whether this device dialed.
    pub(super) dialed: bool,
    /// The topics that the other side named, once it did.
    pub(super) told: Option<BTreeSet<ContentHash>>,
    /// The topics that both take part in.
    pub(super) shared: BTreeSet<TopicId>,
    /// Since when they share none.
    pub(super) unshared_since: Option<Timestamp>,
    pub(super) outbox: Outbox,
    pub(super) sent: Bucket,
    pub(super) received: Bucket,
    pub(super) overflow: Bucket,
    pub(super) signatures: Bucket,
    pub(super) compared_at: Timestamp,
    pub(super) topics_at: Timestamp,
}

impl Link {
    pub(super) fn new(now: Timestamp, device: DeviceId, from: Origin, dialed: bool) -> Self {
        let rate = milli_per_s(LINK_BYTES_PER_MINUTE);
        let mut link = Self {
            device,
            from,
            dialed,
            told: None,
            shared: BTreeSet::new(),
            unshared_since: Some(now),
            outbox: Outbox::default(),
            sent: Bucket::new(now, LINK_BURST_BYTES, rate),
            // The other side counts by another clock, and what it sent over a while may come at once.
            received: Bucket::new(now, 2 * LINK_BURST_BYTES, 2 * rate),
            overflow: Bucket::new(now, LINK_OVERFLOW_MAX, OVERFLOW_FORGIVEN_MILLI_PER_S),
            signatures: Bucket::new(now, LINK_SIGNATURES_BURST, LINK_SIGNATURES_PER_S * 1_000),
            compared_at: now,
            topics_at: now,
        };
        link.outbox.topics();
        link
    }
}
