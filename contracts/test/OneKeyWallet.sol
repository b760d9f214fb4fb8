// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @notice A contract account that signs with one key (ERC-1271), until the key is revoked.
contract OneKeyWallet is IERC1271 {
    address public key;

    constructor(address key_) {
        key = key_;
    }

    function revoke() external {
        key = address(0);
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        (address signer, ECDSA.RecoverError problem,) = ECDSA.tryRecover(hash, signature);
        bool isValid = problem == ECDSA.RecoverError.NoError && signer == key;
        return isValid ? IERC1271.isValidSignature.selector : bytes4(0xffffffff);
    }
}
