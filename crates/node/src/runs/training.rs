//! Does what a trainer's machine wants done.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hearth_causes::WithCauses;
use hearth_environment::Environment;
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::run::Head;
use hearth_protocol::run::message::{LossBits, LossKey, Work};
use hearth_protocol::time::Timestamp;
use hearth_workshop::{
    LocalState, StepProgress, TrainError, TrainerId, Watch, WorkOrder, Workshop,
};
use tracing::{info, warn};

use super::depot::{Depot, DepotError, blocking};
use super::folder::{Aside, RunFolderError};
use super::view::Shown;

/// Does the work of rounds on a device.
///
/// Nothing rests on its honesty: what it makes is committed to, shown and replayed by others like any trainer's work. So a
/// program may bring its own, such as one that computes elsewhere, or one that cheats to see what becomes of it.
pub trait RoundTrainer: fmt::Debug + Send + Sync {
    /// Trains as [`Workshop::train`] does, and with its errors.
    ///
    /// # Errors
    /// See [`Workshop::train`].
    fn train(
        &self,
        workshop: &Workshop,
        order: WorkOrder<'_>,
        local_out: &mut dyn Write,
        watch: Watch<'_>,
    ) -> Result<hearth_workshop::Work, TrainError>;
}

/// Trains on this device, as ordered.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalTrainer;

impl RoundTrainer for LocalTrainer {
    fn train(
        &self,
        workshop: &Workshop,
        order: WorkOrder<'_>,
        local_out: &mut dyn Write,
        watch: Watch<'_>,
    ) -> Result<hearth_workshop::Work, TrainError> {
        workshop.train(order, local_out, watch)
    }
}

/// A piece of work that may be stopped.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    pub(crate) fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a trainer is to do.
#[derive(Debug, Clone)]
pub(crate) struct TrainingOrder {
    pub(crate) head: Head,
    pub(crate) local_start: Option<ContentHash>,
    pub(crate) until: Timestamp,
}

/// A trainer's hands.
#[derive(Debug, Clone)]
pub(crate) struct Training {
    pub(crate) depot: Depot,
    pub(crate) workshop: Arc<Workshop>,
    pub(crate) trainer: Arc<dyn RoundTrainer>,
    pub(crate) device: DeviceId,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) shown: Shown,
}

/// Reads what a trainer kept, which may be a stranger's. It blocks.
pub(crate) fn local_state(
    depot: &Depot,
    workshop: &Workshop,
    name: ContentHash,
) -> Result<Option<LocalState>, DepotError> {
    let path = depot.folder.file(name);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RunFolderError::Io { path, source }.into()),
    };
    match workshop.read_local_state(&mut BufReader::new(file)) {
        Ok(state) if state.hash() == name => Ok(Some(state)),
        Ok(_) => Err(RunFolderError::OtherFile { path }.into()),
        Err(error) => {
            warn!(error = %error.with_causes(), "what a trainer kept cannot be read");
            Ok(None)
        }
    }
}

impl Training {
    /// Trains; nothing comes of it where it was stopped or cannot be done.
    pub(crate) async fn train(
        self,
        order: TrainingOrder,
        ms_per_step: Option<u64>,
        stop: StopFlag,
    ) -> Option<(Work, u64)> {
        let trained = blocking(move || Ok(self.done(&order, ms_per_step, &stop))).await;
        trained.ok().flatten()
    }

    fn done(
        &self,
        order: &TrainingOrder,
        ms_per_step: Option<u64>,
        stop: &StopFlag,
    ) -> Option<(Work, u64)> {
        let round = &self.workshop.manifest().round;
        let left_ms = order.until.ms_since(self.now());
        let fitting = ms_per_step.map(|ms| left_ms / ms.max(1));
        let fitting = fitting.and_then(|steps| u32::try_from(steps).ok());
        let mut steps = round
            .steps
            .min(fitting.unwrap_or(u32::MAX))
            .max(round.steps_min);
        loop {
            match self.attempt(order, steps, stop) {
                Ok(Attempt::Done(work, ms)) => return Some((work, ms)),
                // It is slower than it was thought to be: what it can do in time is done from the beginning.
                Ok(Attempt::Late { done }) => steps = done,
                Ok(Attempt::Stopped) => return None,
                Err(error) => {
                    warn!(error = %error.with_causes(), "this device does not contribute to the round");
                    self.shown.failed(&error.with_causes().to_string());
                    return None;
                }
            }
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.environment.now_ms())
    }

    fn attempt(
        &self,
        order: &TrainingOrder,
        steps: u32,
        stop: &StopFlag,
    ) -> Result<Attempt, DepotError> {
        let workshop = &*self.workshop;
        let parent = self
            .depot
            .checkpoint(workshop, ContentHash(order.head.state.0))?;
        let local = match order.local_start {
            Some(name) => self.kept(name)?,
            None => None,
        };
        let local_start = local.as_ref().map(LocalState::hash);
        let began = self.now();
        let steps_min = workshop.manifest().round.steps_min.max(1);
        let (mut losses, mut late) = (Vec::new(), None);
        let mut aside = self.depot.folder.aside()?;
        let work = WorkOrder {
            run: self.depot.folder.run().0,
            round: u32::try_from(order.head.index).unwrap_or(u32::MAX),
            beacon: order.head.beacon.0,
            trainer: TrainerId(self.device.0),
            parent: &parent,
            local,
            steps,
        };
        let watch = &mut |progress: StepProgress| {
            losses.extend(progress.loss.map(LossBits::of));
            self.shown.training(order.head.index, progress);
            let is_late = self.now() >= order.until
                && progress.done >= steps_min
                && progress.done < progress.total;
            if is_late {
                late = Some(progress.done);
            }
            match stop.is_stopped() || is_late {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let trained = self.trainer.train(workshop, work, &mut aside, watch);
        let trained = match trained {
            Ok(trained) => trained,
            Err(TrainError::Stopped) => {
                return Ok(late.map_or(Attempt::Stopped, |done| Attempt::Late { done }));
            }
            Err(error) => return Err(DepotError::Train(error)),
        };
        let ms_per_step = (self.now().ms_since(began) / u64::from(steps.max(1))).max(1);
        let (round, loss) = (order.head.index, trained.claim.last_loss);
        info!(round, steps, loss, "trained for a round");
        let work = self.keep(&trained, aside, local_start, &losses)?;
        Ok(Attempt::Done(work, ms_per_step))
    }

    /// What this trainer kept of its last round. One that has lost it begins without, as a newcomer does.
    fn kept(&self, name: ContentHash) -> Result<Option<LocalState>, DepotError> {
        match local_state(&self.depot, &self.workshop, name) {
            Err(DepotError::Folder(error @ RunFolderError::OtherFile { .. })) => {
                warn!(error = %error.with_causes(), "what was kept of the last round is lost");
                self.depot.folder.forget(name);
                Ok(None)
            }
            read => read,
        }
    }

    /// Keeps what was made, and says what the trainer did.
    fn keep(
        &self,
        trained: &hearth_workshop::Work,
        aside: Aside,
        local_start: Option<ContentHash>,
        losses: &[LossBits],
    ) -> Result<Work, DepotError> {
        let contribution = self.depot.folder.keep(&trained.contribution)?;
        let claim = &trained.claim;
        if let Some(local_end) = claim.local {
            self.depot.folder.put(aside, local_end)?;
        }
        Ok(Work {
            contribution,
            first_loss: LossBits::of(claim.first_loss),
            last_loss: LossBits::of(claim.last_loss),
            local_end: claim.local,
            local_start,
            log: LossKey::of(losses).log(),
            steps: u32::try_from(losses.len()).unwrap_or(u32::MAX),
        })
    }

    /// Gives others what they need of this device's work.
    pub(crate) async fn serve(&self, work: &Work) {
        let files = [Some(work.contribution), work.local_end, work.local_start];
        for name in files.into_iter().flatten() {
            if self.depot.folder.has(name)
                && let Err(error) = self.depot.share(name).await
            {
                warn!(error = %error.with_causes(), "a file of this device's work is not shared");
            }
        }
    }
}

enum Attempt {
    Done(Work, u64),
    Late { done: u32 },
    Stopped,
}
