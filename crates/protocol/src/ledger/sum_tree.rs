//! The Merkle-sum tree of rewards: who has earned how much in all (spec: 14 ledger, section 5).
//!
//! A parent hashes both children's hashes and sums and has the sum of their sums, so no set of leaves that can be proved
//! adds up to more than the root. Leaves are sorted strictly by account and padded on the right with empty ones.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::SolValue;
use thiserror::Error;

use crate::content::ContentHash;
use crate::money::Amount;

/// The deepest a leaf can be in the contract.
pub const DEPTH_MAX: usize = 32;
/// Leaves that one tree may have here.
pub const LEAVES_MAX: usize = 1 << 22;

/// Bytes of one row of the data that a tree is built from: an account and what it earned.
const ROW_BYTES: usize = 20 + 16;

/// A node: its hash, and the sum of all leaves below it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SumNode {
    /// Zero for padding.
    pub hash: B256,
    /// Atomic units.
    pub sum: Amount,
}

/// Where a node stands, and what is beside the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumProof {
    /// From the root down, the highest bit first: 0 is left and 1 is right.
    pub index: u64,
    /// The other child of each node on the way, from the bottom up.
    pub siblings: Vec<SumNode>,
}

/// A leaf with what shows where it stands; the zero account is padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownLeaf {
    /// Whose it is.
    pub account: Address,
    /// What that account has earned in all.
    pub cumulative: Amount,
    /// Its place.
    pub proof: SumProof,
}

/// The tree of one epoch and asset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumTree {
    asset: Address,
    accounts: Vec<(Address, Amount)>,
    /// From the leaves to the root.
    levels: Vec<Vec<SumNode>>,
}

/// Why there is no such tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SumTreeError {
    /// More than [`LEAVES_MAX`] accounts.
    #[error("a tree of rewards has at most {LEAVES_MAX} accounts")]
    TooLarge,
    /// All rewards together do not fit in 128 bits.
    #[error("the sum of all rewards does not fit in 128 bits")]
    Overflow,
    /// The zero account stands for padding.
    #[error("the zero account cannot earn")]
    ZeroAccount,
    /// The data ends in the middle of a row.
    #[error("the data of a tree of rewards is rows of {ROW_BYTES} bytes")]
    Length,
    /// Accounts must ascend strictly.
    #[error("row {row} does not ascend by account")]
    Order {
        /// The row that is not above the one before it.
        row: usize,
    },
}

/// The leaf of `account`, which may take `cumulative` of `asset` in all.
#[must_use]
pub fn leaf(asset: Address, account: Address, cumulative: Amount) -> SumNode {
    let inner = keccak256((account, asset, U256::from(cumulative.units())).abi_encode());
    SumNode {
        hash: keccak256(inner),
        sum: cumulative,
    }
}

/// The parent of two nodes; `None` where the sums overflow.
#[must_use]
pub fn parent(left: SumNode, right: SumNode) -> Option<SumNode> {
    let bytes = (
        left.hash,
        U256::from(left.sum.units()),
        right.hash,
        U256::from(right.sum.units()),
    )
        .abi_encode();
    Some(SumNode {
        hash: keccak256(bytes),
        sum: left.sum.checked_add(right.sum)?,
    })
}

impl SumProof {
    /// Whether `node` stands at this place below `root`.
    #[must_use]
    pub fn proves(&self, node: SumNode, root: SumNode) -> bool {
        let depth = self.siblings.len();
        if depth > DEPTH_MAX || self.index >> depth != 0 {
            return false;
        }
        let mut node = node;
        for (level, sibling) in self.siblings.iter().enumerate() {
            let above = if self.index >> level & 1 == 0 {
                parent(node, *sibling)
            } else {
                parent(*sibling, node)
            };
            let Some(above) = above else { return false };
            node = above;
        }
        node == root
    }
}

impl SumTree {
    /// The tree of what every account has earned in all. No accounts make an empty tree, of hash and sum zero.
    ///
    /// # Errors
    /// See [`SumTreeError`].
    pub fn new(asset: Address, earned: &BTreeMap<Address, Amount>) -> Result<Self, SumTreeError> {
        if earned.len() > LEAVES_MAX {
            return Err(SumTreeError::TooLarge);
        }
        if earned.contains_key(&Address::ZERO) {
            return Err(SumTreeError::ZeroAccount);
        }
        let accounts: Vec<_> = earned
            .iter()
            .map(|(account, sum)| (*account, *sum))
            .collect();
        let mut level: Vec<SumNode> = accounts
            .iter()
            .map(|(account, cumulative)| leaf(asset, *account, *cumulative))
            .collect();
        level.resize(level.len().next_power_of_two(), SumNode::default());
        let mut levels = vec![level];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let above = below
                .chunks_exact(2)
                .map(|pair| parent(pair[0], pair[1]).ok_or(SumTreeError::Overflow))
                .collect::<Result<_, _>>()?;
            levels.push(above);
        }
        Ok(Self {
            asset,
            accounts,
            levels,
        })
    }

    /// Reads the data of a tree; see [`SumTree::data`].
    ///
    /// # Errors
    /// [`SumTreeError::Length`], [`SumTreeError::Order`], and as [`SumTree::new`].
    pub fn from_data(asset: Address, data: &[u8]) -> Result<Self, SumTreeError> {
        if !data.len().is_multiple_of(ROW_BYTES) {
            return Err(SumTreeError::Length);
        }
        if data.len() / ROW_BYTES > LEAVES_MAX {
            return Err(SumTreeError::TooLarge);
        }
        let mut earned = BTreeMap::new();
        for (row, bytes) in data.chunks_exact(ROW_BYTES).enumerate() {
            let (account, units) = bytes.split_at(20);
            let account = Address::from_slice(account);
            let units = units
                .iter()
                .fold(0, |units, byte| units << 8 | u128::from(*byte));
            if earned
                .last_key_value()
                .is_some_and(|(last, _)| *last >= account)
            {
                return Err(SumTreeError::Order { row });
            }
            earned.insert(account, Amount::new(units));
        }
        Self::new(asset, &earned)
    }

    /// The bytes that the tree is built from: for each account in order, its 20 bytes and 16 bytes of what it earned,
    /// the highest first.
    #[must_use]
    pub fn data(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.accounts.len() * ROW_BYTES);
        for (account, cumulative) in &self.accounts {
            bytes.extend_from_slice(account.as_slice());
            bytes.extend_from_slice(&cumulative.units().to_be_bytes());
        }
        bytes
    }

    /// The name of [`SumTree::data`].
    #[must_use]
    pub fn data_hash(&self) -> ContentHash {
        ContentHash::of(&self.data())
    }

    /// The asset that is earned.
    #[must_use]
    pub fn asset(&self) -> Address {
        self.asset
    }

    /// All accounts in order, with what each has earned in all.
    #[must_use]
    pub fn accounts(&self) -> &[(Address, Amount)] {
        &self.accounts
    }

    /// The root: what goes on chain.
    #[must_use]
    pub fn root(&self) -> SumNode {
        let top = self.levels.last().and_then(|level| level.first());
        top.copied().unwrap_or_default()
    }

    /// What an account has earned in all, if it has a leaf.
    #[must_use]
    pub fn cumulative(&self, account: Address) -> Option<Amount> {
        let place = self.place(account).ok()?;
        Some(self.accounts[place].1)
    }

    /// What shows the chain that an account has its leaf.
    #[must_use]
    pub fn proof(&self, account: Address) -> Option<SumProof> {
        self.place(account).ok().map(|place| self.proof_at(place))
    }

    /// What shows the chain that an account has no leaf: the two leaves around where it would be, and nothing at an end
    /// of the tree. `None` for an account that has one.
    #[must_use]
    pub fn absence(&self, account: Address) -> Option<[Option<ShownLeaf>; 2]> {
        let place = self.place(account).err()?;
        let shown = |place: usize| {
            let (account, cumulative) = self.accounts.get(place).copied().unwrap_or_default();
            ShownLeaf {
                account,
                cumulative,
                proof: self.proof_at(place),
            }
        };
        let before = place.checked_sub(1).map(shown);
        let after = (place < self.levels[0].len()).then(|| shown(place));
        Some([before, after])
    }

    fn place(&self, account: Address) -> Result<usize, usize> {
        self.accounts
            .binary_search_by_key(&account, |(account, _)| *account)
    }

    fn proof_at(&self, place: usize) -> SumProof {
        let below_root = &self.levels[..self.levels.len() - 1];
        let siblings = below_root
            .iter()
            .enumerate()
            .map(|(height, level)| level[place >> height ^ 1])
            .collect();
        SumProof {
            index: place as u64,
            siblings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASSET: Address = Address::repeat_byte(0xee);

    fn earned(rows: &[(u8, u128)]) -> BTreeMap<Address, Amount> {
        rows.iter()
            .map(|(account, units)| (Address::repeat_byte(*account), Amount::new(*units)))
            .collect()
    }

    fn tree(rows: &[(u8, u128)]) -> SumTree {
        SumTree::new(ASSET, &earned(rows)).unwrap()
    }

    #[test]
    fn every_leaf_is_proved_and_no_other_amount_is() {
        for count in 1..20 {
            let rows: Vec<(u8, u128)> = (1..=count).map(|n| (n, u128::from(n) * 10)).collect();
            let tree = tree(&rows);
            let root = tree.root();
            assert_eq!(root.sum.units(), rows.iter().map(|row| row.1).sum::<u128>());
            for (account, units) in &rows {
                let account = Address::repeat_byte(*account);
                let proof = tree.proof(account).unwrap();
                assert!(proof.proves(leaf(ASSET, account, Amount::new(*units)), root));
                assert!(!proof.proves(leaf(ASSET, account, Amount::new(units + 1)), root));
                assert!(!proof.proves(leaf(account, account, Amount::new(*units)), root));
            }
            assert_eq!(tree.proof(Address::ZERO), None);
        }
    }

    #[test]
    fn a_sibling_that_hides_its_sum_spoils_the_proof() {
        let tree = tree(&[(1, 10), (2, 20), (3, 30), (4, 40)]);
        let account = Address::repeat_byte(1);
        let mut proof = tree.proof(account).unwrap();
        proof.siblings[1].sum = Amount::ZERO;
        let node = leaf(ASSET, account, Amount::new(10));
        assert!(!proof.proves(node, tree.root()));
        let root = SumNode {
            sum: Amount::new(30),
            ..tree.root()
        };
        assert!(!proof.proves(node, root));
    }

    #[test]
    fn places_that_cannot_be_are_refused() {
        let tree = tree(&[(1, 10), (2, 20)]);
        let node = leaf(ASSET, Address::repeat_byte(1), Amount::new(10));
        let mut proof = tree.proof(Address::repeat_byte(1)).unwrap();
        proof.index = 2;
        assert!(!proof.proves(node, tree.root()));
        proof.index = 0;
        proof.siblings = vec![SumNode::default(); DEPTH_MAX + 1];
        assert!(!proof.proves(node, tree.root()));
        proof.siblings = vec![SumNode {
            hash: B256::ZERO,
            sum: Amount::MAX,
        }];
        assert!(!proof.proves(node, tree.root()), "a sum that overflows");
    }

    #[test]
    fn an_account_without_a_leaf_has_neighbors() {
        let tree = tree(&[(2, 10), (4, 20), (6, 30)]);
        let accounts = |absent: u8| {
            let [before, after] = tree.absence(Address::repeat_byte(absent)).unwrap();
            for shown in before.iter().chain(&after) {
                let node = if shown.account.is_zero() {
                    SumNode::default()
                } else {
                    leaf(ASSET, shown.account, shown.cumulative)
                };
                assert!(shown.proof.proves(node, tree.root()));
            }
            [before, after].map(|shown| shown.map(|leaf| leaf.account[0]))
        };
        assert_eq!(accounts(1), [None, Some(2)]);
        assert_eq!(accounts(3), [Some(2), Some(4)]);
        assert_eq!(accounts(9), [Some(6), Some(0)]);
        assert_eq!(tree.absence(Address::repeat_byte(4)), None);
    }

    #[test]
    fn a_tree_is_its_data() {
        for rows in [&[][..], &[(1, 5)], &[(1, 5), (9, u128::MAX - 5)]] {
            let tree = tree(rows);
            assert_eq!(SumTree::from_data(ASSET, &tree.data()), Ok(tree));
        }
        assert_eq!(tree(&[]).root(), SumNode::default());
    }

    #[test]
    fn data_that_is_no_tree_is_refused() {
        let data = tree(&[(1, 5), (2, 6)]).data();
        let read = |data: &[u8]| SumTree::from_data(ASSET, data).unwrap_err();
        assert_eq!(read(&data[1..]), SumTreeError::Length);
        let swapped = [&data[ROW_BYTES..], &data[..ROW_BYTES]].concat();
        assert_eq!(read(&swapped), SumTreeError::Order { row: 1 });
        let twice = [&data[..ROW_BYTES], &data[..ROW_BYTES]].concat();
        assert_eq!(read(&twice), SumTreeError::Order { row: 1 });
        assert_eq!(read(&[0; ROW_BYTES]), SumTreeError::ZeroAccount);
        let overflow = earned(&[(1, u128::MAX), (2, 1)]);
        assert_eq!(SumTree::new(ASSET, &overflow), Err(SumTreeError::Overflow));
    }
}
