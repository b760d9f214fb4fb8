//! What waits for a slot, and whose turn it is.
//!
//! The household and strangers take turns. Within the household its programs and devices do; among
//! strangers their sites do, and within a site its devices, so that whoever makes many keys at one
//! place gets the turns of one place.

use std::collections::{BTreeMap, VecDeque};

use super::{Progress, WorkId};
use crate::asker::Asker;

/// The work of one asker, in the order of asking.
type Line = VecDeque<Progress>;

/// Those who wait, and the order of their turns.
#[derive(Debug)]
struct Turns<T> {
    waiting: BTreeMap<u64, T>,
    order: VecDeque<u64>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<T: Default> Turns<T> {
    fn of(&mut self, name: u64) -> &mut T {
        if !self.waiting.contains_key(&name) {
            self.order.push_back(name);
        }
        self.waiting.entry(name).or_default()
    }

    /// Takes from whoever is next, who goes to the end of the order, or away with nothing left.
    fn next<P>(
        &mut self,
        take: impl FnOnce(&mut T) -> Option<P>,
        is_empty: impl FnOnce(&T) -> bool,
    ) -> Option<P> {
        let name = self.order.pop_front()?;
        let one = self.waiting.get_mut(&name)?;
        let taken = take(one);
        if is_empty(one) {
            self.waiting.remove(&name);
        } else {
            self.order.push_back(name);
        }
        taken
    }

    fn keep(&mut self, keep: impl Fn(&mut T) -> bool) {
        self.waiting.retain(|_, one| keep(one));
        self.order.retain(|name| self.waiting.contains_key(name));
    }
}

/// All work that has no slot.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    household: Turns<Line>,
    sites: Turns<Turns<Line>>,
    /// Whether the last turn was the household's.
    household_was_last: bool,
}

/// How much waits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    /// Of everybody.
    pub(super) all: u32,
    /// Of all strangers.
    pub(super) strangers: u32,
    /// Of the asker's site, where it is a stranger.
    pub(super) site: u32,
    /// Of the asker.
    pub(super) asker: u32,
}

fn sum<'a>(lines: impl Iterator<Item = &'a Line>) -> u32 {
    lines.map(VecDeque::len).sum::<usize>() as u32
}

impl Waiting {
    fn strangers(&self) -> u32 {
        let sites = self.sites.waiting.values();
        sum(sites.flat_map(|site| site.waiting.values()))
    }

    /// How much waits in all.
    pub(super) fn len(&self) -> u32 {
        sum(self.household.waiting.values()) + self.strangers()
    }

    /// How much waits, seen by one asker.
    pub(super) fn counts(&self, asker: Asker) -> Counts {
        let (site, line) = match asker {
            Asker::Household { name } => (0, self.household.waiting.get(&name)),
            Asker::Stranger { site, device } => {
                let site = self.sites.waiting.get(&site);
                (
                    site.map_or(0, |site| sum(site.waiting.values())),
                    site.and_then(|site| site.waiting.get(&device)),
                )
            }
        };
        Counts {
            all: self.len(),
            strangers: self.strangers(),
            site,
            asker: line.map_or(0, |line| line.len() as u32),
        }
    }

    /// Whether the household waits.
    pub(super) fn has_household(&self) -> bool {
        !self.household.order.is_empty()
    }

    fn line(&mut self, asker: Asker) -> &mut Line {
        match asker {
            Asker::Household { name } => self.household.of(name),
            Asker::Stranger { site, device } => self.sites.of(site).of(device),
        }
    }

    pub(super) fn push(&mut self, progress: Progress) {
        self.line(progress.work.asker).push_back(progress);
    }

    /// Puts suspended work before all that its asker has waiting.
    pub(super) fn push_first(&mut self, progress: Progress) {
        self.line(progress.work.asker).push_front(progress);
    }

    /// Who is next; none of the strangers unless they are `admitted`.
    pub(super) fn next(&mut self, admitted: bool) -> Option<Progress> {
        let strangers_first = self.household_was_last || self.household.order.is_empty();
        let stranger = (admitted && strangers_first)
            .then(|| self.next_stranger())
            .flatten();
        if stranger.is_some() {
            self.household_was_last = false;
            return stranger;
        }
        let next = self.household.next(VecDeque::pop_front, VecDeque::is_empty);
        self.household_was_last = next.is_some();
        next
    }

    fn next_stranger(&mut self) -> Option<Progress> {
        self.sites.next(
            |site| site.next(VecDeque::pop_front, VecDeque::is_empty),
            |site| site.order.is_empty(),
        )
    }

    pub(super) fn remove(&mut self, id: WorkId) {
        let without = |line: &mut Line| {
            line.retain(|progress| progress.work.id != id);
            !line.is_empty()
        };
        self.household.keep(without);
        self.sites.keep(|site| {
            site.keep(without);
            !site.order.is_empty()
        });
    }

    pub(super) fn find(&mut self, id: WorkId) -> Option<&mut Progress> {
        let sites = self.sites.waiting.values_mut();
        let strangers = sites.flat_map(|site| site.waiting.values_mut());
        let lines = self.household.waiting.values_mut().chain(strangers);
        lines.flatten().find(|progress| progress.work.id == id)
    }
}
