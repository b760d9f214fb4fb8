//! Typed data as a wallet hashes it: worked out by alloy from the type definitions, apart from the contracts.

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{Eip712Domain, SolStruct, SolValue, eip712_domain, sol};
use hearth_chain::bindings::SETTLEMENT_ADDRESS;
use hearth_chain::bindings::Settlement::{ChannelConfig, VoucherClaim};

sol! {
    struct Voucher {
        bytes32 channelId;
        uint128 maxClaimableAmount;
    }

    struct Refund {
        bytes32 channelId;
        uint256 nonce;
        uint128 amount;
    }

    struct ClaimEntry {
        bytes32 channelId;
        uint128 maxClaimableAmount;
        uint128 totalClaimed;
    }

    struct ClaimBatch {
        ClaimEntry[] claims;
    }

    #[derive(Debug)]
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }

    #[derive(Debug)]
    struct ReceiveWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }

    struct CancelAuthorization {
        address authorizer;
        bytes32 nonce;
    }

    struct Permit {
        address owner;
        address spender;
        uint256 value;
        uint256 nonce;
        uint256 deadline;
    }
}

/// Domain of everything that is signed about channels.
pub(crate) fn settlement_domain(chain_id: u64) -> Eip712Domain {
    settlement_domain_at(chain_id, SETTLEMENT_ADDRESS)
}

/// As [`settlement_domain`], for a settlement contract elsewhere.
pub(crate) fn settlement_domain_at(chain_id: u64, settlement: Address) -> Eip712Domain {
    eip712_domain! {
        name: "x402 Batch Settlement",
        version: "1",
        chain_id: chain_id,
        verifying_contract: settlement,
    }
}

/// Domain of a token of ours.
pub(crate) fn token_domain(name: &'static str, chain_id: u64, token: Address) -> Eip712Domain {
    eip712_domain! {
        name: name,
        version: "1",
        chain_id: chain_id,
        verifying_contract: token,
    }
}

/// Name of a channel.
pub(crate) fn channel_id(domain: &Eip712Domain, config: &ChannelConfig) -> B256 {
    config.eip712_signing_hash(domain)
}

/// The batch that a receiver's authorizer signs for these rows.
pub(crate) fn claim_batch(domain: &Eip712Domain, rows: &[VoucherClaim]) -> ClaimBatch {
    let entry = |row: &VoucherClaim| ClaimEntry {
        channelId: channel_id(domain, &row.voucher.channel),
        maxClaimableAmount: row.voucher.maxClaimableAmount,
        totalClaimed: row.totalClaimed,
    };
    ClaimBatch {
        claims: rows.iter().map(entry).collect(),
    }
}

/// The nonce of the authorisation behind a deposit.
pub(crate) fn deposit_nonce(channel_id: B256, salt: U256) -> B256 {
    alloy_primitives::keccak256((channel_id, salt).abi_encode())
}
