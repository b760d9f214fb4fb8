//! What can be seen of a run on this device while it goes on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_api::runs::{AuditView, RoundView, RunState};
use hearth_workshop::StepProgress;

/// Rounds whose losses are shown.
const ROUNDS_MAX: usize = 10_000;

/// What is shown of a run; clones show the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    state: RunState,
    rounds: VecDeque<RoundView>,
    last_audits: Vec<AuditView>,
}

impl Shown {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Plain data; a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn say(&self, doing: &str) {
        let mut seen = self.seen();
        doing.clone_into(&mut seen.state.doing);
        seen.state.step = None;
    }

    pub(crate) fn training(&self, index: u64, progress: StepProgress) {
        let mut seen = self.seen();
        seen.state.doing = format!("training for round {index}");
        seen.state.step = Some(progress.done);
        seen.state.steps = Some(progress.total);
        if progress.loss.is_some() {
            seen.state.loss = progress.loss;
        }
    }

    pub(crate) fn failed(&self, why: &str) {
        self.seen().state.trouble = Some(why.to_owned());
    }

    pub(crate) fn round(&self, round: RoundView) {
        let mut seen = self.seen();
        if round.trainers.is_empty() {
            // A book of audits is not a round, and does not lead to other weights.
            seen.last_audits.extend(round.audits);
            return;
        }
        seen.state.rounds_done = round.index + 1;
        if seen.rounds.len() >= ROUNDS_MAX {
            seen.rounds.pop_front();
        }
        seen.rounds.push_back(round);
    }

    pub(crate) fn state(&self) -> RunState {
        self.seen().state.clone()
    }

    /// What replays found of the last rounds, once all were recorded.
    pub(crate) fn last_audits(&self) -> Vec<AuditView> {
        self.seen().last_audits.clone()
    }

    pub(crate) fn rounds(&self) -> Vec<RoundView> {
        self.seen().rounds.iter().cloned().collect()
    }
}
