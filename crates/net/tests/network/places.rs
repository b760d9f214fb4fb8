//! Strangers that take every place they can get: connections, handshakes, questions about the
//! household; and devices that come back after they were killed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use hearth_net::limits::{HOUSEHOLD_STRANGERS_MAX, MACHINE_CONNECTIONS_MAX};
use hearth_net::{ANSWER_ALPN, AnswersHousehold, HOUSEHOLD_ALPN};
use hearth_protocol::household::{HouseholdAsk, HouseholdReply};
use iroh::endpoint::{Connection, presets};
use iroh::{Endpoint, EndpointAddr, PublicKey, SecretKey, TransportAddr};

use super::*;

/// A household whose members are given, and which counts the questions that it answers.
struct Household {
    members: BTreeSet<DeviceId>,
    answered: AtomicUsize,
}

impl AnswersHousehold for Household {
    fn answer(&self, _: DeviceId, _: HouseholdAsk) -> BoxFuture<'_, HouseholdReply> {
        self.answered.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { HouseholdReply::Statements(Vec::new()) })
    }

    fn is_member(&self, device: &DeviceId) -> bool {
        self.members.contains(device)
    }
}

fn household_of(device: &Device, members: &[&Device]) -> Arc<Household> {
    let household = Arc::new(Household {
        members: members.iter().map(|one| one.network.device()).collect(),
        answered: AtomicUsize::new(0),
    });
    device.network.answer_household(household.clone());
    household
}

/// A key that costs nothing, at an address of loopback.
async fn free_key(number: u16, at: &str) -> Endpoint {
    let mut seed = [0xee; 32];
    seed[..2].copy_from_slice(&number.to_be_bytes());
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&seed))
        .clear_ip_transports()
        .bind_addr(format!("{at}:0"))
        .unwrap()
        .bind()
        .await
        .unwrap()
}

fn address(device: &Device) -> EndpointAddr {
    let address = device.network.address();
    let id = PublicKey::from_bytes(&address.device.0).unwrap();
    EndpointAddr::from_parts(id, address.direct.into_iter().map(TransportAddr::Ip))
}

/// Waits for a question of one device, among those of others.
async fn arrives(device: &mut Device, from: DeviceId) {
    loop {
        let arrived = soon("a question", device.incoming.next()).await.unwrap();
        if arrived.device == from {
            return;
        }
    }
}

/// Connections of free keys, each with as many as it is given and a stream that was begun.
async fn flood(device: &Device, keys: &[Endpoint], alpn: &[u8], each: usize) -> Vec<Connection> {
    let mut open = Vec::new();
    for key in keys {
        for _ in 0..each {
            let Ok(connection) = key.connect(address(device), alpn).await else {
                continue;
            };
            if let Ok((mut send, _recv)) = connection.open_bi().await {
                // One that was refused is closed by now.
                let _ = send.write_all(&[1]).await;
            }
            open.push(connection);
        }
    }
    open
}

async fn free_keys(count: u16, at: &str) -> Vec<Endpoint> {
    let mut keys = Vec::new();
    for number in 0..count {
        keys.push(free_key(number, at).await);
    }
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn free_keys_that_fill_every_place_leave_the_household_and_what_is_dialed_working() {
    let mut device = Device::new(150).await;
    let mut member = Device::new(151).await;
    let mut provider = Device::new(152).await;
    let household = household_of(&device, &[&member]);
    // A member that is connected before stays so.
    let before = member.ask(&mut device).await;

    let keys = free_keys(20, "127.0.0.1").await;
    let open = flood(&device, &keys, ANSWER_ALPN, 8).await;
    let held = |open: &[Connection]| {
        let stand = open.iter().filter(|one| one.close_reason().is_none());
        stand.count()
    };
    soon("the bound of one machine", async {
        while held(&open) > MACHINE_CONNECTIONS_MAX {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(held(&open) >= MACHINE_CONNECTIONS_MAX / 2, "it is a flood");

    // The household's device, on new connections.
    member.network.disconnect(device.network.device());
    let hint = device.network.address();
    let asking = member.network.ask(device.network.device(), Some(&hint));
    let mut again = soon("the member's stream", asking).await.unwrap();
    again.send(&PayerFrame::Cancel).await.unwrap();
    arrives(&mut device, member.network.device()).await;
    let asked = member
        .network
        .ask_household(device.network.address(), &HouseholdAsk::Leave);
    soon("an answer about the household", asked).await.unwrap();
    assert_eq!(household.answered.load(Ordering::Relaxed), 1);
    // What this device dials.
    let dialed = device.ask(&mut provider).await;
    device.ask(&mut member).await;
    // An honest stranger from elsewhere.
    let honest = free_key(9_999, "127.7.7.7").await;
    let connected = honest.connect(address(&device), ANSWER_ALPN);
    let connection = soon("an honest stranger", connected).await.unwrap();
    let mut stream = connection.open_bi().await.unwrap();
    stream.0.write_all(&[9, 0, 0, 0]).await.unwrap();
    arrives(&mut device, DeviceId(*honest.id().as_bytes())).await;
    drop((before, again, dialed, open));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_ask_about_the_household_and_say_nothing_keep_no_member_waiting() {
    let device = Device::new(153).await;
    let member = Device::new(154).await;
    let household = household_of(&device, &[&member]);
    let keys = free_keys(HOUSEHOLD_STRANGERS_MAX as u16 + 4, "127.0.0.1").await;
    let _open = flood(&device, &keys, HOUSEHOLD_ALPN, 1).await;
    for n in 1..=5 {
        let asked = member
            .network
            .ask_household(device.network.address(), &HouseholdAsk::Leave);
        soon("an answer", asked).await.unwrap();
        assert_eq!(household.answered.load(Ordering::Relaxed), n);
    }
    // A stranger with an honest question is answered as soon as those before it are too slow.
    let stranger = Device::new(155).await;
    let answered = async {
        loop {
            let asked = stranger
                .network
                .ask_household(device.network.address(), &HouseholdAsk::Leave);
            if asked.await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    soon("an answer to a stranger", answered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_was_killed_is_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let ports = folder.path().join("ports");
    let remembering = |options: &mut NetworkOptions| options.ports_file = Some(ports.clone());
    let payer = Device::new(156).await;
    let mut provider = Device::with(157, remembering).await;
    payer.join(&provider).await;
    let before = provider.network.address();
    // Dropped, as by a kill: it tells nobody.
    drop(provider);
    // A process that is killed frees its port at once; what was dropped here is ended by the runtime.
    soon("the end of what was dropped", async {
        while std::net::UdpSocket::bind(before.direct[0]).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    provider = Device::with(157, remembering).await;
    assert_eq!(provider.network.address(), before);
    let asked = payer.network.ask(provider.network.device(), None);
    let mut asks = soon("asking", asked).await.unwrap();
    asks.send(&PayerFrame::Cancel).await.unwrap();
    soon("the question", provider.incoming.next())
        .await
        .unwrap();
    payer.ask(&mut provider).await;
}
