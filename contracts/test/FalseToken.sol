// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice Says `false` instead of reverting, once it is told to: a caller that ignores the answer loses money.
contract FalseToken is ERC20 {
    bool private refusing;

    constructor() ERC20("False", "NO") {}

    function mint(address to, uint256 value) external {
        _mint(to, value);
    }

    function refuse() external {
        refusing = true;
    }

    function transfer(address to, uint256 value) public override returns (bool) {
        return refusing ? false : super.transfer(to, value);
    }
}
