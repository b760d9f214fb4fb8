//! Answer streams between devices: asking, and being asked (ALPN `hearth/answer/1`).
//!
//! A connection to a provider is kept for the next question, so that a question costs a new stream
//! and not a new handshake. Streams that arrive wait in one bounded queue for the node; when it is
//! full, a stream is refused as busy, which a payer may retry elsewhere.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_causes::WithCauses;
use hearth_protocol::offer::DeviceId;
use iroh::endpoint::{ConnectOptions, Connection, VarInt};
use iroh::protocol::{AcceptError, ProtocolHandler};
use iroh::{Endpoint, EndpointAddr};
use thiserror::Error;
use tokio::sync::{OnceCell, mpsc};
use tokio::time::{Instant, timeout};

use crate::admission::{device_of, origin_of};
use crate::endpoint::transport;
use crate::limits::{
    ANSWER_KEEP_ALIVE_INTERVAL, CONNECT_TIME_MAX, CONNECTION_STREAMS_MAX, KEPT_CONNECTION_IDLE,
    KEPT_CONNECTIONS_MAX,
};
use crate::options::Patience;
use crate::origin::Origin;
use crate::stream::{EndReason, PayerStream, Permit, ProviderStream};

/// The protocol's name on the wire.
pub const ANSWER_ALPN: &[u8] = b"hearth/answer/1";

/// Why a device could not be reached.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The device is this one.
    #[error("a device does not ask itself over the network")]
    Itself,
    /// The id is not a point of the curve.
    #[error("{0} is no device: check the id, or ask for a new ticket")]
    NoDevice(DeviceId),
    /// It was shut out for misbehaviour.
    #[error("the device misbehaved and is shut out for a while")]
    ShutOut,
    /// No address is known, or none answers.
    #[error("the device cannot be reached: {0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("the device did not answer within {} s", CONNECT_TIME_MAX.as_secs())]
    Slow,
    /// It has as many streams open as it may, or closed the connection just now.
    #[error("the device takes no new stream: {0}")]
    Refused(String),
}

impl ConnectError {
    /// Whether it may be worth to try again.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Slow | Self::Refused(_))
    }
}

/// A question that arrived.
#[derive(Debug)]
pub struct IncomingAnswer {
    /// The device that asks. The connection is authenticated with this key.
    pub device: DeviceId,
    /// Where it asks from.
    pub origin: Origin,
    /// What it is asked and answered on.
    pub stream: ProviderStream,
}

/// Connects to `address`, within [`CONNECT_TIME_MAX`], and shows a sign of life every `keep_alive`.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    address: EndpointAddr,
    alpn: &[u8],
    keep_alive: Duration,
) -> Result<Connection, ConnectError> {
    if address.id == endpoint.id() {
        return Err(ConnectError::Itself);
    }
    let options = ConnectOptions::new().with_transport_config(transport(keep_alive));
    let connecting = async {
        let unreachable = |error: &dyn std::error::Error| {
            ConnectError::Unreachable(error.with_causes().to_string())
        };
        let begun = endpoint.connect_with_opts(address, alpn, options).await;
        let begun = begun.map_err(|error| unreachable(&error))?;
        begun.await.map_err(|error| unreachable(&error))
    };
    let connected = timeout(CONNECT_TIME_MAX, connecting).await;
    connected.unwrap_or(Err(ConnectError::Slow))
}

/// One kept connection.
#[derive(Debug)]
struct Kept {
    connection: OnceCell<Connection>,
    streams: Arc<AtomicUsize>,
    used: Mutex<Instant>,
}

impl Kept {
    fn new() -> Self {
        Self {
            connection: OnceCell::new(),
            streams: Arc::new(AtomicUsize::new(0)),
            used: Mutex::new(Instant::now()),
        }
    }

    fn note_use(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Broken, or unused for long.
    fn is_stale(&self, idle: Duration) -> bool {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = self.streams.load(Ordering::Relaxed) == 0 && used.elapsed() > idle;
        let broken = self
            .connection
            .get()
            .is_some_and(|connection| connection.close_reason().is_some());
        unused || broken
    }
}

/// Counts an open stream of a kept connection.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections that questions go out on.
#[derive(Debug)]
pub(crate) struct Asker {
    endpoint: Endpoint,
    patience: Patience,
    kept: Mutex<BTreeMap<DeviceId, Arc<Kept>>>,
}

impl Asker {
    pub(crate) fn new(endpoint: Endpoint, patience: Patience) -> Self {
        Self {
            endpoint,
            patience,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Arc<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream to the device at `address`, on the connection that is kept for it or on a
    /// new one. Questions that are asked at the same time share one handshake.
    pub(crate) async fn ask(&self, address: EndpointAddr) -> Result<PayerStream, ConnectError> {
        let device = DeviceId(*address.id.as_bytes());
        // A kept connection may turn out to be dead; then a fresh one is tried, once.
        let had_one = self.kept().contains_key(&device);
        match self.open(device, address.clone()).await {
            Err(ConnectError::Refused(_)) if had_one => {
                self.disconnect(device);
                self.open(device, address).await
            }
            result => result,
        }
    }

    async fn open(
        &self,
        device: DeviceId,
        address: EndpointAddr,
    ) -> Result<PayerStream, ConnectError> {
        let (kept, connection) = self.connected(device, address).await?;
        kept.streams.fetch_add(1, Ordering::Relaxed);
        let permit: Permit = Arc::new(Counted(kept.streams.clone()));
        match timeout(CONNECT_TIME_MAX, connection.open_bi()).await {
            Ok(Ok(halves)) => Ok(PayerStream::new(&connection, halves, self.patience, permit)),
            Ok(Err(error)) => {
                self.remove(device, &kept);
                Err(ConnectError::Refused(error.with_causes().to_string()))
            }
            Err(_) => Err(ConnectError::Refused(
                "as many streams are open as it allows".to_owned(),
            )),
        }
    }

    /// The connection that is kept for a device, made where there is none.
    async fn connected(
        &self,
        device: DeviceId,
        address: EndpointAddr,
    ) -> Result<(Arc<Kept>, Connection), ConnectError> {
        let kept = self.slot(device);
        let keep_alive = ANSWER_KEEP_ALIVE_INTERVAL;
        let connecting = || connect(&self.endpoint, address, ANSWER_ALPN, keep_alive);
        let connection = match kept.connection.get_or_try_init(connecting).await {
            Ok(connection) => connection.clone(),
            Err(error) => {
                self.remove(device, &kept);
                return Err(error);
            }
        };
        kept.note_use();
        Ok((kept, connection))
    }

    /// Has a connection ready for the next question to a device.
    pub(crate) async fn prepare(&self, address: EndpointAddr) -> Result<(), ConnectError> {
        let device = DeviceId(*address.id.as_bytes());
        self.connected(device, address).await.map(drop)
    }

    fn slot(&self, device: DeviceId) -> Arc<Kept> {
        let mut kept = self.kept();
        if let Some(slot) = kept.get(&device)
            && !slot.is_stale(KEPT_CONNECTION_IDLE)
        {
            return slot.clone();
        }
        if kept.len() >= KEPT_CONNECTIONS_MAX {
            // Those in use stay open through their streams; only the reuse is lost.
            kept.retain(|_, slot| !slot.is_stale(Duration::ZERO));
            if kept.len() >= KEPT_CONNECTIONS_MAX {
                kept.pop_first();
            }
        }
        let slot = Arc::new(Kept::new());
        kept.insert(device, slot.clone());
        slot
    }

    fn remove(&self, device: DeviceId, slot: &Arc<Kept>) {
        let mut kept = self.kept();
        if kept
            .get(&device)
            .is_some_and(|other| Arc::ptr_eq(other, slot))
        {
            kept.remove(&device);
        }
    }

    /// Forgets the connection that is kept for a device, so that the next question dials anew.
    /// Streams that are open on it live on.
    pub(crate) fn disconnect(&self, device: DeviceId) {
        self.kept().remove(&device);
    }

    /// Lets go of connections that broke or that nobody used for a while.
    pub(crate) fn tidy(&self) {
        self.kept()
            .retain(|_, slot| !slot.is_stale(KEPT_CONNECTION_IDLE));
    }

    /// Closes everything that is kept.
    pub(crate) fn close(&self) {
        let kept = std::mem::take(&mut *self.kept());
        for connection in kept.values().filter_map(|slot| slot.connection.get()) {
            connection.close(VarInt::from_u32(0), b"shut down");
        }
    }
}

/// Takes the streams that others open.
#[derive(Debug, Clone)]
pub(crate) struct AnswerProtocol {
    arrived: mpsc::Sender<IncomingAnswer>,
    patience: Patience,
}

impl AnswerProtocol {
    pub(crate) fn new(arrived: mpsc::Sender<IncomingAnswer>, patience: Patience) -> Self {
        Self { arrived, patience }
    }
}

impl ProtocolHandler for AnswerProtocol {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let device = device_of(&connection);
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(0));
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(CONNECTION_STREAMS_MAX));
        // Ends with the connection; the number of streams at once is QUIC's to keep.
        while let Ok(halves) = connection.accept_bi().await {
            let permit: Permit = Arc::new(());
            let stream = ProviderStream::new(&connection, halves, self.patience, permit);
            let arrived = IncomingAnswer {
                device,
                origin: origin_of(&connection),
                stream,
            };
            if let Err(error) = self.arrived.try_send(arrived) {
                let (mpsc::error::TrySendError::Full(refused)
                | mpsc::error::TrySendError::Closed(refused)) = error;
                refused.stream.end(EndReason::Busy);
            }
        }
        Ok(())
    }
}
