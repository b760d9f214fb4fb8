//! Asking one peer for all the offers it knows (ALPN `hearth/offers/1`).
//!
//! ```text
//! asks                                   answers
//! proof(hello, asks, answers)   ---->
//!                               <----    proof(reply, answers, asks)
//!                               <----    (length as little-endian u32, announcement)*, end
//! ```
//! A proof is BLAKE3 over a domain, the network's topic and the ids of both sides, which the
//! connection authenticates. Only who knows the topic can make it, and it is of no use to others.
//! So a device learns that a peer belongs to its network before it tells gossip about it, and the
//! topic of a private network is never shown to a stranger.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hearth_causes::WithCauses;
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::time::Timestamp;
use iroh::TransportAddr;
use iroh::endpoint::{Connection, RecvStream, VarInt};
use iroh::protocol::{AcceptError, ProtocolHandler};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::bucket::Bucket;
use super::driver::Hub;
use crate::admission::device_of;
use crate::answers::{ConnectError, connect};
use crate::codec::ANNOUNCEMENT_BYTES_MAX;
use crate::dialing::Teller;
use crate::limits::{
    EXCHANGE_BYTES_MAX, EXCHANGE_TIME_MAX, EXCHANGES_MAX, KEEP_ALIVE_INTERVAL, NEIGHBOURS_MAX,
    OFFERS_MAX, STRANGER_ADDRESSES_MAX,
};
use crate::options::hash;
use crate::peers::PeerAddress;

/// The protocol's name on the wire.
pub const OFFERS_ALPN: &[u8] = b"hearth/offers/1";
/// Exchanges that one device may ask for at once.
const EXCHANGE_BURST: u32 = 6;
/// Exchanges that one device may ask for after that, in thousandths a second.
const EXCHANGES_MILLI_PER_S: u64 = 500;
/// The code with which a stranger is turned away.
const NOT_A_MEMBER: u32 = 20;
/// The code with which one too many is turned away.
const TOO_OFTEN: u32 = 21;

/// Why a peer told nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// It cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It does not belong to this network.
    #[error("the device does not belong to this network: ask for a ticket of the same network")]
    NotAMember,
    /// It broke off, or took too long.
    #[error("the device broke off: {0}")]
    BrokenOff(String),
    /// It sent what no honest peer sends.
    #[error("the device sent garbage")]
    Garbage,
}

fn proof(domain: &[u8], topic: ContentHash, from: DeviceId, to: DeviceId) -> [u8; 32] {
    hash(domain, &[&topic.0, &from.0, &to.0]).0
}

const HELLO: &[u8] = b"hearth offers hello";
const REPLY: &[u8] = b"hearth offers reply";

/// Asks a peer for its offers and takes them in. Afterwards it is known to be a member. Returns
/// where it is: where `teller` says, and where it was reached.
pub(crate) async fn ask(
    hub: &Hub,
    address: &PeerAddress,
    teller: Teller,
) -> Result<PeerAddress, ExchangeError> {
    let unknown = ConnectError::NoDevice(address.device);
    let mut found = hub.dialing.permitted(address.clone(), teller);
    let dialed = found.to_iroh().ok_or(unknown)?;
    let connection = connect(&hub.endpoint, dialed, OFFERS_ALPN, KEEP_ALIVE_INTERVAL).await?;
    let result = timeout(EXCHANGE_TIME_MAX, receive(hub, &connection)).await;
    for path in connection.paths().iter() {
        if let TransportAddr::Ip(reached) = path.remote_addr()
            && !found.direct.contains(reached)
            && found.direct.len() < STRANGER_ADDRESSES_MAX
        {
            found.direct.push(*reached);
        }
    }
    connection.close(VarInt::from_u32(0), b"done");
    let cut = |_| Err(ExchangeError::BrokenOff("it took too long".to_owned()));
    result.unwrap_or_else(cut).map(|()| found)
}

async fn receive(hub: &Hub, connection: &Connection) -> Result<(), ExchangeError> {
    let peer = device_of(connection);
    let broken =
        |error: &dyn std::error::Error| ExchangeError::BrokenOff(error.with_causes().to_string());
    let (mut send, mut recv) = connection.open_bi().await.map_err(|e| broken(&e))?;
    let hello = proof(HELLO, hub.topic, hub.own, peer);
    send.write_all(&hello).await.map_err(|e| broken(&e))?;
    // Fails only when the stream is closed already; then reading says so.
    let _ = send.finish();
    let mut reply = [0; 32];
    if recv.read_exact(&mut reply).await.is_err() {
        return Err(refusal(connection));
    }
    if reply != proof(REPLY, hub.topic, peer, hub.own) {
        return Err(ExchangeError::NotAMember);
    }
    let mut total = 0;
    for _ in 0..OFFERS_MAX {
        let Some(bytes) = announcement(&mut recv).await? else {
            return Ok(());
        };
        total += bytes.len();
        if total > EXCHANGE_BYTES_MAX {
            return Err(ExchangeError::Garbage);
        }
        hub.delivered(peer, &bytes);
    }
    Ok(())
}

/// Why the peer did not reply.
fn refusal(connection: &Connection) -> ExchangeError {
    use iroh::endpoint::ConnectionError;
    match connection.close_reason() {
        Some(ConnectionError::ApplicationClosed(close))
            if close.error_code == VarInt::from_u32(NOT_A_MEMBER) =>
        {
            ExchangeError::NotAMember
        }
        Some(error) => ExchangeError::BrokenOff(error.with_causes().to_string()),
        None => ExchangeError::BrokenOff("it ended the stream".to_owned()),
    }
}

/// The next announcement; nothing at the end of the list.
async fn announcement(recv: &mut RecvStream) -> Result<Option<Vec<u8>>, ExchangeError> {
    let mut length = [0; 4];
    let Some(read) = read(recv, &mut length[..1]).await? else {
        return Ok(None);
    };
    debug_assert_eq!(read, 1);
    let cut = |_| ExchangeError::BrokenOff("the list was cut off".to_owned());
    recv.read_exact(&mut length[1..]).await.map_err(cut)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > ANNOUNCEMENT_BYTES_MAX {
        return Err(ExchangeError::Garbage);
    }
    let mut bytes = vec![0; length];
    recv.read_exact(&mut bytes).await.map_err(cut)?;
    Ok(Some(bytes))
}

async fn read(recv: &mut RecvStream, bytes: &mut [u8]) -> Result<Option<usize>, ExchangeError> {
    let broken = |e: iroh::endpoint::ReadError| ExchangeError::BrokenOff(e.to_string());
    recv.read(bytes).await.map_err(broken)
}

/// Answers those who ask.
#[derive(Debug, Clone)]
pub(crate) struct ExchangeProtocol {
    hub: Arc<Hub>,
    at_once: Arc<Semaphore>,
    askers: Arc<Mutex<BTreeMap<DeviceId, Bucket>>>,
}

impl ExchangeProtocol {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            at_once: Arc::new(Semaphore::new(EXCHANGES_MAX)),
            askers: Arc::default(),
        }
    }

    fn may_ask(&self, now: Timestamp, device: DeviceId) -> bool {
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        if askers.len() >= NEIGHBOURS_MAX && !askers.contains_key(&device) {
            // Those who asked too often get a new chance; the bound is what matters.
            askers.clear();
        }
        let full = || Bucket::new(now, EXCHANGE_BURST, EXCHANGES_MILLI_PER_S);
        askers.entry(device).or_insert_with(full).take(now)
    }

    async fn answer(&self, connection: &Connection) -> Result<(), u32> {
        let hub = &self.hub;
        let peer = device_of(connection);
        if !self.may_ask(hub.now(), peer) {
            return Err(TOO_OFTEN);
        }
        let _permit = self.at_once.try_acquire().map_err(|_| TOO_OFTEN)?;
        let (mut send, mut recv) = connection.accept_bi().await.map_err(|_| 0u32)?;
        let mut hello = [0; 32];
        recv.read_exact(&mut hello).await.map_err(|_| 0u32)?;
        if hello != proof(HELLO, hub.topic, peer, hub.own) {
            return Err(NOT_A_MEMBER);
        }
        let reply = proof(REPLY, hub.topic, hub.own, peer);
        send.write_all(&reply).await.map_err(|_| 0u32)?;
        for bytes in hub.announcements() {
            let length = u32::try_from(bytes.len()).map_err(|_| 0u32)?;
            send.write_all(&length.to_le_bytes())
                .await
                .map_err(|_| 0u32)?;
            send.write_all(&bytes).await.map_err(|_| 0u32)?;
        }
        send.finish().map_err(|_| 0u32)?;
        // The peer closes the connection when it has everything.
        connection.closed().await;
        Ok(())
    }
}

impl ProtocolHandler for ExchangeProtocol {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(0));
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(1));
        let answered = timeout(EXCHANGE_TIME_MAX, self.answer(&connection)).await;
        let code = match answered {
            Ok(Ok(())) => 0,
            Ok(Err(code)) => code,
            Err(_) => TOO_OFTEN,
        };
        connection.close(VarInt::from_u32(code), b"");
        Ok(())
    }
}
