//! One-off payments: the checks of scheme `exact` by ERC-3009 (spec: payments, section 4).
//!
//! What can be decided without the chain is decided here; balance, nonce and the transfer itself
//! are the chain's to say, by simulation and then by the transaction. Only accounts with a key are
//! payers here: a contract wallet's signature cannot be judged without the chain.

use alloy_primitives::{Address, U256};

use crate::eip712::{TokenDomain, TransferWithAuthorization};
use crate::money::Amount;
use crate::time::Timestamp;
use crate::x402::{Authorization, ErrorCode, ExactPayload, PaymentRequirements};

/// How long an authorization must still hold when it arrives, in seconds: two slow blocks.
pub const VALIDITY_MARGIN_S: u64 = 6;

/// A transfer that is signed as it should be, for the amount and the payee that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedTransfer {
    /// What was signed.
    pub authorization: Authorization,
    /// By whom, and that is also who pays.
    pub payer: Address,
    /// How much.
    pub value: Amount,
}

/// The message that a payer signs for `authorization`.
pub fn transfer_message(authorization: &Authorization) -> TransferWithAuthorization {
    TransferWithAuthorization {
        from: authorization.from,
        to: authorization.to,
        value: U256::from(authorization.value.units()),
        validAfter: U256::from(authorization.valid_after),
        validBefore: U256::from(authorization.valid_before),
        nonce: authorization.nonce,
    }
}

/// Checks a payment against what was asked for.
///
/// # Errors
/// The code that the payer is told.
pub fn check(
    payload: &ExactPayload,
    requirements: &PaymentRequirements,
    domain: &TokenDomain,
    now: Timestamp,
) -> Result<CheckedTransfer, ErrorCode> {
    let authorization = &payload.authorization;
    if authorization.to != requirements.pay_to {
        return Err(ErrorCode::ExactRecipient);
    }
    if authorization.value != requirements.amount {
        return Err(ErrorCode::ExactValue);
    }
    if authorization.valid_after > now.as_secs() {
        return Err(ErrorCode::ExactValidAfter);
    }
    if authorization.valid_before < now.as_secs().saturating_add(VALIDITY_MARGIN_S) {
        return Err(ErrorCode::ExactValidBefore);
    }
    let digest = domain.transfer_digest(&transfer_message(authorization));
    if payload.signature.signer(digest) != Ok(authorization.from) {
        return Err(ErrorCode::ExactSignature);
    }
    Ok(CheckedTransfer {
        authorization: authorization.clone(),
        payer: authorization.from,
        value: authorization.value,
    })
}
