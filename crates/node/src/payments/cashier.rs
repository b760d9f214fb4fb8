//! One-off payments (scheme `exact`): checked, worked for, then transferred.
//!
//! The transfer is made after the work has succeeded and before its reply leaves, so that a failed
//! request costs nothing. A crash in between must not take a payer's money for nothing: the payment
//! is on record before the transfer is sent, and whoever brings the same payment for the same
//! request again is served on it, once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::{Address, B256, keccak256};
use alloy_sol_types::SolValue;
use hearth_protocol::exact::{CheckedTransfer, check};
use hearth_protocol::id::ChainId;
use hearth_protocol::signature::Signature;
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::{ErrorCode, ExactPayload, PaymentRequirements};
use serde::{Deserialize, Serialize};
use tracing::error;

use super::escrow::{Escrow, Escrows};
use super::offer::AcceptedAsset;
use crate::store::{Batch, Store, Table};

/// How far a payment came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// The transfer was or will be sent.
    Sent,
    /// The transfer is final; whether the reply arrived is not known.
    Paid { transaction: String },
    /// The reply left.
    Served,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TransferRecord {
    /// Of the request that the payment was for.
    fingerprint: B256,
    stage: Stage,
}

/// Takes one-off payments. Clones share their state.
#[derive(Debug, Clone)]
pub struct Cashier {
    store: Store,
    escrows: Escrows,
    in_hand: Arc<Mutex<BTreeSet<B256>>>,
}

/// A payment that is good, and not yet taken.
#[derive(Debug)]
pub struct Tendered {
    cashier: Cashier,
    escrow: Arc<Escrow>,
    token: Address,
    transfer: CheckedTransfer,
    signature: Signature,
    key: B256,
    fingerprint: B256,
    /// It was taken before a crash: the transaction.
    paid: Option<String>,
}

impl Drop for Tendered {
    fn drop(&mut self) {
        self.cashier.lock().remove(&self.key);
    }
}

impl Cashier {
    /// A cashier over `store`.
    pub fn new(store: Store, escrows: Escrows) -> Self {
        Self {
            store,
            escrows,
            in_hand: Arc::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<B256>> {
        // A set of hashes is whole after any panic.
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a payment for the request with this fingerprint.
    ///
    /// # Errors
    /// The code that the payer is told.
    pub async fn tender(
        &self,
        payload: &ExactPayload,
        accepted: &PaymentRequirements,
        asset: &AcceptedAsset,
        fingerprint: B256,
        now: Timestamp,
    ) -> Result<Tendered, ErrorCode> {
        let escrow = self
            .escrows
            .get(asset.chain())
            .ok_or(ErrorCode::InvalidNetwork)?;
        let transfer = check(payload, accepted, &asset.token_domain(), now)?;
        let token = asset.asset.token;
        let nonce = transfer.authorization.nonce;
        let key = key(asset.chain(), token, transfer.payer, nonce);
        if !self.lock().insert(key) {
            return Err(ErrorCode::ExactNonceUsed);
        }
        let signature = payload.signature;
        let mut tendered = Tendered {
            cashier: self.clone(),
            escrow,
            token,
            transfer,
            signature,
            key,
            fingerprint,
            paid: None,
        };
        tendered.paid = tendered.recall()?;
        if tendered.paid.is_none() {
            let Tendered {
                escrow, transfer, ..
            } = &tendered;
            escrow.check_transfer(token, transfer, &signature).await?;
        }
        Ok(tendered)
    }
}

fn key(chain: ChainId, token: Address, payer: Address, nonce: B256) -> B256 {
    keccak256((chain.0, token, payer, nonce).abi_encode())
}

impl Tendered {
    /// Who pays.
    pub fn payer(&self) -> Address {
        self.transfer.payer
    }

    /// The transaction, if this payment was taken before a crash and never served.
    fn recall(&self) -> Result<Option<String>, ErrorCode> {
        let record: Option<TransferRecord> = self
            .cashier
            .store
            .get(Table::Transfers, self.key.as_slice())
            .map_err(|error| store_failed(&error))?;
        match record {
            None => Ok(None),
            Some(TransferRecord {
                stage: Stage::Served,
                ..
            }) => Err(ErrorCode::ExactNonceUsed),
            Some(record) if record.fingerprint != self.fingerprint => {
                Err(ErrorCode::ExactNonceUsed)
            }
            Some(TransferRecord {
                stage: Stage::Paid { transaction },
                ..
            }) => Ok(Some(transaction)),
            // The sender remembers what it sent under this payment's name: settling asks it.
            Some(TransferRecord {
                stage: Stage::Sent, ..
            }) => Ok(Some(String::new())),
        }
    }

    /// Takes the payment. When this returns, the transfer is final and on record.
    ///
    /// # Errors
    /// The code that the payer is told.
    pub async fn take(&mut self) -> Result<String, ErrorCode> {
        if let Some(transaction) = self.paid.as_ref().filter(|hash| !hash.is_empty()) {
            return Ok(transaction.clone());
        }
        self.note(Stage::Sent).await?;
        let transaction = self
            .escrow
            .transfer(self.token, &self.transfer, &self.signature)
            .await?;
        self.note(Stage::Paid {
            transaction: transaction.clone(),
        })
        .await?;
        self.paid = Some(transaction.clone());
        Ok(transaction)
    }

    /// Says that the reply left, so that the payment serves nothing more.
    pub async fn served(self) {
        if let Err(code) = self.note(Stage::Served).await {
            error!(%code, "a served payment could not be marked; it might be served once more");
        }
    }

    async fn note(&self, stage: Stage) -> Result<(), ErrorCode> {
        let record = TransferRecord {
            fingerprint: self.fingerprint,
            stage,
        };
        let mut batch = Batch::default();
        batch
            .put(Table::Transfers, self.key.as_slice(), &record)
            .map_err(|error| store_failed(&error))?;
        self.cashier
            .store
            .commit(batch)
            .await
            .map_err(|error| store_failed(&error))
    }
}

fn store_failed(error: &crate::store::StoreError) -> ErrorCode {
    error!(%error, "the store failed while a payment was taken");
    ErrorCode::UnexpectedSettle
}
