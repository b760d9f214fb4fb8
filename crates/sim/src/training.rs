//! Trainers, validators and a chain in one run, from one seed.
//!
//! Notices are late, come twice, in any order, and again when a link is back; devices crash before any of their effects;
//! owners need their machines; blocks are undone; validators change with epochs. In two runs of three some trainers and
//! validators break the rules on purpose, in the ways of spec 16, section 9. After everything that happens the
//! invariants must hold.
//!
//! Work is a hash of what it was computed from ([`model`]): the same order gives the same, and a replay tells whatever
//! is different.

mod attacks;
mod bus;
mod chain;
mod ending;
mod faults;
mod invariants;
mod model;
mod scene;
mod trainer;
mod validator;
mod world;

pub use attacks::{Attack, Brought, HonestPay, attacks};
pub use world::{Cheats, TrainingSummary, TrainingTally, TrainingWorld};

use crate::world::Failure;

/// Runs one seed to its end.
///
/// # Errors
/// The first invariant that does not hold.
pub fn run(seed: u64) -> Result<TrainingSummary, Failure> {
    TrainingWorld::new(seed, false).run()
}
