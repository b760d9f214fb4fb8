//! Chains that other devices run: requests and replies, and peers of either side that do not follow the protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use hearth_net::limits::{
    CHAIN_DEVICE_REQUESTS_MAX, CHAIN_REPLY_BYTES_MAX, CHAIN_REQUEST_BYTES_MAX,
};
use hearth_net::{AnswersChain, CHAIN_ALPN, ChainAskError, PeerAddress};
use hearth_protocol::offer::DeviceId;
use iroh::Endpoint;
use iroh::endpoint::{Connection, VarInt};
use tokio::sync::Semaphore;

use super::hostile::{address, raw};
use super::{Device, soon};

/// Answers with what it was asked, behind the first bytes of the device that asks.
struct Echo;

impl AnswersChain for Echo {
    fn answer(&self, device: DeviceId, _: bool, request: Vec<u8>) -> BoxFuture<'_, Vec<u8>> {
        Box::pin(async move { [&device.0[..4], &request].concat() })
    }
}

/// Answers when it is let, and counts how many wait.
struct Slow {
    waiting: AtomicUsize,
    most: AtomicUsize,
    go: Semaphore,
}

impl AnswersChain for Slow {
    fn answer(&self, _: DeviceId, _: bool, request: Vec<u8>) -> BoxFuture<'_, Vec<u8>> {
        Box::pin(async move {
            let waiting = self.waiting.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(waiting, Ordering::SeqCst);
            drop(self.go.acquire().await);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            request
        })
    }
}

/// Answers with so many bytes.
struct Long(usize);

impl AnswersChain for Long {
    fn answer(&self, _: DeviceId, _: bool, _: Vec<u8>) -> BoxFuture<'_, Vec<u8>> {
        Box::pin(async move { vec![b' '; self.0] })
    }
}

async fn ask(guest: &Device, host: &Device, request: &[u8]) -> Result<Vec<u8>, ChainAskError> {
    let hint = host.network.address();
    soon("a reply", guest.network.ask_chain(&hint, request)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_answers_each_device_on_one_connection_and_one_without_a_chain_says_so() {
    let (host, guest) = (Device::new(120).await, Device::new(121).await);
    assert_eq!(
        ask(&guest, &host, b"who?").await,
        Err(ChainAskError::NoChain)
    );
    host.network.answer_chain(Arc::new(Echo));
    let own = guest.network.device().0;
    for request in [b"one".as_slice(), b"", &[7; 300_000]] {
        let reply = ask(&guest, &host, request).await.unwrap();
        assert_eq!(reply, [&own[..4], request].concat());
    }
    let before = host.network.open_connections();
    let (first, second) = tokio::join!(ask(&guest, &host, b"a"), ask(&guest, &host, b"b"));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(host.network.open_connections(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_restarts_is_found_again() {
    let guest = Device::new(122).await;
    let host = Device::new(123).await;
    host.network.answer_chain(Arc::new(Echo));
    assert!(ask(&guest, &host, b"before").await.is_ok());
    soon("the end", host.network.shutdown()).await;
    let again = Device::new(123).await;
    again.network.answer_chain(Arc::new(Echo));
    // The first request may still go out on the old connection.
    let mut tries = 0;
    while ask(&guest, &again, b"after").await.is_err() {
        tries += 1;
        assert!(tries < 5, "it is not found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_is_refused_on_either_side() {
    let (host, guest) = (Device::new(124).await, Device::new(125).await);
    host.network
        .answer_chain(Arc::new(Long(CHAIN_REPLY_BYTES_MAX + 1)));
    let long = vec![b' '; CHAIN_REQUEST_BYTES_MAX + 1];
    assert_eq!(ask(&guest, &host, &long).await, Err(ChainAskError::TooLong));
    assert_eq!(ask(&guest, &host, b"x").await, Err(ChainAskError::TooLong));
    let fits = Device::new(126).await;
    fits.network
        .answer_chain(Arc::new(Long(CHAIN_REPLY_BYTES_MAX)));
    let reply = ask(&guest, &fits, b"x").await.unwrap();
    assert_eq!(reply.len(), CHAIN_REPLY_BYTES_MAX);
}

/// Sends bytes on a stream of their own, and returns the code with which it is reset.
async fn code_for(connection: &Connection, bytes: &[u8]) -> Option<VarInt> {
    let (mut to, mut from) = soon("a stream", connection.open_bi()).await.unwrap();
    // The other side may have stopped it before all is sent.
    let _ = to.write_all(bytes).await;
    let _ = to.finish();
    match soon("an end", from.read(&mut [0; 8])).await {
        Err(iroh::endpoint::ReadError::Reset(code)) => Some(code),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_none_are_reset_and_honest_ones_are_answered_beside_them() {
    let (host, guest) = (Device::new(127).await, Device::new(128).await);
    host.network.answer_chain(Arc::new(Echo));
    let peer: Endpoint = raw(129).await;
    let connecting = peer.connect(address(&host), CHAIN_ALPN);
    let connection = soon("a connection", connecting).await.unwrap();
    let over = u32::try_from(CHAIN_REQUEST_BYTES_MAX + 1).unwrap();
    for bytes in [
        over.to_le_bytes().to_vec(),
        vec![0xff; 64],
        vec![9, 0, 0],
        [9_u32.to_le_bytes().as_slice(), b"short"].concat(),
    ] {
        assert_eq!(
            code_for(&connection, &bytes).await,
            Some(VarInt::from_u32(42))
        );
    }
    assert!(ask(&guest, &host, b"honest").await.is_ok());
    // The connection that misbehaved is bounded, not lost: an honest request on it is answered.
    let (mut to, mut from) = connection.open_bi().await.unwrap();
    to.write_all(&[2, 0, 0, 0, b'o', b'k']).await.unwrap();
    let reply = soon("a reply", from.read_to_end(64)).await;
    assert!(reply.unwrap().ends_with(b"ok"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_device_has_some_places_and_another_is_answered() {
    let (host, guest) = (Device::new(130).await, Device::new(131).await);
    let slow = Arc::new(Slow {
        waiting: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        go: Semaphore::new(0),
    });
    host.network.answer_chain(Arc::<Slow>::clone(&slow));
    let peer = raw(132).await;
    let mut held = Vec::new();
    // Two connections have twice as many streams as one device has places.
    for _ in 0..2 {
        let connecting = peer.connect(address(&host), CHAIN_ALPN);
        let connection = soon("a connection", connecting).await.unwrap();
        for _ in 0..CHAIN_DEVICE_REQUESTS_MAX {
            let (mut to, from) = soon("a stream", connection.open_bi()).await.unwrap();
            to.write_all(&[1, 0, 0, 0, b'x']).await.unwrap();
            held.push((connection.clone(), to, from));
        }
    }
    let hint: PeerAddress = host.network.address();
    let honest = guest.network.ask_chain(&hint, b"honest");
    let let_go = async {
        while slow.waiting.load(Ordering::SeqCst) <= CHAIN_DEVICE_REQUESTS_MAX {
            tokio::task::yield_now().await;
        }
        slow.go.add_permits(1_000);
    };
    let (reply, ()) = soon("a reply", async { tokio::join!(honest, let_go) }).await;
    assert_eq!(reply.unwrap(), b"honest");
    let most = slow.most.load(Ordering::SeqCst);
    assert_eq!(
        most,
        CHAIN_DEVICE_REQUESTS_MAX + 1,
        "the flood's and the honest one"
    );
}
