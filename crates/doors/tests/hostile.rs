//! What strangers do to a door by raw sockets, and what an honest client notices of it.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hearth_doors::{
    BODY_BYTES_MAX, BodyError, Bounds, Budget, Limits, Listener, Policy, read_body, serve,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// How long a loaded machine may take for what should happen at once.
const PATIENCE: Duration = Duration::from_secs(60);

struct Served {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: tokio::task::JoinHandle<()>,
}

/// Says how long a body was, or why it was not read.
async fn length(body: Body) -> Response {
    match read_body(body, BODY_BYTES_MAX, PATIENCE).await {
        Ok(bytes) => bytes.len().to_string().into_response(),
        Err(error) => (http::StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

async fn never() -> &'static str {
    std::future::pending().await
}

async fn door(policy: impl FnOnce(SocketAddr) -> Policy) -> Served {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.address();
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/never", get(never))
        .route("/length", post(length))
        .route("/unread", post(|| async { "not read" }));
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = Box::pin(async {
        let _ = stopped.await;
    });
    let done = tokio::spawn(serve(listener, router, policy(address), stopped));
    Served {
        address,
        stop,
        done,
    }
}

fn limits(connections: usize, bytes: usize) -> Limits {
    Limits {
        connections,
        connections_per_address: connections,
        bytes,
        bytes_per_address: bytes,
    }
}

async fn send(address: SocketAddr, text: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // One that makes room closes early.
    let _ = stream.write_all(text.as_ref()).await;
    stream
}

async fn rest(mut stream: TcpStream) -> String {
    let mut reply = Vec::new();
    let read = stream.read_to_end(&mut reply);
    let _ = tokio::time::timeout(PATIENCE, read).await.expect("an end");
    String::from_utf8_lossy(&reply).into_owned()
}

async fn ask(address: SocketAddr, head: &str, body: &[u8]) -> String {
    let head = format!(
        "{head}host: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    rest(send(address, [head.as_bytes(), body].concat()).await).await
}

async fn hello(address: SocketAddr) -> String {
    ask(address, "GET / HTTP/1.1\r\n", b"").await
}

fn half(stated: usize, sent: usize) -> Vec<u8> {
    let head =
        format!("POST /length HTTP/1.1\r\nhost: localhost\r\ncontent-length: {stated}\r\n\r\n");
    [head.as_bytes(), &vec![b'x'; sent]].concat()
}

#[tokio::test]
async fn half_bodies_of_one_address_leave_an_honest_client_served() {
    for policy in [Policy::public, Policy::wallets] {
        let budget = Budget::new(limits(64, 1 << 20), limits(64, 1 << 20));
        let served = door(|_| policy(budget)).await;
        let mut halves = Vec::new();
        for _ in 0..300 {
            halves.push(send(served.address, half(1_000_000, 20_000)).await);
        }
        assert!(hello(served.address).await.ends_with("hello"));
        let whole = ask(
            served.address,
            "POST /length HTTP/1.1\r\n",
            &[b'x'; 300_000],
        )
        .await;
        assert!(whole.ends_with("300000"), "{whole}");
    }
}

#[tokio::test]
async fn silence_and_half_heads_make_room_for_the_next() {
    let budget = Budget::new(limits(4, 1_000), limits(4, 1_000));
    let served = door(|_| Policy::public(budget)).await;
    let mut others = Vec::new();
    for said in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: x\r\n", "\r\n"] {
        for _ in 0..4 {
            others.push(send(served.address, said).await);
        }
    }
    assert!(hello(served.address).await.ends_with("hello"));
    // So do those who were served and stay.
    for _ in 0..4 {
        others.push(send(served.address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await);
    }
    assert!(hello(served.address).await.ends_with("hello"));
}

#[tokio::test]
async fn work_is_not_displaced_and_one_more_is_told_to_come_again() {
    let budget = Budget::new(limits(2, 1_000), limits(2, 1_000));
    let served = door(|_| Policy::public(budget)).await;
    let mut working = Vec::new();
    for _ in 0..2 {
        let asked = "GET /never HTTP/1.1\r\nhost: x\r\n\r\n";
        working.push(send(served.address, asked).await);
    }
    // The two are at work once a third finds no place.
    let told = async {
        loop {
            let reply = rest(send(served.address, "").await).await;
            if reply.starts_with("HTTP/1.1 503") {
                return reply;
            }
        }
    };
    let reply = tokio::time::timeout(PATIENCE, told)
        .await
        .expect("it is full");
    assert!(reply.contains("retry-after: 1"), "{reply}");
}

#[tokio::test]
async fn a_body_slower_than_the_pace_is_broken_off() {
    let bounds = Bounds {
        body_grace: Duration::from_millis(50),
        body_bytes_per_s: 1_000_000,
        ..Bounds::default()
    };
    let served = door(|_| Policy::public(Budget::of_process()).with_bounds(bounds)).await;
    for sent in [0, 1, 100] {
        let reply = rest(send(served.address, half(1_000, sent)).await).await;
        assert!(reply.contains("took too long"), "{reply}");
    }
    let mut chunked = send(
        served.address,
        "POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
    )
    .await;
    // A byte now and then is no progress: the pace is what counts.
    let reply = loop {
        if chunked.write_all(b"1\r\nx\r\n").await.is_err() {
            break String::new();
        }
        let mut reply = [0; 512];
        let read = chunked.read(&mut reply);
        if let Ok(read) = tokio::time::timeout(Duration::from_millis(10), read).await {
            let read = read.unwrap_or_default();
            break String::from_utf8_lossy(&reply[..read]).into_owned();
        }
    };
    assert!(
        reply.is_empty() || reply.contains("took too long"),
        "{reply}"
    );
}

#[tokio::test]
async fn a_head_beyond_its_bound_is_refused_and_one_of_a_payment_is_not() {
    let served = door(|_| Policy::public(Budget::of_process())).await;
    let head = |length: usize| {
        format!(
            "GET / HTTP/1.1\r\npayment-signature: {}\r\n",
            "x".repeat(length)
        )
    };
    assert!(
        ask(served.address, &head(16_384), b"")
            .await
            .ends_with("hello")
    );
    let refused = ask(served.address, &head(1_000_000), b"").await;
    assert!(
        refused.is_empty() || refused.starts_with("HTTP/1.1 431"),
        "{refused}"
    );
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(plain).unwrap();
    gzip.finish().unwrap()
}

#[tokio::test]
async fn coded_bodies_are_read_within_their_bound_or_refused_by_name() {
    let served = door(|_| Policy::public(Budget::of_process())).await;
    let coded = |coding: &str| format!("POST /length HTTP/1.1\r\ncontent-encoding: {coding}\r\n");
    for (coding, body, expected) in [
        ("gzip", gzip(&[b'x'; 100_000]), "100000"),
        ("x-gzip", gzip(b"abc"), "3"),
        ("identity", b"abcd".to_vec(), "4"),
        ("Identity, GZIP", gzip(b"ab"), "2"),
        (
            "gzip",
            gzip(&vec![0; BODY_BYTES_MAX + 1]),
            "the request's body is too long",
        ),
        ("gzip", b"{}".to_vec(), &*BodyError::NotCoded.to_string()),
        (
            "gzip",
            gzip(b"abc")[..10].to_vec(),
            &*BodyError::NotCoded.to_string(),
        ),
    ] {
        let reply = ask(served.address, &coded(coding), &body).await;
        assert!(reply.ends_with(expected), "{coding}: {reply}");
    }
    for coding in ["br", "zstd", "compress", "gzip, gzip", "gzip, br", "what"] {
        let reply = ask(served.address, &coded(coding), b"x").await;
        assert!(reply.starts_with("HTTP/1.1 415"), "{coding}: {reply}");
        assert!(reply.contains("accept-encoding: gzip, deflate"), "{reply}");
        assert!(
            reply.contains(coding.split(", ").next().unwrap()),
            "{reply}"
        );
    }
    let opaque = door(|_| Policy::public(Budget::of_process()).opaque()).await;
    let body = gzip(&[b'x'; 100_000]);
    let reply = ask(opaque.address, &coded("gzip"), &body).await;
    assert!(reply.ends_with(&body.len().to_string()), "{reply}");
    assert!(ask(opaque.address, &coded("br"), b"x").await.ends_with('1'));
}

#[tokio::test]
async fn a_body_is_asked_for_when_it_is_read_and_not_before() {
    let served = door(|_| Policy::public(Budget::of_process())).await;
    let expecting = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\nconnection: close\r\n\r\n"
        )
    };
    let reply = rest(send(served.address, expecting("/unread")).await).await;
    assert!(
        reply.starts_with("HTTP/1.1 200") && reply.ends_with("not read"),
        "{reply}"
    );
    let mut stream = send(served.address, expecting("/length")).await;
    let mut told = [0; 25];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(&told[..12], b"HTTP/1.1 100");
    stream.write_all(b"abc").await.unwrap();
    assert!(rest(stream).await.ends_with('3'));
}

#[tokio::test]
async fn a_door_of_the_household_is_closed_to_pages_before_anything_is_read() {
    let served = door(|address| {
        Policy::household(address, &["hearth.lan".to_owned()], Budget::of_process())
    })
    .await;
    for (head, status) in [
        ("GET / HTTP/1.1\r\nhost: localhost\r\n", 200),
        ("GET / HTTP/1.1\r\nhost: HEARTH.lan:1\r\n", 200),
        ("GET http://localhost/ HTTP/1.1\r\nhost: localhost\r\n", 200),
        (
            "GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\n", 400),
        ("GET / HTTP/1.0\r\n", 400),
        (
            "GET / HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\nhost: evil.example\r\n", 421),
        ("GET / HTTP/1.1\r\nhost: localhost\r\norigin: null\r\n", 403),
        (
            "OPTIONS / HTTP/1.1\r\nhost: localhost\r\norigin: https://evil.example\r\naccess-control-request-method: POST\r\n",
            403,
        ),
        (
            "POST /length HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: cross-site\r\ncontent-type: text/plain\r\ncontent-length: 9\r\n",
            403,
        ),
        (
            "GET / HTTP/1.1\r\nhost: localhost\r\norigin: https://evil.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n",
            403,
        ),
        (
            "POST /length HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json; charset=latin1\r\ncontent-length: 9\r\n",
            415,
        ),
        ("CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n", 400),
        ("TRACE / HTTP/1.1\r\nhost: localhost\r\n", 405),
    ] {
        let close = if head.contains("upgrade") {
            ""
        } else {
            "connection: close\r\n"
        };
        let mut stream = send(served.address, format!("{head}{close}\r\n")).await;
        let mut first = [0; 12];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut first)).await;
        read.expect("a reply").unwrap();
        let first = String::from_utf8_lossy(&first).into_owned();
        if head.starts_with("CONNECT") {
            assert!(first[9..].starts_with('4'), "{head}: {first}");
        } else {
            assert_eq!(first[9..], status.to_string(), "{head}");
        }
    }
    let reply = hello(served.address).await;
    assert!(reply.contains("cache-control: no-store"), "{reply}");
    assert!(!reply.contains("access-control"), "{reply}");
}

#[tokio::test]
async fn a_server_stops_though_a_request_never_ends() {
    let bounds = Bounds {
        stop_timeout: Duration::from_millis(100),
        ..Bounds::default()
    };
    let served = door(|_| Policy::public(Budget::of_process()).with_bounds(bounds)).await;
    let endless = send(served.address, "GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(hello(served.address).await.ends_with("hello"));
    served.stop.send(()).unwrap();
    let done = tokio::time::timeout(PATIENCE, served.done).await;
    done.expect("it stops").unwrap();
    assert_eq!(rest(endless).await, "");
    assert!(TcpStream::connect(served.address).await.is_err());
}
