//! What turns gradients into new weights: clipping by the global norm, AdamW and Muon (spec: training numerics,
//! section 7).

mod muon;

use crate::crew::Crew;
use crate::kernels::lanes::{PART, squares_row, sum_long};
use crate::kernels::update::{AdamFactors, adamw};
use crate::layout::{Role, Tensors};
use crate::path::Path;

/// How the learning rate goes over the steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateSchedule {
    /// The highest rate.
    pub peak: f32,
    /// Steps in which it rises to that, evenly.
    pub warmup_steps: u64,
    /// The step after which it falls, evenly.
    pub decay_from_step: u64,
    /// Steps in which it falls; 0 for never.
    pub decay_steps: u64,
    /// The share of the peak at which it stays in the end.
    pub floor: f32,
}

impl RateSchedule {
    /// The same rate at every step.
    #[must_use]
    pub fn constant(rate: f32) -> Self {
        Self {
            peak: rate,
            warmup_steps: 0,
            decay_from_step: 0,
            decay_steps: 0,
            floor: 0.0,
        }
    }

    /// Returns the rate of a step; the first is 1.
    #[must_use]
    pub fn at(&self, step: u64) -> f64 {
        let peak = f64::from(self.peak);
        if step < self.warmup_steps {
            return peak * step as f64 / self.warmup_steps as f64;
        }
        if self.decay_steps == 0 || step <= self.decay_from_step {
            return peak;
        }
        let gone = (step - self.decay_from_step).min(self.decay_steps);
        let left = 1.0 - gone as f64 / self.decay_steps as f64;
        let floor = f64::from(self.floor);
        peak * (floor + (1.0 - floor) * left)
    }

    fn check(&self) -> Result<(), OptimizerError> {
        within("peak rate", self.peak, 0.0, 10.0)?;
        within("rate floor", self.floor, 0.0, 1.0)
    }
}

/// Settings of AdamW. Norms do not decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Its learning rate.
    pub rate: RateSchedule,
    /// How much of the mean stays.
    pub beta1: f32,
    /// How much of the mean square stays.
    pub beta2: f32,
    /// What is added to the root of the mean square.
    pub epsilon: f32,
    /// Decay of weights, times the rate.
    pub decay: f32,
}

/// Settings of Muon (Jordan and others, 2024) for the matrices of layers; the rest is AdamW's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// Its learning rate, times the root of rows over columns where there are more rows.
    pub rate: RateSchedule,
    /// How much of the momentum stays.
    pub momentum: f32,
    /// Decay of weights, times the rate.
    pub decay: f32,
    /// For embeddings, head and norms.
    pub rest: AdamW,
}

/// Which optimizer trains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// AdamW for everything.
    AdamW(AdamW),
    /// Muon for the matrices.
    Muon(Muon),
}

/// A setting of an optimizer is out of bounds.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{what} is {value}, which is not in {least}..={most}")]
pub struct OptimizerError {
    /// The setting.
    pub what: &'static str,
    /// What it is.
    pub value: f32,
    /// The least that is taken.
    pub least: f32,
    /// The most that is taken.
    pub most: f32,
}

fn within(what: &'static str, value: f32, least: f32, most: f32) -> Result<(), OptimizerError> {
    if value >= least && value <= most {
        return Ok(());
    }
    Err(OptimizerError {
        what,
        value,
        least,
        most,
    })
}

/// The largest number below 1.
const BELOW_ONE: f32 = 1.0 - f32::EPSILON / 2.0;

impl AdamW {
    fn check(&self) -> Result<(), OptimizerError> {
        self.rate.check()?;
        within("beta1", self.beta1, 0.0, BELOW_ONE)?;
        within("beta2", self.beta2, 0.0, BELOW_ONE)?;
        within("epsilon", self.epsilon, 1e-30, 1.0)?;
        within("decay", self.decay, 0.0, 1.0)
    }

    fn factors(&self, step: u64, clip: f32) -> AdamFactors {
        let (beta1, beta2) = (f64::from(self.beta1), f64::from(self.beta2));
        let rate = self.rate.at(step);
        AdamFactors {
            clip,
            beta1: self.beta1,
            beta2: self.beta2,
            fresh1: (1.0 - beta1) as f32,
            fresh2: (1.0 - beta2) as f32,
            keep: (1.0 - rate * f64::from(self.decay)) as f32,
            step: (rate / (1.0 - power(beta1, step))) as f32,
            unbias: (1.0 / (1.0 - power(beta2, step)).sqrt()) as f32,
            epsilon: self.epsilon,
        }
    }
}

/// Returns `base` to the power `exponent`, by squaring from its lowest bit on.
fn power(base: f64, exponent: u64) -> f64 {
    let (mut result, mut square, mut rest) = (1.0, base, exponent);
    while rest > 0 {
        if rest & 1 == 1 {
            result *= square;
        }
        square *= square;
        rest >>= 1;
    }
    result
}

impl Optimizer {
    /// Returns an error that names what is out of bounds.
    ///
    /// # Errors
    /// When a setting is not a number in its bounds.
    pub fn check(&self) -> Result<(), OptimizerError> {
        match self {
            Self::AdamW(adam) => adam.check(),
            Self::Muon(muon) => {
                muon.rate.check()?;
                within("momentum", muon.momentum, 0.0, BELOW_ONE)?;
                within("decay", muon.decay, 0.0, 1.0)?;
                muon.rest.check()
            }
        }
    }

    fn turns(&self, role: Role) -> bool {
        matches!(self, Self::Muon(_)) && role == Role::Matrix
    }

    /// Returns the rate that logs show: Muon's, where there is one.
    pub(crate) fn rate(&self, step: u64) -> f64 {
        match self {
            Self::AdamW(adam) => adam.rate.at(step),
            Self::Muon(muon) => muon.rate.at(step),
        }
    }

    /// Returns the floats of the mean square: those of tensors that Muon does not turn.
    pub(crate) fn second_len(&self, tensors: &Tensors) -> usize {
        let adam = tensors
            .list()
            .iter()
            .filter(|tensor| !self.turns(tensor.role));
        adam.map(|tensor| tensor.range().len()).sum()
    }

    /// Returns the floats that each thread computes in.
    pub(crate) fn scratch_floats(&self, path: Path, tensors: &Tensors) -> usize {
        let turned = tensors
            .list()
            .iter()
            .filter(|tensor| self.turns(tensor.role));
        turned
            .map(|tensor| muon::scratch_floats(path, tensor.rows, tensor.columns))
            .max()
            .unwrap_or(0)
    }
}

/// What an optimizer remembers from step to step.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Steps taken.
    pub steps: u64,
    /// The mean, or Muon's momentum, of every weight.
    pub first: Vec<f32>,
    /// The mean square, of every weight that AdamW trains.
    pub second: Vec<f32>,
}

impl Moments {
    /// Returns the moments before the first step.
    pub(crate) fn none(optimizer: &Optimizer, tensors: &Tensors) -> Self {
        Self {
            steps: 0,
            first: vec![0.0; tensors.len()],
            second: vec![0.0; optimizer.second_len(tensors)],
        }
    }

    /// Whether they can be those of this optimizer.
    pub(crate) fn fit(&self, optimizer: &Optimizer, tensors: &Tensors) -> bool {
        let sound = |value: &f32| value.is_finite();
        self.first.len() == tensors.len()
            && self.second.len() == optimizer.second_len(tensors)
            && self.first.iter().all(sound)
            && self
                .second
                .iter()
                .all(|value| sound(value) && *value >= 0.0)
    }
}

/// Elements that one task updates.
const STRETCH: usize = 16 * PART;

/// Returns the norm of all gradients together.
pub(crate) fn global_norm(path: Path, crew: &Crew, tensors: &Tensors, gradient: &[f32]) -> f32 {
    let list = tensors.list();
    let mut parts: Vec<Vec<f32>> = list
        .iter()
        .map(|tensor| vec![0.0; tensor.range().len().div_ceil(PART)])
        .collect();
    let mut tasks = Vec::new();
    for (tensor, parts) in list.iter().zip(&mut parts) {
        let values = gradient[tensor.range()].chunks(STRETCH);
        tasks.extend(values.zip(parts.chunks_mut(STRETCH / PART)));
    }
    crew.each(tasks, |(values, sums), _| {
        for (values, sum) in values.chunks(PART).zip(sums) {
            *sum = squares_row(path, values);
        }
    });
    let squares: Vec<f32> = parts.iter().map(|parts| sum_long(path, parts)).collect();
    sum_long(path, &squares).sqrt()
}

enum Task<'a> {
    Adam {
        weights: &'a mut [f32],
        gradient: &'a [f32],
        first: &'a mut [f32],
        second: &'a mut [f32],
        decays: bool,
    },
    Turn(muon::Matrix<'a>),
}

/// What a step needs beside the numbers.
pub(crate) struct Step<'a> {
    pub(crate) optimizer: &'a Optimizer,
    pub(crate) path: Path,
    pub(crate) crew: &'a Crew,
    pub(crate) tensors: &'a Tensors,
    /// What gradients are multiplied by.
    pub(crate) clip: f32,
}

/// Goes one step.
pub(crate) fn step(how: &Step, weights: &mut [f32], gradient: &[f32], moments: &mut Moments) {
    let &Step {
        optimizer,
        path,
        crew,
        tensors,
        clip,
    } = how;
    moments.steps += 1;
    let (adam, muon) = match optimizer {
        Optimizer::AdamW(adam) => (adam, None),
        Optimizer::Muon(muon) => (&muon.rest, Some(muon)),
    };
    let factors = adam.factors(moments.steps, clip);
    let turn = muon.map(|muon| muon::Turn::new(muon, moments.steps, clip));
    let mut tasks = Vec::new();
    let (mut weights, mut first, mut second) =
        (weights, &mut moments.first[..], &mut moments.second[..]);
    for tensor in tensors.list() {
        let len = tensor.range().len();
        let gradient = &gradient[tensor.range()];
        let weights = cut(&mut weights, len);
        let first = cut(&mut first, len);
        if optimizer.turns(tensor.role) {
            tasks.push(Task::Turn(muon::Matrix {
                rows: tensor.rows,
                columns: tensor.columns,
                weights,
                gradient,
                velocity: first,
            }));
            continue;
        }
        let second = cut(&mut second, len);
        let stretches = weights
            .chunks_mut(STRETCH)
            .zip(gradient.chunks(STRETCH))
            .zip(first.chunks_mut(STRETCH))
            .zip(second.chunks_mut(STRETCH));
        tasks.extend(
            stretches.map(|(((weights, gradient), first), second)| Task::Adam {
                weights,
                gradient,
                first,
                second,
                decays: tensor.role != Role::Norm,
            }),
        );
    }
    crew.each(tasks, |task, scratch| match task {
        Task::Adam {
            weights,
            gradient,
            first,
            second,
            decays,
        } => {
            let keep = if decays { factors.keep } else { 1.0 };
            let factors = AdamFactors { keep, ..factors };
            adamw(path, weights, gradient, first, second, factors);
        }
        Task::Turn(matrix) => {
            let turn = turn.as_ref().expect("only Muon turns matrices");
            turn.apply(path, matrix, scratch);
        }
    });
}

/// Cuts so many elements off the front.
fn cut<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

#[cfg(test)]
mod tests {
    use super::{AdamW, Optimizer, RateSchedule, power};

    #[test]
    fn rates_rise_stay_and_fall() {
        let schedule = RateSchedule {
            peak: 1.0,
            warmup_steps: 4,
            decay_from_step: 10,
            decay_steps: 10,
            floor: 0.5,
        };
        let rates: Vec<f64> = [1, 4, 10, 15, 20, 99].map(|step| schedule.at(step)).into();
        assert_eq!(rates, [0.25, 1.0, 1.0, 0.75, 0.5, 0.5]);
        assert_eq!(RateSchedule::constant(0.5).at(7), 0.5);
    }

    #[test]
    fn powers_are_exact_for_exact_bases() {
        assert_eq!(power(0.5, 10), 1.0 / 1024.0);
        assert_eq!(power(0.9, 0), 1.0);
    }

    #[test]
    fn settings_out_of_bounds_are_named() {
        let adam = AdamW {
            rate: RateSchedule::constant(1e-3),
            beta1: 1.0,
            beta2: 0.95,
            epsilon: 1e-8,
            decay: 0.1,
        };
        let refused = Optimizer::AdamW(adam).check().expect_err("beta1 is 1");
        assert_eq!(refused.what, "beta1");
        let adam = AdamW {
            beta1: 0.9,
            epsilon: f32::NAN,
            ..adam
        };
        let refused = Optimizer::AdamW(adam).check().expect_err("epsilon is NaN");
        assert_eq!(refused.what, "epsilon");
    }
}
