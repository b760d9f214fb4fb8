//! Deposits: what is credited, what is refused, and that only delivered money counts.

use alloy_primitives::aliases::U40;
use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::{SolCall, SolValue};
use hearth_chain::bindings::Settlement::{self, ChannelConfig};
use hearth_chain::bindings::{COLLECTOR_ADDRESS, Collector, SETTLEMENT_ADDRESS, TestDollar};

use crate::chain::Receipt;
use crate::peers;
use crate::world::{DELAY_S, PAYER_FUNDS, Role, World};

super::rules![
    a_deposit_creates_the_channel_and_is_credited,
    a_top_up_adds_and_leaves_a_pending_withdrawal_alone,
    terms_with_a_zero_account_are_refused,
    the_delay_has_a_floor_and_a_ceiling,
    zero_amount_and_zero_collector_are_refused,
    an_escrow_cannot_overflow,
    a_short_delivery_is_refused,
    a_token_that_keeps_a_fee_is_refused,
    a_token_without_return_values_works,
    an_authorization_pays_once,
    an_authorization_is_for_one_channel,
    an_authorization_is_for_one_amount,
    an_expired_authorization_is_refused,
    malformed_collector_data_is_refused,
    only_the_settlement_contract_may_collect,
    a_collector_cannot_reenter,
];

fn a_deposit_creates_the_channel_and_is_credited(world: &mut World) {
    let config = world.config();
    let receipt = world.deposit(&config, 700).succeeded();

    let created: Vec<Settlement::ChannelCreated> = receipt.events(SETTLEMENT_ADDRESS);
    assert_eq!(created.len(), 1);
    assert_eq!(created[0].channelId, world.channel_id(&config));
    assert_eq!(created[0].config, config);
    let deposited: Vec<Settlement::Deposited> = receipt.events(SETTLEMENT_ADDRESS);
    let expected = Settlement::Deposited {
        channelId: world.channel_id(&config),
        sender: world.address(Role::Stranger),
        amount: 700,
        newBalance: 700,
    };
    assert_eq!(deposited, [expected]);

    assert_eq!(world.books(&config).balance, 700);
    assert_eq!(world.balance(world.token, SETTLEMENT_ADDRESS), 700);
    assert_eq!(world.balance(world.token, COLLECTOR_ADDRESS), 0);
    assert_eq!(world.balance(world.token, config.payer), PAYER_FUNDS - 700);
}

fn a_top_up_adds_and_leaves_a_pending_withdrawal_alone(world: &mut World) {
    let config = world.config();
    world.deposit(&config, 700).succeeded();
    world.initiate(&config, 600).succeeded();
    let before = world.books(&config);

    let receipt = world.deposit(&config, 50).succeeded();
    assert_eq!(
        receipt.events::<Settlement::ChannelCreated>(SETTLEMENT_ADDRESS),
        []
    );
    let after = world.books(&config);
    assert_eq!(after.balance, 750);
    assert_eq!(
        (after.pending, after.initiated_at),
        (600, before.initiated_at)
    );
}

fn terms_with_a_zero_account_are_refused(world: &mut World) {
    let good = world.config();
    let bad = [
        ChannelConfig {
            payer: Address::ZERO,
            ..good.clone()
        },
        ChannelConfig {
            receiver: Address::ZERO,
            ..good.clone()
        },
        ChannelConfig {
            receiverAuthorizer: Address::ZERO,
            ..good.clone()
        },
        ChannelConfig {
            token: Address::ZERO,
            ..good.clone()
        },
    ];
    for config in bad {
        world
            .deposit(&config, 1)
            .reverted_with::<Settlement::InvalidChannel>();
    }
    let signed_by_payer = ChannelConfig {
        payerAuthorizer: Address::ZERO,
        ..good
    };
    world.deposit(&signed_by_payer, 1).succeeded();
}

fn the_delay_has_a_floor_and_a_ceiling(world: &mut World) {
    let with_delay = |world: &World, delay: u64| ChannelConfig {
        withdrawDelay: U40::from(delay),
        ..world.config()
    };
    for delay in [0, 899, 2_592_001, (1 << 40) - 1] {
        let config = with_delay(world, delay);
        world
            .deposit(&config, 1)
            .reverted_with::<Settlement::WithdrawDelayOutOfRange>();
    }
    for delay in [900, 2_592_000] {
        let config = with_delay(world, delay);
        world.deposit(&config, 1).succeeded();
    }
}

fn zero_amount_and_zero_collector_are_refused(world: &mut World) {
    let config = world.config();
    world
        .deposit(&config, 0)
        .reverted_with::<Settlement::ZeroDeposit>();
    let call = Settlement::depositCall {
        collector: Address::ZERO,
        ..world.deposit_call(&config, 1)
    };
    world
        .settlement(Role::Stranger, &call)
        .reverted_with::<Settlement::InvalidCollector>();
}

fn an_escrow_cannot_overflow(world: &mut World) {
    let config = world.config();
    world.mint(world.token, config.payer, u128::MAX);
    world.deposit(&config, u128::MAX).succeeded();
    world
        .deposit(&config, 1)
        .reverted_with::<Settlement::DepositOverflow>();
    assert_eq!(world.books(&config).balance, u128::MAX);
}

/// Deposits by allowance, the collector delivering `missing` less than asked.
fn deposit_by_allowance(
    world: &mut World,
    config: &ChannelConfig,
    amount: u128,
    missing: u128,
) -> Receipt {
    let collector = world.create(peers::AllowanceCollector::BYTECODE.clone());
    let approve = TestDollar::approveCall {
        spender: collector,
        value: U256::from(amount),
    };
    world.send(Role::Payer, config.token, &approve).succeeded();
    let call = Settlement::depositCall {
        config: config.clone(),
        amount,
        collector,
        collectorData: U256::from(missing).abi_encode().into(),
    };
    world.settlement(Role::Stranger, &call)
}

fn a_short_delivery_is_refused(world: &mut World) {
    let config = world.config();
    deposit_by_allowance(world, &config, 100, 1)
        .reverted_with::<Settlement::DepositCollectionFailed>();
    assert_eq!(world.books(&config).balance, 0);
    assert_eq!(world.balance(world.token, config.payer), PAYER_FUNDS);
    deposit_by_allowance(world, &config, 100, 0).succeeded();
}

fn a_token_that_keeps_a_fee_is_refused(world: &mut World) {
    let token = world.create(peers::FeeToken::BYTECODE.clone());
    let config = ChannelConfig {
        token,
        ..world.config()
    };
    world.mint(token, config.payer, 1_000);
    deposit_by_allowance(world, &config, 1_000, 0)
        .reverted_with::<Settlement::DepositCollectionFailed>();
    assert_eq!(world.balance(token, config.payer), 1_000);
    assert_eq!(world.books(&config).balance, 0);
}

fn a_token_without_return_values_works(world: &mut World) {
    let token = world.create(peers::BareToken::BYTECODE.clone());
    let config = ChannelConfig {
        token,
        ..world.config()
    };
    world.mint(token, config.payer, 1_000);
    deposit_by_allowance(world, &config, 1_000, 0).succeeded();
    world.claim(&config, 300).succeeded();
    world.settle(&config).succeeded();
    world.refund(&config, 700).succeeded();
    assert_eq!(world.balance(token, config.receiver), 300);
    assert_eq!(world.balance(token, config.payer), 700);
}

fn an_authorization_pays_once(world: &mut World) {
    let config = world.config();
    let call = world.deposit_call(&config, 100);
    world.settlement(Role::Stranger, &call).succeeded();
    world
        .settlement(Role::Receiver, &call)
        .reverted_with::<TestDollar::ERC3009UsedAuthorization>();
    assert_eq!(world.books(&config).balance, 100);
}

fn an_authorization_is_for_one_channel(world: &mut World) {
    let signed = world.deposit_call(&world.config(), 100);
    let call = Settlement::depositCall {
        config: world.config_n(1),
        ..signed
    };
    world
        .settlement(Role::Stranger, &call)
        .reverted_with::<TestDollar::ERC3009InvalidSignature>();
}

fn an_authorization_is_for_one_amount(world: &mut World) {
    let call = Settlement::depositCall {
        amount: 101,
        ..world.deposit_call(&world.config(), 100)
    };
    world
        .settlement(Role::Stranger, &call)
        .reverted_with::<TestDollar::ERC3009InvalidSignature>();
}

fn an_expired_authorization_is_refused(world: &mut World) {
    let call = world.deposit_call(&world.config(), 100);
    world.chain.advance(DELAY_S);
    world
        .settlement(Role::Stranger, &call)
        .reverted_with::<TestDollar::ERC3009InvalidAuthorizationTime>();
}

fn malformed_collector_data_is_refused(world: &mut World) {
    let good = world.deposit_call(&world.config(), 100);
    for length in [0, 1, 31, 128, good.collectorData.len() - 33] {
        let data = Bytes::copy_from_slice(&good.collectorData[..length]);
        let call = Settlement::depositCall {
            collectorData: data,
            ..good.clone()
        };
        assert!(
            world.settlement(Role::Stranger, &call).outcome.is_err(),
            "{length} bytes were enough"
        );
    }
    assert_eq!(world.books(&good.config).balance, 0);
    world.settlement(Role::Stranger, &good).succeeded();
}

fn only_the_settlement_contract_may_collect(world: &mut World) {
    let config = world.config();
    let deposit = world.deposit_call(&config, 100);
    let call = Collector::collectCall {
        payer: config.payer,
        token: config.token,
        amount: U256::from(100),
        channelId: world.channel_id(&config),
        collectorData: deposit.collectorData,
    };
    for role in [Role::Stranger, Role::Payer, Role::Receiver] {
        world
            .send(role, COLLECTOR_ADDRESS, &call)
            .reverted_with::<Collector::OnlyX402BatchSettlement>();
    }
}

fn a_collector_cannot_reenter(world: &mut World) {
    let collector = world.create(peers::ReentrantCollector::BYTECODE.clone());
    let config = world.config();
    let row = world.row(&config, 1, 1);
    let attacks: [Vec<u8>; 8] = [
        world.deposit_call(&config, 1).abi_encode(),
        Settlement::claimCall {
            voucherClaims: vec![row.clone()],
        }
        .abi_encode(),
        world
            .signed_claim(Role::ReceiverAuthorizer, vec![row])
            .abi_encode(),
        Settlement::settleCall {
            receiver: config.receiver,
            token: config.token,
        }
        .abi_encode(),
        Settlement::initiateWithdrawCall {
            config: config.clone(),
            amount: 1,
        }
        .abi_encode(),
        Settlement::finalizeWithdrawCall {
            config: config.clone(),
        }
        .abi_encode(),
        Settlement::refundCall {
            config: config.clone(),
            amount: 1,
        }
        .abi_encode(),
        world
            .signed_refund(Role::ReceiverAuthorizer, &config, 1, 0)
            .abi_encode(),
    ];
    for attack in attacks {
        for callback in [
            attack.clone(),
            Settlement::multicallCall {
                data: vec![attack.into()],
            }
            .abi_encode(),
        ] {
            let call = Settlement::depositCall {
                config: config.clone(),
                amount: 1,
                collector,
                collectorData: callback.into(),
            };
            world
                .settlement(Role::Stranger, &call)
                .reverted_with::<Settlement::ReentrancyGuardReentrantCall>();
        }
    }
    assert_eq!(world.books(&config).balance, 0);
}
