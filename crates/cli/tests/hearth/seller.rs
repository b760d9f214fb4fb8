//! How a seller quotes, charges and is protected, each part a process of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::program::{Home, Running, RunningChain, RunningService};

/// How long one exchange over a socket may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service that says what some of its answers cost, until the test ends.
fn metered_goods() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = read_head(&mut stream);
            let path = head.split(' ').nth(1).unwrap_or_default();
            let charge = match path {
                "/cheap" => "hearth-charge: 0.004\r\n",
                "/free" => "hearth-charge: 0\r\n",
                "/wrong" => "hearth-charge: lots\r\n",
                "/beyond" => "hearth-charge: 0.010001\r\n",
                _ => "",
            };
            let reply = format!(
                "HTTP/1.1 200 OK\r\n{charge}content-length: 5\r\nconnection: close\r\n\r\nhello"
            );
            drop(stream.write_all(reply.as_bytes()));
        }
    });
    url
}

/// The head of a request without a body.
fn read_head(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// Sends a request as it stands, and gives the whole reply.
fn exchange(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    String::from_utf8_lossy(&reply).into_owned()
}

/// What passed: requests with their replies, in order.
type Passed = Arc<Mutex<Vec<(String, String)>>>;

/// Stands between a payer and a service, and keeps what passes.
fn eavesdrop(service: &str) -> (String, Passed) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (passed, address) = (Passed::default(), address(service));
    let kept = Arc::clone(&passed);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = read_head(&mut stream);
            let (first, rest) = head.split_once("\r\n").unwrap();
            // One request for each connection, so that the reply ends with it.
            let request = format!("{first}\r\nconnection: close\r\n{rest}");
            let reply = exchange(&address, &request);
            kept.lock().unwrap().push((request, reply.clone()));
            drop(stream.write_all(reply.as_bytes()));
        }
    });
    (url, passed)
}

fn address(url: &str) -> String {
    url.strip_prefix("http://")
        .unwrap()
        .trim_end_matches('/')
        .to_owned()
}

/// A chain, and a buyer with 50 TESTUSD on it.
struct Market {
    seller: Home,
    buyer: Home,
    _chain: Running,
    _chain_home: Home,
}

impl Market {
    fn open() -> Self {
        let (seller, buyer, chain_home) = (Home::with_wallet(), Home::with_wallet(), Home::new());
        let shown = buyer.run(&["wallet", "show", "--json"]).json();
        let fund = format!("{}=50", shown["household"].as_str().unwrap());
        let chain = RunningChain::start(&chain_home, &["--fund", &fund]);
        seller.point_config_at(chain.url());
        buyer.point_config_at(chain.url());
        Self {
            seller,
            buyer,
            _chain: chain,
            _chain_home: chain_home,
        }
    }

    fn serve(&self, more: &[&str]) -> Running {
        let to = metered_goods();
        let arguments = [&["--price", "0.01", "--to", &to], more].concat();
        RunningService::start(&self.seller, &arguments)
    }

    fn pay(&self, url: &str) -> Value {
        self.buyer.run(&["pay", url, "--yes", "--json"]).json()
    }
}

fn units(money: &Value) -> u128 {
    money["units"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_service_says_what_its_answers_cost_and_the_payer_sees_only_the_charge() {
    let market = Market::open();
    let service = market.serve(&[]);
    let (url, passed) = eavesdrop(service.url());
    for (path, charge) in [
        ("/cheap", 4_000),
        ("/free", 0),
        ("/plain", 10_000),
        ("/wrong", 10_000),
        ("/beyond", 10_000),
    ] {
        let paid = market.pay(&format!("{url}{path}"));
        assert_eq!(units(&paid["payment"]["charged"]), charge, "{path}");
        assert_eq!(units(&paid["payment"]["ceiling"]), 10_000, "{path}");
    }
    for (request, reply) in &*passed.lock().unwrap() {
        assert!(!reply.contains("hearth-charge"), "{request}{reply}");
    }
    service.stop("TERM");
    let selling = market.seller.run(&["channels", "--json"]).json();
    assert_eq!(units(&selling["earning"][0]["charged"]), 34_000);
}

#[test]
fn a_ceiling_of_several_prices_lets_as_many_requests_through_on_one_voucher() {
    let market = Market::open();
    let service = market.serve(&["--at-once", "3"]);
    assert_eq!(units(&service.ready["ceiling"]), 30_000);
    assert_eq!(units(&service.ready["price"]), 10_000);
    let (url, passed) = eavesdrop(service.url());
    // The first request deposits; the second brings a voucher and nothing else.
    for _ in 0..2 {
        let paid = market.pay(&url);
        assert_eq!(units(&paid["payment"]["ceiling"]), 30_000);
        assert_eq!(units(&paid["payment"]["charged"]), 10_000);
    }
    let (request, _) = passed.lock().unwrap().last().unwrap().clone();
    assert!(request.contains("payment-signature"), "{request}");
    // A client signs one voucher for all requests that it makes at the same time. A page of its own
    // each, because the same request again gets the reply that was kept for it.
    for (page, status) in [("/2", "200"), ("/3", "200"), ("/4", "402")] {
        let request = request.replacen("GET /", &format!("GET {page}"), 1);
        let reply = exchange(&address(service.url()), &request);
        assert!(
            reply.starts_with(&format!("HTTP/1.1 {status}")),
            "{page}: {reply}"
        );
    }
    service.stop("TERM");
    let selling = market.seller.run(&["channels", "--json"]).json();
    assert_eq!(units(&selling["earning"][0]["charged"]), 40_000);

    let wrong = ["serve-paid", "--price", "1", "--to", "http://127.0.0.1:1"];
    for count in ["0", "257"] {
        let arguments = [&wrong[..], &["--at-once", count, "--json"]].concat();
        assert_eq!(market.seller.run(&arguments).error_code(1), "bad_request");
    }
}
