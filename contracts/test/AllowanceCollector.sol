// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {IDepositCollector} from "../src/interfaces/IDepositCollector.sol";

/// @notice Pulls by allowance, for tokens without authorisations. `collectorData` is how much less than asked to
/// deliver, as a uint256, or empty. Whoever approves it trusts every caller: tests only.
contract AllowanceCollector is IDepositCollector {
    using SafeERC20 for IERC20;

    function collect(address payer, address token, uint256 amount, bytes32, bytes calldata collectorData) external {
        uint256 missing = collectorData.length == 0 ? 0 : abi.decode(collectorData, (uint256));
        IERC20(token).safeTransferFrom(payer, msg.sender, amount - missing);
    }
}
