//! The ledger: devices and bonds, votes, validators, rewards, runs. What each promises, every attack that the
//! specification names, and what holds after any sequence of calls.

mod challenges;
mod deployment;
mod devices;
mod gas;
mod invariants;
mod rewards;
mod runs;
mod town;
mod validators;
mod vectors;
mod voice;
