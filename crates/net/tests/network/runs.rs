//! Participants of a topic on loopback: what one says, all hear; what hostile ones send, nobody does.

use hearth_net::limits::{NOTICE_BODY_BYTES_MAX, RUN_TOPICS_MAX};
use hearth_net::{
    Heard, Membership, Notice, RUN_ALPN, RUN_MESSAGE_BYTES_MAX, RunMessage, SayError,
    TakePartError, Topic, TopicId, encode_run_message,
};
use hearth_protocol::content::ContentHash;
use hearth_protocol::offer::DeviceId;
use hearth_protocol::time::Timestamp;
use iroh::endpoint::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use iroh::{Endpoint, SecretKey};

use super::hostile::{address, raw};
use super::{Device, soon};

const TOPIC: TopicId = TopicId([77; 32]);
/// The code for a device that does not follow the protocol.
const MISBEHAVED: VarInt = VarInt::from_u32(52);

fn part(device: &Device) -> Topic {
    device.network.take_part(TOPIC).unwrap()
}

/// Waits until `topic` heard all of `wanted`; nothing is heard twice.
async fn hears(topic: &mut Topic, wanted: &[(DeviceId, Vec<u8>)]) {
    let mut missing: Vec<_> = wanted.to_vec();
    while !missing.is_empty() {
        let Heard { from, body, .. } = soon("a notice", topic.heard()).await.unwrap();
        let at = missing.iter().position(|one| *one == (from, body.clone()));
        match at {
            Some(at) => drop(missing.swap_remove(at)),
            None => panic!("{from} said {} bytes that nobody waits for", body.len()),
        }
    }
}

/// Waits until `topic` has this many other participants.
async fn has_participants(topic: &Topic, count: usize) {
    let all = async {
        while topic.participants().len() < count {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    soon("the participants", all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_devices_in_a_line_hear_each_other_and_a_late_one_hears_what_is_kept() {
    let mut devices = Vec::new();
    for seed in 120..125 {
        let device = Device::new(seed).await;
        if let Some(before) = devices.last() {
            device.join(before).await;
        }
        devices.push(device);
    }
    let mut topics: Vec<_> = devices.iter().map(part).collect();
    let mut said = Vec::new();
    for (n, topic) in topics.iter().enumerate() {
        for bytes in [20, 90_000] {
            let body = vec![n as u8; bytes];
            topic.say(body.clone()).await.unwrap();
            said.push((devices[n].network.device(), body));
        }
    }
    for (device, topic) in devices.iter().zip(&mut topics) {
        let own = device.network.device();
        let of_others: Vec<_> = said
            .iter()
            .filter(|(from, _)| *from != own)
            .cloned()
            .collect();
        hears(topic, &of_others).await;
    }
    for topic in &topics {
        has_participants(topic, 4).await;
    }
    let late = Device::new(125).await;
    late.join(&devices[4]).await;
    hears(&mut part(&late), &said).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_hears_what_was_said_meanwhile_and_who_left_hears_nothing() {
    let a = Device::new(126).await;
    let b = Device::new(127).await;
    a.join(&b).await;
    let (mut of_a, mut of_b) = (part(&a), part(&b));
    of_a.say(vec![1]).await.unwrap();
    hears(&mut of_b, &[(a.network.device(), vec![1])]).await;
    drop(of_b);
    let gone = async {
        while !of_a.participants().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    soon("the farewell", gone).await;
    of_a.say(vec![2]).await.unwrap();
    let mut of_b = part(&b);
    let all = [(a.network.device(), vec![1]), (a.network.device(), vec![2])];
    hears(&mut of_b, &all).await;
    of_b.say(vec![3]).await.unwrap();
    hears(&mut of_a, &[(b.network.device(), vec![3])]).await;
    // A second part in the same topic has everything from the beginning.
    hears(&mut part(&b), &all).await;
    b.network.shutdown().await;
    assert_eq!(soon("the end", of_b.heard()).await, None);
    assert_eq!(of_b.say(vec![4]).await, Err(SayError::ShutDown));
    let refused = b.network.take_part(TOPIC);
    assert_eq!(refused.map(drop), Err(TakePartError::ShutDown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_is_not_said_and_topics_are_so_many() {
    let device = Device::new(128).await;
    let topic = part(&device);
    let long = topic.say(vec![0; NOTICE_BODY_BYTES_MAX + 1]).await;
    assert_eq!(long, Err(SayError::Length));
    assert_eq!(topic.say(Vec::new()).await, Err(SayError::Length));
    let more = (1..RUN_TOPICS_MAX).map(|n| device.network.take_part(TopicId([n as u8; 32])));
    let _more: Vec<_> = more.map(Result::unwrap).collect();
    let refused = device.network.take_part(TopicId([99; 32]));
    assert_eq!(refused.map(drop), Err(TakePartError::TooMany));
    drop(topic);
    assert!(device.network.take_part(TopicId([99; 32])).is_ok());
}

/// BLAKE3 over a domain, a zero byte and parts.
fn hash(domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut bytes = domain.as_bytes().to_vec();
    bytes.push(0);
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    ContentHash::of(&bytes).0
}

/// A participant by another program, as far as the proofs.
async fn greeted(peer: &Endpoint, device: &Device) -> (Connection, SendStream, RecvStream) {
    let connected = peer.connect(address(device), RUN_ALPN);
    let connection = soon("the connection", connected).await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let network = Membership::default().topic().0;
    let (own, other) = (*peer.id().as_bytes(), device.network.device().0);
    let hello = hash("hearth run hello", &[&network, &own, &other]);
    send.write_all(&hello).await.unwrap();
    let mut reply = [0; 32];
    soon("the reply", recv.read_exact(&mut reply))
        .await
        .unwrap();
    assert_eq!(reply, hash("hearth run reply", &[&network, &other, &own]));
    let tag = hash("hearth run topic", &[&TOPIC.0, &own, &other]);
    let topics = RunMessage::Topics(vec![ContentHash(tag)]);
    let topics = encode_run_message(&topics).unwrap();
    send.write_all(&topics).await.unwrap();
    (connection, send, recv)
}

/// A notice of a device that another program wrote.
fn notice(seed: u8, body: Vec<u8>) -> Notice {
    let key = SecretKey::from_bytes(&[seed; 32]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut notice = Notice {
        topic: TOPIC,
        device: DeviceId(*key.public().as_bytes()),
        at: Timestamp(now.unwrap().as_millis() as u64),
        body,
        signature: ([0; 32], [0; 32]),
    };
    let signature = key.sign(&notice.signing_bytes()).to_bytes();
    notice.signature.0.copy_from_slice(&signature[..32]);
    notice.signature.1.copy_from_slice(&signature[32..]);
    notice
}

fn framed(notice: Notice) -> Vec<u8> {
    encode_run_message(&RunMessage::Notice(notice)).unwrap()
}

/// Waits until a connection is closed because of what was sent on it.
async fn shut_out(connection: &Connection) {
    match soon("being shut out", connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => {
            // The ban may close the connection before the reason of its own does.
            let codes = [MISBEHAVED, VarInt::from_u32(11)];
            assert!(codes.contains(&close.error_code), "{close:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_notice_is_dropped_and_the_link_that_brought_it_is_closed() {
    let device = Device::new(130).await;
    let mut topic = part(&device);
    let peer = raw(131).await;
    let (connection, mut send, _recv) = greeted(&peer, &device).await;
    let good = notice(132, vec![1]);
    let author = good.device;
    send.write_all(&framed(good)).await.unwrap();
    hears(&mut topic, &[(author, vec![1])]).await;
    let mut forged = notice(132, vec![2]);
    forged.body = vec![3];
    send.write_all(&framed(forged)).await.unwrap();
    shut_out(&connection).await;
    let again = peer.connect(address(&device), RUN_ALPN).await;
    // A connection that was begun may end only after it is up.
    if let Ok(again) = again {
        soon("the refusal", again.closed()).await;
    }
    // Another peer brings what comes next: nothing of the forgery was heard in between.
    let other = raw(133).await;
    let (_connection, mut send, _recv) = greeted(&other, &device).await;
    send.write_all(&framed(notice(132, vec![4]))).await.unwrap();
    hears(&mut topic, &[(author, vec![4])]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_longer_than_a_message_is_refused_unread() {
    let device = Device::new(134).await;
    let _topic = part(&device);
    let peer = raw(135).await;
    let (connection, mut send, _recv) = greeted(&peer, &device).await;
    let length = u32::try_from(RUN_MESSAGE_BYTES_MAX + 1).unwrap();
    send.write_all(&length.to_le_bytes()).await.unwrap();
    shut_out(&connection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_of_another_network_does_not_take_part() {
    let private = |options: &mut hearth_net::NetworkOptions| {
        options.membership = Membership::Private { secret: [9; 32] };
    };
    let device = Device::with(136, private).await;
    let _topic = part(&device);
    let peer = raw(137).await;
    let connected = peer.connect(address(&device), RUN_ALPN);
    let connection = soon("the connection", connected).await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let network = Membership::default().topic().0;
    let (own, other) = (*peer.id().as_bytes(), device.network.device().0);
    let hello = hash("hearth run hello", &[&network, &own, &other]);
    send.write_all(&hello).await.unwrap();
    match soon("the refusal", connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code, VarInt::from_u32(50));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_floods_keeps_nobody_from_being_heard() {
    let a = Device::new(138).await;
    let b = Device::new(139).await;
    a.join(&b).await;
    let (mut of_a, of_b) = (part(&a), part(&b));
    has_participants(&of_a, 1).await;
    let flooder = raw(140).await;
    let (connection, mut send, _recv) = greeted(&flooder, &a).await;
    let flooded = DeviceId(*flooder.id().as_bytes());
    let flood = tokio::spawn(async move {
        // Until it is shut out, or has sent far more than it may.
        for n in 0..600_u32 {
            let mut body = vec![0; NOTICE_BODY_BYTES_MAX];
            body[..4].copy_from_slice(&n.to_le_bytes());
            if send.write_all(&framed(notice(140, body))).await.is_err() {
                break;
            }
        }
        drop(connection);
    });
    for n in 0..20_u8 {
        of_b.say(vec![n; 3]).await.unwrap();
    }
    let mut honest = 0;
    let mut of_flooder = 0;
    while honest < 20 {
        let heard = soon("an honest notice", of_a.heard()).await.unwrap();
        if heard.from == flooded {
            of_flooder += 1;
        } else {
            assert_eq!(heard.from, b.network.device());
            honest += 1;
        }
    }
    flood.await.unwrap();
    assert!(of_flooder <= 20, "{of_flooder} of the flood were heard");
}
