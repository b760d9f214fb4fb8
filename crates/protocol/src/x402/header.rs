//! The three headers: standard padded base64 of UTF-8 JSON, bounded before anything is decoded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// On a 402: what may be paid, and how.
pub const PAYMENT_REQUIRED: &str = "payment-required";
/// On a request: the payment.
pub const PAYMENT_SIGNATURE: &str = "payment-signature";
/// On a reply: what became of the payment.
pub const PAYMENT_RESPONSE: &str = "payment-response";

/// The longest header value that is read or written, in bytes of base64.
///
/// A deposit with everything optional is under 4 KiB; common servers stop at 8 to 16 KiB.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Why a header's value could not be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Longer than [`HEADER_BYTES_MAX`].
    #[error("the header is longer than {HEADER_BYTES_MAX} bytes")]
    TooLong,
    /// Not standard base64 with padding.
    #[error("the header is not standard base64")]
    Base64(#[source] base64::DecodeError),
    /// Not the JSON of the expected message.
    #[error("the header does not hold the expected JSON")]
    Json(#[source] serde_json::Error),
}

/// Writes a message as the value of one of the three headers.
///
/// # Errors
/// When the message does not fit into a header.
pub fn encode_header(message: &impl Serialize) -> Result<String, HeaderError> {
    let json = serde_json::to_vec(message).map_err(HeaderError::Json)?;
    let text = STANDARD.encode(json);
    if text.len() > HEADER_BYTES_MAX {
        return Err(HeaderError::TooLong);
    }
    Ok(text)
}

/// Reads the value of one of the three headers.
///
/// # Errors
/// When it is too long, is not base64, or is not the JSON of a `T`.
pub fn decode_header<T: DeserializeOwned>(value: &[u8]) -> Result<T, HeaderError> {
    if value.len() > HEADER_BYTES_MAX {
        return Err(HeaderError::TooLong);
    }
    let json = STANDARD.decode(value).map_err(HeaderError::Base64)?;
    serde_json::from_slice(&json).map_err(HeaderError::Json)
}
