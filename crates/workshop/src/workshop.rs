//! Opening: a manifest, folders and limits are held against each other before any work begins.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_aggregation::Layout as Sections;
use hearth_datasets::folder::{Folder, FolderError, WhichPart};
use hearth_datasets::hash::Hash32;
use hearth_protocol::content::ContentHash;
use hearth_protocol::run::manifest::{RunManifest, RunStart};
use hearth_training::{AdapterLayout, Layout, Moments, StartError, Trainer, Weights};
use thiserror::Error;

use crate::checkpoint::{self, Checkpoint, CheckpointError};
use crate::local_state::{self, LocalState, LocalStateError};
use crate::memory::{Limits, RunMemory};
use crate::reading::Source;
use crate::settings::{Settings, SettingsError};

/// The model that a run starts from.
#[derive(Debug, Clone)]
pub struct Base {
    /// BLAKE3 of the file that the weights were read from.
    pub file: ContentHash,
    /// Its weights, in single precision.
    pub weights: Weights,
}

/// Why no work for a run can be done here.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The manifest.
    #[error("this program cannot compute for the run")]
    Settings(#[from] SettingsError),
    /// The training's settings.
    #[error("the run's training cannot start")]
    Training(#[from] StartError),
    /// More memory than there is.
    #[error(
        "the run takes {needed_bytes} bytes of memory, and {given_bytes} are given to it; it takes {memory}"
    )]
    Memory {
        /// What it takes with one window at a time.
        needed_bytes: u64,
        /// What it may take.
        given_bytes: u64,
        /// What for.
        memory: Box<RunMemory>,
    },
    /// A folder that is not a dataset's.
    #[error("{} is not the folder of a dataset", .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<FolderError>,
    },
    /// No folder has a dataset of the run.
    #[error("dataset {0} of the run is in none of the folders")]
    NoDataset(ContentHash),
    /// A dataset with more tokens than the model has.
    #[error("dataset {dataset} has a vocabulary of {found}, and the model one of {model}")]
    Vocabulary {
        /// Which.
        dataset: ContentHash,
        /// Its tokens.
        found: u32,
        /// The model's.
        model: u32,
    },
    /// A dataset that is too small for a round.
    #[error("dataset {dataset} has {there} {part} windows, and the run reads up to {wanted}")]
    Windows {
        /// Which.
        dataset: ContentHash,
        /// Which part of it.
        part: &'static str,
        /// The windows that it has.
        there: u64,
        /// The windows that are read at once.
        wanted: u64,
    },
    /// The base model is missing.
    #[error("the run starts from the model {0}, which was not given")]
    NoBase(ContentHash),
    /// Another model.
    #[error("the run does not start from the model that was given")]
    OtherBase,
    /// The base model has another shape.
    #[error("the model that the run starts from has not the shape that its manifest says")]
    BaseShape,
}

/// A run's work on this device.
#[derive(Debug)]
pub struct Workshop {
    pub(crate) settings: Settings,
    pub(crate) sources: Vec<Source>,
    /// The weights under an adapter.
    pub(crate) frozen: Option<Weights>,
    /// The weights of a base model that is trained whole.
    start: Option<Weights>,
    pub(crate) limits: Limits,
    pub(crate) memory: RunMemory,
}

impl Workshop {
    /// Returns what a run takes of the memory, before anything of it is there but its manifest.
    ///
    /// # Errors
    /// When this program cannot compute for the run.
    pub fn memory_of(manifest: &RunManifest, limits: &Limits) -> Result<RunMemory, OpenError> {
        Ok(RunMemory::of(&Settings::new(manifest)?, limits)?)
    }

    /// Returns what a run takes of the memory, if that is not more than there is: before its data and the model that it starts
    /// from are fetched.
    ///
    /// # Errors
    /// [`OpenError::Memory`] where it is more, or when this program cannot compute for the run.
    pub fn check_memory(manifest: &RunManifest, limits: &Limits) -> Result<RunMemory, OpenError> {
        fitting(&Settings::new(manifest)?, limits)
    }

    /// Returns the bytes of every contribution to a run, before anything of it is there but its manifest.
    ///
    /// # Errors
    /// When this program cannot compute for the run.
    pub fn contribution_bytes_of(manifest: &RunManifest) -> Result<u64, OpenError> {
        Ok(Settings::new(manifest)?.sections.bytes() as u64)
    }

    /// Returns the shape of a run's model, before anything of the run is there but its manifest.
    ///
    /// # Errors
    /// When this program cannot compute for the run.
    pub fn layout_of(manifest: &RunManifest) -> Result<Arc<Layout>, OpenError> {
        Ok(Settings::new(manifest)?.model)
    }

    /// Opens a run. `folders` are those of its datasets, in any order; others are not looked into beyond their manifest.
    /// `base` is the model that the run starts from: needed under an adapter, and for [`Workshop::first_state`].
    ///
    /// # Errors
    /// When something is missing, does not fit together, or takes more memory than there is.
    pub fn open(
        manifest: &RunManifest,
        folders: &[PathBuf],
        base: Option<Base>,
        limits: Limits,
    ) -> Result<Self, OpenError> {
        let settings = Settings::new(manifest)?;
        let memory = fitting(&settings, &limits)?;
        let sources = sources(&settings, folders)?;
        let base = check_base(&settings, base)?;
        let (frozen, start) = match (&settings.adapter, manifest.start) {
            (None, _) => (None, base),
            (Some(_), RunStart::Base { base: wanted, .. }) => {
                (Some(base.ok_or(OpenError::NoBase(wanted))?), None)
            }
            (Some(_), RunStart::Fresh { seed }) => {
                (Some(Weights::fresh(settings.model.tensors(), seed)), None)
            }
        };
        Ok(Self {
            settings,
            sources,
            frozen,
            start,
            limits,
            memory,
        })
    }

    /// Returns the run's manifest.
    #[must_use]
    pub fn manifest(&self) -> &RunManifest {
        &self.settings.manifest
    }

    /// Returns the manifest's name.
    #[must_use]
    pub fn manifest_hash(&self) -> ContentHash {
        self.settings.name
    }

    /// Returns what the work takes of the memory.
    #[must_use]
    pub fn memory(&self) -> &RunMemory {
        &self.memory
    }

    /// Returns the shape of the model.
    #[must_use]
    pub fn model(&self) -> &Arc<Layout> {
        &self.settings.model
    }

    /// Returns the shape of the adapter, where the run trains one.
    #[must_use]
    pub fn adapter(&self) -> Option<&Arc<AdapterLayout>> {
        self.settings.adapter.as_ref()
    }

    /// Returns the weights under the adapter, where the run trains one.
    #[must_use]
    pub fn frozen(&self) -> Option<&Weights> {
        self.frozen.as_ref()
    }

    /// Returns what contributions are made of.
    #[must_use]
    pub fn sections(&self) -> &Sections {
        &self.settings.sections
    }

    /// Returns the bytes of every contribution.
    #[must_use]
    pub fn contribution_bytes(&self) -> u64 {
        self.settings.sections.bytes() as u64
    }

    /// Returns the bytes of the longest checkpoint.
    #[must_use]
    pub fn checkpoint_bytes_max(&self) -> u64 {
        checkpoint::bytes_max(&self.settings)
    }

    /// Returns the bytes of every local state; none where nothing is carried.
    #[must_use]
    pub fn local_state_bytes(&self) -> Option<u64> {
        let carries = self.settings.manifest.round.carry;
        carries.then(|| local_state::bytes(&self.settings))
    }

    /// Makes the state before the first round.
    ///
    /// # Errors
    /// When the run starts from a model that was not given.
    pub fn first_state(&self) -> Result<Checkpoint, OpenError> {
        let tensors = self.settings.trained();
        let trained = match (&self.start, self.settings.manifest.start) {
            (Some(start), _) => start.clone(),
            (None, RunStart::Base { base, .. }) if self.settings.adapter.is_none() => {
                return Err(OpenError::NoBase(base));
            }
            (None, _) => Weights::fresh(tensors, self.settings.seed()),
        };
        let momentum = self.settings.manifest.outer.momentum;
        let velocity = momentum.map(|_| vec![0.0; tensors.len()]);
        Ok(Checkpoint::new(&self.settings, 0, trained, velocity))
    }

    /// Reads a checkpoint's file, which may be a stranger's. Its hash says which state it is.
    ///
    /// # Errors
    /// When the bytes are not a checkpoint of this run.
    pub fn read_checkpoint(&self, from: &mut dyn Read) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::read(&self.settings, from)
    }

    /// Writes a checkpoint's file, and returns its name.
    ///
    /// # Errors
    /// When the system does not take it.
    pub fn write_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        to: &mut dyn Write,
    ) -> io::Result<ContentHash> {
        checkpoint.written(&self.settings, to)
    }

    /// Reads a local state's file, which may be a stranger's.
    ///
    /// # Errors
    /// When the bytes are not one of a trainer of this run.
    pub fn read_local_state(&self, from: &mut dyn Read) -> Result<LocalState, LocalStateError> {
        LocalState::read(&self.settings, from)
    }
}

impl Workshop {
    /// Starts the training of a round from a state, with moments that were carried or none.
    pub(crate) fn trainer(
        &self,
        parent: &Checkpoint,
        round: u32,
        moments: Option<Moments>,
    ) -> Result<Trainer, StartError> {
        let own_steps = moments.as_ref().map_or(0, |moments| moments.steps);
        let (together, threads) = (self.memory.windows_together, self.limits.threads);
        let training = self.settings.training(round, own_steps, together, threads);
        let (model, trained) = (&self.settings.model, parent.trained.clone());
        let mut trainer = match (&self.settings.adapter, &self.frozen) {
            (Some(adapter), Some(frozen)) => {
                Trainer::start_adapter(model, frozen.clone(), (adapter, trained), training)?
            }
            _ => Trainer::start(model, trained, training)?,
        };
        if moments.is_some() {
            trainer.begin_round(parent.trained.clone(), moments)?;
        }
        Ok(trainer)
    }
}

fn fitting(settings: &Settings, limits: &Limits) -> Result<RunMemory, OpenError> {
    let memory = RunMemory::of(settings, limits)?;
    if memory.total_bytes() > limits.memory_bytes {
        return Err(OpenError::Memory {
            needed_bytes: memory.total_bytes(),
            given_bytes: limits.memory_bytes,
            memory: Box::new(memory),
        });
    }
    Ok(memory)
}

/// Checks that a base model is the one that the manifest names.
fn check_base(settings: &Settings, base: Option<Base>) -> Result<Option<Weights>, OpenError> {
    let Some(base) = base else { return Ok(None) };
    match settings.manifest.start {
        RunStart::Base { base: wanted, .. } if wanted == base.file => {}
        _ => return Err(OpenError::OtherBase),
    }
    if base.weights.tensors() != settings.model.tensors() {
        return Err(OpenError::BaseShape);
    }
    Ok(Some(base.weights))
}

/// Finds the run's datasets, in the manifest's order.
fn sources(settings: &Settings, folders: &[PathBuf]) -> Result<Vec<Source>, OpenError> {
    let open = |path: &PathBuf| -> Result<(PathBuf, Folder), OpenError> {
        let folder = Folder::open(path).map_err(|source| OpenError::Folder {
            path: path.clone(),
            source: Box::new(source),
        })?;
        Ok((path.clone(), folder))
    };
    let folders = folders.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let datasets = settings.manifest.datasets.iter().enumerate();
    let found = datasets.map(|(index, share)| {
        let is_it = |(_, folder): &&(PathBuf, Folder)| folder.id() == Hash32(share.id.0);
        let (root, folder) = folders
            .iter()
            .find(is_it)
            .ok_or(OpenError::NoDataset(share.id))?;
        source(settings, index, root, folder)
    });
    found.collect()
}

/// Checks a dataset against the manifest.
fn source(
    settings: &Settings,
    index: usize,
    root: &Path,
    folder: &Folder,
) -> Result<Source, OpenError> {
    let dataset = settings.manifest.datasets[index].id;
    let (found, model) = (
        folder.manifest().tokens.vocabulary,
        settings.manifest.model.vocabulary,
    );
    if found > model {
        return Err(OpenError::Vocabulary {
            dataset,
            found,
            model,
        });
    }
    let window_tokens = settings.manifest.inner.window_tokens;
    let source = Source {
        root: root.to_owned(),
        training: folder.windowed(WhichPart::Training, window_tokens),
        held_out: folder.windowed(WhichPart::HeldOut, window_tokens),
    };
    let measured = settings.manifest.evaluation.windows.into();
    let parts = [
        (
            "training",
            source.training,
            settings.manifest.round_bounds().windows,
        ),
        ("held-out", source.held_out, measured),
    ];
    for (part, windowed, count) in parts {
        let there = windowed.count().expect("a manifest's window has a size");
        let wanted = settings.mixture.most_of(index, count);
        if there < wanted {
            return Err(OpenError::Windows {
                dataset,
                part,
                there,
                wanted,
            });
        }
    }
    Ok(source)
}
