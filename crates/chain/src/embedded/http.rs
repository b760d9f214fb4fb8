//! JSON-RPC over HTTP, on loopback only.
//!
//! A web page of any site can make a browser send requests to a loopback port. The guard of [`hearth_doors`] keeps
//! it out: the `Host` must name loopback (a rebound name does not), and an `Origin` must be this port's own or that
//! of an extension, such as a wallet, which the user installed. The content type must be JSON (which a page can only
//! send after a CORS preflight, and none is answered). Nothing here signs: what changes the chain is signed by who
//! asks. Size of bodies, length of batches and number of requests at once are bounded. Spec: 05 embedded chain,
//! section 9.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hearth_doors::{BodyError, Budget, Listener, Policy, Refusal, read_body};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use super::limits::{
    BODY_DEADLINE_MS, MAX_BATCH_REPLY_BYTES, MAX_BATCH_REQUESTS, MAX_BODY_BYTES,
    MAX_CONCURRENT_REQUESTS,
};
use super::{Embedded, RpcError};

#[derive(Debug, Clone)]
struct Server {
    chain: Embedded,
    permits: Arc<Semaphore>,
}

pub(crate) async fn serve(
    chain: Embedded,
    listener: Listener,
    budget: Budget,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let address = listener.address();
    if !address.ip().is_loopback() {
        let reason = format!(
            "the embedded chain listens on loopback only, not on {address}; bind 127.0.0.1 or [::1]"
        );
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            reason,
        ));
    }
    let server = Server {
        chain,
        permits: Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS)),
    };
    let router = Router::new().route("/", post(handle)).with_state(server);
    let policy = Policy::wallets(budget).refusing(|refusal, _| {
        let status = match refusal {
            // Clients of JSON-RPC know this one; it is what the specification of the chain names.
            Refusal::UnknownHost => StatusCode::FORBIDDEN,
            refusal => refusal.status(),
        };
        refuse(status, refusal.to_string())
    });
    hearth_doors::serve(listener, router, policy, Box::pin(shutdown)).await;
    Ok(())
}

async fn handle(State(server): State<Server>, request: Request) -> Response {
    if !is_json(request.headers()) {
        let reason = "the Content-Type must be application/json";
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason.to_owned());
    }
    let Ok(permit) = server.permits.clone().acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let deadline = Duration::from_millis(BODY_DEADLINE_MS);
    let body = match read_body(request.into_body(), MAX_BODY_BYTES, deadline).await {
        Ok(body) => body,
        Err(error) => {
            let (status, reason) = not_read(error);
            return refuse(status, reason);
        }
    };
    let work = tokio::task::spawn_blocking(move || {
        let reply = server.chain.answer(&body);
        drop(permit);
        reply
    });
    match work.await {
        Ok(Some(reply)) => json(StatusCode::OK, reply),
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn not_read(error: BodyError) -> (StatusCode, String) {
    match error {
        BodyError::TooLong => (
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a request body may have {MAX_BODY_BYTES} bytes"),
        ),
        BodyError::Slow => (StatusCode::REQUEST_TIMEOUT, error.to_string()),
        BodyError::Full => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        _ => (StatusCode::BAD_REQUEST, error.to_string()),
    }
}

/// Whether the body says that it is JSON, which a page of another site cannot say unasked.
fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn refuse(status: StatusCode, reason: String) -> Response {
    json(
        status,
        reply_bytes(
            null(),
            Err(RpcError::new(RpcError::INVALID_REQUEST, reason)),
        ),
    )
}

/// One request as it stands in a body; `id` tells an absent id from `null`.
#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow, default)]
    jsonrpc: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(default)]
    params: Value,
}

/// An id is sent back as it came, so it must be one that others can read: JSON allows numbers beyond any float.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    serde_json::from_str::<Value>(raw.get()).map_err(serde::de::Error::custom)?;
    Ok(Some(raw))
}

#[derive(Serialize)]
struct Reply<'a> {
    jsonrpc: &'static str,
    id: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorObject>,
}

#[derive(Serialize)]
struct ErrorObject {
    code: i64,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl Embedded {
    /// The reply to the body of a JSON-RPC request, one call or a batch, as the port gives it; `None` for
    /// notifications alone. The caller bounds the body.
    pub fn answer(&self, body: &[u8]) -> Option<Vec<u8>> {
        answer(
            body,
            &Terms {
                call: &|method, params| self.request(method, params),
                reply_bytes_max: usize::MAX,
                batch_bytes_max: MAX_BATCH_REPLY_BYTES,
            },
        )
    }
}

/// How the calls of one body are answered.
pub(super) struct Terms<'a> {
    /// Does a call.
    pub(super) call: &'a dyn Fn(&str, Value) -> Result<Value, RpcError>,
    /// The longest reply to one call, in bytes; an error takes the place of a longer one.
    pub(super) reply_bytes_max: usize,
    /// Bytes of replies to a batch, after which the rest of it is refused.
    pub(super) batch_bytes_max: usize,
}

/// The reply to a body; `None` for notifications alone.
pub(super) fn answer(body: &[u8], terms: &Terms<'_>) -> Option<Vec<u8>> {
    let Ok(raw) = serde_json::from_slice::<&RawValue>(body) else {
        let error = RpcError::new(RpcError::PARSE, "parse error: the body is not JSON");
        return Some(reply_bytes(null(), Err(error)));
    };
    if raw.get().starts_with('[') {
        answer_batch(terms, raw)
    } else {
        answer_one(terms, raw)
    }
}

fn answer_batch(terms: &Terms<'_>, raw: &RawValue) -> Option<Vec<u8>> {
    let invalid = |reason: String| {
        Some(reply_bytes(
            null(),
            Err(RpcError::new(RpcError::INVALID_REQUEST, reason)),
        ))
    };
    let Ok(requests) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else {
        return invalid("invalid batch".to_owned());
    };
    if requests.is_empty() {
        return invalid("empty batch".to_owned());
    }
    if requests.len() > MAX_BATCH_REQUESTS {
        return invalid(format!(
            "batch too large: at most {MAX_BATCH_REQUESTS} requests; split it"
        ));
    }
    let mut replies = Vec::new();
    for request in requests {
        let reply = if replies.len() > terms.batch_bytes_max {
            refuse_rest(request)
        } else {
            answer_one(terms, request)
        };
        if let Some(reply) = reply {
            replies.push(if replies.is_empty() { b'[' } else { b',' });
            replies.extend_from_slice(&reply);
        }
    }
    if replies.is_empty() {
        return None;
    }
    replies.push(b']');
    Some(replies)
}

fn refuse_rest(raw: &RawValue) -> Option<Vec<u8>> {
    let id = serde_json::from_str::<Call<'_>>(raw.get()).ok()?.id?;
    let error = RpcError::limit_exceeded(
        "the replies of this batch are too large together; send smaller batches",
    );
    Some(reply_bytes(id, Err(error)))
}

fn answer_one(terms: &Terms<'_>, raw: &RawValue) -> Option<Vec<u8>> {
    // A list of the fields' values would be read as well, and is never meant.
    if !raw.get().starts_with('{') {
        let reason = "invalid request: an object with `jsonrpc`, `id` and `method` is expected";
        let error = RpcError::new(RpcError::INVALID_REQUEST, reason);
        return Some(reply_bytes(null(), Err(error)));
    }
    let call = match serde_json::from_str::<Call<'_>>(raw.get()) {
        Ok(call) => call,
        Err(error) => {
            let error = RpcError::new(
                RpcError::INVALID_REQUEST,
                format!("invalid request: {error}"),
            );
            return Some(reply_bytes(id_of(raw), Err(error)));
        }
    };
    if call.jsonrpc.as_deref() != Some("2.0") || !call.id.is_none_or(is_scalar) {
        let reason = "invalid request: `jsonrpc` must be \"2.0\" and `id` a string or a number";
        return Some(reply_bytes(
            id_of(raw),
            Err(RpcError::new(RpcError::INVALID_REQUEST, reason)),
        ));
    }
    let outcome = (terms.call)(&call.method, call.params);
    let id = call.id?;
    let reply = reply_bytes(id, outcome);
    if reply.len() <= terms.reply_bytes_max {
        return Some(reply);
    }
    let error = RpcError::limit_exceeded(format!(
        "the reply has more than {} bytes; ask for less, such as a narrower block range",
        terms.reply_bytes_max
    ));
    Some(reply_bytes(id, Err(error)))
}

/// Of a call that is at fault: its id if it has a sound one, so that the client knows which call failed.
fn id_of(raw: &RawValue) -> &RawValue {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        id: Option<&'a RawValue>,
    }
    let named = serde_json::from_str::<Named<'_>>(raw.get());
    let id = named.ok().and_then(|named| named.id);
    id.filter(|id| is_scalar(id)).unwrap_or_else(|| null())
}

fn is_scalar(id: &RawValue) -> bool {
    !id.get().starts_with(['[', '{', 't', 'f'])
}

fn null() -> &'static RawValue {
    RawValue::NULL
}

fn reply_bytes(id: &RawValue, outcome: Result<Value, RpcError>) -> Vec<u8> {
    let (result, error) = match outcome {
        Ok(result) => (Some(result), None),
        Err(RpcError {
            code,
            message,
            data,
        }) => (
            None,
            Some(ErrorObject {
                code,
                message,
                data,
            }),
        ),
    };
    serde_json::to_vec(&Reply {
        jsonrpc: "2.0",
        id,
        result,
        error,
    })
    .expect("JSON values and raw JSON always serialise")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{account, config};
    use super::*;

    /// Every method that takes parameters; the others ignore them.
    const METHODS: [&str; 24] = [
        "web3_sha3",
        "eth_feeHistory",
        "eth_getBalance",
        "eth_getTransactionCount",
        "eth_getCode",
        "eth_getStorageAt",
        "eth_call",
        "eth_estimateGas",
        "eth_sendRawTransaction",
        "eth_getTransactionByHash",
        "eth_getTransactionByBlockNumberAndIndex",
        "eth_getTransactionByBlockHashAndIndex",
        "eth_getTransactionReceipt",
        "eth_getBlockReceipts",
        "eth_getBlockByNumber",
        "eth_getBlockByHash",
        "eth_getLogs",
        "eth_newFilter",
        "eth_getFilterChanges",
        "eth_getFilterLogs",
        "evm_increaseTime",
        "evm_setNextBlockTimestamp",
        "evm_mine",
        "hardhat_mine",
    ];

    /// A value that a parser might take for what it wants: quantities, hashes, tags, calls, and nonsense.
    fn value() -> impl Strategy<Value = Value> {
        let address = account(0).address();
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<u64>().prop_map(|number| Value::from(format!("{number:#x}"))),
            prop::sample::select(vec![
                "latest", "pending", "earliest", "safe", "0x", "0x0", "-1", "é", ""
            ])
            .prop_map(Value::from),
            prop::collection::vec(any::<u8>(), 0..70)
                .prop_map(|bytes| Value::from(alloy_primitives::Bytes::from(bytes).to_string())),
            Just(Value::from(address.to_string())),
        ];
        let keys = vec![
            "to",
            "from",
            "gas",
            "value",
            "input",
            "fromBlock",
            "toBlock",
            "address",
            "topics",
            "blockHash",
            "nonce",
            "code",
            "stateDiff",
        ];
        leaf.prop_recursive(3, 24, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map(
                    prop::sample::select(keys.clone()).prop_map(str::to_owned),
                    inner,
                    0..5
                )
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn chain() -> Embedded {
        Embedded::in_memory(super::super::EmbeddedConfig {
            dev_rpc: true,
            ..config()
        })
        .unwrap()
    }

    /// A reply, which must be a result or an error with one of the documented codes.
    fn check_reply(reply: &[u8]) -> Result<(), TestCaseError> {
        let reply: Value = serde_json::from_slice(reply)
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(&reply["jsonrpc"], "2.0");
        if let Some(error) = reply.get("error") {
            let documented = [-32_700, -32_600, -32_601, -32_602, -32_005, -32_000, 3];
            prop_assert!(
                documented.contains(&error["code"].as_i64().unwrap()),
                "{}",
                error
            );
        } else {
            prop_assert!(reply.get("result").is_some(), "{}", reply);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_method_answers_every_parameter(params in prop::collection::vec(value(), 0..4)) {
            let chain = chain();
            for method in METHODS {
                let body = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
                let reply = chain.answer(body.to_string().as_bytes()).unwrap();
                check_reply(&reply)?;
            }
        }

        #[test]
        fn every_body_is_answered(
            at in 0_usize..110,
            with in prop::collection::vec(any::<u8>(), 0..8),
            keep in 0_usize..110,
        ) {
            let valid = br#"[{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":["0x00000000000000000000000000000000000000aa"]}]"#;
            let mut body = valid[..keep.min(valid.len())].to_vec();
            let at = at.min(body.len());
            body.splice(at..at, with);
            let Some(reply) = chain().answer(&body) else { return Ok(()) };
            match serde_json::from_slice::<Vec<Value>>(&reply) {
                Ok(replies) => for reply in replies {
                    check_reply(reply.to_string().as_bytes())?;
                },
                Err(_) => check_reply(&reply)?,
            }
        }
    }

    #[test]
    fn an_id_that_no_reader_takes_is_not_sent_back() {
        let body = br#"{"jsonrpc":"2.0","id":-8E891,"method":"eth_chainId"}"#;
        let reply: Value = serde_json::from_slice(&chain().answer(body).unwrap()).unwrap();
        assert_eq!(reply["id"], Value::Null);
        assert_eq!(reply["error"]["code"], RpcError::INVALID_REQUEST);
    }
}
