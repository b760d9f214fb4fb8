// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {AuthorizedToken} from "./AuthorizedToken.sol";

/// @title TestDollar: WORTHLESS, FOR DEMOS AND TESTS ONLY
/// @notice ANYONE CAN MINT ANY AMOUNT. NEVER ACCEPT IT FOR ANYTHING. It exists so that a demo or a test can pay with
/// a token of 6 decimals and ERC-3009, shaped like the dollar tokens of public chains.
contract TestDollar is AuthorizedToken {
    constructor() ERC20("Test Dollar (worthless)", "TESTUSD") EIP712("Test Dollar (worthless)", "1") {}

    /// @notice The faucet: creates `value` atomic units for `to`, for whoever asks.
    function mint(address to, uint256 value) external {
        _mint(to, value);
    }

    /// @notice A dollar has 1,000,000 atomic units.
    function decimals() public pure override returns (uint8) {
        return 6;
    }
}
