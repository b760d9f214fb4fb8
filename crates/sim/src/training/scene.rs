//! Time, chance, the log, and what is going to happen.

use std::collections::BTreeMap;
use std::fmt;

use hearth_protocol::content::ContentHash;
use hearth_protocol::run::message::RunMessage;
use hearth_protocol::run::trainer::TrainerEvent;
use hearth_protocol::run::validator::ValidatorEvent;
use hearth_protocol::time::Timestamp;

use super::chain::Transaction;
use crate::outside::Log;
use crate::random::Random;

/// The number of a device: trainers first, then validators.
pub(super) type Place = usize;

/// How often a device has started. What an earlier life began counts for nothing.
pub(super) type Life = u64;

/// What is going to happen.
#[derive(Debug)]
pub(super) enum Moment {
    /// A notice comes to a device.
    Deliver(Place, u64),
    /// A device looks at the chain and at the clock.
    Tick(Place, Life),
    /// A task of a trainer's ends, unless it was stopped.
    TaskEnds(Place, Life, u64, Box<TrainerEvent>),
    /// A trainer that copies looks for something to copy.
    Copy(Place, Life, u64),
    /// A validator's machine learns of something.
    Validator(Place, Life, Box<ValidatorEvent>),
    /// A validator tries to fetch a contribution.
    Fetch(Place, Life, ContentHash),
    /// A validator says something late.
    Say(Place, Life, Box<RunMessage>),
    /// A device sends a transaction.
    Send(Place, Life, Box<Transaction>),
    /// A device starts.
    Starts(Place),
    /// A device's link is back.
    LinkBack(Place),
    /// A device sees the chain again.
    ChainBack(Place),
    /// The owner does not need the machine any more.
    Free(Place),
    /// The chain makes a block.
    Block,
    /// Something goes wrong.
    Fault,
}

/// Everything that is the same for all devices.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) now: Timestamp,
    pub(super) random: Random,
    pub(super) log: Log,
    queue: BTreeMap<(Timestamp, u64), Moment>,
    numbered: u64,
}

impl Scene {
    pub(super) fn new(random: Random, log: Log, now: Timestamp) -> Self {
        Self {
            now,
            random,
            log,
            queue: BTreeMap::new(),
            numbered: 0,
        }
    }

    /// Notes what happened.
    pub(super) fn note(&mut self, what: fmt::Arguments<'_>) {
        self.log.push(self.now, what);
    }

    /// A number that was never given before.
    pub(super) fn number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    /// Has something happen in so many milliseconds.
    pub(super) fn after(&mut self, ms: u64, what: Moment) {
        let number = self.number();
        self.queue.insert((self.now.plus_ms(ms), number), what);
    }

    /// The same, at some moment between two.
    pub(super) fn within(&mut self, least_ms: u64, most_ms: u64, what: Moment) {
        let ms = self.random.between(least_ms, most_ms);
        self.after(ms, what);
    }

    /// The next thing that happens; the time is then.
    pub(super) fn next(&mut self) -> Option<Moment> {
        let ((at, _), moment) = self.queue.pop_first()?;
        self.now = self.now.max(at);
        Some(moment)
    }
}
