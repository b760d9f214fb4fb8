// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Votes} from "@openzeppelin/contracts/governance/utils/Votes.sol";

import {IVoice} from "./interfaces/IVoice.sol";
import {Growth} from "./libraries/Growth.sol";

/// @title Voice
/// @notice See `IVoice`. The founders get votes at construction that fade as all others do, and no other right.
contract Voice is IVoice, Votes {
    /// @notice The most that the founders can have in all: as many votes as the whole emission gives at the origin.
    uint256 public constant FOUNDING_MAX = 1e18;

    string public constant name = "Voice";
    string public constant symbol = "VOICE";
    uint8 public constant decimals = 9;

    /// @inheritdoc IVoice
    address public immutable minter;
    /// @inheritdoc IVoice
    uint64 public immutable origin;

    /// @param minter_ The contract that mints for checked work.
    /// @param founders The first validators.
    /// @param votesEach What each of them starts with.
    constructor(address minter_, address[] memory founders, uint256 votesEach) EIP712("Voice", "1") {
        if (minter_ == address(0)) revert VoiceInvalidMinter(minter_);
        if (votesEach > FOUNDING_MAX || founders.length * votesEach > FOUNDING_MAX) {
            revert VoiceExcessiveFounding(votesEach);
        }
        minter = minter_;
        origin = uint64(block.timestamp);
        for (uint256 i = 0; i < founders.length; ++i) {
            _transferVotingUnits(address(0), founders[i], votesEach);
        }
    }

    /// @inheritdoc IVoice
    function mint(address account, uint256 votes) external {
        if (msg.sender != minter) revert VoiceInvalidMinter(msg.sender);
        _transferVotingUnits(address(0), account, votes);
    }

    /// @inheritdoc IVoice
    function balanceOf(address account) external view returns (uint256) {
        return getVotes(account);
    }

    /// @notice Votes of everybody.
    function totalSupply() external view returns (uint256) {
        return _getTotalSupply();
    }

    /// @inheritdoc IVoice
    function weightAt(address account, uint256 timepoint) external view returns (uint96) {
        return _weight(getPastVotes(account, timepoint), timepoint);
    }

    /// @inheritdoc IVoice
    function totalWeightAt(uint256 timepoint) external view returns (uint96) {
        return _weight(getPastTotalSupply(timepoint), timepoint);
    }

    /// @notice Everybody votes for themselves, without having to say so.
    function delegates(address account) public pure override returns (address) {
        return account;
    }

    /// @notice Unix seconds: the clock of all snapshots.
    function clock() public view override returns (uint48) {
        return uint48(block.timestamp);
    }

    /// @notice How `clock` counts (ERC-6372).
    // solhint-disable-next-line func-name-mixedcase
    function CLOCK_MODE() public pure override returns (string memory) {
        return "mode=timestamp";
    }

    function _delegate(address, address) internal pure override {
        revert VoiceNotDelegable();
    }

    function _getVotingUnits(address account) internal view override returns (uint256) {
        return getVotes(account);
    }

    /// @dev All votes there can be fit in 2^188, those of one half-life in 2^63: the cast never fails.
    function _weight(uint256 votes, uint256 timepoint) private view returns (uint96) {
        if (timepoint < origin) return 0;
        return SafeCast.toUint96(votes >> Growth.halfLives(timepoint - origin));
    }
}
