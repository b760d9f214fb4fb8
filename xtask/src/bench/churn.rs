//! The benchmark `churn`: households train a model over home links while some of them crash and leave.
//!
//! One household runs the chain and validates, the others train, each in a network namespace of its own: half of them
//! send 10 megabits a second and half 100, and every line delays what is sent by 50 ms. The same run is made twice: all
//! stay, and then three in ten are away at any time, killed or gone in good order; they come back, and others are lost.
//! The figures are what came of it: how fast rounds are recorded, how many attempts at one failed, what the model has
//! learned, whose work was left out, and whether everything that was earned was paid in the end.
//!
//! Where namespaces cannot be made, and in the smallest size, all are on this machine's own loopback address.

mod plan;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use self::plan::{Loss, Lost};
use super::{Figure, figure, median};
use crate::households::training::{Earned, Epochs, Reach, Round, TrainingRun};
use crate::households::{Household, Up};
use crate::namespaces::{self, Line, Lines};
use crate::workspace;

/// What the losses are drawn from, and the variable that says otherwise.
const SEED: (&str, u64) = ("HEARTH_SEED", 4_711);
/// How long a whole run may take.
const RUN_TIMEOUT: Duration = Duration::from_secs(1_500);
/// How long after a run all that was earned has to be paid.
const PAY_TIMEOUT: Duration = Duration::from_secs(240);
/// Atomic units of one Ember.
const EMBER: f64 = 1e18;
/// Where devices are found again by those who knew them.
const LISTEN: [(&str, &str); 1] = [("listen = []", "listen = [\"0.0.0.0:4041\"]")];
/// What the lines of home delay, in each direction, in milliseconds.
const DELAY_MS: u64 = 50;
/// What slow and fast lines carry, in bits a second.
const BITS_PER_S: [u64; 2] = [10_000_000, 100_000_000];
/// The text that is learned: this repository's own.
const TEXT: &str = "docs/spec";
/// How much worse than without churn the model may be.
const LOSS_RATIO_MAX: f64 = 1.02;

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Size {
    trainers: usize,
    rounds: u64,
    steps: u32,
    attempt_s: u32,
    epochs: Epochs,
    has_lines: bool,
}

const WHOLE: Size = Size {
    trainers: 8,
    rounds: 24,
    steps: 16,
    attempt_s: 40,
    epochs: Epochs {
        epoch_s: 20,
        window_s: 4,
    },
    has_lines: true,
};

const SMALLEST: Size = Size {
    trainers: 3,
    rounds: 3,
    steps: 4,
    attempt_s: 16,
    epochs: Epochs {
        epoch_s: 10,
        window_s: 2,
    },
    has_lines: false,
};

impl Size {
    /// The run, as its maker's file says it.
    fn recipe(self) -> String {
        let Self {
            trainers,
            rounds,
            steps,
            attempt_s,
            ..
        } = self;
        format!(
            "name = \"churn\"\nlicense = \"CC0-1.0\"\nrounds = {rounds}\n\
             [model]\nwidth = 64\nlayers = 2\nquery_heads = 4\nkey_value_heads = 2\ncontext = 64\n\
             [training]\nwindow_tokens = 64\nwindows = 8\nrate = 0.002\noptimizer = \"adamw\"\n\
             [devices]\ntrainers = {trainers}\nup_mbit = 10\n\
             [round]\nsteps = {steps}\ngrace_s = 3\nattempt_s = {attempt_s}\n\
             [audit]\nper_mille = 100\nnewcomer_rounds = 1\n"
        )
    }
}

/// Runs the benchmark.
pub(super) fn run(smoke: bool) -> Result<Vec<Figure>> {
    let root = workspace::root()?;
    let hearth = workspace::build_one(&root, "--bin", "hearth")?;
    let seed = match std::env::var(SEED.0) {
        Ok(text) => text.parse().context("a seed is a number")?,
        Err(_) => SEED.1,
    };
    eprintln!(
        "churn: the seed is {seed}: set {} to draw other losses",
        SEED.0
    );
    let mut size = if smoke { SMALLEST } else { WHOLE };
    if let Some(why) = namespaces::missing().filter(|_| size.has_lines) {
        eprintln!("churn: no lines of home, all devices are on the loopback address: {why}");
        size.has_lines = false;
    }
    let losses = plan::draw(seed, size.trainers, size.rounds);
    let nobody = vec![Vec::new(); losses.len()];
    let mut outcomes = Vec::new();
    for (name, losses) in [("all stay", &nobody), ("churn", &losses)] {
        let folder = std::env::temp_dir().join(format!("hearth-churn-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        eprintln!("churn: {name}");
        let outcome = World::open(&root, &hearth, &folder, size)
            .and_then(|mut world| world.train(losses, name));
        fs::remove_dir_all(&folder)?;
        outcomes.push(outcome?);
    }
    let [stay, churn] = &outcomes[..] else {
        unreachable!("two runs were made");
    };
    Ok(figures(size, seed, stay, churn))
}

/// A device that trains.
struct Trainer {
    household: Household,
    /// Its id in the network.
    device: String,
    up: Option<Up>,
    /// Whether it takes part in the run, whether it is up or not.
    is_joined: bool,
}

/// Everyone, on their lines.
struct World {
    // Devices end before their lines.
    host: Up,
    trainers: Vec<Trainer>,
    run: TrainingRun,
    /// When the run was made.
    began: Instant,
    size: Size,
    _lines: Option<Lines>,
    folder: PathBuf,
}

/// What came of a run.
struct Outcome {
    rounds: Vec<Round>,
    /// From when the run was made to the last round's record.
    seconds: f64,
    /// Mean loss on text that nobody trained on, in nats a token.
    held_out_loss: f64,
    /// What each trainer's household earned, in the end.
    earned: Vec<Earned>,
    /// Devices of the trainers.
    devices: Vec<String>,
    absences: Vec<Absence>,
}

/// A time in which a trainer was not there.
#[derive(Debug, Clone, Copy)]
struct Absence {
    lost: Lost,
    /// The round that was going on when it was lost.
    from: u64,
    /// The round that was going on when it was back; nothing where it was not before the run was over.
    back: Option<u64>,
}

impl World {
    fn open(root: &Path, hearth: &Path, folder: &Path, size: Size) -> Result<Self> {
        let names: Vec<String> = (0..size.trainers)
            .map(|number| format!("t{number}"))
            .collect();
        let mut all: Vec<&str> = vec!["host"];
        all.extend(names.iter().map(String::as_str));
        let mut lines = size
            .has_lines
            .then(|| Lines::open(root, &all))
            .transpose()?;
        let household = |lines: &Option<Lines>, name: &str| -> Result<Household> {
            let household = Household::new(hearth, folder.join(name));
            Ok(match lines {
                Some(lines) => household.within(lines.namespace(name)?),
                None => household,
            })
        };
        let reach = match size.has_lines {
            true => Reach::Local,
            false => Reach::Loopback,
        };
        let host = household(&lines, "host")?;
        host.prepare_to_train(reach, Some(size.epochs))?;
        if size.has_lines {
            host.edit(&LISTEN)?;
        }
        let data = host.import_text(&root.join(TEXT), "spec", 1_024)?;
        let host = Up::start_without_model("the host", host)?;
        let ticket = host.household.network_ticket()?;
        let mut trainers = Vec::new();
        for name in &names {
            let household = household(&lines, name)?;
            household.prepare_to_train(reach, None)?;
            if size.has_lines {
                household.edit(&LISTEN)?;
            }
            household.join_network(&ticket)?;
            let up = Up::start_without_model("a trainer", household.clone())?;
            trainers.push(Trainer {
                household,
                device: up.device.clone(),
                up: Some(up),
                is_joined: true,
            });
        }
        if let Some(lines) = &mut lines {
            worsen(lines, &all)?;
        }
        let began = Instant::now();
        let run = host.household.create_run(&size.recipe(), &data, false)?;
        for trainer in &trainers {
            trainer.household.join_run(&run.ticket)?;
        }
        Ok(Self {
            host,
            trainers,
            run,
            began,
            size,
            _lines: lines,
            folder: folder.to_owned(),
        })
    }

    /// Lets the run go to its end while trainers are lost, and everybody claim then.
    fn train(&mut self, losses: &[Vec<Lost>], name: &str) -> Result<Outcome> {
        let began = self.began;
        let mut absences: Vec<Absence> = Vec::new();
        let mut due: Vec<(Instant, Lost)> = Vec::new();
        let mut known = 0;
        let (host, run) = (self.host.household.clone(), self.run.clone());
        let mut rounds = host.wait_for_rounds(&run, self.size.rounds, RUN_TIMEOUT, |rounds| {
            for round in &rounds[known.min(rounds.len())..] {
                tell(name, began, round);
                let next = losses.get(round.index as usize + 1).into_iter().flatten();
                due.extend(next.map(|lost| {
                    let at = Instant::now() + Duration::from_millis(lost.after_ms);
                    (at, *lost)
                }));
            }
            known = rounds.len();
            let (recorded, now) = (rounds.len() as u64, Instant::now());
            for (_, lost) in due.extract_if(.., |(at, _)| *at <= now) {
                if self.lose(lost)? {
                    eprintln!("churn: {name}: trainer {}: {:?}", lost.trainer, lost.how);
                    absences.push(Absence {
                        lost,
                        from: recorded,
                        back: None,
                    });
                }
            }
            self.bring_back(&mut absences, recorded)
        })?;
        let seconds = began.elapsed().as_secs_f64();
        // What is recorded after them are replays alone.
        rounds.truncate(self.size.rounds as usize);
        let held_out_loss = self.held_out_loss()?;
        Ok(Outcome {
            earned: self.settle(&rounds)?,
            rounds,
            seconds,
            held_out_loss,
            devices: self.trainers.iter().map(|one| one.device.clone()).collect(),
            absences,
        })
    }

    /// Ends a trainer's device; not one that is still away, where rounds went by faster than devices start.
    fn lose(&mut self, lost: Lost) -> Result<bool> {
        let trainer = &mut self.trainers[lost.trainer];
        let Some(up) = trainer.up.take() else {
            return Ok(false);
        };
        match lost.how {
            Loss::Crash => up.program.kill()?,
            Loss::Leave => {
                trainer.household.leave_run(&self.run)?;
                trainer.is_joined = false;
                up.program.end()?;
            }
        }
        Ok(true)
    }

    /// Brings those back who are due when so many rounds are recorded, while there are more to come.
    fn bring_back(&mut self, absences: &mut [Absence], recorded: u64) -> Result<()> {
        if recorded >= self.size.rounds {
            return Ok(());
        }
        for absence in absences.iter_mut().filter(|one| one.back.is_none()) {
            if absence.lost.back_at.is_some_and(|at| at <= recorded) {
                self.trainers[absence.lost.trainer].come_back(&self.run)?;
                absence.back = Some(recorded);
            }
        }
        Ok(())
    }

    /// The loss of the run's model on text that nobody trained on.
    fn held_out_loss(&self) -> Result<f64> {
        let out = self.folder.join("model");
        let out = out.to_str().context("the folder is UTF-8")?;
        let exported = ["run", "export", &self.run.id, "--out", out];
        let exported = self.host.household.ask(&exported)?;
        let loss = exported["held_out_loss"].as_f64();
        loss.context("a model that is written has a loss")
    }

    /// Brings everyone back, and lets each household claim until nothing that was earned is left, or for as long as it
    /// may take.
    fn settle(&mut self, rounds: &[Round]) -> Result<Vec<Earned>> {
        let over = self.host.household.earned()?.epoch;
        for trainer in self.trainers.iter_mut().filter(|one| one.up.is_none()) {
            trainer.come_back(&self.run)?;
        }
        let end = Instant::now() + PAY_TIMEOUT;
        let each = self.trainers.iter().map(|trainer| {
            let admitted = rounds.iter().filter(|round| round.has(&trainer.device));
            let longest = end.saturating_duration_since(Instant::now());
            let household = &trainer.household;
            household.claim_all(admitted.count(), over + 2, longest)
        });
        each.collect()
    }
}

/// Makes the lines of households like those of homes, fast and slow ones in turn.
fn worsen(lines: &mut Lines, households: &[&str]) -> Result<()> {
    for (number, household) in households.iter().enumerate() {
        let line = Line {
            delay_ms: DELAY_MS,
            bits_per_s: BITS_PER_S[(number + 1) % 2],
        };
        lines.set(household, line)?;
    }
    Ok(())
}

impl Trainer {
    /// Brings the device up again, in the run.
    fn come_back(&mut self, run: &TrainingRun) -> Result<()> {
        let up = Up::start_without_model("a trainer", self.household.clone())?;
        self.up = Some(up);
        if !self.is_joined {
            self.household.join_run(&run.ticket)?;
            self.is_joined = true;
        }
        Ok(())
    }
}

impl Outcome {
    /// Whether a trainer was there for the whole of a round.
    fn was_there(&self, trainer: usize, round: u64) -> bool {
        !self.absences.iter().any(|absence| {
            let back = absence.back.unwrap_or(u64::MAX);
            absence.lost.trainer == trainer && (absence.from..=back).contains(&round)
        })
    }

    fn admitted(&self) -> usize {
        self.rounds.iter().map(|round| round.trainers.len()).sum()
    }

    /// Work of trainers that were there for the whole round, and that the round does not have.
    fn left_out(&self) -> usize {
        let each = self.rounds.iter().map(|round| {
            let devices = self.devices.iter().enumerate();
            let missing = devices.filter(|(trainer, device)| {
                self.was_there(*trainer, round.index) && !round.has(device)
            });
            missing.count()
        });
        each.sum()
    }

    /// Attempts at a round that came to nothing.
    fn failed_attempts(&self) -> u64 {
        // The run waited for its trainers under the numbers before the first.
        let beyond = |round: &Round| round.number.saturating_sub(round.index);
        let ends = self.rounds.first().zip(self.rounds.last());
        ends.map_or(0, |(first, last)| beyond(last) - beyond(first))
    }

    /// For each return, how many rounds went by until work of that trainer was admitted again; returns after which none
    /// was are left out.
    fn waits(&self) -> Vec<f64> {
        let returns = self.absences.iter().filter_map(|absence| {
            let back = absence.back?;
            let device = &self.devices[absence.lost.trainer];
            let mut after = self.rounds.iter().filter(|round| round.index >= back);
            let admitted = after.find(|round| round.has(device))?;
            Some((admitted.index - back) as f64)
        });
        returns.collect()
    }

    /// Why not all of the contributions are paid in the end, as the product says it.
    fn reasons(&self) -> String {
        let mut reasons = BTreeMap::<&str, usize>::new();
        let contributions = self
            .earned
            .iter()
            .flat_map(|one| one.contributions.values());
        for pay in contributions.filter(|pay| pay.vested < pay.whole) {
            *reasons.entry(&pay.why).or_default() += 1;
        }
        let reasons: Vec<String> = reasons
            .iter()
            .map(|(why, count)| format!("{count} contributions: {why}"))
            .collect();
        reasons.join("; ")
    }

    fn figures(&self, name: &str, note: &str) -> Vec<Figure> {
        let named = |figure: &str| format!("{name}: {figure}");
        let sum = |of: fn(&Earned) -> u128| self.earned.iter().map(of).sum::<u128>();
        let count = self.rounds.len() as f64;
        let ember = |what: &str, of: fn(&Earned) -> u128, note: &str| {
            figure(&named(what), sum(of) as f64 / EMBER, "EMBER", note)
        };
        let owed: fn(&Earned) -> u128 = |one| one.vested().saturating_sub(one.claimed);
        let late = format!("later, or with the next rounds; {}", self.reasons());
        let failed = "attempts at a round; target 0";
        let left_out = "work of trainers that were there all through the round";
        vec![
            figure(
                &named("rounds"),
                count * 3_600.0 / self.seconds,
                "rounds/h",
                note,
            ),
            figure(
                &named("failed attempts"),
                self.failed_attempts() as f64,
                "",
                failed,
            ),
            figure(
                &named("admitted"),
                self.admitted() as f64,
                "contributions",
                note,
            ),
            figure(
                &named("left out"),
                self.left_out() as f64,
                "contributions",
                left_out,
            ),
            figure(
                &named("held-out loss"),
                self.held_out_loss,
                "nats/token",
                note,
            ),
            ember("earned", Earned::whole, "by all trainers"),
            ember("claimed", |one| one.claimed, "by all trainers"),
            ember(
                "lost",
                Earned::forfeited,
                "earned, and never paid; target 0",
            ),
            ember(
                "owed",
                owed,
                "paid by the books, and not claimable; target 0",
            ),
            ember("to come", Earned::to_come, &late),
        ]
    }
}

fn figures(size: Size, seed: u64, stay: &Outcome, churn: &Outcome) -> Vec<Figure> {
    let lines = match size.has_lines {
        true => "half send 10 Mbit/s and half 100, 50 ms each way",
        false => "no lines between them",
    };
    let note = format!(
        "{} trainers, {} rounds; {lines}",
        size.trainers, size.rounds
    );
    let mut figures = stay.figures("all stay", &note);
    figures.extend(churn.figures("churn", &note));
    let crashes = churn.absences.iter();
    let crashes = crashes.filter(|absence| absence.lost.how == Loss::Crash);
    let back = churn
        .absences
        .iter()
        .filter(|one| one.back.is_some())
        .count();
    let waits = churn.waits();
    let lost = format!(
        "{} killed, the others left; {} of a hundred are away at any time, seed {seed}",
        crashes.count(),
        plan::AWAY_PER_CENT
    );
    figures.push(figure(
        "churn: losses",
        churn.absences.len() as f64,
        "trainers",
        &lost,
    ));
    let returned = format!("of {back} that came back before the end");
    figures.push(figure(
        "churn: admitted again",
        waits.len() as f64,
        "trainers",
        &returned,
    ));
    if !waits.is_empty() {
        let note =
            "from a return to the next admitted work, median; 0 is the round that was going on";
        figures.push(figure(
            "churn: wait for admission",
            median(waits),
            "rounds",
            note,
        ));
    }
    let ratio = churn.held_out_loss / stay.held_out_loss;
    let target = format!("target {LOSS_RATIO_MAX} or less");
    figures.push(figure(
        "held-out loss against no churn",
        ratio,
        "ratio",
        &target,
    ));
    let ratio = stay.seconds / churn.seconds;
    figures.push(figure("pace against no churn", ratio, "ratio", &note));
    figures
}

/// Says how far a run is.
fn tell(name: &str, began: Instant, round: &Round) {
    eprintln!(
        "churn: {name}: {:.0} s: round {} is recorded under the number {}: {} trainers, loss {:.3}",
        began.elapsed().as_secs_f64(),
        round.index,
        round.number,
        round.trainers.len(),
        round.loss
    );
}
