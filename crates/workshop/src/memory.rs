//! What the work of a round takes of the machine's memory, computed before any is taken.

use std::fmt;

use hearth_protocol::run::manifest::RunStart;
use hearth_training::{Memory, StartError, Trainer, Training};

use crate::settings::Settings;

/// What a device gives to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Threads that compute.
    pub threads: usize,
}

/// Bytes of the work of a run, by what they are for. [`fmt::Display`] writes them as people read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunMemory {
    /// The weights of the model that the run starts from, which are there as long as the workshop is.
    pub base_bytes: u64,
    /// The shared state that a round begins from, its outer velocity included.
    pub shared_bytes: u64,
    /// Steps of training.
    pub training: Memory,
    /// What a trainer has not sent yet, and what it changed in this round.
    pub residuals_bytes: u64,
    /// The tokens of a round.
    pub windows_bytes: u64,
    /// Adding contributions up: the largest tensor, one contribution, the norms of all.
    pub aggregation_bytes: u64,
    /// Windows that are computed together: as many as fit, for the same bits.
    pub windows_together: usize,
}

impl RunMemory {
    /// Returns the most that is taken at one time. Training and adding up do not go on at once.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        let training = self.training.total_bytes() + self.residuals_bytes + self.windows_bytes;
        self.base_bytes + self.shared_bytes + training.max(self.aggregation_bytes)
    }

    /// Computes it with as many windows together as fit, or with one where not even that does.
    pub(crate) fn of(settings: &Settings, limits: &Limits) -> Result<Self, StartError> {
        let mut together = settings.manifest.inner.windows as usize;
        loop {
            let training = settings.training(0, 0, together, limits.threads);
            let memory = Self::with(settings, &training)?;
            if together == 1 || memory.total_bytes() <= limits.memory_bytes {
                return Ok(memory);
            }
            together = together.div_ceil(2);
        }
    }

    fn with(settings: &Settings, training: &Training) -> Result<Self, StartError> {
        let adapter = settings.adapter.as_deref();
        let floats = |count: usize| count as u64 * 4;
        let trained = floats(settings.trained().len());
        let sections = &settings.sections;
        let largest = sections.tensors().iter().map(|shape| shape.values()).max();
        let contribution = sections.bytes() as u64;
        let round = &settings.manifest.round;
        let norms = u64::from(round.trainers_max) * sections.tensors().len() as u64 * 8;
        let reads = settings.manifest.round_bounds();
        let velocity = match settings.manifest.outer.momentum {
            Some(_) => trained,
            None => 0,
        };
        let base_bytes = match (adapter, settings.manifest.start) {
            (None, RunStart::Fresh { .. }) => 0,
            _ => floats(settings.model.tensors().len()),
        };
        Ok(Self {
            base_bytes,
            shared_bytes: trained + velocity,
            training: Trainer::memory(&settings.model, adapter, training)?,
            residuals_bytes: 2 * trained + contribution,
            windows_bytes: (reads.tokens + reads.windows) * 4,
            aggregation_bytes: largest.unwrap_or(0) * 4 + contribution + 2 * norms,
            windows_together: training.windows_together,
        })
    }
}

impl fmt::Display for RunMemory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let lines = [
            ("weights that it starts from", self.base_bytes),
            ("shared weights", self.shared_bytes),
            ("weights in training", self.training.weights_bytes),
            ("gradients", self.training.gradients_bytes),
            ("optimizer", self.training.optimizer_bytes),
            ("activations", self.training.activations_bytes),
            ("threads", self.training.threads_bytes),
            ("residuals and update", self.residuals_bytes),
            ("windows", self.windows_bytes),
            ("adding up, at another time", self.aggregation_bytes),
        ];
        write!(f, "{:.1} MiB:", mib(self.total_bytes()))?;
        let there = lines.into_iter().filter(|(_, bytes)| *bytes > 0);
        for (index, (what, bytes)) in there.enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma} {what} {:.1}", mib(bytes))?;
        }
        Ok(())
    }
}
