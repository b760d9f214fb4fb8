//! `vectors/ledger.json` and `vectors/ledger_bad.json`: what the contracts computed, computed here.

use std::str::FromStr;

use alloy_primitives::{Address, B256, Bytes, U256};
use serde_json::Value;

use super::statement::{
    EpochStatement, LedgerDomain, LedgerStatement, Registration, RoundStatement, RunTerms, subject,
};
use super::sum_tree::{SumNode, SumProof, SumTree, SumTreeError, leaf};
use super::{draw, emission, growth};
use crate::content::ContentHash;
use crate::id::{ChainId, DeviceId};
use crate::money::Amount;

fn good() -> Value {
    serde_json::from_str(include_str!("../../../../vectors/ledger.json")).unwrap()
}

fn bad() -> Value {
    serde_json::from_str(include_str!("../../../../vectors/ledger_bad.json")).unwrap()
}

/// The field of that name, a string, read as what it stands for.
fn read<T: FromStr>(case: &Value, name: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    case[name].as_str().unwrap().parse().unwrap()
}

fn amount(case: &Value, name: &str) -> Amount {
    Amount::new(read(case, name))
}

fn cases<'a>(file: &'a Value, name: &str) -> &'a [Value] {
    let cases = file[name].as_array().unwrap();
    assert!(!cases.is_empty());
    cases
}

fn domain(file: &Value) -> LedgerDomain {
    let chain = ChainId(file["chainId"].as_u64().unwrap());
    LedgerDomain::new(chain, read(file, "devices"))
}

#[test]
fn what_is_signed_is_hashed_as_on_chain() {
    let file = good();
    let domain = domain(&file);
    for case in cases(&file, "registrations") {
        let registration = Registration {
            device: DeviceId(read::<B256>(case, "endpointKey").0),
            household: read(case, "household"),
            session_key: read(case, "sessionKey"),
        };
        let digest: B256 = read(case, "digest");
        assert_eq!(domain.registration_digest(&registration), digest);
    }
    for case in cases(&file, "statements") {
        let statement = LedgerStatement {
            subject: subject(read(case, "court"), read(case, "topic")),
            sequence: read(case, "sequence"),
            content: read(case, "content"),
        };
        let digest: B256 = read(case, "digest");
        assert_eq!(domain.statement_digest(&statement), digest);
    }
}

#[test]
fn epochs_rounds_and_runs_are_hashed_as_on_chain() {
    let file = good();
    for case in cases(&file, "epochs") {
        let statement = EpochStatement {
            epoch: read(case, "epoch"),
            asset: read(case, "asset"),
            root: read(case, "root"),
            total: amount(case, "total"),
            data: ContentHash(read::<B256>(case, "data").0),
        };
        assert_eq!(statement.topic(), read::<B256>(case, "topic"));
        assert_eq!(statement.content(), read::<B256>(case, "content"));
    }
    for case in cases(&file, "rounds") {
        let statement = RoundStatement {
            run: read(case, "run"),
            round: read(case, "round"),
            parent: read(case, "parent"),
            contributions: read(case, "contributions"),
            next: read(case, "next"),
        };
        assert_eq!(statement.topic(), read::<B256>(case, "topic"));
        assert_eq!(statement.content(), read::<B256>(case, "content"));
    }
    for case in cases(&file, "runs") {
        let count = |name: &str| u32::try_from(case[name].as_u64().unwrap()).unwrap();
        let terms = RunTerms {
            manifest: ContentHash(read::<B256>(case, "manifest").0),
            state: read(case, "state"),
            token: read(case, "token"),
            soft_cap: amount(case, "softCap"),
            deadline_s: read(case, "deadline"),
            end_s: read(case, "end"),
            checkpoints: count("checkpoints"),
            rounds_per_checkpoint: count("roundsPerCheckpoint"),
        };
        assert_eq!(terms.run(), read::<B256>(case, "run"));
    }
}

#[test]
fn votes_caps_and_races_are_those_of_the_chain() {
    let file = good();
    for case in cases(&file, "votes") {
        let votes = growth::votes(read(case, "weight"), read(case, "elapsed"));
        assert_eq!(votes, read::<U256>(case, "votes"), "{case}");
    }
    for case in cases(&file, "caps") {
        let cap = emission::ember_cap(read(case, "epoch"), read(case, "epochSeconds"));
        assert_eq!(cap, amount(case, "ember"), "{case}");
    }
    for case in cases(&file, "races") {
        let time = draw::race_time(
            read(case, "beacon"),
            read(case, "run"),
            read(case, "household"),
            read(case, "weight"),
        );
        assert_eq!(time, read::<u128>(case, "time"), "{case}");
    }
}

fn node(case: &Value) -> SumNode {
    SumNode {
        hash: read(case, "hash"),
        sum: amount(case, "sum"),
    }
}

#[test]
fn trees_are_those_of_the_chain() {
    let file = good();
    for case in cases(&file, "trees") {
        let data: Bytes = read(case, "data");
        let tree = SumTree::from_data(read(case, "asset"), &data).unwrap();
        assert_eq!(tree.data_hash().0, read::<B256>(case, "dataHash").0);
        let levels = cases(case, "nodes");
        let leaves = levels[0].as_array().unwrap();
        for ((account, cumulative), expected) in tree.accounts().iter().zip(leaves) {
            assert_eq!(leaf(tree.asset(), *account, *cumulative), node(expected));
            let proof = tree.proof(*account).unwrap();
            let siblings: Vec<SumNode> = levels[..levels.len() - 1]
                .iter()
                .enumerate()
                .map(|(height, level)| {
                    let place = usize::try_from(proof.index).unwrap() >> height ^ 1;
                    node(&level[place])
                })
                .collect();
            assert_eq!(proof.siblings, siblings);
        }
        let root = levels.last().unwrap();
        assert_eq!(tree.root(), node(&root[0]));
    }
}

#[test]
fn what_makes_no_tree_is_refused() {
    let errors: Vec<SumTreeError> = cases(&bad(), "data")
        .iter()
        .map(|case| {
            let data: Bytes = read(case, "data");
            SumTree::from_data(Address::ZERO, &data).unwrap_err()
        })
        .collect();
    assert_eq!(
        errors,
        [
            SumTreeError::Length,
            SumTreeError::Order { row: 1 },
            SumTreeError::Order { row: 1 },
            SumTreeError::ZeroAccount,
            SumTreeError::Overflow,
        ]
    );
}

#[test]
fn what_proves_nothing_is_refused() {
    for case in cases(&bad(), "proofs") {
        let siblings: Option<Vec<SumNode>> = cases(case, "siblings")
            .iter()
            .map(|sibling| {
                Some(SumNode {
                    hash: read(sibling, "hash"),
                    // A sum above 128 bits is refused where it is read.
                    sum: Amount::new(u128::try_from(read::<U256>(sibling, "sum")).ok()?),
                })
            })
            .collect();
        let Some(siblings) = siblings else { continue };
        let proof = SumProof {
            index: read(case, "index"),
            siblings,
        };
        let node = leaf(
            read(case, "asset"),
            read(case, "account"),
            amount(case, "cumulative"),
        );
        let root = SumNode {
            hash: read(case, "root"),
            sum: amount(case, "total"),
        };
        assert!(!proof.proves(node, root), "{}", case["name"]);
    }
}
