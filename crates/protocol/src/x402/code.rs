//! The codes by which a provider says why a payment was refused.
//!
//! They are those of the standard (spec: payments, section 7); where unmodified clients react to a
//! code, it is the one they know. A code is stable: programs match on it, people read the message.

use std::fmt;

macro_rules! codes {
    ($($variant:ident $code:literal $message:literal)*) => {
        /// Why a payment was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(#[doc = $message] $variant,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the specification's table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as it travels.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The code in words.
            pub const fn message(self) -> &'static str {
                match self { $(Self::$variant => $message,)* }
            }
        }
    };
}

codes! {
    InvalidPayload "invalid_payload"
        "The payment cannot be read."
    UnsupportedScheme "unsupported_scheme"
        "The scheme is not one that this provider takes."
    InvalidRequirements "invalid_payment_requirements"
        "What the payment accepts is not what was offered."
    InvalidNetwork "invalid_network"
        "The payment names another chain."
    UnexpectedVerify "unexpected_verify_error"
        "The provider could not check the payment; try again."
    UnexpectedSettle "unexpected_settle_error"
        "The provider could not settle the payment; try again."
    InsufficientFunds "insufficient_funds"
        "The payer has not enough of the token."
    ExactSignature "invalid_exact_evm_payload_signature"
        "The signature is not the payer's."
    ExactRecipient "invalid_exact_evm_payload_recipient_mismatch"
        "The payment goes to somebody else."
    ExactValue "invalid_exact_evm_payload_authorization_value_mismatch"
        "The payment is of another amount."
    ExactValidAfter "invalid_exact_evm_payload_authorization_valid_after"
        "The authorization does not hold yet."
    ExactValidBefore "invalid_exact_evm_payload_authorization_valid_before"
        "The authorization has expired or is about to."
    ExactNonceUsed "invalid_exact_evm_nonce_already_used"
        "The authorization was used before."
    ExactSimulation "invalid_exact_evm_transaction_simulation_failed"
        "The chain would refuse the transfer."
    ExactTransaction "invalid_exact_evm_transaction_failed"
        "The chain refused the transfer."
    Permit2Allowance "PERMIT2_ALLOWANCE_REQUIRED"
        "The token must first be approved for Permit2."
    ChannelBusy "invalid_batch_settlement_evm_channel_busy"
        "Too many requests wait for this channel; retry shortly."
    ChannelIdMismatch "invalid_batch_settlement_evm_channel_id_mismatch"
        "The channel's parameters have another id."
    ChannelNotFound "invalid_batch_settlement_evm_channel_not_found"
        "The channel holds nothing."
    ChannelStateRead "invalid_batch_settlement_evm_channel_state_read_failed"
        "The chain could not be read; try again."
    CumulativeMismatch "invalid_batch_settlement_evm_cumulative_amount_mismatch"
        "The voucher does not continue what was charged; the correction says what was."
    CumulativeBelowClaimed "invalid_batch_settlement_evm_cumulative_below_claimed"
        "The voucher is below what was already claimed."
    CumulativeExceedsBalance "invalid_batch_settlement_evm_cumulative_exceeds_balance"
        "The voucher is above what the channel holds."
    DepositPayload "invalid_batch_settlement_evm_deposit_payload"
        "The deposit cannot be read, or is too small."
    DepositSimulation "invalid_batch_settlement_evm_deposit_simulation_failed"
        "The chain would refuse the deposit."
    DepositTransaction "invalid_batch_settlement_evm_deposit_transaction_failed"
        "The chain refused the deposit."
    DepositAuthorizationRequired "invalid_batch_settlement_evm_erc3009_authorization_required"
        "The deposit has no ERC-3009 authorization."
    DepositSignature "invalid_batch_settlement_evm_receive_authorization_signature"
        "The deposit's signature is not the payer's."
    DepositValidAfter "invalid_batch_settlement_evm_payload_authorization_valid_after"
        "The deposit's authorization does not hold yet."
    DepositValidBefore "invalid_batch_settlement_evm_payload_authorization_valid_before"
        "The deposit's authorization has expired or is about to."
    DepositBalance "invalid_batch_settlement_evm_insufficient_balance"
        "The payer has not enough of the token for the deposit."
    PayloadType "invalid_batch_settlement_evm_payload_type"
        "This kind of payload does not belong here."
    PayerAuthorizer "invalid_batch_settlement_evm_payer_authorizer_required"
        "The channel must name a key that signs vouchers: contract wallets name a session key."
    ReceiverAuthorizerMismatch "invalid_batch_settlement_evm_receiver_authorizer_mismatch"
        "The channel names another receiver authorizer."
    ReceiverMismatch "invalid_batch_settlement_evm_receiver_mismatch"
        "The channel pays somebody else."
    TokenMismatch "invalid_batch_settlement_evm_token_mismatch"
        "The channel holds another token."
    WithdrawDelayMismatch "invalid_batch_settlement_evm_withdraw_delay_mismatch"
        "The channel has another withdraw delay."
    WithdrawDelayRange "invalid_batch_settlement_evm_withdraw_delay_out_of_range"
        "The withdraw delay is outside 15 minutes to 30 days."
    VoucherPayload "invalid_batch_settlement_evm_voucher_payload"
        "The voucher cannot be read."
    VoucherSignature "invalid_batch_settlement_evm_voucher_signature"
        "The voucher is not signed by the channel's payer authorizer."
    RefundAmount "invalid_batch_settlement_evm_refund_amount_invalid"
        "The refund's amount is zero or more than is left."
    RefundNoBalance "invalid_batch_settlement_evm_refund_no_balance"
        "Nothing is left to return."
    RefundSimulation "invalid_batch_settlement_evm_refund_simulation_failed"
        "The chain would refuse the refund."
    RefundTransaction "invalid_batch_settlement_evm_refund_transaction_failed"
        "The chain refused the refund."
    ClaimPayload "invalid_batch_settlement_evm_claim_payload"
        "The claim cannot be read, or is too long."
    ClaimSimulation "invalid_batch_settlement_evm_claim_simulation_failed"
        "The chain would refuse the claim."
    ClaimTransaction "invalid_batch_settlement_evm_claim_transaction_failed"
        "The chain refused the claim."
    ClaimAuthorizer "invalid_batch_settlement_evm_authorizer_address_mismatch"
        "The claim's authorizer is another."
    SettleSimulation "invalid_batch_settlement_evm_settle_simulation_failed"
        "The chain would refuse the settlement."
    SettleTransaction "invalid_batch_settlement_evm_settle_transaction_failed"
        "The chain refused the settlement."
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
