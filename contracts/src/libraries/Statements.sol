// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";

/// @title What devices sign for the ledger
/// @dev One EIP-712 domain, that of the `Devices` contract, and one type for everything that counts: a statement of
/// `content` under a `subject` and a `sequence`. Two statements of one device under one subject and sequence prove
/// that it said two things, whatever it was about. The subject names the contract that the statement is for, so
/// that it holds for no other contract, and the domain names the chain.
library Statements {
    string internal constant NAME = "Hearth Devices";
    string internal constant VERSION = "1";

    bytes32 internal constant STATEMENT_TYPEHASH =
        keccak256("Statement(bytes32 subject,uint64 sequence,bytes32 content)");
    bytes32 internal constant REGISTRATION_TYPEHASH =
        keccak256("Registration(bytes32 endpointKey,address household,address sessionKey)");
    bytes32 internal constant EPOCH_TYPEHASH =
        keccak256("Epoch(uint64 epoch,address asset,bytes32 root,uint256 total,bytes32 data)");
    bytes32 internal constant ROUND_TYPEHASH =
        keccak256("Round(bytes32 run,uint64 round,bytes32 parent,bytes32 contributions,bytes32 next)");
    bytes32 internal constant VERDICT_TYPEHASH =
        keccak256("Verdict(address device,address token,uint256 amount,bytes32 evidence)");
    bytes32 internal constant ENROLLMENT_TOPIC = keccak256("hearth enrollment");
    bytes32 internal constant EPOCH_TOPIC = keccak256("hearth epoch");
    bytes32 internal constant ROUND_TOPIC = keccak256("hearth round");
    bytes32 internal constant VERDICT_TOPIC = keccak256("hearth verdict");

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    /// @notice Digest of a statement for `court` under `topic`.
    function statement(address devices, address court, bytes32 topic, uint64 sequence, bytes32 content)
        internal
        view
        returns (bytes32)
    {
        return statement(devices, subject(court, topic), sequence, content);
    }

    /// @notice Digest of a statement whose subject is known.
    function statement(address devices, bytes32 subject_, uint64 sequence, bytes32 content)
        internal
        view
        returns (bytes32)
    {
        return digest(devices, keccak256(abi.encode(STATEMENT_TYPEHASH, subject_, sequence, content)));
    }

    /// @notice Digest by which a household and a session key agree that the device is the household's.
    function registration(address devices, bytes32 endpointKey, address household, address sessionKey)
        internal
        view
        returns (bytes32)
    {
        return digest(devices, keccak256(abi.encode(REGISTRATION_TYPEHASH, endpointKey, household, sessionKey)));
    }

    /// @notice What a statement under `topic` for `court` is about.
    function subject(address court, bytes32 topic) internal pure returns (bytes32) {
        return keccak256(abi.encode(court, topic));
    }

    /// @notice A kind of statement together with what it names.
    function topicOf(bytes32 kind, bytes32 name) internal pure returns (bytes32) {
        return keccak256(abi.encode(kind, name));
    }

    function digest(address devices, bytes32 structHash) private view returns (bytes32) {
        bytes32 separator = keccak256(
            abi.encode(DOMAIN_TYPEHASH, keccak256(bytes(NAME)), keccak256(bytes(VERSION)), block.chainid, devices)
        );
        return MessageHashUtils.toTypedDataHash(separator, structHash);
    }
}
