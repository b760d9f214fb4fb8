//! Which dataset each window of a run is from (spec: 16 runs, section 2.2).
//!
//! The numbers of windows run through all rounds, so that a dataset of little weight is read too, in the rounds in which
//! its turn comes. Nothing is drawn: of as many windows as all weights together, each dataset has exactly its weight.

/// The order in which datasets take turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixture {
    /// The dataset of each window of a period.
    turns: Vec<u8>,
    weights: Vec<u32>,
}

impl Mixture {
    /// Spreads datasets of these weights evenly. At each window every dataset gains its weight; the one that has most, the
    /// first among equals, has its turn, and loses all weights together.
    ///
    /// # Panics
    /// Panics where there is no weight, more than 256, or one of zero: a manifest has none of that.
    #[must_use]
    pub fn new(weights: &[u32]) -> Self {
        assert!((1..=256).contains(&weights.len()) && !weights.contains(&0));
        let all: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
        let mut due = vec![0_i64; weights.len()];
        let turns = (0..all).map(|_| {
            for (due, weight) in due.iter_mut().zip(weights) {
                *due += i64::from(*weight);
            }
            let most = *due.iter().max().expect("there is a dataset");
            let turn = due.iter().position(|due| *due == most);
            let turn = turn.expect("the most is one of them");
            due[turn] -= all;
            u8::try_from(turn).expect("there are at most 256")
        });
        Self {
            turns: turns.collect(),
            weights: weights.to_vec(),
        }
    }

    /// Returns the dataset of the window of this number.
    #[must_use]
    pub fn dataset(&self, number: u64) -> usize {
        let place = number % self.turns.len() as u64;
        usize::from(self.turns[usize::try_from(place).expect("a period is short")])
    }

    /// Returns how many windows each dataset must have so that any `count` windows in a row can be read.
    #[must_use]
    pub fn most_of(&self, dataset: usize, count: u64) -> u64 {
        let period = self.turns.len() as u64;
        let weight = u64::from(self.weights[dataset]);
        (count / period) * weight + weight.min(count % period)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn turns_are_spread() {
        let mixture = Mixture::new(&[3, 1]);
        let turns: Vec<usize> = (0..8).map(|number| mixture.dataset(number)).collect();
        assert_eq!(turns, [0, 0, 1, 0, 0, 0, 1, 0]);
        let alone = Mixture::new(&[7]);
        assert!((0..20).all(|number| alone.dataset(number) == 0));
    }

    proptest! {
        #[test]
        fn a_period_has_every_weight_and_no_stretch_has_more_than_it_may(
            weights in prop::collection::vec(1_u32..20, 1..6), begin in 0_u64..1_000_000, count in 0_u64..200,
        ) {
            let mixture = Mixture::new(&weights);
            let all: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            for (dataset, weight) in weights.iter().enumerate() {
                let times = |numbers: std::ops::Range<u64>| {
                    numbers.filter(|number| mixture.dataset(*number) == dataset).count() as u64
                };
                prop_assert_eq!(times(begin..begin + all), u64::from(*weight));
                prop_assert!(times(begin..begin + count) <= mixture.most_of(dataset, count));
            }
        }
    }
}
