//! A claim is handed over, the provider sleeps, the payer withdraws: the watchtower claims.

use std::collections::BTreeSet;
use std::sync::Arc;

use hearth_node::payments::purse::Withdrawal;
use hearth_node::payments::till::{Tasks, TillKeys, open_escrows};
use hearth_node::payments::watchtower::{Handover, HandoverError, Watchtower};
use hearth_protocol::id::ChainId;

use super::world::{CHAIN, World, amount, key};

#[tokio::test]
async fn a_sleeping_provider_is_paid_when_the_payer_begins_to_withdraw() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    for _ in 0..3 {
        purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    }
    let channel = purse.channels().unwrap()[0].channel;

    // The provider hands its claim over, and stops.
    let mut tasks = Tasks::new();
    let store = world.store("tower");
    let keys = TillKeys {
        account: key(5),
        session: key(6),
    };
    let escrows = open_escrows(world.access(), &keys, &store, &mut tasks).unwrap();
    let environment = Arc::clone(&world.environment);
    let served = BTreeSet::from([key(4).address()]);
    let tower = Watchtower::new(store, escrows, served, environment);
    let row = shop.claim_row(channel);
    let escrow = shop.till.escrows.get(ChainId(CHAIN)).unwrap();
    let handover = Handover::new(ChainId(CHAIN), &escrow, row);
    tower.take(handover.clone()).await.unwrap();
    let mut forged = handover.clone();
    forged.claim.total_claimed = amount(299);
    let refused = tower.take(forged).await;
    assert!(
        matches!(refused, Err(HandoverError::Signature)),
        "{refused:?}"
    );
    drop(shop);
    assert_eq!(tower.look().await.unwrap(), 0, "nobody withdraws yet");

    // The payer withdraws without the provider.
    let (payer, _payer_tasks) = world.withdrawing(&purse, "withdrawer").await;
    let begun = payer.withdraw(channel).await.unwrap();
    assert!(matches!(begun, Withdrawal::Begun { .. }), "{begun:?}");
    let waiting = payer.withdraw(channel).await.unwrap();
    assert!(matches!(waiting, Withdrawal::Waiting { .. }), "{waiting:?}");

    assert_eq!(tower.look().await.unwrap(), 1);
    assert_eq!(world.balance(key(3).address()).await, amount(300));
    assert_eq!(tower.look().await.unwrap(), 0, "claimed once");
}
