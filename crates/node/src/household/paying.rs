//! What the owner's commands ask of a running node that pays: requests, channels, what comes back of them.
//!
//! A node that is up holds the purse, so commands pay through it. Whatever costs something is first
//! quoted, and done only on the terms that the owner agreed to.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hearth_api::payments::{Agreement, OpenAsked, PayAsked, PayReply, PriceQuoted, WhichChannels};
use http::StatusCode;

use super::admin::{Admin, not_done, refused};
use crate::payments::purse::PayError;
use crate::trade::{self, Payer, Request, TradeError};

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

/// The purse, or that there is none.
fn purse(admin: &Admin) -> Result<&Payer, Response> {
    admin.purse.as_ref().ok_or_else(|| {
        let message = "this device cannot pay";
        refused(StatusCode::CONFLICT, "no_purse", message)
    })
}

fn told<T: serde::Serialize>(outcome: Result<T, TradeError>) -> Response {
    match outcome {
        Ok(done) => Json(done).into_response(),
        Err(error) => {
            let status = match error {
                TradeError::Asked(_) => StatusCode::BAD_REQUEST,
                _ => StatusCode::CONFLICT,
            };
            not_done(status, &error)
        }
    }
}

/// Asks the chains how the channels are, then shows them.
async fn look(State(admin): State<Arc<Admin>>) -> Result<Response, Response> {
    let unread = match purse(&admin)?.look().await {
        Ok(unread) => unread,
        Err(error) => return Ok(told::<()>(Err(error))),
    };
    let earning = admin.till.as_ref().map(|till| &till.store);
    let listed = trade::list_open(&admin.config, admin.payer.store(), earning);
    let listed = listed.map(|mut channels| {
        let problem = |channel| format!("the chain of channel {channel} could not be asked");
        channels.problems.extend(unread.into_iter().map(problem));
        channels
    });
    Ok(told(listed.map_err(TradeError::from)))
}

async fn terms(
    State(admin): State<Arc<Admin>>,
    Json(asked): Json<OpenAsked>,
) -> Result<Response, Response> {
    let offer = purse(&admin)?.channel_offer(&asked.url, &asked.deposit);
    Ok(told(offer.await.map(|offer| offer.terms)))
}

async fn open(
    State(admin): State<Arc<Admin>>,
    Json(asked): Json<OpenAsked>,
) -> Result<Response, Response> {
    let purse = purse(&admin)?;
    let offer = match purse.channel_offer(&asked.url, &asked.deposit).await {
        Ok(offer) => offer,
        Err(error) => return Ok(told::<()>(Err(error))),
    };
    if asked.agreed.as_ref() != Some(&offer.terms) {
        let message = "the service's terms are no longer those that you agreed to; ask again";
        return Err(refused(StatusCode::CONFLICT, "terms_changed", message));
    }
    Ok(told(purse.open_channel(&offer).await))
}

async fn refund(
    State(admin): State<Arc<Admin>>,
    Json(which): Json<WhichChannels>,
) -> Result<Response, Response> {
    Ok(told(purse(&admin)?.refund(&which.with).await))
}

async fn close(
    State(admin): State<Arc<Admin>>,
    Json(which): Json<WhichChannels>,
) -> Result<Response, Response> {
    Ok(told(purse(&admin)?.close(&which.with).await))
}

async fn pay(
    State(admin): State<Arc<Admin>>,
    Json(asked): Json<PayAsked>,
) -> Result<Response, Response> {
    let purse = purse(&admin)?;
    let Ok(body) = STANDARD.decode(&asked.body) else {
        let message = "the body is not in base64";
        return Err(refused(StatusCode::BAD_REQUEST, "bad_request", message));
    };
    let request = Request {
        method: asked.method,
        url: asked.url,
        headers: asked.headers,
        body,
        patience_s: asked.patience_s,
    };
    let agreed = asked.agreed;
    let quoted = std::sync::Mutex::new(None);
    let approve = |price: &_, deposit: Option<&_>| {
        let quote = PriceQuoted {
            price: Clone::clone(price),
            deposit: deposit.cloned(),
        };
        let agrees = match &agreed {
            Agreement::Nothing => false,
            Agreement::To(price) => *price == quote,
            Agreement::Limits => true,
        };
        if !agrees {
            *quoted
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(quote);
        }
        agrees
    };
    let bought = purse.buy(&request, approve).await;
    let quoted = quoted
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(told(match (bought, quoted) {
        (Err(TradeError::Pay(error)), Some(quote)) if matches!(*error, PayError::NotApproved) => {
            Ok(PayReply::Price(quote))
        }
        (bought, _) => bought.map(|answer| PayReply::Answered {
            status: answer.status,
            payment: answer.payment,
            body: STANDARD.encode(&answer.body),
        }),
    }))
}
