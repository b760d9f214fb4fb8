//! Who may have a connection: at most so many in total and per device, and none for a while after
//! misbehaviour.
//!
//! It is a hook of the endpoint, so it sees every connection, whichever protocol it speaks and
//! whichever side began it. It holds no connection open: it counts them by weak handles.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_protocol::offer::DeviceId;
use iroh::EndpointAddr;
use iroh::endpoint::{
    AfterHandshakeOutcome, BeforeConnectOutcome, Connection, EndpointHooks, VarInt,
    WeakConnectionHandle,
};
use tokio::time::Instant;
use tracing::debug;

use crate::limits::{BAN_TIME, BANNED_MAX, CONNECTIONS_MAX, DEVICE_CONNECTIONS_MAX};

/// The code a connection is closed with when there are too many.
const TOO_MANY: u32 = 10;
/// The code a connection is closed with when its device is shut out.
const SHUT_OUT: u32 = 11;

/// The gate. Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Admission {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<DeviceId, Vec<WeakConnectionHandle>>,
    total: usize,
    banned: BTreeMap<DeviceId, Instant>,
    /// The same devices in the order in which they were shut out.
    order: VecDeque<DeviceId>,
}

impl State {
    fn is_banned(&self, device: DeviceId, now: Instant) -> bool {
        self.banned.get(&device).is_some_and(|until| *until > now)
    }
}

/// A device by its connection.
pub(crate) fn device_of(connection: &Connection) -> DeviceId {
    DeviceId(*connection.remote_id().as_bytes())
}

impl Admission {
    fn state(&self) -> MutexGuard<'_, State> {
        // The counts are plain data; a panic elsewhere leaves them usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shuts a device out for [`BAN_TIME`] and closes what it has open.
    pub(crate) fn ban(&self, device: DeviceId) {
        let open = {
            let mut state = self.state();
            if state
                .banned
                .insert(device, Instant::now() + BAN_TIME)
                .is_none()
            {
                state.order.push_back(device);
            }
            if state.order.len() > BANNED_MAX
                && let Some(first) = state.order.pop_front()
            {
                state.banned.remove(&first);
            }
            state.open.get(&device).cloned().unwrap_or_default()
        };
        debug!(%device, "shut out for misbehaviour");
        for connection in open.iter().filter_map(WeakConnectionHandle::upgrade) {
            connection.close(VarInt::from_u32(SHUT_OUT), b"shut out");
        }
    }

    /// Whether a device is shut out.
    pub(crate) fn is_banned(&self, device: DeviceId) -> bool {
        self.state().is_banned(device, Instant::now())
    }

    /// How many connections are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.state().total
    }

    fn admit(&self, connection: &Connection) -> Result<(), (u32, &'static [u8])> {
        let device = device_of(connection);
        let mut state = self.state();
        if state.is_banned(device, Instant::now()) {
            return Err((SHUT_OUT, b"shut out"));
        }
        let of_device = state.open.get(&device).map_or(0, Vec::len);
        if state.total >= CONNECTIONS_MAX || of_device >= DEVICE_CONNECTIONS_MAX {
            return Err((TOO_MANY, b"too many connections"));
        }
        state.total += 1;
        let handle = connection.weak_handle();
        state.open.entry(device).or_default().push(handle);
        Ok(())
    }

    fn forget(&self, device: DeviceId) {
        let mut state = self.state();
        let Some(handles) = state.open.get_mut(&device) else {
            return;
        };
        let before = handles.len();
        handles.retain(|handle| {
            handle
                .upgrade()
                .is_some_and(|connection| connection.close_reason().is_none())
        });
        let gone = before - handles.len();
        let empty = handles.is_empty();
        state.total -= gone;
        if empty {
            state.open.remove(&device);
        }
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
        if let Err((code, reason)) = self.admit(connection) {
            return AfterHandshakeOutcome::Reject {
                error_code: VarInt::from_u32(code),
                reason: reason.to_vec(),
            };
        }
        let device = device_of(connection);
        let closed = connection.weak_handle().closed();
        let admission = self.clone();
        // Ends when the connection does, which its silence bounds.
        tokio::spawn(async move {
            closed.await;
            admission.forget(device);
        });
        AfterHandshakeOutcome::accept()
    }
}
