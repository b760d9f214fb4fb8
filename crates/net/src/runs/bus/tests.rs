//! Buses that are wired to each other: what one says, all hear, whatever breaks; and what a bus withstands.

use std::collections::VecDeque;

use iroh::SecretKey;
use proptest::prelude::*;

use super::*;
use crate::PeerAddress;
use crate::limits::{
    AUTHOR_BURST_BYTES, LINK_BURST_BYTES, NOTICE_AGE_MS_MAX, PLACE_TTL_MS, RUN_CLOCK_SKEW_MS_MAX,
    RUN_WANT_MS_MAX, TOPIC_BYTES_MAX,
};

const TOPIC: TopicId = TopicId([42; 32]);
const BEGIN: Timestamp = Timestamp(1_000_000_000_000);

fn key(n: u64) -> SecretKey {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&n.to_le_bytes());
    SecretKey::from_bytes(&seed)
}

fn id(n: u64) -> DeviceId {
    DeviceId(*key(n).public().as_bytes())
}

fn site(n: u8) -> Origin {
    Origin::ip([10, 0, n, 1].into())
}

fn notice(author: u64, at: Timestamp, body: Vec<u8>) -> Notice {
    Notice::signed(&key(author), TOPIC, at, body)
}

fn message(message: &RunMessage) -> Vec<u8> {
    encode_run_message(message).unwrap()[LENGTH_BYTES..].to_vec()
}

/// Two ends of a connection, and what is under way on it.
struct Wire {
    ends: [(usize, LinkId); 2],
    under_way: [VecDeque<Bytes>; 2],
}

/// Devices with wires between them.
struct World {
    now: Timestamp,
    buses: Vec<Bus>,
    wires: Vec<Wire>,
    next_link: LinkId,
    heard: Vec<BTreeSet<(DeviceId, Vec<u8>)>>,
    after: Vec<u64>,
    frames: usize,
}

impl World {
    fn new(devices: usize) -> Self {
        let buses = (0..devices).map(|n| {
            let mut bus = Bus::new(id(n as u64));
            assert!(bus.take_part(BEGIN, TOPIC, &mut Vec::new()));
            bus
        });
        Self {
            now: BEGIN,
            buses: buses.collect(),
            wires: Vec::new(),
            next_link: 0,
            heard: vec![BTreeSet::new(); devices],
            after: vec![0; devices],
            frames: 0,
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        let ends = [(a, self.next_link), (b, self.next_link + 1)];
        self.next_link += 2;
        self.wires.push(Wire {
            ends,
            under_way: Default::default(),
        });
        for (this, other) in [(0, 1), (1, 0)] {
            let (device, link) = ends[this];
            let who = (id(ends[other].0 as u64), site(other as u8), this == 0);
            let mut effects = Vec::new();
            self.buses[device].up(self.now, link, who, &mut effects);
            self.perform(device, effects);
        }
    }

    /// Breaks a connection; what is under way on it is lost.
    fn cut(&mut self, wire: usize) {
        let wire = self.wires.remove(wire);
        for (device, link) in wire.ends {
            self.buses[device].down(link);
        }
    }

    fn perform(&mut self, device: usize, effects: Vec<BusEffect>) {
        for effect in effects {
            if let BusEffect::Close(link, why) = effect {
                assert!(!why.is_misbehavior(), "{why:?}");
                let wire = self
                    .wires
                    .iter()
                    .position(|w| w.ends.contains(&(device, link)));
                if let Some(wire) = wire {
                    self.cut(wire);
                }
            }
        }
        while let Some((arrival, notice)) = self.buses[device].heard(TOPIC, self.after[device]) {
            self.after[device] = arrival;
            let is_new = self.heard[device].insert((notice.device, notice.body));
            assert!(is_new, "a notice was heard twice");
        }
    }

    fn say(&mut self, device: usize, body: Vec<u8>) {
        self.now = self.now.plus_ms(1);
        let notice = notice(device as u64, self.now, body);
        let mut effects = Vec::new();
        assert!(self.buses[device].say(self.now, notice, &mut effects));
        self.perform(device, effects);
    }

    /// Moves one message on one wire in one direction; false when nothing was there.
    fn step(&mut self, wire: usize, side: usize) -> bool {
        let Some(one) = self.wires.get_mut(wire) else {
            return false;
        };
        let ((from, from_link), (to, to_link)) = (one.ends[side], one.ends[1 - side]);
        if let Next::Frame(frame) = self.buses[from].next_frame(self.now, from_link) {
            self.frames += 1;
            one.under_way[side].push_back(frame);
        }
        let Some(frame) = one.under_way[side].pop_front() else {
            return false;
        };
        let mut effects = Vec::new();
        self.buses[to].received(self.now, to_link, &frame[LENGTH_BYTES..], &mut effects);
        self.perform(to, effects);
        true
    }

    /// Lets everything that is under way arrive.
    fn settle(&mut self) {
        for _ in 0..1_000_000 {
            let mut moved = false;
            for wire in 0..self.wires.len() {
                moved |= self.step(wire, 0) | self.step(wire, 1);
            }
            if !moved {
                return;
            }
        }
        panic!("the devices never come to rest");
    }

    fn tick(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        for device in 0..self.buses.len() {
            let mut effects = Vec::new();
            self.buses[device].tick(self.now, &mut effects);
            self.perform(device, effects);
        }
    }

    fn all_heard(&self, said: &BTreeSet<(DeviceId, Vec<u8>)>) {
        for (n, heard) in self.heard.iter().enumerate() {
            let of_others = said.iter().filter(|(author, _)| *author != id(n as u64));
            let of_others: BTreeSet<_> = of_others.cloned().collect();
            assert_eq!(heard.len(), of_others.len(), "device {n}");
            assert_eq!(*heard, of_others, "device {n}");
        }
    }
}

#[derive(Debug, Clone)]
enum Move {
    Say(usize, usize),
    Connect(usize, usize),
    Cut(usize),
    Steps(Vec<(usize, bool)>),
    Pass(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (0..8_usize, 1..3_000_usize).prop_map(|(who, bytes)| Move::Say(who, bytes)),
        2 => (0..8_usize, 0..8_usize).prop_map(|(a, b)| Move::Connect(a, b)),
        1 => (0..16_usize).prop_map(Move::Cut),
        4 => prop::collection::vec((0..16_usize, any::<bool>()), 1..40).prop_map(Move::Steps),
        1 => (0..20_000_u64).prop_map(Move::Pass),
    ];
    prop::collection::vec(one, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn all_notices_reach_all_who_are_connected_whatever_broke_before(
        devices in 2..8_usize, script in moves()
    ) {
        let mut world = World::new(devices);
        let mut said = BTreeSet::new();
        for (n, one) in script.into_iter().enumerate() {
            match one {
                Move::Say(who, bytes) => {
                    let who = who % devices;
                    let mut body = vec![0; bytes];
                    body.splice(0..0, n.to_le_bytes());
                    said.insert((id(who as u64), body.clone()));
                    world.say(who, body);
                }
                Move::Connect(a, b) if a % devices != b % devices => {
                    world.connect(a % devices, b % devices);
                }
                Move::Connect(..) => {}
                Move::Cut(wire) if wire < world.wires.len() => world.cut(wire),
                Move::Cut(_) => {}
                Move::Steps(steps) => for (wire, side) in steps {
                    world.step(wire, usize::from(side));
                },
                Move::Pass(ms) => world.tick(ms),
            }
        }
        // A line through all devices, beside what is left.
        (1..devices).for_each(|n| world.connect(n - 1, n));
        world.settle();
        // Who was asked and lost its connection is made up for by another.
        world.tick(RUN_WANT_MS_MAX);
        world.settle();
        world.tick(RUN_COMPARE_INTERVAL_MS);
        world.settle();
        world.all_heard(&said);
    }
}

#[test]
fn a_notice_goes_down_a_line_and_a_late_device_hears_what_is_kept() {
    let mut world = World::new(6);
    (1..5).for_each(|n| world.connect(n - 1, n));
    world.settle();
    let mut said = BTreeSet::new();
    for n in 0..5 {
        for bytes in [10, 100_000] {
            said.insert((id(n as u64), vec![n as u8; bytes]));
            world.say(n, vec![n as u8; bytes]);
        }
    }
    world.settle();
    world.connect(4, 5);
    world.settle();
    world.all_heard(&said);
}

#[test]
fn a_long_notice_is_sent_about_once_to_each_device_however_many_connections_there_are() {
    let mut world = World::new(6);
    for a in 0..6 {
        (0..a).for_each(|b| world.connect(a, b));
    }
    world.settle();
    world.say(0, vec![7; 100_000]);
    let before = world.frames;
    world.settle();
    // The author sends it to each; nobody sends it on, but each says to others that it has it.
    assert!(world.frames - before < 40, "{}", world.frames - before);
}

/// A bus with one link to the device 1, which says that it takes part in the topic.
fn linked() -> (Bus, LinkId) {
    let mut bus = Bus::new(id(0));
    bus.take_part(BEGIN, TOPIC, &mut Vec::new());
    link_up(&mut bus, 0, 1);
    (bus, 0)
}

fn link_up(bus: &mut Bus, link: LinkId, device: u64) {
    let mut out = Vec::new();
    let who = (id(device), site(device as u8), false);
    bus.up(BEGIN, link, who, &mut out);
    let topics = RunMessage::Topics(vec![TOPIC.tag(id(device), id(0))]);
    bus.received(BEGIN, link, &message(&topics), &mut out);
    assert!(
        !out.iter()
            .any(|effect| matches!(effect, BusEffect::Close(..)))
    );
}

fn deliver(bus: &mut Bus, now: Timestamp, link: LinkId, notice: &Notice) -> Vec<BusEffect> {
    let mut out = Vec::new();
    let bytes = message(&RunMessage::Notice(notice.clone()));
    bus.received(now, link, &bytes, &mut out);
    out
}

fn drain(bus: &mut Bus, now: Timestamp, link: LinkId) -> Vec<RunMessage> {
    let frames = std::iter::from_fn(|| match bus.next_frame(now, link) {
        Next::Frame(frame) => Some(decode_run_message(&frame[LENGTH_BYTES..]).unwrap()),
        Next::Wait(_) | Next::Nothing => None,
    });
    frames.collect()
}

fn ends(effects: &[BusEffect]) -> Vec<LinkEnd> {
    let ends = effects.iter().filter_map(|effect| match effect {
        BusEffect::Close(_, why) => Some(*why),
        _ => None,
    });
    ends.collect()
}

#[test]
fn who_passes_on_a_forgery_or_garbage_is_shut_out_and_nothing_of_it_is_kept() {
    let (mut bus, link) = linked();
    let mut forged = notice(2, BEGIN, vec![1]);
    forged.body = vec![2];
    assert_eq!(
        ends(&deliver(&mut bus, BEGIN, link, &forged)),
        [LinkEnd::Forged]
    );
    let mut place = Place::signed(&key(3), TOPIC, BEGIN, Some(PeerAddress::of(id(3))));
    place.at = BEGIN.plus_ms(1);
    let mut out = Vec::new();
    bus.received(BEGIN, link, &message(&RunMessage::Place(place)), &mut out);
    assert_eq!(ends(&out), [LinkEnd::Forged]);
    let mut out = Vec::new();
    bus.received(BEGIN, link, &[9, 9, 9], &mut out);
    assert_eq!(ends(&out), [LinkEnd::Garbage]);
    assert_eq!((bus.kept(TOPIC), bus.places(TOPIC).count()), (0, 0));
}

#[test]
fn what_is_of_another_time_or_another_topic_is_dropped_and_is_nobodys_fault() {
    let (mut bus, link) = linked();
    let other = Notice::signed(&key(2), TopicId([1; 32]), BEGIN, vec![1]);
    let late = notice(2, Timestamp(BEGIN.0 - NOTICE_AGE_MS_MAX - 1), vec![1]);
    let early = notice(2, BEGIN.plus_ms(RUN_CLOCK_SKEW_MS_MAX + 1), vec![1]);
    for dropped in [other, late, early.clone()] {
        assert_eq!(ends(&deliver(&mut bus, BEGIN, link, &dropped)), []);
    }
    assert_eq!(bus.kept(TOPIC), 0);
    // What came too early may come again.
    deliver(&mut bus, BEGIN.plus_ms(1), link, &early);
    assert_eq!(bus.kept(TOPIC), 1);
    let over = early.at.plus_ms(NOTICE_AGE_MS_MAX + 1);
    bus.tick(over, &mut Vec::new());
    assert_eq!(bus.kept(TOPIC), 0);
    deliver(&mut bus, over, link, &early);
    assert_eq!(bus.kept(TOPIC), 0, "what left is not taken again");
}

#[test]
fn a_device_that_floods_displaces_its_own_notices_alone() {
    let (mut bus, link) = linked();
    for author in 10..20 {
        deliver(
            &mut bus,
            BEGIN,
            link,
            &notice(author, BEGIN, vec![1; 1_000]),
        );
    }
    let honest = bus.kept(TOPIC);
    let mut taken = 0;
    for n in 0..2_000 {
        let now = BEGIN.plus_ms(n);
        let flood = notice(2, now, vec![n as u8; 60_000]);
        // The link itself is told to be closed in the end; what counts is what was taken.
        let effects = deliver(&mut bus, now, link, &flood);
        taken += usize::from(effects.contains(&BusEffect::News));
        if n % 100 == 0 {
            assert!(bus.kept(TOPIC) <= honest + DEVICE_NOTICES_MAX);
        }
    }
    // Its burst, and what two seconds add.
    assert!(taken <= AUTHOR_BURST_BYTES as usize / 60_000 + 2, "{taken}");
    assert!(bus.kept(TOPIC) - honest <= DEVICE_NOTICES_BYTES_MAX / 60_000);
    let heard = std::iter::successors(bus.heard(TOPIC, 0), |(after, _)| bus.heard(TOPIC, *after));
    let authors: BTreeSet<_> = heard.map(|(_, notice)| notice.device).collect();
    assert!((10..20).all(|author| authors.contains(&id(author))));
}

#[test]
fn many_small_notices_of_one_device_are_kept_up_to_a_number() {
    let (mut bus, link) = linked();
    let many = 3 * DEVICE_NOTICES_MAX as u64;
    let all: Vec<_> = (0..many)
        .map(|n| notice(2, BEGIN.plus_ms(n), vec![1]))
        .collect();
    let now = BEGIN.plus_ms(many);
    for one in &all {
        deliver(&mut bus, now, link, one);
    }
    assert_eq!(bus.kept(TOPIC), DEVICE_NOTICES_MAX);
    let before = bus.heard(TOPIC, 0);
    for one in &all {
        deliver(&mut bus, now, link, one);
    }
    assert_eq!(bus.heard(TOPIC, 0), before, "what left is not heard again");
}

#[test]
fn made_up_devices_displace_each_other_and_nobody_who_came_before() {
    let (mut bus, _) = linked();
    link_up(&mut bus, 1, 3);
    for author in 10..20 {
        deliver(&mut bus, BEGIN, 0, &notice(author, BEGIN, vec![1; 1_000]));
    }
    // They fill the topic by number, and by bytes as far as they can.
    for author in 1_000..1_400 {
        let now = BEGIN.plus_ms(10 * author);
        for n in 0..4 {
            let body = vec![n; 100_000];
            deliver(
                &mut bus,
                now,
                1,
                &notice(author, now.plus_ms(u64::from(n)), body),
            );
        }
        let bytes = bus.topics[&TOPIC].shelf.ids().filter_map(|id| {
            let frame = bus.topics[&TOPIC].shelf.frame(&id);
            frame.map(|frame| frame.len())
        });
        assert!(bytes.sum::<usize>() <= TOPIC_BYTES_MAX);
    }
    let heard = std::iter::successors(bus.heard(TOPIC, 0), |(after, _)| bus.heard(TOPIC, *after));
    let authors: BTreeSet<_> = heard.map(|(_, notice)| notice.device).collect();
    assert!((10..20).all(|author| authors.contains(&id(author))));
    assert!(authors.len() <= PARTICIPANTS_MAX);
    // Someone honest still comes in through another link.
    let now = BEGIN.plus_ms(20_000);
    deliver(&mut bus, now, 0, &notice(20, now, vec![1]));
    let heard = std::iter::successors(bus.heard(TOPIC, 0), |(after, _)| bus.heard(TOPIC, *after));
    assert!(heard.into_iter().any(|(_, notice)| notice.device == id(20)));
}

#[test]
fn what_waits_for_a_link_that_takes_nothing_is_bounded() {
    let (mut bus, link) = linked();
    link_up(&mut bus, 1, 3);
    let mut most = 0;
    for n in 0..60_000_u64 {
        let now = BEGIN.plus_ms(n * 30);
        deliver(&mut bus, now, link, &notice(2 + n % 5, now, vec![1]));
        most = most.max(bus.links[&1].outbox.len());
    }
    let bound = 2 * (5 * DEVICE_NOTICES_MAX + PARTICIPANTS_MAX + RUN_WANTED_MAX) + 1;
    assert!(most <= bound, "{most}");
}

#[test]
fn a_link_that_brings_too_much_is_closed_in_the_end_and_keeps_nobody_else_from_speaking() {
    let (mut bus, link) = linked();
    link_up(&mut bus, 1, 3);
    let same = message(&RunMessage::Notice(notice(2, BEGIN, vec![1; 100_000])));
    let mut ended = None;
    for n in 0..10_000 {
        let mut out = Vec::new();
        bus.received(BEGIN, link, &same, &mut out);
        if let [why] = ends(&out)[..] {
            ended = Some((n, why));
            break;
        }
    }
    let (n, why) = ended.expect("it is closed");
    assert_eq!(why, LinkEnd::TooFast);
    assert!(n * same.len() >= LINK_BURST_BYTES as usize, "not too soon");
    deliver(&mut bus, BEGIN, 1, &notice(9, BEGIN, vec![5]));
    assert_eq!(bus.kept(TOPIC), 2);
}

#[test]
fn what_one_link_offers_and_does_not_send_is_asked_of_another() {
    let (mut bus, link) = linked();
    link_up(&mut bus, 1, 3);
    let wanted = notice(9, BEGIN, vec![1; 50_000]);
    let have = RunMessage::Have {
        topic: TOPIC,
        ids: vec![wanted.id()],
    };
    let asks = |messages: Vec<RunMessage>| {
        let wants = messages
            .into_iter()
            .filter(|one| matches!(one, RunMessage::Want { .. }));
        wants.count()
    };
    for one in [link, 1] {
        bus.received(BEGIN, one, &message(&have), &mut Vec::new());
    }
    assert_eq!(asks(drain(&mut bus, BEGIN, link)), 1);
    assert_eq!(asks(drain(&mut bus, BEGIN, 1)), 0);
    let later = BEGIN.plus_ms(RUN_WANT_MS_MAX);
    bus.tick(later, &mut Vec::new());
    assert_eq!(asks(drain(&mut bus, later, 1)), 1);
    // The same at once when the connection breaks.
    bus.received(later, link, &message(&have), &mut Vec::new());
    bus.down(1);
    bus.tick(later, &mut Vec::new());
    assert_eq!(asks(drain(&mut bus, later, link)), 1);
}

#[test]
fn offers_of_what_does_not_exist_take_no_room_from_others() {
    let (mut bus, link) = linked();
    link_up(&mut bus, 1, 3);
    for n in 0..20_u64 {
        let ids = (0..1_000_u64).map(|m| ContentHash::of(&(n * 1_000 + m).to_le_bytes()));
        let have = RunMessage::Have {
            topic: TOPIC,
            ids: ids.collect(),
        };
        bus.received(BEGIN, link, &message(&have), &mut Vec::new());
    }
    assert!(bus.links[&link].outbox.len() <= RUN_WANTED_MAX + 1);
    let have = RunMessage::Have {
        topic: TOPIC,
        ids: vec![notice(9, BEGIN, vec![1]).id()],
    };
    bus.received(BEGIN, 1, &message(&have), &mut Vec::new());
    let asked = drain(&mut bus, BEGIN, 1);
    assert!(
        asked
            .iter()
            .any(|one| matches!(one, RunMessage::Want { .. }))
    );
}

#[test]
fn of_two_connections_to_one_device_both_sides_keep_the_same() {
    // Both dialed each other at the same time.
    let mut world = World::new(2);
    world.connect(0, 1);
    world.connect(1, 0);
    assert_eq!(world.wires.len(), 1);
    let dialer = world.wires[0].ends[0].0;
    assert_eq!(id(dialer as u64), id(0).min(id(1)));
    // One that restarted dials again before its old connection counts as broken.
    world.connect(dialer, 1 - dialer);
    assert_eq!(world.wires.len(), 1);
    world.settle();
    world.say(0, vec![1]);
    world.settle();
    assert_eq!(world.heard[1].len(), 1);
}

#[test]
fn participants_hear_of_each_other_until_they_leave_or_are_silent() {
    let mut world = World::new(3);
    world.connect(0, 1);
    world.connect(1, 2);
    world.settle();
    let place = |n: u64, at: Timestamp, address| Place::signed(&key(n), TOPIC, at, address);
    for n in 0..3 {
        let address = Some(PeerAddress::of(id(n)));
        let place = place(n, world.now, address);
        world.buses[n as usize].say_place(world.now, place, &mut Vec::new());
    }
    world.settle();
    let of = |world: &World, n: usize| {
        let there = world.buses[n]
            .places(TOPIC)
            .filter(|place| place.address.is_some());
        there.map(|place| place.device).collect::<BTreeSet<_>>()
    };
    assert_eq!(of(&world, 0), BTreeSet::from([id(1), id(2)]));
    assert_eq!(of(&world, 2), BTreeSet::from([id(0), id(1)]));
    let farewell = place(2, world.now.plus_ms(1), None);
    world.buses[2].leave(world.now, TOPIC, &farewell, &mut Vec::new());
    world.settle();
    assert_eq!(of(&world, 0), BTreeSet::from([id(1)]));
    world.say(0, vec![1]);
    world.settle();
    assert_eq!(world.heard[1].len(), 1);
    assert!(world.heard[2].is_empty(), "who left hears nothing more");
    world.tick(PLACE_TTL_MS);
    assert!(of(&world, 0).is_empty());
}

#[test]
fn a_device_is_told_of_no_topic_that_it_does_not_take_part_in() {
    let mut bus = Bus::new(id(0));
    bus.take_part(BEGIN, TOPIC, &mut Vec::new());
    assert!(bus.say(BEGIN, notice(0, BEGIN, vec![1]), &mut Vec::new()));
    bus.up(BEGIN, 0, (id(1), site(1), false), &mut Vec::new());
    let other = TopicId([9; 32]).tag(id(1), id(0));
    let topics = message(&RunMessage::Topics(vec![other]));
    bus.received(BEGIN, 0, &topics, &mut Vec::new());
    assert!(bus.shares_nothing(0));
    let want = RunMessage::Want {
        topic: TOPIC,
        ids: vec![notice(0, BEGIN, vec![1]).id()],
    };
    bus.received(BEGIN, 0, &message(&want), &mut Vec::new());
    let sent = drain(&mut bus, BEGIN, 0);
    assert_eq!(sent, [RunMessage::Topics(vec![TOPIC.tag(id(0), id(1))])]);
    let mut out = Vec::new();
    bus.tick(BEGIN.plus_ms(RUN_UNSHARED_MS_MAX), &mut out);
    assert_eq!(ends(&out), [LinkEnd::NothingShared]);
}

#[test]
fn who_is_not_listened_to_is_neither_kept_nor_passed_on() {
    let (mut bus, link) = linked();
    link_up(&mut bus, 1, 3);
    deliver(&mut bus, BEGIN, link, &notice(8, BEGIN, vec![1]));
    deliver(&mut bus, BEGIN, link, &notice(9, BEGIN, vec![1]));
    drain(&mut bus, BEGIN, 1);
    bus.listen_to(TOPIC, Some(BTreeSet::from([id(9)])));
    assert_eq!(bus.kept(TOPIC), 1);
    let unheard = notice(8, BEGIN, vec![2]);
    assert_eq!(deliver(&mut bus, BEGIN, link, &unheard), []);
    assert_eq!(drain(&mut bus, BEGIN, 1), []);
    bus.listen_to(TOPIC, None);
    deliver(&mut bus, BEGIN, link, &unheard);
    assert_eq!(bus.kept(TOPIC), 2);
}

#[test]
fn a_device_that_keeps_its_own_pace_is_never_too_fast_for_others() {
    let mut speaker = Bus::new(id(9));
    speaker.take_part(BEGIN, TOPIC, &mut Vec::new());
    let (mut bus, link) = linked();
    let mut now = BEGIN;
    let mut said = 0;
    while now < BEGIN.plus_ms(300_000) {
        let wait_ms = speaker.pace(now, TOPIC, 5_000);
        now = now.plus_ms(wait_ms.max(1));
        if wait_ms > 0 {
            continue;
        }
        let one = notice(9, now, vec![said as u8; 5_000]);
        assert!(!deliver(&mut bus, now, link, &one).is_empty(), "{said}");
        said += 1;
    }
    assert!(said > 4 * DEVICE_NOTICES_MAX, "{said}");
}
