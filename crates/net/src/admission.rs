//! Which peers may have a connection: what the [`Gate`] says, done to the endpoint's connections.
//!
//! It is a hook of the endpoint, so it sees every connection, whichever protocol it speaks and
//! whichever side began it. It holds no connection open: it knows them by weak handles.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_protocol::offer::DeviceId;
use iroh::EndpointAddr;
use iroh::TransportAddr;
use iroh::endpoint::{
    AfterHandshakeOutcome, BeforeConnectOutcome, Connection, EndpointHooks, Side, VarInt,
    WeakConnectionHandle,
};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use crate::desk::Desk;
use crate::gate::{Gate, Knock, Newcomer, Refusal, Slot};
use crate::origin::Origin;

/// The code a connection is closed with when there are too many.
const TOO_MANY: u32 = 10;
/// The code a connection is closed with when its device is shut out.
const SHUT_OUT: u32 = 11;

/// Decides which peers may have a connection. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    state: Arc<Mutex<State>>,
    desk: Desk,
    begun: Instant,
}

#[derive(Debug, Default)]
struct State {
    gate: Gate,
    handles: BTreeMap<Slot, WeakConnectionHandle>,
    /// Tells a handshake that it gives way.
    handshakes: BTreeMap<Slot, oneshot::Sender<()>>,
}

impl State {
    /// The connections of these slots, which are no longer counted.
    fn take(&mut self, slots: &[Slot]) -> Vec<Connection> {
        let handles = slots.iter().filter_map(|slot| self.handles.remove(slot));
        handles.filter_map(|handle| handle.upgrade()).collect()
    }
}

/// What the gate says to somebody who begins a handshake.
#[derive(Debug)]
pub(crate) enum Entry {
    /// It goes on.
    Enter(Pass),
    /// It must first show that it gets what is sent to its address.
    ProveAddress,
    /// There is no room.
    Refuse,
}

/// The place of a handshake that is under way; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    admission: Admission,
    slot: Slot,
    displaced: oneshot::Receiver<()>,
}

impl Pass {
    /// Returns when the handshake must give way to another. Cancel-safe.
    pub(crate) async fn displaced(&mut self) {
        // The sender goes away only with the place.
        let _ = (&mut self.displaced).await;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.gate.entered(self.slot);
        state.handshakes.remove(&self.slot);
    }
}

/// A device by its connection.
pub(crate) fn device_of(connection: &Connection) -> DeviceId {
    DeviceId(*connection.remote_id().as_bytes())
}

/// Where a connection comes from.
pub(crate) fn origin_of(connection: &Connection) -> Origin {
    let paths = connection.paths();
    let direct = paths.iter().find_map(|path| match path.remote_addr() {
        TransportAddr::Ip(address) => Some(Origin::ip(address.ip())),
        _ => None,
    });
    let relayed = || {
        paths.iter().find_map(|path| match path.remote_addr() {
            TransportAddr::Relay(url) => Some(Origin::Relay(url.to_string())),
            _ => None,
        })
    };
    direct.or_else(relayed).unwrap_or(Origin::Unknown)
}

impl Admission {
    pub(crate) fn new(desk: Desk) -> Self {
        Self {
            state: Arc::default(),
            desk,
            begun: Instant::now(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The counts are plain data; a panic elsewhere leaves them usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Shuts a device out for [`BAN_TIME`](crate::limits::BAN_TIME) and closes what it has open.
    pub(crate) fn ban(&self, device: DeviceId) {
        let open = {
            let mut state = self.state();
            let slots = state.gate.ban(self.now_ms(), device);
            slots.iter().for_each(|slot| state.gate.forget(*slot));
            state.take(&slots)
        };
        debug!(%device, "shut out for misbehaviour");
        for connection in open {
            connection.close(VarInt::from_u32(SHUT_OUT), b"shut out");
        }
    }

    /// Whether a device is shut out.
    pub(crate) fn is_banned(&self, device: DeviceId) -> bool {
        self.state().gate.is_banned(self.now_ms(), device)
    }

    /// Whether a device belongs to the household.
    pub(crate) fn is_member(&self, device: &DeviceId) -> bool {
        self.desk.is_member(device)
    }

    /// How many connections are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.state().gate.open_connections()
    }

    /// Where a device comes from, as far as it has a connection.
    pub(crate) fn origin_of(&self, device: DeviceId) -> Origin {
        self.state().gate.origin_of(device)
    }

    /// Looks which connections are used.
    pub(crate) fn sample(&self) {
        let handles: Vec<_> = {
            let state = self.state();
            let handles = state.handles.iter();
            handles
                .map(|(slot, handle)| (*slot, handle.clone()))
                .collect()
        };
        let now_ms = self.now_ms();
        for (slot, handle) in handles {
            // One that is gone is forgotten by its own task.
            if let Some(connection) = handle.upgrade() {
                let stats = connection.stats();
                let frames = stats.frame_rx.stream.wrapping_add(stats.frame_tx.stream);
                self.state().gate.note(now_ms, slot, frames);
            }
        }
    }

    /// Somebody begins a handshake.
    pub(crate) fn knock(&self, origin: &Origin, is_proven: bool) -> Entry {
        let now_ms = self.now_ms();
        let mut state = self.state();
        match state.gate.knock(now_ms, origin, is_proven) {
            Knock::ProveAddress => Entry::ProveAddress,
            Knock::Refuse => Entry::Refuse,
            Knock::Enter { slot, broken_off } => {
                let (tell, displaced) = oneshot::channel();
                if let Some(other) = broken_off.and_then(|slot| state.handshakes.remove(&slot)) {
                    // One that is just done does not listen any more.
                    let _ = other.send(());
                }
                state.handshakes.insert(slot, tell);
                let admission = self.clone();
                Entry::Enter(Pass {
                    admission,
                    slot,
                    displaced,
                })
            }
        }
    }

    fn admit(&self, connection: &Connection) -> Result<Slot, Refusal> {
        let newcomer = Newcomer {
            device: device_of(connection),
            origin: origin_of(connection),
            dialed: connection.side() == Side::Client,
        };
        let is_member = |device: &DeviceId| self.desk.is_member(device);
        let (slot, closed) = {
            let mut state = self.state();
            let admitted = state.gate.admit(self.now_ms(), newcomer, &is_member)?;
            state
                .handles
                .insert(admitted.slot, connection.weak_handle());
            (admitted.slot, state.take(&admitted.closed))
        };
        for connection in closed {
            connection.close(VarInt::from_u32(TOO_MANY), b"gives way to another");
        }
        Ok(slot)
    }

    fn forget(&self, slot: Slot) {
        let mut state = self.state();
        state.gate.forget(slot);
        state.handles.remove(&slot);
    }
}

impl EndpointHooks for Admission {
    async fn before_connect<'a>(
        &'a self,
        address: &'a EndpointAddr,
        _alpn: &'a [u8],
    ) -> BeforeConnectOutcome {
        if self.is_banned(DeviceId(*address.id.as_bytes())) {
            BeforeConnectOutcome::Reject
        } else {
            BeforeConnectOutcome::Accept
        }
    }

    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        let slot = match self.admit(connection) {
            Ok(slot) => slot,
            Err(refusal) => {
                let (code, reason): (u32, &[u8]) = match refusal {
                    Refusal::ShutOut => (SHUT_OUT, b"shut out"),
                    Refusal::TooMany => (TOO_MANY, b"too many connections"),
                };
                return AfterHandshakeOutcome::Reject {
                    error_code: VarInt::from_u32(code),
                    reason: reason.to_vec(),
                };
            }
        };
        let closed = connection.weak_handle().closed();
        let admission = self.clone();
        // Ends when the connection does, which its silence bounds.
        tokio::spawn(async move {
            closed.await;
            admission.forget(slot);
        });
        AfterHandshakeOutcome::accept()
    }
}
