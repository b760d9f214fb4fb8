//! Which failures are worth another try, and when.
//!
//! Pure: a failure goes in, a decision comes out. What is retried: a lost or refused connection, a timeout, HTTP 408,
//! 429 and 5xx, a batch with a missing answer, and the JSON-RPC codes by which endpoints say "too fast". What is not:
//! an answer, whether it is a refusal or nonsense. (spec: 06-chain, section 2)

use std::time::Duration;

use alloy_json_rpc::{ErrorPayload, RpcError};
use alloy_primitives::Bytes;
use alloy_transport::{TransportError, TransportErrorKind};

use super::{error::ChainError, revert::Revert};

/// How often and how patiently a call is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, at least one.
    pub max_attempts: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub base_delay: Duration,
    /// The longest wait between two tries.
    pub max_delay: Duration,
    /// The longest `Retry-After` that is waited for; a longer one ends the call.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            base_delay: Duration::from_millis(250),
            max_delay: Duration::from_secs(8),
            max_retry_after: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// How long to wait after the `attempt`-th failure (from 1), or `None` to give up. The wait is drawn from the
    /// upper half of the exponential step by `random`, so that many clients spread; a `Retry-After` is a lower bound.
    #[must_use]
    pub fn delay(
        &self,
        attempt: u32,
        retry_after: Option<Duration>,
        random: u64,
    ) -> Option<Duration> {
        if attempt >= self.max_attempts
            || retry_after.is_some_and(|wait| wait > self.max_retry_after)
        {
            return None;
        }
        let doublings = attempt.saturating_sub(1).min(31);
        let step = self
            .base_delay
            .saturating_mul(1 << doublings)
            .min(self.max_delay);
        let half = u64::try_from(step.as_micros() / 2).unwrap_or(u64::MAX);
        let jittered = Duration::from_micros(half.saturating_add(random % half.saturating_add(1)));
        Some(retry_after.map_or(jittered, |wait| wait.saturating_add(jittered / 4)))
    }
}

/// The outcome of one try.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another try may work.
    Again {
        /// What happened.
        reason: String,
        /// How long the endpoint asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// Another try gets the same answer.
    Final(ChainError),
}

/// Decides what a failed try of `method` means.
#[must_use]
pub(super) fn classify(method: &str, error: TransportError) -> Failure {
    match error {
        RpcError::ErrorResp(payload) => classify_payload(method, &payload),
        RpcError::Transport(kind) => classify_transport(method, &kind),
        RpcError::NullResp => {
            Failure::Final(ChainError::malformed(method, "null where an answer is due"))
        }
        RpcError::DeserError { err, .. } => Failure::Final(ChainError::malformed(
            method,
            format!("not the JSON that was asked for: {err}"),
        )),
        other => Failure::Final(ChainError::malformed(method, other.to_string())),
    }
}

fn classify_transport(method: &str, kind: &TransportErrorKind) -> Failure {
    if let Some(http) = kind.as_http_error() {
        return match http.status {
            408 | 425 | 429 | 500..=599 => Failure::Again {
                reason: format!("HTTP status {}", http.status),
                retry_after: kind.retry_after(),
            },
            status => Failure::Final(ChainError::Refused {
                method: method.to_owned(),
                code: i64::from(status),
                message: refusal_hint(status).to_owned(),
            }),
        };
    }
    match kind {
        TransportErrorKind::NonRetryable(reason) => {
            Failure::Final(ChainError::malformed(method, reason.to_string()))
        }
        other => Failure::Again {
            reason: other.to_string(),
            retry_after: None,
        },
    }
}

/// What an HTTP status that is not worth repeating means to the one who configured the endpoint.
fn refusal_hint(status: u16) -> &'static str {
    match status {
        300..=399 => {
            "the endpoint redirects elsewhere, which is not followed; use the final address"
        }
        401 | 403 => "the endpoint wants another key; correct it in the endpoint's address",
        404 | 405 => "this address is not a JSON-RPC endpoint; correct it",
        413 => "the request is too large for the endpoint",
        _ => "the endpoint refused the request",
    }
}

fn classify_payload(method: &str, payload: &ErrorPayload) -> Failure {
    if method == "eth_getLogs" && asks_for_narrower_range(payload) {
        return Failure::Final(ChainError::RangeTooWide {
            method: method.to_owned(),
            message: payload.message.to_string(),
        });
    }
    if let Some(data) = revert_data(payload) {
        let revert = Revert::decode(data, &payload.message);
        return Failure::Final(ChainError::Reverted {
            method: method.to_owned(),
            revert,
        });
    }
    if payload.is_retry_err() {
        let reason = format!("code {}: {}", payload.code, payload.message);
        return Failure::Again {
            reason,
            retry_after: None,
        };
    }
    Failure::Final(ChainError::Refused {
        method: method.to_owned(),
        code: payload.code,
        message: payload.message.to_string(),
    })
}

/// Endpoints say "too many logs" in many words; some of them use the code of a rate limit for it, which is why this
/// is asked before anything else.
fn asks_for_narrower_range(payload: &ErrorPayload) -> bool {
    const SIGNS: [&str; 9] = [
        "more than",
        "too many results",
        "too many logs",
        "block range",
        "range too",
        "range is too",
        "response size",
        "query timeout",
        "limited to",
    ];
    let message = payload.message.to_ascii_lowercase();
    let about_rate =
        message.contains("rate") || message.contains("per second") || message.contains("/sec");
    !about_rate && SIGNS.iter().any(|sign| message.contains(sign))
}

/// The revert data of an error that is a revert: code 3 (geth), or words that say so (others).
fn revert_data(payload: &ErrorPayload) -> Option<Bytes> {
    if payload.code != 3 && !payload.message.to_ascii_lowercase().contains("revert") {
        return None;
    }
    let data = payload
        .data
        .as_ref()
        .and_then(|raw| serde_json::from_str(raw.get()).ok());
    Some(data.as_ref().and_then(find_hex).unwrap_or_default())
}

/// Revert data is either the `data` itself or one level inside it, by endpoint.
fn find_hex(value: &serde_json::Value) -> Option<Bytes> {
    match value {
        serde_json::Value::String(text) => text.parse().ok(),
        serde_json::Value::Object(fields) => ["data", "result", "output"]
            .iter()
            .find_map(|name| fields.get(*name)?.as_str()?.parse().ok()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(code: i64, message: &str, data: Option<&str>) -> TransportError {
        let data =
            data.map(|text| serde_json::value::RawValue::from_string(text.to_owned()).unwrap());
        RpcError::ErrorResp(ErrorPayload {
            code,
            message: message.to_owned().into(),
            data,
        })
    }

    fn outcome(method: &str, error: TransportError) -> &'static str {
        match classify(method, error) {
            Failure::Again { .. } => "again",
            Failure::Final(ChainError::Reverted { .. }) => "reverted",
            Failure::Final(ChainError::RangeTooWide { .. }) => "range",
            Failure::Final(ChainError::Refused { .. }) => "refused",
            Failure::Final(ChainError::Malformed { .. }) => "malformed",
            Failure::Final(_) => "other",
        }
    }

    #[test]
    fn each_failure_has_its_fate() {
        let http = TransportErrorKind::http_error;
        let cases = [
            ("eth_call", http(429, String::new()), "again"),
            ("eth_call", http(503, String::new()), "again"),
            ("eth_call", http(408, String::new()), "again"),
            ("eth_call", http(302, String::new()), "refused"),
            ("eth_call", http(401, String::new()), "refused"),
            ("eth_call", http(404, String::new()), "refused"),
            (
                "eth_call",
                TransportErrorKind::custom_str("connection reset"),
                "again",
            ),
            (
                "eth_call",
                TransportErrorKind::non_retryable_str("too large"),
                "malformed",
            ),
            (
                "eth_call",
                TransportErrorKind::missing_batch_response(1.into()),
                "again",
            ),
            ("eth_call", payload(-32005, "daily limit", None), "again"),
            (
                "eth_call",
                payload(-32000, "header not found", None),
                "again",
            ),
            (
                "eth_call",
                payload(3, "execution reverted", Some("\"0x\"")),
                "reverted",
            ),
            (
                "eth_call",
                payload(-32000, "execution reverted", None),
                "reverted",
            ),
            ("eth_call", payload(-32602, "bad params", None), "refused"),
            (
                "eth_getLogs",
                payload(-32005, "query returned more than 10000 results", None),
                "range",
            ),
            (
                "eth_getLogs",
                payload(-32602, "block range too large, max 1000", None),
                "range",
            ),
            (
                "eth_getLogs",
                payload(
                    -32005,
                    "request rate exceeded, limited to 10 per second",
                    None,
                ),
                "again",
            ),
            ("eth_call", RpcError::NullResp, "malformed"),
        ];
        for (method, error, expected) in cases {
            let shown = error.to_string();
            assert_eq!(outcome(method, error), expected, "{method}: {shown}");
        }
    }

    #[test]
    fn revert_reasons_are_decoded_wherever_the_endpoint_puts_them() {
        let words = "0x08c379a000000000000000000000000000000000000000000000000000000000000000200000000000000000000000\
                     00000000000000000000000000000000000000000454686973000000000000000000000000000000000000000000000\
                     00000000000";
        for data in [format!("\"{words}\""), format!("{{\"data\":\"{words}\"}}")] {
            let Failure::Final(ChainError::Reverted { revert, .. }) =
                classify("eth_call", payload(3, "execution reverted", Some(&data)))
            else {
                panic!("a revert with data must be a revert")
            };
            assert_eq!(revert.to_string(), "This");
        }
    }

    #[test]
    fn delays_grow_stay_bounded_and_honour_retry_after() {
        let policy = RetryPolicy::default();
        for attempt in 1..policy.max_attempts {
            let low = policy.delay(attempt, None, 0).unwrap();
            let high = policy.delay(attempt, None, u64::MAX).unwrap();
            assert!(
                low <= high && high <= policy.max_delay,
                "attempt {attempt}: {low:?} to {high:?}"
            );
            assert!(low >= policy.base_delay / 2);
        }
        assert!(policy.delay(3, None, 0).unwrap() > policy.delay(1, None, 0).unwrap());
        assert_eq!(policy.delay(policy.max_attempts, None, 0), None);
        let asked = Duration::from_secs(7);
        assert!(policy.delay(1, Some(asked), 0).unwrap() >= asked);
        assert_eq!(policy.delay(1, Some(policy.max_retry_after * 2), 0), None);
    }
}
