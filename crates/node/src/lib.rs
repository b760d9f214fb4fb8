//! The node: drives the protocol's machines and performs their effects.
//!
//! Only this crate composes the rooms of the house: the machines of `protocol`, the chains of
//! `chain`, the shapes of `api`. It reads clocks and disks so that they need not.
//!
//! What the program calls returns boxed futures: an async function is compiled where it is awaited,
//! so that the program would compile nearly all of this crate once more. Those that take `self` hand it
//! whole to an async function: a block would keep only the fields that it names, and let go of the locks.

pub mod advice;
pub mod api_keys;
pub mod chains;
pub mod datasets;
pub mod device;
pub mod doctor;
pub mod explorer;
pub mod home;
pub mod household;
pub mod http;
pub mod keys;
pub mod ledger;
mod license;
pub mod local_chain;
pub mod machine;
pub mod models;
pub mod node_file;
pub mod owner;
pub mod reader;
pub mod relay;
pub mod roles;
pub mod runs;
pub mod shared_chain;
mod terms;
pub mod trade;
pub mod wallet;
