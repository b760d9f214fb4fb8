// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

import {ChannelConfig, VoucherClaim} from "../interfaces/ISettlement.sol";

/// @notice EIP-712 domain separator of the contract that is running, worked out once per call.
type Domain is bytes32;

using ChannelHashing for Domain global;

/// @title What is signed about channels
/// @dev Every value follows from constants, the chain id and the contract's own address. Nothing is cached at
/// construction, so code that a genesis places at an address is right there; and a batch pays for one domain
/// separator, not for two a row.
library ChannelHashing {
    string internal constant NAME = "x402 Batch Settlement";
    string internal constant VERSION = "1";

    bytes32 internal constant CHANNEL_CONFIG_TYPEHASH = keccak256(
        "ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,"
        "address token,uint40 withdrawDelay,bytes32 salt)"
    );
    bytes32 internal constant VOUCHER_TYPEHASH = keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)");
    bytes32 internal constant REFUND_TYPEHASH = keccak256("Refund(bytes32 channelId,uint256 nonce,uint128 amount)");
    bytes32 internal constant CLAIM_ENTRY_TYPEHASH =
        keccak256("ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)");
    bytes32 internal constant CLAIM_BATCH_TYPEHASH = keccak256(
        "ClaimBatch(ClaimEntry[] claims)"
        "ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)"
    );

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant NAME_HASH = keccak256(bytes(NAME));
    bytes32 private constant VERSION_HASH = keccak256(bytes(VERSION));

    /// @notice The domain of this contract on this chain.
    function current() internal view returns (Domain) {
        return Domain.wrap(
            keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, VERSION_HASH, block.chainid, address(this)))
        );
    }

    /// @notice Name of a channel.
    function channelId(Domain domain, ChannelConfig calldata config) internal pure returns (bytes32) {
        return digest(domain, keccak256(abi.encode(CHANNEL_CONFIG_TYPEHASH, config)));
    }

    /// @notice What the payer's side signs.
    function voucher(Domain domain, bytes32 id, uint128 maxClaimableAmount) internal pure returns (bytes32) {
        return digest(domain, keccak256(abi.encode(VOUCHER_TYPEHASH, id, maxClaimableAmount)));
    }

    /// @notice What the receiver's authorizer signs to give money back.
    function refund(Domain domain, bytes32 id, uint256 nonce, uint128 amount) internal pure returns (bytes32) {
        return digest(domain, keccak256(abi.encode(REFUND_TYPEHASH, id, nonce, amount)));
    }

    /// @notice Names of the channels of a batch, and the hashes of its rows.
    function rows(Domain domain, VoucherClaim[] calldata claims)
        internal
        pure
        returns (bytes32[] memory ids, bytes32[] memory entries)
    {
        uint256 count = claims.length;
        ids = new bytes32[](count);
        entries = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            bytes32 id = channelId(domain, claims[i].voucher.channel);
            uint128 ceiling = claims[i].voucher.maxClaimableAmount;
            ids[i] = id;
            entries[i] = keccak256(abi.encode(CLAIM_ENTRY_TYPEHASH, id, ceiling, claims[i].totalClaimed));
        }
    }

    /// @notice What the receivers' authorizer signs to have a batch claimed.
    function claimBatch(Domain domain, bytes32[] memory entries) internal pure returns (bytes32) {
        return digest(domain, keccak256(abi.encode(CLAIM_BATCH_TYPEHASH, keccak256(abi.encodePacked(entries)))));
    }

    function digest(Domain domain, bytes32 structHash) private pure returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(Domain.unwrap(domain), structHash);
    }
}
