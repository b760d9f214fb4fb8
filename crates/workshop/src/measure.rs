//! Measuring a state on text that nobody trains on (spec: 16 runs, section 2.6).

use std::ops::ControlFlow;

use hearth_datasets::folder::WhichPart;
use hearth_training::{BatchError, StartError};
use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::progress::{StepProgress, Watch};
use crate::reading::{self, ReadingError};
use crate::workshop::Workshop;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Mean of the windows' losses, in nats a token.
    pub loss: f64,
    /// Windows that were measured.
    pub windows: u32,
    /// Tokens that were foretold.
    pub tokens: u64,
}

/// Why nothing was measured.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// The datasets.
    #[error("the held-out windows cannot be read")]
    Reading(#[from] ReadingError),
    /// Starting.
    #[error("the model cannot be loaded")]
    Start(#[from] StartError),
    /// The windows' tokens.
    #[error("the held-out windows are not the model's")]
    Windows(#[from] BatchError),
    /// The caller stopped it.
    #[error("the work was stopped")]
    Stopped,
}

impl Workshop {
    /// Measures a state on the run's held-out windows. The bits are the same on every device.
    ///
    /// # Errors
    /// When data are missing, or `watch` stops it.
    pub fn held_out_loss(
        &self,
        checkpoint: &Checkpoint,
        watch: Watch<'_>,
    ) -> Result<Measured, MeasureError> {
        let places = reading::held_out(&self.settings, &self.sources);
        let tokens = reading::tokens(&self.sources, WhichPart::HeldOut, &places)?;
        let mut trainer = self.trainer(checkpoint, 0, None)?;
        let inner = &self.settings.manifest.inner;
        let windows = self.settings.manifest.evaluation.windows;
        let mut progress = StepProgress {
            done: 0,
            total: windows,
            loss: None,
        };
        let mut sum = 0.0;
        for window in tokens.chunks_exact(inner.window_tokens as usize + 1) {
            if let ControlFlow::Break(()) = watch(progress) {
                return Err(MeasureError::Stopped);
            }
            let loss = trainer.loss_of(window)?;
            sum += f64::from(loss);
            progress.done += 1;
            progress.loss = Some(loss);
        }
        Ok(Measured {
            loss: sum / f64::from(windows),
            windows,
            tokens: u64::from(windows) * u64::from(inner.window_tokens),
        })
    }
}
