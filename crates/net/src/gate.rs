//! Which peers may have a connection, as a machine without clock or I/O.
//!
//! Connections are of three classes with room of their own, so that none takes another's: those with
//! the household's devices, those that this device dialed, and those that strangers dialed. Only the
//! last can be filled by others, and keys are free; so strangers are counted by where they come from
//! ([`Origin`]) too, and a newcomer takes the place of a connection that does nothing, or of the
//! origin that has the most. What is refused is refused before anything was done for it.
//!
//! Handshakes that are not done yet have bounds of their own: nobody has shown a key there.

use std::collections::{BTreeMap, VecDeque};

use hearth_protocol::offer::DeviceId;

use crate::limits::{
    BAN_TIME, BANNED_MAX, DEVICE_CONNECTIONS_MAX, DIALED_CONNECTIONS_MAX, FAIR_SHARE,
    HALF_OPEN_GRACE, HALF_OPEN_MAX, HALF_OPEN_SITE_MAX, HALF_OPEN_UNPROVEN_MAX,
    HOUSEHOLD_CONNECTIONS_MAX, IDLE_GIVES_WAY, MACHINE_CONNECTIONS_MAX, SITE_CONNECTIONS_MAX,
    STRANGER_CONNECTIONS_MAX,
};
use crate::origin::Origin;

/// A place at the gate; never used twice.
pub(crate) type Slot = u64;

/// A peer that wants a connection.
#[derive(Debug, Clone)]
pub(crate) struct Newcomer {
    pub(crate) device: DeviceId,
    pub(crate) origin: Origin,
    /// Whether this device dialed.
    pub(crate) dialed: bool,
}

/// What an admission did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub(crate) slot: Slot,
    /// Those that give way.
    pub(crate) closed: Vec<Slot>,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The device misbehaved.
    ShutOut,
    /// There is no room.
    TooMany,
}

/// What happens to somebody who begins a handshake.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Knock {
    /// It goes on, in this place, and the others are broken off.
    Enter {
        slot: Slot,
        broken_off: Option<Slot>,
    },
    /// It must first show that it gets what is sent to its address.
    ProveAddress,
    /// There is no room.
    Refuse,
}

/// Whom a connection is with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Household,
    Dialed,
    Stranger,
}

impl Class {
    fn connections_max(self) -> usize {
        match self {
            Self::Household => HOUSEHOLD_CONNECTIONS_MAX,
            Self::Dialed => DIALED_CONNECTIONS_MAX,
            Self::Stranger => STRANGER_CONNECTIONS_MAX,
        }
    }
}

#[derive(Debug)]
struct Open {
    who: Newcomer,
    active_ms: u64,
    /// Frames of streams, in both directions, when they were last looked at.
    frames: u64,
}

/// A connection as it counts towards the bounds of a newcomer.
#[derive(Debug, Clone)]
struct Standing {
    slot: Slot,
    class: Class,
    device: DeviceId,
    machine: Origin,
    site: Origin,
    active_ms: u64,
}

/// A bound that a newcomer must keep.
#[derive(Debug, Clone, Copy)]
enum Bound {
    Device,
    Machine,
    Site,
    Class,
}

impl Bound {
    /// The narrowest first.
    fn of(class: Class) -> &'static [Self] {
        match class {
            Class::Household | Class::Dialed => &[Self::Device, Self::Class],
            Class::Stranger => &[Self::Device, Self::Machine, Self::Site, Self::Class],
        }
    }

    fn max(self, newcomer: &Standing) -> usize {
        match self {
            Self::Device => DEVICE_CONNECTIONS_MAX,
            // A relay has many devices behind it.
            Self::Machine if !matches!(newcomer.machine, Origin::Ip(_)) => SITE_CONNECTIONS_MAX,
            Self::Machine => MACHINE_CONNECTIONS_MAX,
            Self::Site => SITE_CONNECTIONS_MAX,
            Self::Class => newcomer.class.connections_max(),
        }
    }

    /// Whether `one` counts towards it.
    fn counts(self, newcomer: &Standing, one: &Standing) -> bool {
        let is_stranger = one.class == Class::Stranger;
        match self {
            Self::Device => one.device == newcomer.device,
            Self::Machine => is_stranger && one.machine == newcomer.machine,
            Self::Site => is_stranger && one.site == newcomer.site,
            Self::Class => one.class == newcomer.class,
        }
    }
}

/// The gate.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: BTreeMap<Slot, Open>,
    half_open: BTreeMap<Slot, (Origin, u64)>,
    next: Slot,
    /// Until when devices are shut out, in milliseconds.
    banned: BTreeMap<DeviceId, u64>,
    /// The same devices in the order in which they were shut out.
    order: VecDeque<DeviceId>,
}

impl Gate {
    fn take_slot(&mut self) -> Slot {
        let slot = self.next;
        self.next = self.next.wrapping_add(1);
        slot
    }

    /// Shuts a device out for [`BAN_TIME`]; the connections that it has are to be closed.
    pub(crate) fn ban(&mut self, now_ms: u64, device: DeviceId) -> Vec<Slot> {
        let ban_ms = u64::try_from(BAN_TIME.as_millis()).unwrap_or(u64::MAX);
        let until = now_ms.saturating_add(ban_ms);
        if self.banned.insert(device, until).is_none() {
            self.order.push_back(device);
        }
        if self.order.len() > BANNED_MAX
            && let Some(first) = self.order.pop_front()
        {
            self.banned.remove(&first);
        }
        let of_device = self
            .open
            .iter()
            .filter(|(_, open)| open.who.device == device);
        of_device.map(|(slot, _)| *slot).collect()
    }

    /// Whether a device is shut out.
    pub(crate) fn is_banned(&self, now_ms: u64, device: DeviceId) -> bool {
        self.banned
            .get(&device)
            .is_some_and(|until| *until > now_ms)
    }

    /// How many connections are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.open.len()
    }

    /// Where a device comes from, as far as it has a connection: the one that it was first seen on.
    pub(crate) fn origin_of(&self, device: DeviceId) -> Origin {
        let first = self.open.values().find(|open| open.who.device == device);
        first.map_or(Origin::Unknown, |open| open.who.origin.clone())
    }

    /// Admits a connection, or says why not and changes nothing. `is_member` says who belongs to the
    /// household.
    pub(crate) fn admit(
        &mut self,
        now_ms: u64,
        newcomer: Newcomer,
        is_member: &dyn Fn(&DeviceId) -> bool,
    ) -> Result<Admitted, Refusal> {
        if self.is_banned(now_ms, newcomer.device) {
            return Err(Refusal::ShutOut);
        }
        let standing = self.open.iter();
        let mut standing: Vec<_> = standing
            .map(|(slot, open)| stand(*slot, &open.who, open.active_ms, is_member))
            .collect();
        let wants = stand(Slot::MAX, &newcomer, now_ms, is_member);
        let mut closed = Vec::new();
        for bound in Bound::of(wants.class) {
            loop {
                let among = standing.iter().filter(|one| bound.counts(&wants, one));
                if among.clone().count() < bound.max(&wants) {
                    break;
                }
                let among: Vec<_> = among.collect();
                let slot = gives_way(now_ms, *bound, &wants, &among).ok_or(Refusal::TooMany)?;
                standing.retain(|one| one.slot != slot);
                closed.push(slot);
            }
        }
        for slot in &closed {
            self.open.remove(slot);
        }
        let slot = self.take_slot();
        let open = Open {
            who: newcomer,
            active_ms: now_ms,
            frames: 0,
        };
        self.open.insert(slot, open);
        Ok(Admitted { slot, closed })
    }

    /// Notes how many frames of streams a connection has carried so far.
    pub(crate) fn note(&mut self, now_ms: u64, slot: Slot, frames: u64) {
        if let Some(open) = self.open.get_mut(&slot)
            && open.frames != frames
        {
            open.frames = frames;
            open.active_ms = now_ms;
        }
    }

    /// Forgets a connection that ended.
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.open.remove(&slot);
    }

    /// Takes in somebody who begins a handshake. `is_proven` says that it gets what is sent to its
    /// address.
    pub(crate) fn knock(&mut self, now_ms: u64, origin: &Origin, is_proven: bool) -> Knock {
        if !is_proven && self.half_open.len() >= HALF_OPEN_UNPROVEN_MAX {
            return Knock::ProveAddress;
        }
        let site = origin.site();
        let of_site = self.half_open.values().filter(|(one, _)| *one == site);
        let of_site = of_site.count();
        let broken_off = if of_site >= HALF_OPEN_SITE_MAX {
            match self.slow_handshake(now_ms, &site) {
                None => return Knock::Refuse,
                slow => slow,
            }
        } else if self.half_open.len() >= HALF_OPEN_MAX {
            match self.displaced_handshake(now_ms, of_site) {
                None => return Knock::Refuse,
                displaced => displaced,
            }
        } else {
            None
        };
        if let Some(slot) = broken_off {
            self.half_open.remove(&slot);
        }
        let slot = self.take_slot();
        self.half_open.insert(slot, (site, now_ms));
        Knock::Enter { slot, broken_off }
    }

    /// The oldest handshake of a site, if an honest one would be done by now.
    fn slow_handshake(&self, now_ms: u64, site: &Origin) -> Option<Slot> {
        let of_site = self.half_open.iter().filter(|(_, (one, _))| one == site);
        of_site
            .filter(|(_, (_, since))| is_slow(now_ms, *since))
            .map(|(slot, _)| *slot)
            .next()
    }

    /// The oldest handshake of the site that has the most, or the oldest slow one.
    fn displaced_handshake(&self, now_ms: u64, own: usize) -> Option<Slot> {
        let mut sites: BTreeMap<&Origin, usize> = BTreeMap::new();
        for (site, _) in self.half_open.values() {
            *sites.entry(site).or_default() += 1;
        }
        let (most, count) = sites.into_iter().max_by_key(|(_, count)| *count)?;
        let of_most = self.half_open.iter().find(|(_, (site, _))| site == most);
        let oldest = self.half_open.iter().next();
        if count > own + 1 {
            of_most.map(|(slot, _)| *slot)
        } else {
            oldest
                .filter(|(_, (_, since))| is_slow(now_ms, *since))
                .map(|(slot, _)| *slot)
        }
    }

    /// A handshake is done, or was broken off.
    pub(crate) fn entered(&mut self, slot: Slot) {
        self.half_open.remove(&slot);
    }
}

fn is_slow(now_ms: u64, since_ms: u64) -> bool {
    u128::from(now_ms.saturating_sub(since_ms)) >= HALF_OPEN_GRACE.as_millis()
}

fn stand(
    slot: Slot,
    who: &Newcomer,
    active_ms: u64,
    is_member: &dyn Fn(&DeviceId) -> bool,
) -> Standing {
    let class = if is_member(&who.device) {
        Class::Household
    } else if who.dialed {
        Class::Dialed
    } else {
        Class::Stranger
    };
    Standing {
        slot,
        class,
        device: who.device,
        machine: who.origin.machine(),
        site: who.origin.site(),
        active_ms,
    }
}

/// Which of the connections that fill a bound gives way to a newcomer; none, if all of them are used
/// and nobody has more than a fair share.
fn gives_way(now_ms: u64, bound: Bound, newcomer: &Standing, among: &[&Standing]) -> Option<Slot> {
    let unused = among.iter().min_by_key(|one| (one.active_ms, one.slot))?;
    let idle_ms = u128::from(now_ms.saturating_sub(unused.active_ms));
    // A device of the household that lost its connections dials again before they count as broken.
    let is_own = matches!(bound, Bound::Device) && newcomer.class == Class::Household;
    if idle_ms >= IDLE_GIVES_WAY.as_millis() || is_own {
        return Some(unused.slot);
    }
    if !matches!(bound, Bound::Class) || newcomer.class != Class::Stranger {
        return None;
    }
    let mut sites: BTreeMap<&Origin, usize> = BTreeMap::new();
    for one in among {
        *sites.entry(&one.site).or_default() += 1;
    }
    let own = sites.get(&newcomer.site).copied().unwrap_or(0);
    let (most, count) = sites.into_iter().max_by_key(|(_, count)| *count)?;
    if count <= FAIR_SHARE.max(own + 1) {
        return None;
    }
    let of_most = among.iter().filter(|one| one.site == *most);
    let unused = of_most.min_by_key(|one| (one.active_ms, one.slot));
    unused.map(|one| one.slot)
}

#[cfg(test)]
mod tests;
