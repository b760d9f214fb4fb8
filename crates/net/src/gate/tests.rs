//! Strangers with free keys against the gate, by hand and at random.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;
use crate::limits::CONNECTIONS_MAX;

const IDLE_MS: u64 = IDLE_GIVES_WAY.as_millis() as u64;
const GRACE_MS: u64 = HALF_OPEN_GRACE.as_millis() as u64;

fn device(number: u32) -> DeviceId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    DeviceId(id)
}

/// Devices of this range are the household's.
fn is_member(device: &DeviceId) -> bool {
    device.0[0] == 0xff
}

fn member(number: u32) -> DeviceId {
    device(0xff00_0000 | number)
}

fn at(site: u32, host: u8) -> Origin {
    let [_, a, b, c] = site.to_be_bytes();
    Origin::ip([a.wrapping_add(1), b, c, host].into())
}

fn comes(device: DeviceId, origin: Origin) -> Newcomer {
    Newcomer {
        device,
        origin,
        dialed: false,
    }
}

fn dialed(device: DeviceId) -> Newcomer {
    Newcomer {
        device,
        origin: at(9_999, 1),
        dialed: true,
    }
}

/// A gate that strangers filled, each with a key of its own, from `sites` sites; all are used.
fn filled(sites: u32) -> Gate {
    let mut gate = Gate::default();
    for n in 0..10_000 {
        let site = n % sites;
        // Some machines at each site.
        let host = (n / sites % 4) as u8;
        let _ = gate.admit(0, comes(device(n), at(site, host)), &is_member);
    }
    gate
}

#[test]
fn free_keys_leave_the_household_and_what_is_dialed_their_room() {
    for sites in [1, 2, 3, 64, 256, 5_000] {
        let mut gate = filled(sites);
        let strangers = gate.open_connections();
        assert!(strangers <= STRANGER_CONNECTIONS_MAX, "{sites} sites");
        for n in 0..64 {
            for _ in 0..4 {
                let newcomer = comes(member(n), at(n % sites, 200));
                let admitted = gate.admit(1, newcomer, &is_member).unwrap();
                assert!(admitted.closed.is_empty(), "{sites} sites");
            }
        }
        for n in 0..DIALED_CONNECTIONS_MAX as u32 {
            let admitted = gate.admit(1, dialed(device(20_000 + n)), &is_member);
            assert!(admitted.unwrap().closed.is_empty(), "{sites} sites");
        }
        let all = strangers + HOUSEHOLD_CONNECTIONS_MAX + DIALED_CONNECTIONS_MAX;
        assert_eq!(gate.open_connections(), all);
    }
}

#[test]
fn one_machine_and_one_site_have_a_part_of_the_room() {
    assert_eq!(filled(1).open_connections(), SITE_CONNECTIONS_MAX);
    let mut gate = Gate::default();
    let of_one = (0..1_000).filter(|n| {
        let newcomer = comes(device(*n), at(1, 1));
        gate.admit(0, newcomer, &is_member).is_ok()
    });
    assert_eq!(of_one.count(), MACHINE_CONNECTIONS_MAX);
    let relay = Origin::Relay("https://relay.example/".to_owned());
    let of_relay = (2_000..3_000).filter(|n| {
        let newcomer = comes(device(*n), relay.clone());
        gate.admit(0, newcomer, &is_member).is_ok()
    });
    assert_eq!(of_relay.count(), SITE_CONNECTIONS_MAX);
    // A /48 of IPv6, each key from a /64 of its own.
    let mut gate = Gate::default();
    let of_v6 = (4_000..5_000u32).filter(|n| {
        let [.., a, b] = n.to_be_bytes();
        let link = u16::from_be_bytes([a, b]);
        let ip = Ipv6Addr::new(0x2a00, 1, 2, link, 0, 0, 0, 1);
        let newcomer = comes(device(*n), Origin::ip(ip.into()));
        gate.admit(0, newcomer, &is_member).is_ok()
    });
    assert_eq!(of_v6.count(), SITE_CONNECTIONS_MAX);
}

#[test]
fn an_honest_newcomer_takes_a_place_of_who_has_the_most() {
    let mut gate = filled(3);
    assert_eq!(gate.open_connections(), STRANGER_CONNECTIONS_MAX);
    let honest = comes(device(30_000), at(77, 1));
    let admitted = gate.admit(1, honest, &is_member).unwrap();
    assert_eq!(admitted.closed.len(), 1);
    // Where everybody has a fair share and uses it, nobody is thrown out.
    let mut gate = filled(STRANGER_CONNECTIONS_MAX as u32 / FAIR_SHARE as u32);
    let honest = comes(device(30_000), at(7_777, 1));
    let refused = gate.admit(1, honest.clone(), &is_member);
    assert_eq!(refused, Err(Refusal::TooMany));
    // What does nothing gives way.
    assert!(gate.admit(IDLE_MS, honest, &is_member).is_ok());
}

#[test]
fn a_connection_that_is_used_stays_and_one_that_does_nothing_gives_way() {
    let mut gate = Gate::default();
    let mut slots = Vec::new();
    for n in 0..MACHINE_CONNECTIONS_MAX as u32 {
        let admitted = gate.admit(0, comes(device(n), at(1, 1)), &is_member);
        slots.push(admitted.unwrap().slot);
    }
    let used = slots[0];
    for tick in 1..=10 {
        gate.note(tick * IDLE_MS / 10, used, tick);
    }
    let newcomer = comes(device(5_000), at(1, 1));
    let admitted = gate.admit(IDLE_MS, newcomer, &is_member).unwrap();
    assert_eq!(admitted.closed, [slots[1]], "the one longest without use");
    // Frames that do not change are no use.
    gate.note(2 * IDLE_MS, used, 10);
    let newcomer = comes(device(5_001), at(1, 1));
    assert!(gate.admit(2 * IDLE_MS, newcomer, &is_member).is_ok());
}

#[test]
fn a_device_of_the_household_that_dials_again_is_let_in() {
    let mut gate = Gate::default();
    for n in 0..100 {
        let again = gate.admit(n, comes(member(1), at(1, 1)), &is_member);
        assert!(again.is_ok(), "time {n}");
    }
    assert_eq!(gate.open_connections(), DEVICE_CONNECTIONS_MAX);
}

#[test]
fn a_device_that_is_shut_out_is_shut_out_whatever_it_is() {
    let mut gate = Gate::default();
    let slot = gate.admit(0, comes(device(1), at(1, 1)), &is_member);
    assert_eq!(gate.ban(0, device(1)), [slot.unwrap().slot]);
    let again = gate.admit(1, dialed(device(1)), &is_member);
    assert_eq!(again, Err(Refusal::ShutOut));
    let later = BAN_TIME.as_millis() as u64 + 1;
    assert!(gate.admit(later, dialed(device(1)), &is_member).is_ok());
    for n in 0..2 * BANNED_MAX as u32 {
        gate.ban(later, device(100 + n));
    }
    assert_eq!(
        (gate.banned.len(), gate.order.len()),
        (BANNED_MAX, BANNED_MAX)
    );
}

#[test]
fn handshakes_that_are_never_done_keep_nobody_out() {
    let mut gate = Gate::default();
    let enters = |knock: &Knock| matches!(knock, Knock::Enter { .. });
    // Addresses that were not shown to be right get no more than a part.
    let unproven = (0..1_000).filter(|n| enters(&gate.knock(0, &at(*n, 1), false)));
    assert_eq!(unproven.count(), HALF_OPEN_UNPROVEN_MAX);
    assert_eq!(gate.knock(0, &at(1, 1), false), Knock::ProveAddress);
    // One site with addresses that are right gets no more than its part.
    let of_site = (0..1_000).filter(|n| enters(&gate.knock(0, &at(5_000, *n as u8), true)));
    assert_eq!(of_site.count(), HALF_OPEN_SITE_MAX);
    // The rest is filled by others.
    while gate.half_open.len() < HALF_OPEN_MAX {
        let site = 10_000 + gate.half_open.len() as u32;
        assert!(enters(&gate.knock(0, &at(site, 1), true)));
    }
    let honest = gate.knock(1, &at(7_777, 1), true);
    let Knock::Enter { broken_off, .. } = honest else {
        panic!("{honest:?}");
    };
    assert!(broken_off.is_some(), "one of the site that has the most");
    assert_eq!(gate.half_open.len(), HALF_OPEN_MAX);
    // Where each site has one, a slow one gives way, and only that.
    let mut gate = Gate::default();
    for n in 0..HALF_OPEN_MAX as u32 {
        assert!(enters(&gate.knock(0, &at(n, 1), true)));
    }
    assert_eq!(gate.knock(GRACE_MS - 1, &at(9_000, 1), true), Knock::Refuse);
    assert!(enters(&gate.knock(GRACE_MS, &at(9_000, 1), true)));
}

/// Something that happens at the gate.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Comes { key: u32, site: u32, host: u8 },
    Member { key: u32, site: u32 },
    Dials { key: u32 },
    Ends { which: usize },
    Uses { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..IDLE_MS).prop_map(Step::Wait),
        12 => (0..5_000u32, 0..40u32, 0..3u8)
            .prop_map(|(key, site, host)| Step::Comes { key, site, host }),
        2 => (0..64u32, 0..40u32).prop_map(|(key, site)| Step::Member { key, site }),
        2 => (5_000..6_000u32).prop_map(|key| Step::Dials { key }),
        1 => any::<usize>().prop_map(|which| Step::Ends { which }),
        2 => any::<usize>().prop_map(|which| Step::Uses { which }),
    ]
}

fn count_by<K: Ord>(gate: &Gate, key: impl Fn(&Newcomer) -> Option<K>) -> usize {
    let mut counts: BTreeMap<K, usize> = BTreeMap::new();
    for key in gate.open.values().filter_map(|open| key(&open.who)) {
        *counts.entry(key).or_default() += 1;
    }
    counts.into_values().max().unwrap_or(0)
}

fn bounds_hold(gate: &Gate) {
    let is_stranger = |who: &Newcomer| !who.dialed && !is_member(&who.device);
    let class = |who: &Newcomer| {
        (
            is_member(&who.device),
            who.dialed && !is_member(&who.device),
        )
    };
    assert!(gate.open_connections() <= CONNECTIONS_MAX);
    assert!(count_by(gate, |who| Some(who.device)) <= DEVICE_CONNECTIONS_MAX);
    let machine = |who: &Newcomer| is_stranger(who).then(|| who.origin.machine());
    assert!(count_by(gate, machine) <= MACHINE_CONNECTIONS_MAX);
    let site = |who: &Newcomer| is_stranger(who).then(|| who.origin.site());
    assert!(count_by(gate, site) <= SITE_CONNECTIONS_MAX);
    for (of, max) in [
        ((true, false), HOUSEHOLD_CONNECTIONS_MAX),
        ((false, true), DIALED_CONNECTIONS_MAX),
        ((false, false), STRANGER_CONNECTIONS_MAX),
    ] {
        assert!(count_by(gate, |who| (class(who) == of).then_some(())) <= max);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn whatever_comes_the_bounds_hold_and_only_strangers_are_turned_away_by_strangers(
        steps in prop::collection::vec(step(), 0..1_500)
    ) {
        let mut gate = Gate::default();
        let (mut now_ms, mut frames) = (0, 0);
        for step in steps {
            let pick = |gate: &Gate, which: usize| {
                let slots: Vec<_> = gate.open.keys().copied().collect();
                slots.get(which % slots.len().max(1)).copied()
            };
            match step {
                Step::Wait(ms) => now_ms += ms,
                Step::Comes { key, site, host } => {
                    let before: Vec<_> = gate.open.iter()
                        .filter(|(_, open)| open.who.dialed || is_member(&open.who.device))
                        .map(|(slot, _)| *slot)
                        .collect();
                    let newcomer = comes(device(key), at(site, host));
                    let open = gate.open_connections();
                    match gate.admit(now_ms, newcomer, &is_member) {
                        Ok(admitted) => {
                            // A stranger takes the place of strangers alone.
                            prop_assert!(admitted.closed.iter().all(|slot| !before.contains(slot)));
                        }
                        Err(_) => prop_assert_eq!(gate.open_connections(), open),
                    }
                }
                Step::Member { key, site } => {
                    let newcomer = comes(member(key), at(site, 1));
                    let has_room = count_by(&gate, |who| is_member(&who.device).then_some(()))
                        < HOUSEHOLD_CONNECTIONS_MAX;
                    let admitted = gate.admit(now_ms, newcomer, &is_member);
                    prop_assert!(admitted.is_ok() || !has_room);
                }
                Step::Dials { key } => {
                    let has_room = count_by(&gate, |who| who.dialed.then_some(()))
                        < DIALED_CONNECTIONS_MAX;
                    let of_device = gate.open.values()
                        .filter(|open| open.who.device == device(key)).count();
                    let admitted = gate.admit(now_ms, dialed(device(key)), &is_member);
                    prop_assert!(
                        admitted.is_ok() || !has_room || of_device >= DEVICE_CONNECTIONS_MAX
                    );
                }
                Step::Ends { which } => {
                    if let Some(slot) = pick(&gate, which) {
                        gate.forget(slot);
                    }
                }
                Step::Uses { which } => {
                    frames += 1;
                    if let Some(slot) = pick(&gate, which) {
                        gate.note(now_ms, slot, frames);
                    }
                }
            }
        }
        bounds_hold(&gate);
    }
}
