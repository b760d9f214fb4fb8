// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// @title Pulls a payer's deposit into the settlement contract
/// @notice One collector knows one way to be authorised; the settlement contract knows none.
interface IDepositCollector {
    /// @notice Moves exactly `amount` of `token` from `payer` to the settlement contract, or reverts.
    /// @param channelId Bound into the payer's authorisation, so that it cannot feed another channel.
    /// @param collectorData The payer's authorisation, in the collector's own encoding.
    function collect(address payer, address token, uint256 amount, bytes32 channelId, bytes calldata collectorData)
        external;
}
