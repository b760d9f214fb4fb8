//! A race: one contender on one link with one seed, trainer after trainer.

use std::sync::Arc;

use anyhow::Result;
use hearth_aggregation::{
    Cohort, Contribution, ErrorFeedback, Layout as Sections, Member, Method, OuterStep,
    TensorShape, TensorSum, TrainerId,
};
use hearth_training::{
    AdamW, Architecture, Layout, Muon, Optimizer, Path, RateSchedule, Tensors, Trainer, Training,
    Weights,
};
use rustix::time::{ClockId, clock_gettime};

use crate::Size;
use crate::contender::{Contender, Link, Sends, steps_for};
use crate::kept::{Keep, Look, Own, Record, State};
use crate::text::Text;

/// The share of what was not sent that the next round takes.
const FEEDBACK_DECAY: f32 = 0.95;
/// Part of the hours that may go by without computing: ours sends for a fifteenth of the time that it computes.
const HOURS_PER_COMPUTE: f64 = 16.0 / 15.0;
/// Steps that measure a step's time.
const MEASURED_STEPS: usize = 41;

/// What all races have in common.
pub(crate) struct Race<'a> {
    pub(crate) size: &'a Size,
    pub(crate) text: &'a Text,
    keep: &'a Keep,
    layout: Arc<Layout>,
    /// Seconds of a step of AdamW and of Muon.
    step_s: [f64; 2],
}

/// Returns the seconds that this thread has computed.
fn thread_s() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

impl<'a> Race<'a> {
    /// Opens the races; the time of a step is measured where it is not known yet.
    pub(crate) fn new(size: &'a Size, text: &'a Text, keep: &'a Keep) -> Result<Self> {
        let layout = Layout::new(Architecture {
            vocabulary: size.vocabulary as usize,
            width: size.width,
            layers: size.layers,
            query_heads: 4,
            key_value_heads: 2,
            head: size.width / 4,
            hidden: size.hidden,
            context: size.window_tokens as usize,
            rope_theta: 10_000.0,
            norm_epsilon: 1e-5,
            tied_head: true,
        })?;
        let mut race = Self {
            size,
            text,
            keep,
            layout: Arc::new(layout),
            step_s: [0.0; 2],
        };
        let key = format!("{} steps of {}", size.steps, race.in_words());
        race.step_s = keep.speeds(&key, || race.measure_steps())?;
        Ok(race)
    }

    /// Says what is trained on what.
    pub(crate) fn in_words(&self) -> String {
        let size = self.size;
        format!(
            "{} trainers, {:.2}M parameters, {} windows of {} tokens a step, {:.1}M tokens of text",
            size.trainers,
            self.tensors().len() as f64 / 1e6,
            size.windows,
            size.window_tokens,
            self.text.tokens as f64 / 1e6
        )
    }

    pub(crate) fn tensors(&self) -> &Arc<Tensors> {
        self.layout.tensors()
    }

    /// Returns the shapes of what is sent.
    pub(crate) fn shapes(&self) -> Vec<TensorShape> {
        let size = |size: usize| u32::try_from(size).expect("the model is small");
        let list = self.tensors().list().iter();
        let shapes = list.map(|tensor| match tensor.shape()[..] {
            [values] => TensorShape::Vector {
                values: size(values),
            },
            _ => TensorShape::Matrix {
                rows: size(tensor.rows),
                columns: size(tensor.columns),
            },
        });
        shapes.collect()
    }

    /// Returns the seconds of a step on one trainer.
    pub(crate) fn step_s(&self, method: Method) -> f64 {
        match method {
            Method::AdamW => self.step_s[0],
            Method::Muon => self.step_s[1],
        }
    }

    /// Returns the fewest steps that make it worth sending all numbers on a link.
    pub(crate) fn fewest_steps(&self, method: Method, link: Link) -> u32 {
        let bytes = Link::sent_bytes(Sends::Changes, &self.shapes(), self.size.trainers);
        let bytes = bytes.expect("numbers need no layout");
        steps_for(link.transfer_s(bytes), self.step_s(method))
    }

    /// Returns the simulated seconds that everybody has.
    pub(crate) fn all_s(&self) -> f64 {
        f64::from(self.size.steps) * self.step_s(Method::AdamW) * HOURS_PER_COMPUTE
    }

    /// Returns the simulated seconds of a round.
    pub(crate) fn round_s(&self, contender: &Contender, link: Link) -> Result<f64> {
        let bytes = Link::sent_bytes(contender.sends, &self.shapes(), self.size.trainers)?;
        let compute_s = f64::from(contender.steps) * self.step_s(contender.method);
        Ok(compute_s + link.transfer_s(bytes))
    }

    /// Measures a step of each kind, in turn.
    fn measure_steps(&self) -> Result<[f64; 2]> {
        let batch = self.text.drawn(0, 0, 0, self.size.windows)?;
        let mut kinds = [Method::AdamW, Method::Muon]
            .map(|method| Ok((self.trainer(method, 1, 1_000, 1)?, Vec::new())))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        for _ in 0..MEASURED_STEPS {
            for (trainer, times) in &mut kinds {
                let before = thread_s();
                trainer.step(&batch)?;
                times.push(thread_s() - before);
            }
        }
        let medians = kinds.into_iter().map(|(_, mut times)| {
            times.sort_by(f64::total_cmp);
            // Whole microseconds, which a file keeps as they are.
            (times[MEASURED_STEPS / 2] * 1e6).round() / 1e6
        });
        let medians: Vec<f64> = medians.collect();
        Ok([medians[0], medians[1]])
    }

    /// Makes a trainer whose rate rises over a fiftieth of all steps, and falls to a tenth over the last half.
    fn trainer(&self, method: Method, together: u32, all: u64, seed: u64) -> Result<Trainer> {
        let rate = |peak| RateSchedule {
            peak,
            warmup_steps: (all / 50).max(1),
            decay_from_step: all / 2,
            decay_steps: all - all / 2,
            floor: 0.1,
        };
        let adamw = AdamW {
            rate: rate(3e-3),
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            decay: 0.1,
        };
        let windows = (self.size.windows * together) as usize;
        let training = Training {
            tokens: self.size.window_tokens as usize,
            windows,
            windows_together: self.size.windows as usize,
            optimizer: match method {
                Method::AdamW => Optimizer::AdamW(adamw),
                Method::Muon => Optimizer::Muon(Muon {
                    rate: rate(0.02),
                    momentum: 0.95,
                    decay: 0.1,
                    rest: adamw,
                }),
            },
            clip_norm: 1.0,
            threads: 1,
            path: Path::fastest(),
        };
        let weights = Weights::fresh(self.tensors(), seed);
        Ok(Trainer::start(&self.layout, weights, training)?)
    }

    /// Names the files of a race.
    pub(crate) fn name(contender: &Contender, link: Link, seed: u64) -> String {
        format!("{}-{}-{}", link.up_mbit, contender.name, seed)
    }

    /// Returns all settings on which a race depends, in words.
    fn settings(&self, contender: &Contender, link: Link) -> String {
        let Contender {
            name: _,
            method,
            steps,
            sends,
            rate,
            momentum,
            turn: _,
        } = contender;
        let Size {
            steps: all,
            held_out,
            looks,
            ..
        } = self.size;
        let step_s = self.step_s(*method);
        let link = link.up_mbit;
        format!(
            "{}, width {}, {all} steps of {step_s} s, {link} Mbit/s up, {held_out} windows measured {looks} times: \
             rounds of {steps} steps of {method:?}, {sends:?}, outer {rate} and {momentum:?}",
            self.in_words(),
            self.size.width
        )
    }

    /// Returns what is known of a race.
    pub(crate) fn record(
        &self,
        contender: &Contender,
        link: Link,
        seed: u64,
    ) -> Result<Option<Record>> {
        let settings = self.settings(contender, link);
        self.keep
            .record(&Self::name(contender, link, seed), &settings)
    }

    /// Runs a race to its end, from where it was left.
    pub(crate) fn run(&self, contender: &Contender, link: Link, seed: u64) -> Result<()> {
        let name = Self::name(contender, link, seed);
        let round_s = self.round_s(contender, link)?;
        // The hours of the smallest size are too short for a round of some: they have one all the same.
        let rounds = ((self.all_s() / round_s).floor() as u32).max(1);
        let mut running = Running::start(self, contender, rounds, seed)?;
        let mut record = Record {
            settings: self.settings(contender, link),
            rounds,
            done: 0,
            looks: Vec::new(),
        };
        if let Some(known) = self.record(contender, link, seed)? {
            if known.done == rounds {
                return Ok(());
            }
            if running.resume(self.keep, &name, known.done)? {
                record = known;
            }
        }
        let block = rounds.div_ceil(self.size.looks);
        while record.done < rounds && !(self.keep.is_stopped() && record.done.is_multiple_of(block))
        {
            running.round(record.done)?;
            record.done += 1;
            if record.done.is_multiple_of(block) || record.done == rounds {
                let loss = running.loss()?;
                record.looks.push(Look {
                    round: record.done,
                    time_s: f64::from(record.done) * round_s,
                    loss,
                });
                self.keep.write(&name, &record, &running.state)?;
                eprintln!("{name}: {} of {rounds} rounds, {loss:.4}", record.done);
            }
        }
        Ok(())
    }
}

/// A race that is on.
struct Running<'a> {
    race: &'a Race<'a>,
    contender: &'a Contender,
    seed: u64,
    outer: OuterStep,
    sections: Option<Sections>,
    trainer: Trainer,
    state: State,
}

impl<'a> Running<'a> {
    fn start(race: &'a Race<'a>, contender: &'a Contender, rounds: u32, seed: u64) -> Result<Self> {
        let all = u64::from(rounds) * u64::from(contender.steps);
        // Averaged gradients are the gradient of all trainers' windows: one of them computes for all.
        let (members, together) = match contender.sends {
            Sends::Gradients => (1, race.size.trainers),
            Sends::Changes | Sends::Contributions(_) => (race.size.trainers, 1),
        };
        let sections = match contender.sends {
            Sends::Contributions(form) => Some(Sections::new(race.shapes(), form)?),
            Sends::Gradients | Sends::Changes => None,
        };
        let trainer = race.trainer(contender.method, together, all, seed)?;
        let own = || Own {
            moments: trainer.moments().clone(),
            residuals: match &sections {
                Some(_) => race
                    .tensors()
                    .list()
                    .iter()
                    .map(|t| vec![0.0; t.range().len()])
                    .collect(),
                None => Vec::new(),
            },
        };
        let values = trainer.trained().values().len();
        let state = State {
            weights: trainer.trained().values().to_vec(),
            velocity: vec![
                0.0;
                if contender.momentum.is_some() {
                    values
                } else {
                    0
                }
            ],
            own: (0..members).map(|_| own()).collect(),
        };
        Ok(Self {
            race,
            contender,
            seed,
            outer: OuterStep::new(contender.rate, contender.momentum)?,
            sections,
            trainer,
            state,
        })
    }

    fn resume(&mut self, keep: &Keep, name: &str, done: u32) -> Result<bool> {
        let fresh = self.state.clone();
        let same = keep.read_into(name, done, &mut self.state)?;
        if !same {
            self.state = fresh;
        }
        Ok(same)
    }

    /// Computes a round of all trainers.
    fn round(&mut self, round: u32) -> Result<()> {
        let changes = (0..self.state.own.len())
            .map(|member| self.train(member, round))
            .collect::<Result<Vec<_>>>()?;
        if self.contender.sends == Sends::Gradients {
            let [change] = &changes[..] else {
                unreachable!("one computes for all");
            };
            // The step that was taken is the outer step.
            self.state.weights.clone_from(change);
            return Ok(());
        }
        let mean = match self.sections.clone() {
            Some(sections) => self.send(&sections, &changes)?,
            None => mean(&changes),
        };
        let velocity = match self.contender.momentum {
            Some(_) => Some(&mut self.state.velocity[..]),
            None => None,
        };
        self.outer.apply(&mean, &mut self.state.weights, velocity);
        Ok(())
    }

    /// Trains for one member, and returns what it changed; where gradients are sent, the weights.
    fn train(&mut self, member: usize, round: u32) -> Result<Vec<f32>> {
        let Race { size, text, .. } = self.race;
        let weights = Weights::new(self.race.tensors(), self.state.weights.clone())?;
        let own = &mut self.state.own[member];
        self.trainer
            .begin_round(weights, Some(own.moments.clone()))?;
        let steps = self.contender.steps;
        let gradients = self.contender.sends == Sends::Gradients;
        let tokens = if gradients {
            let all =
                (0..size.trainers as u8).map(|id| text.drawn(self.seed, id, round, size.windows));
            all.collect::<Result<Vec<_>>>()?.concat()
        } else {
            text.drawn(self.seed, member as u8, round, steps * size.windows)?
        };
        for batch in tokens.chunks(tokens.len() / steps as usize) {
            self.trainer.step(batch)?;
        }
        own.moments = self.trainer.moments().clone();
        let after = self.trainer.trained().values();
        if gradients {
            return Ok(after.to_vec());
        }
        let changed = self.state.weights.iter().zip(after);
        Ok(changed.map(|(before, after)| before - after).collect())
    }

    /// Sends what changed as contributions, and returns the mean of what was sent.
    fn send(&mut self, sections: &Sections, changes: &[Vec<f32>]) -> Result<Vec<f32>> {
        let tensors = Arc::clone(self.race.tensors());
        let mut sent = Vec::new();
        for (own, change) in self.state.own.iter_mut().zip(changes) {
            let residuals = std::mem::take(&mut own.residuals);
            let mut feedback = ErrorFeedback::resume(sections.clone(), FEEDBACK_DECAY, residuals)?;
            let parts: Vec<&[f32]> = tensors.list().iter().map(|t| &change[t.range()]).collect();
            sent.push(feedback.compress(&parts)?);
            own.residuals = feedback.residuals().to_vec();
        }
        let read = sent.iter().map(|bytes| Contribution::read(sections, bytes));
        let read = read.collect::<Result<Vec<_>, _>>()?;
        let id = |member: usize| TrainerId([member as u8; 32]);
        let members = read
            .iter()
            .enumerate()
            .map(|(member, contribution)| Member {
                trainer: id(member),
                steps: self.contender.steps,
                norms: contribution.norms(),
            });
        let cohort = Cohort::new(sections.clone(), self.contender.steps, members.collect())?;
        let mut all = Vec::with_capacity(tensors.len());
        for tensor in 0..tensors.list().len() {
            let mut sum = TensorSum::new(&cohort, tensor, Vec::new());
            for (member, contribution) in read.iter().enumerate() {
                sum.add(id(member), &contribution.section(tensor))?;
            }
            all.extend(sum.mean()?);
        }
        Ok(all)
    }

    /// Measures the shared weights on the held-out windows.
    fn loss(&mut self) -> Result<f64> {
        let weights = Weights::new(self.race.tensors(), self.state.weights.clone())?;
        self.trainer.begin_round(weights, None)?;
        Ok(self.trainer.loss_of(&self.race.text.held_out)?.into())
    }
}

fn mean(changes: &[Vec<f32>]) -> Vec<f32> {
    let mut mean = vec![0.0; changes[0].len()];
    for change in changes {
        for (sum, value) in mean.iter_mut().zip(change) {
            *sum += value;
        }
    }
    let count = changes.len() as f32;
    mean.iter_mut().for_each(|sum| *sum /= count);
    mean
}
