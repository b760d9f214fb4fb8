//! Trainers, validators and a chain, and everything that goes wrong between them.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::run::book::RoundBook;
use hearth_protocol::run::history::RunRules;
use hearth_protocol::run::message::RunMessage;
use hearth_protocol::run::trainer::TrainerEvent;
use hearth_protocol::run::validator::ValidatorEvent;
use hearth_protocol::time::Timestamp;

use super::bus::Bus;
use super::chain::RunsChain;
use super::invariants::Ledger;
use super::scene::{Life, Moment, Place, Scene};
use super::trainer::{Diligence, TrainerSide};
use super::validator::{Candor, ValidatorSide};
use crate::invariant::Broken;
use crate::outside::Log;
use crate::random::Random;
use crate::world::Failure;

/// When a run begins.
pub(super) const START: Timestamp = Timestamp(1_800_000_000_000);
/// Things that happen in one run at most.
const MOMENTS_MAX: u64 = 400_000;

/// Who breaks the rules in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cheats {
    /// Nobody does.
    Nobody,
    /// Some trainers, and validators of less than a third of the weight.
    Few,
    /// Some trainers, and validators of more than a third of the weight, but less than two thirds.
    Many,
}

/// What happened in a training run that kept every invariant.
#[derive(Debug, Clone)]
pub struct TrainingSummary {
    /// Who broke the rules.
    pub cheats: Cheats,
    /// How often what happened.
    pub tally: TrainingTally,
    /// The hash of all that happened.
    pub hash: String,
}

/// How often what happened.
#[derive(Debug, Clone, Default)]
pub struct TrainingTally {
    /// Rounds that were recorded.
    pub rounds: u64,
    /// Books of audits after the last round.
    pub ends: u64,
    /// Trainers that were excluded by them.
    pub excluded_at_end: u64,
    /// Numbers that the chain leapt over.
    pub leaps: u64,
    /// Contributions that were admitted.
    pub admitted: u64,
    /// Contributions that were admitted and are not what honest work gives.
    pub false_admitted: u64,
    /// Trainers that were excluded.
    pub excluded: u64,
    /// Audits that found the same.
    pub passed: u64,
    /// Audits whose start could not be had.
    pub unavailable: u64,
    /// Starts of audits that validators computed, because nobody gave them.
    pub computed: u64,
    /// Crashes.
    pub crashes: u64,
    /// Chains that were undone.
    pub undone: u64,
    /// Links that were cut.
    pub cuts: u64,
    /// Pauses by owners.
    pub pauses: u64,
    /// Lies of validators that were said.
    pub lies: u64,
    /// Requests to sign another content under a number.
    pub unsigned: u64,
}

/// What is the same for every device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) id: DeviceId,
    pub(super) is_up: bool,
    pub(super) life: Life,
    pub(super) sees_chain: bool,
    /// Rounds that this life of the device was told of.
    pub(super) told: usize,
    /// The newest epoch that this life was told of, and one more.
    pub(super) epochs_told: u64,
    pub(super) is_honest: bool,
    /// This life knows a round, and hears what others say.
    pub(super) hears: bool,
}

/// One run.
#[derive(Debug)]
pub struct TrainingWorld {
    pub(super) seed: u64,
    pub(super) cheats: Cheats,
    pub(super) scene: Scene,
    pub(super) bus: Bus,
    pub(super) chain: RunsChain,
    pub(super) rules: RunRules,
    pub(super) devices: Vec<Device>,
    pub(super) trainers: Vec<TrainerSide>,
    pub(super) validators: Vec<ValidatorSide>,
    pub(super) books: BTreeMap<ContentHash, RoundBook>,
    /// Who has which file.
    pub(super) files: BTreeMap<ContentHash, BTreeSet<Place>>,
    /// Contributions that nobody can read.
    pub(super) garbage: BTreeSet<ContentHash>,
    pub(super) ledger: Ledger,
    pub(super) tally: TrainingTally,
    pub(super) next_epoch_at: Timestamp,
    /// Effects before one of which a device crashes, on average; zero where none does.
    pub(super) crash_one_in: u64,
    pub(super) stalled_until: Timestamp,
    /// Nothing goes wrong any more.
    pub(super) is_calm: bool,
}

/// Who takes part in a run.
pub(super) struct Cast {
    pub(super) cheats: Cheats,
    pub(super) rules: RunRules,
    pub(super) chain: RunsChain,
    pub(super) trainers: Vec<TrainerSide>,
    pub(super) validators: Vec<ValidatorSide>,
    pub(super) devices: Vec<Device>,
    pub(super) delay_ms_max: u64,
    pub(super) crash_one_in: u64,
}

impl TrainingWorld {
    /// The run that follows from a seed; `keeps_lines` keeps what happened as text.
    pub fn new(seed: u64, keeps_lines: bool) -> Self {
        let mut random = Random::new(seed ^ 0x7261_696e);
        let cheats = random.pick(&[
            Cheats::Nobody,
            Cheats::Nobody,
            Cheats::Few,
            Cheats::Few,
            Cheats::Few,
            Cheats::Many,
        ]);
        let trainers = random.between(2, 7);
        let validators = random.between(1, 7);
        let rules = rules(&mut random, trainers);
        let sides = trainer_sides(&mut random, &rules, trainers, cheats);
        let delay_ms_max = random.pick(&[40, 300, 1_500]);
        let chain = RunsChain::new(rules.run, B256::repeat_byte(0x51), START);
        let first = sides.len();
        let seats = validator_sides(&mut random, &chain, rules, validators, first, cheats);
        let devices = devices_of(&sides, &seats);
        let crash_one_in = random.pick(&[0, 60, 200]);
        let cast = Cast {
            cheats,
            rules,
            chain,
            trainers: sides,
            validators: seats,
            devices,
            delay_ms_max,
            crash_one_in,
        };
        Self::of(seed, random, cast, keeps_lines)
    }

    /// The run of these devices.
    pub(super) fn of(seed: u64, random: Random, cast: Cast, keeps_lines: bool) -> Self {
        let (sides, seats) = (cast.trainers, cast.validators);
        let (rules, devices) = (cast.rules, cast.devices);
        let mut scene = Scene::new(random, Log::new(keeps_lines), START);
        let bus = Bus::new(devices.len(), cast.delay_ms_max);
        for (number, side) in sides.iter().enumerate() {
            scene.note(format_args!(
                "trainer {number} {}: {:?}",
                devices[number].id, side.diligence
            ));
        }
        for (number, side) in seats.iter().enumerate() {
            let place = number + sides.len();
            scene.note(format_args!(
                "validator {place} {}: {:?}, weight {}",
                devices[place].id, side.candor, side.seat.seat.weight
            ));
        }
        scene.note(format_args!("{rules:?}"));
        Self {
            seed,
            cheats: cast.cheats,
            scene,
            bus,
            chain: cast.chain,
            rules,
            devices,
            trainers: sides,
            validators: seats,
            books: BTreeMap::new(),
            files: BTreeMap::new(),
            garbage: BTreeSet::new(),
            ledger: Ledger::default(),
            tally: TrainingTally::default(),
            next_epoch_at: START,
            crash_one_in: cast.crash_one_in,
            stalled_until: START,
            is_calm: false,
        }
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn run(&mut self) -> Result<TrainingSummary, Failure> {
        match self.live().and_then(|()| self.end()) {
            Ok(()) => Ok(TrainingSummary {
                cheats: self.cheats,
                tally: self.tally.clone(),
                hash: self.scene.log.hash(),
            }),
            Err(broken) => {
                self.scene.note(format_args!("BROKEN {broken}"));
                Err(Failure {
                    seed: self.seed,
                    at_ms: self.scene.now.ms_since(START),
                    broken,
                    replay: "training replay",
                })
            }
        }
    }

    /// What happened so far, as lines.
    pub fn log(&self) -> &Log {
        &self.scene.log
    }

    fn live(&mut self) -> Result<(), Broken> {
        self.elect();
        for place in 0..self.devices.len() {
            // Some come late.
            let in_ms = if self.scene.random.one_in(5) {
                self.scene.random.between(10_000, 6 * self.rules.attempt_ms)
            } else {
                self.scene.random.below(3_000)
            };
            self.scene.after(in_ms, Moment::Starts(place));
        }
        self.scene.after(3_000, Moment::Block);
        self.scene.after(2_000, Moment::Fault);
        let attempts = self.scene.random.between(4, 14);
        self.live_until(START.plus_ms(attempts * self.rules.attempt_ms))
    }

    pub(super) fn live_until(&mut self, until: Timestamp) -> Result<(), Broken> {
        let mut moments = 0;
        while self.scene.now < until && moments < MOMENTS_MAX {
            self.step()?;
            moments += 1;
        }
        Ok(())
    }

    /// One thing happens, and everything must be in order after it.
    fn step(&mut self) -> Result<(), Broken> {
        let Some(moment) = self.scene.next() else {
            return Ok(());
        };
        self.happen(moment)?;
        self.check()
    }

    fn happen(&mut self, moment: Moment) -> Result<(), Broken> {
        match moment {
            Moment::Deliver(place, number) => self.deliver(place, number),
            Moment::Tick(place, life) => self.tick(place, life),
            Moment::TaskEnds(place, life, task, event) if self.lives(place, life) => {
                self.task_ends(place, task, *event)
            }
            Moment::Copy(place, life, task) if self.lives(place, life) => {
                self.copy(place, task);
                Ok(())
            }
            Moment::Validator(place, life, event) if self.lives(place, life) => {
                self.validator_event(place, *event)
            }
            Moment::Fetch(place, life, contribution) if self.lives(place, life) => {
                self.fetch(place, contribution);
                Ok(())
            }
            Moment::Say(place, life, message) if self.lives(place, life) => {
                self.say(place, *message);
                Ok(())
            }
            Moment::Send(place, life, transaction) if self.lives(place, life) => {
                if self.devices[place].sees_chain {
                    self.chain.send(*transaction);
                } else {
                    let again = Moment::Send(place, life, transaction);
                    self.scene.within(1_000, 4_000, again);
                }
                Ok(())
            }
            Moment::Starts(place) => self.start(place),
            Moment::LinkBack(place) => {
                self.scene.note(format_args!("{place} is linked again"));
                self.bus.join(&mut self.scene, place);
                Ok(())
            }
            Moment::ChainBack(place) => {
                self.devices[place].sees_chain = true;
                Ok(())
            }
            Moment::Free(place) => self.pause(place, false),
            Moment::Block => self.block(),
            Moment::Fault => self.fault(),
            // Of an earlier life.
            _ => Ok(()),
        }
    }

    pub(super) fn lives(&self, place: Place, life: Life) -> bool {
        let device = &self.devices[place];
        device.is_up && device.life == life
    }

    /// The number of the validator at a place.
    pub(super) fn seat(&self, place: Place) -> Option<usize> {
        place.checked_sub(self.trainers.len())
    }

    fn deliver(&mut self, place: Place, number: u64) -> Result<(), Broken> {
        if !self.devices[place].is_up || !self.devices[place].hears {
            return Ok(());
        }
        let Some((from, message)) = self.bus.deliver(place, number) else {
            return Ok(());
        };
        if self.seat(place).is_some() {
            self.overhear(place, from, &message);
            self.validator_event(place, ValidatorEvent::Heard { from, message })
        } else {
            self.eavesdrop(place, from, &message);
            self.trainer_event(place, TrainerEvent::Heard { from, message })
        }
    }

    fn tick(&mut self, place: Place, life: Life) -> Result<(), Broken> {
        if !self.lives(place, life) {
            return Ok(());
        }
        self.scene.within(600, 1_800, Moment::Tick(place, life));
        if self.devices[place].sees_chain {
            self.look(place)?;
        }
        if !self.lives(place, life) {
            return Ok(());
        }
        if !self.devices[place].hears && self.devices[place].told > 0 {
            self.devices[place].hears = true;
            self.bus.start(&mut self.scene, place);
        }
        match self.seat(place) {
            Some(_) => self.validator_event(place, ValidatorEvent::Tick),
            None => self.trainer_event(place, TrainerEvent::Tick),
        }
    }

    /// A device learns what the chain has recorded, and who validates, in one order or the other.
    fn look(&mut self, place: Place) -> Result<(), Broken> {
        let life = self.devices[place].life;
        let heads_first = self.scene.random.one_in(2);
        for heads in [heads_first, !heads_first] {
            if !self.lives(place, life) {
                return Ok(());
            }
            if heads {
                self.tell_heads(place)?;
            } else {
                self.tell_epochs(place)?;
            }
        }
        Ok(())
    }

    fn tell_epochs(&mut self, place: Place) -> Result<(), Broken> {
        let life = self.devices[place].life;
        let told = self.devices[place].epochs_told;
        let oldest = self.chain.newest_epoch().number.saturating_sub(1);
        let news: Vec<_> = self
            .chain
            .epochs
            .iter()
            .filter(|epoch| epoch.number >= told.max(oldest))
            .map(|epoch| epoch.committee(self.rules.run))
            .collect();
        for committee in news {
            if !self.lives(place, life) {
                return Ok(());
            }
            self.devices[place].epochs_told = committee.epoch + 1;
            match self.seat(place) {
                Some(_) => self.validator_event(place, ValidatorEvent::Committee(committee))?,
                None => self.trainer_event(place, TrainerEvent::Committee(committee))?,
            }
        }
        Ok(())
    }

    fn tell_heads(&mut self, place: Place) -> Result<(), Broken> {
        let life = self.devices[place].life;
        let known = self.chain.finals.len();
        while self.lives(place, life) && self.devices[place].told < known {
            let number = self.devices[place].told;
            let one = self.chain.finals[number];
            let name = one.record.map(|record| ContentHash(record.contributions.0));
            let book = match name {
                Some(name) => match self.books.get(&name) {
                    Some(book) => Some(Box::new(book.clone())),
                    // Nobody has it: the run stands still.
                    None => return Ok(()),
                },
                None => None,
            };
            self.devices[place].told += 1;
            let head = one.head;
            let is_newest = number + 1 == known;
            match (self.seat(place), book) {
                (Some(_), Some(book)) if !is_newest => {
                    let beacon = head.beacon;
                    self.validator_event(place, ValidatorEvent::Past { book, beacon })?;
                }
                (None, Some(book)) if !is_newest => {
                    let beacon = head.beacon;
                    self.trainer_event(place, TrainerEvent::Past { book, beacon })?;
                }
                // Where the run begins is of no use to those who know more.
                (_, None) if !is_newest => {}
                (Some(_), book) => {
                    self.validator_event(place, ValidatorEvent::Head { head, book })?;
                }
                (None, book) => self.trainer_event(place, TrainerEvent::Head { head, book })?,
            }
        }
        Ok(())
    }

    /// A device says something to everybody.
    pub(super) fn say(&mut self, place: Place, message: RunMessage) {
        if let RunMessage::Proposal(proposal) = &message {
            let book = &proposal.book;
            self.books.insert(book.name(), book.clone());
        }
        self.scene
            .note(format_args!("{place} says {}", brief(&message)));
        let from = self.devices[place].id;
        self.bus.say(&mut self.scene, place, from, message);
    }

    /// Whether a device can get a file from somebody.
    pub(super) fn can_fetch(&self, place: Place, file: ContentHash) -> bool {
        let reaches = |other: &Place| {
            *other == place || (self.devices[*other].is_up && self.bus.is_linked(*other))
        };
        let mut holders = self.files.get(&file).into_iter().flatten();
        self.bus.is_linked(place) && holders.any(reaches)
    }
}

/// A message in a few words.
fn brief(message: &RunMessage) -> String {
    match message {
        RunMessage::Commit(commit) => format!("commit {}", commit.index),
        RunMessage::Close(close) => {
            format!("close {} with {}", close.number, close.commitments.len())
        }
        RunMessage::Reveal(_) => "reveal".into(),
        RunMessage::Proposal(proposal) => {
            format!(
                "propose {} with {}",
                proposal.number,
                proposal.book.members.len()
            )
        }
        RunMessage::Endorsement(one) => format!("endorse {}", one.number),
        RunMessage::Report(report) => format!("report {} {:?}", report.index, report.outcome),
        RunMessage::Opening(opening) => format!("open the report {}", opening.index),
    }
}

/// The devices of trainers, and after them those of validators.
pub(super) fn devices_of(trainers: &[TrainerSide], validators: &[ValidatorSide]) -> Vec<Device> {
    let trainers = trainers
        .iter()
        .map(|side| side.diligence == Diligence::Honest);
    let validators = validators.iter().map(|side| side.candor == Candor::Honest);
    let sides = trainers.chain(validators).enumerate();
    sides
        .map(|(place, is_honest)| device(place, is_honest))
        .collect()
}

fn device(place: Place, is_honest: bool) -> Device {
    let number = u64::try_from(place).unwrap_or(0);
    Device {
        id: DeviceId(ContentHash::of(&[b'd', number.to_le_bytes()[0]]).0),
        is_up: false,
        life: 0,
        sees_chain: true,
        told: 0,
        epochs_told: 0,
        is_honest,
        hears: false,
    }
}

/// The device at a place.
pub(super) fn id_of(place: Place) -> DeviceId {
    device(place, true).id
}

/// The account that a trainer earns for.
pub(super) fn account_of(trainer: usize) -> Address {
    let byte = u8::try_from(trainer).unwrap_or(0);
    Address::repeat_byte(0x10 + byte)
}

fn rules(random: &mut Random, trainers: u64) -> RunRules {
    let trainers = u32::try_from(trainers).unwrap_or(2);
    let quorum_max = u64::from(trainers.div_ceil(2));
    let steps = u32::try_from(random.between(4, 12)).unwrap_or(4);
    RunRules {
        run: B256::repeat_byte(0x77),
        quorum: u32::try_from(random.between(1, quorum_max)).unwrap_or(1),
        trainers_max: if random.one_in(6) {
            trainers.div_ceil(2).max(2)
        } else {
            16
        },
        steps,
        steps_min: u32::try_from(random.between(1, u64::from(steps / 2))).unwrap_or(1),
        grace_ms: random.between(1_000, 6_000),
        attempt_ms: random.between(80_000, 180_000),
        carry: !random.one_in(3),
        audit_per_mille: random.pick(&[100, 300, 1_000]),
        newcomer_rounds: random.pick(&[0, 1, 3]),
        rounds: if random.one_in(3) {
            random.between(2, 6)
        } else {
            1_000_000
        },
    }
}

fn trainer_sides(
    random: &mut Random,
    rules: &RunRules,
    count: u64,
    cheats: Cheats,
) -> Vec<TrainerSide> {
    let mut honest = 0;
    let mut sides = Vec::new();
    for number in 0..usize::try_from(count).unwrap_or(2) {
        let left = count - u64::try_from(number).unwrap_or(0);
        let must_be_honest = honest + left <= u64::from(rules.quorum);
        let lies = cheats != Cheats::Nobody && !must_be_honest && random.one_in(2);
        let diligence = match lies {
            true => random.pick(&Diligence::BAD),
            false => Diligence::Honest,
        };
        honest += u64::from(!lies);
        // The slowest takes the fewest steps in a third of the time in which others take all.
        let slowest_ms = rules.attempt_ms / 8 / u64::from(rules.steps_min);
        let step_ms = random.pick(&[300, 1_000, 2_500, 8_000]).min(slowest_ms);
        let way = (diligence, random.pick(&[0, 0, 1, 4]));
        sides.push(TrainerSide::new(number, way, step_ms, *rules));
    }
    sides
}

fn validator_sides(
    random: &mut Random,
    chain: &RunsChain,
    rules: RunRules,
    count: u64,
    first: Place,
    cheats: Cheats,
) -> Vec<ValidatorSide> {
    let mut sides = Vec::new();
    for number in 0..usize::try_from(count).unwrap_or(1) {
        let lies = match cheats {
            Cheats::Nobody => false,
            Cheats::Few => random.one_in(3),
            Cheats::Many => random.one_in(2),
        };
        let candor = match lies {
            true => random.pick(&Candor::BAD),
            false => Candor::Honest,
        };
        let weight = u128::from(random.between(1, 6) * 1_000);
        // Some households both train and validate.
        let household = match random.one_in(4) {
            true => account_of(random.index(first)),
            false => Address::repeat_byte(0x80 + u8::try_from(number).unwrap_or(0)),
        };
        let place = first + number;
        sides.push(ValidatorSide::new(
            place, candor, household, weight, chain, rules,
        ));
    }
    sides
}
