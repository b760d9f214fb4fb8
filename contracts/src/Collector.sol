// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {ICollector} from "./interfaces/ICollector.sol";
import {IDepositCollector} from "./interfaces/IDepositCollector.sol";
import {IERC3009Signature} from "./interfaces/IERC3009Signature.sol";

/// @title Collector
/// @notice See `ICollector`. Holds nothing between calls and has no owner.
contract Collector is ICollector {
    using SafeERC20 for IERC20;

    /// @inheritdoc ICollector
    address public immutable x402BatchSettlement;

    /// @param settlement The settlement contract to serve; part of the runtime code.
    constructor(address settlement) {
        if (settlement == address(0)) revert InvalidX402BatchSettlementAddress();
        x402BatchSettlement = settlement;
    }

    /// @inheritdoc IDepositCollector
    /// @dev The token arrives here first because ERC-3009 lets only the payee receive, then goes on. The
    /// settlement contract checks what it got, so nothing is checked here.
    function collect(address payer, address token, uint256 amount, bytes32 channelId, bytes calldata collectorData)
        external
    {
        address settlement = x402BatchSettlement;
        if (msg.sender != settlement) revert OnlyX402BatchSettlement();

        (uint256 validAfter, uint256 validBefore, uint256 salt, bytes memory signature) =
            abi.decode(collectorData, (uint256, uint256, uint256, bytes));
        bytes32 nonce = keccak256(abi.encode(channelId, salt));
        IERC3009Signature(token)
            .receiveWithAuthorization(payer, address(this), amount, validAfter, validBefore, nonce, signature);
        IERC20(token).safeTransfer(settlement, amount);
    }
}
