//! A device's part in a topic: what the node holds.

use std::collections::BTreeSet;
use std::sync::Arc;

use hearth_protocol::offer::DeviceId;
use hearth_protocol::time::Timestamp;
use thiserror::Error;
use tokio::sync::watch;

use super::driver::Runs;
use super::notice::TopicId;
use crate::limits::{NOTICE_BODY_BYTES_MAX, RUN_TOPICS_MAX};
use crate::peers::PeerAddress;

/// Why a device does not take part in a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TakePartError {
    /// It takes part in as many as it may.
    #[error("a device takes part in at most {RUN_TOPICS_MAX} topics at once: leave one first")]
    TooMany,
    /// The network was shut down.
    #[error("the network was shut down")]
    ShutDown,
}

/// Why something was not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SayError {
    /// It is empty, or longer than it may be.
    #[error("a notice has 1 to {NOTICE_BODY_BYTES_MAX} bytes: share more as a file")]
    Length,
    /// The network was shut down.
    #[error("the network was shut down")]
    ShutDown,
}

/// What another device said in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The device, which signed it.
    pub from: DeviceId,
    /// When it was said, by that device's clock.
    pub at: Timestamp,
    /// What was said.
    pub body: Vec<u8>,
}

/// A device's part in a topic; it takes part until the last one of the topic is dropped.
#[derive(Debug)]
pub struct Topic {
    runs: Arc<Runs>,
    id: TopicId,
    news: watch::Receiver<u64>,
    after: u64,
}

impl Topic {
    pub(super) fn new(runs: Arc<Runs>, id: TopicId, news: watch::Receiver<u64>) -> Self {
        Self {
            runs,
            id,
            news,
            after: 0,
        }
    }

    /// The topic.
    pub fn id(&self) -> TopicId {
        self.id
    }

    /// Says something to all who take part, now or as long as it is kept: the last
    /// [`DEVICE_NOTICES_MAX`](crate::limits::DEVICE_NOTICES_MAX) notices of a device are, up to
    /// [`DEVICE_NOTICES_BYTES_MAX`](crate::limits::DEVICE_NOTICES_BYTES_MAX), for
    /// [`NOTICE_AGE_MS_MAX`](crate::limits::NOTICE_AGE_MS_MAX). As much may be said at once, and as much each minute after
    /// that; beyond it, this waits. Nobody need be there: it is kept here too.
    ///
    /// # Errors
    /// When it is empty or too long, or the network was shut down.
    pub async fn say(&self, body: Vec<u8>) -> Result<(), SayError> {
        self.runs.say(self.id, body).await
    }

    /// The next thing that another device said, in the order of arrival, what was said before this device took part
    /// included; nothing after the network was shut down. One that falls behind by more than is kept misses the
    /// earliest. Cancel-safe.
    pub async fn heard(&mut self) -> Option<Heard> {
        loop {
            self.news.borrow_and_update();
            if let Some((arrival, notice)) = self.runs.heard(self.id, self.after) {
                self.after = arrival;
                return Some(Heard {
                    from: notice.device,
                    at: notice.at,
                    body: notice.body,
                });
            }
            if self.runs.is_closed() || self.news.changed().await.is_err() {
                return None;
            }
        }
    }

    /// The other devices that take part, as far as they said so, and where they may be dialed: those first to which there
    /// is a connection.
    pub fn participants(&self) -> Vec<(DeviceId, PeerAddress)> {
        self.runs.participants(self.id)
    }

    /// Listens to these devices alone from now on, or to all again: what others say is neither kept nor passed on. A node
    /// that knows who takes part, from the chain, keeps strangers from filling the topic so.
    pub fn listen_to(&self, devices: Option<BTreeSet<DeviceId>>) {
        self.runs.listen_to(self.id, devices);
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        self.runs.leave(self.id);
    }
}
