//! From a question to an answer on its way, the same for every API.

use std::sync::Arc;

use axum::response::Response;
use hearth_calls::CLOSE;
use hearth_payments::gate::Meter;
use hearth_protocol::answer::{AnswerId, Sampling};
use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::budget::Reservation;
use super::failure::Failure;
use super::keys::ApiKey;
use super::names::{self, Names, Schema};
use super::reader::{Reader, Reading};
use super::sold::Tariff;
use super::tools::Tooling;
use super::{At, Surface, door};
use crate::answers::{AskError, Field, Input, Message, Promises, Question, Tier};

/// The answer's name, in every reply of a model.
const ANSWER_ID: HeaderName = HeaderName::from_static("hearth-answer-id");
/// How far this prompt may travel: at most as far as the key allows.
const TIER: HeaderName = HeaderName::from_static("hearth-tier");
/// The most messages of a conversation.
pub(super) const MESSAGES_MAX: usize = 4_096;

/// Who asks, how far, and what it is charged against.
pub(super) struct Asking {
    pub(super) at: At,
    pub(super) key: Arc<ApiKey>,
    tier: Tier,
    meter: Option<Meter>,
    asked_at: Instant,
}

/// A question and how its answer is read.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) reading: Reading,
    /// The schemas that the answer must follow.
    pub(super) schemas: Vec<Schema>,
}

impl Asked {
    pub(super) fn new(names: Names, model: String, input: Input, sampling: Sampling) -> Self {
        Self {
            question: Question {
                model,
                input,
                sampling,
                grammar: None,
                output_tokens_max: None,
                stops: Vec::new(),
                seed: None,
                logprobs: None,
                tier: Tier::default(),
                ceilings: Vec::new(),
                asked_by: String::new(),
                promised: Promises::default(),
            },
            reading: Reading {
                names,
                streams: false,
                calls: false,
                one_call: false,
            },
            schemas: Vec::new(),
        }
    }

    /// A conversation with tools.
    pub(super) fn chat(
        names: Names,
        model: String,
        messages: Vec<Message>,
        tooling: Tooling,
        sampling: Sampling,
    ) -> Result<Self, Failure> {
        let Tooling {
            tools,
            grammar,
            calls,
            one_call,
            schemas,
        } = tooling;
        if messages.is_empty() {
            let message = format!("{} is empty; say something", names.prompt);
            return Err(Failure::invalid(names.prompt, message));
        }
        if messages.len() > MESSAGES_MAX {
            let message = format!("a conversation may have at most {MESSAGES_MAX} messages");
            return Err(Failure::invalid(names.prompt, message));
        }
        let mut asked = Self::new(names, model, Input::Chat { messages, tools }, sampling);
        asked.question.grammar = grammar;
        asked.reading.calls = calls;
        asked.reading.one_call = one_call;
        asked.schemas = schemas;
        Ok(asked)
    }
}

impl Asking {
    pub(super) fn new(
        at: At,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Self, Failure> {
        let asked_at = Instant::now();
        let key = door::caller(&at.surface, &at.door, headers)?;
        let tier = narrowed(key.tier, headers)?;
        Ok(Self {
            at,
            key,
            tier,
            meter: extensions.get::<Meter>().cloned(),
            asked_at,
        })
    }

    /// Whether the key may ask this model.
    pub(super) fn check_model(&self, model: &str) -> Result<(), Failure> {
        if self.key.allows(model) {
            Ok(())
        } else {
            Err(Failure::no_model(model))
        }
    }

    /// Asks.
    pub(super) async fn open(&self, asked: Asked) -> Result<Reader, Failure> {
        let Asked {
            mut question,
            reading,
            schemas,
        } = asked;
        self.check_model(&question.model)?;
        let surface = &self.at.surface;
        // Buyers are answered by this device's own engine, which checks what strangers send in its own way.
        if self.at.prices.is_none() {
            let answerer = &*surface.answerer;
            surface.forms.check(answerer, &schemas).await?;
        }
        let tariff = self.tariff(&mut question)?;
        let held = Held::begin(surface, &self.key)?;
        if reading.one_call {
            // The answer ends with its one call.
            question.stops.push(CLOSE.to_owned());
        }
        question.tier = self.tier;
        question.asked_by.clone_from(&self.key.name);
        (question.ceilings, question.promised) = held.limits();
        let answer = surface.answerer.ask(question).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Err(self.refused(error, &reading, &schemas).await),
        };
        let reservation = held.take();
        Ok(Reader::new(
            Arc::clone(surface),
            answer,
            reading,
            reservation,
            tariff,
            (Arc::clone(&self.key), self.asked_at),
        ))
    }

    /// Why a question is not answered, with the field that is at fault.
    async fn refused(&self, error: AskError, reading: &Reading, schemas: &[Schema]) -> Failure {
        let surface = &self.at.surface;
        if let AskError::Senseless {
            field: Field::Grammar,
            reason,
        } = &error
        {
            // Each was checked by itself; together, or with this model, they cannot be followed.
            if let Some(param) = names::of_all(schemas) {
                return Failure::bad_schema(param.to_owned(), reason);
            }
        }
        let budget = surface.budgets().describe(&self.key, surface.now_s());
        Failure::from_ask(error, &reading.names, budget)
    }

    /// What the answer is charged by, where it is sold.
    fn tariff(&self, question: &mut Question) -> Result<Option<Tariff>, Failure> {
        let Some(prices) = &self.at.prices else {
            return Ok(None);
        };
        let output = question.output_tokens_max;
        question.output_tokens_max = Some(prices.output_tokens(output));
        let meter = self.meter.clone();
        let Some(meter) = meter else { return Ok(None) };
        let tariff = prices.tariff(&question.model, meter);
        tariff
            .map(Some)
            .ok_or_else(|| Failure::no_model(&question.model))
    }
}

/// What is set aside until an answer begins; if none does, what was promised until then counts.
struct Held {
    surface: Arc<Surface>,
    reservation: Option<Reservation>,
}

impl Held {
    fn begin(surface: &Arc<Surface>, key: &ApiKey) -> Result<Self, Failure> {
        let reservation = surface.begin(key);
        let reservation = reservation
            .map_err(|_| Failure::too_many_at_once(key, surface.metrics.retry_after_s()))?;
        Ok(Self {
            surface: Arc::clone(surface),
            reservation: Some(reservation),
        })
    }

    /// The most that the answer may cost, and where what is promised for it is counted.
    fn limits(&self) -> (Vec<(AssetId, Amount)>, Promises) {
        let limits = |held: &Reservation| (held.ceilings.clone(), held.promised.clone());
        self.reservation.as_ref().map(limits).unwrap_or_default()
    }

    fn take(mut self) -> Reservation {
        let reservation = self.reservation.take();
        reservation.expect("a reservation is taken once, because taking consumes its holder")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.surface.end(reservation, Some(&[]));
        }
    }
}

/// The key's tier, or a narrower one that the request asks for.
fn narrowed(tier: Tier, headers: &HeaderMap) -> Result<Tier, Failure> {
    let Some(asked) = headers.get(TIER) else {
        return Ok(tier);
    };
    let asked = match asked.as_bytes() {
        b"device" => Tier::Device,
        b"household" => Tier::Household,
        b"network" => Tier::Network,
        _ => {
            let message = "the header hearth-tier is device, household or network";
            return Err(Failure::invalid("hearth-tier", message));
        }
    };
    Ok(tier.min(asked))
}

/// Puts the answer's name into a reply.
pub(super) fn name(mut response: Response, id: AnswerId) -> Response {
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        response.headers_mut().insert(ANSWER_ID, value);
    }
    response
}
