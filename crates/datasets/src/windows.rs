//! Windows of a dataset: which ones a trainer reads in a round.
//!
//! The numbers come from a generator that is a function of public facts alone (spec: 15, section 5), so that a validator
//! draws what the trainer drew. Windows of one draw differ from each other; draws of two trainers may meet, because a
//! trainer must know its windows without knowing who else takes part.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::hash::Hash32;

/// The largest number of windows of one draw.
pub const WINDOWS_MAX: u32 = 1 << 20;
/// The largest window, in tokens.
pub const WINDOW_TOKENS_MAX: u32 = 1 << 20;
/// What separates these hashes from all others.
const CONTEXT: &str = "hearth datasets windows 1";

/// The public facts by which windows are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSeed {
    /// The round's beacon.
    pub beacon: [u8; 32],
    /// The run's id.
    pub run: [u8; 32],
    /// The trainer's id.
    pub trainer: [u8; 32],
    /// The round's number.
    pub round: u64,
}

/// A part of a dataset that is cut into windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windowed {
    /// The dataset's id.
    pub dataset: Hash32,
    /// Its tokens for training.
    pub tokens: u64,
    /// The tokens that a window predicts. It reads one more, which the next window begins with.
    pub window_tokens: u32,
}

/// Why no windows can be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WindowError {
    /// A window has to have a size.
    #[error("a window has 1 to {WINDOW_TOKENS_MAX} tokens, and not {0}")]
    Size(u32),
    /// More than a draw may have.
    #[error("a draw has at most {WINDOWS_MAX} windows, and not {0}")]
    Count(u32),
    /// More than there are.
    #[error("the dataset has {there} windows of that size, and {asked} are asked for")]
    TooFew {
        /// How many the dataset has.
        there: u64,
        /// How many are asked for.
        asked: u32,
    },
}

impl Windowed {
    /// Returns how many windows there are: window `i` reads the tokens `i * window_tokens ..= (i + 1) * window_tokens`.
    ///
    /// # Errors
    /// When the window's size is out of range.
    pub fn count(&self) -> Result<u64, WindowError> {
        if self.window_tokens == 0 || self.window_tokens > WINDOW_TOKENS_MAX {
            return Err(WindowError::Size(self.window_tokens));
        }
        Ok(self.tokens.saturating_sub(1) / u64::from(self.window_tokens))
    }
}

/// Draws `count` windows, all different, in the order in which they are to be read.
///
/// # Errors
/// When the dataset has fewer, or a number is out of range.
pub fn draw(windowed: &Windowed, seed: &WindowSeed, count: u32) -> Result<Vec<u64>, WindowError> {
    if count > WINDOWS_MAX {
        return Err(WindowError::Count(count));
    }
    let there = windowed.count()?;
    if u64::from(count) > there {
        let asked = count;
        return Err(WindowError::TooFew { there, asked });
    }
    let mut numbers = Numbers::new(windowed, seed);
    // The beginning of a shuffle, of which only the places that were touched are kept.
    let mut moved = BTreeMap::new();
    let mut drawn = Vec::with_capacity(count as usize);
    for place in 0..u64::from(count) {
        let chosen = place + numbers.below(there - place);
        let here = moved.remove(&place).unwrap_or(place);
        let window = if chosen == place {
            here
        } else {
            moved.insert(chosen, here).unwrap_or(chosen)
        };
        drawn.push(window);
    }
    Ok(drawn)
}

/// The generator: number `i` is made of the bytes `8 i .. 8 i + 8` of BLAKE3's extended output.
struct Numbers(blake3::OutputReader);

impl Numbers {
    fn new(windowed: &Windowed, seed: &WindowSeed) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher
            .update(&seed.beacon)
            .update(&seed.run)
            .update(&seed.trainer)
            .update(&seed.round.to_le_bytes())
            .update(&windowed.dataset.0)
            .update(&windowed.tokens.to_le_bytes())
            .update(&windowed.window_tokens.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    /// Returns a number from 0 to `bound - 1`, each as likely as the others. Fewer than one in two is passed over.
    fn below(&mut self, bound: u64) -> u64 {
        // 2^64 mod bound: the numbers below it would make small results likelier.
        let uneven = bound.wrapping_neg() % bound;
        loop {
            let mut bytes = [0; 8];
            self.0.fill(&mut bytes);
            let number = u64::from_le_bytes(bytes);
            if number >= uneven {
                return number % bound;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn windowed(tokens: u64, window_tokens: u32) -> Windowed {
        Windowed {
            dataset: Hash32([7; 32]),
            tokens,
            window_tokens,
        }
    }

    fn seed(trainer: u8, round: u64) -> WindowSeed {
        WindowSeed {
            beacon: [1; 32],
            run: [2; 32],
            trainer: [trainer; 32],
            round,
        }
    }

    #[test]
    fn a_window_needs_the_token_after_it() {
        for (tokens, count) in [(0, 0), (1, 0), (4, 0), (5, 1), (8, 1), (9, 2)] {
            assert_eq!(windowed(tokens, 4).count(), Ok(count), "{tokens}");
        }
        assert_eq!(windowed(9, 0).count(), Err(WindowError::Size(0)));
    }

    #[test]
    fn more_windows_than_there_are_are_refused() {
        let nine = windowed(9, 4);
        assert_eq!(draw(&nine, &seed(3, 0), 2).unwrap().len(), 2);
        let error = draw(&nine, &seed(3, 0), 3);
        assert_eq!(error, Err(WindowError::TooFew { there: 2, asked: 3 }));
        let most = windowed(u64::MAX, 1);
        let error = draw(&most, &seed(3, 0), u32::MAX);
        assert_eq!(error, Err(WindowError::Count(u32::MAX)));
    }

    #[test]
    fn every_fact_changes_what_is_drawn() {
        let (dataset, usual) = (windowed(1 << 30, 512), seed(3, 5));
        let drawn = draw(&dataset, &usual, 8).unwrap();
        let others = [
            (
                dataset,
                WindowSeed {
                    beacon: [9; 32],
                    ..usual
                },
            ),
            (
                dataset,
                WindowSeed {
                    run: [9; 32],
                    ..usual
                },
            ),
            (
                dataset,
                WindowSeed {
                    trainer: [9; 32],
                    ..usual
                },
            ),
            (dataset, WindowSeed { round: 9, ..usual }),
            (
                Windowed {
                    dataset: Hash32([9; 32]),
                    ..dataset
                },
                usual,
            ),
            (
                Windowed {
                    tokens: (1 << 30) + 1,
                    ..dataset
                },
                usual,
            ),
            (
                Windowed {
                    window_tokens: 511,
                    ..dataset
                },
                usual,
            ),
        ];
        for (other, seed) in others {
            assert_ne!(draw(&other, &seed, 8).unwrap(), drawn, "{other:?} {seed:?}");
        }
    }

    #[test]
    fn over_many_rounds_every_window_is_read_about_as_often() {
        let dataset = windowed(10 * 16 + 1, 16);
        let mut times = [0_u32; 10];
        for round in 0..3_000 {
            for window in draw(&dataset, &seed(3, round), 3).unwrap() {
                times[usize::try_from(window).unwrap()] += 1;
            }
        }
        // Each is expected 900 times, with a standard deviation of 25.
        assert!(
            times.iter().all(|time| (775..1_025).contains(time)),
            "{times:?}"
        );
    }

    proptest! {
        #[test]
        fn windows_of_a_draw_are_different_and_inside(
            tokens in 2_u64..1 << 40, window in 1_u32..5_000, count in 0_u32..400, round: u64, trainer: u8,
        ) {
            let dataset = windowed(tokens, window);
            let there = dataset.count().unwrap();
            let count = count.min(u32::try_from(there).unwrap_or(u32::MAX));
            let drawn = draw(&dataset, &seed(trainer, round), count).unwrap();
            let different: BTreeSet<_> = drawn.iter().collect();
            prop_assert_eq!(different.len(), count as usize);
            prop_assert!(drawn.iter().all(|window| *window < there));
            prop_assert_eq!(draw(&dataset, &seed(trainer, round), count).unwrap(), drawn);
        }

        #[test]
        fn a_longer_draw_begins_like_a_shorter_one(round: u64, less in 0_u32..50, more in 0_u32..50) {
            let dataset = windowed(1_601, 16);
            let short = draw(&dataset, &seed(1, round), less).unwrap();
            let long = draw(&dataset, &seed(1, round), less + more).unwrap();
            prop_assert_eq!(&long[..short.len()], &*short);
        }

        #[test]
        fn a_whole_draw_is_a_permutation(round: u64, windows in 1_u32..200) {
            let dataset = windowed(u64::from(windows) * 8 + 1, 8);
            let mut drawn = draw(&dataset, &seed(1, round), windows).unwrap();
            drawn.sort_unstable();
            prop_assert!(drawn.into_iter().eq(0..u64::from(windows)));
        }
    }
}
