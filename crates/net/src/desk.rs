//! The part that answers for the household, for all that must know which devices belong to it.
//!
//! It stands apart from the questions' protocol, because the doors look at it too: who may have a connection, or a place
//! among those who are answered, depends on it.

use std::fmt;
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use hearth_protocol::household::{HouseholdAsk, HouseholdReply};
use hearth_protocol::offer::DeviceId;

/// Answers what devices ask about the household.
pub trait AnswersHousehold: Send + Sync {
    /// The answer to what `device` asks.
    fn answer(&self, device: DeviceId, ask: HouseholdAsk) -> BoxFuture<'_, HouseholdReply>;

    /// Whether a device belongs to the household now. It is asked for each connection, so it must
    /// not wait.
    fn is_member(&self, device: &DeviceId) -> bool;
}

/// The part that answers for the household, once the node said so. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Desk(Arc<OnceLock<Arc<dyn AnswersHousehold>>>);

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// Lets `desk` answer. The first one that is named stays.
    pub(crate) fn answer_by(&self, desk: Arc<dyn AnswersHousehold>) {
        let _ = self.0.set(desk);
    }

    /// The one that answers; nothing before the node said so.
    pub(crate) fn get(&self) -> Option<&Arc<dyn AnswersHousehold>> {
        self.0.get()
    }

    /// Whether a device belongs to the household; nobody does before the node said who answers.
    pub(crate) fn is_member(&self, device: &DeviceId) -> bool {
        self.get().is_some_and(|desk| desk.is_member(device))
    }
}
