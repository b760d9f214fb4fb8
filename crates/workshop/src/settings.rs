//! What a manifest means to those who compute: its values in the types of `training` and `aggregation`.

use std::sync::Arc;

use hearth_aggregation::{
    Compression, Layout as Sections, LayoutError, OuterError, OuterStep, TensorShape,
};
use hearth_protocol::content::ContentHash;
use hearth_protocol::run::manifest::{
    AdamWSettings, AdapterShape, AdapterTarget, CompressionSettings, Fraction, FractionError,
    ModelShape, OptimizerSettings, RateSettings, RunManifest, RunManifestError, RunStart,
};
use hearth_training::{
    AdamW, Adapter, AdapterError, AdapterLayout, Architecture, ArchitectureError, Layout, Muon,
    Optimizer, Path, RateSchedule, Target, Tensors, Training,
};
use thiserror::Error;

use crate::mixture::Mixture;

/// A manifest that this program cannot compute for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A value is out of range.
    #[error("the run's manifest is not sound")]
    Manifest(#[from] RunManifestError),
    /// The model.
    #[error("the run's model cannot be trained here")]
    Model(#[from] ArchitectureError),
    /// The adapter.
    #[error("the run's adapter cannot be trained here")]
    Adapter(#[from] AdapterError),
    /// The tensors.
    #[error("the run's tensors cannot be sent")]
    Sections(#[from] LayoutError),
    /// The outer step.
    #[error("the run's outer step makes no sense")]
    Outer(#[from] OuterError),
}

/// Everything that follows from a manifest alone.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) manifest: RunManifest,
    /// Its name.
    pub(crate) name: ContentHash,
    pub(crate) model: Arc<Layout>,
    pub(crate) adapter: Option<Arc<AdapterLayout>>,
    /// What contributions are made of.
    pub(crate) sections: Sections,
    pub(crate) outer: OuterStep,
    pub(crate) mixture: Mixture,
}

impl Settings {
    pub(crate) fn new(manifest: &RunManifest) -> Result<Self, SettingsError> {
        let name = manifest.hash()?;
        let model = Arc::new(Layout::new(architecture(&manifest.model))?);
        let adapter = match &manifest.adapter {
            Some(shape) => Some(Arc::new(AdapterLayout::new(&model, adapter_of(shape))?)),
            None => None,
        };
        let trained = adapter.as_ref().map_or(model.tensors(), |a| a.tensors());
        let shapes = trained.list().iter().map(tensor_shape).collect();
        let sections = Sections::new(shapes, compression(&manifest.compression))?;
        let momentum = manifest.outer.momentum.map(|momentum| momentum.get());
        let outer = OuterStep::new(manifest.outer.rate.get(), momentum)?;
        let weights: Vec<u32> = manifest.datasets.iter().map(|data| data.weight).collect();
        Ok(Self {
            manifest: manifest.clone(),
            name,
            model,
            adapter,
            sections,
            outer,
            mixture: Mixture::new(&weights),
        })
    }

    /// Returns the tensors that are trained: the adapter's, or else the model's.
    pub(crate) fn trained(&self) -> &Arc<Tensors> {
        let of_model = self.model.tensors();
        self.adapter.as_ref().map_or(of_model, |a| a.tensors())
    }

    /// Returns what fresh numbers are drawn from: those of an adapter over a base model are drawn from zero.
    pub(crate) fn seed(&self) -> u64 {
        match self.manifest.start {
            RunStart::Fresh { seed } => seed,
            RunStart::Base { .. } => 0,
        }
    }

    /// Returns the training of a round for a trainer whose optimizer has taken `own_steps` so far.
    pub(crate) fn training(
        &self,
        round: u32,
        own_steps: u64,
        together: usize,
        threads: usize,
    ) -> Training {
        let inner = &self.manifest.inner;
        let steps = self.manifest.round.steps;
        let rate = |rate: &RateSettings| round_rate(rate, round, steps, own_steps);
        let optimizer = match &inner.optimizer {
            OptimizerSettings::AdamW(adam) => Optimizer::AdamW(adamw(adam, rate(&adam.rate))),
            OptimizerSettings::Muon(muon) => Optimizer::Muon(Muon {
                rate: rate(&muon.rate),
                momentum: muon.momentum.get(),
                decay: muon.decay.get(),
                rest: adamw(&muon.rest, rate(&muon.rest.rate)),
            }),
        };
        Training {
            tokens: inner.window_tokens as usize,
            windows: inner.windows as usize,
            windows_together: together,
            optimizer,
            clip_norm: inner.clip_norm.get(),
            threads,
            path: Path::fastest(),
        }
    }

    /// Returns how many numbers the optimizer's second moments are.
    pub(crate) fn second_len(&self) -> usize {
        let muon = matches!(self.manifest.inner.optimizer, OptimizerSettings::Muon(_));
        let has = self.trained().list().iter().filter(|tensor| {
            let turned = muon && tensor.role == hearth_training::Role::Matrix;
            !turned
        });
        has.map(|tensor| tensor.range().len()).sum()
    }
}

/// Returns the rates of a round (spec: 16 runs, section 2.3). They depend on the round and on nothing that a trainer did
/// before: `own_steps`, which its optimizer counts, is only where its count begins.
#[must_use]
pub fn round_rate(rate: &RateSettings, round: u32, steps: u32, own_steps: u64) -> RateSchedule {
    let run = RateSchedule {
        peak: rate.peak.get(),
        warmup_steps: rate.warmup_steps,
        decay_from_step: rate.decay_from_step,
        decay_steps: rate.decay_steps,
        floor: rate.floor.get(),
    };
    if round == 0 {
        return run;
    }
    let begin = u64::from(round) * u64::from(steps);
    let (first, last) = (run.at(begin), run.at(begin + u64::from(steps)));
    if last < first {
        RateSchedule {
            peak: first as f32,
            warmup_steps: 0,
            decay_from_step: own_steps,
            decay_steps: steps.into(),
            floor: (last / first) as f32,
        }
    } else {
        RateSchedule::constant(last as f32)
    }
}

fn adamw(settings: &AdamWSettings, rate: RateSchedule) -> AdamW {
    AdamW {
        rate,
        beta1: settings.beta1.get(),
        beta2: settings.beta2.get(),
        epsilon: settings.epsilon.get(),
        decay: settings.decay.get(),
    }
}

/// Returns the shape that a manifest states of a model that was read.
///
/// # Errors
/// When one of its numbers has a sign, or is none.
pub fn shape_of(model: &Layout) -> Result<ModelShape, FractionError> {
    let a = model.architecture();
    let size = |size: usize| u32::try_from(size).expect("a checked model's sizes are small");
    Ok(ModelShape {
        vocabulary: size(a.vocabulary),
        width: size(a.width),
        layers: size(a.layers),
        query_heads: size(a.query_heads),
        key_value_heads: size(a.key_value_heads),
        head: size(a.head),
        hidden: size(a.hidden),
        context: size(a.context),
        rope_theta: Fraction::new(a.rope_theta)?,
        norm_epsilon: Fraction::new(a.norm_epsilon)?,
        tied_head: a.tied_head,
    })
}

pub(crate) fn architecture(shape: &ModelShape) -> Architecture {
    let size = |value: u32| value as usize;
    Architecture {
        vocabulary: size(shape.vocabulary),
        width: size(shape.width),
        layers: size(shape.layers),
        query_heads: size(shape.query_heads),
        key_value_heads: size(shape.key_value_heads),
        head: size(shape.head),
        hidden: size(shape.hidden),
        context: size(shape.context),
        rope_theta: shape.rope_theta.get(),
        norm_epsilon: shape.norm_epsilon.get(),
        tied_head: shape.tied_head,
    }
}

/// Returns what `peft` calls the matrices that an adapter changes.
pub fn target_names(shape: &AdapterShape) -> impl Iterator<Item = &'static str> {
    shape.targets.iter().map(|target| target_of(target).name())
}

fn target_of(target: &AdapterTarget) -> Target {
    match target {
        AdapterTarget::Query => Target::Query,
        AdapterTarget::Key => Target::Key,
        AdapterTarget::Value => Target::Value,
        AdapterTarget::Output => Target::Output,
        AdapterTarget::Gate => Target::Gate,
        AdapterTarget::Up => Target::Up,
        AdapterTarget::Down => Target::Down,
    }
}

pub(crate) fn adapter_of(shape: &AdapterShape) -> Adapter {
    Adapter {
        rank: shape.rank as usize,
        alpha: shape.alpha.get(),
        targets: shape.targets.iter().map(target_of).collect(),
    }
}

fn compression(settings: &CompressionSettings) -> Compression {
    match *settings {
        CompressionSettings::TopK { k, .. } => Compression::TopK { k },
        CompressionSettings::Dense8 { .. } => Compression::Dense8,
        CompressionSettings::Dense4 { .. } => Compression::Dense4,
    }
}

pub(crate) fn tensor_shape(tensor: &hearth_training::Tensor) -> TensorShape {
    let size = |size: usize| u32::try_from(size).expect("a checked model's sizes are small");
    match tensor.shape()[..] {
        [values] => TensorShape::Vector {
            values: size(values),
        },
        _ => TensorShape::Matrix {
            rows: size(tensor.rows),
            columns: size(tensor.columns),
        },
    }
}
