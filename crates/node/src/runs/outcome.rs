//! What comes out of a run: model files that other programs run, and a manifest that says who made them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use alloy_primitives::{Address, B256, hex};
use hearth_api::runs::RunExported;
use hearth_datasets::folder::{Folder, FolderError};
use hearth_datasets::hash::Hash32;
use hearth_outcome::gguf::{Precision, WriteError, write_adapter, write_model};
use hearth_outcome::manifest::{
    Account, BaseModel, Decimal, Evaluation, HolderRecord, ManifestError, ModelFile, ModelManifest,
    RunRecord, SHARES, TrainerRecord, apportion,
};
use hearth_outcome::transformers::{FolderWriteError, write_adapter_folder, write_folder};
use hearth_outcome::{
    Label, MergeError, TrainedAdapter, TrainedModel, Vocabulary, VocabularyError, merge, seal_file,
};
use hearth_protocol::content::ContentHash;
use hearth_protocol::run::manifest::RunManifest;
use hearth_protocol::run::pay::{self, Credit, PaidRun, PayState};
use hearth_workshop::{Checkpoint, CheckpointError, MeasureError, Measured, Weights};
use thiserror::Error;

use super::base::{self, BaseFacts, BasePlaces};
use super::folder::{RunFolder, RunFolderError};
use super::task::OpenedWork;
use crate::advice::Advice;

/// The file that llama.cpp runs.
pub(super) const GGUF_FILE: &str = "model.gguf";
/// The file that llama.cpp puts over the base.
pub(super) const ADAPTER_GGUF_FILE: &str = "adapter.gguf";
/// What is measured.
pub(super) const HELD_OUT_LOSS: &str = "held-out loss";
/// The manifest.
pub(super) const MANIFEST_FILE: &str = "hearth-model.json";

/// Why no model comes out.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum OutcomeError {
    /// The run's folder.
    #[error(transparent)]
    Folder(#[from] RunFolderError),
    /// The run has no rounds, or their state is not here.
    #[error("the weights of the run are not on this device yet")]
    NoState,
    /// What was recorded does not fit together.
    #[error("the books of the run do not follow each other")]
    Books(#[from] hearth_protocol::run::history::HistoryError),
    /// There is nothing to work in.
    #[error("the run trains all weights of its model: it has no adapter to merge")]
    NoAdapter,
    /// The adapter.
    #[error("the adapter cannot be worked into the weights under it")]
    Merge(#[from] MergeError),
    /// The weights.
    #[error("the weights of the run cannot be read")]
    Checkpoint(#[from] CheckpointError),
    /// Measuring.
    #[error("the model cannot be measured")]
    Measure(#[from] MeasureError),
    /// The data.
    #[error("the tokenizer of the run cannot be read")]
    Data(#[from] FolderError),
    /// The tokenizer.
    #[error("the tokenizer cannot be put into a model's file")]
    Vocabulary(#[from] VocabularyError),
    /// The file for llama.cpp.
    #[error("the GGUF file is not written")]
    Gguf(#[from] WriteError),
    /// The folder for Python programs.
    #[error("the files for transformers are not written")]
    Transformers(#[from] FolderWriteError),
    /// The manifest.
    #[error("the model's manifest cannot be written")]
    Manifest(#[from] ManifestError),
    /// There is something already.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// The disk.
    #[error("{} cannot be written", path.display())]
    Write {
        /// The path that failed.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Advice for OutcomeError {
    fn code(&self) -> &str {
        match self {
            Self::Folder(error) => error.code(),
            Self::NoState => "no_state",
            Self::Exists(_) => "exists",
            Self::NoAdapter => "no_adapter",
            _ => "not_exported",
        }
    }

    fn next_step(&self) -> String {
        match self {
            Self::Folder(error) => error.next_step(),
            Self::NoState => {
                "Wait until a round is recorded; `hearth run show` says when".to_owned()
            }
            Self::Exists(_) => "Name another folder with --out".to_owned(),
            Self::NoAdapter => "Leave --merged out".to_owned(),
            _ => "Check that the disk has room, and that the run's data are whole".to_owned(),
        }
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> OutcomeError {
    move |source| OutcomeError::Write {
        path: path.to_owned(),
        source,
    }
}

/// What is written of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutcomeForm {
    /// The model, all of whose weights were trained.
    Whole,
    /// The adapter.
    Adapter,
    /// The model under an adapter, with the adapter worked in.
    Merged,
}

impl OutcomeForm {
    /// The file for llama.cpp.
    pub(super) fn gguf(self) -> &'static str {
        match self {
            Self::Adapter => ADAPTER_GGUF_FILE,
            Self::Whole | Self::Merged => GGUF_FILE,
        }
    }
}

/// What a model is made of.
pub(crate) struct Outcome {
    pub(crate) folder: RunFolder,
    pub(crate) paid: PaidRun,
    pub(crate) state: B256,
    pub(crate) work: OpenedWork,
    pub(crate) datasets: PathBuf,
    pub(crate) bases: BasePlaces,
    pub(crate) epoch_s: u64,
}

impl Outcome {
    /// What is written.
    ///
    /// # Errors
    /// When an adapter is asked to be worked in, and there is none.
    pub(crate) fn form(&self, merged: bool) -> Result<OutcomeForm, OutcomeError> {
        match (self.work.workshop.adapter(), merged) {
            (None, false) => Ok(OutcomeForm::Whole),
            (None, true) => Err(OutcomeError::NoAdapter),
            (Some(_), false) => Ok(OutcomeForm::Adapter),
            (Some(_), true) => Ok(OutcomeForm::Merged),
        }
    }

    /// Writes the model of the last recorded round into `out`, a folder that is made. It blocks.
    ///
    /// # Errors
    /// When the weights are not here, or files cannot be written.
    pub(crate) fn write(
        &self,
        out: &Path,
        form: OutcomeForm,
        precision: Precision,
    ) -> Result<RunExported, OutcomeError> {
        if out.exists() {
            return Err(OutcomeError::Exists(out.to_owned()));
        }
        let workshop = &*self.work.workshop;
        let manifest = workshop.manifest();
        let path = self.folder.file(ContentHash(self.state.0));
        let file = File::open(&path).map_err(|_| OutcomeError::NoState)?;
        let checkpoint = workshop.read_checkpoint(&mut BufReader::new(file))?;
        if checkpoint.hash().0 != self.state.0 {
            return Err(RunFolderError::OtherFile { path }.into());
        }
        let measured = workshop.held_out_loss(&checkpoint, &mut |_| ControlFlow::Continue(()))?;
        let data = manifest.datasets.first().ok_or(OutcomeError::NoState)?;
        let data = self.datasets.join(data.id.to_string());
        let written = Written {
            work: &self.work,
            checkpoint: &checkpoint,
            data: &data,
            form,
        };
        let names = written.files(out, precision)?;
        let stated = self.stated(form, sealed(out, names)?, &measured)?;
        let bytes = stated.to_bytes()?;
        let path = out.join(MANIFEST_FILE);
        std::fs::write(&path, &bytes).map_err(failed(&path))?;
        Ok(RunExported {
            run: hex::encode(self.folder.run()),
            folder: out.display().to_string(),
            gguf: out.join(form.gguf()).display().to_string(),
            over: match form {
                OutcomeForm::Adapter => {
                    base::shown(manifest, &self.bases, self.work.base.as_deref())
                }
                OutcomeForm::Whole | OutcomeForm::Merged => None,
            },
            model: ModelManifest::id(&bytes).to_string(),
            name: stated.label.name,
            rounds: stated.run.map_or(0, |run| run.last_round + 1),
            held_out_loss: measured.loss,
        })
    }

    /// What the model's manifest says.
    fn stated(
        &self,
        form: OutcomeForm,
        files: Vec<ModelFile>,
        measured: &Measured,
    ) -> Result<ModelManifest, OutcomeError> {
        let workshop = &*self.work.workshop;
        let manifest = workshop.manifest();
        let last = self.paid.last_round().ok_or(OutcomeError::NoState)?;
        let (trainers, validators) = holders(&self.paid, manifest, self.epoch_s)?;
        let datasets = datasets_of(manifest);
        Ok(ModelManifest {
            label: label_of(manifest),
            architecture: *workshop.model().architecture(),
            adapter: match (form, workshop.adapter()) {
                (OutcomeForm::Adapter, Some(layout)) => Some(layout.adapter().clone()),
                _ => None,
            },
            files,
            base: base_of(self.work.base.as_deref()),
            run: Some(RunRecord {
                id: Hash32(self.folder.run().0),
                manifest: Hash32(workshop.manifest_hash().0),
                first_round: 0,
                last_round: last.book.index,
                state: Hash32(self.state.0),
            }),
            evaluations: vec![evaluation(
                *datasets.first().ok_or(OutcomeError::NoState)?,
                measured,
            )?],
            datasets,
            trainers,
            validators,
            funders: Vec::new(),
        })
    }
}

/// What a run's manifest lets people say of the model.
pub(super) fn label_of(manifest: &RunManifest) -> Label {
    Label {
        name: manifest.name.clone(),
        description: Some(manifest.description.clone()).filter(|text| !text.is_empty()),
        license: manifest.license.clone(),
    }
}

/// What a model's manifest says of the one that its run started from.
pub(super) fn base_of(facts: Option<&BaseFacts>) -> Option<BaseModel> {
    facts.map(|facts| BaseModel {
        name: facts.name.clone(),
        hash: Hash32(facts.file.0),
    })
}

/// A state of a run that is written as files.
pub(super) struct Written<'a> {
    pub(super) work: &'a OpenedWork,
    pub(super) checkpoint: &'a Checkpoint,
    /// The folder of the run's first dataset, whose tokenizer the model has.
    pub(super) data: &'a Path,
    pub(super) form: OutcomeForm,
}

impl Written<'_> {
    /// Writes all files but the manifest into a folder, which is made, and returns their names.
    ///
    /// # Errors
    /// When the tokenizer cannot be read, or a file cannot be written.
    pub(super) fn files(
        &self,
        out: &Path,
        precision: Precision,
    ) -> Result<Vec<&'static str>, OutcomeError> {
        match self.form {
            OutcomeForm::Adapter => self.adapter_files(out),
            OutcomeForm::Whole | OutcomeForm::Merged => self.model_files(out, precision),
        }
    }

    /// The weights of the whole model.
    ///
    /// # Errors
    /// When an adapter makes numbers that are none.
    pub(super) fn weights(&self) -> Result<Cow<'_, Weights>, OutcomeError> {
        let (workshop, trained) = (&self.work.workshop, self.checkpoint.trained());
        match (workshop.adapter(), workshop.frozen()) {
            (Some(adapter), Some(frozen)) => Ok(Cow::Owned(merge(frozen, adapter, trained)?)),
            _ => Ok(Cow::Borrowed(trained)),
        }
    }

    fn model_files(
        &self,
        out: &Path,
        precision: Precision,
    ) -> Result<Vec<&'static str>, OutcomeError> {
        let tokenizer = Folder::open(self.data)?.tokenizer()?;
        // The file of a base also says how its model converses.
        let of_base = self.work.base.as_ref();
        let of_base = of_base.and_then(|facts| facts.vocabulary.clone());
        let vocabulary = match of_base {
            Some(vocabulary) => vocabulary,
            None => Vocabulary::of(&tokenizer)?,
        };
        let model = TrainedModel {
            layout: self.work.workshop.model(),
            weights: &*self.weights()?,
            vocabulary: &vocabulary,
            label: &label_of(self.work.workshop.manifest()),
        };
        std::fs::create_dir_all(out).map_err(failed(out))?;
        let mut names = write_folder(&model, Some(tokenizer.json()), out)?;
        write_gguf(&out.join(GGUF_FILE), |to| {
            write_model(&model, precision, to)
        })?;
        names.push(GGUF_FILE);
        Ok(names)
    }

    fn adapter_files(&self, out: &Path) -> Result<Vec<&'static str>, OutcomeError> {
        let workshop = &self.work.workshop;
        let adapter = TrainedAdapter {
            base: workshop.model(),
            layout: workshop.adapter().ok_or(OutcomeError::NoAdapter)?,
            weights: self.checkpoint.trained(),
            label: &label_of(workshop.manifest()),
        };
        let base = self.work.base.as_ref();
        let base = base.map_or_else(String::new, |facts| facts.name.clone());
        std::fs::create_dir_all(out).map_err(failed(out))?;
        let mut names = write_adapter_folder(&adapter, &base, out)?;
        write_gguf(&out.join(ADAPTER_GGUF_FILE), |to| {
            write_adapter(&adapter, to)
        })?;
        names.push(ADAPTER_GGUF_FILE);
        Ok(names)
    }
}

fn write_gguf(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<u64, WriteError>,
) -> Result<(), OutcomeError> {
    let file = File::create(path).map_err(failed(path))?;
    let mut to = BufWriter::new(file);
    write(&mut to)?;
    to.flush().map_err(failed(path))
}

/// What held-out text says of a model.
pub(super) fn evaluation(suite: Hash32, measured: &Measured) -> Result<Evaluation, OutcomeError> {
    Ok(Evaluation {
        suite,
        measure: HELD_OUT_LOSS.to_owned(),
        value: decimal(measured.loss)?,
        items: measured.windows.into(),
        report: None,
    })
}

/// The ids of a run's datasets, as a model's manifest has them.
pub(super) fn datasets_of(manifest: &RunManifest) -> Vec<Hash32> {
    let datasets = manifest.datasets.iter();
    let mut datasets: Vec<_> = datasets.map(|dataset| Hash32(dataset.id.0)).collect();
    datasets.sort_unstable_by_key(|id| id.0);
    datasets
}

/// Who made the model, by the work that validators let stand.
///
/// # Errors
/// When the books do not follow each other.
pub(super) fn holders(
    paid: &PaidRun,
    manifest: &RunManifest,
    epoch_s: u64,
) -> Result<(Vec<TrainerRecord>, Vec<HolderRecord>), OutcomeError> {
    let (shares, inner) = (&manifest.shares, &manifest.inner);
    let step_tokens = u64::from(inner.windows) * u64::from(inner.window_tokens);
    let through = paid.rounds.last().map_or(0, |last| last.epoch);
    let credits = pay::credits(std::slice::from_ref(paid), through, epoch_s)?;
    let steps = |credit: &Credit| {
        let place = usize::try_from(credit.index).unwrap_or(usize::MAX);
        let round = paid.rounds.get(place);
        let member = round.and_then(|round| {
            let mut members = round.book.members.iter();
            members.find(|member| member.trainer == credit.trainer)
        });
        member.map_or(0, |member| u64::from(member.work.steps))
    };
    let (mut trained, mut replayed) = (BTreeMap::new(), BTreeMap::new());
    for credit in &credits {
        let sums: &mut BTreeMap<Address, u64> = match credit.is_replay {
            true => &mut replayed,
            false if matches!(credit.state, PayState::Refused(_)) => continue,
            false => &mut trained,
        };
        let work = match credit.is_replay {
            true => 1,
            false => steps(credit).saturating_mul(step_tokens),
        };
        let sum = sums.entry(credit.account).or_default();
        *sum = sum.saturating_add(work);
    }
    // Where nobody replayed, or nobody funds, the others have their part.
    let checked = if replayed.is_empty() {
        0
    } else {
        shares.validators
    };
    let parts = apportion(SHARES, &[shares.trainers.into(), checked.into()]);
    let of = |sums: &BTreeMap<Address, u64>, whole: u32| {
        let works: Vec<u64> = sums.values().copied().collect();
        apportion(whole, &works)
    };
    let (trainer_shares, validator_shares) = (of(&trained, parts[0]), of(&replayed, parts[1]));
    let trainers = trained.iter().zip(trainer_shares);
    let validators = replayed.iter().zip(validator_shares);
    Ok((
        trainers
            .map(|((account, token_steps), share)| TrainerRecord {
                account: Account(account.0.0),
                token_steps: *token_steps,
                share,
            })
            .collect(),
        validators
            .map(|((account, _), share)| HolderRecord {
                account: Account(account.0.0),
                share,
            })
            .collect(),
    ))
}

/// The files of a folder, by name, with their lengths and hashes.
pub(super) fn sealed(folder: &Path, mut names: Vec<&str>) -> Result<Vec<ModelFile>, OutcomeError> {
    names.sort_unstable();
    let files = names.into_iter().map(|name| {
        let path = folder.join(name);
        Ok(ModelFile {
            path: name.to_owned(),
            seal: seal_file(&path).map_err(failed(&path))?,
        })
    });
    files.collect()
}

/// A loss with six digits behind the point, in a manifest's form.
fn decimal(loss: f64) -> Result<Decimal, OutcomeError> {
    let text = format!("{loss:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    Ok(Decimal::new(text)?)
}
