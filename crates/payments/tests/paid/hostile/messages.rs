//! Messages in strange forms and at a strange pace, at a paid proxy behind the door that it is sold at.

use std::net::SocketAddr;

use hearth_doors::{Bounds, Budget, Listener, Policy, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::forger::Forger;
use crate::proxy::Behind;
use crate::slow::{Slow, bounds, budget};
use crate::world::{Shop, World, amount};

/// A paid proxy as it is sold: behind a door for everybody.
struct Sold {
    behind: Behind,
    shop: Shop,
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Sold {
    async fn open(world: &World, bounds: Bounds, budget: Budget) -> Self {
        let behind = Behind::start().await;
        let (shop, router) = behind.shop_and_router(world).await;
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.address();
        let policy = Policy::public(budget).opaque().with_bounds(bounds);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(
            listener,
            router,
            policy,
            Box::pin(std::future::pending()),
        ));
        Self {
            behind,
            shop,
            address,
            _tasks: tasks,
        }
    }

    /// All that comes back for some bytes. A client that does not hang up after them may send more.
    async fn said(&self, bytes: &[u8], goes: bool) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The door may close before all was sent.
        let _ = stream.write_all(bytes).await;
        if goes {
            let _ = stream.shutdown().await;
        }
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        String::from_utf8_lossy(&reply).into_owned()
    }
}

/// The statuses of the replies on one connection.
fn statuses(replies: &str) -> Vec<&str> {
    let after = replies.split("HTTP/1.").skip(1);
    after.filter_map(|reply| reply.get(2..5)).collect()
}

#[tokio::test]
async fn slow_messages_hold_up_no_payer_at_a_proxy() {
    let world = World::start().await;
    let sold = Sold::open(&world, bounds(), budget()).await;
    let purse = world.purse("payer").await;
    let head = "POST /a HTTP/1.1\r\nhost: x\r\n";
    let unpaid = Slow::begin(&sold.address.to_string(), head).await;
    let mut purchase = sold.shop.get("/a");
    purchase.url.set_port(Some(sold.address.port())).unwrap();
    let mut reply = purse.buy(&purchase, |_| true).await.unwrap();
    assert_eq!(reply.bytes().await.unwrap(), "sold");
    unpaid.all_end_in_vain().await;

    // Nor do those who pay, whose bodies are read before they are admitted.
    let forger = Forger::beside(&world, &sold.shop);
    let payment = forger.header(&forger.exact_payment(&forger.exact(9), &crate::world::key(1)));
    let head = format!("{head}payment-signature: {payment}\r\n");
    let paid = Slow::begin(&sold.address.to_string(), &head).await;
    let mut reply = purse.buy(&purchase, |_| true).await.unwrap();
    assert_eq!(reply.bytes().await.unwrap(), "sold");
    paid.all_end_in_vain().await;
    assert_eq!(
        sold.behind.paths(),
        ["/public/a", "/public/a"],
        "asked for what was sold"
    );
}

/// Messages, and the statuses of what comes back for them.
const STRANGE: &[(&str, &str, &[&str])] = &[
    (
        "HTTP/1.0 without a host",
        "GET /a HTTP/1.0\r\n\r\n",
        &["402"],
    ),
    (
        "HTTP/1.1 without a host",
        "GET /a HTTP/1.1\r\n\r\n",
        &["400"],
    ),
    (
        "HTTP/1.0 and a way out",
        "GET /../secret HTTP/1.0\r\n\r\n",
        &["400"],
    ),
    (
        "two hosts",
        "GET /a HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        &["400"],
    ),
    (
        "an absolute target",
        "GET http://x/a HTTP/1.1\r\nhost: x\r\n\r\n",
        &["402"],
    ),
    (
        "one of another host",
        "GET http://y/a HTTP/1.1\r\nhost: x\r\n\r\n",
        &["400"],
    ),
    (
        "one with a user",
        "GET http://u@x/a HTTP/1.1\r\nhost: x\r\n\r\n",
        &["400"],
    ),
    (
        "one of a way out",
        "GET http://x/%2e%2e/b HTTP/1.1\r\nhost: x\r\n\r\n",
        &["400"],
    ),
    (
        "a proxy's method",
        "TRACE /a HTTP/1.1\r\nhost: x\r\n\r\n",
        &["405"],
    ),
    (
        "a tunnel",
        "CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n",
        &["405"],
    ),
    (
        "two lengths",
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\ncontent-length: 5\r\n\r\nGET /..",
        &["400"],
    ),
    (
        "a length and chunks, and what only one of them ends before",
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n",
        &["402"],
    ),
    (
        "a coding in disguise",
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        &["400"],
    ),
    (
        "a blank before a colon",
        "GET /a HTTP/1.1\r\nhost : x\r\n\r\n",
        &["400"],
    ),
    (
        "a line that goes on",
        "GET /a HTTP/1.1\r\nhost: x\r\nx: y\r\n z\r\n\r\n",
        &["400"],
    ),
    (
        "a byte of nothing",
        "GET /a\0 HTTP/1.1\r\nhost: x\r\n\r\n",
        &["400"],
    ),
    ("another protocol", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[]),
    (
        "an upgrade",
        "GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        &["402"],
    ),
    (
        "an upgrade to HTTP/2",
        "GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
        &["402"],
    ),
    (
        "a body that is not asked for",
        "POST /a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n",
        &["402"],
    ),
    (
        "another expectation",
        "POST /a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue, pay\r\ncontent-length: 0\r\n\r\n",
        &["417"],
    ),
    (
        "one after the other",
        "GET /a HTTP/1.1\r\nhost: x\r\n\r\nGET /../b HTTP/1.1\r\nhost: x\r\n\r\nGET /c HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        &["402", "400", "402"],
    ),
];

#[tokio::test]
async fn messages_in_strange_forms_are_priced_or_refused_and_reach_nobody() {
    let world = World::start().await;
    let sold = Sold::open(&world, Bounds::default(), Budget::of_process()).await;
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(20_000));
    let longer = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000));
    let many = format!(
        "GET /a HTTP/1.1\r\nhost: x\r\n{}\r\n",
        "x: y\r\n".repeat(200)
    );
    let long = [
        ("an address too long for a price", &*long, &["414"][..]),
        ("an address beyond any bound", &longer, &["431"]),
        ("more headers than are read", &many, &["431"]),
    ];
    for (name, message, expected) in STRANGE.iter().chain(&long) {
        // One who says when it is over need not go away.
        let goes = !message.contains("connection: close");
        let reply = sold.said(message.as_bytes(), goes).await;
        assert_eq!(statuses(&reply), *expected, "{name}: {reply}");
    }
    assert_eq!(sold.behind.paths(), Vec::<String>::new());
}

#[tokio::test]
async fn what_follows_a_body_is_neither_forwarded_nor_believed() {
    let world = World::start().await;
    let sold = Sold::open(&world, Bounds::default(), Budget::of_process()).await;
    let forger = Forger::beside(&world, &sold.shop);
    let before = world.balance(sold.shop.receiver).await;
    let payment = forger.header(&forger.exact_payment(&forger.exact(9), &crate::world::key(1)));
    let message = format!(
        "POST /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\npayment-signature: {payment}\r\ntrailer: hearth-charge\r\n\
         te: trailers\r\ntransfer-encoding: chunked\r\n\r\n4;x=y\r\nbody\r\n0\r\nhearth-charge: 0\r\n\
         payment-signature: {payment}\r\ncontent-length: 99\r\n\r\n"
    );
    let reply = sold.said(message.as_bytes(), false).await;
    assert_eq!(statuses(&reply), ["200"], "{reply}");
    assert!(!reply.contains("hearth-charge"), "{reply}");
    let asked = sold.behind.only();
    assert_eq!((&*asked.1, &asked.3[..]), ("/public/a", &b"body"[..]));
    for name in [
        "trailer",
        "te",
        "hearth-charge",
        "payment-signature",
        "transfer-encoding",
    ] {
        assert!(!asked.2.contains_key(name), "{name}");
    }
    assert_eq!(asked.2["content-length"], "4");
    let after = world.balance(sold.shop.receiver).await;
    assert_eq!(after, before.saturating_add(amount(100)));
}
