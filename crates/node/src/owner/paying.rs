//! What the owner's commands ask of a running node that pays: requests, channels, what comes back of them.
//!
//! A node that is up holds the purse, so commands pay through it. Whatever costs something is first
//! quoted, and done only on the terms that the owner agreed to.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hearth_api::money::Money;
use hearth_api::payments::{
    Agreement, ChannelTerms, Channels, OpenAsked, Opened, PayAsked, PayReply, PriceQuoted, Refunds,
    Returned, WhichChannels,
};
use hearth_payments::purse::PayError;
use http::StatusCode;

use super::admin::{Admin, not_done, refused};
use crate::trade::{self, BuyError, Buyer, Request};

/// The longest request that is made for a command, in bytes: a body of 4 MiB in base64, and what is around it.
const ASKED_BYTES_MAX: usize = 6 << 20;

/// The routes of this module.
pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/hearth/channels/look", post(look))
        .route("/hearth/channels/terms", post(terms))
        .route("/hearth/channels/open", post(open))
        .route("/hearth/channels/refund", post(refund))
        .route("/hearth/channels/close", post(close))
        .route("/hearth/pay", post(pay))
        .layer(DefaultBodyLimit::max(ASKED_BYTES_MAX))
}

/// That something was not done, and why.
struct NotDone(Box<Response>);

impl IntoResponse for NotDone {
    fn into_response(self) -> Response {
        *self.0
    }
}

fn failed(error: impl Into<BuyError>) -> NotDone {
    let error = error.into();
    let status = match error {
        BuyError::Asked(_) => StatusCode::BAD_REQUEST,
        _ => StatusCode::CONFLICT,
    };
    NotDone(Box::new(not_done(status, &error)))
}

fn not_possible(status: StatusCode, code: &str, message: &str) -> NotDone {
    NotDone(Box::new(refused(status, code, message)))
}

/// The purse, or that there is none.
fn purse(admin: &Admin) -> Result<&Buyer, NotDone> {
    admin.purse.as_ref().ok_or_else(|| {
        let message = "this device cannot pay";
        not_possible(StatusCode::CONFLICT, "no_purse", message)
    })
}

/// Asks the chains how the channels are, then shows them.
async fn look(State(admin): State<Arc<Admin>>) -> Result<Json<Channels>, NotDone> {
    let unread = purse(&admin)?.look().await.map_err(failed)?;
    let earning = admin.till.as_ref().map(|till| &till.store);
    let listed = trade::list_open(&admin.config, admin.payer.store(), earning);
    let mut channels = listed.map_err(failed)?;
    let problem = |channel| format!("the chain of channel {channel} could not be asked");
    channels.problems.extend(unread.into_iter().map(problem));
    Ok(Json(channels))
}

async fn terms(
    State(admin): State<Arc<Admin>>,
    Json(asked): Json<OpenAsked>,
) -> Result<Json<ChannelTerms>, NotDone> {
    let offer = purse(&admin)?.channel_offer(&asked.url, &asked.deposit);
    Ok(Json(offer.await.map_err(failed)?.terms))
}

async fn open(
    State(admin): State<Arc<Admin>>,
    Json(asked): Json<OpenAsked>,
) -> Result<Json<Opened>, NotDone> {
    let purse = purse(&admin)?;
    let offer = purse.channel_offer(&asked.url, &asked.deposit).await;
    let offer = offer.map_err(failed)?;
    if asked.agreed.as_ref() != Some(&offer.terms) {
        let message = "the service's terms are no longer those that you agreed to; ask again";
        return Err(not_possible(StatusCode::CONFLICT, "terms_changed", message));
    }
    Ok(Json(purse.open_channel(&offer).await.map_err(failed)?))
}

async fn refund(
    State(admin): State<Arc<Admin>>,
    Json(which): Json<WhichChannels>,
) -> Result<Json<Refunds>, NotDone> {
    let refunds = purse(&admin)?.refund(&which.with).await;
    Ok(Json(refunds.map_err(failed)?))
}

async fn close(
    State(admin): State<Arc<Admin>>,
    Json(which): Json<WhichChannels>,
) -> Result<Json<Returned>, NotDone> {
    let returned = purse(&admin)?.close(&which.with).await;
    Ok(Json(returned.map_err(failed)?))
}

/// Makes a request. What costs something that was not agreed to is not paid: its price comes back.
async fn pay(
    State(admin): State<Arc<Admin>>,
    Json(asked): Json<PayAsked>,
) -> Result<Json<PayReply>, NotDone> {
    let purse = purse(&admin)?;
    let body = STANDARD.decode(&asked.body).map_err(|_| {
        let message = "the body is not in base64";
        not_possible(StatusCode::BAD_REQUEST, "bad_request", message)
    })?;
    let request = Request {
        method: asked.method,
        url: asked.url,
        headers: asked.headers,
        body,
        patience_s: asked.patience_s,
    };
    let quoted = Mutex::new(None);
    let approve = |price: &Money, deposit: Option<&Money>| {
        let quote = PriceQuoted {
            price: price.clone(),
            deposit: deposit.cloned(),
        };
        let agrees = match &asked.agreed {
            Agreement::Nothing => false,
            Agreement::To(agreed) => **agreed == quote,
            Agreement::Limits => true,
        };
        if !agrees {
            *quoted.lock().unwrap_or_else(PoisonError::into_inner) = Some(quote);
        }
        agrees
    };
    let bought = purse.buy(&request, &approve).await;
    let quoted = quoted.into_inner().unwrap_or_else(PoisonError::into_inner);
    match (bought, quoted) {
        (Err(BuyError::Pay(error)), Some(quote)) if matches!(*error, PayError::NotApproved) => {
            Ok(Json(PayReply::Price(quote)))
        }
        (bought, _) => {
            let answer = bought.map_err(failed)?;
            Ok(Json(PayReply::Answered {
                status: answer.status,
                payment: answer.payment,
                body: STANDARD.encode(&answer.body),
            }))
        }
    }
}
