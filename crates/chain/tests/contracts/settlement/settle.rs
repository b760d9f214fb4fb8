//! Payouts: everything claimed, once, to the receiver and to nobody else.

use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use hearth_chain::bindings::Settlement::{self, ChannelConfig};
use hearth_chain::bindings::{SETTLEMENT_ADDRESS, TestDollar};

use crate::peers;
use crate::world::{Role, World};

super::rules![
    settling_pays_what_was_claimed_over_all_channels,
    settling_twice_pays_once,
    a_token_that_answers_false_settles_nothing,
    a_token_cannot_reenter,
];

fn settling_pays_what_was_claimed_over_all_channels(world: &mut World) {
    let (first, second) = (world.config_n(0), world.config_n(1));
    world.deposit(&first, 100).succeeded();
    world.deposit(&second, 100).succeeded();
    world.claim(&first, 30).succeeded();
    world.claim(&second, 40).succeeded();

    let receipt = world.settle(&first).succeeded();
    let expected = Settlement::Settled {
        receiver: first.receiver,
        token: world.token,
        sender: world.address(Role::Stranger),
        amount: 70,
    };
    assert_eq!(
        receipt.events::<Settlement::Settled>(SETTLEMENT_ADDRESS),
        [expected]
    );
    assert_eq!(world.balance(world.token, first.receiver), 70);
    assert_eq!(world.earned(&first), (70, 70));
    assert_eq!(
        world.books(&first).balance,
        100,
        "a payout does not change what the channel's books say"
    );
}

fn settling_twice_pays_once(world: &mut World) {
    let config = world.config();
    assert_eq!(world.settle(&config).succeeded().logs, []);
    world.deposit(&config, 100).succeeded();
    world.claim(&config, 30).succeeded();
    world.settle(&config).succeeded();
    assert_eq!(world.settle(&config).succeeded().logs, []);
    assert_eq!(world.balance(world.token, config.receiver), 30);
}

/// A channel of 100 in another token, with a total of 30 claimed.
fn channel_in(world: &mut World, token_code: alloy_primitives::Bytes) -> ChannelConfig {
    let token = world.create(token_code);
    let config = ChannelConfig {
        token,
        ..world.config()
    };
    world.mint(token, config.payer, 100);
    let collector = world.create(peers::AllowanceCollector::BYTECODE.clone());
    let approve = TestDollar::approveCall {
        spender: collector,
        value: U256::MAX,
    };
    world.send(Role::Payer, token, &approve).succeeded();
    let call = Settlement::depositCall {
        config: config.clone(),
        amount: 100,
        collector,
        collectorData: alloy_primitives::Bytes::new(),
    };
    world.settlement(Role::Stranger, &call).succeeded();
    world.claim(&config, 30).succeeded();
    config
}

fn a_token_that_answers_false_settles_nothing(world: &mut World) {
    let config = channel_in(world, peers::FalseToken::BYTECODE.clone());
    world
        .send(
            Role::Stranger,
            config.token,
            &peers::FalseToken::refuseCall {},
        )
        .succeeded();
    world
        .settle(&config)
        .reverted_with::<Settlement::SafeERC20FailedOperation>();
    world
        .refund(&config, 10)
        .reverted_with::<Settlement::SafeERC20FailedOperation>();
    assert_eq!(world.earned(&config), (30, 0));
    assert_eq!(world.books(&config).balance, 100);
}

fn a_token_cannot_reenter(world: &mut World) {
    let config = channel_in(world, peers::ReentrantToken::BYTECODE.clone());
    let again = Settlement::settleCall {
        receiver: config.receiver,
        token: config.token,
    }
    .abi_encode();
    let arm = peers::ReentrantToken::armCall {
        target_: SETTLEMENT_ADDRESS,
        callback_: again.into(),
    };
    world.send(Role::Stranger, config.token, &arm).succeeded();

    world
        .settle(&config)
        .reverted_with::<Settlement::ReentrancyGuardReentrantCall>();
    world
        .refund(&config, 70)
        .reverted_with::<Settlement::ReentrancyGuardReentrantCall>();
    world.initiate(&config, 70).succeeded();
    world.chain.advance(crate::world::DELAY_S);
    world
        .finalize(&config)
        .reverted_with::<Settlement::ReentrancyGuardReentrantCall>();
    assert_eq!(world.balance(config.token, SETTLEMENT_ADDRESS), 100);
}
