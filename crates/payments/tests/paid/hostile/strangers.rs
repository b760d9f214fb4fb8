//! Strangers without a key, who have read everything that was ever in a transaction.

use alloy_primitives::Bytes;
use alloy_sol_types::SolCall;
use futures::future::join_all;
use hearth_chain::bindings::Settlement;
use hearth_protocol::x402::ErrorCode;
use serde_json::{Value, json};

use super::forger::Forger;
use super::{OK, UNPAID, books};
use crate::world::{World, amount};

/// The vouchers in every transaction of the chain, with the channels that they are for.
fn published(world: &World) -> Vec<Settlement::VoucherClaim> {
    let newest = world.chain.block_number().unwrap();
    let blocks = (0..=newest).map(|number| {
        let params = json!([format!("{number:#x}"), true]);
        world.chain.request("eth_getBlockByNumber", params).unwrap()
    });
    let inputs = blocks.flat_map(|block| block["transactions"].as_array().unwrap().clone());
    let inputs = inputs.filter_map(|tx| tx["input"].as_str()?.parse::<Bytes>().ok());
    inputs.flat_map(|input| claims_in(&input)).collect()
}

fn claims_in(input: &[u8]) -> Vec<Settlement::VoucherClaim> {
    if let Ok(call) = Settlement::multicallCall::abi_decode(input) {
        return call.data.iter().flat_map(|call| claims_in(call)).collect();
    }
    let call = Settlement::claimWithSignatureCall::abi_decode(input);
    call.map(|call| call.voucherClaims).unwrap_or_default()
}

/// What a stranger makes of a voucher that it read: `kind` is a voucher, a refund or a deposit.
fn stolen(forger: &Forger<'_>, claim: &Settlement::VoucherClaim, kind: &str) -> Value {
    let voucher = json!({
        "channelId": forger.domain().channel_id(&forger.config),
        "maxClaimableAmount": claim.voucher.maxClaimableAmount.to_string(),
        "signature": claim.signature,
    });
    forger.payment(json!({
        "type": kind, "channelConfig": forger.config, "voucher": voucher,
    }))
}

fn with_ceiling(mut payment: Value, ceiling: u128) -> Value {
    payment["accepted"]["amount"] = json!(ceiling.to_string());
    payment
}

/// The books without the figures that a payer may have been told: a correction may name a higher one, which costs nobody
/// anything.
async fn money(forger: &Forger<'_>) -> String {
    let books = books(forger).await;
    let mut parts = books.split("told: ");
    let mut money = parts.next().unwrap().to_owned();
    for part in parts {
        money.push_str(&part[part.find(')').unwrap()..]);
    }
    money
}

/// Tries everything that can be done with a voucher from calldata. Nothing may come of it.
async fn try_everything(forger: &Forger<'_>, claim: &Settlement::VoucherClaim, when: &str) {
    let before = money(forger).await;
    let max = claim.voucher.maxClaimableAmount;
    for ceiling in [100, 150, 500, 1_000, max].map(|ceiling| ceiling.min(max)) {
        let payment = with_ceiling(stolen(forger, claim, "voucher"), ceiling);
        for path in ["/hello", "/stream"] {
            let reply = forger.send(path, &payment).await;
            assert_eq!(reply.status, UNPAID, "{when}, {path}, {ceiling}: {reply:?}");
            assert!(reply.settled.is_none(), "{when}: {reply:?}");
        }
    }
    for part in [None, Some(json!("1")), Some(json!("500"))] {
        let mut payment = stolen(forger, claim, "refund");
        if let Some(part) = part {
            payment["payload"]["amount"] = part;
        }
        let reply = forger.send("/hello", &payment).await;
        assert_eq!(reply.status, UNPAID, "{when}, a refund: {reply:?}");
    }
    let mut payment = stolen(forger, claim, "deposit");
    payment["payload"]["deposit"] = json!({
        "amount": "100000",
        "authorization": { "erc3009Authorization": forger.authorization(100_000, 7) },
    });
    let reply = forger.send("/hello", &payment).await;
    assert_eq!(
        reply.status, UNPAID,
        "{when}, a deposit of long ago: {reply:?}"
    );
    assert_eq!(money(forger).await, before, "{when}: something changed");
}

#[tokio::test]
async fn a_voucher_that_a_claim_made_public_is_worth_nothing_to_those_who_read_it() {
    let world = World::start().await;
    // Ten times what is needed is promised ahead, as where models are sold.
    let shop = world.shop(amount(100), amount(1_000)).await;
    let mut forger = Forger::new(&world, &shop).await;
    for ceiling in [1_000, 800, 1_000] {
        let payment = forger.voucher_payment(ceiling);
        assert_eq!(forger.send("/hello", &payment).await.status, OK);
        forger.charged += 100;
    }
    shop.till.settlement.claim(true).await.unwrap();
    let claims = published(&world);
    assert_eq!(claims.len(), 1);
    let max = claims[0].voucher.maxClaimableAmount;
    assert!(
        max < 1_000 + 300,
        "the lowest voucher that covers it: {max}"
    );
    try_everything(&forger, &claims[0], "after a claim").await;
    // A payer whose next voucher would be that very one is told a figure from which it is another.
    let ceiling = max - forger.charged;
    let reply = forger
        .send("/hello", &forger.voucher_payment(ceiling))
        .await;
    let code = ErrorCode::CumulativeMismatch.as_str();
    assert_eq!((reply.status, &*reply.code), (UNPAID, code));
    let payment = forger.voucher_payment_of(max + 1, ceiling);
    assert_eq!(forger.send("/hello", &payment).await.status, OK);
    forger.charged += 100;
    // The payer, who signs anew, goes on; and so does the next claim.
    for ceiling in [1_000, 750] {
        let payment = forger.voucher_payment(ceiling);
        assert_eq!(forger.send("/hello", &payment).await.status, OK);
        forger.charged += 100;
        shop.till.settlement.claim(true).await.unwrap();
        for claim in published(&world) {
            try_everything(&forger, &claim, "after a further claim").await;
        }
    }
    assert_eq!(world.balance(shop.receiver).await, amount(forger.charged));
}

/// What many strangers make of the same vouchers at once, with the identifier of a payment that was answered.
async fn try_at_once(forger: &Forger<'_>, claims: &[Settlement::VoucherClaim], when: &str) {
    let before = money(forger).await;
    let payments: Vec<_> = claims
        .iter()
        .map(|claim| {
            let mut payment = stolen(forger, claim, "voucher");
            payment["extensions"] =
                json!({ "payment-identifier": { "info": { "id": IDENTIFIER } } });
            payment
        })
        .collect();
    let sends = payments.iter().cycle().take(16 * payments.len());
    // Where it was answered, a client that has both gets that reply again, and nobody is charged.
    let replies = join_all(sends.map(|payment| forger.send("/stream", payment))).await;
    for reply in replies {
        assert!(reply.status.is_client_error(), "{when}, at once: {reply:?}");
        assert!(reply.settled.is_none(), "{when}: {reply:?}");
    }
    assert_eq!(money(forger).await, before, "{when}: something changed");
}

/// Of the one payment that may be asked for again.
const IDENTIFIER: &str = "an-identifier-of-the-payer";

// The first shop's connections end beside the wait for its books.
#[tokio::test(flavor = "multi_thread")]
async fn a_published_voucher_stays_worthless_whatever_happens_after_it() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(1_000)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let mut payment = forger.voucher_payment(1_000);
    payment["extensions"] = json!({ "payment-identifier": { "info": { "id": IDENTIFIER } } });
    assert_eq!(forger.send("/hello", &payment).await.status, OK);
    forger.charged += 100;
    shop.till.settlement.claim(true).await.unwrap();
    let all = async |forger: &Forger<'_>, when: &str| {
        let claims = published(&world);
        assert!(!claims.is_empty());
        for claim in &claims {
            try_everything(forger, claim, when).await;
        }
        try_at_once(forger, &claims, when).await;
    };
    all(&forger, "after a claim").await;
    let refund = forger.refund_payment(forger.charged, Some(json!("500")));
    assert_eq!(forger.send("/hello", &refund).await.status, OK);
    all(&forger, "after a refund").await;
    let top_up = forger.deposit_payment(&forger.authorization(20_000, 8), 20_000);
    assert_eq!(forger.send("/hello", &top_up).await.status, OK);
    forger.charged += 100;
    all(&forger, "after a deposit").await;
    let (charged, asset) = (forger.charged, forger.asset.clone());
    drop(forger);
    drop(shop);
    let shop = world.shop(amount(100), amount(1_000)).await;
    let mut forger = Forger::at(&world, &shop, charged, asset);
    all(&forger, "after a restart").await;
    let payment = forger.voucher_payment(1_000);
    let held = forger.send("/held", &payment);
    let meanwhile = async {
        shop.held_request().await;
        for claim in published(&world) {
            let reply = forger
                .send("/hello", &stolen(&forger, &claim, "voucher"))
                .await;
            assert_eq!(
                reply.status, UNPAID,
                "beside the payer's own request: {reply:?}"
            );
        }
        shop.turnstile.add_permits(1);
    };
    let (held, ()) = futures::join!(held, meanwhile);
    assert_eq!(held.status, OK);
    forger.charged += 100;
    let refund = forger.refund_payment(forger.charged, None);
    assert_eq!(forger.send("/hello", &refund).await.status, OK);
    let claims = published(&world);
    for claim in &claims {
        let reply = forger
            .send("/hello", &stolen(&forger, claim, "voucher"))
            .await;
        assert_eq!(
            reply.status, UNPAID,
            "after everything was returned: {reply:?}"
        );
    }
    shop.till.settlement.claim(true).await.unwrap();
    assert_eq!(world.balance(shop.receiver).await, amount(forger.charged));
}

#[tokio::test]
async fn a_channel_that_was_claimed_to_the_unit_cannot_be_closed_by_strangers() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    forger.buy_honestly().await;
    shop.till.settlement.claim(true).await.unwrap();
    for claim in published(&world) {
        assert_eq!(claim.voucher.maxClaimableAmount, forger.charged);
        try_everything(&forger, &claim, "claimed to the unit").await;
    }
    // What the payer would sign is what everyone has: it is told a figure that only it can sign.
    let refund = forger.refund_payment(forger.charged, None);
    let reply = forger.send("/hello", &refund).await;
    let code = ErrorCode::CumulativeMismatch.as_str();
    assert_eq!((reply.status, &*reply.code), (UNPAID, code));
    let refund = forger.refund_payment(forger.charged - 1, None);
    let reply = forger.send("/hello", &refund).await;
    assert_eq!(reply.status, OK, "{reply:?}");
    let settled = reply.settled.unwrap();
    assert_eq!(settled.amount, Some((100_000 - forger.charged).to_string()));
}

#[tokio::test]
async fn a_refund_that_was_made_cannot_be_made_again_by_those_who_saw_it() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(1_000)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let refund = forger.refund_payment(forger.charged, Some(json!("500")));
    assert_eq!(forger.send("/hello", &refund).await.status, OK);
    let before = books(&forger).await;
    for part in [Some(json!("500")), Some(json!("1")), None] {
        let mut again = refund.clone();
        match part {
            Some(part) => again["payload"]["amount"] = part,
            None => drop(again["payload"].as_object_mut().unwrap().remove("amount")),
        }
        let reply = forger.send("/hello", &again).await;
        let code = ErrorCode::CumulativeMismatch.as_str();
        assert_eq!((reply.status, &*reply.code), (UNPAID, code));
    }
    assert_eq!(books(&forger).await, before);
    for claim in published(&world) {
        try_everything(&forger, &claim, "claimed by a refund").await;
    }
    let payment = forger.voucher_payment(1_000);
    assert_eq!(forger.send("/hello", &payment).await.status, OK);
    forger.charged += 100;
    let refund = forger.refund_payment(forger.charged, None);
    assert_eq!(forger.send("/hello", &refund).await.status, OK);
}

#[tokio::test]
async fn a_refund_is_asked_for_by_exactly_what_was_charged() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(1_000)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let payment = forger.voucher_payment(1_000);
    assert_eq!(forger.send("/hello", &payment).await.status, OK);
    forger.charged += 100;
    let before = books(&forger).await;
    // Every voucher that was ever sent to this provider, and more.
    for max in [0, 1, 100, 199, 201, 1_100] {
        let refund = forger.refund_payment(max, None);
        let reply = forger.send("/hello", &refund).await;
        let code = ErrorCode::CumulativeMismatch.as_str();
        assert_eq!((reply.status, &*reply.code), (UNPAID, code), "{max}");
    }
    assert_eq!(books(&forger).await, before, "no gas was spent");
}

#[tokio::test]
async fn a_deposit_that_is_too_small_is_refused_before_anything_is_sent() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let forger = Forger::new(&world, &shop).await;
    let before = books(&forger).await;
    for units in [1, 100, 999] {
        let payment = forger.deposit_payment(&forger.authorization(units, 8), units);
        let reply = forger.send("/hello", &payment).await;
        let code = ErrorCode::DepositPayload.as_str();
        assert_eq!((reply.status, &*reply.code), (UNPAID, code), "{units}");
    }
    assert_eq!(books(&forger).await, before, "no gas was spent");
    let payment = forger.deposit_payment(&forger.authorization(1_000, 8), 1_000);
    assert_eq!(forger.send("/hello", &payment).await.status, OK);
}
