//! What drives the table of offers: gossip, exchanges, the clock, and the remembered peers.
//!
//! [`Hub`] holds what several tasks share; one task ([`run`]) owns the gossip topic. Nothing here
//! decides whether an offer is taken: that is the table's.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use hearth_causes::WithCauses;
use hearth_environment::Environment;
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::{DeviceId, Offer, SignedOffer};
use hearth_protocol::time::Timestamp;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::{Endpoint, PublicKey, SecretKey};
use iroh_gossip::TopicId;
use iroh_gossip::api::{Event as GossipEvent, GossipReceiver, GossipSender, Message};
use iroh_gossip::net::Gossip;
use iroh_gossip::proto::DeliveryScope;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{debug, warn};
use url::Url;

use super::exchange;
use super::signing::announce;
use super::table::{Effect, Event, OfferChange, Table};
use crate::admission::Admission;
use crate::codec::{Announcement, AnnouncementError, encode_announcement};
use crate::dialing::{Dialing, Teller};
use crate::limits::{
    EXCHANGE_INTERVAL, EXCHANGE_INTERVAL_ALONE, OFFER_CHANGES_MAX, OFFER_REPUBLISH_INTERVAL,
    OFFER_TTL_MS,
};
use crate::options::Reach;
use crate::peers::{PEER_RELAYS_MAX, Peer, PeerAddress, PeerBook};

/// Announcements that wait to be passed on; what does not fit is healed by an exchange.
const FORWARDS_MAX: usize = 1_024;
/// Peers that wait to be made neighbours.
const JOINS_MAX: usize = 256;
/// Exchanges that this device asks for at once.
const ASKED_AT_ONCE: usize = 4;
/// How often what ended is looked for.
const TICK: std::time::Duration = std::time::Duration::from_millis(500);
/// How long to wait before a topic that gossip closed is subscribed again.
const SUBSCRIBE_AGAIN: std::time::Duration = std::time::Duration::from_millis(200);

/// What the tasks of a network share.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) endpoint: Endpoint,
    pub(crate) own: DeviceId,
    pub(crate) topic: ContentHash,
    pub(crate) reach: Reach,
    pub(crate) relay_only: bool,
    pub(crate) admission: Admission,
    pub(crate) dialing: Arc<Dialing>,
    /// Those of the options.
    relays: Vec<Url>,
    key: SecretKey,
    lookup: MemoryLookup,
    table: Mutex<Table>,
    book: Mutex<PeerBook>,
    published: Mutex<Option<Offer>>,
    neighbours: watch::Sender<BTreeSet<DeviceId>>,
    changes: broadcast::Sender<OfferChange>,
    forwards: mpsc::Sender<Vec<u8>>,
    joins: mpsc::Sender<DeviceId>,
    publish_now: Notify,
    environment: Arc<dyn Environment>,
}

/// What only [`run`] has.
#[derive(Debug)]
pub(crate) struct HubQueues {
    forwards: mpsc::Receiver<Vec<u8>>,
    joins: mpsc::Receiver<DeviceId>,
}

/// What a hub is made of.
pub(crate) struct HubParts {
    pub(crate) endpoint: Endpoint,
    pub(crate) topic: ContentHash,
    pub(crate) reach: Reach,
    pub(crate) relay_only: bool,
    pub(crate) relays: Vec<Url>,
    pub(crate) admission: Admission,
    pub(crate) dialing: Arc<Dialing>,
    pub(crate) lookup: MemoryLookup,
    pub(crate) book: PeerBook,
    pub(crate) environment: Arc<dyn Environment>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is guarded here is left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub(crate) fn new(parts: HubParts) -> (Arc<Self>, HubQueues) {
        let (forwards, forward_queue) = mpsc::channel(FORWARDS_MAX);
        let (joins, join_queue) = mpsc::channel(JOINS_MAX);
        let own = DeviceId(*parts.endpoint.id().as_bytes());
        let now = Timestamp(parts.environment.now_ms());
        for peer in parts.book.peers() {
            if peer.is_named {
                parts.dialing.allow_relays(&peer.address);
            }
            let address = parts.dialing.remembered(peer.address.clone());
            if let Some(address) = address.to_iroh() {
                parts.lookup.add_endpoint_info(address);
            }
        }
        let hub = Self {
            own,
            topic: parts.topic,
            reach: parts.reach,
            relay_only: parts.relay_only,
            relays: parts.relays,
            admission: parts.admission,
            dialing: parts.dialing,
            key: parts.endpoint.secret_key().clone(),
            lookup: parts.lookup,
            table: Mutex::new(Table::new(now, own)),
            environment: parts.environment,
            book: Mutex::new(parts.book),
            published: Mutex::new(None),
            neighbours: watch::Sender::default(),
            changes: broadcast::Sender::new(OFFER_CHANGES_MAX),
            forwards,
            joins,
            publish_now: Notify::new(),
            endpoint: parts.endpoint,
        };
        let queues = HubQueues {
            forwards: forward_queue,
            joins: join_queue,
        };
        (Arc::new(hub), queues)
    }

    /// The time by which offers are judged.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.environment.now_ms())
    }

    /// Takes in what a peer delivered.
    pub(crate) fn delivered(&self, by: DeviceId, bytes: &[u8]) {
        let from = &self.admission.origin_of(by);
        self.handle(Event::Delivered { by, from, bytes });
    }

    /// Keeps where a device is and what it offers, because this device deals with it.
    pub(crate) fn deal_with(&self, device: DeviceId) {
        self.handle(Event::Keep(device));
    }

    /// Lets the table see an event, and does what it says.
    pub(crate) fn handle(&self, event: Event<'_>) {
        let mut effects = Vec::new();
        lock(&self.table).handle(self.now(), event, &mut effects);
        effects.into_iter().for_each(|effect| self.perform(effect));
    }

    fn perform(&self, effect: Effect) {
        match effect {
            Effect::Forward(bytes) => {
                // When the queue is full, an exchange makes up for what is dropped.
                let _ = self.forwards.try_send(bytes);
            }
            Effect::Tell(change) => {
                // It is not a fault that nobody listens.
                let _ = self.changes.send(change);
            }
            Effect::Locate(address) => self.relocate(address),
            Effect::Forget(device) => self.forget(device),
            Effect::Ban(device) => self.admission.ban(device),
        }
    }

    /// Takes in where a device says it is, as far as that is dialed; what was known before stays
    /// where nothing of it is.
    fn relocate(&self, told: PeerAddress) {
        let teller = self.teller(&told.device);
        let address = self.dialing.permitted(told, teller);
        if address.direct.is_empty() && address.relays.is_empty() {
            return;
        }
        lock(&self.book).moved(&address);
        if let Some(address) = address.to_iroh() {
            self.lookup.set_endpoint_info(address);
        }
    }

    /// How far a device is believed that says where it is.
    pub(crate) fn teller(&self, device: &DeviceId) -> Teller {
        if self.admission.is_member(device) || lock(&self.book).is_named(device) {
            Teller::Owner
        } else {
            Teller::Stranger
        }
    }

    /// Lets go of a device's address unless it is remembered.
    fn forget(&self, device: DeviceId) {
        let remembered = lock(&self.book)
            .peers()
            .any(|peer| peer.address.device == device);
        if !remembered && let Ok(id) = PublicKey::from_bytes(&device.0) {
            self.lookup.remove_endpoint_info(id);
        }
    }

    /// The offers of others that stand.
    pub(crate) fn offers(&self) -> Vec<Arc<SignedOffer>> {
        lock(&self.table).offers().cloned().collect()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<OfferChange> {
        self.changes.subscribe()
    }

    pub(crate) fn neighbours(&self) -> watch::Receiver<BTreeSet<DeviceId>> {
        self.neighbours.subscribe()
    }

    /// Everything a newcomer should know, this device's own offer first.
    pub(crate) fn announcements(&self) -> Vec<Vec<u8>> {
        let own = self.announcement(self.now());
        let others: Vec<_> = lock(&self.table)
            .announcements()
            .map(<[u8]>::to_vec)
            .collect();
        own.into_iter().chain(others).collect()
    }

    /// Where this device is, as far as others are told.
    pub(crate) fn address(&self) -> PeerAddress {
        let mut address = PeerAddress::from_iroh(&self.endpoint.addr());
        if self.reach == Reach::Loopback {
            let bound = self.endpoint.bound_sockets().into_iter();
            address.direct = bound.filter(|a| a.ip().is_loopback()).collect();
        }
        // A device that can be reached through a relay need not tell the world where it lives:
        // the direct path is found through the relay.
        if self.relay_only || (self.reach == Reach::World && !address.relays.is_empty()) {
            address.direct.clear();
        }
        if address.relays.is_empty() {
            // The first connection to a relay takes a moment; a ticket that is made before stays right.
            let named = self.relays.iter().take(PEER_RELAYS_MAX);
            address.relays = named.map(ToString::to_string).collect();
        }
        address
    }

    /// Notes which addresses this device has now.
    pub(crate) fn note_own_addresses(&self) {
        let own = self.endpoint.addr();
        let addresses = own.ip_addrs().map(std::net::SocketAddr::ip);
        self.dialing.note_own(addresses);
    }

    /// Publishes an offer from now on, in place of the one before.
    pub(crate) fn publish(&self, offer: Option<Offer>) -> Result<(), AnnouncementError> {
        let previous = lock(&self.published).take();
        let withdrawn = previous.map(|previous| Offer {
            models: Vec::new(),
            ..previous
        });
        let next = offer.or(withdrawn);
        if let Some(next) = &next {
            encode_announcement(&self.sign(next, self.now()))?;
        }
        *lock(&self.published) = next;
        self.publish_now.notify_one();
        Ok(())
    }

    fn sign(&self, offer: &Offer, now: Timestamp) -> Announcement {
        let offer = Offer {
            issued_at: now,
            expires_at: now.plus_ms(OFFER_TTL_MS),
            ..offer.clone()
        };
        announce(&self.key, offer, self.address())
    }

    /// What this device offers; nothing at all still says where it is, so that others find it again
    /// when it has moved.
    fn announcement(&self, now: Timestamp) -> Option<Vec<u8>> {
        let published = lock(&self.published).clone();
        let published = published.unwrap_or_else(|| nothing(self.own));
        match encode_announcement(&self.sign(&published, now)) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                warn!(error = %error.with_causes(), "this device's offer cannot be sent");
                None
            }
        }
    }

    /// Remembers a peer that may be dialed where it is said to be, and makes it a neighbour.
    pub(crate) fn welcome(&self, peer: &PeerAddress, is_named: bool) {
        if let Some(address) = peer.to_iroh() {
            self.lookup.add_endpoint_info(address);
        }
        lock(&self.book).note(peer.clone(), is_named);
        // When the queue is full, there are neighbours enough.
        let _ = self.joins.try_send(peer.device);
    }

    /// What is known of where a device is, beyond `hint`.
    pub(crate) fn locate(&self, mut hint: PeerAddress) -> Option<iroh::EndpointAddr> {
        hint = hint.within(self.reach);
        let mut address = hint.to_iroh()?;
        if let Some(known) = self.lookup.get_endpoint_info(address.id) {
            address.addrs.extend(known.into_endpoint_addr().addrs);
        }
        Some(address)
    }

    /// The clock and the source of random numbers.
    pub(crate) fn environment(&self) -> &dyn Environment {
        self.environment.as_ref()
    }

    /// The devices of this network that are known: the remembered peers, and those whose offers were heard.
    pub(crate) fn acquaintances(&self) -> Vec<DeviceId> {
        let mut devices: BTreeSet<_> = lock(&self.table).devices().collect();
        devices.extend(lock(&self.book).peers().map(|peer| peer.address.device));
        devices.into_iter().collect()
    }

    /// The known peers, the one last heard of first.
    fn known(&self) -> Vec<Peer> {
        lock(&self.book).peers().cloned().collect()
    }

    /// Writes down the remembered peers if they changed.
    pub(crate) async fn write_book(&self, path: Option<&PathBuf>) {
        let (Some(path), Some(text)) = (path, lock(&self.book).take_changes()) else {
            return;
        };
        let path = path.clone();
        let written = tokio::task::spawn_blocking(move || PeerBook::write(&text, &path)).await;
        if let Ok(Err(error)) = written {
            warn!(error = %error.with_causes(), "peers are not remembered");
        }
    }
}

/// An offer of nothing.
fn nothing(device: DeviceId) -> Offer {
    Offer {
        device,
        household: Default::default(),
        session_key: Default::default(),
        withdraw_delay_s: 0,
        issued_at: Timestamp(0),
        expires_at: Timestamp(0),
        models: Vec::new(),
    }
}

/// The task that owns the gossip topic.
pub(crate) struct Driver {
    pub(crate) hub: Arc<Hub>,
    pub(crate) gossip: Gossip,
    pub(crate) peers_file: Option<PathBuf>,
}

/// The state of [`Driver::run`].
struct Running {
    sender: GossipSender,
    receiver: GossipReceiver,
    asked: JoinSet<()>,
    neighbours: BTreeSet<DeviceId>,
    next_peer: usize,
    next_ask: Instant,
}

impl Driver {
    /// Runs until it is told to stop. `discovered` are devices found on the local network.
    pub(crate) async fn run(
        self,
        mut queues: HubQueues,
        mut discovered: BoxStream<'static, PeerAddress>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut republish = interval(OFFER_REPUBLISH_INTERVAL);
        republish.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let Some((sender, receiver)) = self.subscribe(Vec::new()).await else {
            return;
        };
        let mut state = Running {
            sender,
            receiver,
            asked: JoinSet::new(),
            neighbours: BTreeSet::new(),
            next_peer: 0,
            next_ask: Instant::now(),
        };
        let hub = self.hub.clone();
        loop {
            tokio::select! {
                _ = stop.changed() => break,
                event = state.receiver.next() => match event {
                    Some(Ok(GossipEvent::Lagged)) | Some(Err(_)) | None => {
                        if !self.subscribe_again(&mut state).await {
                            break;
                        }
                    }
                    Some(Ok(event)) => self.on_gossip(&mut state, event).await,
                },
                Some(bytes) = queues.forwards.recv() => send(&state.sender, bytes).await,
                Some(device) = queues.joins.recv() => join(&state.sender, device).await,
                Some(peer) = discovered.next() => self.ask(&mut state, peer, Teller::LocalNetwork),
                () = hub.publish_now.notified() => self.announce(&state).await,
                _ = republish.tick() => self.announce(&state).await,
                _ = tick.tick() => self.on_tick(&mut state).await,
                Some(_) = state.asked.join_next() => {}
            }
        }
        state.asked.shutdown().await;
        self.hub.write_book(self.peers_file.as_ref()).await;
    }

    async fn subscribe(&self, peers: Vec<PublicKey>) -> Option<(GossipSender, GossipReceiver)> {
        let topic = TopicId::from_bytes(self.hub.topic.0);
        match self.gossip.subscribe(topic, peers).await {
            Ok(topic) => Some(topic.split()),
            Err(error) => {
                debug!(error = %error.with_causes(), "gossip has ended");
                None
            }
        }
    }

    /// Gossip closes a topic whose events are not taken fast enough; the neighbours of before
    /// are neighbours again.
    async fn subscribe_again(&self, state: &mut Running) -> bool {
        sleep(SUBSCRIBE_AGAIN).await;
        let neighbours = state.neighbours.iter();
        let peers = neighbours.filter_map(|device| PublicKey::from_bytes(&device.0).ok());
        let Some((sender, receiver)) = self.subscribe(peers.collect()).await else {
            return false;
        };
        state.sender = sender;
        state.receiver = receiver;
        state.neighbours.clear();
        self.hub.neighbours.send_replace(BTreeSet::new());
        true
    }

    async fn on_gossip(&self, state: &mut Running, event: GossipEvent) {
        match event {
            GossipEvent::Received(Message {
                content,
                scope: DeliveryScope::Neighbors,
                delivered_from,
            }) => self
                .hub
                .delivered(DeviceId(*delivered_from.as_bytes()), &content),
            // Only neighbours are listened to: what gossip itself spreads, nobody checked.
            GossipEvent::Received(_) => {}
            GossipEvent::NeighborUp(id) => {
                let device = DeviceId(*id.as_bytes());
                state.neighbours.insert(device);
                self.hub.neighbours.send_replace(state.neighbours.clone());
                // It may know offers that this device does not, and it does not know ours.
                let address = self.hub.locate(PeerAddress::of(device));
                let address = address.map(|address| PeerAddress::from_iroh(&address));
                let address = address.unwrap_or_else(|| PeerAddress::of(device));
                // What is known of where it is may be dialed: it was looked at when it was told.
                self.ask(state, address, Teller::Owner);
                self.announce(state).await;
            }
            GossipEvent::NeighborDown(id) => {
                state.neighbours.remove(&DeviceId(*id.as_bytes()));
                self.hub.neighbours.send_replace(state.neighbours.clone());
            }
            GossipEvent::Lagged => {}
        }
    }

    async fn announce(&self, state: &Running) {
        if let Some(bytes) = self.hub.announcement(self.hub.now()) {
            send(&state.sender, bytes).await;
        }
    }

    async fn on_tick(&self, state: &mut Running) {
        self.hub.handle(Event::Tick);
        self.hub.note_own_addresses();
        self.hub.write_book(self.peers_file.as_ref()).await;
        if Instant::now() < state.next_ask {
            return;
        }
        let wait = match state.neighbours.is_empty() {
            true => EXCHANGE_INTERVAL_ALONE,
            false => EXCHANGE_INTERVAL,
        };
        state.next_ask = Instant::now() + wait;
        let known = self.hub.known();
        if !known.is_empty() {
            let peer = known[state.next_peer % known.len()].clone();
            state.next_peer = state.next_peer.wrapping_add(1);
            let address = self.hub.dialing.remembered(peer.address);
            self.ask(state, address, Teller::Owner);
        }
    }

    /// Asks a peer for its offers, and makes it a neighbour when it is a member.
    fn ask(&self, state: &mut Running, peer: PeerAddress, teller: Teller) {
        if state.asked.len() >= ASKED_AT_ONCE || peer.device == self.hub.own {
            return;
        }
        let hub = self.hub.clone();
        state.asked.spawn(async move {
            match exchange::ask(&hub, &peer, teller).await {
                Ok(found) => hub.welcome(&found, false),
                Err(error) => debug!(peer = %peer.device, error = %error.with_causes(), "no offers from a peer"),
            }
        });
    }
}

async fn send(sender: &GossipSender, bytes: Vec<u8>) {
    if let Err(error) = sender.broadcast_neighbors(Bytes::from(bytes)).await {
        debug!(error = %error.with_causes(), "an announcement was not sent");
    }
}

async fn join(sender: &GossipSender, device: DeviceId) {
    let Ok(id) = PublicKey::from_bytes(&device.0) else {
        return;
    };
    if let Err(error) = sender.join_peers(vec![id]).await {
        debug!(error = %error.with_causes(), "a neighbour was not joined");
    }
}
