//! What the values of a manifest may be, alone and together.
//!
//! The bounds of the model, the optimizer and the compression are those of the programs that compute (spec: 12 and 13), so
//! that what is read here can be computed there.

use super::{
    AdamWSettings, AdapterShape, CompressionSettings, Fraction, ModelShape, OptimizerSettings,
    RateSettings, RunManifest, RunManifestError,
};
use crate::text;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// The longest description, and the longest license, in bytes.
pub const RUN_TEXT_BYTES_MAX: usize = 2_048;
/// The most datasets of a run.
pub const RUN_DATASETS_MAX: usize = 16;
/// The most trainers of a round.
pub const RUN_TRAINERS_MAX: u32 = 256;
/// The most rounds of a run.
pub const RUN_ROUNDS_MAX: u32 = 1_000_000;
/// The most windows that a trainer reads in a round.
pub const ROUND_WINDOWS_MAX: u64 = 1 << 20;
/// The most tokens that a trainer foretells in a round.
pub const ROUND_TOKENS_MAX: u64 = 1 << 26;
/// The largest weight of a dataset.
const WEIGHT_MAX: u64 = 1_000;
/// The most steps of a round.
const STEPS_MAX: u64 = 10_000;
/// The most windows of a step, and the most that are measured.
const WINDOWS_MAX: u64 = 1 << 16;
/// A day: the longest that a round waits for anyone.
const WAIT_S_MAX: u64 = 86_400;
/// The most parameters of a model.
const PARAMETERS_MAX: u128 = 1 << 34;
/// The largest rank of an adapter.
const RANK_MAX: u64 = 1_024;
/// The largest whole number that JSON readers of every language read exactly.
const WHOLE_MAX: u64 = 1 << 53;

/// What a trainer reads in a round at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundBounds {
    /// Windows.
    pub windows: u64,
    /// Tokens that they foretell.
    pub tokens: u64,
}

impl RunManifest {
    /// Checks every value, alone and with the others.
    ///
    /// # Errors
    /// Names the first field that is out of range.
    pub fn check(&self) -> Result<(), RunManifestError> {
        self.check_texts()?;
        self.model.check()?;
        if let Some(adapter) = &self.adapter {
            adapter.check()?;
        }
        self.check_datasets()?;
        self.check_inner()?;
        self.check_round()?;
        self.compression.check()?;
        let rate = self.outer.rate;
        fraction("outer.rate", rate, "above 0 and at most 4096", |rate| {
            rate > 0.0 && rate <= 4_096.0
        })?;
        if let Some(momentum) = self.outer.momentum {
            share("outer.momentum", momentum)?;
        }
        within("audit.perMille", self.audit.per_mille, 10, 1_000)?;
        within("audit.newcomerRounds", self.audit.newcomer_rounds, 0, 1_000)?;
        within(
            "evaluation.windows",
            self.evaluation.windows,
            1,
            WINDOWS_MAX,
        )?;
        self.check_shares()?;
        within("rounds", self.rounds, 1, u64::from(RUN_ROUNDS_MAX))
    }

    /// Returns what a trainer reads in a round of all its steps.
    #[must_use]
    pub fn round_bounds(&self) -> RoundBounds {
        let windows = u64::from(self.round.steps).saturating_mul(self.inner.windows.into());
        RoundBounds {
            windows,
            tokens: windows.saturating_mul(self.inner.window_tokens.into()),
        }
    }

    fn check_texts(&self) -> Result<(), RunManifestError> {
        let texts = [
            ("name", &self.name, NAME_BYTES_MAX, false),
            ("description", &self.description, RUN_TEXT_BYTES_MAX, true),
            ("license", &self.license, RUN_TEXT_BYTES_MAX, false),
        ];
        for (field, value, most, may_be_empty) in texts {
            let is_plain = text::is_name(value) || (may_be_empty && value.is_empty());
            if value.len() > most || !is_plain {
                return Err(RunManifestError::Text { field, most });
            }
        }
        Ok(())
    }

    fn check_datasets(&self) -> Result<(), RunManifestError> {
        let datasets = self.datasets.len() as u64;
        between("datasets", datasets, 1, RUN_DATASETS_MAX as u64)?;
        for (index, dataset) in self.datasets.iter().enumerate() {
            within("datasets.weight", dataset.weight, 1, WEIGHT_MAX)?;
            let is_again = |other: &super::DatasetShare| other.id == dataset.id;
            if self.datasets[..index].iter().any(is_again) {
                return rule("datasets", "none may stand in it twice");
            }
        }
        Ok(())
    }

    fn check_inner(&self) -> Result<(), RunManifestError> {
        let inner = &self.inner;
        let context = u64::from(self.model.context);
        within("inner.windowTokens", inner.window_tokens, 1, context)?;
        within("inner.windows", inner.windows, 1, WINDOWS_MAX)?;
        positive("inner.clipNorm", inner.clip_norm)?;
        match &inner.optimizer {
            OptimizerSettings::AdamW(adam) => adam.check(),
            OptimizerSettings::Muon(muon) => {
                muon.rate.check()?;
                share("inner.optimizer.momentum", muon.momentum)?;
                at_most_one("inner.optimizer.decay", muon.decay)?;
                muon.rest.check()
            }
        }
    }

    fn check_round(&self) -> Result<(), RunManifestError> {
        let round = &self.round;
        within("round.steps", round.steps, 1, STEPS_MAX)?;
        within("round.stepsMin", round.steps_min, 1, round.steps.into())?;
        let most = u64::from(RUN_TRAINERS_MAX);
        within("round.trainersMax", round.trainers_max, 1, most)?;
        within("round.quorum", round.quorum, 1, round.trainers_max.into())?;
        within("round.graceS", round.grace_s, 0, WAIT_S_MAX)?;
        within("round.attemptS", round.attempt_s, 1, WAIT_S_MAX)?;
        let reads = self.round_bounds();
        between("windows of a round", reads.windows, 1, ROUND_WINDOWS_MAX)?;
        between("tokens of a round", reads.tokens, 1, ROUND_TOKENS_MAX)
    }

    fn check_shares(&self) -> Result<(), RunManifestError> {
        let shares = [
            ("shares.trainers", self.shares.trainers),
            ("shares.validators", self.shares.validators),
            ("shares.funders", self.shares.funders),
        ];
        let mut sum = 0;
        for (field, value) in shares {
            within(field, value, 0, 1_000)?;
            sum += value;
        }
        if sum == 1_000 {
            Ok(())
        } else {
            rule("shares", "they must be 1000 together")
        }
    }
}

impl ModelShape {
    fn check(&self) -> Result<(), RunManifestError> {
        let sizes = [
            ("model.vocabulary", self.vocabulary, 2, 1 << 18),
            ("model.width", self.width, 1, 1 << 14),
            ("model.layers", self.layers, 1, 256),
            ("model.queryHeads", self.query_heads, 1, 256),
            ("model.keyValueHeads", self.key_value_heads, 1, 256),
            ("model.head", self.head, 2, 512),
            ("model.hidden", self.hidden, 1, 1 << 16),
            ("model.context", self.context, 1, 1 << 17),
        ];
        for (field, value, least, most) in sizes {
            within(field, value, least, most)?;
        }
        if !self.head.is_multiple_of(2) {
            return rule("model.head", "it must be even");
        }
        if !self.query_heads.is_multiple_of(self.key_value_heads) {
            return rule("model.keyValueHeads", "they must divide the query heads");
        }
        let (theta, epsilon) = (self.rope_theta, self.norm_epsilon);
        let wanted = "above 1 and at most 1000000000";
        fraction("model.ropeTheta", theta, wanted, |theta| {
            theta > 1.0 && theta <= 1e9
        })?;
        let wanted = "above 0 and at most 0.1";
        fraction("model.normEpsilon", epsilon, wanted, |epsilon| {
            epsilon > 0.0 && epsilon <= 0.1
        })?;
        if self.parameters() > PARAMETERS_MAX {
            return rule("model", "it has more than 2^34 parameters");
        }
        Ok(())
    }

    /// Returns the parameters of the model.
    #[must_use]
    pub fn parameters(&self) -> u128 {
        let n = u128::from;
        let width = n(self.width);
        let queries = n(self.query_heads) * n(self.head);
        let keys = n(self.key_value_heads) * n(self.head);
        let attention = (2 * queries + 2 * keys) * width;
        let layer = attention + 3 * n(self.hidden) * width + 2 * width;
        let heads = if self.tied_head { 1 } else { 2 };
        heads * n(self.vocabulary) * width + n(self.layers) * layer + width
    }
}

impl AdapterShape {
    fn check(&self) -> Result<(), RunManifestError> {
        within("adapter.rank", self.rank, 1, RANK_MAX)?;
        let wanted = "above 0 and at most 1000000";
        fraction("adapter.alpha", self.alpha, wanted, |alpha| {
            alpha > 0.0 && alpha <= 1e6
        })?;
        if self.targets.is_empty() || !self.targets.is_sorted_by(|first, next| first < next) {
            let order = "at least one, each once, in the order of a layer's tensors";
            return rule("adapter.targets", order);
        }
        Ok(())
    }
}

impl AdamWSettings {
    fn check(&self) -> Result<(), RunManifestError> {
        self.rate.check()?;
        share("inner.optimizer.beta1", self.beta1)?;
        share("inner.optimizer.beta2", self.beta2)?;
        let wanted = "from 10^-30 to 1";
        fraction("inner.optimizer.epsilon", self.epsilon, wanted, |epsilon| {
            (1e-30..=1.0).contains(&epsilon)
        })?;
        at_most_one("inner.optimizer.decay", self.decay)
    }
}

impl RateSettings {
    fn check(&self) -> Result<(), RunManifestError> {
        let wanted = "from 0 to 10";
        fraction("rate.peak", self.peak, wanted, |peak| peak <= 10.0)?;
        at_most_one("rate.floor", self.floor)?;
        let steps = [
            ("rate.warmupSteps", self.warmup_steps),
            ("rate.decayFromStep", self.decay_from_step),
            ("rate.decaySteps", self.decay_steps),
        ];
        for (field, value) in steps {
            between(field, value, 0, WHOLE_MAX)?;
        }
        Ok(())
    }
}

impl CompressionSettings {
    fn check(&self) -> Result<(), RunManifestError> {
        if let Self::TopK { k, .. } = *self {
            within("compression.k", k.into(), 1, 4_096)?;
        }
        at_most_one("compression.decay", self.decay())
    }
}

fn within(field: &'static str, value: u32, least: u64, most: u64) -> Result<(), RunManifestError> {
    between(field, value.into(), least, most)
}

fn between(field: &'static str, value: u64, least: u64, most: u64) -> Result<(), RunManifestError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(RunManifestError::Range {
        field,
        value,
        least,
        most,
    })
}

fn fraction(
    field: &'static str,
    value: Fraction,
    wanted: &'static str,
    is_right: impl Fn(f32) -> bool,
) -> Result<(), RunManifestError> {
    if is_right(value.get()) {
        return Ok(());
    }
    Err(RunManifestError::FractionRange {
        field,
        value,
        wanted,
    })
}

fn positive(field: &'static str, value: Fraction) -> Result<(), RunManifestError> {
    fraction(field, value, "above 0", |value| value > 0.0)
}

fn at_most_one(field: &'static str, value: Fraction) -> Result<(), RunManifestError> {
    fraction(field, value, "from 0 to 1", |value| value <= 1.0)
}

fn share(field: &'static str, value: Fraction) -> Result<(), RunManifestError> {
    fraction(field, value, "at least 0 and below 1", |value| value < 1.0)
}

fn rule(field: &'static str, rule: &'static str) -> Result<(), RunManifestError> {
    Err(RunManifestError::Rule { field, rule })
}
