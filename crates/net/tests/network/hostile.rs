//! Peers that do not follow the protocol: what they send is told apart, and costs bounded memory.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::select_all;
use hearth_net::codec::FrameError;
use hearth_net::limits::{CONNECTIONS_MAX, DEVICE_CONNECTIONS_MAX};
use hearth_net::{
    ANSWER_ALPN, ConnectError, EndReason, Membership, Patience, ProviderStream, RecvError,
    SendError,
};
use hearth_protocol::answer::frame::FRAME_BYTES_MAX;
use hearth_protocol::answer::{PayerFrame, ProviderFrame};
use hearth_protocol::offer::DeviceId;
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt, presets};
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, PublicKey, SecretKey, TransportAddr};
use iroh_gossip::TopicId;
use iroh_gossip::api::Event as GossipEvent;
use iroh_gossip::net::{GOSSIP_ALPN, Gossip};

use super::{Device, offer, soon};

/// Waits that a test can bear.
fn impatient() -> Patience {
    Patience {
        frame: Duration::from_millis(300),
        silence: Duration::from_millis(600),
        stall: Duration::from_millis(300),
    }
}

/// An endpoint that speaks QUIC and nothing else.
pub(super) async fn raw(seed: u8) -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&[seed; 32]))
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .unwrap()
        .bind()
        .await
        .unwrap()
}

pub(super) fn address(device: &Device) -> EndpointAddr {
    let address = device.network.address();
    let id = PublicKey::from_bytes(&address.device.0).unwrap();
    EndpointAddr::from_parts(id, address.direct.into_iter().map(TransportAddr::Ip))
}

/// A stream of raw bytes to a device, and the device's end of it.
async fn stream(
    peer: &Endpoint,
    device: &mut Device,
    first: &[u8],
) -> (Connection, SendStream, RecvStream, ProviderStream) {
    let connected = peer.connect(address(device), ANSWER_ALPN);
    let connection = soon("the connection", connected).await.unwrap();
    let (mut send, recv) = connection.open_bi().await.unwrap();
    send.write_all(first).await.unwrap();
    let arrived = soon("the stream", device.incoming.next()).await.unwrap();
    (connection, send, recv, arrived.stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_told_with_its_evidence() {
    let peer = raw(100).await;
    let mut device = Device::new(101).await;
    let over = u32::try_from(FRAME_BYTES_MAX + 1).unwrap();
    let frame = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let cases: [(Vec<u8>, FrameError); 4] = [
        (vec![0xff; 8], FrameError::Length(u32::MAX)),
        (over.to_le_bytes().to_vec(), FrameError::Length(over)),
        (vec![0; 4], FrameError::Length(0)),
        (frame(&[2, 2]), FrameError::Trailing(1)),
    ];
    for (sent, expected) in cases {
        let (connection, _send, mut recv, mut stream) = stream(&peer, &mut device, &sent).await;
        let error = soon("the error", stream.recv()).await.unwrap_err();
        assert!(error.is_misbehaviour() && !error.is_retryable());
        match &error {
            RecvError::Garbage { error, evidence } => {
                assert_eq!(*error, expected);
                assert!(!evidence.is_empty() && evidence.len() <= 64);
            }
            other => panic!("{sent:?}: {other:?}"),
        }
        let again = soon("the same error", stream.recv()).await.unwrap_err();
        assert_eq!(again, error);
        drop(stream);
        // The peer is told that nothing more comes.
        let ended = soon("the end", recv.read(&mut [0; 1])).await;
        assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
        connection.close(VarInt::from_u32(0), b"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_never_ends_is_given_up() {
    let peer = raw(102).await;
    let mut device = Device::with(103, |options| options.patience = impatient()).await;
    let mut begun = u32::try_from(FRAME_BYTES_MAX)
        .unwrap()
        .to_le_bytes()
        .to_vec();
    begun.extend([0; 100]);
    let (_connection, _send, _recv, mut stream) = stream(&peer, &mut device, &begun).await;
    let error = soon("the end of patience", stream.recv())
        .await
        .unwrap_err();
    assert_eq!(error, RecvError::Slow);
    assert!(error.is_misbehaviour());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_and_breaks_are_nobodys_fault() {
    let peer = raw(104).await;
    let mut device = Device::with(105, |options| options.patience = impatient()).await;
    let cancel = hearth_net::codec::encode(&PayerFrame::Cancel).unwrap();

    let (_connection, _send, _recv, mut silent) = stream(&peer, &mut device, &cancel).await;
    assert_eq!(silent.recv().await.unwrap(), Some(PayerFrame::Cancel));
    let error = soon("the end of patience", silent.recv())
        .await
        .unwrap_err();
    assert_eq!(error, RecvError::Silent);

    let (_connection, mut send, _recv, mut reset) = stream(&peer, &mut device, &[9, 0]).await;
    send.reset(VarInt::from_u32(7)).unwrap();
    let error = soon("the reset", reset.recv()).await.unwrap_err();
    assert_eq!(error, RecvError::Ended(EndReason::Other(7)));

    let (_connection, mut send, _recv, mut cut) = stream(&peer, &mut device, &[9, 0]).await;
    send.finish().unwrap();
    let error = soon("the cut", cut.recv()).await.unwrap_err();
    assert_eq!(error, RecvError::Truncated);

    let (connection, _send, _recv, mut gone) = stream(&peer, &mut device, &[9, 0]).await;
    connection.close(VarInt::from_u32(0), b"");
    let error = soon("the break", gone.recv()).await.unwrap_err();
    assert!(matches!(error, RecvError::Broken(_)), "{error:?}");
    assert!(error.is_retryable());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_holds_up_nobody_for_ever() {
    let peer = raw(106).await;
    let mut device = Device::with(107, |options| options.patience = impatient()).await;
    let cancel = hearth_net::codec::encode(&PayerFrame::Cancel).unwrap();
    let (_connection, _send, _recv, mut stream) = stream(&peer, &mut device, &cancel).await;
    let frame = ProviderFrame::PaymentRequired(vec![b' '; 16_000].into());
    let mut sent = 0;
    let error = loop {
        match soon("a frame", stream.send(&frame)).await {
            Ok(()) => sent += 16_000,
            Err(error) => break error,
        }
        assert!(
            sent < 64 << 20,
            "what is sent to a peer that takes nothing is bounded"
        );
    };
    assert_eq!(error, SendError::Stalled);
    assert!(error.is_retryable());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_device_has_so_many_connections_and_no_more() {
    let peer = raw(108).await;
    let device = Device::new(109).await;
    let mut open = Vec::new();
    for _ in 0..=DEVICE_CONNECTIONS_MAX {
        let connected = soon("an end", peer.connect(address(&device), ANSWER_ALPN)).await;
        open.extend(connected);
    }
    // The last to be admitted need not be the last that was begun.
    if open.len() > DEVICE_CONNECTIONS_MAX {
        let closed = open.iter().map(|connection| Box::pin(connection.closed()));
        soon("the refusal", select_all(closed)).await;
    }
    let stand = open.iter().filter(|one| one.close_reason().is_none());
    assert_eq!(stand.count(), DEVICE_CONNECTIONS_MAX);
    assert!(device.network.open_connections() <= DEVICE_CONNECTIONS_MAX.min(CONNECTIONS_MAX));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_that_forges_offers_is_shut_out() {
    let honest = Device::new(110).await;
    let device = Device::new(111).await;
    honest.network.publish(offer("honest")).unwrap();
    let mut heard = device.network.offer_changes();
    device.join(&honest).await;
    super::hears(&mut heard, honest.network.device(), "honest").await;

    let peer = raw(112).await;
    let forger = DeviceId(*peer.id().as_bytes());
    let lookup = iroh::address_lookup::memory::MemoryLookup::new();
    lookup.add_endpoint_info(address(&device));
    peer.address_lookup().unwrap().add(lookup);
    let gossip = Gossip::builder()
        .max_message_size(8_192)
        .spawn(peer.clone());
    let router = Router::builder(peer.clone())
        .accept(GOSSIP_ALPN, gossip.clone())
        .spawn();
    let topic = TopicId::from_bytes(Membership::default().topic().0);
    let id = PublicKey::from_bytes(&device.network.device().0).unwrap();
    let joined = gossip.subscribe_and_join(topic, vec![id]);
    let mut topic = soon("joining", joined).await.unwrap();
    for n in 0..64u8 {
        let forged = Bytes::from(vec![n; 500]);
        topic.broadcast_neighbors(forged).await.unwrap();
    }
    // Its connections are closed, which its own gossip notices.
    loop {
        let event = soon("being shut out", topic.next()).await.unwrap().unwrap();
        if event == GossipEvent::NeighborDown(id) {
            break;
        }
    }
    let refused = device.network.ask(forger, None).await;
    assert_eq!(refused.unwrap_err(), ConnectError::ShutOut);
    assert_eq!(device.network.offers().len(), 1);
    router.shutdown().await.unwrap();
}
