// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Emission} from "../src/libraries/Emission.sol";
import {Growth} from "../src/libraries/Growth.sol";
import {Race} from "../src/libraries/Race.sol";
import {Node, Path, SumTree} from "../src/libraries/SumTree.sol";

/// @notice Shows what the ledger's libraries compute, for the vectors.
contract LedgerMath {
    function scale(uint256 weight, uint256 elapsed_s) external pure returns (uint256) {
        return Growth.scale(weight, elapsed_s);
    }

    function cap(uint64 epoch, uint64 epoch_s) external pure returns (uint256) {
        return Emission.cap(epoch, epoch_s);
    }

    function time(bytes32 beacon, bytes32 run, address household, uint96 weight) external pure returns (uint96) {
        return Race.time(beacon, run, household, weight);
    }

    function leaf(address account, address asset, uint256 cumulative) external pure returns (Node memory) {
        return SumTree.leaf(account, asset, cumulative);
    }

    function parent(Node calldata left, Node calldata right) external pure returns (Node memory) {
        return SumTree.parent(left, right);
    }

    function isBelow(Node calldata node, Path calldata path, bytes32 root, uint256 total)
        external
        pure
        returns (bool)
    {
        return SumTree.isBelow(node, path, root, total);
    }
}
