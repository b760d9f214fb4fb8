//! Which ids may be drawn at all: the top k, and of them the nucleus.
//!
//! Neither sorts the vocabulary. The top k are gathered in a buffer whose lowest member rules out
//! nearly everything that comes later. The nucleus is cut by a binary search over masses, in the
//! part of the vocabulary that is near enough to the best id to matter.

use super::exponential;

/// Ids are looked at in blocks of this many, so that one comparison rules out a block.
const BLOCK: usize = 64;
/// How far below the best logit, in temperatures, the nucleus is looked for first.
const GAPS: [f32; 4] = [2.0, 5.0, 9.0, 14.0];
/// Few enough to be sorted.
const SORTED: usize = 64;

/// A logit that can be calculated with: what is not a number is lower than every number.
pub(super) fn finite(logit: f32) -> f32 {
    if logit > f32::NEG_INFINITY {
        logit.min(f32::MAX)
    } else {
        f32::NEG_INFINITY
    }
}

/// The id with the highest logit, the lowest of several; nothing if there is no logit at all.
pub(super) fn argmax(logits: &[f32]) -> Option<u32> {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (rounds, rest) = logits.as_chunks::<16>();
    for round in rounds {
        for (lane, logit) in lanes.iter_mut().zip(round) {
            *lane = if *logit > *lane { *logit } else { *lane };
        }
    }
    let highest = |highest: f32, logit: &f32| if *logit > highest { *logit } else { highest };
    let max = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, highest);
    if max == f32::NEG_INFINITY {
        return None;
    }
    let index = logits.iter().position(|logit| *logit == max)?;
    u32::try_from(index).ok()
}

/// A logit and an id as one number: higher logits are higher, and of equal ones the lower id.
fn key(logit: f32, id: u32) -> u64 {
    let bits = finite(logit).to_bits();
    let ordered = if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    };
    u64::from(ordered) << 32 | u64::from(u32::MAX - id)
}

fn id_of(key: u64) -> u32 {
    u32::MAX - (key & u64::from(u32::MAX)) as u32
}

fn logit_of(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    let positive = ordered >> 31 == 1;
    f32::from_bits(if positive {
        ordered & !(1 << 31)
    } else {
        !ordered
    })
}

/// The ids that may be drawn.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    keys: Vec<u64>,
    ids: Vec<u32>,
}

impl Candidates {
    /// Takes the `k` ids with the highest logits; fewer if fewer have one.
    pub(super) fn take_top(&mut self, logits: &[f32], k: usize) {
        self.keys.clear();
        let full = 2 * k + 256;
        let mut floor = f32::NEG_INFINITY;
        for (index, block) in logits.chunks(BLOCK).enumerate() {
            if !block
                .iter()
                .fold(false, |any, logit| any | (*logit > floor))
            {
                continue;
            }
            for (offset, logit) in block.iter().enumerate() {
                if *logit > floor {
                    self.keys.push(key(*logit, (index * BLOCK + offset) as u32));
                }
            }
            if self.keys.len() >= full {
                self.keep_top(k);
                floor = self.keys.last().map_or(floor, |key| logit_of(*key));
            }
        }
        self.keep_top(k);
    }

    /// Keeps the `k` highest; the lowest of them is the last then.
    fn keep_top(&mut self, k: usize) {
        if self.keys.len() > k {
            self.keys.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
            self.keys.truncate(k);
        }
    }

    /// Keeps those before which less than `top_p` of the probability lies.
    pub(super) fn keep_nucleus(&mut self, temperature: f64, top_p: f64) {
        let max = self.max();
        let weight = |key: &u64| exponential::weight(logit_of(*key), max, temperature);
        let total: f64 = self.keys.iter().map(weight).sum();
        self.cut(max, temperature, top_p * total);
    }

    /// Takes of all ids those before which less than `top_p` of the probability lies.
    pub(super) fn take_nucleus(&mut self, logits: &[f32], temperature: f64, top_p: f64) {
        let Some(best) = argmax(logits) else {
            self.keys.clear();
            return;
        };
        let max = finite(logits[best as usize]);
        let (total, tails) = exponential::sums(logits, max, temperature, GAPS);
        let outside = (1.0 - top_p) * total - 2.0 * exponential::ERROR * total;
        let gap = (GAPS.iter().zip(tails))
            .find(|(_, tail)| *tail < outside)
            // A little further, because the tail was cut in `f32`.
            .map_or(f64::INFINITY, |(gap, _)| f64::from(*gap) * 1.001 + 0.001);
        let floor = (f64::from(max) - gap * temperature) as f32;
        self.take_above(logits, floor);
        let margin = self.cut(max, temperature, top_p * total);
        if margin < 2.0 * exponential::ERROR * total {
            let total = exponential::exact(logits, max, temperature);
            self.take_above(logits, f32::NEG_INFINITY);
            self.cut(max, temperature, top_p * total);
        }
    }

    fn take_above(&mut self, logits: &[f32], floor: f32) {
        self.keys.clear();
        for (index, block) in logits.chunks(BLOCK).enumerate() {
            if !block
                .iter()
                .fold(false, |any, logit| any | (*logit >= floor))
            {
                continue;
            }
            for (offset, logit) in block.iter().enumerate() {
                if *logit >= floor && *logit > f32::NEG_INFINITY {
                    self.keys.push(key(*logit, (index * BLOCK + offset) as u32));
                }
            }
        }
    }

    fn max(&self) -> f32 {
        self.keys.iter().max().map_or(0.0, |key| logit_of(*key))
    }

    /// Keeps, in the order of the logits, those before which less than `target` lies. Gives how
    /// far the target is from where the cut would have been another.
    fn cut(&mut self, max: f32, temperature: f64, target: f64) -> f64 {
        let weight = |key: &u64| exponential::weight(logit_of(*key), max, temperature);
        let (mut low, mut high, mut before) = (0, self.keys.len(), 0.0);
        while high - low > SORTED {
            let middle = (low + high) / 2;
            self.keys[low..high].select_nth_unstable_by(middle - low, |a, b| b.cmp(a));
            let upper: f64 = self.keys[low..middle].iter().map(weight).sum();
            if before + upper < target {
                before += upper;
                low = middle;
            } else {
                high = middle;
            }
        }
        self.keys[low..high].sort_unstable_by(|a, b| b.cmp(a));
        let mut margin = f64::INFINITY;
        let mut kept = low;
        while kept < high && before < target {
            margin = target - before;
            before += weight(&self.keys[kept]);
            kept += 1;
        }
        self.keys.truncate(kept.max(1));
        margin.min((before - target).abs())
    }

    /// The ids, in their order.
    pub(super) fn ids(&mut self) -> &[u32] {
        self.ids.clear();
        self.ids.extend(self.keys.iter().map(|key| id_of(*key)));
        self.ids.sort_unstable();
        &self.ids
    }

    /// The ids, the highest logit first.
    pub(super) fn into_sorted(mut self) -> impl Iterator<Item = u32> {
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        self.keys.into_iter().map(id_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_orders_as_its_logit(a in any::<f32>(), b in any::<f32>()) {
            let (a, b) = (finite(a), finite(b));
            prop_assume!(a != b);
            prop_assert_eq!(a > b, key(a, 1) > key(b, 0));
            prop_assert_eq!(logit_of(key(a, 7)), a);
            prop_assert_eq!(id_of(key(a, 7)), 7);
            prop_assert!(key(a, 7) > key(a, 8));
        }

        #[test]
        fn the_top_is_what_sorting_gives(
            logits in prop::collection::vec(-9i8..9, 1..2_000),
            k in 1usize..300,
        ) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let mut sorted: Vec<u32> = (0..logits.len() as u32).collect();
            sorted.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
            sorted.truncate(k);
            let mut candidates = Candidates::default();
            candidates.take_top(&logits, k);
            prop_assert_eq!(candidates.into_sorted().collect::<Vec<_>>(), sorted);
        }
    }
}
