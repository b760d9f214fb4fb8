//! What is not answered by a model: health, metrics, the list of models, receipts.

use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use hearth_api::anthropic;
use hearth_api::node::{HealthReply, ReceiptList, SignedReceiptNote};
use hearth_api::openai::models::{Model, ModelList, ModelNote};
use hearth_protocol::answer::{AnswerId, SignedReceipt};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};

use super::failure::{Failure, Form};
use super::names::Names;
use super::{At, door, json, openapi, replied};
use crate::answers::ModelCard;

/// Models on a page where nothing is said, as Anthropic has it.
const PAGE_DEFAULT: usize = 20;
/// The most models on a page.
const PAGE_MAX: usize = 1_000;

/// That the node is there, for whoever starts or watches it. Needs no key.
pub(super) async fn health(State(at): State<At>) -> Response {
    json(&HealthReply {
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

/// Both APIs have this path: Anthropic's programs are known by the header that they all send.
fn form_of(headers: &HeaderMap) -> Form {
    if headers.contains_key("anthropic-version") {
        Form::Anthropic
    } else {
        Form::OpenAi
    }
}

pub(super) async fn models(
    State(at): State<At>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let form = form_of(&headers);
    replied(list(&at, query.as_deref(), &headers, form), form)
}

fn list(
    at: &At,
    query: Option<&str>,
    headers: &HeaderMap,
    form: Form,
) -> Result<Response, Failure> {
    let key = door::caller(&at.surface, &at.door, headers)?;
    let models = at.surface.answerer.models().into_values();
    let cards = models.filter(|card| key.allows(&card.name) && at.sells(&card.name));
    match form {
        Form::OpenAi => Ok(json(&ModelList {
            object: "list".to_owned(),
            data: cards.map(model_of).collect(),
        })),
        Form::Anthropic => {
            let page = Page::read(query.unwrap_or_default())?;
            Ok(json(&page.of(cards.map(anthropic_model_of).collect())))
        }
    }
}

pub(super) async fn model(
    State(at): State<At>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let form = form_of(&headers);
    replied(one(&at, &id, &headers, form), form)
}

fn one(at: &At, id: &str, headers: &HeaderMap, form: Form) -> Result<Response, Failure> {
    let key = door::caller(&at.surface, &at.door, headers)?;
    let card = at.surface.answerer.models().remove(id);
    let card = card.filter(|card| key.allows(&card.name) && at.sells(&card.name));
    let card = card.ok_or_else(|| Failure::no_model(id))?;
    Ok(match form {
        Form::OpenAi => json(&model_of(card)),
        Form::Anthropic => json(&anthropic_model_of(card)),
    })
}

/// The part of a list that Anthropic's programs ask for.
struct Page {
    limit: usize,
    after: Option<String>,
    before: Option<String>,
}

impl Page {
    fn read(query: &str) -> Result<Self, Failure> {
        let mut page = Self {
            limit: PAGE_DEFAULT,
            after: None,
            before: None,
        };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "limit" => {
                    let limit = value.parse().ok();
                    let limit = limit.filter(|limit| (1..=PAGE_MAX).contains(limit));
                    page.limit = limit.ok_or_else(|| {
                        let message = format!("limit: it must be from 1 to {PAGE_MAX}");
                        Failure::invalid("limit", message)
                    })?;
                }
                "after_id" => page.after = Some(value.into_owned()),
                "before_id" => page.before = Some(value.into_owned()),
                _ => {}
            }
        }
        Ok(page)
    }

    /// The page of `models`, which are in the order of their names.
    fn of(&self, models: Vec<anthropic::AnthropicModel>) -> anthropic::AnthropicModelList {
        let wanted = |model: &anthropic::AnthropicModel| {
            self.after.as_ref().is_none_or(|after| model.id > *after)
                && self.before.as_ref().is_none_or(|before| model.id < *before)
        };
        let mut data: Vec<_> = models.into_iter().filter(wanted).collect();
        let has_more = data.len() > self.limit;
        if self.before.is_some() && self.after.is_none() {
            // The page that ends before a model.
            data.drain(..data.len().saturating_sub(self.limit));
        }
        data.truncate(self.limit);
        anthropic::AnthropicModelList {
            has_more,
            first_id: data.first().map(|model| model.id.clone()),
            last_id: data.last().map(|model| model.id.clone()),
            data,
        }
    }
}

fn anthropic_model_of(card: ModelCard) -> anthropic::AnthropicModel {
    let seconds = i64::try_from(card.created_s).unwrap_or_default();
    let created = chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    let model = model_of(card);
    anthropic::AnthropicModel {
        kind: "model".to_owned(),
        display_name: model.id.clone(),
        id: model.id,
        created_at: created.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        hearth: model.hearth,
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
    let receipts = receipts.map_err(|error| Failure::from_ask(error, &Names::CHAT, None))?;
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
