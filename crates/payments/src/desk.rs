//! The desk: the one owner of the channels on which this node is paid.
//!
//! Requests feed the channels' machines one at a time, under one lock, on their own threads. What must not be forgotten
//! goes to the store in that order, and only when it is durable are the other effects let out, by the store's thread.
//! Nothing waits while the lock is held but a read of the store. Transactions and readings of the chain are errands of
//! the desk's task, which also looks at those who wait.
//!
//! A channel is taken up only together with the way to its chain: one whose chain this node does not
//! use cannot wait for a reading or a transaction that never comes.

mod channels;
mod stored;
mod task;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use hearth_environment::Environment;
use hearth_protocol::channel::provider::{
    ChannelEvent, Correction, PaymentStatement, ProviderRecord, Quote, RequestId, Sight,
};
use hearth_protocol::channel::{CheckedPayment, OnchainState};
use hearth_protocol::id::{ChainId, ChannelId};
use hearth_protocol::money::Amount;
use hearth_protocol::x402::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::escrow::Escrows;
pub use crate::stopped::DeskStopped;
use crate::store::{Batch, Store, StoreError};
use channels::{Channels, Releases, Waiter};
pub use stored::{PROVIDER_CHANNELS, StoredChannel};
pub use task::DeskTask;
use task::Errand;

/// Requests that are waited for or worked on at once; more are told that the desk is busy.
const REQUESTS_MAX: usize = 8_192;

/// What became of a payment.
#[derive(Debug)]
pub enum Admission {
    /// Work may begin.
    Admitted(Ticket),
    /// The refund that was asked for is done.
    Refunded(PaymentStatement),
    /// The payment is refused.
    Refused(Refusal),
}

/// Why a payment is refused, and how an honest payer recovers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: ErrorCode,
    /// From which a payer recovers, where it can.
    pub correction: Option<Box<Correction>>,
}

/// A charge that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charged {
    /// What the request was charged.
    pub amount: Amount,
    /// What to state.
    pub statement: PaymentStatement,
}

/// What else must become durable with a charge, made from what the charge states.
pub type Alongside = Box<dyn FnOnce(&Charged) -> Result<Batch, StoreError> + Send>;

/// A handle to the desk. Clones share it.
#[derive(Debug, Clone)]
pub struct Desk {
    channels: Arc<Mutex<Channels>>,
    errands: mpsc::UnboundedSender<Errand>,
    /// A request has a place until it has ended. It bounds what is waited for.
    places: Arc<Semaphore>,
}

/// The right to work on a request, and the duty to say what came of it.
///
/// A ticket that is dropped says it too: nothing is charged, unless [`Ticket::charge_on_drop`]
/// named an amount for what had been delivered by then.
#[derive(Debug)]
pub struct Ticket {
    desk: Desk,
    channel: ChannelId,
    request: RequestId,
    on_drop: Option<Amount>,
    spent: bool,
    place: Arc<OwnedSemaphorePermit>,
}

impl Desk {
    /// A desk over `store`, and the task that must be run for it.
    pub fn new(
        store: Store,
        escrows: Escrows,
        environment: Arc<dyn Environment>,
        run: u64,
    ) -> (Self, DeskTask) {
        let (errands, inbox) = mpsc::unbounded_channel();
        let channels = Channels::new(store, escrows, environment, run);
        let desk = Self {
            channels: Arc::new(Mutex::new(channels)),
            errands,
            places: Arc::new(Semaphore::new(REQUESTS_MAX)),
        };
        let task = DeskTask::new(desk.clone(), inbox);
        (desk, task)
    }

    /// Offers a payment and waits until it is admitted, refunded or refused.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub async fn pay(
        &self,
        chain: ChainId,
        payment: CheckedPayment,
        quote: Quote,
    ) -> Result<Admission, DeskStopped> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Ok(Admission::Refused(Refusal {
                code: ErrorCode::ChannelBusy,
                correction: None,
            }));
        };
        let (answer, wait) = oneshot::channel();
        let payment = Box::new(payment);
        self.turn(|channels, releases| {
            let waiter = Waiter::Admission(answer, Arc::new(place));
            let request = channels.expect(waiter);
            let channel = payment.channel;
            if channels.open(chain, channel, || ProviderRecord::new(payment.config))? {
                let pay = ChannelEvent::Pay {
                    request,
                    payment,
                    quote,
                };
                channels.feed(channel, pay, releases)
            } else {
                channels.refuse(request, ErrorCode::InvalidNetwork, releases);
                Ok(())
            }
        })?;
        wait.await.map_err(|_| DeskStopped)
    }

    /// Says what the chain has for a channel now.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub fn observe(
        &self,
        channel: ChannelId,
        (state, sight): (OnchainState, Sight),
    ) -> Result<(), DeskStopped> {
        self.turn(|channels, releases| {
            if channels.open_stored(channel)? {
                channels.feed(channel, ChannelEvent::Onchain { state, sight }, releases)?;
            }
            Ok(())
        })
    }

    /// Says up to when everything that happened on a chain was told by [`Desk::observe`]; nothing
    /// where that is not known any more.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub fn hear(&self, chain: ChainId, sight: Option<Sight>) -> Result<(), DeskStopped> {
        self.turn(|channels, _| {
            channels.hear(chain, sight);
            Ok(())
        })
    }

    /// Says that nobody knows which channels of a chain changed: each is read before it counts again.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub fn miss(&self, chain: ChainId) -> Result<(), DeskStopped> {
        self.turn(|channels, _| {
            channels.miss(chain);
            Ok(())
        })
    }

    /// Those of `channels` on which this node is or may be paid.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub fn known(
        &self,
        mut channels: BTreeSet<ChannelId>,
    ) -> Result<BTreeSet<ChannelId>, DeskStopped> {
        let mut failure = None;
        channels.retain(|channel| {
            // Each on its own, so that no request waits for all of them.
            let known = self.turn(|channels, _| channels.open_stored(*channel));
            known.unwrap_or_else(|stopped| {
                failure = Some(stopped);
                false
            })
        });
        failure.map_or(Ok(channels), Err)
    }

    /// Notes that the voucher with this maximum leaves this node. When this returns the note is
    /// durable, and the voucher starts nothing any more.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub async fn publish(
        &self,
        channel: ChannelId,
        max_claimable: Amount,
    ) -> Result<(), DeskStopped> {
        let (answer, wait) = oneshot::channel();
        self.turn(|channels, releases| {
            if channels.open_stored(channel)? {
                channels.feed(channel, ChannelEvent::Publish { max_claimable }, releases)?;
            }
            channels.after_all(answer, releases);
            Ok(())
        })?;
        wait.await.map_err(|_| DeskStopped)
    }

    /// Returns when everything that the desk was told before is durable.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub async fn written(&self) -> Result<(), DeskStopped> {
        let (answer, wait) = oneshot::channel();
        self.turn(|channels, releases| {
            channels.after_all(answer, releases);
            Ok(())
        })?;
        wait.await.map_err(|_| DeskStopped)
    }

    /// Works on the channels, and lets out what need not wait for the store once the lock is free: a ticket that
    /// nobody takes any more comes back to this function.
    fn turn<T>(
        &self,
        work: impl FnOnce(&mut Channels, &mut Releases) -> Result<T, StoreError>,
    ) -> Result<T, DeskStopped> {
        let mut releases = Releases::new(self.clone());
        let (outcome, forsaken) = {
            // A panic in the middle of a turn leaves channels of which nothing is certain.
            let mut channels = self.channels.lock().map_err(|_| DeskStopped)?;
            if channels.is_stopped() {
                return Err(DeskStopped);
            }
            let outcome = work(&mut channels, &mut releases);
            let forsaken = outcome.is_err().then(|| channels.stop());
            (outcome, forsaken)
        };
        drop(forsaken);
        releases.let_out();
        outcome.map_err(|error| {
            self.run_errand(Errand::Stop(error));
            DeskStopped
        })
    }

    /// How many requests are waited for or worked on.
    fn requests(&self) -> usize {
        REQUESTS_MAX - self.places.available_permits()
    }

    fn run_errand(&self, errand: Errand) {
        // A desk without its task has stopped, and the caller that waits for the errand is told so.
        let _ = self.errands.send(errand);
    }
}

impl Ticket {
    /// What the headers of a reply must state whose charge is not known yet.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub async fn state_early(&self) -> Result<PaymentStatement, DeskStopped> {
        let (answer, wait) = oneshot::channel();
        let request = self.request;
        self.desk.turn(|channels, releases| {
            channels.wait_for(request, Waiter::Early(answer));
            channels.feed(self.channel, ChannelEvent::StateEarly { request }, releases)
        })?;
        wait.await.map_err(|_| DeskStopped)
    }

    /// Charges, and returns when the charge is durable, together with what `alongside` adds: a
    /// reply that is kept with its charge cannot be lost to a crash in between.
    ///
    /// # Errors
    /// When the desk has stopped: then nothing is promised about this charge.
    pub async fn charge(
        mut self,
        amount: Amount,
        alongside: Option<Alongside>,
    ) -> Result<Charged, DeskStopped> {
        self.spent = true;
        let (answer, wait) = oneshot::channel();
        let request = self.request;
        self.desk.turn(|channels, releases| {
            channels.wait_for(request, Waiter::Charge(answer, alongside));
            channels.feed(
                self.channel,
                ChannelEvent::Charge { request, amount },
                releases,
            )
        })?;
        wait.await.map_err(|_| DeskStopped)
    }

    /// Takes `need` of what this ticket may be charged into a ticket of its own.
    ///
    /// # Errors
    /// When the desk has stopped.
    pub fn split(&self, need: Amount) -> Result<Self, DeskStopped> {
        let request = self.request;
        let rest = self.desk.turn(|channels, releases| {
            let rest = channels.next_request();
            let split = ChannelEvent::Split {
                request,
                rest,
                need,
            };
            channels.feed(self.channel, split, releases)?;
            Ok(rest)
        })?;
        Ok(Self {
            desk: self.desk.clone(),
            channel: self.channel,
            request: rest,
            on_drop: None,
            spent: false,
            place: Arc::clone(&self.place),
        })
    }

    /// What to charge if this ticket is dropped before it is charged.
    pub fn charge_on_drop(&mut self, amount: Amount) {
        self.on_drop = Some(amount);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.spent {
            return;
        }
        let request = self.request;
        let event = match self.on_drop {
            Some(amount) => ChannelEvent::Charge { request, amount },
            None => ChannelEvent::Abort { request },
        };
        // A desk that has stopped has forgotten the request anyway.
        let _ = self
            .desk
            .turn(|channels, releases| channels.feed(self.channel, event, releases));
    }
}
