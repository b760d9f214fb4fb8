//! How many may speak with a provider at the same time, and how many of those from one place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_net::Origin;
use hearth_protocol::offer::DeviceId;

/// Conversations at the same time.
const CONVERSATIONS_MAX: usize = 256;
/// Those with strangers; the others are the household's.
const STRANGERS_MAX: usize = 192;
/// Those with strangers at one site.
const SITE_MAX: usize = 96;
/// Those with one device.
const DEVICE_MAX: usize = 48;

/// A stranger: its site, and the device.
type Guest = (Origin, DeviceId);

/// Places for conversations. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    household: usize,
    /// No more entries than strangers have places.
    strangers: BTreeMap<Guest, usize>,
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        // A map of counts is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for the household, or for a stranger.
    pub(super) fn enter(&self, guest: Option<Guest>) -> Option<Place> {
        let mut taken = self.lock();
        let strangers: usize = taken.strangers.values().sum();
        if taken.household + strangers >= CONVERSATIONS_MAX {
            return None;
        }
        match &guest {
            None => taken.household += 1,
            Some(guest) => {
                let same_site = taken.strangers.iter().filter(|(one, _)| one.0 == guest.0);
                let same_site: usize = same_site.map(|(_, count)| count).sum();
                let same_device = taken.strangers.iter().filter(|(one, _)| one.1 == guest.1);
                let same_device: usize = same_device.map(|(_, count)| count).sum();
                let is_full = strangers >= STRANGERS_MAX
                    || same_site >= SITE_MAX
                    || same_device >= DEVICE_MAX;
                if is_full {
                    return None;
                }
                *taken.strangers.entry(guest.clone()).or_default() += 1;
            }
        }
        drop(taken);
        Some(Place {
            places: self.clone(),
            guest,
        })
    }
}

/// A place for one conversation. Dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    places: Places,
    guest: Option<Guest>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        let Some(guest) = &self.guest else {
            taken.household -= 1;
            return;
        };
        if let Some(count) = taken.strangers.get_mut(guest) {
            *count -= 1;
            if *count == 0 {
                taken.strangers.remove(guest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(site: u8, device: u8) -> Option<Guest> {
        let site = Origin::ip(std::net::Ipv4Addr::new(10, 0, site, 0).into());
        Some((site, DeviceId([device; 32])))
    }

    #[test]
    fn keys_without_end_leave_places_for_other_sites_and_for_the_household() {
        let places = Places::default();
        let fill = |site: u8| {
            let entered = (0..=255).filter_map(|device| places.enter(guest(site, device)));
            entered.collect::<Vec<_>>()
        };
        let first = fill(1);
        assert_eq!(first.len(), 96, "a site has half of the strangers' places");
        assert!(places.enter(guest(2, 1)).is_some());
        let second = fill(2);
        assert_eq!(second.len(), 96);
        assert!(fill(3).is_empty(), "all strangers together have an end");
        let household: Vec<_> = (0..64).map_while(|_| places.enter(None)).collect();
        assert_eq!(household.len(), 64, "the household's places are its own");
        assert!(places.enter(None).is_none());
        drop(second);
        assert_eq!(fill(3).len(), 96, "a place that is left is free again");
    }

    #[test]
    fn one_device_has_no_more_places_however_many_sites_it_comes_from() {
        let places = Places::default();
        let entered = (0..200).filter_map(|site| places.enter(guest(site, 7)));
        assert_eq!(entered.collect::<Vec<_>>().len(), 48);
    }
}
