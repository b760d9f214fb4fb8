//! What devices of a household ask each other about it (ALPN `hearth/household/1`).
//!
//! ```text
//! asks                          answers
//! length, HouseholdAsk   ---->
//!                        <----  length, HouseholdReply
//! ```
//! A length is a little-endian `u32`, a message is postcard, and a connection carries one question.
//! Both sides know with whom they speak, because the connection is authenticated by the endpoint
//! keys. Anybody may ask; what is answered is for the node to say, which is given the question by
//! [`AnswersHousehold`](crate::AnswersHousehold). What the bytes are is in [`message`]. Implements section 4 of the
//! household's specification.

mod message;
mod seats;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_causes::WithCauses;
use hearth_protocol::household::{HouseholdAsk, HouseholdReply, MESSAGE_BYTES_MAX};
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt, WeakConnectionHandle};
use iroh::protocol::{AcceptError, ProtocolHandler};
use iroh::{Endpoint, EndpointAddr};
use thiserror::Error;
use tokio::time::{Instant, timeout};

use crate::admission::{device_of, origin_of};
use crate::answers::{ConnectError, connect};
use crate::codec::LENGTH_BYTES;
use crate::desk::Desk;
use crate::limits::{HOUSEHOLD_QUESTION_TIME_MAX, HOUSEHOLD_TIME_MAX, KEEP_ALIVE_INTERVAL};
use seats::{Guest, Seat, Seats};

pub use message::{
    HouseholdMessage, HouseholdMessageError, decode_household, encode_household, household_length,
};

/// The protocol's name on the wire.
pub const HOUSEHOLD_ALPN: &[u8] = b"hearth/household/1";
/// The code with which one too many is turned away.
const TOO_MANY: u32 = 31;
/// The code with which a question that is none is turned away.
const GARBAGE: u32 = 32;

/// Why a device gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HouseholdAskError {
    /// It cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It broke off, or took too long.
    #[error("the device broke off: {0}")]
    BrokenOff(String),
    /// It sent what no honest device sends.
    #[error("the device sent garbage")]
    Garbage,
    /// The question is longer than it may be.
    #[error("the question is longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
}

impl HouseholdAskError {
    /// Whether it may be worth to try again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_retryable(),
            Self::BrokenOff(_) => true,
            Self::Garbage | Self::TooLong => false,
        }
    }
}

fn broken(error: impl std::error::Error) -> HouseholdAskError {
    HouseholdAskError::BrokenOff(error.with_causes().to_string())
}

async fn send<M: HouseholdMessage>(
    to: &mut SendStream,
    message: &M,
) -> Result<(), HouseholdAskError> {
    let bytes = encode_household(message).map_err(|_| HouseholdAskError::TooLong)?;
    to.write_all(&bytes).await.map_err(broken)?;
    to.finish().map_err(broken)
}

async fn receive<M: HouseholdMessage>(from: &mut RecvStream) -> Result<M, HouseholdAskError> {
    let mut length = [0; LENGTH_BYTES];
    from.read_exact(&mut length).await.map_err(broken)?;
    let length = household_length(length).map_err(|_| HouseholdAskError::Garbage)?;
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await.map_err(broken)?;
    decode_household(&bytes).map_err(|_| HouseholdAskError::Garbage)
}

/// Asks the device at `address`.
pub(crate) async fn ask(
    endpoint: &Endpoint,
    address: EndpointAddr,
    question: &HouseholdAsk,
) -> Result<HouseholdReply, HouseholdAskError> {
    let connection = connect(endpoint, address, HOUSEHOLD_ALPN, KEEP_ALIVE_INTERVAL).await?;
    let asked = timeout(HOUSEHOLD_TIME_MAX, async {
        let (mut to, mut from) = connection.open_bi().await.map_err(broken)?;
        send(&mut to, question).await?;
        receive::<HouseholdReply>(&mut from).await
    });
    let reply = asked
        .await
        .unwrap_or_else(|_| Err(HouseholdAskError::BrokenOff("it took too long".to_owned())));
    connection.close(VarInt::from_u32(0), b"done");
    reply
}

/// The devices that are being answered, and on what connections, so that one that keeps others waiting is let go.
#[derive(Debug, Default)]
struct Taken {
    seats: Seats,
    connections: BTreeMap<Seat, WeakConnectionHandle>,
}

/// Answers those who ask, once the node said how.
#[derive(Debug, Clone)]
pub(crate) struct HouseholdProtocol {
    desk: Desk,
    taken: Arc<Mutex<Taken>>,
    begun: Instant,
}

/// A place among those who are answered; given back when it is dropped.
struct Held<'a> {
    protocol: &'a HouseholdProtocol,
    seat: Seat,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut taken = self.protocol.taken();
        taken.seats.leave(self.seat);
        taken.connections.remove(&self.seat);
    }
}

impl HouseholdProtocol {
    pub(crate) fn new(desk: Desk) -> Self {
        Self {
            desk,
            taken: Arc::default(),
            begun: Instant::now(),
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Both are plain data; a panic elsewhere leaves them usable.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a place to who asks; one that keeps others waiting gives way.
    fn sit(&self, connection: &Connection) -> Option<Held<'_>> {
        let device = device_of(connection);
        let guest = Guest {
            device,
            site: origin_of(connection).site(),
            is_member: self.desk.is_member(&device),
        };
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (seat, left) = {
            let mut taken = self.taken();
            let sat = taken.seats.sit(now_ms, guest)?;
            let handle = connection.weak_handle();
            taken.connections.insert(sat.seat, handle);
            let left = sat.left.and_then(|seat| taken.connections.remove(&seat));
            (sat.seat, left)
        };
        if let Some(other) = left.and_then(|handle| handle.upgrade()) {
            other.close(VarInt::from_u32(TOO_MANY), b"");
        }
        Some(Held {
            protocol: self,
            seat,
        })
    }

    async fn serve(&self, connection: &Connection) -> Result<(), u32> {
        let held = self.sit(connection).ok_or(TOO_MANY)?;
        let desk = self.desk.get().ok_or(TOO_MANY)?;
        let question = timeout(HOUSEHOLD_QUESTION_TIME_MAX, async {
            let (to, mut from) = connection.accept_bi().await.map_err(|_| GARBAGE)?;
            let question: HouseholdAsk = receive(&mut from).await.map_err(|_| GARBAGE)?;
            Ok((to, question))
        });
        let (mut to, question) = question.await.unwrap_or(Err(TOO_MANY))?;
        let reply = desk.answer(device_of(connection), question).await;
        // A device that does not read its answer keeps nobody else waiting.
        drop(held);
        send(&mut to, &reply).await.map_err(|_| GARBAGE)?;
        // The asker closes the connection when it has read the answer.
        connection.closed().await;
        Ok(())
    }
}

impl ProtocolHandler for HouseholdProtocol {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(0));
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(1));
        let served = timeout(HOUSEHOLD_TIME_MAX, self.serve(&connection)).await;
        let code = match served {
            Ok(Ok(())) => 0,
            Ok(Err(code)) => code,
            Err(_) => TOO_MANY,
        };
        connection.close(VarInt::from_u32(code), b"");
        Ok(())
    }
}
