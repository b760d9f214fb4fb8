//! The ways of training that are compared, and what a round of each takes on a link.

use anyhow::Result;
use hearth_aggregation::{
    Compression, Devices, Layout, Method, ModelTensor, Plan, PlanRequest, REST_PER_TRANSFER,
    STEPS_MAX, Spread, TensorRole, TensorShape, Trust, plan,
};

use crate::race::Race;

/// A home's link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Link {
    /// Megabits that it sends in a second.
    pub(crate) up_mbit: u32,
    /// Megabits that it receives in a second.
    pub(crate) down_mbit: u32,
}

/// The links: what is received is five times what is sent, as the recipe of a run has it.
pub(crate) const LINKS: [Link; 2] = [
    Link {
        up_mbit: 10,
        down_mbit: 50,
    },
    Link {
        up_mbit: 100,
        down_mbit: 500,
    },
];

/// A link on which nothing takes time, to compare what is sent step for step.
pub(crate) const NO_LINK: Link = Link {
    up_mbit: u32::MAX,
    down_mbit: u32::MAX,
};
/// Local steps of a round where nothing takes time.
const FREE_STEPS: u32 = 30;

/// What trainers send each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Sends {
    /// Gradients of each step, as 32-bit numbers that are averaged around a ring.
    Gradients,
    /// What a round changed of the weights, alike.
    Changes,
    /// Contributions of a run, which every trainer fetches from the others.
    Contributions(Compression),
}

/// A way of training apart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Contender {
    /// What it is called.
    pub(crate) name: String,
    /// The inner optimizer.
    pub(crate) method: Method,
    /// Local steps of a round.
    pub(crate) steps: u32,
    /// What is sent.
    pub(crate) sends: Sends,
    /// The outer rate.
    pub(crate) rate: f32,
    /// Nesterov's outer momentum.
    pub(crate) momentum: Option<f32>,
    /// What of a stopped bench is to be there first: the lowest.
    pub(crate) turn: u8,
}

/// The name of what a run of Hearth does.
pub(crate) const OURS: &str = "Hearth, as planned";

/// Returns the contenders on a link. Ours comes first.
pub(crate) fn contenders(race: &Race<'_>, link: Link) -> Result<Vec<Contender>> {
    let planned = planned(race, link)?;
    let mut all = vec![Contender {
        name: OURS.to_owned(),
        method: planned.method,
        steps: planned.steps,
        sends: Sends::Contributions(planned.compression),
        rate: planned.outer_rate,
        momentum: None,
        turn: 0,
    }];
    all.push(Contender {
        name: "data parallel".to_owned(),
        steps: 1,
        sends: Sends::Gradients,
        rate: 1.0,
        method: Method::AdamW,
        ..all[0].clone()
    });
    for (name, method, rate, momentum) in PUBLISHED {
        let fewest = race.fewest_steps(method, link);
        for (steps, turn) in [(fewest, 0), (fewest.div_ceil(4), 2)] {
            all.push(Contender {
                name: format!("{name} of {steps} steps"),
                method,
                steps,
                sends: Sends::Changes,
                rate,
                momentum,
                turn,
            });
        }
    }
    Ok(all)
}

/// Returns the two whose difference is what the smallest form costs, step for step.
pub(crate) fn smallest_and_dense(race: &Race<'_>) -> [Contender; 2] {
    let dense = Contender {
        name: format!("dense averaging of {FREE_STEPS} steps"),
        method: Method::AdamW,
        steps: FREE_STEPS,
        sends: Sends::Changes,
        rate: 1.0,
        momentum: None,
        turn: 1,
    };
    let smallest = Contender {
        name: format!("top-k 64 of {FREE_STEPS} steps"),
        sends: Sends::Contributions(Compression::TopK { k: 64 }),
        rate: race.size.trainers as f32 / 2.0,
        ..dense.clone()
    };
    [smallest, dense]
}

/// Dense averaging is FedAvg and local SGD, with AdamW inside; DiLoCo is arXiv 2311.08105, MuLoCo 2505.23725.
const PUBLISHED: [(&str, Method, f32, Option<f32>); 3] = [
    ("dense averaging", Method::AdamW, 1.0, None),
    ("DiLoCo", Method::AdamW, 0.7, Some(0.9)),
    ("MuLoCo", Method::Muon, 0.7, Some(0.6)),
];

/// Plans a run as `hearth run create` does, but for the seconds in which a round is settled: nobody here has them.
fn planned(race: &Race<'_>, link: Link) -> Result<Plan> {
    let tensors = race.tensors().list().iter().zip(race.shapes());
    let tensors = tensors.map(|(tensor, shape)| ModelTensor {
        shape,
        role: match tensor.role {
            hearth_training::Role::Matrix => TensorRole::Hidden,
            _ => TensorRole::Other,
        },
    });
    let tokens_per_step = u64::from(race.size.window_tokens * race.size.windows);
    let plan = plan(&PlanRequest {
        tensors: tensors.collect(),
        parameters: race.tensors().len() as u64,
        tokens_per_step,
        devices: Devices {
            trainers: race.size.trainers,
            tokens_per_s: tokens_per_step as f64 / race.step_s(Method::AdamW),
            up_bits_per_s: f64::from(link.up_mbit) * 1e6,
            down_bits_per_s: f64::from(link.down_mbit) * 1e6,
            spread: Spread::Swarm,
            trust: Trust::Strangers,
        },
        settle_s: 0.0,
        rounds: 200,
        steps: None,
    })?;
    Ok(plan)
}

impl Link {
    /// Returns the bytes that a trainer sends in a round.
    pub(crate) fn sent_bytes(sends: Sends, shapes: &[TensorShape], trainers: u32) -> Result<f64> {
        let others = f64::from(trainers - 1);
        Ok(match sends {
            // Around a ring each sends every part of the numbers once to be added, and once as the sum.
            Sends::Gradients | Sends::Changes => {
                let values: u64 = shapes.iter().map(|shape| shape.values()).sum();
                2.0 * others / f64::from(trainers) * 4.0 * values as f64
            }
            Sends::Contributions(form) => {
                others * Layout::new(shapes.to_vec(), form)?.bytes() as f64
            }
        })
    }

    /// Returns the seconds in which a trainer sends so many bytes, and receives as many.
    pub(crate) fn transfer_s(self, bytes: f64) -> f64 {
        let slower = self.up_mbit.min(self.down_mbit);
        bytes * 8.0 / (f64::from(slower) * 1e6)
    }
}

/// Returns the fewest steps whose computing takes as many times longer than sending as a plan asks for.
pub(crate) fn steps_for(transfer_s: f64, step_s: f64) -> u32 {
    let steps = (REST_PER_TRANSFER * transfer_s / step_s).ceil();
    (steps as u32).clamp(1, STEPS_MAX)
}
