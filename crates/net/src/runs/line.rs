//! One connection to another participant: the proofs, then messages in both directions.

use std::sync::Arc;

use hearth_causes::WithCauses;
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::DeviceId;
use iroh::EndpointAddr;
use iroh::endpoint::{Connection, ReadExactError, RecvStream, SendStream, VarInt};
use iroh::protocol::{AcceptError, ProtocolHandler};
use tokio::sync::Notify;
use tokio::time::{Duration, timeout};
use tracing::debug;

use super::RUN_ALPN;
use super::bus::{LinkEnd, Next};
use super::dialer::Ended;
use super::driver::Runs;
use super::link::LinkId;
use super::message::run_message_length;
use crate::admission::device_of;
use crate::answers::connect;
use crate::codec::LENGTH_BYTES;
use crate::limits::{FRAME_TIME_MAX, KEEP_ALIVE_INTERVAL, RUN_HELLO_TIME_MAX, SEND_STALL_MAX};
use crate::options::hash;

/// The code with which a device of another network is turned away.
const NOT_A_MEMBER: u32 = 50;
/// The code with which one too many is turned away.
const TOO_MANY: u32 = 51;
/// The code for a device that does not follow the protocol.
const MISBEHAVED: u32 = 52;
/// The code when another connection to the same device stays.
const DUPLICATE: u32 = 53;
/// The code when both take part in nothing together.
const NOTHING_SHARED: u32 = 54;
/// How many bytes of a message are made room for before they arrive.
const ROOM_BYTES: usize = 16 << 10;

const HELLO: &[u8] = b"hearth run hello";
const REPLY: &[u8] = b"hearth run reply";

fn proof(domain: &[u8], network: ContentHash, from: DeviceId, to: DeviceId) -> [u8; 32] {
    hash(domain, &[&network.0, &from.0, &to.0]).0
}

/// The handle of a connection. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Line {
    connection: Connection,
    wake: Arc<Notify>,
}

impl Line {
    pub(super) fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            wake: Arc::default(),
        }
    }

    pub(super) fn device(&self) -> DeviceId {
        device_of(&self.connection)
    }

    /// Something waits to be sent.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Closes it and says why.
    pub(super) fn close(&self, why: LinkEnd) {
        let code = match why {
            LinkEnd::Garbage | LinkEnd::Forged | LinkEnd::TooFast => MISBEHAVED,
            LinkEnd::Duplicate => DUPLICATE,
            LinkEnd::NothingShared => NOTHING_SHARED,
        };
        self.connection.close(VarInt::from_u32(code), b"");
    }
}

type Halves = (SendStream, RecvStream);

/// Dials a device, and talks to it until the connection ends.
pub(super) async fn dial(
    runs: &Runs,
    address: EndpointAddr,
    reached: impl FnOnce() + Send,
) -> Ended {
    let endpoint = &runs.hub.endpoint;
    let connected = connect(endpoint, address, RUN_ALPN, KEEP_ALIVE_INTERVAL).await;
    let connection = match connected {
        Ok(connection) => connection,
        Err(error) => {
            debug!(error = %error.with_causes(), "a participant was not reached");
            return Ended::Unreached;
        }
    };
    only_one_stream(&connection);
    let greeted = timeout(RUN_HELLO_TIME_MAX, greet(runs, &connection)).await;
    reached();
    let ended = match greeted {
        Ok(Some(halves)) => talk(runs, &connection, halves, true).await,
        _ => None,
    };
    connection.close(VarInt::from_u32(0), b"");
    ended.unwrap_or(Ended::Unreached)
}

fn only_one_stream(connection: &Connection) {
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(0));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(1));
}

/// Shows that this device belongs to the network, and has the other side show it.
async fn greet(runs: &Runs, connection: &Connection) -> Option<Halves> {
    let hub = &runs.hub;
    let peer = device_of(connection);
    let (mut send, mut recv) = connection.open_bi().await.ok()?;
    let hello = proof(HELLO, hub.topic, hub.own, peer);
    send.write_all(&hello).await.ok()?;
    let mut reply = [0; 32];
    recv.read_exact(&mut reply).await.ok()?;
    (reply == proof(REPLY, hub.topic, peer, hub.own)).then_some((send, recv))
}

/// The same from the side that was dialed.
async fn welcome(runs: &Runs, connection: &Connection) -> Result<Halves, u32> {
    let hub = &runs.hub;
    let peer = device_of(connection);
    let (mut send, mut recv) = connection.accept_bi().await.map_err(|_| MISBEHAVED)?;
    let mut hello = [0; 32];
    let read = recv.read_exact(&mut hello).await;
    read.map_err(|_| MISBEHAVED)?;
    if hello != proof(HELLO, hub.topic, peer, hub.own) {
        return Err(NOT_A_MEMBER);
    }
    let reply = proof(REPLY, hub.topic, hub.own, peer);
    send.write_all(&reply).await.map_err(|_| MISBEHAVED)?;
    Ok((send, recv))
}

/// Reads and writes until the connection ends; nothing when there are too many.
async fn talk(
    runs: &Runs,
    connection: &Connection,
    (send, recv): Halves,
    dialed: bool,
) -> Option<Ended> {
    let (up, line) = runs.up(connection, dialed)?;
    let link = up.link;
    tokio::select! {
        () = read(runs, &line, link, recv, dialed) => {}
        () = write(runs, &line, link, send) => {}
        _ = connection.closed() => {}
    }
    let shares_nothing = runs.with(|bus, _, _| bus.shares_nothing(link));
    Some(if shares_nothing {
        Ended::NothingShared
    } else {
        Ended::Broken
    })
}

async fn read(runs: &Runs, line: &Line, link: LinkId, mut recv: RecvStream, dialed: bool) {
    let mut message = Vec::new();
    loop {
        let mut length = [0; LENGTH_BYTES];
        if recv.read_exact(&mut length).await.is_err() {
            return;
        }
        let Ok(length) = run_message_length(length) else {
            runs.close_link(link, LinkEnd::Garbage);
            return;
        };
        let filled = timeout(FRAME_TIME_MAX, fill(&mut recv, &mut message, length)).await;
        if !matches!(filled, Ok(Ok(()))) {
            return;
        }
        let shares_nothing = runs.with(|bus, now, out| {
            bus.received(now, link, &message, out);
            bus.shares_nothing(link)
        });
        // Who asked has its answer; the other side may be asked about more.
        if dialed && shares_nothing {
            line.close(LinkEnd::NothingShared);
            return;
        }
    }
}

/// Reads a message. Memory is taken as it arrives, not as its length announces.
async fn fill(
    recv: &mut RecvStream,
    message: &mut Vec<u8>,
    length: usize,
) -> Result<(), ReadExactError> {
    message.clear();
    while message.len() < length {
        let begin = message.len();
        message.resize(length.min(begin + ROOM_BYTES), 0);
        recv.read_exact(&mut message[begin..]).await?;
    }
    Ok(())
}

async fn write(runs: &Runs, line: &Line, link: LinkId, mut send: SendStream) {
    loop {
        match runs.with(|bus, now, _| bus.next_frame(now, link)) {
            Next::Frame(frame) => {
                let sent = timeout(SEND_STALL_MAX, send.write_all(&frame)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
            Next::Wait(wait_ms) => {
                let wait = Duration::from_millis(wait_ms);
                runs.hub.environment().sleep(wait).await;
            }
            Next::Nothing => line.wake.notified().await,
        }
    }
}

/// Takes the connections that others begin.
#[derive(Debug, Clone)]
pub(crate) struct RunProtocol {
    runs: Arc<Runs>,
}

impl RunProtocol {
    pub(crate) fn new(runs: Arc<Runs>) -> Self {
        Self { runs }
    }
}

impl ProtocolHandler for RunProtocol {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        only_one_stream(&connection);
        let welcomed = timeout(RUN_HELLO_TIME_MAX, welcome(&self.runs, &connection)).await;
        let code = match welcomed {
            Ok(Ok(halves)) => match talk(&self.runs, &connection, halves, false).await {
                Some(_) => 0,
                None => TOO_MANY,
            },
            Ok(Err(code)) => code,
            Err(_) => TOO_MANY,
        };
        connection.close(VarInt::from_u32(code), b"");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proofs_are_those_of_another_implementation() {
        let vectors = include_str!("../../../../vectors/notices.json");
        let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
        let fixed = |value: &serde_json::Value| -> [u8; 32] {
            let digits = value.as_str().unwrap().strip_prefix("0x").unwrap();
            let bytes = data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap();
            bytes.try_into().unwrap()
        };
        let device = |n: usize| DeviceId(fixed(&vectors["keys"][n]["device"]));
        let network = ContentHash(fixed(&vectors["network"]));
        assert_eq!(network, crate::Membership::default().topic());
        let hello = proof(HELLO, network, device(0), device(1));
        assert_eq!(hello, fixed(&vectors["hello"]));
        let reply = proof(REPLY, network, device(1), device(0));
        assert_eq!(reply, fixed(&vectors["reply"]));
    }
}
