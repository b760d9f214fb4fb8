//! An endpoint of the world's chain that can refuse methods, or answer nothing at all.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hearth_chain::client::{ChainClient, HttpOptions, RetryPolicy};
use hearth_chain::embedded::Embedded;
use hearth_payments::till::Tasks;
use hearth_protocol::id::ChainId;
use serde_json::{Value, json};

use super::world::CHAIN;

/// How an endpoint behaves. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Temper(Arc<Mutex<Mood>>);

#[derive(Default)]
struct Mood {
    refused: BTreeSet<&'static str>,
    broken: bool,
    asked: u64,
}

impl Temper {
    /// Refuses a method from now on, as providers of endpoints do that want to be paid for it.
    pub(crate) fn refuse(&self, method: &'static str) {
        self.0.lock().unwrap().refused.insert(method);
    }

    /// Answers nothing from now on, or everything again.
    pub(crate) fn set_broken(&self, broken: bool) {
        self.0.lock().unwrap().broken = broken;
    }

    /// How often it was asked for anything so far.
    pub(crate) fn asked(&self) -> u64 {
        self.0.lock().unwrap().asked
    }
}

/// A client of `chain` over HTTP, through an endpoint of this temper.
pub(crate) async fn endpoint(chain: &Embedded, temper: &Temper, tasks: &mut Tasks) -> ChainClient {
    let router = axum::Router::new()
        .route("/", post(answer))
        .with_state((chain.clone(), temper.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tasks.spawn(async move {
        axum::serve(listener, router).await.unwrap();
        "the endpoint"
    });
    let options = HttpOptions {
        retry: RetryPolicy {
            max_attempts: 1,
            ..RetryPolicy::default()
        },
        ..HttpOptions::default()
    };
    ChainClient::http(url.parse().unwrap(), ChainId(CHAIN), options).unwrap()
}

async fn answer(
    State((chain, temper)): State<(Embedded, Temper)>,
    Json(asked): Json<Value>,
) -> Response {
    temper.0.lock().unwrap().asked += 1;
    if temper.0.lock().unwrap().broken {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let answered = tokio::task::spawn_blocking(move || match asked {
        Value::Array(calls) => calls
            .iter()
            .map(|call| one(&chain, &temper, call))
            .collect(),
        call => one(&chain, &temper, &call),
    });
    Json(answered.await.unwrap()).into_response()
}

fn one(chain: &Embedded, temper: &Temper, call: &Value) -> Value {
    let method = call["method"].as_str().unwrap();
    let (id, params) = (&call["id"], call["params"].clone());
    let failed = |code: i64, message: &str| {
        let error = json!({ "code": code, "message": message });
        json!({ "jsonrpc": "2.0", "id": id, "error": error })
    };
    if temper.0.lock().unwrap().refused.contains(method) {
        return failed(-32_601, "the method is not available on your plan");
    }
    match chain.request(method, params) {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(error) => json!({
            "jsonrpc": "2.0",
            "id": id,
            "error": { "code": error.code, "message": error.message, "data": error.data },
        }),
    }
}
