//! The file that a person writes to make a run: what matters to people, with defaults for the rest.
//!
//! Method, steps, compression and outer rate follow from the model and the links (spec: 13 aggregation), unless the file
//! says otherwise.

use hearth_api::runs::{MakeFunding, RunBase};
use hearth_datasets::folder::{Folder, FolderError, WhichPart};
use hearth_outcome::{Vocabulary, VocabularyError};
use hearth_protocol::content::ContentHash;
use hearth_protocol::run::manifest::{
    AdamWSettings, AdapterShape, AdapterTarget, AuditSettings, CompressionSettings, DatasetShare,
    EvaluationSettings, Fraction, FractionError, InnerSettings, ModelShape, MuonSettings,
    OptimizerSettings, OuterSettings, RateSettings, RoundSettings, RunManifest, RunManifestError,
    RunShares, RunStart,
};
use hearth_workshop::{Compression, Devices, Method, Plan, PlanningError, Spread, Trust};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use thiserror::Error;

use super::base::{self, ChosenBase};
use super::funding::{FundingRecipe, FundingTermsError};
use crate::advice::Advice;
use crate::license;

/// Operations in a second that a home's processor gives to training, for a first guess at its speed.
const OPERATIONS_PER_S: f64 = 4e10;
/// Held-out windows that are measured, where there are so many.
const MEASURED_WINDOWS: u64 = 16;
/// The highest learning rate of AdamW for fresh weights.
const RATE: f32 = 0.003;
/// The highest learning rate of AdamW for an adapter.
const ADAPTER_RATE: f32 = 0.0005;
/// The largest learning rate: each step would move a weight by about as much.
const RATE_MAX: f32 = 1.0;
/// Seconds that a round takes beside computing and sending.
const SETTLE_S: f64 = 5.0;

/// What a person says of a run.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the model is to be called.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Under which license it is given to everyone.
    pub license: String,
    /// Rounds in all.
    #[serde(default = "rounds")]
    pub rounds: u32,
    /// What the first weights are drawn from.
    pub seed: Option<u64>,
    /// Its shape, where its weights are fresh.
    pub model: Option<ModelRecipe>,
    /// The model that it starts from, over which an adapter is trained.
    pub base: Option<BaseRecipe>,
    /// The adapter.
    pub adapter: Option<AdapterRecipe>,
    /// How it is trained.
    #[serde(default)]
    pub training: TrainingRecipe,
    /// Who trains it.
    #[serde(default)]
    pub devices: DevicesRecipe,
    /// How rounds go.
    #[serde(default)]
    pub round: RoundRecipe,
    /// How work is checked.
    #[serde(default)]
    pub audit: AuditRecipe,
    /// Who may fund it; nobody where nothing is said.
    pub funding: Option<FundingRecipe>,
}

fn rounds() -> u32 {
    100
}

/// The shape of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelRecipe {
    /// Width of the residual stream.
    pub width: u32,
    /// Layers.
    pub layers: u32,
    /// Query heads.
    pub query_heads: u32,
    /// Key-value heads.
    pub key_value_heads: u32,
    /// Width inside the feed-forward block; four thirds of twice the width, in steps of 32, where nothing is said.
    pub hidden: Option<u32>,
    /// The longest text, in tokens.
    pub context: u32,
    /// Base of the rotary positions.
    pub rope_theta: f32,
}

impl Default for ModelRecipe {
    fn default() -> Self {
        Self {
            width: 128,
            layers: 2,
            query_heads: 4,
            key_value_heads: 2,
            hidden: None,
            context: 256,
            rope_theta: 10_000.0,
        }
    }
}

/// The model that a run starts from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseRecipe {
    /// The name of a model of the household, or the path of a file that ends in `.gguf` or `.safetensors`.
    pub model: String,
}

/// A low-rank adapter.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterRecipe {
    /// Its rank.
    pub rank: u32,
    /// Numerator of its factor; twice the rank where nothing is said.
    pub alpha: Option<f32>,
    /// The matrices that it changes in each layer, as `peft` names them; all seven where nothing is said.
    pub targets: Vec<AdapterTarget>,
}

impl Default for AdapterRecipe {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: None,
            targets: vec![
                AdapterTarget::Query,
                AdapterTarget::Key,
                AdapterTarget::Value,
                AdapterTarget::Output,
                AdapterTarget::Gate,
                AdapterTarget::Up,
                AdapterTarget::Down,
            ],
        }
    }
}

impl AdapterRecipe {
    fn shape(&self) -> Result<AdapterShape, RecipeError> {
        let mut targets = self.targets.clone();
        // A manifest has them in one order.
        targets.sort_unstable();
        let alpha = self.alpha.unwrap_or(2.0 * self.rank as f32);
        Ok(AdapterShape {
            rank: self.rank,
            alpha: fraction("adapter.alpha", alpha)?,
            targets,
        })
    }
}

/// How a model is trained.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingRecipe {
    /// Tokens of a window.
    pub window_tokens: u32,
    /// Windows of a step.
    pub windows: u32,
    /// `adamw` or `muon`; what fits where nothing is said.
    pub optimizer: Option<OptimizerRecipe>,
    /// The highest learning rate of AdamW; what suits the weights that are trained where nothing is said.
    pub rate: Option<f32>,
    /// The highest learning rate of Muon.
    pub muon_rate: f32,
}

/// An optimizer by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerRecipe {
    /// AdamW for all tensors.
    AdamW,
    /// Muon for matrices.
    Muon,
}

impl Default for TrainingRecipe {
    fn default() -> Self {
        Self {
            window_tokens: 128,
            windows: 16,
            optimizer: None,
            rate: None,
            muon_rate: 0.02,
        }
    }
}

/// Who trains.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DevicesRecipe {
    /// How many devices are expected.
    pub trainers: u32,
    /// Tokens that a slower one trains on in a second; guessed from the model where nothing is said.
    pub tokens_per_s: Option<f64>,
    /// Megabits that a slower one sends in a second.
    pub up_mbit: f64,
    /// Megabits that it receives in a second.
    pub down_mbit: f64,
    /// Whether their owners trust each other.
    pub trusted: bool,
}

impl Default for DevicesRecipe {
    fn default() -> Self {
        Self {
            trainers: 4,
            tokens_per_s: None,
            up_mbit: 10.0,
            down_mbit: 50.0,
            trusted: false,
        }
    }
}

/// How rounds go.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoundRecipe {
    /// Local steps; as many as the links ask for where nothing is said.
    pub steps: Option<u32>,
    /// Trainers without whom there is no round; half of those that are expected where nothing is said.
    pub quorum: Option<u32>,
    /// The most trainers of a round.
    pub trainers_max: u32,
    /// How long a round waits for others after its quorum, in seconds.
    pub grace_s: u32,
    /// How long one validator may take to propose a round, in seconds; four times the computing where nothing is said.
    pub attempt_s: Option<u32>,
    /// Whether trainers carry their optimizer from round to round.
    pub carry: bool,
}

impl Default for RoundRecipe {
    fn default() -> Self {
        Self {
            steps: None,
            quorum: None,
            trainers_max: 64,
            grace_s: 5,
            attempt_s: None,
            carry: true,
        }
    }
}

/// How work is checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditRecipe {
    /// Contributions of a thousand that are replayed.
    pub per_mille: u32,
    /// Rounds of a new trainer that are all replayed.
    pub newcomer_rounds: u32,
}

impl Default for AuditRecipe {
    fn default() -> Self {
        Self {
            per_mille: 100,
            newcomer_rounds: 2,
        }
    }
}

/// Why there is no run for a recipe.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file.
    #[error("the run's file cannot be read")]
    Toml(#[source] Box<toml::de::Error>),
    /// The data.
    #[error("{} is not the folder of a dataset", path.display())]
    Data {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<FolderError>,
    },
    /// No data, or with different tokenizers.
    #[error("{0}")]
    Datasets(&'static str),
    /// Parts of the file that cannot be together, or not alone.
    #[error("{0}")]
    Together(&'static str),
    /// The dataset was made with another tokenizer than the base has.
    #[error(
        "{} was made with a tokenizer of {found} tokens, and the model {base}, of {wanted} tokens, has another one", path.display()
    )]
    OtherTokenizer {
        /// The folder of the dataset.
        path: PathBuf,
        /// Tokens of its tokenizer.
        found: u32,
        /// The model that the run starts from.
        base: String,
        /// The tokens of that one.
        wanted: usize,
    },
    /// The tokenizer of a dataset is none that a model's file can state, so that it is not the base's.
    #[error("the tokenizer of {} is not that of the model {base}", path.display())]
    NoVocabulary {
        /// The folder of the dataset.
        path: PathBuf,
        /// The model that the run starts from.
        base: String,
        /// Why.
        #[source]
        source: VocabularyError,
    },
    /// A number that cannot stand in a manifest.
    #[error("{field} is {value}, which cannot stand in a manifest")]
    Number {
        /// Which.
        field: &'static str,
        /// What it is.
        value: f32,
        /// Why not.
        #[source]
        source: FractionError,
    },
    /// A learning rate at which nothing is learned.
    #[error("{field} is {value}, and a learning rate is above 0 and at most {RATE_MAX}")]
    Rate {
        /// Which.
        field: &'static str,
        /// What it is.
        value: f32,
    },
    /// The license is not named so that others can find it.
    #[error("{0:?} names no license")]
    License(String),
    /// Nothing fits.
    #[error("no run can be planned")]
    Planning(#[from] PlanningError),
    /// It cannot be funded so.
    #[error("the run cannot be funded so")]
    Funding(#[from] FundingTermsError),
    /// A value is out of range.
    #[error("no run can be made of the file")]
    Manifest(#[from] RunManifestError),
}

impl Advice for RecipeError {
    fn code(&self) -> &str {
        match self {
            Self::Toml(_) => "bad_run_file",
            Self::Data { .. } | Self::Datasets(_) => "bad_dataset",
            Self::Together(_) => "bad_run_file",
            Self::OtherTokenizer { .. } | Self::NoVocabulary { .. } => "other_tokenizer",
            Self::Funding(_) => "bad_funding",
            Self::License(_) => "bad_license",
            Self::Number { .. } | Self::Rate { .. } | Self::Planning(_) | Self::Manifest(_) => {
                "bad_run"
            }
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Toml(_) => "Correct that line; `hearth run create --help` has an example",
            Self::Data { .. } => "Make one with `hearth data import`, or name another with --data",
            Self::Funding(_) => "Correct that value under [funding] in the run's file",
            Self::Datasets(_) => "Import all texts with the same --tokenizer",
            Self::Together(_) => {
                "Correct the run's file; `hearth run create --help` has an example of each kind"
            }
            Self::OtherTokenizer { .. } | Self::NoVocabulary { .. } => {
                "Import the text again with `hearth data import --tokenizer`, and name the model's file there"
            }
            Self::License(_) => license::ADVICE,
            Self::Rate { .. } => {
                "Correct that value under [training] in the run's file, or leave it out: what suits the model is chosen then"
            }
            Self::Number { .. } | Self::Manifest(_) => "Correct that value in the run's file",
            Self::Planning(PlanningError::Adapter(_)) => {
                "Correct that value under [adapter] in the run's file"
            }
            Self::Planning(PlanningError::Model(_)) => {
                "Correct that value under [model] in the run's file"
            }
            Self::Planning(_) => {
                "Correct that value in the run's file, choose a smaller model, or say with [devices] how fast the links are"
            }
        }
        .to_owned()
    }
}

/// A run that was planned.
#[derive(Debug)]
pub struct PlannedRun {
    /// What it is.
    pub manifest: RunManifest,
    /// Why it is so, in sentences.
    pub reasons: Vec<String>,
    /// Bytes of a contribution.
    pub contribution_bytes: u64,
    /// The model that it starts from, and what is trained over it.
    pub base: Option<RunBase>,
    /// What it promises to funders; nothing where it takes no pledges.
    pub funding: Option<MakeFunding>,
}

/// The model of a run, what of it is trained, and where its weights come from.
struct Beginning {
    model: ModelShape,
    adapter: Option<AdapterShape>,
    start: RunStart,
}

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// [`RecipeError::Toml`], which names the line.
    pub fn read(text: &str) -> Result<Self, RecipeError> {
        toml::from_str(text).map_err(|error| RecipeError::Toml(Box::new(error)))
    }

    /// Returns the model that the run starts from, as the file names it.
    ///
    /// # Errors
    /// When the file says something that cannot be with it, or only with it.
    pub fn base(&self) -> Result<Option<&str>, RecipeError> {
        let why = match (&self.base, &self.model, &self.adapter, self.seed) {
            (Some(_), Some(_), _, _) => {
                "[base] and [model] are both there: a model that the run starts from has its own shape"
            }
            (Some(_), None, _, Some(_)) => {
                "[base] and seed are both there: weights that the run starts from are not drawn"
            }
            (None, _, Some(_), _) => {
                "[adapter] is there without [base]: an adapter is trained over a model that the run starts from"
            }
            _ => return Ok(self.base.as_ref().map(|base| base.model.as_str())),
        };
        Err(RecipeError::Together(why))
    }

    /// Plans the run over the datasets in `folders`, and over `base`, where [`Self::base`] names one.
    ///
    /// # Errors
    /// When the data cannot be read, or values make no run.
    pub fn plan(
        &self,
        folders: &[PathBuf],
        base: Option<&ChosenBase>,
    ) -> Result<PlannedRun, RecipeError> {
        self.check_license()?;
        let (datasets, vocabulary, held_out) = datasets(folders, self.training.window_tokens)?;
        if let (Some(base), Some(folder)) = (base, folders.first()) {
            // The others have the same.
            same_tokens(folder, base)?;
        }
        let beginning = self.beginning(vocabulary, base)?;
        let training = &self.training;
        let step_tokens = u64::from(training.window_tokens) * u64::from(training.windows);
        let plan = self.planned(&beginning, step_tokens)?;
        let steps = self.round.steps.unwrap_or(plan.steps);
        let compute_s = plan.compute_s;
        let method = match training.optimizer {
            Some(OptimizerRecipe::AdamW) => Method::AdamW,
            Some(OptimizerRecipe::Muon) => Method::Muon,
            None => plan.method,
        };
        let manifest = RunManifest {
            name: self.name.clone(),
            description: self.description.clone(),
            license: self.license.clone(),
            model: beginning.model,
            start: beginning.start,
            adapter: beginning.adapter,
            datasets,
            inner: InnerSettings {
                window_tokens: training.window_tokens,
                windows: training.windows,
                optimizer: self.optimizer(method, steps, base.is_some())?,
                clip_norm: fraction("clip norm", 1.0)?,
            },
            round: self.rounds_of(steps, compute_s),
            compression: compression(plan.compression)?,
            outer: OuterSettings {
                rate: fraction("outer rate", plan.outer_rate)?,
                momentum: None,
            },
            audit: AuditSettings {
                per_mille: self.audit.per_mille,
                newcomer_rounds: self.audit.newcomer_rounds,
            },
            evaluation: EvaluationSettings {
                windows: u32::try_from(held_out.clamp(1, MEASURED_WINDOWS)).unwrap_or(1),
            },
            shares: RunShares {
                trainers: 900,
                validators: 100,
                funders: 0,
            },
            rounds: self.rounds,
        };
        manifest.check()?;
        let funding = self.funding.as_ref();
        let funding = funding
            .map(|funding| funding.plan(self.rounds))
            .transpose()?;
        Ok(PlannedRun {
            base: base.and_then(|base| base::described(&manifest, Some(base.name.clone()))),
            manifest,
            reasons: plan.reasons.iter().map(ToString::to_string).collect(),
            contribution_bytes: plan.contribution_bytes,
            funding,
        })
    }

    fn check_license(&self) -> Result<(), RecipeError> {
        match license::is_license(&self.license) {
            true => Ok(()),
            false => Err(RecipeError::License(license::shown(&self.license))),
        }
    }

    fn beginning(
        &self,
        vocabulary: u32,
        base: Option<&ChosenBase>,
    ) -> Result<Beginning, RecipeError> {
        let Some(base) = base else {
            return Ok(Beginning {
                model: self.shape(vocabulary)?,
                adapter: None,
                start: RunStart::Fresh {
                    seed: self.seed.unwrap_or_default(),
                },
            });
        };
        let adapter = self.adapter.clone().unwrap_or_default();
        Ok(Beginning {
            model: base.shape,
            adapter: Some(adapter.shape()?),
            start: RunStart::Base {
                base: base.file,
                form: base.form,
            },
        })
    }

    fn planned(&self, beginning: &Beginning, step_tokens: u64) -> Result<Plan, RecipeError> {
        let (model, adapter) = (&beginning.model, beginning.adapter.as_ref());
        // A token takes two operations forward and four back for each weight; two back where the weight is frozen.
        let operations = if adapter.is_some() { 4.0 } else { 6.0 };
        let guess = OPERATIONS_PER_S / (operations * model.parameters().max(1) as f64);
        let devices = Devices {
            trainers: self.devices.trainers,
            tokens_per_s: self.devices.tokens_per_s.unwrap_or(guess),
            up_bits_per_s: self.devices.up_mbit * 1e6,
            down_bits_per_s: self.devices.down_mbit * 1e6,
            spread: Spread::Swarm,
            trust: match self.devices.trusted {
                true => Trust::Trusted,
                false => Trust::Strangers,
            },
        };
        // A number that no run may have is refused by its name in the manifest.
        let (rounds, steps) = (self.rounds, self.round.steps.map(|steps| steps.max(1)));
        let plan = hearth_workshop::plan(
            model,
            adapter,
            step_tokens,
            devices,
            SETTLE_S,
            rounds,
            steps,
        )?;
        Ok(plan)
    }

    fn shape(&self, vocabulary: u32) -> Result<ModelShape, RecipeError> {
        let model = self.model.clone().unwrap_or_default();
        let hidden = (model.width.saturating_mul(8) / 3)
            .div_ceil(32)
            .saturating_mul(32);
        Ok(ModelShape {
            vocabulary,
            width: model.width,
            layers: model.layers,
            query_heads: model.query_heads,
            key_value_heads: model.key_value_heads,
            head: model.width / model.query_heads.max(1),
            hidden: model.hidden.unwrap_or(hidden),
            context: model.context,
            rope_theta: fraction("model.rope_theta", model.rope_theta)?,
            norm_epsilon: fraction("norm epsilon", 1e-5)?,
            tied_head: true,
        })
    }

    /// The rate rises over the first fiftieth of the run, and falls to a tenth over its last half.
    fn rate(
        &self,
        field: &'static str,
        peak: f32,
        steps: u32,
    ) -> Result<RateSettings, RecipeError> {
        // What is no number is in no range either.
        if !(f32::MIN_POSITIVE..=RATE_MAX).contains(&peak) {
            return Err(RecipeError::Rate { field, value: peak });
        }
        let all = u64::from(self.rounds) * u64::from(steps);
        Ok(RateSettings {
            peak: fraction(field, peak)?,
            warmup_steps: (all / 50).max(1),
            decay_from_step: all / 2,
            decay_steps: all - all / 2,
            floor: fraction("rate floor", 0.1)?,
        })
    }

    fn optimizer(
        &self,
        method: Method,
        steps: u32,
        is_adapter: bool,
    ) -> Result<OptimizerSettings, RecipeError> {
        // What an adapter learns is small beside the weights under it, and decays to none of them.
        let (usual, decay) = match is_adapter {
            true => (ADAPTER_RATE, 0.0),
            false => (RATE, 0.1),
        };
        let rate = self.training.rate.unwrap_or(usual);
        let adamw = AdamWSettings {
            rate: self.rate("training.rate", rate, steps)?,
            beta1: fraction("beta1", 0.9)?,
            beta2: fraction("beta2", 0.95)?,
            epsilon: fraction("epsilon", 1e-8)?,
            decay: fraction("weight decay", decay)?,
        };
        Ok(match method {
            Method::AdamW => OptimizerSettings::AdamW(adamw),
            Method::Muon => OptimizerSettings::Muon(MuonSettings {
                rate: self.rate("training.muon_rate", self.training.muon_rate, steps)?,
                momentum: fraction("momentum", 0.95)?,
                decay: fraction("weight decay", decay)?,
                rest: adamw,
            }),
        })
    }

    fn rounds_of(&self, steps: u32, compute_s: f64) -> RoundSettings {
        let round = &self.round;
        // A proposer's time has room for training, twice over, and for everything after it.
        let attempt_s = (compute_s * 4.0 + f64::from(round.grace_s) + 4.0 * SETTLE_S).ceil();
        RoundSettings {
            steps,
            steps_min: steps.div_ceil(4),
            quorum: round.quorum.unwrap_or(self.devices.trainers.div_ceil(2)),
            trainers_max: round.trainers_max,
            grace_s: round.grace_s,
            attempt_s: round.attempt_s.unwrap_or(attempt_s as u32),
            carry: round.carry,
        }
    }
}

/// The datasets, their vocabulary, and the held-out windows that each of them has.
fn datasets(
    folders: &[PathBuf],
    window_tokens: u32,
) -> Result<(Vec<DatasetShare>, u32, u64), RecipeError> {
    let (mut shares, mut held_out) = (Vec::new(), u64::MAX);
    let mut tokenizer = None;
    let mut vocabulary = 0;
    for path in folders {
        let folder = Folder::open(path).map_err(|source| RecipeError::Data {
            path: path.clone(),
            source: Box::new(source),
        })?;
        let manifest = folder.manifest();
        if tokenizer.is_some_and(|other| other != manifest.tokenizer.blake3) {
            return Err(RecipeError::Datasets(
                "the datasets have different tokenizers",
            ));
        }
        tokenizer = Some(manifest.tokenizer.blake3);
        vocabulary = manifest.tokens.vocabulary;
        let windows = folder.windowed(WhichPart::HeldOut, window_tokens).count();
        held_out = held_out.min(windows.unwrap_or_default());
        shares.push(DatasetShare {
            id: ContentHash(folder.id().0),
            weight: 1,
        });
    }
    match shares.is_empty() {
        true => Err(RecipeError::Datasets(
            "a run needs a dataset: name its folder with --data",
        )),
        false => Ok((shares, vocabulary, held_out)),
    }
}

/// Checks that a dataset was made with the tokenizer of the model that the run starts from.
fn same_tokens(path: &Path, base: &ChosenBase) -> Result<(), RecipeError> {
    let tokenizer = Folder::open(path).and_then(|folder| folder.tokenizer());
    let tokenizer = tokenizer.map_err(|source| RecipeError::Data {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    let tokens = Vocabulary::of(&tokenizer).map_err(|source| RecipeError::NoVocabulary {
        path: path.to_owned(),
        base: base.name.clone(),
        source,
    })?;
    match tokens.has_tokens_of(&base.vocabulary) {
        true => Ok(()),
        false => Err(RecipeError::OtherTokenizer {
            path: path.to_owned(),
            found: tokenizer.vocabulary(),
            base: base.name.clone(),
            wanted: base.vocabulary.tokens().len(),
        }),
    }
}

fn compression(planned: Compression) -> Result<CompressionSettings, RecipeError> {
    let decay = fraction("decay", 0.95)?;
    Ok(match planned {
        Compression::TopK { k } => CompressionSettings::TopK { k, decay },
        Compression::Dense8 => CompressionSettings::Dense8 { decay },
        Compression::Dense4 => CompressionSettings::Dense4 { decay },
    })
}

fn fraction(field: &'static str, value: f32) -> Result<Fraction, RecipeError> {
    Fraction::new(value).map_err(|source| RecipeError::Number {
        field,
        value,
        source,
    })
}
