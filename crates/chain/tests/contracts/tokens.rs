//! Ember and the dollar: money by signature, and one source of new Ember.

use alloy_primitives::{Address, B256, Bytes, U256, b256};
use alloy_sol_types::{SolError, SolStruct};
use hearth_chain::bindings::{
    Ember, IERC3009, IERC3009Signature, TestDollar, ember_init, test_dollar_init,
};

use crate::chain::Receipt;
use crate::peers;
use crate::signing::{
    CancelAuthorization, Permit, ReceiveWithAuthorization, TransferWithAuthorization, token_domain,
};
use crate::world::{DELAY_S, Role, World};

/// A nonce is any 32 bytes: x402 clients draw it at random.
const NONCE: B256 = b256!("0x7d1f0f5c3f5a4f0a9f1d2c3b4a5968778695a4b3c2d1e0f00112233445566778");

/// What a payer of these tests holds.
const FUNDS: u128 = 1_000;

/// A token under test: ours all take authorisations, under their own name.
#[derive(Clone, Copy)]
struct Token {
    name: &'static str,
    address: Address,
}

/// A world in which the payer holds some of each of our tokens. The provider is the minter of Ember.
fn world_with_tokens(name: &str) -> (World, [Token; 2]) {
    let mut world = World::on_revm(name);
    let ember = world.create(ember_init(world.address(Role::Receiver)));
    let dollar = world.create(test_dollar_init());
    let mint = Ember::mintCall {
        to: world.address(Role::Payer),
        value: U256::from(FUNDS),
    };
    world.send(Role::Receiver, ember, &mint).succeeded();
    world.mint(dollar, world.address(Role::Payer), FUNDS);
    let tokens = [
        Token {
            name: "Ember",
            address: ember,
        },
        Token {
            name: "Test Dollar (worthless)",
            address: dollar,
        },
    ];
    (world, tokens)
}

/// A transfer of 100 from the payer to the receiver, valid for an hour.
fn transfer(world: &World) -> TransferWithAuthorization {
    TransferWithAuthorization {
        from: world.address(Role::Payer),
        to: world.address(Role::Receiver),
        value: U256::from(100),
        validAfter: U256::ZERO,
        validBefore: U256::from(world.chain.now() + DELAY_S),
        nonce: NONCE,
    }
}

fn sign(world: &World, signer: Role, token: Token, message: &impl SolStruct) -> Bytes {
    let domain = token_domain(token.name, world.chain.chain_id(), token.address);
    world.sign(signer, message.eip712_signing_hash(&domain))
}

fn send_transfer(
    world: &mut World,
    from: Role,
    token: Token,
    message: &TransferWithAuthorization,
    signature: Bytes,
) -> Receipt {
    let call = IERC3009Signature::transferWithAuthorizationCall {
        from: message.from,
        to: message.to,
        value: message.value,
        validAfter: message.validAfter,
        validBefore: message.validBefore,
        nonce: message.nonce,
        signature,
    };
    world.send(from, token.address, &call)
}

#[test]
fn anyone_may_carry_a_transfer_and_it_moves_once() {
    let (mut world, tokens) = world_with_tokens("transfer");
    for token in tokens {
        let message = transfer(&world);
        let signature = sign(&world, Role::Payer, token, &message);
        let receipt = send_transfer(
            &mut world,
            Role::Stranger,
            token,
            &message,
            signature.clone(),
        );
        let used: Vec<Ember::AuthorizationUsed> = receipt.succeeded().events(token.address);
        assert_eq!((used[0].authorizer, used[0].nonce), (message.from, NONCE));
        assert_eq!(world.balance(token.address, message.to), 100);

        let again = send_transfer(&mut world, Role::Stranger, token, &message, signature);
        again.reverted_with::<Ember::ERC3009UsedAuthorization>();
        let state = Ember::authorizationStateCall {
            authorizer: message.from,
            nonce: NONCE,
        };
        assert!(world.read(token.address, &state));
    }
}

#[test]
fn a_signature_split_in_three_works_as_well() {
    let (mut world, tokens) = world_with_tokens("split");
    for token in tokens {
        let message = transfer(&world);
        let signature = sign(&world, Role::Payer, token, &message);
        let call = IERC3009::transferWithAuthorizationCall {
            from: message.from,
            to: message.to,
            value: message.value,
            validAfter: message.validAfter,
            validBefore: message.validBefore,
            nonce: message.nonce,
            v: signature[64],
            r: B256::from_slice(&signature[..32]),
            s: B256::from_slice(&signature[32..64]),
        };
        world.send(Role::Stranger, token.address, &call).succeeded();
        assert_eq!(world.balance(token.address, message.to), 100);
    }
}

#[test]
fn an_authorization_is_valid_strictly_between_its_times() {
    let (mut world, tokens) = world_with_tokens("times");
    let token = tokens[0];
    let now = world.chain.now();
    for (after, before) in [
        (now, now + 1),
        (now + 5, now + 9),
        (0, now),
        (now - 1, now - 1),
    ] {
        let message = TransferWithAuthorization {
            validAfter: U256::from(after),
            validBefore: U256::from(before),
            ..transfer(&world)
        };
        let signature = sign(&world, Role::Payer, token, &message);
        let receipt = send_transfer(&mut world, Role::Stranger, token, &message, signature);
        receipt.reverted_with::<Ember::ERC3009InvalidAuthorizationTime>();
    }
    let message = TransferWithAuthorization {
        validAfter: U256::from(now - 1),
        validBefore: U256::from(now + 1),
        ..transfer(&world)
    };
    let signature = sign(&world, Role::Payer, token, &message);
    send_transfer(&mut world, Role::Stranger, token, &message, signature).succeeded();
}

#[test]
fn another_signer_amount_payee_domain_or_purpose_is_refused() {
    let (mut world, tokens) = world_with_tokens("bound");
    let [ember, dollar] = tokens;
    let message = transfer(&world);
    let good = sign(&world, Role::Payer, ember, &message);
    let received = ReceiveWithAuthorization {
        from: message.from,
        to: message.to,
        value: message.value,
        validAfter: message.validAfter,
        validBefore: message.validBefore,
        nonce: message.nonce,
    };
    let cases = [
        (
            transfer(&world),
            sign(&world, Role::Stranger, ember, &message),
        ),
        (
            TransferWithAuthorization {
                value: U256::from(101),
                ..transfer(&world)
            },
            good.clone(),
        ),
        (
            TransferWithAuthorization {
                to: world.address(Role::Stranger),
                ..transfer(&world)
            },
            good.clone(),
        ),
        (
            TransferWithAuthorization {
                nonce: B256::ZERO,
                ..transfer(&world)
            },
            good.clone(),
        ),
        (
            transfer(&world),
            sign(&world, Role::Payer, dollar, &message),
        ),
        (
            transfer(&world),
            sign(&world, Role::Payer, ember, &received),
        ),
        (transfer(&world), Bytes::new()),
    ];
    for (message, signature) in cases {
        let receipt = send_transfer(&mut world, Role::Stranger, ember, &message, signature);
        receipt.reverted_with::<Ember::ERC3009InvalidSignature>();
    }
    assert_eq!(
        world.balance(ember.address, world.address(Role::Payer)),
        FUNDS
    );
}

#[test]
fn only_the_payee_carries_a_receipt() {
    let (mut world, tokens) = world_with_tokens("receive");
    for token in tokens {
        let message = ReceiveWithAuthorization {
            from: world.address(Role::Payer),
            to: world.address(Role::Receiver),
            value: U256::from(100),
            validAfter: U256::ZERO,
            validBefore: U256::MAX,
            nonce: NONCE,
        };
        let call = IERC3009Signature::receiveWithAuthorizationCall {
            from: message.from,
            to: message.to,
            value: message.value,
            validAfter: message.validAfter,
            validBefore: message.validBefore,
            nonce: message.nonce,
            signature: sign(&world, Role::Payer, token, &message),
        };
        let by_stranger = world.send(Role::Stranger, token.address, &call);
        by_stranger.reverted_with::<Ember::ERC20InvalidReceiver>();
        world.send(Role::Receiver, token.address, &call).succeeded();
        assert_eq!(world.balance(token.address, message.to), 100);
    }
}

#[test]
fn a_cancelled_authorization_never_pays() {
    let (mut world, tokens) = world_with_tokens("cancel");
    for token in tokens {
        let authorizer = world.address(Role::Payer);
        let cancel = CancelAuthorization {
            authorizer,
            nonce: NONCE,
        };
        let cancelled_by = |world: &World, signer| IERC3009Signature::cancelAuthorizationCall {
            authorizer,
            nonce: NONCE,
            signature: sign(world, signer, token, &cancel),
        };
        let forged = cancelled_by(&world, Role::Stranger);
        let receipt = world.send(Role::Stranger, token.address, &forged);
        receipt.reverted_with::<Ember::ERC3009InvalidSignature>();
        let good = cancelled_by(&world, Role::Payer);
        let receipt = world.send(Role::Stranger, token.address, &good).succeeded();
        assert_eq!(
            receipt
                .events::<Ember::AuthorizationCanceled>(token.address)
                .len(),
            1
        );

        let message = transfer(&world);
        let signature = sign(&world, Role::Payer, token, &message);
        let receipt = send_transfer(&mut world, Role::Stranger, token, &message, signature);
        receipt.reverted_with::<Ember::ERC3009UsedAuthorization>();
    }
}

#[test]
fn a_contract_account_pays_by_erc1271_until_its_key_is_revoked() {
    let (mut world, tokens) = world_with_tokens("contract account");
    let token = tokens[1];
    let wallet = world.create(peers::one_key_wallet(world.address(Role::Payer)));
    world.mint(token.address, wallet, FUNDS);
    let message = TransferWithAuthorization {
        from: wallet,
        ..transfer(&world)
    };
    let signature = sign(&world, Role::Payer, token, &message);
    send_transfer(&mut world, Role::Stranger, token, &message, signature).succeeded();
    assert_eq!(world.balance(token.address, wallet), FUNDS - 100);

    world
        .send(Role::Stranger, wallet, &peers::OneKeyWallet::revokeCall {})
        .succeeded();
    let message = TransferWithAuthorization {
        nonce: B256::ZERO,
        ..message
    };
    let signature = sign(&world, Role::Payer, token, &message);
    let receipt = send_transfer(&mut world, Role::Stranger, token, &message, signature);
    receipt.reverted_with::<Ember::ERC3009InvalidSignature>();
}

#[test]
fn nobody_spends_more_than_they_have() {
    let (mut world, tokens) = world_with_tokens("overdraft");
    for token in tokens {
        let message = TransferWithAuthorization {
            value: U256::from(FUNDS + 1),
            ..transfer(&world)
        };
        let signature = sign(&world, Role::Payer, token, &message);
        let receipt = send_transfer(&mut world, Role::Stranger, token, &message, signature);
        receipt.reverted_with::<Ember::ERC20InsufficientBalance>();
    }
}

#[test]
fn ember_starts_at_zero_and_only_its_minter_mints() {
    let mut world = World::on_revm("minter");
    let minter = world.address(Role::Receiver);
    let ember = world.create(ember_init(minter));
    assert_eq!(world.read(ember, &Ember::totalSupplyCall {}), U256::ZERO);
    assert_eq!(world.read(ember, &Ember::minterCall {}), minter);
    assert_eq!(world.read(ember, &Ember::decimalsCall {}), 18);
    assert_eq!(world.read(ember, &Ember::symbolCall {}), "EMBER");

    let mint = Ember::mintCall {
        to: world.address(Role::Payer),
        value: U256::from(5),
    };
    for role in [Role::Stranger, Role::Payer, Role::ReceiverAuthorizer] {
        world
            .send(role, ember, &mint)
            .reverted_with::<Ember::EmberInvalidMinter>();
    }
    world.send(Role::Receiver, ember, &mint).succeeded();
    assert_eq!(world.read(ember, &Ember::totalSupplyCall {}), U256::from(5));
}

#[test]
fn ember_cannot_be_born_without_a_minter() {
    use crate::chain::{Chain, RevmChain};
    let world = World::on_revm("no minter");
    let receipt = RevmChain::new().send(
        &world.key(Role::Stranger),
        alloy_primitives::TxKind::Create,
        ember_init(Address::ZERO),
    );
    let expected = Ember::EmberInvalidMinter {
        account: Address::ZERO,
    };
    assert_eq!(receipt.outcome, Err(expected.abi_encode().into()));
}

#[test]
fn an_ember_allowance_can_be_signed_once() {
    let (mut world, [ember, _]) = world_with_tokens("permit");
    let (owner, spender) = (world.address(Role::Payer), world.address(Role::Stranger));
    let message = Permit {
        owner,
        spender,
        value: U256::from(60),
        nonce: U256::ZERO,
        deadline: U256::from(world.chain.now()),
    };
    let signature = sign(&world, Role::Payer, ember, &message);
    let call = Ember::permitCall {
        owner,
        spender,
        value: message.value,
        deadline: message.deadline,
        v: signature[64],
        r: B256::from_slice(&signature[..32]),
        s: B256::from_slice(&signature[32..64]),
    };
    world.send(Role::Stranger, ember.address, &call).succeeded();
    world
        .send(Role::Stranger, ember.address, &call)
        .reverted_with::<Ember::ERC2612InvalidSigner>();
    let pull = Ember::transferFromCall {
        from: owner,
        to: spender,
        value: U256::from(60),
    };
    world.send(Role::Stranger, ember.address, &pull).succeeded();
    assert_eq!(world.balance(ember.address, spender), 60);

    world.chain.advance(1);
    world
        .send(Role::Stranger, ember.address, &call)
        .reverted_with::<Ember::ERC2612ExpiredSignature>();
}

#[test]
fn the_dollar_says_that_it_is_worthless_and_anyone_mints_it() {
    let mut world = World::on_revm("faucet");
    let token = world.token;
    assert!(
        world
            .read(token, &TestDollar::nameCall {})
            .contains("worthless")
    );
    assert_eq!(world.read(token, &TestDollar::decimalsCall {}), 6);
    let to = world.address(Role::Stranger);
    world
        .send(
            Role::Receiver,
            token,
            &TestDollar::mintCall {
                to,
                value: U256::from(3),
            },
        )
        .succeeded();
    assert_eq!(world.balance(token, to), 3);
}
