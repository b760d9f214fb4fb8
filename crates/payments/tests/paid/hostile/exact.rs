//! Hostile one-off payments.

use alloy_primitives::{B256, U256};
use alloy_sol_types::SolCall;
use hearth_chain::bindings::IERC3009;
use hearth_chain::embedded::TEST_DOLLAR_ADDRESS;
use hearth_payments::offer::AcceptedAsset;
use hearth_protocol::signature::Signature;
use hearth_protocol::x402::{Authorization, ErrorCode};
use serde_json::{Value, json};

use super::forger::{Forger, Reply};
use super::{OK, UNPAID, nobody, refused};
use crate::world::{POOR, World, amount, key};

#[tokio::test]
async fn one_off_payments_that_are_wrong_in_one_place_get_the_code_of_that_place() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let honest = forger.exact(1);
    let mut attempts = Vec::new();
    let mut forge = |name, code, edit: fn(&mut hearth_protocol::x402::Authorization)| {
        let mut authorization = honest.clone();
        edit(&mut authorization);
        attempts.push((name, code, forger.exact_payment(&authorization, &key(1))));
    };
    forge("too little", ErrorCode::ExactValue, |it| {
        it.value = amount(99)
    });
    forge("too much", ErrorCode::ExactValue, |it| {
        it.value = amount(101)
    });
    forge("somebody else", ErrorCode::ExactRecipient, |it| {
        it.to = nobody()
    });
    forge("expired", ErrorCode::ExactValidBefore, |it| {
        it.valid_before = 1_000
    });
    forge("not yet", ErrorCode::ExactValidAfter, |it| {
        it.valid_after = u64::from(u32::MAX) - 1;
    });
    forge("another's account", ErrorCode::ExactSignature, |it| {
        it.from = nobody()
    });
    let mut poor = honest.clone();
    poor.from = key(0x66).address();
    let poor = forger.exact_payment(&poor, &key(0x66));
    attempts.push(("no funds", ErrorCode::InsufficientFunds, poor));
    let mut cheap = forger.exact_payment(&honest, &key(1));
    cheap["accepted"]["amount"] = json!("99");
    attempts.push(("another price", ErrorCode::InvalidRequirements, cheap));
    for (name, code, payment) in attempts {
        let send = async |forger: &Forger<'_>| forger.send("/hello", &payment).await;
        refused(&mut forger, name, send, UNPAID, code.as_str()).await;
    }
}

#[tokio::test]
async fn a_one_off_payment_is_taken_once() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let payment = forger.exact_payment(&forger.exact(1), &key(1));
    let failed = forger.send("/fails", &payment).await;
    assert_eq!(failed.status, 500, "a failed request takes nothing");
    let before = world.balance(shop.receiver).await;
    let reply = forger.send("/hello", &payment).await;
    assert_eq!((reply.status, &*reply.body), (OK, "hello"));
    let after = world.balance(shop.receiver).await;
    assert_eq!(after, before.saturating_add(amount(100)));
    let used = ErrorCode::ExactNonceUsed.as_str();
    let send = async |forger: &Forger<'_>| forger.send("/hello", &payment).await;
    refused(&mut forger, "used before", send, UNPAID, used).await;
}

#[tokio::test]
async fn a_one_off_payment_in_hand_is_not_taken_a_second_time() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let payment = forger.exact_payment(&forger.exact(2), &key(1));
    let held = forger.send("/held", &payment);
    let second = async {
        shop.held_request().await;
        let reply = forger.send("/hello", &payment).await;
        shop.turnstile.add_permits(1);
        reply
    };
    let (first, second) = futures::join!(held, second);
    assert_eq!(first.status, OK);
    assert_eq!(second.status, UNPAID);
    assert_eq!(second.code, ErrorCode::ExactNonceUsed.as_str());
    assert_eq!(world.balance(shop.receiver).await, amount(100));
    forger.buy_honestly().await;
}

#[tokio::test]
async fn a_balance_for_one_payment_starts_work_once() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let payments: Vec<_> = (10..18).map(|nonce| forger.poor_payment(nonce)).collect();
    let first = forger.send("/held", &payments[0]);
    let others = async {
        shop.held_request().await;
        let others = payments[1..].iter().map(|one| forger.send("/hello", one));
        let others = futures::future::join_all(others).await;
        shop.turnstile.add_permits(1);
        others
    };
    let (first, others) = futures::join!(first, others);
    assert_eq!((first.status, &*first.body), (OK, "held"));
    for other in others {
        let code = ErrorCode::InsufficientFunds.as_str();
        assert_eq!((other.status, &*other.code), (UNPAID, code));
    }
    assert_eq!(world.balance(shop.receiver).await, amount(100));
    let after = forger.send("/hello", &payments[1]).await;
    assert_eq!(after.code, ErrorCode::InsufficientFunds.as_str());
    forger.buy_honestly().await;
}

#[tokio::test]
async fn a_payment_that_failed_is_no_ticket() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let other = world.shop_named("other", amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let elsewhere = Forger::beside(&world, &other);
    let payment = forger.poor_payment(20);
    let worked = forger.send("/held", &payment);
    let moved_away = async {
        shop.held_request().await;
        let paid = elsewhere.send("/hello", &elsewhere.poor_payment(21)).await;
        assert_eq!(paid.status, OK, "{paid:?}");
        shop.turnstile.add_permits(1);
    };
    let (worked, ()) = futures::join!(worked, moved_away);
    assert_eq!(worked.status, UNPAID);
    assert_eq!(worked.code, ErrorCode::ExactTransaction.as_str());
    assert_eq!(worked.body.find("held"), None, "the reply stays here");
    // The held request would never end if it were worked for again: nobody lets it go on.
    for _ in 0..3 {
        let again = forger.send("/held", &payment).await;
        assert_eq!(again.status, UNPAID);
        assert_eq!(again.code, ErrorCode::ExactTransaction.as_str());
    }
    let another = forger.poor_payment(22);
    let none_left = forger.send("/held", &another).await;
    assert_eq!(none_left.code, ErrorCode::InsufficientFunds.as_str());
    forger.buy_honestly().await;
}

/// Gives the poor account a hundred units more.
async fn give_alms(world: &World) {
    let poor = key(POOR).address();
    let to_the_poor = |asset: &mut AcceptedAsset| asset.receiver = poor;
    let bank = world.open_shop("bank", amount(100), amount(100), to_the_poor);
    let bank = bank.await;
    let mut giver = Forger::beside(world, &bank);
    giver.asset.receiver = poor;
    let mut authorization = giver.exact(30);
    authorization.to = poor;
    let payment = giver.exact_payment(&authorization, &key(1));
    assert_eq!(giver.send("/hello", &payment).await.status, OK);
}

#[tokio::test]
async fn a_payer_whose_payment_failed_pays_before_the_work() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let other = world.shop_named("other", amount(100), amount(100)).await;
    let forger = Forger::new(&world, &shop).await;
    let elsewhere = Forger::beside(&world, &other);
    let failed = forger.poor_payment(20);
    let failed = forger.send("/held", &failed);
    let moved_away = async {
        shop.held_request().await;
        let payment = elsewhere.poor_payment(21);
        assert_eq!(elsewhere.send("/hello", &payment).await.status, OK);
        shop.turnstile.add_permits(1);
    };
    let (failed, ()) = futures::join!(failed, moved_away);
    assert_eq!(failed.status, UNPAID);
    give_alms(&world).await;
    let before = world.balance(shop.receiver).await;
    let payment = forger.poor_payment(22);
    let held = forger.send("/held", &payment);
    let paid_by_then = async {
        shop.held_request().await;
        let paid = world.balance(shop.receiver).await;
        shop.turnstile.add_permits(1);
        paid
    };
    let (held, paid) = futures::join!(held, paid_by_then);
    assert_eq!((held.status, &*held.body), (OK, "held"));
    assert_eq!(paid, before.saturating_add(amount(100)));
}

/// Has the token carry out a one-off payment's authorization, as anybody can who sees it.
async fn carry_out(world: &World, name: &str, authorization: &Authorization, payment: &Value) {
    let signature: Signature = payment["payload"]["signature"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let bytes = signature.as_bytes();
    let call = IERC3009::transferWithAuthorizationCall {
        from: authorization.from,
        to: authorization.to,
        value: U256::from(authorization.value.units()),
        validAfter: U256::from(authorization.valid_after),
        validBefore: U256::from(authorization.valid_before),
        nonce: authorization.nonce,
        v: bytes[64],
        r: B256::from_slice(&bytes[..32]),
        s: B256::from_slice(&bytes[32..64]),
    };
    let data = call.abi_encode();
    world
        .send_from(key(0x77), name, TEST_DOLLAR_ADDRESS, data)
        .await;
}

/// What the payer of a held request is told after `meanwhile`.
async fn held_while(
    forger: &Forger<'_>,
    payment: &Value,
    meanwhile: impl Future<Output = ()>,
) -> Reply {
    let held = forger.send("/held", payment);
    let meanwhile = async {
        forger.shop.held_request().await;
        meanwhile.await;
        forger.shop.turnstile.add_permits(1);
    };
    futures::join!(held, meanwhile).0
}

#[tokio::test]
async fn a_payment_that_somebody_else_carried_out_is_paid() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let mut forger = Forger::new(&world, &shop).await;
    let before = world.balance(shop.receiver).await;
    let authorization = forger.exact(2);
    let payment = forger.exact_payment(&authorization, &key(1));
    let carried_out = carry_out(&world, "stranger", &authorization, &payment);
    let reply = held_while(&forger, &payment, carried_out).await;
    assert_eq!((reply.status, &*reply.body), (OK, "held"));
    assert_eq!(reply.settled.unwrap().transaction.len(), 66);
    let after = before.saturating_add(amount(100));
    assert_eq!(world.balance(shop.receiver).await, after, "paid once");
    let code = ErrorCode::ExactNonceUsed.as_str();
    let send = async |forger: &Forger<'_>| forger.send("/hello", &payment).await;
    refused(&mut forger, "served before", send, UNPAID, code).await;
}

#[tokio::test]
async fn a_nonce_that_was_used_for_somebody_else_or_has_expired_pays_nothing() {
    for case in ["for somebody else", "for less", "expired"] {
        let world = World::start().await;
        let shop = world.shop(amount(100), amount(100)).await;
        let mut forger = Forger::new(&world, &shop).await;
        let mut authorization = forger.exact(2);
        let now_s = world.environment.now_ms() / 1_000;
        authorization.valid_before = now_s + 600;
        let payment = forger.exact_payment(&authorization, &key(1));
        let mut other = authorization.clone();
        match case {
            "for less" => other.value = amount(1),
            _ => other.to = nobody(),
        }
        let signed = forger.exact_payment(&other, &key(1));
        let meanwhile = async {
            if case == "expired" {
                let passed = world.chain.request("evm_increaseTime", json!([1_000]));
                passed.unwrap();
            } else {
                carry_out(&world, "payer", &other, &signed).await;
            }
        };
        let reply = held_while(&forger, &payment, meanwhile).await;
        assert_eq!(
            (reply.status, &*reply.code),
            (UNPAID, ErrorCode::ExactTransaction.as_str()),
            "{case}"
        );
        assert_eq!(
            reply.body.find("held"),
            None,
            "{case}: the reply stays here"
        );
        // The held request would never end if it were worked for again.
        for _ in 0..3 {
            let again = forger.send("/held", &payment).await;
            assert_eq!(
                (again.status, &*again.code),
                (UNPAID, ErrorCode::ExactTransaction.as_str()),
                "{case}"
            );
        }
        forger.buy_honestly().await;
    }
}

/// Sends a payment for `/held`, and hangs up once it is worked for. Whether it was.
async fn hang_up(forger: &Forger<'_>, payment: &Value) -> bool {
    tokio::select! {
        reply = forger.send("/held", payment) => {
            assert_eq!((reply.status, &*reply.code), (UNPAID, ErrorCode::ExactNonceUsed.as_str()));
            false
        }
        () = forger.shop.held_request() => true,
    }
}

#[tokio::test]
async fn a_payer_that_hangs_up_has_no_work_done_without_end() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let forger = Forger::new(&world, &shop).await;
    let payment = forger.exact_payment(&forger.exact(2), &key(1));
    let before = world.balance(shop.receiver).await;
    let mut paid = Vec::new();
    // It is in hand until the provider notices that nobody waits.
    while paid.len() < 3 {
        if hang_up(&forger, &payment).await {
            paid.push(world.balance(shop.receiver).await);
        }
    }
    let after = before.saturating_add(amount(100));
    assert_eq!(
        paid,
        [before, after, after],
        "paid before the work from the second time on"
    );
    for _ in 0..50 {
        assert!(
            !hang_up(&forger, &payment).await,
            "worked for again and again"
        );
    }
    assert_eq!(world.balance(shop.receiver).await, after);
}

#[tokio::test]
async fn work_that_fails_leaves_what_was_paid_for_it() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let forger = Forger::new(&world, &shop).await;
    let payment = forger.exact_payment(&forger.exact(2), &key(1));
    let before = world.balance(shop.receiver).await;
    assert!(hang_up(&forger, &payment).await);
    // It is in hand until the provider notices that nobody waits. Then its payer pays before the work.
    let failed = loop {
        let reply = forger.send("/fails", &payment).await;
        if reply.code != ErrorCode::ExactNonceUsed.as_str() {
            break reply;
        }
    };
    let after = before.saturating_add(amount(100));
    assert_eq!(
        (failed.status.as_u16(), world.balance(shop.receiver).await),
        (500, after)
    );
    for _ in 0..3 {
        let again = forger.send("/fails", &payment).await;
        assert_eq!(again.status, 500, "what was paid is worked for: {again:?}");
    }
    assert_eq!(world.balance(shop.receiver).await, after, "paid once");
}

#[tokio::test]
async fn one_off_payments_can_be_turned_off() {
    let world = World::start().await;
    let shop = world
        .shop_that(amount(100), amount(100), |asset| asset.exact = false)
        .await;
    let mut forger = Forger::new(&world, &shop).await;
    let payment = forger.exact_payment(&forger.exact(1), &key(1));
    let code = ErrorCode::InvalidRequirements.as_str();
    let send = async |forger: &Forger<'_>| forger.send("/hello", &payment).await;
    refused(&mut forger, "turned off", send, UNPAID, code).await;
}
