//! The typed data (EIP-712) that payers, providers and tokens sign (spec: payments, section 3).
//!
//! The types are those of the canonical x402 batch-settlement contracts and of ERC-3009; the
//! test vectors in `vectors/eip712.json` are computed by the contracts themselves.

use std::sync::LazyLock;

use alloy_primitives::{Address, B256, U256, address, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, SolValue, sol};
use serde::{Deserialize, Serialize};

use crate::id::{ChainId, ChannelId};
use crate::money::Amount;

/// Where the settlement contract stands on every chain.
pub const SETTLEMENT_ADDRESS: Address = address!("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003");

/// The EIP-712 name of the settlement contract (x402 `batch-settlement`).
pub const SETTLEMENT_DOMAIN_NAME: &str = "x402 Batch Settlement";

/// The EIP-712 version of the settlement contract.
pub const SETTLEMENT_DOMAIN_VERSION: &str = "1";
/// Where the contract that collects ERC-3009 deposits stands on every chain.
pub const COLLECTOR_ADDRESS: Address = address!("4020806089470a89826cB9fB1f4059150b550004");

/// The shortest withdraw delay that the contract accepts, in seconds.
pub const WITHDRAW_DELAY_MIN_S: u64 = 15 * 60;
/// The longest withdraw delay that the contract accepts, in seconds.
pub const WITHDRAW_DELAY_MAX_S: u64 = 30 * 24 * 60 * 60;

mod solidity {
    //! The types as Solidity declares them; only their hashes leave this file.
    use alloy_sol_types::sol;

    sol! {
        struct ChannelConfig {
            address payer;
            address payerAuthorizer;
            address receiver;
            address receiverAuthorizer;
            address token;
            uint40 withdrawDelay;
            bytes32 salt;
        }

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
    }
}

sol! {
    /// The message of ERC-3009's `transferWithAuthorization`.
    #[allow(missing_docs)]
    #[derive(Debug, PartialEq, Eq)]
    struct TransferWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }

    /// The message of ERC-3009's `receiveWithAuthorization`: only `to` may send it.
    #[allow(missing_docs)]
    #[derive(Debug, PartialEq, Eq)]
    struct ReceiveWithAuthorization {
        address from;
        address to;
        uint256 value;
        uint256 validAfter;
        uint256 validBefore;
        bytes32 nonce;
    }

    /// A household's statement that a device may sign vouchers and claims in its name.
    #[allow(missing_docs)]
    #[derive(Debug, PartialEq, Eq)]
    struct SessionKey {
        address household;
        address key;
        string device;
        uint64 validAfter;
        uint64 validBefore;
    }
}

/// The immutable parameters of a channel. Their digest is the channel's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelConfig {
    /// The account whose tokens are in escrow.
    #[serde(with = "crate::address")]
    pub payer: Address,
    /// The key that signs vouchers; the zero address means a contract wallet at `payer`.
    #[serde(with = "crate::address")]
    pub payer_authorizer: Address,
    /// The account that is paid.
    #[serde(with = "crate::address")]
    pub receiver: Address,
    /// The key that signs claims and refunds for the receiver.
    #[serde(with = "crate::address")]
    pub receiver_authorizer: Address,
    /// The ERC-20 token.
    #[serde(with = "crate::address")]
    pub token: Address,
    /// Seconds between the start of a payer's withdrawal and its end, 40 bits.
    pub withdraw_delay: u64,
    /// Tells channels with otherwise equal parameters apart.
    pub salt: B256,
}

/// One row of a claim: the newest voucher of a channel and the total that the receiver takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimEntry {
    /// The channel.
    pub channel: ChannelId,
    /// What the voucher allows, cumulative.
    pub max_claimable: Amount,
    /// What is claimed, cumulative; at most `max_claimable`.
    pub total_claimed: Amount,
}

static CHANNEL_TYPE_HASH: LazyLock<B256> =
    LazyLock::new(|| keccak256(solidity::ChannelConfig::eip712_encode_type().as_bytes()));
static VOUCHER_TYPE_HASH: LazyLock<B256> =
    LazyLock::new(|| keccak256(solidity::Voucher::eip712_encode_type().as_bytes()));

/// The EIP-712 domain of the settlement contract on one chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettlementDomain {
    chain: ChainId,
    separator: B256,
}

/// The EIP-712 domain of a token with ERC-3009.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenDomain {
    separator: B256,
}

pub(crate) fn signing_digest(separator: B256, message: &impl SolStruct) -> B256 {
    digest_of(separator, message.eip712_hash_struct())
}

/// The same where the hash of the message's type is known: to hash it again takes as long as the message.
fn signing_digest_of_type(type_hash: B256, separator: B256, message: &impl SolStruct) -> B256 {
    let data = message.eip712_encode_data();
    digest_of(separator, keccak256([type_hash.as_slice(), &data].concat()))
}

fn digest_of(separator: B256, hash_struct: B256) -> B256 {
    let mut bytes = [0; 66];
    bytes[..2].copy_from_slice(&[0x19, 0x01]);
    bytes[2..34].copy_from_slice(separator.as_slice());
    bytes[34..].copy_from_slice(hash_struct.as_slice());
    keccak256(bytes)
}

impl SettlementDomain {
    /// The domain of the contract at the canonical address on `chain`.
    pub fn new(chain: ChainId) -> Self {
        let domain = Eip712Domain::new(
            Some(SETTLEMENT_DOMAIN_NAME.into()),
            Some(SETTLEMENT_DOMAIN_VERSION.into()),
            Some(U256::from(chain.0)),
            Some(SETTLEMENT_ADDRESS),
            None,
        );
        Self {
            chain,
            separator: domain.separator(),
        }
    }

    /// The chain of this domain.
    pub fn chain(&self) -> ChainId {
        self.chain
    }

    /// The domain separator, as `eip712Domain()` on chain implies it.
    pub fn separator(&self) -> B256 {
        self.separator
    }

    /// The id of the channel with this configuration.
    pub fn channel_id(&self, config: &ChannelConfig) -> ChannelId {
        let message = solidity::ChannelConfig {
            payer: config.payer,
            payerAuthorizer: config.payer_authorizer,
            receiver: config.receiver,
            receiverAuthorizer: config.receiver_authorizer,
            token: config.token,
            withdrawDelay: alloy_primitives::aliases::U40::saturating_from(config.withdraw_delay),
            salt: config.salt,
        };
        ChannelId(signing_digest_of_type(
            *CHANNEL_TYPE_HASH,
            self.separator,
            &message,
        ))
    }

    /// What a payer signs to let `max_claimable` be taken from the channel in all.
    pub fn voucher_digest(&self, channel: ChannelId, max_claimable: Amount) -> B256 {
        let message = solidity::Voucher {
            channelId: channel.0,
            maxClaimableAmount: max_claimable.units(),
        };
        signing_digest_of_type(*VOUCHER_TYPE_HASH, self.separator, &message)
    }

    /// What a receiver's authorizer signs to return `amount` to the payer.
    pub fn refund_digest(&self, channel: ChannelId, nonce: U256, amount: Amount) -> B256 {
        let message = solidity::Refund {
            channelId: channel.0,
            nonce,
            amount: amount.units(),
        };
        signing_digest(self.separator, &message)
    }

    /// What a receiver's authorizer signs so that anyone may send this claim.
    pub fn claim_batch_digest(&self, entries: &[ClaimEntry]) -> B256 {
        let claims = entries
            .iter()
            .map(|entry| solidity::ClaimEntry {
                channelId: entry.channel.0,
                maxClaimableAmount: entry.max_claimable.units(),
                totalClaimed: entry.total_claimed.units(),
            })
            .collect();
        signing_digest(self.separator, &solidity::ClaimBatch { claims })
    }
}

impl TokenDomain {
    /// The domain of the token at `token`, whose EIP-712 name and version the offer states.
    pub fn new(chain: ChainId, token: Address, name: &str, version: &str) -> Self {
        let domain = Eip712Domain::new(
            Some(name.to_owned().into()),
            Some(version.to_owned().into()),
            Some(U256::from(chain.0)),
            Some(token),
            None,
        );
        Self {
            separator: domain.separator(),
        }
    }

    /// The domain separator, as the token's `DOMAIN_SEPARATOR()` returns it.
    pub fn separator(&self) -> B256 {
        self.separator
    }

    /// What a payer signs for an `exact` payment.
    pub fn transfer_digest(&self, message: &TransferWithAuthorization) -> B256 {
        signing_digest(self.separator, message)
    }

    /// What a payer signs for a deposit.
    pub fn receive_digest(&self, message: &ReceiveWithAuthorization) -> B256 {
        signing_digest(self.separator, message)
    }
}

/// The ERC-3009 nonce of a deposit: `keccak256(abi.encode(channelId, salt))`.
///
/// It ties the authorization to one channel, so that its sender cannot deposit elsewhere.
pub fn deposit_nonce(channel: ChannelId, salt: U256) -> B256 {
    keccak256((channel.0, salt).abi_encode())
}

/// What a household signs to let a device's session key act for it.
pub fn session_key_digest(chain: ChainId, message: &SessionKey) -> B256 {
    let domain = Eip712Domain::new(
        Some("Hearth".into()),
        Some("1".into()),
        Some(U256::from(chain.0)),
        None,
        None,
    );
    signing_digest(domain.separator(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(withdraw_delay: u64) -> ChannelConfig {
        ChannelConfig {
            payer: Address::repeat_byte(1),
            payer_authorizer: Address::repeat_byte(2),
            receiver: Address::repeat_byte(3),
            receiver_authorizer: Address::repeat_byte(4),
            token: Address::repeat_byte(5),
            withdraw_delay,
            salt: B256::ZERO,
        }
    }

    #[test]
    fn every_parameter_and_the_chain_change_the_channel() {
        let domain = SettlementDomain::new(ChainId(31337));
        let base = domain.channel_id(&config(900));
        let mut ids = vec![base, domain.channel_id(&config(901))];
        ids.push(SettlementDomain::new(ChainId(1)).channel_id(&config(900)));
        for edit in [
            (|c: &mut ChannelConfig| c.payer = Address::ZERO) as fn(&mut ChannelConfig),
            |c| c.payer_authorizer = Address::ZERO,
            |c| c.receiver = Address::ZERO,
            |c| c.receiver_authorizer = Address::ZERO,
            |c| c.token = Address::ZERO,
            |c| c.salt = B256::repeat_byte(9),
        ] {
            let mut changed = config(900);
            edit(&mut changed);
            ids.push(domain.channel_id(&changed));
        }
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
