//! What an index follows, and what it tells.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, Bytes, LogData};
use alloy_rpc_types_eth::Log;
use alloy_sol_types::SolEventInterface;
use hearth_protocol::{eip712::ChannelConfig, id::ChannelId};
use serde::{Deserialize, Serialize};

use super::machine::BlockRef;
use crate::bindings::{SETTLEMENT_ADDRESS, Settlement};

/// The most topics an event has (Ethereum yellow paper, appendix H: LOG0 to LOG4).
const MAX_TOPICS: usize = 4;

/// Events of one contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFilter {
    /// The contract.
    pub address: Address,
    /// The events' first topics; empty for all events of the contract.
    pub events: BTreeSet<B256>,
}

impl LogFilter {
    /// Every event of the settlement contract.
    #[must_use]
    pub fn settlement() -> Self {
        Self {
            address: SETTLEMENT_ADDRESS,
            events: BTreeSet::new(),
        }
    }

    /// Whether an event is wanted.
    #[must_use]
    pub fn matches(&self, log: &IndexedLog) -> bool {
        self.address == log.address
            && (self.events.is_empty()
                || log
                    .topics
                    .first()
                    .is_some_and(|topic| self.events.contains(topic)))
    }
}

/// One event, with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedLog {
    /// The contract that emitted it.
    pub address: Address,
    /// Its topics, at most four.
    pub topics: Vec<B256>,
    /// Its data.
    pub data: Bytes,
    /// Height of its block.
    pub block_number: u64,
    /// Hash of its block.
    pub block_hash: B256,
    /// Hash of its transaction.
    pub transaction_hash: B256,
    /// Its place in the block.
    pub log_index: u64,
}

impl IndexedLog {
    /// From an endpoint's answer; `None` if its place is incomplete, it was withdrawn, or it has too many topics.
    #[must_use]
    pub fn from_wire(log: Log) -> Option<Self> {
        if log.removed || log.topics().len() > MAX_TOPICS {
            return None;
        }
        Some(Self {
            address: log.address(),
            topics: log.topics().to_vec(),
            block_number: log.block_number?,
            block_hash: log.block_hash?,
            transaction_hash: log.transaction_hash?,
            log_index: log.log_index?,
            data: log.inner.data.data,
        })
    }

    /// The block it is in.
    #[must_use]
    pub fn block(&self) -> BlockRef {
        BlockRef {
            number: self.block_number,
            hash: self.block_hash,
        }
    }

    /// What it says, if it is an event of the settlement contract that this program knows.
    #[must_use]
    pub fn settlement(&self) -> Option<SettlementEvent> {
        if self.address != SETTLEMENT_ADDRESS {
            return None;
        }
        let data = LogData::new(self.topics.clone(), self.data.clone())?;
        let log = alloy_primitives::Log {
            address: self.address,
            data,
        };
        let event = Settlement::SettlementEvents::decode_log(&log).ok()?;
        SettlementEvent::from_abi(event.data)
    }
}

/// What an index tells its consumer, in the order of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexEvent<'a> {
    /// An event is part of the chain.
    Applied(&'a IndexedLog),
    /// All blocks above a height are no longer part of the chain. `undone` are the events that were applied from
    /// them, newest first, the order in which they are to be undone.
    RolledBack {
        /// The newest block that stays.
        to_block: u64,
        /// What to undo.
        undone: &'a [IndexedLog],
    },
    /// Everything up to this block was told.
    Head(BlockRef),
}

/// An event of the settlement contract (x402 `batch-settlement`). Amounts are in atomic units of the channel's token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are named as in the contract's interface.
pub enum SettlementEvent {
    /// A channel received its first deposit, or its first after it was drained.
    ChannelCreated {
        channel: ChannelId,
        config: ChannelConfig,
    },
    /// A channel that nothing was ever claimed from was drained.
    ChannelClosed {
        channel: ChannelId,
        config: ChannelConfig,
    },
    /// A deposit arrived.
    Deposited {
        channel: ChannelId,
        sender: Address,
        amount: u128,
        new_balance: u128,
    },
    /// A voucher was claimed.
    Claimed {
        channel: ChannelId,
        sender: Address,
        amount: u128,
        new_total_claimed: u128,
    },
    /// Claimed amounts were paid out.
    Settled {
        receiver: Address,
        token: Address,
        sender: Address,
        amount: u128,
    },
    /// Unclaimed escrow went back to the payer.
    Refunded {
        channel: ChannelId,
        sender: Address,
        amount: u128,
    },
    /// The payer started a withdrawal, which it may finish from this time on (seconds since the Unix epoch).
    WithdrawInitiated {
        channel: ChannelId,
        amount: u128,
        finalize_after_s: u64,
    },
    /// The payer finished a withdrawal.
    WithdrawFinalized {
        channel: ChannelId,
        sender: Address,
        amount: u128,
    },
}

impl SettlementEvent {
    fn from_abi(event: Settlement::SettlementEvents) -> Option<Self> {
        use Settlement::SettlementEvents as Abi;
        Some(match event {
            Abi::ChannelCreated(event) => Self::ChannelCreated {
                channel: ChannelId(event.channelId),
                config: config_from_abi(&event.config),
            },
            Abi::ChannelClosed(event) => Self::ChannelClosed {
                channel: ChannelId(event.channelId),
                config: config_from_abi(&event.config),
            },
            Abi::Deposited(event) => Self::Deposited {
                channel: ChannelId(event.channelId),
                sender: event.sender,
                amount: event.amount,
                new_balance: event.newBalance,
            },
            Abi::Claimed(event) => Self::Claimed {
                channel: ChannelId(event.channelId),
                sender: event.sender,
                amount: event.claimAmount,
                new_total_claimed: event.newTotalClaimed,
            },
            Abi::Settled(event) => Self::Settled {
                receiver: event.receiver,
                token: event.token,
                sender: event.sender,
                amount: event.amount,
            },
            Abi::Refunded(event) => Self::Refunded {
                channel: ChannelId(event.channelId),
                sender: event.sender,
                amount: event.amount,
            },
            Abi::WithdrawInitiated(event) => Self::WithdrawInitiated {
                channel: ChannelId(event.channelId),
                amount: event.amount,
                finalize_after_s: event.finalizeAfter.to(),
            },
            Abi::WithdrawFinalized(event) => Self::WithdrawFinalized {
                channel: ChannelId(event.channelId),
                sender: event.sender,
                amount: event.amount,
            },
            Abi::EIP712DomainChanged(_) => return None,
        })
    }
}

fn config_from_abi(config: &Settlement::ChannelConfig) -> ChannelConfig {
    ChannelConfig {
        payer: config.payer,
        payer_authorizer: config.payerAuthorizer,
        receiver: config.receiver,
        receiver_authorizer: config.receiverAuthorizer,
        token: config.token,
        withdraw_delay: config.withdrawDelay.to(),
        salt: config.salt,
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::aliases::U40;
    use alloy_sol_types::SolEvent;

    use super::*;

    fn indexed(data: LogData) -> IndexedLog {
        IndexedLog {
            address: SETTLEMENT_ADDRESS,
            topics: data.topics().to_vec(),
            data: data.data,
            block_number: 1,
            block_hash: B256::ZERO,
            transaction_hash: B256::ZERO,
            log_index: 0,
        }
    }

    #[test]
    fn events_of_the_contract_are_decoded_and_nothing_else_is() {
        let channel = B256::repeat_byte(3);
        let sender = Address::repeat_byte(4);
        let deposited = Settlement::Deposited {
            channelId: channel,
            sender,
            amount: 5,
            newBalance: 6,
        };
        let log = indexed(deposited.encode_log_data());
        let expected = SettlementEvent::Deposited {
            channel: ChannelId(channel),
            sender,
            amount: 5,
            new_balance: 6,
        };
        assert_eq!(log.settlement(), Some(expected));

        let withdraw = Settlement::WithdrawInitiated {
            channelId: channel,
            amount: 7,
            finalizeAfter: U40::from(8),
        };
        let expected = SettlementEvent::WithdrawInitiated {
            channel: ChannelId(channel),
            amount: 7,
            finalize_after_s: 8,
        };
        assert_eq!(
            indexed(withdraw.encode_log_data()).settlement(),
            Some(expected)
        );

        let elsewhere = IndexedLog {
            address: sender,
            ..log.clone()
        };
        let cut = IndexedLog {
            data: log.data.slice(..31),
            ..log.clone()
        };
        let unknown = IndexedLog {
            topics: vec![B256::ZERO],
            ..log.clone()
        };
        let silent = IndexedLog {
            topics: Vec::new(),
            ..log
        };
        for other in [elsewhere, cut, unknown, silent] {
            assert_eq!(other.settlement(), None, "{other:?}");
        }
    }
}
