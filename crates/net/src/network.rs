//! A device's place in the network: what the node opens, uses and shuts down.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use hearth_protocol::content::ContentHash;
use hearth_protocol::household::{HouseholdAsk, HouseholdReply};
use hearth_protocol::offer::{DeviceId, Offer, SignedOffer};
use iroh::{Endpoint, EndpointAddr};
use iroh_blobs::BlobsProtocol;
use iroh_gossip::net::{GOSSIP_ALPN, Gossip};
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::admission::Admission;
use crate::answers::{ANSWER_ALPN, AnswerProtocol, Asker, ConnectError, IncomingAnswer};
use crate::chain::{AnswersChain, CHAIN_ALPN, ChainAskError, ChainLinks};
use crate::codec::{ANNOUNCEMENT_BYTES_MAX, AnnouncementError};
use crate::desk::{AnswersHousehold, Desk};
use crate::dialing::{Dialing, Teller};
use crate::endpoint;
use crate::entrance::Entrance;
use crate::files::{Doorkeeper, FetchError, Files, Purpose, ShareError, SharedFile, WantedFile};
use crate::household::{self, HOUSEHOLD_ALPN, HouseholdAskError, HouseholdProtocol};
use crate::limits::{IDLE_SAMPLE_INTERVAL, INCOMING_ANSWERS_MAX};
use crate::offers::driver::{Driver, Hub, HubParts};
use crate::offers::exchange::{self, ExchangeError, ExchangeProtocol, OFFERS_ALPN};
use crate::offers::{Event, OfferChange};
use crate::opening::OpenError;
use crate::options::{Membership, NetworkOptions};
use crate::peers::{PeerAddress, PeerBook, PeersError};
use crate::runs::driver::Runs;
use crate::runs::line::RunProtocol;
use crate::runs::{RUN_ALPN, TakePartError, Topic, TopicId, seeking};
use crate::stream::PayerStream;
use crate::ticket::{Ticket, TicketError};

/// What gossip adds to an announcement: its id, its length and its scope.
const GOSSIP_OVERHEAD_BYTES: usize = 64;

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
    files: Files,
    desk: Desk,
    chains: ChainLinks,
    runs: Arc<Runs>,
    membership: Membership,
    stop: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
    /// Takes what others begin; it ends after everything else.
    entrance: Mutex<JoinSet<()>>,
    close: watch::Sender<bool>,
}

impl Network {
    /// Opens the network: binds the sockets and begins to listen, to gossip and to serve.
    ///
    /// # Errors
    /// When nothing can be listened on, or a file cannot be used.
    pub fn open(
        options: NetworkOptions,
    ) -> BoxFuture<'static, Result<(Self, IncomingAnswers), OpenError>> {
        Box::pin(Self::opened(options))
    }

    async fn opened(options: NetworkOptions) -> Result<(Self, IncomingAnswers), OpenError> {
        let book = remembered(&options)?;
        let (files, blobs, doorkeeper) = files(&options).await?;
        let desk = Desk::default();
        let admission = Admission::new(desk.clone());
        let dialing = Arc::new(Dialing::new(options.reach, &options.relays));
        let bound = endpoint::bind(&options, admission.clone()).await?;
        let endpoint = bound.endpoint.clone();
        let gossip = gossip(&endpoint);
        let discovered = endpoint::look_up(&bound, &options, &dialing).await?;
        let (hub, queues) = Hub::new(HubParts {
            endpoint: endpoint.clone(),
            topic: options.membership.topic(),
            reach: options.reach,
            relay_only: options.relay_only,
            relays: options.relays.clone(),
            admission: admission.clone(),
            dialing,
            lookup: bound.lookup,
            book,
            environment: Arc::clone(&options.environment),
        });
        hub.note_own_addresses();
        let chains = ChainLinks::new(endpoint.clone());
        let runs = Runs::new(hub.clone());
        let (arrived, incoming) = mpsc::channel(INCOMING_ANSWERS_MAX);
        let entrance = Entrance::new(endpoint.clone(), admission.clone())
            .accept(ANSWER_ALPN, AnswerProtocol::new(arrived, options.patience))
            .accept(OFFERS_ALPN, ExchangeProtocol::new(hub.clone()))
            .accept(HOUSEHOLD_ALPN, HouseholdProtocol::new(desk.clone()))
            .accept(CHAIN_ALPN, chains.protocol(desk.clone()))
            .accept(RUN_ALPN, RunProtocol::new(runs.clone()))
            .accept(GOSSIP_ALPN, gossip.clone())
            .accept(iroh_blobs::ALPN, blobs);
        let asker = Arc::new(Asker::new(endpoint, options.patience));
        let (stop, stopped) = watch::channel(false);
        let (close, closing) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let driver = Driver {
            hub: hub.clone(),
            gossip,
            peers_file: options.peers_file.clone(),
        };
        tasks.spawn(driver.run(queues, discovered, stopped.clone()));
        tasks.spawn(doorkeeper.run(stopped.clone()));
        tasks.spawn(seeking::run(runs.clone(), stopped.clone()));
        tasks.spawn(tidy(asker.clone(), admission, stopped));
        let mut entered = JoinSet::new();
        entered.spawn(entrance.run(closing));
        let inner = Inner {
            hub,
            asker,
            files,
            desk,
            chains,
            runs,
            membership: options.membership,
            stop,
            tasks: Mutex::new(tasks),
            entrance: Mutex::new(entered),
            close,
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

    /// Waits until a relay forwards to this device. Never, without a relay.
    pub async fn online(&self) {
        self.inner.hub.endpoint.online().await;
    }

    /// Opens a stream to a device, to ask it something. What is known from its offer, a ticket or
    /// the local network is used beside `hint`.
    ///
    /// # Errors
    /// When it cannot be reached, or takes no more streams.
    pub fn ask<'a>(
        &'a self,
        device: DeviceId,
        hint: Option<&'a PeerAddress>,
    ) -> BoxFuture<'a, Result<PayerStream, ConnectError>> {
        Box::pin(self.asked(device, hint))
    }

    async fn asked(
        &self,
        device: DeviceId,
        hint: Option<&PeerAddress>,
    ) -> Result<PayerStream, ConnectError> {
        let address = self.locate(device, hint)?;
        let stream = self.inner.asker.ask(address).await?;
        self.inner.hub.deal_with(device);
        Ok(stream)
    }

    /// Has a connection to a device ready for the next question to it, so that asking costs no
    /// handshake then.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn prepare(&self, device: DeviceId) -> BoxFuture<'_, Result<(), ConnectError>> {
        Box::pin(async move {
            let address = self.locate(device, None)?;
            self.inner.asker.prepare(address).await
        })
    }

    fn locate(
        &self,
        device: DeviceId,
        hint: Option<&PeerAddress>,
    ) -> Result<EndpointAddr, ConnectError> {
        if self.inner.hub.admission.is_banned(device) {
            return Err(ConnectError::ShutOut);
        }
        let hint = match hint {
            Some(hint) if hint.device == device => hint.clone(),
            _ => PeerAddress::of(device),
        };
        let address = self.inner.hub.locate(hint);
        address.ok_or(ConnectError::NoDevice(device))
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
    pub fn join<'a>(&'a self, ticket: &'a Ticket) -> BoxFuture<'a, Result<(), JoinError>> {
        Box::pin(self.joined(ticket))
    }

    async fn joined(&self, ticket: &Ticket) -> Result<(), JoinError> {
        ticket.check()?;
        let ours = match &self.inner.membership {
            Membership::Private { secret } => Some(*secret),
            Membership::Public { .. } => None,
        };
        if ticket.network_secret != ours {
            return Err(JoinError::OtherNetwork);
        }
        let hub = &self.inner.hub;
        hub.dialing.allow_relays(&ticket.peer);
        let asked = exchange::ask(hub, &ticket.peer, Teller::Owner).await;
        if !matches!(asked, Err(ExchangeError::NotAMember)) {
            let peer = hub.dialing.permitted(ticket.peer.clone(), Teller::Owner);
            hub.welcome(&peer, true);
        }
        Ok(asked.map(drop)?)
    }

    /// Lets `desk` answer what others ask about the household. Until then they are turned away.
    pub fn answer_household(&self, desk: Arc<dyn AnswersHousehold>) {
        self.inner.desk.answer_by(desk);
    }

    /// Asks a device about the household. What is known of where it is is used beside `hint`.
    ///
    /// # Errors
    /// When it cannot be reached, or does not answer.
    pub fn ask_household<'a>(
        &'a self,
        hint: PeerAddress,
        question: &'a HouseholdAsk,
    ) -> BoxFuture<'a, Result<HouseholdReply, HouseholdAskError>> {
        Box::pin(async move {
            let hub = &self.inner.hub;
            let device = hint.device;
            let located = hub.locate(hint);
            let address = located.ok_or(ConnectError::NoDevice(device))?;
            household::ask(&hub.endpoint, address, question).await
        })
    }

    /// Lets `chain` answer what others ask of the chain that this device runs. Until then they hear that it runs none.
    pub fn answer_chain(&self, chain: Arc<dyn AnswersChain>) {
        self.inner.chains.answer_by(chain);
    }

    /// Asks the chain that a device runs: `request` and the reply are bodies of JSON-RPC. What is known of where the
    /// device is is used beside `hint`.
    ///
    /// # Errors
    /// When it cannot be reached, runs no chain, is busy, or a bound is broken.
    pub async fn ask_chain(
        &self,
        hint: &PeerAddress,
        request: &[u8],
    ) -> Result<Vec<u8>, ChainAskError> {
        let address = self.locate(hint.device, Some(hint))?;
        self.inner.chains.ask(address, request).await
    }

    /// Takes part in a topic: what is said in it reaches every device of the network that takes part too, from one to the
    /// next, and stays for those who come later. It lasts until the part is dropped; more than one may be held.
    ///
    /// # Errors
    /// When this device takes part in as many topics as it may, or the network was shut down.
    pub fn take_part(&self, topic: TopicId) -> Result<Topic, TakePartError> {
        self.inner.runs.take_part(topic)
    }

    /// Serves a file from where it is, to every peer that asks for its hash. The first time it is read
    /// whole to be hashed; later only when it changed.
    ///
    /// # Errors
    /// When it cannot be read, is not the `expected` one, or too many are shared.
    pub fn share<'a>(
        &'a self,
        path: &'a Path,
        expected: Option<ContentHash>,
    ) -> BoxFuture<'a, Result<SharedFile, ShareError>> {
        Box::pin(self.inner.files.share(path, expected, Purpose::Model))
    }

    /// The same for a file of a run (a contribution, a checkpoint, a shard), which counts towards a bound of its own:
    /// [`RUN_FILES_MAX`](crate::limits::RUN_FILES_MAX).
    ///
    /// # Errors
    /// When it cannot be read, is not the `expected` one, or too many are shared.
    pub fn share_of_run<'a>(
        &'a self,
        path: &'a Path,
        expected: Option<ContentHash>,
    ) -> BoxFuture<'a, Result<SharedFile, ShareError>> {
        Box::pin(self.inner.files.share(path, expected, Purpose::Run))
    }

    /// Serves these files of runs no longer; says how many of them were served.
    pub fn unshare_of_runs<'a>(&'a self, hashes: &'a [ContentHash]) -> BoxFuture<'a, usize> {
        Box::pin(self.inner.files.unshare_of_runs(hashes))
    }

    /// Serves a file no longer. False when it was not served.
    pub fn unshare(&self, hash: ContentHash) -> bool {
        self.inner.files.unshare(hash)
    }

    /// The files that are served.
    pub fn shared(&self) -> Vec<SharedFile> {
        self.inner.files.shared()
    }

    /// Fetches a whole file of `bytes` bytes into `to`, from the first of the devices `from` that
    /// gives it. What arrives is verified and kept, so that the next device, or the next try,
    /// goes on where this one ended; a file of at most
    /// [`SMALL_FILE_BYTES_MAX`](crate::limits::SMALL_FILE_BYTES_MAX) begins anew instead, and a second device is asked for it
    /// beside one that takes long. `progress` is told how many bytes are there.
    ///
    /// # Errors
    /// When nobody gave the file, or it cannot be written.
    pub fn fetch<'a>(
        &'a self,
        hash: ContentHash,
        bytes: u64,
        from: &'a [PeerAddress],
        to: &'a Path,
        progress: impl FnMut(u64) + Send + 'a,
    ) -> BoxFuture<'a, Result<(), FetchError>> {
        let wanted = WantedFile {
            hash,
            bytes,
            from,
            to,
        };
        self.fetched(wanted, Box::new(progress))
    }

    /// As [`Network::fetch`], a file whose length is not known, of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// When nobody gave the file, or it cannot be written.
    pub fn fetch_within<'a>(
        &'a self,
        hash: ContentHash,
        bytes_max: u64,
        from: &'a [PeerAddress],
        to: &'a Path,
    ) -> BoxFuture<'a, Result<(), FetchError>> {
        let wanted = WantedFile {
            hash,
            bytes: bytes_max,
            from,
            to,
        };
        Box::pin(async move {
            let inner = &self.inner;
            inner.files.fetch_within(&inner.hub, &wanted).await
        })
    }

    fn fetched<'a>(
        &'a self,
        wanted: WantedFile<'a>,
        mut progress: Box<dyn FnMut(u64) + Send + 'a>,
    ) -> BoxFuture<'a, Result<(), FetchError>> {
        Box::pin(async move {
            let inner = &self.inner;
            inner.files.fetch(&inner.hub, &wanted, &mut *progress).await
        })
    }

    /// Fetches only the first `head_bytes` of a file of `bytes` bytes, verified, into a sparse
    /// file of the full length: enough for the tokenizer and the template of a model.
    ///
    /// # Errors
    /// When nobody gave them, or the file cannot be written.
    pub fn fetch_head<'a>(
        &'a self,
        hash: ContentHash,
        bytes: u64,
        head_bytes: u64,
        from: &'a [PeerAddress],
        to: &'a Path,
    ) -> BoxFuture<'a, Result<(), FetchError>> {
        let wanted = WantedFile {
            hash,
            bytes,
            from,
            to,
        };
        Box::pin(async move {
            let inner = &self.inner;
            let fetched = inner.files.fetch_head(&inner.hub, &wanted, head_bytes);
            fetched.await
        })
    }

    /// Leaves the network: tells the others, closes every connection, and waits for all tasks.
    pub fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.left())
    }

    async fn left(&self) {
        // Fails only when no task listens any more, which is what is wanted.
        let _ = self.inner.stop.send(true);
        take(&self.inner.tasks).join_all().await;
        self.inner.asker.close();
        self.inner.chains.close();
        let _ = self.inner.close.send(true);
        take(&self.inner.entrance).join_all().await;
        self.inner.files.settle().await;
    }
}

/// Starts gossip, whose messages hold an announcement.
fn gossip(endpoint: &Endpoint) -> Gossip {
    Gossip::builder()
        .max_message_size(ANNOUNCEMENT_BYTES_MAX + GOSSIP_OVERHEAD_BYTES)
        .spawn(endpoint.clone())
}

/// Opens the store of files.
async fn files(options: &NetworkOptions) -> Result<(Files, BlobsProtocol, Doorkeeper), OpenError> {
    let folder = &options.blobs_folder;
    let opened = Files::open(folder, options.upload_bytes_per_s).await;
    opened.map_err(|reason| OpenError::Files {
        folder: folder.clone(),
        reason,
    })
}

/// The peers of the last time.
fn remembered(options: &NetworkOptions) -> Result<PeerBook, PeersError> {
    match &options.peers_file {
        Some(path) => PeerBook::read(path),
        None => Ok(PeerBook::default()),
    }
}

fn take(tasks: &Mutex<JoinSet<()>>) -> JoinSet<()> {
    let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *tasks)
}

/// Lets go of connections that nobody uses, and notes which ones are used.
async fn tidy(asker: Arc<Asker>, admission: Admission, mut stop: watch::Receiver<bool>) {
    let mut tick = interval(IDLE_SAMPLE_INTERVAL);
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            _ = tick.tick() => {
                asker.tidy();
                admission.sample();
            }
        }
    }
}
