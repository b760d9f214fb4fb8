// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title Drawing by weight without replacement, as a race
/// @dev Each household runs for the time -log2(u) / weight, u from the beacon; the first ones are drawn (Efraimidis and
/// Spirakis, "Weighted random sampling with a reservoir", 2006). A household that enters later changes no other's time, so that
/// the draw needs no list of everybody. Integers alone, the same in Rust (docs/spec/14-ledger.md, section 4).
library Race {
    uint256 private constant RANDOM_BITS = 63;
    uint256 private constant FRACTION_BITS = 32;
    uint256 private constant TIME_SHIFT = 58;

    /// @notice The time of `household` in the race that `beacon` and `run` start; `weight` is not zero. Below 2^96.
    function time(bytes32 beacon, bytes32 run, address household, uint96 weight) internal pure returns (uint96) {
        uint256 random = (uint256(keccak256(abi.encode(beacon, run, household))) >> (256 - RANDOM_BITS)) + 1;
        uint256 length = (RANDOM_BITS << FRACTION_BITS) - log2(random);
        // 63 * 2^32 is below 2^38, and 38 + 58 bits are 96.
        return uint96((length << TIME_SHIFT) / weight);
    }

    /// @dev Binary logarithm of 1 to 2^63, rounded down to 32 bits behind the point: one bit for each squaring.
    function log2(uint256 value) internal pure returns (uint256 result) {
        result = Math.log2(value);
        uint256 mantissa = value << (RANDOM_BITS - result);
        for (uint256 i = 0; i < FRACTION_BITS; ++i) {
            mantissa = (mantissa * mantissa) >> RANDOM_BITS;
            uint256 bit = mantissa >> (RANDOM_BITS + 1);
            mantissa >>= bit;
            result = (result << 1) | bit;
        }
    }
}
