//! Whose requests to this device's chain are answered at once, as a machine without clock or I/O.
//!
//! Each device has some places, strangers of one site share some, and all strangers share some. The household's devices
//! have places of their own, so that strangers keep none of them waiting.

use std::collections::BTreeMap;

use hearth_protocol::offer::DeviceId;

use crate::limits::{
    CHAIN_DEVICE_REQUESTS_MAX, CHAIN_MEMBER_REQUESTS_MAX, CHAIN_SITE_REQUESTS_MAX,
    CHAIN_STRANGER_REQUESTS_MAX,
};
use crate::origin::Origin;

/// A device that asks.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    pub(super) device: DeviceId,
    pub(super) site: Origin,
    pub(super) is_member: bool,
}

/// How many requests are being answered.
#[derive(Debug, Default)]
pub(super) struct Visitors {
    devices: BTreeMap<DeviceId, usize>,
    sites: BTreeMap<Origin, usize>,
    members: usize,
    strangers: usize,
}

fn count<K: Ord>(counts: &BTreeMap<K, usize>, key: &K) -> usize {
    counts.get(key).copied().unwrap_or_default()
}

fn lower<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => {
            counts.remove(key);
        }
    }
}

impl Visitors {
    /// Gives a place to one more request, and returns whether there was one.
    pub(super) fn enter(&mut self, visitor: &Visitor) -> bool {
        let has_room = count(&self.devices, &visitor.device) < CHAIN_DEVICE_REQUESTS_MAX
            && if visitor.is_member {
                self.members < CHAIN_MEMBER_REQUESTS_MAX
            } else {
                self.strangers < CHAIN_STRANGER_REQUESTS_MAX
                    && count(&self.sites, &visitor.site) < CHAIN_SITE_REQUESTS_MAX
            };
        if !has_room {
            return false;
        }
        *self.devices.entry(visitor.device).or_default() += 1;
        if visitor.is_member {
            self.members += 1;
        } else {
            self.strangers += 1;
            *self.sites.entry(visitor.site.clone()).or_default() += 1;
        }
        true
    }

    /// Gives back a place that `visitor` got, as it was then.
    pub(super) fn leave(&mut self, visitor: &Visitor) {
        lower(&mut self.devices, &visitor.device);
        if visitor.is_member {
            self.members = self.members.saturating_sub(1);
        } else {
            self.strangers = self.strangers.saturating_sub(1);
            lower(&mut self.sites, &visitor.site);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(device: u8, site: u8, is_member: bool) -> Visitor {
        Visitor {
            device: DeviceId([device; 32]),
            site: Origin::ip([10, 0, site, 0].into()).site(),
            is_member,
        }
    }

    #[test]
    fn strangers_that_ask_without_end_keep_no_device_of_the_household_waiting() {
        let mut visitors = Visitors::default();
        let flood = (0..200).filter(|n| visitors.enter(&visitor(*n, *n, false)));
        assert_eq!(flood.count(), CHAIN_STRANGER_REQUESTS_MAX);
        let member = visitor(255, 1, true);
        let mine = (0..200).filter(|_| visitors.enter(&member));
        assert_eq!(mine.count(), CHAIN_DEVICE_REQUESTS_MAX);
        visitors.leave(&visitor(0, 0, false));
        assert!(visitors.enter(&visitor(200, 77, false)));
    }

    #[test]
    fn one_device_and_one_site_have_some_of_the_places_and_everything_is_given_back() {
        let mut visitors = Visitors::default();
        let one = visitor(1, 1, false);
        let taken = (0..100).filter(|_| visitors.enter(&one)).count();
        assert_eq!(taken, CHAIN_DEVICE_REQUESTS_MAX);
        let others = (2..100).filter(|n| visitors.enter(&visitor(*n, 1, false)));
        let of_site = taken + others.count();
        assert_eq!(of_site, CHAIN_SITE_REQUESTS_MAX);
        assert!(visitors.enter(&visitor(100, 2, false)));
        (0..taken).for_each(|_| visitors.leave(&one));
        (2..100).for_each(|n| visitors.leave(&visitor(n, 1, false)));
        visitors.leave(&visitor(100, 2, false));
        assert!(visitors.devices.is_empty() && visitors.sites.is_empty());
        assert_eq!((visitors.strangers, visitors.members), (0, 0));
    }
}
