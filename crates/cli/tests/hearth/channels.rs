//! `hearth channels`: a payer opens a channel, pays from it, and gets back what is left, with the service or without.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::chain::SETTLEMENT;
use crate::program::{Home, Running, RunningNode};
use crate::trade::{Market, units};

/// What the buyer has at first, in atomic units.
const FUNDS: u128 = 50_000_000;
/// The price of a request, in atomic units.
const PRICE: u128 = 10_000;
/// What is put into a channel, as a person writes it and in atomic units.
const DEPOSIT: (&str, u128) = ("2", 2_000_000);
/// How often the chain is looked at for a deposit that was under way.
const LOOKS_MAX: usize = 100;

impl Market {
    fn opens(&self, url: &str) -> Value {
        let open = [
            "channels",
            "open",
            url,
            "--deposit",
            DEPOSIT.0,
            "--yes",
            "--json",
        ];
        self.buyer.run(&open).json()
    }

    fn pays(&self, url: &str) {
        let paid = self.buyer.run(&["pay", url, "--yes", "--json"]).json();
        assert_eq!(
            (&paid["status"], units(&paid["payment"]["charged"])),
            (&Value::from(200), PRICE)
        );
    }

    /// The only channel from which the buyer pays.
    fn channel(&self) -> Value {
        self.channel_by("list")
    }

    fn channel_by(&self, how: &str) -> Value {
        let listed = self.buyer.run(&["channels", how, "--json"]).json();
        let paying = listed["paying"].as_array().unwrap();
        assert_eq!(paying.len(), 1, "{listed:#}");
        paying[0].clone()
    }

    fn has_no_channel(&self) {
        let none = self.buyer.run(&["channels", "--json"]).json();
        assert_eq!(none["paying"], json!([]));
        assert_eq!(self.holds(&self.buyer.household()), FUNDS);
    }

    fn close(&self, channel: &str) -> Value {
        self.buyer
            .run(&["channels", "close", channel, "--yes", "--json"])
            .json()
    }
}

/// What one refund brought.
fn returned(back: &Value) -> u128 {
    let refunds = back["refunds"].as_array().unwrap();
    assert_eq!(refunds.len(), 1, "{back:#}");
    units(&refunds[0]["returned"])
}

fn weather(service: &Running) -> String {
    format!("{}/weather", service.url())
}

/// Moves the time of a chain that lets it be moved, and gives it a block at that time.
fn pass_time(chain: &Running, seconds: u64) {
    ask(chain, "evm_increaseTime", &json!([seconds]));
    ask(chain, "evm_mine", &json!([]));
}

/// One call of a chain's JSON-RPC.
fn ask(chain: &Running, method: &str, params: &Value) {
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let body = call.to_string();
    let mut stream = TcpStream::connect(chain.url().trim_start_matches("http://")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.contains("\"result\""), "{reply}");
}

#[test]
fn a_channel_is_opened_paid_from_and_refunded() {
    let market = Market::open();
    let service = market.serve();
    let url = weather(&service);
    let opened = market.opens(&url);
    assert_eq!(units(&opened["deposit"]), DEPOSIT.1, "{opened:#}");
    assert_eq!(opened["counterpart"], market.seller.household());
    let hash = opened["transaction"].as_str().unwrap();
    let seen = market.buyer.run(&["chain", "tx", hash, "--json"]).json();
    assert_eq!(seen["status"], "succeeded");
    let channel = market.channel();
    assert_eq!(channel["channel"], opened["channel"]);
    assert_eq!(
        (units(&channel["balance"]), units(&channel["due"])),
        (DEPOSIT.1, DEPOSIT.1)
    );

    market.pays(&url);
    market.pays(&url);
    let charged = 2 * PRICE;
    let channel = market.channel();
    assert_eq!(
        channel["channel"], opened["channel"],
        "it is paid from this channel"
    );
    assert_eq!(
        (
            units(&channel["balance"]),
            units(&channel["charged"]),
            units(&channel["due"])
        ),
        (DEPOSIT.1, charged, DEPOSIT.1 - charged),
        "without a further deposit"
    );
    assert_eq!(market.holds(&market.buyer.household()), FUNDS - DEPOSIT.1);

    let refund = ["channels", "refund", &url, "--json"];
    assert_eq!(market.buyer.run(&refund).error_code(2), "not_confirmed");
    let refund = [&refund[..], &["--yes"]].concat();
    let back = market.buyer.run(&refund).json();
    assert_eq!(returned(&back), DEPOSIT.1 - charged);
    assert_eq!(market.channel()["status"], "closed");
    assert_eq!(market.holds(&market.buyer.household()), FUNDS - charged);
    assert_eq!(market.buyer.run(&refund).error_code(1), "no_channel");
    let free = ["channels", "refund", &market.upstream, "--yes", "--json"];
    assert_eq!(market.buyer.run(&free).error_code(1), "no_channel");
}

#[test]
fn the_node_that_is_up_pays_and_gets_back_for_the_commands() {
    let market = Market::open();
    let buyer = &market.buyer;
    buyer.edit_config("reach = \"local\"", "reach = \"loopback\"");
    let node = RunningNode::start(buyer, &["--no-model"]);
    let service = market.serve();
    let url = weather(&service);

    let undecided = ["channels", "open", &url, "--deposit", "2", "--json"];
    let error = buyer.run(&undecided).error(2);
    let asked = error["message"].as_str().unwrap();
    assert!(asked.contains("Put 2 TESTUSD"), "{error}");
    let unasked = buyer.run(&["pay", &url, "--json"]).error(2);
    let asked = unasked["message"].as_str().unwrap();
    assert!(asked.contains("at most 0.01 TESTUSD"), "{unasked}");
    for (deposit, code) in [("much", "bad_request"), ("5.000001", "beyond_limits")] {
        let open = [
            "channels",
            "open",
            &url,
            "--deposit",
            deposit,
            "--yes",
            "--json",
        ];
        assert_eq!(buyer.run(&open).error_code(1), code, "{deposit}");
    }
    market.has_no_channel();

    let opened = market.opens(&url);
    market.pays(&url);
    let paid = buyer.run(&["pay", &url, "--yes", "--times", "3", "--json"]);
    assert_eq!(paid.json()["charged_units"], (3 * PRICE).to_string());
    let answer = buyer.run(&["pay", &url, "--yes", "--json"]).json();
    assert_eq!(answer["body"], "hello");
    let charged = 5 * PRICE;
    let channel = market.channel_by("look");
    assert_eq!(channel["channel"], opened["channel"]);
    assert_eq!(units(&channel["charged"]), charged);
    assert_eq!(market.holds(&buyer.household()), FUNDS - DEPOSIT.1);
    let refund = ["channels", "refund", &url, "--yes", "--json"];
    assert_eq!(returned(&buyer.run(&refund).json()), DEPOSIT.1 - charged);
    assert_eq!(buyer.run(&refund).error_code(1), "no_channel");
    assert_eq!(market.holds(&buyer.household()), FUNDS - charged);

    let opened = market.opens(&url);
    let begun = market.close(opened["channel"].as_str().unwrap());
    assert_eq!(begun["outcome"], "withdrawal_begun");
    let listed = buyer.run(&["channels", "--json"]).json();
    assert_eq!(node.stop("TERM")["event"], "stopped");
    let after = buyer.run(&["channels", "--json"]).json();
    assert_eq!(after["paying"], listed["paying"], "the books are on disk");
}

#[test]
fn a_channel_is_closed_without_the_service_after_its_delay() {
    let market = Market::open_on(&["--dev-rpc"]);
    for (from, to) in [
        ("withdraw_delay_s = 86400", "withdraw_delay_s = 900"),
        ("before_withdrawal_s = 21600", "before_withdrawal_s = 300"),
    ] {
        market.seller.edit_config(from, to);
    }
    let service = market.serve();
    let url = weather(&service);
    let opened = market.opens(&url);
    let channel = opened["channel"].as_str().unwrap();
    market.pays(&url);
    assert_eq!(service.stop("TERM")["event"], "stopped");

    let unasked = market.buyer.run(&["channels", "close", channel, "--json"]);
    assert_eq!(unasked.error_code(2), "not_confirmed");
    let begun = market.close(channel);
    assert_eq!(begun["outcome"], "withdrawal_begun");
    let ends_at_s = begun["ends_at_s"].as_u64().unwrap();
    let waiting = market.close(channel);
    assert_eq!(waiting["outcome"], "withdrawal_waiting");
    assert!(
        waiting["ends_at_s"].as_u64().unwrap().abs_diff(ends_at_s) <= 60,
        "{begun} {waiting}"
    );
    assert_eq!(market.holds(SETTLEMENT), DEPOSIT.1, "nothing has moved yet");

    // Who sells has the delay to claim what is due.
    let claims = market.seller.run(&["channels", "claim", "--json"]).json();
    assert_eq!(
        claims["claims"][0]["units"],
        PRICE.to_string(),
        "{claims:#}"
    );
    pass_time(&market.chain, 901);
    let done = market.close(channel);
    assert_eq!(done["outcome"], "withdrawn", "{done:#}");
    assert_eq!(done["units"], (DEPOSIT.1 - PRICE).to_string());
    assert_eq!(market.holds(&market.buyer.household()), FUNDS - PRICE);
    assert_eq!(market.holds(&market.seller.household()), PRICE);
    assert_eq!(market.holds(SETTLEMENT), 0);
    let closed = market.channel();
    assert_eq!(
        (&closed["status"], units(&closed["due"])),
        (&Value::from("closed"), 0)
    );
    let again = market
        .buyer
        .run(&["channels", "close", channel, "--yes", "--json"]);
    assert_eq!(again.error_code(1), "no_channel");
}

#[test]
fn what_makes_no_sense_opens_and_closes_nothing() {
    let market = Market::open();
    let service = market.serve();
    let url = weather(&service);
    for (address, deposit, code) in [
        ("http://127.0.0.1:1/", "2", "service_unreachable"),
        ("weather", "2", "bad_request"),
        (&market.upstream, "2", "free"),
        (&url, "0", "bad_request"),
        (&url, "-1", "bad_request"),
        (&url, "much", "bad_request"),
        (&url, "0.0000001", "bad_request"),
        (&url, "0.009999", "bad_request"),
        (&url, "5.000001", "beyond_limits"),
    ] {
        let open = [
            "channels",
            "open",
            address,
            "--deposit",
            deposit,
            "--yes",
            "--json",
        ];
        let outcome = market.buyer.run(&open);
        assert_eq!(outcome.error_code(1), code, "{address} {deposit}");
    }
    let undecided = ["channels", "open", &url, "--deposit", "2", "--json"];
    let error = market.buyer.run(&undecided).error(2);
    assert_eq!(error["code"], "not_confirmed");
    assert!(
        error["message"].as_str().unwrap().contains("Put 2 TESTUSD"),
        "{error}"
    );
    assert_eq!(
        market
            .buyer
            .run(&["channels", "open", &url, "--json"])
            .error_code(2),
        "usage"
    );

    let poor = Home::with_wallet();
    poor.point_config_at(market.chain.url());
    let open = [
        "channels",
        "open",
        &url,
        "--deposit",
        "2",
        "--yes",
        "--json",
    ];
    assert_eq!(poor.run(&open).error_code(1), "not_deposited");
    let none = poor.run(&["channels", "--json"]).json();
    assert_eq!(
        none["paying"],
        json!([]),
        "a deposit that was never sent leaves no channel"
    );

    market.has_no_channel();
}

#[test]
fn what_names_no_channel_brings_nothing_back() {
    let market = Market::open();
    for with in ["nonsense", "hearth:zz"] {
        let refund = ["channels", "refund", with, "--yes", "--json"];
        let error = market.buyer.run(&refund).error(1);
        assert_eq!(error["code"], "bad_request", "{error}");
        let said = error["message"].as_str().unwrap();
        assert!(said.contains("names no channel"), "{said}");
    }
    let unknown = format!("0x{}", "00".repeat(32));
    for (channel, code) in [("0x12", "bad_request"), (unknown.as_str(), "no_channel")] {
        let close = ["channels", "close", channel, "--yes", "--json"];
        assert_eq!(market.buyer.run(&close).error_code(1), code, "{channel}");
        // Nor is anybody asked whether to close what there is not.
        let unasked = ["channels", "close", channel, "--json"];
        let unasked = market.buyer.run(&unasked).error_code(1);
        assert_eq!(unasked, "no_channel", "{channel}");
    }
    market.has_no_channel();
}

#[test]
fn a_channel_whose_deposit_was_cut_off_is_not_lost() {
    let market = Market::open();
    let service = market.serve();
    let url = weather(&service);
    let open = [
        "channels",
        "open",
        &url,
        "--deposit",
        DEPOSIT.0,
        "--yes",
        "--json",
    ];
    let mut command = market.buyer.command(&open);
    let mut child = command.env("RUST_LOG", "trace").spawn().unwrap();
    // The program says this when the transaction leaves; where it is killed the chain may have it or not.
    let log = BufReader::new(child.stderr.take().unwrap());
    let sends =
        |line: &String| line.contains("sending request") && line.contains("eth_sendRawTransaction");
    assert!(
        log.lines().map_while(Result::ok).any(|line| sends(&line)),
        "it sends a transaction"
    );
    child.kill().unwrap();
    child.wait().unwrap();

    let channel = market.channel();
    assert_eq!(channel["status"], "open", "{channel:#}");
    let arrived = (0..LOOKS_MAX).any(|_| units(&market.channel_by("look")["balance"]) == DEPOSIT.1);
    assert!(arrived, "what was signed is sent again, once");
    assert_eq!(market.holds(&market.buyer.household()), FUNDS - DEPOSIT.1);
    market.pays(&url);
    assert_eq!(market.channel()["channel"], channel["channel"]);
    assert_eq!(
        market.holds(SETTLEMENT),
        DEPOSIT.1,
        "without a further deposit"
    );
    market
        .buyer
        .run(&["channels", "refund", &url, "--yes", "--json"])
        .json();
    assert_eq!(market.holds(&market.buyer.household()), FUNDS - PRICE);
}
