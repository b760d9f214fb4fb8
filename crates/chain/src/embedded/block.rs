//! What a block leaves behind: changes of state, mined transactions with their receipts, and the header.
//!
//! Transaction root, receipt root and bloom are those of Ethereum. The state root is not a
//! Merkle-Patricia root: the chain has one sequencer and offers no proofs, so it is a hash chain over
//! the changes, which anyone who replays the blocks can recompute (spec: 05 embedded chain, section 8).

use std::collections::BTreeMap;

use alloy_consensus::transaction::Recovered;
use alloy_consensus::{
    EMPTY_OMMER_ROOT_HASH, Eip658Value, Header, Receipt, ReceiptEnvelope, ReceiptWithBloom, Sealed,
    TxEnvelope, TxReceipt, TxType, proofs,
};
use alloy_eips::eip2718::{Decodable2718, Encodable2718};
use alloy_eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy_primitives::{
    Address, B256, Bloom, Bytes, KECCAK256_EMPTY, Keccak256, Log, U256, keccak256,
};
use alloy_rlp::{RlpDecodable, RlpEncodable};

use super::limits::BLOCK_GAS_LIMIT;

/// Leads every hash of the state commitment, so that it can be mistaken for no other hash.
const STATE_COMMITMENT_DOMAIN: &[u8] = b"hearth embedded state 1";

/// The part of an account that the chain stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AccountState {
    pub(crate) nonce: u64,
    pub(crate) balance: U256,
    pub(crate) code_hash: B256,
}

/// Bytes of a stored account: nonce, balance, code hash, each big-endian.
pub(crate) const ACCOUNT_BYTES: usize = 8 + 32 + 32;

impl AccountState {
    /// An account that was never used; it is not told apart from one that does not exist (EIP-161).
    pub(crate) const EMPTY: Self = Self {
        nonce: 0,
        balance: U256::ZERO,
        code_hash: KECCAK256_EMPTY,
    };

    pub(crate) fn encode(&self) -> [u8; ACCOUNT_BYTES] {
        let mut bytes = [0; ACCOUNT_BYTES];
        bytes[..8].copy_from_slice(&self.nonce.to_be_bytes());
        bytes[8..40].copy_from_slice(&self.balance.to_be_bytes::<32>());
        bytes[40..].copy_from_slice(self.code_hash.as_slice());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; ACCOUNT_BYTES]) -> Self {
        let mut nonce = [0; 8];
        nonce.copy_from_slice(&bytes[..8]);
        Self {
            nonce: u64::from_be_bytes(nonce),
            balance: U256::from_be_slice(&bytes[8..40]),
            code_hash: B256::from_slice(&bytes[40..]),
        }
    }
}

/// What a block changed, ordered so that its encoding is canonical.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StateChanges {
    pub(crate) accounts: BTreeMap<Address, AccountState>,
    pub(crate) storage: BTreeMap<(Address, U256), U256>,
    pub(crate) code: BTreeMap<B256, Bytes>,
}

impl StateChanges {
    /// The commitment after these changes, from the one before them.
    ///
    /// `keccak256(domain ‖ previous ‖ n ‖ accounts ‖ m ‖ slots)`, with the counts as 8 bytes big-endian, an
    /// account as `address ‖ nonce ‖ balance ‖ code hash` and a slot as `address ‖ key ‖ value`, in
    /// ascending order. Code is bound by its hash.
    pub(crate) fn commitment(&self, previous: B256) -> B256 {
        let mut hasher = Keccak256::new();
        hasher.update(STATE_COMMITMENT_DOMAIN);
        hasher.update(previous);
        hasher.update((self.accounts.len() as u64).to_be_bytes());
        for (address, account) in &self.accounts {
            hasher.update(address);
            hasher.update(account.encode());
        }
        hasher.update((self.storage.len() as u64).to_be_bytes());
        for ((address, key), value) in &self.storage {
            hasher.update(address);
            hasher.update(key.to_be_bytes::<32>());
            hasher.update(value.to_be_bytes::<32>());
        }
        hasher.finalize()
    }
}

/// A transaction in a block, with everything its receipt needs.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub(crate) struct MinedTransaction {
    pub(crate) sender: Address,
    /// EIP-2718 encoding, as the sender signed it.
    pub(crate) raw: Bytes,
    pub(crate) success: bool,
    pub(crate) gas_used: u64,
    pub(crate) cumulative_gas_used: u64,
    /// Logs of the block before this transaction.
    pub(crate) first_log_index: u64,
    pub(crate) logs: Vec<Log>,
}

impl MinedTransaction {
    /// The transaction with its sender; `None` where the stored bytes are not a transaction.
    pub(crate) fn recovered(&self) -> Option<Recovered<TxEnvelope>> {
        let envelope = TxEnvelope::decode_2718_exact(&self.raw).ok()?;
        Some(Recovered::new_unchecked(envelope, self.sender))
    }

    /// The receipt as consensus encodes it.
    pub(crate) fn receipt(&self, tx_type: TxType) -> ReceiptEnvelope {
        let receipt = Receipt {
            status: Eip658Value::Eip658(self.success),
            cumulative_gas_used: self.cumulative_gas_used,
            logs: self.logs.clone(),
        };
        let logs_bloom = receipt.bloom();
        ReceiptEnvelope::from_typed(
            tx_type,
            ReceiptWithBloom {
                receipt,
                logs_bloom,
            },
        )
    }
}

/// A block that was executed and is ready to be stored.
#[derive(Debug, Clone)]
pub(crate) struct ExecutedBlock {
    pub(crate) header: Sealed<Header>,
    /// In the order of the block, with their hashes.
    pub(crate) transactions: Vec<(B256, MinedTransaction)>,
    pub(crate) changes: StateChanges,
}

/// What [`seal`] makes a block from.
#[derive(Debug, Default)]
pub(crate) struct BlockBody {
    pub(crate) envelopes: Vec<TxEnvelope>,
    pub(crate) transactions: Vec<(B256, MinedTransaction)>,
    pub(crate) changes: StateChanges,
}

/// The header of a block without a parent or transactions.
pub(crate) fn genesis_header(timestamp: u64, changes: &StateChanges) -> Header {
    empty_header(B256::ZERO, 0, timestamp, changes.commitment(B256::ZERO))
}

/// Puts the header over `body`, the child of `parent` at `timestamp`.
pub(crate) fn seal(parent: &Sealed<Header>, timestamp: u64, body: BlockBody) -> ExecutedBlock {
    let BlockBody {
        envelopes,
        transactions,
        changes,
    } = body;
    let receipts: Vec<ReceiptEnvelope> = envelopes
        .iter()
        .zip(&transactions)
        .map(|(envelope, (_, mined))| mined.receipt(envelope.tx_type()))
        .collect();
    let number = parent.number.saturating_add(1);
    let mut header = empty_header(
        parent.hash(),
        number,
        timestamp,
        changes.commitment(parent.state_root),
    );
    header.gas_used = transactions
        .last()
        .map_or(0, |(_, mined)| mined.cumulative_gas_used);
    header.transactions_root = proofs::calculate_transaction_root(&envelopes);
    header.receipts_root = proofs::calculate_receipt_root(&receipts);
    header.logs_bloom = receipts
        .iter()
        .fold(Bloom::ZERO, |bloom, receipt| bloom | *receipt.logs_bloom());
    ExecutedBlock {
        header: Sealed::new(header),
        transactions,
        changes,
    }
}

fn empty_header(parent_hash: B256, number: u64, timestamp: u64, state_root: B256) -> Header {
    Header {
        parent_hash,
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        state_root,
        number,
        gas_limit: BLOCK_GAS_LIMIT,
        timestamp,
        mix_hash: prevrandao(parent_hash),
        base_fee_per_gas: Some(0),
        withdrawals_root: Some(alloy_consensus::constants::EMPTY_WITHDRAWALS),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(EMPTY_REQUESTS_HASH),
        ..Header::default()
    }
}

/// `PREVRANDAO` of the child of `parent_hash`: a public value that anyone can predict, not randomness.
pub(crate) fn prevrandao(parent_hash: B256) -> B256 {
    keccak256(parent_hash)
}

/// Bytes of the block's RLP encoding, which `eth_getBlockBy*` reports as `size`.
pub(crate) fn encoded_length(header: &Header, transactions: &[MinedTransaction]) -> usize {
    use alloy_rlp::{Encodable, length_of_length};
    let list = |payload: usize| payload.saturating_add(length_of_length(payload));
    let wrapped = transactions
        .iter()
        .filter_map(MinedTransaction::recovered)
        .map(|transaction| transaction.inner().network_len())
        .fold(0_usize, usize::saturating_add);
    let empty_list = list(0);
    list(
        header
            .length()
            .saturating_add(list(wrapped))
            .saturating_add(empty_list)
            .saturating_add(empty_list),
    )
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{LogData, address};
    use alloy_rlp::{Decodable, Encodable};
    use proptest::prelude::*;

    use super::*;

    fn words() -> impl Strategy<Value = [u8; 32]> {
        prop::array::uniform32(any::<u8>())
    }

    fn logs() -> impl Strategy<Value = Vec<Log>> {
        let one = (
            prop::array::uniform20(any::<u8>()),
            prop::collection::vec(words(), 0..5),
            prop::collection::vec(any::<u8>(), 0..80),
        );
        let log = one.prop_map(|(address, topics, data)| Log {
            address: address.into(),
            data: LogData::new_unchecked(topics.into_iter().map(B256::from).collect(), data.into()),
        });
        prop::collection::vec(log, 0..4)
    }

    proptest! {
        #[test]
        fn an_account_survives_its_encoding(nonce: u64, balance in words(), code_hash in words()) {
            let account = AccountState { nonce, balance: U256::from_be_bytes(balance), code_hash: code_hash.into() };
            prop_assert_eq!(AccountState::decode(&account.encode()), account);
        }

        #[test]
        fn a_mined_transaction_survives_its_encoding(
            sender in prop::array::uniform20(any::<u8>()),
            raw in prop::collection::vec(any::<u8>(), 0..200),
            success: bool,
            gas in any::<[u64; 3]>(),
            logs in logs(),
        ) {
            let mined = MinedTransaction {
                sender: sender.into(),
                raw: raw.into(),
                success,
                gas_used: gas[0],
                cumulative_gas_used: gas[1],
                first_log_index: gas[2],
                logs,
            };
            let mut row = Vec::new();
            mined.encode(&mut row);
            prop_assert_eq!(MinedTransaction::decode(&mut row.as_slice()).unwrap(), mined.clone());
            for cut in 0..row.len() {
                prop_assert!(MinedTransaction::decode(&mut &row[..cut]).is_err(), "a row cut at {} decodes", cut);
            }
        }
    }

    /// The inputs and the hash are written out so that another implementation can check its own.
    #[test]
    fn the_state_commitment_is_as_specified() {
        let holder = address!("0x00000000000000000000000000000000000000aa");
        let mut changes = StateChanges::default();
        let account = AccountState {
            nonce: 1,
            balance: U256::from(2),
            ..AccountState::EMPTY
        };
        changes.accounts.insert(holder, account);
        changes
            .storage
            .insert((holder, U256::from(3)), U256::from(4));
        let mut expected = b"hearth embedded state 1".to_vec();
        expected.extend([7; 32]);
        expected.extend(1_u64.to_be_bytes());
        expected.extend(holder);
        expected.extend(1_u64.to_be_bytes());
        expected.extend(U256::from(2).to_be_bytes::<32>());
        expected.extend(KECCAK256_EMPTY);
        expected.extend(1_u64.to_be_bytes());
        expected.extend(holder);
        expected.extend(U256::from(3).to_be_bytes::<32>());
        expected.extend(U256::from(4).to_be_bytes::<32>());
        assert_eq!(
            changes.commitment(B256::repeat_byte(7)),
            keccak256(expected)
        );
    }
}
