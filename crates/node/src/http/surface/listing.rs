//! What is not answered by a model: health, metrics, the list of models, receipts.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use hearth_api::node::{Health, ReceiptList, SignedReceiptNote};
use hearth_api::openai::models::{Model, ModelList, ModelNote};
use hearth_protocol::answer::{AnswerId, SignedReceipt};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};

use super::failure::Failure;
use super::{At, door, json, openapi};
use crate::answers::ModelCard;

/// That the node is there, for whoever starts or watches it. Needs no key.
pub(super) async fn health(State(at): State<At>) -> Response {
    json(&Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        models: at.surface.answerer.models().len(),
    })
}

pub(super) async fn metrics(State(at): State<At>, headers: HeaderMap) -> Result<Response, Failure> {
    door::caller(&at.surface, &at.door, &headers)?;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], at.surface.metrics.text()).into_response())
}

/// What can be asked here, in OpenAPI's form.
pub(super) async fn openapi() -> Response {
    json(&openapi::document())
}

pub(super) async fn models(State(at): State<At>, headers: HeaderMap) -> Result<Response, Failure> {
    let key = door::caller(&at.surface, &at.door, &headers)?;
    let models = at.surface.answerer.models();
    let data = models
        .into_values()
        .filter(|card| key.allows(&card.name) && at.sells(&card.name))
        .map(model_of)
        .collect();
    Ok(json(&ModelList {
        object: "list".to_owned(),
        data,
    }))
}

pub(super) async fn model(
    State(at): State<At>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let key = door::caller(&at.surface, &at.door, &headers)?;
    let card = at.surface.answerer.models().remove(&id);
    match card.filter(|card| key.allows(&card.name) && at.sells(&card.name)) {
        Some(card) => Ok(json(&model_of(card))),
        None => Err(Failure::no_model(&id)),
    }
}

fn model_of(card: ModelCard) -> Model {
    let owner = if card.here { "device" } else { "network" };
    Model {
        id: card.name,
        object: "model".to_owned(),
        created: card.created_s,
        owned_by: owner.to_owned(),
        hearth: ModelNote {
            weights: card.weights,
            context_tokens: card.context_tokens,
            here: card.here,
            providers: card.providers,
        },
    }
}

pub(super) async fn receipts(
    State(at): State<At>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    door::caller(&at.surface, &at.door, &headers)?;
    let id: AnswerId = id.parse().map_err(|error| {
        let message = format!("{error}, as the header hearth-answer-id tells it");
        Failure::invalid("id", message)
    })?;
    let receipts = at.surface.answerer.receipts(id).await;
    let receipts = receipts.map_err(|error| Failure::from_ask(error, None))?;
    if receipts.is_empty() {
        let message =
            format!("no receipt of the answer {id} is kept here; answers of this device have none");
        return Err(Failure::new(StatusCode::NOT_FOUND, "no_receipt", message));
    }
    Ok(json(&ReceiptList {
        answer_id: id.to_string(),
        receipts: receipts.iter().map(receipt_of).collect(),
    }))
}

fn receipt_of(signed: &SignedReceipt) -> SignedReceiptNote {
    let receipt = &signed.receipt;
    let hex = |bytes: &[u8]| alloy_primitives::hex::encode_prefixed(bytes);
    SignedReceiptNote {
        spec: hex(&receipt.spec.0),
        noise_spec: hex(&receipt.noise_spec.0),
        seed: hex(&receipt.seed),
        prompt: hex(&receipt.prompt.0),
        output: hex(&receipt.output.0),
        prompt_tokens: receipt.prompt_tokens,
        answered_tokens: receipt.answered_tokens,
        output_tokens: receipt.output_tokens,
        stop: receipt.stop as u8,
        channel: hex(receipt.channel.0.as_slice()),
        charge_units: receipt.charge.to_string(),
        started_at_ms: receipt.started_at.0,
        ended_at_ms: receipt.ended_at.0,
        digest: hex(receipt.digest().as_slice()),
        signature: signed.signature.to_string(),
        signer: signed.signer().ok().map(|signer| signer.to_string()),
    }
}
