// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

/// @title ERC-3009 with signatures as bytes
/// @notice The same authorisations as in ERC-3009, signed by a key (65 bytes `r, s, v`) or by a contract (ERC-1271).
/// Times are Unix seconds, exclusive on both sides; a nonce is any 32 bytes that its signer has not used.
interface IERC3009Signature {
    /// @notice Executes a transfer that `from` signed as `TransferWithAuthorization`. Anyone may send it.
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;

    /// @notice Executes a transfer that `from` signed as `ReceiveWithAuthorization`. Only `to` may send it.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes calldata signature
    ) external;

    /// @notice Spends a nonce without a transfer, as `authorizer` signed in `CancelAuthorization`.
    function cancelAuthorization(address authorizer, bytes32 nonce, bytes calldata signature) external;
}
