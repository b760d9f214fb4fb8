//! Selling and buying: a paid proxy, a payer and a chain, each a process of its own.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use serde_json::Value;

use crate::program::{Home, Running, RunningChain, RunningNode, RunningService};

/// A service that answers `hello` to everything until the test ends, and how often it did.
pub(crate) fn goods() -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answered = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&answered);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4_096];
            // One read has the whole head of these small requests.
            if stream.read(&mut head).is_ok_and(|length| length > 0) {
                let reply =
                    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
                counter.fetch_add(1, Ordering::SeqCst);
                drop(stream.write_all(reply.as_bytes()));
            }
        }
    });
    (url, answered)
}

/// A chain, a household that sells, and one that buys and has 50 TESTUSD.
pub(crate) struct Market {
    pub(crate) seller: Home,
    pub(crate) buyer: Home,
    pub(crate) upstream: String,
    pub(crate) chain: Running,
    _chain_home: Home,
}

impl Market {
    pub(crate) fn open() -> Self {
        Self::open_on(&[])
    }

    /// On a chain with more options.
    pub(crate) fn open_on(more: &[&str]) -> Self {
        let (seller, buyer, chain_home) = (Home::with_wallet(), Home::with_wallet(), Home::new());
        let fund = format!("{}=50", buyer.household());
        let chain = RunningChain::start(&chain_home, &[&["--fund", &fund], more].concat());
        seller.point_config_at(chain.url());
        buyer.point_config_at(chain.url());
        Self {
            seller,
            buyer,
            upstream: goods().0,
            chain,
            _chain_home: chain_home,
        }
    }

    pub(crate) fn serve(&self) -> Running {
        RunningService::start(&self.seller, &["--price", "0.01", "--to", &self.upstream])
    }

    /// What an account has of the test token.
    pub(crate) fn holds(&self, account: &str) -> u128 {
        holds(&self.buyer, account)
    }
}

/// What an account has of the test token, as `home` sees it.
pub(crate) fn holds(home: &Home, account: &str) -> u128 {
    let balances = home.run(&["chain", "balances", account, "--json"]).json();
    let all = balances["balances"].as_array().unwrap();
    units(
        all.iter()
            .find(|money| money["symbol"] == "TESTUSD")
            .unwrap(),
    )
}

pub(crate) fn units(money: &Value) -> u128 {
    money["units"].as_str().unwrap().parse().unwrap()
}

#[test]
fn an_answer_that_failed_is_shown_as_costing_nothing() {
    let market = Market::open();
    // Nobody answers behind the price.
    let nowhere = ["--price", "0.01", "--to", "http://127.0.0.1:9"];
    let service = RunningService::start(&market.seller, &nowhere);
    let asked = market.buyer.run(&["pay", service.url(), "--yes", "--json"]);
    assert_eq!(asked.code, 1, "{asked:?}");
    let paid: Value = serde_json::from_str(&asked.stdout).unwrap();
    assert_eq!(paid["status"], 502);
    assert_eq!(units(&paid["payment"]["charged"]), 0);
    let channels = market.buyer.run(&["channels", "look", "--json"]).json();
    let channel = &channels["paying"][0];
    assert_eq!(units(&channel["charged"]), 0, "{channel}");
    assert_eq!(units(&channel["balance"]), 100_000, "its deposit is known");
}

#[test]
fn a_node_whose_only_chain_was_down_at_its_start_pays_once_the_chain_answers() {
    let Market {
        seller,
        buyer,
        upstream,
        chain,
        _chain_home: chain_home,
    } = Market::open();
    let port = chain.url().rsplit(':').next().unwrap();
    let port = port.trim_end_matches('/').to_owned();
    assert_eq!(chain.stop("TERM")["event"], "stopped");
    buyer.edit_config("reach = \"local\"", "reach = \"loopback\"");
    let node = RunningNode::start(&buyer, &["--no-model"]);
    let warnings = node.ready["warnings"].to_string();
    assert!(warnings.contains("do not answer yet"), "{warnings}");

    let _chain = Running::start(&chain_home, &["chain", "run", "--port", &port, "--json"]);
    let service = RunningService::start(&seller, &["--price", "0.01", "--to", &upstream]);
    let paid = buyer.run(&["pay", service.url(), "--yes", "--json"]).json();
    assert_eq!(paid["status"], 200, "{paid:#}");
    assert_eq!(units(&paid["payment"]["charged"]), 10_000);
    assert_eq!(node.stop("TERM")["event"], "stopped");
}

#[test]
fn both_sides_agree_to_the_atomic_unit_also_after_a_restart() {
    let market = Market::open();
    let service = market.serve();
    let url = format!("{}/weather", service.url());
    let pay = |url: &str| market.buyer.run(&["pay", url, "--yes", "--json"]).json();
    for _ in 0..2 {
        let paid = pay(&url);
        assert_eq!(
            (&paid["status"], &paid["body"]),
            (&Value::from(200), &Value::from("hello"))
        );
        assert_eq!(paid["payment"]["scheme"], "batch-settlement");
        assert_eq!(units(&paid["payment"]["charged"]), 10_000);
    }
    assert_eq!(service.stop("TERM")["event"], "stopped");
    let service = market.serve();
    let url = format!("{}/weather", service.url());
    pay(&url);
    let busy = market.seller.run(&["channels", "claim", "--json"]);
    assert_eq!(busy.error_code(1), "home_busy");
    service.stop("INT");

    let buying = market.buyer.run(&["channels", "--json"]).json();
    let selling = market.seller.run(&["channels", "--json"]).json();
    let (paying, earning) = (&buying["paying"][0], &selling["earning"][0]);
    assert_eq!(paying["channel"], earning["channel"]);
    assert_eq!(units(&paying["charged"]), 30_000);
    assert_eq!(units(&earning["charged"]), 30_000);
    let claims = market.seller.run(&["channels", "claim", "--json"]).json();
    assert_eq!(claims["claims"].as_array().unwrap().len(), 1);
    assert_eq!(claims["claims"][0]["units"], "30000");
    let held = market.seller.run(&["wallet", "balances", "--json"]).json();
    let held = held["chains"][0]["balances"].as_array().unwrap();
    let dollars = held
        .iter()
        .find(|money| money["symbol"] == "TESTUSD")
        .unwrap();
    assert_eq!(units(dollars), 30_000);
    let people = market.seller.run(&["channels"]);
    assert!(people.stdout.contains("Earning"), "{people:?}");
}

#[test]
fn nothing_is_paid_beyond_the_limits_or_without_consent() {
    let market = Market::open();
    let service = market.serve();
    let unasked = market.buyer.run(&["pay", service.url(), "--json"]);
    assert_eq!(unasked.error_code(2), "not_confirmed");
    market
        .buyer
        .edit_config("per_payment = \"0.10\"", "per_payment = \"0.009\"");
    let dear = market.buyer.run(&["pay", service.url(), "--yes", "--json"]);
    assert_eq!(dear.error_code(1), "beyond_limits");
    let nowhere = market
        .buyer
        .run(&["pay", "http://127.0.0.1:1/", "--yes", "--json"]);
    assert_eq!(nowhere.error_code(1), "service_unreachable");
    let nonsense = market.buyer.run(&["pay", "weather", "--yes", "--json"]);
    assert_eq!(nonsense.error_code(1), "bad_request");
    let none = market.buyer.run(&["channels", "--json"]).json();
    assert_eq!(none["paying"].as_array().unwrap().len(), 0);
    for wrong in [
        vec!["--price", "0", "--to", "http://127.0.0.1:1"],
        vec!["--price", "x", "--to", "http://127.0.0.1:1"],
        vec!["--price", "1", "--to", "nowhere"],
        vec![
            "--price",
            "1",
            "--to",
            "http://127.0.0.1:1",
            "--asset",
            "EUR",
        ],
    ] {
        let arguments = [
            &["serve-paid", "--listen", "127.0.0.1:0", "--json"],
            &wrong[..],
        ]
        .concat();
        assert_eq!(
            market.buyer.run(&arguments).error_code(1),
            "bad_request",
            "{wrong:?}"
        );
    }
    let second = [
        "serve-paid",
        "--price",
        "1",
        "--to",
        "http://127.0.0.1:1",
        "--json",
    ];
    assert_eq!(market.seller.run(&second).error_code(1), "home_busy");
}

#[test]
fn payers_at_once_keep_one_limit_and_who_must_wait_is_told() {
    let market = Market::open();
    for (usual, here) in [
        ("per_payment = \"0.10\"", "per_payment = \"0.01\""),
        ("per_deposit = \"5\"", "per_deposit = \"0.1\""),
        ("# deposits_per_day = \"20\"", "deposits_per_day = \"1\""),
        ("per_day = \"20\"", "per_day = \"0.10\""),
    ] {
        market.buyer.edit_config(usual, here);
    }
    let service = market.serve();
    let url = format!("{}/weather", service.url());
    let pay = ["pay", &url, "--yes", "--times", "8", "--json"];
    let (mut answered, mut codes) = (0, Vec::new());
    // Each payer alone stays within the limit. Together they would pass it, even if one is killed in between.
    for round in 0..3 {
        let mut payers: Vec<_> = (0..3)
            .map(|_| market.buyer.command(&pay).spawn().unwrap())
            .collect();
        if round == 1 {
            drop(payers[0].kill());
        }
        for payer in payers {
            let ended = payer.wait_with_output().unwrap();
            let sums: Value = serde_json::from_slice(&ended.stdout).unwrap_or_default();
            answered += sums["requests"].as_u64().unwrap_or(0);
            if let Ok(error) = serde_json::from_slice::<Value>(&ended.stderr) {
                codes.push(error["error"]["code"].as_str().unwrap_or("").to_owned());
                let next = error["error"]["next"].as_str().unwrap_or("");
                assert!(!next.is_empty(), "{error}");
            }
        }
    }
    assert!((1..=10).contains(&answered), "{answered} of 10: {codes:?}");
    let known = ["home_busy", "beyond_limits"];
    assert!(
        codes.iter().all(|code| known.contains(&&**code)),
        "{codes:?}"
    );
    assert!(
        codes.iter().any(|code| code == "beyond_limits"),
        "{codes:?}"
    );
    let channels = market.buyer.run(&["channels", "look", "--json"]).json();
    let paying = channels["paying"].as_array().unwrap();
    let promised: u128 = paying
        .iter()
        .map(|channel| units(&channel["charged"]) + units(&channel["reserved"]))
        .sum();
    assert!(promised <= 100_000, "{promised}: {channels}");
}
