//! The household's devices, as this one knows them: one task owns what is known, writes it down
//! before anybody is told, and compares it with the other devices.
//!
//! What holds is decided by `hearth_protocol::household::Household`; who belongs is read without
//! waiting, because every question that arrives asks for it. Implements docs/spec/10-household.md.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use alloy_primitives::{Address, B256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use futures::future::BoxFuture;
use hearth_causes::WithCauses;
use hearth_environment::Environment;
use hearth_net::{AnswersHousehold, HouseholdAskError, JoinError, Network, PeerAddress, Ticket};
use hearth_payments::store::{Batch, Store, StoreError, Table};
use hearth_payments::till::Tasks;
use hearth_protocol::household::{
    Household, HouseholdAsk, HouseholdError, HouseholdReply, HouseholdStatement, InviteTicket,
    JoinRefusal, KinProof, Secret, SignedCertificate, Standing, is_device_name,
};
use hearth_protocol::offer::DeviceId;
use hearth_protocol::signature::Signature;
use hearth_protocol::text::nfc;
use hearth_protocol::time::Timestamp;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::advice::Advice;
use crate::shared_chain::ticket::TicketPayload;

/// What this device knows of its household, under one key.
const HOUSEHOLD: Table<Standing> = Table::new("household");
/// The key under which the store holds what is known.
const KEY: &[u8] = b"standing";
/// The name of a device in a fresh configuration.
const UNNAMED: &str = "this device";
/// Orders that wait; who sends one more waits.
const ORDERS_MAX: usize = 64;
/// How often the other devices are asked what they know.
const COMPARE_EVERY: Duration = Duration::from_secs(20);
/// How long a device that leaves waits for its host.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(10);
/// Devices that are asked at once.
const COMPARED_AT_ONCE: usize = 8;
/// Devices that claim to be of this household and are asked whether they are, each time: anybody can
/// claim it, and the household's own devices do not wait for them.
const KIN_ASKED: usize = 8;
/// How long such a device may take.
const KIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Why something about the household was not done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MembersError {
    /// It makes no sense.
    #[error(transparent)]
    Household(#[from] HouseholdError),
    /// The books.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ticket's network.
    #[error(transparent)]
    Network(#[from] JoinError),
    /// The host did not answer.
    #[error(transparent)]
    Asked(#[from] HouseholdAskError),
    /// The host said no.
    #[error("the household did not let this device in: {0}")]
    Refused(JoinRefusal),
    /// The ticket carries no invitation.
    #[error("the ticket joins a network and no household")]
    NoInvitation,
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Randomness,
    /// The node stops.
    #[error("the node is stopping")]
    Stopping,
}

impl Advice for MembersError {
    fn code(&self) -> &str {
        match self {
            Self::Household(HouseholdError::NotHost) => "not_host",
            Self::Household(HouseholdError::Elsewhere(_) | HouseholdError::Leads) => {
                "household_taken"
            }
            Self::Household(HouseholdError::NotJoined) => "not_joined",
            Self::Household(HouseholdError::NoDevice) => "no_device",
            Self::Household(_) => "household",
            Self::Store(_) => "store",
            Self::Network(_) | Self::Asked(_) => "not_reached",
            Self::Refused(_) => "not_let_in",
            Self::NoInvitation => "no_invitation",
            Self::Randomness => "randomness",
            Self::Stopping => "stopping",
        }
    }

    fn next_step(&self) -> String {
        let step = match self {
            Self::Household(HouseholdError::NotHost) => {
                "Do it on the device that is marked as host in `hearth devices`"
            }
            Self::Household(HouseholdError::Elsewhere(_)) => {
                "Leave that household first, with `hearth devices leave`"
            }
            Self::Household(HouseholdError::Leads) => {
                "Remove the other devices first, with `hearth devices remove`"
            }
            Self::Household(HouseholdError::NoDevice) => "See `hearth devices` for who belongs",
            Self::Household(HouseholdError::Invitation(_)) => "Try again later",
            Self::Household(_) => "See `hearth devices` for how things stand",
            Self::Store(_) => "Check the disk with `hearth doctor`, then start the node again",
            Self::Network(_) | Self::Asked(_) => {
                "See that the other device is up and can be reached, then try again"
            }
            Self::Refused(_) | Self::NoInvitation => {
                "Ask for a new ticket: `hearth invite` on the other device prints one"
            }
            Self::Randomness | Self::Stopping => "Try again",
        };
        step.to_owned()
    }
}

/// A device of the household.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its endpoint key.
    pub device: DeviceId,
    /// What people call it.
    pub name: String,
    /// When its certificate ends.
    pub expires_at: Timestamp,
}

type Done<T> = oneshot::Sender<Result<T, MembersError>>;

enum Order {
    Invite(u64, Done<InviteTicket>),
    Answer(DeviceId, HouseholdAsk, oneshot::Sender<HouseholdReply>),
    MayJoin(Address, Done<()>),
    Adopt(Address, Vec<HouseholdStatement>, Done<()>),
    Told(DeviceId, Vec<HouseholdStatement>),
    Remove(String, Done<()>),
    Leave(Done<()>),
}

/// What the household's devices are. Clones share it.
#[derive(Clone)]
pub struct Members {
    orders: mpsc::Sender<Order>,
    known: Arc<RwLock<Household>>,
    environment: Arc<dyn Environment>,
    name: String,
    account: PrivateKeySigner,
}

/// What the members are made of.
pub struct MembersParts {
    /// This device.
    pub own: DeviceId,
    /// What the household calls it.
    pub name: String,
    /// The household's key, as far as this device is concerned.
    pub account: PrivateKeySigner,
    /// Where everything is written down.
    pub store: Store,
    /// The clock.
    pub environment: Arc<dyn Environment>,
}

/// The task's own part.
struct Keeper {
    state: Household,
    parts: MembersParts,
    known: Arc<RwLock<Household>>,
}

impl Members {
    /// Reads what is known, and starts the task that owns it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn open(parts: MembersParts, tasks: &mut Tasks) -> Result<Self, MembersError> {
        let now = Timestamp(parts.environment.now_ms());
        let standing: Option<Standing> = parts.store.get(HOUSEHOLD, KEY)?;
        let state = Household::new(parts.own, parts.account.address(), standing, now);
        let known = Arc::new(RwLock::new(state.clone()));
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        let members = Self {
            orders,
            known: Arc::clone(&known),
            environment: Arc::clone(&parts.environment),
            name: parts.name.clone(),
            account: parts.account.clone(),
        };
        let mut keeper = Keeper {
            state,
            parts,
            known,
        };
        keeper.renew().await?;
        tasks.spawn(keeper.run(queue));
        Ok(members)
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, Household> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.environment.now_ms())
    }

    /// Whether a device belongs to this one's household.
    pub fn is_member(&self, device: &DeviceId) -> bool {
        self.known().is_member(self.now(), device)
    }

    /// The household that this device belongs to, and whether it holds its key.
    pub fn household(&self) -> (Address, bool) {
        let known = self.known();
        (known.account(), known.is_host())
    }

    /// Who belongs to it.
    pub fn list(&self) -> Vec<Member> {
        let member = |one: &SignedCertificate| Member {
            device: one.certificate.device,
            name: one.certificate.name.clone(),
            expires_at: one.certificate.expires_at,
        };
        let known = self.known();
        known.roster().members(self.now()).map(member).collect()
    }

    /// Opens an invitation for one device.
    ///
    /// # Errors
    /// See [`MembersError`].
    pub async fn invite(&self, ttl_ms: u64) -> Result<InviteTicket, MembersError> {
        self.order(|done| Order::Invite(ttl_ms, done)).await
    }

    /// Belongs to the household of a ticket from now on.
    ///
    /// # Errors
    /// See [`MembersError`].
    pub async fn join(&self, network: &Network, ticket: &Ticket) -> Result<(), MembersError> {
        let invitation = invitation(ticket).ok_or(MembersError::NoInvitation)?;
        let household = invitation.household;
        self.order(|done| Order::MayJoin(household, done)).await?;
        network.join(ticket).await?;
        let question = HouseholdAsk::Join {
            secret: invitation.secret,
            name: self.name.clone(),
        };
        let peer = ticket.peer.clone();
        let statements = match network.ask_household(peer, &question).await? {
            HouseholdReply::Statements(statements) => statements,
            HouseholdReply::Refused(why) => return Err(MembersError::Refused(why)),
        };
        self.order(|done| Order::Adopt(household, statements, done))
            .await
    }

    /// Removes the device of a name, or of an endpoint key.
    ///
    /// # Errors
    /// See [`MembersError`].
    pub async fn remove(&self, name_or_device: &str) -> Result<(), MembersError> {
        let which = name_or_device.to_owned();
        self.order(|done| Order::Remove(which, done)).await
    }

    /// Belongs to its own household again, and tells the host of the one that it leaves. True when
    /// that one let it go; it leaves also where the host is away, and is counted there until then.
    ///
    /// # Errors
    /// See [`MembersError`].
    pub async fn leave(&self, network: &Network) -> Result<bool, MembersError> {
        let (_, is_host) = self.household();
        if is_host {
            return Err(HouseholdError::NotJoined.into());
        }
        let told = timeout(LEAVE_TIME_MAX, self.ask_to_be_released(network)).await;
        let left = self.order(Order::Leave).await;
        match (told, left) {
            (Ok(true), Ok(()) | Err(MembersError::Household(HouseholdError::NotJoined))) => {
                // A member may have told of the removal before the order came.
                Ok(true)
            }
            (_, left) => left.map(|()| false),
        }
    }

    /// Asks all members that can be reached, because only the host knows that it is the host.
    async fn ask_to_be_released(&self, network: &Network) -> bool {
        let own = network.device();
        let others: Vec<_> = self.list().into_iter().map(|one| one.device).collect();
        let known = self.known().clone();
        let mut asked = JoinSet::new();
        // At most as many as a household has devices.
        for device in others.into_iter().filter(|device| *device != own) {
            let network = network.clone();
            asked.spawn(async move {
                let peer = PeerAddress::of(device);
                network.ask_household(peer, &HouseholdAsk::Leave).await
            });
        }
        while let Some(answered) = asked.join_next().await {
            if let Ok(Ok(reply)) = answered
                && known.is_released_by(self.now(), &reply)
            {
                return true;
            }
        }
        false
    }

    async fn order<T>(&self, order: impl FnOnce(Done<T>) -> Order) -> Result<T, MembersError> {
        let (done, wait) = oneshot::channel();
        let sent = self.orders.send(order(done)).await;
        sent.map_err(|_| MembersError::Stopping)?;
        wait.await.map_err(|_| MembersError::Stopping)?
    }

    /// Answers others, and asks them, as long as the node runs.
    pub fn attach(&self, network: &Network, tasks: &mut Tasks) {
        network.answer_household(Arc::new(self.clone()));
        let (members, network) = (self.clone(), network.clone());
        tasks.spawn(async move {
            let mut again = tokio::time::interval(COMPARE_EVERY);
            loop {
                again.tick().await;
                members.compare_all(&network).await;
            }
        });
    }

    /// Asks every other device of the household what it knows. Those that are away are asked later.
    pub async fn compare_all(&self, network: &Network) {
        let own = network.device();
        let mut others: Vec<_> = self.list().into_iter().map(|one| one.device).collect();
        others.retain(|device| *device != own);
        let mut asked = JoinSet::new();
        for device in others {
            while asked.len() >= COMPARED_AT_ONCE {
                asked.join_next().await;
            }
            let (members, network) = (self.clone(), network.clone());
            asked.spawn(async move { members.compare(&network, device).await });
        }
        while asked.join_next().await.is_some() {}
        self.find_kin(network).await;
    }

    /// Asks some of the devices that offer in this household's name whether they hold its key:
    /// devices with one phrase have one account. They are shown nothing but the proof that this one
    /// holds it, which says nothing to others.
    async fn find_kin(&self, network: &Network) {
        let (household, is_host) = self.household();
        if !is_host {
            return;
        }
        let offers = network.offers().into_iter();
        let alike = offers.filter(|one| one.offer.household == household);
        let mut alike: Vec<_> = alike.map(|one| one.offer.device).collect();
        alike.retain(|device| *device != network.device() && !self.is_member(device));
        if alike.is_empty() {
            return;
        }
        // Each in its turn, however many claim it.
        let every_ms = u64::try_from(COMPARE_EVERY.as_millis()).unwrap_or(u64::MAX);
        let round = usize::try_from(self.now().0 / every_ms).unwrap_or(0);
        let first = round.wrapping_mul(KIN_ASKED) % alike.len();
        alike.rotate_left(first);
        let mut asked = JoinSet::new();
        for device in alike.into_iter().take(KIN_ASKED) {
            let (members, network) = (self.clone(), network.clone());
            asked.spawn(async move {
                let secret = members.account.to_bytes();
                let proof = KinProof::new(&secret, &network.device(), &device);
                let question = HouseholdAsk::Kin(proof);
                let found = timeout(KIN_TIME_MAX, members.ask(&network, device, &question));
                // One that does not answer is asked again another time.
                drop(found.await);
            });
        }
        while asked.join_next().await.is_some() {}
    }

    async fn compare(&self, network: &Network, device: DeviceId) {
        let told = self.known().told_to(self.now(), &device);
        self.ask(network, device, &HouseholdAsk::Compare(told))
            .await;
    }

    /// Asks a device, and takes in what it tells.
    async fn ask(&self, network: &Network, device: DeviceId, question: &HouseholdAsk) {
        let reply = network
            .ask_household(PeerAddress::of(device), question)
            .await;
        match reply {
            Ok(HouseholdReply::Statements(statements)) => {
                let told = self.orders.send(Order::Told(device, statements)).await;
                // The node stops when nobody takes orders.
                drop(told);
            }
            Ok(HouseholdReply::Refused(why)) => info!(%device, %why, "a device tells nothing"),
            Err(error) => {
                tracing::debug!(%device, error = %error.with_causes(), "a device of the household is away")
            }
        }
    }
}

impl AnswersHousehold for Members {
    fn is_member(&self, device: &DeviceId) -> bool {
        Self::is_member(self, device)
    }

    fn answer(&self, device: DeviceId, ask: HouseholdAsk) -> BoxFuture<'_, HouseholdReply> {
        Box::pin(async move {
            let unable = HouseholdReply::Refused(JoinRefusal::Unable);
            let (done, wait) = oneshot::channel();
            match self.orders.try_send(Order::Answer(device, ask, done)) {
                Ok(()) => wait.await.unwrap_or(unable),
                Err(_) => unable,
            }
        })
    }
}

/// What others call a device: the name of its configuration, or the machine's where the owner chose
/// none, so that two devices are told apart.
pub(crate) fn shown_name(configured: &str) -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine = machine.trim();
    if configured == UNNAMED && is_device_name(machine) {
        machine.to_owned()
    } else {
        configured.to_owned()
    }
}

/// The invitation that a ticket carries.
pub fn invitation(ticket: &Ticket) -> Option<InviteTicket> {
    TicketPayload::of(ticket).ok()?.invitation
}

/// A ticket that carries a payload.
///
/// # Errors
/// Never in practice: what it carries is short.
pub(crate) fn ticket(network: &Network, payload: &TicketPayload) -> Result<Ticket, MembersError> {
    let payload = payload.to_bytes();
    let payload = payload.map_err(|_| MembersError::NoInvitation)?;
    Ok(network.ticket(payload))
}

impl Keeper {
    async fn run(mut self, mut queue: mpsc::Receiver<Order>) -> &'static str {
        let mut renew = tokio::time::interval(COMPARE_EVERY);
        loop {
            tokio::select! {
                order = queue.recv() => match order {
                    Some(order) => self.take(order).await,
                    None => break,
                },
                _ = renew.tick() => if let Err(error) = self.renew().await {
                    warn!(error = %error.with_causes(), "the household's certificates cannot be made anew");
                },
            }
        }
        "the household's devices"
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.parts.environment.now_ms())
    }

    /// Signs with the household's key.
    fn signer(&self) -> impl Fn(B256) -> Option<Signature> + use<> {
        let key = self.parts.account.clone();
        move |digest| {
            let signed = key.sign_hash_sync(&digest).ok()?;
            Signature::from_bytes(&signed.as_bytes()).ok()
        }
    }

    /// Takes `next` as what is known, once it is written down.
    async fn keep(&mut self, next: Household) -> Result<(), MembersError> {
        let standing = next.standing();
        if standing != self.state.standing() {
            let mut batch = Batch::default();
            batch.put(HOUSEHOLD, KEY, &standing)?;
            self.parts.store.commit(batch).await?;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.clone_from(&next);
        drop(known);
        self.state = next;
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), MembersError> {
        let mut next = self.state.clone();
        next.renew(self.now(), &self.parts.name, &self.signer())?;
        self.keep(next).await
    }

    async fn take(&mut self, order: Order) {
        let mut next = self.state.clone();
        let now = self.now();
        match order {
            Order::Invite(ttl_ms, done) => {
                let invited = self.secret().and_then(|secret| {
                    let ticket = next.invite(now, &secret, ttl_ms);
                    ticket.map_err(MembersError::from)
                });
                self.finish(invited, next, done).await;
            }
            Order::Answer(device, ask, done) => {
                let reply = self.answer(device, ask, next).await;
                // Who asked may be gone.
                let _ = done.send(reply);
            }
            Order::MayJoin(household, done) => {
                let may = next.may_adopt(now, household);
                let _ = done.send(may.map_err(MembersError::from));
            }
            Order::Adopt(household, statements, done) => {
                let adopted = next.adopt(now, household, statements);
                self.finish(adopted.map_err(MembersError::from), next, done)
                    .await;
            }
            Order::Told(device, statements) => match next.compare(now, statements) {
                Ok(_) => {
                    if self.state.is_host() != next.is_host() {
                        warn!("this device was removed from its household");
                    }
                    if let Err(error) = self.keep(next).await {
                        warn!(error = %error.with_causes(), "what a device told cannot be written down");
                    }
                }
                Err(error) => {
                    warn!(%device, error = %error.with_causes(), "a device tells what is not true")
                }
            },
            Order::Remove(which, done) => {
                let removed = find(&next, now, &which)
                    .and_then(|device| next.remove(now, device, &self.signer()));
                self.finish(removed.map_err(MembersError::from), next, done)
                    .await;
            }
            Order::Leave(done) => {
                let left = next.leave().map_err(MembersError::from);
                let own = self.signer();
                let left = left.and_then(|()| {
                    next.renew(now, &self.parts.name, &own)?;
                    Ok(())
                });
                self.finish(left, next, done).await;
            }
        }
    }

    fn secret(&self) -> Result<Secret, MembersError> {
        let secret = self.parts.environment.draw();
        secret.map(Secret).map_err(|_| MembersError::Randomness)
    }

    async fn finish<T>(
        &mut self,
        outcome: Result<T, MembersError>,
        next: Household,
        done: Done<T>,
    ) {
        let outcome = match outcome {
            Ok(value) => self.keep(next).await.map(|()| value),
            Err(error) => Err(error),
        };
        // Who asked may be gone.
        let _ = done.send(outcome);
    }

    /// Answers another device. What it is told is written down before.
    async fn answer(
        &mut self,
        device: DeviceId,
        ask: HouseholdAsk,
        mut next: Household,
    ) -> HouseholdReply {
        let now = self.now();
        let answered = match ask {
            HouseholdAsk::Join { secret, name } => {
                next.admit(now, device, &name, &secret, &self.signer())
            }
            HouseholdAsk::Leave => {
                let released = next.release(now, device, &self.signer());
                released.map(|removal| vec![removal])
            }
            HouseholdAsk::Kin(proof) => {
                next.told_to_kin(&device, &proof, &self.parts.account.to_bytes())
            }
            HouseholdAsk::Compare(statements) => match next.compare(now, statements) {
                Err(_) => Err(JoinRefusal::Forged),
                Ok(_) if next.is_member(now, &device) => Ok(next.told_to(now, &device)),
                // One that was removed is told so, and nothing else.
                Ok(_) => match next.roster().removal(&device) {
                    Some(removal) => Ok(vec![HouseholdStatement::Removal(removal.clone())]),
                    None => Err(JoinRefusal::Stranger),
                },
            },
        };
        match answered {
            Err(why) => HouseholdReply::Refused(why),
            Ok(statements) => match self.keep(next).await {
                Ok(()) => HouseholdReply::Statements(statements),
                Err(error) => {
                    warn!(error = %error.with_causes(), "the household's devices cannot be written down");
                    HouseholdReply::Refused(JoinRefusal::Unable)
                }
            },
        }
    }
}

/// The device of a name, of a key, or of the beginning of a key that only one has.
fn find(household: &Household, now: Timestamp, which: &str) -> Result<DeviceId, HouseholdError> {
    let of = |matches: &dyn Fn(&SignedCertificate) -> bool| {
        let members = household.roster().members(now);
        let mut found = members
            .filter(|one| matches(one))
            .map(|one| one.certificate.device);
        match (found.next(), found.next()) {
            (Some(device), None) => Some(device),
            _ => None,
        }
    };
    let named = of(&|one| nfc(&one.certificate.name) == nfc(which));
    let keyed = || {
        let begins =
            |one: &SignedCertificate| one.certificate.device.to_string().starts_with(which);
        of(&begins).filter(|_| which.len() >= 4)
    };
    named.or_else(keyed).ok_or(HouseholdError::NoDevice)
}

#[cfg(test)]
mod tests;
