//! What trainers send each other in a round, and what every device makes of it (spec: aggregation).
//!
//! A trainer's update is compressed into a [`Contribution`]: [`ErrorFeedback`] adds what earlier rounds left
//! behind, keeps the largest values (or all, in few bits), and remembers the rest. A [`Cohort`] holds the norms
//! of a round's admitted contributions; a [`TensorSum`] adds them up, tensor by tensor, with each norm clipped
//! to the cohort's median; an [`OuterStep`] moves the weights. [`plan()`] chooses the method, the local steps, the
//! compression and the outer rate of a run from its model and its links.
//!
//! Everything here is a function of its arguments, exact to the bit: the same contributions give the same
//! weights on every device, in whatever order they arrived and however the work is split. A decoder is told the
//! tensors' shapes by the run's manifest, so that no length is read from what a stranger sent.
//!
//! What is not here: files, the network, threads, who is admitted, hashes and signatures.

mod cohort;
mod compression;
mod contribution;
mod dense;
mod fault;
mod feedback;
mod layout;
mod numerics;
mod outer;
mod overlap;
mod packing;
mod plan;
mod section;
mod shape;
mod sparse;
mod topk;

pub use cohort::{Cohort, CohortError, MEMBERS_MAX, Member, SumError, TensorSum, TrainerId};
pub use compression::Compression;
pub use contribution::{Contribution, ReadError, encode};
pub use fault::{EncodeError, SectionFault, VALUE_MAX};
pub use feedback::{ErrorFeedback, FeedbackError};
pub use layout::{DOMAIN, HEADER_BYTES, Layout, LayoutError, TENSORS_MAX, VALUES_MAX};
pub use outer::{OuterError, OuterStep};
pub use overlap::Overlap;
pub use plan::{
    COMPUTE_PER_SETTLING, Decider, Devices, MUON_SHARE_MAX, Method, ModelTensor, Plan, PlanError,
    PlanRequest, REST_PER_TRANSFER, Reason, SHORT_RUN_K_MIN, SHORT_RUN_ROUNDS, STEPS_GOAL,
    STEPS_MAX, Spread, TensorRole, Trust, plan,
};
pub use section::Section;
pub use shape::{CHUNK_VALUES, TILE_SIDE, TensorShape};
