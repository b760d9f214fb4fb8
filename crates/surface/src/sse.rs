//! Server-sent events: an answer's pieces as frames, each sent as soon as it is there.
//!
//! A stream begins when its question has been taken, not with the first token: reading a long prompt takes
//! longer than proxies wait for a byte. Until then, and whenever nothing comes, signs of life are sent.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use serde::Serialize;

use super::reader::{Piece, Reader};

/// How long a stream may be silent before a sign of life is sent.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Tells proxies not to gather the pieces.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What ends a stream of OpenAI's.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";

/// How the pieces of an answer are written in one API.
pub(super) trait Frames: Send + 'static {
    /// What is said at once.
    fn begin(&mut self, _out: &mut Vec<u8>) {}

    /// What comes before the first piece, once it is known how much of the prompt was known before.
    fn read(&mut self, _cached_tokens: u32, _out: &mut Vec<u8>) {}

    /// A piece. After the end of the answer nothing more is asked of it.
    fn piece(&mut self, piece: Piece, out: &mut Vec<u8>);

    /// A sign of life. A comment is passed over by every reader.
    fn ping(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b": ping\n\n");
    }
}

/// Writes an event without a name.
pub(super) fn data(out: &mut Vec<u8>, value: &impl Serialize) {
    out.extend_from_slice(b"data: ");
    // JSON on one line, and writing to memory cannot fail.
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.extend_from_slice(b"{}");
    }
    out.extend_from_slice(b"\n\n");
}

/// Writes an event with a name.
pub(super) fn event(out: &mut Vec<u8>, name: &str, value: &impl Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    data(out, value);
}

struct Stream<F> {
    reader: Reader,
    frames: F,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was sent.
    New,
    /// The prompt is being read.
    Reading,
    Answering,
}

impl<F: Frames> Stream<F> {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let mut out = Vec::with_capacity(512);
        if self.stage == Stage::New {
            self.stage = Stage::Reading;
            self.frames.begin(&mut out);
            match self.reader.next().now_or_never() {
                Some(Some(piece)) => self.piece(piece, &mut out),
                // A byte makes proxies pass the headers on.
                _ if out.is_empty() => self.frames.ping(&mut out),
                _ => {}
            }
        }
        while out.is_empty() {
            match tokio::time::timeout(PING_INTERVAL, self.reader.next()).await {
                Ok(Some(piece)) => self.piece(piece, &mut out),
                Ok(None) => return None,
                Err(_) => self.frames.ping(&mut out),
            }
        }
        Some((Ok(Bytes::from(out)), self))
    }

    fn piece(&mut self, piece: Piece, out: &mut Vec<u8>) {
        if self.stage != Stage::Answering {
            self.stage = Stage::Answering;
            self.frames.read(self.reader.cached_tokens, out);
        }
        self.frames.piece(piece, out);
    }
}

/// An answer's frames.
pub(super) fn frames(
    reader: Reader,
    frames: impl Frames,
) -> BoxStream<'static, Result<Bytes, Infallible>> {
    let stream = Stream {
        reader,
        frames,
        stage: Stage::New,
    };
    stream::unfold(stream, Stream::next).boxed()
}

/// A reply that streams.
pub(super) fn reply(stream: BoxStream<'static, Result<Bytes, Infallible>>) -> Response {
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}
