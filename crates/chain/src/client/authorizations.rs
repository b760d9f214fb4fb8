//! Transfers by authorization (ERC-3009) that somebody else made.
//!
//! Anybody who sees an authorization can have the token carry it out: it pays the same payee, and the payee's own
//! transaction then reverts. What was paid so is paid. That a nonce was used says nothing by itself: the payer may
//! have cancelled it, or signed it for somebody else as well.

use alloy_primitives::{Address, B256, U256};
use alloy_rpc_types_eth::{Filter, Log};
use alloy_sol_types::SolEvent;
use hearth_protocol::exact::CheckedTransfer;

use super::{ChainClient, ChainError};
use crate::bindings::{IERC20, IERC3009};

/// How far back it is looked for, in blocks: authorizations hold for minutes, and endpoints answer so many at once.
const LOOK_BACK_BLOCKS: u64 = 500;

/// A transfer that is in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorizedTransfer {
    /// The transaction that made it.
    pub transaction_hash: B256,
    /// Blocks from its own to the newest, both included.
    pub confirmations: u64,
}

impl ChainClient {
    /// The transaction in which `token` carried out the authorization of `transfer`, from any sender; nothing where the
    /// newest blocks have none.
    ///
    /// # Errors
    /// See [`ChainError`]; an endpoint may refuse to show events.
    pub async fn authorized_transfer(
        &self,
        token: Address,
        transfer: &CheckedTransfer,
    ) -> Result<Option<AuthorizedTransfer>, ChainError> {
        let head = self.head().await?.number;
        let filter = Filter::new()
            .address(token)
            .event_signature(IERC3009::AuthorizationUsed::SIGNATURE_HASH)
            .topic1(B256::left_padding_from(transfer.payer.as_slice()))
            .topic2(transfer.authorization.nonce)
            .from_block(head.saturating_sub(LOOK_BACK_BLOCKS))
            .to_block(head);
        let used = self.logs(&filter).await?;
        let used = used.iter().find(|log| is_use_of(log, token, transfer));
        let place = used.and_then(|log| Some((log.transaction_hash?, log.log_index?)));
        let Some((hash, index)) = place else {
            return Ok(None);
        };
        let receipt = self.receipt(hash).await?.filter(|receipt| receipt.success);
        let Some(receipt) = receipt else {
            return Ok(None);
        };
        // A token says what it moves right after whose authorization it used: other transfers are of other payments.
        let mut next = receipt.logs.iter();
        let next = next.find(|log| log.log_index == index.checked_add(1));
        let is_made = next.is_some_and(|log| is_payment(log, token, transfer));
        Ok(is_made.then(|| AuthorizedTransfer {
            transaction_hash: hash,
            confirmations: head.saturating_add(1).saturating_sub(receipt.block_number),
        }))
    }
}

fn is_use_of(log: &Log, token: Address, transfer: &CheckedTransfer) -> bool {
    let used = IERC3009::AuthorizationUsed::decode_log(&log.inner);
    log.address() == token
        && used.is_ok_and(|used| {
            used.authorizer == transfer.payer && used.nonce == transfer.authorization.nonce
        })
}

fn is_payment(log: &Log, token: Address, transfer: &CheckedTransfer) -> bool {
    let moved = IERC20::Transfer::decode_log(&log.inner);
    log.address() == token
        && moved.is_ok_and(|moved| {
            moved.from == transfer.payer
                && moved.to == transfer.authorization.to
                && moved.value == U256::from(transfer.value.units())
        })
}
