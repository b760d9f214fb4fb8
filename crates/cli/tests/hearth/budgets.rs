//! What API keys spend, with a real model bought from another household: counted, bounded, and kept over restarts.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{Home, MODEL, Running, RunningChain, RunningNode};
use crate::trade::units;

/// How long one answer, or the arrival of an offer, may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// What the key may spend in a day and for one answer: more than one of these answers costs, less than two.
const CAP: &str = "0.0025";

/// Asks at `url` with an API key, and gives the status and the reply.
pub(crate) fn ask(url: &str, key: &str, path: &str, body: &Value) -> (u16, Value) {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let status = reply.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = reply.split_once("\r\n\r\n").unwrap();
    let json = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {reply}"));
    (status, json)
}

pub(crate) fn question() -> Value {
    json!({
        "model": MODEL,
        "messages": [{ "role": "user", "content": "What is a hearth?" }],
        "max_tokens": 16,
    })
}

/// Waits until the buyer knows the seller's offer.
fn await_offer(buyer: &Home) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let known = buyer.run(&["offers", "--json"]).json();
        if known["offers"]
            .as_array()
            .is_some_and(|offers| !offers.is_empty())
        {
            return;
        }
        assert!(Instant::now() < deadline, "the offer did not come");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A household that sells answers to another, which has 50 TESTUSD and no model.
pub(crate) struct Trade {
    pub(crate) buyer: Home,
    pub(crate) selling: Running,
    _seller: Home,
    _chain: Running,
    _owner: Home,
}

impl Trade {
    pub(crate) fn open() -> Self {
        let (seller, buyer, owner) = (Home::with_wallet(), Home::with_wallet(), Home::new());
        let fund = format!("{}=50", buyer.household());
        let chain = RunningChain::start(&owner, &["--fund", &fund]);
        for home in [&seller, &buyer] {
            home.point_config_at(chain.url());
            home.edit_config("reach = \"local\"", "reach = \"loopback\"");
        }
        // Programs without a key ask the network here.
        buyer.edit_config("keyless_tier = \"household\"", "keyless_tier = \"network\"");
        RunningNode::prepare_models(&seller);
        let serve = [
            "models", "serve", MODEL, "--asset", "TESTUSD", "--prompt", "20", "--output", "60",
        ];
        seller.run(&[&serve[..], &["--json"]].concat()).json();
        let selling = RunningNode::start(&seller, &[]);
        Self {
            buyer,
            _seller: seller,
            selling,
            _chain: chain,
            _owner: owner,
        }
    }

    /// Brings the buyer's node up, and waits until it knows the seller's offer.
    pub(crate) fn start_buyer(&self) -> Running {
        let ticket = self.selling.ready["ticket"].as_str().unwrap();
        let node = RunningNode::start(&self.buyer, &["--join", ticket]);
        await_offer(&self.buyer);
        node
    }
}

#[test]
#[ignore = "needs outside programs"]
fn what_a_key_has_spent_counts_after_the_node_was_stopped_and_after_it_was_killed() {
    let trade = Trade::open();
    let limits = ["--per-request", CAP, "--per-day", CAP];
    let new = [
        &["keys", "new", "phone", "--asset", "TESTUSD", "--json"],
        &limits[..],
    ]
    .concat();
    let made = trade.buyer.run(&new).json();
    let key = made["key"].as_str().unwrap();

    let node = trade.start_buyer();
    let path = "/v1/chat/completions";
    let (status, answer) = ask(node.url(), key, path, &question());
    assert_eq!(status, 200, "{answer:#}");
    let charged = &answer["hearth"]["charged"][0];
    assert!(
        units(charged) > 1_250,
        "two would be within the day: {charged}"
    );
    let (status, refused) = ask(node.url(), key, path, &question());
    assert_eq!(status, 402, "{refused:#}");
    let spent = format!("of which {} are spent", charged["amount"].as_str().unwrap());
    let says = |refused: &Value| {
        refused["error"]["message"]
            .as_str()
            .unwrap()
            .contains(&spent)
    };
    assert!(says(&refused), "{spent}: {refused:#}");

    assert_eq!(node.stop("TERM")["event"], "stopped");
    let node = trade.start_buyer();
    let (status, refused) = ask(node.url(), key, path, &question());
    assert_eq!((status, says(&refused)), (402, true), "{refused:#}");
    // Dropping it kills it. What was set aside for the question that was refused may count.
    drop(node);
    let node = trade.start_buyer();
    let (status, refused) = ask(node.url(), key, path, &question());
    let whole = format!("of which {CAP} are spent");
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(says(&refused) || message.contains(&whole), "{refused:#}");
    assert_eq!(status, 402, "{refused:#}");

    // Embeddings are not bought: the error says what to do.
    let embed = json!({ "model": MODEL, "input": "a b" });
    let (status, refused) = ask(node.url(), key, "/v1/embeddings", &embed);
    assert_eq!(status, 404, "{refused:#}");
    assert_eq!(refused["error"]["code"], "model_not_here");
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("hearth models serve"), "{message}");
}
