//! The paid reverse proxy: what is priced is what the service behind it is asked for, and nothing else.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use hearth_payments::offer::Price;
use hearth_payments::proxy::Upstream;
use hearth_protocol::money::Amount;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::world::{Shop, World, amount};

/// What the service behind the price was asked.
type Asked = Arc<Mutex<Vec<(Method, String, HeaderMap, Bytes)>>>;

pub(crate) struct Behind {
    asked: Asked,
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Behind {
    pub(crate) async fn start() -> Self {
        let asked = Asked::default();
        let noted = Arc::clone(&asked);
        let note = async move |request: Request| {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let target = parts.uri.to_string();
            noted
                .lock()
                .unwrap()
                .push((parts.method, target, parts.headers, body));
            reply()
        };
        let router = Router::new().fallback(note);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            asked,
            address,
            _tasks: tasks,
        }
    }

    /// A shop that sells what is under `/public` there.
    async fn shop(&self, world: &World) -> Shop {
        self.shop_and_router(world).await.0
    }

    /// The same, and what it answers requests with.
    pub(crate) async fn shop_and_router(&self, world: &World) -> (Shop, Router) {
        let base = format!("http://{}/public", self.address).parse().unwrap();
        let upstream = Upstream::new(base, hearth_payments::http::client().unwrap(), 6);
        let price = Price {
            need: amount(100),
            ceiling: amount(100),
        };
        let mut kept = Router::new();
        let build = |gate| {
            kept = upstream.router(gate);
            kept.clone()
        };
        let shop = world.shop_of("proxy", price, |_| {}, build).await;
        (shop, kept)
    }

    /// The one request that it was asked.
    pub(crate) fn only(&self) -> (Method, String, HeaderMap, Bytes) {
        let mut asked = self.asked.lock().unwrap();
        assert_eq!(asked.len(), 1);
        asked.remove(0)
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|(_, target, ..)| target.clone()).collect()
    }
}

/// A reply that costs less than the price, is said to be public, and hides its charge from `Connection`.
fn reply() -> Response {
    let headers = [
        ("hearth-charge", "0.000007"),
        ("connection", "hearth-charge, x-inner"),
        ("x-inner", "1"),
        ("cache-control", "public, max-age=600"),
    ];
    (headers, "sold").into_response()
}

async fn raw(shop: &Shop, text: &str) -> String {
    let address = format!("127.0.0.1:{}", shop.url("/").port().unwrap());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    String::from_utf8_lossy(&reply).into_owned()
}

#[tokio::test]
async fn no_form_of_a_path_leads_out_of_what_is_sold() {
    let world = World::start().await;
    let behind = Behind::start().await;
    let shop = behind.shop(&world).await;
    for target in [
        "/../secret",
        "/..",
        "/./secret",
        "/a/../../secret",
        "/%2e%2e/secret",
        "/%2E%2e/secret",
        "/.%2e/secret",
        "/..%2fsecret",
        "/..%5csecret",
        "/..%3f/secret",
        "/..%23/secret",
        "/..%3Fa=/secret",
        "/.%e2%80%8b./secret",
        "/..%c2%a5secret",
        "/..%e2%88%96secret",
        "/..%ef%bc%9b/secret",
        "/%ef%b8%b0/secret",
        "/.%e2%80%8d./secret",
        "/..%e2%84%85",
        "/%ef%bc%852e%ef%bc%852e/secret",
        "/%f0%80%80%ae%f0%80%80%ae/secret",
        "/..\\secret",
        "/a/%2e%2e;%2f/secret",
        "/..#/secret",
        "/../secret#a",
        "/%252e%252e/secret",
        "/%25%32%65%25%32%65/secret",
        "/..;/secret",
        "/..;x=y/secret",
        "/%2e%2e%3b/secret",
        "/;/../secret",
        "//secret",
        "/a//../secret",
        "//evil.example/secret",
        "/%00/secret",
        "/%c0%ae%c0%ae/secret",
        "/%ef%bc%8e%ef%bc%8e/secret",
        "/%u002e%u002e/secret",
        "/../secret?a=1",
        "/..?/../b",
        "http://x/../secret",
        "http://x//secret",
        "*",
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            let request = format!(
                "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            );
            let reply = raw(&shop, &request).await;
            assert!(
                reply.starts_with("HTTP/1.1 400"),
                "{method} {target}: {reply}"
            );
        }
    }
    // What is plain has a price, whatever its query looks like.
    for target in ["/a", "/a?x=/../b", "/a?%2e%2e", "http://x/a", "/"] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let reply = raw(&shop, &request).await;
        assert!(reply.starts_with("HTTP/1.1 402"), "{target}: {reply}");
        assert!(reply.contains("cache-control: no-store"), "{reply}");
        assert!(reply.contains("vary: payment-signature"), "{reply}");
    }
    assert_eq!(behind.paths(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_forwarded_is_what_was_priced_in_its_one_form() {
    let world = World::start().await;
    let behind = Behind::start().await;
    let shop = behind.shop(&world).await;
    let purse = world.purse("payer").await;
    for (path, expected) in [
        ("/", "/public/"),
        ("/a/b", "/public/a/b"),
        ("/%61%2D%7e", "/public/a-~"),
        ("/caf%c3%a9?q=/../%2e", "/public/caf%C3%A9?q=/../%2e"),
        ("/a;v=1/", "/public/a;v=1/"),
    ] {
        let mut reply = purse.buy(&shop.get(path), |_| true).await.unwrap();
        assert_eq!(reply.bytes().await.unwrap(), "sold");
        assert_eq!(behind.paths().last().unwrap(), expected);
    }
}

#[tokio::test]
async fn headers_that_are_not_for_the_other_side_do_not_reach_it() {
    let world = World::start().await;
    let behind = Behind::start().await;
    let shop = behind.shop(&world).await;
    let purse = world.purse("payer").await;
    let mut purchase = shop.get("/a");
    purchase.method = Method::POST;
    purchase.body = Bytes::from_static(b"body");
    let sent = [
        ("hearth-charge", "0"),
        ("x-original-url", "/secret"),
        ("x-rewrite-url", "/secret"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-prefix", "/.."),
        ("x-forwarded-for", "127.0.0.1"),
        ("x_forwarded_for", "127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("true-client-ip", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1;host=evil.example"),
        ("x-original-host", "evil.example"),
        ("x-envoy-original-path", "/secret"),
        ("x-http-host-override", "evil.example"),
        ("connection", "x-named, keep-alive"),
        ("x-named", "1"),
        ("keep-alive", "timeout=9"),
        ("proxy-authorization", "Basic eA=="),
        ("upgrade", "websocket"),
        ("te", "trailers"),
        ("trailer", "x-later"),
    ];
    for (name, value) in sent {
        let name = HeaderName::from_static(name);
        purchase
            .headers
            .insert(name, HeaderValue::from_static(value));
    }
    purchase
        .headers
        .insert("x-kept", HeaderValue::from_static("yes"));
    let reply = purse.buy(&purchase, |_| true).await.unwrap();
    assert_eq!(reply.status, 200);
    let (method, target, headers, body) = behind.asked.lock().unwrap().pop().unwrap();
    assert_eq!(
        (method, target.as_str(), &body[..]),
        (Method::POST, "/public/a", &b"body"[..])
    );
    for (name, _) in sent {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert!(!headers.contains_key("payment-signature"));
    assert_eq!(headers["host"], behind.address.to_string());
    assert_eq!(headers["content-length"], "4");
    assert_eq!(headers["x-kept"], "yes");
    // Nor does what is for this side go on to the payer, and what was sold is in no cache.
    for name in ["hearth-charge", "x-inner"] {
        assert!(!reply.headers.contains_key(name), "{name}");
    }
    assert_eq!(reply.headers["cache-control"], "no-store");
    let charged = purse.channels().unwrap()[0].stored.record.charged;
    assert_eq!(charged, Amount::new(7), "what the service says it cost");
}
