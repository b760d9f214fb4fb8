//! Withdrawals: the payer's way out, after the receiver had its time to claim.

use hearth_chain::bindings::SETTLEMENT_ADDRESS;
use hearth_chain::bindings::Settlement;

use crate::world::{DELAY_S, PAYER_FUNDS, Role, World};

super::rules![
    a_withdrawal_waits_for_its_delay,
    either_key_of_the_payer_may_withdraw_and_nobody_else,
    only_unclaimed_money_can_be_asked_for,
    one_withdrawal_at_a_time,
    a_claim_inside_the_delay_comes_first,
    a_claim_after_the_withdrawal_is_too_late,
    a_withdrawal_of_nothing_left_still_ends,
    taking_everything_closes_an_unused_channel,
];

fn a_withdrawal_waits_for_its_delay(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    let started = world.chain.now();
    let receipt = world.initiate(&config, 60).succeeded();
    let events: Vec<Settlement::WithdrawInitiated> = receipt.events(SETTLEMENT_ADDRESS);
    assert_eq!(
        (events[0].channelId, events[0].amount),
        (world.channel_id(&config), 60)
    );
    let ready: u64 = events[0].finalizeAfter.to();
    assert!(ready >= started + DELAY_S);

    world.chain.advance(ready - world.chain.now() - 1);
    world
        .finalize(&config)
        .reverted_with::<Settlement::WithdrawDelayNotElapsed>();
    world.chain.advance(1);
    let receipt = world.finalize(&config).succeeded();
    let expected = Settlement::WithdrawFinalized {
        channelId: world.channel_id(&config),
        sender: config.payer,
        amount: 60,
    };
    assert_eq!(
        receipt.events::<Settlement::WithdrawFinalized>(SETTLEMENT_ADDRESS),
        [expected]
    );
    assert_eq!(
        receipt.events::<Settlement::ChannelClosed>(SETTLEMENT_ADDRESS),
        []
    );
    let books = world.books(&config);
    assert_eq!(
        (books.balance, books.pending, books.initiated_at),
        (40, 0, 0)
    );
    assert_eq!(world.balance(world.token, config.payer), PAYER_FUNDS - 40);
    world
        .finalize(&config)
        .reverted_with::<Settlement::WithdrawalNotPending>();
}

fn either_key_of_the_payer_may_withdraw_and_nobody_else(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    let initiate = Settlement::initiateWithdrawCall {
        config: config.clone(),
        amount: 60,
    };
    let finalize = Settlement::finalizeWithdrawCall {
        config: config.clone(),
    };
    for role in [Role::Receiver, Role::ReceiverAuthorizer, Role::Stranger] {
        world
            .settlement(role, &initiate)
            .reverted_with::<Settlement::InvalidChannel>();
    }
    world
        .settlement(Role::PayerAuthorizer, &initiate)
        .succeeded();
    world.chain.advance(DELAY_S);
    for role in [Role::Receiver, Role::ReceiverAuthorizer, Role::Stranger] {
        world
            .settlement(role, &finalize)
            .reverted_with::<Settlement::NotAuthorizedToFinalizeWithdraw>();
    }
    world
        .settlement(Role::PayerAuthorizer, &finalize)
        .succeeded();
    assert_eq!(
        world.balance(world.token, config.payer),
        PAYER_FUNDS - 40,
        "money goes to the payer alone"
    );
}

fn only_unclaimed_money_can_be_asked_for(world: &mut World) {
    let config = world.config();
    world
        .initiate(&config, 1)
        .reverted_with::<Settlement::WithdrawAmountExceedsAvailable>();
    world.deposit(&config, 100).succeeded();
    world.claim(&config, 30).succeeded();
    world
        .initiate(&config, 0)
        .reverted_with::<Settlement::NothingToWithdraw>();
    world
        .initiate(&config, 71)
        .reverted_with::<Settlement::WithdrawAmountExceedsAvailable>();
    world.initiate(&config, 70).succeeded();
}

fn one_withdrawal_at_a_time(world: &mut World) {
    let config = world.config();
    world
        .finalize(&config)
        .reverted_with::<Settlement::WithdrawalNotPending>();
    world.deposit(&config, 100).succeeded();
    world.initiate(&config, 10).succeeded();
    world
        .initiate(&config, 10)
        .reverted_with::<Settlement::WithdrawalAlreadyPending>();
    world.chain.advance(DELAY_S);
    world.finalize(&config).succeeded();
    world.initiate(&config, 10).succeeded();
}

fn a_claim_inside_the_delay_comes_first(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    world.initiate(&config, 100).succeeded();
    world.chain.advance(DELAY_S - 1);
    world.claim(&config, 80).succeeded();
    world.chain.advance(1);
    world.finalize(&config).succeeded();
    world.settle(&config).succeeded();
    assert_eq!(world.balance(world.token, config.receiver), 80);
    assert_eq!(world.balance(world.token, config.payer), PAYER_FUNDS - 80);
}

fn a_claim_after_the_withdrawal_is_too_late(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    world.claim(&config, 10).succeeded();
    world.initiate(&config, 90).succeeded();
    world.chain.advance(DELAY_S);
    world.finalize(&config).succeeded();
    world
        .claim(&config, 80)
        .reverted_with::<Settlement::ClaimExceedsBalance>();
    world.settle(&config).succeeded();
    assert_eq!(
        world.balance(world.token, config.receiver),
        10,
        "what was claimed before stays"
    );
}

fn a_withdrawal_of_nothing_left_still_ends(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    world.initiate(&config, 100).succeeded();
    world.claim(&config, 100).succeeded();
    world.chain.advance(DELAY_S);
    let receipt = world.finalize(&config).succeeded();
    assert_eq!(
        receipt.events::<Settlement::WithdrawFinalized>(SETTLEMENT_ADDRESS)[0].amount,
        0
    );
    assert_eq!(world.books(&config).initiated_at, 0);
    assert_eq!(world.balance(world.token, config.payer), PAYER_FUNDS - 100);
}

fn taking_everything_closes_an_unused_channel(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    world.initiate(&config, 100).succeeded();
    world.chain.advance(DELAY_S);
    let receipt = world.finalize(&config).succeeded();
    let closed: Vec<Settlement::ChannelClosed> = receipt.events(SETTLEMENT_ADDRESS);
    assert_eq!(closed.len(), 1);
    assert_eq!(
        (closed[0].channelId, &closed[0].config),
        (world.channel_id(&config), &config)
    );

    let receipt = world.deposit(&config, 5).succeeded();
    assert_eq!(
        receipt
            .events::<Settlement::ChannelCreated>(SETTLEMENT_ADDRESS)
            .len(),
        1,
        "it can be used anew"
    );
}
