//! A trainer in a run, as a machine (spec: runs, section 5).
//!
//! From each state that the chain records it trains on its own windows, commits to what it made, shows it when the
//! proposer takes no more commitments, and goes on from the next recorded state, whether it was admitted or not.
//!
//! * **Nothing is shown before commitments are closed**, so that nobody can copy it.
//! * **What was committed to is kept before it is said**, so that a crash makes neither a second commitment nor loses the
//!   work of the first.
//!
//! Deliberately absent: kernels, files and the network. The driver performs effects in their order and reports what came of
//! them.

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use super::book::{MEMBERS_MAX, RoundBook};
use super::committee::{InOffice, RunCommittee};
use super::history::{History, HistoryError, RunRules};
use super::message::{Close, Commit, Reveal, RoundStart, RunMessage, Work};
use super::{Head, turn};
use crate::content::ContentHash;
use crate::offer::DeviceId;
use crate::time::Timestamp;

/// Closings that are kept of all devices, and of one.
pub const CLOSES_MAX: usize = 64;
const CLOSES_OF_ONE_MAX: usize = 2;

/// What a trainer must not forget: what it committed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Rounds that were recorded before.
    pub index: u64,
    /// Hash of the weights that the work started from.
    pub parent: B256,
    /// What was done.
    pub work: Work,
}

/// What happens.
#[derive(Debug, Clone)]
pub enum TrainerEvent {
    /// The chain has recorded a round, whose book this is; or it says where the run begins.
    Head {
        /// Where the next round begins.
        head: Head,
        /// The book of the recorded round; nothing at the beginning of the run.
        book: Option<Box<RoundBook>>,
    },
    /// The chain has recorded a round, whose book this is, and others after it: for a device that starts, or was away.
    Past {
        /// The book of the recorded round.
        book: Box<RoundBook>,
        /// The hash of the record's block.
        beacon: B256,
    },
    /// These validators are in office, or were until a moment ago.
    Committee(RunCommittee),
    /// A device said something. A device that starts learns of the chain before it hears others: of what is about rounds
    /// that it does not know little is kept.
    Heard {
        /// The device, whose signature was checked.
        from: DeviceId,
        /// What it said.
        message: RunMessage,
    },
    /// The weights of a state are here ([`TrainerEffect::Prepare`]).
    Prepared {
        /// Hash of the weights.
        state: B256,
    },
    /// The work is done ([`TrainerEffect::Train`]); nothing where it failed or was stopped.
    Trained {
        /// Hash of the weights that it started from.
        parent: B256,
        /// What was done.
        work: Option<Work>,
    },
    /// The owner needs the machine, or does not need it any more.
    Paused(bool),
    /// Time passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainerEffect {
    /// Get the weights of the state, and answer with [`TrainerEvent::Prepared`].
    Prepare {
        /// Where the round begins.
        head: Head,
    },
    /// Train, and answer with [`TrainerEvent::Trained`].
    Train {
        /// Where the round begins.
        head: Head,
        /// What was kept from the round before.
        local_start: Option<ContentHash>,
        /// When to commit to what was done so far, if it is enough.
        until: Timestamp,
    },
    /// Stop training: what is being made is of no use any more.
    Stop,
    /// Keep this, durably, before anything after it.
    Keep(Committed),
    /// Give the contribution, and what was kept for the next round, to those who ask.
    Serve(Work),
    /// Tell everybody who takes part.
    Say(RunMessage),
    /// The chain recorded what cannot be: two thirds of the validators lied.
    Broken(HistoryError),
    /// The run has all its rounds, or excludes this trainer.
    Over,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Nothing to do: no state is known, the owner needs the machine, or the run is over.
    Resting,
    Preparing,
    Training,
    Committed(Work),
}

/// The machine of one trainer in one run.
#[derive(Debug)]
pub struct Trainer {
    device: DeviceId,
    account: Address,
    history: History,
    head: Option<Head>,
    committees: InOffice,
    stage: Stage,
    kept: Option<Committed>,
    closes: Vec<(DeviceId, Close)>,
    /// Numbers of closings after which the work was shown.
    shown: Vec<u64>,
    is_paused: bool,
    /// Work that cannot be done from this state is not tried again until the next.
    failed: bool,
}

impl Trainer {
    /// A trainer that earns for `account`; `kept` is what it last committed to.
    #[must_use]
    pub fn new(
        device: DeviceId,
        account: Address,
        rules: RunRules,
        kept: Option<Committed>,
    ) -> Self {
        Self {
            device,
            account,
            history: History::new(rules),
            head: None,
            committees: InOffice::default(),
            stage: Stage::Resting,
            kept,
            closes: Vec::new(),
            shown: Vec::new(),
            is_paused: false,
            failed: false,
        }
    }

    /// The run so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Takes an event, and says what is to be done.
    pub fn handle(&mut self, now: Timestamp, event: TrainerEvent) -> Vec<TrainerEffect> {
        let mut effects = Vec::new();
        match event {
            TrainerEvent::Head { head, book } => self.begin(head, book, &mut effects),
            TrainerEvent::Past { book, beacon } => {
                self.follow(&book, beacon, &mut effects);
                return effects;
            }
            TrainerEvent::Committee(committee) => {
                self.committees.install(committee);
                let committees = &self.committees;
                self.closes.retain(|(from, _)| committees.has_seat(*from));
            }
            TrainerEvent::Heard { from, message } => self.hear(from, message),
            TrainerEvent::Prepared { state } => self.prepared(now, state, &mut effects),
            TrainerEvent::Trained { parent, work } => self.trained(parent, work, &mut effects),
            TrainerEvent::Paused(is_paused) => self.pause(is_paused, &mut effects),
            TrainerEvent::Tick => {}
        }
        self.rouse(&mut effects);
        self.show(now, &mut effects);
        effects
    }

    /// Takes a recorded book into the history. Returns whether it could.
    fn follow(&mut self, book: &RoundBook, beacon: B256, effects: &mut Vec<TrainerEffect>) -> bool {
        if book.index == self.history.index()
            && let Err(error) = self.history.apply(book, beacon)
        {
            effects.push(TrainerEffect::Broken(error));
            return false;
        }
        true
    }

    fn begin(
        &mut self,
        head: Head,
        book: Option<Box<RoundBook>>,
        effects: &mut Vec<TrainerEffect>,
    ) {
        if let Some(book) = book
            && !self.follow(&book, head.beacon, effects)
        {
            return;
        }
        if head.index != self.history.index() || self.head == Some(head) {
            return;
        }
        if matches!(self.stage, Stage::Training | Stage::Preparing) {
            effects.push(TrainerEffect::Stop);
        }
        self.head = Some(head);
        self.stage = Stage::Resting;
        self.failed = false;
        self.closes.retain(|(_, close)| close.parent == head.state);
        self.shown.clear();
        let is_over = head.index >= self.history.rules().rounds
            || self.history.standing(self.device).is_excluded;
        if is_over {
            effects.push(TrainerEffect::Over);
            return;
        }
        // What was committed to before a crash is said again, and shown when it is time.
        let kept = self.kept.clone();
        let is_of_this = |kept: &Committed| kept.parent == head.state && kept.index == head.index;
        if let Some(kept) = kept.filter(is_of_this) {
            self.commit(head, kept.work, effects);
        }
    }

    /// Gets to work where there is something to do.
    fn rouse(&mut self, effects: &mut Vec<TrainerEffect>) {
        let Some(head) = self.head else { return };
        let is_over = head.index >= self.history.rules().rounds
            || self.history.standing(self.device).is_excluded;
        if self.stage == Stage::Resting && !self.is_paused && !self.failed && !is_over {
            self.stage = Stage::Preparing;
            effects.push(TrainerEffect::Prepare { head });
        }
    }

    fn prepared(&mut self, now: Timestamp, state: B256, effects: &mut Vec<TrainerEffect>) {
        let Some(head) = self.head.filter(|head| head.state == state) else {
            return;
        };
        if self.stage != Stage::Preparing {
            return;
        }
        self.stage = Stage::Training;
        let rules = self.history.rules();
        // What is committed to after the closing waits for long: so training ends in time, in this attempt or the next.
        let train_ms = turn::train_ms(rules);
        let gone_ms = turn::gone_ms(&head, rules, now);
        let left_ms = match gone_ms <= train_ms / 4 * 3 {
            true => train_ms - gone_ms,
            false => turn::left_ms(&head, rules, now) + train_ms,
        };
        effects.push(TrainerEffect::Train {
            head,
            local_start: self.history.standing(self.device).local,
            until: now.plus_ms(left_ms),
        });
    }

    fn trained(&mut self, parent: B256, work: Option<Work>, effects: &mut Vec<TrainerEffect>) {
        let Some(head) = self.head.filter(|head| head.state == parent) else {
            return;
        };
        if self.stage != Stage::Training {
            return;
        }
        let Some(work) = work else {
            self.stage = Stage::Resting;
            self.failed = true;
            return;
        };
        let kept = Committed {
            index: head.index,
            parent,
            work: work.clone(),
        };
        effects.push(TrainerEffect::Keep(kept.clone()));
        self.kept = Some(kept);
        self.commit(head, work, effects);
    }

    fn commit(&mut self, head: Head, work: Work, effects: &mut Vec<TrainerEffect>) {
        let start = RoundStart {
            run: self.history.rules().run,
            index: head.index,
            parent: head.state,
        };
        let commit = Commit {
            index: head.index,
            parent: head.state,
            account: self.account,
            commitment: work.commitment(&start, self.device, self.account),
        };
        self.stage = Stage::Committed(work);
        effects.push(TrainerEffect::Say(RunMessage::Commit(commit)));
    }

    fn pause(&mut self, is_paused: bool, effects: &mut Vec<TrainerEffect>) {
        self.is_paused = is_paused;
        if is_paused && matches!(self.stage, Stage::Training | Stage::Preparing) {
            self.stage = Stage::Resting;
            effects.push(TrainerEffect::Stop);
        }
    }

    /// Keeps a closing, of those who may close. Others' closings never take the place of theirs.
    fn hear(&mut self, from: DeviceId, message: RunMessage) {
        let RunMessage::Close(close) = message else {
            return;
        };
        let is_seated = self.committees.has_seat(from) || self.committees.is_empty();
        let of_one = |(device, _): &(DeviceId, Close)| *device == from;
        let mut known = self.closes.iter().filter(|known| of_one(known));
        let is_known =
            known.any(|(_, old)| (old.parent, old.number) == (close.parent, close.number));
        if !is_seated || is_known || close.commitments.len() > MEMBERS_MAX {
            return;
        }
        let count = self.closes.iter().filter(|known| of_one(known)).count();
        if count >= CLOSES_OF_ONE_MAX {
            // One about this round goes last.
            let is_about = |close: &Close| self.head.is_some_and(|one| one.state == close.parent);
            let places = self.closes.iter().enumerate();
            let of_one = places.filter(|(_, known)| of_one(known));
            let least = of_one.min_by_key(|(place, (_, close))| (is_about(close), *place));
            match least.map(|(place, (_, old))| (place, is_about(old))) {
                Some((_, true)) if !is_about(&close) => return,
                Some((place, _)) => {
                    self.closes.remove(place);
                }
                None => {}
            }
        }
        if self.closes.len() < CLOSES_MAX {
            self.closes.push((from, close));
        }
    }

    /// Closings that are kept.
    #[must_use]
    pub fn held(&self) -> usize {
        self.closes.len()
    }

    /// Shows the work once the proposer has closed the commitments, this one among them.
    fn show(&mut self, now: Timestamp, effects: &mut Vec<TrainerEffect>) {
        let (Some(head), Stage::Committed(work)) = (self.head, &self.stage) else {
            return;
        };
        let start = RoundStart {
            run: self.history.rules().run,
            index: head.index,
            parent: head.state,
        };
        let mine = work.commitment(&start, self.device, self.account);
        let quorum = self.history.rules().quorum as usize;
        let closing = self.closes.iter().find(|(from, close)| {
            close.parent == head.state
                && !self.shown.contains(&close.number)
                && close.commitments.len() >= quorum
                && close.commitments.contains(&(self.device, mine))
                && self.is_turn(now, head, close, *from)
        });
        if let Some((_, close)) = closing {
            if self.shown.is_empty() {
                effects.push(TrainerEffect::Serve(work.clone()));
            }
            if self.shown.len() >= CLOSES_MAX {
                self.shown.remove(0);
            }
            self.shown.push(close.number);
            effects.push(TrainerEffect::Say(RunMessage::Reveal(Reveal {
                parent: head.state,
                work: work.clone(),
            })));
        }
    }

    fn is_turn(&self, now: Timestamp, head: Head, close: &Close, from: DeviceId) -> bool {
        let key = (close.number, close.epoch);
        let course = (&head, self.history.rules());
        self.committees.turn_of(from, key, course, now).is_some()
    }
}

#[cfg(test)]
pub(super) mod tests;
