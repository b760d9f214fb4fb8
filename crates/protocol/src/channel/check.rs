//! The checks of a payment that need neither the channel's history nor the chain.
//!
//! Decoded JSON goes in; what comes out cannot be wrong any more: the channel is the one that the
//! parameters name, it pays us under our terms, and the voucher is signed by its authorizer. The
//! signature's recovery is the costly part of accepting a payment, and it happens here, outside of
//! the machine, so that many can be checked at once.

use alloy_primitives::{Address, U256};

use crate::eip712::{
    COLLECTOR_ADDRESS, ChannelConfig, ReceiveWithAuthorization, SettlementDomain, TokenDomain,
    WITHDRAW_DELAY_MAX_S, WITHDRAW_DELAY_MIN_S, deposit_nonce,
};
use crate::exact::VALIDITY_MARGIN_S;
use crate::id::ChannelId;
use crate::money::Amount;
use crate::signature::Signature;
use crate::time::Timestamp;
use crate::x402::{BatchPayload, Deposit, Erc3009Authorization, ErrorCode};

use super::Voucher;

/// Under what terms a provider takes one token on one chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The settlement contract's domain on the chain.
    pub domain: SettlementDomain,
    /// The account that is paid.
    pub receiver: Address,
    /// The key that signs claims and refunds.
    pub receiver_authorizer: Address,
    /// The token.
    pub token: Address,
    /// The token's EIP-712 domain.
    pub token_domain: TokenDomain,
    /// Seconds that a withdrawal takes.
    pub withdraw_delay: u64,
}

/// A payment that is well formed and signed by whom it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedPayment {
    /// The channel.
    pub channel: ChannelId,
    /// Its parameters.
    pub config: ChannelConfig,
    /// The promise.
    pub voucher: Voucher,
    /// What the payer wants.
    pub kind: PaymentKind,
}

/// What a payer wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentKind {
    /// To pay for a request.
    Voucher,
    /// To pay for a request after a deposit.
    Deposit(CheckedDeposit),
    /// To have what is not spent returned: all of it, or a part.
    Refund(Option<Amount>),
}

/// A deposit whose times and amount are in order. Its signature is the token's to judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedDeposit {
    /// How much.
    pub amount: Amount,
    /// The right to collect it.
    pub authorization: Erc3009Authorization,
}

/// The message that a payer signs for a deposit into `channel`.
pub fn deposit_message(
    payer: Address,
    channel: ChannelId,
    amount: Amount,
    authorization: &Erc3009Authorization,
) -> ReceiveWithAuthorization {
    ReceiveWithAuthorization {
        from: payer,
        to: COLLECTOR_ADDRESS,
        value: U256::from(amount.units()),
        validAfter: U256::from(authorization.valid_after),
        validBefore: U256::from(authorization.valid_before),
        nonce: deposit_nonce(channel, authorization.salt),
    }
}

/// Checks a payment against our terms.
///
/// # Errors
/// The code that the payer is told.
pub fn check(
    payload: &BatchPayload,
    terms: &Terms,
    now: Timestamp,
) -> Result<CheckedPayment, ErrorCode> {
    let config = payload.config();
    check_config(config, terms)?;
    let channel = terms.domain.channel_id(config);
    let voucher = payload.voucher();
    if voucher.channel_id != channel {
        return Err(ErrorCode::ChannelIdMismatch);
    }
    let digest = terms
        .domain
        .voucher_digest(channel, voucher.max_claimable_amount);
    if voucher.signature.signer(digest) != Ok(config.payer_authorizer) {
        return Err(ErrorCode::VoucherSignature);
    }
    let kind = match payload {
        BatchPayload::Voucher { .. } => PaymentKind::Voucher,
        BatchPayload::Refund { amount, .. } => PaymentKind::Refund(*amount),
        BatchPayload::Deposit { deposit, .. } => {
            PaymentKind::Deposit(check_deposit(deposit, config.payer, channel, terms, now)?)
        }
    };
    Ok(CheckedPayment {
        channel,
        config: *config,
        voucher: Voucher {
            max_claimable: voucher.max_claimable_amount,
            signature: voucher.signature,
        },
        kind,
    })
}

fn check_config(config: &ChannelConfig, terms: &Terms) -> Result<(), ErrorCode> {
    if config.token != terms.token {
        return Err(ErrorCode::TokenMismatch);
    }
    if config.receiver != terms.receiver {
        return Err(ErrorCode::ReceiverMismatch);
    }
    if config.receiver_authorizer != terms.receiver_authorizer {
        return Err(ErrorCode::ReceiverAuthorizerMismatch);
    }
    if !(WITHDRAW_DELAY_MIN_S..=WITHDRAW_DELAY_MAX_S).contains(&config.withdraw_delay) {
        return Err(ErrorCode::WithdrawDelayRange);
    }
    if config.withdraw_delay != terms.withdraw_delay {
        return Err(ErrorCode::WithdrawDelayMismatch);
    }
    if config.payer_authorizer.is_zero() {
        return Err(ErrorCode::PayerAuthorizer);
    }
    Ok(())
}

fn check_deposit(
    deposit: &Deposit,
    payer: Address,
    channel: ChannelId,
    terms: &Terms,
    now: Timestamp,
) -> Result<CheckedDeposit, ErrorCode> {
    let authorization = deposit
        .authorization
        .erc3009_authorization
        .as_ref()
        .ok_or(ErrorCode::DepositAuthorizationRequired)?;
    if deposit.amount.is_zero() {
        return Err(ErrorCode::DepositPayload);
    }
    if authorization.valid_after > now.as_secs() {
        return Err(ErrorCode::DepositValidAfter);
    }
    if authorization.valid_before < now.as_secs().saturating_add(VALIDITY_MARGIN_S) {
        return Err(ErrorCode::DepositValidBefore);
    }
    if let Ok(signature) = Signature::from_bytes(&authorization.signature) {
        // A plain account's signature is judged here; another form may be a contract wallet's,
        // and only the token can tell, when the deposit is simulated.
        let message = deposit_message(payer, channel, deposit.amount, authorization);
        let digest = terms.token_domain.receive_digest(&message);
        if signature.signer(digest) != Ok(payer) {
            return Err(ErrorCode::DepositSignature);
        }
    }
    Ok(CheckedDeposit {
        amount: deposit.amount,
        authorization: authorization.clone(),
    })
}
