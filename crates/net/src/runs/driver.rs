//! What drives the bus: the clock, the key, and what several tasks share.
//!
//! One task dials ([`seeking`](super::seeking)), and each connection has one that reads and writes
//! ([`line`](super::line)). Nothing here decides what is taken or passed on: that is the bus's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_protocol::offer::DeviceId;
use hearth_protocol::time::Timestamp;
use iroh::endpoint::Connection;
use tokio::sync::{Notify, watch};
use tracing::debug;

use super::bus::{Bus, BusEffect, LinkEnd};
use super::dialer::Dialer;
use super::line::Line;
use super::link::LinkId;
use super::notice::{Notice, Place, TopicId};
use super::topic::{SayError, TakePartError, Topic};
use crate::admission::origin_of;
use crate::limits::{NOTICE_BODY_BYTES_MAX, PLACE_REPUBLISH_INTERVAL_MS, RUN_LINKS_MAX};
use crate::offers::driver::Hub;
use crate::peers::PeerAddress;

/// How long a statement of this device's place stands before it is said anew because the place changed.
const PLACE_MOVED_MS: u64 = 5_000;

/// What the tasks of a network share about topics.
#[derive(Debug)]
pub(crate) struct Runs {
    pub(super) hub: Arc<Hub>,
    bus: Mutex<Bus>,
    lines: Mutex<BTreeMap<LinkId, Line>>,
    dialer: Mutex<Dialer>,
    /// How many hold a part in a topic.
    holders: Mutex<BTreeMap<TopicId, usize>>,
    next_link: AtomicU64,
    /// When this device last said where it is.
    placed_at: AtomicU64,
    news: watch::Sender<u64>,
    closed: AtomicBool,
    pub(super) dial_now: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is guarded here is left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runs {
    pub(crate) fn new(hub: Arc<Hub>) -> Arc<Self> {
        Arc::new(Self {
            bus: Mutex::new(Bus::new(hub.own)),
            hub,
            lines: Mutex::default(),
            dialer: Mutex::default(),
            holders: Mutex::default(),
            next_link: AtomicU64::new(0),
            placed_at: AtomicU64::new(0),
            news: watch::Sender::default(),
            closed: AtomicBool::new(false),
            dial_now: Notify::new(),
        })
    }

    pub(super) fn now(&self) -> Timestamp {
        self.hub.now()
    }

    /// Lets the bus do something, and does what it says.
    pub(super) fn with<T>(
        &self,
        act: impl FnOnce(&mut Bus, Timestamp, &mut Vec<BusEffect>) -> T,
    ) -> T {
        let mut effects = Vec::new();
        let result = act(&mut lock(&self.bus), self.now(), &mut effects);
        for effect in effects {
            match effect {
                BusEffect::Wake(link) => {
                    if let Some(line) = lock(&self.lines).get(&link) {
                        line.wake();
                    }
                }
                BusEffect::Close(link, why) => self.close_link(link, why),
                BusEffect::News => self
                    .news
                    .send_modify(|count| *count = count.wrapping_add(1)),
            }
        }
        result
    }

    pub(super) fn close_link(&self, link: LinkId, why: LinkEnd) {
        let line = lock(&self.lines).get(&link).cloned();
        let Some(line) = line else {
            return;
        };
        line.close(why);
        if why.is_misbehavior() {
            debug!(device = %line.device(), ?why, "a participant is shut out");
            self.hub.admission.ban(line.device());
        }
    }

    /// Takes part in a topic.
    pub(crate) fn take_part(self: &Arc<Self>, topic: TopicId) -> Result<Topic, TakePartError> {
        if self.is_closed() {
            return Err(TakePartError::ShutDown);
        }
        let mut holders = lock(&self.holders);
        if !self.with(|bus, now, out| bus.take_part(now, topic, out)) {
            return Err(TakePartError::TooMany);
        }
        *holders.entry(topic).or_default() += 1;
        drop(holders);
        lock(&self.dialer).topics_changed();
        self.dial_now.notify_one();
        let news = self.news.subscribe();
        Ok(Topic::new(Arc::clone(self), topic, news))
    }

    /// One holds its part in a topic no longer.
    pub(super) fn leave(&self, topic: TopicId) {
        let mut holders = lock(&self.holders);
        let left = holders.get_mut(&topic).map(|count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == Some(0) {
            holders.remove(&topic);
            let farewell = self.place(topic, None);
            self.with(|bus, now, out| bus.leave(now, topic, &farewell, out));
        }
    }

    /// Says something once this device may.
    pub(super) async fn say(&self, topic: TopicId, body: Vec<u8>) -> Result<(), SayError> {
        if !(1..=NOTICE_BODY_BYTES_MAX).contains(&body.len()) {
            return Err(SayError::Length);
        }
        loop {
            if self.is_closed() {
                return Err(SayError::ShutDown);
            }
            let wait_ms = self.with(|bus, now, _| bus.pace(now, topic, body.len()));
            if wait_ms == 0 {
                break;
            }
            let wait = Duration::from_millis(wait_ms);
            self.hub.environment().sleep(wait).await;
        }
        let key = self.hub.endpoint.secret_key();
        self.with(|bus, now, out| {
            let last = bus
                .last_own(topic)
                .map_or(Timestamp(0), |last| last.plus_ms(1));
            let notice = Notice::signed(key, topic, now.max(last), body);
            bus.say(now, notice, out)
        });
        Ok(())
    }

    pub(super) fn heard(&self, topic: TopicId, after: u64) -> Option<(u64, Notice)> {
        lock(&self.bus).heard(topic, after)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn listen_to(&self, topic: TopicId, devices: Option<BTreeSet<DeviceId>>) {
        lock(&self.bus).listen_to(topic, devices);
    }

    /// The others of a topic, and where they may be dialed.
    pub(super) fn participants(&self, topic: TopicId) -> Vec<(DeviceId, PeerAddress)> {
        let (places, linked) = {
            let bus = lock(&self.bus);
            let places = bus
                .places(topic)
                .map(|place| (place.device, place.address.clone()));
            let linked = bus.linked().filter(|(_, shared)| shared.contains(&topic));
            let linked: BTreeSet<_> = linked.map(|(device, _)| device).collect();
            (places.collect::<BTreeMap<_, _>>(), linked)
        };
        let apart = places
            .iter()
            .filter(|(device, address)| address.is_some() && !linked.contains(device));
        let devices = linked.iter().chain(apart.map(|(device, _)| device));
        devices
            .map(|device| {
                let told = places.get(device).cloned().flatten();
                (*device, self.permitted(*device, told))
            })
            .collect()
    }

    /// Where a participant may be dialed, by what it told.
    pub(super) fn permitted(&self, device: DeviceId, told: Option<PeerAddress>) -> PeerAddress {
        let told = told.unwrap_or_else(|| PeerAddress::of(device));
        let teller = self.hub.teller(&device);
        self.hub.dialing.permitted(told, teller)
    }

    fn place(&self, topic: TopicId, address: Option<PeerAddress>) -> Place {
        // Each is later than the one before, whatever the clock does.
        let now = self.now().0;
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self
            .placed_at
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        let at = next(last.unwrap_or(now)).unwrap_or(now);
        Place::signed(
            self.hub.endpoint.secret_key(),
            topic,
            Timestamp(at),
            address,
        )
    }

    /// Says where this device is, in the topics where it said so too long ago, or was elsewhere.
    pub(super) fn say_places(&self) {
        let address = self.hub.address();
        let now = self.now();
        let due: Vec<_> = {
            let bus = lock(&self.bus);
            let is_due = |topic: &TopicId| {
                let said = bus.own_place(*topic);
                said.is_none_or(|said| {
                    let age_ms = now.ms_since(said.at);
                    let has_moved = said.address.as_ref() != Some(&address);
                    age_ms >= PLACE_REPUBLISH_INTERVAL_MS || (has_moved && age_ms >= PLACE_MOVED_MS)
                })
            };
            bus.topics().filter(is_due).collect()
        };
        for topic in due {
            let place = self.place(topic, Some(address.clone()));
            self.with(|bus, now, out| bus.say_place(now, place, out));
        }
    }

    /// Notes that a connection is up; it is until what is returned is dropped. Nothing when there are too many.
    pub(super) fn up(&self, connection: &Connection, dialed: bool) -> Option<(Up<'_>, Line)> {
        let link = self.next_link.fetch_add(1, Ordering::Relaxed);
        let line = Line::new(connection);
        {
            let mut lines = lock(&self.lines);
            if lines.len() >= RUN_LINKS_MAX || self.is_closed() {
                return None;
            }
            lines.insert(link, line.clone());
        }
        let up = Up { runs: self, link };
        let who = (line.device(), origin_of(connection), dialed);
        self.with(|bus, now, out| bus.up(now, link, who, out));
        Some((up, line))
    }

    /// Ends: nothing is said or heard any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.news
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn with_dialer<T>(&self, act: impl FnOnce(&mut Dialer) -> T) -> T {
        act(&mut lock(&self.dialer))
    }
}

/// A connection that is up.
#[derive(Debug)]
pub(super) struct Up<'a> {
    runs: &'a Runs,
    pub(super) link: LinkId,
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        lock(&self.runs.bus).down(self.link);
        lock(&self.runs.lines).remove(&self.link);
    }
}
