//! `vectors/ledger.json` and `vectors/ledger_bad.json`: what the ledger signs and computes, as the contracts do.
//!
//! Made here from a list of cases by the contracts on revm and compared with what is checked in; `HEARTH_REGENERATE=1`
//! writes them again. `protocol` reads the same files (docs/spec/14-ledger.md).

use std::path::{Path as FilePath, PathBuf};

use alloy_primitives::{Address, B256, Bytes, U256, address, keccak256};
use alloy_sol_types::{SolCall, sol};
use hearth_chain::bindings::{Devices, Rewards, Runs, devices_runtime};
use hearth_protocol::ledger::sum_tree::SumTree;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::town::{Town, path, tree};
use crate::chain::Chain;

#[allow(clippy::all)]
mod generated {
    use super::sol;

    sol!(
        #![sol(all_derives)]
        LedgerMath,
        "../../contracts/artifacts/test/LedgerMath.json"
    );
}

use generated::LedgerMath;

/// Set to write the files instead of comparing with them.
const REGENERATE: &str = "HEARTH_REGENERATE";

/// Where the `Devices` of the vectors stands, and with it the verifying contract of every digest.
const DEVICES: Address = address!("0xd0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0");
const COURT: Address = address!("0xc0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0");
const ASSET: Address = address!("0xe0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0");

/// The whole of `ledger.json`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vectors {
    about: String,
    chain_id: u64,
    devices: Address,
    registrations: Vec<Value>,
    statements: Vec<Value>,
    epochs: Vec<Value>,
    rounds: Vec<Value>,
    runs: Vec<Value>,
    votes: Vec<Value>,
    caps: Vec<Value>,
    races: Vec<Value>,
    trees: Vec<Value>,
}

/// The whole of `ledger_bad.json`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BadVectors {
    about: String,
    data: Vec<Value>,
    proofs: Vec<Value>,
}

const ABOUT: &str = "What devices sign for the ledger and what the ledger computes, by the contracts \
    (docs/spec/14-ledger.md). Integers are decimal strings, but for chainId and what counts places; bytes are 0x-hex. \
    `devices` is the verifying contract of every digest. `data` of a tree is the rows that it is built from, `dataHash` \
    their BLAKE3; `nodes` are its levels from the leaves to the root.";
const ABOUT_BAD: &str = "`data` is rows that make no tree, `proofs` prove nothing below `root`. A reader must refuse \
    each (docs/spec/14-ledger.md).";

fn compare(
    name: &str,
    made: &(impl Serialize + for<'de> Deserialize<'de> + PartialEq + std::fmt::Debug),
) {
    let path: PathBuf = FilePath::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../vectors")
        .join(name);
    let text = serde_json::to_string_pretty(made).expect("vectors are JSON") + "\n";
    if std::env::var_os(REGENERATE).is_some() {
        std::fs::write(&path, &text).expect("the vectors folder can be written");
    }
    let there = std::fs::read_to_string(&path).expect("the vectors are checked in");
    let there: Value = serde_json::from_str(&there).expect("the vectors are JSON");
    let made: Value = serde_json::from_str(&text).expect("the vectors are JSON");
    assert_eq!(
        there, made,
        "{name} is out of date: run this test with {REGENERATE}=1, look, and commit"
    );
}

fn registrations(town: &mut Town) -> Vec<Value> {
    (0..2)
        .map(|number| {
            let registration = town.registration(number);
            let call = Devices::registrationDigestCall {
                endpointKey: registration.device.0.into(),
                household: registration.household,
                sessionKey: registration.session_key,
            };
            serde_json::json!({
                "endpointKey": B256::from(registration.device.0),
                "household": address_text(registration.household),
                "sessionKey": address_text(registration.session_key),
                "digest": town.read(DEVICES, &call),
            })
        })
        .collect()
}

/// An address in lower case, as all bytes in vectors.
fn address_text(address: Address) -> String {
    format!("{address:#x}")
}

fn statements(town: &mut Town) -> Vec<Value> {
    [(1_u8, 0_u64), (2, 7), (3, u64::MAX)]
        .into_iter()
        .map(|(byte, sequence)| {
            let (topic, content) = (B256::repeat_byte(byte), B256::repeat_byte(byte + 0x10));
            let call = Devices::statementDigestCall {
                court: COURT,
                topic,
                sequence,
                content,
            };
            serde_json::json!({
                "court": address_text(COURT),
                "topic": topic,
                "sequence": sequence.to_string(),
                "content": content,
                "digest": town.read(DEVICES, &call),
            })
        })
        .collect()
}

fn epochs(town: &mut Town) -> Vec<Value> {
    [(0_u64, 0_u128), (7, 123_456), (u64::MAX, u128::MAX)]
        .into_iter()
        .map(|(epoch, total)| {
            let (root, data) = (B256::repeat_byte(2), B256::repeat_byte(3));
            let content = Rewards::contentOfCall {
                asset: ASSET,
                epoch,
                root,
                total: U256::from(total),
                data,
            };
            let topic = Rewards::topicOfCall { asset: ASSET };
            serde_json::json!({
                "epoch": epoch.to_string(),
                "asset": address_text(ASSET),
                "root": root,
                "total": total.to_string(),
                "data": data,
                "topic": town.read(town.at.rewards, &topic),
                "content": town.read(town.at.rewards, &content),
            })
        })
        .collect()
}

fn rounds(town: &mut Town) -> Vec<Value> {
    [0_u64, 41, u64::MAX]
        .into_iter()
        .map(|round| {
            let run = B256::repeat_byte(4);
            let [parent, contributions, next] = [5, 6, 7].map(B256::repeat_byte);
            let content = Runs::contentOfCall {
                run,
                round,
                parent,
                contributions,
                next,
            };
            serde_json::json!({
                "run": run,
                "round": round.to_string(),
                "parent": parent,
                "contributions": contributions,
                "next": next,
                "topic": town.read(town.at.runs, &Runs::topicOfCall { run }),
                "content": town.read(town.at.runs, &content),
            })
        })
        .collect()
}

fn runs(town: &mut Town) -> Vec<Value> {
    [(Address::ZERO, 0_u128), (ASSET, 1_000_000)]
        .into_iter()
        .map(|(token, soft_cap)| {
            let terms = Runs::RunTerms {
                manifest: B256::repeat_byte(1),
                state: B256::repeat_byte(2),
                token,
                softCap: soft_cap,
                deadline: 1_800_000_000,
                end: 1_900_000_000,
                checkpoints: 10,
                roundsPerCheckpoint: 20,
            };
            let call = Runs::runOfCall {
                terms: terms.clone(),
            };
            serde_json::json!({
                "manifest": terms.manifest,
                "state": terms.state,
                "token": address_text(token),
                "softCap": soft_cap.to_string(),
                "deadline": terms.deadline.to_string(),
                "end": terms.end.to_string(),
                "checkpoints": terms.checkpoints,
                "roundsPerCheckpoint": terms.roundsPerCheckpoint,
                "run": town.read(town.at.runs, &call),
            })
        })
        .collect()
}

fn votes(town: &mut Town, math: Address) -> Vec<Value> {
    let half_life = 15_552_000_u64;
    let weights = [0, 1, 1_000_000_007, u128::from(u64::MAX)];
    let times = [
        0,
        1,
        86_400,
        half_life - 1,
        half_life,
        half_life * 7 + 12_345_678,
        half_life * 127 + 15_551_999,
        half_life * 128,
        u64::MAX,
    ];
    let mut rows = Vec::new();
    for weight in weights {
        for elapsed in times {
            let call = LedgerMath::scaleCall {
                weight: U256::from(weight),
                elapsed_s: U256::from(elapsed),
            };
            rows.push(serde_json::json!({
                "weight": weight.to_string(),
                "elapsed": elapsed.to_string(),
                "votes": town.read(math, &call).to_string(),
            }));
        }
    }
    rows
}

fn caps(town: &mut Town, math: Address) -> Vec<Value> {
    let mut rows = Vec::new();
    for (epoch, epoch_s) in [
        (0, 3_600),
        (0, 86_400),
        (1_459, 86_400),
        (1_460, 86_400),
        (29_200, 86_400),
        (u64::MAX, 604_800),
    ] {
        let call = LedgerMath::capCall { epoch, epoch_s };
        rows.push(serde_json::json!({
            "epoch": epoch.to_string(),
            "epochSeconds": epoch_s.to_string(),
            "ember": town.read(math, &call).to_string(),
        }));
    }
    rows
}

fn races(town: &mut Town, math: Address) -> Vec<Value> {
    let mut rows = Vec::new();
    for case in 0..12_u8 {
        let beacon = keccak256([case]);
        let run = if case % 2 == 0 {
            B256::ZERO
        } else {
            B256::repeat_byte(case)
        };
        let household = Address::repeat_byte(case);
        let weight = 1_u128 << (case * 5);
        let call = LedgerMath::timeCall {
            beacon,
            run,
            household,
            weight: alloy_primitives::aliases::U96::from(weight),
        };
        rows.push(serde_json::json!({
            "beacon": beacon,
            "run": run,
            "household": address_text(household),
            "weight": weight.to_string(),
            "time": town.read(math, &call).to_string(),
        }));
    }
    rows
}

/// A tree as the contract makes it, level by level.
fn contract_tree(town: &mut Town, math: Address, rows: &[(Address, u128)]) -> Vec<Vec<Value>> {
    let mut level: Vec<LedgerMath::Node> = Vec::new();
    for (account, cumulative) in rows {
        let call = LedgerMath::leafCall {
            account: *account,
            asset: ASSET,
            cumulative: U256::from(*cumulative),
        };
        level.push(town.read(math, &call));
    }
    let padding = LedgerMath::Node {
        hash: B256::ZERO,
        sum: U256::ZERO,
    };
    level.resize(rows.len().next_power_of_two(), padding);
    let shown = |level: &[LedgerMath::Node]| {
        let nodes = level.iter();
        nodes
            .map(|node| serde_json::json!({"hash": node.hash, "sum": node.sum.to_string()}))
            .collect::<Vec<_>>()
    };
    let mut levels = vec![shown(&level)];
    while level.len() > 1 {
        level = level
            .chunks_exact(2)
            .map(|pair| {
                let call = LedgerMath::parentCall {
                    left: pair[0].clone(),
                    right: pair[1].clone(),
                };
                town.read(math, &call)
            })
            .collect();
        levels.push(shown(&level));
    }
    levels
}

fn trees(town: &mut Town, math: Address) -> Vec<Value> {
    let account = |byte: u8| Address::repeat_byte(byte);
    let cases: [Vec<(Address, u128)>; 4] = [
        vec![],
        vec![(account(1), 5)],
        vec![(account(1), 0), (account(2), u128::MAX)],
        (1..=5)
            .map(|n| (account(n), u128::from(n) * 1_000))
            .collect(),
    ];
    cases
        .into_iter()
        .map(|rows| {
            let tree = tree(ASSET, &rows);
            serde_json::json!({
                "asset": address_text(ASSET),
                "data": Bytes::from(tree.data()),
                "dataHash": B256::from(tree.data_hash().0),
                "nodes": contract_tree(town, math, &rows),
            })
        })
        .collect()
}

#[test]
fn the_vectors_are_what_the_contracts_compute() {
    let mut town = Town::new(0);
    town.chain.place(DEVICES, devices_runtime());
    let math = town.create(LedgerMath::BYTECODE.clone());
    let vectors = Vectors {
        about: ABOUT.into(),
        chain_id: town.chain.chain_id(),
        devices: DEVICES,
        registrations: registrations(&mut town),
        statements: statements(&mut town),
        epochs: epochs(&mut town),
        rounds: rounds(&mut town),
        runs: runs(&mut town),
        votes: votes(&mut town, math),
        caps: caps(&mut town, math),
        races: races(&mut town, math),
        trees: trees(&mut town, math),
    };
    compare("ledger.json", &vectors);
}

/// A leaf that is said to be in a tree, and where.
struct Claimed {
    name: &'static str,
    account: Address,
    cumulative: u128,
    path: Rewards::Path,
}

/// What is false about a tree of three leaves.
fn false_claims(tree: &SumTree) -> Vec<Claimed> {
    type Edit = fn(&mut Rewards::Path);
    let nothing: Edit = |_| ();
    let edits: [(&'static str, u8, u128, Edit); 8] = [
        ("another amount", 2, 21, nothing),
        ("another account", 1, 20, nothing),
        ("another place", 2, 20, |path| path.index ^= U256::ONE),
        ("a place that is not there", 2, 20, |path| {
            path.index += U256::from(4);
        }),
        ("a sibling less", 2, 20, |path| path.siblings.truncate(1)),
        ("a sum that is hidden", 2, 20, |path| {
            path.siblings[1].sum = U256::ZERO;
        }),
        ("a sum that overflows 256 bits", 2, 20, |path| {
            path.siblings[1].sum = U256::MAX;
        }),
        ("a path that is too long", 2, 20, |path| {
            path.siblings = vec![path.siblings[0].clone(); 33];
        }),
    ];
    let proof = tree.proof(Address::repeat_byte(2)).expect("it has a leaf");
    edits
        .into_iter()
        .map(|(name, account, cumulative, edit)| {
            let mut path = path(&proof);
            edit(&mut path);
            Claimed {
                name,
                account: Address::repeat_byte(account),
                cumulative,
                path,
            }
        })
        .collect()
}

/// Whether the contract finds the leaf where it is said to be.
fn is_below(town: &mut Town, math: Address, claimed: &Claimed, tree: &SumTree) -> bool {
    let leaf = LedgerMath::leafCall {
        account: claimed.account,
        asset: ASSET,
        cumulative: U256::from(claimed.cumulative),
    };
    let siblings = claimed.path.siblings.iter();
    let call = LedgerMath::isBelowCall {
        node: town.read(math, &leaf),
        path: LedgerMath::Path {
            index: claimed.path.index,
            siblings: siblings
                .map(|node| LedgerMath::Node {
                    hash: node.hash,
                    sum: node.sum,
                })
                .collect(),
        },
        root: tree.root().hash,
        total: U256::from(tree.root().sum.units()),
    };
    let answer = town.chain.read(math, call.abi_encode().into());
    answer.is_ok_and(|answer| answer.as_ref() != B256::ZERO.as_slice())
}

fn shown(claimed: &Claimed, tree: &SumTree) -> Value {
    let siblings: Vec<Value> = claimed
        .path
        .siblings
        .iter()
        .map(|node| serde_json::json!({"hash": node.hash, "sum": node.sum.to_string()}))
        .collect();
    serde_json::json!({
        "name": claimed.name,
        "asset": address_text(ASSET),
        "account": address_text(claimed.account),
        "cumulative": claimed.cumulative.to_string(),
        "index": claimed.path.index.to_string(),
        "siblings": siblings,
        "root": tree.root().hash,
        "total": tree.root().sum.units().to_string(),
    })
}

#[test]
fn what_the_bad_vectors_say_is_refused_by_the_contracts() {
    let mut town = Town::new(0);
    let math = town.create(LedgerMath::BYTECODE.clone());
    let account = Address::repeat_byte;
    let tree = tree(
        ASSET,
        &[(account(1), 10), (account(2), 20), (account(3), 30)],
    );
    let claims = false_claims(&tree);
    for claimed in &claims {
        assert!(
            !is_below(&mut town, math, claimed, &tree),
            "{}",
            claimed.name
        );
    }
    let true_one = Claimed {
        name: "true",
        account: account(2),
        cumulative: 20,
        path: path(&tree.proof(account(2)).expect("it has a leaf")),
    };
    assert!(is_below(&mut town, math, &true_one, &tree));
    compare(
        "ledger_bad.json",
        &BadVectors {
            about: ABOUT_BAD.into(),
            data: bad_data(),
            proofs: claims.iter().map(|claimed| shown(claimed, &tree)).collect(),
        },
    );
}

/// Rows that make no tree.
fn bad_data() -> Vec<Value> {
    let row = |account: u8, units: u128| {
        let mut bytes = vec![account; 20];
        bytes.extend_from_slice(&units.to_be_bytes());
        bytes
    };
    [
        ("a row that is cut off", row(1, 5)[..35].to_vec()),
        ("rows out of order", [row(2, 5), row(1, 5)].concat()),
        ("an account twice", [row(1, 5), row(1, 5)].concat()),
        ("the zero account", row(0, 5)),
        (
            "a sum above 128 bits",
            [row(1, u128::MAX), row(2, 1)].concat(),
        ),
    ]
    .into_iter()
    .map(|(name, data)| serde_json::json!({"name": name, "data": Bytes::from(data)}))
    .collect()
}
