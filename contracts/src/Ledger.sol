// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Devices} from "./Devices.sol";
import {Ember} from "./Ember.sol";
import {Rewards} from "./Rewards.sol";
import {Validators} from "./Validators.sol";
import {Voice} from "./Voice.sol";

/// @title Ledger
/// @notice Puts the contracts that know each other up in one transaction, and has no other use: no function, no right.
/// @dev Their addresses follow from this contract's, and that follows by CREATE2 from this code and these arguments: on
/// a chain where anyone deployed it, nothing else can stand there.
contract Ledger {
    Devices public immutable devices;
    Ember public immutable ember;
    Voice public immutable voice;
    Validators public immutable validators;
    Rewards public immutable rewards;

    /// @notice The rewards contract is not where it was expected.
    error MisplacedRewards(address rewards);

    /// @param devices_ Where `Devices` stands.
    /// @param founders Households of the first validators.
    /// @param votesEach Voice that each of them starts with.
    /// @param epoch_s Seconds of an epoch.
    /// @param window_s Seconds in which a record can be challenged.
    constructor(Devices devices_, address[] memory founders, uint256 votesEach, uint64 epoch_s, uint64 window_s) {
        // The fourth contract that this one creates; RLP of (address, 4), as CREATE names it.
        bytes32 name = keccak256(abi.encodePacked(hex"d694", address(this), hex"04"));
        address expected = address(uint160(uint256(name)));
        devices = devices_;
        ember = new Ember(expected);
        voice = new Voice(expected, founders, votesEach);
        validators = new Validators(devices_, voice, epoch_s);
        rewards = new Rewards(ember, voice, devices_, validators, window_s);
        if (address(rewards) != expected) revert MisplacedRewards(address(rewards));
    }
}
