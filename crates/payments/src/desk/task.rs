//! The desk's task: it runs what channels want of their chain, and looks at those who wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use futures::future::BoxFuture;
use hearth_causes::WithCauses;
use hearth_protocol::channel::provider::ChannelEvent;
use hearth_protocol::id::ChannelId;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tracing::{error, warn};

use super::Desk;
use crate::escrow::Escrow;
use crate::store::StoreError;

/// How often those who wait are looked at, in milliseconds.
const TICK_MS: u64 = 1_000;

/// A deposit that was sent.
#[derive(Debug)]
pub(super) struct SentDeposit {
    pub(super) escrow: Arc<Escrow>,
    /// The authorization's nonce, by which the journal knows it.
    pub(super) nonce: B256,
}

/// Something that a channel wants of its chain.
pub(super) struct Job {
    pub(super) channel: ChannelId,
    /// What the channel is told if the work ends without an answer.
    pub(super) failure: ChannelEvent,
    /// The deposit that the work sends.
    pub(super) deposit: Option<SentDeposit>,
    pub(super) work: BoxFuture<'static, ChannelEvent>,
}

/// What the desk's task does for the desk.
pub(super) enum Errand {
    Job(Box<Job>),
    /// What became of the deposit is on record: the journal may forget it.
    Forget(SentDeposit),
    /// Nothing is certain any more.
    Stop(StoreError),
}

/// The desk's task. When it ends, the desk has stopped.
#[derive(Debug)]
pub struct DeskTask {
    desk: Desk,
    errands: mpsc::UnboundedReceiver<Errand>,
    jobs: JoinSet<ChannelEvent>,
    under_way: HashMap<Id, UnderWay>,
    forgetting: JoinSet<()>,
}

/// A job under way.
#[derive(Debug)]
struct UnderWay {
    channel: ChannelId,
    failure: ChannelEvent,
    deposit: Option<SentDeposit>,
}

impl DeskTask {
    pub(super) fn new(desk: Desk, errands: mpsc::UnboundedReceiver<Errand>) -> Self {
        Self {
            desk,
            errands,
            jobs: JoinSet::new(),
            under_way: HashMap::new(),
            forgetting: JoinSet::new(),
        }
    }

    /// Runs until the store fails or the future is dropped.
    ///
    /// # Errors
    /// When the store fails. Callers that wait for an answer are told that the desk has stopped.
    pub async fn run(mut self) -> Result<(), StoreError> {
        let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                errand = self.errands.recv() => match errand {
                    Some(errand) => self.take(errand)?,
                    None => return Ok(()),
                },
                Some(ended) = self.jobs.join_next_with_id() => self.end_job(ended),
                Some(_) = self.forgetting.join_next() => {}
                _ = tick.tick() => self.tick(),
            }
        }
    }

    fn take(&mut self, errand: Errand) -> Result<(), StoreError> {
        match errand {
            Errand::Job(job) => {
                let Job {
                    channel,
                    failure,
                    deposit,
                    work,
                } = *job;
                let handle = self.jobs.spawn(work);
                let under_way = UnderWay {
                    channel,
                    failure,
                    deposit,
                };
                self.under_way.insert(handle.id(), under_way);
            }
            // Until now the same deposit was answered with the same transaction, so that a crash loses none. From now
            // on it is one that was used before.
            Errand::Forget(SentDeposit { escrow, nonce }) => {
                self.forgetting.spawn(async move {
                    if let Err(error) = escrow.forget_deposit(nonce).await {
                        warn!(error = %error.with_causes(), "a deposit that is on record stays in the journal");
                    }
                });
            }
            Errand::Stop(error) => return Err(error),
        }
        Ok(())
    }

    fn end_job(&mut self, ended: Result<(Id, ChannelEvent), JoinError>) {
        let (id, event) = match ended {
            Ok((id, event)) => (id, Some(event)),
            Err(error) => {
                error!(error = %error.with_causes(), "a payment's transaction task failed");
                (error.id(), None)
            }
        };
        let Some(under_way) = self.under_way.remove(&id) else {
            return;
        };
        let event = event.unwrap_or(under_way.failure);
        let is_settled = matches!(&event, ChannelEvent::Done { outcome: Ok(_), .. });
        let deposit = under_way.deposit.filter(|_| is_settled);
        self.tell(|channels, releases| {
            channels.feed_and_forget(under_way.channel, event, deposit, releases)
        });
    }

    fn tick(&self) {
        let mut busy = Vec::new();
        self.tell(|channels, _| {
            busy = channels.busy();
            Ok(())
        });
        for channel in busy {
            self.tell(|channels, releases| channels.feed(channel, ChannelEvent::Tick, releases));
        }
    }

    fn tell(
        &self,
        work: impl FnOnce(&mut super::Channels, &mut super::Releases) -> Result<(), StoreError>,
    ) {
        // A desk that has stopped says why by an errand.
        let _ = self.desk.turn(work);
    }
}

impl Drop for DeskTask {
    fn drop(&mut self) {
        let Ok(mut channels) = self.desk.channels.lock() else {
            return;
        };
        let waiting = channels.stop();
        drop(channels);
        drop(waiting);
    }
}
