//! The household's own address: models behind the APIs that programs already speak.
//!
//! OpenAI's and Anthropic's shapes (`hearth_api`) become questions, answers become their replies and
//! events. Everything here is translation: what answers stands behind
//! [`Answerer`](answers::Answerer), and neither tokens nor payments are known here. Keeps
//! the budgets of API keys, and bounds what it reads. Keeps
//! nothing of what was said (design: answers, "Surfaces of the household's node").

pub mod answers;

mod answering;
pub mod bodies;
mod budget;
mod chat;
mod completions;
mod door;
mod embeddings;
mod failure;
mod forms;
mod keys;
mod listing;
mod messages;
mod metrics;
mod names;
mod openapi;
mod reader;
mod request;
mod responses;
mod sampling;
mod sold;
mod sse;
mod tools;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hearth_api::money::Money;
use hearth_environment::Environment;
use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;
use http::StatusCode;
use tokio::sync::Notify;

use answers::{Answerer, Keeping, Kept};
use budget::{Budgets, Reservation, TooManyAtOnce};
use failure::{Failure, Form};
use forms::Forms;
use metrics::Metrics;

pub use budget::Spent;
pub use door::{Door, own_policy, sold_policy};
pub use keys::{
    ANSWERS_AT_ONCE, ApiKey, BUYER, Cap, KEY_PREFIX, KEYLESS, KEYS_MAX, KeyTable, KeyTableError,
    OWNER, hash, secret,
};
pub use openapi::document as openapi_document;
pub use request::{REQUEST_BYTES_MAX, REQUEST_DEPTH_MAX};
pub use sold::{ForSale, OUTPUT_TOKENS_DEFAULT, PriceTable, sold};

/// Every path of the surface, as the metrics name them.
const PATHS: [&str; 13] = [
    "/health",
    "/metrics",
    "/openapi.json",
    "/v1/models",
    "/v1/models/{id}",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/hearth/receipts/{id}",
    "other",
];

/// What answers, who may ask, and what was counted.
pub struct Surface {
    answerer: Arc<dyn Answerer>,
    keys: RwLock<Arc<KeyTable>>,
    /// The owner's own commands, which know a secret of the data folder.
    owner: RwLock<Option<Arc<ApiKey>>>,
    budgets: Mutex<Budgets>,
    /// Told when what keys have spent may have changed.
    spent_changed: Notify,
    metrics: Metrics,
    /// What tokens are called, and how many digits they have behind the point.
    tokens: RwLock<BTreeMap<AssetId, (String, u8)>>,
    forms: Forms,
    environment: Arc<dyn Environment>,
}

impl fmt::Debug for Surface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surface").finish_non_exhaustive()
    }
}

/// A surface at one of its doors: the state of every route.
#[derive(Clone)]
struct At {
    surface: Arc<Surface>,
    door: Arc<Door>,
    prices: Option<Arc<sold::PriceTable>>,
}

impl Surface {
    /// A surface in front of `answerer`. Nobody has a key yet.
    pub fn new(answerer: Arc<dyn Answerer>, environment: Arc<dyn Environment>) -> Arc<Self> {
        Arc::new(Self {
            answerer,
            keys: RwLock::default(),
            owner: RwLock::default(),
            budgets: Mutex::default(),
            spent_changed: Notify::new(),
            metrics: Metrics::default(),
            tokens: RwLock::default(),
            forms: Forms::default(),
            environment,
        })
    }

    /// From now on these keys may ask, and no others. Answers in progress go on.
    pub fn set_keys(&self, keys: KeyTable) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// From now on the owner's own commands may ask with this secret, and their prompts may travel as far as
    /// any.
    pub fn set_owner(&self, secret: &str) {
        let owner = Arc::new(ApiKey::new(OWNER, secret));
        *self.owner.write().unwrap_or_else(PoisonError::into_inner) = Some(owner);
    }

    /// Says what tokens are called, and how many digits they have behind the point: what buyers are charged is told so.
    pub fn name_tokens(&self, tokens: impl IntoIterator<Item = (AssetId, String, u8)>) {
        let tokens = tokens.into_iter();
        let tokens = tokens.map(|(asset, symbol, decimals)| (asset, (symbol, decimals)));
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens.collect();
    }

    fn money(&self, asset: AssetId, amount: Amount) -> Money {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let (symbol, decimals) = match tokens.get(&asset) {
            Some((symbol, decimals)) => (symbol.as_str(), *decimals),
            None => ("units", 0),
        };
        Money::of_units(symbol, asset.to_string(), decimals, amount.units())
    }

    /// Goes on with what keys have spent today. To be called before anything is asked.
    /// From now on nothing is promised for a key with limits before what [`Surface::to_keep`] says is on disk, and
    /// [`Surface::kept`] was told so.
    pub fn restore_spent(&self, spent: impl IntoIterator<Item = Spent>) {
        let keeping = Keeping::default();
        keeping.begin();
        *self.budgets() = Budgets::restore(spent, self.now_s(), keeping);
    }

    /// What must be written, and what to say once it is.
    pub fn to_keep(&self) -> (Vec<Spent>, Kept) {
        let (mut budgets, now_s) = (self.budgets(), self.now_s());
        (budgets.spent(now_s), budgets.newest(now_s))
    }

    /// Says what is on disk.
    pub fn kept(&self, kept: Kept) {
        self.budgets().keeping().reached(kept);
    }

    /// Resolves when a promise waits for what must be written.
    pub async fn keeping_asked(&self) {
        let keeping = self.budgets().keeping().clone();
        keeping.asked().await;
    }

    /// What keys have spent today, to be kept on disk; answers in progress count with all that was set aside for them.
    pub fn spent(&self) -> Vec<Spent> {
        self.budgets().spent(self.now_s())
    }

    /// Resolves when [`Surface::spent`] may say something else than before. For one who waits.
    pub async fn spent_changed(&self) {
        self.spent_changed.notified().await;
    }

    /// Everything that a household's programs may ask, at `door`.
    pub fn router(self: &Arc<Self>, door: Door) -> Router {
        let at = At {
            surface: Arc::clone(self),
            door: Arc::new(door),
            prices: None,
        };
        let router = Router::new()
            .route("/health", get(listing::health))
            .route("/metrics", get(listing::metrics))
            .route("/openapi.json", get(listing::openapi))
            .route("/v1/models", get(listing::models))
            .route("/v1/models/{*id}", get(listing::model))
            .route("/v1/embeddings", post(embeddings::embeddings))
            .route("/v1/messages/count_tokens", post(messages::count_tokens))
            .route("/v1/hearth/receipts/{id}", get(listing::receipts))
            .merge(answer_routes());
        finish(router, at)
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_s(&self) -> u64 {
        self.environment.now_ms() / 1_000
    }

    fn find_key(&self, secret: &str) -> Option<Arc<ApiKey>> {
        let owner = self
            .owner
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(owner) = owner.filter(|owner| owner.hash == hash(secret)) {
            return Some(owner);
        }
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        keys.find(secret)
    }

    fn begin(&self, key: &ApiKey) -> Result<Reservation, TooManyAtOnce> {
        let reservation = self.budgets().begin(key, self.now_s())?;
        if !reservation.ceilings.is_empty() {
            self.spent_changed.notify_one();
        }
        Ok(reservation)
    }

    fn end(&self, reservation: Reservation, charged: Option<&[(AssetId, Amount)]>) {
        let now_s = self.now_s();
        let changes =
            !reservation.ceilings.is_empty() || charged.is_some_and(|all| !all.is_empty());
        self.budgets().end(reservation, charged, now_s);
        if changes {
            self.spent_changed.notify_one();
        }
    }
}

/// The routes that models answer.
fn answer_routes() -> Router<At> {
    Router::new()
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/messages", post(messages::messages))
}

fn finish(router: Router<At>, at: At) -> Router {
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(at.clone(), count))
        .with_state(at)
}

async fn count(State(at): State<At>, request: Request, next: Next) -> Response {
    let path = path_name(request.uri().path());
    let response = next.run(request).await;
    at.surface.metrics.request(path, response.status().as_u16());
    response
}

/// The name of a path in the metrics: as many as there are routes, whatever is asked for.
fn path_name(path: &str) -> &'static str {
    let name = if path.starts_with("/v1/models/") {
        "/v1/models/{id}"
    } else if path.starts_with("/v1/hearth/receipts/") {
        "/v1/hearth/receipts/{id}"
    } else {
        path
    };
    let known = PATHS.iter().find(|known| **known == name);
    known.copied().unwrap_or("other")
}

async fn no_such_path(request: Request) -> Response {
    let path = request.uri().path();
    let message = format!("there is nothing at {path}; GET /openapi.json lists what there is");
    let failure = Failure::new(StatusCode::NOT_FOUND, "unknown_path", message);
    failure.into_response_as(Form::of(path))
}

async fn wrong_method(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("{path} does not take {method}; GET /openapi.json says what it takes");
    let failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message);
    failure.into_response_as(Form::of(path))
}

/// The reply of a handler, in the form that the programs of its API read.
fn replied(result: Result<Response, Failure>, form: Form) -> Response {
    result.unwrap_or_else(|failure| failure.into_response_as(form))
}

fn json(value: &impl serde::Serialize) -> Response {
    axum::Json(value).into_response()
}
