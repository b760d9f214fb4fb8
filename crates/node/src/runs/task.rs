//! One run on this device: its manifest and data are fetched, and what others see of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use hearth_causes::WithCauses;
use hearth_chain::ledger::Ledger;
use hearth_chain::sender::Sender;
use hearth_environment::Environment;
use hearth_net::{Network, SayError, TakePartError, TopicId};
use hearth_protocol::run::history::RunRules;
use hearth_protocol::run::manifest::{RUN_MANIFEST_BYTES_MAX, RunManifest, RunStart};
use hearth_protocol::run::pay::{PaidRun, RunFunding};
use hearth_workshop::{Limits, OpenError, Workshop};
use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tokio::time::sleep;
use tracing::debug;

use super::base::{self, BaseError, BaseFacts, BasePlaces, KeptWeights, LoadedBase};
use super::data::{self, DataError};
use super::depot::{Depot, DepotError, Length};
use super::folder::{RunFolder, RunFolderError, RunPart};
use super::playing::Playing;
use super::training::RoundTrainer;
use super::view::Shown;
use crate::home::AssetConfig;
use crate::ledger::LedgerSigner;

/// How long to wait before what is missing is asked for again.
pub(super) const AGAIN: Duration = Duration::from_secs(2);

/// What all runs of a device share.
pub(crate) struct RunParts {
    pub(crate) network: Network,
    pub(crate) ledger: Ledger,
    pub(crate) sender: Sender,
    pub(crate) signer: Arc<LedgerSigner>,
    /// The account that earns.
    pub(crate) account: Address,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) limits: Limits,
    pub(crate) trainer: Arc<dyn RoundTrainer>,
    /// Where datasets are.
    pub(crate) datasets: PathBuf,
    /// Where models are that runs start from.
    pub(crate) bases: BasePlaces,
    /// What open runs keep of them in the memory.
    pub(crate) kept_weights: KeptWeights,
    /// The assets in use, by their names.
    pub(crate) assets: BTreeMap<String, AssetConfig>,
    pub(crate) confirmations: u64,
    /// Whether the owner needs the machine.
    pub(crate) paused: watch::Receiver<bool>,
    /// Training and replays of all runs, one after the other: each is given the whole memory.
    pub(crate) heavy: Arc<Mutex<()>>,
}

/// Why a run does not go on here.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum RunTaskError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] RunFolderError),
    /// The network.
    #[error("the device cannot take part in the run's topic")]
    TakePart(#[from] TakePartError),
    /// Nothing more can be said.
    #[error("the device cannot talk to those who take part")]
    Say(#[from] SayError),
    /// The files.
    #[error(transparent)]
    Depot(#[from] DepotError),
    /// The data.
    #[error("the run's data are not here")]
    Data(#[from] DataError),
    /// The model that the run starts from.
    #[error("the model that the run starts from is not here")]
    Base(#[from] BaseError),
    /// It cannot be computed here.
    #[error("this device cannot compute for the run")]
    Open(#[from] OpenError),
    /// A blocking task did not end.
    #[error("the work on the run was broken off")]
    BrokenOff,
    /// A message that cannot be written.
    #[error("a message cannot be written")]
    Encode(#[from] postcard::Error),
    /// What the ledger has recorded does not fit together.
    #[error("the ledger recorded what cannot be")]
    Broken(#[from] hearth_protocol::run::history::HistoryError),
    /// The run begins from another state than its manifest leads to.
    #[error("the manifest leads to the state {found}, and the run begins from {wanted}")]
    OtherStart {
        /// What it leads to.
        found: B256,
        /// What the terms say.
        wanted: B256,
    },
}

impl RunTaskError {
    /// Whether it stays so however often it is tried, until somebody changes a file.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Data(error) => !error.is_retryable(),
            Self::OtherStart { .. } => true,
            _ => false,
        }
    }
}

/// How a run is played, by its manifest.
pub(crate) fn rules_of(run: B256, manifest: &RunManifest) -> RunRules {
    let round = &manifest.round;
    RunRules {
        run,
        quorum: round.quorum,
        trainers_max: round.trainers_max,
        steps: round.steps,
        steps_min: round.steps_min,
        grace_ms: u64::from(round.grace_s) * 1_000,
        attempt_ms: u64::from(round.attempt_s) * 1_000,
        carry: round.carry,
        audit_per_mille: manifest.audit.per_mille,
        newcomer_rounds: manifest.audit.newcomer_rounds,
        rounds: manifest.rounds.into(),
    }
}

/// What others read of a run that goes on.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunBooks(Arc<std::sync::Mutex<Option<PaidRun>>>);

impl RunBooks {
    pub(super) fn locked(&self) -> std::sync::MutexGuard<'_, Option<PaidRun>> {
        // Plain data; a panic elsewhere leaves it usable.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The run and its recorded rounds; nothing before its manifest is here.
    pub(crate) fn paid(&self) -> Option<PaidRun> {
        self.locked().clone()
    }
}

/// A run that is open on this device.
#[derive(Debug, Clone)]
pub(crate) struct OpenedWork {
    /// What is computed with. It has the weights under an adapter, which are in the memory once.
    pub(crate) workshop: Arc<Workshop>,
    /// The model that the run starts from, where there is one.
    pub(crate) base: Option<Arc<BaseFacts>>,
}

/// Where others find a run that is open.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkSlot(Arc<std::sync::Mutex<Option<OpenedWork>>>);

impl WorkSlot {
    fn set(&self, work: Option<OpenedWork>) {
        // Plain data; a panic elsewhere leaves it usable.
        *self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = work;
    }

    /// The run, once its data are here.
    pub(crate) fn opened(&self) -> Option<OpenedWork> {
        let work = self.0.lock();
        work.unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }
}

/// One run on this device.
pub(crate) struct RunTask {
    pub(super) parts: Arc<RunParts>,
    pub(super) folder: RunFolder,
    pub(super) part: RunPart,
    pub(super) shown: Shown,
    pub(super) books: RunBooks,
    work: WorkSlot,
}

impl RunTask {
    pub(crate) fn new(
        parts: Arc<RunParts>,
        folder: RunFolder,
        part: RunPart,
        shown: Shown,
        books: RunBooks,
        work: WorkSlot,
    ) -> Self {
        Self {
            parts,
            folder,
            part,
            shown,
            books,
            work,
        }
    }

    /// Takes part until it is dropped, or something makes that impossible.
    pub(crate) async fn run(self) -> Result<(), RunTaskError> {
        let run = self.folder.run();
        // Of a try before: the weights that it holds are not to be in the memory twice.
        self.work.set(None);
        let topic = Arc::new(self.parts.network.take_part(TopicId(run.0))?);
        let depot = Depot::new(self.folder.clone(), self.parts.network.clone(), topic);
        let manifest = self.manifest(&depot).await?;
        let parameters = super::parameters(&manifest);
        let rules = rules_of(run, &manifest);
        let step_tokens =
            u64::from(manifest.inner.windows) * u64::from(manifest.inner.window_tokens);
        let terms = self.folder.ticket()?.terms;
        *self.books.locked() = Some(PaidRun {
            rules,
            step_cost: parameters.saturating_mul(step_tokens),
            rounds: Vec::new(),
            funding: (!terms.token.is_zero()).then(|| RunFunding {
                token: terms.token,
                rounds_per_checkpoint: terms.rounds_per_checkpoint,
                releases: Vec::new(),
            }),
        });
        // Before anything large is fetched.
        let kept = &self.parts.kept_weights;
        let (limits, _counted) = kept.count(run, &manifest, self.parts.limits)?;
        let folders = self.data(&depot, &manifest).await?;
        let base = self.base(&depot, &manifest).await?;
        let workshop = self.open((manifest, limits), folders, base).await?;
        let wanted = terms.state;
        let found = depot.first_state(&workshop).await?;
        if found != wanted {
            return Err(RunTaskError::OtherStart { found, wanted });
        }
        self.shown.say("waiting for the ledger");
        Playing::new(self, depot, workshop, rules)?.play().await
    }

    /// Opens the run, for this task and for exports and replays.
    async fn open(
        &self,
        (manifest, limits): (RunManifest, Limits),
        folders: Vec<PathBuf>,
        base: Option<LoadedBase>,
    ) -> Result<Arc<Workshop>, RunTaskError> {
        let (base, facts) = base.map_or((None, None), |loaded| {
            (Some(loaded.base), Some(Arc::new(loaded.facts)))
        });
        let opening = move || Workshop::open(&manifest, &folders, base, limits);
        let opened = tokio::task::spawn_blocking(opening).await;
        let workshop = Arc::new(opened.map_err(|_| RunTaskError::BrokenOff)??);
        self.work.set(Some(OpenedWork {
            workshop: Arc::clone(&workshop),
            base: facts,
        }));
        Ok(workshop)
    }

    /// The model that the run starts from: here, or from those who take part.
    async fn base(
        &self,
        depot: &Depot,
        manifest: &RunManifest,
    ) -> Result<Option<LoadedBase>, RunTaskError> {
        let RunStart::Base { base: wanted, .. } = manifest.start else {
            return Ok(None);
        };
        self.shown
            .say("fetching the model that the run starts from");
        loop {
            match base::base(depot, &self.parts.bases, manifest).await {
                Ok(loaded) => return Ok(loaded),
                Err(error) if error.is_retryable() => {
                    debug!(error = %error.with_causes(), "the model that a run starts from is still missing");
                    self.shown.say(&format!(
                        "waiting for a device that has the model {wanted}, which the run starts from"
                    ));
                }
                Err(error) => return Err(error.into()),
            }
            sleep(AGAIN).await;
        }
    }

    /// The manifest: here, or from those who take part.
    async fn manifest(&self, depot: &Depot) -> Result<RunManifest, RunTaskError> {
        let wanted = self.folder.ticket()?.terms.manifest;
        let path = self.folder.manifest_path();
        loop {
            self.shown.say("looking for the run's manifest");
            let length = Length::AtMost(RUN_MANIFEST_BYTES_MAX as u64);
            match depot.get_to(wanted, length, None, &path).await {
                Ok(()) => {
                    if let Some(manifest) = self.folder.manifest()? {
                        return Ok(manifest);
                    }
                }
                Err(error) => debug!(error = %error.with_causes(), "nobody gave the manifest"),
            }
            sleep(AGAIN).await;
        }
    }

    /// The datasets: here, or from those who take part.
    async fn data(
        &self,
        depot: &Depot,
        manifest: &RunManifest,
    ) -> Result<Vec<PathBuf>, RunTaskError> {
        let mut folders = Vec::new();
        for dataset in &manifest.datasets {
            loop {
                self.shown.say("fetching the run's data");
                match data::dataset(depot, &self.parts.datasets, dataset.id).await {
                    Ok(folder) => {
                        folders.push(folder);
                        break;
                    }
                    Err(error) if error.is_retryable() => {
                        debug!(error = %error.with_causes(), "data are still missing");
                    }
                    Err(error) => return Err(error.into()),
                }
                sleep(AGAIN).await;
            }
        }
        Ok(folders)
    }
}
