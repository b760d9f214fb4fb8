//! A device's place in the network: what the node opens, uses and shuts down.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use hearth_protocol::offer::{DeviceId, Offer, SignedOffer};
use iroh::protocol::Router;
use iroh_gossip::net::{GOSSIP_ALPN, Gossip};
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::admission::Admission;
use crate::answers::{ANSWER_ALPN, AnswerProtocol, Asker, ConnectError, IncomingAnswer};
use crate::codec::{ANNOUNCEMENT_BYTES_MAX, AnnouncementError};
use crate::endpoint::{self, Bound};
use crate::limits::{INCOMING_ANSWERS_MAX, KEPT_CONNECTION_IDLE};
use crate::offers::driver::{Driver, Hub, HubParts};
use crate::offers::exchange::{self, ExchangeError, ExchangeProtocol, OFFERS_ALPN};
use crate::offers::{Event, OfferChange};
use crate::options::{Membership, NetworkOptions};
use crate::peers::{PeerAddress, PeerBook, PeersError};
use crate::stream::PayerStream;
use crate::ticket::{Ticket, TicketError};

/// What gossip adds to an announcement: its id, its length and its scope.
const GOSSIP_OVERHEAD_BYTES: usize = 64;

/// Why the network could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An address cannot be listened on.
    #[error("the network cannot listen ({0}): choose another address or port")]
    Bind(String),
    /// A relay's URL is wrong.
    #[error("{0} is no relay: write it as https://HOST or http://HOST:PORT")]
    Relay(String),
    /// The remembered peers cannot be used.
    #[error(transparent)]
    Peers(#[from] PeersError),
}

/// Why a ticket did not let this device in.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The ticket is beyond its bounds.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// It is of another network than the one that this device belongs to.
    #[error("the ticket is of another private network: open the network with the ticket's secret")]
    OtherNetwork,
    /// The peer did not let us in.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
}

/// The questions that arrive, one after the other.
#[derive(Debug)]
pub struct IncomingAnswers(mpsc::Receiver<IncomingAnswer>);

impl IncomingAnswers {
    /// The next question; nothing after [`Network::shutdown`]. Cancel-safe.
    pub async fn next(&mut self) -> Option<IncomingAnswer> {
        self.0.recv().await
    }
}

/// The changes of what is offered, one after the other.
#[derive(Debug)]
pub struct OfferChanges(broadcast::Receiver<OfferChange>);

impl OfferChanges {
    /// The next change; nothing after the network was shut down. Cancel-safe.
    pub async fn next(&mut self) -> Option<OfferChange> {
        match self.0.recv().await {
            Ok(change) => Some(change),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(OfferChange::Missed(count)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// A device's place in the network. Clones are the same place.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    hub: Arc<Hub>,
    asker: Arc<Asker>,
    router: Router,
    membership: Membership,
    stop: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

impl Network {
    /// Opens the network: binds the sockets and begins to listen, to gossip and to serve.
    ///
    /// # Errors
    /// When nothing can be listened on, or a file cannot be used.
    pub async fn open(options: NetworkOptions) -> Result<(Self, IncomingAnswers), OpenError> {
        let book = match &options.peers_file {
            Some(path) => PeerBook::read(path)?,
            None => PeerBook::default(),
        };
        let admission = Admission::default();
        let Bound {
            endpoint,
            lookup,
            discovered,
        } = endpoint::bind(&options, admission.clone()).await?;
        let (hub, queues) = Hub::new(HubParts {
            endpoint: endpoint.clone(),
            topic: options.membership.topic(),
            reach: options.reach,
            relay_only: options.relay_only,
            admission,
            lookup,
            book,
        });
        let gossip = Gossip::builder()
            .max_message_size(ANNOUNCEMENT_BYTES_MAX + GOSSIP_OVERHEAD_BYTES)
            .spawn(endpoint.clone());
        let (arrived, incoming) = mpsc::channel(INCOMING_ANSWERS_MAX);
        let router = Router::builder(endpoint.clone())
            .accept(ANSWER_ALPN, AnswerProtocol::new(arrived))
            .accept(OFFERS_ALPN, ExchangeProtocol::new(hub.clone()))
            .accept(GOSSIP_ALPN, gossip.clone())
            .spawn();
        let asker = Arc::new(Asker::new(endpoint));
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let driver = Driver {
            hub: hub.clone(),
            gossip,
            peers_file: options.peers_file.clone(),
        };
        tasks.spawn(driver.run(queues, discovered, stopped.clone()));
        tasks.spawn(tidy(asker.clone(), stopped));
        let inner = Inner {
            hub,
            asker,
            router,
            membership: options.membership,
            stop,
            tasks: Mutex::new(tasks),
        };
        let network = Self {
            inner: Arc::new(inner),
        };
        Ok((network, IncomingAnswers(incoming)))
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.inner.hub.own
    }

    /// Where this device is, as others are told.
    pub fn address(&self) -> PeerAddress {
        self.inner.hub.address()
    }

    /// Opens a stream to a device, to ask it something. What is known from its offer, a ticket or
    /// the local network is used beside `hint`.
    ///
    /// # Errors
    /// When it cannot be reached, or takes no more streams.
    pub async fn ask(
        &self,
        device: DeviceId,
        hint: Option<&PeerAddress>,
    ) -> Result<PayerStream, ConnectError> {
        if self.inner.hub.admission.is_banned(device) {
            return Err(ConnectError::ShutOut);
        }
        let hint = match hint {
            Some(hint) if hint.device == device => hint.clone(),
            _ => PeerAddress::of(device),
        };
        let address = self.inner.hub.locate(hint);
        let address = address.ok_or(ConnectError::NoDevice(device))?;
        self.inner.asker.ask(address).await
    }

    /// Dials a device anew for the next question, because the connection that is kept for it
    /// seems dead. Streams that are open live on.
    pub fn disconnect(&self, device: DeviceId) {
        self.inner.asker.disconnect(device);
    }

    /// Closes every connection of a device that misbehaved, drops its offer, and lets it in again
    /// only after [`BAN_TIME`](crate::limits::BAN_TIME).
    pub fn shut_out(&self, device: DeviceId) {
        self.inner.hub.admission.ban(device);
        self.inner.asker.disconnect(device);
        self.inner.hub.handle(Event::Drop(device));
    }

    /// Publishes an offer from now on, in place of the one before. The network sets its device
    /// and its times, signs it, and publishes it anew until another one, or none, takes its place.
    ///
    /// # Errors
    /// When the offer is too long to be sent; the one before is no longer published then.
    pub fn publish(&self, offer: Offer) -> Result<(), AnnouncementError> {
        self.inner.hub.publish(Some(offer))
    }

    /// Takes back what was offered.
    ///
    /// # Errors
    /// Never in practice: an offer of nothing is short.
    pub fn withdraw(&self) -> Result<(), AnnouncementError> {
        self.inner.hub.publish(None)
    }

    /// The offers of other devices that stand.
    pub fn offers(&self) -> Vec<Arc<SignedOffer>> {
        self.inner.hub.offers()
    }

    /// The changes of what is offered from now on.
    pub fn offer_changes(&self) -> OfferChanges {
        OfferChanges(self.inner.hub.subscribe())
    }

    /// The devices that offers are passed on to.
    pub fn neighbours(&self) -> watch::Receiver<BTreeSet<DeviceId>> {
        self.inner.hub.neighbours()
    }

    /// How many connections are open, over all devices and protocols.
    pub fn open_connections(&self) -> usize {
        self.inner.hub.admission.open_connections()
    }

    /// A ticket that lets others join through this device. In a private network it holds the
    /// network's secret.
    pub fn ticket(&self, payload: Vec<u8>) -> Ticket {
        let network_secret = match &self.inner.membership {
            Membership::Private { secret } => Some(*secret),
            Membership::Public { .. } => None,
        };
        Ticket {
            peer: self.address(),
            network_secret,
            payload,
        }
    }

    /// Joins the network through the device of a ticket, and remembers it.
    ///
    /// # Errors
    /// When the ticket is of another network, or its device does not answer. A device that does
    /// not answer is remembered all the same, and asked again now and then.
    pub async fn join(&self, ticket: &Ticket) -> Result<(), JoinError> {
        ticket.check()?;
        let ours = match &self.inner.membership {
            Membership::Private { secret } => Some(*secret),
            Membership::Public { .. } => None,
        };
        if ticket.network_secret != ours {
            return Err(JoinError::OtherNetwork);
        }
        let asked = exchange::ask(&self.inner.hub, &ticket.peer).await;
        if !matches!(asked, Err(ExchangeError::NotAMember)) {
            self.inner.hub.welcome(&ticket.peer);
        }
        Ok(asked?)
    }

    /// Leaves the network: tells the others, closes every connection, and waits for all tasks.
    pub async fn shutdown(&self) {
        // Fails only when no task listens any more, which is what is wanted.
        let _ = self.inner.stop.send(true);
        let tasks = {
            let mut tasks = self
                .inner
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        tasks.join_all().await;
        self.inner.asker.close();
        if let Err(error) = self.inner.router.shutdown().await {
            tracing::warn!(%error, "the network did not shut down cleanly");
        }
    }
}

/// Lets go of connections that nobody uses.
async fn tidy(asker: Arc<Asker>, mut stop: watch::Receiver<bool>) {
    let mut tick = interval(KEPT_CONNECTION_IDLE / 4);
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            _ = tick.tick() => asker.tidy(),
        }
    }
}
