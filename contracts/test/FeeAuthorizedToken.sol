// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {AuthorizedToken} from "../src/AuthorizedToken.sol";

/// @notice ERC-3009 by a token that keeps one percent of each transfer: its deposits deliver less than was signed for.
contract FeeAuthorizedToken is AuthorizedToken {
    constructor() ERC20("Fee Dollar", "FEEUSD") EIP712("Fee Dollar", "1") {}

    function mint(address to, uint256 value) external {
        _mint(to, value);
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (from != address(0) && to != address(0)) super._update(to, address(0), value / 100);
    }
}
