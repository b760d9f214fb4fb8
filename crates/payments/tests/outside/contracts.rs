//! Our settlement contracts under the SDK's own server, facilitator and clients: what a stranger's code does with the
//! canonical contracts, it must be able to do with ours.

use serde_json::json;

use crate::chain::{FUNDS, SETTLEMENT, TestChain, keys};
use crate::express::{Express, PRICE};
use crate::payer::{PAYERS, Payer};

#[test]
#[ignore = "needs outside programs"]
fn an_sdk_server_is_paid_by_sdk_clients_through_our_contracts() {
    let chain = TestChain::anvil();
    let server = Express::start(&chain);
    let mut earned = 0;
    for (number, (sdk, sight)) in PAYERS.into_iter().enumerate() {
        println!("{sdk:?}, {sight:?}");
        let salt = format!("0x{number:064x}");
        let options = json!({ "salt": salt, "voucherKey": keys::SESSION, "schemes": ["batch-settlement", "exact"] });
        let mut payer = Payer::start(&chain, sdk, sight, keys::PAYER, &options);

        let first = payer.call(&server.url("/paid"));
        first.ok();
        assert_eq!(first.sent(), ["deposit"]);
        let less = payer.call(&server.url("/less?charge=137"));
        less.ok();
        assert_eq!(less.charged(), 137);
        assert_eq!(less.view(), PRICE + 137);
        let failed = payer.call(&server.url("/fails"));
        assert_eq!(failed.0["status"], 500);
        assert_eq!(
            failed.view(),
            PRICE + 137,
            "a failing handler charges nothing"
        );

        let refund = payer.step(&json!({ "do": "refund", "url": server.url("/paid") }));
        assert_eq!(refund.0["refund"]["success"], true, "{:#}", refund.0);
        assert_eq!(
            chain.holds(SETTLEMENT),
            earned + PRICE + 137,
            "what is left is the seller's"
        );
        earned += PRICE + 137;
    }
    assert_eq!(chain.holds(keys::PAYER_ADDRESS), FUNDS - earned);
}

#[test]
#[ignore = "needs outside programs"]
fn an_sdk_server_is_paid_once_by_a_signed_transfer_of_our_token() {
    let chain = TestChain::anvil();
    let server = Express::start(&chain);
    for (number, (sdk, sight)) in (1..).zip(PAYERS) {
        println!("{sdk:?}, {sight:?}");
        let mut payer = Payer::start(
            &chain,
            sdk,
            sight,
            keys::PAYER,
            &json!({ "schemes": ["exact"] }),
        );
        let outcome = payer.call(&server.url("/once"));
        outcome.ok();
        assert_eq!(outcome.requests(), 2);
        assert_eq!(chain.holds(keys::RECEIVER), number * PRICE);
        assert_eq!(chain.holds(&payer.address), FUNDS - number * PRICE);
    }
}
