//! The one who asks a model for work, as the queue sees it.

/// The one who asks. Numbers stand for names, because the engine knows neither devices nor programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asker {
    /// A program or a device of the household.
    Household {
        /// Which.
        name: u64,
    },
    /// Somebody else. Keys cost nothing, so many devices at one site count as one neighbor.
    Stranger {
        /// Where it is: the network that its address is of, or its relay.
        site: u64,
        /// The device.
        device: u64,
    },
}

impl Asker {
    /// Whether it is of another household.
    pub fn is_stranger(self) -> bool {
        matches!(self, Self::Stranger { .. })
    }
}
