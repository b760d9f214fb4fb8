// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

import {AuthorizedToken} from "./AuthorizedToken.sol";

/// @title Ember
/// @notice The token of checked work. It starts at zero; one minter, fixed for ever at construction, is the only
/// source of new tokens. There is no owner, pause, freeze, fee, upgrade or second minter.
/// @dev ERC-20, ERC-2612 (permit) and ERC-3009 (transfer by authorisation). 18 decimals.
contract Ember is AuthorizedToken, ERC20Permit {
    /// @notice `account` is not the minter.
    error EmberInvalidMinter(address account);

    /// @notice The only account that may create tokens.
    address public immutable minter;

    /// @param minter_ The contract (or, on a private chain, the account) that mints for checked work.
    constructor(address minter_) ERC20("Ember", "EMBER") ERC20Permit("Ember") {
        if (minter_ == address(0)) revert EmberInvalidMinter(minter_);
        minter = minter_;
    }

    /// @notice Creates `value` atomic units for `to`. Only the minter may call.
    function mint(address to, uint256 value) external {
        if (msg.sender != minter) revert EmberInvalidMinter(msg.sender);
        _mint(to, value);
    }
}
