// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IDepositCollector} from "./IDepositCollector.sol";

/// @title Deposits by ERC-3009 authorisation
/// @notice The payer signs `ReceiveWithAuthorization` with this contract as `to` and
/// `keccak256(abi.encode(channelId, salt))` as nonce. `collectorData` is
/// `abi.encode(uint256 validAfter, uint256 validBefore, uint256 salt, bytes signature)`.
interface ICollector is IDepositCollector {
    /// @notice Only the settlement contract may collect, or a stranger could choose the channel's moment.
    error OnlyX402BatchSettlement();
    /// @notice A collector without a settlement contract would be of no use.
    error InvalidX402BatchSettlementAddress();

    /// @notice The settlement contract that this collector serves.
    function x402BatchSettlement() external view returns (address);
}
