//! What comes out of a run: model files that other programs run, and a manifest that says who made them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use alloy_primitives::{Address, B256, hex};
use hearth_api::runs::RunExported;
use hearth_datasets::folder::{Folder, FolderError};
use hearth_datasets::hash::Hash32;
use hearth_outcome::gguf::{Precision, WriteError, write_model};
use hearth_outcome::manifest::{
    Account, Decimal, Evaluation, HolderRecord, ManifestError, ModelFile, ModelManifest, RunRecord,
    SHARES, TrainerRecord, apportion,
};
use hearth_outcome::transformers::{FolderWriteError, write_folder};
use hearth_outcome::{Label, TrainedModel, Vocabulary, VocabularyError, seal_file};
use hearth_protocol::content::ContentHash;
use hearth_protocol::run::manifest::RunManifest;
use hearth_protocol::run::pay::{self, Credit, PaidRun, PayState};
use hearth_workshop::{
    Checkpoint, CheckpointError, Limits, MeasureError, Measured, OpenError, Workshop,
};
use thiserror::Error;

use super::folder::{RunFolder, RunFolderError};
use crate::advice::Advice;

/// The file that llama.cpp runs.
pub(super) const GGUF_FILE: &str = "model.gguf";
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
    /// Adapters are not written yet.
    #[error("this version writes whole models, and the run trains an adapter")]
    Adapter,
    /// The run cannot be opened.
    #[error("the run cannot be opened on this device")]
    Open(#[from] OpenError),
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
            Self::Adapter => "adapter",
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
            Self::Adapter => "Wait for a later version".to_owned(),
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

/// What a model is made of.
pub(crate) struct Outcome {
    pub(crate) folder: RunFolder,
    pub(crate) paid: PaidRun,
    pub(crate) state: B256,
    pub(crate) datasets: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) epoch_s: u64,
}

impl Outcome {
    /// Writes the model of the last recorded round into `out`, a folder that is made. It blocks.
    ///
    /// # Errors
    /// When the weights are not here, or files cannot be written.
    pub(crate) fn write(
        &self,
        out: &Path,
        precision: Precision,
    ) -> Result<RunExported, OutcomeError> {
        if out.exists() {
            return Err(OutcomeError::Exists(out.to_owned()));
        }
        let manifest = self.folder.manifest()?.ok_or(OutcomeError::NoState)?;
        if manifest.adapter.is_some() {
            return Err(OutcomeError::Adapter);
        }
        let folders: Vec<_> = manifest
            .datasets
            .iter()
            .map(|dataset| self.datasets.join(dataset.id.to_string()))
            .collect();
        let workshop = Workshop::open(&manifest, &folders, None, self.limits)?;
        let path = self.folder.file(ContentHash(self.state.0));
        let file = File::open(&path).map_err(|_| OutcomeError::NoState)?;
        let checkpoint = workshop.read_checkpoint(&mut BufReader::new(file))?;
        if checkpoint.hash().0 != self.state.0 {
            return Err(RunFolderError::OtherFile { path }.into());
        }
        let measured = workshop.held_out_loss(&checkpoint, &mut |_| ControlFlow::Continue(()))?;
        let data = folders.first().ok_or(OutcomeError::NoState)?;
        let names = write_files(&workshop, &checkpoint, data, out, precision)?;
        let label = label_of(&manifest);
        let stated = self.stated(&workshop, label, sealed(out, names)?, &measured)?;
        let bytes = stated.to_bytes()?;
        let path = out.join(MANIFEST_FILE);
        std::fs::write(&path, &bytes).map_err(failed(&path))?;
        Ok(RunExported {
            run: hex::encode(self.folder.run()),
            folder: out.display().to_string(),
            gguf: out.join(GGUF_FILE).display().to_string(),
            model: ModelManifest::id(&bytes).to_string(),
            name: stated.label.name,
            rounds: stated.run.map_or(0, |run| run.last_round + 1),
            held_out_loss: measured.loss,
        })
    }

    /// What the model's manifest says.
    fn stated(
        &self,
        workshop: &Workshop,
        label: Label,
        files: Vec<ModelFile>,
        measured: &Measured,
    ) -> Result<ModelManifest, OutcomeError> {
        let manifest = workshop.manifest();
        let last = self.paid.last_round().ok_or(OutcomeError::NoState)?;
        let (trainers, validators) = holders(&self.paid, manifest, self.epoch_s)?;
        let datasets = datasets_of(manifest);
        Ok(ModelManifest {
            label,
            architecture: *workshop.model().architecture(),
            adapter: None,
            files,
            base: None,
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

/// Writes the files of a model, all but its manifest, into a folder, which is made, and returns their names. `data` is the
/// folder of the run's first dataset, whose tokenizer the model has.
///
/// # Errors
/// When the tokenizer cannot be read, or a file cannot be written.
pub(super) fn write_files(
    workshop: &Workshop,
    checkpoint: &Checkpoint,
    data: &Path,
    out: &Path,
    precision: Precision,
) -> Result<Vec<&'static str>, OutcomeError> {
    let tokenizer = Folder::open(data)?.tokenizer()?;
    let model = TrainedModel {
        layout: workshop.model(),
        weights: checkpoint.trained(),
        vocabulary: &Vocabulary::of(&tokenizer)?,
        label: &label_of(workshop.manifest()),
    };
    std::fs::create_dir_all(out).map_err(failed(out))?;
    let mut names = write_folder(&model, Some(tokenizer.json()), out)?;
    let path = out.join(GGUF_FILE);
    let file = File::create(&path).map_err(failed(&path))?;
    let mut to = BufWriter::new(file);
    write_model(&model, precision, &mut to)?;
    to.flush().map_err(failed(&path))?;
    names.push(GGUF_FILE);
    Ok(names)
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
