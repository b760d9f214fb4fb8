//! What `hearth run create` puts into a manifest where its author says nothing: the inner optimizer, the local steps of
//! a round, the compression and the outer rate, each with its reason.
//!
//! Links and settling decide how many steps a round has: the fewest at which what a round sends takes less than a
//! fifteenth of its other time, and settling less than a quarter of its computing. Of the forms of compression the mildest
//! is taken that keeps a round short; so small models on home links are sent in 8 bits, and large ones as the largest
//! values.

use thiserror::Error;

use crate::cohort::MEMBERS_MAX;
use crate::compression::Compression;
use crate::layout::{Layout, LayoutError};
use crate::shape::TensorShape;

mod reason;

pub use reason::{Decider, Reason};

/// What a round does beside sending takes at least this many times as long.
pub const REST_PER_TRANSFER: f64 = 15.0;
/// A round computes at least this many times as long as it is settled, up to [`STEPS_MAX`].
pub const COMPUTE_PER_SETTLING: f64 = 4.0;
/// A milder compression is not worth rounds of more local steps than this (MuLoCo, arXiv 2505.23725, has 30).
pub const STEPS_GOAL: u32 = 30;
/// The most local steps of a round: beyond them, trainers have drifted apart (DiLoCo, arXiv 2311.08105, has 500).
pub const STEPS_MAX: u32 = 500;
/// The share of a step from which on Newton-Schulz iterations cost more than Muon brings.
pub const MUON_SHARE_MAX: f64 = 0.10;
/// A run of fewer rounds than this starves with fewer than [`SHORT_RUN_K_MIN`] values kept: error feedback needs rounds.
pub const SHORT_RUN_ROUNDS: u32 = 30;
/// The fewest values that a short run keeps of each 4,096.
pub const SHORT_RUN_K_MIN: u16 = 256;
/// The Newton-Schulz iterations of a step of Muon.
const NEWTON_SCHULZ_STEPS: f64 = 5.0;
/// Every form of compression, the mildest first.
const FORMS: [Compression; 6] = [
    Compression::Dense8,
    Compression::Dense4,
    Compression::TopK { k: 512 },
    Compression::TopK { k: 256 },
    Compression::TopK { k: 128 },
    Compression::TopK { k: 64 },
];

/// What a tensor does in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorRole {
    /// A matrix inside a layer, which Muon may train.
    Hidden,
    /// An embedding, a head, a norm or an adapter: AdamW trains it in any case.
    Other,
}

/// A tensor that is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelTensor {
    /// Its shape.
    pub shape: TensorShape,
    /// What it does.
    pub role: TensorRole,
}

/// How a contribution reaches the other trainers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// A trainer sends it once; a device with a fast link hands it on.
    Seeded,
    /// Trainers hand them to each other, so that each sends, on average, as much as it fetches.
    Swarm,
}

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Anyone.
    Strangers,
    /// Devices whose owners trust each other.
    Trusted,
}

/// The devices of a run. Speeds are those of its slower devices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Devices {
    /// How many train, 1 to [`MEMBERS_MAX`].
    pub trainers: u32,
    /// Tokens that one trains on in a second with AdamW.
    pub tokens_per_s: f64,
    /// Bits that one sends in a second.
    pub up_bits_per_s: f64,
    /// Bits that one receives in a second.
    pub down_bits_per_s: f64,
    /// How contributions get around.
    pub spread: Spread,
    /// Who they are.
    pub trust: Trust,
}

/// What a plan is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRequest {
    /// The tensors that are trained, in the manifest's order.
    pub tensors: Vec<ModelTensor>,
    /// The weights that a token passes, those of a frozen base included.
    pub parameters: u64,
    /// Tokens of a local step on one device.
    pub tokens_per_step: u64,
    /// Who trains.
    pub devices: Devices,
    /// Seconds that a round takes beside computing and sending: commit, reveal, check, record.
    pub settle_s: f64,
    /// The rounds that the run is to have.
    pub rounds: u32,
    /// The local steps of a round, where the run's maker has chosen them.
    pub steps: Option<u32>,
}

/// The inner optimizer of hidden matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// AdamW for all tensors.
    AdamW,
    /// Muon for hidden matrices, AdamW for the rest.
    Muon,
}

/// What a manifest is to say, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The inner optimizer.
    pub method: Method,
    /// The local steps of a round.
    pub steps: u32,
    /// How contributions are written.
    pub compression: Compression,
    /// The outer rate.
    pub outer_rate: f32,
    /// The bytes of a contribution.
    pub contribution_bytes: u64,
    /// Seconds that a round computes on the slower devices.
    pub compute_s: f64,
    /// Seconds that a round sends.
    pub upload_s: f64,
    /// Seconds that a round fetches.
    pub download_s: f64,
    /// Why, one for each choice.
    pub reasons: Vec<Reason>,
}

/// Why there is no plan.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A number of the request is zero, negative, not finite or out of its bounds.
    #[error("{0} is out of bounds")]
    Request(&'static str),
    /// The tensors are none that contributions can be of.
    #[error("the model's tensors cannot be sent")]
    Tensors(#[from] LayoutError),
    /// Even the smallest contributions take too long.
    #[error(
        "even k = {k} needs {steps} local steps for each round, more than {STEPS_MAX}: a contribution of \
         {bytes} bytes takes {transfer_s:.1} s to send or fetch, a step {step_s:.3} s to compute; \
         take a smaller model, fewer trainers or faster links"
    )]
    Links {
        /// The values kept of each 4,096.
        k: u16,
        /// The bytes of a contribution.
        bytes: u64,
        /// The steps that a round would need.
        steps: u64,
        /// Seconds of sending or fetching, whichever is longer.
        transfer_s: f64,
        /// Seconds of a step.
        step_s: f64,
    },
}

/// Chooses what a run's manifest says, from its model, its devices and its links.
///
/// # Errors
/// Returns what is wrong with the request, or that the links are too slow for the model.
pub fn plan(request: &PlanRequest) -> Result<Plan, PlanError> {
    check(request)?;
    let (method, method_reason, step_s) = choose_method(request);
    let (form, fit) = choose_form(request, step_s)?;
    let (outer_rate, rate_reason) = choose_rate(form.compression, &request.devices);
    let steps = form.steps;
    Ok(Plan {
        method,
        steps,
        compression: form.compression,
        outer_rate,
        contribution_bytes: form.bytes,
        compute_s: f64::from(steps) * step_s,
        upload_s: form.upload_s,
        download_s: form.download_s,
        reasons: vec![
            method_reason,
            fit,
            Reason::Steps {
                steps,
                decider: form.decider,
                upload_s: form.upload_s,
                download_s: form.download_s,
                settle_s: request.settle_s,
                compute_s: f64::from(steps) * step_s,
            },
            rate_reason,
        ],
    })
}

fn check(request: &PlanRequest) -> Result<(), PlanError> {
    let Devices {
        trainers,
        tokens_per_s,
        up_bits_per_s,
        down_bits_per_s,
        ..
    } = request.devices;
    let is_speed = |speed: f64| speed.is_finite() && speed > 0.0;
    let rules = [
        (
            "the number of trainers",
            (1..=MEMBERS_MAX).contains(&(trainers as usize)),
        ),
        ("the tokens of a second", is_speed(tokens_per_s)),
        ("the link's upload", is_speed(up_bits_per_s)),
        ("the link's download", is_speed(down_bits_per_s)),
        ("the tokens of a step", request.tokens_per_step > 0),
        ("the number of parameters", request.parameters > 0),
        ("the number of rounds", request.rounds > 0),
        ("the number of steps", request.steps != Some(0)),
        (
            "the time in which a round is settled",
            request.settle_s.is_finite() && request.settle_s >= 0.0,
        ),
    ];
    match rules.iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(PlanError::Request(what)),
        None => Ok(()),
    }
}

/// Returns the method, why, and the seconds of one of its steps.
fn choose_method(request: &PlanRequest) -> (Method, Reason, f64) {
    let step_s = float(request.tokens_per_step) / request.devices.tokens_per_s;
    let tokens_per_step = request.tokens_per_step;
    match muon_share(request) {
        None => (Method::AdamW, Reason::NoHiddenMatrices, step_s),
        Some(share) if share < MUON_SHARE_MAX => {
            let reason = Reason::Muon {
                share,
                tokens_per_step,
            };
            (Method::Muon, reason, step_s * (1.0 + share))
        }
        Some(share) => {
            let reason = Reason::MuonTooSlow {
                share,
                tokens_per_step,
            };
            (Method::AdamW, reason, step_s)
        }
    }
}

/// Returns what Newton-Schulz iterations add to a step, as a share of it; nothing where there is no hidden matrix.
///
/// An iteration on m rows and n columns, m <= n, takes `A = X Xᵀ` and `A A`, of which half is computed because they are
/// symmetric, and `B X`: 3 m² n + m³ operations. A token takes 6 operations for each weight. For square matrices of d
/// rows that is about 3 d / tokens.
fn muon_share(request: &PlanRequest) -> Option<f64> {
    let iterations = request.tensors.iter().filter_map(|tensor| match *tensor {
        ModelTensor {
            shape: TensorShape::Matrix { rows, columns },
            role: TensorRole::Hidden,
        } => {
            let (m, n) = (f64::from(rows.min(columns)), f64::from(rows.max(columns)));
            Some(3.0 * m * m * n + m * m * m)
        }
        _ => None,
    });
    let iteration = iterations.reduce(|sum, operations| sum + operations)?;
    let step = 6.0 * float(request.parameters) * float(request.tokens_per_step);
    Some(NEWTON_SCHULZ_STEPS * iteration / step)
}

/// A form of compression, and what it would cost the run.
#[derive(Debug, Clone, Copy)]
struct Form {
    compression: Compression,
    bytes: u64,
    upload_s: f64,
    download_s: f64,
    /// The fewest steps beside which sending takes little time, rounded down to 2^32 - 1.
    sending_steps: u32,
    /// The steps of a round.
    steps: u32,
    decider: Decider,
}

impl Form {
    fn of(request: &PlanRequest, compression: Compression, step_s: f64) -> Result<Self, PlanError> {
        let shapes = request.tensors.iter().map(|tensor| tensor.shape);
        let bytes = Layout::new(shapes.collect(), compression)?.bytes() as u64;
        let devices = &request.devices;
        let others = f64::from(devices.trainers - 1);
        let sent = match devices.spread {
            Spread::Seeded => 1.0,
            Spread::Swarm => others,
        };
        let bits = float(bytes) * 8.0;
        let upload_s = bits * sent / devices.up_bits_per_s;
        let download_s = bits * others / devices.down_bits_per_s;
        // Files travel while a round is settled, too.
        let least_s = REST_PER_TRANSFER * upload_s.max(download_s) - request.settle_s;
        let sending_steps = steps_of(least_s, step_s);
        let settling = settling_steps(request, step_s);
        let (steps, decider) = match request.steps {
            Some(steps) => (steps, Decider::Maker),
            None if sending_steps.max(settling) <= 1 => (1, Decider::Nothing),
            None if settling >= sending_steps => (settling, Decider::Settling),
            None if upload_s >= download_s => (sending_steps, Decider::Upload),
            None => (sending_steps, Decider::Download),
        };
        Ok(Self {
            compression,
            bytes,
            upload_s,
            download_s,
            sending_steps,
            steps,
            decider,
        })
    }
}

/// Returns the steps that take so many seconds, at least.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number that is too large becomes the largest that fits, and one below nothing becomes nothing"
)]
fn steps_of(seconds: f64, step_s: f64) -> u32 {
    (seconds / step_s).ceil() as u32
}

/// Returns the steps beside which settling takes little time; no more than keep trainers together.
fn settling_steps(request: &PlanRequest, step_s: f64) -> u32 {
    steps_of(COMPUTE_PER_SETTLING * request.settle_s, step_s).min(STEPS_MAX)
}

/// Returns the mildest form that keeps rounds short, or else the smallest that the run may have; and why.
fn choose_form(request: &PlanRequest, step_s: f64) -> Result<(Form, Reason), PlanError> {
    let is_short = request.rounds < SHORT_RUN_ROUNDS;
    let may_have = |form: &Compression| match form {
        Compression::TopK { k } => !is_short || *k >= SHORT_RUN_K_MIN,
        Compression::Dense8 | Compression::Dense4 => true,
    };
    let goal = match request.steps {
        Some(steps) => steps,
        None => settling_steps(request, step_s).max(STEPS_GOAL),
    };
    let mut milder = None;
    for compression in FORMS.into_iter().filter(may_have) {
        let form = Form::of(request, compression, step_s)?;
        if form.sending_steps <= goal {
            let reason = form.mildest(request, goal, milder);
            return Ok((form, reason));
        }
        milder = Some(form);
    }
    let smallest = milder.expect("there is a form for every run");
    if smallest.steps > STEPS_MAX {
        return Err(PlanError::Links {
            k: smallest.compression.k(),
            bytes: smallest.bytes,
            steps: smallest.steps.into(),
            transfer_s: smallest.upload_s.max(smallest.download_s),
            step_s,
        });
    }
    let reason = Reason::SmallestForm {
        compression: smallest.compression,
        bytes: smallest.bytes,
        bits_per_value: smallest.bits_per_value(request),
        steps: smallest.sending_steps,
        steps_max: goal,
        short_run_rounds: is_short.then_some(request.rounds),
    };
    Ok((smallest, reason))
}

impl Form {
    fn bits_per_value(&self, request: &PlanRequest) -> f64 {
        let values = request.tensors.iter().map(|tensor| tensor.shape.values());
        float(self.bytes) * 8.0 / float(values.sum())
    }

    fn mildest(&self, request: &PlanRequest, goal: u32, milder: Option<Form>) -> Reason {
        Reason::MildestForm {
            compression: self.compression,
            bytes: self.bytes,
            bits_per_value: self.bits_per_value(request),
            steps_max: goal,
            milder: milder.map(|milder| (milder.compression, milder.sending_steps)),
        }
    }
}

/// Returns the outer rate, and why.
fn choose_rate(compression: Compression, devices: &Devices) -> (f32, Reason) {
    // A run has at most 4,096 trainers.
    #[expect(clippy::cast_precision_loss, reason = "the number is small")]
    let trainers = devices.trainers as f32;
    let rate = match (compression, devices.trust) {
        (Compression::Dense8 | Compression::Dense4, _) => 1.0,
        (Compression::TopK { .. }, Trust::Strangers) => (trainers / 2.0).max(1.0),
        (Compression::TopK { .. }, Trust::Trusted) => trainers,
    };
    let reason = match compression {
        Compression::Dense8 | Compression::Dense4 => Reason::DenseRate {
            trainers: devices.trainers,
        },
        Compression::TopK { .. } => Reason::SparseRate {
            rate,
            trainers: devices.trainers,
            trust: devices.trust,
        },
    };
    (rate, reason)
}

/// Counts of tokens, bytes and weights are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "a plan needs no more digits")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
