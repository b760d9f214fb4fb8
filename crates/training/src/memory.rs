//! What a training takes of the machine's memory, computed before it starts.

use std::fmt;

/// Bytes of a training, by what they are for. [`fmt::Display`] writes them as people read them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Weights of the model, and of an adapter.
    pub weights_bytes: u64,
    /// Gradients of what is trained.
    pub gradients_bytes: u64,
    /// What the optimizer remembers.
    pub optimizer_bytes: u64,
    /// Activations of the windows that are computed together.
    pub activations_bytes: u64,
    /// Room of the threads.
    pub threads_bytes: u64,
}

impl Memory {
    /// Returns all of it.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.activations_bytes
            + self.threads_bytes
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{:.1} MiB: weights {:.1}, gradients {:.1}, optimizer {:.1}, activations {:.1}, threads {:.1}",
            mib(self.total_bytes()),
            mib(self.weights_bytes),
            mib(self.gradients_bytes),
            mib(self.optimizer_bytes),
            mib(self.activations_bytes),
            mib(self.threads_bytes)
        )
    }
}
