//! What attacks bring: each is played against honest devices, from many seeds, until the run is over and paid.
//!
//! The unit is the pay of an honest round. Two figures bound what an attack brings, whatever work costs: beside an honest
//! trainer where work costs nothing, and beside nobody where it costs as much as it earns, so that all that is not done is
//! saved. What it costs lies between, and so does what the attack brings.

use std::fmt;

use alloy_primitives::{Address, B256};
use hearth_protocol::run::book::RoundBook;
use hearth_protocol::run::history::RunRules;
use hearth_protocol::run::message::AuditOutcome;
use hearth_protocol::run::pay::{Credit, PaidRun, credits};

use super::chain::RunsChain;
use super::ending::EPOCH_S;
use super::scene::{Moment, Place};
use super::trainer::{Diligence, TrainerSide};
use super::validator::{Candor, ValidatorSide};
use super::world::{Cast, Cheats, START, TrainingWorld, account_of, devices_of, id_of};
use crate::invariant::{Broken, ensure};
use crate::random::Random;
use crate::world::Failure;

/// Honest trainers beside the one that attacks.
const OTHERS: usize = 2;
/// Validators, which weigh alike.
const VALIDATORS: usize = 5;
/// Rounds of the run.
const ROUNDS: u64 = 30;
/// Steps of a round.
const STEPS: u32 = 8;
/// Attempts after which a run that does not end is given up.
const ATTEMPTS_MAX: u64 = 4 * ROUNDS;

/// The household of the first validator.
const HOUSEHOLD: Address = Address::repeat_byte(0x80);
/// No attack: what others are held against.
const HONEST: Attack = Attack {
    name: "honest",
    trainer: Diligence::Honest,
    validator: Candor::Honest,
    after: 0,
};

/// An attack that is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attack {
    /// What it is called.
    pub name: &'static str,
    trainer: Diligence,
    validator: Candor,
    /// Rounds of honest work before it begins.
    after: u64,
}

/// What an attack brought, on average over seeds; pay in honest rounds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Brought {
    /// Runs.
    pub runs: u32,
    /// Runs in which the attacker was excluded.
    pub excluded: u32,
    /// Rounds from the first one that was attacked to the one whose book excludes the attacker, where it was.
    pub rounds_to_exclusion: f64,
    /// Contributions to attacked rounds that were admitted.
    pub admitted: f64,
    /// Replays that could not be made, since the attacker gave nothing to start from.
    pub withheld: f64,
    /// What the attacker was paid.
    pub got: f64,
    /// What its work would have been paid had it done all that it says: its pay in the same run without the attack.
    pub honest: f64,
    /// Work that it did.
    pub worked: f64,
}

impl Brought {
    /// What the attack brings where work costs nothing: its pay, less what honest work would have earned.
    #[must_use]
    pub fn net_of_pay(&self) -> f64 {
        self.got - self.honest
    }

    /// What the attack brings where work costs as much as it earns, so that honest work brings nothing: its pay, less the
    /// work that was done.
    #[must_use]
    pub fn net_of_cost(&self) -> f64 {
        self.got - self.worked
    }
}

impl fmt::Display for Brought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "excluded {:>3}/{}, after {:>4.1} rounds | admitted {:>5.1}, withheld {:>4.1} | paid {:>5.1}, worked {:>5.1}, honest {:>5.1} | \
             net {:>6.2} where work costs nothing, {:>6.2} where it costs its pay",
            self.excluded,
            self.runs,
            self.rounds_to_exclusion,
            self.admitted,
            self.withheld,
            self.got,
            self.worked,
            self.honest,
            self.net_of_pay(),
            self.net_of_cost()
        )
    }
}

/// All attacks that are played: each by a newcomer, and by a trainer that has worked for some rounds.
#[must_use]
pub fn attacks() -> Vec<Attack> {
    let by_trainer = |name, trainer| {
        [0, 8].map(|after| Attack {
            name,
            trainer,
            validator: Candor::Honest,
            after,
        })
    };
    let by_validator = |name, validator| Attack {
        name,
        trainer: Diligence::Honest,
        validator,
        after: 0,
    };
    [
        by_trainer("copies", Diligence::Copies),
        by_trainer("does no work", Diligence::NoWork),
        by_trainer("starts from stale weights", Diligence::StaleParent),
        by_trainer("trains on other data", Diligence::OtherWindows),
        by_trainer("forgets what it kept", Diligence::WrongStart),
        by_trainer("takes fewer steps", Diligence::MoreSteps),
        by_trainer("scales its update", Diligence::Scales),
        by_trainer("flips its update", Diligence::Flips),
        by_trainer("shows its work too late", Diligence::LateReveal),
        by_trainer("sends another form", Diligence::BadBytes),
        by_trainer("gives its update to nobody", Diligence::Unfetchable),
        by_trainer("withholds what it kept", Diligence::Withholds),
    ]
    .into_iter()
    .flatten()
    .chain([
        Attack {
            name: "does no work, with a validator of a fifth",
            trainer: Diligence::NoWork,
            validator: Candor::Colludes,
            after: 8,
        },
        by_validator("reports without a replay", Candor::Lazy),
        by_validator("copies reports", Candor::CopiesReports),
    ])
    .collect()
}

/// What the devices that attack are paid where they do not, on average over seeds; in honest rounds.
#[derive(Debug, Clone, Copy, Default)]
pub struct HonestPay {
    of_trainer: f64,
    of_validator: f64,
}

impl HonestPay {
    /// Plays runs without attacks, from as many seeds as attacks are played from.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn play(runs: u32, first: u64) -> Result<Self, Failure> {
        let mut all = Self::default();
        for seed in (first..).take(runs as usize) {
            let mut world = HONEST.world(seed);
            world.play()?;
            all.of_trainer += world.paid_to(account_of(0)) / f64::from(runs.max(1));
            all.of_validator += world.paid_to(HOUSEHOLD) / f64::from(runs.max(1));
        }
        Ok(all)
    }
}

impl Attack {
    /// Honest rounds before it begins.
    #[must_use]
    pub fn after(&self) -> u64 {
        self.after
    }

    /// Plays the attack from so many seeds.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn play(&self, runs: u32, first: u64, honest: HonestPay) -> Result<Brought, Failure> {
        let mut all = Brought::default();
        for seed in (first..).take(runs as usize) {
            let mut world = self.world(seed);
            world.play()?;
            world.count(self, &mut all);
        }
        all.runs = runs;
        all.honest = match self.is_by_validator() {
            true => honest.of_validator,
            false => honest.of_trainer,
        };
        let runs = f64::from(runs.max(1));
        all.rounds_to_exclusion /= f64::from(all.excluded.max(1));
        for sum in [
            &mut all.withheld,
            &mut all.admitted,
            &mut all.got,
            &mut all.worked,
        ] {
            *sum /= runs;
        }
        Ok(all)
    }

    /// Whether a validator earns by it.
    fn is_by_validator(&self) -> bool {
        self.trainer == Diligence::Honest
    }

    /// The place of the device that attacks: the first trainer, or the first validator.
    fn place(&self) -> Place {
        if self.is_by_validator() {
            OTHERS + 1
        } else {
            0
        }
    }

    fn account(&self) -> Address {
        match self.is_by_validator() {
            true => HOUSEHOLD,
            false => account_of(0),
        }
    }

    fn world(&self, seed: u64) -> TrainingWorld {
        let random = Random::new(seed ^ 0x6174_7461);
        let rules = RunRules {
            run: B256::repeat_byte(0x77),
            quorum: 2,
            trainers_max: 16,
            steps: STEPS,
            steps_min: 1,
            grace_ms: 2_000,
            attempt_ms: 80_000,
            carry: true,
            audit_per_mille: 200,
            newcomer_rounds: 1,
            rounds: ROUNDS,
        };
        let chain = RunsChain::new(rules.run, B256::repeat_byte(0x51), START);
        let mut trainers = vec![TrainerSide::new(
            0,
            (self.trainer, self.after),
            1_000,
            rules,
        )];
        for place in 1..=OTHERS {
            let honest = (Diligence::Honest, 0);
            trainers.push(TrainerSide::new(place, honest, 1_000, rules));
        }
        let mut validators = Vec::new();
        for number in 0..VALIDATORS {
            let candor = match number {
                0 => self.validator,
                _ => Candor::Honest,
            };
            let household = match number {
                0 => HOUSEHOLD,
                _ => Address::repeat_byte(0x80 + u8::try_from(number).unwrap_or(0)),
            };
            let place = OTHERS + 1 + number;
            validators.push(ValidatorSide::new(
                place, candor, household, 1_000, &chain, rules,
            ));
        }
        let devices = devices_of(&trainers, &validators);
        let cast = Cast {
            cheats: Cheats::Few,
            rules,
            chain,
            trainers,
            validators,
            devices,
            delay_ms_max: 40,
            crash_one_in: 0,
        };
        TrainingWorld::of(seed, random, cast, false)
    }
}

impl TrainingWorld {
    /// Plays a run without faults to its end.
    fn play(&mut self) -> Result<(), Failure> {
        self.is_calm = true;
        self.elect();
        for place in 0..self.devices.len() {
            self.scene.within(0, 500, Moment::Starts(place));
        }
        self.scene.after(3_000, Moment::Block);
        let ended = self.play_on().and_then(|()| self.settle());
        ended.map_err(|broken| Failure {
            seed: self.seed,
            at_ms: self.scene.now.ms_since(START),
            broken,
            replay: "training attacks",
        })
    }

    fn play_on(&mut self) -> Result<(), Broken> {
        for _ in 0..ATTEMPTS_MAX {
            let until = self.scene.now.plus_ms(self.rules.attempt_ms);
            self.live_until(until)?;
            if self.tally.rounds >= self.rules.rounds {
                return Ok(());
            }
        }
        ensure(false, "the-run-goes-on", || {
            format!("{} rounds in {ATTEMPTS_MAX} attempts", self.tally.rounds)
        })
    }

    /// What was paid to an account, in rounds of an honest trainer; a replay counts as the round that it repeats.
    fn paid_to(&self, account: Address) -> f64 {
        let paid = self.paid();
        let through = paid.rounds.last().map_or(0, |last| last.epoch) + 1;
        let all = credits(std::slice::from_ref(&paid), through, EPOCH_S).unwrap_or_default();
        let mine = all.iter().filter(|one| one.account == account);
        mine.map(|credit| {
            let steps = match credit.is_replay {
                // All trainers here take all steps.
                true => STEPS,
                false => steps_of(&paid, credit),
            };
            vested_part(credit) * f64::from(steps) / f64::from(STEPS)
        })
        .sum()
    }

    fn count(&self, attack: &Attack, all: &mut Brought) {
        let attacker = id_of(attack.place());
        let paid = self.paid();
        let books = paid.rounds.iter().map(|round| &round.book);
        let is_in = |book: &&RoundBook| book.members.iter().any(|one| one.trainer == attacker);
        let mine: Vec<u64> = books.clone().filter(is_in).map(|book| book.index).collect();
        let after = usize::try_from(attack.after).unwrap_or(0);
        let attacked = mine.get(after..).unwrap_or_default();
        all.admitted += attacked.len() as f64;
        all.withheld += self.tally.unavailable as f64;
        let mut verdicts = books.filter(|book| {
            let mut audits = book.audits.iter();
            audits.any(|one| one.trainer == attacker && one.outcome == AuditOutcome::Different)
        });
        if let (Some(verdict), Some(first)) = (verdicts.next(), attacked.first()) {
            all.excluded += 1;
            all.rounds_to_exclusion += (verdict.index - first) as f64;
        }
        all.got += self.paid_to(attack.account());
        let steps = self.ledger.worked.get(&attacker).copied();
        all.worked += steps.unwrap_or_default() as f64 / f64::from(STEPS);
    }
}

fn steps_of(paid: &PaidRun, credit: &Credit) -> u32 {
    let round = usize::try_from(credit.index).ok();
    let round = round.and_then(|round| paid.rounds.get(round));
    let member = round.and_then(|round| {
        let mut members = round.book.members.iter();
        members.find(|one| one.trainer == credit.trainer)
    });
    member.map_or(0, |member| member.work.steps)
}

/// The part of a credit that was paid.
fn vested_part(credit: &Credit) -> f64 {
    match credit.whole.units() {
        0 => 0.0,
        whole => credit.vested.units() as f64 / whole as f64,
    }
}
