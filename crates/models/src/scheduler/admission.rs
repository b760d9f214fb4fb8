//! Who gets a slot, and which.

use super::{GRID_TOKENS, PIECE_TOKENS_MIN, Prepare, Progress, Scheduler, Slot, Started};

/// A slot for work, and whose beginning it shares.
struct Place {
    slot: usize,
    from: Option<usize>,
    tokens: u32,
}

impl Scheduler {
    /// Gives free slots to those whose turn it is.
    pub(super) fn admit(&mut self) -> Vec<Started> {
        let mut started = Vec::new();
        loop {
            self.make_room();
            if self.busy() == self.capacity.slots {
                break;
            }
            let Some(mut progress) = self.waiting.next(self.strangers_excess() < 0) else {
                break;
            };
            let place = self.place(&progress);
            self.share(&place);
            progress.computed = place.tokens;
            progress.reusable = place.tokens;
            started.push(Started {
                work: progress.work.id,
                reused: place.tokens,
            });
            self.slots[place.slot] = Slot::Busy(Box::new(progress));
        }
        started
    }

    /// A slot for work: the one that remembers the beginning of its prompt, if little else would
    /// be lost or nothing else is idle; then one that is free, then the one used longest ago.
    fn place(&mut self, progress: &Progress) -> Place {
        let (from, tokens) = self.longest_shared(progress);
        let free = self
            .slots
            .iter()
            .position(|slot| matches!(slot, Slot::Free));
        let other = free.or_else(|| self.oldest_memory(from));
        if let Some(index) = from
            && let Slot::Remembers { ids, .. } = &self.slots[index]
            && (other.is_none() || ids.len() <= 2 * tokens as usize)
        {
            return Place {
                slot: index,
                from,
                tokens,
            };
        }
        let slot = other.expect("a slot that is not busy is free or remembers");
        if !matches!(self.slots[slot], Slot::Free) {
            self.forget(slot);
        }
        Place { slot, from, tokens }
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

    /// Where most of the prompt was read before, and how much of it may be reused.
    fn longest_shared(&self, progress: &Progress) -> (Option<usize>, u32) {
        if !progress.work.reuse {
            return (None, 0);
        }
        // As many rows as a piece has at least must remain to be computed; on the grid, the last piece.
        let on_grid = self.capacity.on_grid;
        let remain = if on_grid { 1 } else { PIECE_TOKENS_MIN };
        // Of the prompt only: what was written is computed as it was written.
        let limit = progress.to_read.saturating_sub(remain) as usize;
        let shared = |slot: &Slot| {
            let same = slot.reusable().iter().zip(&progress.ids[..limit]);
            let same = same.take_while(|(a, b)| a == b).count() as u32;
            if on_grid {
                same - same % GRID_TOKENS
            } else {
                same
            }
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
