//! Answers of a real model sold over HTTP by the real program: unmodified OpenAI SDKs ask, and the x402 SDKs under
//! them pay, on a chain of `hearth chain run`. See tests/outside/README.md.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::asking::checks;
use crate::chain::{FUNDS, SETTLEMENT, TestChain, keys};
use crate::program::{Home, MODEL, Running, RunningNode};
use crate::programs;
use crate::selling;
use crate::trade::units;

/// What a token of a prompt and of an answer costs, in atomic units; as people say it, that many whole tokens a million.
const PRICES: (u128, u128) = (20, 60);
/// The most tokens of the story that its reader leaves.
const STORY_TOKENS: u128 = 400;
/// How long the books may take to say what they were told.
const PATIENCE: Duration = Duration::from_secs(60);

/// A household that sells answers over HTTP.
struct Seller {
    home: Home,
    account: String,
    node: Running,
}

impl Seller {
    fn on(chain: &TestChain) -> Self {
        let home = Home::with_wallet();
        home.point_config_at(chain.rpc());
        RunningNode::prepare(&home);
        let (prompt, output) = (PRICES.0.to_string(), PRICES.1.to_string());
        home.run(&[
            "models", "serve", MODEL, "--asset", "TESTUSD", "--prompt", &prompt, "--output",
            &output, "--json",
        ])
        .json();
        let node = RunningNode::start(&home, &["--sell-at", "127.0.0.1:0"]);
        Self {
            account: home.household(),
            home,
            node,
        }
    }

    /// What was charged and is not claimed, as the node that is up says it.
    fn unclaimed(&self) -> u128 {
        let earnings = self.home.run(&["earnings", "--json"]).json();
        let unclaimed = earnings["unclaimed"].as_array().unwrap();
        unclaimed.iter().map(units).sum()
    }

    /// What is unclaimed once it is more than `known`.
    fn unclaimed_beyond(&self, known: u128) -> u128 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.unclaimed();
            if now > known {
                return now;
            }
            assert!(Instant::now() < deadline, "nothing beyond {known}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What an answer costs.
fn cost(tokens: &Value) -> u128 {
    let count = |at: usize| u128::from(tokens[at].as_u64().unwrap());
    count(0) * PRICES.0 + count(1) * PRICES.1
}

/// What each request of a check was paid with.
fn sent(check: &Value) -> Vec<Option<&str>> {
    let requests = check["requests"].as_array().unwrap();
    requests
        .iter()
        .map(|request| request["sent"].as_str())
        .collect()
}

/// What the last reply of a check stated as its charge.
fn stated(check: &Value) -> u128 {
    let last = check["requests"].as_array().unwrap().last().unwrap();
    last["stated"].as_str().unwrap().parse().unwrap()
}

/// One SDK buys: answers, a stream, a stream that it leaves. Gives what all of it cost.
fn buys(
    seller: &Seller,
    chain: &TestChain,
    salt: u8,
    program: fn(&str, &Value) -> Command,
    script: &str,
) -> u128 {
    let before = seller.unclaimed();
    let configuration = json!({
        "url": seller.node.ready["sold_at"],
        "key": keys::PAYER,
        "network": chain.network(),
        "model": MODEL,
        "salt": format!("0x{salt:064x}"),
    });
    let seen = checks(program(script, &configuration));
    let mut due = 0;
    for (check, deposits) in [("whole", true), ("again", false), ("after", false)] {
        let seen = &seen[check];
        assert!(!seen["text"].as_str().unwrap().is_empty(), "{check}");
        let paid = if deposits { "deposit" } else { "voucher" };
        assert_eq!(sent(seen), [None, Some(paid)], "{check}: {seen:#}");
        due += cost(&seen["tokens"]);
        if check != "after" {
            assert_eq!(stated(seen), cost(&seen["tokens"]), "{check}: {seen:#}");
        }
    }
    let together = seen["together"]["tokens"].as_array().unwrap();
    assert_eq!(together.len(), 3, "on one voucher");
    due += together.iter().map(cost).sum::<u128>();
    let stream = &seen["stream"];
    assert_eq!(sent(stream), [None, Some("voucher")], "{stream:#}");
    assert!(stated(stream) >= cost(&stream["tokens"]), "{stream:#}");
    due += cost(&stream["tokens"]);
    let refused = &seen["no model"];
    assert_eq!(
        (&refused["status"], &refused["code"]),
        (&json!(404), &json!("model_not_found"))
    );
    assert_eq!(sent(refused), [None], "before anything is paid");
    // The story that was left is charged as far as it was told, once its connection is seen to be gone.
    let all = seller.unclaimed_beyond(before + due) - before;
    let left = all - due;
    assert!(
        left >= 3 * PRICES.1 && left < STORY_TOKENS * PRICES.1,
        "three pieces were read, the end was not: {left}"
    );
    all
}

#[test]
#[ignore = "needs outside programs"]
fn sdks_buy_answers_over_http_and_the_seller_claims_what_was_generated_while_it_is_up() {
    let chain = selling::chain();
    let seller = Seller::on(&chain);
    let javascript = buys(&seller, &chain, 1, programs::node, "buy.mjs");
    let python = buys(&seller, &chain, 2, programs::python, "buy.py");
    let earned = javascript + python;
    let channels = seller.home.run(&["channels", "--json"]).json();
    let earning = channels["earning"].as_array().unwrap();
    let due: u128 = earning.iter().map(|channel| units(&channel["due"])).sum();
    assert_eq!((earning.len(), due), (2, earned), "one channel an SDK");
    let claims = seller.home.run(&["channels", "claim", "--json"]).json();
    let claimed = claims["claims"].as_array().unwrap().iter();
    let claimed = claimed.map(|claim| claim["units"].as_str().unwrap().parse::<u128>().unwrap());
    assert_eq!(claimed.sum::<u128>(), earned, "{claims:#}");
    assert_eq!(chain.holds(&seller.account), earned);
    assert_eq!(seller.unclaimed(), 0);
    let rest = chain.holds(SETTLEMENT) + chain.holds(keys::PAYER_ADDRESS);
    assert_eq!(rest, FUNDS - earned, "nothing is missing");
    assert_eq!(seller.node.stop("TERM")["event"], "stopped");
    let again = seller.home.run(&["channels", "claim", "--json"]).json();
    assert_eq!(again["claims"], json!([]), "the stopped node's books agree");
}
