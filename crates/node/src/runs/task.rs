//! One run on this device: its manifest and data are fetched, its machines are told what happens, and what they want is done.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use hearth_api::runs::{AuditView, RoundView, TrainerView};
use hearth_causes::WithCauses;
use hearth_chain::ledger::Ledger;
use hearth_chain::sender::Sender;
use hearth_environment::Environment;
use hearth_net::{Network, SayError, TakePartError, TopicId};
use hearth_protocol::content::ContentHash;
use hearth_protocol::run::Head;
use hearth_protocol::run::book::RoundBook;
use hearth_protocol::run::history::{AUDIT_ROUNDS_MAX, RunRules};
use hearth_protocol::run::manifest::{RUN_MANIFEST_BYTES_MAX, RunManifest, RunStart};
use hearth_protocol::run::message::{AuditOutcome, RunMessage, Work};
use hearth_protocol::run::pay::{PaidRound, PaidRun, RunFunding};
use hearth_protocol::run::trainer::{Trainer, TrainerEffect, TrainerEvent};
use hearth_protocol::run::validator::{
    Validator, ValidatorEffect, ValidatorEvent, ValidatorIdentity,
};
use hearth_protocol::time::Timestamp;
use hearth_workshop::{Limits, OpenError, Workshop};
use thiserror::Error;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tracing::{debug, info, warn};

use super::base::{self, BaseError, BaseFacts, BasePlaces, KeptWeights, LoadedBase};
use super::data::{self, DataError};
use super::depot::{Depot, DepotError, Length};
use super::folder::{RunFolder, RunFolderError, RunPart};
use super::follow::{FollowedRun, LedgerNews, follow};
use super::training::{RoundTrainer, StopFlag, Training, TrainingOrder};
use super::validating::Validating;
use super::view::Shown;
use crate::home::AssetConfig;
use crate::ledger::LedgerSigner;

/// How often the machines are told that time passed.
const TICK_EVERY: Duration = Duration::from_millis(250);
/// How long to wait before what is missing is asked for again.
const AGAIN: Duration = Duration::from_secs(2);
/// What happened and was not handled yet.
const NEWS_MAX: usize = 1_024;
/// Books of proposals that may be recorded.
const CANDIDATES_MAX: usize = 8;

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

/// What happened.
enum News {
    /// This device's trainer told everybody, and its validator listens too.
    TrainerSaid(RunMessage),
    /// This device's validator told everybody, and its trainer listens too.
    ValidatorSaid(RunMessage),
    Prepared(B256),
    NotPrepared(B256),
    Trained(B256, Option<(Work, u64)>),
    Validator(ValidatorEvent),
}

/// What others read of a run that goes on.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunBooks(Arc<std::sync::Mutex<Option<PaidRun>>>);

impl RunBooks {
    fn locked(&self) -> std::sync::MutexGuard<'_, Option<PaidRun>> {
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
    parts: Arc<RunParts>,
    folder: RunFolder,
    part: RunPart,
    shown: Shown,
    books: RunBooks,
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

/// A run whose manifest and data are here.
struct Playing {
    task: RunTask,
    depot: Depot,
    workshop: Arc<Workshop>,
    trainer: Option<Trainer>,
    validator: Option<Validator>,
    training: Training,
    validating: Validating,
    books: BTreeMap<B256, RoundBook>,
    candidates: VecDeque<RoundBook>,
    ms_per_step: Option<u64>,
    stop: StopFlag,
    news: (mpsc::Sender<News>, mpsc::Receiver<News>),
    /// What one role of this device said, for the other: the network gives no device its own messages.
    said: VecDeque<News>,
    work: JoinSet<()>,
    /// Contributions to this round that are fetched and looked at.
    checks: JoinSet<()>,
    stale: VecDeque<(u64, ContentHash)>,
    /// The run has not begun: it takes pledges.
    waits: bool,
}

impl Playing {
    fn new(
        task: RunTask,
        depot: Depot,
        workshop: Arc<Workshop>,
        rules: RunRules,
    ) -> Result<Self, RunTaskError> {
        let parts = Arc::clone(&task.parts);
        let device = parts.network.device();
        let identity = ValidatorIdentity {
            device,
            domain: *parts.ledger.domain(),
            runs: parts.ledger.addresses().runs,
        };
        let kept = task.folder.committed()?;
        let trainer = task
            .part
            .trains
            .then(|| Trainer::new(device, parts.account, rules, kept));
        let validator = task.part.validates.then(|| Validator::new(identity, rules));
        let training = Training {
            depot: depot.clone(),
            workshop: Arc::clone(&workshop),
            trainer: Arc::clone(&parts.trainer),
            device,
            environment: Arc::clone(&parts.environment),
            shown: task.shown.clone(),
        };
        let validating = Validating {
            depot: depot.clone(),
            workshop: Arc::clone(&workshop),
            ledger: parts.ledger.clone(),
            sender: parts.sender.clone(),
            signer: Arc::clone(&parts.signer),
            terms: task.folder.ticket()?.terms,
            heavy: Arc::clone(&parts.heavy),
            recorded: Arc::default(),
        };
        Ok(Self {
            task,
            depot,
            workshop,
            trainer,
            validator,
            training,
            validating,
            books: BTreeMap::new(),
            candidates: VecDeque::new(),
            ms_per_step: None,
            stop: StopFlag::default(),
            news: mpsc::channel(NEWS_MAX),
            said: VecDeque::new(),
            work: JoinSet::new(),
            checks: JoinSet::new(),
            stale: VecDeque::new(),
            waits: false,
        })
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.task.parts.environment.now_ms())
    }

    async fn play(mut self) -> Result<(), RunTaskError> {
        let parts = Arc::clone(&self.task.parts);
        let run = self.task.folder.run();
        let (told, mut ledger_news) = mpsc::channel(NEWS_MAX);
        let depot = self.depot.clone();
        let token = self.validating.terms.token;
        let followed = FollowedRun {
            run,
            token: (!token.is_zero()).then_some(token),
            confirmations: parts.confirmations,
        };
        let following = follow(parts.ledger.clone(), followed, depot, told);
        self.work.spawn(following);
        let mut topic = parts.network.take_part(TopicId(run.0))?;
        let mut ticks = interval(TICK_EVERY);
        let mut paused = parts.paused.clone();
        let is_paused = *paused.borrow_and_update();
        self.tell_trainer(TrainerEvent::Paused(is_paused)).await?;
        // What is heard before the ledger is read would be of rounds that are not known yet.
        let mut is_present = false;
        loop {
            tokio::select! {
                Some(news) = ledger_news.recv() => {
                    is_present |= matches!(news, LedgerNews::Present);
                    self.ledger(news).await?;
                }
                heard = topic.heard(), if is_present => {
                    let Some(heard) = heard else { return Ok(()) };
                    self.hear(heard.from, &heard.body).await?;
                }
                Some(news) = self.news.1.recv() => self.done(news).await?,
                changed = paused.changed() => {
                    if changed.is_err() { return Ok(()) }
                    let is_paused = *paused.borrow_and_update();
                    self.task.shown.say(match is_paused {
                        true => "paused: this device is in use, or not shared now ([sharing] in config.toml)",
                        false => "waiting for others",
                    });
                    self.tell_trainer(TrainerEvent::Paused(is_paused)).await?;
                }
                _ = ticks.tick(), if is_present => {
                    if self.waits {
                        self.begin().await?;
                    }
                    self.tell_trainer(TrainerEvent::Tick).await?;
                    self.tell_validator(ValidatorEvent::Tick).await?;
                }
                Some(_) = self.work.join_next() => {}
                Some(_) = self.checks.join_next() => {}
            }
            while let Some(said) = self.said.pop_front() {
                self.done(said).await?;
            }
        }
    }

    /// The beginning of the run, once its pledges are final: what devices say before would be gone by then.
    async fn begin(&mut self) -> Result<(), RunTaskError> {
        let terms = self.validating.terms;
        let opened_at = Timestamp::from_secs(terms.deadline_s);
        self.waits = self.now() < opened_at;
        if self.waits {
            let doing = "waiting for the run's deadline: until then it takes pledges";
            self.task.shown.say(doing);
            return Ok(());
        }
        let head = Head {
            index: 0,
            next_number: 0,
            state: terms.state,
            beacon: self.task.folder.run(),
            opened_at,
        };
        self.head(head, None).await
    }

    async fn head(&mut self, head: Head, book: Option<Box<RoundBook>>) -> Result<(), RunTaskError> {
        // Contributions to the round before are of no use any more, unless they were admitted.
        self.checks.abort_all();
        let told = TrainerEvent::Head {
            head,
            book: book.clone(),
        };
        self.tell_trainer(told).await?;
        self.tell_validator(ValidatorEvent::Head { head, book })
            .await
    }

    async fn ledger(&mut self, news: LedgerNews) -> Result<(), RunTaskError> {
        match news {
            LedgerNews::Present => {
                if !*self.task.parts.paused.borrow() {
                    self.task.shown.say("waiting for others");
                }
                match self.books.is_empty() {
                    true => self.begin().await,
                    false => Ok(()),
                }
            }
            LedgerNews::Committee(committee) => {
                self.tell_trainer(TrainerEvent::Committee(committee.clone()))
                    .await?;
                self.tell_validator(ValidatorEvent::Committee(committee))
                    .await
            }
            LedgerNews::Released(release) => {
                let mut books = self.task.books.locked();
                if let Some(funding) = books.as_mut().and_then(|paid| paid.funding.as_mut()) {
                    funding.releases.push(release);
                }
                Ok(())
            }
            LedgerNews::Round {
                head,
                epoch,
                book,
                is_newest,
            } => {
                self.waits = false;
                self.task.shown.round(round_view(&head, &book));
                if let Some(paid) = self.task.books.locked().as_mut() {
                    paid.rounds.push(PaidRound {
                        epoch,
                        beacon: head.beacon,
                        book: (*book).clone(),
                    });
                }
                self.books.insert(head.state, (*book).clone());
                self.validating
                    .recorded
                    .store(head.index, Ordering::Relaxed);
                // Also after a restart: a replay of this device's work starts from what it kept.
                let mut members = book.members.iter();
                if let Some(mine) = members.find(|member| member.trainer == self.training.device) {
                    self.training.serve(&mine.work).await;
                }
                self.forget_old(&book).await;
                let is_over = head.index >= self.workshop.manifest().rounds.into();
                if is_over && book.own_state().is_none() {
                    // Nobody trains from it any more: it is what the run was for.
                    self.prepare(head.state);
                }
                if is_newest {
                    return self.head(head, Some(book)).await;
                }
                let beacon = head.beacon;
                let past = TrainerEvent::Past {
                    book: book.clone(),
                    beacon,
                };
                self.tell_trainer(past).await?;
                self.tell_validator(ValidatorEvent::Past { book, beacon })
                    .await
            }
        }
    }

    /// Lets go of states and contributions that no replay needs any more.
    async fn forget_old(&mut self, book: &RoundBook) {
        let first = self.validating.terms.state;
        if book.parent != first && !book.members.is_empty() {
            self.stale
                .push_back((book.index, ContentHash(book.parent.0)));
        }
        for member in &book.members {
            let files = [Some(member.work.contribution), member.work.local_start];
            let files = files.into_iter().flatten();
            self.stale.extend(files.map(|file| (book.index, file)));
        }
        // Books of audits, after the last round, are not rounds.
        let rounds = u64::from(self.workshop.manifest().rounds);
        let oldest = book.index.min(rounds).saturating_sub(AUDIT_ROUNDS_MAX + 1);
        let mut old = Vec::new();
        while let Some((index, name)) = self.stale.front().copied()
            && index < oldest
        {
            self.stale.pop_front();
            old.push(name);
        }
        self.depot.forget(&old).await;
        self.books.retain(|_, book| book.index >= oldest);
    }

    async fn hear(
        &mut self,
        from: hearth_protocol::offer::DeviceId,
        body: &[u8],
    ) -> Result<(), RunTaskError> {
        let Ok(message) = postcard::from_bytes::<RunMessage>(body) else {
            debug!(%from, "a device said what cannot be read");
            return Ok(());
        };
        if let RunMessage::Proposal(proposal) = &message {
            self.candidate(&proposal.book).await;
        }
        let heard = TrainerEvent::Heard {
            from,
            message: message.clone(),
        };
        self.tell_trainer(heard).await?;
        self.tell_validator(ValidatorEvent::Heard { from, message })
            .await
    }

    /// Keeps the book of a proposal: if it is recorded, nobody has to be asked for it.
    async fn candidate(&mut self, book: &RoundBook) {
        if book.check().is_err() {
            return;
        }
        if let Err(error) = self.depot.keep(&book.to_bytes()).await {
            debug!(error = %error.with_causes(), "a proposed book is not kept");
        }
        self.candidates.push_back(book.clone());
        if self.candidates.len() > CANDIDATES_MAX
            && let Some(old) = self.candidates.pop_front()
            && !self.books.values().any(|book| *book == old)
        {
            self.depot.forget(&[old.name()]).await;
        }
    }

    async fn done(&mut self, news: News) -> Result<(), RunTaskError> {
        let from = self.training.device;
        match news {
            News::TrainerSaid(message) => {
                self.tell_validator(ValidatorEvent::Heard { from, message })
                    .await
            }
            News::ValidatorSaid(message) => {
                self.tell_trainer(TrainerEvent::Heard { from, message })
                    .await
            }
            News::Prepared(state) => self.tell_trainer(TrainerEvent::Prepared { state }).await,
            News::NotPrepared(state) => {
                // It is tried again as long as it is what the next round begins from.
                self.prepare(state);
                Ok(())
            }
            News::Trained(parent, done) => {
                if let Some((_, ms)) = &done {
                    self.ms_per_step = Some(*ms);
                }
                let work = done.map(|(work, _)| work);
                self.tell_trainer(TrainerEvent::Trained { parent, work })
                    .await
            }
            News::Validator(event) => self.tell_validator(event).await,
        }
    }

    async fn tell_trainer(&mut self, event: TrainerEvent) -> Result<(), RunTaskError> {
        let now = self.now();
        let Some(trainer) = &mut self.trainer else {
            return Ok(());
        };
        for effect in trainer.handle(now, event) {
            self.do_for_trainer(effect).await?;
        }
        Ok(())
    }

    async fn do_for_trainer(&mut self, effect: TrainerEffect) -> Result<(), RunTaskError> {
        match effect {
            TrainerEffect::Prepare { head } => self.prepare(head.state),
            TrainerEffect::Train {
                head,
                local_start,
                until,
            } => {
                self.stop = StopFlag::default();
                let order = TrainingOrder {
                    head,
                    local_start,
                    until,
                };
                let (training, stop) = (self.training.clone(), self.stop.clone());
                let (parts, told) = (Arc::clone(&self.task.parts), self.news.0.clone());
                let ms_per_step = self.ms_per_step;
                self.work.spawn(async move {
                    let _heavy = parts.heavy.lock().await;
                    let done = training.train(order, ms_per_step, stop.clone()).await;
                    if done.is_none() && stop.is_stopped() {
                        // By now the machine may have ordered the same work again.
                        return;
                    }
                    drop(told.send(News::Trained(head.state, done)).await);
                });
            }
            TrainerEffect::Stop => self.stop.stop(),
            TrainerEffect::Keep(committed) => self.task.folder.keep_committed(&committed)?,
            TrainerEffect::Serve(work) => self.training.serve(&work).await,
            TrainerEffect::Say(message) => {
                if matches!(message, RunMessage::Commit(_)) {
                    self.task.shown.say("waiting for the round to be recorded");
                }
                self.say(&message).await?;
                self.said.push_back(News::TrainerSaid(message));
            }
            TrainerEffect::Broken(error) => return Err(error.into()),
            TrainerEffect::Over => self.task.shown.say(self.why_over()),
        }
        Ok(())
    }

    /// Why nothing is left for this trainer to do.
    fn why_over(&self) -> &'static str {
        let history = self.trainer.as_ref().map(Trainer::history);
        match history.is_some_and(|history| history.standing(self.training.device).is_excluded) {
            true => "out: a replay of this device's work gave other bytes than it had shown",
            false => "done: the run has all its rounds",
        }
    }

    /// Gets the weights of a state.
    fn prepare(&mut self, state: B256) {
        let (depot, workshop) = (self.depot.clone(), Arc::clone(&self.workshop));
        let (book, told) = (self.books.get(&state).cloned(), self.news.0.clone());
        self.work.spawn(async move {
            let prepared = match &book {
                Some(book) => depot.state_after(&workshop, book, state).await,
                // The first state was made before.
                None => Ok(()),
            };
            let news = match prepared {
                Ok(()) => News::Prepared(state),
                Err(error) => {
                    warn!(error = %error.with_causes(), "the state of a run is missing");
                    sleep(AGAIN).await;
                    News::NotPrepared(state)
                }
            };
            drop(told.send(news).await);
        });
    }

    async fn tell_validator(&mut self, event: ValidatorEvent) -> Result<(), RunTaskError> {
        let now = self.now();
        let Some(validator) = &mut self.validator else {
            return Ok(());
        };
        for effect in validator.handle(now, event) {
            self.do_for_validator(effect).await?;
        }
        Ok(())
    }

    async fn do_for_validator(&mut self, effect: ValidatorEffect) -> Result<(), RunTaskError> {
        let hands = self.validating.clone();
        let told = self.news.0.clone();
        match effect {
            ValidatorEffect::Say(message) => {
                self.say(&message).await?;
                self.said.push_back(News::ValidatorSaid(message));
            }
            ValidatorEffect::Broken(error) => return Err(error.into()),
            ValidatorEffect::Check {
                trainer,
                contribution,
            } => {
                self.checks.spawn(async move {
                    let is_good = hands.check(trainer, contribution).await;
                    let checked = ValidatorEvent::Checked {
                        contribution,
                        is_good,
                    };
                    drop(told.send(News::Validator(checked)).await);
                });
            }
            ValidatorEffect::Aggregate(book) => self.answer(async move {
                let next = hands.aggregate(&book).await;
                let book = book.name();
                let added = ValidatorEvent::Aggregated { book, next };
                drop(told.send(News::Validator(added)).await);
            }),
            ValidatorEffect::Sign(statement) => self.answer(async move {
                let signature = hands.sign(statement).await;
                let signed = ValidatorEvent::Signed {
                    statement,
                    signature,
                };
                drop(told.send(News::Validator(signed)).await);
            }),
            ValidatorEffect::Record {
                statement,
                epoch,
                mask,
                signatures,
            } => self.answer(async move {
                hands.record(statement, epoch, mask, signatures).await;
            }),
            ValidatorEffect::Accuse(proof) => self.answer(async move {
                hands.accuse(&proof).await;
            }),
            ValidatorEffect::Replay { index, audit } => self.answer(async move {
                let Some((outcome, losses)) = hands.replay(index, &audit).await else {
                    return;
                };
                let replayed = ValidatorEvent::Replayed {
                    index,
                    trainer: audit.member.trainer,
                    outcome,
                    losses,
                };
                drop(told.send(News::Validator(replayed)).await);
            }),
        }
        Ok(())
    }

    fn answer(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.work.spawn(work);
    }

    async fn say(&self, message: &RunMessage) -> Result<(), RunTaskError> {
        let body = postcard::to_allocvec(message)?;
        if let Err(error) = self.depot.topic.say(body).await {
            match error {
                SayError::Length => warn!("a message is too long to be said"),
                error => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

fn round_view(head: &Head, book: &RoundBook) -> RoundView {
    let members = book.members.iter();
    let trainers: Vec<TrainerView> = members
        .map(|member| TrainerView {
            trainer: member.trainer.to_string(),
            account: member.account.to_checksum(None),
            steps: member.work.steps,
            first_loss: member.work.first_loss.loss(),
            last_loss: member.work.last_loss.loss(),
        })
        .collect();
    let audits = book.audits.iter().map(|audit| AuditView {
        index: audit.index,
        trainer: audit.trainer.to_string(),
        outcome: match audit.outcome {
            AuditOutcome::Same => "same",
            AuditOutcome::Different => "different",
            AuditOutcome::Unavailable => "unavailable",
        }
        .to_owned(),
    });
    let sum: f32 = trainers.iter().map(|trainer| trainer.first_loss).sum();
    info!(
        index = book.index,
        trainers = trainers.len(),
        "a round was recorded"
    );
    RoundView {
        index: book.index,
        number: head.next_number.saturating_sub(1),
        loss: sum / trainers.len().max(1) as f32,
        state: head.state.to_string(),
        audits: audits.collect(),
        trainers,
    }
}
