//! What a household did not spend comes back from a device of the network, for a command and while its node is up.

use serde_json::Value;

use crate::budgets::{Trade, ask, question};
use crate::trade::{holds, units};

/// What the buyer has at first, in atomic units.
const FUNDS: u128 = 50_000_000;

fn refund(with: &str) -> [&str; 5] {
    ["channels", "refund", with, "--yes", "--json"]
}

#[test]
#[ignore = "needs outside programs"]
fn what_was_not_spent_comes_back_from_the_device_that_was_paid() {
    let trade = Trade::open();
    let buyer = &trade.buyer;
    let node = trade.start_buyer();
    let (status, answer) = ask(node.url(), "any", "/v1/chat/completions", &question());
    assert_eq!(status, 200, "{answer:#}");
    let charged = units(&answer["hearth"]["charged"][0]);

    let listed = buyer.run(&["channels", "--json"]).json();
    let channel = &listed["paying"][0];
    let (with, due) = (channel["url"].as_str().unwrap(), units(&channel["due"]));
    let device = trade.selling.ready["device"].as_str().unwrap();
    assert_eq!(with, format!("hearth:{device}"));
    assert_eq!(due, units(&channel["balance"]) - charged);
    let back = buyer.run(&refund(with)).json();
    let refunds = back["refunds"].as_array().unwrap();
    assert_eq!(refunds.len(), 1, "{back:#}");
    assert_eq!(refunds[0]["channel"], channel["channel"]);
    assert_eq!(units(&refunds[0]["returned"]), due);
    let account = buyer.household();
    assert_eq!(holds(buyer, &account), FUNDS - charged);
    assert_eq!(buyer.run(&refund(with)).error_code(1), "no_channel");

    // The seller is away: the money stays where it is, and the error says how to have it without the seller.
    let (status, _) = ask(node.url(), "any", "/v1/chat/completions", &question());
    assert_eq!(status, 200);
    drop(trade.selling);
    let error = buyer.run(&refund(with)).error(1);
    assert_eq!(error["code"], "device_unreachable", "{error}");
    let next = error["next"].as_str().unwrap();
    assert!(next.contains("hearth channels close"), "{next}");
    assert_eq!(node.stop("TERM")["event"], "stopped");
    let error = buyer.run(&refund(with)).error(1);
    assert_eq!(error["code"], "not_up", "{error}");
    let left: Vec<Value> = buyer.run(&["channels", "--json"]).json()["paying"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|channel| channel["status"] != "closed")
        .cloned()
        .collect();
    assert_eq!(left.len(), 1, "{left:#?}");
    let id = left[0]["channel"].as_str().unwrap();
    let close = ["channels", "close", id, "--yes", "--json"];
    assert_eq!(buyer.run(&close).json()["outcome"], "withdrawal_begun");
}
