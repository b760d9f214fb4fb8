//! Claims: totals only grow, never past voucher or escrow, and only with the right signatures.

use alloy_primitives::{Address, Bytes, U256, uint};
use hearth_chain::bindings::SETTLEMENT_ADDRESS;
use hearth_chain::bindings::Settlement::{self, ChannelConfig, VoucherClaim};

use crate::peers;
use crate::world::{PAYER_FUNDS, Role, World};

super::rules![
    either_key_of_the_receiver_may_claim,
    nobody_else_may_claim,
    totals_are_cumulative_and_old_vouchers_change_nothing,
    a_row_without_news_is_skipped_unread,
    no_claim_passes_its_voucher_or_the_escrow,
    a_voucher_of_another_key_channel_or_amount_is_refused,
    malformed_signatures_are_refused,
    an_empty_batch_is_refused,
    a_batch_serves_many_channels,
    one_bad_row_reverts_the_batch,
    without_an_authorizer_the_payer_signs,
    a_contract_payer_signs_by_erc1271,
    a_contract_cannot_be_payer_authorizer,
    anyone_may_send_a_signed_batch,
    a_signed_batch_is_bound_to_its_rows_and_key,
    a_contract_authorizer_signs_batches_by_erc1271,
];

fn either_key_of_the_receiver_may_claim(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 1_000).succeeded();
    for (role, total) in [(Role::ReceiverAuthorizer, 100), (Role::Receiver, 250)] {
        let before = world.books(&config).claimed;
        let row = world.row(&config, total + 5, total);
        let receipt = world.claim_rows(role, vec![row]).succeeded();
        let expected = Settlement::Claimed {
            channelId: world.channel_id(&config),
            sender: world.address(role),
            claimAmount: total - before,
            newTotalClaimed: total,
        };
        assert_eq!(
            receipt.events::<Settlement::Claimed>(SETTLEMENT_ADDRESS),
            [expected]
        );
    }
    let books = world.books(&config);
    assert_eq!((books.balance, books.claimed), (1_000, 250));
    assert_eq!(world.earned(&config), (250, 0));
}

fn nobody_else_may_claim(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 1_000).succeeded();
    for role in [Role::Payer, Role::PayerAuthorizer, Role::Stranger] {
        let row = world.row(&config, 10, 10);
        world
            .claim_rows(role, vec![row])
            .reverted_with::<Settlement::NotAuthorizedToClaim>();
    }
}

fn totals_are_cumulative_and_old_vouchers_change_nothing(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 1_000).succeeded();
    world.claim(&config, 400).succeeded();
    for total in [400, 399, 0] {
        let receipt = world.claim(&config, total).succeeded();
        assert_eq!(receipt.logs, []);
    }
    assert_eq!(world.books(&config).claimed, 400);
    assert_eq!(world.earned(&config), (400, 0));
}

fn a_row_without_news_is_skipped_unread(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 1_000).succeeded();
    world.claim(&config, 400).succeeded();
    let row = VoucherClaim {
        signature: Bytes::new(),
        ..world.row(&config, 0, 400)
    };
    assert_eq!(
        world.claim_rows(Role::Receiver, vec![row]).succeeded().logs,
        []
    );
}

fn no_claim_passes_its_voucher_or_the_escrow(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 1_000).succeeded();
    let cases = [(999, 1_000), (0, 1), (1_000, u128::MAX)];
    for (ceiling, total) in cases {
        let row = world.row(&config, ceiling, total);
        world
            .claim_rows(Role::Receiver, vec![row])
            .reverted_with::<Settlement::ClaimExceedsCeiling>();
    }
    let row = world.row(&config, u128::MAX, 1_001);
    world
        .claim_rows(Role::Receiver, vec![row])
        .reverted_with::<Settlement::ClaimExceedsBalance>();
    let row = world.row(&config, u128::MAX, 1_000);
    world.claim_rows(Role::Receiver, vec![row]).succeeded();
}

fn a_voucher_of_another_key_channel_or_amount_is_refused(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 1_000).succeeded();
    let good = world.row(&config, 100, 100);
    let bad = [
        world.row_by(Role::Payer, &config, 100, 100),
        world.row_by(Role::ReceiverAuthorizer, &config, 100, 100),
        VoucherClaim {
            signature: world.row(&world.config_n(1), 100, 100).signature,
            ..good.clone()
        },
        VoucherClaim {
            signature: world.row(&config, 99, 99).signature,
            ..good
        },
    ];
    for row in bad {
        world
            .claim_rows(Role::Receiver, vec![row])
            .reverted_with::<Settlement::InvalidSignature>();
    }
}

fn malformed_signatures_are_refused(world: &mut World) {
    /// Order of the curve: `(r, order - s, other v)` is the second signature of the same message.
    const ORDER: U256 =
        uint!(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141_U256);

    let config = world.config();
    world.deposit(&config, 1_000).succeeded();
    let good = world.row(&config, 100, 100);
    let with = |signature: Vec<u8>| VoucherClaim {
        signature: signature.into(),
        ..good.clone()
    };

    for length in [0, 64, 66] {
        let mut signature = good.signature.to_vec();
        signature.resize(length, 0);
        let receipt = world.claim_rows(Role::Receiver, vec![with(signature)]);
        receipt.reverted_with::<Settlement::ECDSAInvalidSignatureLength>();
    }

    let mut mirrored = good.signature.to_vec();
    let s = ORDER - U256::from_be_slice(&mirrored[32..64]);
    mirrored[32..64].copy_from_slice(&s.to_be_bytes::<32>());
    mirrored[64] = if mirrored[64] == 27 { 28 } else { 27 };
    world
        .claim_rows(Role::Receiver, vec![with(mirrored)])
        .reverted_with::<Settlement::ECDSAInvalidSignatureS>();

    let mut odd = good.signature.to_vec();
    odd[64] = 29;
    world
        .claim_rows(Role::Receiver, vec![with(odd)])
        .reverted_with::<Settlement::ECDSAInvalidSignature>();
}

fn an_empty_batch_is_refused(world: &mut World) {
    world
        .claim_rows(Role::Receiver, Vec::new())
        .reverted_with::<Settlement::EmptyBatch>();
    let call = world.signed_claim(Role::ReceiverAuthorizer, Vec::new());
    world
        .settlement(Role::Receiver, &call)
        .reverted_with::<Settlement::EmptyBatch>();
}

fn a_batch_serves_many_channels(world: &mut World) {
    let configs: Vec<_> = (0..5).map(|n| world.config_n(n)).collect();
    let mut rows = Vec::new();
    for (config, total) in configs.iter().zip([10, 20, 30, 40, 50]) {
        world.deposit(config, 100).succeeded();
        rows.push(world.row(config, total, total));
    }
    world.claim_rows(Role::ReceiverAuthorizer, rows).succeeded();
    assert_eq!(world.earned(&configs[0]), (150, 0));
    assert_eq!(world.books(&configs[4]).claimed, 50);
}

fn one_bad_row_reverts_the_batch(world: &mut World) {
    let (good, bad) = (world.config_n(0), world.config_n(1));
    world.deposit(&good, 100).succeeded();
    world.deposit(&bad, 100).succeeded();
    let rows = vec![world.row(&good, 10, 10), world.row(&bad, 101, 101)];
    world
        .claim_rows(Role::Receiver, rows.clone())
        .reverted_with::<Settlement::ClaimExceedsBalance>();
    let call = world.signed_claim(Role::ReceiverAuthorizer, rows);
    world
        .settlement(Role::Stranger, &call)
        .reverted_with::<Settlement::ClaimExceedsBalance>();
    assert_eq!(world.books(&good).claimed, 0);
    assert_eq!(world.earned(&good), (0, 0));
}

fn without_an_authorizer_the_payer_signs(world: &mut World) {
    let config = ChannelConfig {
        payerAuthorizer: Address::ZERO,
        ..world.config()
    };
    world.deposit(&config, 1_000).succeeded();
    let row = world.row_by(Role::PayerAuthorizer, &config, 10, 10);
    world
        .claim_rows(Role::Receiver, vec![row])
        .reverted_with::<Settlement::InvalidSignature>();
    let row = world.row_by(Role::Payer, &config, 10, 10);
    world.claim_rows(Role::Receiver, vec![row]).succeeded();
    assert_eq!(world.books(&config).claimed, 10);
}

fn a_contract_payer_signs_by_erc1271(world: &mut World) {
    let wallet = world.create(peers::one_key_wallet(world.address(Role::Payer)));
    world.mint(world.token, wallet, 1_000);
    let config = ChannelConfig {
        payer: wallet,
        payerAuthorizer: Address::ZERO,
        ..world.config()
    };
    world.deposit(&config, 1_000).succeeded();

    let row = world.row_by(Role::Payer, &config, 10, 10);
    world.claim_rows(Role::Receiver, vec![row]).succeeded();
    let row = world.row_by(Role::Stranger, &config, 20, 20);
    world
        .claim_rows(Role::Receiver, vec![row])
        .reverted_with::<Settlement::InvalidSignature>();

    world
        .send(Role::Stranger, wallet, &peers::OneKeyWallet::revokeCall {})
        .succeeded();
    let row = world.row_by(Role::Payer, &config, 20, 20);
    world
        .claim_rows(Role::Receiver, vec![row])
        .reverted_with::<Settlement::InvalidSignature>();
}

fn a_contract_cannot_be_payer_authorizer(world: &mut World) {
    let wallet = world.create(peers::one_key_wallet(world.address(Role::PayerAuthorizer)));
    let config = ChannelConfig {
        payerAuthorizer: wallet,
        ..world.config()
    };
    world.deposit(&config, 1_000).succeeded();
    world
        .claim(&config, 10)
        .reverted_with::<Settlement::InvalidSignature>();
}

fn anyone_may_send_a_signed_batch(world: &mut World) {
    let (first, second) = (world.config_n(0), world.config_n(1));
    world.deposit(&first, 100).succeeded();
    world.deposit(&second, 100).succeeded();
    let rows = vec![world.row(&first, 10, 10), world.row(&second, 90, 20)];
    let call = world.signed_claim(Role::ReceiverAuthorizer, rows);
    let receipt = world.settlement(Role::Stranger, &call).succeeded();
    assert_eq!(
        receipt
            .events::<Settlement::Claimed>(SETTLEMENT_ADDRESS)
            .len(),
        2
    );
    assert_eq!(world.settlement(Role::Payer, &call).succeeded().logs, []);
    assert_eq!(world.earned(&first), (30, 0));
}

fn a_signed_batch_is_bound_to_its_rows_and_key(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 100).succeeded();
    let rows = vec![world.row(&config, 50, 10)];

    let by_receiver = world.signed_claim(Role::Receiver, rows.clone());
    world
        .settlement(Role::Receiver, &by_receiver)
        .reverted_with::<Settlement::InvalidSignature>();

    let mut raised = world.signed_claim(Role::ReceiverAuthorizer, rows.clone());
    raised.voucherClaims[0].totalClaimed = 50;
    world
        .settlement(Role::Receiver, &raised)
        .reverted_with::<Settlement::InvalidSignature>();

    let other = ChannelConfig {
        receiverAuthorizer: world.address(Role::Stranger),
        ..config.clone()
    };
    world.deposit(&other, 100).succeeded();
    let mixed = vec![rows[0].clone(), world.row(&other, 10, 10)];
    let call = world.signed_claim(Role::ReceiverAuthorizer, mixed);
    world
        .settlement(Role::Receiver, &call)
        .reverted_with::<Settlement::NotReceiverAuthorizer>();
    assert_eq!(world.books(&config).claimed, 0);
}

fn a_contract_authorizer_signs_batches_by_erc1271(world: &mut World) {
    let wallet = world.create(peers::one_key_wallet(
        world.address(Role::ReceiverAuthorizer),
    ));
    let config = ChannelConfig {
        receiverAuthorizer: wallet,
        ..world.config()
    };
    world.deposit(&config, 100).succeeded();
    let call = world.signed_claim(Role::ReceiverAuthorizer, vec![world.row(&config, 10, 10)]);
    world.settlement(Role::Stranger, &call).succeeded();
    let refund = world.signed_refund(Role::ReceiverAuthorizer, &config, 90, 0);
    world.settlement(Role::Stranger, &refund).succeeded();
    assert_eq!(world.books(&config).balance, 10);
    assert_eq!(world.balance(world.token, config.payer), PAYER_FUNDS - 10);
}
