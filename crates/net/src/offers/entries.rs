//! The offers that a device keeps, with the orders in which they leave: by their end, and by the
//! neighbour that brought them. Every step takes time logarithmic in their number, so that a flood
//! costs no more for each offer when the table is full.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hearth_protocol::offer::{DeviceId, SignedOffer};
use hearth_protocol::time::Timestamp;

use super::bucket::Bucket;

/// What is kept of a device's offer.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) offer: Arc<SignedOffer>,
    /// The announcement, as it is passed on.
    pub(super) bytes: Vec<u8>,
    /// The neighbour that brought it.
    pub(super) by: DeviceId,
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

/// At most one entry of each device.
#[derive(Debug, Default)]
pub(super) struct Entries {
    of: BTreeMap<DeviceId, Entry>,
    by_end: ByEnd,
    /// What each neighbour brought.
    brought: BTreeMap<DeviceId, ByEnd>,
    /// How many that are, the most last.
    shares: BTreeSet<(usize, DeviceId)>,
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
        let at = (entry.expires_at(), device);
        self.by_end.insert(at);
        self.change_share(entry.by, |brought| {
            brought.insert(at);
        });
        self.of.insert(device, entry);
    }

    pub(super) fn remove(&mut self, device: &DeviceId) -> Option<Entry> {
        let entry = self.of.remove(device)?;
        let at = (entry.expires_at(), *device);
        self.by_end.remove(&at);
        self.change_share(entry.by, |brought| {
            brought.remove(&at);
        });
        Some(entry)
    }

    /// The device whose offer ends first.
    pub(super) fn first_to_end(&self) -> Option<(Timestamp, DeviceId)> {
        self.by_end.first().copied()
    }

    /// Of the neighbour that brought the most, the device whose offer ends first.
    pub(super) fn first_of_the_largest_share(&self) -> Option<DeviceId> {
        let (_, by) = self.shares.last()?;
        let (_, device) = self.brought.get(by)?.first()?;
        Some(*device)
    }

    fn change_share(&mut self, by: DeviceId, change: impl FnOnce(&mut ByEnd)) {
        let brought = self.brought.entry(by).or_default();
        self.shares.remove(&(brought.len(), by));
        change(brought);
        if brought.is_empty() {
            self.brought.remove(&by);
        } else {
            self.shares.insert((brought.len(), by));
        }
    }
}
