//! The work of a run on one device: training for a round, doing another trainer's work again, adding a round's
//! contributions up, measuring what came of it (spec: 16 runs, sections 1 to 3).
//!
//! A [`Workshop`] is opened for a manifest and the folders of its datasets, and says what memory it will take before it
//! takes any. All of it is a function of its arguments, exact to the bit: whoever is given the same files computes the same
//! ones, which is what lets a validator check a stranger's round, and every device arrive at the same [`Checkpoint`].
//!
//! Calls block and use their own threads; between steps they ask whether to go on. What is not here: who takes part, what
//! is announced and when, where files come from, clocks, randomness and the network.

mod aggregate;
mod check;
mod checkpoint;
mod floats;
mod local_state;
mod measure;
mod memory;
mod mixture;
mod planning;
mod progress;
mod reading;
mod replay;
mod settings;
mod train;
#[cfg(test)]
mod vectors;
mod workshop;

pub use aggregate::{Admitted, AggregateError, Stored};
pub use check::{Looks, OverlapError};
pub use checkpoint::{CHECKPOINT_FORM, Checkpoint, CheckpointError};
pub use hearth_aggregation::{
    Compression, Devices, Method, Overlap, Plan, Spread, TrainerId, Trust,
};
pub use hearth_training::Weights;
pub use local_state::{LOCAL_STATE_DOMAIN, LocalState, LocalStateError};
pub use measure::{MeasureError, Measured};
pub use memory::{Limits, RunMemory};
pub use mixture::Mixture;
pub use planning::{PlanningError, plan};
pub use progress::{StepProgress, Watch};
pub use reading::ReadingError;
pub use replay::{Difference, Verdict};
pub use settings::{SettingsError, round_rate, shape_of, target_names};
pub use train::{Claim, OrderError, TrainError, Work, WorkOrder};
pub use workshop::{Base, OpenError, Workshop};
