//! A claim is handed over, the provider sleeps, the payer withdraws: the watchtower claims.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hearth_doors::{Budget, Listener, Policy, serve};
use hearth_payments::escrow::Escrows;
use hearth_payments::purse::{Purse, Withdrawal};
use hearth_payments::store::{Batch, Store};
use hearth_payments::till::{Tasks, TillKeys, open_escrows};
use hearth_payments::watchtower::{Handover, HandoverError, WATCHED, WatchReport, Watchtower};
use hearth_protocol::id::ChainId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::slow::{Slow, bounds, budget};
use super::world::{CHAIN, Shop, World, amount, asset, key};

#[tokio::test]
async fn a_sleeping_provider_is_paid_when_the_payer_begins_to_withdraw() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    for _ in 0..3 {
        purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    }
    let channel = purse.channels().unwrap()[0].channel;

    // The provider hands its claim over, and stops.
    let mut tasks = Tasks::new();
    let store = world.store("tower");
    let keys = TillKeys {
        account: key(5),
        session: key(6),
    };
    let escrows = open_escrows(world.access(), &keys, &store, &mut tasks).unwrap();
    let environment = Arc::clone(&world.environment);
    let served = BTreeSet::from([key(4).address()]);
    let tower = Watchtower::new(store, escrows, served, environment);
    let row = shop.claim_row(channel);
    let escrow = shop.till.escrows.get(ChainId(CHAIN)).unwrap();
    let handover = Handover::new(ChainId(CHAIN), &escrow, row);
    tower.take(handover.clone()).await.unwrap();
    let mut forged = handover.clone();
    forged.claim.total_claimed = amount(299);
    let refused = tower.take(forged).await;
    assert!(
        matches!(refused, Err(HandoverError::Signature)),
        "{refused:?}"
    );
    drop(shop);
    assert_eq!(tower.look().await.unwrap(), 0, "nobody withdraws yet");

    // The payer withdraws without the provider.
    let (payer, _payer_tasks) = world.withdrawing(&purse, "withdrawer").await;
    let begun = payer.withdraw(channel).await.unwrap();
    assert!(matches!(begun, Withdrawal::Begun { .. }), "{begun:?}");
    let waiting = payer.withdraw(channel).await.unwrap();
    assert!(matches!(waiting, Withdrawal::Waiting { .. }), "{waiting:?}");

    assert_eq!(tower.look().await.unwrap(), 1);
    assert_eq!(world.balance(key(3).address()).await, amount(300));
    assert_eq!(tower.look().await.unwrap(), 0, "claimed once");
}

/// Sends bytes to a door, and reads what comes back; a message that is half is broken off.
async fn raw(host: &str, bytes: &[u8], is_half: bool) -> String {
    let mut stream = TcpStream::connect(host).await.unwrap();
    // The door may close before all was sent.
    let _ = stream.write_all(bytes).await;
    if is_half {
        let _ = stream.shutdown().await;
    }
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    String::from_utf8_lossy(&reply).into_owned()
}

fn post(target: &str, headers: &[(&str, &str)], body: &str) -> String {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    format!(
        "POST {target} HTTP/1.1\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A watchtower behind its door, and a claim that it would take.
struct Tower {
    host: String,
    good: String,
    reported: tokio::sync::mpsc::Receiver<WatchReport>,
    _tasks: Tasks,
}

impl Tower {
    async fn open(world: &World) -> Self {
        let household = |address| Policy::household(address, &[], Budget::of_process());
        Self::behind(world, household).await
    }

    async fn behind(world: &World, policy: impl FnOnce(SocketAddr) -> Policy) -> Self {
        let shop = world.shop(amount(100), amount(100)).await;
        let purse = world.purse("payer").await;
        purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
        let channel = purse.channels().unwrap()[0].channel;
        let mut tasks = Tasks::new();
        let keys = TillKeys {
            account: key(5),
            session: key(6),
        };
        let store = world.store("tower");
        let escrows = open_escrows(world.access(), &keys, &store, &mut tasks).unwrap();
        let served = BTreeSet::from([key(4).address()]);
        let (reports, reported) = tokio::sync::mpsc::channel(16);
        let tower = Watchtower::new(store, escrows, served, Arc::clone(&world.environment));
        let router = tower.reporting(reports).router();
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.address().to_string();
        let policy = policy(listener.address());
        tasks.spawn(async move {
            serve(listener, router, policy, Box::pin(std::future::pending())).await;
            "the watchtower"
        });
        let escrow = shop.till.escrows.get(ChainId(CHAIN)).unwrap();
        let handover = Handover::new(ChainId(CHAIN), &escrow, shop.claim_row(channel));
        Self {
            host,
            good: serde_json::to_string(&handover).unwrap(),
            reported,
            _tasks: tasks,
        }
    }

    async fn takes_the_good_one_only_now(mut self) {
        assert!(
            self.reported.try_recv().is_err(),
            "nothing was taken until now"
        );
        let own = ("host", self.host.as_str());
        let whole = post("/watch", &[own], &self.good);
        let reply = raw(&self.host, whole.as_bytes(), false).await;
        assert!(reply.starts_with("HTTP/1.1 204"), "{reply}");
        assert!(self.reported.try_recv().is_ok());
    }
}

#[tokio::test]
async fn a_watchtower_takes_nothing_from_a_page_or_under_another_name() {
    let world = World::start().await;
    let tower = Tower::open(&world).await;
    let (host, good) = (&tower.host, &tower.good);
    let own = ("host", host.as_str());
    let port = host.rsplit_once(':').unwrap().1;
    let rebound = format!("evil.example:{port}");
    let rebound = ("host", rebound.as_str());
    let unspecified = format!("[::ffff:0.0.0.0]:{port}");
    let zone = format!("[fe80::1%25lo]:{port}");
    for (headers, status) in [
        (vec![], 400),
        (vec![own, own], 400),
        (vec![("host", zone.as_str())], 400),
        (vec![("host", "127.0.0.1:70000")], 400),
        (vec![("host", "localhost:")], 400),
        (vec![rebound], 421),
        (vec![("host", unspecified.as_str())], 421),
        (vec![("host", "127.0.0.1.nip.io")], 421),
        (vec![("host", "localhost..")], 421),
        (vec![("host", "0177.0.0.1")], 421),
        (vec![rebound, ("x-forwarded-host", host.as_str())], 421),
        (vec![rebound, ("forwarded", "host=127.0.0.1")], 421),
        (vec![own, ("origin", "http://evil.example")], 403),
        (vec![own, ("origin", "null")], 403),
        (vec![own, ("origin", "chrome-extension://abc")], 403),
        (vec![own, ("origin", "http://localhost:1")], 403),
        (vec![own, ("sec-fetch-site", "cross-site")], 403),
        (vec![own, ("sec-fetch-site", "same-site")], 403),
        (vec![own, ("transfer-encoding", "chunked")], 400),
        (vec![own, ("content-encoding", "br")], 415),
    ] {
        let reply = raw(host, post("/watch", &headers, good).as_bytes(), false).await;
        let expected = format!("HTTP/1.1 {status}");
        assert!(reply.starts_with(&expected), "{headers:?}: {reply}");
    }
    tower.takes_the_good_one_only_now().await;
}

#[tokio::test]
async fn a_watchtower_takes_nothing_at_another_path_or_in_half_a_message() {
    let world = World::start().await;
    let tower = Tower::open(&world).await;
    let (host, good) = (&tower.host, &tower.good);
    let own = ("host", host.as_str());
    for target in [
        "/watch/",
        "//watch",
        "/%77atch",
        "/./watch",
        "/x/../watch",
        "/watch;x",
        "/watch%00",
        "/WATCH",
        "/watch%2f",
        "\\watch",
        "http://evil.example/watch",
    ] {
        let reply = raw(host, post(target, &[own], good).as_bytes(), false).await;
        assert!(reply.starts_with("HTTP/1.1 4"), "{target}: {reply}");
    }
    // Bodies that are half, too long, or nothing.
    let whole = post("/watch", &[own], good);
    for cut in [1, good.len() / 2, good.len() - 1, good.len()] {
        let reply = raw(host, &whole.as_bytes()[..whole.len() - cut], true).await;
        assert!(!reply.starts_with("HTTP/1.1 2"), "{cut}: {reply}");
    }
    let twice = format!("{good}{good}");
    for body in ["", "{}", "[]", "\u{0}", &good[1..], &twice] {
        let reply = raw(host, post("/watch", &[own], body).as_bytes(), false).await;
        assert!(reply.starts_with("HTTP/1.1 4"), "{}: {reply}", body.len());
    }
    // Its door may close before all of it was sent.
    let long = format!("{good}{}", " ".repeat(1 << 20));
    let reply = raw(host, post("/watch", &[own], &long).as_bytes(), false).await;
    assert!(!reply.starts_with("HTTP/1.1 2"), "{reply}");
    tower.takes_the_good_one_only_now().await;
}

#[tokio::test]
async fn slow_messages_hold_up_no_claim_at_a_watchtower() {
    let world = World::start().await;
    let impatient = |address| Policy::household(address, &[], budget()).with_bounds(bounds());
    let tower = Tower::behind(&world, impatient).await;
    let head = format!("POST /watch HTTP/1.1\r\nhost: {}\r\n", tower.host);
    let slow = Slow::begin(&tower.host, &head).await;
    tower.takes_the_good_one_only_now().await;
    slow.all_end_in_vain().await;
}

/// A watchtower at an endpoint of this world's chain.
fn tower_of(escrows: Escrows, store: &Store, world: &World) -> Watchtower {
    let served = BTreeSet::from([key(4).address()]);
    Watchtower::new(
        store.clone(),
        escrows,
        served,
        Arc::clone(&world.environment),
    )
}

/// A payer that withdraws while a claim is due, and the claim.
async fn withdrawn(world: &World, shop: &Shop, purse: &Purse) -> (Handover, Tasks) {
    purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    let channel = purse.channels().unwrap()[0].channel;
    let escrow = shop.till.escrows.get(ChainId(CHAIN)).unwrap();
    let handover = Handover::new(ChainId(CHAIN), &escrow, shop.claim_row(channel));
    let (payer, tasks) = world.withdrawing(purse, "withdrawer").await;
    payer.withdraw(channel).await.unwrap();
    (handover, tasks)
}

#[tokio::test]
async fn a_watchtower_spends_no_more_gas_on_a_claim_than_it_brings() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    let (handover, _payer) = withdrawn(&world, &shop, &purse).await;
    let mut tasks = Tasks::new();
    let store = world.store("tower");
    // A claim takes 66,000 gas of 1 gwei. For 100 units it may cost 99: a coin may be worth 1,500,000 units.
    let mut escrows = super::settlement::dear_escrows(&world, "dear tower", &mut tasks).await;
    escrows.set_coin_worth(asset(), amount(1_500_001));
    let dear = tower_of(escrows.clone(), &store, &world);
    dear.take(handover).await.unwrap();
    assert_eq!(dear.look().await.unwrap(), 0);
    escrows.set_coin_worth(asset(), amount(1_500_000));
    let cheap = tower_of(escrows, &store, &world);
    assert_eq!(cheap.look().await.unwrap(), 1);
    assert_eq!(world.balance(shop.receiver).await, amount(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_claim_that_is_shown_again_takes_the_place_of_no_higher_one() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    let escrow = shop.till.escrows.get(ChainId(CHAIN)).unwrap();
    let mut handovers = Vec::new();
    for _ in 0..4 {
        purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
        let channel = purse.channels().unwrap()[0].channel;
        handovers.push(Handover::new(
            ChainId(CHAIN),
            &escrow,
            shop.claim_row(channel),
        ));
    }
    let mut tasks = Tasks::new();
    let keys = TillKeys {
        account: key(5),
        session: key(6),
    };
    let store = world.store("tower");
    let escrows = open_escrows(world.access(), &keys, &store, &mut tasks).unwrap();
    let tower = tower_of(escrows, &store, &world);
    // All at once, the highest first: the last to be written is not the one that counts.
    let mut all = JoinSet::new();
    for handover in handovers.iter().rev().cycle().take(40).cloned() {
        let tower = tower.clone();
        all.spawn(async move { tower.take(handover).await.unwrap() });
    }
    all.join_all().await;
    let mut held = Vec::new();
    let note = |_: &[u8], handover: Handover| held.push(handover.claim.total_claimed);
    store.each(WATCHED, note).unwrap();
    assert_eq!(held, [amount(400)]);
    // Nor is a higher one forgotten when the chain has a lower one.
    shop.till.settlement.claim(true).await.unwrap();
    purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    let channel = purse.channels().unwrap()[0].channel;
    let newest = Handover::new(ChainId(CHAIN), &escrow, shop.claim_row(channel));
    let (looked, taken) = futures::join!(tower.look(), tower.take(newest));
    looked.unwrap();
    taken.unwrap();
    tower.look().await.unwrap();
    let mut held = Vec::new();
    let note = |_: &[u8], handover: Handover| held.push(handover.claim.total_claimed);
    store.each(WATCHED, note).unwrap();
    assert_eq!(held, [amount(500)]);
}

#[tokio::test]
async fn a_chain_that_does_not_answer_delays_no_watched_claim_on_another() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    let (handover, _payer) = withdrawn(&world, &shop, &purse).await;
    let mut tasks = Tasks::new();
    let store = world.store("tower");
    let dead = ChainId(1);
    let escrows = super::settlement::beside_a_dead_chain(&world, dead, &mut tasks).await;
    // More channels on the dead chain than are read at once.
    let mut batch = Batch::default();
    for byte in 0..32 {
        let elsewhere = Handover {
            network: dead,
            ..handover.clone()
        };
        batch.put(WATCHED, &[byte; 32], &elsewhere).unwrap();
    }
    store.commit(batch).await.unwrap();
    let tower = tower_of(escrows, &store, &world);
    tower.take(handover).await.unwrap();
    tasks.spawn(async move {
        tower.run(Duration::from_millis(50)).await;
        "the watchtower"
    });
    super::settlement::is_paid_before_the_dead_chain_is_given_up(&world, &shop).await;
}
