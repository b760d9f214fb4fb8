//! One answer's stream: frames over one bidirectional QUIC stream (spec: answers, section 7).
//!
//! A stream has two halves that may be used at the same time. Receiving can be cancelled at any
//! point without losing a byte, so it may stand in a `select!`; sending cannot, because a frame of
//! which a part was written must be completed.
//!
//! What goes wrong is told apart by whose fault it is: [`RecvError::Garbage`] and
//! [`RecvError::Slow`] are the peer's, and the caller may hold them against it; everything else is
//! the world's, and the question may be asked again.
//!
//! Deliberately absent: the order of frames. A `Tokens` before an `Accepted` is the business of
//! the machines in `protocol::answer`.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hearth_causes::WithCauses;
use hearth_protocol::answer::{PayerFrame, ProviderFrame};
use hearth_protocol::offer::DeviceId;
use iroh::endpoint::{Connection, ReadError, RecvStream, SendStream, VarInt, WriteError};
use thiserror::Error;
use tokio::time::{Instant, timeout, timeout_at};

use crate::codec::{self, Frame, FrameError, LENGTH_BYTES};
use crate::liveness::Liveness;
use crate::options::Patience;

/// How many bytes of a frame are made room for before they arrive.
const ROOM_BYTES: usize = 16 << 10;

/// Why a stream was ended in the middle: the code that QUIC carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// Nobody is interested any more.
    Dropped,
    /// Too many streams wait.
    Busy,
    /// The other side sent garbage.
    Garbage,
    /// The other side was too slow.
    Slow,
    /// Another code.
    Other(u64),
}

impl EndReason {
    pub(crate) fn code(self) -> VarInt {
        let code = match self {
            Self::Dropped => 0,
            Self::Busy => 1,
            Self::Garbage => 2,
            Self::Slow => 3,
            Self::Other(code) => code,
        };
        VarInt::from_u64(code).unwrap_or(VarInt::MAX)
    }

    fn from_code(code: VarInt) -> Self {
        match code.into_inner() {
            0 => Self::Dropped,
            1 => Self::Busy,
            2 => Self::Garbage,
            3 => Self::Slow,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropped => f.write_str("it is no longer interested"),
            Self::Busy => f.write_str("it is busy"),
            Self::Garbage => f.write_str("it says that we sent garbage"),
            Self::Slow => f.write_str("it says that we are too slow"),
            Self::Other(code) => write!(f, "its code is {code}"),
        }
    }
}

/// Why no frame was received.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The peer sent what is not a frame. The bytes that show it are kept, at most 64 of them.
    #[error("the peer sent garbage (it began with {})", hex(evidence))]
    Garbage {
        /// What is wrong.
        #[source]
        error: FrameError,
        /// The beginning of what was sent.
        evidence: Vec<u8>,
    },
    /// The peer began a frame and did not end it in time.
    #[error("the peer began a frame and did not end it in time")]
    Slow,
    /// The peer closed the stream within a frame.
    #[error("the peer ended the stream within a frame")]
    Truncated,
    /// Nothing was said on the stream for too long.
    #[error("nothing was said on the stream for too long")]
    Silent,
    /// The peer ended the stream.
    #[error("the peer ended the stream: {0}")]
    Ended(EndReason),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl RecvError {
    /// Whether the peer did what no honest peer does.
    pub fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::Garbage { .. } | Self::Slow)
    }

    /// Whether the same question may be asked again, here or elsewhere, without more ado.
    pub fn is_retryable(&self) -> bool {
        !self.is_misbehaviour()
    }
}

/// Why a frame was not sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// It is beyond its bounds: our fault, nothing was sent.
    #[error("the frame cannot be sent")]
    Unsendable(#[source] FrameError),
    /// The peer takes nothing.
    #[error("the peer took nothing of what was sent to it for too long")]
    Stalled,
    /// The peer wants nothing more on this stream.
    #[error("the peer takes no more: {0}")]
    Ended(EndReason),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl SendError {
    /// Whether the same may be tried again on a new stream.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Unsendable(_))
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// When something was last said on a stream, in milliseconds since it began.
#[derive(Debug, Clone)]
struct Activity {
    began: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Activity {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last_ms: Arc::new(AtomicU64::new(0)),
        }
    }

    fn note(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    fn silent_at(&self, silence: Duration) -> Instant {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.began + last + silence
    }
}

/// Something that is held as long as a stream is open.
pub(crate) type Permit = Arc<dyn std::any::Any + Send + Sync>;

/// The half that sends.
pub struct FrameSender<F> {
    stream: SendStream,
    stall: Duration,
    activity: Activity,
    finished: bool,
    _permit: Permit,
    _frames: PhantomData<fn(F)>,
}

/// The half that receives.
pub struct FrameReceiver<F> {
    stream: RecvStream,
    patience: Patience,
    activity: Activity,
    /// The length of the frame that is arriving, and what has arrived of the frame or its length.
    expected: Option<usize>,
    buffer: Vec<u8>,
    began: Option<Instant>,
    ended: Option<RecvEnd>,
    _permit: Permit,
    _frames: PhantomData<fn() -> F>,
}

#[derive(Debug, Clone)]
enum RecvEnd {
    Cleanly,
    By(RecvError),
}

/// An answer's stream, as the payer sees it.
pub type PayerStream = AnswerStream<PayerFrame, ProviderFrame>;
/// An answer's stream, as the provider sees it.
pub type ProviderStream = AnswerStream<ProviderFrame, PayerFrame>;

/// An answer's stream: sends `Out`, receives `In`.
#[derive(Debug)]
pub struct AnswerStream<Out, In> {
    device: DeviceId,
    connection: Connection,
    sender: FrameSender<Out>,
    receiver: FrameReceiver<In>,
}

impl<Out: Frame, In: Frame> AnswerStream<Out, In> {
    pub(crate) fn new(
        connection: &Connection,
        (send, recv): (SendStream, RecvStream),
        patience: Patience,
        permit: Permit,
    ) -> Self {
        let activity = Activity::new();
        Self {
            device: DeviceId(*connection.remote_id().as_bytes()),
            connection: connection.clone(),
            sender: FrameSender {
                stream: send,
                stall: patience.stall,
                activity: activity.clone(),
                finished: false,
                _permit: permit.clone(),
                _frames: PhantomData,
            },
            receiver: FrameReceiver {
                stream: recv,
                patience,
                activity,
                expected: None,
                buffer: Vec::new(),
                began: None,
                ended: None,
                _permit: permit,
                _frames: PhantomData,
            },
        }
    }

    /// The device at the other end. Its connection is authenticated with this key.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Tells when the other device is gone.
    pub fn liveness(&self) -> Liveness {
        Liveness::new(self.connection.clone())
    }

    /// Sends a frame; see [`FrameSender::send`].
    ///
    /// # Errors
    /// When the frame cannot be sent, or the peer takes no more.
    pub async fn send(&mut self, frame: &Out) -> Result<(), SendError> {
        self.sender.send(frame).await
    }

    /// Receives a frame; see [`FrameReceiver::recv`].
    ///
    /// # Errors
    /// When the peer sent no frame, or the link broke.
    pub async fn recv(&mut self) -> Result<Option<In>, RecvError> {
        self.receiver.recv().await
    }

    /// Says that nothing more will be sent. Dropping the stream without it tells the peer that
    /// the rest is missing.
    pub fn finish(&mut self) {
        self.sender.finish();
    }

    /// Ends both directions at once and tells the peer why.
    pub fn end(mut self, reason: EndReason) {
        self.sender.end(reason);
        self.receiver.end(reason);
    }

    /// The two halves, to be used at the same time.
    pub fn split(self) -> (FrameSender<Out>, FrameReceiver<In>) {
        (self.sender, self.receiver)
    }
}

impl<F: Frame> FrameSender<F> {
    /// Sends a frame. Waits while the peer's window is full, so a slow peer slows down its
    /// sender, and nothing piles up here.
    ///
    /// Not cancel-safe: a frame of which a part was sent must be completed.
    ///
    /// # Errors
    /// When the frame cannot be sent, or the peer takes no more.
    pub async fn send(&mut self, frame: &F) -> Result<(), SendError> {
        let bytes = codec::encode(frame).map_err(SendError::Unsendable)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let written = timeout(self.stall, self.stream.write(rest)).await;
            let written = match written {
                Ok(written) => written.map_err(write_error)?,
                Err(_) => {
                    self.end(EndReason::Slow);
                    return Err(SendError::Stalled);
                }
            };
            rest = &rest[written..];
            self.activity.note();
        }
        Ok(())
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        self.finished = true;
        // Fails only when the stream is closed already, which is what is wanted.
        let _ = self.stream.finish();
    }

    /// Ends this direction in the middle and tells the peer why.
    pub fn end(&mut self, reason: EndReason) {
        self.finished = true;
        // Fails only when the stream is closed already, which is what is wanted.
        let _ = self.stream.reset(reason.code());
    }

    /// Waits until the peer has taken everything that was sent before [`finish`](Self::finish),
    /// or wants nothing more.
    ///
    /// # Errors
    /// When the peer stopped the stream, or the connection broke.
    pub async fn taken(&mut self) -> Result<(), SendError> {
        match timeout(self.stall, self.stream.stopped()).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(code))) => Err(SendError::Ended(EndReason::from_code(code))),
            Ok(Err(error)) => Err(SendError::Broken(error.with_causes().to_string())),
            Err(_) => Err(SendError::Stalled),
        }
    }
}

impl<F> Drop for FrameSender<F> {
    fn drop(&mut self) {
        if !self.finished {
            // Without this the peer would take what was sent so far for all there is.
            let _ = self.stream.reset(EndReason::Dropped.code());
        }
    }
}

impl<F: Frame> FrameReceiver<F> {
    /// Receives the next frame; nothing when the peer has said all it wants to say.
    ///
    /// Cancel-safe. After an error the same error is returned again.
    ///
    /// # Errors
    /// When the peer sent no frame, or the link broke.
    pub async fn recv(&mut self) -> Result<Option<F>, RecvError> {
        match &self.ended {
            Some(RecvEnd::Cleanly) => return Ok(None),
            Some(RecvEnd::By(error)) => return Err(error.clone()),
            None => {}
        }
        let result = self.next().await;
        match &result {
            Ok(Some(_)) => {}
            Ok(None) => self.ended = Some(RecvEnd::Cleanly),
            Err(error) => {
                let reason = match error {
                    RecvError::Garbage { .. } => EndReason::Garbage,
                    RecvError::Slow | RecvError::Silent => EndReason::Slow,
                    _ => EndReason::Dropped,
                };
                self.end(reason);
                self.ended = Some(RecvEnd::By(error.clone()));
            }
        }
        result
    }

    /// Wants nothing more of this direction and tells the peer why.
    pub fn end(&mut self, reason: EndReason) {
        // Fails only when the stream is closed already, which is what is wanted.
        let _ = self.stream.stop(reason.code());
    }

    async fn next(&mut self) -> Result<Option<F>, RecvError> {
        loop {
            let wanted = self.expected.unwrap_or(LENGTH_BYTES);
            if self.buffer.len() < wanted {
                if !self.read(wanted).await? {
                    return Ok(None);
                }
                continue;
            }
            if self.expected.is_some() {
                return self.take_frame().map(Some);
            }
            let mut length = [0; LENGTH_BYTES];
            length.copy_from_slice(&self.buffer);
            let expected = codec::frame_length(length).map_err(|error| self.garbage(error))?;
            self.expected = Some(expected);
            self.buffer.clear();
        }
    }

    /// Reads once, at most up to `wanted` bytes; false at the end of the stream.
    async fn read(&mut self, wanted: usize) -> Result<bool, RecvError> {
        let room = (wanted - self.buffer.len()).min(ROOM_BYTES);
        loop {
            let (deadline, error) = match self.began {
                Some(began) => (began + self.patience.frame, RecvError::Slow),
                None => (
                    self.activity.silent_at(self.patience.silence),
                    RecvError::Silent,
                ),
            };
            match timeout_at(deadline, self.stream.read_chunk(room)).await {
                Ok(Ok(Some(chunk))) => {
                    self.began.get_or_insert_with(Instant::now);
                    self.activity.note();
                    self.buffer.extend_from_slice(&chunk);
                    return Ok(true);
                }
                Ok(Ok(None)) if self.began.is_some() => return Err(RecvError::Truncated),
                Ok(Ok(None)) => return Ok(false),
                Ok(Err(error)) => return Err(read_error(error)),
                // The other half may have said something meanwhile.
                Err(_)
                    if self.began.is_none()
                        && self.activity.silent_at(self.patience.silence) > Instant::now() => {}
                Err(_) => return Err(error),
            }
        }
    }

    fn take_frame(&mut self) -> Result<F, RecvError> {
        let frame = codec::decode(&self.buffer).map_err(|error| self.garbage(error))?;
        self.expected = None;
        self.began = None;
        // A large frame's room is not kept for the small ones that follow it.
        self.buffer = Vec::new();
        Ok(frame)
    }

    fn garbage(&self, error: FrameError) -> RecvError {
        let evidence = self.buffer.iter().copied().take(64).collect();
        RecvError::Garbage { error, evidence }
    }
}

impl<F> fmt::Debug for FrameSender<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameSender").finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for FrameReceiver<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReceiver").finish_non_exhaustive()
    }
}

fn write_error(error: WriteError) -> SendError {
    match error {
        WriteError::Stopped(code) => SendError::Ended(EndReason::from_code(code)),
        other => SendError::Broken(other.with_causes().to_string()),
    }
}

fn read_error(error: ReadError) -> RecvError {
    match error {
        ReadError::Reset(code) => RecvError::Ended(EndReason::from_code(code)),
        ReadError::ConnectionLost(error) => RecvError::Broken(error.with_causes().to_string()),
        other => RecvError::Broken(other.with_causes().to_string()),
    }
}
