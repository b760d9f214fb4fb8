// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// @notice A node of a sum tree: its hash, and the sum of all leaves below it.
struct Node {
    bytes32 hash;
    uint256 sum;
}

/// @notice Where a node stands: from the root down, bit `depth - 1` of `index` first, 0 is left and 1 is right.
/// @param siblings The other child of each node on the way, from the bottom up; as many as the node is deep.
struct Path {
    uint256 index;
    Node[] siblings;
}

/// @notice A leaf with its place. The zero account is padding, of hash zero; its sum is zero in a tree without fault.
struct Leaf {
    address account;
    uint256 cumulative;
    Path path;
}

/// @title Merkle tree whose nodes carry sums
/// @dev A parent hashes both children's hashes and sums, and has the sum of their sums. So a leaf that can be proved
/// counts in the total, and no set of leaves that can be proved adds up to more than it. Leaves are hashed twice and
/// from fewer bytes than nodes: neither can be taken for the other.
library SumTree {
    /// @notice The deepest a leaf can be.
    uint256 internal constant DEPTH_MAX = 32;

    /// @notice A path longer than `DEPTH_MAX`, or an index that does not fit in its length.
    error InvalidPath();

    /// @notice The leaf of `account`, which may take `cumulative` of `asset` in all.
    function leaf(address account, address asset, uint256 cumulative) internal pure returns (Node memory) {
        if (account == address(0)) return Node(bytes32(0), cumulative);
        return Node(keccak256(bytes.concat(keccak256(abi.encode(account, asset, cumulative)))), cumulative);
    }

    /// @notice The parent of two nodes. Reverts where the sums overflow.
    function parent(Node memory left, Node memory right) internal pure returns (Node memory) {
        return Node(keccak256(abi.encode(left.hash, left.sum, right.hash, right.sum)), left.sum + right.sum);
    }

    /// @notice Whether `node` stands at `path` below the root of that hash and sum.
    function isBelow(Node memory node, Path calldata path, bytes32 root, uint256 total) internal pure returns (bool) {
        uint256 depth = path.siblings.length;
        uint256 index = path.index;
        if (depth > DEPTH_MAX || index >> depth != 0) revert InvalidPath();
        for (uint256 i = 0; i < depth; ++i) {
            Node calldata sibling = path.siblings[i];
            // No tree has a sum that overflows.
            if (sibling.sum > type(uint256).max - node.sum) return false;
            node = index & 1 == 0 ? parent(node, sibling) : parent(sibling, node);
            index >>= 1;
        }
        return node.hash == root && node.sum == total;
    }

    /// @notice Where the span of a node begins among 2^32 places from left to right.
    function start(Path calldata path) internal pure returns (uint256) {
        return path.index << (DEPTH_MAX - path.siblings.length);
    }

    /// @notice Where the span of a node ends: the first place behind it.
    function end(Path calldata path) internal pure returns (uint256) {
        return (path.index + 1) << (DEPTH_MAX - path.siblings.length);
    }
}
