//! The offers that a device keeps, with the orders in which they leave: by their end, and by the
//! site that brought them. Every step takes time logarithmic in their number, so that a flood
//! costs no more for each offer when the table is full.
//!
//! What a site brought leaves in the opposite order of its arrival: a flood, which comes last,
//! displaces itself and not what stood before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hearth_protocol::offer::{DeviceId, SignedOffer};
use hearth_protocol::time::Timestamp;

use super::bucket::Bucket;
use crate::limits::DEALT_WITH_MAX;
use crate::origin::Origin;

/// What is kept of a device's offer.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) offer: Arc<SignedOffer>,
    /// The announcement, as it is passed on.
    pub(super) bytes: Vec<u8>,
    /// Where the neighbour is that brought the device's first offer.
    pub(super) from: Origin,
    /// The how manieth device of the table's life it is.
    pub(super) arrival: u64,
    pub(super) rate: Bucket,
}

impl Entry {
    pub(super) fn stands(&self) -> bool {
        !self.offer.offer.models.is_empty()
    }

    fn expires_at(&self) -> Timestamp {
        self.offer.offer.expires_at
    }
}

/// Devices in the order in which their offers end.
type ByEnd = BTreeSet<(Timestamp, DeviceId)>;

/// Devices in the order in which they came.
type ByArrival = BTreeSet<(u64, DeviceId)>;

/// At most one entry of each device.
#[derive(Debug, Default)]
pub(super) struct Entries {
    of: BTreeMap<DeviceId, Entry>,
    by_end: ByEnd,
    /// What each site brought, and is not kept whatever comes.
    brought: BTreeMap<Origin, ByArrival>,
    /// How many that are, the most last.
    shares: BTreeSet<(usize, Origin)>,
    /// Devices that were dealt with.
    dealt_with: DealtWith,
}

/// The devices that were dealt with last, of which so many are remembered.
#[derive(Debug, Default)]
struct DealtWith {
    when: BTreeMap<DeviceId, u64>,
    order: BTreeMap<u64, DeviceId>,
    next: u64,
}

impl DealtWith {
    /// Remembers a device, and says which one is forgotten for it.
    fn note(&mut self, device: DeviceId) -> Option<DeviceId> {
        if let Some(before) = self.when.insert(device, self.next) {
            self.order.remove(&before);
        }
        self.order.insert(self.next, device);
        self.next = self.next.wrapping_add(1);
        if self.order.len() <= DEALT_WITH_MAX {
            return None;
        }
        let (_, first) = self.order.pop_first()?;
        self.when.remove(&first);
        Some(first)
    }

    fn contains(&self, device: &DeviceId) -> bool {
        self.when.contains_key(device)
    }
}

impl Entries {
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    pub(super) fn get(&self, device: &DeviceId) -> Option<&Entry> {
        self.of.get(device)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.of.values()
    }

    /// Keeps an entry, instead of an older one of its device.
    pub(super) fn insert(&mut self, device: DeviceId, entry: Entry) {
        self.remove(&device);
        self.by_end.insert((entry.expires_at(), device));
        if !self.dealt_with.contains(&device) {
            let at = (entry.arrival, device);
            self.change_share(&entry.from, |brought| {
                brought.insert(at);
            });
        }
        self.of.insert(device, entry);
    }

    pub(super) fn remove(&mut self, device: &DeviceId) -> Option<Entry> {
        let entry = self.of.remove(device)?;
        self.by_end.remove(&(entry.expires_at(), *device));
        let at = (entry.arrival, *device);
        self.change_share(&entry.from, |brought| {
            brought.remove(&at);
        });
        Some(entry)
    }

    /// Keeps what a device offers, however the table is flooded; of very many such devices, the last
    /// ones.
    pub(super) fn keep(&mut self, device: DeviceId) {
        let forgotten = self.dealt_with.note(device);
        for changed in [Some(device), forgotten].into_iter().flatten() {
            if let Some(entry) = self.remove(&changed) {
                self.insert(changed, entry);
            }
        }
    }

    /// The device whose offer ends first.
    pub(super) fn first_to_end(&self) -> Option<(Timestamp, DeviceId)> {
        self.by_end.first().copied()
    }

    /// Of the site that brought the most, the device that came last.
    pub(super) fn last_of_the_largest_share(&self) -> Option<DeviceId> {
        let (_, from) = self.shares.last()?;
        let (_, device) = self.brought.get(from)?.last()?;
        Some(*device)
    }

    fn change_share(&mut self, from: &Origin, change: impl FnOnce(&mut ByArrival)) {
        let brought = self.brought.entry(from.clone()).or_default();
        self.shares.remove(&(brought.len(), from.clone()));
        change(brought);
        if brought.is_empty() {
            self.brought.remove(from);
        } else {
            self.shares.insert((brought.len(), from.clone()));
        }
    }
}
