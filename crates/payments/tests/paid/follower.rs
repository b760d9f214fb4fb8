//! What happens on the chain reaches a provider's books by the contract's events alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_payments::desk::{Desk, PROVIDER_CHANNELS, StoredChannel};
use hearth_payments::follower::{Followed, Follower};
use hearth_payments::store::{Batch, Store};
use hearth_payments::till::{Tasks, TillKeys, open_escrows};
use hearth_protocol::channel::OnchainState;
use hearth_protocol::id::{ChainId, ChannelId};
use hearth_protocol::time::Timestamp;

use super::world::{CHAIN, World, amount, key};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Follows the chain for the books in `store`. Nothing else reads the chain for them.
fn follow(world: &World, store: &Store, run: u64) -> (Followed, Tasks) {
    let mut tasks = Tasks::new();
    let keys = TillKeys {
        account: key(3),
        session: key(4),
    };
    let escrows = open_escrows(world.access(), &keys, store, &mut tasks).unwrap();
    let escrow = escrows.get(ChainId(CHAIN)).unwrap();
    let environment = Arc::clone(&world.environment);
    let (desk, task) = Desk::new(store.clone(), escrows, environment, run);
    tasks.spawn(async move {
        task.run().await.unwrap();
        "the desk"
    });
    let followed = Followed::default();
    let follower = Follower::new(store.clone(), escrow, desk, followed.clone(), 10);
    tasks.spawn(async move {
        follower.run().await;
        "the follower"
    });
    (followed, tasks)
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn onchain(store: &Store, channel: ChannelId) -> OnchainState {
    let stored: Option<StoredChannel> = store.get(PROVIDER_CHANNELS, channel.0.as_slice()).unwrap();
    stored.unwrap().record.onchain.unwrap()
}

#[tokio::test]
async fn events_tell_what_happened_also_while_the_provider_was_away() {
    let world = World::start().await;
    let shop = world.shop(amount(100), amount(100)).await;
    let purse = world.purse("payer").await;
    for _ in 0..3 {
        purse.buy(&shop.get("/hello"), |_| true).await.unwrap();
    }
    let channel = purse.channels().unwrap()[0].channel;

    // Books of their own, which only events bring up to date.
    let store = world.store("followed");
    let stored: Option<StoredChannel> = shop
        .store
        .get(PROVIDER_CHANNELS, channel.0.as_slice())
        .unwrap();
    let mut batch = Batch::default();
    batch
        .put(PROVIDER_CHANNELS, channel.0.as_slice(), &stored.unwrap())
        .unwrap();
    store.commit(batch).await.unwrap();
    let (followed, tasks) = follow(&world, &store, 1);
    let chain = ChainId(CHAIN);
    let is_followed = |followed: &Followed| {
        let now = Timestamp(world.environment.now_ms());
        !followed.may_have_missed(chain, now)
    };
    eventually("the chain is followed", || is_followed(&followed)).await;
    assert_eq!(onchain(&store, channel).withdraw_requested_at, 0);

    let (payer, _payer_tasks) = world.withdrawing(&purse, "withdrawer").await;
    payer.withdraw(channel).await.unwrap();
    eventually("the withdrawal is known", || {
        onchain(&store, channel).withdraw_requested_at != 0
    })
    .await;

    // The provider stops; what it is owed is claimed by somebody else meanwhile.
    drop(tasks);
    shop.till.settlement.claim(true).await.unwrap();
    assert_eq!(onchain(&store, channel).total_claimed, amount(0));
    let (followed, _tasks) = follow(&world, &store, 2);
    eventually("the claim is known", || {
        onchain(&store, channel).total_claimed == amount(300)
    })
    .await;
    eventually("the chain is followed again", || is_followed(&followed)).await;
}
