//! Who is computed next: a pure state machine over slots, a queue and batches.
//!
//! A slot is one sequence of the engine's context. Work waits in a bounded queue; askers take
//! turns, so that one who asks a hundred things at once does not push back one who asks a single thing.
//! Strangers may have every slot while the household wants none; when it does, it gets its share at
//! once: work of strangers that is in the way is suspended, and goes on later. A
//! batch carries one token of every answer that is being written, and fills up with a part of one
//! prompt, so that a long prompt slows the others down but never stops them.
//!
//! Keys and values of a slot are its own and lie in the order of its tokens, and each piece of a
//! prompt is computed by itself, so that what is read of a prompt never depends on what else the
//! engine does.
//!
//! **Reuse of what was read before.** A finished slot remembers the prompt that it read. The part
//! that a new prompt shares with it is not computed again where that leaves every bit of the
//! logits as it was, which is the case if each token of both was computed in a piece of
//! [`PIECE_TOKENS_MIN`] rows or more (matrix kernels round equally from there on; tokens written
//! one at a time do not). So only what was read in such pieces is remembered, and a new prompt
//! reuses at most so much that as many rows remain to be computed.
//!
//! On a graphics processor no number of rows is enough: how a sum is shared out among its cores, and with it the
//! rounding, may change with the number of rows. There every prompt is cut at the same places
//! ([`GRID_TOKENS`]), whatever else is computed, and only whole pieces are reused, so that each token is computed among
//! the same rows again.
//!
//! **Suspended work** has lost its slot. When it gets one again its prompt is read and what it wrote is
//! computed one token at a time, as it was written, so that every bit is as if it had never stopped.
//!
//! Nothing here computes, waits, or knows what a token means.

use crate::asker::Asker;

mod admission;
mod batch;
mod piece;
#[cfg(test)]
mod tests;
mod waiting;

pub(crate) use piece::{GRID_TOKENS, PIECE_TOKENS_MIN};
use piece::{grid_end, piece_tokens};
use waiting::{Counts, Waiting};

/// Tokens of a prompt that are read beside answers that are being written, in one batch.
const BESIDE_TOKENS: u32 = 128;

/// Of the places in the queue, one in so many is kept for askers that have nothing waiting, and one in so many
/// for the household; of the slots, the household gets one in so many at once.
const KEPT_SHARE: u32 = 4;

/// Work's name inside the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkId(pub(crate) u64);

/// What the engine has to share out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    /// Sequences at the same time.
    pub(crate) slots: u32,
    /// Work that waits.
    pub(crate) queue: u32,
    /// Tokens of one step.
    pub(crate) batch_tokens: u32,
    /// Whether the cache can drop the end of a sequence. Where it cannot, no [`Filler`] is computed,
    /// and no work may say `reuse`.
    pub(crate) forgets_ends: bool,
    /// Whether rounding depends on how many rows are computed together, as on a graphics processor.
    pub(crate) on_grid: bool,
}

/// Something to compute.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) id: WorkId,
    pub(crate) asker: Asker,
    /// What is read first.
    pub(crate) prompt: Vec<u32>,
    /// Tokens that may be written; none means that only the prompt is read.
    pub(crate) output_max: u32,
    /// Tokens that are paid for so far.
    pub(crate) allowance: u32,
    /// Whether what others read may be used, and this may be remembered.
    pub(crate) reuse: bool,
}

/// Nothing more can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    /// Work before this one, running or waiting.
    pub(crate) before: u32,
}

/// A part of a step: tokens of one slot, in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) slot: u32,
    pub(crate) work: WorkId,
    /// The position of the first token in the sequence.
    pub(crate) position: u32,
    pub(crate) tokens: Vec<u32>,
    /// Whether a token is chosen from the logits of the last of these.
    pub(crate) chooses: bool,
    /// Whether these are the last tokens of the prompt.
    pub(crate) last: bool,
    /// Whether these tokens were written by the model.
    pub(crate) written: bool,
}

/// A row that is computed for nothing, beside tokens that are written, and dropped at once: rows
/// of slots side by side are computed in one pass over the weights, and a gap costs a pass more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Filler {
    /// A slot between two that write.
    pub(crate) slot: u32,
    /// The first position that it has not computed.
    pub(crate) position: u32,
}

/// What the engine must do to its cache before the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prepare {
    /// Drop all of a sequence from this position on.
    Forget {
        /// The sequence.
        slot: u32,
        /// Its first position that is dropped.
        position: u32,
    },
    /// Let a sequence begin with the beginning of another; what it held is lost.
    Share {
        /// The one that has it.
        from: u32,
        /// The one that gets it.
        to: u32,
        /// How many tokens.
        tokens: u32,
    },
}

/// Work that got a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) work: WorkId,
    /// Tokens of its prompt that need not be read.
    pub(crate) reused: u32,
}

/// What to do next.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Work that got a slot.
    pub(crate) started: Vec<Started>,
    /// Before anything is computed, in this order.
    pub(crate) prepare: Vec<Prepare>,
    /// The next token of each answer that is being written, computed together.
    pub(crate) written: Vec<Part>,
    /// Computed with those.
    pub(crate) fillers: Vec<Filler>,
    /// Pieces of prompts, each computed by itself.
    pub(crate) pieces: Vec<Part>,
}

impl Plan {
    /// Whether there is nothing to compute.
    pub(crate) fn is_empty(&self) -> bool {
        self.written.is_empty() && self.pieces.is_empty()
    }
}

/// Work that has a slot, or waits for one.
#[derive(Debug)]
struct Progress {
    work: Work,
    /// The prompt, then what was written; the last one written is not computed yet, and of suspended work
    /// none.
    ids: Vec<u32>,
    /// How many of `ids` are written.
    written: u32,
    /// How many of `ids` must be read before anything is written.
    to_read: u32,
    /// How many of `ids` are computed.
    computed: u32,
    /// How many of these were computed in pieces that may be reused.
    reusable: u32,
}

impl Progress {
    fn new(mut work: Work) -> Self {
        let ids = std::mem::take(&mut work.prompt);
        Self {
            to_read: ids.len() as u32,
            ids,
            work,
            written: 0,
            computed: 0,
            reusable: 0,
        }
    }

    fn length(&self) -> u32 {
        self.ids.len() as u32
    }

    fn may_write(&self) -> bool {
        self.written < self.work.allowance.min(self.work.output_max)
    }

    fn reads(&self) -> bool {
        self.computed < self.to_read
    }

    fn writes(&self) -> bool {
        !self.reads() && self.computed < self.length() && self.may_write()
    }

    /// Whether it may lose its slot and go on later: it is not being told a token just now, and what is
    /// computed of it may be computed again.
    fn may_be_suspended(&self) -> bool {
        let is_told = !self.reads() && self.computed == self.length();
        self.work.asker.is_stranger() && self.work.output_max > 0 && !is_told
    }
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Free,
    /// Nobody's, but what was read may be of use to someone.
    Remembers {
        ids: Vec<u32>,
        used_at: u64,
    },
    Busy(Box<Progress>),
}

impl Slot {
    /// How many tokens of it are computed.
    fn computed(&self) -> u32 {
        match self {
            Self::Free => 0,
            Self::Remembers { ids, .. } => ids.len() as u32,
            Self::Busy(progress) => progress.computed,
        }
    }

    /// What was read here and may be reused.
    fn reusable(&self) -> &[u32] {
        match self {
            Self::Free => &[],
            Self::Remembers { ids, .. } => ids,
            Self::Busy(progress) => &progress.ids[..progress.reusable as usize],
        }
    }
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Scheduler {
    capacity: Capacity,
    slots: Vec<Slot>,
    waiting: Waiting,
    /// Done to the cache before the next step.
    prepare: Vec<Prepare>,
    clock: u64,
    /// The slot that reads first next time.
    first_reader: usize,
}

impl Scheduler {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            slots: (0..capacity.slots).map(|_| Slot::Free).collect(),
            capacity,
            waiting: Waiting::default(),
            prepare: Vec::new(),
            clock: 0,
            first_reader: 0,
        }
    }

    /// How much work waits for a slot.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.len()
    }

    /// How many slots are at work.
    pub(crate) fn busy(&self) -> u32 {
        self.running().count() as u32
    }

    fn running(&self) -> impl Iterator<Item = &Progress> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Busy(progress) => Some(&**progress),
            _ => None,
        })
    }

    /// Takes work on, and says how much of it is before this one.
    ///
    /// # Errors
    /// When the queue is full, or full for whoever asks.
    pub(crate) fn enqueue(&mut self, work: Work) -> Result<u32, Full> {
        let counts = self.waiting.counts(work.asker);
        let free = self.capacity.slots - self.busy();
        if !self.has_place(work.asker, counts, free) {
            return Err(Full {
                before: counts.all + self.busy(),
            });
        }
        self.waiting.push(Progress::new(work));
        Ok((counts.all + 1).saturating_sub(free))
    }

    /// Whether one more may wait. Whoever asks without end leaves room for those who have nothing
    /// waiting, all strangers together for the household, and a site for other sites.
    fn has_place(&self, asker: Asker, counts: Counts, free: u32) -> bool {
        let queue = self.capacity.queue;
        // What remains to one who has something waiting already.
        let shared = |places: u32| match counts.asker {
            0 => places,
            _ => places - places / KEPT_SHARE,
        };
        if counts.all >= shared(queue) + free {
            return false;
        }
        if !asker.is_stranger() {
            return true;
        }
        let places = queue - queue / KEPT_SHARE;
        counts.strangers < shared(places) + free && counts.site < shared(places.div_ceil(2)) + free
    }

    /// Slots that strangers have beyond what is theirs while the household wants some: below zero, as many as they
    /// may still have.
    fn strangers_excess(&self) -> i64 {
        let slots = i64::from(self.capacity.slots);
        let kept = if self.waiting.has_household() {
            // Of several slots one at least.
            (slots / i64::from(KEPT_SHARE)).max(i64::from(slots > 1))
        } else {
            0
        };
        let theirs = self.running().filter(|one| one.work.asker.is_stranger());
        theirs.count() as i64 - (slots - kept)
    }

    /// Takes a slot from strangers who have more than their share, where the household waits for one: from the work
    /// of which the least has to be computed again.
    fn make_room(&mut self) {
        if self.busy() < self.capacity.slots || self.strangers_excess() <= 0 {
            return;
        }
        let candidates = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| match slot {
                Slot::Busy(progress) if progress.may_be_suspended() => {
                    Some((progress.computed, index))
                }
                _ => None,
            });
        let Some((_, slot)) = candidates.min() else {
            return;
        };
        if let Some(mut progress) = self.release(slot) {
            (progress.computed, progress.reusable) = (0, 0);
            self.waiting.push_first(progress);
        }
    }

    /// Lets work write up to this many tokens in all; a lower figure than before changes nothing.
    pub(crate) fn allow(&mut self, id: WorkId, tokens: u32) {
        if let Some(progress) = self.find(id) {
            progress.work.allowance = progress.work.allowance.max(tokens);
        }
    }

    /// Ends work wherever it is. What it read is remembered if it had a slot.
    pub(crate) fn end(&mut self, id: WorkId) {
        self.waiting.remove(id);
        if let Some(slot) = self.slot_of(id) {
            self.release(slot);
        }
    }

    fn slot_of(&self, id: WorkId) -> Option<usize> {
        let runs = |slot: &Slot| matches!(slot, Slot::Busy(progress) if progress.work.id == id);
        self.slots.iter().position(runs)
    }

    fn find(&mut self, id: WorkId) -> Option<&mut Progress> {
        let mut busy = self.slots.iter_mut().filter_map(|slot| match slot {
            Slot::Busy(progress) => Some(&mut **progress),
            _ => None,
        });
        let running = busy.find(|progress| progress.work.id == id);
        running.or_else(|| self.waiting.find(id))
    }

    /// Ends work that could not be computed; nothing of it is remembered.
    pub(crate) fn abandon(&mut self, id: WorkId) {
        if let Some(progress) = self.find(id) {
            progress.work.reuse = false;
        }
        self.end(id);
    }

    /// Takes a slot back, remembering what may be of use. Returns whose it was.
    fn release(&mut self, slot: usize) -> Option<Progress> {
        self.clock += 1;
        let Slot::Busy(progress) = std::mem::take(&mut self.slots[slot]) else {
            return None;
        };
        let keep = if progress.work.reuse {
            progress.reusable
        } else {
            0
        };
        self.prepare.push(Prepare::Forget {
            slot: slot as u32,
            position: keep,
        });
        if keep > 0 {
            self.slots[slot] = Slot::Remembers {
                ids: progress.ids[..keep as usize].to_vec(),
                used_at: self.clock,
            };
        }
        Some(*progress)
    }

    /// Forgets what an idle slot remembers.
    fn forget(&mut self, slot: usize) {
        self.slots[slot] = Slot::Free;
        self.prepare.push(Prepare::Forget {
            slot: slot as u32,
            position: 0,
        });
    }

    fn oldest_memory(&self, keep: Option<usize>) -> Option<usize> {
        let memories = self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let Slot::Remembers { used_at, .. } = slot else {
                return None;
            };
            (Some(index) != keep).then_some((*used_at, index))
        });
        memories.min().map(|(_, index)| index)
    }
}
