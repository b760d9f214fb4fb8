//! Hostile one-off payments.

use hearth_node::payments::offer::AcceptedAsset;
use hearth_protocol::x402::ErrorCode;
use serde_json::json;

use super::forger::Forger;
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
