//! The protocol's machines in one simulation: a payer, providers, their channels and a chain, all from
//! one seed.
//!
//! Frames are late, streams break, devices are killed, disks take their time, blocks are undone, the chain
//! goes out of reach, and in two runs of three one side breaks the rules on purpose, in the ways of spec 09,
//! section 12. After everything that happens the [invariants](invariant) must hold. A run that breaks one
//! names it, and prints the command that shows the run line by line.
//!
//! ```text
//! cargo run -p hearth-sim -- run 1000        a thousand runs
//! cargo run -p hearth-sim -- replay 0x2a     one run, line by line
//! cargo run -p hearth-sim -- training run 1000      the same of [`training`]
//! ```
//!
//! Deliberately absent: text, models and sockets. A model is a sequence of ids that is the same everywhere.

mod chain;
pub mod invariant;
mod key;
mod outside;
mod payer;
mod purse;
mod random;
mod seller;
pub mod training;
mod world;

pub use outside::Log;
pub use payer::{Habit, PayerTally};
pub use seller::{Nature, SellerTally};
pub use world::{Failure, Liars, Summary, World};

/// Runs one seed to its end.
///
/// # Errors
/// The first invariant that does not hold.
pub fn run(seed: u64) -> Result<Summary, Failure> {
    World::new(seed, false).run()
}
