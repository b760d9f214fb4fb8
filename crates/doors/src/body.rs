//! Bodies of requests as they arrive: counted, and not slower than the pace of the door.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::{Instant, Sleep};

use crate::budget::Seat;

/// The longest body that any door reads, and that a coded body may become, in bytes.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It is longer than it may be.
    #[error("the request's body is too long")]
    TooLong,
    /// It broke off.
    #[error("the request's body broke off")]
    Broken,
    /// It took too long to arrive.
    #[error("the request's body took too long to arrive")]
    Slow,
    /// It is not in the coding that its header names.
    #[error("the request's body is not in the coding that Content-Encoding names")]
    NotCoded,
    /// There is no room for it now.
    #[error("too many requests arrive at once")]
    Full,
}

impl BodyError {
    /// What is behind an error of a body.
    fn behind(error: &(dyn Error + 'static)) -> Self {
        let mut error = Some(error);
        while let Some(cause) = error {
            if let Some(known) = cause.downcast_ref() {
                return *known;
            }
            error = cause.source();
        }
        Self::Broken
    }
}

/// Reads a body of at most `bytes_max` bytes, which must arrive within `time_max`.
///
/// # Errors
/// See [`BodyError`].
pub async fn read_body(
    body: Body,
    bytes_max: usize,
    time_max: Duration,
) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(BodyError::TooLong);
    }
    match tokio::time::timeout(time_max, collect(body, bytes_max)).await {
        Ok(read) => read,
        Err(_) => Err(BodyError::Slow),
    }
}

/// Copies what comes together, so that many small pieces do not keep a buffer each.
async fn collect(mut body: Body, bytes_max: usize) -> Result<Bytes, BodyError> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::behind(&error))?;
        if let Ok(data) = frame.into_data() {
            if all.len().saturating_add(data.len()) > bytes_max {
                return Err(BodyError::TooLong);
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}

/// How slow a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// How long the first bytes may take.
    pub(crate) grace: Duration,
    /// How many bytes buy a further second.
    pub(crate) bytes_per_s: u32,
}

/// A body that arrives.
pub(crate) struct Arriving {
    inner: Incoming,
    seat: Seat,
    pace: Pace,
    begun: Option<Instant>,
    received: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Arriving {
    pub(crate) fn new(inner: Incoming, seat: Seat, pace: Pace) -> Self {
        if inner.is_end_stream() {
            seat.works();
        }
        Self {
            inner,
            seat,
            pace,
            begun: None,
            received: 0,
            deadline: Box::pin(tokio::time::sleep(pace.grace)),
        }
    }

    /// Until when the next piece must have come.
    fn due(&mut self) -> Instant {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let bought = self.received as f64 / f64::from(self.pace.bytes_per_s);
        begun + self.pace.grace + Duration::from_secs_f64(bought)
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let due = self.due();
        let frame = match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                self.deadline.as_mut().reset(due);
                ready!(self.deadline.as_mut().poll(context));
                return Poll::Ready(Some(Err(BodyError::Slow)));
            }
        };
        let Some(frame) = frame else {
            self.seat.works();
            return Poll::Ready(None);
        };
        let Ok(frame) = frame else {
            return Poll::Ready(Some(Err(BodyError::Broken)));
        };
        let length = frame.data_ref().map_or(0, Bytes::len);
        self.received = self.received.saturating_add(length);
        if self.seat.take(length).is_err() {
            return Poll::Ready(Some(Err(BodyError::Full)));
        }
        if self.inner.is_end_stream() {
            self.seat.works();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of a reply: when it is done, the connection waits for its client again.
pub(crate) struct Leaving {
    inner: Body,
    seat: Seat,
}

impl Leaving {
    pub(crate) fn new(inner: Body, seat: Seat) -> Self {
        Self { inner, seat }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.seat.waits();
    }
}

impl http_body::Body for Leaving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        let second = Duration::from_secs(1);
        let pieces = || stream::iter(["ab", "cd"].map(Ok::<_, BodyError>));
        let body = Body::from_stream(pieces());
        assert_eq!(read_body(body, 4, second).await.unwrap(), "abcd");
        let body = Body::from_stream(pieces());
        assert_eq!(read_body(body, 3, second).await, Err(BodyError::TooLong));
        let stated = Body::from("abcd");
        assert_eq!(read_body(stated, 3, second).await, Err(BodyError::TooLong));
    }

    #[tokio::test]
    async fn the_cause_of_a_broken_body_is_kept() {
        let second = Duration::from_secs(1);
        for cause in [BodyError::Slow, BodyError::Full, BodyError::NotCoded] {
            let body = Body::from_stream(stream::iter([Err::<Bytes, _>(cause)]));
            assert_eq!(read_body(body, 9, second).await, Err(cause));
        }
        let other = std::io::Error::other("gone");
        let body = Body::from_stream(stream::iter([Err::<Bytes, _>(other)]));
        assert_eq!(read_body(body, 9, second).await, Err(BodyError::Broken));
    }
}
