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

/// Gas that the transfer of a one-off payment uses, with a margin: the test token's takes 58,000 to 76,000.
pub const TRANSFER_GAS: u64 = 80_000;

/// Whether a one-off payment of `amount` is worth the gas of its transfer.
///
/// `gas_price_nano` is what one unit of gas costs in atomic units of the token, times 10^9; `gas_share_ppm` is the most
/// that the gas may cost, in millionths of the amount: the same that decides when a claim is sent.
pub fn is_worth(amount: Amount, gas_price_nano: u128, gas_share_ppm: u32) -> bool {
    let gas = gas_price_nano.saturating_mul(u128::from(TRANSFER_GAS));
    let cost = gas.div_ceil(1_000_000_000);
    let most = amount.units().saturating_mul(u128::from(gas_share_ppm));
    cost.saturating_mul(1_000_000) <= most
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_is_worth_its_gas_up_to_the_share_to_the_unit() {
        // 80,000 gas at 20,000,000 nano cost 1,600 units: 1% of 160,000.
        assert!(is_worth(Amount::new(160_000), 20_000_000, 10_000));
        assert!(!is_worth(Amount::new(159_999), 20_000_000, 10_000));
        assert!(!is_worth(Amount::new(160_000), 20_000_001, 10_000));
        assert!(is_worth(Amount::new(1_600), 20_000_000, 1_000_000));
        assert!(is_worth(Amount::ZERO, 0, 0), "gas is free");
        assert!(!is_worth(Amount::new(1), 1, 0));
        assert!(!is_worth(Amount::new(1), u128::MAX, 10_000));
    }
}
