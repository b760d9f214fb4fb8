//! `/v1/completions`: text that goes on as it is, without a template.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use hearth_api::openai::chat::FinishReason;
use hearth_api::openai::completions::{
    Completion, CompletionChoice, CompletionLogprobs, CompletionRequest,
};
use hearth_api::openai::{AnswerNote, CompletionUsage, OneOrMany};

use super::answering::{self, Asked, Asking};
use super::chat::{Head, finish, usage};
use super::embeddings::inputs;
use super::failure::{Failure, Form};
use super::names::Names;
use super::reader::{End, Piece, Reader, add_note};
use super::sampling::{self, Figures};
use super::sse::{self, Frames};
use super::{At, json, replied, request};
use crate::answers::{Input, Logprob, Question};

/// The most texts of one request.
const PROMPTS_MAX: usize = 16;
/// The tokens of an answer where nothing is said, as OpenAI has it.
const OUTPUT_TOKENS_DEFAULT: u64 = 16;

/// The route.
pub(super) async fn completions(State(at): State<At>, request: Request) -> Response {
    replied(answer(at, request).await, Form::OpenAi)
}

async fn answer(at: At, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let asking = Asking::new(at, &parts.headers, &parts.extensions)?;
    let request: CompletionRequest = request::read(body).await?;
    let special = request.special_tokens.unwrap_or(false);
    if asking.at.prices.is_some() && special {
        let message =
            "the text of who pays is text only; leave special_tokens out, or send token ids";
        return Err(Failure::unsupported("special_tokens", message));
    }
    let streams = request.stream.unwrap_or(false);
    let options = request.stream_options.unwrap_or_default();
    let told = request.logprobs.is_some();
    let asked = questions(request)?;
    if asking.at.prices.is_some() && asked.len() > 1 {
        let message = "one text is sold at a time; ask several times";
        return Err(Failure::unsupported("prompt", message));
    }
    let mut readers = Vec::with_capacity(asked.len());
    for Prompted { mut asked, echo } in asked {
        asked.reading.streams = streams;
        match asking.open(asked).await {
            Ok(reader) => readers.push((reader, echo)),
            Err(failure) => return Err(charged_before(failure, readers).await),
        }
    }
    let Some((first, _)) = readers.first() else {
        return Err(Failure::unended());
    };
    let (id, model) = (first.id, first.model.clone());
    let head = |reader: &Reader| Head {
        model: model.clone(),
        id: format!("cmpl-{id}"),
        ..Head::new("cmpl", reader, asking.at.surface.now_s())
    };
    let response = if streams {
        let count = readers.len();
        let streams = readers
            .into_iter()
            .enumerate()
            .map(|(index, (reader, echo))| {
                let frames = Pieces {
                    head: head(&reader),
                    index: index as u32,
                    echo,
                    told,
                    usage: options.include_usage.unwrap_or(false),
                    is_last: index + 1 == count,
                    offset: 0,
                };
                sse::frames(reader, frames)
            });
        let streams: Vec<BoxStream<'static, _>> = streams.collect();
        sse::reply(stream::iter(streams).flatten().boxed())
    } else {
        let head = head(&readers[0].0);
        whole(readers, head, told).await?
    };
    Ok(answering::name(response, id))
}

/// A question, and what is said before its answer.
#[derive(Debug)]
struct Prompted {
    asked: Asked,
    echo: Option<String>,
}

fn questions(request: CompletionRequest) -> Result<Vec<Prompted>, Failure> {
    sampling::only_one("n", request.n)?;
    sampling::only_one("best_of", request.best_of)?;
    if request.suffix.is_some_and(|suffix| !suffix.is_empty()) {
        let message = "text cannot be put between two others here; leave suffix out";
        return Err(Failure::unsupported("suffix", message));
    }
    let echo = request.echo.unwrap_or(false);
    if echo && request.logprobs.is_some() {
        let message = "log-probabilities of the prompt are not told; ask for echo or for logprobs";
        return Err(Failure::unsupported("echo", message));
    }
    let figures = Figures {
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: sampling::top_k(request.top_k)?,
        frequency_penalty: request.frequency_penalty,
        presence_penalty: request.presence_penalty,
        logit_bias: request.logit_bias,
    };
    let sampling = figures.sampling()?;
    let most = request.max_tokens.unwrap_or(OUTPUT_TOKENS_DEFAULT);
    let output_tokens_max = sampling::output_tokens("max_tokens", Some(most))?;
    let stops = request.stop.map_or_else(Vec::new, OneOrMany::into_vec);
    let stops = sampling::stops("stop", stops)?;
    let logprobs = request.logprobs;
    let logprobs = logprobs.map(|count| sampling::logprobs("logprobs", count, 5));
    let logprobs = logprobs.transpose()?;
    let special = request.special_tokens.unwrap_or(false);
    let inputs = inputs("prompt", request.prompt, special, PROMPTS_MAX)?;
    let one = |input: Input| {
        let echo = match &input {
            Input::Text { text, .. } if echo => Some(text.clone()),
            Input::Ids(_) if echo => {
                let message = "token ids are not echoed; send text";
                return Err(Failure::unsupported("echo", message));
            }
            _ => None,
        };
        let mut asked = Asked::new(
            Names::COMPLETIONS,
            request.model.clone(),
            input,
            sampling.clone(),
        );
        asked.question.output_tokens_max = output_tokens_max;
        asked.question.stops.clone_from(&stops);
        asked.question.seed = request.seed.map(i64::cast_unsigned);
        asked.question.logprobs = logprobs;
        Ok(Prompted { asked, echo })
    };
    inputs.into_iter().map(one).collect()
}

/// The questions of a body.
pub(super) fn read_body(json: &[u8]) -> Result<Vec<Question>, Failure> {
    let asked = questions(request::parse(json)?)?;
    Ok(asked.into_iter().map(|one| one.asked.question).collect())
}

/// The note and the usage of several answers.
#[derive(Default)]
struct Sum {
    usage: CompletionUsage,
    note: Option<AnswerNote>,
}

impl Sum {
    fn add(&mut self, end: &End) {
        let used = usage(&end.usage);
        let sum = self.usage;
        self.usage = CompletionUsage::new(
            sum.prompt_tokens.saturating_add(used.prompt_tokens),
            sum.prompt_tokens_details
                .cached_tokens
                .saturating_add(used.prompt_tokens_details.cached_tokens),
            sum.completion_tokens.saturating_add(used.completion_tokens),
        );
        match &mut self.note {
            Some(note) => add_note(note, &end.note),
            None => self.note = Some(end.note.clone()),
        }
    }

    /// The failure of one of them, with what all did cost. Where nothing came of them, it may be asked again.
    fn fail(self, failure: Failure, came: bool) -> Failure {
        match self.note {
            Some(note) if came || !note.charged.is_empty() => failure.with_note(note),
            _ => failure,
        }
    }
}

/// Whole answers, one after the other. Where one fails, the others are read to their ends too, so that all charges
/// are told.
async fn whole(
    readers: Vec<(Reader, Option<String>)>,
    head: Head,
    told: bool,
) -> Result<Response, Failure> {
    let mut choices = Vec::with_capacity(readers.len());
    let (mut sum, mut fault) = (Sum::default(), None);
    for (index, (reader, echo)) in readers.into_iter().enumerate() {
        let (text, logprobs, end) = read(reader, echo).await?;
        sum.add(&end);
        match finish(&end) {
            Ok(reason) => choices.push(CompletionChoice {
                index: index as u32,
                text,
                finish_reason: Some(reason),
                logprobs: told.then_some(logprobs),
            }),
            Err(failure) => {
                fault.get_or_insert(failure);
            }
        }
    }
    if let Some(failure) = fault {
        let came = sum.usage.completion_tokens > 0;
        return Err(sum.fail(failure, came));
    }
    Ok(json(&Completion {
        id: Cow::Owned(head.id),
        object: Cow::Borrowed("text_completion"),
        created: head.created,
        model: Cow::Owned(head.model),
        choices,
        usage: Some(Some(sum.usage)),
        hearth: sum.note,
    }))
}

/// A question that is not taken after others of the same request were: those are read to their ends, so that what
/// they cost is told.
async fn charged_before(failure: Failure, readers: Vec<(Reader, Option<String>)>) -> Failure {
    let mut sum = Sum::default();
    for (reader, _) in readers {
        if let Ok((_, _, end)) = read(reader, None).await {
            sum.add(&end);
        }
    }
    sum.fail(failure, false)
}

async fn read(
    mut reader: Reader,
    echo: Option<String>,
) -> Result<(String, CompletionLogprobs, End), Failure> {
    let (mut text, mut told) = (echo.unwrap_or_default(), CompletionLogprobs::default());
    let mut offset = text.chars().count();
    loop {
        match reader.next().await {
            Some(Piece::Text {
                text: more,
                logprobs,
            }) => {
                text.push_str(&more);
                extend(&mut told, &logprobs, &mut offset);
            }
            Some(Piece::Call(_)) => {}
            Some(Piece::Ended(end)) => return Ok((text, told, end)),
            None => return Err(Failure::unended()),
        }
    }
}

fn extend(told: &mut CompletionLogprobs, logprobs: &[Logprob], offset: &mut usize) {
    for logprob in logprobs {
        let token = String::from_utf8_lossy(&logprob.bytes).into_owned();
        told.text_offset.push(*offset);
        *offset += token.chars().count();
        told.tokens.push(token);
        told.token_logprobs.push(logprob.logprob);
        let top: BTreeMap<String, f32> = logprob
            .top
            .iter()
            .map(|(bytes, logprob)| (String::from_utf8_lossy(bytes).into_owned(), *logprob))
            .collect();
        told.top_logprobs.push(top);
    }
}

/// An answer in pieces.
struct Pieces {
    head: Head,
    index: u32,
    echo: Option<String>,
    told: bool,
    usage: bool,
    is_last: bool,
    offset: usize,
}

impl Pieces {
    fn write(
        &self,
        text: String,
        finish_reason: Option<FinishReason>,
        logprobs: Option<CompletionLogprobs>,
        end: Option<&End>,
        out: &mut Vec<u8>,
    ) {
        let choice = CompletionChoice {
            index: self.index,
            text,
            finish_reason,
            logprobs,
        };
        let note = end.map(|end| end.note.clone());
        sse::data(out, &self.piece_of(vec![choice], None, note));
    }

    fn piece_of(
        &self,
        choices: Vec<CompletionChoice>,
        told: Option<CompletionUsage>,
        hearth: Option<AnswerNote>,
    ) -> Completion<'_> {
        Completion {
            id: Cow::Borrowed(&self.head.id),
            object: Cow::Borrowed("text_completion"),
            created: self.head.created,
            model: Cow::Borrowed(&self.head.model),
            choices,
            usage: self.usage.then_some(told),
            hearth,
        }
    }

    fn end(&self, end: &End, out: &mut Vec<u8>) {
        match finish(end) {
            Ok(reason) => self.write(String::new(), Some(reason), None, Some(end), out),
            Err(failure) => return sse::data(out, &failure.openai()),
        }
        if self.usage {
            sse::data(
                out,
                &self.piece_of(Vec::new(), Some(usage(&end.usage)), None),
            );
        }
        if self.is_last {
            out.extend_from_slice(sse::DONE);
        }
    }
}

impl Frames for Pieces {
    fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(echo) = self.echo.take() {
            self.offset = echo.chars().count();
            self.write(echo, None, None, None, out);
        }
    }

    fn piece(&mut self, piece: Piece, out: &mut Vec<u8>) {
        match piece {
            Piece::Text { text, logprobs } => {
                let mut told = CompletionLogprobs::default();
                extend(&mut told, &logprobs, &mut self.offset);
                self.write(text, None, self.told.then_some(told), None, out);
            }
            Piece::Call(_) => {}
            Piece::Ended(end) => self.end(&end, out),
        }
    }
}
