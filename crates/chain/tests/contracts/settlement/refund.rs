//! Refunds: the receiver's side gives unclaimed money back at once.

use alloy_sol_types::SolCall;
use hearth_chain::bindings::SETTLEMENT_ADDRESS;
use hearth_chain::bindings::Settlement;

use crate::world::{DELAY_S, PAYER_FUNDS, Role, World};

super::rules![
    a_refund_is_cut_to_what_is_unclaimed,
    either_key_of_the_receiver_may_refund_and_nobody_else,
    a_refund_above_zero_with_nothing_left_uses_a_nonce_only,
    a_refund_lowers_or_ends_a_pending_withdrawal,
    a_signed_refund_works_once_for_anyone,
    a_signed_refund_is_bound_to_key_amount_channel_and_nonce,
    a_full_refund_closes_an_unused_channel,
    a_salt_used_again_revives_old_vouchers,
    claim_and_refund_go_in_one_transaction,
    one_failed_call_undoes_a_whole_multicall,
];

fn a_refund_is_cut_to_what_is_unclaimed(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    world.claim(&config, 30).succeeded();
    let receipt = world.refund(&config, u128::MAX).succeeded();
    let expected = Settlement::Refunded {
        channelId: world.channel_id(&config),
        sender: world.address(Role::ReceiverAuthorizer),
        amount: 70,
    };
    assert_eq!(
        receipt.events::<Settlement::Refunded>(SETTLEMENT_ADDRESS),
        [expected]
    );
    assert_eq!(
        receipt.events::<Settlement::ChannelClosed>(SETTLEMENT_ADDRESS),
        [],
        "a claimed channel stays open"
    );
    let books = world.books(&config);
    assert_eq!(
        (books.balance, books.claimed, books.refund_nonce),
        (30, 30, 1)
    );
    assert_eq!(world.balance(world.token, config.payer), PAYER_FUNDS - 30);
}

fn either_key_of_the_receiver_may_refund_and_nobody_else(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    let call = Settlement::refundCall {
        config: config.clone(),
        amount: 10,
    };
    for role in [Role::Payer, Role::PayerAuthorizer, Role::Stranger] {
        world
            .settlement(role, &call)
            .reverted_with::<Settlement::NotAuthorizedToRefund>();
    }
    world.settlement(Role::Receiver, &call).succeeded();
    world
        .settlement(Role::ReceiverAuthorizer, &call)
        .succeeded();
    assert_eq!(world.books(&config).balance, 80);
    world
        .refund(&config, 0)
        .reverted_with::<Settlement::ZeroRefund>();
    assert_eq!(world.books(&config).refund_nonce, 2);
}

fn a_refund_above_zero_with_nothing_left_uses_a_nonce_only(world: &mut World) {
    let config = world.config();
    assert_eq!(world.refund(&config, 1).succeeded().logs, []);
    let books = world.books(&config);
    assert_eq!((books.balance, books.refund_nonce), (0, 1));
}

fn a_refund_lowers_or_ends_a_pending_withdrawal(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    world.initiate(&config, 60).succeeded();
    world.refund(&config, 25).succeeded();
    assert_eq!(world.books(&config).pending, 35);
    world.refund(&config, 35).succeeded();
    let books = world.books(&config);
    assert_eq!((books.pending, books.initiated_at), (0, 0));
    world.chain.advance(DELAY_S);
    world
        .finalize(&config)
        .reverted_with::<Settlement::WithdrawalNotPending>();
}

fn a_signed_refund_works_once_for_anyone(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    let call = world.signed_refund(Role::ReceiverAuthorizer, &config, 40, 0);
    world.settlement(Role::Stranger, &call).succeeded();
    world
        .settlement(Role::Stranger, &call)
        .reverted_with::<Settlement::InvalidRefundNonce>();
    assert_eq!(world.books(&config).balance, 60);

    let early = world.signed_refund(Role::ReceiverAuthorizer, &config, 1, 1);
    world.refund(&config, 1).succeeded();
    world
        .settlement(Role::Stranger, &early)
        .reverted_with::<Settlement::InvalidRefundNonce>();
}

fn a_signed_refund_is_bound_to_key_amount_channel_and_nonce(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    let by_receiver = world.signed_refund(Role::Receiver, &config, 40, 0);
    world
        .settlement(Role::Receiver, &by_receiver)
        .reverted_with::<Settlement::InvalidSignature>();

    let good = world.signed_refund(Role::ReceiverAuthorizer, &config, 40, 0);
    let other_amount = Settlement::refundWithSignatureCall {
        amount: 41,
        ..good.clone()
    };
    let other_channel = Settlement::refundWithSignatureCall {
        config: world.config_n(1),
        ..good.clone()
    };
    for call in [other_amount, other_channel] {
        world
            .settlement(Role::Stranger, &call)
            .reverted_with::<Settlement::InvalidSignature>();
    }
    let future = world.signed_refund(Role::ReceiverAuthorizer, &config, 40, 1);
    world
        .settlement(Role::Stranger, &future)
        .reverted_with::<Settlement::InvalidRefundNonce>();
    let nothing = world.signed_refund(Role::ReceiverAuthorizer, &config, 0, 0);
    world
        .settlement(Role::Stranger, &nothing)
        .reverted_with::<Settlement::ZeroRefund>();
    world.settlement(Role::Stranger, &good).succeeded();
}

fn a_full_refund_closes_an_unused_channel(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    let receipt = world.refund(&config, 100).succeeded();
    assert_eq!(
        receipt
            .events::<Settlement::ChannelClosed>(SETTLEMENT_ADDRESS)
            .len(),
        1
    );
}

/// Why a payer never uses a salt again: the contract forgets nothing, but promises nothing either.
fn a_salt_used_again_revives_old_vouchers(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    let old = world.row(&config, 90, 90);
    world.refund(&config, 100).succeeded();
    world
        .claim_rows(Role::Receiver, vec![old.clone()])
        .reverted_with::<Settlement::ClaimExceedsBalance>();

    world.deposit(&config, 100).succeeded();
    world
        .claim_rows(Role::Receiver, vec![old.clone()])
        .succeeded();
    assert_eq!(world.books(&config).claimed, 90);

    let fresh = world.config_n(1);
    world.deposit(&fresh, 100).succeeded();
    let mut moved = old;
    moved.voucher.channel = fresh.clone();
    world
        .claim_rows(Role::Receiver, vec![moved])
        .reverted_with::<Settlement::InvalidSignature>();
}

fn claim_and_refund_go_in_one_transaction(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    let claim = world
        .signed_claim(Role::ReceiverAuthorizer, vec![world.row(&config, 30, 30)])
        .abi_encode();
    let refund = world
        .signed_refund(Role::ReceiverAuthorizer, &config, 100, 0)
        .abi_encode();
    let call = Settlement::multicallCall {
        data: vec![claim.into(), refund.into()],
    };
    world.settlement(Role::Stranger, &call).succeeded();
    let books = world.books(&config);
    assert_eq!((books.balance, books.claimed), (30, 30));
}

fn one_failed_call_undoes_a_whole_multicall(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    let claim = world
        .signed_claim(Role::ReceiverAuthorizer, vec![world.row(&config, 30, 30)])
        .abi_encode();
    let refund = world
        .signed_refund(Role::ReceiverAuthorizer, &config, 100, 7)
        .abi_encode();
    let call = Settlement::multicallCall {
        data: vec![claim.into(), refund.into()],
    };
    world
        .settlement(Role::Stranger, &call)
        .reverted_with::<Settlement::InvalidRefundNonce>();
    assert_eq!(world.books(&config).claimed, 0);
}
