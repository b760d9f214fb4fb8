//! Who gets a slot, and which.

use super::{CELLS_BLOCK, PIECE_TOKENS_MIN, Prepare, Progress, Scheduler, Slot, Started};

/// A slot for work, and whose beginning it shares.
struct Place {
    slot: usize,
    from: Option<usize>,
    tokens: u32,
}

/// The cells that work should have: for what it has so far, and a block to grow.
pub(super) fn cells_wanted(progress: &Progress) -> u32 {
    (progress.length() + CELLS_BLOCK).min(progress.cells_max())
}

impl Scheduler {
    /// Gives free slots to those whose turn it is.
    pub(super) fn admit(&mut self) -> Vec<Started> {
        let mut started = Vec::new();
        while self.busy() < self.capacity.slots {
            let Some(mut progress) = self.next_waiting() else {
                break;
            };
            let wanted = cells_wanted(&progress);
            let Some(place) = self.place(&progress, wanted) else {
                self.return_waiting(progress);
                break;
            };
            self.share(&place);
            progress.computed = place.tokens;
            progress.reusable = place.tokens;
            progress.reserved = wanted;
            started.push(Started {
                work: progress.work.id,
                reused: place.tokens,
            });
            self.slots[place.slot] = Slot::Busy(Box::new(progress));
        }
        started
    }

    /// A slot with enough cells for work, if there is one: best one that was free, then the one
    /// that was used longest ago, then the very one whose memory is reused.
    fn place(&mut self, progress: &Progress, wanted: u32) -> Option<Place> {
        let (from, tokens) = self.longest_shared(progress);
        let free = self
            .slots
            .iter()
            .position(|slot| matches!(slot, Slot::Free));
        if let Some(slot) = free.or_else(|| self.oldest_memory(from)) {
            if !matches!(self.slots[slot], Slot::Free) {
                self.forget(slot);
            }
            if self.make_room(wanted, from) {
                return Some(Place { slot, from, tokens });
            }
        }
        let from = from.filter(|from| matches!(self.slots[*from], Slot::Remembers { .. }))?;
        let more = wanted.saturating_sub(self.slots[from].cells());
        self.make_room(more, Some(from)).then_some(Place {
            slot: from,
            from: Some(from),
            tokens,
        })
    }

    fn share(&mut self, place: &Place) {
        self.clock += 1;
        let Some(from) = place.from else {
            return;
        };
        if from == place.slot {
            self.prepare.push(Prepare::Forget {
                slot: from as u32,
                position: place.tokens,
            });
            return;
        }
        if let Slot::Remembers { used_at, .. } = &mut self.slots[from] {
            *used_at = self.clock;
        }
        self.prepare.push(Prepare::Share {
            from: from as u32,
            to: place.slot as u32,
            tokens: place.tokens,
        });
    }

    /// Who is next: whoever gave up a slot, then one of each owner in turn.
    fn next_waiting(&mut self) -> Option<Progress> {
        if !self.put_off.is_empty() {
            return Some(self.put_off.remove(0));
        }
        let owner = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&owner)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&owner);
        } else {
            self.turns.push_back(owner);
        }
        next
    }

    /// Puts work back for which there are no cells yet: it is next when there are.
    fn return_waiting(&mut self, progress: Progress) {
        let at = (self.put_off).partition_point(|other| other.age < progress.age);
        self.put_off.insert(at, progress);
    }

    /// Where most of the prompt was read before, and how much of it may be reused.
    fn longest_shared(&self, progress: &Progress) -> (Option<usize>, u32) {
        if !progress.work.reuse {
            return (None, 0);
        }
        // As many rows as a piece has at least must remain to be computed.
        let limit = progress.ids.len().saturating_sub(PIECE_TOKENS_MIN as usize);
        let shared = |slot: &Slot| {
            let same = slot.reusable().iter().zip(&progress.ids[..limit]);
            same.take_while(|(a, b)| a == b).count() as u32
        };
        let best = (self.slots.iter().enumerate())
            .map(|(index, slot)| (shared(slot), index))
            .max_by_key(|(tokens, index)| (*tokens, usize::MAX - index));
        match best {
            Some((tokens, index)) if tokens >= PIECE_TOKENS_MIN => (Some(index), tokens),
            _ => (None, 0),
        }
    }
}
