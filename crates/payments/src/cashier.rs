//! One-off payments (scheme `exact`): checked, worked for, then transferred.
//!
//! The transfer is made after the work has succeeded and before its reply leaves, so that a failed
//! request costs nothing, as x402's clients expect. What leaves is paid: a reply waits until its
//! transfer is final. What is at risk is work whose transfer then fails, and it is bounded:
//!
//! - Payments of one payer that are in hand at the same time must be covered by its balance together,
//!   so a balance for one payment starts work once.
//! - Before the work the journal, the chain's `authorizationState` and a simulation are asked.
//! - A payment that failed serves nothing again, and from then on its payer pays before the work. So does one that went
//!   away while its work was done.
//!
//! So a payer that moves its tokens away while the work is done, or hangs up, gets one piece of work and no reply, once for
//! each account and run of the node.
//!
//! Anybody who sees the authorization can make its transfer, which pays the provider all the same: then this node's own
//! transaction fails, and the payment is good.
//!
//! A crash before the transfer is sent leaves nothing: no reply left, and the same payment may come again. A crash after it
//! must not take a payer's money for nothing: the payment is on record before the transfer is sent, and a client that brings it
//! again for the same request is served on it once, as soon as its transfer is final; that is settled before the work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::SolValue;
use hearth_causes::WithCauses;
use hearth_chain::client::ErrorKind;
use hearth_chain::sender::SendError;
use hearth_protocol::claim::gas_price_nano;
use hearth_protocol::exact::{CheckedTransfer, check, is_worth};
use hearth_protocol::id::{AssetId, ChainId};
use hearth_protocol::money::Amount;
use hearth_protocol::signature::Signature;
use hearth_protocol::time::Timestamp;
use hearth_protocol::x402::{ErrorCode, ExactPayload, PaymentRequirements};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::escrow::{Escrow, Escrows};
use super::offer::AcceptedAsset;
use crate::store::{Batch, Store, Table};

/// One-off payments that were taken, by token and nonce.
const TRANSFERS: Table<TransferRecord> = Table::own("transfers");
/// Payments that are worked for at the same time at most.
const IN_HAND_MAX: usize = 1_024;
/// Payers that are remembered because a payment of theirs failed, or its work was in vain.
const WARY_OF_MAX: usize = 4_096;
/// How long a price of gas is good for, and how long it counts that none could be read, in milliseconds.
const GAS_PRICE_KEPT_MS: u64 = 30_000;
/// How long a request for a price waits for a chain's price of gas.
const GAS_PRICE_PATIENCE: Duration = Duration::from_secs(3);

/// How far a payment came. New stages are added at the end: the store has them by number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// The transfer was or will be sent, or could not be sent when it was tried.
    Sent,
    /// The transfer is final; whether the reply arrived is not known.
    Paid { transaction: String },
    /// The reply left, or will not be made again.
    Served,
    /// The transfer failed.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TransferRecord {
    /// Of the request that the payment was for.
    fingerprint: B256,
    stage: Stage,
}

/// The payer and the token it pays in: chain, token, account.
type Purse = (ChainId, Address, Address);

/// What is being worked for, and what is remembered of payers.
#[derive(Debug, Default)]
struct Counter {
    in_hand: BTreeSet<B256>,
    /// What each payer's payments in hand come to.
    sums: BTreeMap<Purse, Amount>,
    /// Payers whose payments are taken before the work.
    wary_of: BTreeSet<Purse>,
    /// The price of gas where it could be read, and when it was asked.
    gas_prices: BTreeMap<ChainId, (Option<u128>, u64)>,
}

/// Takes one-off payments. Clones share their state.
#[derive(Debug, Clone)]
pub struct Cashier {
    store: Store,
    escrows: Escrows,
    /// The most that the gas of a transfer may cost, in millionths of what it brings.
    gas_share_ppm: u32,
    counter: Arc<Mutex<Counter>>,
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
    purse: Purse,
    fingerprint: B256,
    /// It was taken: the transaction.
    paid: Option<String>,
    is_worked_for: bool,
}

impl Drop for Tendered {
    fn drop(&mut self) {
        if self.is_worked_for && self.paid.is_none() {
            self.cashier.beware(self.purse);
        }
        let mut counter = self.cashier.lock();
        counter.in_hand.remove(&self.key);
        if let Some(sum) = counter.sums.get_mut(&self.purse) {
            *sum = sum.saturating_sub(self.transfer.value);
            if sum.is_zero() {
                counter.sums.remove(&self.purse);
            }
        }
    }
}

impl Cashier {
    /// A cashier over `store`. A transfer's gas may cost `gas_share_ppm` millionths of what it brings, where the
    /// configuration says what the chain's coin is worth.
    pub fn new(store: Store, escrows: Escrows, gas_share_ppm: u32) -> Self {
        Self {
            store,
            escrows,
            gas_share_ppm,
            counter: Arc::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counter> {
        // Sets and sums are changed in one step each, so after a panic at most too much is in hand.
        self.counter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a one-off payment of `amount` is worth the gas of its transfer now. It is not where the price of gas is
    /// needed and cannot be read.
    pub async fn is_worth(&self, asset: AssetId, amount: Amount, now: Timestamp) -> bool {
        let Some(worth) = self.escrows.coin_worth(asset) else {
            // As for claims, gas counts as free where nobody says what the coin is worth.
            return true;
        };
        let known = self.lock().gas_prices.get(&asset.chain).copied();
        let fresh = known.filter(|(_, at_ms)| now.0.abs_diff(*at_ms) < GAS_PRICE_KEPT_MS);
        let price = match fresh {
            Some((price, _)) => price,
            None => {
                let price = self.read_gas_price(asset.chain).await;
                self.lock().gas_prices.insert(asset.chain, (price, now.0));
                price
            }
        };
        price
            .is_some_and(|price| is_worth(amount, gas_price_nano(price, worth), self.gas_share_ppm))
    }

    /// The price of gas on a chain. One whose endpoint does not answer must not hold up those who pay on another.
    async fn read_gas_price(&self, chain: ChainId) -> Option<u128> {
        let escrow = self.escrows.get(chain)?;
        let asked = tokio::time::timeout(GAS_PRICE_PATIENCE, escrow.client().gas_price()).await;
        let unread = match asked {
            Ok(Ok(price)) => return Some(price),
            Ok(Err(error)) => error.with_causes().to_string(),
            Err(_) => "the endpoint does not answer".to_owned(),
        };
        warn!(%chain, reason = unread, "one-off payments are not offered: the price of gas cannot be read");
        None
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
        let mut tendered = Tendered {
            cashier: self.clone(),
            escrow,
            token,
            key: key(asset.chain(), token, transfer.payer, nonce),
            purse: (asset.chain(), token, transfer.payer),
            transfer,
            signature: payload.signature,
            fingerprint,
            paid: None,
            is_worked_for: false,
        };
        let at_once = match self.take_in_hand(tendered.key, tendered.purse, tendered.transfer.value)
        {
            Ok(at_once) => at_once,
            Err(code) => {
                // What another request has in hand stays there.
                return Err(tendered.disown(code));
            }
        };
        let stage = tendered.recall()?;
        match stage {
            Some(Stage::Paid { transaction }) => tendered.paid = Some(transaction),
            // The work was done before a crash, and perhaps the transfer: that is settled first.
            Some(_) => {
                tendered.take().await?;
            }
            None => {
                tendered.check(at_once).await?;
                return Ok(tendered);
            }
        }
        // Once more, and never again: a payer that hangs up each time would have work done for ever.
        tendered.note(Stage::Served).await?;
        Ok(tendered)
    }

    /// Takes a payment in hand. Returns what its payer's payments in hand come to, this one included.
    fn take_in_hand(&self, key: B256, purse: Purse, value: Amount) -> Result<Amount, ErrorCode> {
        let mut counter = self.lock();
        if counter.in_hand.contains(&key) {
            return Err(ErrorCode::ExactNonceUsed);
        }
        if counter.in_hand.len() >= IN_HAND_MAX {
            return Err(ErrorCode::UnexpectedVerify);
        }
        let sum = counter.sums.get(&purse).copied().unwrap_or_default();
        let sum = sum.checked_add(value).ok_or(ErrorCode::InsufficientFunds)?;
        counter.in_hand.insert(key);
        counter.sums.insert(purse, sum);
        Ok(sum)
    }

    /// Remembers that work for a payment of this payer was in vain.
    fn beware(&self, purse: Purse) {
        let mut counter = self.lock();
        counter.wary_of.insert(purse);
        if counter.wary_of.len() > WARY_OF_MAX {
            counter.wary_of.pop_first();
        }
    }
}

fn key(chain: ChainId, token: Address, payer: Address, nonce: B256) -> B256 {
    keccak256((chain.0, token, payer, nonce).abi_encode())
}

impl Tendered {
    /// The account that pays.
    pub fn payer(&self) -> Address {
        self.transfer.payer
    }

    /// Says whether the work for this payment is under way. If it is dropped then, its payer went away.
    pub fn set_worked_for(&mut self, is_worked_for: bool) {
        self.is_worked_for = is_worked_for;
    }

    /// How far this payment came before, if it is on record and may still serve this request.
    fn recall(&self) -> Result<Option<Stage>, ErrorCode> {
        let record: Option<TransferRecord> = self
            .cashier
            .store
            .get(TRANSFERS, self.key.as_slice())
            .map_err(|error| store_failed(&error))?;
        match record {
            None => Ok(None),
            Some(record) if record.fingerprint != self.fingerprint => {
                Err(ErrorCode::ExactNonceUsed)
            }
            Some(TransferRecord { stage, .. }) => match stage {
                Stage::Served => Err(ErrorCode::ExactNonceUsed),
                Stage::Failed => Err(ErrorCode::ExactTransaction),
                Stage::Sent | Stage::Paid { .. } => Ok(Some(stage)),
            },
        }
    }

    /// Checks that the chain would take a payment that is new, beside all that its payer has in hand.
    async fn check(&mut self, at_once: Amount) -> Result<(), ErrorCode> {
        let (escrow, transfer) = (&self.escrow, &self.transfer);
        escrow
            .check_transfer(self.token, transfer, &self.signature)
            .await?;
        // Read after the payment was taken in hand: one that left since is gone from the balance.
        let held = escrow.client().balance_of(self.token, transfer.payer).await;
        let held = held.map_err(|error| {
            warn!(error = %error.with_causes(), "a payer's balance could not be read");
            ErrorCode::UnexpectedVerify
        })?;
        if held < U256::from(at_once.units()) {
            return Err(ErrorCode::InsufficientFunds);
        }
        let is_wary = self.cashier.lock().wary_of.contains(&self.purse);
        if is_wary {
            self.take().await?;
        }
        Ok(())
    }

    /// Takes the payment. When this returns, the transfer is final and on record.
    ///
    /// # Errors
    /// The code that the payer is told.
    pub async fn take(&mut self) -> Result<String, ErrorCode> {
        if let Some(transaction) = &self.paid {
            return Ok(transaction.clone());
        }
        self.note(Stage::Sent).await?;
        let sent = self
            .escrow
            .send_transfer(self.token, &self.transfer, &self.signature)
            .await;
        let transaction = match sent {
            Ok(transaction) => transaction,
            Err(error) => self.not_made(&error).await?,
        };
        self.note(Stage::Paid {
            transaction: transaction.clone(),
        })
        .await?;
        self.paid = Some(transaction.clone());
        Ok(transaction)
    }

    /// Keeps what it means that a transfer was not made. Returns the transaction in which somebody else made it.
    async fn not_made(&self, error: &SendError) -> Result<String, ErrorCode> {
        warn!(error = %error.with_causes(), "a one-off payment was not made");
        match error {
            SendError::Reverted { .. } | SendError::WouldFail { .. } => {}
            // It may have been sent: that is asked when the payment comes again.
            SendError::Stopped => return Err(ErrorCode::UnexpectedSettle),
            // Nothing was sent, and that is not the payer's fault. The work was done all the same: its transfer is tried
            // again before more is done, for this payment and the payer's others.
            _ => {
                self.cashier.beware(self.purse);
                return Err(ErrorCode::UnexpectedSettle);
            }
        }
        match self.escrow.made_by_others(self.token, &self.transfer).await {
            Ok(Some((transaction, true))) => return Ok(transaction),
            // As long as it is not known, it is tried again when the payment comes again.
            Ok(Some((_, false))) => return Err(ErrorCode::UnexpectedSettle),
            Err(error) if error.kind() == ErrorKind::Retryable => {
                warn!(error = %error.with_causes(), "it is not known whether somebody else made the transfer");
                return Err(ErrorCode::UnexpectedSettle);
            }
            Ok(None) => {}
            Err(error) => {
                warn!(error = %error.with_causes(), "the chain does not show whether somebody else made the transfer")
            }
        }
        self.cashier.beware(self.purse);
        self.note(Stage::Failed).await?;
        Err(ErrorCode::ExactTransaction)
    }

    /// Lets go of what was never in this payment's hand. Returns `code`.
    fn disown(mut self, code: ErrorCode) -> ErrorCode {
        self.key = B256::ZERO;
        self.transfer.value = Amount::ZERO;
        code
    }

    /// Says that the work failed: it costs nothing, and what was paid for it before serves another time.
    pub async fn not_served(&self) {
        let Some(transaction) = self.paid.clone() else {
            return;
        };
        if let Err(code) = self.note(Stage::Paid { transaction }).await {
            error!(%code, "a payment whose work failed could not be marked; it might serve nothing more");
        }
    }

    /// Says that the reply leaves, so that the payment serves nothing more.
    pub async fn served(self) {
        if let Err(code) = self.note(Stage::Served).await {
            error!(%code, "a served payment could not be marked; it might be served once more");
        }
    }

    /// Puts on record how far the payment came.
    async fn note(&self, stage: Stage) -> Result<(), ErrorCode> {
        let mut batch = Batch::default();
        let fingerprint = self.fingerprint;
        let record = TransferRecord { fingerprint, stage };
        batch
            .put(TRANSFERS, self.key.as_slice(), &record)
            .map_err(|error| store_failed(&error))?;
        self.cashier
            .store
            .commit(batch)
            .await
            .map_err(|error| store_failed(&error))
    }
}

fn store_failed(error: &crate::store::StoreError) -> ErrorCode {
    error!(error = %error.with_causes(), "the store failed while a payment was taken");
    ErrorCode::UnexpectedSettle
}
