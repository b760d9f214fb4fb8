//! Which trainer is lost in which round, how, and when it comes back: drawn from a seed, so that a run can be repeated.

/// Trainers of a hundred that are away at any time, rounded up.
pub(super) const AWAY_PER_CENT: usize = 30;
/// One loss in so many is for good; there is one such loss at most.
const FOR_GOOD_ONE_IN: u64 = 8;
/// The longest that a trainer is away that comes back, in rounds.
const AWAY_ROUNDS_MAX: u64 = 2;
/// When in a round a trainer is lost at the latest, in milliseconds after the round before was recorded.
const LOST_AFTER_MS_MAX: u64 = 10_000;

/// How a trainer is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Killed without a warning, as by a power cut.
    Crash,
    /// It leaves the run, and its device is shut down.
    Leave,
}

/// A trainer that is lost in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost {
    /// Which trainer.
    pub(super) trainer: usize,
    /// How.
    pub(super) how: Loss,
    /// So long after the round before was recorded, in milliseconds.
    pub(super) after_ms: u64,
    /// It comes back when so many rounds are recorded; nothing where it does not before the run is over.
    pub(super) back_at: Option<u64>,
}

/// Who is lost in each round: as many as it takes to have [`AWAY_PER_CENT`] of them away. None is lost in the first round,
/// in which all join, and none in the last.
pub(super) fn draw(seed: u64, trainers: usize, rounds: u64) -> Vec<Vec<Lost>> {
    let mut chance = Chance(seed);
    let mut away: Vec<Option<u64>> = vec![None; trainers];
    let mut plan = Vec::new();
    for round in 0..rounds {
        for back_at in &mut away {
            *back_at = back_at.filter(|back_at| *back_at > round);
        }
        let mut lost = Vec::new();
        if round > 0 && round + 1 < rounds {
            let gone = away.iter().filter(|away| away.is_some()).count();
            for _ in gone..(trainers * AWAY_PER_CENT).div_ceil(100) {
                lost.push(lose(&mut chance, &mut away, round));
            }
        }
        plan.push(lost);
    }
    plan
}

/// Draws one of those who are here, of whom there is one.
fn lose(chance: &mut Chance, away: &mut [Option<u64>], round: u64) -> Lost {
    let here: Vec<usize> = (0..away.len())
        .filter(|trainer| away[*trainer].is_none())
        .collect();
    let trainer = here[chance.below(here.len() as u64) as usize];
    let how = match chance.below(2) {
        0 => Loss::Crash,
        _ => Loss::Leave,
    };
    let after_ms = chance.below(LOST_AFTER_MS_MAX);
    let is_for_good = chance.below(FOR_GOOD_ONE_IN) == 0 && !away.contains(&Some(u64::MAX));
    let back_at = round + 1 + chance.below(AWAY_ROUNDS_MAX);
    away[trainer] = Some(if is_for_good { u64::MAX } else { back_at });
    Lost {
        trainer,
        how,
        after_ms,
        back_at: (!is_for_good).then_some(back_at),
    }
}

/// A small generator (SplitMix64): what is drawn needs to be repeatable, and nothing else.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is small, so that the bias is too.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_losses_and_another_seed_others() {
        assert_eq!(draw(1, 8, 12), draw(1, 8, 12));
        assert_ne!(draw(1, 8, 12), draw(2, 8, 12));
    }

    #[test]
    fn nobody_is_lost_twice_before_it_is_back_and_three_in_ten_are_away() {
        for seed in 0..200 {
            let mut back = [0; 8];
            for (round, lost) in draw(seed, 8, 12).iter().enumerate() {
                let round = round as u64;
                for one in lost {
                    assert!(back[one.trainer] <= round, "seed {seed}, round {round}");
                    back[one.trainer] = one.back_at.unwrap_or(u64::MAX);
                    assert!(back[one.trainer] > round, "seed {seed}, round {round}");
                }
                let away = back.iter().filter(|back| **back > round).count();
                let wanted = if (1..11).contains(&round) { 3 } else { 0 };
                assert!(away >= wanted, "seed {seed}, round {round}: {away}");
                assert!(away <= 3, "seed {seed}, round {round}: {away}");
            }
        }
    }

    #[test]
    fn the_first_and_the_last_round_lose_nobody_and_each_other_some() {
        let plan = draw(7, 8, 12);
        assert!(plan[0].is_empty() && plan[11].is_empty());
        let lost: usize = plan.iter().map(Vec::len).sum();
        assert!(lost >= 10, "{lost} were lost in twelve rounds");
        let all = plan.iter().flatten();
        assert!(all.clone().any(|one| one.how == Loss::Crash));
        assert!(all.clone().any(|one| one.how == Loss::Leave));
    }
}
