//! An answer as the surfaces read it: text, calls and an end, with its books kept.
//!
//! Whatever becomes of an answer, its reservation goes back to the budgets, its figures into the
//! metrics, and, where it is sold, what was delivered onto the meter. Dropping a reader cancels the
//! answer.

use std::collections::VecDeque;
use std::sync::Arc;
use tokio::time::Instant;

use alloy_primitives::U256;
use futures::StreamExt;
use hearth_api::money::Money;
use hearth_api::openai::{AnswerNote, AnswerSource};
use hearth_calls::{CLOSE, OutputPart, ToolCallStream};
use hearth_protocol::answer::{AnswerId, StopReason};
use hearth_protocol::id::AssetId;
use hearth_protocol::money::Amount;

use super::Surface;
use super::budget::Reservation;
use super::failure::Failure;
use super::keys::ApiKey;
use super::names::Names;
use super::sold::Tariff;
use crate::answers::{Answer, AskError, Ending, Logprob, Part, Source, Usage};

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text {
        text: String,
        logprobs: Vec<Logprob>,
    },
    Call(Call),
    /// Nothing follows.
    Ended(End),
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    /// Its place among the calls of the answer.
    pub(super) index: u32,
    pub(super) tool: String,
    /// JSON.
    pub(super) arguments: String,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct End {
    pub(super) reason: Reason,
    pub(super) usage: Usage,
    pub(super) note: AnswerNote,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reason {
    /// The model ended it.
    Turn,
    /// One of the question's stop texts came.
    Stop(String),
    Length,
    /// The model asks for tools.
    Calls,
    Broken(Box<Failure>),
}

/// How an answer's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// What the API calls the parts of a question.
    pub(super) names: Names,
    /// Whether it goes out in pieces, so that what came before a fault is delivered, and charged.
    pub(super) streams: bool,
    /// Whether calls are looked for.
    pub(super) calls: bool,
    /// Whether the first call is the last thing that is said.
    pub(super) one_call: bool,
}

/// What is kept in the books until an answer has ended.
struct Books {
    surface: Arc<Surface>,
    reservation: Option<Reservation>,
    tariff: Option<Tariff>,
    asked_at: Instant,
    key: Arc<ApiKey>,
    source: Option<Source>,
    prompt_tokens: u32,
    output_tokens: u32,
}

/// An answer on its way.
pub(super) struct Reader {
    pub(super) id: AnswerId,
    pub(super) model: String,
    pub(super) prompt_tokens: u32,
    parts: futures::stream::BoxStream<'static, Part>,
    finder: Option<ToolCallStream>,
    one_call: bool,
    streams: bool,
    names: Names,
    /// How many tokens of the prompt were still known.
    pub(super) cached_tokens: u32,
    calls: u32,
    ready: VecDeque<Piece>,
    over: bool,
    books: Books,
}

impl Reader {
    pub(super) fn new(
        surface: Arc<Surface>,
        answer: Answer,
        reading: Reading,
        reservation: Reservation,
        tariff: Option<Tariff>,
        (key, asked_at): (Arc<ApiKey>, Instant),
    ) -> Self {
        surface.metrics.began();
        if let Some(tariff) = &tariff {
            tariff.begins();
        }
        let Answer {
            id,
            model,
            prompt_tokens,
            parts,
        } = answer;
        Self {
            id,
            model,
            prompt_tokens,
            parts,
            finder: reading.calls.then(ToolCallStream::default),
            one_call: reading.one_call,
            streams: reading.streams,
            names: reading.names,
            cached_tokens: 0,
            calls: 0,
            ready: VecDeque::new(),
            over: false,
            books: Books {
                surface,
                reservation: Some(reservation),
                tariff,
                asked_at,
                key,
                source: None,
                prompt_tokens,
                output_tokens: 0,
            },
        }
    }

    /// The next piece; `None` after the end. May be given up and called again.
    pub(super) async fn next(&mut self) -> Option<Piece> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(piece);
            }
            if self.over {
                return None;
            }
            let part = self.parts.next().await;
            self.take(part);
        }
    }

    fn take(&mut self, part: Option<Part>) {
        match part {
            Some(Part::Source(source)) => self.books.source = Some(source),
            Some(Part::Read { cached_tokens }) => self.cached_tokens = cached_tokens,
            Some(Part::Text {
                text,
                tokens,
                logprobs,
            }) => {
                self.books.delivered(tokens);
                self.text(text, logprobs);
            }
            Some(Part::Ended { stop, usage }) => self.end(stop, usage),
            None => {
                let error = AskError::Failed("the answer stopped without an end".to_owned());
                let usage = Usage {
                    prompt_tokens: self.prompt_tokens,
                    output_tokens: self.books.output_tokens,
                    ..Usage::default()
                };
                // Nobody says what was promised for it: all that was set aside counts.
                self.books.close(None, true);
                self.end(Ending::Broken(error), usage);
            }
        }
    }

    fn text(&mut self, text: String, logprobs: Vec<Logprob>) {
        let Some(finder) = &mut self.finder else {
            if !(text.is_empty() && logprobs.is_empty()) {
                self.ready.push_back(Piece::Text { text, logprobs });
            }
            return;
        };
        let found = finder.push(&text);
        let mut logprobs = logprobs;
        for found in found {
            self.found(found, std::mem::take(&mut logprobs));
        }
        if !logprobs.is_empty() {
            let text = String::new();
            self.ready.push_back(Piece::Text { text, logprobs });
        }
    }

    fn found(&mut self, found: OutputPart, logprobs: Vec<Logprob>) {
        match found {
            // White space around calls is no text.
            OutputPart::Text(text) if self.calls > 0 && text.trim().is_empty() => {}
            OutputPart::Text(text) => self.ready.push_back(Piece::Text { text, logprobs }),
            OutputPart::Call(call) if !(self.one_call && self.calls > 0) => {
                let index = self.calls;
                self.calls += 1;
                self.ready.push_back(Piece::Call(Call {
                    index,
                    tool: call.name,
                    arguments: call.arguments.to_string(),
                }));
            }
            OutputPart::Call(_) => {}
        }
    }

    fn end(&mut self, stop: Ending, usage: Usage) {
        self.over = true;
        let closed = matches!(&stop, Ending::Stop(text) if text == CLOSE);
        if let Some(finder) = self.finder.take() {
            for found in finder.finish() {
                self.found(found, Vec::new());
            }
        }
        let has_calls = self.calls > 0;
        let broken = |error| Reason::Broken(Box::new(self.books.failure(error, &self.names)));
        let reason = match stop {
            Ending::Broken(error) => broken(error),
            Ending::Model(StopReason::Length) => Reason::Length,
            Ending::Model(StopReason::Failed | StopReason::Unfinished) => {
                broken(AskError::NoProvider("it could not go on".to_owned()))
            }
            Ending::Model(StopReason::Unpaid) => broken(AskError::Budget(
                "what may be spent on this answer is used up".to_owned(),
            )),
            _ if has_calls => Reason::Calls,
            Ending::Stop(_) if closed => Reason::Turn,
            Ending::Stop(text) => Reason::Stop(text),
            Ending::Model(_) => Reason::Turn,
        };
        let is_broken = matches!(reason, Reason::Broken(_));
        let mut note = self.books.note(self.id, usage.charged.clone());
        self.books.tell_buyer(&mut note, is_broken && !self.streams);
        self.books.close(Some(&usage), is_broken);
        self.ready.push_back(Piece::Ended(End {
            reason,
            usage,
            note,
        }));
    }
}

impl Books {
    /// An error as the API tells it.
    fn failure(&self, error: AskError, names: &Names) -> Failure {
        let surface = &self.surface;
        let budget = surface.budgets().describe(&self.key, surface.now_s());
        Failure::from_ask(error, names, budget)
    }

    fn delivered(&mut self, tokens: u32) {
        if tokens > 0 && self.output_tokens == 0 {
            self.surface.metrics.first_token(self.asked_at.elapsed());
        }
        self.output_tokens = self.output_tokens.saturating_add(tokens);
        if let Some(tariff) = &self.tariff {
            tariff.delivered(self.prompt_tokens, self.output_tokens);
        }
    }

    fn note(&self, id: AnswerId, charged: Vec<Money>) -> AnswerNote {
        let (source, provider) = match &self.source {
            None => (None, None),
            Some(Source::Device) => (Some(AnswerSource::Device), None),
            Some(Source::Peer { device, household }) => {
                let source = if *household {
                    AnswerSource::Household
                } else {
                    AnswerSource::Network
                };
                (Some(source), Some(device.clone()))
            }
        };
        AnswerNote {
            answer_id: id.to_string(),
            source,
            provider,
            charged,
        }
    }

    /// Tells one who pays where the answer comes from, seen from there, and what it is charged. What fails as a
    /// whole costs nothing.
    fn tell_buyer(&self, note: &mut AnswerNote, failed: bool) {
        let Some(tariff) = &self.tariff else { return };
        note.source = Some(AnswerSource::Network);
        let charged = tariff.charged().filter(|_| !failed);
        let charged = charged.map(|(asset, amount)| self.surface.money(asset, amount));
        note.charged = charged.into_iter().collect();
    }

    /// Gives back what was set aside. Without a usage nobody saw the end: only this device's own
    /// answers are known to be free.
    fn close(&mut self, usage: Option<&Usage>, broken: bool) {
        let Some(reservation) = self.reservation.take() else {
            return;
        };
        let charged = match usage {
            Some(usage) => Some(amounts(&usage.charged)),
            None if self.source == Some(Source::Device) => Some(Vec::new()),
            None => None,
        };
        self.surface.end(reservation, charged.as_deref());
        self.surface.metrics.ended(usage, broken);
        if usage.is_some() && !broken {
            self.surface.metrics.took(self.asked_at.elapsed());
        }
    }
}

impl Drop for Books {
    fn drop(&mut self) {
        self.close(None, false);
    }
}

/// Adds the note of another answer to the same request: the charges of both, and the provider that is farther away.
pub(super) fn add_note(sum: &mut AnswerNote, other: &AnswerNote) {
    for money in &other.charged {
        match sum
            .charged
            .iter_mut()
            .find(|known| known.asset == money.asset)
        {
            Some(known) => *known = together(known, money),
            None => sum.charged.push(money.clone()),
        }
    }
    let distance = |source: &Option<AnswerSource>| match source {
        None => 0,
        Some(AnswerSource::Device) => 1,
        Some(AnswerSource::Household) => 2,
        Some(AnswerSource::Network) => 3,
    };
    if distance(&other.source) > distance(&sum.source) {
        sum.source = other.source;
        sum.provider.clone_from(&other.provider);
    }
}

/// Two amounts of the same asset.
fn together(one: &Money, other: &Money) -> Money {
    let units = |money: &Money| money.units.parse::<U256>().unwrap_or_default();
    let sum = units(one).saturating_add(units(other));
    Money::of_units(&one.symbol, &one.asset, one.decimals, sum)
}

/// What was charged, as the budgets count it.
fn amounts(charged: &[Money]) -> Vec<(AssetId, Amount)> {
    charged
        .iter()
        .filter_map(|money| {
            let asset = money.asset.parse().ok()?;
            let units = money.units.parse().ok()?;
            Some((asset, Amount::new(units)))
        })
        .collect()
}
