//! JSON-RPC to a chain that another device runs (ALPN `hearth/chain/1`).
//!
//! ```text
//! asks                          answers
//! length, request  ---->
//!                        <----  length, reply
//! ```
//! A length is a little-endian `u32`; request and reply are the bodies of JSON-RPC, one call or a batch. A stream
//! carries one request, and a connection is kept for the next. Anybody may ask, because a chain is public among those
//! who use it; what is answered is for the node to say, which is given the request by [`AnswersChain`]. How many are
//! answered at once is decided by [`visitors`]. Neither side believes the other: both bound what they read in bytes and
//! time. Implements section 13 of the embedded chain's specification.

mod visitors;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures::future::BoxFuture;
use hearth_causes::WithCauses;
use hearth_protocol::offer::DeviceId;
use iroh::endpoint::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use iroh::protocol::{AcceptError, ProtocolHandler};
use iroh::{Endpoint, EndpointAddr};
use thiserror::Error;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admission::{device_of, origin_of};
use crate::answers::{ConnectError, connect};
use crate::codec::LENGTH_BYTES;
use crate::desk::Desk;
use crate::limits::{
    CHAIN_HOSTS_MAX, CHAIN_REPLY_BYTES_MAX, CHAIN_REQUEST_BYTES_MAX, CHAIN_REQUEST_TIME_MAX,
    CHAIN_STREAMS_MAX, CHAIN_TIME_MAX, CONNECT_TIME_MAX, KEEP_ALIVE_INTERVAL, SEND_STALL_MAX,
};
use visitors::{Visitor, Visitors};

/// The protocol's name on the wire.
pub const CHAIN_ALPN: &[u8] = b"hearth/chain/1";
/// The code with which one request too many is turned away.
const TOO_MANY: u32 = 41;
/// The code with which a request that is none is turned away.
const GARBAGE: u32 = 42;
/// The code of a device that runs no chain.
const NO_CHAIN: u32 = 43;
/// The code in place of a reply that would be too long.
const TOO_LONG: u32 = 44;

/// Answers what devices ask of the chain that this device runs.
pub trait AnswersChain: Send + Sync {
    /// Returns the reply to the body of a JSON-RPC request; nothing for notifications alone. `is_member` says whether
    /// `device` belongs to the household.
    fn answer(&self, device: DeviceId, is_member: bool, request: Vec<u8>)
    -> BoxFuture<'_, Vec<u8>>;
}

/// The chain of this device, once the node said that it runs one. Clones are the same.
#[derive(Clone, Default)]
struct Sequencer(Arc<OnceLock<Arc<dyn AnswersChain>>>);

impl fmt::Debug for Sequencer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequencer").finish_non_exhaustive()
    }
}

/// Both ends of the lines to chains: this device's own, and those of others.
#[derive(Debug)]
pub(crate) struct ChainLinks {
    sequencer: Sequencer,
    asker: ChainAsker,
}

impl ChainLinks {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self {
            sequencer: Sequencer::default(),
            asker: ChainAsker::new(endpoint),
        }
    }

    /// Lets `chain` answer. The first one that is named stays.
    pub(crate) fn answer_by(&self, chain: Arc<dyn AnswersChain>) {
        let _ = self.sequencer.0.set(chain);
    }

    /// Answers those who ask this device.
    pub(crate) fn protocol(&self, household: Desk) -> ChainProtocol {
        ChainProtocol::new(self.sequencer.clone(), household)
    }

    /// Asks the chain of the device at `address`.
    pub(crate) async fn ask(
        &self,
        address: EndpointAddr,
        request: &[u8],
    ) -> Result<Vec<u8>, ChainAskError> {
        self.asker.ask(address, request).await
    }

    /// Closes the connections that are kept.
    pub(crate) fn close(&self) {
        self.asker.close();
    }
}

/// Why a chain that another device runs gave no reply.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChainAskError {
    /// The device cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It broke off, or took too long.
    #[error("the device that runs the chain broke off: {0}")]
    BrokenOff(String),
    /// It answers as many requests as it may.
    #[error("the device that runs the chain is busy")]
    Busy,
    /// It runs no chain.
    #[error("the device runs no chain now")]
    NoChain,
    /// The request, or the reply, is longer than it may be.
    #[error(
        "a request to a chain has at most {CHAIN_REQUEST_BYTES_MAX} bytes, and its reply {CHAIN_REPLY_BYTES_MAX}"
    )]
    TooLong,
    /// It says that the request is none.
    #[error("the device that runs the chain does not understand the request")]
    Garbage,
}

impl ChainAskError {
    /// Returns whether it may be worth to try again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_retryable(),
            Self::BrokenOff(_) | Self::Busy | Self::NoChain => true,
            Self::TooLong | Self::Garbage => false,
        }
    }

    fn of_code(code: VarInt) -> Option<Self> {
        let codes = [
            (TOO_MANY, Self::Busy),
            (GARBAGE, Self::Garbage),
            (NO_CHAIN, Self::NoChain),
            (TOO_LONG, Self::TooLong),
        ];
        let mut codes = codes.into_iter();
        codes
            .find(|(known, _)| VarInt::from_u32(*known) == code)
            .map(|(_, error)| error)
    }
}

async fn write(to: &mut SendStream, body: &[u8]) -> Result<(), String> {
    let length = u32::try_from(body.len()).map_err(|_| "it is too long".to_owned())?;
    let said = |error: &dyn std::error::Error| error.with_causes().to_string();
    to.write_all(&length.to_le_bytes())
        .await
        .map_err(|error| said(&error))?;
    to.write_all(body).await.map_err(|error| said(&error))?;
    to.finish().map_err(|error| said(&error))
}

/// Why a body was not read.
enum ReadFault {
    /// It is longer than it may be.
    TooLong,
    /// The stream ended or was reset, with this code.
    Ended(Option<VarInt>, String),
}

/// Reads a body of at most `bytes_max` bytes. Memory is taken as it arrives, not as its length announces.
async fn read(from: &mut RecvStream, bytes_max: usize) -> Result<Vec<u8>, ReadFault> {
    let mut length = [0; LENGTH_BYTES];
    fill(from, &mut length).await?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > bytes_max {
        return Err(ReadFault::TooLong);
    }
    let mut body = Vec::new();
    while body.len() < length {
        let wanted = length - body.len();
        match from.read_chunk(wanted).await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Err(ReadFault::Ended(None, "it ended too soon".to_owned())),
            Err(error) => return Err(fault(error)),
        }
    }
    Ok(body)
}

async fn fill(from: &mut RecvStream, bytes: &mut [u8]) -> Result<(), ReadFault> {
    let mut filled = 0;
    while filled < bytes.len() {
        match from.read(&mut bytes[filled..]).await {
            Ok(Some(read)) => filled += read,
            Ok(None) => return Err(ReadFault::Ended(None, "it ended too soon".to_owned())),
            Err(error) => return Err(fault(error)),
        }
    }
    Ok(())
}

fn fault(error: iroh::endpoint::ReadError) -> ReadFault {
    use iroh::endpoint::ReadError;
    let words = error.with_causes().to_string();
    let code = match error {
        ReadError::Reset(code) => Some(code),
        ReadError::ConnectionLost(ConnectionError::ApplicationClosed(close)) => {
            Some(close.error_code)
        }
        _ => None,
    };
    ReadFault::Ended(code, words)
}

/// The connections on which chains of other devices are asked.
#[derive(Debug)]
struct ChainAsker {
    endpoint: Endpoint,
    kept: Mutex<BTreeMap<DeviceId, Arc<OnceCell<Connection>>>>,
}

impl ChainAsker {
    fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Arc<OnceCell<Connection>>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the chain of the device at `address`, on the connection that is kept for it or on a new one.
    async fn ask(&self, address: EndpointAddr, request: &[u8]) -> Result<Vec<u8>, ChainAskError> {
        if request.len() > CHAIN_REQUEST_BYTES_MAX {
            return Err(ChainAskError::TooLong);
        }
        let device = DeviceId(*address.id.as_bytes());
        let slot = self.slot(device);
        let connecting = || connect(&self.endpoint, address, CHAIN_ALPN, KEEP_ALIVE_INTERVAL);
        let connection = match slot.get_or_try_init(connecting).await {
            Ok(connection) => connection.clone(),
            Err(error) => {
                self.forget(device, &slot);
                return Err(error.into());
            }
        };
        let asked = timeout(CHAIN_TIME_MAX, exchange(&connection, request)).await;
        let asked =
            asked.unwrap_or_else(|_| Err(ChainAskError::BrokenOff("it took too long".to_owned())));
        if let Err(ChainAskError::BrokenOff(_) | ChainAskError::NoChain) = &asked {
            // The next request dials anew, where the device may have moved to.
            self.forget(device, &slot);
        }
        asked
    }

    /// The place of a device's connection. One whose connection is over is made anew.
    fn slot(&self, device: DeviceId) -> Arc<OnceCell<Connection>> {
        let mut kept = self.kept();
        let is_over = |slot: &Arc<OnceCell<Connection>>| {
            let connection = slot.get();
            connection.is_some_and(|connection| connection.close_reason().is_some())
        };
        if let Some(slot) = kept.get(&device)
            && !is_over(slot)
        {
            return Arc::clone(slot);
        }
        if kept.len() >= CHAIN_HOSTS_MAX {
            kept.pop_first();
        }
        let slot = Arc::new(OnceCell::new());
        kept.insert(device, Arc::clone(&slot));
        slot
    }

    fn forget(&self, device: DeviceId, slot: &Arc<OnceCell<Connection>>) {
        let mut kept = self.kept();
        let is_kept = |other: &Arc<OnceCell<Connection>>| Arc::ptr_eq(other, slot);
        if kept.get(&device).is_some_and(is_kept) {
            kept.remove(&device);
        }
    }

    /// Closes everything that is kept.
    fn close(&self) {
        let kept = std::mem::take(&mut *self.kept());
        for connection in kept.values().filter_map(|slot| slot.get()) {
            connection.close(VarInt::from_u32(0), b"shut down");
        }
    }
}

/// Sends a request on a stream of its own and reads the reply.
async fn exchange(connection: &Connection, request: &[u8]) -> Result<Vec<u8>, ChainAskError> {
    let opened = timeout(CONNECT_TIME_MAX, connection.open_bi()).await;
    let (mut to, mut from) = match opened {
        Ok(Ok(halves)) => halves,
        Ok(Err(error)) => return Err(closed(connection, error.with_causes().to_string())),
        Err(_) => return Err(ChainAskError::Busy),
    };
    // A device that turns the request away may say so before it has read it, so the reply is read all the same.
    let sent = write(&mut to, request).await;
    match read(&mut from, CHAIN_REPLY_BYTES_MAX).await {
        Ok(reply) => sent.map(|()| reply).map_err(ChainAskError::BrokenOff),
        Err(ReadFault::TooLong) => {
            // Fails only where the stream is over already.
            let _ = from.stop(VarInt::from_u32(TOO_LONG));
            Err(ChainAskError::TooLong)
        }
        Err(ReadFault::Ended(code, words)) => Err(code
            .and_then(ChainAskError::of_code)
            .unwrap_or_else(|| closed(connection, words))),
    }
}

/// Why a connection is over, or what was met on it.
fn closed(connection: &Connection, words: String) -> ChainAskError {
    let of_close = match connection.close_reason() {
        Some(ConnectionError::ApplicationClosed(close)) => ChainAskError::of_code(close.error_code),
        _ => None,
    };
    of_close.unwrap_or(ChainAskError::BrokenOff(words))
}

/// Answers those who ask this device's chain, once the node said that it runs one.
#[derive(Debug, Clone)]
pub(crate) struct ChainProtocol {
    chain: Sequencer,
    household: Desk,
    visitors: Arc<Mutex<Visitors>>,
}

/// A place among those who are answered; given back when it is dropped.
struct Place {
    visitors: Arc<Mutex<Visitors>>,
    visitor: Visitor,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut visitors = self.visitors.lock().unwrap_or_else(PoisonError::into_inner);
        visitors.leave(&self.visitor);
    }
}

impl ChainProtocol {
    fn new(chain: Sequencer, household: Desk) -> Self {
        Self {
            chain,
            household,
            visitors: Arc::default(),
        }
    }

    /// Gives a place to one more request of a connection.
    fn enter(&self, connection: &Connection) -> Option<Place> {
        let device = device_of(connection);
        let visitor = Visitor {
            device,
            site: origin_of(connection).site(),
            is_member: self.household.is_member(&device),
        };
        let mut visitors = self.visitors.lock().unwrap_or_else(PoisonError::into_inner);
        visitors.enter(&visitor).then(|| Place {
            visitors: Arc::clone(&self.visitors),
            visitor,
        })
    }

    async fn serve(&self, connection: &Connection, chain: &Arc<dyn AnswersChain>) {
        // At most as many as QUIC lets the other side have open.
        let mut requests = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = requests.join_next() => {}
                opened = connection.accept_bi() => match (opened, self.enter(connection)) {
                    (Err(_), _) => return,
                    (Ok(halves), None) => refuse(halves, TOO_MANY),
                    (Ok(halves), Some(place)) => {
                        let chain = Arc::clone(chain);
                        requests.spawn(async move {
                            answer(&place.visitor, chain.as_ref(), halves).await;
                            drop(place);
                        });
                    }
                },
            }
        }
    }
}

fn refuse((mut to, mut from): (SendStream, RecvStream), code: u32) {
    // Both fail only where the stream is over already.
    let _ = to.reset(VarInt::from_u32(code));
    let _ = from.stop(VarInt::from_u32(code));
}

/// Reads one request, and sends the reply.
async fn answer(
    visitor: &Visitor,
    chain: &dyn AnswersChain,
    (mut to, mut from): (SendStream, RecvStream),
) {
    let request = timeout(
        CHAIN_REQUEST_TIME_MAX,
        read(&mut from, CHAIN_REQUEST_BYTES_MAX),
    );
    let Ok(Ok(request)) = request.await else {
        refuse((to, from), GARBAGE);
        return;
    };
    let answered = chain.answer(visitor.device, visitor.is_member, request);
    let reply = answered.await;
    if reply.len() > CHAIN_REPLY_BYTES_MAX {
        refuse((to, from), TOO_LONG);
        return;
    }
    // One that does not read its reply loses it, and keeps its place for no longer than that.
    if timeout(SEND_STALL_MAX, write(&mut to, &reply))
        .await
        .is_err()
    {
        refuse((to, from), TOO_MANY);
    }
}

impl ProtocolHandler for ChainProtocol {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(0));
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(CHAIN_STREAMS_MAX));
        match self.chain.0.get() {
            Some(chain) => self.serve(&connection, chain).await,
            None => connection.close(VarInt::from_u32(NO_CHAIN), b""),
        }
        Ok(())
    }
}
