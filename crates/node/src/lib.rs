//! The node: drives the protocol's machines and performs their effects.
//!
//! Only this crate composes the rooms of the house: the machines of `protocol`, the chains of
//! `chain`, the shapes of `api`. It reads clocks and disks so that they need not.

pub mod advice;
pub mod http;
pub mod keys;
pub mod payments;
pub mod store;
