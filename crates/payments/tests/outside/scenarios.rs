//! How unmodified clients fare with our paid server: docs/spec/07-interoperability.md, case by case.
//!
//! Every case is run with each kind of payer, on the embedded chain and on anvil. At its end no atomic unit may be
//! missing: what the payer and the seller hold and what stands in channels is what the payer began with.

use serde_json::{Value, json};

use crate::chain::{FUNDS, SETTLEMENT, TestChain, keys};
use crate::embedded;
use crate::payer::{Outcome, PAYERS, Payer, Sight};
use crate::seller::{CEILING, NEED, Seller};
use crate::upstream::Upstream;

/// The deposit that the server asks for and these clients make.
const DEPOSIT: u128 = 10 * CEILING;

/// After as many calls, a voucher for the first ceiling of the channel leaves no room for another call.
const CALLS_PAST_HEADROOM: u128 = (CEILING - NEED) / NEED + 1;

/// One payer before one server on one chain.
struct Scene<'a> {
    chain: &'a TestChain,
    upstream: &'a Upstream,
    seller: Seller,
    payer: Payer,
    sight: Sight,
}

impl Scene<'_> {
    /// One paid call that must succeed in two requests; returns what the client's record says was charged.
    #[track_caller]
    fn buys(&mut self, route: &str) -> u128 {
        let outcome = self.call(route);
        outcome.ok();
        assert_eq!(outcome.requests(), 2, "{:#}", outcome.0);
        outcome.view()
    }

    fn call(&mut self, route: &str) -> Outcome {
        self.step("call", route, &json!({}))
    }

    fn step(&mut self, what: &str, route: &str, more: &Value) -> Outcome {
        let step = self.request(what, route, more);
        self.payer.step(&step)
    }

    fn request(&self, what: &str, route: &str, more: &Value) -> Value {
        let mut step = json!({ "do": what, "url": self.seller.url(route) });
        for (name, value) in more.as_object().into_iter().flatten() {
            step[name] = value.clone();
        }
        step
    }

    /// The same for a client whose record says less than was charged. One that can read the chain follows the correction;
    /// a bare key cannot say that it is not a stranger with an old voucher, and takes its money back by a withdrawal.
    #[track_caller]
    fn is_refunded_all_but_if_it_sees(&mut self, charged: u128) {
        if self.sight == Sight::ReadsChain {
            return self.is_refunded_all_but(charged);
        }
        let held = self.chain.holds(SETTLEMENT);
        let refund = self.step("refund", "/echo", &json!({}));
        let error = refund.0["error"].as_str().expect("a refusal");
        // Each client has its own words for a 402.
        let is_refusal = error.contains("cumulative_amount_mismatch") || error.contains("402");
        assert!(is_refusal, "{error}");
        assert_eq!(self.chain.holds(SETTLEMENT), held, "nothing moved");
    }

    /// A full refund, after which the seller has `charged` and the payer the rest, to the atomic unit.
    #[track_caller]
    fn is_refunded_all_but(&mut self, charged: u128) {
        let refund = self.step("refund", "/echo", &json!({}));
        assert_eq!(refund.0["refund"]["success"], true, "{:#}", refund.0);
        let unsettled = self.chain.claimed_for(keys::RECEIVER);
        let seller = self.chain.holds(keys::RECEIVER) + unsettled;
        assert_eq!(seller, charged, "the seller has what it charged");
        assert_eq!(
            self.chain.holds(keys::PAYER_ADDRESS),
            FUNDS - charged,
            "the payer has the rest"
        );
        assert_eq!(
            self.chain.holds(SETTLEMENT),
            unsettled,
            "nothing is left in the channel"
        );
    }
}

/// Runs `case` with each kind of payer on each chain, each pair in a world of its own.
fn with_every_payer(options: &Value, case: impl Fn(&mut Scene<'_>)) {
    let upstream = Upstream::start();
    for (name, start) in [
        ("embedded", embedded::start as fn() -> TestChain),
        ("anvil", TestChain::anvil),
    ] {
        for (sdk, sight) in PAYERS {
            println!("{name}, {sdk:?}, {sight:?}");
            let chain = start();
            let seller = Seller::start(&chain, &upstream);
            let payer = Payer::start(&chain, sdk, sight, keys::PAYER, options);
            case(&mut Scene {
                chain: &chain,
                upstream: &upstream,
                seller,
                payer,
                sight,
            });
        }
    }
}

#[test]
#[ignore = "needs outside programs"]
fn calls_are_paid_from_one_deposit_and_charged_what_they_cost() {
    with_every_payer(&json!({}), |scene| {
        let first = scene.call("/echo");
        first.ok();
        assert_eq!(first.sent(), ["deposit"]);
        assert_eq!((first.charged(), first.balance()), (NEED, DEPOSIT));
        assert_eq!(scene.buys("/echo?charge=37"), NEED + 37);
        let posted = scene.step("call", "/echo", &json!({ "body": { "question": 1 } }));
        assert!(
            posted.ok().contains(r#""question":1"#),
            "the body arrives behind the price"
        );
        assert_eq!(posted.sent(), ["voucher"]);
        scene.seller.claim();
        assert_eq!(
            scene.chain.holds(keys::RECEIVER),
            NEED + 37 + NEED,
            "one claim pays it all"
        );
        scene.is_refunded_all_but(NEED + 37 + NEED);
    });
}

#[test]
#[ignore = "needs outside programs"]
fn a_session_key_signs_what_the_household_deposited() {
    with_every_payer(&json!({ "voucherKey": keys::SESSION }), |scene| {
        assert_eq!(scene.buys("/echo"), NEED);
        assert_eq!(scene.buys("/echo"), 2 * NEED);
        scene.is_refunded_all_but(2 * NEED);
    });
}

#[test]
#[ignore = "needs outside programs"]
fn one_signed_transfer_pays_for_one_call() {
    with_every_payer(&json!({ "schemes": ["exact"] }), |scene| {
        for bought in 1..=2 {
            let outcome = scene.call("/echo");
            outcome.ok();
            assert_eq!(outcome.requests(), 2);
            assert_eq!(scene.chain.holds(keys::RECEIVER), bought * NEED);
        }
        assert_eq!(scene.call("/fails").0["status"], 500);
        assert_eq!(
            scene.chain.holds(keys::PAYER_ADDRESS),
            FUNDS - 2 * NEED,
            "a failure costs nothing"
        );
    });
}

#[test]
#[ignore = "needs outside programs"]
fn a_failing_service_costs_nothing() {
    with_every_payer(&json!({}), |scene| {
        scene.buys("/echo");
        let failed = scene.call("/fails");
        assert_eq!(failed.0["status"], 500);
        assert_eq!(
            failed.0["response"],
            Value::Null,
            "no statement beside a failure"
        );
        assert_eq!(scene.buys("/echo"), 2 * NEED);
        scene.is_refunded_all_but(2 * NEED);
    });
}

#[test]
#[ignore = "needs outside programs"]
fn a_stream_reaches_its_reader_before_it_ends_and_the_channel_goes_on() {
    with_every_payer(&json!({}), |scene| {
        for _ in 0..2 {
            let stream = scene.request("stream", "/stream?charge=40", &json!({}));
            scene.payer.begin(&stream);
            assert!(scene.payer.first_bytes().contains("first"));
            assert_eq!(scene.upstream.release(), 1);
            let outcome = scene.payer.end();
            assert!(outcome.ok().contains("last"));
            assert_eq!(outcome.requests(), 2, "{:#}", outcome.0);
        }
        scene.buys("/echo");
        scene.is_refunded_all_but(40 + 40 + NEED);
    });
}

#[test]
#[ignore = "needs outside programs"]
fn calls_at_the_same_time_are_all_served_as_far_as_one_voucher_reaches() {
    with_every_payer(&json!({}), |scene| {
        scene.buys("/echo");
        let mut served = 1;
        // Calls that are made together carry one and the same voucher: its ceiling covers six.
        for together in [5, 5, 6] {
            let outcome = scene.step("parallel", "/echo", &json!({ "n": together }));
            for call in outcome.0["calls"].as_array().expect("one outcome a call") {
                assert_eq!(call["status"], 200, "{together} at once: {call:#}");
            }
            served += together;
        }
        // Ten do not fit; a payer that can read the chain may sign again for the rest.
        let outcome = scene.step("parallel", "/echo", &json!({ "n": 10 }));
        let calls = outcome.0["calls"].as_array().expect("one outcome a call");
        let more = calls.iter().filter(|call| call["status"] == 200).count();
        assert!((6..=10).contains(&more), "{more} of 10: {:#}", outcome.0);
        served += u128::try_from(more).expect("at most ten");
        // One that signed again while replies were on their way may count some of them twice, and is put
        // right by its next call: one request more.
        let next = scene.call("/echo");
        next.ok();
        assert!(next.requests() <= 3, "{:#}", next.0);
        scene.is_refunded_all_but((served + 1) * NEED);
    });
}

#[test]
#[ignore = "needs outside programs"]
fn a_server_that_is_ended_goes_on_where_it_was() {
    with_every_payer(&json!({}), |scene| {
        for bought in 1..=3 {
            assert_eq!(scene.buys("/echo"), bought * NEED);
            scene.seller.restart();
        }
        scene.is_refunded_all_but(3 * NEED);
    });
}

#[test]
#[ignore = "needs outside programs"]
fn a_server_that_lost_its_memory_learns_from_the_next_voucher() {
    with_every_payer(&json!({}), |scene| {
        scene.buys("/echo");
        scene.buys("/echo");
        scene.seller.restart_without_memory();
        scene.call("/echo").ok();
        scene.is_refunded_all_but(3 * NEED);
    });
}

#[test]
#[ignore = "needs outside programs"]
fn a_server_that_was_restored_from_a_backup_learns_from_the_next_voucher() {
    with_every_payer(&json!({}), |scene| {
        scene.buys("/echo");
        let backup = scene.seller.back_up();
        scene.buys("/echo");
        scene.buys("/echo");
        scene.seller.restart_from(&backup);
        scene.call("/echo").ok();
        scene.is_refunded_all_but(4 * NEED);
    });
}

#[test]
#[ignore = "needs outside programs"]
fn a_client_that_lost_its_record_is_served_while_the_quoted_headroom_covers_what_it_forgot() {
    with_every_payer(&json!({}), |scene| {
        scene.buys("/echo");
        scene.buys("/echo");
        scene.payer.step(&json!({ "do": "forget" }));
        // What it forgot could as well be on its way to it: it is told its own charges.
        assert_eq!(scene.buys("/echo"), NEED);
        assert_eq!(scene.buys("/echo"), 2 * NEED);
        scene.is_refunded_all_but_if_it_sees(4 * NEED);
    });
}

#[test]
#[ignore = "needs outside programs"]
fn a_client_that_forgot_more_recovers_if_it_can_see_the_chain_and_loses_nothing_if_not() {
    with_every_payer(&json!({}), |scene| {
        for _ in 0..CALLS_PAST_HEADROOM {
            scene.buys("/echo");
        }
        scene.payer.step(&json!({ "do": "forget" }));
        let lost = scene.call("/echo");
        if scene.sight == Sight::ReadsChain {
            lost.ok();
            assert_eq!(lost.requests(), 3, "one more request at most: {:#}", lost.0);
        } else {
            assert_eq!(lost.0["status"], 402, "{:#}", lost.0);
            let held = scene.chain.holds(SETTLEMENT);
            assert_eq!(held, DEPOSIT, "no second deposit was taken");
            scene
                .payer
                .step(&json!({ "do": "restore", "name": "forgotten" }));
            scene.buys("/echo");
        }
        scene.is_refunded_all_but((CALLS_PAST_HEADROOM + 1) * NEED);
    });
}

#[test]
#[ignore = "needs outside programs"]
fn a_client_with_an_old_record_pays_no_less() {
    with_every_payer(&json!({}), |scene| {
        scene.buys("/echo");
        scene.payer.step(&json!({ "do": "save", "name": "old" }));
        for _ in 0..CALLS_PAST_HEADROOM {
            scene.buys("/echo");
        }
        scene.payer.step(&json!({ "do": "restore", "name": "old" }));
        let outcome = scene.call("/echo");
        if scene.sight == Sight::ReadsChain {
            outcome.ok();
            assert!(outcome.requests() <= 3, "{:#}", outcome.0);
            scene.is_refunded_all_but((CALLS_PAST_HEADROOM + 2) * NEED);
        } else {
            // Its voucher is for less than was charged already, and it cannot be told so.
            assert_eq!(outcome.0["status"], 402, "{:#}", outcome.0);
        }
    });
}

#[test]
#[ignore = "needs outside programs"]
fn a_part_is_refunded_the_rest_goes_on_and_after_a_full_refund_the_channel_is_used_again() {
    with_every_payer(&json!({}), |scene| {
        scene.buys("/echo");
        let part = scene.step("refund", "/echo", &json!({ "amount": "100" }));
        assert_eq!(part.0["refund"]["amount"], "100", "{:#}", part.0);
        assert_eq!(
            scene.chain.holds(keys::PAYER_ADDRESS),
            FUNDS - DEPOSIT + 100
        );
        assert_eq!(scene.buys("/echo"), 2 * NEED);
        scene.is_refunded_all_but(2 * NEED);
        // What was charged is within the headroom of a first voucher, so that even a bare key comes back.
        let again = scene.call("/echo");
        again.ok();
        assert_eq!(again.sent(), ["deposit"]);
        scene.is_refunded_all_but_if_it_sees(3 * NEED);
    });
}

#[test]
#[ignore = "needs outside programs"]
fn a_call_that_is_asked_again_with_its_identifier_is_served_and_charged_once() {
    with_every_payer(&json!({}), |scene| {
        let id = json!({ "paymentId": "order-0123456789abcdef" });
        let first = scene.step("call", "/echo", &id);
        first.ok();
        assert_eq!(
            first.0["sent"][1]["paymentId"], "order-0123456789abcdef",
            "the server offers the extension"
        );
        scene.buys("/echo");
        let served = scene.upstream.served();
        let other = scene.step("call", "/echo", &id);
        assert_eq!(
            other.0["status"], 409,
            "another payment under the same identifier: {:#}",
            other.0
        );
        assert_eq!(scene.upstream.served(), served, "the service was not asked");
    });
}
