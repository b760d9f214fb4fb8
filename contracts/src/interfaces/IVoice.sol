// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// @title Votes that are earned, stay with those who earned them, and fade
/// @notice Work at time t is worth `weight * 2^((t - origin) / 180 days)` votes, so that older votes halve beside newer
/// ones every 180 days though none is ever written again. There is no transfer, no allowance and no delegation to
/// others. 2^128 is the largest factor: from 63 years after the origin on votes stop fading, and never overflow.
/// @dev Reading is by OpenZeppelin's `Votes` with a clock of Unix seconds.
interface IVoice {
    /// @notice `account` is not the minter.
    error VoiceInvalidMinter(address account);
    /// @notice Votes stay with those who earned them.
    error VoiceNotDelegable();
    /// @notice The founders have more than `FOUNDING_MAX` in all.
    error VoiceExcessiveFounding(uint256 votes);

    /// @notice Records `votes`, scaled to when they were earned already, as earned by `account`. For the minter alone.
    function mint(address account, uint256 votes) external;

    /// @notice The only contract that mints.
    function minter() external view returns (address);

    /// @notice Unix seconds at which a vote is worth its weight.
    function origin() external view returns (uint64);

    /// @notice Votes of `account`; they cannot be spent.
    function balanceOf(address account) external view returns (uint256);

    /// @notice What `account` had at a past time, in units of the last whole half-life before it.
    function weightAt(address account, uint256 timepoint) external view returns (uint96);

    /// @notice What everybody had together at a past time, in the same units.
    function totalWeightAt(uint256 timepoint) external view returns (uint96);
}
