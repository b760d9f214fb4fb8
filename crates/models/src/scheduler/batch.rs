//! What the next batch carries, and what came of the last one.

use super::admission::cells_wanted;
use super::{
    BESIDE_TOKENS, PIECE_TOKENS_MIN, Part, Plan, Prepare, Progress, Scheduler, Slot, WorkId,
    piece_tokens,
};

impl Scheduler {
    /// Hands out slots and cells, and says what to compute next.
    pub(crate) fn plan(&mut self) -> Plan {
        let mut started = self.admit();
        self.grow();
        // Whoever gave up its slot just now did not start.
        started.retain(|started| self.slot_of(started.work).is_some());
        let mut batch = self.written_tokens();
        let room = self.capacity.batch_tokens - batch.len() as u32;
        let room = if batch.is_empty() {
            room
        } else {
            room.min(BESIDE_TOKENS)
        };
        self.add_prompts(&mut batch, room);
        Plan {
            started,
            prepare: std::mem::take(&mut self.prepare),
            batch,
        }
    }

    fn written_tokens(&self) -> Vec<Part> {
        let mut batch = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            if let Slot::Busy(progress) = slot
                && progress.writes()
                && progress.length() <= progress.reserved
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

    fn add_prompts(&mut self, batch: &mut Vec<Part>, mut room: u32) {
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
            batch.push(Part {
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
    }

    /// Gives cells to those that need more; the youngest gives up its slot when there are none.
    fn grow(&mut self) {
        let mut growing: Vec<(u64, usize)> = (self.slots.iter().enumerate())
            .filter_map(|(index, slot)| match slot {
                Slot::Busy(progress) if progress.length() > progress.reserved => {
                    Some((progress.age, index))
                }
                _ => None,
            })
            .collect();
        growing.sort_unstable();
        for (_, index) in growing {
            while let Slot::Busy(progress) = &self.slots[index] {
                let more = cells_wanted(progress) - progress.reserved;
                if self.make_room(more, None) {
                    if let Slot::Busy(progress) = &mut self.slots[index] {
                        progress.reserved += more;
                    }
                    break;
                }
                self.put_off_youngest();
            }
        }
    }

    fn put_off_youngest(&mut self) {
        let busy = self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let Slot::Busy(progress) = slot else {
                return None;
            };
            Some((progress.age, index))
        });
        let Some((_, index)) = busy.max() else {
            return;
        };
        if let Slot::Busy(progress) = std::mem::take(&mut self.slots[index]) {
            let mut progress = *progress;
            progress.to_read = progress.length();
            progress.computed = 0;
            progress.reusable = 0;
            progress.reserved = 0;
            let at = (self.put_off).partition_point(|other| other.age < progress.age);
            self.put_off.insert(at, progress);
        }
        self.prepare.push(Prepare::Forget {
            slot: index as u32,
            position: 0,
        });
    }

    /// Says that a batch was computed.
    pub(crate) fn computed(&mut self, batch: &[Part]) {
        for part in batch {
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

    /// Says which token was chosen for work whose part of the batch chooses one.
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
