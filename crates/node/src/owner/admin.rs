//! What the owner's own commands ask of a running node: offers, earnings, channels, claims, tickets.
//!
//! Who shows the token of the node's file may ask: see [`NodeFile`].

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::keccak256;
use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hearth_api::error::ErrorBody;
use hearth_api::household::{
    DeviceView, Devices, Earnings, Invitation, InviteAsked, Joined, Left, OfferView, Offers, Trade,
    WhichDevice,
};
use hearth_api::money::Money;
use hearth_causes::WithCauses;
use hearth_models::reader::Launcher;
use hearth_net::Network;
use hearth_payments::desk::{PROVIDER_CHANNELS, StoredChannel};
use hearth_payments::store::StoreError;
use hearth_payments::till::Till;
use hearth_protocol::id::AssetId;
use hearth_protocol::market::Weighed;
use hearth_protocol::money::Amount;
use hearth_surface::Surface;
use hearth_surface::answers::{AskError, Tier};
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;

use super::from_peers::Fetches;
use crate::advice::Advice;
use crate::api_keys::Keys;
use crate::home::{Config, Home};
use crate::household::{self, Member, Members};
use crate::node_file::NodeFile;
use crate::roles::payer::Payer;
use crate::roles::provider::StoredSale;
use crate::roles::retention::{self, Sum};
use crate::runs::RunsSlot;
use crate::shared_chain::line::ChainLine;
use crate::shared_chain::ticket::TicketPayload;
use crate::shared_chain::{CHAIN_ROUTE, use_chain};
use crate::terms::{shown_audience, shown_prices};
use crate::trade;
use crate::wallet::money;

/// An hour, in milliseconds.
const HOUR_MS: u64 = 3_600_000;

/// What the owner may ask about.
pub(crate) struct Admin {
    pub(crate) payer: Payer,
    /// Pays services; nothing where this device cannot pay.
    pub(crate) purse: Option<trade::Buyer>,
    pub(crate) home: Home,
    pub(crate) launcher: Launcher,
    pub(crate) surface: Arc<Surface>,
    pub(crate) network: Network,
    pub(crate) members: Members,
    pub(crate) fetches: Fetches,
    pub(crate) till: Option<Till>,
    pub(crate) config: Config,
    pub(crate) chain: ChainLine,
    /// Training; empty as long as no ledger is followed.
    pub(crate) runs: RunsSlot,
}

/// The owner's routes, behind the token of `file`.
pub(crate) fn router(admin: Admin, file: &NodeFile) -> Router {
    let token: Arc<str> = format!("Bearer {}", file.token).into();
    Router::new()
        .route("/hearth/offers", get(offers))
        .route("/hearth/earnings", get(earnings))
        .route("/hearth/invite", post(invite))
        .route("/hearth/join", post(join))
        .route("/hearth/devices", get(devices))
        .route("/hearth/devices/remove", post(remove_device))
        .route("/hearth/devices/leave", post(leave))
        .route("/hearth/models/fetch", post(super::from_peers::fetch))
        .route("/hearth/claim", post(claim))
        .route("/hearth/channels", get(channels))
        .merge(super::paying::routes())
        .merge(super::training::routes())
        .route("/hearth/keys", post(take_keys))
        .route(CHAIN_ROUTE, post(chain))
        .with_state(Arc::new(admin))
        .layer(middleware::from_fn(move |request, next| {
            let token = Arc::clone(&token);
            async move { owner_only(&token, request, next).await }
        }))
}

async fn owner_only(token: &str, request: Request, next: Next) -> Response {
    let shown = request.headers().get(AUTHORIZATION);
    // Digests are compared: how far they agree says nothing of the token.
    let is_token = |shown: &http::HeaderValue| keccak256(shown.as_bytes()) == keccak256(token);
    if !shown.is_some_and(is_token) {
        let message = "this belongs to the owner of the node: use the command line on this device";
        return refused(StatusCode::UNAUTHORIZED, "unauthorized", message);
    }
    next.run(request).await
}

pub(super) fn refused(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(ErrorBody::new(code, message))).into_response()
}

/// Why something was not done, and what to do about it.
pub(super) fn not_done(status: StatusCode, error: &impl Advice) -> Response {
    let body =
        ErrorBody::new(error.code(), error.with_causes().to_string()).with_next(error.next_step());
    (status, Json(body)).into_response()
}

fn broken(error: &StoreError) -> Response {
    let message = error.with_causes().to_string();
    refused(StatusCode::INTERNAL_SERVER_ERROR, "store", &message)
}

/// What offers are asked for.
#[derive(Debug, Deserialize)]
struct WhichOffers {
    model: Option<String>,
}

async fn offers(State(admin): State<Arc<Admin>>, Query(which): Query<WhichOffers>) -> Response {
    let names = match which.model {
        Some(model) => vec![model],
        None => {
            let market = admin.payer.market();
            let models = market.offers().flat_map(|offer| &offer.models);
            let mut names: Vec<_> = models
                .map(|model| model.serving.weights.to_string())
                .collect();
            names.sort();
            names.dedup();
            names
        }
    };
    let mut views = Vec::new();
    for name in names {
        match admin.payer.weigh(&name, Tier::Network) {
            Ok(weighed) => {
                let here = weighed
                    .iter()
                    .filter(|one| admin.payer.is_lively(&one.device));
                views.extend(here.map(|one| view(&admin, one)));
            }
            Err(AskError::NoModel(name)) => {
                let message = format!("nobody offers {name:?}");
                return refused(StatusCode::NOT_FOUND, "no_model", &message);
            }
            Err(error) => {
                return refused(StatusCode::BAD_REQUEST, "bad_request", &error.to_string());
            }
        }
    }
    Json(Offers { offers: views }).into_response()
}

fn view(admin: &Admin, weighed: &Weighed) -> OfferView {
    let market = admin.payer.market();
    let seen = market.experience(&weighed.device);
    let cost = weighed.price.and_then(|price| {
        let (symbol, asset) = admin.config.asset(&price.asset.to_string())?;
        Some(money(symbol, asset, weighed.cost))
    });
    let model = &weighed.model;
    OfferView {
        model: model.name.clone(),
        weights: model.serving.weights.to_string(),
        device: weighed.device.to_string(),
        household: weighed.offer.household.to_string(),
        backend: model.serving.backend.to_string(),
        context_tokens: model.context_tokens,
        audience: shown_audience(model.audience),
        prices: shown_prices(&admin.config, &model.prices),
        cost,
        time_ms: weighed.time_ms,
        slots: model.slots,
        free_slots: model.free_slots,
        answers: seen.map_or(0, |seen| seen.answers),
        failures: seen.map_or(0, |seen| seen.failures),
        score: weighed.score,
        passed: weighed.passed.as_ref().map(ToString::to_string),
    }
}

/// Sums by model, over all tokens.
fn by_model(config: &Config, sums: Vec<Sum>) -> Vec<Trade> {
    let mut models: BTreeMap<String, (u64, u64, BTreeMap<AssetId, Amount>)> = BTreeMap::new();
    for sum in sums {
        let (answers, tokens, charged) = models.entry(sum.model).or_default();
        *answers = answers.saturating_add(sum.answers);
        *tokens = tokens.saturating_add(sum.output_tokens);
        if let Some(asset) = sum.asset {
            charged.insert(asset, sum.charge);
        }
    }
    let shown = models
        .into_iter()
        .map(|(model, (answers, output_tokens, charged))| Trade {
            model,
            answers,
            output_tokens,
            charged: shown_sums(config, charged),
        });
    shown.collect()
}

fn shown_sums(config: &Config, sums: BTreeMap<AssetId, Amount>) -> Vec<Money> {
    let known = sums.into_iter().filter_map(|(asset, amount)| {
        let (symbol, asset) = config.asset(&asset.to_string())?;
        Some(money(symbol, asset, amount))
    });
    known.collect()
}

async fn earnings(State(admin): State<Arc<Admin>>) -> Response {
    match summed(&admin) {
        Ok(earnings) => Json(earnings).into_response(),
        Err(error) => broken(&error),
    }
}

fn summed(admin: &Admin) -> Result<Earnings, StoreError> {
    let mut sold = Vec::new();
    let mut unclaimed: BTreeMap<AssetId, Amount> = BTreeMap::new();
    if let Some(till) = &admin.till {
        sold = retention::sums::<StoredSale>(&till.store)?;
        till.store
            .each(PROVIDER_CHANNELS, |_, stored: StoredChannel| {
                let asset = AssetId {
                    chain: stored.chain,
                    token: stored.record.config.token,
                };
                let sum = unclaimed.entry(asset).or_default();
                *sum = sum.saturating_add(stored.record.unclaimed());
            })?;
    }
    Ok(Earnings {
        sold: by_model(&admin.config, sold),
        bought: by_model(&admin.config, admin.payer.bought()?),
        unclaimed: shown_sums(&admin.config, unclaimed),
    })
}

async fn invite(State(admin): State<Arc<Admin>>, Json(asked): Json<InviteAsked>) -> Response {
    let invited = match asked.household_hours {
        None => Ok(None),
        Some(hours) => {
            let ttl_ms = u64::from(hours).saturating_mul(HOUR_MS);
            admin.members.invite(ttl_ms).await.map(Some)
        }
    };
    let payload = invited.map(|invitation| TicketPayload {
        invitation,
        chain: admin.chain.ticket(),
    });
    match payload.and_then(|payload| household::ticket(&admin.network, &payload)) {
        Ok(ticket) => {
            let ticket = ticket.to_string();
            Json(Invitation { ticket }).into_response()
        }
        Err(error) => not_done(StatusCode::CONFLICT, &error),
    }
}

async fn join(State(admin): State<Arc<Admin>>, Json(invitation): Json<Invitation>) -> Response {
    let ticket: hearth_net::Ticket = match invitation.ticket.parse() {
        Ok(ticket) => ticket,
        Err(error) => {
            let error: hearth_net::TicketError = error;
            return refused(
                StatusCode::BAD_REQUEST,
                "bad_ticket",
                &error.with_causes().to_string(),
            );
        }
    };
    if let Err(error) = TicketPayload::of(&ticket) {
        return refused(
            StatusCode::BAD_REQUEST,
            "bad_ticket",
            &error.with_causes().to_string(),
        );
    }
    match household::join(&admin.network, &admin.members, &ticket).await {
        Ok(()) => {
            let chain = match use_chain(&admin.home, &ticket) {
                Ok(chain) => chain.map(|chain| chain.to_string()),
                Err(error) => return not_done(StatusCode::CONFLICT, &error),
            };
            let (household, _) = admin.members.household();
            let joined = household::invitation(&ticket).is_some();
            let household = joined.then(|| household.to_string());
            let is_later = false;
            Json(Joined {
                household,
                chain,
                is_later,
            })
            .into_response()
        }
        Err(error) => not_done(StatusCode::CONFLICT, &error),
    }
}

async fn devices(State(admin): State<Arc<Admin>>) -> Response {
    let (household, is_host) = admin.members.household();
    let own = admin.network.device();
    let reachable = admin.network.neighbours().borrow().clone();
    let view = |member: Member| DeviceView {
        is_this: member.device == own,
        is_near: member.device == own || reachable.contains(&member.device),
        device: member.device.to_string(),
        name: member.name,
        certified_until_ms: member.expires_at.0,
    };
    Json(Devices {
        household: household.to_string(),
        is_host,
        devices: admin.members.list().into_iter().map(view).collect(),
    })
    .into_response()
}

async fn remove_device(
    State(admin): State<Arc<Admin>>,
    Json(which): Json<WhichDevice>,
) -> Response {
    match admin.members.remove(&which.device).await {
        Ok(()) => {
            // The others learn of it now where they can be reached, and else when they ask.
            admin.members.compare_all(&admin.network).await;
            devices(State(admin)).await
        }
        Err(error) => not_done(StatusCode::CONFLICT, &error),
    }
}

async fn leave(State(admin): State<Arc<Admin>>) -> Response {
    let (household, _) = admin.members.household();
    match admin.members.leave(&admin.network).await {
        Ok(is_host_told) => Json(Left {
            household: household.to_string(),
            is_host_told,
        })
        .into_response(),
        Err(error) => not_done(StatusCode::CONFLICT, &error),
    }
}

/// Answers the owner's commands about the network's chain, as its JSON-RPC does.
async fn chain(State(admin): State<Arc<Admin>>, request: Bytes) -> Response {
    let Some(carrier) = admin.chain.carrier() else {
        let message = "this node uses the chains of its configuration, not the network's";
        return refused(StatusCode::CONFLICT, "no_chain", message);
    };
    match carrier.carry(request.to_vec()).await {
        Ok(reply) => ([(CONTENT_TYPE, "application/json")], reply).into_response(),
        Err(error) => {
            let message = error.with_causes().to_string();
            refused(StatusCode::BAD_GATEWAY, "chain_unavailable", &message)
        }
    }
}

/// Takes the API keys in that a command has just written.
async fn take_keys(State(admin): State<Arc<Admin>>) -> Response {
    let table = Keys::open(&admin.home).and_then(|keys| keys.table(&admin.config));
    match table {
        Ok(table) => {
            admin.surface.set_keys(table);
            Json(serde_json::json!({})).into_response()
        }
        Err(error) => not_done(StatusCode::CONFLICT, &error),
    }
}

/// Claims what is due, now.
async fn claim(State(admin): State<Arc<Admin>>) -> Response {
    let Some(till) = &admin.till else {
        let message =
            "config.toml names no chain that could be used; name one, and start the node again";
        return refused(StatusCode::CONFLICT, "no_chain", message);
    };
    match trade::claim_all(till, &admin.config).await {
        Ok(claims) => Json(claims).into_response(),
        Err(error) => not_done(StatusCode::BAD_GATEWAY, &error),
    }
}

/// The channels on both sides.
async fn channels(State(admin): State<Arc<Admin>>) -> Response {
    let earning = admin.till.as_ref().map(|till| &till.store);
    match trade::list_open(&admin.config, admin.payer.store(), earning) {
        Ok(channels) => Json(channels).into_response(),
        Err(error) => broken(&error),
    }
}
