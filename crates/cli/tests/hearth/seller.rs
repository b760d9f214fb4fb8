//! How a seller quotes, charges and is protected, each part a process of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::program::{Home, Running, RunningChain, RunningService, RunningWatch};

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
    chain: Running,
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
            chain,
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

fn dollars(home: &Home) -> u128 {
    let held = home.run(&["wallet", "balances", "--json"]).json();
    let held = held["chains"][0]["balances"].as_array().unwrap();
    let dollars = held.iter().find(|money| money["symbol"] == "TESTUSD");
    units(dollars.unwrap())
}

#[test]
fn a_killed_provider_loses_nothing_when_its_payer_withdraws() {
    let market = Market::open();
    let sessions = market.seller.run(&["wallet", "sessions", "--json"]).json();
    let authorizer = sessions["sessions"][0]["key"].as_str().unwrap();
    let tower_home = Home::with_wallet();
    tower_home.point_config_at(market.chain.url());
    let tower = RunningWatch::start(&tower_home, &["--for", authorizer, "--every", "1"]);
    assert_eq!(tower.ready["authorizers"][0], authorizer);
    assert_eq!(tower.ready["warnings"].as_array().unwrap().len(), 0);
    let service = market.serve(&["--watchtower", tower.url()]);
    assert_eq!(service.ready["warnings"].as_array().unwrap().len(), 0);
    for _ in 0..3 {
        market.pay(service.url());
    }
    tower.event("watching", |claim| claim["units"] == "30000");
    // Dropping a process kills it where it stands.
    drop(service);
    assert_eq!(dollars(&market.seller), 0);

    let paying = market.buyer.run(&["channels", "--json"]).json();
    let channel = paying["paying"][0]["channel"].as_str().unwrap().to_owned();
    let close = ["channels", "close", &channel, "--yes", "--json"];
    let begun = market.buyer.run(&close).json();
    assert_eq!(begun["outcome"], "withdrawal_begun");
    let claimed = tower.event("claimed", |claim| claim["channel"] == *channel);
    assert!(claimed["transaction"].is_string(), "{claimed}");
    let waiting = market.buyer.run(&close).json();
    assert_eq!(waiting["outcome"], "withdrawal_waiting");
    assert_eq!(dollars(&market.seller), 30_000);
    tower.stop("TERM");
    let claims = market.seller.run(&["channels", "claim", "--json"]).json();
    assert_eq!(claims["claims"].as_array().unwrap().len(), 0);
}

#[test]
fn a_watchtower_for_others_is_refused_and_one_that_is_away_is_said() {
    let market = Market::open();
    let tower = RunningWatch::start(&market.buyer, &[]);
    let to = ["serve-paid", "--price", "1", "--to", "http://127.0.0.1:1"];
    let more = [
        "--listen",
        "127.0.0.1:0",
        "--watchtower",
        tower.url(),
        "--json",
    ];
    let refused = market.seller.run(&[&to[..], &more].concat()).error(1);
    assert_eq!(refused["code"], "not_watched");
    let next = refused["next"].as_str().unwrap();
    assert!(next.contains("hearth watch --for 0x"), "{next}");
    let service = market.serve(&["--watchtower", "http://127.0.0.1:1"]);
    let warning = service.ready["warnings"][0].as_str().unwrap();
    assert!(warning.contains("Nobody watches yet"), "{warning}");
    let nobody = ["watch", "--for", "me", "--listen", "127.0.0.1:0", "--json"];
    assert_eq!(market.seller.run(&nobody).error_code(1), "bad_request");
}

#[test]
fn a_facilitator_says_what_it_supports_and_is_for_this_device_alone() {
    let market = Market::open();
    let service = market.serve(&["--facilitator", "127.0.0.1:0"]);
    let facilitator = service.ready["facilitator"].as_str().unwrap();
    let request = "GET /supported HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let reply = exchange(&address(facilitator), request);
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{reply}");
    let supported: Value = serde_json::from_str(body).unwrap();
    assert_eq!(supported["kinds"][0]["network"], "eip155:402402");
    let authorizer = &supported["kinds"][1]["extra"]["receiverAuthorizer"];
    let ours = service.ready["receiver_authorizer"].as_str().unwrap();
    assert_eq!(*authorizer, ours);
    service.stop("TERM");

    let to = ["serve-paid", "--price", "1", "--to", "http://127.0.0.1:1"];
    let open = ["--listen", "127.0.0.1:0", "--facilitator", "0.0.0.0:0"];
    let refused = market.seller.run(&[&to[..], &open, &["--json"]].concat());
    assert_eq!(refused.error_code(1), "not_loopback");
}
