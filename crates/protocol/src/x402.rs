//! The wire format of x402 version 2, as far as Hearth speaks it (spec: payments, section 2).
//!
//! The shapes follow the published standard, not a library: the crates of x402-rs know neither the
//! `batch-settlement` scheme nor the `extra` of a settlement response (docs/adr/0006-x402.md).
//! Everything that is decoded here has a bound, and is hostile until it has been checked.

mod batch;
mod code;
mod document;
mod exact;
mod header;
mod wire;

pub use batch::{
    BatchExtra, BatchPayload, ChannelState, ChargeStatement, ClaimPayload, ClaimRow, ClaimVoucher,
    Deposit, DepositAuthorization, Erc3009Authorization, FacilitatorPayload, RefundPayload,
    SettlePayload, SignedVoucher, TransferMethod, VoucherState,
};
pub use code::ErrorCode;
pub(crate) use document::optional_settlement;
pub use document::{PaymentJson, RequirementsJson, SettlementJson};
pub use exact::{Authorization, ExactExtra, ExactPayload};
pub use header::{
    HEADER_BYTES_MAX, HeaderError, PAYMENT_REQUIRED, PAYMENT_RESPONSE, PAYMENT_SIGNATURE,
    decode_header, encode_header,
};
pub use wire::{
    ACCEPTS_MAX, Extensions, PAYMENT_IDENTIFIER, PaymentIdentifierError, PaymentPayload,
    PaymentRequired, PaymentRequirements, QuotedEntries, ResourceInfo, Scheme, SettleResponse,
    VerifyRequest, VerifyResponse, Version, payment_identifier, payment_identifier_offer,
    with_payment_identifier,
};
