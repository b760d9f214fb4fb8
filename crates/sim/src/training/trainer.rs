//! The driver of a trainer's machine, and the ways in which trainers cheat.

use alloy_primitives::B256;
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::run::Head;
use hearth_protocol::run::history::RunRules;
use hearth_protocol::run::message::{
    Commit, LossBits, LossKey, Reveal, RoundStart, RunMessage, Work,
};
use hearth_protocol::run::trainer::{Committed, Trainer, TrainerEffect, TrainerEvent};
use hearth_protocol::time::Timestamp;

use super::model::{Order, train};
use super::scene::{Moment, Place};
use super::world::{TrainingWorld, account_of, id_of};
use crate::invariant::Broken;

/// How a trainer works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Diligence {
    Honest,
    /// Waits until another shows its work, and says that it is its own.
    Copies,
    /// Sends random numbers.
    NoWork,
    /// Starts from older weights.
    StaleParent,
    /// Trains on windows that were not drawn.
    OtherWindows,
    /// Does not go on from what it kept, and says that it did.
    WrongStart,
    /// Takes fewer steps than it says.
    MoreSteps,
    /// Commits to two works, and shows the second as well.
    TwoCommitments,
    /// Shows its work an attempt too late.
    LateReveal,
    /// Never shows its work.
    NoReveal,
    /// Gives its contribution to nobody.
    Unfetchable,
    /// Its contribution has another form.
    BadBytes,
    /// Sends a hundred times what it computed.
    Scales,
    /// Sends the opposite of what it computed.
    Flips,
    /// Sends random numbers, and gives nobody what a replay starts from.
    Withholds,
}

impl Diligence {
    pub(super) const BAD: [Self; 14] = [
        Self::Copies,
        Self::NoWork,
        Self::StaleParent,
        Self::OtherWindows,
        Self::WrongStart,
        Self::MoreSteps,
        Self::TwoCommitments,
        Self::LateReveal,
        Self::NoReveal,
        Self::Unfetchable,
        Self::BadBytes,
        Self::Scales,
        Self::Flips,
        Self::Withholds,
    ];
}

/// A trainer's device.
#[derive(Debug)]
pub(super) struct TrainerSide {
    pub(super) place: Place,
    pub(super) diligence: Diligence,
    /// Rounds in which it is admitted for honest work before it begins to cheat.
    pub(super) honest_rounds: u64,
    pub(super) machine: Trainer,
    /// On disk: what it committed to.
    pub(super) kept: Option<Committed>,
    pub(super) is_paused: bool,
    step_ms: u64,
    rules: RunRules,
    /// The task that is under way.
    task: u64,
    order: Option<(Head, Option<ContentHash>, u32)>,
    /// What others have shown of this state.
    shown: Option<(B256, Work)>,
    older_state: B256,
}

impl TrainerSide {
    pub(super) fn new(
        place: Place,
        (diligence, honest_rounds): (Diligence, u64),
        step_ms: u64,
        rules: RunRules,
    ) -> Self {
        Self {
            place,
            diligence,
            honest_rounds,
            machine: Trainer::new(id_of(place), account_of(place), rules, None),
            kept: None,
            is_paused: false,
            step_ms,
            rules,
            task: 0,
            order: None,
            shown: None,
            older_state: B256::ZERO,
        }
    }

    /// The device starts with what is on its disk.
    pub(super) fn restart(&mut self) {
        self.machine = Trainer::new(
            id_of(self.place),
            account_of(self.place),
            self.rules,
            self.kept.clone(),
        );
        self.task = 0;
        self.order = None;
        self.shown = None;
    }

    /// How it works now.
    fn diligence(&self) -> Diligence {
        let standing = self.machine.history().standing(id_of(self.place));
        match standing.admitted < self.honest_rounds {
            true => Diligence::Honest,
            false => self.diligence,
        }
    }

    fn order(&self, head: Head, local_start: Option<ContentHash>, steps: u32) -> Order {
        Order {
            run: self.rules.run,
            index: head.index,
            parent: head.state,
            beacon: head.beacon,
            trainer: id_of(self.place),
            local_start,
            steps,
            carry: self.rules.carry,
        }
    }
}

impl TrainingWorld {
    pub(super) fn trainer_event(
        &mut self,
        place: Place,
        event: TrainerEvent,
    ) -> Result<(), Broken> {
        if let TrainerEvent::Head { head, .. } = &event {
            let side = &mut self.trainers[place];
            self.scene
                .note(format_args!("{place} learns of round {}", head.index));
            if let Some((old, ..)) = &side.order {
                side.older_state = old.state;
            }
        }
        let effects = self.trainers[place].machine.handle(self.scene.now, event);
        let life = self.devices[place].life;
        for effect in effects {
            self.may_crash(place);
            if !self.lives(place, life) {
                return Ok(());
            }
            self.trainer_effect(place, effect)?;
        }
        Ok(())
    }

    fn trainer_effect(&mut self, place: Place, effect: TrainerEffect) -> Result<(), Broken> {
        let life = self.devices[place].life;
        match effect {
            TrainerEffect::Prepare { head } => {
                let state = head.state;
                let task = self.new_task(place);
                let ready = Box::new(TrainerEvent::Prepared { state });
                self.scene
                    .within(50, 2_500, Moment::TaskEnds(place, life, task, ready));
            }
            TrainerEffect::Train {
                head,
                local_start,
                until,
            } => self.begin_training(place, head, local_start, until),
            TrainerEffect::Stop => {
                self.new_task(place);
            }
            TrainerEffect::Keep(kept) => self.trainers[place].kept = Some(kept),
            TrainerEffect::Serve(work) => self.serve(place, &work),
            TrainerEffect::Say(message) => self.trainer_says(place, message)?,
            TrainerEffect::Broken(error) => self.broken_history(place, error)?,
            TrainerEffect::Over => self.scene.note(format_args!("{place}: over")),
        }
        Ok(())
    }

    fn new_task(&mut self, place: Place) -> u64 {
        let task = self.scene.number();
        self.trainers[place].task = task;
        task
    }

    /// What was being done is done.
    pub(super) fn task_ends(
        &mut self,
        place: Place,
        task: u64,
        event: TrainerEvent,
    ) -> Result<(), Broken> {
        if self.trainers[place].task != task {
            return Ok(());
        }
        self.trainer_event(place, event)
    }

    fn begin_training(
        &mut self,
        place: Place,
        head: Head,
        local_start: Option<ContentHash>,
        until: Timestamp,
    ) {
        let life = self.devices[place].life;
        let task = self.new_task(place);
        let side = &mut self.trainers[place];
        let possible = until.ms_since(self.scene.now) / side.step_ms;
        let steps = u32::try_from(possible).unwrap_or(u32::MAX);
        let steps = steps.clamp(self.rules.steps_min, self.rules.steps);
        side.order = Some((head, local_start, steps));
        let diligence = side.diligence();
        let takes_ms = match diligence {
            Diligence::NoWork | Diligence::Copies => 10,
            _ => u64::from(steps) * side.step_ms,
        };
        if diligence == Diligence::Copies {
            self.scene.after(takes_ms, Moment::Copy(place, life, task));
            return;
        }
        let work = self.made(place);
        let parent = head.state;
        let work = Some(work);
        let done = Box::new(TrainerEvent::Trained { parent, work });
        self.scene
            .after(takes_ms, Moment::TaskEnds(place, life, task, done));
    }

    /// A trainer that copies takes what another has shown, if it has by now.
    pub(super) fn copy(&mut self, place: Place, task: u64) {
        let life = self.devices[place].life;
        let side = &self.trainers[place];
        let Some((head, local_start, _)) = side.order.filter(|_| side.task == task) else {
            return;
        };
        let copied = side
            .shown
            .clone()
            .filter(|(parent, _)| *parent == head.state);
        let Some((parent, mut work)) = copied else {
            self.scene.after(400, Moment::Copy(place, life, task));
            return;
        };
        work.local_start = local_start;
        let done = Box::new(TrainerEvent::Trained {
            parent,
            work: Some(work),
        });
        self.scene
            .after(1, Moment::TaskEnds(place, life, task, done));
    }

    /// What a trainer makes of its order, in its own way.
    fn made(&mut self, place: Place) -> Work {
        let side = &self.trainers[place];
        let Some((head, local_start, steps)) = side.order else {
            return train(&side.order(self.chain.head(), None, 1)).0;
        };
        let mut order = side.order(head, local_start, steps);
        let claim = |order: &Order| {
            let (mut work, losses) = train(order);
            (work.steps, work.local_start) = (steps, local_start);
            (work, losses)
        };
        let diligence = match side.diligence() {
            // What begins from nothing that it kept can be replayed in any case.
            Diligence::Withholds if local_start.is_none() => Diligence::Honest,
            diligence => diligence,
        };
        let worked = u64::from(steps_of(diligence, steps));
        *self.ledger.worked.entry(id_of(place)).or_default() += worked;
        let (work, losses) = match diligence {
            Diligence::NoWork | Diligence::Withholds => self.noise(local_start),
            Diligence::StaleParent => {
                order.parent = side.older_state;
                claim(&order)
            }
            Diligence::OtherWindows => {
                order.beacon = B256::repeat_byte(0x0f);
                claim(&order)
            }
            Diligence::WrongStart => {
                order.local_start = match local_start {
                    Some(_) => None,
                    None => Some(ContentHash::of(b"my own")),
                };
                claim(&order)
            }
            Diligence::MoreSteps => {
                order.steps = steps_of(diligence, steps);
                let (mut work, losses) = claim(&order);
                work.steps = self.rules.steps.max(order.steps + 1);
                (work, losses)
            }
            Diligence::Scales | Diligence::Flips => {
                let (mut work, losses) = claim(&order);
                work.contribution = ContentHash::of(&work.contribution.0);
                (work, losses)
            }
            _ => claim(&order),
        };
        let author = self.devices[place].id;
        self.ledger
            .authors
            .entry(work.contribution)
            .or_insert(author);
        if diligence != Diligence::Honest {
            self.ledger.leaked.insert(work.log, losses);
        }
        if diligence == Diligence::BadBytes {
            self.garbage.insert(work.contribution);
        }
        work
    }

    /// Random numbers in the place of work.
    fn noise(&mut self, local_start: Option<ContentHash>) -> (Work, LossKey) {
        let mut noise = || {
            let number = self.scene.random.number();
            ContentHash::of(&number.to_le_bytes())
        };
        let losses = LossKey(noise());
        let work = Work {
            contribution: noise(),
            first_loss: LossBits::of(3.0),
            last_loss: LossBits::of(2.9),
            local_end: self.rules.carry.then(&mut noise),
            local_start,
            log: losses.log(),
            steps: self.rules.steps,
        };
        (work, losses)
    }

    fn serve(&mut self, place: Place, work: &Work) {
        let diligence = self.trainers[place].diligence();
        if diligence == Diligence::Unfetchable {
            return;
        }
        let is_withheld = diligence == Diligence::Withholds;
        if let (true, Some(start)) = (is_withheld, work.local_start) {
            self.files.entry(start).or_default().remove(&place);
        }
        let local = work.local_end.filter(|_| !is_withheld);
        for file in [Some(work.contribution), local].into_iter().flatten() {
            self.files.entry(file).or_default().insert(place);
        }
    }

    fn trainer_says(&mut self, place: Place, message: RunMessage) -> Result<(), Broken> {
        let life = self.devices[place].life;
        if self.devices[place].is_honest {
            self.check_said(place, &message)?;
        }
        match (self.trainers[place].diligence(), &message) {
            (Diligence::NoReveal, RunMessage::Reveal(_)) => {}
            (Diligence::LateReveal, RunMessage::Reveal(_)) => {
                let late_ms = self.rules.attempt_ms;
                let late = Moment::Say(place, life, Box::new(message));
                self.scene.after(late_ms, late);
            }
            (Diligence::TwoCommitments, RunMessage::Commit(commit)) => {
                let second = self.second(place, commit);
                self.say(place, second);
                self.say(place, message);
            }
            (Diligence::TwoCommitments, RunMessage::Reveal(reveal)) => {
                let mut work = reveal.work.clone();
                work.last_loss = LossBits(work.last_loss.0 ^ 1);
                let parent = reveal.parent;
                self.say(place, RunMessage::Reveal(Reveal { parent, work }));
                self.say(place, message);
            }
            _ => self.say(place, message),
        }
        Ok(())
    }

    fn second(&self, place: Place, commit: &Commit) -> RunMessage {
        let mut commit = *commit;
        if let Some(kept) = &self.trainers[place].kept {
            let mut work = kept.work.clone();
            work.last_loss = LossBits(work.last_loss.0 ^ 1);
            let start = RoundStart {
                run: self.rules.run,
                index: commit.index,
                parent: commit.parent,
            };
            commit.commitment = work.commitment(&start, id_of(place), commit.account);
        }
        RunMessage::Commit(commit)
    }

    /// A trainer that copies notes what others show.
    pub(super) fn eavesdrop(&mut self, place: Place, from: DeviceId, message: &RunMessage) {
        if let RunMessage::Reveal(reveal) = message
            && from != id_of(place)
        {
            self.trainers[place].shown = Some((reveal.parent, reveal.work.clone()));
        }
    }

    /// The owner needs the machine, or does not need it any more.
    pub(super) fn pause(&mut self, place: Place, is_paused: bool) -> Result<(), Broken> {
        self.trainers[place].is_paused = is_paused;
        self.scene.note(format_args!("{place} paused: {is_paused}"));
        match self.devices[place].is_up {
            true => self.trainer_event(place, TrainerEvent::Paused(is_paused)),
            false => Ok(()),
        }
    }
}

/// Steps that are really taken where `steps` are ordered.
fn steps_of(diligence: Diligence, steps: u32) -> u32 {
    match diligence {
        Diligence::NoWork | Diligence::Withholds | Diligence::Copies => 0,
        Diligence::MoreSteps => (steps / 2).max(1),
        _ => steps,
    }
}
