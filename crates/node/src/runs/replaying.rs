//! Doing a trainer's recorded work again: for a validator that was drawn for it, and for everyone who wants to see it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{B256, hex};
use hearth_api::runs::{ReplayWork, ReplayedPart, WorkReplayed};
use hearth_causes::WithCauses;
use hearth_net::{TakePartError, TopicId};
use hearth_protocol::content::ContentHash;
use hearth_protocol::run::book::{Member, RoundBook};
use hearth_protocol::run::history::{AUDIT_ROUNDS_MAX, RecordedWork};
use hearth_protocol::run::message::{LossBits, LossKey, Work};
use hearth_protocol::run::pay::PaidRun;
use hearth_workshop::{
    Claim, Difference, OrderError, TrainError, TrainerId, Verdict, WorkOrder, Workshop,
};
use thiserror::Error;
use tokio::sync::Mutex;
use tracing::info;

use super::base::BaseFacts;
use super::depot::{Depot, DepotError, Length, blocking};
use super::training::local_state;
use super::{Runs, RunsError};
use crate::advice::Advice;

/// What is missing for a replay.
pub(crate) enum Lacking {
    /// What the trainer kept.
    Local(DepotError),
    /// Something that this device should have.
    Own(DepotError),
}

/// What replays are made with.
#[derive(Debug, Clone)]
pub(crate) struct Replaying {
    pub(crate) depot: Depot,
    pub(crate) workshop: Arc<Workshop>,
}

/// Why nobody can do a work, so that it was not done.
#[derive(Debug, Error)]
pub(crate) enum NotWork {
    /// It is there, has the right hash, and is nothing that a trainer of this run can have.
    #[error("what the trainer says it kept is not the local state of a trainer of this run")]
    Local,
    /// The run has no such work.
    #[error("the run has no such work")]
    Order(#[source] OrderError),
}

/// What a replay gave.
#[derive(Debug)]
pub(crate) struct Replay {
    /// What the comparison says.
    pub(crate) verdict: Result<Verdict, NotWork>,
    /// The losses of all steps that were taken.
    pub(crate) losses: Vec<LossBits>,
}

impl Replay {
    /// Whether `work` was done as it was recorded.
    pub(crate) fn is_same(&self, work: &Work) -> bool {
        let verdict = self.verdict.as_ref();
        verdict.is_ok_and(Verdict::is_same) && self.loss_key().log() == work.log
    }

    /// What shows that this device has replayed the work.
    pub(crate) fn loss_key(&self) -> LossKey {
        LossKey::of(&self.losses)
    }

    /// What was recorded beside what came out.
    fn parts(&self, work: &Work) -> Vec<ReplayedPart> {
        let verdict = self.verdict.as_ref().ok();
        let found = verdict.and_then(|verdict| verdict.found);
        let is_same = |part: Difference| {
            found.is_some() && verdict.is_some_and(|verdict| !verdict.differences.contains(&part))
        };
        let hash = |hash: ContentHash| Some(hash.to_string());
        let loss = |loss: f32| Some(loss.to_string());
        let log = found.map(|_| self.loss_key().log());
        let part = |what: &str, recorded, computed, same| ReplayedPart {
            what: what.to_owned(),
            recorded,
            computed,
            same,
        };
        vec![
            part(
                "contribution",
                hash(work.contribution),
                found.and_then(|found| hash(found.contribution)),
                is_same(Difference::Contribution),
            ),
            part(
                "local state",
                work.local_end.and_then(hash),
                found.and_then(|found| found.local).and_then(hash),
                is_same(Difference::LocalState),
            ),
            part(
                "first loss",
                loss(work.first_loss.loss()),
                found.and_then(|found| loss(found.first_loss)),
                is_same(Difference::FirstLoss),
            ),
            part(
                "last loss",
                loss(work.last_loss.loss()),
                found.and_then(|found| loss(found.last_loss)),
                is_same(Difference::LastLoss),
            ),
            part(
                "log",
                hash(work.log),
                log.and_then(hash),
                log == Some(work.log),
            ),
        ]
    }
}

impl Replaying {
    /// Sees that what a work starts from is here. What the trainer kept is computed where nobody gives it and the works
    /// are known that led to it: `led_by`, the last one first.
    pub(crate) async fn gather(
        &self,
        recorded: &RecordedWork,
        led_by: &[RecordedWork],
        heavy: &Mutex<()>,
    ) -> Result<(), Lacking> {
        let given = self.local_start(recorded).await;
        if let Err(error) = given
            && !self.compute(led_by, heavy).await
        {
            return Err(Lacking::Local(error));
        }
        self.parent(recorded).await.map_err(Lacking::Own)
    }

    /// Sees that what a trainer kept from its work before is here: given by somebody.
    async fn local_start(&self, recorded: &RecordedWork) -> Result<(), DepotError> {
        let local = recorded.member.work.local_start;
        if let (Some(local), Some(bytes)) = (local, self.workshop.local_state_bytes()) {
            let length = Length::Exactly(bytes);
            let trainer = Some(recorded.member.trainer);
            self.depot.get(local, length, trainer).await?;
        }
        Ok(())
    }

    /// Sees that the weights that a work starts from are here.
    async fn parent(&self, recorded: &RecordedWork) -> Result<(), DepotError> {
        let parent = ContentHash(recorded.parent.0);
        match self.depot.folder.has(parent) {
            true => Ok(()),
            false => self.depot.fetched_state(&self.workshop, parent).await,
        }
    }

    /// Does the works again that led to what a trainer kept, from the last one on whose start is given. Returns whether
    /// that is here now: it is not where one of them was not done as it was recorded.
    async fn compute(&self, led_by: &[RecordedWork], heavy: &Mutex<()>) -> bool {
        let mut from = None;
        for (place, work) in led_by.iter().enumerate() {
            if self.local_start(work).await.is_ok() {
                from = Some(place);
                break;
            }
        }
        let Some(from) = from else { return false };
        for work in led_by.iter().take(from + 1).rev() {
            let done = match self.parent(work).await {
                Ok(()) => {
                    // Others may compute between two works.
                    let _heavy = heavy.lock().await;
                    self.keep_local_end(work).await
                }
                Err(error) => Err(error),
            };
            let (round, trainer) = (work.index, work.member.trainer);
            match done {
                Ok(true) => info!(round, %trainer, "computed what a trainer kept"),
                Ok(false) => return false,
                Err(error) => {
                    info!(round, %trainer, error = %error.with_causes(), "what a trainer kept is not computed");
                    return false;
                }
            }
        }
        true
    }

    /// Does a work again, and keeps what its trainer kept of it. Returns whether that is what was recorded.
    async fn keep_local_end(&self, recorded: &RecordedWork) -> Result<bool, DepotError> {
        let Some(local_end) = recorded.member.work.local_end else {
            return Ok(false);
        };
        let (hands, work) = (self.clone(), recorded.clone());
        let is_kept = blocking(move || {
            let mut aside = hands.depot.folder.aside()?;
            let done = hands.done_again(&work, |order| {
                let watch = &mut |_| ControlFlow::Continue(());
                hands.workshop.train(order, &mut aside, watch)
            })?;
            let is_same = match done {
                Some(Ok(done)) => done.claim.local == Some(local_end),
                Some(Err(error)) if !error.is_of_the_work() => {
                    return Err(DepotError::Train(error));
                }
                Some(Err(_)) | None => false,
            };
            if is_same {
                hands.depot.folder.put(aside, local_end)?;
            }
            Ok(is_same)
        });
        let is_kept = is_kept.await?;
        if is_kept {
            self.depot.share(local_end).await?;
        }
        Ok(is_kept)
    }

    /// Does the work again; what it starts from is here.
    pub(crate) async fn replay(&self, recorded: &RecordedWork) -> Result<Replay, DepotError> {
        let (hands, work) = (self.clone(), recorded.clone());
        blocking(move || hands.replayed(&work)).await
    }

    fn replayed(&self, recorded: &RecordedWork) -> Result<Replay, DepotError> {
        let work = &recorded.member.work;
        let claim = Claim {
            contribution: work.contribution,
            local: work.local_end,
            first_loss: work.first_loss.loss(),
            last_loss: work.last_loss.loss(),
        };
        let mut losses = Vec::new();
        let done = self.done_again(recorded, |order| {
            self.workshop.replay(order, &claim, &mut |progress| {
                losses.extend(progress.loss.map(LossBits::of));
                ControlFlow::Continue(())
            })
        })?;
        let verdict = match done {
            Some(Ok(verdict)) => Ok(verdict),
            // Work that nobody can do was not done.
            Some(Err(TrainError::Order(error))) => Err(NotWork::Order(error)),
            Some(Err(error)) => return Err(DepotError::Train(error)),
            None => Err(NotWork::Local),
        };
        Ok(Replay { verdict, losses })
    }

    /// Does a work again in one of two ways; nothing where what it starts from is not the local state of a trainer.
    fn done_again<T>(
        &self,
        recorded: &RecordedWork,
        work: impl FnOnce(WorkOrder<'_>) -> Result<T, TrainError>,
    ) -> Result<Option<Result<T, TrainError>>, DepotError> {
        let parent = ContentHash(recorded.parent.0);
        let parent = self.depot.checkpoint(&self.workshop, parent)?;
        let local = match recorded.member.work.local_start {
            Some(name) => match local_state(&self.depot, &self.workshop, name)? {
                Some(local) => Some(local),
                None => return Ok(None),
            },
            None => None,
        };
        let order = WorkOrder {
            run: self.depot.folder.run().0,
            round: u32::try_from(recorded.index).unwrap_or(u32::MAX),
            beacon: recorded.beacon.0,
            trainer: TrainerId(recorded.member.trainer.0),
            parent: &parent,
            local,
            steps: recorded.member.work.steps,
        };
        Ok(Some(work(order)))
    }
}

/// Why recorded work is not done again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum RunReplayError {
    /// Which run.
    #[error(transparent)]
    Runs(Box<RunsError>),
    /// What is needed before anything can be computed.
    #[error("the manifest of the run is not on this device yet")]
    NoManifest,
    /// The run's topic.
    #[error("the device cannot take part in the run's topic")]
    TakePart(#[from] TakePartError),
    /// Its data, or the model that it starts from, are not here.
    #[error("the run is not open on this device yet")]
    NotOpen,
    /// There is no such round.
    #[error("round {round} is not recorded: this device knows {known} rounds, counted from 0")]
    NoRound {
        /// The round.
        round: u64,
        /// Rounds that are known.
        known: u64,
    },
    /// The trainer took no part in the round.
    #[error("no trainer of round {round} begins with {trainer:?}; its trainers are {}", there.join(", "))]
    NoTrainer {
        /// The round.
        round: u64,
        /// What was asked for.
        trainer: String,
        /// Who took part.
        there: Vec<String>,
    },
    /// Two trainers begin so.
    #[error("more than one trainer of round {round} begins with {trainer:?}: {}", there.join(", "))]
    Ambiguous {
        /// The round.
        round: u64,
        /// What was asked for.
        trainer: String,
        /// Who took part.
        there: Vec<String>,
    },
    /// The trainer's local state is gone.
    #[error("what the trainer kept from its round before is not available any more")]
    NoLocal(#[source] DepotError),
    /// The state before is gone.
    #[error(
        "the state before round {round} is not on this device any more, and was not given by anyone: devices keep \
         those of the last {AUDIT_ROUNDS_MAX} rounds"
    )]
    NoState {
        /// The round.
        round: u64,
        /// Why.
        #[source]
        source: DepotError,
    },
    /// The work cannot be done here.
    #[error("the work was not done again")]
    Depot(#[from] DepotError),
}

impl From<RunsError> for RunReplayError {
    fn from(error: RunsError) -> Self {
        Self::Runs(Box::new(error))
    }
}

impl Advice for RunReplayError {
    fn code(&self) -> &str {
        match self {
            Self::Runs(error) => error.code(),
            Self::NoManifest => "no_manifest",
            Self::TakePart(_) => "no_topic",
            Self::NotOpen => "run_not_opened",
            Self::NoRound { .. } => "no_round",
            Self::NoTrainer { .. } => "no_trainer",
            Self::Ambiguous { .. } => "ambiguous_trainer",
            Self::NoLocal(_) => "no_local_state",
            Self::NoState { .. } => "no_state",
            Self::Depot(_) => "not_replayed",
        }
    }

    fn next_step(&self) -> String {
        let step = match self {
            Self::Runs(error) => return error.next_step(),
            Self::NoManifest | Self::TakePart(_) => {
                "Wait until `hearth run show` names the run, then try again"
            }
            Self::NotOpen => {
                "Wait until `hearth run show` says that it waits or trains, then try again"
            }
            Self::NoRound { .. } => "See `hearth run show` for the rounds that are recorded",
            Self::NoTrainer { .. } => {
                "Name one of them; the first characters are enough where no other begins so"
            }
            Self::Ambiguous { .. } => "Name more characters of one of them",
            Self::NoLocal(_) => {
                "Try again when the trainer's device is up, or name a round in which it began anew"
            }
            Self::NoState { .. } => {
                "Name a later round, or try again when others who take part are up"
            }
            Self::Depot(_) => "Check that the disk has room and that others are up, then try again",
        };
        step.to_owned()
    }
}

/// A run that is opened to look at what others did in it.
pub(crate) struct OpenedRun {
    pub(crate) replaying: Replaying,
    /// The model that the run starts from, where there is one.
    pub(crate) base: Option<Arc<BaseFacts>>,
    pub(crate) paid: PaidRun,
    /// Rounds that this device knew to be recorded when it was opened.
    pub(crate) known: u64,
}

impl OpenedRun {
    /// The work of a trainer whose id begins so.
    fn member(&self, round: u64, trainer: &str) -> Result<&Member, RunReplayError> {
        let book = self.book(round)?;
        member_of(book, trainer)
    }

    fn book(&self, round: u64) -> Result<&RoundBook, RunReplayError> {
        let rounds = &self.paid.rounds;
        let place = usize::try_from(round).unwrap_or(usize::MAX);
        // Books of audits, after the last round, have no work.
        let found = rounds.get(place);
        let found = found.filter(|paid| paid.book.own_state().is_none());
        let paid = found.ok_or(RunReplayError::NoRound {
            round,
            known: self.paid.rules.rounds_of(rounds.len() as u64),
        })?;
        Ok(&paid.book)
    }

    /// Sees that the state before a round is here, which may be made of an older one; whether it was here is returned.
    pub(crate) async fn state_before(&self, round: u64) -> Result<bool, RunReplayError> {
        let parent = self.book(round)?.parent;
        self.state(round.checked_sub(1), parent)
            .await
            .map_err(|source| RunReplayError::NoState { round, source })
    }

    /// Sees that the state that a round led to is here, or the first one; returns whether it was.
    pub(crate) async fn state(&self, after: Option<u64>, state: B256) -> Result<bool, DepotError> {
        let Replaying { depot, workshop } = &self.replaying;
        if depot.folder.has(ContentHash(state.0)) {
            return Ok(true);
        }
        let book = after.and_then(|round| self.book(round).ok());
        match book {
            Some(book) => depot.state_after(workshop, book, state).await?,
            None => drop(depot.first_state(workshop).await?),
        }
        Ok(false)
    }

    /// Lets go of a state that was only here to be looked at.
    pub(crate) async fn let_go(&self, round: u64, state: B256) {
        if self.is_old(round) && round > 0 {
            self.replaying.depot.forget(&[ContentHash(state.0)]).await;
        }
    }

    /// Lets go of what trainers kept, where it was only here to be looked at.
    async fn let_go_of_kept(&self, works: impl Iterator<Item = &RecordedWork>) {
        let old = works.filter(|work| self.is_old(work.index));
        let kept: Vec<_> = old
            .filter_map(|work| work.member.work.local_start)
            .collect();
        self.replaying.depot.forget(&kept).await;
    }

    /// Whether no audit needs the files of a round any more.
    fn is_old(&self, round: u64) -> bool {
        round.saturating_add(AUDIT_ROUNDS_MAX + 1) < self.known
    }
}

fn member_of<'a>(book: &'a RoundBook, trainer: &str) -> Result<&'a Member, RunReplayError> {
    let wanted = trainer.trim_start_matches("0x").to_lowercase();
    let members = book.members.iter();
    let mut found = members.filter(|member| member.trainer.to_string().starts_with(&wanted));
    let (first, second) = (found.next(), found.next());
    let (round, trainer) = (book.index, trainer.to_owned());
    let there = || {
        let members = book.members.iter();
        members.map(|member| member.trainer.to_string()).collect()
    };
    match (first, second) {
        (Some(member), None) => Ok(member),
        (None, _) => Err(RunReplayError::NoTrainer {
            round,
            trainer,
            there: there(),
        }),
        (Some(_), Some(_)) => Err(RunReplayError::Ambiguous {
            round,
            trainer,
            there: there(),
        }),
    }
}

impl Runs {
    /// Opens a run of this device to look at what others did in it.
    ///
    /// # Errors
    /// When the run is not known, or its manifest or data are not here yet.
    pub(crate) async fn opened(&self, run: B256) -> Result<OpenedRun, RunReplayError> {
        let (folder, paid, work) = {
            let going = self.0.locked();
            let going = going.get(&run);
            let going = going.ok_or_else(|| RunsError::Unknown(hex::encode(run)))?;
            let folder = going.folder.clone();
            (folder, going.books.paid(), going.work.opened())
        };
        let paid = paid.ok_or(RunReplayError::NoManifest)?;
        let work = work.ok_or(RunReplayError::NotOpen)?;
        let network = self.0.parts.network.clone();
        let topic = Arc::new(network.take_part(TopicId(run.0))?);
        let replaying = Replaying {
            depot: Depot::new(folder, network, topic),
            workshop: work.workshop,
        };
        Ok(OpenedRun {
            replaying,
            base: work.base,
            known: paid.rules.rounds_of(paid.rounds.len() as u64),
            paid,
        })
    }

    /// Does a trainer's recorded work again, and compares it with the record.
    ///
    /// # Errors
    /// When there is no such work, or what it starts from is not available any more.
    pub(crate) async fn replay(&self, asked: &ReplayWork) -> Result<WorkReplayed, RunReplayError> {
        let run = self.find(&asked.run)?;
        let opened = self.opened(run).await?;
        let member = opened.member(asked.round, &asked.trainer)?.clone();
        self.replay_of(&opened, asked.round, member).await
    }

    /// Does the work of a member of a recorded round again.
    ///
    /// # Errors
    /// When what it starts from is not available any more.
    pub(crate) async fn replay_of(
        &self,
        opened: &OpenedRun,
        round: u64,
        member: Member,
    ) -> Result<WorkReplayed, RunReplayError> {
        let recorded = RecordedWork::of(opened.book(round)?, &member);
        let was_here = opened.state_before(round).await?;
        let replayed = self.gathered_and_replayed(opened, &recorded).await;
        if !was_here {
            opened.let_go(round, recorded.parent).await;
        }
        let (replay, took) = replayed.map_err(|lacking| match lacking {
            Lacking::Local(source) => RunReplayError::NoLocal(source),
            Lacking::Own(source) => source.into(),
        })?;
        let work = &recorded.member.work;
        Ok(WorkReplayed {
            run: hex::encode(opened.paid.rules.run),
            round,
            trainer: member.trainer.to_string(),
            account: member.account.to_checksum(None),
            steps: work.steps,
            seconds: took.as_secs_f64(),
            same: replay.is_same(work),
            parts: replay.parts(work),
            impossible: replay
                .verdict
                .err()
                .map(|error| error.with_causes().to_string()),
        })
    }

    /// A replay, and how long it took once all that it starts from was here.
    async fn gathered_and_replayed(
        &self,
        opened: &OpenedRun,
        recorded: &RecordedWork,
    ) -> Result<(Replay, Duration), Lacking> {
        let parts = &self.0.parts;
        let replaying = &opened.replaying;
        let books = opened.paid.rounds.iter().map(|round| &round.book);
        let oldest = recorded.index.saturating_sub(AUDIT_ROUNDS_MAX);
        let led_by = recorded.led_by(books.filter(|book| book.index >= oldest));
        let gathered = replaying.gather(recorded, &led_by, &parts.heavy).await;
        let _heavy = parts.heavy.lock().await;
        let began_ms = parts.environment.now_ms();
        let replayed = match gathered {
            Ok(()) => replaying.replay(recorded).await.map_err(Lacking::Own),
            Err(lacking) => Err(lacking),
        };
        let took_ms = parts.environment.now_ms().saturating_sub(began_ms);
        let works = led_by.iter().chain([recorded]);
        opened.let_go_of_kept(works).await;
        Ok((replayed?, Duration::from_millis(took_ms)))
    }
}
