//! Training of the Llama family on CPUs, to the bit: anyone who repeats a step gets the same bytes.
//!
//! Numerics are named by arithmetic and not by device: [`NUMERICS`] fixes the order of every rounded operation (spec:
//! training numerics). Instructions and threads change the speed of a step and nothing else, which is what lets a
//! validator replay the work of a stranger's machine.
//!
//! The crate computes and holds; it reads no clock, no file that it was not given, and draws no randomness but from a
//! seed. It has no network and knows no run: who trains what on which windows is decided elsewhere.

mod adapter;
mod architecture;
mod arithmetic;
#[cfg(test)]
mod conformance;
mod crew;
mod init;
pub mod kernels;
mod layout;
mod memory;
mod model;
mod optimizer;
mod path;
mod safetensors;
mod trainer;
mod weights;

pub use adapter::{Adapter, AdapterError, AdapterLayout, Target};
pub use architecture::{Architecture, ArchitectureError};
pub use layout::{Layout, Role, Tensor, Tensors};
pub use memory::Memory;
pub use optimizer::{AdamW, Moments, Muon, Optimizer, OptimizerError, RateSchedule};
pub use path::Path;
pub use safetensors::{ReadError, read, write};
pub use trainer::{
    Batch, BatchError, Progress, StartError, StateHash, StepError, StepLog, Trainer, Training,
};
pub use weights::{Weights, WeightsError};

/// The name of the arithmetic that this crate computes: another order of operations has another name.
pub const NUMERICS: &str = "f32-fma/1";
