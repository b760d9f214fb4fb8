//! What devices say to everybody: late, in any order, twice, and again when a link is back.

use std::collections::BTreeSet;

use hearth_protocol::offer::DeviceId;
use hearth_protocol::run::message::RunMessage;
use hearth_protocol::time::Timestamp;

use super::scene::{Moment, Place, Scene};

/// Notices that are kept of one device.
const KEPT_OF_ONE: usize = 64;
/// For how long a notice is kept, in milliseconds.
const KEPT_MS: u64 = 900_000;

#[derive(Debug)]
struct Notice {
    number: u64,
    author: Place,
    from: DeviceId,
    at: Timestamp,
    message: RunMessage,
    /// It has left the device of its author.
    is_out: bool,
}

/// All notices that are still kept somewhere.
#[derive(Debug)]
pub(super) struct Bus {
    kept: Vec<Notice>,
    linked: Vec<bool>,
    seen: Vec<BTreeSet<u64>>,
    delay_ms_max: u64,
}

impl Bus {
    pub(super) fn new(places: usize, delay_ms_max: u64) -> Self {
        Self {
            kept: Vec::new(),
            linked: vec![true; places],
            seen: vec![BTreeSet::new(); places],
            delay_ms_max,
        }
    }

    pub(super) fn is_linked(&self, place: Place) -> bool {
        self.linked[place]
    }

    /// A device says something to everybody.
    pub(super) fn say(
        &mut self,
        scene: &mut Scene,
        author: Place,
        from: DeviceId,
        message: RunMessage,
    ) {
        self.forget(scene.now, author);
        let number = scene.number();
        let is_out = self.linked[author];
        self.seen[author].insert(number);
        self.kept.push(Notice {
            number,
            author,
            from,
            at: scene.now,
            message,
            is_out,
        });
        if is_out {
            for place in 0..self.linked.len() {
                self.send(scene, place, number);
            }
        }
    }

    fn forget(&mut self, now: Timestamp, author: Place) {
        let of_one = self.kept.iter().filter(|notice| notice.author == author);
        let mut surplus = (of_one.count() + 1).saturating_sub(KEPT_OF_ONE);
        self.kept.retain(|notice| {
            let is_surplus = surplus > 0 && notice.author == author;
            surplus -= usize::from(is_surplus);
            !is_surplus && now.ms_since(notice.at) < KEPT_MS
        });
    }

    fn send(&self, scene: &mut Scene, place: Place, number: u64) {
        if !self.linked[place] || self.seen[place].contains(&number) {
            return;
        }
        scene.within(1, self.delay_ms_max, Moment::Deliver(place, number));
        if scene.random.one_in(24) {
            scene.within(1, self.delay_ms_max * 8, Moment::Deliver(place, number));
        }
    }

    /// What a notice says, where it can reach the device.
    pub(super) fn deliver(&mut self, place: Place, number: u64) -> Option<(DeviceId, RunMessage)> {
        if !self.linked[place] {
            return None;
        }
        let notice = self.kept.iter().find(|notice| notice.number == number)?;
        self.seen[place].insert(number);
        Some((notice.from, notice.message.clone()))
    }

    /// A device has no link any more.
    pub(super) fn cut(&mut self, place: Place) {
        self.linked[place] = false;
    }

    /// A device's link is back: it gets what it missed, and others get what it said meanwhile.
    pub(super) fn join(&mut self, scene: &mut Scene, place: Place) {
        self.linked[place] = true;
        let mut released = Vec::new();
        for notice in &mut self.kept {
            if notice.author == place && !notice.is_out {
                notice.is_out = true;
                released.push(notice.number);
            }
        }
        for number in released {
            for other in 0..self.linked.len() {
                self.send(scene, other, number);
            }
        }
        self.sync(scene, place);
    }

    /// A device starts: it knows no notice, and gets all that are kept, its own as well.
    pub(super) fn start(&mut self, scene: &mut Scene, place: Place) {
        self.seen[place].clear();
        if self.linked[place] {
            self.sync(scene, place);
        }
    }

    fn sync(&self, scene: &mut Scene, place: Place) {
        let out = self.kept.iter().filter(|notice| notice.is_out);
        let numbers: Vec<u64> = out.map(|notice| notice.number).collect();
        for number in numbers {
            self.send(scene, place, number);
        }
    }
}
