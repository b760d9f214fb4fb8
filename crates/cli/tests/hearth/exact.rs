//! One-off payments by a payer that is killed (`kill -9`) again and again: what it signed is never more than the limit of
//! a day, and nothing that it signed is forgotten.
//!
//! The payer is killed where the seller is asked, where it is paid, and after so many bytes of its most verbose log,
//! which lie anywhere between and beyond.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::program::{Home, RunningChain};

/// The price, and what one day allows, in atomic units.
const PRICE: u128 = 10_000;
const PER_DAY: u128 = 70_000;
/// After how many bytes of log the payer is killed, one after the other.
const FUSES_BYTES: [usize; 8] = [1, 400, 2_000, 5_000, 9_000, 14_000, 20_000, 40_000];

/// Authorizations that were signed, by nonce, with what each can take.
type Signed = Arc<Mutex<BTreeMap<String, u128>>>;

/// A payer that dies where the seller says so.
type Victim = Arc<Mutex<Option<Child>>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Asked,
    Paid,
    Never,
}

struct Seller {
    url: String,
    signed: Signed,
    victim: Victim,
    when: Arc<Mutex<When>>,
}

impl Seller {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let seller = Self {
            url: format!("http://{}/", listener.local_addr().unwrap()),
            signed: Signed::default(),
            victim: Victim::default(),
            when: Arc::new(Mutex::new(When::Never)),
        };
        let (signed, victim) = (Arc::clone(&seller.signed), Arc::clone(&seller.victim));
        let (when, url) = (Arc::clone(&seller.when), seller.url.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(payment) = head(&stream) else {
                    continue;
                };
                let happens = match &payment {
                    None => When::Asked,
                    Some(payment) => {
                        note(payment, &signed);
                        When::Paid
                    }
                };
                if *when.lock().unwrap() == happens {
                    kill(&victim);
                }
                let reply = match payment {
                    None => format!(
                        "HTTP/1.1 402 Payment Required\r\npayment-required: {}\r\n",
                        STANDARD.encode(quote(&url).to_string())
                    ),
                    Some(_) => "HTTP/1.1 200 OK\r\n".to_owned(),
                };
                let reply = format!("{reply}content-length: 0\r\nconnection: close\r\n\r\n");
                drop(stream.write_all(reply.as_bytes()));
            }
        });
        seller
    }

    fn sums(&self) -> (usize, u128) {
        let signed = self.signed.lock().unwrap();
        (signed.len(), signed.values().sum())
    }
}

/// Reads the head of a request: the payment in it, if there is one. `None` where nobody asks any more.
fn head(stream: impl Read) -> Option<Option<Value>> {
    let mut payment = None;
    for line in BufReader::new(stream).lines() {
        let line = line.ok()?;
        if line.is_empty() {
            return Some(payment);
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("payment-signature")
        {
            let json = STANDARD.decode(value).unwrap();
            payment = Some(serde_json::from_slice(&json).unwrap());
        }
    }
    None
}

fn note(payment: &Value, signed: &Signed) {
    let authorization = &payment["payload"]["authorization"];
    let units = authorization["value"].as_str().unwrap().parse().unwrap();
    let nonce = authorization["nonce"].as_str().unwrap().to_owned();
    signed.lock().unwrap().insert(nonce, units);
}

fn quote(url: &str) -> Value {
    let seller = "0x00000000000000000000000000000000000000a1";
    json!({
        "x402Version": 2,
        "resource": { "url": url },
        "accepts": [{
            "scheme": "exact",
            "network": "eip155:402402",
            "amount": PRICE.to_string(),
            "asset": "0x569b35Ed675C9cA42dbD1B6dd75bDC2965d5ec8E",
            "payTo": seller,
            "maxTimeoutSeconds": 300,
            "extra": { "name": "Test Dollar (worthless)", "version": "1" },
        }],
    })
}

fn kill(victim: &Victim) {
    if let Some(child) = victim.lock().unwrap().as_mut() {
        drop(child.kill());
        drop(child.wait());
    }
}

/// Runs a payer to its end, or until it has written so many bytes of log.
fn pay(home: &Home, seller: &Seller, when: When, fuse_bytes: usize) {
    *seller.when.lock().unwrap() = when;
    let mut command = home.command(&["pay", &seller.url, "--yes", "--json"]);
    command.env("RUST_LOG", "trace").stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut log = child.stderr.take().unwrap();
    *seller.victim.lock().unwrap() = Some(child);
    let (mut bytes, mut piece) = (0, [0; 256]);
    while let Ok(length @ 1..) = log.read(&mut piece) {
        bytes += length;
        if bytes >= fuse_bytes {
            kill(&seller.victim);
        }
    }
    if let Some(mut child) = seller.victim.lock().unwrap().take() {
        drop(child.wait());
    }
}

#[test]
fn a_payer_that_is_killed_while_it_pays_one_off_signs_no_more_than_the_day_allows() {
    let (home, chain_home) = (Home::with_wallet(), Home::new());
    let fund = format!("{}=50", home.household());
    let chain = RunningChain::start(&chain_home, &["--fund", &fund]);
    home.point_config_at(chain.url());
    for (usual, here) in [
        ("per_payment = \"0.10\"", "per_payment = \"0.01\""),
        ("per_deposit = \"5\"", "per_deposit = \"0.01\""),
        ("per_day = \"20\"", "per_day = \"0.07\""),
    ] {
        home.edit_config(usual, here);
    }
    let seller = Seller::start();
    for when in [When::Asked, When::Paid, When::Paid] {
        pay(&home, &seller, when, usize::MAX);
        assert!(seller.sums().1 <= PER_DAY);
    }
    assert_eq!(seller.sums().0, 2, "it was killed after it had paid");
    for fuse_bytes in FUSES_BYTES {
        pay(&home, &seller, When::Never, fuse_bytes);
        assert!(
            seller.sums().1 <= PER_DAY,
            "killed after {fuse_bytes} bytes"
        );
    }
    // What is left of the day is paid, and then it is over, whatever happened before.
    let end = loop {
        let (before, _) = seller.sums();
        *seller.when.lock().unwrap() = When::Never;
        let outcome = home.run(&["pay", &seller.url, "--yes", "--json"]);
        if outcome.code != 0 {
            break outcome;
        }
        assert_eq!(seller.sums().0, before + 1);
        assert!(seller.sums().1 <= PER_DAY);
    };
    assert_eq!(end.error_code(1), "beyond_limits");
    let (count, sum) = seller.sums();
    println!("{count} authorizations for {sum} units reached the seller");
    assert!(sum <= PER_DAY, "{count} authorizations for {sum}");
}
