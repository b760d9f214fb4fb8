//! What is proved false about a record while it can be, by anyone, at no stake; and that nothing true can be.

use alloy_primitives::{Address, B256, U256};
use hearth_chain::bindings::{Devices, Rewards};
use hearth_protocol::content::ContentHash;
use hearth_protocol::ledger::statement::EpochStatement;
use hearth_protocol::ledger::sum_tree::{SumNode, SumProof, SumTree, leaf, parent};
use hearth_protocol::money::Amount;

use super::town::{Town, WINDOW_S, device, household, leaf_of, path, tree};
use crate::chain::{Chain, Receipt};

const ALL: [usize; 3] = [0, 1, 2];

/// Accounts in the order of their addresses.
fn accounts() -> Vec<Address> {
    let mut accounts: Vec<Address> = (10..20).map(|n| household(n).address()).collect();
    accounts.sort();
    accounts
}

fn node(node: SumNode) -> Rewards::Node {
    Rewards::Node {
        hash: node.hash,
        sum: U256::from(node.sum.units()),
    }
}

/// A tree of four leaves as a forger makes it: in any order, each with any sum.
struct Forged {
    asset: Address,
    leaves: [(Address, u128); 4],
    /// The sums that the two nodes below the root are said to have.
    sums: [u128; 2],
}

impl Forged {
    fn honest_sums(asset: Address, leaves: [(Address, u128); 4]) -> Self {
        let sums = [leaves[0].1 + leaves[1].1, leaves[2].1 + leaves[3].1];
        Self {
            asset,
            leaves,
            sums,
        }
    }

    fn leaf(&self, place: usize) -> SumNode {
        let (account, units) = self.leaves[place];
        if account.is_zero() {
            return SumNode::default();
        }
        leaf(self.asset, account, Amount::new(units))
    }

    fn inner(&self, place: usize) -> SumNode {
        let true_one =
            parent(self.leaf(2 * place), self.leaf(2 * place + 1)).expect("small sums fit");
        SumNode {
            sum: Amount::new(self.sums[place]),
            ..true_one
        }
    }

    fn root(&self) -> SumNode {
        parent(self.inner(0), self.inner(1)).expect("small sums fit")
    }

    fn shown(&self, place: usize) -> Rewards::Leaf {
        let proof = SumProof {
            index: place as u64,
            siblings: vec![self.leaf(place ^ 1), self.inner(place >> 1 ^ 1)],
        };
        Rewards::Leaf {
            account: self.leaves[place].0,
            cumulative: U256::from(self.leaves[place].1),
            path: path(&proof),
        }
    }

    /// Has all validators sign it for `epoch`.
    fn record_call(&self, town: &mut Town, epoch: u64, base: Option<u64>) -> Rewards::recordCall {
        let root = self.root();
        let statement = EpochStatement {
            epoch,
            asset: self.asset,
            root: root.hash,
            total: root.sum,
            data: ContentHash::default(),
        };
        let (mask, signatures) =
            town.signed(epoch + 1, &statement.for_rewards(town.at.rewards), &ALL);
        Rewards::recordCall {
            asset: self.asset,
            epoch,
            base: base.unwrap_or(u64::MAX),
            root: root.hash,
            total: U256::from(root.sum.units()),
            data: B256::ZERO,
            mask,
            signatures,
        }
    }

    fn record(&self, town: &mut Town, epoch: u64, base: Option<u64>) -> Rewards::recordCall {
        let call = self.record_call(town, epoch, base);
        town.relay(town.at.rewards, &call).succeeded();
        call
    }
}

/// Has all validators record a root for epoch 2, of Ember and without a base.
fn record_root(town: &mut Town, root: SumNode) {
    let asset = town.at.ember;
    let statement = EpochStatement {
        epoch: 2,
        asset,
        root: root.hash,
        total: root.sum,
        data: ContentHash::default(),
    };
    let (mask, signatures) = town.signed(3, &statement.for_rewards(town.at.rewards), &ALL);
    let record = Rewards::recordCall {
        asset,
        epoch: 2,
        base: u64::MAX,
        root: root.hash,
        total: U256::from(root.sum.units()),
        data: B256::ZERO,
        mask,
        signatures,
    };
    town.relay(town.at.rewards, &record).succeeded();
}

/// A town with a final record of epoch 0, and the set of epoch 3 in office, to record epoch 2.
fn with_base(earned: &[(Address, u128)]) -> (Town, SumTree) {
    let mut town = Town::new(3);
    let base = tree(town.at.ember, earned);
    town.seat(1, ALL);
    town.record(0, None, &base, &ALL).succeeded();
    town.seat(3, ALL);
    (town, base)
}

fn is_revoked(town: &mut Town, epoch: u64) -> bool {
    let asset = town.at.ember;
    let call = Rewards::recordOfCall { asset, epoch };
    town.read(town.at.rewards, &call).isRevoked
}

fn order(town: &mut Town, first: Rewards::Leaf, second: Rewards::Leaf) -> Receipt {
    let call = Rewards::challengeOrderCall {
        asset: town.at.ember,
        epoch: 2,
        first,
        second,
    };
    town.relay(town.at.rewards, &call)
}

fn lower(town: &mut Town, earlier: Rewards::Leaf, later: Rewards::Leaf) -> Receipt {
    let call = Rewards::challengeLowerCall {
        asset: town.at.ember,
        epoch: 2,
        earlier,
        later,
    };
    town.relay(town.at.rewards, &call)
}

fn absence(
    town: &mut Town,
    earlier: Rewards::Leaf,
    before: Option<Rewards::Leaf>,
    after: Option<Rewards::Leaf>,
) -> Receipt {
    let nothing = || Rewards::Leaf {
        account: Address::ZERO,
        cumulative: U256::ZERO,
        path: Rewards::Path {
            index: U256::ZERO,
            siblings: vec![],
        },
    };
    let call = Rewards::challengeAbsenceCall {
        asset: town.at.ember,
        epoch: 2,
        earlier,
        hasBefore: before.is_some(),
        before: before.unwrap_or_else(nothing),
        hasAfter: after.is_some(),
        after_: after.unwrap_or_else(nothing),
    };
    town.relay(town.at.rewards, &call)
}

#[test]
fn a_wrong_sum_is_revoked_and_its_leaves_pay_nobody() {
    let a = accounts();
    let (mut town, _) = with_base(&[]);
    let asset = town.at.ember;
    let leaves = [(a[0], 10), (a[1], 20), (a[2], 30), (a[3], 40)];
    // The right half says 1 where it has 70: 100 are promised and 31 counted.
    let forged = Forged {
        asset,
        leaves,
        sums: [30, 1],
    };
    forged.record(&mut town, 2, None);
    let call = Rewards::challengeSumCall {
        asset,
        epoch: 2,
        node: node(forged.inner(1)),
        path: path(&SumProof {
            index: 1,
            siblings: vec![forged.inner(0)],
        }),
        left: node(forged.leaf(2)),
        right: node(forged.leaf(3)),
    };
    let honest = Rewards::challengeSumCall {
        node: node(forged.inner(0)),
        path: path(&SumProof {
            index: 0,
            siblings: vec![forged.inner(1)],
        }),
        left: node(forged.leaf(0)),
        right: node(forged.leaf(1)),
        ..call.clone()
    };
    town.relay(town.at.rewards, &honest)
        .reverted_with::<Rewards::NoFault>();
    let other_children = Rewards::challengeSumCall {
        left: node(forged.leaf(0)),
        ..call.clone()
    };
    town.relay(town.at.rewards, &other_children)
        .reverted_with::<Rewards::InvalidProof>();
    town.relay(town.at.rewards, &call).succeeded();
    assert!(is_revoked(&mut town, 2));
    town.relay(town.at.rewards, &call)
        .reverted_with::<Rewards::NotChallengeable>();
    town.chain.advance(WINDOW_S);
    let claim = Rewards::claimCall {
        asset,
        epoch: 2,
        leaf: forged.shown(0),
    };
    town.relay(town.at.rewards, &claim)
        .reverted_with::<Rewards::NotFinal>();
}

/// Even unchallenged, leaves under a wrong sum cannot be proved: what can be adds up to the total.
#[test]
fn leaves_under_a_wrong_sum_cannot_be_claimed() {
    let a = accounts();
    let (mut town, _) = with_base(&[]);
    let forged = Forged {
        asset: town.at.ember,
        leaves: [(a[0], 10), (a[1], 20), (a[2], 30), (a[3], 40)],
        sums: [30, 1],
    };
    forged.record(&mut town, 2, None);
    town.chain.advance(WINDOW_S);
    for place in 0..4 {
        let claim = Rewards::claimCall {
            asset: forged.asset,
            epoch: 2,
            leaf: forged.shown(place),
        };
        let receipt = town.relay(town.at.rewards, &claim);
        assert_eq!(receipt.outcome.is_ok(), place < 2, "leaf {place}");
    }
    assert_eq!(town.ember_supply(), 30);
}

#[test]
fn a_total_above_what_the_root_sums_is_revoked() {
    let a = accounts();
    let (mut town, _) = with_base(&[]);
    let asset = town.at.ember;
    let leaves = [(a[0], 10), (a[1], 20), (a[2], 30), (a[3], 40)];
    let forged = Forged::honest_sums(asset, leaves);
    let root = SumNode {
        sum: Amount::new(1_000),
        ..forged.root()
    };
    record_root(&mut town, root);
    let call = Rewards::challengeSumCall {
        asset,
        epoch: 2,
        node: node(root),
        path: path(&SumProof {
            index: 0,
            siblings: vec![],
        }),
        left: node(forged.inner(0)),
        right: node(forged.inner(1)),
    };
    town.relay(town.at.rewards, &call).succeeded();
    assert!(is_revoked(&mut town, 2));
}

/// The leaf of an account with a sum that is not its amount: the account could not claim it, and says so.
#[test]
fn a_leaf_with_another_sum_is_revoked() {
    let a = accounts();
    for (account, cumulative) in [(a[1], 20), (Address::ZERO, 0)] {
        let (mut town, _) = with_base(&[]);
        let asset = town.at.ember;
        let first = leaf(asset, a[0], Amount::new(10));
        let hash = if account.is_zero() {
            B256::ZERO
        } else {
            leaf(asset, account, Amount::new(cumulative)).hash
        };
        let second = SumNode {
            hash,
            sum: Amount::new(7),
        };
        let root = parent(first, second).unwrap();
        record_root(&mut town, root);
        let challenge = |place: u64, account, cumulative: u128, sum: u128| {
            let proof = SumProof {
                index: place,
                siblings: vec![if place == 0 { second } else { first }],
            };
            Rewards::challengeLeafCall {
                asset,
                epoch: 2,
                leaf: Rewards::Leaf {
                    account,
                    cumulative: U256::from(cumulative),
                    path: path(&proof),
                },
                sum: U256::from(sum),
            }
        };
        let rewards = town.at.rewards;
        town.relay(rewards, &challenge(0, a[0], 10, 10))
            .reverted_with::<Rewards::NoFault>();
        town.relay(rewards, &challenge(0, a[0], 10, 11))
            .reverted_with::<Rewards::InvalidProof>();
        town.relay(rewards, &challenge(0, a[0], 11, 10))
            .reverted_with::<Rewards::InvalidProof>();
        town.relay(rewards, &challenge(1, account, cumulative, 7))
            .succeeded();
        assert!(is_revoked(&mut town, 2));
    }
}

#[test]
fn an_account_that_stands_twice_is_revoked() {
    let a = accounts();
    let (mut town, _) = with_base(&[]);
    let leaves = [(a[0], 10), (a[1], 20), (a[1], 30), (a[2], 40)];
    let forged = Forged::honest_sums(town.at.ember, leaves);
    forged.record(&mut town, 2, None);
    order(&mut town, forged.shown(0), forged.shown(1)).reverted_with::<Rewards::NoFault>();
    // The same leaf shown twice is still one leaf.
    order(&mut town, forged.shown(1), forged.shown(1)).reverted_with::<Rewards::NoFault>();
    order(&mut town, forged.shown(1), forged.shown(2)).succeeded();
    assert!(is_revoked(&mut town, 2));
}

#[test]
fn leaves_out_of_order_are_revoked() {
    let a = accounts();
    for leaves in [
        [(a[1], 10), (a[0], 20), (a[2], 30), (a[3], 40)],
        // An empty leaf before one that is not.
        [(a[0], 10), (Address::ZERO, 0), (a[2], 30), (a[3], 40)],
    ] {
        let (mut town, _) = with_base(&[]);
        let forged = Forged::honest_sums(town.at.ember, leaves);
        forged.record(&mut town, 2, None);
        let first = usize::from(leaves[1].0.is_zero());
        order(&mut town, forged.shown(first), forged.shown(first + 1)).succeeded();
        assert!(is_revoked(&mut town, 2));
    }
}

#[test]
fn a_cumulative_below_that_of_the_base_is_revoked() {
    let a = accounts();
    let (mut town, base) = with_base(&[(a[0], 100), (a[1], 50)]);
    let leaves = [(a[0], 99), (a[1], 60), (a[2], 1), (a[3], 1)];
    let forged = Forged::honest_sums(town.at.ember, leaves);
    forged.record(&mut town, 2, Some(0));
    lower(&mut town, leaf_of(&base, a[1]), forged.shown(1)).reverted_with::<Rewards::NoFault>();
    lower(&mut town, leaf_of(&base, a[0]), forged.shown(1)).reverted_with::<Rewards::NoFault>();
    let mut invented = leaf_of(&base, a[1]);
    invented.cumulative = U256::from(1_000);
    lower(&mut town, invented, forged.shown(1)).reverted_with::<Rewards::InvalidProof>();
    lower(&mut town, leaf_of(&base, a[0]), forged.shown(0)).succeeded();
    assert!(is_revoked(&mut town, 2));
}

#[test]
fn a_record_without_base_has_nothing_to_be_below() {
    let a = accounts();
    let (mut town, base) = with_base(&[(a[0], 100)]);
    let later = tree(town.at.ember, &[(a[0], 99)]);
    town.record(2, None, &later, &ALL).succeeded();
    lower(&mut town, leaf_of(&base, a[0]), leaf_of(&later, a[0]))
        .reverted_with::<Rewards::InvalidBase>();
}

/// Shows the neighbors of an account in a tree that the protocol made.
fn neighbors(tree: &SumTree, account: Address) -> [Option<Rewards::Leaf>; 2] {
    let shown = tree.absence(account).expect("it has no leaf");
    shown.map(|leaf| {
        leaf.map(|leaf| Rewards::Leaf {
            account: leaf.account,
            cumulative: U256::from(leaf.cumulative.units()),
            path: path(&leaf.proof),
        })
    })
}

#[test]
fn an_account_that_was_left_out_is_found_by_its_neighbors() {
    let a = accounts();
    for absent in 0..5 {
        let rows: Vec<(Address, u128)> = a[..5].iter().map(|account| (*account, 10)).collect();
        let (mut town, base) = with_base(&rows);
        let mut kept = rows.clone();
        kept.remove(absent);
        // Four leaves are a full tree, five are padded: both ends, and the middle.
        kept.push((a[7], 10));
        if absent % 2 == 0 {
            kept.push((a[8], 0));
        }
        let later = tree(town.at.ember, &kept);
        town.record(2, Some(0), &later, &ALL).succeeded();
        let [before, after] = neighbors(&later, a[absent]);
        // Nobody who is there can be shown to be missing.
        let other = rows[(absent + 1) % 5].0;
        absence(
            &mut town,
            leaf_of(&base, other),
            before.clone(),
            after.clone(),
        )
        .reverted_with::<Rewards::NoFault>();
        absence(&mut town, leaf_of(&base, a[absent]), before, after).succeeded();
        assert!(is_revoked(&mut town, 2));
    }
}

#[test]
fn an_empty_tree_misses_everybody() {
    let a = accounts();
    let (mut town, base) = with_base(&[(a[0], 0)]);
    let later = tree(town.at.ember, &[]);
    town.record(2, Some(0), &later, &ALL).succeeded();
    let [before, after] = neighbors(&later, a[0]);
    assert!(before.is_none());
    absence(&mut town, leaf_of(&base, a[0]), before, after).succeeded();
    assert!(is_revoked(&mut town, 2));
}

#[test]
fn neighbors_that_are_not_side_by_side_show_nothing() {
    let a = accounts();
    let rows: Vec<(Address, u128)> = a[..4].iter().map(|account| (*account, 10)).collect();
    let (mut town, base) = with_base(&rows);
    town.record(2, Some(0), &base, &ALL).succeeded();
    let shown = |place: usize| Some(leaf_of(&base, a[place]));
    for (before, after) in [
        (shown(0), shown(2)),
        (None, shown(2)),
        (shown(0), None),
        (None, None),
        (shown(2), shown(0)),
    ] {
        absence(&mut town, leaf_of(&base, a[1]), before, after).reverted_with::<Rewards::NoFault>();
    }
    assert!(!is_revoked(&mut town, 2));
}

#[test]
fn after_the_window_nothing_is_revoked() {
    let a = accounts();
    let (mut town, base) = with_base(&[(a[0], 100)]);
    let leaves = [(a[0], 99), (a[1], 60), (a[1], 1), (a[3], 1)];
    let forged = Forged::honest_sums(town.at.ember, leaves);
    forged.record(&mut town, 2, Some(0));
    town.chain.advance(WINDOW_S);
    order(&mut town, forged.shown(1), forged.shown(2)).reverted_with::<Rewards::NotChallengeable>();
    lower(&mut town, leaf_of(&base, a[0]), forged.shown(0))
        .reverted_with::<Rewards::NotChallengeable>();
}

/// A revoked record stops nothing, and those who signed it lose their seats and half their bonds.
#[test]
fn who_signed_a_false_record_is_expelled_and_the_next_epoch_goes_on() {
    let a = accounts();
    let mut town = Town::new(6);
    let asset = town.at.ember;
    town.seat(1, 0..6);
    let leaves = [(a[0], 10), (a[0], 20), (a[2], 30), (a[3], 40)];
    let forged = Forged::honest_sums(asset, leaves);
    let root = forged.root();
    let statement = EpochStatement {
        epoch: 0,
        asset,
        root: root.hash,
        total: root.sum,
        data: ContentHash::default(),
    };
    let guilty = [0, 1, 2, 3];
    let (mask, signatures) = town.signed(1, &statement.for_rewards(town.at.rewards), &guilty);
    let record = Rewards::recordCall {
        asset,
        epoch: 0,
        base: u64::MAX,
        root: root.hash,
        total: U256::from(root.sum.units()),
        data: B256::ZERO,
        mask,
        signatures: signatures.clone(),
    };
    town.relay(town.at.rewards, &record).succeeded();
    let convict = Rewards::convictCall {
        asset,
        epoch: 0,
        data: B256::ZERO,
        signatures,
    };
    town.relay(town.at.rewards, &convict)
        .reverted_with::<Rewards::NoFault>();
    let call = Rewards::challengeOrderCall {
        asset,
        epoch: 0,
        first: forged.shown(0),
        second: forged.shown(1),
    };
    town.relay(town.at.rewards, &call).succeeded();
    town.relay(town.at.rewards, &record)
        .reverted_with::<Rewards::RecordExists>();
    town.relay(town.at.rewards, &convict).succeeded();
    for number in 0..6 {
        let call = Devices::deviceOfCall {
            sessionKey: device(number).address(),
        };
        let found = town.read(town.at.devices, &call);
        assert_eq!(found.isExpelled, guilty.contains(&number), "{number}");
    }

    // Third of the votes or not: the two who are left are enough at once.
    town.go(2, 1);
    town.enroll(0, 2).reverted_with::<Devices::DeviceInactive>();
    town.seat(2, [4, 5]);
    let honest = tree(asset, &[(a[0], 30)]);
    town.record(1, None, &honest, &[4, 5]).succeeded();
    town.chain.advance(WINDOW_S);
    town.claim(1, &honest, a[0]).succeeded();
    assert_eq!(town.ember_supply(), 30);
}

#[test]
fn a_node_that_is_taken_for_a_leaf_proves_nothing() {
    let a = accounts();
    let (mut town, _) = with_base(&[]);
    let rewards = tree(town.at.ember, &[(a[0], 10), (a[1], 20)]);
    town.record(2, None, &rewards, &ALL).succeeded();
    town.chain.advance(WINDOW_S);
    let claim = Rewards::claimCall {
        asset: town.at.ember,
        epoch: 2,
        leaf: Rewards::Leaf {
            account: a[0],
            cumulative: U256::from(30),
            path: path(&SumProof {
                index: 0,
                siblings: vec![],
            }),
        },
    };
    town.relay(town.at.rewards, &claim)
        .reverted_with::<Rewards::InvalidProof>();
}
