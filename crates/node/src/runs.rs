//! Training runs on this device: which ones it takes part in, what it earns, and the ledger that records both.
//!
//! What happens in a run is decided by the machines of `protocol::run`; what is computed, by `workshop`. Here are the files,
//! the network, the chain and the clock that they need. A run that fails is started again; what it committed to, signed
//! and was recorded is on the disk or on the chain.
//!
//! Deliberately absent: anything that decides who is admitted, what a round comes to, or who earns.

pub mod base;
mod data;
mod depot;
mod folder;
mod follow;
pub mod funding;
mod outcome;
mod playing;
pub mod recipe;
mod replaying;
mod rewards;
mod settling;
mod task;
mod ticket;
mod training;
mod validating;
pub mod verifying;
mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use alloy_primitives::B256;
use hearth_api::runs::{
    ExportRun, JoinRun, MakeFunding, MakeRun, RunDetail, RunExported, RunView, RunViews,
};
use hearth_causes::WithCauses;
use hearth_chain::ledger::LedgerError;
use hearth_outcome::gguf::Precision;
use hearth_protocol::content::ContentHash;
use hearth_protocol::ledger::statement::RunTerms;
use hearth_protocol::run::manifest::{RunManifest, RunManifestError, RunStart};
use hearth_protocol::run::pay::PaidRun;
use hearth_workshop::{OpenError, Workshop};
use thiserror::Error;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::advice::Advice;
use crate::ledger::RegistrationKeys;
use base::BaseError;
use data::DataError;
use folder::{RunFolder, RunFolderError, RunPart};
use funding::{FundingTermsError, RunBeginning};
use outcome::{Outcome, OutcomeError};
use settling::{EpochTask, PaidRuns, Settling};
use task::{RunBooks, RunParts, RunTask, WorkSlot};
use ticket::{RunTicket, RunTicketError};
use view::Shown;

pub(crate) use base::{BasePlaces, KeptWeights};
pub(crate) use task::RunParts as Parts;
pub use training::{LocalTrainer, RoundTrainer};

/// How long to wait before a run that failed is started again.
const AGAIN: Duration = Duration::from_secs(10);
/// The longest of these waits: for a run whose files are not what they should be, whoever gives them.
const AGAIN_MAX: Duration = Duration::from_secs(600);
/// The most runs of a device.
const RUNS_MAX: usize = 64;

/// Why a run cannot be made, joined or shown.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum RunsError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] RunFolderError),
    /// The ticket.
    #[error("this is not the ticket of a run")]
    Ticket(#[from] RunTicketError),
    /// The manifest.
    #[error("no run can be made of this manifest")]
    Manifest(#[from] RunManifestError),
    /// The data.
    #[error("the data of the run cannot be used")]
    Data(#[from] DataError),
    /// The model that it starts from.
    #[error("the run cannot start from that model")]
    Base(#[from] BaseError),
    /// The manifest names a model, and no file was given.
    #[error("the run starts from the model {0}, and no file of it was named")]
    NoBase(ContentHash),
    /// It cannot be computed here.
    #[error("this device cannot compute for the run")]
    Open(#[from] OpenError),
    /// It is recorded elsewhere.
    #[error("the run is recorded on {wanted}, and this device uses {used}")]
    OtherChain {
        /// The chain of the run.
        wanted: String,
        /// The chain of this device.
        used: String,
    },
    /// More than a device takes part in.
    #[error("this device takes part in {RUNS_MAX} runs already")]
    TooMany,
    /// Two runs begin so.
    #[error("more than one run begins with {0}")]
    Ambiguous(String),
    /// No run begins so.
    #[error("no run on this device begins with {0}")]
    Unknown(String),
    /// No model comes out.
    #[error(transparent)]
    Outcome(#[from] OutcomeError),
    /// Numbers are written otherwise.
    #[error("numbers are written as f32, f16 or q8_0, not as {0:?}")]
    Precision(String),
    /// Nobody can fund it.
    #[error("the run cannot be funded so")]
    Funding(#[from] FundingTermsError),
    /// The asset of its pledges is not known.
    #[error("the token of the pledges cannot be asked for its decimals")]
    Token(#[source] Box<LedgerError>),
    /// Neither of the two parts was asked for.
    #[error("to take part in a run is to train, to validate, or both")]
    NoPart,
    /// The work on it did not end.
    #[error("the run was not opened, because its work was broken off")]
    Broken,
}

impl Advice for RunsError {
    fn code(&self) -> &str {
        match self {
            Self::Folder(error) => error.code(),
            Self::Ticket(_) => "bad_run_ticket",
            Self::Manifest(_) => "bad_manifest",
            Self::Data(_) => "bad_dataset",
            Self::Base(_) | Self::NoBase(_) => "bad_base",
            Self::Open(OpenError::Memory { .. }) => "too_little_memory",
            Self::Open(_) => "run_not_opened",
            Self::OtherChain { .. } => "other_chain",
            Self::TooMany => "too_many_runs",
            Self::Ambiguous(_) => "ambiguous_run",
            Self::Unknown(_) => "no_run",
            Self::Outcome(error) => error.code(),
            Self::Precision(_) => "bad_precision",
            Self::Funding(_) => "bad_funding",
            Self::Token(_) => "chain_unavailable",
            Self::NoPart => "no_part",
            Self::Broken => "broken_off",
        }
    }

    fn next_step(&self) -> String {
        let step = match self {
            Self::Folder(error) => return error.next_step(),
            Self::Outcome(error) => return error.next_step(),
            Self::Precision(_) => "Leave --precision out, or say one of them",
            Self::Ticket(_) => "Copy the whole ticket that `hearth run create` printed",
            Self::Manifest(_) => "Correct the run's file as the error says, and try again",
            Self::Data(_) => "Check the folder with `hearth data verify FOLDER`",
            Self::Base(_) => {
                "Fetch the model again with `hearth models get`, or name its file under [base] in the run's file"
            }
            Self::NoBase(_) => {
                "Name its file, as `hearth run create` does with [base] in the run's file"
            }
            Self::Open(OpenError::Memory { .. }) => {
                "Choose a smaller model or fewer windows a step, or take part with a device that has more memory"
            }
            Self::Open(_) => "Correct the run's file as the error says, and try again",
            Self::OtherChain { .. } => {
                "Join the network of the run first, with `hearth join TICKET`"
            }
            Self::TooMany => "Leave one with `hearth run leave`",
            Self::Ambiguous(_) | Self::Unknown(_) => "See `hearth run list` for whole ids",
            Self::Funding(FundingTermsError::Asset { .. }) => {
                "Name one of those under [funding] in the run's file, or add the asset to config.toml"
            }
            Self::Funding(_) => "Correct that value under [funding] in the run's file",
            Self::Token(_) => {
                "Check that the asset's id in config.toml is that of an ERC-20 on the ledger's chain, and try again"
            }
            Self::NoPart => "Leave out --no-train, or add --validate",
            Self::Broken => "Try again",
        };
        step.to_owned()
    }
}

/// Parameters of the model of a run: what a step costs. A manifest that was checked has at most 2^34.
pub(crate) fn parameters(manifest: &RunManifest) -> u64 {
    u64::try_from(manifest.model.parameters()).unwrap_or(u64::MAX)
}

/// Where the runs of a device are, once its ledger is found.
pub(crate) type RunsSlot = Arc<OnceLock<Runs>>;

/// Training runs on a device; clones are the same.
#[derive(Clone)]
pub(crate) struct Runs(Arc<Inner>);

struct Inner {
    parts: Arc<RunParts>,
    folder: PathBuf,
    going: Mutex<BTreeMap<B256, Going>>,
    settling: Mutex<Option<Settling>>,
    /// Held while this device claims: of two claims at once the second finds nothing left.
    claiming: tokio::sync::Mutex<()>,
    /// Held while an order about pledges is carried out: the next one sees what it did.
    funding: tokio::sync::Mutex<()>,
}

struct Going {
    folder: RunFolder,
    shown: Shown,
    books: RunBooks,
    work: WorkSlot,
    task: AbortHandle,
}

impl Drop for Going {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PaidRuns for Inner {
    fn paid_runs(&self) -> Vec<PaidRun> {
        let going = self.locked();
        going
            .values()
            .filter_map(|going| going.books.paid())
            .collect()
    }
}

impl Inner {
    fn locked(&self) -> MutexGuard<'_, BTreeMap<B256, Going>> {
        // Plain data; a panic elsewhere leaves it usable.
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a run failed last, and how long it waited then.
#[derive(Debug, Default)]
struct Failures {
    why: String,
    wait: Duration,
}

impl Failures {
    /// Says how long to wait after a failure, and whether it is another one than the last. One that stays what it is, however
    /// often the run is started, is met less and less often.
    fn add(&mut self, why: &str, is_lasting: bool) -> (Duration, bool) {
        let is_new = self.why != why;
        self.wait = match is_new || !is_lasting {
            true => AGAIN,
            false => self.wait.saturating_mul(2).min(AGAIN_MAX),
        };
        why.clone_into(&mut self.why);
        (self.wait, is_new)
    }
}

impl Runs {
    /// Starts every run that the device takes part in, below `folder`.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn open(parts: RunParts, folder: PathBuf) -> Result<Self, RunFolderError> {
        for part in ["runs", "datasets", "bases", "rewards"] {
            let path = folder.join(part);
            std::fs::create_dir_all(&path).map_err(|source| RunFolderError::Io { path, source })?;
        }
        let all = RunFolder::all(&folder.join("runs"))?;
        let runs = Self(Arc::new(Inner {
            parts: Arc::new(parts),
            folder,
            going: Mutex::default(),
            settling: Mutex::default(),
            claiming: tokio::sync::Mutex::default(),
            funding: tokio::sync::Mutex::default(),
        }));
        for run in all.into_iter().take(RUNS_MAX) {
            let part = run.part()?;
            runs.start(run, part);
        }
        Ok(runs)
    }

    fn below(&self) -> PathBuf {
        self.0.folder.join("runs")
    }

    fn datasets(&self) -> &Path {
        &self.0.parts.datasets
    }

    fn start(&self, folder: RunFolder, part: RunPart) {
        let (shown, books, work) = (Shown::default(), RunBooks::default(), WorkSlot::default());
        let (parts, run) = (Arc::clone(&self.0.parts), folder.run());
        let (kept, seen, read) = (folder.clone(), shown.clone(), books.clone());
        let opened = work.clone();
        let task = tokio::spawn(async move {
            let mut failures = Failures::default();
            loop {
                let (parts, folder) = (Arc::clone(&parts), folder.clone());
                let (shown, books) = (shown.clone(), books.clone());
                let seen = shown.clone();
                let task = RunTask::new(parts, folder, part, shown, books, work.clone());
                match task.run().await {
                    Ok(()) => return,
                    Err(error) => {
                        let why = error.with_causes().to_string();
                        let (wait, is_new) = failures.add(&why, error.is_lasting());
                        let wait_s = wait.as_secs();
                        match is_new {
                            true => {
                                warn!(%run, error = why, wait_s, "a run does not go on; it is tried again")
                            }
                            false => {
                                debug!(%run, error = why, wait_s, "a run still does not go on")
                            }
                        }
                        seen.failed(&why);
                        sleep(wait).await;
                    }
                }
            }
        });
        let going = Going {
            folder: kept,
            shown: seen,
            books: read,
            work: opened,
            task: task.abort_handle(),
        };
        self.0.locked().insert(run, going);
    }

    /// Validates epochs, where this device validates a run: registers it first.
    pub(crate) fn settle(&self, keys: RegistrationKeys) -> JoinHandle<()> {
        let parts = &self.0.parts;
        let settling = Settling {
            network: parts.network.clone(),
            ledger: parts.ledger.clone(),
            sender: parts.sender.clone(),
            signer: Arc::clone(&parts.signer),
            environment: Arc::clone(&parts.environment),
            runs: Arc::clone(&self.0) as Arc<dyn PaidRuns>,
            folder: self.0.folder.join("rewards"),
            index: Arc::default(),
        };
        let kept = self.0.settling.lock();
        *kept.unwrap_or_else(PoisonError::into_inner) = Some(settling.clone());
        let runs = self.clone();
        let sharing = settling.clone();
        let validating = async move {
            // A household with votes is there from the beginning: the next epoch to enroll in may be far away.
            while !runs.validates() && !settling.has_votes().await {
                sleep(AGAIN).await;
            }
            while let Err(error) = settling.register(&keys).await {
                warn!(error = %error.with_causes(), "this device is not registered yet");
                sleep(AGAIN).await;
            }
            match EpochTask::new(settling) {
                Ok(task) => task.run().await,
                Err(error) => warn!(error = %error.with_causes(), "epochs are not validated"),
            }
        };
        tokio::spawn(async move {
            tokio::join!(sharing.share_when_possible(), validating);
        })
    }

    fn validates(&self) -> bool {
        let going = self.0.locked();
        let mut parts = going.values().filter_map(|going| going.folder.part().ok());
        parts.any(|part| part.validates)
    }

    /// Makes a run of a manifest, and takes part in it.
    ///
    /// # Errors
    /// When the manifest or the data cannot be used, or this device has too little memory.
    pub(crate) async fn make(&self, asked: MakeRun) -> Result<RunView, RunsError> {
        let part = part(asked.trains, asked.validates)?;
        let bytes = asked.manifest.into_bytes();
        let manifest = RunManifest::read(&bytes)?;
        let funding = asked.funding.clone();
        let (datasets, limits) = (self.datasets().to_owned(), self.0.parts.limits);
        let bases = self.0.parts.bases.clone();
        let opened = tokio::task::spawn_blocking(move || {
            Workshop::check_memory(&manifest, &limits)?;
            let base = match (manifest.start, &asked.base) {
                (RunStart::Fresh { .. }, _) => None,
                (RunStart::Base { base, .. }, None) => return Err(RunsError::NoBase(base)),
                (RunStart::Base { base, .. }, Some(file)) => {
                    let path = bases.bring(Path::new(file), base)?;
                    base::load(&path, &manifest)?.map(|loaded| loaded.base)
                }
            };
            for folder in &asked.datasets {
                data::bring(Path::new(folder), &datasets)?;
            }
            let folders = manifest.datasets.iter();
            let folders: Vec<_> = folders
                .map(|dataset| datasets.join(dataset.id.to_string()))
                .collect();
            let rounds = manifest.rounds;
            let workshop = Workshop::open(&manifest, &folders, base, limits)?;
            Ok::<_, RunsError>((workshop.first_state()?.hash(), rounds))
        });
        let (state, rounds) = opened.await.map_err(|_| RunsError::Broken)??;
        let now_s = self.0.parts.environment.now_ms() / 1_000;
        let beginning = RunBeginning {
            manifest: ContentHash::of(&bytes),
            state: state.0.into(),
            rounds,
            now_s,
        };
        let ticket = RunTicket {
            chain: self.0.parts.ledger.chain(),
            terms: match &funding {
                Some(funding) => self.funded_terms(beginning, funding).await?,
                None => beginning.without_pledges(),
            },
        };
        let folder = RunFolder::create(&self.below(), &ticket, part)?;
        folder.keep_manifest(&bytes)?;
        let run = folder.run();
        self.start(folder, part);
        self.view(run)
    }

    /// The terms of a run that takes pledges in an asset of the ledger's chain.
    async fn funded_terms(
        &self,
        beginning: RunBeginning,
        funding: &MakeFunding,
    ) -> Result<RunTerms, RunsError> {
        let token = self.token_named(&funding.asset)?;
        let asset = self.asset(token).await;
        let asset = asset.map_err(|error| RunsError::Token(Box::new(error)))?;
        Ok(beginning.with_pledges(funding, token, asset.decimals)?)
    }

    /// Takes part in a run, or changes the part that is taken.
    ///
    /// # Errors
    /// When the ticket is none of this chain's, or the folder cannot be written.
    pub(crate) fn join(&self, asked: &JoinRun) -> Result<RunView, RunsError> {
        let part = part(asked.trains, asked.validates)?;
        let ticket = match asked.ticket.parse::<RunTicket>() {
            Ok(ticket) => ticket,
            Err(error) => match self.find(&asked.ticket) {
                Ok(run) => RunFolder::open(&self.below(), run)?.ticket()?,
                Err(_) => return Err(error.into()),
            },
        };
        let used = self.0.parts.ledger.chain();
        if ticket.chain != used {
            return Err(RunsError::OtherChain {
                wanted: ticket.chain.to_string(),
                used: used.to_string(),
            });
        }
        if self.0.locked().len() >= RUNS_MAX {
            return Err(RunsError::TooMany);
        }
        let folder = RunFolder::create(&self.below(), &ticket, part)?;
        let run = folder.run();
        // What went on before ends first.
        drop(self.0.locked().remove(&run));
        self.start(folder, part);
        self.view(run)
    }

    /// Takes part in a run no longer. What was earned stays earned.
    ///
    /// # Errors
    /// When the run is not known.
    pub(crate) fn leave(&self, which: &str) -> Result<RunView, RunsError> {
        let run = self.find(which)?;
        let view = self.view(run)?;
        RunFolder::open(&self.below(), run)?.leave()?;
        drop(self.0.locked().remove(&run));
        Ok(view)
    }

    /// The run whose id begins so.
    fn find(&self, which: &str) -> Result<B256, RunsError> {
        let wanted = which.trim_start_matches("0x").to_lowercase();
        let going = self.0.locked();
        let mut found = going
            .keys()
            .filter(|run| alloy_primitives::hex::encode(run).starts_with(&wanted));
        match (found.next(), found.next()) {
            (Some(run), None) => Ok(*run),
            (Some(_), Some(_)) => Err(RunsError::Ambiguous(which.to_owned())),
            (None, _) => Err(RunsError::Unknown(which.to_owned())),
        }
    }

    fn view(&self, run: B256) -> Result<RunView, RunsError> {
        let going = self.0.locked();
        let Some(going) = going.get(&run) else {
            return Err(RunsError::Unknown(run.to_string()));
        };
        let manifest = going.folder.manifest()?;
        let part = going.folder.part()?;
        Ok(RunView {
            run: alloy_primitives::hex::encode(run),
            name: manifest.as_ref().map(|manifest| manifest.name.clone()),
            ticket: going.folder.ticket()?.to_string(),
            trains: part.trains,
            validates: part.validates,
            base: manifest.as_ref().and_then(|manifest| {
                let opened = going.work.opened().and_then(|opened| opened.base);
                base::shown(manifest, &self.0.parts.bases, opened.as_deref())
            }),
            parameters: manifest.as_ref().map(parameters),
            contribution_bytes: manifest
                .as_ref()
                .and_then(|manifest| Workshop::contribution_bytes_of(manifest).ok()),
            rounds: manifest.as_ref().map(|manifest| manifest.rounds.into()),
            memory_bytes: manifest.as_ref().and_then(|manifest| {
                let memory = Workshop::memory_of(manifest, &self.0.parts.limits);
                memory.ok().map(|memory| memory.total_bytes())
            }),
            state: going.shown.state(),
        })
    }

    /// All runs on this device.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(crate) fn list(&self) -> Result<RunViews, RunsError> {
        let ids: Vec<B256> = self.0.locked().keys().copied().collect();
        let runs: Result<_, _> = ids.into_iter().map(|run| self.view(run)).collect();
        Ok(RunViews { runs: runs? })
    }

    /// One run, with its rounds.
    ///
    /// # Errors
    /// When it is not known.
    pub(crate) fn show(&self, which: &str) -> Result<RunDetail, RunsError> {
        let run = self.find(which)?;
        let view = self.view(run)?;
        let going = self.0.locked();
        let shown = going.get(&run).map(|going| &going.shown);
        Ok(RunDetail {
            run: view,
            recorded: shown.map(Shown::rounds).unwrap_or_default(),
            last_audits: shown.map(Shown::last_audits).unwrap_or_default(),
            funding: None,
        })
    }
}

impl Runs {
    /// Writes the model of a run's last recorded round.
    ///
    /// # Errors
    /// When the run is not known, or its weights are not here.
    pub(crate) async fn export(&self, asked: ExportRun) -> Result<RunExported, RunsError> {
        let run = self.find(&asked.run)?;
        let precision = match asked.precision.as_str() {
            "f32" => Precision::F32,
            "f16" => Precision::F16,
            "q8_0" => Precision::Q8_0,
            _ => return Err(RunsError::Precision(asked.precision)),
        };
        let parts = &self.0.parts;
        let outcome = {
            let going = self.0.locked();
            let going = going.get(&run).ok_or(RunsError::Unknown(asked.run))?;
            let paid = going.books.paid().ok_or(OutcomeError::NoState)?;
            // What is shown may be a round ahead of the books.
            let last = paid.last_round().map(|last| last.book.index);
            let shown = going.shown.rounds().into_iter().rev();
            let mut shown = shown.filter(|round| Some(round.index) == last);
            let state = shown.next().and_then(|round| round.state.parse().ok());
            Outcome {
                folder: going.folder.clone(),
                paid,
                state: state.ok_or(OutcomeError::NoState)?,
                work: going.work.opened().ok_or(OutcomeError::NoState)?,
                datasets: parts.datasets.clone(),
                bases: parts.bases.clone(),
                epoch_s: parts.ledger.clock().epoch_s(),
            }
        };
        let form = outcome.form(asked.merged)?;
        let _heavy = parts.heavy.lock().await;
        let writing = move || outcome.write(Path::new(&asked.folder), form, precision);
        let written = tokio::task::spawn_blocking(writing).await;
        Ok(written.map_err(|_| RunsError::Broken)??)
    }
}

fn part(trains: bool, validates: bool) -> Result<RunPart, RunsError> {
    match trains || validates {
        true => Ok(RunPart { trains, validates }),
        false => Err(RunsError::NoPart),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_change_is_said_once_and_tried_less_and_less() {
        let mut failures = Failures::default();
        assert_eq!(failures.add("damaged", true), (AGAIN, true));
        let waits: Vec<_> = (0..8).map(|_| failures.add("damaged", true)).collect();
        assert_eq!(waits[0], (AGAIN * 2, false));
        assert_eq!(waits[1], (AGAIN * 4, false));
        assert_eq!(waits[7], (AGAIN_MAX, false));
        assert_eq!(failures.add("another", true), (AGAIN, true));
    }

    #[test]
    fn what_passes_is_tried_as_often_as_ever() {
        let mut failures = Failures::default();
        failures.add("the chain is away", false);
        for _ in 0..8 {
            assert_eq!(failures.add("the chain is away", false), (AGAIN, false));
        }
    }
}
