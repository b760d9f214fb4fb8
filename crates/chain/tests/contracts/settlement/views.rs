//! What the contracts say of themselves: constants, domain, hashes.

use alloy_primitives::{U256, b256, fixed_bytes};
use alloy_sol_types::SolStruct;
use hearth_chain::bindings::{COLLECTOR_ADDRESS, Collector, SETTLEMENT_ADDRESS, Settlement};

use crate::signing::{ClaimBatch, Refund, Voucher, claim_batch};
use crate::world::World;

super::rules![
    the_domain_is_that_of_x402,
    delays_and_type_hashes_are_public,
    digests_are_those_of_a_wallet,
    the_collector_names_its_settlement_contract,
    an_unknown_channel_is_empty,
];

fn the_domain_is_that_of_x402(world: &mut World) {
    let domain = world.read(SETTLEMENT_ADDRESS, &Settlement::eip712DomainCall {});
    assert_eq!(domain.fields, fixed_bytes!("0x0f"));
    assert_eq!(
        (domain.name.as_str(), domain.version.as_str()),
        ("x402 Batch Settlement", "1")
    );
    assert_eq!(
        (domain.chainId, domain.verifyingContract),
        (U256::from(world.chain.chain_id()), SETTLEMENT_ADDRESS)
    );
    assert!(domain.salt.is_zero() && domain.extensions.is_empty());
}

fn delays_and_type_hashes_are_public(world: &mut World) {
    let shortest: u64 = world
        .read(SETTLEMENT_ADDRESS, &Settlement::MIN_WITHDRAW_DELAYCall {})
        .to();
    let longest: u64 = world
        .read(SETTLEMENT_ADDRESS, &Settlement::MAX_WITHDRAW_DELAYCall {})
        .to();
    assert_eq!((shortest, longest), (900, 2_592_000));

    let config = world.config();
    let told = world.read(
        SETTLEMENT_ADDRESS,
        &Settlement::CHANNEL_CONFIG_TYPEHASHCall {},
    );
    assert_eq!(told, config.eip712_type_hash());
    let told = world.read(SETTLEMENT_ADDRESS, &Settlement::VOUCHER_TYPEHASHCall {});
    assert_eq!(
        told,
        Voucher {
            channelId: told,
            maxClaimableAmount: 0
        }
        .eip712_type_hash()
    );
    let told = world.read(SETTLEMENT_ADDRESS, &Settlement::REFUND_TYPEHASHCall {});
    assert_eq!(
        told,
        Refund {
            channelId: told,
            nonce: U256::ZERO,
            amount: 0
        }
        .eip712_type_hash()
    );
    let told = world.read(SETTLEMENT_ADDRESS, &Settlement::CLAIM_BATCH_TYPEHASHCall {});
    assert_eq!(told, ClaimBatch { claims: Vec::new() }.eip712_type_hash());
    let told = world.read(SETTLEMENT_ADDRESS, &Settlement::CLAIM_ENTRY_TYPEHASHCall {});
    let batch = claim_batch(&world.domain(), &[world.row(&config, 1, 1)]);
    assert_eq!(told, batch.claims[0].eip712_type_hash());
}

fn digests_are_those_of_a_wallet(world: &mut World) {
    let domain = world.domain();
    let config = world.config_n(3);
    let id = world.channel_id(&config);
    let told = world.read(
        SETTLEMENT_ADDRESS,
        &Settlement::getChannelIdCall {
            config: config.clone(),
        },
    );
    assert_eq!(told, id);

    for amount in [0, 1, u128::MAX] {
        let call = Settlement::getVoucherDigestCall {
            channelId: id,
            maxClaimableAmount: amount,
        };
        let voucher = Voucher {
            channelId: id,
            maxClaimableAmount: amount,
        };
        assert_eq!(
            world.read(SETTLEMENT_ADDRESS, &call),
            voucher.eip712_signing_hash(&domain)
        );

        let nonce = U256::from(amount);
        let call = Settlement::getRefundDigestCall {
            channelId: id,
            nonce,
            amount,
        };
        let refund = Refund {
            channelId: id,
            nonce,
            amount,
        };
        assert_eq!(
            world.read(SETTLEMENT_ADDRESS, &call),
            refund.eip712_signing_hash(&domain)
        );
    }
    for count in 0..4 {
        let rows: Vec<_> = (0..count)
            .map(|n| world.row(&world.config_n(n), 9, n.into()))
            .collect();
        let expected = claim_batch(&domain, &rows).eip712_signing_hash(&domain);
        let call = Settlement::getClaimBatchDigestCall {
            voucherClaims: rows,
        };
        assert_eq!(world.read(SETTLEMENT_ADDRESS, &call), expected);
    }
}

fn the_collector_names_its_settlement_contract(world: &mut World) {
    let told = world.read(COLLECTOR_ADDRESS, &Collector::x402BatchSettlementCall {});
    assert_eq!(told, SETTLEMENT_ADDRESS);
}

fn an_unknown_channel_is_empty(world: &mut World) {
    let unknown = b256!("0x1111111111111111111111111111111111111111111111111111111111111111");
    let money = world.read(
        SETTLEMENT_ADDRESS,
        &Settlement::channelsCall { channelId: unknown },
    );
    assert_eq!((money.balance, money.totalClaimed), (0, 0));
}
