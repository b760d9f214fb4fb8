// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {ChannelConfig, ISettlement} from "../interfaces/ISettlement.sol";

/// @title What the terms of a channel say by themselves: whether they are sound, and who stands on which side
library ChannelTerms {
    uint40 internal constant MIN_WITHDRAW_DELAY = 15 minutes;
    uint40 internal constant MAX_WITHDRAW_DELAY = 30 days;

    /// @notice Reverts for terms that no deposit may be made on.
    function check(ChannelConfig calldata config) internal pure {
        if (config.payer == address(0)) revert ISettlement.InvalidChannel();
        if (config.receiver == address(0)) revert ISettlement.InvalidChannel();
        if (config.receiverAuthorizer == address(0)) revert ISettlement.InvalidChannel();
        if (config.token == address(0)) revert ISettlement.InvalidChannel();
        uint40 delay = config.withdrawDelay;
        if (delay < MIN_WITHDRAW_DELAY || delay > MAX_WITHDRAW_DELAY) revert ISettlement.WithdrawDelayOutOfRange();
    }

    /// @notice Whether `account` may claim from and refund the channel.
    function isReceiverSide(ChannelConfig calldata config, address account) internal pure returns (bool) {
        return account == config.receiverAuthorizer || account == config.receiver;
    }

    /// @notice Whether `account` may withdraw from the channel.
    function isPayerSide(ChannelConfig calldata config, address account) internal pure returns (bool) {
        return account == config.payer || account == config.payerAuthorizer;
    }
}
