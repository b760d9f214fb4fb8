//! A JSON-RPC endpoint on a loopback port that misbehaves as told.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::Response,
    routing::post,
};
use futures::stream;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::ScriptedChain;

/// How the endpoint answers one HTTP request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A JSON-RPC error for every call of the request.
    Error(i64, &'static str),
    /// A JSON-RPC result for every call of the request.
    Result(Value),
    /// An HTTP status, with `Retry-After` in seconds if given.
    Status(u16, Option<u64>),
    /// A body that is not JSON.
    Garbage,
    /// A body that never ends.
    Endless,
    /// A body that breaks off; the request was not looked at.
    Truncated,
    /// The request is done, but the answer to it breaks off.
    AnswerLost,
    /// No answer at all.
    Silence,
}

#[derive(Debug, Default)]
struct Script {
    replies: VecDeque<(&'static str, Reply)>,
    calls: Vec<String>,
}

/// An endpoint that serves a [`ScriptedChain`], except where its script says otherwise.
#[derive(Debug)]
pub(crate) struct HostileServer {
    pub(crate) url: Url,
    pub(crate) chain: ScriptedChain,
    script: Arc<Mutex<Script>>,
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Served {
    chain: ScriptedChain,
    script: Arc<Mutex<Script>>,
}

impl HostileServer {
    pub(crate) async fn start(chain: ScriptedChain) -> Self {
        let script = Arc::<Mutex<Script>>::default();
        let served = Served {
            chain: chain.clone(),
            script: Arc::clone(&script),
        };
        let router = Router::new().route("/", post(answer)).with_state(served);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            chain,
            script,
            _tasks: tasks,
        }
    }

    /// The next request that contains a call of `method` (any request if empty) gets `reply`.
    pub(crate) fn then(&self, method: &'static str, reply: Reply) {
        self.script
            .lock()
            .unwrap()
            .replies
            .push_back((method, reply));
    }

    /// Whether every reply of the script was given.
    pub(crate) fn exhausted(&self) -> bool {
        self.script.lock().unwrap().replies.is_empty()
    }

    /// How often a method was called.
    pub(crate) fn calls(&self, method: &str) -> usize {
        self.script
            .lock()
            .unwrap()
            .calls
            .iter()
            .filter(|call| *call == method)
            .count()
    }
}

async fn answer(State(served): State<Served>, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let calls = request
        .as_array()
        .cloned()
        .unwrap_or_else(|| vec![request.clone()]);
    let methods: Vec<String> = calls
        .iter()
        .map(|call| call["method"].as_str().unwrap().to_owned())
        .collect();
    let reply = served.script.lock().unwrap().next(&methods);
    let each = |outcome: &dyn Fn(&Value) -> Value| {
        let answers: Vec<Value> = calls.iter().map(outcome).collect();
        let whole = if request.is_array() {
            json!(answers)
        } else {
            answers[0].clone()
        };
        Response::new(Body::from(whole.to_string()))
    };
    match reply {
        None => each(&|call| served.chain.answer(call)),
        Some(Reply::Error(code, message)) => each(
            &|call| json!({ "jsonrpc": "2.0", "id": call["id"], "error": { "code": code, "message": message } }),
        ),
        Some(Reply::Result(value)) => {
            each(&|call| json!({ "jsonrpc": "2.0", "id": call["id"], "result": value }))
        }
        Some(Reply::Status(status, retry_after)) => {
            let mut response = Response::builder().status(status);
            if let Some(seconds) = retry_after {
                response = response.header("retry-after", seconds);
            }
            response.body(Body::empty()).unwrap()
        }
        Some(Reply::Garbage) => {
            Response::new(Body::from("<html>welcome to the hotel's network</html>"))
        }
        Some(Reply::Endless) => {
            let spaces =
                stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b' '; 4096])));
            Response::new(Body::from_stream(spaces))
        }
        Some(Reply::Truncated) => cut_off(),
        Some(Reply::AnswerLost) => {
            let _lost = each(&|call| served.chain.answer(call));
            cut_off()
        }
        Some(Reply::Silence) => std::future::pending().await,
    }
}

fn cut_off() -> Response {
    let parts = [
        Ok(Bytes::from_static(b"{\"jsonrpc\":")),
        Err(std::io::Error::other("cut")),
    ];
    Response::new(Body::from_stream(stream::iter(parts)))
}

impl Script {
    fn next(&mut self, methods: &[String]) -> Option<Reply> {
        self.calls.extend_from_slice(methods);
        let (wanted, _) = self.replies.front()?;
        if !wanted.is_empty() && !methods.iter().any(|method| method == wanted) {
            return None;
        }
        self.replies.pop_front().map(|(_, reply)| reply)
    }
}
