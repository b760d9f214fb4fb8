// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// @title How much Ember there can be, and when
/// @dev 10^9 in all: half of it in the first era of four years, half of the rest in the next, and so on. The length of
/// an epoch divides an era, so that an epoch lies in one era and the sums are exact but for rounding down.
library Emission {
    /// @notice Four years of 365 days, in seconds.
    uint256 internal constant ERA_S = 1460 days;
    /// @notice Atomic units of Ember that the first era gives.
    uint256 internal constant FIRST_ERA = 5e8 * 1e18;
    /// @notice Atomic units of Ember that are worth one atomic unit of Voice at the origin.
    uint256 internal constant EMBER_OF_VOICE = 1e9;

    /// @notice The most Ember that one epoch gives.
    function cap(uint64 epoch, uint64 epoch_s) internal pure returns (uint256) {
        return (FIRST_ERA * epoch_s / ERA_S) >> (uint256(epoch) * epoch_s / ERA_S);
    }
}
