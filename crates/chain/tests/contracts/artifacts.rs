//! What the checked-in artifacts are and are not.

use std::collections::BTreeSet;

use alloy_primitives::{Address, TxKind, address};
use alloy_sol_types::SolError;
use hearth_chain::bindings::{
    Collector, SETTLEMENT_ADDRESS, collector_init, collector_runtime, settlement_init,
    settlement_runtime,
};
use serde::Deserialize;

use crate::chain::{Chain, RevmChain};
use crate::world::{Role, World};

/// The part of an artifact that says what can be called.
#[derive(Deserialize)]
struct Artifact {
    abi: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    r#type: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    state_mutability: String,
}

/// The functions of a contract that can change anything, by name.
fn state_changing(artifact: &str) -> BTreeSet<String> {
    let artifact: Artifact = serde_json::from_str(artifact).expect("an artifact has an ABI");
    let functions = artifact
        .abi
        .into_iter()
        .filter(|entry| entry.r#type == "function");
    functions
        .filter(|entry| !["view", "pure"].contains(&entry.state_mutability.as_str()))
        .map(|entry| entry.name)
        .collect()
}

/// Nothing but these can be called with effect: no owner, pause, upgrade, rescue, fee or second minter.
#[test]
fn no_contract_has_a_door_that_is_not_listed_here() {
    let settlement = [
        "claim",
        "claimWithSignature",
        "deposit",
        "finalizeWithdraw",
        "initiateWithdraw",
        "multicall",
        "refund",
        "refundWithSignature",
        "settle",
    ];
    let token = [
        "approve",
        "cancelAuthorization",
        "mint",
        "receiveWithAuthorization",
        "transfer",
        "transferFrom",
        "transferWithAuthorization",
    ];
    let ember = token.into_iter().chain(["permit"]);
    let set = |names: &[&str]| {
        names
            .iter()
            .map(ToString::to_string)
            .collect::<BTreeSet<_>>()
    };
    let artifacts = [
        (
            include_str!("../../../../contracts/artifacts/Settlement.json"),
            set(&settlement),
        ),
        (
            include_str!("../../../../contracts/artifacts/Collector.json"),
            set(&["collect"]),
        ),
        (
            include_str!("../../../../contracts/artifacts/TestDollar.json"),
            set(&token),
        ),
        (
            include_str!("../../../../contracts/artifacts/Ember.json"),
            ember.map(str::to_owned).collect(),
        ),
    ];
    for (artifact, expected) in artifacts {
        assert_eq!(state_changing(artifact), expected);
    }
}

/// The same of the ledger. `delegate` is of the interface of votes, and always reverts.
#[test]
fn no_contract_of_the_ledger_has_a_door_that_is_not_listed_here() {
    let doors: [(&str, &[&str]); 6] = [
        (
            include_str!("../../../../contracts/artifacts/Devices.json"),
            &[
                "bond", "convict", "expel", "register", "retire", "seize", "slash", "unbond",
                "withdraw",
            ],
        ),
        (
            include_str!("../../../../contracts/artifacts/Voice.json"),
            &["delegate", "delegateBySig", "mint"],
        ),
        (
            include_str!("../../../../contracts/artifacts/Validators.json"),
            &["check", "convict", "enroll", "seal"],
        ),
        (
            include_str!("../../../../contracts/artifacts/Rewards.json"),
            &[
                "challengeAbsence",
                "challengeLeaf",
                "challengeLower",
                "challengeOrder",
                "challengeSum",
                "claim",
                "convict",
                "fund",
                "record",
            ],
        ),
        (
            include_str!("../../../../contracts/artifacts/Runs.json"),
            &["pledge", "recordRound", "refund", "release", "withdraw"],
        ),
        (
            include_str!("../../../../contracts/artifacts/Ledger.json"),
            &[],
        ),
    ];
    for (artifact, expected) in doors {
        let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
        assert_eq!(state_changing(artifact), expected);
    }
}

#[test]
fn code_placed_by_a_genesis_is_the_code_that_a_deployment_leaves() {
    let mut chain = RevmChain::new();
    let key = World::on_revm("deployer").key(Role::Stranger);
    for settlement in [
        SETTLEMENT_ADDRESS,
        address!("0x00000000000000000000000000000000000000ff"),
    ] {
        let created = chain
            .send(&key, TxKind::Create, collector_init(settlement))
            .created
            .unwrap();
        assert_eq!(chain.code(created), collector_runtime(settlement));
    }
    let created = chain
        .send(&key, TxKind::Create, settlement_init())
        .created
        .unwrap();
    assert_eq!(chain.code(created), settlement_runtime());
}

#[test]
fn a_collector_needs_a_settlement_contract() {
    let mut chain = RevmChain::new();
    let key = World::on_revm("deployer").key(Role::Stranger);
    let receipt = chain.send(&key, TxKind::Create, collector_init(Address::ZERO));
    let expected = Collector::InvalidX402BatchSettlementAddress {}.abi_encode();
    assert_eq!(receipt.outcome, Err(expected.into()));
}
