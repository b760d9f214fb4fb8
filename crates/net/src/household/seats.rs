//! Which devices are answered about the household at once, as a machine without clock or I/O.
//!
//! Each of the household's devices has places of its own, so that what concerns it (a removal)
//! spreads whatever strangers do. Strangers share a few, one for each device and some for each site,
//! and one that kept its place for longer than an honest question takes gives it to the next.

use std::collections::BTreeMap;

use hearth_protocol::offer::DeviceId;

use crate::limits::{
    HOUSEHOLD_GRACE, HOUSEHOLD_MEMBER_MAX, HOUSEHOLD_SITE_MAX, HOUSEHOLD_STRANGERS_MAX,
};
use crate::origin::Origin;

/// A place; never used twice.
pub(super) type Seat = u64;

/// A device that asks.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub(super) device: DeviceId,
    pub(super) site: Origin,
    pub(super) is_member: bool,
}

/// What taking a place did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sat {
    pub(super) seat: Seat,
    /// The device that lost its place.
    pub(super) left: Option<Seat>,
}

/// The devices that are being answered, the one that came first at the front.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: BTreeMap<Seat, (Guest, u64)>,
    next: Seat,
}

impl Seats {
    /// Gives a place; nothing where there is none.
    pub(super) fn sit(&mut self, now_ms: u64, guest: Guest) -> Option<Sat> {
        let left = self.room(now_ms, &guest)?;
        if let Some(seat) = left {
            self.taken.remove(&seat);
        }
        let seat = self.next;
        self.next = self.next.wrapping_add(1);
        self.taken.insert(seat, (guest, now_ms));
        Some(Sat { seat, left })
    }

    /// Which device must go for `guest`, if any must; nothing where none can.
    fn room(&self, now_ms: u64, guest: &Guest) -> Option<Option<Seat>> {
        // A stranger that asks again has given up its question before.
        let of_device = self.taken.values();
        let of_device = of_device.filter(|(one, _)| one.device == guest.device);
        let most = if guest.is_member {
            HOUSEHOLD_MEMBER_MAX
        } else {
            1
        };
        if of_device.count() >= most {
            let again = self.first(|one| one.device == guest.device);
            return again.map(|(seat, _)| Some(seat));
        }
        if guest.is_member {
            return Some(None);
        }
        let strangers = |one: &&(Guest, u64)| !one.0.is_member;
        let of_site = |one: &Guest| !one.is_member && one.site == guest.site;
        let count = self.taken.values().filter(strangers).count();
        let count_of_site = self.taken.values().filter(|one| of_site(&one.0)).count();
        let oldest = if count_of_site >= HOUSEHOLD_SITE_MAX {
            self.first(of_site)
        } else if count >= HOUSEHOLD_STRANGERS_MAX {
            self.first(|one| !one.is_member)
        } else {
            return Some(None);
        };
        let (seat, since_ms) = oldest?;
        let waited_ms = u128::from(now_ms.saturating_sub(since_ms));
        (waited_ms >= HOUSEHOLD_GRACE.as_millis()).then_some(Some(seat))
    }

    fn first(&self, is_meant: impl Fn(&Guest) -> bool) -> Option<(Seat, u64)> {
        let mut meant = self.taken.iter().filter(|(_, (guest, _))| is_meant(guest));
        meant.next().map(|(seat, (_, since_ms))| (*seat, *since_ms))
    }

    /// Gives a place back.
    pub(super) fn leave(&mut self, seat: Seat) {
        self.taken.remove(&seat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE_MS: u64 = HOUSEHOLD_GRACE.as_millis() as u64;

    fn guest(device: u8, site: u8, is_member: bool) -> Guest {
        Guest {
            device: DeviceId([device; 32]),
            site: Origin::ip([10, 0, site, 0].into()).site(),
            is_member,
        }
    }

    #[test]
    fn strangers_that_hold_every_place_keep_no_device_of_the_household_waiting() {
        let mut seats = Seats::default();
        let sat = (0..200).filter_map(|n| seats.sit(0, guest(n, n % 50, false)));
        assert_eq!(sat.count(), HOUSEHOLD_STRANGERS_MAX);
        for member in 200..=255 {
            let sat = seats.sit(0, guest(member, 0, true)).unwrap();
            assert_eq!(sat.left, None, "nobody had to go for it");
        }
        assert_eq!(seats.sit(GRACE_MS - 1, guest(199, 60, false)), None);
        let next = seats.sit(GRACE_MS, guest(199, 60, false)).unwrap();
        assert_eq!(next.left, Some(0), "the one who came first");
    }

    #[test]
    fn one_site_has_some_of_the_places_and_one_device_one() {
        let mut seats = Seats::default();
        let sat = (0..100).filter_map(|n| seats.sit(0, guest(n, 1, false)));
        assert_eq!(sat.count(), HOUSEHOLD_SITE_MAX);
        assert!(seats.sit(0, guest(100, 2, false)).is_some());
        let before = seats.taken.len();
        for _ in 0..100 {
            assert!(seats.sit(0, guest(100, 2, false)).unwrap().left.is_some());
            assert!(seats.sit(0, guest(0, 1, false)).unwrap().left.is_some());
        }
        assert_eq!(seats.taken.len(), before);
        let last = seats.next - 1;
        seats.leave(last);
        assert_eq!(seats.taken.len(), before - 1);
    }
}
