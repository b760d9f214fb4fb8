//! Server-sent events: an answer's pieces as frames, each sent as soon as it is there.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use serde::Serialize;

use super::reader::{Piece, Reader};

/// How long a stream may be silent before a sign of life is sent.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Tells proxies not to gather the pieces.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What ends a stream of OpenAI's.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";

/// How the pieces of an answer are written in one API.
pub(super) trait Frames: Send + 'static {
    /// What comes before the first piece.
    fn begin(&mut self, out: &mut Vec<u8>);

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
    begun: bool,
}

impl<F: Frames> Stream<F> {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let mut out = Vec::with_capacity(512);
        if !self.begun {
            self.begun = true;
            self.frames.begin(&mut out);
        }
        while out.is_empty() {
            match tokio::time::timeout(PING_INTERVAL, self.reader.next()).await {
                Ok(Some(piece)) => self.frames.piece(piece, &mut out),
                Ok(None) => return None,
                Err(_) => self.frames.ping(&mut out),
            }
        }
        Some((Ok(Bytes::from(out)), self))
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
        begun: false,
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
