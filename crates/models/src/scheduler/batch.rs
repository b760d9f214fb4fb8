//! What the next step computes, and what came of the last one.

use super::{
    BESIDE_TOKENS, Filler, PIECE_TOKENS_MIN, Part, Plan, Progress, Scheduler, Slot, WorkId,
    piece_tokens,
};

impl Scheduler {
    /// Hands out slots, and says what to compute next.
    pub(crate) fn plan(&mut self) -> Plan {
        let started = self.admit();
        let written = self.written_tokens();
        let room = if written.is_empty() {
            self.capacity.batch_tokens
        } else {
            BESIDE_TOKENS
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
                batch.push(Part {
                    slot: index as u32,
                    work: progress.work.id,
                    position: progress.computed,
                    tokens: progress.ids[progress.computed as usize..].to_vec(),
                    written: true,
                    chooses: true,
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
            if !progress.reads() || held_back(progress) || room == 0 {
                continue;
            }
            let remaining = progress.to_read - progress.computed;
            let piece = piece_tokens(remaining, room);
            let end = progress.computed + piece;
            // The end is read only when a token may be chosen from it.
            let end = if end == progress.to_read && waits_to_write(progress) {
                end - remaining.min(PIECE_TOKENS_MIN)
            } else {
                end
            };
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
                chooses: end == progress.to_read && progress.may_write(),
                last: end == progress.to_read,
            });
        }
        self.first_reader = (self.first_reader + 1) % count.max(1);
        pieces
    }

    /// Says that parts of a step were computed.
    pub(crate) fn computed(&mut self, parts: &[Part]) {
        for part in parts {
            let Some(progress) = self.find(part.work) else {
                continue;
            };
            let end = part.position + part.tokens.len() as u32;
            let joins = progress.reusable == part.position;
            let large = part.tokens.len() >= PIECE_TOKENS_MIN as usize;
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
