// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IDepositCollector} from "../src/interfaces/IDepositCollector.sol";

/// @notice Calls the settlement contract back with `collectorData` in the middle of a deposit and hands a failure on.
contract ReentrantCollector is IDepositCollector {
    function collect(address, address, uint256, bytes32, bytes calldata collectorData) external {
        (bool success, bytes memory reason) = msg.sender.call(collectorData);
        if (!success) {
            // Bubbling a reason up is what needs assembly; test code only.
            assembly ("memory-safe") {
                revert(add(reason, 0x20), mload(reason))
            }
        }
    }
}
