//! What the next step computes, and what came of the last one.

use super::{
    BESIDE_TOKENS, Filler, GRID_TOKENS, PIECE_TOKENS_MIN, Part, Plan, Progress, Scheduler, Slot,
    WorkId, grid_end, piece_tokens,
};

impl Scheduler {
    /// Hands out slots, and says what to compute next.
    pub(crate) fn plan(&mut self) -> Plan {
        let started = self.admit();
        let written = self.written_tokens();
        let room = match (written.is_empty(), self.capacity.on_grid) {
            (true, _) => self.capacity.batch_tokens,
            (false, true) => GRID_TOKENS,
            (false, false) => BESIDE_TOKENS,
        };
        Plan {
            started,
            prepare: std::mem::take(&mut self.prepare),
            fillers: self.fillers(&written),
            pieces: self.pieces(room),
            written,
        }
    }

    fn written_tokens(&self) -> Vec<Part> {
        let mut batch = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            if let Slot::Busy(progress) = slot
                && progress.writes()
            {
                let position = progress.computed;
                batch.push(Part {
                    slot: index as u32,
                    work: progress.work.id,
                    position,
                    tokens: vec![progress.ids[position as usize]],
                    written: true,
                    // What suspended work had written is known already.
                    chooses: position + 1 == progress.length(),
                    last: false,
                });
            }
        }
        batch
    }

    fn fillers(&self, written: &[Part]) -> Vec<Filler> {
        let (Some(first), Some(last)) = (written.first(), written.last()) else {
            return Vec::new();
        };
        if !self.capacity.forgets_ends {
            return Vec::new();
        }
        let writes = |slot: &u32| written.iter().any(|part| part.slot == *slot);
        (first.slot..last.slot)
            .filter(|slot| !writes(slot))
            .map(|slot| Filler {
                slot,
                position: self.slots[slot as usize].computed(),
            })
            .collect()
    }

    fn pieces(&mut self, mut room: u32) -> Vec<Part> {
        let mut pieces = Vec::new();
        let count = self.slots.len();
        for turn in 0..count {
            let index = (self.first_reader + turn) % count;
            let Slot::Busy(progress) = &self.slots[index] else {
                continue;
            };
            if !progress.reads() {
                continue;
            }
            let end = self.piece_end(progress, room);
            if end <= progress.computed {
                continue;
            }
            room -= end - progress.computed;
            pieces.push(Part {
                slot: index as u32,
                work: progress.work.id,
                position: progress.computed,
                tokens: progress.ids[progress.computed as usize..end as usize].to_vec(),
                written: false,
                chooses: end == progress.length() && progress.may_write(),
                last: end == progress.to_read,
            });
        }
        self.first_reader = (self.first_reader + 1) % count.max(1);
        pieces
    }

    /// Where the next piece of a prompt ends; where it begins, if there is none for this step.
    ///
    /// The end of the prompt is read only when a token may be chosen from it.
    fn piece_end(&self, progress: &Progress, room: u32) -> u32 {
        let (computed, to_read) = (progress.computed, progress.to_read);
        if self.capacity.on_grid {
            let end = grid_end(computed, to_read);
            let held_back = end == to_read && waits_to_write(progress);
            return if held_back || end - computed > room {
                computed
            } else {
                end
            };
        }
        if held_back(progress) || room == 0 {
            return computed;
        }
        let remaining = to_read - computed;
        let end = computed + piece_tokens(remaining, room);
        if end == to_read && waits_to_write(progress) {
            end - remaining.min(PIECE_TOKENS_MIN)
        } else {
            end
        }
    }

    /// Says that parts of a step were computed.
    pub(crate) fn computed(&mut self, parts: &[Part]) {
        let least = if self.capacity.on_grid {
            GRID_TOKENS
        } else {
            PIECE_TOKENS_MIN
        };
        for part in parts {
            let Some(progress) = self.find(part.work) else {
                continue;
            };
            let end = part.position + part.tokens.len() as u32;
            let joins = progress.reusable == part.position;
            let large = part.tokens.len() >= least as usize;
            if !part.written && joins && large {
                progress.reusable = end;
            }
            progress.computed = end;
        }
    }

    /// Says which token was chosen for work whose part chooses one.
    pub(crate) fn wrote(&mut self, id: WorkId, token: u32) {
        if let Some(progress) = self.find(id) {
            progress.ids.push(token);
            progress.written += 1;
        }
    }
}

/// Whether it writes something, but may not just now.
fn waits_to_write(progress: &Progress) -> bool {
    progress.work.output_max > 0 && !progress.may_write()
}

/// Whether only the end of its prompt is left, which is not read before it may write.
fn held_back(progress: &Progress) -> bool {
    waits_to_write(progress) && progress.to_read - progress.computed <= PIECE_TOKENS_MIN
}
